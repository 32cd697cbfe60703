/*-------------------------------------------------------------------------
 *
 * subscription_changes.c
 *	  What a transaction has done to subscriptions, and what its end makes of
 *	  that.
 *
 * 1. subscribe() and unsubscribe() change shared memory at once, marked as not
 *	  committed, because the relay has to listen before subscribe() returns.
 *	  Each change is entered as an action.  Commit goes through the actions in
 *	  order and makes them stand; an abort goes through them backwards and
 *	  undoes them.  Neither allocates.
 *
 * 2. Commit shows positions first, since actions may remove bindings that have
 *	  them.  Actions come next, and claims end last, since an action may free
 *	  what was claimed.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/xact.h"
#include "base/debug.h"
#include "base/nesting.h"
#include "miscadmin.h"
#include "registry/channel_lists.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

/* What this transaction has done. */
typedef struct Changes
{
	dlist_head	actions;		/* in order, in TopTransactionContext */
	Database   *written_in;		/* whose table was written by hand, or NULL */
	const char *written_table;	/* which one it was, last */
	int			written_level;	/* nesting level at which it was */
	bool		discarding;		/* temporary subscriptions, when it commits */
} Changes;

static Changes changes = {.actions = DLIST_STATIC_INIT(changes.actions)};

/* This session's temporary subscriptions. */
typedef struct Temporary
{
	bool		may_exist;
	bool		exit_registered;	/* they end when the process exits */
} Temporary;

static Temporary temporary = {false};

/*
 * Make an action that does nothing until it is entered.  Into a change the
 * caller writes on_full, and the slots of nchannels channels.
 */
Action *
action_prepare(ActionKind kind, Database *database, int nchannels)
{
	Action	   *action = MemoryContextAllocZero(TopTransactionContext,
												sizeof(Action));

	action->kind = kind;
	action->level = GetCurrentTransactionNestLevel();
	action->database = database;
	action->database_generation = pg_atomic_read_u32(&database->generation);
	if (kind != ACTION_CHANGE)
		return action;

	/* patterns may add bindings until we have the lock: room for all */
	action->saved = MemoryContextAlloc(TopTransactionContext,
									   pgpubsub_max_channels * 2 *
									   sizeof(SavedFlags));
	action->slots = MemoryContextAlloc(TopTransactionContext,
									   nchannels * sizeof(int));
	return action;
}

/* Remember the subscription's bindings and their flags as they are. */
static void
save_flags(Action *action)
{
	dlist_iter	iter;

	dlist_foreach(iter, &action->subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		action->saved[action->nsaved].binding = binding;
		action->saved[action->nsaved].flags = binding->flags;
		action->nsaved++;
	}
}

/*
 * Have the end of the transaction make the action stand or undo it; just after
 * a creation, just before a change or drop.  Cannot fail.
 */
void
action_enter(Action *action, Subscription *subscription)
{
	Assert(LWLockHeldByMeInMode(action->database->lock, LW_EXCLUSIVE));
	action->subscription = subscription;
	action->generation = subscription->generation;
	if (action->kind == ACTION_CHANGE)
		save_flags(action);
	else if (action->kind == ACTION_DROP)
		action->old_state = subscription->state;
	dlist_push_tail(&changes.actions, &action->node);
}

/* Is the subscription that the action was done to still there? */
static bool
action_valid(Action *action)
{
	return pg_atomic_read_u32(&action->database->generation) ==
		action->database_generation &&
		action->subscription->generation == action->generation;
}

/* Make a change stand: the bindings that it has marked as dropped go. */
static void
commit_change(Action *action)
{
	dlist_mutable_iter iter;

	action->subscription->on_full = action->on_full;
	dlist_foreach_modify(iter, &action->subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (binding->flags & BINDING_DROPPED)
			registry_unbind(action->database, binding);
		else
			binding->flags &= ~BINDING_ADDED;
	}
	bindings_order(action->database, action->subscription, action->slots,
				   action->nslots);
	registry_prune(action->database, action->subscription);
}

/* Make the action stand.  Cannot fail. */
static void
commit_action(Action *action)
{
	Database   *database = action->database;
	Subscription *subscription = action->subscription;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (action_valid(action))
	{
		if (action->kind == ACTION_CREATE)
		{
			subscription->state = SUBSCRIPTION_ACTIVE;
			subscription->replaces = false;
		}
		else if (action->kind == ACTION_CHANGE)
			commit_change(action);
		else
			registry_drop_subscription(database, subscription);
		database->commits++;
		if (action->kind != ACTION_DROP)
			hold_start(database, subscription);
	}
	LWLockRelease(database->lock);
	registry_request(database);
}

/*
 * Take a change back: the bindings that it added go, the others are as before.
 */
static void
undo_change(Action *action)
{
	dlist_mutable_iter iter;

	/* they are there: while the change is open nobody removes any */
	for (int i = 0; i < action->nsaved; i++)
		action->saved[i].binding->flags =
			action->saved[i].flags | BINDING_MARKED;
	dlist_foreach_modify(iter, &action->subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (binding->flags & BINDING_MARKED)
			binding->flags &= ~BINDING_MARKED;
		else if (binding->flags & BINDING_ADDED)
			registry_unbind(action->database, binding);
		else
			binding->flags &= ~BINDING_DROPPED; /* a pattern's, made meanwhile */
	}
	registry_prune(action->database, action->subscription);
}

/* Undo the action; the caller sends the relay a request.  Cannot fail. */
static void
undo_action(Action *action)
{
	Database   *database = action->database;
	Subscription *subscription = action->subscription;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (!action_valid(action))
		return;
	if (action->kind == ACTION_CREATE)
		registry_drop_subscription(database, subscription);
	else if (action->kind == ACTION_CHANGE)
		undo_change(action);
	else
	{
		subscription->state = action->old_state;
		registry_restore_name(database, subscription);
	}
}

/*
 * Release the database's lock and send its relay a request, unless it is NULL.
 */
static void
unlock_and_request(Database *database)
{
	if (database == NULL)
		return;
	LWLockRelease(database->lock);
	registry_request(database);
}

/*
 * Undo the actions of this nesting level and those within, last first.  The
 * lock is kept from one to the next: between the end of a subscription that
 * replaces another and the return of that one its name means none, and a relay
 * that read the table then would make another.
 */
static void
undo_actions(int level)
{
	Database   *locked = NULL;

	while (!dlist_is_empty(&changes.actions))
	{
		Action	   *action = dlist_tail_element(Action, node,
												&changes.actions);

		if (action->level < level)
			break;
		if (action->database != locked)
		{
			unlock_and_request(locked);
			locked = action->database;
			LWLockAcquire(locked->lock, LW_EXCLUSIVE);
		}
		undo_action(action);
		dlist_delete(&action->node);
	}
	unlock_and_request(locked);
}

/* End the temporary subscriptions of this session.  Cannot fail. */
static void
drop_temporary(void)
{
	Database   *database = registry_my_database(false);
	dlist_mutable_iter iter;

	if (database == NULL)
		return;
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	dlist_foreach_modify(iter, &database->subscriptions)
	{
		Subscription *subscription = dlist_container(Subscription, node,
													 iter.cur);

		if (!subscription->temporary ||
			subscription->session_pid != MyProcPid)
			continue;

		/*
		 * Another session that reads it keeps its bindings until it lets go.
		 * (Readers come and go with the lock held, shared, so none does now.)
		 */
		if (subscription->reader.pid != 0)
		{
			subscription->doomed = true;
			registry_wake_reader(subscription);
		}
		else
			registry_drop_subscription(database, subscription);
	}
	LWLockRelease(database->lock);
	temporary.may_exist = false;
	registry_request(database);
}

/* At exit: this session's temporary subscriptions end with it. */
static void
drop_temporary_at_exit(int code, Datum arg)
{
	LWLockReleaseAll();
	undo_actions(0);
	reader_at_end(false);
	drop_temporary();
}

/* This session is about to have a temporary subscription. */
void
temporary_subscription_begins(void)
{
	if (!temporary.exit_registered)
	{
		before_shmem_exit(drop_temporary_at_exit, (Datum) 0);
		temporary.exit_registered = true;
	}
	temporary.may_exist = true;
}

/*
 * DISCARD ALL has run: with its commit the session's temporary subscriptions
 * end, as a pooler hands the session on to another client then.
 */
void
discard_temporary_subscriptions(void)
{
	changes.discarding = temporary.may_exist;
}

/*
 * The extension's table of that name was written, but not shared memory: the
 * relay has to read its tables again when that is committed.
 */
void
table_written(const char *table)
{
	if (changes.written_in == NULL)
		changes.written_level = GetCurrentTransactionNestLevel();
	changes.written_in = registry_my_database(true);
	changes.written_table = table;
}

/* The same, for the table of subscriptions. */
void
subscription_table_written(void)
{
	table_written("subscription");
}

/* PREPARE TRANSACTION: raise 0A000 if COMMIT PREPARED would have work here. */
void
read_pre_prepare(void)
{
	reader_pre_prepare();
	if (changes.written_in)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that has written table pgpubsub.%s",
						changes.written_table),
				 errhint("Commit it with COMMIT.")));
}

/* The transaction has committed.  Cannot fail. */
void
read_at_commit(void)
{
	dlist_iter	iter;

	reader_publish_at_commit();
	dlist_foreach(iter, &changes.actions)
		commit_action(dlist_container(Action, node, iter.cur));
	dlist_init(&changes.actions);
	if (changes.written_in)
	{
		pg_atomic_fetch_add_u64(&changes.written_in->requests.reload, 1);
		registry_request(changes.written_in);
		changes.written_in = NULL;
		DEBUG_POINT("table_written");
	}
	reader_at_end(true);
	if (changes.discarding)
		drop_temporary();
	changes.discarding = false;
}

/* The transaction was aborted; or prepared, with nothing done.  Cannot fail. */
void
read_at_abort(void)
{
	undo_actions(0);
	changes.written_in = NULL;
	reader_at_end(false);
	changes.discarding = false;
}

/* What the subtransaction has done is now its parent's.  Cannot fail. */
void
read_at_subcommit(int level)
{
	dlist_iter	iter;

	dlist_foreach(iter, &changes.actions)
		nesting_subcommit(&dlist_container(Action, node, iter.cur)->level,
						  level);
	nesting_subcommit(&changes.written_level, level);
	reader_at_subcommit(level);
}

/* The subtransaction of that level was rolled back.  Cannot fail. */
void
read_at_subabort(int level)
{
	undo_actions(level);
	if (nesting_subabort(&changes.written_level, level))
		changes.written_in = NULL;
	reader_at_subabort(level);
}

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
 * Make an action that does nothing until it is entered.  For a change, of one
 * kind or another, with so many names: with all, it notes all bindings of the
 * subscription when it is entered, else those that the caller changes.  Into
 * ACTION_CHANGE the caller writes on_full, and the slots of the channels.
 */
Action *
action_prepare(ActionKind kind, Database *database, int nchannels, bool all)
{
	Action	   *action = MemoryContextAllocZero(TopTransactionContext,
												sizeof(Action));

	action->kind = kind;
	action->level = GetCurrentTransactionNestLevel();
	action->database = database;
	action->database_generation = pg_atomic_read_u32(&database->generation);
	if (kind == ACTION_CREATE || kind == ACTION_DROP)
		return action;

	/* patterns may add bindings until we have the lock: room for all */
	action->found.all = all;
	action->found.bindings =
		MemoryContextAlloc(TopTransactionContext,
						   (all ? pgpubsub_max_channels * 2 : nchannels) *
						   sizeof(FoundBinding));
	if (kind == ACTION_CHANGE)
		action->slots = MemoryContextAlloc(TopTransactionContext,
										   nchannels * sizeof(int));
	return action;
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
	if (action->kind == ACTION_DROP)
		action->old_state = subscription->state;
	else if (action->kind != ACTION_CREATE)
	{
		Assert(subscription->num_changing == 0 ||
			   subscription->changing_pid == MyProcPid);
		subscription->num_changing++;
		subscription->changing_pid = MyProcPid;
	}
	if (action->found.all)
		bindings_find_all(subscription, &action->found);
	dlist_push_tail(&changes.actions, &action->node);
}

/*
 * Is the subscription that the action was done to still there?  It stays while
 * the database's lock is held.
 */
bool
action_valid(Action *action)
{
	return pg_atomic_read_u32(&action->database->generation) ==
		action->database_generation &&
		action->subscription->generation == action->generation;
}

/* Make subscribe()'s change stand. */
static void
commit_change(Action *action)
{
	Database   *database = action->database;
	Subscription *subscription = action->subscription;

	subscription->on_full = action->on_full;
	bindings_commit(database, subscription, &action->found);
	bindings_order(database, subscription, action->slots, action->nslots);
	registry_prune(database, subscription);
	hold_start(database, subscription);
}

/*
 * Make the action stand, on a subscription that is there.  database->lock is
 * held, exclusive.  Returns whether that leaves the relay anything to do; to
 * listen to channels that are added it was told to when they were.
 */
static bool
commit_valid(Action *action)
{
	Database   *database = action->database;
	Subscription *subscription = action->subscription;

	switch (action->kind)
	{
		case ACTION_CREATE:
			subscription->state = SUBSCRIPTION_ACTIVE;
			subscription->replaces = false;
			hold_start(database, subscription);
			break;
		case ACTION_CHANGE:
			subscription->num_changing--;
			commit_change(action);
			break;
		case ACTION_ADD_CHANNELS:
			subscription->num_changing--;
			bindings_commit(database, subscription, &action->found);
			database->additions++;
			return subscription->stale || subscription->doomed;
		case ACTION_DROP_CHANNELS:
			subscription->num_changing--;
			bindings_commit(database, subscription, &action->found);
			if (action->found.all)
				registry_prune(database, subscription);
			break;
		case ACTION_DROP:
			registry_drop_subscription(database, subscription);
			break;
	}
	database->commits++;
	return true;
}

/* Make the action stand.  Cannot fail. */
static void
commit_action(Action *action)
{
	Database   *database = action->database;
	bool		request = true;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (action_valid(action))
		request = commit_valid(action);
	LWLockRelease(database->lock);
	if (request)
		registry_request(database);
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
	else if (action->kind == ACTION_DROP)
	{
		subscription->state = action->old_state;
		registry_restore_name(database, subscription);
	}
	else
	{
		bindings_undo(database, subscription, &action->found);
		subscription->num_changing--;
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

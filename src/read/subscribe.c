/*-------------------------------------------------------------------------
 *
 * subscribe.c
 *	  subscribe() and unsubscribe(), and what the end of a transaction makes
 *	  of them.
 *
 * 1. A change takes a heavyweight lock on the subscription's name, until the
 *	  transaction ends, so that open transactions never have two changes of
 *	  one name.  Then it claims the subscription, as a reader does.
 *
 * 2. The change is made in shared memory at once, marked as not committed,
 *	  because the relay has to listen before subscribe() returns; and noted as
 *	  an action.  Commit goes through the actions in order and makes them
 *	  stand; an abort goes through them backwards and undoes them.  Neither
 *	  allocates.
 *
 * 3. The table pgpubsub.subscription is written last, in the same
 *	  transaction, as its owner.  Temporary subscriptions are not in it.
 *
 * 4. A subscription's position in a channel is set after the relay has said
 *	  that it listens: before that it had read all that was committed.
 *
 * This file has the transaction callbacks of reader.c too, so that their
 * order is in one place: positions first, since actions may remove what has
 * them; then actions, since they may free what was claimed.
 *
 *-------------------------------------------------------------------------
 */
#include "read/subscribe.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "base/nesting.h"
#include "catalog/pg_database.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "publish/publish.h"
#include "read/reader.h"
#include "read/subscription_table.h"
#include "registry/channel_lists.h"
#include "registry/holders.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

typedef enum StartAt
{
	START_NOW,
	START_OLDEST,
	START_SEQ
} StartAt;

/* The arguments of subscribe(). */
typedef struct Request
{
	const char *name;
	char	  **channels;
	int			nchannels;
	ArrayType  *channel_array;	/* as given, for the table */
	const char *on_full_name;
	OnFull		on_full;
	StartAt		start;
	uint64		start_seq;
	bool		temporary;
} Request;

typedef enum ActionKind
{
	ACTION_CREATE,
	ACTION_CHANGE,
	ACTION_DROP
} ActionKind;

/* Which flags a binding had. */
typedef struct SavedFlags
{
	Binding    *binding;
	uint32		flags;
} SavedFlags;

/* What this transaction has done to a subscription. */
typedef struct Action
{
	ActionKind	kind;
	int			level;			/* nesting level */
	Database   *database;
	uint32		database_generation;
	Subscription *subscription;
	uint32		generation;
	SubscriptionState old_state;	/* of a drop */
	OnFull		on_full;		/* of a change: at commit */
	int		   *slots;			/* of a change: channels in the order given */
	int			nslots;
	SavedFlags *saved;			/* of a change: bindings it found */
	int			nsaved;
	struct Action *prev;
	struct Action *next;
} Action;

/* Actions of this transaction, in TopTransactionContext. */
static Action *first_action = NULL;
static Action *last_action = NULL;

/* The database whose table was written by hand in this transaction ... */
static Database *reload_database = NULL;

/* ... from this nesting level on. */
static int	reload_level = 0;

/* This backend removes its temporary subscriptions when it exits. */
static bool exit_registered = false;

/* It may have some, so that DISCARD ALL has something to end ... */
static bool may_have_temporary = false;

/* ... when this transaction, in which it has run, commits. */
static bool discarding = false;

PG_FUNCTION_INFO_V1(pgpubsub_subscribe);
PG_FUNCTION_INFO_V1(pgpubsub_subscribe_1_1);
PG_FUNCTION_INFO_V1(pgpubsub_unsubscribe);
PG_FUNCTION_INFO_V1(pgpubsub_unsubscribe_1_1);
PG_FUNCTION_INFO_V1(pgpubsub_subscription_changed);
PG_FUNCTION_INFO_V1(pgpubsub_subscription_inserted);

/*
 * Actions
 */

/* Note an action, before it is done. */
static Action *
note_action(ActionKind kind, Database *database)
{
	Action	   *action = MemoryContextAllocZero(TopTransactionContext,
												sizeof(Action));

	action->kind = kind;
	action->level = GetCurrentTransactionNestLevel();
	action->database = database;
	action->database_generation = pg_atomic_read_u32(&database->generation);
	return action;
}

/* Have the end of the transaction know of the action.  Cannot fail. */
static void
enter_action(Action *action, Subscription *subscription)
{
	action->subscription = subscription;
	action->generation = subscription->generation;
	action->prev = last_action;
	if (last_action)
		last_action->next = action;
	else
		first_action = action;
	last_action = action;
}

/* Is what the action was done to still there? */
static bool
action_valid(Action *action)
{
	return pg_atomic_read_u32(&action->database->generation) ==
		action->database_generation &&
		action->subscription->generation == action->generation;
}

/* Names decide which bindings stay: make the marks of a change stand. */
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
		switch (action->kind)
		{
			case ACTION_CREATE:
				subscription->state = SUBSCRIPTION_ACTIVE;
				subscription->replaces = false;
				break;
			case ACTION_CHANGE:
				commit_change(action);
				break;
			case ACTION_DROP:
				registry_drop_subscription(database, subscription);
				break;
		}
		database->commits++;
		if (action->kind != ACTION_DROP)
			hold_start(database, subscription);
	}
	LWLockRelease(database->lock);
	registry_request(database);
}

/* Take back a change: what it added goes, the rest is as it was. */
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

/*
 * Undo the action.  Cannot fail.  Its database's lock must be held, exclusive;
 * the caller sends the relay a request.
 */
static void
undo_action(Action *action)
{
	Database   *database = action->database;
	Subscription *subscription = action->subscription;

	if (!action_valid(action))
		return;
	switch (action->kind)
	{
		case ACTION_CREATE:
			registry_drop_subscription(database, subscription);
			break;
		case ACTION_CHANGE:
			undo_change(action);
			break;
		case ACTION_DROP:
			subscription->state = action->old_state;
			registry_restore_name(database, subscription);
			break;
	}
}

/* Release the database's lock, if there is one, and send it a request. */
static void
unlock_and_request(Database *database)
{
	if (database == NULL)
		return;
	LWLockRelease(database->lock);
	registry_request(database);
}

/*
 * Undo the actions of the nesting level and those within, last first.  The
 * lock is kept from one to the next: between the end of a subscription that
 * replaces another and the return of that one its name means none, and a relay
 * that read the table then would make another.
 */
static void
undo_actions(int level)
{
	Database   *locked = NULL;

	while (last_action && last_action->level >= level)
	{
		if (last_action->database != locked)
		{
			unlock_and_request(locked);
			locked = last_action->database;
			LWLockAcquire(locked->lock, LW_EXCLUSIVE);
		}
		undo_action(last_action);
		last_action = last_action->prev;
	}
	unlock_and_request(locked);
	if (last_action)
		last_action->next = NULL;
	else
		first_action = NULL;
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

		/* another session that reads it keeps its bindings until it lets go */
		if (subscription->reader_pid != 0)
		{
			subscription->doomed = true;
			registry_wake_reader(subscription);
		}
		else
			registry_drop_subscription(database, subscription);
	}
	LWLockRelease(database->lock);
	may_have_temporary = false;
	registry_request(database);
}

/*
 * Before commit, while it may still fail; see reader_pre_commit().
 */
void
subscribe_pre_commit(void)
{
	reader_pre_commit();
}

/*
 * PREPARE TRANSACTION: raise 0A000 if there is anything that would have to be
 * kept until COMMIT PREPARED.
 */
void
subscribe_pre_prepare(void)
{
	reader_pre_prepare();
	if (reload_database)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that has written table pgpubsub.subscription"),
				 errhint("Commit it with COMMIT.")));
}

/*
 * The transaction has committed: positions, then changes of subscriptions,
 * then the end of claims.  Cannot fail.
 */
void
subscribe_at_commit(void)
{
	reader_publish_at_commit();
	for (Action *action = first_action; action; action = action->next)
		commit_action(action);
	first_action = last_action = NULL;
	if (reload_database)
	{
		pg_atomic_fetch_add_u64(&reload_database->requests.reload, 1);
		registry_request(reload_database);
		reload_database = NULL;
	}
	reader_at_commit();
	if (discarding)
		drop_temporary();
	discarding = false;
}

/*
 * The transaction has aborted.  Cannot fail.
 */
void
subscribe_at_abort(void)
{
	undo_actions(0);
	reload_database = NULL;
	reader_at_abort();
	discarding = false;
}

/*
 * The transaction was prepared: it has changed nothing here.  Cannot fail.
 */
void
subscribe_at_prepare(void)
{
	reader_at_abort();
	reload_database = NULL;
}

/*
 * The subtransaction of that level has committed.  Cannot fail.
 */
void
subscribe_at_subcommit(int level)
{
	for (Action *action = last_action; action; action = action->prev)
		nesting_subcommit(&action->level, level);
	nesting_subcommit(&reload_level, level);
	reader_at_subcommit(level);
}

/*
 * The subtransaction of that level was rolled back.  Cannot fail.
 */
void
subscribe_at_subabort(int level)
{
	undo_actions(level);
	if (nesting_subabort(&reload_level, level))
		reload_database = NULL;
	reader_at_subabort(level);
}

/*
 * Arguments
 */

/* Take the channels apart: checked, without repetitions. */
static void
parse_channels(Request *request)
{
	request->channels = bindings_parse(request->channel_array, ERROR,
									   &request->nchannels);
}

/* Take on_full apart, and check that the caller may have it. */
static void
parse_on_full(Request *request)
{
	const char *name = request->on_full_name;

	if (strcmp(name, "drop") == 0)
		request->on_full = ON_FULL_DROP;
	else if (strcmp(name, "evict") == 0)
		request->on_full = ON_FULL_EVICT;
	else if (strcmp(name, "block") == 0)
		request->on_full = ON_FULL_BLOCK;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized on_full: \"%s\"", name),
				 errhint("Give drop, evict or block.")));

	if (request->on_full == ON_FULL_BLOCK && !superuser() &&
		!PGPUBSUB_OWNS_DATABASE(MyDatabaseId, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for on_full => 'block'"),
				 errdetail("Such a subscription can stop every writer, so it needs a superuser or the database's owner."),
				 errhint("Use on_full => 'evict', or ask the database's owner.")));
}

/* Take start_at apart. */
static void
parse_start_at(Request *request, const char *start_at)
{
	char	   *end;
	int64		seq;

	if (strcmp(start_at, "now") == 0)
		request->start = START_NOW;
	else if (strcmp(start_at, "oldest") == 0)
		request->start = START_OLDEST;
	else
	{
		errno = 0;
		seq = strtoll(start_at, &end, 10);
		if (errno != 0 || start_at[0] < '0' || start_at[0] > '9' ||
			*end != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized start_at: \"%s\"", start_at),
					 errhint("Give now, oldest or a sequence number.")));
		request->start = START_SEQ;
		request->start_seq = (uint64) seq;
	}
}

/* The arguments of subscribe() for the subscription of that name, checked. */
static void
parse_request(FunctionCallInfo fcinfo, const char *name, Request *request)
{
	static const char *const names[] = {
		NULL, "channels", "on_full", "start_at", "temporary"
	};

	for (int i = 1; i < (int) lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	memset(request, 0, sizeof(Request));
	request->name = name;
	request->channel_array = PG_GETARG_ARRAYTYPE_P(1);
	request->on_full_name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	request->temporary = PG_GETARG_BOOL(4);
	reader_check_name(request->name);
	parse_channels(request);
	parse_on_full(request);
	parse_start_at(request, text_to_cstring(PG_GETARG_TEXT_PP(3)));
}

/*
 * Positions
 */

/*
 * The number after which the request wants to read the channel; *pos is the
 * position of an event up to there, or RING_NONE.
 */
static uint64
start_number(Database *database, Request *request, int channel, RingPos *pos)
{
	Ring	   *ring = database->ring;
	uint64		number = database->channels[channel].base_number;

	*pos = database->channels[channel].base_pos;
	if (request->start == START_NOW)
	{
		number = pg_atomic_read_u64(&database->channels[channel].received);
		*pos = ring_newest_position(ring, channel, number);
		return number;
	}
	for (;;)
	{
		RingRecord	record;
		uint64		newest;

		CHECK_FOR_INTERRUPTS();
		if (ring_next(ring, channel, number, *pos, &record,
					  &newest) != RING_FOUND)
			return newest;
		if (request->start == START_OLDEST ||
			record.seq >= request->start_seq)
			return record.number - 1;
		number = record.number;
		*pos = record.pos;
	}
}

/* True if events from the seq on may be gone already. */
static bool
start_seq_gone(Database *database, uint64 seq)
{
	RingState	state;

	ring_state(database->ring, &state);
	return seq < (state.messages > 0 ? state.oldest.seq :
				  state.newest_seq + 1);
}

/*
 * May the channel, or one that the pattern matches, have had events from the
 * seq on that nobody finds any more, as its slot was another's meanwhile?
 * database->lock must be held.
 */
static bool
may_be_forgotten(Database *database, int slot, uint64 seq)
{
	Channel    *channel = &database->channels[slot];

	return seq <= (channel->is_pattern ? database->table.forgotten :
				   channel->forgotten);
}

/* A binding that has no position yet, and the one that it is to have. */
typedef struct Placement
{
	Binding    *binding;
	int			channel;
	uint64		number;
	RingPos		pos;
} Placement;

/*
 * Take the lock, shared, of the claim's database.  Raises 55000 if its slot
 * was given up in the meantime.
 */
static void
lock_claimed(Claim *claim)
{
	LWLockAcquire(claim->database->lock, LW_SHARED);
	if (reader_claim_valid(claim))
		return;
	LWLockRelease(claim->database->lock);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the relay of this database was given up meanwhile"),
			 errdetail("The extension was dropped, or the setting pgpubsub.databases was changed."),
			 errhint("Try again.")));
}

/*
 * Give the bindings that have none a position, now that the relay listens.
 * created: a relay that has just started is no gap for a new subscription.
 * Raises 55000 if the database's slot was given up in the meantime.
 *
 * From a seq on, a position may be far to look for; the lock is not held
 * meanwhile.  Only the reader removes bindings, so they stay.
 */
static void
place_bindings(Claim *claim, Request *request, bool created)
{
	Database   *database = claim->database;
	Subscription *subscription = claim->subscription;
	Placement  *places = palloc(pgpubsub_max_channels * sizeof(Placement));
	int			count = 0;
	bool		gone = false;
	dlist_iter	iter;

	lock_claimed(claim);
	if (created)
	{
		claim->position.gap_seen = registry_gap_epoch(database, subscription);
		pg_atomic_write_u64(&subscription->gap_seen, claim->position.gap_seen);
	}
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (pg_atomic_read_u64(&binding->number) != BINDING_UNPLACED)
			continue;
		places[count].binding = binding;
		places[count++].channel = binding->channel;
	}
	LWLockRelease(database->lock);

	for (int i = 0; i < count; i++)
		places[i].number = start_number(database, request, places[i].channel,
										&places[i].pos);

	lock_claimed(claim);
	for (int i = 0; i < count; i++)
	{
		registry_set_position(places[i].binding, places[i].number,
							  places[i].pos);
		gone |= may_be_forgotten(database, places[i].channel,
								 request->start_seq);
	}
	LWLockRelease(database->lock);
	pfree(places);
	if (count > 0 && request->start == START_SEQ &&
		(gone || start_seq_gone(database, request->start_seq)))
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
}

/*
 * DISCARD ALL has run in this transaction: the session's temporary
 * subscriptions end when it commits, as a pooler hands the session on to
 * another client then.  One that another session is reading ends when that
 * lets go of it.
 */
void
subscribe_discard(void)
{
	discarding = may_have_temporary;
}

/*
 * The table was written: the relay has to read it again when that is
 * committed.
 */
void
subscribe_table_written(void)
{
	if (reload_database == NULL)
		reload_level = GetCurrentTransactionNestLevel();
	reload_database = registry_my_database(true);
}

/*
 * pgpubsub.subscription_changed() RETURNS trigger: somebody has written the
 * table; the relay re-reads it when that is committed.
 */
Datum
pgpubsub_subscription_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation) !=
		subscription_table_oid())
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("pgpubsub.subscription_changed() was not called as the trigger of its table"),
				 errhint("It is the trigger of table pgpubsub.subscription.")));
	if (!subscription_table_writing())
		subscribe_table_written();
	return PointerGetDatum(NULL);
}

/*
 * pgpubsub.subscription_inserted() RETURNS trigger: who writes a row by hand
 * makes the subscription here; a row that says where it was made comes from
 * pg_restore, and so from elsewhere, be its database's oid the same by chance.
 */
Datum
pgpubsub_subscription_inserted(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	HeapTuple	tuple;
	TupleDesc	desc;
	int			column;
	Datum		made_in;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event) ||
		RelationGetRelid(data->tg_relation) != subscription_table_oid())
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("pgpubsub.subscription_inserted() was not called as the trigger of its table"),
				 errhint("It is a trigger of table pgpubsub.subscription.")));
	tuple = data->tg_trigtuple;
	desc = RelationGetDescr(data->tg_relation);
	column = SPI_fnumber(desc, "made_in");
	if (subscription_table_writing() || column <= 0)
		return PointerGetDatum(tuple);

	(void) heap_getattr(tuple, column, desc, &isnull);
	made_in = ObjectIdGetDatum(isnull ? MyDatabaseId : InvalidOid);
	isnull = false;
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, 1, &column,
													 &made_in, &isnull));
}

/*
 * subscribe() and unsubscribe()
 */

/*
 * Wait for other transactions that change a subscription of this name.  The
 * extension cannot be dropped from then on.
 */
static void
lock_name(const char *name)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, subscription_table_lock(),
					   hash_bytes((const unsigned char *) name,
								  (int) strlen(name)), 0);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* At exit: this session's temporary subscriptions end with it. */
static void
drop_temporary_at_exit(int code, Datum arg)
{
	LWLockReleaseAll();
	undo_actions(0);
	reader_at_abort();
	drop_temporary();
}

/* Create the subscription, not committed, and claim it. */
static void
create_subscription(Database *database, Request *request,
					TimestampTz deadline)
{
	Action	   *action = note_action(ACTION_CREATE, database);
	Subscription *subscription;
	Claim	   *claim;
	BindResult	result = BIND_DONE;
	TimestampTz created_at = 0;

	if (request->temporary && !exit_registered)
	{
		before_shmem_exit(drop_temporary_at_exit, (Datum) 0);
		exit_registered = true;
	}
	may_have_temporary |= request->temporary;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	subscription = registry_make_subscription(database, request->name,
											  GetUserId(), request->on_full,
											  request->temporary);
	if (subscription)
	{
		enter_action(action, subscription);
		created_at = subscription->created_at;
		result = bindings_add(database, subscription, request->channels,
							  request->nchannels, BINDING_ADDED);
	}
	LWLockRelease(database->lock);
	bindings_report(subscription ? result : BIND_NO_SUBSCRIPTION, ERROR);

	claim = reader_claim(database, request->name, deadline, true);
	reader_wait_for_relay(database, deadline);

	place_bindings(claim, request, true);
	claim->synced = false;
	reader_sync(claim);
	if (!request->temporary)
		subscription_table_insert(request->name, request->channel_array,
								  request->on_full_name, created_at);
}

/* Raise 42710 unless the lifetime is the one that stands. */
static void
check_lifetime(Request *request, bool temporary, int session_pid)
{
	if (temporary == request->temporary &&
		(!temporary || session_pid == MyProcPid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("subscription \"%s\" already exists", request->name),
			 temporary ? errdetail("It is a temporary one of the session with pid %d.",
								   session_pid) :
			 errdetail("It is not a temporary one."),
			 errhint("Choose another name, or call pgpubsub.unsubscribe() first.")));
}

/* Remember the bindings and their flags as they are. */
static void
save_flags(Action *action, Subscription *subscription)
{
	dlist_iter	iter;

	action->nsaved = 0;
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		action->saved[action->nsaved].binding = binding;
		action->saved[action->nsaved].flags = binding->flags;
		action->nsaved++;
	}
}

/* Give the claimed subscription the request's channels and on_full. */
static void
change_subscription(Claim *claim, Request *request, TimestampTz deadline)
{
	Database   *database = claim->database;
	Subscription *subscription = claim->subscription;
	Action	   *action = note_action(ACTION_CHANGE, database);
	BindResult	result;

	/* patterns may add bindings until we have the lock: room for all */
	action->saved = MemoryContextAlloc(TopTransactionContext,
									   pgpubsub_max_channels * 2 *
									   sizeof(SavedFlags));
	action->on_full = request->on_full;
	action->slots = MemoryContextAlloc(TopTransactionContext,
									   request->nchannels * sizeof(int));

	/* cursors of channels that are dropped come back with the savepoint */
	reader_save(claim);
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	save_flags(action, subscription);
	enter_action(action, subscription);
	result = bindings_add(database, subscription, request->channels,
						  request->nchannels, BINDING_ADDED);
	if (result == BIND_DONE)
	{
		bindings_mark_dropped(database, subscription, request->channels,
							  request->nchannels);
		bindings_find_slots(database, request->channels, request->nchannels,
							action->slots);
		action->nslots = request->nchannels;
	}
	LWLockRelease(database->lock);
	bindings_report(result, ERROR);

	reader_wait_for_relay(database, deadline);
	place_bindings(claim, request, false);
	claim->synced = false;
	reader_sync(claim);
	if (!request->temporary)
		subscription_table_update(request->name, request->channel_array,
								  request->on_full_name);
}

/*
 * Give the standing subscription what the request asks for.
 */
static void
subscribe_again(Database *database, Request *request, Oid owner,
				TimestampTz deadline)
{
	Subscription *subscription;
	bool		temporary = false;
	int			session_pid = 0;
	bool		same = false;

	reader_check_owner(request->name, owner);
	LWLockAcquire(database->lock, LW_SHARED);
	subscription = registry_find_subscription(database, request->name);
	if (subscription)
	{
		temporary = subscription->temporary;
		session_pid = subscription->session_pid;
		same = subscription->on_full == request->on_full &&
			bindings_same(database, subscription, request->channels,
						  request->nchannels);
	}
	LWLockRelease(database->lock);

	check_lifetime(request, temporary, session_pid);
	if (same)
	{
		reader_wait_for_relay(database, deadline);
		if (!temporary)
			subscription_table_expect(request->name);
	}
	else
		change_subscription(reader_claim(database, request->name, deadline,
										 true), request, deadline);
}

/*
 * What subscribe() does, with the subscription of that name.
 */
static Datum
subscribe_name(FunctionCallInfo fcinfo, const char *name)
{
	Database   *database = reader_database("pgpubsub.subscribe");
	TimestampTz deadline;
	Request		request;
	Oid			owner;

	parse_request(fcinfo, name, &request);
	reader_note_call();
	if (request.start == START_SEQ &&
		request.start_seq > ring_newest_seq(database->ring) + 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_at %llu was not given out yet",
						(unsigned long long) request.start_seq),
				 errdetail("The newest event of this database has seq %llu.",
						   (unsigned long long) ring_newest_seq(database->ring)),
				 errhint("Give now, oldest or the seq of an event.")));
	lock_name(request.name);
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   pgpubsub_publish_timeout);

	/* the relay may have the table still to read */
	reader_wait_for_relay(database, deadline);
	owner = reader_wanted_owner(database, request.name);
	if (OidIsValid(owner))
		subscribe_again(database, &request, owner, deadline);
	else
		create_subscription(database, &request, deadline);
	PG_RETURN_BOOL(!OidIsValid(owner));
}

/*
 * pgpubsub.subscribe_1_0(subscription name, channels, on_full, start_at,
 * temporary), subscribe() before version 1.1
 */
Datum
pgpubsub_subscribe(PG_FUNCTION_ARGS)
{
	return subscribe_name(fcinfo, reader_name(fcinfo));
}

/*
 * pgpubsub.subscribe(subscription text, channels, on_full, start_at,
 * temporary) RETURNS boolean
 */
Datum
pgpubsub_subscribe_1_1(PG_FUNCTION_ARGS)
{
	return subscribe_name(fcinfo, reader_text_name(fcinfo));
}

/*
 * What unsubscribe() does, to the subscription of that name.
 */
static Datum
unsubscribe_name(const char *name)
{
	Database   *database = reader_database("pgpubsub.unsubscribe");
	Action	   *action;
	Claim	   *claim;
	TimestampTz deadline;
	bool		temporary;
	bool		deleted;

	reader_note_call();
	lock_name(name);
	if (!OidIsValid(reader_subscription_owner(database, name)))
	{
		/* the relay may not have read it yet, or have had no room for it */
		deleted = subscription_table_delete_unread(name);
		if (deleted)
			subscribe_table_written();
		PG_RETURN_BOOL(deleted);
	}

	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   pgpubsub_publish_timeout);
	claim = reader_claim(database, name, deadline, true);
	action = note_action(ACTION_DROP, database);
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	temporary = claim->subscription->temporary;
	action->old_state = claim->subscription->state;
	claim->subscription->state = SUBSCRIPTION_DROPPING;
	claim->subscription->changer_pid = MyProcPid;
	enter_action(action, claim->subscription);
	LWLockRelease(database->lock);
	if (!temporary)
		subscription_table_delete(name, false);
	PG_RETURN_BOOL(true);
}

/*
 * pgpubsub.unsubscribe_1_0(subscription name), unsubscribe() before version 1.1
 */
Datum
pgpubsub_unsubscribe(PG_FUNCTION_ARGS)
{
	return unsubscribe_name(reader_name(fcinfo));
}

/*
 * pgpubsub.unsubscribe(subscription text) RETURNS boolean
 */
Datum
pgpubsub_unsubscribe_1_1(PG_FUNCTION_ARGS)
{
	return unsubscribe_name(reader_text_name(fcinfo));
}

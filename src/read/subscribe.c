/*-------------------------------------------------------------------------
 *
 * subscribe.c
 *	  subscribe() and unsubscribe().  For some channels more or less, see
 *	  change_channels.c.
 *
 * 1. Both take a heavyweight lock on the subscription's name until the
 *	  transaction ends, so that open transactions never have two changes of
 *	  one name.  Then they claim the subscription, as a reader does.
 *
 * 2. The change is made in shared memory at once, as not committed; see
 *	  subscription_changes.c.
 *
 * 3. A subscription's position in a channel is set after the relay has said
 *	  that it listens: by then it has read all that was committed before.
 *
 * 4. The table pgpubsub.subscription is written last, in the same transaction.
 *	  Temporary subscriptions are not in it.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "catalog/pg_database.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "registry/channel_lists.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"


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
	bool		temporary;
} Request;

const char *const on_full_names[ON_FULL_VALUES] = {
	[ON_FULL_DROP] = "drop",
	[ON_FULL_EVICT] = "evict",
	[ON_FULL_BLOCK] = "block"
};

PG_FUNCTION_INFO_V1(pgpubsub_subscribe);
PG_FUNCTION_INFO_V1(pgpubsub_subscribe_1_1);
PG_FUNCTION_INFO_V1(pgpubsub_unsubscribe);
PG_FUNCTION_INFO_V1(pgpubsub_unsubscribe_1_1);

/* Raise 42501 unless the user may have a subscription that stops writers. */
void
subscribe_check_may_block(void)
{
	if (superuser() || PGPUBSUB_OWNS_DATABASE(MyDatabaseId, GetUserId()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for on_full => 'block'"),
			 errdetail("Such a subscription can stop every writer, so it needs a superuser or the database's owner."),
			 errhint("Use on_full => 'evict', or ask the database's owner.")));
}

/* Parse on_full; raises 22023, or 42501 if the user must not have it. */
static void
parse_on_full(Request *request)
{
	const char *name = request->on_full_name;
	int			on_full = 0;

	while (on_full < ON_FULL_VALUES && strcmp(name, on_full_names[on_full]) != 0)
		on_full++;
	if (on_full == ON_FULL_VALUES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized on_full: \"%s\"", name),
				 errhint("Give drop, evict or block.")));
	request->on_full = (OnFull) on_full;

	if (request->on_full == ON_FULL_BLOCK)
		subscribe_check_may_block();
}

/* Parse the arguments of subscribe(), of which the caller gives the name. */
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
	request->channels = bindings_parse(request->channel_array, ERROR,
									   &request->nchannels);
	parse_on_full(request);
	start_at_parse(text_to_cstring(PG_GETARG_TEXT_PP(3)), &request->start);
}

/*
 * Take the lock, shared, of the claim's database.  Raises 55000 if the
 * database's slot was given up in the meantime.
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
 * Give a position to the bindings that have none, now that the relay listens.
 * If the subscription was created just now, a relay that has just started is
 * no gap for it.  Raises 55000 if the database's slot was given up in the
 * meantime.
 *
 * The event with a given seq may be far to look for.  The lock is not held
 * meanwhile; the bindings stay, as only the reader removes them.
 */
static void
place_bindings(Claim *claim, Request *request, bool created)
{
	Database   *database = claim->database;
	Subscription *subscription = claim->own.subscription;
	Placement  *places = palloc(pgpubsub_max_channels * sizeof(Placement));
	int			count = 0;
	bool		gone;
	dlist_iter	iter;

	lock_claimed(claim);
	if (created)
	{
		claim->position.gap_seen = pg_atomic_read_u64(&subscription->gap_epoch);
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

	start_at_find(database, &request->start, places, count);
	lock_claimed(claim);
	for (int i = 0; i < count; i++)
	{
		registry_set_position(places[i].binding, places[i].number,
							  places[i].pos, places[i].logged, places[i].seq);
		pg_atomic_fetch_add_u64(&places[i].binding->log_lost,
								placement_lost(&places[i]));
	}
	gone = start_at_gone(database, &request->start, places, count);
	LWLockRelease(database->lock);
	pfree(places);
	if (gone)
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
}

/*
 * Wait for other transactions that change a subscription of this name.  The
 * extension cannot be dropped from then on.
 */
void
subscribe_lock_name(const char *name)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, subscription_table_lock(),
					   hash_bytes((const unsigned char *) name,
								  (int) strlen(name)), 0);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* What a new subscription is known by in the log; raises XX000. */
static int64
make_id(void)
{
	int64		id = 0;

	while (id == 0)
	{
		if (!pg_strong_random(&id, sizeof(id)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not get random bytes")));
		id &= PG_INT64_MAX;
	}
	return id;
}

/*
 * Create the subscription, not committed, and claim it.  Raises 53400 if there
 * is no room, 55000 if the relay does not listen by deadline.
 */
static void
create_subscription(Database *database, Request *request,
					TimestampTz deadline)
{
	Action	   *action = action_prepare(ACTION_CREATE, database, 0, false);
	Subscription *subscription;
	Claim	   *claim;
	BindResult	result = BIND_DONE;
	TimestampTz created_at = 0;

	if (request->temporary)
		temporary_subscription_begins();
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	subscription = registry_make_subscription(database, request->name,
											  GetUserId(), request->on_full,
											  request->temporary);
	if (subscription)
	{
		action_enter(action, subscription);
		created_at = subscription->created_at;
		result = bindings_add(database, subscription, request->channels,
							  request->nchannels, 0, NULL);
	}
	LWLockRelease(database->lock);
	bindings_report(subscription ? result : BIND_NO_SUBSCRIPTION, ERROR);

	claim = reader_claim(database, request->name, deadline, true);
	reader_wait_for_relay(database, deadline);

	place_bindings(claim, request, true);
	claim->synced = false;
	position_sync(claim);
	if (!request->temporary)
	{
		subscription->id = make_id();
		subscription_table_insert(request->name, request->channel_array,
								  request->on_full_name, created_at,
								  subscription->id);
		position_consume(claim);
		claim->position.logged =
			pg_atomic_read_u32(&database->log.active) != 0;
	}
}

/* Raise 42710 unless the request's lifetime is that of the subscription. */
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

/*
 * Give the claimed subscription the request's channels and on_full.  Raises
 * what create_subscription() does.
 */
static void
change_subscription(Claim *claim, Request *request, TimestampTz deadline)
{
	Database   *database = claim->database;
	Subscription *subscription = claim->own.subscription;
	Action	   *action = action_prepare(ACTION_CHANGE, database,
										request->nchannels, true);
	BindResult	result;

	action->on_full = request->on_full;

	/* cursors of channels that are dropped come back with the savepoint */
	position_save(claim);
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	action_enter(action, subscription);
	result = bindings_add(database, subscription, request->channels,
						  request->nchannels, BINDING_ADDED, NULL);
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
	position_sync(claim);
	position_consume(claim);
	claim->position.logged |= pg_atomic_read_u32(&database->log.active) != 0;
	if (!request->temporary)
	{
		subscription_table_update(request->name, request->channel_array,
								  request->on_full_name);
		subscription_channels_clear(subscription_channels_id(request->name));
	}
}

/* subscribe() on a subscription that exists, and has that owner. */
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

/* subscribe() on the subscription of that name; whether it was created. */
static Datum
subscribe_name(FunctionCallInfo fcinfo, const char *name)
{
	Database   *database = reader_database("pgpubsub.subscribe");
	TimestampTz deadline;
	Request		request;
	Oid			owner;

	parse_request(fcinfo, name, &request);
	reader_note_call();
	start_at_check(database, &request.start);
	subscribe_lock_name(request.name);
	deadline = reader_deadline();

	/* the relay may not have read the table yet */
	reader_wait_for_relay(database, deadline);
	owner = reader_wanted_owner(database, request.name);
	if (OidIsValid(owner))
		subscribe_again(database, &request, owner, deadline);
	else
		create_subscription(database, &request, deadline);
	PG_RETURN_BOOL(!OidIsValid(owner));
}

/* subscribe() of version 1.0: its subscription is a name. */
Datum
pgpubsub_subscribe(PG_FUNCTION_ARGS)
{
	return subscribe_name(fcinfo, reader_name(fcinfo));
}

/*
 * pgpubsub.subscribe(subscription text, channels text[], on_full text,
 * start_at text, temporary boolean) RETURNS boolean
 */
Datum
pgpubsub_subscribe_1_1(PG_FUNCTION_ARGS)
{
	return subscribe_name(fcinfo, reader_text_name(fcinfo));
}

/* unsubscribe() on the subscription of that name; whether there was one. */
static Datum
unsubscribe_name(const char *name)
{
	Database   *database = reader_database("pgpubsub.unsubscribe");
	Action	   *action;
	Subscription *subscription;
	bool		temporary;
	bool		deleted;

	reader_note_call();
	subscribe_lock_name(name);
	if (!OidIsValid(reader_subscription_owner(database, name)))
	{
		/* the relay may not have read its row yet, or had no room for it */
		deleted = subscription_table_delete_unread(name);
		if (deleted)
			subscription_table_written();
		PG_RETURN_BOOL(deleted);
	}

	subscription = reader_claim(database, name, reader_deadline(),
								true)->own.subscription;
	action = action_prepare(ACTION_DROP, database, 0, false);
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	temporary = subscription->temporary;
	action_enter(action, subscription);
	subscription->state = SUBSCRIPTION_DROPPING;
	subscription->changer_pid = MyProcPid;
	LWLockRelease(database->lock);
	if (!temporary)
		subscription_table_delete(name, false);
	PG_RETURN_BOOL(true);
}

/* unsubscribe() of version 1.0: its subscription is a name. */
Datum
pgpubsub_unsubscribe(PG_FUNCTION_ARGS)
{
	return unsubscribe_name(reader_name(fcinfo));
}

/* pgpubsub.unsubscribe(subscription text) RETURNS boolean */
Datum
pgpubsub_unsubscribe_1_1(PG_FUNCTION_ARGS)
{
	return unsubscribe_name(reader_text_name(fcinfo));
}

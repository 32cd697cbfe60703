/*-------------------------------------------------------------------------
 *
 * change_channels.c
 *	  add_channels() and drop_channels(): some channels of a subscription more,
 *	  or less.
 *
 * subscribe() says anew what all channels of a subscription are, and so costs
 * by all of them.  These two cost by the names that they are given, and do not
 * have to wait for a session that waits for the subscription's events.
 *
 * 1. Both take the lock on the subscription's name, as subscribe() does, until
 *	  the transaction ends: so one transaction at a time changes it.
 *
 * 2. add_channels() claims nothing, for it takes nothing from who reads the
 *	  subscription.  A binding that it has made is marked as added: only its own
 *	  transaction reads it until commit, see binding_readable(), and so a
 *	  rollback may remove it.  As in subscribe(), its position is set when the
 *	  relay has said that it listens.
 *
 * 3. drop_channels() claims the subscription, as only its reader may remove
 *	  bindings.  A session that waits in poll() lets it in; one that has read
 *	  and not committed is waited for.  The claim has no cursors.
 *
 * 4. The names are written into a table of their own, see
 *	  subscription_channels.c.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "base/debug.h"
#include "miscadmin.h"
#include "registry/channel_lists.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* The arguments of add_channels() or drop_channels(). */
typedef struct Names
{
	const char *subscription;
	char	  **channels;
	int			nchannels;
	bool		any_pattern;
} Names;

/* What is true of an addition once its bindings have their positions. */
typedef struct Added
{
	uint64		since;			/* all of the log up to that seq is before it */
	uint64		first_seq;		/* what has this seq or a higher one, and is
								 * queued later, is read */
	uint64		version;		/* a position that knows it has a higher one */
	bool		temporary;
} Added;

PG_FUNCTION_INFO_V1(pgpubsub_add_channels);
PG_FUNCTION_INFO_V1(pgpubsub_drop_channels);

/*
 * Parse the arguments.  Raises 22004 for a null, and what
 * bindings_parse() raises for bad names.
 */
static void
parse_names(FunctionCallInfo fcinfo, Names *names)
{
	names->subscription = reader_text_name(fcinfo);
	check_not_null(fcinfo, 1, "channels");
	names->channels = bindings_parse(PG_GETARG_ARRAYTYPE_P(1), ERROR,
									 &names->nchannels);
	names->any_pattern = bindings_any_pattern(names->channels,
											  names->nchannels);
}

/*
 * Take the database's lock, exclusive, and return the subscription, if it still
 * has the owner for whom the caller has checked; else NULL, with no lock taken.
 */
static Subscription *
lock_subscription(Database *database, const char *name, Oid owner)
{
	Subscription *subscription = NULL;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (database->oid == MyDatabaseId)
		subscription = registry_find_subscription(database, name);
	if (subscription != NULL && reader_visible(subscription) &&
		subscription->owner == owner)
		return subscription;
	LWLockRelease(database->lock);
	return NULL;
}

/*
 * Find the subscription of that name, which must be the current user's, and
 * return it with the database's lock taken, exclusive.  Raises 42704 if there
 * is none, 42501 if the user may not change it, 55000 without a relay.
 */
static Subscription *
find_own(Database *database, const char *name)
{
	for (;;)
	{
		Oid			owner = reader_wanted_owner(database, name);
		Subscription *subscription;

		CHECK_FOR_INTERRUPTS();
		if (!OidIsValid(owner))
			reader_no_subscription(name);
		reader_check_owner(name, owner);
		subscription = lock_subscription(database, name, owner);
		if (subscription != NULL)
			return subscription;
	}
}

/* Does the subscription let writers wait for ever?  Raises what find_own() does. */
static bool
may_block(Database *database, const char *name)
{
	bool		block = find_own(database, name)->on_full == ON_FULL_BLOCK;

	LWLockRelease(database->lock);
	return block;
}

/*
 * Keep, of the names, those for which the array has what is wanted; returns how
 * many these are.
 */
static int
choose_names(const Names *names, const bool *has, bool wanted, char **chosen)
{
	int			count = 0;

	for (int i = 0; i < names->nchannels; i++)
	{
		if (has[i] == wanted)
			chosen[count++] = names->channels[i];
	}
	return count;
}

/*
 * Bind the subscription to the channels, not committed; has tells of each
 * whether it was named before.  Raises 53400 if there is no room, and what
 * find_own() does.
 */
static Action *
bind_channels(Database *database, const Names *names, bool *has)
{
	Action	   *action = action_prepare(ACTION_ADD_CHANNELS, database,
										names->nchannels, names->any_pattern);
	Subscription *subscription = find_own(database, names->subscription);
	BindResult	result;

	action_enter(action, subscription);
	bindings_find_named(database, subscription, names->channels,
						names->nchannels, has);
	result = bindings_add(database, subscription, names->channels,
						  names->nchannels, BINDING_ADDED, &action->found);
	LWLockRelease(database->lock);
	bindings_report(result, ERROR);
	return action;
}

/*
 * Now that the relay listens, have the new bindings begin here.  Raises 42704
 * if the subscription has gone meanwhile, as a temporary one may.
 */
static void
place_channels(Database *database, const Names *names, Action *action,
			   Added *added)
{
	Subscription *subscription = action->subscription;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (!action_valid(action))
	{
		LWLockRelease(database->lock);
		reader_no_subscription(names->subscription);
	}

	/* others append meanwhile: nothing behind since may count as before it */
	added->since = ring_newest_seq(database->ring);
	bindings_place_found(database, subscription, &action->found);
	added->first_seq = ring_newest_seq(database->ring) + 1;
	added->version = pg_atomic_read_u64(&subscription->position_version);
	added->temporary = subscription->temporary;
	LWLockRelease(database->lock);
	reader_resync(subscription);
}

/*
 * pgpubsub.add_channels(subscription text, channels text[]) RETURNS bigint: the
 * lowest seq that an event of the new channels can have
 */
Datum
pgpubsub_add_channels(PG_FUNCTION_ARGS)
{
	Names		names;
	Database   *database;
	Action	   *action;
	Added		added;
	bool	   *has;
	char	  **new_names;
	int			nnew;

	parse_names(fcinfo, &names);
	database = reader_database("pgpubsub.add_channels");
	reader_note_call();
	subscribe_lock_name(names.subscription);
	if (may_block(database, names.subscription))
		subscribe_check_may_block();
	has = palloc(names.nchannels * sizeof(bool));
	new_names = palloc(names.nchannels * sizeof(char *));

	action = bind_channels(database, &names, has);
	DEBUG_POINT("channels_bound");
	reader_wait_for_relay(database, reader_deadline());
	place_channels(database, &names, action, &added);
	nnew = choose_names(&names, has, false, new_names);
	if (!added.temporary)
		subscription_channels_add(names.subscription, new_names, nnew,
								  added.since, added.version);
	PG_RETURN_INT64((int64) added.first_seq);
}

/*
 * pgpubsub.drop_channels(subscription text, channels text[]) RETURNS integer:
 * how many of the names the subscription had
 */
Datum
pgpubsub_drop_channels(PG_FUNCTION_ARGS)
{
	Names		names;
	Database   *database;
	Action	   *action;
	Claim	   *claim;
	bool	   *has;
	bool		temporary = true;
	int			ndropped = 0;

	parse_names(fcinfo, &names);
	database = reader_database("pgpubsub.drop_channels");
	reader_note_call();
	subscribe_lock_name(names.subscription);
	has = palloc0(names.nchannels * sizeof(bool));
	action = action_prepare(ACTION_DROP_CHANNELS, database, names.nchannels,
							names.any_pattern);
	claim = reader_claim_to_drop(database, names.subscription,
								 reader_deadline());

	/* cursors of channels that are dropped come back with the savepoint */
	position_save(claim);
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (reader_claim_valid(claim))
	{
		action_enter(action, claim->own.subscription);
		temporary = claim->own.subscription->temporary;
		ndropped = bindings_drop(database, claim->own.subscription,
								 names.channels, names.nchannels,
								 &action->found, has);
	}
	LWLockRelease(database->lock);
	claim->synced = false;
	if (!temporary)
	{
		char	  **dropped = palloc(names.nchannels * sizeof(char *));

		subscription_channels_drop(names.subscription, dropped,
								   choose_names(&names, has, true, dropped));
	}
	PG_RETURN_INT32(ndropped);
}

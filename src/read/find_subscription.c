/*-------------------------------------------------------------------------
 *
 * find_subscription.c
 *	  What a SQL function needs before it can use a subscription.
 *
 * That is arguments that are allowed, the slot of this database, a relay that
 * answers, and the subscription's owner, whose privileges the user must have.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include <math.h>

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"	/* get_database_name(), from 19 on */
#include "utils/timestamp.h"

/*
 * The subscription that the SQL function's first argument names, which is of
 * type name, as in version 1.0.  Like all names here, it fills NAMEDATALEN
 * bytes, with zeros at the end.  Raises 22004 if it is null.
 */
const char *
reader_name(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 0, "subscription");
	return NameStr(*PG_GETARG_NAME(0));
}

/*
 * The subscription that the SQL function's first argument names, which is of
 * type text, in the current memory context.  A conversion to type name would
 * cut what is too long, and two consumers could share a subscription unawares.
 * Raises 22004 if it is null, 22023 if it is empty or too long.
 */
const char *
reader_text_name(FunctionCallInfo fcinfo)
{
	char	   *name;
	char	   *given;
	Size		len;

	check_not_null(fcinfo, 0, "subscription");
	given = text_to_cstring(PG_GETARG_TEXT_PP(0));
	len = strlen(given);
	reader_check_name(given);
	if (len >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription name is too long"),
				 errdetail("\"%.*s...\" has %zu bytes.",
						   pg_mbcliplen(given, (int) len, NAMEDATALEN - 1),
						   given, len),
				 errhint("Give a name of 1 to %d bytes.", NAMEDATALEN - 1)));
	name = palloc0(NAMEDATALEN);
	memcpy(name, given, len);
	return name;
}

/* Raise 22023 if the name is empty. */
void
reader_check_name(const char *name)
{
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription name cannot be empty"),
				 errhint("Give a name of 1 to %d bytes.", NAMEDATALEN - 1)));
}

/*
 * The timeout of poll() or wait() in milliseconds, rounded up and cut to
 * pgpubsub.max_poll_wait.  Raises 22023 if it is negative.
 */
int64
reader_timeout(const Interval *timeout)
{
	double		ms = timeout->time / 1000.0 +
		((double) timeout->month * DAYS_PER_MONTH + timeout->day) *
		(USECS_PER_DAY / 1000);

	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout cannot be negative"),
				 errhint("Give an interval of 0 or more.")));
	if (ms > pgpubsub_max_poll_wait)
		return pgpubsub_max_poll_wait;
	return (int64) ceil(ms);
}

/* Raise 55000, for the settings give this database no relay. */
static void
no_relay_here(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this database has no relay"),
			 errdetail("The setting pgpubsub.databases leaves it out, or pgpubsub.max_databases (%d) others have one.",
					   pgpubsub_max_databases),
			 errhint("Change pgpubsub.databases and reload, or raise pgpubsub.max_databases and restart the server.")));
}

/*
 * The slot of this session's database, for the SQL function of that name.
 * Raises 25006 on a standby; 55000 if pgpubsub is not preloaded, in single-user
 * mode, or if the database cannot have a relay.
 */
Database *
reader_database(const char *function)
{
	Database   *database;

	if (!pgpubsub_preloaded())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pgpubsub is not preloaded"),
				 errdetail("Subscriptions live in shared memory, which is set up at server start."),
				 errhint("Add pgpubsub to shared_preload_libraries and restart the server.")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s() on a standby", function),
				 errdetail("A standby has no NOTIFY and so no relay."),
				 errhint("Connect to the primary server.")));
	if (!IsUnderPostmaster)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot execute %s() in single-user mode", function),
				 errdetail("There are no background workers and so no relay."),
				 errhint("Start the server.")));

	database = registry_my_database(true);
	if (database == NULL)
		no_relay_here();
	return database;
}

/* Raise 55000, for there was a relay. */
static void
no_relay_any_more(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this database has no relay any more"),
			 errdetail("The extension was dropped meanwhile, or the setting pgpubsub.databases leaves the database out now."),
			 errhint("Create the extension again, or change pgpubsub.databases and reload.")));
}

/*
 * Raise 55000 if the slot is no longer this database's.  The error releases an
 * LWLock that the caller holds.
 */
static void
check_slot(Database *database)
{
	if (database->oid != MyDatabaseId)
		no_relay_any_more();
}

/* Raise 55000, for the relay has not answered in time; the error says why. */
static void
relay_unavailable(Database *database)
{
	char	   *name = get_database_name(MyDatabaseId);
	bool		starting =
	pg_atomic_read_u32(&database->relay.state) != RELAY_STOPPED;

	if (name && !registry_database_allowed(name))
		no_relay_here();

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the relay of this database does not answer"),
			 starting ? errdetail("It has not taken the request within pgpubsub.publish_timeout (%d ms).",
								  pgpubsub_publish_timeout) :
			 errdetail("It is not running, and was not started within pgpubsub.publish_timeout (%d ms).",
					   pgpubsub_publish_timeout),
			 errhint("Look at the server log and at pgpubsub.stat_queue; a relay needs a free slot of max_worker_processes.")));
}

/* Has the relay left for good, so that no more events will come? */
bool
reader_relay_left(Database *database)
{
	return pg_atomic_read_u32(&database->relay.unavailable) == RELAY_LEFT_OUT &&
		pg_atomic_read_u32(&database->relay.state) == RELAY_STOPPED;
}

/*
 * Raise 55000 if the relay of this database has left for good.  In a transaction.
 */
void
reader_expect_relay(Database *database)
{
	if (!reader_relay_left(database))
		return;

	/* when the extension is dropped, the relay leaves before the slot is free */
	AcceptInvalidationMessages();
	if (!OidIsValid(subscription_table_find()))
		no_relay_any_more();
	no_relay_here();
}

/* When what begins now has lasted for pgpubsub.publish_timeout. */
TimestampTz
reader_deadline(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   pgpubsub_publish_timeout);
}

/*
 * Wait until the relay runs and has done all that was asked of it up to now.
 * Raises 55000 at the deadline.  No LWLock may be held.
 */
void
reader_wait_for_relay(Database *database, TimestampTz deadline)
{
	uint64		request = registry_request(database);

	registry_wake(&pgpubsub_control->launcher_procno);
	ConditionVariablePrepareToSleep(&database->requests.cv);
	while (pg_atomic_read_u64(&database->requests.handled) < request)
	{
		long		left;

		CHECK_FOR_INTERRUPTS();
		check_slot(database);
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (left <= 0)
		{
			ConditionVariableCancelSleep();
			relay_unavailable(database);
		}
		ConditionVariableTimedSleep(&database->requests.cv, left,
									pgpubsub_wait_event(PGPUBSUB_WAIT_SUBSCRIBE));
	}
	ConditionVariableCancelSleep();
}

/*
 * May this session know of the subscription?  It may if that is committed, or
 * this session's own.
 */
bool
reader_visible(Subscription *subscription)
{
	bool		changing = subscription->changer_pid == MyProcPid;

	Assert(LWLockHeldByMe(subscription_lock(subscription)));
	return !subscription->doomed &&
		(subscription->state == SUBSCRIPTION_ACTIVE ||
		 (subscription->state == SUBSCRIPTION_CREATING && changing) ||
		 (subscription->state == SUBSCRIPTION_DROPPING && !changing));
}

/* Raise 42704 for a subscription that does not exist. */
void
reader_no_subscription(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("subscription \"%s\" does not exist", name),
			 errhint("Create it with pgpubsub.subscribe().")));
}

/*
 * If another session has dropped the subscription of this name and created one
 * in its place, and not committed that: the new one and that session's pid,
 * having prepared to sleep on its condition variable.  Else NULL.
 */
Subscription *
reader_find_replacing(Database *database, const char *name, int *pid)
{
	Subscription *subscription;

	LWLockAcquire(database->lock, LW_SHARED);
	subscription = registry_find_subscription(database, name);
	if (subscription && (subscription->state != SUBSCRIPTION_CREATING ||
						 !subscription->replaces ||
						 subscription->changer_pid == MyProcPid))
		subscription = NULL;
	if (subscription)
	{
		*pid = subscription->changer_pid;
		ConditionVariablePrepareToSleep(&subscription->reader.cv);
	}
	LWLockRelease(database->lock);
	return subscription;
}

/*
 * Raise 42501 unless the current user has the privileges of owner, who owns the
 * subscription of this name.  Looks at catalogs: no LWLock may be held.
 */
void
reader_check_owner(const char *name, Oid owner)
{
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of subscription \"%s\"", name),
				 errhint("Ask for membership in the role that owns it.")));
}

/* The owner of the subscription that shared memory has, or InvalidOid. */
static Oid
loaded_owner(Database *database, const char *name)
{
	Subscription *subscription;
	Oid			owner = InvalidOid;

	LWLockAcquire(database->lock, LW_SHARED);
	check_slot(database);
	subscription = registry_find_subscription(database, name);
	if (subscription && reader_visible(subscription))
		owner = subscription->owner;
	LWLockRelease(database->lock);
	return owner;
}

/*
 * The owner of the subscription; InvalidOid if this session knows of none with
 * that name.  Soon after the server's start, waits until the relay has read the
 * table; raises 55000 if it does not come to that.
 */
Oid
reader_subscription_owner(Database *database, const char *name)
{
	if (pg_atomic_read_u32(&database->relay.loaded) == 0)
		reader_wait_for_relay(database, reader_deadline());
	return loaded_owner(database, name);
}

/*
 * As reader_subscription_owner(), but if only the table has the subscription,
 * because it was written with its triggers off (by logical replication, say) or
 * there was no room, has the relay read the table again.  Raises 55000 if the
 * subscription is still missing then.
 */
Oid
reader_wanted_owner(Database *database, const char *name)
{
	Oid			owner = reader_subscription_owner(database, name);

	if (OidIsValid(owner) || !subscription_table_has(name))
		return owner;
	pg_atomic_fetch_add_u64(&database->requests.reload, 1);
	reader_wait_for_relay(database, reader_deadline());
	owner = loaded_owner(database, name);
	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" could not be loaded", name),
				 errdetail("Table pgpubsub.subscription has it, but the relay has not taken it over."),
				 errhint("The server log tells why, if there was no room: raise pgpubsub.max_subscriptions or pgpubsub.max_channels, or unsubscribe others. If this transaction has written the table, commit first.")));
	return owner;
}

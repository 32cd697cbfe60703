/*-------------------------------------------------------------------------
 *
 * find_subscription.c
 *	  What is needed before a subscription can be claimed: arguments that may
 *	  be, this database's slot, a relay that answers, the subscription's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "read/reader.h"

#include <math.h>

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "read/subscription_table.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"	/* get_database_name(), from 19 on */
#include "utils/timestamp.h"

/*
 * The subscription that the SQL function's first argument names, of type name
 * as in version 1.0; raises 22004 if it is null.  As all names here, it fills
 * NAMEDATALEN bytes, with zeros behind it.
 */
const char *
reader_name(FunctionCallInfo fcinfo)
{
	check_not_null(fcinfo, 0, "subscription");
	return NameStr(*PG_GETARG_NAME(0));
}

/*
 * The subscription that the SQL function's first argument names, of type text:
 * what is too long for a name is not cut, as it would be in a conversion to
 * that type, so that two consumers never share a subscription unawares.  In
 * the current context; raises 22004 if it is null, 22023 if it is empty or too
 * long.
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

/*
 * Raise 22023 if the name is empty.
 */
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
 * The timeout of poll() or wait as milliseconds, cut to
 * pgpubsub.max_poll_wait; a part of one counts as a whole.  Raises 22023 if it
 * is negative.
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

/* Raise 55000: by the settings, this database gets no relay. */
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
 * The slot of this backend's database, for the SQL function of that name;
 * raises 55000 if subscriptions cannot be had here (in single-user mode too),
 * 25006 on a standby.
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

/*
 * Raise 55000 if the slot is no longer this database's: the extension was
 * dropped, or the settings leave the database out.  A lock that the caller
 * holds is released by the error.
 */
static void
check_slot(Database *database)
{
	if (database->oid != MyDatabaseId)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has no relay any more"),
				 errdetail("The extension was dropped meanwhile, or the setting pgpubsub.databases leaves the database out now."),
				 errhint("Create the extension again, or change pgpubsub.databases and reload.")));
}

/* Raise 55000: the relay is not to be had. */
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

/*
 * Has the relay of this database left for good, so that nothing will come any
 * more?
 */
bool
reader_relay_left(Database *database)
{
	return pg_atomic_read_u32(&database->relay.unavailable) == RELAY_LEFT_OUT &&
		pg_atomic_read_u32(&database->relay.state) == RELAY_STOPPED;
}

/*
 * Raise 55000 if it has.
 */
void
reader_expect_relay(Database *database)
{
	if (reader_relay_left(database))
		no_relay_here();
}

/* Sleep on the condition variable; false at the deadline. */
static bool
sleep_on_relay(ConditionVariable *cv, TimestampTz deadline)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													   deadline);

	if (left <= 0)
		return false;
	ConditionVariableTimedSleep(cv, left,
								pgpubsub_wait_event(PGPUBSUB_WAIT_SUBSCRIBE));
	return true;
}

/*
 * Wait until the relay runs and has done all that was asked of it so far.
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
		CHECK_FOR_INTERRUPTS();
		check_slot(database);
		if (!sleep_on_relay(&database->requests.cv, deadline))
		{
			ConditionVariableCancelSleep();
			relay_unavailable(database);
		}
	}
	ConditionVariableCancelSleep();
}

/*
 * Raise 42501 unless the current user may read and change the subscription
 * of this name and owner.  Looks at catalogs: no LWLock may be held.
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
 * The owner of the subscription; InvalidOid if this session knows of none
 * with that name.  Soon after the server's start, waits until the relay has
 * read the table; raises 55000 if it does not come to that.
 */
Oid
reader_subscription_owner(Database *database, const char *name)
{
	if (pg_atomic_read_u32(&database->relay.loaded) == 0)
		reader_wait_for_relay(database,
							  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														  pgpubsub_publish_timeout));
	return loaded_owner(database, name);
}

/*
 * The same for one that is to be there.  If only the table has it, because it
 * was written with its trigger off (by logical replication, say), or there was
 * no room, has the relay read that again; raises 55000 if it does not come to
 * be there.
 */
Oid
reader_wanted_owner(Database *database, const char *name)
{
	Oid			owner = reader_subscription_owner(database, name);

	if (OidIsValid(owner) || !subscription_table_has(name))
		return owner;
	pg_atomic_fetch_add_u64(&database->requests.reload, 1);
	reader_wait_for_relay(database,
						  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  pgpubsub_publish_timeout));
	owner = loaded_owner(database, name);
	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" could not be loaded", name),
				 errdetail("Table pgpubsub.subscription has it, but the relay has not taken it over."),
				 errhint("The server log tells why, if there was no room: raise pgpubsub.max_subscriptions or pgpubsub.max_channels, or unsubscribe others. If this transaction has written the table, commit first.")));
	return owner;
}

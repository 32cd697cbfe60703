/*-------------------------------------------------------------------------
 *
 * hold_database.c
 *	  Sending relays away, and keeping them out of a database that a command
 *	  needs for itself.
 *
 * The commands are DROP DATABASE, CREATE DATABASE ... TEMPLATE, ALTER DATABASE
 * RENAME and SET TABLESPACE.  The session holds the slot until its transaction
 * ends, or the subtransaction that took it is rolled back: the relay leaves,
 * and none is started.  A transaction may rename several databases, so it may
 * hold as many slots as there are.  Only a role that may run the command gets
 * that far.
 *
 * Whoever calls this file does not hold the control lock.
 *
 *-------------------------------------------------------------------------
 */
#include "server/server_internal.h"

#include "access/htup_details.h"
#include "base/nesting.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* A slot that this transaction holds. */
typedef struct Held
{
	Database   *database;
	bool		is_dropped;		/* the database goes away if this commits */
	int			level;			/* nesting level that holds it */
} Held;

/* What this transaction holds, each slot once; there is room for all slots. */
static Held *held = NULL;
static int	num_held = 0;

/*
 * Ask the slot's relay to leave, if it is still that database's.
 */
void
ask_to_leave(Database *database, Oid oid)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && database->relay.pid != 0)
		database->relay.leave = true;
	LWLockRelease(pgpubsub_control->lock);
	registry_wake(&database->relay.procno);
}

/*
 * That database is to have no relay any more: ask it to leave, or if drop have
 * the slot freed.  Nothing more is staged from now on; what is staged, the
 * relay sends before it leaves.
 */
void
send_relay_away(Database *database, Oid oid, bool drop)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && (drop || database->relay.pid != 0))
	{
		pg_atomic_write_u32(&database->relay.unavailable, RELAY_LEFT_OUT);

		/*
		 * A writer takes a place and then looks at unavailable; the relay
		 * sees that it is to leave and then looks for places.  If it saw that
		 * before writers see unavailable, both might miss the other, and the
		 * place would stay with nobody to take it.
		 */
		pg_memory_barrier();
		if (drop)
			database->dropping = true;
		else
			database->relay.leave = true;
	}
	LWLockRelease(pgpubsub_control->lock);
	registry_wake(&database->relay.procno);
}

/* Is the slot still that database's, and does its relay run? */
static bool
relay_runs(Database *database, Oid oid)
{
	bool		runs;

	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	runs = database->oid == oid && database->relay.pid != 0;
	LWLockRelease(pgpubsub_control->lock);
	return runs;
}

/*
 * Wait until the slot's relay has left, for LEAVE_TIMEOUT_MS at most.
 */
void
wait_until_left(Database *database, Oid oid)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   LEAVE_TIMEOUT_MS);

	ConditionVariablePrepareToSleep(&database->relay.cv);
	while (relay_runs(database, oid))
	{
		long		left =
		TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		CHECK_FOR_INTERRUPTS();
		if (left <= 0)
			break;
		ConditionVariableTimedSleep(&database->relay.cv, left,
									pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_EXIT));
	}
	ConditionVariableCancelSleep();
}

/* This transaction's entry for the slot; a new one if it has none. */
static Held *
find_held(Database *database)
{
	for (int i = 0; i < num_held; i++)
	{
		if (held[i].database == database)
			return &held[i];
	}
	Assert(num_held < pgpubsub_max_databases);
	held[num_held].database = database;
	return &held[num_held++];
}

/*
 * Let this process hold the slot, if that is still the database's and nobody
 * holds it.  Returns whether this process holds it, now or since before.
 */
static bool
take_hold(Database *database, Oid oid, bool is_dropped)
{
	bool		result;

	if (held == NULL)
		held = MemoryContextAlloc(TopMemoryContext,
								  pgpubsub_max_databases * sizeof(Held));
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && database->hold_pid == 0)
	{
		Held	   *entry = find_held(database);

		database->hold_pid = MyProcPid;
		entry->is_dropped = is_dropped;
		entry->level = GetCurrentTransactionNestLevel();
	}
	result = database->oid == oid && database->hold_pid == MyProcPid;
	LWLockRelease(pgpubsub_control->lock);
	return result;
}

/*
 * Keep relays out of the database; is_dropped: it goes away if this commits.
 * Waits for its relay as wait_until_left() does.
 */
void
hold_database(Oid oid, bool is_dropped)
{
	Database   *database = registry_find_database(oid);

	if (database != NULL && take_hold(database, oid, is_dropped))
	{
		ask_to_leave(database, oid);
		wait_until_left(database, oid);
	}
}

/*
 * The transaction (level 0) has ended, or the subtransaction of that level was
 * rolled back: let relays into the databases again that it holds.  If it has
 * committed, have the slots of those freed that went away.  Cannot fail.
 */
void
hold_release(int level, bool commit)
{
	int			left = 0;

	if (num_held == 0)
		return;
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	for (int i = 0; i < num_held; i++)
	{
		Database   *database = held[i].database;

		if (held[i].level < level)
			held[left++] = held[i];

		/* a slot that was freed meanwhile may be held by another session */
		else if (database->hold_pid == MyProcPid)
		{
			database->hold_pid = 0;
			if (commit && held[i].is_dropped)
				database->dropping = true;
		}
	}
	LWLockRelease(pgpubsub_control->lock);
	num_held = left;
	registry_wake(&pgpubsub_control->launcher_procno);
}

/*
 * The subtransaction of that level has committed: its parent holds what it
 * held.  Cannot fail.
 */
void
hold_at_subcommit(int level)
{
	for (int i = 0; i < num_held; i++)
		nesting_subcommit(&held[i].level, level);
}

/* May the current user create databases? */
static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		result = false;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* May the current user copy the database? */
static bool
may_copy_database(Oid oid)
{
	HeapTuple	tuple;
	bool		is_template;

	if (!may_create_databases())
		return false;
	if (PGPUBSUB_OWNS_DATABASE(oid, GetUserId()))
		return true;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		return false;
	is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return is_template;
}

/* The value of the option of that name, as a string; NULL if not given. */
static const char *
find_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/*
 * Hold the database that the command needs for itself, if it needs one and the
 * current user may run it.  In a transaction.
 */
void
hold_for_command(Node *command)
{
	const char *name = NULL;
	bool		copy = false;
	Oid			oid;

	if (IsA(command, CreatedbStmt))
	{
		name = find_option(((CreatedbStmt *) command)->options, "template");
		if (name == NULL)
			name = "template1";
		copy = true;
	}
	else if (IsA(command, RenameStmt) &&
			 ((RenameStmt *) command)->renameType == OBJECT_DATABASE)
		name = ((RenameStmt *) command)->subname;
	else if (IsA(command, AlterDatabaseStmt) &&
			 find_option(((AlterDatabaseStmt *) command)->options,
						 "tablespace") != NULL)
		name = ((AlterDatabaseStmt *) command)->dbname;
	if (name == NULL)
		return;

	oid = get_database_oid(name, true);
	if (OidIsValid(oid) && (copy || oid != MyDatabaseId) &&
		(copy ? may_copy_database(oid) :
		 PGPUBSUB_OWNS_DATABASE(oid, GetUserId())))
		hold_database(oid, false);
}

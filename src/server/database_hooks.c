/*-------------------------------------------------------------------------
 *
 * database_hooks.c
 *	  How databases, the extension in them, and roles come and go.
 *
 * 1. CREATE EXTENSION calls relay_start(), which has a relay started although
 *	  nothing is committed yet: subscribe() works in the same transaction.  If
 *	  that is rolled back, the relay is asked to leave; it then finds no
 *	  extension, and its slot is freed.
 *
 * 2. DROP EXTENSION has the slot freed, at commit.
 *
 * 3. DROP DATABASE, CREATE DATABASE ... TEMPLATE, ALTER DATABASE RENAME and
 *	  SET TABLESPACE need the database for themselves.  The session holds the
 *	  slot until its transaction ends, or the subtransaction that took it is
 *	  rolled back: the relay leaves, and none is started.  A transaction may
 *	  rename several databases, so it may hold as many slots as there are.
 *	  Only a role that may run the command gets that far.
 *
 * 4. DROP OWNED and REASSIGN OWNED, once core has done its part, do the same
 *	  to the subscriptions of this database.  DROP ROLE cannot: it means all
 *	  databases.  At commit it has every relay read its table again, and that
 *	  removes the subscriptions whose owner is no more.  (Not when it is a
 *	  prepared transaction that is committed: then that waits until the table
 *	  is next read.)
 *
 * 5. A publication that has the table of subscriptions in it is worth a
 *	  WARNING; see replication.c.
 *
 * 6. Where CREATE or ALTER EXTENSION wants a function that the library lacks, a
 *	  hint says that the server goes on with the library of its start.
 *
 * 7. DISCARD ALL ends the session's temporary subscriptions.
 *
 * 8. LISTEN tells the relay that somebody listens; see registry_database.c.
 *
 *-------------------------------------------------------------------------
 */
#include "server/database_hooks.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/nesting.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "read/replication_warning.h"
#include "read/subscribe.h"
#include "read/subscription_table.h"
#include "registry/registry.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* How long to wait for a relay to leave; core itself waits 5 s after that. */
#define LEAVE_TIMEOUT_MS	10000

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/* A slot that this transaction holds. */
typedef struct Held
{
	Database   *database;
	bool		is_dropped;		/* the database goes away if this commits */
	int			level;			/* nesting level that holds it */
} Held;

/*
 * What this transaction holds, each slot once.  There is room for all of
 * them before the first is held, so letting go cannot fail.
 */
static Held *held = NULL;
static int	num_held = 0;

/*
 * This transaction's CREATE and DROP EXTENSION: nesting level, or 0; and
 * which came last.
 */
static int	created_level = 0;
static int	dropped_level = 0;
static bool drop_was_last = false;

/* This transaction has dropped a role, unless a savepoint undid that. */
static bool role_dropped = false;

PG_FUNCTION_INFO_V1(pgpubsub_relay_start);

/*
 * Ask the slot's relay to leave, if it is still that database's.  The control
 * lock is not held.
 */
static void
ask_to_leave(Database *database, Oid oid)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && database->relay.pid != 0)
		database->relay.leave = true;
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

/* Wait until the slot's relay has left, for LEAVE_TIMEOUT_MS at most. */
static void
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
 * Write this process into the slot, if it is still that database's.  Returns
 * whether it is there; another process may be.
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

/* Keep relays out of the database until this (sub)transaction ends. */
static void
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
 * Let relays into the databases again that this nesting level or one below it
 * holds; free the slots of those that went away.  Cannot fail.
 */
static void
release_databases(int level, bool commit)
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

		/* a slot that was freed meanwhile is nobody's, or another's */
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
 * The extension
 */

/* The CREATE EXTENSION stands, or not. */
static void
end_creation(bool commit)
{
	Database   *database = registry_my_database(false);

	created_level = 0;
	if (database == NULL)
		return;
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->creator_pid == MyProcPid)
		database->creator_pid = 0;
	LWLockRelease(pgpubsub_control->lock);
	if (commit)
	{
		pg_atomic_fetch_add_u64(&database->requests.reload, 1);
		registry_request(database);
	}
	else
		ask_to_leave(database, MyDatabaseId);
	registry_wake(&pgpubsub_control->launcher_procno);
}

/* The DROP EXTENSION stands: free the slot. */
static void
commit_drop(void)
{
	Database   *database = registry_my_database(false);

	dropped_level = 0;
	if (database == NULL)
		return;
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);

	/* nothing more is staged; what is, the relay sends before it leaves */
	if (database->oid == MyDatabaseId)
	{
		pg_atomic_write_u32(&database->relay.unavailable, RELAY_LEFT_OUT);
		pg_memory_barrier();
		database->dropping = true;
	}
	LWLockRelease(pgpubsub_control->lock);
	registry_wake(&database->relay.procno);
	registry_wake(&pgpubsub_control->launcher_procno);
}

/*
 * Roles
 */

/* The DROP ROLE stands: have relays look whose subscriptions are left. */
static void
commit_role_drop(void)
{
	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		Database   *database = &pgpubsub_control->databases[i];

		/* a slot that is free, or just taken, is not harmed by it */
		pg_atomic_fetch_add_u64(&database->requests.reload, 1);
		registry_request(database);
	}
}

/* The oids of the roles that a command names. */
static List *
role_oids(List *roles)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, roles)
		result = lappend_oid(result,
							 get_rolespec_oid(lfirst_node(RoleSpec, cell),
											  false));
	return result;
}

/*
 * DROP OWNED or REASSIGN OWNED has run, so the user may run it: do to
 * subscriptions what it has done to core's objects.  It must not fail for
 * want of the table.
 */
static void
follow_command(Node *command)
{
	bool		written;

	/* the extension may have been among what was dropped */
	CommandCounterIncrement();
	if (!OidIsValid(subscription_table_find()))
		return;
	if (IsA(command, DropOwnedStmt))
		written = subscription_table_drop_owned(role_oids(((DropOwnedStmt *) command)->roles));
	else
	{
		ReassignOwnedStmt *reassign = (ReassignOwnedStmt *) command;

		written =
			subscription_table_reassign_owned(role_oids(reassign->roles),
											  get_rolespec_oid(reassign->newrole,
															   false));
	}
	if (written)
		subscribe_table_written();
}

/*
 * Publications
 */

/* A copy of the name of the publication that the command is about, or NULL. */
static char *
name_publication(Node *command)
{
	if (IsA(command, CreatePublicationStmt))
		return pstrdup(((CreatePublicationStmt *) command)->pubname);
	if (IsA(command, AlterPublicationStmt))
		return pstrdup(((AlterPublicationStmt *) command)->pubname);
	return NULL;
}

/*
 * The command has run: warn if the table of subscriptions is in the
 * publication; in any, if it is NULL.  Where nothing can be replicated, which
 * core says by a warning of its own, that would only be in the way.
 */
static void
warn_of_publication(const char *publication)
{
	if (!XLogLogicalInfoActive())
		return;
	CommandCounterIncrement();
	if (OidIsValid(subscription_table_find()))
		replication_warn(publication);
}

/*
 * Ends
 */

/*
 * PREPARE TRANSACTION: raise 0A000 if the transaction has created or dropped
 * the extension.
 */
void
database_hooks_pre_prepare(void)
{
	if (created_level > 0 || dropped_level > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that has created or dropped extension pgpubsub"),
				 errhint("Commit it with COMMIT.")));
}

/*
 * The transaction has ended.  Cannot fail.
 */
void
database_hooks_at_end(bool commit)
{
	bool		created = created_level > 0;

	if (created)
		end_creation(commit);
	if (dropped_level > 0 && commit && (drop_was_last || !created))
		commit_drop();
	if (role_dropped && commit)
		commit_role_drop();
	created_level = dropped_level = 0;
	role_dropped = false;
	release_databases(0, commit);
}

/*
 * The subtransaction of that level has committed: its parent holds what it
 * held.  Cannot fail.
 */
void
database_hooks_at_subcommit(int level)
{
	nesting_subcommit(&created_level, level);
	nesting_subcommit(&dropped_level, level);
	for (int i = 0; i < num_held; i++)
		nesting_subcommit(&held[i].level, level);
}

/*
 * The subtransaction of that level was rolled back.  Cannot fail.
 */
void
database_hooks_at_subabort(int level)
{
	if (nesting_subabort(&created_level, level))
		end_creation(false);
	(void) nesting_subabort(&dropped_level, level);
	release_databases(level, false);
}

/*
 * If the extension was just dropped here, wait until the slot that it had is
 * free.
 */
static void
finish_drop(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   LEAVE_TIMEOUT_MS);
	Database   *database;

	while ((database = registry_find_database(MyDatabaseId)) != NULL &&
		   database->dropping && GetCurrentTimestamp() < deadline)
	{
		CHECK_FOR_INTERRUPTS();
		wait_until_left(database, MyDatabaseId);
		LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
		if (database->oid == MyDatabaseId && database->dropping &&
			database->relay.pid == 0)
			registry_free_database(database);
		LWLockRelease(pgpubsub_control->lock);
	}
}

/*
 * This database's slot, which it gets if it has none; NULL if it can get
 * none.  A slot that is taken for an extension not yet committed says so from
 * the start: a relay that does not find the extension would give it back.
 */
static Database *
take_slot(void)
{
	char	   *name = get_database_name(MyDatabaseId);
	Database   *database;

	if (name == NULL || !registry_database_allowed(name))
		return NULL;
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	database = registry_acquire_database(MyDatabaseId);
	if (database && creating_extension)
		database->creator_pid = MyProcPid;
	LWLockRelease(pgpubsub_control->lock);
	return database;
}

/*
 * pgpubsub.relay_start() RETURNS boolean: the extension script calls it.
 */
Datum
pgpubsub_relay_start(PG_FUNCTION_ARGS)
{
	Database   *database;

	if (creating_extension)
		subscription_table_check_schema();
	if (!pgpubsub_preloaded() || IsBinaryUpgrade || !IsUnderPostmaster ||
		RecoveryInProgress())
		PG_RETURN_BOOL(false);
	finish_drop();
	database = take_slot();
	if (database == NULL)
	{
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("this database gets no relay"),
				 errdetail("The setting pgpubsub.databases leaves it out, or pgpubsub.max_databases (%d) others have one.",
						   pgpubsub_max_databases),
				 errhint("Change pgpubsub.databases and reload, or raise pgpubsub.max_databases and restart the server.")));
		PG_RETURN_BOOL(false);
	}
	if (creating_extension)
	{
		created_level = GetCurrentTransactionNestLevel();
		drop_was_last = false;
	}
	registry_wake(&pgpubsub_control->launcher_procno);
	PG_RETURN_BOOL(true);
}

/*
 * Hooks
 */

/* Something is about to be dropped; its owner was checked. */
static void
hooks_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
					int sub_id, void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, class_id, object_id, sub_id, arg);
	if (access != OAT_DROP)
		return;
	if (class_id == DatabaseRelationId)
		hold_database(object_id, true);
	else if (class_id == AuthIdRelationId)
		role_dropped = true;
	else if (class_id == ExtensionRelationId &&
			 object_id == get_extension_oid(PGPUBSUB_EXTENSION, true))
	{
		dropped_level = GetCurrentTransactionNestLevel();
		drop_was_last = true;
	}
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

/* Hold the database that the command needs for itself, if any. */
static void
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

/* Is the command to create or update the extension? */
static bool
installs_extension(Node *command)
{
	const char *name = NULL;

	if (IsA(command, AlterExtensionStmt))
		name = ((AlterExtensionStmt *) command)->extname;
	else if (IsA(command, CreateExtensionStmt))
		name = ((CreateExtensionStmt *) command)->extname;
	return name && strcmp(name, PGPUBSUB_EXTENSION) == 0;
}

/*
 * An error in a command that creates or updates the extension: where the
 * script wants a function that is not in the library, say how to get it.
 */
static void
add_restart_hint(void *arg)
{
	if (geterrcode() == ERRCODE_UNDEFINED_FUNCTION)
		errhint("If a new version of pgpubsub was installed, restart the server: until then it has the library that it started with.");
}

/* A utility command runs. */
static void
hooks_process_utility(PlannedStmt *pstmt, const char *queryString,
					  bool readOnlyTree, ProcessUtilityContext context,
					  ParamListInfo params, QueryEnvironment *queryEnv,
					  DestReceiver *dest, QueryCompletion *qc)
{
	/* a command that ends the transaction may be freed when it has run */
	Node	   *followed = IsA(pstmt->utilityStmt, DropOwnedStmt) ||
		IsA(pstmt->utilityStmt, ReassignOwnedStmt) ? pstmt->utilityStmt : NULL;
	char	   *publication = name_publication(pstmt->utilityStmt);
	bool		discard_all = IsA(pstmt->utilityStmt, DiscardStmt) &&
		((DiscardStmt *) pstmt->utilityStmt)->target == DISCARD_ALL;
	bool		installs = installs_extension(pstmt->utilityStmt);
	ErrorContextCallback hint = {.callback = add_restart_hint};

	if (IsA(pstmt->utilityStmt, ListenStmt))
		registry_note_listener();

	/* in a transaction block, of these only a renaming is possible */
	if (IsTransactionState() &&
		(IsA(pstmt->utilityStmt, RenameStmt) ||
		 (context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock() &&
		  !IsSubTransaction())))
		hold_for_command(pstmt->utilityStmt);
	if (installs)
	{
		hint.previous = error_context_stack;
		error_context_stack = &hint;
	}
	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, queryString, readOnlyTree, context,
								  params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
	if (installs)
		error_context_stack = hint.previous;
	if (followed)
		follow_command(followed);
	if (publication != NULL || installs)
		warn_of_publication(publication);
	if (discard_all)
		subscribe_discard();
}

/*
 * Set up this file; from _PG_init(), when preloaded.
 */
void
database_hooks_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = hooks_object_access;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = hooks_process_utility;
}

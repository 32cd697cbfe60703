/*-------------------------------------------------------------------------
 *
 * hooks.c
 *	  How databases, the extension in them, and roles come and go.
 *
 * 1. CREATE EXTENSION calls relay_start(), which has a relay started although
 *	  nothing is committed yet: subscribe() works in the same transaction.  If
 *	  that is rolled back, the relay is asked to leave; it then finds no
 *	  extension, and its slot is freed.
 *
 * 2. DROP EXTENSION has the slot freed, at commit.
 *
 * 3. Commands that need a database for themselves hold it; see
 *	  hold_database.c.
 *
 * 4. DROP OWNED and REASSIGN OWNED, once core has done its part, do to the
 *	  subscriptions of this database what core does to its objects.  DROP ROLE
 *	  cannot: it means all databases.  At commit it has every relay read its
 *	  table again, and that removes the subscriptions whose owner is no more.
 *	  (Not when it is a prepared transaction that is committed: then that waits
 *	  until the table is next read.)
 *
 * 5. A publication that has the table of subscriptions in it is worth a
 *	  WARNING; see read/subscription_triggers.c.
 *
 * 6. Where CREATE or ALTER EXTENSION wants a function that the library lacks, a
 *	  hint says that the server goes on with the library of its start.
 *
 * 7. DISCARD ALL ends the session's temporary subscriptions.
 *
 * 8. LISTEN tells the relay that somebody listens; see database.c.
 *
 *-------------------------------------------------------------------------
 */
#include "server/server.h"

#include "access/xlog.h"
#include "base/nesting.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "nodes/parsenodes.h"
#include "read/read.h"
#include "server/server_internal.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/* What this transaction has done. */
typedef struct Changes
{
	/* CREATE and DROP EXTENSION: nesting level, or 0 */
	int			created;
	int			dropped;
	bool		drop_was_last;	/* of the two */

	bool		role_dropped;	/* a savepoint may have undone that */
} Changes;

static Changes changes;

PG_FUNCTION_INFO_V1(pgpubsub_relay_start);

/*
 * CREATE EXTENSION is committed: have the relay read the table.  Or it is
 * undone: the relay is to leave.  Cannot fail.
 */
static void
end_creation(bool commit)
{
	Database   *database = registry_my_database(false);

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

/* The DROP EXTENSION is committed: have the slot freed.  Cannot fail. */
static void
commit_drop(void)
{
	Database   *database = registry_my_database(false);

	if (database == NULL)
		return;
	send_relay_away(database, MyDatabaseId, true);
	registry_wake(&pgpubsub_control->launcher_procno);
}

/*
 * The DROP ROLE is committed: have all relays read their tables.  Cannot fail.
 */
static void
commit_role_drop(void)
{
	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		Database   *database = &pgpubsub_control->databases[i];

		/* no lock: a slot that is free, or just taken, is not harmed */
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
 * subscriptions what the command has done to core's objects.
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
		subscription_table_written();
}

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
 * Warn if the table of subscriptions is in the publication; in any, if that is
 * NULL.  Where nothing can be replicated, core warns of that alone.
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
 * PREPARE TRANSACTION: raise 0A000 if the transaction has created or dropped
 * the extension.
 */
void
hooks_pre_prepare(void)
{
	if (changes.created > 0 || changes.dropped > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that has created or dropped extension pgpubsub"),
				 errhint("Commit it with COMMIT.")));
}

/*
 * The transaction has ended.  Cannot fail.
 */
void
hooks_at_end(bool commit)
{
	bool		created = changes.created > 0;

	if (created)
		end_creation(commit);
	if (changes.dropped > 0 && commit && (changes.drop_was_last || !created))
		commit_drop();
	if (changes.role_dropped && commit)
		commit_role_drop();
	changes.created = changes.dropped = 0;
	changes.role_dropped = false;

	hold_release(0, commit);
}

/*
 * The subtransaction of that level has committed.  Cannot fail.
 */
void
hooks_at_subcommit(int level)
{
	nesting_subcommit(&changes.created, level);
	nesting_subcommit(&changes.dropped, level);
	hold_at_subcommit(level);
}

/*
 * The subtransaction of that level was rolled back.  Cannot fail.
 */
void
hooks_at_subabort(int level)
{
	if (nesting_subabort(&changes.created, level))
		end_creation(false);
	(void) nesting_subabort(&changes.dropped, level);
	hold_release(level, false);
}

/* If the extension was just dropped here, wait until its slot is free. */
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
 * This database's slot; NULL if it can get none.  A slot that is taken for an
 * extension not yet committed says so from the start: a relay that does not
 * find the extension would give it back.
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
		changes.created = GetCurrentTransactionNestLevel();
		changes.drop_was_last = false;
	}
	registry_wake(&pgpubsub_control->launcher_procno);
	PG_RETURN_BOOL(true);
}

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
		changes.role_dropped = true;

	else if (class_id == ExtensionRelationId &&
			 object_id == get_extension_oid(PGPUBSUB_EXTENSION, true))
	{
		changes.dropped = GetCurrentTransactionNestLevel();
		changes.drop_was_last = true;
	}
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

/* An error in such a command; see 6 at the head of this file. */
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
		discard_temporary_subscriptions();
}

/*
 * Set up this file; from _PG_init(), when preloaded.
 */
void
hooks_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = hooks_object_access;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = hooks_process_utility;
}

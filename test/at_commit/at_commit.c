/*-------------------------------------------------------------------------
 *
 * at_commit.c
 *	  For tests: run a statement in each commit.
 *
 * If this comes before pgpubsub in shared_preload_libraries, the statement is
 * run when pgpubsub has seen the commit coming already, for the last one to ask
 * is told first.  Only an extension can publish so late: triggers that are
 * deferred run before.  If it comes behind pgpubsub, the statement is as one
 * more of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/* at_commit.statement: what to run; empty: nothing */
static char *statement;

/*
 * at_commit.unnoticed: only in transactions of clients that have written, as a
 * superuser, and so that a test that is about something else is not disturbed.
 * Core's first test fills and vacuums the tables whose plans later ones show:
 * where a relay writes meanwhile, these would be others.
 */
static bool unnoticed = false;

static bool
is_wanted(void)
{
	if (statement[0] == '\0')
		return false;
	return !unnoticed ||
		(MyBackendType == B_BACKEND && OidIsValid(MyDatabaseId) &&
		 TransactionIdIsValid(GetTopTransactionIdIfAny()) && !XactReadOnly &&
		 !IsInParallelMode() &&
		 strcmp(application_name, "pg_regress/test_setup") != 0);
}

static void
run_statement(XactEvent event, void *arg)
{
	Oid			user;
	int			context;

	if (event != XACT_EVENT_PRE_COMMIT || !is_wanted())
		return;
	GetUserIdAndSecContext(&user, &context);
	if (unnoticed)
		SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
							   context | SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute(statement, false, 0) < 0)
		elog(ERROR, "could not run the statement at commit");
	SPI_finish();
	PopActiveSnapshot();
	SetUserIdAndSecContext(user, context);
}

void
_PG_init(void)
{
	DefineCustomStringVariable("at_commit.statement", "Is run before commit.",
							   NULL, &statement, "", PGC_USERSET, 0,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("at_commit.unnoticed",
							 "Only where clients have written.",
							 NULL, &unnoticed, false, PGC_USERSET, 0,
							 NULL, NULL, NULL);
	RegisterXactCallback(run_statement, NULL);
}

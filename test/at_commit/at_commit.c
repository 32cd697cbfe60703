/*-------------------------------------------------------------------------
 *
 * late.c
 *	  For tests: run a statement in the middle of a commit, after pgpubsub.
 *
 * Triggers that are deferred run before an extension hears of the commit.
 * Only another extension, which hears of it later, can publish still.  This is
 * such a one if it comes before pgpubsub in shared_preload_libraries: the last
 * one to ask is told first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/* late.statement: what to run; empty: nothing */
static char *statement;

static void
run_statement(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT || statement[0] == '\0')
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (SPI_execute(statement, false, 0) < 0)
		elog(ERROR, "could not run the late statement");
	SPI_finish();
	PopActiveSnapshot();
}

void
_PG_init(void)
{
	DefineCustomStringVariable("late.statement", "Is run before commit.", NULL,
							   &statement, "", PGC_USERSET, 0,
							   NULL, NULL, NULL);
	RegisterXactCallback(run_statement, NULL);
}

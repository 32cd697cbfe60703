/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  What the launcher and the relays have in common.
 *
 *-------------------------------------------------------------------------
 */
#include "base/worker.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"

/*
 * End with this exit status, and without core's FATAL message, if this worker
 * is told to end: it has nothing under way where it asks, and who watches the
 * log shall not be alarmed by an orderly shutdown.
 */
void
worker_exit_if_terminated(int code)
{
	if (!ProcDiePending)
		return;

	/* ereport() looks for interrupts too */
	ProcDiePending = false;
	ereport(DEBUG1,
			(errmsg_internal("%s shutting down", MyBgworkerEntry->bgw_type)));
	proc_exit(code);
}

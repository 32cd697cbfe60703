/*-------------------------------------------------------------------------
 *
 * client_wait.c
 *	  Waits that end with the client's connection.
 *
 * A backend that works for a client learns that this one has died when it
 * reads the next command, or fails to send a result.  One that waits for
 * events does neither, and would hand out the next ones to nobody.  So the
 * waits that are before rows are handed out end when the socket is closed,
 * and before a transaction that consumes may commit, it is looked at again:
 * a poll that waits, one that waits for another reader, and CALL wait.
 *
 * The other waits do what a statement of a client that has died does in core:
 * they go on, for at most publish_timeout.  subscribe(), unsubscribe() and
 * ack() say what has to be done, and a writer's transaction has its work to
 * commit, whether or not anybody hears of it.  Where the setting
 * client_connection_check_interval ends those, it ends ours too.
 *
 * Invariant: nothing here raises an error but CHECK_FOR_INTERRUPTS(), which
 * ends the session as core does.
 *
 *-------------------------------------------------------------------------
 */
#include "read/client_wait.h"

#include <sys/socket.h>

#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"

/*
 * Where the kernel cannot report that a socket is closed, it is looked at so
 * often, in ms.
 */
#define LOOK_INTERVAL_MS	1000

/* Is there a client whose connection can break?  A background worker has none. */
static bool
have_client(void)
{
	return MyProcPort != NULL && FeBeWaitSet != NULL &&
		whereToSendOutput == DestRemote;
}

/* Have the next CHECK_FOR_INTERRUPTS() end this session, as core does. */
static void
note_lost(void)
{
	ClientConnectionLost = true;
	InterruptPending = true;
}

/*
 * Is the socket closed?  Says no where the kernel does not report that and
 * something that the client sent before its end is still to be read.
 */
static bool
is_closed(void)
{
	char		byte;
	ssize_t		got;

	if (WaitEventSetCanReportClosed())
		return !pq_check_connection();
	got = recv(MyProcPort->sock, &byte, 1, MSG_PEEK);
	return got == 0 || (got < 0 && errno != EAGAIN &&
						errno != EWOULDBLOCK && errno != EINTR);
}

/*
 * Sleep until this process's latch is set, for at most timeout milliseconds,
 * or until the client's connection is closed; the next
 * CHECK_FOR_INTERRUPTS() ends the session then.  The caller resets the latch.
 */
void
client_sleep(long timeout, uint32 wait_event)
{
	WaitEvent	events[FeBeWaitSetNEvents];
	int			count;

	if (!have_client() || !WaitEventSetCanReportClosed())
	{
		bool		look = have_client();

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 look ? Min(timeout, LOOK_INTERVAL_MS) : timeout,
						 wait_event);
		if (look && is_closed())
			note_lost();
		return;
	}

	/* all who wait on this set say what for, so nobody misses the old mask */
	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_CLOSED, NULL);
	count = WaitEventSetWait(FeBeWaitSet, timeout, events, lengthof(events),
							 wait_event);
	for (int i = 0; i < count; i++)
	{
		if (events[i].events & WL_POSTMASTER_DEATH)
			proc_exit(1);
		if (events[i].events & WL_SOCKET_CLOSED)
			note_lost();
	}
}

/*
 * Sleep on the condition variable, for which the caller has prepared to
 * sleep, until it is signalled, for at most timeout milliseconds, or until
 * the client's connection is closed; that ends the session.  May return
 * early.  No LWLock may be held.
 */
bool
client_sleep_on(ConditionVariable *cv, long timeout, uint32 wait_event)
{
	client_sleep(timeout, wait_event);
	return ConditionVariableTimedSleep(cv, 0, wait_event);
}

/*
 * Before what is consumed is given to the client: end the session, and with
 * it the transaction, if the client's connection is closed.
 */
void
client_expect(void)
{
	if (have_client() && is_closed())
		note_lost();
	CHECK_FOR_INTERRUPTS();
}

/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  Waiting for events: sleeps that end with the client, and CALL wait().
 *
 * 1. A backend learns that its client has died when it reads the next command,
 *	  or fails to send a result.  One that waits for events does neither, and
 *	  would hand out the next ones to nobody.  So the waits of poll() and CALL
 *	  wait() end when the socket is closed, and poll() looks at the socket again
 *	  before it hands out rows and, in autocommit, before they are consumed.
 *
 * 2. The other waits go on, as statements of a dead client do in core, for at
 *	  most pgpubsub.publish_timeout: subscribe(), unsubscribe() and ack() say
 *	  what is to be done, and a writer has work to commit, whether or not
 *	  anybody hears of it.  (Core's client_connection_check_interval ends them
 *	  too.)
 *
 * 3. A poll() that waits has the snapshot of its statement all the while, for
 *	  which CREATE INDEX CONCURRENTLY waits and behind which VACUUM cleans up
 *	  nothing.  wait() is a procedure, and ends its caller's transaction before
 *	  it sleeps, and the snapshot with it.
 *
 * 4.  What can raise an error, and whatever looks at catalogs, wait() does
 *	  within that transaction.  Called by itself, it then sleeps outside of
 *	  any, so that nobody waits for its virtual transaction id.  Called by a
 *	  procedure or a DO block, whose language keeps its state in SPI, it sleeps
 *	  in a new transaction that has no snapshot.  Asleep, it looks at shared
 *	  memory alone, and raises nothing: an interrupt, or a subscription that is
 *	  not what it was, is dealt with in the next transaction.
 *
 * 5. wait() claims nothing, so several sessions may wait for one subscription.
 *	  While a session reads or changes that, they sleep until it lets go: only
 *	  then it is known what is left.
 *
 * 6. wait() sleeps on its latch, which is set by the subscription's list of
 *	  waiters (see waiting_readers.c) or by the condition variable of those who
 *	  wait for the reader.  It enters one of these before it looks.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include <sys/socket.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "libpq/libpq-be.h"
#include "libpq/libpq.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/*
 * How often the client's socket is looked at where the kernel cannot report
 * that it is closed, in ms.
 */
#define LOOK_INTERVAL_MS	1000

/* One call of wait(). */
typedef struct Wait
{
	Database   *database;
	char		name[NAMEDATALEN];
	Oid			owner;			/* who was checked; InvalidOid: another
								 * session is replacing the subscription */
	TimestampTz deadline;
	bool		in_spi;			/* a procedural language has called us */
	MemoryContext context;		/* the caller's, which outlives transactions */
} Wait;

/* What a look at the subscription says. */
typedef enum Finding
{
	FOUND_READY,				/* there is something to poll */
	FOUND_CHANGED,				/* check again, in a transaction */
	FOUND_IN_USE,				/* sleep until its reader lets go */
	FOUND_NOTHING				/* sleep until something comes */
} Finding;

PG_FUNCTION_INFO_V1(pgpubsub_wait);

/*
 * Is there a client whose connection can break?  A background worker has none.
 */
static bool
have_client(void)
{
	return MyProcPort != NULL && FeBeWaitSet != NULL &&
		whereToSendOutput == DestRemote;
}

/* Have the next CHECK_FOR_INTERRUPTS() end this session, as core would. */
static void
note_lost(void)
{
	ClientConnectionLost = true;
	InterruptPending = true;
}

/*
 * Is the client's socket closed?  Where the kernel does not report that, says
 * no as long as something that the client has sent is still to be read.
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
 * Sleep until this process's latch is set, for at most timeout milliseconds, or
 * until the client's connection is closed: then the next CHECK_FOR_INTERRUPTS()
 * ends the session.  The caller resets the latch.  Raises nothing.
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

	/* whoever waits on this set says for what first, so the mask may change */
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
 * Before consumed events are given to the client: end the session, and with it
 * the transaction, if the connection is closed.
 */
void
client_expect(void)
{
	if (have_client() && is_closed())
		note_lost();
	CHECK_FOR_INTERRUPTS();
}

/* Raise 25001 unless the procedure may end its caller's transaction. */
static void
check_may_end_transaction(FunctionCallInfo fcinfo)
{
	bool		atomic = fcinfo->context == NULL ||
		!IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic;

	/* in a pipeline, what came before would be committed half-way */
	if (atomic || IsTransactionBlock() || IsSubTransaction() ||
		(MyXactFlags & XACT_FLAGS_PIPELINING))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("pgpubsub.wait cannot run inside a transaction block"),
				 errdetail("It ends the transaction, so as to wait without a snapshot.  It cannot do that after BEGIN, among several statements that are sent as one or in a pipeline, in a function, in a block with EXCEPTION, or in a procedure that is SECURITY DEFINER or has SET."),
				 errhint("Send CALL pgpubsub.wait by itself, and then poll; within a transaction give poll() a timeout.")));
}

/*
 * Note the subscription's owner.  Raises 42704 if there is no such
 * subscription, 42501 if it is not the current user's, 55000 if the relay has
 * left for good.
 */
static void
check_subscription(Wait *wait)
{
	Database   *database = wait->database;
	int			pid;

	CHECK_FOR_INTERRUPTS();
	PushActiveSnapshot(GetTransactionSnapshot());
	wait->owner = reader_subscription_owner(database, wait->name);
	if (!OidIsValid(wait->owner) &&
		reader_find_replacing(database, wait->name, &pid) == NULL)
	{
		wait->owner = reader_wanted_owner(database, wait->name);
		if (!OidIsValid(wait->owner))
			reader_no_subscription(wait->name);
	}
	ConditionVariableCancelSleep();
	if (OidIsValid(wait->owner))
		reader_check_owner(wait->name, wait->owner);
	reader_expect_relay(database);
	PopActiveSnapshot();
}

/*
 * Before the sleep, end the transaction, and with it all snapshots that this
 * process has; after the sleep, begin one, so that now() and
 * transaction_timeout do not count the sleep.  A language that has called us
 * needs one at any time, so one that ends is followed by the next at once.
 */
static void
next_transaction(Wait *wait, bool before)
{
	if (wait->in_spi)
	{
		SPI_connect_ext(SPI_OPT_NONATOMIC);
		SPI_commit();
		SPI_finish();
	}
	else if (before)
	{
		ForgetPortalSnapshots();
		CommitTransactionCommand();
	}
	else
		StartTransactionCommand();
	MemoryContextSwitchTo(wait->context);
}

/* Is there an event or a gap to poll?  The subscription must have no reader. */
static bool
anything_pending(Database *database, Subscription *subscription)
{
	dlist_iter	iter;

	if (pg_atomic_read_u64(&subscription->gap_epoch) !=
		pg_atomic_read_u64(&subscription->gap_seen))
		return true;
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (binding_readable(binding) &&
			binding_pending(database, binding->channel,
							pg_atomic_read_u64(&binding->number),
							pg_atomic_read_u64(&binding->seq)))
			return true;
	}
	return false;
}

/* Look, after entering the lists of those who are woken when that changes. */
static Finding
look_at(Wait *wait, Subscription *subscription)
{
	Database   *database = wait->database;
	bool		in_use;

	Assert(LWLockHeldByMe(database->lock));
	ConditionVariablePrepareToSleep(&subscription->reader.cv);
	if (!OidIsValid(wait->owner) &&
		subscription->state == SUBSCRIPTION_CREATING &&
		subscription->replaces)
		return FOUND_IN_USE;
	if (!reader_visible(subscription) || subscription->owner != wait->owner)
		return FOUND_CHANGED;
	SpinLockAcquire(&subscription->reader.mutex);
	in_use = subscription->reader.pid != 0;
	SpinLockRelease(&subscription->reader.mutex);
	if (in_use)
		return FOUND_IN_USE;
	registry_start_waiting(database, subscription);
	return anything_pending(database, subscription) ? FOUND_READY :
		FOUND_NOTHING;
}

/*
 * Wait for the subscription's reader no more.  A process that was signalled and
 * cancels its sleep passes the signal on, and two of them would wake each other
 * for ever.  So this one first takes its place in the list again.
 */
static void
cancel_sleep(Subscription *subscription)
{
	/* there may be no transaction that an interrupt could end */
	HOLD_INTERRUPTS();
	(void) ConditionVariableTimedSleep(&subscription->reader.cv, 0,
									   pgpubsub_wait_event(PGPUBSUB_WAIT_READER));
	RESUME_INTERRUPTS();
	ConditionVariableCancelSleep();
}

/*
 * Look at the subscription, and if there is nothing, sleep until something
 * happens, for at most left ms.  Returns what the look said.  Raises nothing.
 */
static Finding
look_and_sleep(Wait *wait, long left)
{
	Database   *database = wait->database;
	Subscription *subscription = NULL;
	Finding		found = FOUND_CHANGED;

	LWLockAcquire(database->lock, LW_SHARED);
	if (database->oid == MyDatabaseId)
		subscription = registry_find_subscription(database, wait->name);
	if (subscription)
		found = look_at(wait, subscription);
	LWLockRelease(database->lock);
	if (found == FOUND_IN_USE)
		client_sleep(left, pgpubsub_wait_event(PGPUBSUB_WAIT_READER));
	else if (found == FOUND_NOTHING)
		client_sleep(left, pgpubsub_wait_event(PGPUBSUB_WAIT_POLL));
	ResetLatch(MyLatch);
	registry_stop_waiting();
	if (subscription)
		cancel_sleep(subscription);
	return found;
}

/*
 * Sleep until there is something to poll, or until the deadline, and return
 * true then.  Returns false if the subscription has to be checked again, or if
 * there is an interrupt.  Raises nothing.
 */
static bool
sleep_until_ready(Wait *wait)
{
	while (!InterruptPending)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														   wait->deadline);
		Finding		found = look_and_sleep(wait, left);

		if (found == FOUND_READY)
			return true;
		if (found == FOUND_CHANGED || reader_relay_left(wait->database))
			return false;
		if (left <= 0)
			return true;
	}
	return false;
}

/* CALL pgpubsub.wait(subscription text, timeout interval) */
Datum
pgpubsub_wait(PG_FUNCTION_ARGS)
{
	Wait		wait = {.database = reader_database("pgpubsub.wait")};
	bool		over = false;

	strlcpy(wait.name, reader_text_name(fcinfo), NAMEDATALEN);
	check_not_null(fcinfo, 1, "timeout");
	wait.deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									reader_timeout(PG_GETARG_INTERVAL_P(1)));
	check_may_end_transaction(fcinfo);
	/* is a procedural language above?  SPI tells whether it is connected */
	wait.in_spi = SPI_unregister_relation("") != SPI_ERROR_UNCONNECTED;
	wait.context = CurrentMemoryContext;

	while (!over)
	{
		check_subscription(&wait);
		next_transaction(&wait, true);
		over = sleep_until_ready(&wait);
		next_transaction(&wait, false);
	}
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}

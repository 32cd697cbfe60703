/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  CALL wait(): to wait for events without a snapshot.
 *
 * 1. A poll() that waits has the snapshot of its statement all the while, for
 *	  which CREATE INDEX CONCURRENTLY waits and behind which VACUUM cleans up
 *	  nothing.  A procedure may end its caller's transaction, and the snapshot
 *	  with it; this one does so before it sleeps.
 *
 * 2. What can raise an error, and whatever looks at catalogs, is done within a
 *	  transaction: the arguments, the owner, a relay that is to be there.
 *	  Then that transaction ends.  Called by itself, the procedure sleeps
 *	  outside of any, so that not even a virtual transaction id is to be
 *	  waited for; called by a procedure or a DO block, whose language keeps
 *	  its state in SPI, it sleeps in a new transaction that has no snapshot.
 *	  While it sleeps it looks at shared memory alone, and raises nothing: an
 *	  interrupt, or a subscription that is not what it was, ends the sleep,
 *	  and is dealt with in the next transaction, as in the first one.
 *
 * 3. It claims nothing, so it is in nobody's way, and several sessions may
 *	  wait for the same subscription.  While a session reads or changes that,
 *	  they sleep until it lets go: only then it is known what is left.
 *
 * 4. It sleeps on its latch, which is set by the subscription's waiters list
 *	  (see registry_waiters.c) or by the condition variable of who waits for
 *	  the reader, and enters one of these before it looks.
 *
 *-------------------------------------------------------------------------
 */
#include "read/reader.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "read/client_wait.h"
#include "storage/latch.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* One call. */
typedef struct Wait
{
	Database   *database;
	char		name[NAMEDATALEN];
	Oid			owner;			/* as checked, or InvalidOid: being replaced */
	TimestampTz deadline;
	bool		in_spi;			/* a procedural language is below us */
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

/* Raise 25001 where the transaction cannot be ended here. */
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
 * Is no SPI connection open, so that no language would be taken by surprise
 * when the transaction ends?  (SPI does not tell its depth, but whether it is
 * connected at all.)
 */
static bool
spi_is_unused(void)
{
	return SPI_unregister_relation("") == SPI_ERROR_UNCONNECTED;
}

/*
 * Raise 42704 unless the subscription is there, 42501 unless it is the
 * caller's, 55000 if the relay has left for good.  Remembers its owner.  In a
 * transaction.
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

/* End the transaction of a procedural language, and begin the next one. */
static void
next_spi_transaction(void)
{
	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	SPI_finish();
}

/* End the transaction, and with it all snapshots that this process has. */
static void
end_transaction(Wait *wait)
{
	if (wait->in_spi)
		next_spi_transaction();
	else
	{
		ForgetPortalSnapshots();
		CommitTransactionCommand();
	}
	MemoryContextSwitchTo(wait->context);
}

/*
 * Be in a transaction that begins after the sleep, so that now() and
 * transaction_timeout do not count this.
 */
static void
begin_transaction(Wait *wait)
{
	if (wait->in_spi)
		next_spi_transaction();
	else
		StartTransactionCommand();
	MemoryContextSwitchTo(wait->context);
}

/*
 * Is there an event, or a gap, that committed transactions have not consumed?
 * Nobody reads the subscription.  database->lock must be held.
 */
static bool
anything_pending(Database *database, Subscription *subscription)
{
	dlist_iter	iter;

	if (registry_gap_epoch(database, subscription) !=
		pg_atomic_read_u64(&subscription->gap_seen))
		return true;
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (ring_newest_number(database->ring, binding->channel) >
			pg_atomic_read_u64(&binding->number))
			return true;
	}
	return false;
}

/*
 * Look at the subscription, having prepared to sleep.  database->lock must be
 * held.
 */
static Finding
look_at(Wait *wait, Subscription *subscription)
{
	Database   *database = wait->database;
	bool		in_use;

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
 * Wait for the subscription's reader no more.  A process that was signalled
 * and cancels its sleep passes the signal on, so that two of us would wake each
 * other for ever: this one takes its place in the list again first.
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
 * Look, and if there is nothing, sleep until something happens or until the
 * deadline.  Returns what the look said.  Raises nothing.
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
 * Sleep until there is something to poll, or until the deadline.  Returns
 * true then; false if the subscription has to be checked again, or there is
 * an interrupt.  Raises nothing, as there may be no transaction.
 */
static bool
sleep_until_ready(Wait *wait)
{
	while (!InterruptPending)
	{
		long		left =
		TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
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

/*
 * pgpubsub.wait(subscription, timeout)
 */
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
	wait.in_spi = !spi_is_unused();
	wait.context = CurrentMemoryContext;

	while (!over)
	{
		check_subscription(&wait);
		end_transaction(&wait);
		over = sleep_until_ready(&wait);
		begin_transaction(&wait);
	}
	CHECK_FOR_INTERRUPTS();
	PG_RETURN_VOID();
}

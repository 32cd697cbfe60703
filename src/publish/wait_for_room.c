/*-------------------------------------------------------------------------
 *
 * wait_for_room.c
 *	  A writer's waits for room, together bounded by publish_timeout.
 *
 * 1. A writer waits for room in the ring, while the relay does, and for room in
 *	  the staging queue.  Both waits are on condition variables that the relay
 *	  broadcasts, can be interrupted, and take from one budget that each
 *	  transaction has: publish_timeout.  When it is used up, an error says what
 *	  the writer has waited for.
 *
 * 2. While all subscriptions that hold the full ring are going to be evicted,
 *	  there is no error: the writer waits on, for evict_timeout.  If there is
 *	  no room even then, the relay hangs, and that is an error.
 *
 * 3. A worker of logical replication gets no error: it would fail again and
 *	  again, and with it the replication of all its tables, because of a queue
 *	  that nobody reads.  When its budget is used up, the functions here return
 *	  false, and the event goes over the limit.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "log/log.h"
#include "miscadmin.h"
#include "registry/holders.h"
#include "replication/logicalworker.h"

/* How late the relay may be with an eviction that a writer waits for. */
#define EVICTION_LATE_MS	10000

/* After so long, a relay that was asked to look at the log is not waited for. */
#define LOOK_LATE_MS		1000

/* Then a segment of the log may grow by that part of its share. */
#define GROWTH_PARTS		4

/* How long this top transaction has waited for room, in ms. */
static long waited_ms = 0;

/* The top transaction has ended: the next one has a new budget. */
void
room_at_end(void)
{
	waited_ms = 0;
}

/* What is left of the budget for a wait that began at start, in ms. */
static long
budget_left(TimestampTz start)
{
	return pgpubsub_publish_timeout - waited_ms -
		TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
}

/*
 * End a wait that began at start: stop sleeping on the condition variable, and
 * take the time from the transaction's budget.
 */
void
room_end_wait(TimestampTz start)
{
	ConditionVariableCancelSleep();
	waited_ms += TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
}

/* Raise 53400: the ring stays full, and holder holds it. */
static void
queue_full(const char *channel, const Holder *holder)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("queue is full"),
			 errdetail("Cannot publish on channel \"%s\" after waiting for pgpubsub.publish_timeout (%d ms).  %s",
					   channel, pgpubsub_publish_timeout,
					   hold_describe(holder)),
			 errhint("Have the subscription read or dropped, raise pgpubsub.queue_size, or subscribe with another on_full.")));
}

/*
 * When the relay must have made room, if since unblocked no subscription that
 * is never evicted has held the ring.
 */
static TimestampTz
room_due(Database *database, TimestampTz unblocked)
{
	TimestampTz full = (TimestampTz) pg_atomic_read_u64(&database->full.since);

	return TimestampTzPlusMilliseconds(Max(full, unblocked),
									   (int64) pgpubsub_evict_timeout +
									   EVICTION_LATE_MS);
}

/* Raise 53400: the relay neither makes room nor evicts anybody. */
static void
relay_stuck(const char *channel)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("queue is full"),
			 errdetail("Cannot publish on channel \"%s\": the relay has not made room %d ms after pgpubsub.evict_timeout.",
					   channel, EVICTION_LATE_MS),
			 errhint("Look for the relay in pg_stat_activity and in the server log.")));
}

/*
 * While the relay waits for room in the ring, wait too.  channel is what the
 * error names.  Raises 53400 if a subscription that is never evicted keeps
 * the ring full, or the relay hangs; in a worker of logical replication,
 * returns false instead.  The caller holds no LWLock.
 */
bool
room_wait(Database *database, const char *channel)
{
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz unblocked = 0;

	ConditionVariablePrepareToSleep(&database->full.room_cv);
	while (pg_atomic_read_u32(&database->relay.state) == RELAY_FULL)
	{
		long		left = budget_left(start);
		Holder		blocker;

		CHECK_FOR_INTERRUPTS();
		if (left <= 0 && IsLogicalWorker())
		{
			room_end_wait(start);
			return false;
		}
		if (left <= 0)
		{
			if (hold_find_awaited(database, true, &blocker))
			{
				room_end_wait(start);
				queue_full(channel, &blocker);
			}
			if (unblocked == 0)
				unblocked = GetCurrentTimestamp();
			left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
												   room_due(database, unblocked));
			if (left <= 0)
			{
				room_end_wait(start);
				relay_stuck(channel);
			}
		}
		ConditionVariableTimedSleep(&database->full.room_cv, left,
									pgpubsub_wait_event(PGPUBSUB_WAIT_QUEUE_FULL));
	}
	room_end_wait(start);
	return true;
}

/* Raise 53400: nobody empties the staging queue; the detail says why. */
static void
staging_full(Database *database)
{
	bool		running =
	pg_atomic_read_u32(&database->relay.state) != RELAY_STOPPED;
	uint32		trouble = pg_atomic_read_u32(&database->relay.notify_trouble);

	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("queue is full"),
			 trouble == NOTIFY_FAILING ? errdetail("The relay cannot send what is in the staging queue: the server's NOTIFY queue is full.") :
			 trouble == NOTIFY_LOCKED ? errdetail("The relay cannot send what is in the staging queue: another transaction that notifies does not come to the end of its commit.") :
			 running ? errdetail("The relay has not emptied the staging queue within pgpubsub.publish_timeout (%d ms).",
								 pgpubsub_publish_timeout) :
			 errdetail("The relay that empties the staging queue is not running."),
			 trouble == NOTIFY_FAILING ? errhint("Look for sessions that LISTEN and stay in a transaction: pg_notification_queue_usage() shows the use.") :
			 trouble == NOTIFY_LOCKED ? errhint("Look in pg_stat_activity for a session that waits in COMMIT, for a synchronous standby for instance.") :
			 errhint("Look at pgpubsub.stat_queue and at the server log, or raise pgpubsub.staging_size.")));
}

/*
 * Begin to wait for the staging queue.  A change of the queue that the caller
 * does not see when it looks after this will end its next sleep.  Returns the
 * time, for the functions below.
 */
TimestampTz
room_begin_staging(Staging *staging)
{
	ConditionVariablePrepareToSleep(staging_moved(staging));
	return GetCurrentTimestamp();
}

/*
 * Sleep until the staging queue has changed, or for at_most ms.  start is when
 * the wait began.  When the transaction's budget is used up, raises 53400, or
 * returns false in a worker of logical replication.
 */
bool
room_sleep_staging(Database *database, Staging *staging, TimestampTz start,
				   long at_most)
{
	long		left = budget_left(start);

	CHECK_FOR_INTERRUPTS();
	if (left <= 0 && IsLogicalWorker())
		return false;
	if (left <= 0)
	{
		room_end_wait(start);
		staging_full(database);
	}

	/* the relay may be asleep again since it was last woken */
	registry_wake(&database->relay.procno);
	ConditionVariableTimedSleep(staging_moved(staging),
								Min(left, at_most),
								pgpubsub_wait_event(PGPUBSUB_WAIT_QUEUE_FULL));
	return true;
}

/* Raise 53400: no segment of the log can be emptied. */
static void
log_full(Database *database)
{
	char		holder[NAMEDATALEN];

	LWLockAcquire(database->lock, LW_SHARED);
	strlcpy(holder, database->log.held_by, NAMEDATALEN);
	LWLockRelease(database->lock);
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("log of durable channels is full"),
			 holder[0] ? errdetail("Subscription \"%s\" has not read what is in its oldest segment, and %d ms have passed.",
								   holder, pgpubsub_publish_timeout) :
			 errdetail("Its oldest segment is still to be read, and %d ms have passed.",
					   pgpubsub_publish_timeout),
			 errhint("Have the subscription read or dropped, raise pgpubsub.log_size, or subscribe with another on_full.")));
}

/* Has the relay, which may have ended, looked since that was asked? */
static bool
has_looked(DatabaseLog *log, uint32 asked)
{
	return (int32) (pg_atomic_read_u32(&log->looked) - asked) >= 0 ||
		pg_atomic_read_u32(&log->turning) == 0;
}

/*
 * The relay has not looked at the log for long.  So that writers do not all wait
 * for it time and again, let the current segment grow a bit beyond the extra that
 * it had; one of those who wait does so.
 */
static void
grow_without_relay(Database *database, LogSegment *current, uint64 extra)
{
	(void) pg_atomic_compare_exchange_u64(&current->extra, &extra,
										  extra + log_share(database) / GROWTH_PARTS);
}

/*
 * The segment was found with its share, and cannot be turned over: have the relay
 * look, and while a subscription that holds the oldest segment keeps the log full,
 * wait: until it has read or is evicted.  Returns false if the log is to go over
 * its size: there is no relay, or none that looks in time, or this is a worker of
 * logical replication; else look again.  Raises 53400 if the subscription is never
 * to be evicted, or the relay hangs.  The caller holds no lock on the log.
 */
bool
room_wait_log(Database *database, int segment)
{
	DatabaseLog *log = &database->log;
	LogSegment *current = &log->segments[segment];
	uint64		extra = pg_atomic_read_u64(&current->extra);
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz hangs = TimestampTzPlusMilliseconds(start,
													(int64) pgpubsub_evict_timeout +
													EVICTION_LATE_MS);
	uint32		asked = pg_atomic_add_fetch_u32(&log->asked, 1);
	bool		over = false;

	/* the relay may need the very segment that would be locked */
	Assert(!log_locked_by_writer());
	pg_memory_barrier();
	ConditionVariablePrepareToSleep(&log->room_cv);
	while (!over && !log_can_turn(database) && log_current(database) == segment)
	{
		uint32		full = pg_atomic_read_u32(&log->full);
		TimestampTz now = GetCurrentTimestamp();
		long		left = budget_left(start);

		if (full == 0 && has_looked(log, asked))
			break;
		CHECK_FOR_INTERRUPTS();
		if (full == 0 && TimestampDifferenceExceeds(start, now, LOOK_LATE_MS))
		{
			grow_without_relay(database, current, extra);
			break;
		}
		if (left <= 0 && full != 0 && !IsLogicalWorker() &&
			(full == 1 || now > hangs))
		{
			room_end_wait(start);
			log_full(database);
		}
		over = left <= 0 && (full == 0 || IsLogicalWorker());
		if (over)
			break;
		registry_wake(&database->relay.procno);
		ConditionVariableTimedSleep(&log->room_cv,
									full != 0 ? Max(left, 100) :
									Min(left, LOOK_LATE_MS),
									pgpubsub_wait_event(PGPUBSUB_WAIT_QUEUE_FULL));
	}
	over |= pg_atomic_read_u32(&log->turning) == 0;
	room_end_wait(start);
	return !over;
}

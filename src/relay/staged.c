/*-------------------------------------------------------------------------
 *
 * staged.c
 *	  From the staging queue to the ring and to native listeners.
 *
 * 1. The relay takes the transactions that are staged and committed in their
 *	  order, which numbers their events.  It decides then who reads an event:
 *	  an event on a channel that somebody reads counts as received, like one
 *	  that core has delivered.  A subscription that comes later has its request
 *	  handled after all that was committed before is taken.
 *
 * 2. relay_append.c appends what was taken to the ring, straight from the
 *	  staging queue; if there is no room, the events wait where they are.
 *
 * 3. Independently of that, the relay NOTIFYs what was taken for native
 *	  listeners, in batches.  A batch is one transaction of the relay; its
 *	  commit moves the mark notified.  It ends before an event that core would
 *	  fold with one of the batch: only events of publish() can be alike, since
 *	  each change event has an id of its own.  What comes back to the relay of
 *	  its own notifications is dropped; see relay.c.  While nobody listens in
 *	  this database there is nothing to send.
 *
 * 4. A batch that fails (core's queue may be full) is rolled back and tried
 *	  again later.  Readers of subscriptions notice nothing of that, until the
 *	  staging queue is full.
 *
 * 5. All transactions of the cluster that NOTIFY take one lock, and keep it
 *	  until their commit is over; a commit that waits for a synchronous standby
 *	  keeps it without limit.  The relay does not wait for such a one: it waits
 *	  in the lock's queue only for a time, and only while that queue moves.
 *
 * 6. A new relay goes on where the marks are.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/staged.h"

#include "access/xact.h"
#include "base/worker.h"
#include "catalog/pg_database.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "publish/commit_append.h"
#include "relay/listen.h"
#include "relay/pace.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Transactions that are taken before the relay looks at other things. */
#define TAKE_AT_ONCE	1000

/* What a batch has at most. */
#define BATCH_EVENTS	1000
#define BATCH_BYTES		(1024 * 1024)

/* After a failure, the next try comes after so long. */
#define RETRY_MS		250

/* The same, while another transaction keeps the lock of all that NOTIFY. */
#define LOCK_RETRY_MS	20

/* How long the relay waits for that lock; twice as long each time in a row. */
#define LOCK_WAIT_MS		100
#define LONGEST_LOCK_WAIT_MS	1000

/* A failure is logged at most so often. */
#define LOG_EVERY_MS	5000

/* Hashes of a batch's events that have no id, to find out repetitions. */
typedef struct SeenEntry
{
	uint64		hash;
	char		status;
} SeenEntry;

#define SH_PREFIX		seen
#define SH_ELEMENT_TYPE	SeenEntry
#define SH_KEY_TYPE		uint64
#define SH_KEY			hash
#define SH_HASH_KEY(tb, key)	((uint32) (key))
#define SH_EQUAL(tb, a, b)		((a) == (b))
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* What the relay keeps about the staging queue, in its own memory. */
typedef struct StagedState
{
	Database   *database;
	Staging    *staging;

	StagedWalk	append;			/* the next event for the ring */
	StagedWalk	notify;			/* the next event for native listeners */

	/* the last look at the places */
	StagedTake	take_result;
	bool		more;			/* it ended at its limit */
	uint64		last_pos;		/* of the transaction taken last */

	/* the pass at hand; 0: none */
	uint64		pass_end;		/* places there were when it began */
	bool		pass_taken;		/* all of them are taken, ... */
	uint64		pass_number;	/* ... with numbers up to this one */

	/* the batch at hand */
	StagedWalk	batch;			/* where it ends */
	uint64		batch_number;	/* of its last event; 0: it has none */
	seen_hash  *seen;
	TimestampTz retry_at;		/* after a failure; 0: at once */

	/* the lock of all that NOTIFY, if it was not to be had the last time */
	bool		lock_missed;
	VirtualTransactionId lock_holder;
	int			lock_wait;		/* the next wait for it, in ms */
} StagedState;

static StagedState staged;

/*
 * A transaction commits.  If it is the batch's, move the mark; only a relay has
 * one.  Cannot fail.
 */
void
relay_staged_at_commit(void)
{
	if (staged.batch_number != 0)
		staging_set_notified(staged.staging, staged.batch_number);
}

/*
 * Decide who reads the events of the transaction, from this one on, and count
 * those as received that somebody reads.
 */
static void
decide_readers(const StagedView *view, StagedEvent *event, uint32 done)
{
	bool		current = view->generation ==
		pg_atomic_read_u32(&staged.database->generation);

	for (; done < view->nevents; done++)
	{
		event->slot = current ?
			relay_listen_count_event(staged.database,
									 staged_event_channel(event)) : -1;
		event = staged_event_next(event);
	}
}

/*
 * Set up, after the relay listens; go on where the last relay was.
 */
void
relay_staged_init(Database *database)
{
	StagedWalk	walk;

	staged.database = database;
	staged.staging = database->staging;
	staged.seen = seen_create(TopMemoryContext, BATCH_EVENTS, NULL);
	staged.lock_wait = LOCK_WAIT_MS;
	pg_atomic_write_u32(&database->relay.notify_trouble, NOTIFY_FINE);
	staging_recover(staged.staging, &staged.append, &staged.notify);

	/* what the last relay had counted as received went with it */
	walk = staged.append;
	while (walk.view.transaction != NULL)
	{
		decide_readers(&walk.view, walk.event, walk.done);
		walk.done = walk.view.nevents - 1;
		staging_walk_advance(staged.staging, &walk);
	}
}

/*
 * Taking
 */

/* End the pass if all that was committed when it began is done with. */
static void
check_pass(void)
{
	if (staged.pass_end == 0)
		return;
	if (!staged.pass_taken &&
		(staged.take_result == TAKE_NOTHING ||
		 staged.last_pos >= staged.pass_end))
	{
		staged.pass_taken = true;
		staged.pass_number = staging_numbered(staged.staging);
	}
	if (staged.pass_taken &&
		staging_notified(staged.staging) >= staged.pass_number)
	{
		staging_end_pass(staged.staging);
		staged.pass_end = 0;
	}
}

/*
 * Begin to take what is staged: returns the end of the places that there are.
 */
uint64
relay_staged_begin(void)
{
	staging_free(staged.staging);
	if (staged.pass_end == 0 && !staging_idle(staged.staging))
	{
		staged.pass_end = staging_begin_pass(staged.staging);
		staged.pass_taken = false;
		staged.last_pos = 0;
	}
	return staging_head(staged.staging);
}

/*
 * Take what is committed and has its place before end, which
 * relay_staged_begin() has returned; TAKE_AT_ONCE transactions at most.
 */
void
relay_staged_take(uint64 end)
{
	StagedView	view;
	int			taken = 0;

	staged.take_result = TAKE_NOTHING;
	if (staged.pass_end != 0)
		while (taken < TAKE_AT_ONCE &&
			   (staged.take_result = staging_take(staged.staging, end,
												  &staged.append,
												  &staged.notify,
												  &view)) == TAKE_FOUND)
		{
			decide_readers(&view, view.events, 0);
			relay_pace_event(view.pid);
			commit_append_count(staged.database, view.pid);
			staged.last_pos = view.pos;
			taken++;
		}
	staged.more = staged.take_result == TAKE_FOUND;
	check_pass();
}

/*
 * Take all that is committed by now and has its place before end, as
 * relay_staged_take().
 */
void
relay_staged_take_all(uint64 end)
{
	for (;;)
	{
		worker_exit_if_terminated(0);
		CHECK_FOR_INTERRUPTS();
		relay_staged_take(end);
		if (staged.more)
			continue;
		if (staged.take_result != TAKE_SOON)
			break;

		/* it takes its writer a moment, unless it is not scheduled */
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
	}
}

/*
 * The number of the last event that was taken.
 */
uint64
relay_staged_taken(void)
{
	return staging_numbered(staged.staging);
}

/*
 * Appending
 */

/*
 * The next event for the ring, up to that number; it stays the next.  Returns
 * false if there is none.
 */
bool
relay_staged_peek(uint64 upto, StagedItem *item)
{
	StagedWalk *walk = &staged.append;

	if (walk->view.transaction == NULL || staging_walk_number(walk) > upto)
		return false;
	item->slot = walk->event->slot;
	item->pid = walk->view.pid;
	item->payload = staged_event_payload(walk->event);
	item->len = walk->event->payload_len;
	return true;
}

/*
 * That event is in the ring, or nobody reads it.  No interrupt may be checked
 * for since it was appended.
 */
void
relay_staged_appended(void)
{
	uint64		number = staging_walk_number(&staged.append);

	staging_walk_advance(staged.staging, &staged.append);
	staging_set_appended(staged.staging, number);
}

/*
 * Notifying
 */

/* What native listeners get. */
static const char *
native_payload(const StagedEvent *event)
{
	const char *native = staged_event_native(event);

	return native ? native : staged_event_payload(event);
}

/* Would core fold the event with one of this batch? */
static bool
repeats(const StagedEvent *event)
{
	const char *channel = staged_event_channel(event);
	const char *payload = native_payload(event);
	bool		found;
	uint64		hash;

	if (event->id_len > 0)
		return false;
	hash = hash_bytes_extended((const unsigned char *) channel,
							   event->channel_len, 0);
	hash = hash_bytes_extended((const unsigned char *) payload,
							   (int) strlen(payload), hash);
	(void) seen_insert(staged.seen, hash, &found);
	return found;
}

/* Send as many events as a batch has, from where the walk stands. */
static void
send_events(StagedWalk *walk)
{
	uint32		generation = pg_atomic_read_u32(&staged.database->generation);
	Size		bytes = 0;
	int			nevents = 0;

	while (walk->view.transaction != NULL &&
		   nevents < BATCH_EVENTS && bytes < BATCH_BYTES)
	{
		StagedEvent *event = walk->event;

		if (walk->view.generation == generation)
		{
			if (repeats(event))
				break;
			Async_Notify(staged_event_channel(event), native_payload(event));
		}
		staged.batch_number = staging_walk_number(walk);
		bytes += event->length;
		nevents++;
		staging_walk_advance(staged.staging, walk);
	}
}

/*
 * Take the lock that core takes before it commits notifications.  Returns
 * false if it is not to be had now.  May raise an error after a wait.  Must be
 * in a transaction.
 */
static bool
lock_core_queue(void)
{
	VirtualTransactionId *holders;
	VirtualTransactionId holder;
	LOCKTAG		tag;
	int			count;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, InvalidOid, 0);
	if (LockAcquire(&tag, AccessExclusiveLock, false, true) !=
		LOCKACQUIRE_NOT_AVAIL)
		return true;

	/* the same one as at the last try does not come to its end */
	SetInvalidVirtualTransactionId(holder);
	holders = GetLockConflicts(&tag, AccessExclusiveLock, &count);
	if (count > 0)
		holder = holders[0];
	pfree(holders);
	if (count > 0 && staged.lock_missed &&
		VirtualTransactionIdEquals(holder, staged.lock_holder))
		return false;
	staged.lock_missed = true;
	staged.lock_holder = holder;

	/* it moves: stand in the queue, but not for long */
	LockTimeout = staged.lock_wait;
	staged.lock_wait = Min(2 * staged.lock_wait, LONGEST_LOCK_WAIT_MS);
	PG_TRY();
	{
		(void) LockAcquire(&tag, AccessExclusiveLock, false, false);
	}
	PG_FINALLY();
	{
		LockTimeout = 0;

		/* the wait has reset it, whatever it was set for */
		SetLatch(MyLatch);
	}
	PG_END_TRY();

	/* it may have timed out just when it was granted: fail here, not later */
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* Try the batch again, so many milliseconds after it has failed. */
static void
retry_batch(int ms, NotifyTrouble trouble)
{
	staged.retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	pg_atomic_write_u32(&staged.database->relay.notify_trouble, trouble);
}

/* The batch failed: say so, and roll back. */
static void
fail_batch(void)
{
	static TimestampTz last_log = 0;
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(MessageContext);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(MessageContext);

	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		retry_batch(LOCK_RETRY_MS, NOTIFY_LOCKED);
	else
		retry_batch(RETRY_MS, NOTIFY_FAILING);
	if (TimestampDifferenceExceeds(last_log, GetCurrentTimestamp(),
								   LOG_EVERY_MS))
	{
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("pgpubsub relay could not notify staged events: %s",
						error->message),
				 errdetail_internal("They stay in the staging queue, and are tried again.")));

		/* count from when it was written, however long that took */
		last_log = GetCurrentTimestamp();
	}
	FreeErrorData(error);
}

/*
 * After a batch has failed: core moves the tail of its queue only when
 * somebody sends, which a full queue forbids, or asks for its use.  So ask, or
 * the queue would stay full when whoever held it has let go.
 */
static void
advance_core_queue(void)
{
	if (pg_atomic_read_u32(&staged.database->relay.notify_trouble) != NOTIFY_FINE)
		(void) DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0);
}

/*
 * Send a batch in a transaction of its own.  Raises an error if that fails.
 */
static void
send_batch(void)
{
	StartTransactionCommand();
	advance_core_queue();

	/* the lock is not kept while the batch is put together, if it is free */
	if (staged.lock_missed && !lock_core_queue())
	{
		CommitTransactionCommand();
		retry_batch(LOCK_RETRY_MS, NOTIFY_LOCKED);
		return;
	}
	send_events(&staged.batch);
	if (!lock_core_queue())
	{
		AbortCurrentTransaction();
		retry_batch(LOCK_RETRY_MS, NOTIFY_LOCKED);
		return;
	}
	CommitTransactionCommand();
	staged.lock_missed = false;
	staged.lock_wait = LOCK_WAIT_MS;
	pg_atomic_write_u32(&staged.database->relay.notify_trouble, NOTIFY_FINE);
}

/* Nobody is there who would hear of what was taken: that is notified. */
static void
pass_notifying(void)
{
	staging_set_notified(staged.staging, staging_numbered(staged.staging));
	memset(&staged.notify, 0, sizeof(StagedWalk));
	staged.retry_at = 0;
	staged.lock_missed = false;
	staged.lock_wait = LOCK_WAIT_MS;
	pg_atomic_write_u32(&staged.database->relay.notify_trouble, NOTIFY_FINE);
	check_pass();
}

/*
 * NOTIFY a batch of what was taken.  Returns whether there is more to notify
 * at once.
 */
bool
relay_staged_notify(void)
{
	if (staged.notify.view.transaction != NULL &&
		!registry_has_listeners(MyDatabaseId))
		pass_notifying();
	staging_free(staged.staging);
	if (staged.notify.view.transaction == NULL ||
		(staged.retry_at != 0 && GetCurrentTimestamp() < staged.retry_at))
		return false;
	staged.retry_at = 0;
	staged.batch = staged.notify;
	staged.batch_number = 0;
	seen_reset(staged.seen);
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "notifying staged events");
	PG_TRY();
	{
		send_batch();
	}
	PG_CATCH();
	{
		fail_batch();
	}
	PG_END_TRY();
	pgstat_report_activity(STATE_IDLE, NULL);

	/* an error that came after the commit has taken nothing back */
	if (staging_notified(staged.staging) == staged.batch_number)
		staged.notify = staged.batch;

	/* the relay's other transactions are no batch */
	staged.batch_number = 0;
	check_pass();
	staging_free(staged.staging);
	return staged.retry_at == 0 && staged.notify.view.transaction != NULL;
}

/*
 * Is there more to take or to notify, or so much staged that writers may come
 * to wait?
 */
bool
relay_staged_backlog(void)
{
	return staged.more ||
		staging_used(staged.staging) > staging_size(staged.staging) / 2;
}

/*
 * How long the relay may sleep before it has to look at the queue again, in
 * ms; -1: until it is woken.
 */
long
relay_staged_timeout(void)
{
	TimestampTz now;

	if (staged.more)
		return 0;

	/* nobody tells when it is no longer in the way */
	if (staged.take_result == TAKE_SOON)
		return 1;
	if (staged.retry_at == 0)
		return -1;
	now = GetCurrentTimestamp();
	return staged.retry_at > now ?
		TimestampDifferenceMilliseconds(now, staged.retry_at) + 1 : 0;
}

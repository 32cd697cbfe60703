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
 * 2. An async transaction that could not be staged was published by NOTIFY.
 *	  What comes after it, of the same session say, takes its place in the
 *	  staging queue after that commit, and must not overtake it.  So the relay
 *	  first looks where the places end, then reads what was notified by then,
 *	  and takes no place beyond that end.
 *
 * 3. append.c appends what was taken to the ring, straight from the staging
 *	  queue; if there is no room, the events wait where they are.
 *
 * 4. Independently of the ring, the relay NOTIFYs what was taken for native
 *	  listeners, in batches.  A batch is one transaction of the relay; its
 *	  commit moves the mark notified.  It ends before an event that core would
 *	  fold with one of the batch; see repeats().  What comes back to the relay
 *	  of its own notifications is dropped; see receive.c.  While nobody listens
 *	  in this database there is nothing to send.
 *
 * 5. A batch that fails (core's queue may be full) is rolled back and tried
 *	  again later.  Readers of subscriptions notice nothing of that, until the
 *	  staging queue is full.
 *
 * 6. All transactions of the cluster that NOTIFY take one lock, and keep it
 *	  until their commit is over; a commit that waits for a synchronous standby
 *	  keeps it without limit.  The relay does not wait for such a commit: it
 *	  stands in the lock's queue only for a time, and only while that queue
 *	  moves.
 *
 * 7. The marks are in shared memory: a new relay goes on where they are.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "publish/publish.h"
#include "relay/relay_internal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Transactions that are taken before the relay looks at other things. */
#define TAKE_AT_ONCE	1000

/* What a batch has at most. */
#define BATCH_EVENTS	1000
#define BATCH_BYTES		(1024 * 1024)

/* After a failure, the next try comes after so long. */
#define RETRY_MS		250

/*
 * While another transaction keeps the lock of all that NOTIFY, after so long.
 */
#define LOCK_RETRY_MS	20

/* How long the relay waits for that lock; twice as long each time in a row. */
#define LOCK_WAIT_MS		100
#define LONGEST_LOCK_WAIT_MS	1000

/* A failure is logged at most so often. */
#define LOG_EVERY_MS	5000

/* Hashes of a batch's events that have no id; see repeats(). */
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

static RelayStaged *const staged = &relay.staged;

/*
 * A transaction of this process commits.  If it is a batch, which only a relay
 * has, move the mark.  Cannot fail.
 */
void
relay_staged_at_commit(void)
{
	if (staged->batch_number != 0)
		staging_set_notified(relay.database->staging, staged->batch_number);
}

/* Let sessions know whether staged events can be notified. */
static void
set_trouble(NotifyTrouble trouble)
{
	pg_atomic_write_u32(&relay.database->relay.notify_trouble, trouble);
}

/*
 * Decide who reads the events of the transaction from this one on, which has
 * done others before it, and count those as received that somebody reads.  A
 * transaction that was staged for an earlier use of the slot has no readers.
 */
static void
decide_readers(const StagedView *view, StagedEvent *event, uint32 done)
{
	bool		current = view->generation ==
		pg_atomic_read_u32(&relay.database->generation);

	for (; done < view->nevents; done++)
	{
		event->slot = current ?
			relay_listen_count_event(staged_event_channel(event)) : -1;
		event = staged_event_next(event);
	}
}

/*
 * Set up, after the relay listens; go on where the last relay was.
 */
void
relay_staged_init(void)
{
	Staging    *staging = relay.database->staging;
	StagedWalk	walk;

	staged->seen = seen_create(TopMemoryContext, BATCH_EVENTS, NULL);
	staged->lock_wait = LOCK_WAIT_MS;
	set_trouble(NOTIFY_FINE);
	staging_recover(staging, &staged->append, &staged->notify);

	/* what the last relay had counted as received, relay_exit() took back */
	walk = staged->append;
	while (walk.view.transaction != NULL)
	{
		decide_readers(&walk.view, walk.event, walk.done);

		/* on to the next transaction */
		walk.done = walk.view.nevents - 1;
		staging_walk_advance(staging, &walk);
	}
}

/* End the pass if all that was committed at its begin is taken and notified. */
static void
check_pass(void)
{
	Staging    *staging = relay.database->staging;

	if (staged->pass_end == 0)
		return;
	if (!staged->pass_taken &&
		(staged->take_result == TAKE_NOTHING ||
		 staged->last_pos >= staged->pass_end))
	{
		staged->pass_taken = true;
		staged->pass_number = staging_numbered(staging);
	}
	if (staged->pass_taken &&
		staging_notified(staging) >= staged->pass_number)
	{
		staging_end_pass(staging);
		staged->pass_end = 0;
	}
}

/* Begin to take what is staged: returns the end of the places there are. */
static uint64
begin_taking(void)
{
	Staging    *staging = relay.database->staging;
	uint64		end;

	staging_free(staging);
	if (staged->pass_end == 0 && !staging_idle(staging))
	{
		staged->pass_end = staging_begin_pass(staging);
		staged->pass_taken = false;
		staged->last_pos = 0;
	}
	end = staging_head(staging);

	/*
	 * A session counts its unstaged transaction in unstaged.begun, commits
	 * it, and takes a place for its next one.  If we looked at begun, or read
	 * core's queue, before we look at the end, the session could do all of
	 * that in between, and we would take the place without what comes before
	 * it.
	 */
	pg_memory_barrier();
	return end;
}

/*
 * Take what is committed and has its place before end, which begin_taking()
 * has returned; TAKE_AT_ONCE transactions at most.
 */
static void
take(uint64 end)
{
	StagedView	view;
	int			taken = 0;

	staged->take_result = TAKE_NOTHING;
	while (staged->pass_end != 0 && taken < TAKE_AT_ONCE)
	{
		staged->take_result = staging_take(relay.database->staging, end,
										   &staged->append, &staged->notify,
										   &view);
		if (staged->take_result != TAKE_FOUND)
			break;
		decide_readers(&view, view.events, 0);
		relay_pace_event(view.pid);
		commit_append_count(relay.database, view.pid);
		staged->last_pos = view.pos;
		taken++;
	}
	staged->more = staged->take_result == TAKE_FOUND;
	check_pass();
}

/*
 * Take what is staged and committed, TAKE_AT_ONCE transactions at most; first
 * read core's queue if it may have what must come before.
 */
void
relay_staged_take(void)
{
	uint64		end = begin_taking();

	if (pg_atomic_read_u64(&relay.database->unstaged.begun) !=
		pg_atomic_read_u64(&relay.database->unstaged.read))
		relay_receive_all();
	take(end);
}

/*
 * Read core's queue, and take all that is staged and committed by now.  Exits
 * if the relay is terminated.
 */
void
relay_staged_take_all(void)
{
	uint64		end = begin_taking();

	relay_receive_all();
	for (;;)
	{
		worker_exit_if_terminated(0);
		CHECK_FOR_INTERRUPTS();
		take(end);
		if (staged->more)
			continue;
		if (staged->take_result != TAKE_SOON)
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
	return staging_numbered(relay.database->staging);
}

/*
 * The next event for the ring, if its number is not above upto; it stays the
 * next.  Returns false if there is none.
 */
bool
relay_staged_peek(uint64 upto, StagedItem *item)
{
	StagedWalk *walk = &staged->append;

	if (walk->view.transaction == NULL || staging_walk_number(walk) > upto)
		return false;
	item->slot = walk->event->slot;
	item->pid = walk->view.pid;
	item->payload = staged_event_payload(walk->event);
	item->len = walk->event->payload_len;
	return true;
}

/*
 * The event that relay_staged_peek() has returned is in the ring, or nobody
 * reads it.  No interrupt may be checked for since it was appended: a relay
 * that exited in between would leave it to the next one to append once more.
 */
void
relay_staged_appended(void)
{
	uint64		number = staging_walk_number(&staged->append);

	staging_walk_advance(relay.database->staging, &staged->append);
	staging_set_appended(relay.database->staging, number);
}

/* What native listeners get. */
static const char *
native_payload(const StagedEvent *event)
{
	const char *native = staged_event_native(event);

	return native ? native : staged_event_payload(event);
}

/*
 * Would core fold the event with one of this batch?
 *
 * Core sends notifications of one transaction that are alike only once, but
 * none of a batch's may be missing, from whichever transactions they are.
 * Core cannot be asked what it has pending, so a batch keeps hashes of its
 * own.  Change events have an id in their text, and are never alike: only those
 * without, of publish(), are looked at.  Where two that differ have an equal
 * hash, the batch is just shorter.
 */
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
	(void) seen_insert(staged->seen, hash, &found);
	return found;
}

/* In a transaction: send a batch's events, from where the walk stands. */
static void
send_events(StagedWalk *walk)
{
	uint32		generation = pg_atomic_read_u32(&relay.database->generation);
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
		staged->batch_number = staging_walk_number(walk);
		bytes += event->length;
		nevents++;
		staging_walk_advance(relay.database->staging, walk);
	}
}

/*
 * Take the lock that core takes before it commits notifications.  Returns
 * false if it is not to be had now.  May raise an error after a wait, 55P03 if
 * that took too long.  Must be in a transaction.
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

	/* if it is held by whom it was at the last try, the queue does not move */
	SetInvalidVirtualTransactionId(holder);
	holders = GetLockConflicts(&tag, AccessExclusiveLock, &count);
	if (count > 0)
		holder = holders[0];
	pfree(holders);
	if (count > 0 && staged->lock_missed &&
		VirtualTransactionIdEquals(holder, staged->lock_holder))
		return false;
	staged->lock_missed = true;
	staged->lock_holder = holder;

	/* the queue moves: stand in it, but not for long */
	LockTimeout = staged->lock_wait;
	staged->lock_wait = Min(2 * staged->lock_wait, LONGEST_LOCK_WAIT_MS);
	PG_TRY();
	{
		(void) LockAcquire(&tag, AccessExclusiveLock, false, false);
	}
	PG_FINALLY();
	{
		LockTimeout = 0;

		/* the wait has reset the latch, whatever that was set for */
		SetLatch(MyLatch);
	}
	PG_END_TRY();

	/* the wait may have timed out just when it ended: fail here, not later */
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* Try the batch again, so many milliseconds after it has failed. */
static void
retry_batch(int ms, NotifyTrouble trouble)
{
	staged->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	set_trouble(trouble);
}

/* The batch has raised an error: roll back, and say so. */
static void
fail_batch(void)
{
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
	if (TimestampDifferenceExceeds(staged->logged_at, GetCurrentTimestamp(),
								   LOG_EVERY_MS))
	{
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("pgpubsub relay could not notify staged events: %s",
						error->message),
				 errdetail_internal("They stay in the staging queue, and are tried again.")));

		/* count from when the message was written, however long that took */
		staged->logged_at = GetCurrentTimestamp();
	}
	FreeErrorData(error);
}

/*
 * Core moves the tail of its queue only when somebody sends, which a full
 * queue forbids, or asks how full it is.  So ask after a batch has failed, or
 * the queue would stay full when whoever held it has let go.
 */
static void
advance_core_queue(void)
{
	if (pg_atomic_read_u32(&relay.database->relay.notify_trouble) != NOTIFY_FINE)
		(void) DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0);
}

/* The batch went well, or there is none: forget earlier troubles. */
static void
end_trouble(void)
{
	staged->lock_missed = false;
	staged->lock_wait = LOCK_WAIT_MS;
	set_trouble(NOTIFY_FINE);
}

/* Send a batch in a transaction of its own.  Raises an error if that fails. */
static void
send_batch(void)
{
	StartTransactionCommand();
	advance_core_queue();

	/*
	 * The lock is not kept while the batch is put together.  Only where it
	 * was not to be had the last time is it taken first, so that a batch is
	 * not put together in vain.
	 */
	if (staged->lock_missed && !lock_core_queue())
	{
		CommitTransactionCommand();
		retry_batch(LOCK_RETRY_MS, NOTIFY_LOCKED);
		return;
	}
	send_events(&staged->batch);
	if (!lock_core_queue())
	{
		AbortCurrentTransaction();
		retry_batch(LOCK_RETRY_MS, NOTIFY_LOCKED);
		return;
	}
	CommitTransactionCommand();
	end_trouble();
}

/* Nobody listens to what was taken: count it as notified. */
static void
skip_notifying(void)
{
	Staging    *staging = relay.database->staging;

	staging_set_notified(staging, staging_numbered(staging));
	memset(&staged->notify, 0, sizeof(StagedWalk));
	staged->retry_at = 0;
	end_trouble();
	check_pass();
}

/*
 * NOTIFY a batch of what was taken.  Returns whether there is more to notify
 * at once.  Raises nothing: a batch that fails is tried again later.
 */
bool
relay_staged_notify(void)
{
	Staging    *staging = relay.database->staging;

	if (staged->notify.view.transaction != NULL &&
		!registry_has_listeners(MyDatabaseId))
		skip_notifying();
	staging_free(staging);
	if (staged->notify.view.transaction == NULL ||
		(staged->retry_at != 0 && GetCurrentTimestamp() < staged->retry_at))
		return false;
	staged->retry_at = 0;
	staged->batch = staged->notify;
	staged->batch_number = 0;
	seen_reset(staged->seen);
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
	if (staging_notified(staging) == staged->batch_number)
		staged->notify = staged->batch;

	/* so that the relay's other transactions do not move the mark */
	staged->batch_number = 0;
	check_pass();
	staging_free(staging);
	return staged->retry_at == 0 && staged->notify.view.transaction != NULL;
}

/*
 * Is there more to take or to notify, or so much staged that writers may come
 * to wait?
 */
bool
relay_staged_backlog(void)
{
	Staging    *staging = relay.database->staging;

	return staged->more || staging_used(staging) > staging_size(staging) / 2;
}

/*
 * How long the relay may sleep before it has to look at the queue again, in
 * ms; -1: until it is woken.
 */
long
relay_staged_timeout(void)
{
	TimestampTz now;

	if (staged->more)
		return 0;

	/* a writer that is about to end its transaction tells nobody when it has */
	if (staged->take_result == TAKE_SOON)
		return 1;
	if (staged->retry_at == 0)
		return -1;
	now = GetCurrentTimestamp();
	return staged->retry_at > now ?
		TimestampDifferenceMilliseconds(now, staged->retry_at) + 1 : 0;
}

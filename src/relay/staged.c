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
#include "base/debug.h"
#include "catalog/pg_database.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "publish/publish.h"
#include "relay/relay_internal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

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


/*
 * A transaction of this process commits.  If it is a batch, which only a relay
 * has, move the mark.  Cannot fail.
 */
void
relay_staged_at_commit(void)
{
	RelayStaged *const queues[] = {&relay.staged, &relay.durable.queue};

	for (int i = 0; i < (int) lengthof(queues); i++)
	{
		LogReference *reference = queues[i]->reference;

		if (queues[i]->batch_number != 0)
			staging_set_notified(queues[i]->staging, queues[i]->batch_number);
		if (reference)
		{
			reference->notify_block = queues[i]->notify_block;
			reference->notify_offset = queues[i]->notify_offset;
		}
	}
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

/* Go on with that queue where the last relay was. */
void
relay_queue_init(RelayStaged *queue, Staging *staging)
{
	queue->staging = staging;
	queue->seen = seen_create(TopMemoryContext, BATCH_EVENTS, NULL);
	queue->lock_wait = LOCK_WAIT_MS;
	staging_recover(staging, &queue->append, &queue->notify);
}

/*
 * Set up, after the relay listens; go on where the last relay was.
 */
void
relay_staged_init(void)
{
	RelayStaged *queue = &relay.staged;
	StagedWalk	walk;

	relay_queue_init(queue, relay.database->staging);
	set_trouble(NOTIFY_FINE);

	/* what the last relay had counted as received, relay_exit() took back */
	walk = queue->append;
	while (walk.view.transaction != NULL)
	{
		decide_readers(&walk.view, walk.event, walk.done);

		/* on to the next transaction */
		walk.done = walk.view.nevents - 1;
		staging_walk_advance(queue->staging, &walk);
	}
}

/* End the pass if all that was committed at its begin is taken and notified. */
static void
check_pass(RelayStaged *queue)
{
	Staging    *staging = queue->staging;

	if (queue->pass_end == 0)
		return;
	if (!queue->pass_taken &&
		(queue->take_result == TAKE_NOTHING ||
		 queue->last_pos >= queue->pass_end))
	{
		queue->pass_taken = true;
		queue->pass_number = staging_numbered(staging);
	}
	if (queue->pass_taken &&
		staging_notified(staging) >= queue->pass_number)
	{
		staging_end_pass(staging);
		queue->pass_end = 0;
	}
}

/* Begin to take what is staged: returns the end of the places there are. */
static uint64
begin_taking(RelayStaged *queue)
{
	Staging    *staging = queue->staging;
	uint64		end;

	staging_free(staging);
	if (queue->pass_end == 0 && !staging_idle(staging))
	{
		queue->pass_end = staging_begin_pass(staging);
		queue->pass_taken = false;
		queue->last_pos = 0;
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
take(RelayStaged *queue, uint64 end)
{
	StagedView	view;
	int			taken = 0;

	queue->take_result = TAKE_NOTHING;
	while (queue->pass_end != 0 && taken < TAKE_AT_ONCE)
	{
		queue->take_result = staging_take(queue->staging, end,
										  &queue->append, &queue->notify,
										  &view);
		if (queue->take_result != TAKE_FOUND)
			break;
		if (queue == &relay.staged)
			decide_readers(&view, view.events, 0);
		relay_pace_event(view.pid);
		commit_append_count(relay.database, view.pid);
		queue->last_pos = view.pos;
		taken++;
	}
	queue->more = queue->take_result == TAKE_FOUND;
	check_pass(queue);
}

/*
 * Take what is staged and committed, TAKE_AT_ONCE transactions at most; first
 * read core's queue if it may have what must come before.
 */
void
relay_staged_take(void)
{
	RelayStaged *queue = &relay.staged;
	uint64		end = begin_taking(queue);

	if (pg_atomic_read_u64(&relay.database->unstaged.begun) !=
		pg_atomic_read_u64(&relay.database->unstaged.read))
		relay_receive_all();
	take(queue, end);
}

/*
 * Read core's queue, and take all that is staged and committed by now.  Exits
 * if the relay is terminated.
 */
void
relay_staged_take_all(void)
{
	RelayStaged *queue = &relay.staged;
	uint64		end = begin_taking(queue);

	relay_receive_all();
	for (;;)
	{
		worker_exit_if_terminated(0);
		CHECK_FOR_INTERRUPTS();
		take(queue, end);
		if (queue->more)
			continue;
		if (queue->take_result != TAKE_SOON)
			break;

		/* it takes its writer a moment, unless it is not scheduled */
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
	}
}

/*
 * Take what is staged in the log's queue and committed, TAKE_AT_ONCE
 * transactions at most.
 */
void
relay_queue_take(RelayStaged *queue)
{
	take(queue, begin_taking(queue));
}

/*
 * The number of the last event that was taken.
 */
uint64
relay_staged_taken(void)
{
	RelayStaged *queue = &relay.staged;

	return staging_numbered(queue->staging);
}

/*
 * The next event for the ring, if its number is not above upto; it stays the
 * next.  Returns false if there is none.
 */
bool
relay_staged_peek(uint64 upto, StagedItem *item)
{
	StagedWalk *walk = &relay.staged.append;

	if (walk->view.transaction == NULL || staging_walk_number(walk) > upto)
		return false;
	item->slot = walk->event->slot;
	item->pid = walk->view.pid;
	item->ended_at = walk->view.ended_at;
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
	RelayStaged *queue = &relay.staged;
	uint64		number = staging_walk_number(&queue->append);

	staging_walk_advance(queue->staging, &queue->append);
	staging_set_appended(queue->staging, number);
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
repeats(RelayStaged *queue, const char *id, const char *channel,
		const char *payload)
{
	bool		found;
	uint64		hash;

	if (id[0] != '\0')
		return false;
	hash = hash_bytes_extended((const unsigned char *) channel,
							   (int) strlen(channel), 0);
	hash = hash_bytes_extended((const unsigned char *) payload,
							   (int) strlen(payload), hash);
	(void) seen_insert(queue->seen, hash, &found);
	return found;
}

/* Is the walk at an event that may be sent now? */
static bool
may_be_sent(RelayStaged *queue, const StagedWalk *walk)
{
	/* what is in the log is sent once it is noted, so as to be sent once */
	return walk->view.transaction != NULL &&
		(queue == &relay.staged ||
		 staging_walk_number(walk) <= staging_appended(queue->staging));
}

/*
 * In a transaction: send the next rows of a transaction that is in the log
 * only.  Returns whether these were all.
 */
static bool
send_rows(RelayStaged *queue, const StagedWalk *walk)
{
	StagedEvent *event = walk->event;
	LogReference *reference = staged_event_reference(event);
	LogScan    *scan;
	LogRow		row;
	bool		more;
	int			nevents = 0;

	PushActiveSnapshot(GetTransactionSnapshot());
	scan = log_scan_begin(event->segment, walk->view.xid, true);
	log_scan_from(scan, reference->notify_block, reference->notify_offset,
				  reference->last_block, reference->last_offset);
	while ((more = log_scan_next(scan, &row)) && nevents < BATCH_EVENTS)
	{
		const char *payload = row.native ? row.native : row.payload;

		if (repeats(queue, row.id, row.channel, payload))
			break;
		Async_Notify(row.channel, payload);
		nevents++;
	}
	log_scan_end(scan);
	PopActiveSnapshot();
	queue->reference = NULL;
	if (more)
	{
		queue->reference = reference;
		queue->notify_block = row.block;
		queue->notify_offset = row.offset;
	}
	return !more;
}

/*
 * In a transaction: send a batch's events, from where the walk stands.  What is
 * in the log only is a batch, or more than one, of its own.
 */
static void
send_events(RelayStaged *queue, StagedWalk *walk)
{
	uint32		generation = pg_atomic_read_u32(&relay.database->generation);
	Size		bytes = 0;
	int			nevents = 0;

	while (may_be_sent(queue, walk) &&
		   nevents < BATCH_EVENTS && bytes < BATCH_BYTES)
	{
		StagedEvent *event = walk->event;
		bool		current = walk->view.generation == generation;
		bool		reference = event->reference;

		if (current && reference)
		{
			if (nevents > 0 || !send_rows(queue, walk))
				break;
		}
		else if (current)
		{
			if (repeats(queue, staged_event_id(event),
						staged_event_channel(event), native_payload(event)))
				break;
			Async_Notify(staged_event_channel(event), native_payload(event));
		}
		queue->batch_number = staging_walk_number(walk);
		bytes += event->length;
		nevents++;
		staging_walk_advance(queue->staging, walk);
		if (reference)
			break;
	}
}

/*
 * Take the lock that core takes before it commits notifications.  Returns
 * false if it is not to be had now.  May raise an error after a wait, 55P03 if
 * that took too long.  Must be in a transaction.
 */
static bool
lock_core_queue(RelayStaged *queue)
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
	if (count > 0 && queue->lock_missed &&
		VirtualTransactionIdEquals(holder, queue->lock_holder))
		return false;
	queue->lock_missed = true;
	queue->lock_holder = holder;

	/* the queue moves: stand in it, but not for long */
	LockTimeout = queue->lock_wait;
	queue->lock_wait = Min(2 * queue->lock_wait, LONGEST_LOCK_WAIT_MS);
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
retry_batch(RelayStaged *queue, int ms, NotifyTrouble trouble)
{
	queue->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
	set_trouble(trouble);
}

/* The batch has raised an error: roll back, and say so. */
static void
fail_batch(RelayStaged *queue)
{
	ErrorData  *error = relay_abort();

	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		retry_batch(queue, LOCK_RETRY_MS, NOTIFY_LOCKED);
	else
		retry_batch(queue, RETRY_MS, NOTIFY_FAILING);
	if (TimestampDifferenceExceeds(queue->logged_at, GetCurrentTimestamp(),
								   LOG_EVERY_MS))
	{
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("pgpubsub relay could not notify staged events: %s",
						error->message),
				 errdetail_internal("They stay in the staging queue, and are tried again.")));

		/* count from when the message was written, however long that took */
		queue->logged_at = GetCurrentTimestamp();
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
end_trouble(RelayStaged *queue)
{
	queue->lock_missed = false;
	queue->lock_wait = LOCK_WAIT_MS;
	set_trouble(NOTIFY_FINE);
}

/* Send a batch in a transaction of its own.  Raises an error if that fails. */
static void
send_batch(RelayStaged *queue)
{
	StartTransactionCommand();
	advance_core_queue();

	/*
	 * The lock is not kept while the batch is put together.  Only where it
	 * was not to be had the last time is it taken first, so that a batch is
	 * not put together in vain.
	 */
	if (queue->lock_missed && !lock_core_queue(queue))
	{
		CommitTransactionCommand();
		retry_batch(queue, LOCK_RETRY_MS, NOTIFY_LOCKED);
		return;
	}
	send_events(queue, &queue->batch);
	if (!lock_core_queue(queue))
	{
		AbortCurrentTransaction();
		retry_batch(queue, LOCK_RETRY_MS, NOTIFY_LOCKED);
		return;
	}
	CommitTransactionCommand();
	end_trouble(queue);
}

/* Nobody listens to what was taken: count it as notified. */
static void
skip_notifying(RelayStaged *queue)
{
	Staging    *staging = queue->staging;

	staging_set_notified(staging, staging_numbered(staging));
	memset(&queue->notify, 0, sizeof(StagedWalk));
	queue->retry_at = 0;
	end_trouble(queue);
	check_pass(queue);
}

/*
 * NOTIFY a batch of what was taken.  Returns whether there is more to notify
 * at once.  Raises nothing: a batch that fails is tried again later.
 */
bool
relay_queue_notify(RelayStaged *queue)
{
	Staging    *staging = queue->staging;

	if (queue->notify.view.transaction != NULL &&
		!registry_has_listeners(MyDatabaseId))
		skip_notifying(queue);
	staging_free(staging);
	if (queue->notify.view.transaction == NULL ||
		(queue->retry_at != 0 && GetCurrentTimestamp() < queue->retry_at))
		return false;
	if (!may_be_sent(queue, &queue->notify))
		return false;
	queue->retry_at = 0;
	queue->batch = queue->notify;
	queue->batch_number = 0;
	queue->reference = NULL;
	seen_reset(queue->seen);
	DEBUG_POINT("relay_notifies");
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "notifying staged events");
	PG_TRY();
	{
		send_batch(queue);
	}
	PG_CATCH();
	{
		fail_batch(queue);
	}
	PG_END_TRY();
	pgstat_report_activity(STATE_IDLE, NULL);

	/* an error that came after the commit has taken nothing back */
	if (staging_notified(staging) == queue->batch_number)
		queue->notify = queue->batch;

	/* so that the relay's other transactions do not move the mark */
	queue->batch_number = 0;
	queue->reference = NULL;
	check_pass(queue);
	staging_free(staging);
	return queue->retry_at == 0 && may_be_sent(queue, &queue->notify);
}

/*
 * Is there more to take or to notify, or so much staged that writers may come
 * to wait?
 */
bool
relay_staged_backlog(void)
{
	RelayStaged *queue = &relay.staged;
	Staging    *staging = queue->staging;

	return queue->more || staging_used(staging) > staging_size(staging) / 2;
}

/*
 * How long the relay may sleep before it has to look at the queue again, in
 * ms; -1: until it is woken.
 */
long
relay_queue_timeout(RelayStaged *queue)
{
	TimestampTz now;

	if (queue->more)
		return 0;

	/* a writer that is about to end its transaction tells nobody when it has */
	if (queue->take_result == TAKE_SOON)
		return 1;
	if (queue->retry_at == 0)
		return -1;
	now = GetCurrentTimestamp();
	return queue->retry_at > now ?
		TimestampDifferenceMilliseconds(now, queue->retry_at) + 1 : 0;
}

/*-------------------------------------------------------------------------
 *
 * durable.c
 *	  Events of durable channels on their way through the relay.
 *
 * 1. Transactions come by the log's staging queue, in the order of their
 *	  places, as async ones do by theirs.  Their rows are in the log already.
 *
 * 2. A batch of events is noted (note.c), and then goes into the ring with the
 *	  seqs that were noted, nothing else in between.  What has no room there,
 *	  for others hold the ring, or is read by nobody, passes by it: the log has
 *	  it.  So the writers of durable channels never wait for a reader.
 *
 * 3. Of a transaction that is in the queue as a reference only, the rows are
 *	  looked for in the log, noted in batches, and all pass by the ring, where
 *	  they would push out what others read.
 *
 * 4. An error, a full disk say, is logged, and the batch is tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/xact.h"
#include "base/debug.h"
#include "miscadmin.h"
#include "registry/holders.h"
#include "relay/relay.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* Events that are noted at a time. */
#define BATCH_EVENTS	1000

/* Batches that are noted before the relay looks at other things. */
#define BATCHES_AT_ONCE	10

/* After a failure, the next try comes after so long. */
#define RETRY_MS		250

/* A failure is logged at most so often. */
#define LOG_EVERY_MS	5000

static RelayDurable *const durable = &relay.durable;

/*
 * Set up, after the log was recovered; go on where the last relay was.
 */
void
relay_durable_init(void)
{
	relay_queue_init(&durable->queue, relay.database->log.staging);
}

/*
 * In PG_CATCH(): roll back, and log the error, unless one was logged just
 * before.  what names what the relay could not do, detail what becomes of it.
 */
void
relay_durable_error(const char *what, TimestampTz *logged_at,
					const char *detail)
{
	ErrorData  *error = relay_abort();

	if (TimestampDifferenceExceeds(*logged_at, GetCurrentTimestamp(),
								   LOG_EVERY_MS))
	{
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("pgpubsub relay could not %s: %s", what,
						error->message),
				 error->detail ? errdetail_internal("%s", error->detail) :
				 errdetail_internal("%s", detail)));
		*logged_at = GetCurrentTimestamp();
	}
	FreeErrorData(error);
}

/* Is the transaction one of this use of the database's slot? */
static bool
is_current(const StagedView *view)
{
	return view->generation ==
		pg_atomic_read_u32(&relay.database->generation);
}

/* Is there room in the ring for a payload of that length? */
static bool
ring_has_room(Size len)
{
	int			channel;
	uint64		number;

	while ((channel = ring_make_room(relay.database->ring,
									 ring_record_size(len), &number)) >= 0)
	{
		if (hold_recompute(relay.database, channel, number))
			return false;
	}
	return true;
}

/*
 * The channel of that name is known to have something in the log up to the
 * seq.  Returns its slot if somebody reads it, after counting an event as
 * received: so the slot is not reused.  Else returns -1, and the event has
 * passed by the ring.
 */
static int
pin_or_pass(const char *name, uint64 seq)
{
	Database   *database = relay.database;
	int			slot;

	/* who makes the channel known, which needs the lock, sees the seq */
	LWLockAcquire(database->lock, LW_SHARED);
	slot = registry_find_channel(database, name, false);
	if (slot < 0 || pg_atomic_read_u32(&database->channels[slot].nbindings) == 0)
	{
		ring_pass(database->ring, slot, seq);
		slot = -1;
	}
	else
		pg_atomic_fetch_add_u64(&database->channels[slot].received, 1);
	LWLockRelease(database->lock);
	return slot;
}

#ifdef USE_ASSERT_CHECKING
/* Is the event with that seq noted, or a later one?  A commit has shown that. */
static bool
is_noted(uint64 seq)
{
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		if (pg_atomic_read_u64(&relay.database->log.segments[i].last_seq) >= seq)
			return true;
	}
	return false;
}
#endif

/*
 * An event that was noted goes into the ring, or passes by it.  One without payload
 * passes by; then pid and committed_at do not matter.
 */
static void
show_event(const char *name, int pid, TimestampTz committed_at,
		   const char *payload, Size len, uint64 seq)
{
	Database   *database = relay.database;
	int			slot;
	Channel    *channel;

	/* nobody may see an event whose seq may change */
	Assert(is_noted(seq));
	slot = pin_or_pass(name, seq);
	if (slot < 0)
		return;
	channel = &database->channels[slot];
	if (payload && ring_has_room(len))
	{
		ring_append_logged(database->ring, slot, pid, relay.append.round_time,
						   payload, len, seq);
		registry_count_published(database, len);
		registry_count_appending(database, committed_at,
								 relay.append.round_time);
	}
	else
	{
		ring_pass(database->ring, slot, seq);
		pg_atomic_fetch_sub_u64(&channel->received, 1);
	}
	registry_channel_released(channel);
	relay_append_touch(slot);
}

/*
 * An event that was noted passes by the ring.
 */
void
relay_durable_show(const char *channel, uint64 seq)
{
	show_event(channel, 0, 0, NULL, 0, seq);
}

/*
 * Show the events that are noted: those of the batch at hand, or what the last
 * relay has left.
 */
static void
append_noted(void)
{
	Staging    *staging = durable->queue.staging;
	StagedWalk *walk = &durable->queue.append;

	relay.append.round_time = GetCurrentTimestamp();
	while (walk->view.transaction != NULL &&
		   staging_walk_number(walk) <= staging_noted(staging))
	{
		uint64		number = staging_walk_number(walk);
		StagedEvent *event = walk->event;

		/* one that the last relay has shown, but not marked, has a seq given */
		if (is_current(&walk->view) && !event->reference &&
			event->seq > ring_newest_seq(relay.database->ring))
			show_event(staged_event_channel(event), walk->view.pid,
					   walk->view.ended_at, staged_event_payload(event),
					   event->payload_len, event->seq);

		/* no interrupt is checked for since the event was shown */
		staging_walk_advance(staging, walk);
		staging_set_appended(staging, number);
	}
	relay_append_wake();
	staging_free(staging);
}

/*
 * A new relay: show what the last one has noted and not shown.
 */
void
relay_durable_resume(void)
{
	append_noted();
}

/*
 * An event of that channel is about to be noted, and then shown: have a reader
 * that waits for it alone come to the CPU meanwhile.
 */
static void
rouse_reader(const char *name)
{
	Database   *database = relay.database;
	int			slot;

	LWLockAcquire(database->lock, LW_SHARED);
	slot = registry_find_channel(database, name, false);
	if (slot >= 0)
		registry_rouse_waiting(database, slot);
	LWLockRelease(database->lock);
}

/* Note the next events up to a reference; the walk stands at an event. */
static void
note_events(void)
{
	Staging    *staging = durable->queue.staging;
	StagedWalk	walk = durable->queue.append;
	uint64		number = 0;
	int			count = 0;

	rouse_reader(staged_event_channel(walk.event));
	note_begin();
	while (walk.view.transaction != NULL && count++ < BATCH_EVENTS &&
		   !walk.event->reference)
	{
		StagedEvent *event = walk.event;

		event->seq = 0;
		if (is_current(&walk.view))
		{
			event->seq = note_next_seq();
			note_add(event->segment, staged_event_channel(event),
					 walk.view.xid,
					 ItemPointerGetBlockNumber(&event->place),
					 ItemPointerGetOffsetNumber(&event->place),
					 event->seq, event->payload_len);
		}
		number = staging_walk_number(&walk);
		staging_walk_advance(staging, &walk);
	}
	note_on_commit(staging, number);
	note_write();
	append_noted();
}

/* A row that was noted by itself, to be shown. */
typedef struct NotedRow
{
	const char *channel;
	uint64		seq;
} NotedRow;

/*
 * Note the next rows of the transaction that the walk stands at, of which the
 * queue has a reference.
 */
static void
note_reference(void)
{
	Staging    *staging = durable->queue.staging;
	StagedWalk *walk = &durable->queue.append;
	StagedEvent *event = walk->event;
	LogReference *reference = staged_event_reference(event);
	MemoryContext context = AllocSetContextCreate(MessageContext,
												  "pgpubsub noted rows",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	NotedRow   *noted = palloc(BATCH_EVENTS * sizeof(NotedRow));
	int			count = 0;
	bool		more;
	LogRow		row;
	LogScan    *scan;

	note_begin();
	MemoryContextSwitchTo(context);
	scan = log_scan_begin(event->segment, walk->view.xid, false);
	log_scan_from(scan, reference->note_block, reference->note_offset,
				  reference->last_block, reference->last_offset);
	while ((more = log_scan_next(scan, &row)) && count < BATCH_EVENTS)
	{
		noted[count].channel = row.channel;
		noted[count].seq = note_next_seq();
		note_add(event->segment, row.channel, row.xid, row.block, row.offset,
				 noted[count].seq, row.payload_len);
		count++;
	}
	log_scan_end(scan);
	if (more)
		note_on_commit_reference(reference, row.block, row.offset);
	else
		note_on_commit(staging, staging_walk_number(walk));
	note_write();
	MemoryContextSwitchTo(context);
	for (int i = 0; i < count; i++)
	{
		/* of one channel's rows, one after the other, the last shows all */
		if (i + 1 == count || strcmp(noted[i].channel, noted[i + 1].channel) != 0)
			relay_durable_show(noted[i].channel, noted[i].seq);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	append_noted();
}

/* Note what comes next in the queue.  Raises what writing to the log does. */
static void
note_next(void)
{
	StagedWalk *walk = &durable->queue.append;

	if (walk->event->reference && is_current(&walk->view))
		note_reference();
	else if (walk->event->reference)
	{
		staging_set_noted(durable->queue.staging, staging_walk_number(walk));
		append_noted();
	}
	else
		note_events();
}

/* Is it too early to try again what has failed? */
static bool
is_too_early(void)
{
	return durable->retry_at != 0 &&
		GetCurrentTimestamp() < durable->retry_at;
}

/*
 * Does the relay know what the log has?  If not, the extension was updated just
 * now: ask for that, and have it waited for.
 */
static bool
is_surveyed(void)
{
	if (relay.database->log.surveyed || durable->unreadable)
		return true;
	(void) registry_request(relay.database);
	durable->retry_at =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
	return false;
}

/*
 * Note and show what was taken, a number of batches at most.  Raises nothing:
 * what fails is tried again later.
 */
static void
note_taken(void)
{
	int			batches = 0;

	durable->more = false;
	append_noted();
	if (durable->queue.append.view.transaction == NULL)
		durable->retry_at = 0;
	if (durable->queue.append.view.transaction == NULL || is_too_early())
		return;

	/* what has a place was written later than what is to be recovered */
	durable->retry_at = durable->unrecovered ? durable->recover_at : 0;
	if (durable->unrecovered || !is_surveyed())
		return;
	PG_TRY();
	{
		while (durable->queue.append.view.transaction != NULL &&
			   batches++ < BATCHES_AT_ONCE)
			note_next();
	}
	PG_CATCH();
	{
		relay_durable_error("note events of durable channels",
							&durable->logged_at,
							"They are in the log, and are noted later.");
		note_abort();

		/* an error that came after the commit has taken nothing back */
		append_noted();
		durable->retry_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
	}
	PG_END_TRY();
	durable->more = durable->retry_at == 0 &&
		durable->queue.append.view.transaction != NULL;
}

/*
 * Take, note and show what was committed.
 */
void
relay_durable_work(void)
{
	MemoryContext old;

	if (staging_idle(durable->queue.staging))
		return;
	old = MemoryContextSwitchTo(MessageContext);
	relay_queue_take(&durable->queue);
	note_taken();
	staging_free(durable->queue.staging);
	MemoryContextSwitchTo(old);
	MemoryContextReset(MessageContext);
}

/*
 * Take, note and show all that is committed by now, as far as nothing fails.
 * Exits if the relay is terminated.
 */
void
relay_durable_work_all(void)
{
	/* somebody waits: what has failed may go well now */
	durable->retry_at = 0;
	do
	{
		worker_exit_if_terminated(0);
		CHECK_FOR_INTERRUPTS();
		relay_durable_work();
		if (durable->queue.take_result == TAKE_SOON &&
			!staging_idle(durable->queue.staging))
			(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
							 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
	} while (!staging_idle(durable->queue.staging) && durable->retry_at == 0 &&
			 (durable->more || durable->queue.more ||
			  durable->queue.take_result == TAKE_SOON));
}

/*
 * NOTIFY native listeners of what was shown.  Returns whether there is more to
 * notify at once.
 */
bool
relay_durable_notify(void)
{
	return relay_queue_notify(&durable->queue);
}

/*
 * Is there more to take or to note, or so much staged that writers may come to
 * wait?
 */
bool
relay_durable_backlog(void)
{
	Staging    *staging = durable->queue.staging;

	return durable->more || durable->queue.more ||
		staging_used(staging) > staging_size(staging) / 2;
}

/* How long it is until that time, at least a ms; -1 if it is 0. */
static long
left_until(TimestampTz time)
{
	return time == 0 ? -1 :
		Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), time), 1);
}

/* The shorter of two timeouts, of which -1 is the longest. */
static long
shorter(long a, long b)
{
	return a < 0 || b < 0 ? Max(a, b) : Min(a, b);
}

/*
 * How long the relay may sleep before it has to look again, in ms; -1: until it
 * is woken.
 */
long
relay_durable_timeout(void)
{
	long		timeout = relay_queue_timeout(&durable->queue);

	if (durable->more)
		return 0;
	timeout = shorter(timeout, left_until(durable->retry_at));
	timeout = shorter(timeout, left_until(durable->rules_at));
	timeout = shorter(timeout, left_until(durable->place_at));
	if (!relay_recover_is_due())
		return timeout;
	return shorter(timeout, left_until(Max(durable->recover_at, 1)));
}

/*-------------------------------------------------------------------------
 *
 * append.c
 *	  From the relay's inbox and the staging queue into the ring.
 *
 * 1. What core has delivered is in the inbox, what was published in async mode
 *	  in the staging queue.  The relay received both in one order, in which a
 *	  subscription may have begun: each message of the inbox tells up to which
 *	  number staged events were taken before it.  They go into the ring in that
 *	  order.
 *
 * 2. An event goes into the ring as soon as there is room; then readers that
 *	  wait for its channel are woken, each once.
 *
 * 3. If the event that would be overwritten is held, the queue is full.  The
 *	  relay does not wait here: it says that it is full and goes on with its
 *	  loop, which reads core's queue into the inbox, does what backends ask
 *	  for, and calls relay_append() again when a position was committed.
 *
 * 4. The queue stays full until the inbox is empty and an eighth of the ring is
 *	  free.  Only then the relay wakes the writers, who wait meanwhile.
 *
 * 5. evict_timeout runs from the moment when it became full.  After it every
 *	  subscription with on_full evict that stands in the way is evicted.  What
 *	  is due is judged by one reading of the clock, judged_at: what was not due
 *	  then is still to come, however late it is when the relay goes to sleep.
 *	  Those with block stay, unless the inbox has reached its limit: then any
 *	  is evicted, because core's queue must not fill up.
 *
 * 6.  A reader commits a position and then looks at the relay's state; the
 *	  relay says that it is full and then looks at positions.  Each has a
 *	  memory barrier between the two, in end_claim() and in become_full().  So
 *	  a position that is committed while the queue becomes full is seen by the
 *	  relay, or the reader sees that it must wake the relay; without a barrier
 *	  neither might happen, and the relay would sleep although there is room.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "base/debug.h"
#include "registry/holders.h"
#include "utils/memutils.h"

/* Events that are appended before readers are woken, at most. */
#define WAKE_EVERY	256

/* Warnings that the queue fills up come at most so often. */
#define WARN_EVERY_MS	5000

/* While it stays full, they come at most so often. */
#define FULL_WARN_EVERY_MS	60000

static RelayAppend *const append = &relay.append;

/*
 * Set up, before the relay listens.
 */
void
relay_append_init(void)
{
	append->touched = MemoryContextAlloc(TopMemoryContext,
										 pgpubsub_max_channels * sizeof(int));
	append->is_touched =
		MemoryContextAllocZero(TopMemoryContext,
							   pgpubsub_max_channels * sizeof(bool));
	registry_prepare_to_wake();
}

/* Wake the readers of all channels that were appended to. */
static void
wake_readers(void)
{
	/*
	 * A reader says that it waits and then looks into the ring.  If we looked
	 * for who waits before the events are in the ring, we might miss a reader
	 * that has missed the events, and it would sleep.
	 */
	pg_memory_barrier();
	relay.pace.num_woken += registry_wake_channels(relay.database,
												   append->touched,
												   append->num_touched);
	for (int i = 0; i < append->num_touched; i++)
		append->is_touched[append->touched[i]] = false;
	append->num_touched = 0;
}

/*
 * The readers that wait for the channel are to be woken, by relay_append_wake()
 * or when more is appended.
 */
void
relay_append_touch(int channel)
{
	if (append->is_touched[channel])
		return;
	append->is_touched[channel] = true;
	append->touched[append->num_touched++] = channel;
}

/*
 * Wake the readers of all that was touched.
 */
void
relay_append_wake(void)
{
	if (append->num_touched == 0)
		return;
	registry_note_peak(relay.database);
	wake_readers();
}

/* Append the event to the channel; make_room() has made room. */
static void
append_event(int channel, int pid, const char *payload, Size len)
{
	Database   *database = relay.database;

	(void) ring_append(database->ring, channel, pid, append->round_time,
					   payload, len);
	relay_append_touch(channel);
	registry_channel_released(&database->channels[channel]);
	registry_count_published(database, len);
	append->num_appended++;
}

/* See 5 at the head of this file. */
static TimestampTz
evict_due(void)
{
	return TimestampTzPlusMilliseconds(append->full_since,
									   pgpubsub_evict_timeout);
}

/*
 * Evict the subscriptions that hold the event with that number of the channel,
 * if it is time, and say so in the log.  Returns whether there was one.
 */
static bool
evict_holders(int channel, uint64 number)
{
	bool		last_resort = inbox_overflows(relay.receive.inbox);
	bool		any = false;
	Holder		evicted;

	if (append->full_since == 0 ||
		(!last_resort && evict_due() > append->judged_at))
		return false;
	while (hold_evict(relay.database, channel, number, last_resort, &evicted))
	{
		any = true;
		ereport(LOG,
				(errmsg("pgpubsub evicted subscription \"%s\" from the full queue",
						evicted.name),
				 errdetail_internal("%s", hold_describe(&evicted)),
				 last_resort ?
				 errhint("The relay's buffer for notifications received meanwhile is full too.") : 0));
	}
	return any;
}

/*
 * Make room for so many bytes of records.  Returns false if an event that is
 * held is in the way.
 */
static bool
make_room(Size bytes)
{
	Database   *database = relay.database;
	int			channel;
	uint64		number;

	while ((channel = ring_make_room(database->ring, bytes, &number)) >= 0)
	{
		if (!hold_recompute(database, channel, number))
			continue;
		if (evict_holders(channel, number))
			continue;
		if (hold_mark(database, channel, number))
			ConditionVariableBroadcast(&database->full.room_cv);
		return false;
	}
	return true;
}

/* The queue is full from now on. */
static void
become_full(void)
{
	Database   *database = relay.database;

	append->full_since = append->judged_at = GetCurrentTimestamp();
	pg_atomic_fetch_add_u64(&database->full.count, 1);
	pg_atomic_write_u64(&database->full.since, (uint64) append->full_since);
	pg_atomic_write_u32(&database->relay.state, RELAY_FULL);
	ConditionVariableBroadcast(&database->relay.cv);

	/* see 6 at the head of this file */
	pg_memory_barrier();
}

/* There is room again: let the writers go on. */
static void
end_full(RelayState state)
{
	Database   *database = relay.database;
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&database->full.since);

	pg_atomic_fetch_add_u64(&database->full.ms,
							TimestampDifferenceMilliseconds(since,
															GetCurrentTimestamp()));
	append->full_since = 0;
	append->full_warned = false;
	pg_atomic_write_u64(&database->full.since, 0);
	hold_unmark_all(database);
	pg_atomic_write_u32(&database->relay.state, state);
	ConditionVariableBroadcast(&database->relay.cv);
	ConditionVariableBroadcast(&database->full.room_cv);
}

/* Wake the readers of what was appended if that is much, or at_end. */
static void
wake_now_and_then(bool at_end)
{
	if (append->num_appended == 0 ||
		(!at_end && append->num_appended < WAKE_EVERY))
		return;
	append->num_appended = 0;
	registry_note_peak(relay.database);
	wake_readers();
	append->round_time = GetCurrentTimestamp();
}

/* Append the staged events up to that number.  Returns whether all had room. */
static bool
append_staged(uint64 upto)
{
	StagedItem	item;

	while (relay_staged_peek(upto, &item))
	{
		if (item.slot >= 0)
		{
			if (!make_room(ring_record_size(item.len)))
				return false;
			append_event(item.slot, item.pid, item.payload, item.len);
			registry_count_appending(relay.database, item.ended_at,
									 append->round_time);
		}

		/* no interrupt is checked for since the event was appended */
		relay_staged_appended();
		wake_now_and_then(false);
	}
	return true;
}

/* Append what has room, and wake its readers.  Returns whether that was all. */
static bool
append_received(void)
{
	InboxMessage message;
	bool		all = true;

	append->round_time = GetCurrentTimestamp();
	while (all && inbox_peek(relay.receive.inbox, &message))
	{
		all = append_staged(message.after) && make_room(ring_record_size(message.len));
		if (!all)
			break;
		append_event(message.channel, message.pid, message.payload,
					 message.len);
		inbox_pop(relay.receive.inbox);
		wake_now_and_then(false);
	}
	if (all)
		all = append_staged(relay_staged_taken());
	wake_now_and_then(true);
	return all;
}

/* The time before which there is no other warning. */
static TimestampTz
warning_due(void)
{
	TimestampTz warned = pg_atomic_read_u64(&relay.database->full.warned_at);

	return TimestampTzPlusMilliseconds(warned,
									   append->full_warned ?
									   FULL_WARN_EVERY_MS : WARN_EVERY_MS);
}

/* A warning was written; count from now, however long writing it took. */
static void
note_warning(void)
{
	pg_atomic_write_u64(&relay.database->full.warned_at,
						(uint64) GetCurrentTimestamp());
}

/* Warn about who holds more than half of the queue. */
static void
warn_half_full(void)
{
	Database   *database = relay.database;
	RingRecord	record;

	while (ring_next_half(database->ring, &record))
	{
		Holder		holder;

		if (record.number <= ring_hold(database->ring, record.channel))
			continue;
		if (warning_due() > GetCurrentTimestamp() ||
			!hold_recompute(database, record.channel, record.number) ||
			!hold_find_holder(database, record.channel, record.number,
							  &holder))
			continue;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("pgpubsub queue is more than half full"),
				 errdetail_internal("%s", hold_describe(&holder)),
				 errhint("Have its reader catch up, or raise pgpubsub.queue_size.")));
		note_warning();
	}
}

/* Warn about whom the full queue waits for. */
static void
warn_full(void)
{
	Holder		holder;

	if (warning_due() > append->judged_at ||
		!hold_find_awaited(relay.database, false, &holder))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("pgpubsub queue is full"),
			 errdetail_internal("%s", hold_describe(&holder)),
			 errhint("Have its reader catch up, drop it, or raise pgpubsub.queue_size.")));
	note_warning();
	append->full_warned = true;
}

/*
 * Move what was received and taken into the ring, as far as there is room, and
 * say who is in the way if there is none.
 */
void
relay_append(void)
{
	MemoryContext old = MemoryContextSwitchTo(MessageContext);
	bool		all;

	if (append->full_since != 0)
		append->judged_at = GetCurrentTimestamp();
	all = append_received();
	if (!all && append->full_since == 0)
	{
		become_full();
		all = append_received();
	}
	warn_half_full();
	if (!all)
		warn_full();
	if (all && append->full_since != 0 &&
		make_room(ring_size(relay.database->ring) / 8))
		end_full(RELAY_LISTENING);
	MemoryContextSwitchTo(old);
	MemoryContextReset(MessageContext);
}

/*
 * How long the relay may sleep before it calls relay_append() again, in ms; 0
 * if something has become due since the last call; -1: until it is woken.
 */
long
relay_append_timeout(void)
{
	TimestampTz next = PG_INT64_MAX;
	long		left;

	if (append->full_since == 0)
		return -1;
	DEBUG_POINT("relay_full");
	if (evict_due() > append->judged_at)
		next = evict_due();
	if (warning_due() > append->judged_at)
		next = Min(next, warning_due());
	if (next == PG_INT64_MAX)
		return -1;
	left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);

	/* WaitLatch() takes no more than INT_MAX */
	return Min(left, INT_MAX);
}

/*
 * The relay exits: writers need not wait for room any more.
 */
void
relay_append_exit(void)
{
	if (pg_atomic_read_u64(&relay.database->full.since) != 0)
		end_full(RELAY_STOPPED);
}

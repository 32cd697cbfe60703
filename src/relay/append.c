/*-------------------------------------------------------------------------
 *
 * append.c
 *	  From the relay's inbox and the staging queue into the ring.
 *
 * 0. What core has delivered is in the inbox, what was published in async mode
 *	  in the staging queue.  The relay received both in one order, in which a
 *	  subscription may have begun: each message of the inbox tells up to which
 *	  number staged events were taken before it.  They go into the ring in that
 *	  order.
 *
 * 1. An event goes into the ring as soon as there is room; then readers that
 *	  wait for its channel are woken, each once.
 *
 * 2. If the event that would be overwritten is held, the queue is full.  The
 *	  relay does not wait here: it says that it is full and goes on with its
 *	  loop, which reads core's queue into the inbox, does what backends ask
 *	  for, and calls relay_append() again when a position was committed.
 *
 * 3. It stays full until the inbox is empty and an eighth of the ring is
 *	  free.  Only then it wakes the writers, who wait meanwhile.
 *
 * 4. evict_timeout runs from the moment when it became full.  After it every
 *	  subscription with on_full evict that stands in the way is evicted.  What
 *	  is due is judged by one reading of the clock, judged_at: what was not due
 *	  then is still to come, however late it is when the relay goes to sleep.
 *	  Those with block stay, unless the inbox has reached its limit: then any
 *	  is evicted, because core's queue must not fill up.
 *
 * State is saved before it is looked at, with a memory barrier between, here
 * as in end_claim(): a position that is committed while we become full is
 * either seen here or brings us back.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/append.h"

#include "base/debug.h"
#include "registry/holders.h"
#include "relay/staged.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Messages that are appended before readers are woken, at most. */
#define WAKE_EVERY	256

/* A warning about the same thing comes at most so often. */
#define WARN_EVERY_MS	5000

/* ... and while the queue stays full, so often. */
#define FULL_WARN_EVERY_MS	60000

static Database *database = NULL;
static Inbox *inbox = NULL;

/* The time of this round, which its events get. */
static TimestampTz round_time = 0;

/* Events that were appended and whose readers were not woken yet. */
static int	num_appended = 0;

/* Channels appended to since readers were last woken. */
static int *touched = NULL;
static int	num_touched = 0;
static bool *is_touched = NULL;

/* Sessions that were woken, until that is asked for. */
static int	num_woken = 0;

/* Since when the queue is full; 0: it is not. */
static TimestampTz full_since = 0;
static bool full_warned = false;	/* since then */

/* When what is due was judged last, while the queue is full. */
static TimestampTz judged_at = 0;

/*
 * Append to the database's ring what comes into the inbox.
 */
void
relay_append_init(Database *my_database, Inbox *my_inbox)
{
	database = my_database;
	inbox = my_inbox;
	touched = MemoryContextAlloc(TopMemoryContext,
								 pgpubsub_max_channels * sizeof(int));
	is_touched = MemoryContextAllocZero(TopMemoryContext,
										pgpubsub_max_channels * sizeof(bool));
	registry_prepare_to_wake();
}

/* Wake the readers of all channels that were appended to. */
static void
wake_readers(void)
{
	/* events are in the ring before we look for who waits */
	pg_memory_barrier();
	num_woken += registry_wake_channels(database, touched, num_touched);
	for (int i = 0; i < num_touched; i++)
		is_touched[touched[i]] = false;
	num_touched = 0;
}

/* Append the event to the channel; there is room. */
static void
append_event(int channel, int pid, const char *payload, Size len)
{
	(void) ring_append(database->ring, channel, pid, round_time, payload, len);
	if (!is_touched[channel])
	{
		is_touched[channel] = true;
		touched[num_touched++] = channel;
	}
	registry_channel_released(&database->channels[channel]);
	registry_count_published(database, len);
	num_appended++;
}

/* When those with on_full evict have held the full queue for long enough. */
static TimestampTz
evict_due(void)
{
	return TimestampTzPlusMilliseconds(full_since, pgpubsub_evict_timeout);
}

/*
 * Evict who stands in the way, if it is time, and say so in the log; true if
 * anybody was.
 */
static bool
evict_holders(int channel, uint64 number)
{
	bool		last_resort = inbox_overflows(inbox);
	bool		any = false;
	Holder		evicted;

	if (full_since == 0 || (!last_resort && evict_due() > judged_at))
		return false;
	while (hold_evict(database, channel, number, last_resort, &evicted))
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
	full_since = judged_at = GetCurrentTimestamp();
	pg_atomic_fetch_add_u64(&database->full.count, 1);
	pg_atomic_write_u64(&database->full.since, (uint64) full_since);
	pg_atomic_write_u32(&database->relay.state, RELAY_FULL);
	ConditionVariableBroadcast(&database->relay.cv);

	/* positions are looked at after the state is there to be seen */
	pg_memory_barrier();
}

/* There is room again: let the writers go on. */
static void
end_full(RelayState state)
{
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&database->full.since);

	pg_atomic_fetch_add_u64(&database->full.ms,
							TimestampDifferenceMilliseconds(since,
															GetCurrentTimestamp()));
	full_since = 0;
	full_warned = false;
	pg_atomic_write_u64(&database->full.since, 0);
	hold_unmark_all(database);
	pg_atomic_write_u32(&database->relay.state, state);
	ConditionVariableBroadcast(&database->relay.cv);
	ConditionVariableBroadcast(&database->full.room_cv);
}

/* Wake readers if enough was appended, or if at_end. */
static void
wake_now_and_then(bool at_end)
{
	if (num_appended == 0 || (!at_end && num_appended < WAKE_EVERY))
		return;
	num_appended = 0;
	registry_note_peak(database);
	wake_readers();
	round_time = GetCurrentTimestamp();
}

/*
 * Append staged events up to that number.  Returns false if there was no room
 * for one.
 */
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
		}

		/* no interrupt is checked for between that and this */
		relay_staged_appended();
		wake_now_and_then(false);
	}
	return true;
}

/* Append what there is room for; true if that was all. */
static bool
append_received(void)
{
	InboxMessage message;
	bool		all = true;

	round_time = GetCurrentTimestamp();
	while (all && inbox_peek(inbox, &message))
	{
		all = append_staged(message.after) && make_room(ring_record_size(message.len));
		if (!all)
			break;
		append_event(message.channel, message.pid, message.payload,
					 message.len);
		inbox_pop(inbox);
		wake_now_and_then(false);
	}
	if (all)
		all = append_staged(relay_staged_taken());
	wake_now_and_then(true);
	return all;
}

/* Not before this time is there another warning. */
static TimestampTz
warning_due(void)
{
	return TimestampTzPlusMilliseconds((TimestampTz) pg_atomic_read_u64(&database->full.warned_at),
									   full_warned ? FULL_WARN_EVERY_MS :
									   WARN_EVERY_MS);
}

/* There was a warning; count from when it was written, however long that took. */
static void
note_warning(void)
{
	pg_atomic_write_u64(&database->full.warned_at,
						(uint64) GetCurrentTimestamp());
}

/* Warn about who holds more than half of the queue. */
static void
warn_half_full(void)
{
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

	if (warning_due() > judged_at ||
		!hold_find_awaited(database, false, &holder))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("pgpubsub queue is full"),
			 errdetail_internal("%s", hold_describe(&holder)),
			 errhint("Have its reader catch up, drop it, or raise pgpubsub.queue_size.")));
	note_warning();
	full_warned = true;
}

/*
 * Move what was received into the ring, as far as there is room.
 */
void
relay_append(void)
{
	MemoryContext old = MemoryContextSwitchTo(MessageContext);
	bool		all;

	if (full_since != 0)
		judged_at = GetCurrentTimestamp();
	all = append_received();
	if (!all && full_since == 0)
	{
		become_full();
		all = append_received();
	}
	warn_half_full();
	if (!all)
		warn_full();
	if (all && full_since != 0 &&
		make_room(ring_size(database->ring) / 8))
		end_full(RELAY_LISTENING);
	MemoryContextSwitchTo(old);
	MemoryContextReset(MessageContext);
}

/*
 * How many readers were woken since this was asked last.
 */
int
relay_append_woken(void)
{
	int			woken = num_woken;

	num_woken = 0;
	return woken;
}

/*
 * How long the relay may sleep before it has to call relay_append() again, in
 * ms; 0: not at all, as something has become due since it was; -1: until it is
 * woken.
 */
long
relay_append_timeout(void)
{
	TimestampTz next = PG_INT64_MAX;
	long		left;

	if (full_since == 0)
		return -1;
	DEBUG_POINT("relay_full");
	if (evict_due() > judged_at)
		next = evict_due();
	if (warning_due() > judged_at)
		next = Min(next, warning_due());
	if (next == PG_INT64_MAX)
		return -1;
	left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);

	/* a latch waits for no more than that */
	return Min(left, INT_MAX);
}

/*
 * The relay exits: nobody waits for room any more.  Its state is set by the
 * caller.
 */
void
relay_append_exit(Database *my_database)
{
	if (pg_atomic_read_u64(&my_database->full.since) != 0)
	{
		database = my_database;
		end_full(RELAY_STOPPED);
	}
}

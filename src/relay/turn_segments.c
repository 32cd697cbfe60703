/*-------------------------------------------------------------------------
 *
 * turn_segments.c
 *	  The segments of the log take turns.
 *
 * 1. A segment may grow to its share of pgpubsub.log_size.  Then the next empty
 *	  one is the current one, to which writers go.  They turn to it themselves
 *	  (log/turn.c); the relay does, too, when it sees that it is time, so that
 *	  the segment can be emptied if nothing more is written.
 *
 * 2. A segment that is not the current one is emptied as soon as nobody needs
 *	  it any more; see empty_segments.c.  So there are empty ones ahead of time,
 *	  unless somebody is behind.
 *
 * 3. If none is empty and the current one is about to have its share, or all
 *	  together are larger than pgpubsub.log_size, the oldest segment is needed;
 *	  see segment_room.c.
 *
 * 4. The relay looks at the segments when so much was noted that one may be
 *	  full, and when a writer asks it to, which has found no room.  While there
 *	  is something that may be emptied later, it looks now and then, less and
 *	  less often.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/memutils.h"

/* Two looks are so far from each other at least. */
#define LOOK_EVERY_MS		10

/* If nothing is noted, it looks at first after so long, and at last. */
#define SHORTEST_PAUSE_MS	1000
#define LONGEST_PAUSE_MS	60000

/* A look is worth while when that part of a segment's share was noted. */
#define LOOK_PARTS			16

/* What a row takes besides its payload, about, in bytes. */
#define ROW_OVERHEAD		150

/* After a failure, the next look comes after so long. */
#define RETRY_MS			5000

/* How long the relay waits for a lock on the log at most. */
#define LOCK_WAIT_MS		100

static RelaySegments *const segments = &relay.durable.segments;

/*
 * Something of the log is to be looked at again at that time.
 */
void
relay_segments_due(TimestampTz at)
{
	if (segments->look_at == 0 || at < segments->look_at)
		segments->look_at = at;
}

/* In so many ms from now. */
void
relay_segments_due_in(long ms)
{
	relay_segments_due(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms));
}

/* How large is the segment?  Returns by how much it has grown. */
static uint64
measure_segment(int segment)
{
	LogSegment *known = &relay.database->log.segments[segment];
	uint64		before = pg_atomic_read_u64(&known->bytes);
	uint64		rows;
	uint64		bytes;

	/* what is added meanwhile may be counted twice, until the next look */
	pg_atomic_write_u64(&known->toasted, 0);
	bytes = log_segment_bytes(segment, &rows);
	pg_atomic_write_u64(&known->bytes, bytes);
	pg_atomic_write_u64(&known->beside, bytes - rows);
	return bytes > before ? bytes - before : 0;
}

/*
 * How large are the segments; how long is anything kept?  One that has been
 * turned over grows by late writers only, and by notes: it is looked at once.
 */
static void
measure(void)
{
	DatabaseLog *log = &relay.database->log;
	uint32		turn = pg_atomic_read_u32(&log->turn);

	segments->events = pg_atomic_read_u64(&log->appended);
	segments->bytes = pg_atomic_read_u64(&log->appended_bytes);
	segments->growth = 0;
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		bool		current = i == LOG_TURN_CURRENT(turn);
		bool		unseen = pg_atomic_read_u64(&log->segments[i].bytes) == 0 &&
			(LOG_TURN_EMPTY(turn) & 1U << i) == 0;

		if (current || unseen || segments->segment[i].was_current)
			segments->growth += measure_segment(i);
		segments->segment[i].was_current = current;
	}
	segments->retain = durable_rules_longest_retain();
}

/* Bytes of all segments, as they were measured. */
static uint64
all_bytes(void)
{
	uint64		bytes = 0;

	for (int i = 0; i < LOG_SEGMENTS; i++)
		bytes += pg_atomic_read_u64(&relay.database->log.segments[i].bytes);
	return bytes;
}

/* Is the segment as it was when it was emptied?  In a transaction. */
static bool
is_empty(int segment)
{
	LogSegment *known = &relay.database->log.segments[segment];

	return pg_atomic_read_u64(&known->last_seq) == 0 &&
		log_is_empty(LOG_ROWS, segment) && log_is_empty(LOG_NOTES, segment);
}

/*
 * The segments that are not empty, without the current one, in the order of
 * their last events; returns how many.  Writers may turn to the others.  In a
 * transaction.
 */
static int
list_used(int *used)
{
	DatabaseLog *log = &relay.database->log;
	int			count = 0;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		uint64		last = pg_atomic_read_u64(&log->segments[i].last_seq);
		uint32		turn = pg_atomic_read_u32(&log->turn);
		int			at = count;

		if (i == LOG_TURN_CURRENT(turn))
			continue;
		pg_read_barrier();
		if (is_empty(i))
		{
			(void) log_show_empty(relay.database, i, turn);
			continue;
		}
		for (; at > 0 &&
			 pg_atomic_read_u64(&log->segments[used[at - 1]].last_seq) > last;
			 at--)
			used[at] = used[at - 1];
		used[at] = i;
		count++;
	}
	return count;
}

/* Bytes that the current segment has, and may have before it is turned over. */
static uint64
current_bytes(uint64 *limit)
{
	LogSegment *current =
	&relay.database->log.segments[log_current(relay.database)];

	*limit = log_share() + pg_atomic_read_u64(&current->extra);
	return pg_atomic_read_u64(&current->bytes);
}

/*
 * Do writers find no room in the log, or will they before the next look?  Or has
 * it more than its size in the segments that are used, without the newest events?
 */
static bool
is_nearly_full(int used)
{
	uint64		limit;
	uint64		bytes = current_bytes(&limit);

	if (all_bytes() > (uint64) pgpubsub_log_size * 1024 &&
		(used > 1 || bytes >= log_share() / 2))
		return true;
	return !log_any_empty(relay.database) &&
		bytes + segments->growth >= log_share();
}

/* Do they find none now? */
static bool
is_full(void)
{
	uint64		limit;
	uint64		bytes = current_bytes(&limit);

	return bytes >= limit && !log_any_empty(relay.database);
}

/* Look at the segments, and do what is due.  Raises what looking does. */
static void
look(void)
{
	int			used[LOG_SEGMENTS];
	int			count;
	uint64		limit;

	relay_begin("looking at the log of durable channels");
	measure();
	count = list_used(used);
	relay_end();
	MemoryContextSwitchTo(MessageContext);
	segment_empty_unneeded(used, count);

	/* the relay cannot empty it while it is the current one */
	if (current_bytes(&limit) >= log_share())
		log_turn(relay.database, log_current(relay.database));
	if (is_nearly_full(count))
	{
		if (segment_make_room(used, count, is_full()) &&
			is_nearly_full(count - 1))
			relay_segments_due_in(0);
	}
	if (!is_full())
		segment_end_full();

	relay_turn_positions();

	/* readers go on, and write positions, when nothing is noted, too */
	if (count > 0 || segments->bytes > 0 || segments->position_bytes > 0)
		relay_segments_due_in(segments->pause);
}

/* What was noted since the last look, in bytes, about. */
static uint64
noted_bytes(uint64 *events)
{
	DatabaseLog *log = &relay.database->log;

	*events = pg_atomic_read_u64(&log->appended) - segments->events;
	return pg_atomic_read_u64(&log->appended_bytes) - segments->bytes +
		*events * ROW_OVERHEAD;
}

/* Does a writer wait for a look? */
static bool
is_asked(void)
{
	DatabaseLog *log = &relay.database->log;

	return pg_atomic_read_u32(&log->asked) != pg_atomic_read_u32(&log->looked);
}

/* When the next look is due; 0 if nothing has one come. */
static TimestampTz
next_look(void)
{
	TimestampTz next = segments->look_at;
	uint64		events;
	uint64		bytes = noted_bytes(&events);

	if (segments->looked_at == 0 || is_asked())
		next = 1;
	else if (bytes >= log_share() / LOOK_PARTS || events > 0)
	{
		TimestampTz noted =
		TimestampTzPlusMilliseconds(segments->looked_at,
									bytes >= log_share() / LOOK_PARTS ?
									LOOK_EVERY_MS : SHORTEST_PAUSE_MS);

		next = next == 0 ? noted : Min(next, noted);
		segments->pause = SHORTEST_PAUSE_MS;
	}
	return next;
}

/* Is there anything to turn over? */
static bool
is_idle(void)
{
	return !relay.database->log.surveyed ||
		pg_atomic_read_u32(&relay.database->log.active) == 0;
}

/*
 * Turn over and empty what is due.  Raises nothing: what fails is tried again.
 */
void
relay_turn_segments(void)
{
	DatabaseLog *log = &relay.database->log;
	TimestampTz now;
	TimestampTz next;
	MemoryContext old;
	uint32		asked;

	if (!is_idle() && pg_atomic_read_u32(&log->turning) == 0)
		pg_atomic_write_u32(&log->turning, 1);
	if (is_idle() || (next = next_look()) == 0)
		return;
	now = GetCurrentTimestamp();
	if (now < next)
		return;
	old = MemoryContextSwitchTo(MessageContext);
	asked = pg_atomic_read_u32(&log->asked);
	pg_read_barrier();
	segments->looked_at = now;
	segments->look_at = 0;
	segments->pause = Max(segments->pause, SHORTEST_PAUSE_MS);

	/* nobody's lock is to stop the relay */
	LockTimeout = LOCK_WAIT_MS;
	PG_TRY();
	{
		look();
	}
	PG_CATCH();
	{
		segments->emptied = RELAY_EMPTIED_NOTHING;
		relay_segments_error("look at the log of durable channels");
		relay_segments_due_in(RETRY_MS);
		if (is_full())
			segment_let_grow();
	}
	PG_END_TRY();
	pg_atomic_write_u32(&log->looked, asked);
	ConditionVariableBroadcast(&log->room_cv);
	segments->pause = Min(2 * segments->pause, LONGEST_PAUSE_MS);
	LockTimeout = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(MessageContext);
}

/*
 * How long the relay may sleep before it calls relay_turn_segments() again, in
 * ms; -1: until it is woken.
 */
long
relay_turn_segments_timeout(void)
{
	TimestampTz next;

	if (is_idle() || (next = next_look()) == 0)
		return -1;
	return Min(Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next),
				   1), INT_MAX);
}

/*
 * The relay exits: writers need not wait for room any more.  Cannot fail.
 */
void
relay_turn_segments_exit(void)
{
	pg_atomic_write_u32(&relay.database->log.turning, 0);
	segment_show_full(0, "");
	ConditionVariableBroadcast(&relay.database->log.room_cv);
}

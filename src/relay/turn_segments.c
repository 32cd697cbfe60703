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
 *	  full, when a writer asks it to, which has found no room, and when what may
 *	  need them has changed, subscriptions or rules.  While there
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

/*
 * How large are the segments that are used; by how much has the current one
 * grown; how long is anything kept?
 */
static void
measure(void)
{
	DatabaseLog *log = &relay.database->log;
	uint32		turn = pg_atomic_read_u32(&log->turn);

	pg_atomic_write_u64(&log->share,
						(uint64) pgpubsub_log_size * 1024 / LOG_SEGMENTS);
	segments->events = pg_atomic_read_u64(&log->appended);
	segments->bytes = pg_atomic_read_u64(&log->appended_bytes);
	segments->growth = 0;
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		LogSegment *known = &log->segments[i];
		uint64		before = pg_atomic_read_u64(&known->bytes);
		uint64		rows;
		uint64		bytes;

		/*
		 * the extension may have been made anew: what is not known is asked
		 * for
		 */
		if (LOG_TURN_EMPTY(turn) & 1U << i)
		{
			pg_atomic_write_u64(&known->row_bytes, 0);
			continue;
		}
		bytes = log_segment_bytes(i, &rows);
		pg_atomic_write_u64(&known->bytes, bytes);
		pg_atomic_write_u64(&known->beside, bytes - rows);
		pg_atomic_write_u64(&known->row_bytes, rows);
		if (i == LOG_TURN_CURRENT(turn) && before != 0 && bytes > before)
			segments->growth = bytes - before;
	}
	segments->retain = durable_rules_longest_retain();
}

/* The size of the log, in bytes. */
static uint64
log_bytes(void)
{
	return log_share(relay.database) * LOG_SEGMENTS;
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

/* May anybody lock the segment to write to it?  In a transaction. */
static bool
is_writable(int segment)
{
	return log_is_writable(LOG_ROWS, segment) &&
		log_is_writable(LOG_NOTES, segment);
}

/*
 * The segments that are not empty, without the current one, in the order of
 * their last events; returns how many.  Writers may turn to the others, but to
 * those that somebody has locked, as REINDEX does: *locked tells whether there is
 * one.  In a transaction.
 */
static int
list_used(int *used, bool *locked)
{
	DatabaseLog *log = &relay.database->log;
	int			count = 0;

	*locked = false;
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		uint64		last = pg_atomic_read_u64(&log->segments[i].last_seq);
		uint32		turn = pg_atomic_read_u32(&log->turn);
		int			at = count;

		bool		empty;
		bool		writable;

		if (i == LOG_TURN_CURRENT(turn))
			continue;
		pg_read_barrier();
		empty = is_empty(i);
		writable = empty && is_writable(i);
		*locked |= empty && !writable;
		(void) log_show_empty(relay.database, i, writable, turn);
		if (empty)
			continue;
		for (; at > 0 &&
			 pg_atomic_read_u64(&log->segments[used[at - 1]].last_seq) > last;
			 at--)
			used[at] = used[at - 1];
		used[at] = i;
		count++;
	}
	return count;
}

/*
 * Is the log larger than its size, without the segment that has the newest events,
 * if none other is used besides?  used is the number of those.  Then it is not
 * turned over: that would only add to it.
 */
static bool
is_over(int used)
{
	bool		over = used > 0 &&
		all_bytes() > log_bytes();

	pg_atomic_write_u32(&relay.database->log.over, over);
	return over;
}

/* Bytes of the current segment, as they were measured. */
static uint64
current_bytes(void)
{
	int			current = log_current(relay.database);

	return pg_atomic_read_u64(&relay.database->log.segments[current].bytes);
}

/*
 * Where no other is empty, the current segment may have what the others leave of
 * the log's size, be it more than its share.
 */
static void
give_rest(void)
{
	LogSegment *known = relay.database->log.segments;
	int			current = log_current(relay.database);
	uint64		all = all_bytes();
	uint64		rest = 0;

	if (!log_can_turn(relay.database) && all < log_bytes())
		rest = pg_atomic_read_u64(&known[current].bytes) + log_bytes() - all;
	pg_atomic_write_u64(&known[current].rest, rest);
}

/*
 * Is there no room in the log, or will there be none before the next look?  Or is
 * it too large?  Where only one segment is used besides, that has to wait until
 * there are newer events.
 */
static bool
is_nearly_full(int used)
{
	if (is_over(used) &&
		(used > 1 || current_bytes() >= log_share(relay.database) / 2))
		return true;
	return !log_can_turn(relay.database) &&
		all_bytes() + segments->growth >= log_bytes();
}

/* Do writers find none now? */
static bool
is_full(void)
{
	return !log_can_turn(relay.database) &&
		current_bytes() >= log_limit(relay.database,
									 log_current(relay.database));
}

/*
 * Once the current segment has its share, have writers go on in another one: the
 * relay cannot empty it before.
 */
static void
turn(void)
{
	int			from = log_current(relay.database);

	if (pg_atomic_read_u64(&relay.database->log.segments[from].bytes) >=
		log_share(relay.database))
		(void) log_turn(relay.database, from);
}

/* Look at the segments, and do what is due.  Raises what looking does. */
static void
look(void)
{
	int			used[LOG_SEGMENTS];
	int			count;
	bool		locked;

	relay_begin("looking at the log of durable channels");
	measure();
	count = list_used(used, &locked);
	relay_end();
	MemoryContextSwitchTo(MessageContext);
	count = segment_empty_unneeded(used, count);
	give_rest();
	if (locked && is_full())
		segment_tell_locked();
	if (!locked && is_nearly_full(count) &&
		segment_make_room(used, count, is_full()) &&
		is_nearly_full(count - 1))
		relay_segments_due_in(0);
	turn();
	give_rest();
	if (!is_full())
		segment_end_full(log_can_turn(relay.database) ||
						 all_bytes() < log_bytes());

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
bool
relay_segments_asked(void)
{
	DatabaseLog *log = &relay.database->log;

	return pg_atomic_read_u32(&log->asked) != pg_atomic_read_u32(&log->looked);
}

/*
 * Was a subscription made or dropped since the last look, or a rule changed?  It
 * is read without the lock: what is seen late is seen at the next call.
 */
static bool
is_changed(void)
{
	return segments->commits != relay.database->commits ||
		segments->rules != relay.durable.rules_version;
}

/* When the next look is due; 0 if nothing has one come. */
static TimestampTz
next_look(void)
{
	TimestampTz next = segments->look_at;
	uint64		events;
	uint64		bytes = noted_bytes(&events);

	if (segments->looked_at == 0 || relay_segments_asked() || is_changed())
		next = 1;
	else if (bytes >= log_share(relay.database) / LOOK_PARTS || events > 0)
	{
		TimestampTz noted =
		TimestampTzPlusMilliseconds(segments->looked_at,
									bytes >= log_share(relay.database) / LOOK_PARTS ?
									LOOK_EVERY_MS : SHORTEST_PAUSE_MS);

		next = next == 0 ? noted : Min(next, noted);
		segments->pause = SHORTEST_PAUSE_MS;
	}
	return next;
}

/*
 * Is there nothing to turn over?  Also until the subscriptions are known that may
 * need what is in the log.
 */
static bool
is_idle(void)
{
	return !relay.database->log.surveyed ||
		pg_atomic_read_u32(&relay.database->relay.loaded) == 0 ||
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
	segments->commits = relay.database->commits;
	segments->rules = relay.durable.rules_version;
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
		segment_let_grow();
		segment_show_full(0, "");
	}
	PG_END_TRY();
	if (pg_atomic_read_u32(&log->looked) != asked)
	{
		pg_atomic_write_u32(&log->looked, asked);
		ConditionVariableBroadcast(&log->room_cv);
	}
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
	segment_empty_exit();
	pg_atomic_write_u32(&relay.database->log.turning, 0);
	pg_atomic_write_u32(&relay.database->log.over, 0);
	segment_show_full(0, "");
	ConditionVariableBroadcast(&relay.database->log.room_cv);
}

/*-------------------------------------------------------------------------
 *
 * turn_segments.c
 *	  The segments of the log take turns, and are emptied.
 *
 * 1. A segment may grow to its share of pgpubsub.log_size.  Then the next empty
 *	  one is the current one, to which writers go; a writer that comes late and
 *	  uses the old one does no harm.
 *
 * 2. A segment that is not the current one is emptied as soon as nobody needs
 *	  it any more: no subscription has anything to read there, all its rows are
 *	  noted and sent, and no rule has its events kept for longer.  So there is
 *	  an empty one ahead of time, unless somebody is behind.
 *
 * 3. If none is empty and the current one has its share, the log is full.  The
 *	  oldest segment is needed then.  No rule retains it any longer.  The
 *	  subscriptions that have something to read there lose that, if their
 *	  on_full is drop; or evict, and the log is full for evict_timeout, in which
 *	  writers wait.  For one that blocks, writers wait until it has read, or
 *	  fail.
 *
 * 4. Who reads a subscription just now has events that are not committed as
 *	  consumed, and loses nothing.  Nor does the relay wait for anybody's lock,
 *	  or have writers go on in a segment where they would: a REINDEX in an open
 *	  transaction locks them out.  Until a segment can be emptied, or is let go
 *	  of, the current one grows, and a warning says why.
 *
 * 5. Where the relay itself is behind, and has not noted yet what is in the
 *	  oldest segment, writers wait for it.  Not if it cannot note, since it gets
 *	  an error or no lock.
 *
 * 6. The relay looks at the segments when so much was noted that one may be
 *	  full.  While there is something that may be emptied later, it looks now
 *	  and then, less and less often.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/transam.h"
#include "base/debug.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/memutils.h"

/* Two looks are so far from each other at least. */
#define LOOK_EVERY_MS		10

/* While the log is full, the relay looks so often. */
#define FULL_LOOK_MS		50

/* If nothing is noted, it looks at first after so long, and at last. */
#define SHORTEST_PAUSE_MS	1000
#define LONGEST_PAUSE_MS	60000

/* A look is worth while when that part of a segment's share was noted. */
#define LOOK_PARTS			16

/* What a row takes besides its payload, about, in bytes. */
#define ROW_OVERHEAD		150

/* Who needs a segment is asked so often, unless the log is full. */
#define HELD_MS				250

/* Pauses between tries to lock what is in use. */
#define FIRST_TRY_MS		100
#define LAST_TRY_MS			5000

/* How long the relay waits for a lock on the log at most. */
#define LOCK_WAIT_MS		100

#define WARN_EVERY_MS		5000

static RelaySegments *const segments = &relay.durable.segments;

/* A segment's share of the log, in bytes. */
static uint64
share(void)
{
	return (uint64) pgpubsub_log_size * 1024 / LOG_SEGMENTS;
}

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
static void
due_in(long ms)
{
	relay_segments_due(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms));
}

/*
 * Is it time to try to empty that?  If not, there will be a look then.
 */
bool
relay_emptying_due(RelayEmptying *emptying)
{
	if (emptying->at == 0 || emptying->at <= GetCurrentTimestamp())
		return true;
	relay_segments_due(emptying->at);
	return false;
}

/*
 * It could not be emptied: somebody uses it, or an error was raised.  Try again
 * later, and later still if that fails too.
 */
void
relay_emptying_failed(RelayEmptying *emptying)
{
	int			pause = Max(emptying->pause, FIRST_TRY_MS);

	emptying->at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
	emptying->pause = Min(2 * pause, LAST_TRY_MS);
	relay_segments_due(emptying->at);
}

/* Log the error, and see that nothing of the transaction is left. */
static void
log_error(const char *what)
{
	relay_durable_error(what, &segments->logged_at,
						"The log grows until it can be done.");
}

/* How large is the current segment; how long is anything kept? */
static void
measure(void)
{
	DatabaseLog *log = &relay.database->log;
	LogSegment *current = &log->segments[pg_atomic_read_u32(&log->current)];
	uint64		before = pg_atomic_read_u64(&current->bytes);
	uint64		bytes = log_segment_bytes(current - log->segments);

	segments->events = pg_atomic_read_u64(&log->appended);
	segments->bytes = pg_atomic_read_u64(&log->appended_bytes);

	/* who waits for room adds nothing: the log is as full as it was */
	if (segments->full_since == 0)
		segments->growth = 0;
	if (bytes > before)
		segments->growth = Max(segments->growth, bytes - before);
	pg_atomic_write_u64(&current->bytes, bytes);
	segments->retain = durable_rules_longest_retain();
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
 * their last events; returns how many.  In a transaction.
 */
static int
list_used(int *used)
{
	DatabaseLog *log = &relay.database->log;
	int			count = 0;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		uint64		last = pg_atomic_read_u64(&log->segments[i].last_seq);
		int			at = count;

		if (i == (int) pg_atomic_read_u32(&log->current) || is_empty(i))
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

/* Does a rule have the segment's events kept yet? */
static bool
is_retained(int segment)
{
	LogSegment *known = &relay.database->log.segments[segment];
	TimestampTz until = (TimestampTz) pg_atomic_read_u64(&known->last_at);

	if (segments->retain == 0 || until == 0)
		return false;
	until += segments->retain;
	if (until <= GetCurrentTimestamp())
		return false;
	relay_segments_due(until);
	return true;
}

/*
 * Has the staging queue an event in the segment that is still to be noted, or,
 * with notify, to be read for native listeners?  Also true where that cannot be
 * seen.  No writer holds the segment, so its places are marked; else more may
 * come.
 */
static bool
is_staged(int segment, bool notify)
{
	Staging    *staging = relay.database->log.staging;
	uint64		noted = staging_noted(staging);
	uint64		notified = staging_notified(staging);
	uint64		pos = 0;
	StagedView	view;
	bool		all;

	while (staging_walk_places(staging, &pos, &view, &all))
	{
		StagedEvent *event = view.events;

		/* what is not committed is not there, or in another segment */
		if (view.generation !=
			pg_atomic_read_u32(&relay.database->generation) ||
			!TransactionIdIsValid(view.xid) ||
			!TransactionIdDidCommit(view.xid))
			continue;
		for (uint32 i = 0; i < view.nevents; i++)
		{
			uint64		done = notify && event->reference ?
				Min(noted, notified) : noted;

			if (event->segment == segment &&
				(view.first == 0 || view.first + i > done))
				return true;
			event = staged_event_next(event);
		}
	}
	return !all;
}

/* The segment is empty. */
static void
show_empty(int segment)
{
	LogSegment *known = &relay.database->log.segments[segment];

	pg_atomic_write_u64(&known->last_seq, 0);
	pg_atomic_write_u64(&known->first_seq, 0);
	pg_atomic_write_u64(&known->first_at, 0);
	pg_atomic_write_u64(&known->last_at, 0);
	pg_atomic_write_u64(&known->bytes, 0);
	segments->segment[segment].at = 0;
	segments->segment[segment].pause = 0;
}

/* Are all rows of the segment noted, and sent? */
static bool
is_noted(int segment)
{
	return pg_atomic_read_u32(&relay.database->log.recovered) == LOG_RECOVERED &&
		!is_staged(segment, true);
}

/*
 * In a transaction: lock the segment, and empty it if nothing of it is needed
 * but by the holders given, which lose it.  Returns false if that cannot be
 * done now.
 */
static bool
lock_and_empty(int segment, SegmentHolders *losing)
{
	/* look first: a try to lock uses up a transaction id */
	if (!is_noted(segment) ||
		!log_lock_to_empty(LOG_ROWS, segment) ||
		!log_lock_to_empty(LOG_NOTES, segment) ||
		!is_noted(segment))
		return false;
	if (losing && !segment_lose(losing))
		return false;
	DEBUG_POINT("durable_emptying");
	log_empty(LOG_ROWS, segment);
	log_empty(LOG_NOTES, segment);
	return true;
}

/*
 * A segment could be emptied: why others could not may be over, too.  Without
 * this, each of them would have the log grow for a pause of its own when it
 * becomes the oldest.
 */
static void
end_pauses(void)
{
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		RelayEmptying *emptying = &segments->segment[i];

		if (emptying->pause != 0)
			emptying->at = emptying->pause = 0;
	}
}

/*
 * Empty the segment; losing are those that need it, or NULL.  Returns whether
 * that was done.  Raises nothing.
 */
static bool
empty_segment(int segment, SegmentHolders *losing)
{
	RelayEmptying *emptying = &segments->segment[segment];
	volatile bool done = false;

	if (!relay_emptying_due(emptying))
		return false;
	PG_TRY();
	{
		relay_begin("emptying a segment of the log");
		done = lock_and_empty(segment, losing);
		if (losing && !done)
			segment_not_lost(losing);
		relay_end();
	}
	PG_CATCH();
	{
		done = false;
		log_error("empty a segment of the log");
		if (losing)
			segment_not_lost(losing);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(MessageContext);
	if (!done)
	{
		relay_emptying_failed(emptying);
		return false;
	}
	show_empty(segment);
	end_pauses();
	if (losing)
		segment_lost(losing);
	return true;
}

/* In PG_CATCH(): who needs the segment could not be found out. */
static void
holders_unseen(int segment)
{
	log_error("find out who needs a segment of the log");
	segments->segment[segment].unseen = true;
	relay_emptying_failed(&segments->segment[segment]);
}

/*
 * Has any subscription something to read in the segment?  Also true if that
 * cannot be found out now; raises nothing.
 */
static bool
is_held(int segment)
{
	volatile bool held = true;

	PG_TRY();
	{
		held = segment_is_held(segment);
		segments->segment[segment].unseen = false;
	}
	PG_CATCH();
	{
		holders_unseen(segment);
	}
	PG_END_TRY();
	return held;
}

/* Empty the segments that nobody needs.  Returns whether any was. */
static bool
empty_unneeded(const int *used, int count)
{
	bool		any = false;

	for (int i = 0; i < count; i++)
	{
		RelayEmptying *emptying = &segments->segment[used[i]];

		if (!relay_emptying_due(emptying) || is_retained(used[i]))
			continue;
		if (!is_held(used[i]))
			any |= empty_segment(used[i], NULL);
		else if (relay_emptying_due(emptying))
		{
			emptying->at =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HELD_MS);
			emptying->pause = 0;
		}
	}
	return any;
}

/*
 * Have writers go on in an empty segment.  Returns false if there is none that
 * they could lock at once; *locked then tells whether one is empty.  In a
 * transaction.
 */
static bool
turn(bool *locked)
{
	DatabaseLog *log = &relay.database->log;
	int			current = (int) pg_atomic_read_u32(&log->current);

	*locked = false;
	for (int i = 1; i < LOG_SEGMENTS; i++)
	{
		int			next = (current + i) % LOG_SEGMENTS;

		if (!is_empty(next))
			continue;
		if (!log_is_writable(LOG_ROWS, next) ||
			!log_is_writable(LOG_NOTES, next))
		{
			*locked = true;
			continue;
		}
		*locked = false;
		pg_atomic_write_u32(&log->current, (uint32) next);
		pg_atomic_fetch_add_u64(&log->rotations, 1);
		return true;
	}
	return false;
}

/*
 * Show whether writers are to wait, and for whom: 0: they need not; 1: for one
 * that is never to lose anything; 2: for one that is evicted in a moment, or for
 * the relay.
 */
static void
show_full(uint32 full, const char *name)
{
	DatabaseLog *log = &relay.database->log;
	uint32		before = pg_atomic_read_u32(&log->full);

	LWLockAcquire(relay.database->lock, LW_EXCLUSIVE);
	strlcpy(log->held_by, name, NAMEDATALEN);
	LWLockRelease(relay.database->lock);
	if (full == before)
		return;
	pg_atomic_write_u32(&log->full, full);
	if (before == 0)
		pg_atomic_fetch_add_u64(&log->full_count, 1);
	ConditionVariableBroadcast(&log->room_cv);
}

/* There is room again. */
static void
end_full(void)
{
	if (segments->full_since == 0)
		return;
	segments->full_since = 0;
	show_full(0, "");
}

/* Warn that the log is full, now and then. */
static void
warn_full(const char *detail)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(segments->warned_at, now, WARN_EVERY_MS))
		return;
	segments->warned_at = now;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("pgpubsub log of durable channels in database \"%s\" is full",
					relay.database_name),
			 errdetail_internal("%s", detail),
			 errhint("Have the subscription's reader catch up, drop it, or raise pgpubsub.log_size.")));
}

/*
 * Say what the verdict on the oldest segment means for writers; holders is NULL
 * if there is none, since it is locked.
 */
static void
tell_full(const SegmentHolders *holders)
{
	switch (holders ? holders->verdict : SEGMENT_FREE)
	{
		case SEGMENT_BLOCKED:
			show_full(1, holders->name);
			warn_full(psprintf("Subscription \"%s\" (block) has not read what is in the oldest segment; writers wait.",
							   holders->name));
			break;
		case SEGMENT_EVICTING:
			show_full(2, holders->name);
			break;
		case SEGMENT_READ:
			show_full(0, "");
			warn_full(psprintf("Subscription \"%s\" is being read, and so loses nothing; the log grows.",
							   holders->name));
			break;
		case SEGMENT_FREE:
		case SEGMENT_LOSABLE:
			show_full(0, "");
			warn_full("The oldest segment is in use by another session, or is yet to be noted or sent; the log grows.");
			break;
	}
}

/* Has the log been full for so long that subscriptions are to be evicted? */
static bool
is_evicting(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;

	if (segments->full_since == 0)
		segments->full_since = now;
	due = TimestampTzPlusMilliseconds(segments->full_since,
									  pgpubsub_evict_timeout);
	if (due > now)
		relay_segments_due(due);
	return due <= now;
}

/*
 * Find who needs the segment; see segment_find_holders().  Returns NULL if that
 * cannot be found out now; raises nothing.
 */
static SegmentHolders *
find_holders(int segment)
{
	SegmentHolders *volatile holders = NULL;

	PG_TRY();
	{
		holders = segment_find_holders(segment, is_evicting());
		segments->segment[segment].unseen = false;
	}
	PG_CATCH();
	{
		holders_unseen(segment);
	}
	PG_END_TRY();
	return holders;
}

/*
 * The segment is needed.  Who reads may free it at any moment, so there is no
 * pause for those who hold it; and no long one for a lock.
 */
static void
hurry(RelayEmptying *emptying)
{
	TimestampTz soon = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   FIRST_TRY_MS);

	emptying->at = emptying->pause == 0 ? 0 : Min(emptying->at, soon);
	emptying->pause = Min(emptying->pause, FIRST_TRY_MS);
}

/*
 * The log is full.  Empty its oldest segment, if that may be lost, whatever the
 * rules retain; else tell.  Returns whether it was emptied.
 */
static bool
make_room(int oldest)
{
	SegmentHolders *holders = NULL;
	RelayEmptying *emptying = &segments->segment[oldest];

	hurry(emptying);
	due_in(FULL_LOOK_MS);
	if (relay.durable.retry_at == 0 && is_staged(oldest, false))
	{
		(void) is_evicting();
		show_full(2, "");
		return false;
	}
	if (!emptying->unseen || relay_emptying_due(emptying))
		holders = find_holders(oldest);
	if (holders && holders->verdict <= SEGMENT_LOSABLE &&
		empty_segment(oldest, holders->count > 0 ? holders : NULL))
		return true;
	tell_full(holders);
	return false;
}

/*
 * Of the segments used, the one that is needed next: what has no note yet, and
 * cannot be emptied, is being written.  There is one at least.
 */
static int
find_oldest(const int *used, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (pg_atomic_read_u64(&relay.database->log.segments[used[i]].last_seq) != 0)
			return used[i];
	}
	return used[0];
}

/*
 * Is the current segment nearer to its share than it would be at the next look?
 * So the log has its size on average, however seldom the relay looks.
 */
static bool
current_is_full(void)
{
	DatabaseLog *log = &relay.database->log;
	LogSegment *current = &log->segments[pg_atomic_read_u32(&log->current)];

	return pg_atomic_read_u64(&current->bytes) + segments->growth / 2 >=
		share();
}

/* Have writers go on in an empty segment; see turn().  Raises what that does. */
static bool
turn_in_transaction(bool *locked)
{
	bool		turned;

	relay_begin("turning over the log");
	turned = turn(locked);
	relay_end();
	MemoryContextSwitchTo(MessageContext);
	return turned;
}

/* Look at the segments, and do what is due.  Raises what looking does. */
static void
look(void)
{
	int			used[LOG_SEGMENTS];
	int			count;
	bool		full;
	bool		locked = false;

	relay_begin("looking at the log of durable channels");
	measure();
	full = current_is_full() && !turn(&locked);
	count = list_used(used);
	relay_end();
	MemoryContextSwitchTo(MessageContext);
	if (empty_unneeded(used, count) && full)
		full = !turn_in_transaction(&locked);
	if (full && locked)
		tell_full(NULL);
	else if (full && count > 0 && make_room(find_oldest(used, count)))
		full = !turn_in_transaction(&locked);
	if (!full)
		end_full();

	relay_turn_positions();

	/* readers go on, and write positions, when nothing is noted, too */
	if (count > 0 || segments->bytes > 0 || segments->position_bytes > 0)
		due_in(segments->pause);
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

/* When the next look is due; 0 if nothing has one come. */
static TimestampTz
next_look(void)
{
	TimestampTz next = segments->look_at;
	uint64		events;
	uint64		bytes = noted_bytes(&events);

	if (segments->looked_at == 0)
		next = 1;
	else if (bytes >= share() / LOOK_PARTS || events > 0)
	{
		TimestampTz noted =
		TimestampTzPlusMilliseconds(segments->looked_at,
									bytes >= share() / LOOK_PARTS ?
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
	TimestampTz now;
	TimestampTz next;
	MemoryContext old;

	if (is_idle() || (next = next_look()) == 0)
		return;
	now = GetCurrentTimestamp();
	if (now < next)
		return;
	old = MemoryContextSwitchTo(MessageContext);
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
		log_error("look at the log of durable channels");
		due_in(LAST_TRY_MS);
	}
	PG_END_TRY();
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
	if (pg_atomic_read_u32(&relay.database->log.full) != 0)
		show_full(0, "");
}

/*-------------------------------------------------------------------------
 *
 * empty_segments.c
 *	  Emptying segments of the log.
 *
 * 1. A segment is emptied as soon as nobody needs it any more: no subscription
 *	  has anything to read there, all its rows are noted and sent, and no rule
 *	  has its events kept for longer.  Or if those who need it lose it.
 *
 * 2. The relay does not wait for anybody's lock, but for a moment when the log
 *	  is full.  Until a segment can be emptied, the others grow, and a warning
 *	  says why.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/transam.h"
#include "base/debug.h"
#include "miscadmin.h"
#include "relay/relay.h"
#include "storage/proc.h"
#include "utils/memutils.h"

/* Who needs a segment is asked so often, unless the log is full. */
#define HELD_MS				250

/* Pauses between tries to lock what is in use; the first is RELAY_FIRST_TRY_MS. */
#define LAST_TRY_MS			5000

static RelaySegments *const segments = &relay.durable.segments;

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
	int			pause = Max(emptying->pause, RELAY_FIRST_TRY_MS);

	emptying->at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
	emptying->pause = Min(2 * pause, LAST_TRY_MS);
	relay_segments_due(emptying->at);
}

/* Log the error, and see that nothing of the transaction is left. */
void
relay_segments_error(const char *what)
{
	int			timeout = LockTimeout;

	relay_durable_error(what, &segments->logged_at,
						"The log grows until it can be done.");

	/* the rollback has reset it, and the look goes on */
	LockTimeout = timeout;
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
bool
segment_is_staged(int segment, bool notify)
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

/* The segment is emptied: say so.  Cannot fail. */
static void
show_empty(int segment)
{
	LogSegment *known = &relay.database->log.segments[segment];
	uint32		turn;

	pg_atomic_write_u64(&known->last_seq, 0);
	pg_atomic_write_u64(&known->first_seq, 0);
	pg_atomic_write_u64(&known->first_at, 0);
	pg_atomic_write_u64(&known->last_at, 0);
	pg_atomic_write_u64(&known->bytes, 0);
	pg_atomic_write_u64(&known->beside, 0);
	pg_atomic_write_u64(&known->row_bytes, 0);
	pg_atomic_write_u64(&known->rest, 0);
	pg_atomic_write_u64(&known->extra, 0);
	segments->segment[segment].at = 0;
	segments->segment[segment].pause = 0;
	segments->segment[segment].damaged = false;
	do
		turn = pg_atomic_read_u32(&relay.database->log.turn);
	while (!log_show_empty(relay.database, segment, true, turn));
}

/*
 * A transaction of this process commits.  If it has emptied something, which only
 * a relay's does, show that while all of it is locked: who waits for the lock
 * finds it so.  Cannot fail.
 */
void
relay_empty_at_commit(void)
{
	int			emptied = segments->emptied;

	if (emptied == RELAY_EMPTIED_NOTHING)
		return;
	segments->emptied = RELAY_EMPTIED_NOTHING;
	segments->losing = NULL;
	if (emptied == RELAY_EMPTIED_POSITIONS)
	{
		DEBUG_POINT("durable_positions_emptied");
		return;
	}
	show_empty(emptied - RELAY_EMPTIED_SEGMENT(0));
	DEBUG_POINT("durable_emptied");
}

/* Are all rows of the segment noted, and sent? */
static bool
is_noted(int segment)
{
	return pg_atomic_read_u32(&relay.database->log.recovered) == LOG_RECOVERED &&
		!segment_is_staged(segment, true);
}

/*
 * In a transaction: lock the segment, and empty it if nothing of it is needed
 * but by the holders given, which lose it.  Returns false if that cannot be
 * done now.  Raises 55P03 if others had it locked for longer than that patience.
 */
static bool
lock_and_empty(int segment, SegmentHolders *losing, int patience)
{
	/* look first: a try to lock uses up a transaction id */
	if (!is_noted(segment) ||
		!log_lock_to_empty(LOG_ROWS, segment, patience) ||
		!log_lock_to_empty(LOG_NOTES, segment, patience) ||
		!is_noted(segment) || segment_is_needed(segment, losing))
		return false;
	note_look_for_lost(segment);
	note_look_for_lost(log_current(relay.database));
	Assert(segments->segment[segment].damaged || survey_all_noted(segment));
	Assert(losing || relay_positions_past(segment));
	if ((losing && !segment_lose(losing)) ||
		!log_keep_counts(relay.database, segment))
		return false;
	log_empty(LOG_ROWS, segment);
	log_empty(LOG_NOTES, segment);
	segments->emptied = RELAY_EMPTIED_SEGMENT(segment);
	DEBUG_POINT("durable_emptying");
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
	segments->patient_tries = 0;
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		RelayEmptying *emptying = &segments->segment[i];

		if (emptying->pause != 0)
			emptying->at = emptying->pause = 0;
	}
}

/*
 * The transaction that was to empty a segment does not commit: those who lose
 * something by it have it again.  Cannot fail.
 */
static void
take_loss_back(void)
{
	SegmentHolders *losing = segments->losing;

	segments->losing = NULL;
	if (losing)
		segment_not_lost(losing);
}

/*
 * The relay ends, perhaps while it empties a segment.  No LWLock is held.
 */
void
segment_empty_exit(void)
{
	take_loss_back();
}

/*
 * In PG_CATCH(): the segment was not emptied.  What came to an end may be nothing
 * but the patience with those who have it locked.
 */
static void
emptying_error(RelayEmptying *emptying, int patience)
{
	emptying->error = patience == 0 || geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE;
	if (emptying->error)
		relay_segments_error("empty a segment of the log");
	else
		FreeErrorData(relay_abort());
}

/*
 * Empty the segment; losing are those that need it, or NULL.  Who has it locked is
 * waited for so many ms.  Returns whether that was done.  If not, its transaction is
 * rolled back, for it may have told the log what is lost.  Raises nothing.
 */
bool
segment_empty(int segment, SegmentHolders *losing, int patience)
{
	RelayEmptying *emptying = &segments->segment[segment];
	int			timeout = LockTimeout;
	volatile bool done = false;

	if (!relay_emptying_due(emptying))
		return false;
	emptying->error = false;
	PG_TRY();
	{
		relay_begin("emptying a segment of the log");
		segments->losing = losing;
		done = lock_and_empty(segment, losing, patience);
		if (done)
			relay_end();
		else
		{
			take_loss_back();
			relay_undo();
		}
	}
	PG_CATCH();
	{
		done = false;
		segments->emptied = RELAY_EMPTIED_NOTHING;
		emptying_error(emptying, patience);
		LockTimeout = timeout;
		take_loss_back();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(MessageContext);
	if (!done)
	{
		relay_emptying_failed(emptying);
		return false;
	}
	end_pauses();
	if (losing)
		segment_lost(losing);
	return true;
}

/* In PG_CATCH(): who needs the segment could not be found out. */
void
segment_holders_unseen(int segment)
{
	relay_segments_error("find out who needs a segment of the log");
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
		segment_holders_unseen(segment);
	}
	PG_END_TRY();
	return held;
}

/*
 * Empty those of the segments given that nobody needs; returns how many are left
 * of them.  Not in a transaction; raises nothing.
 */
int
segment_empty_unneeded(int *used, int count)
{
	int			left = 0;

	for (int i = 0; i < count; i++)
	{
		RelayEmptying *emptying = &segments->segment[used[i]];

		if (!relay_emptying_due(emptying) || is_retained(used[i]))
			 /* not now */ ;
		else if (!is_held(used[i]))
		{
			if (segment_empty(used[i], NULL, 0))
				continue;
		}
		else if (relay_emptying_due(emptying))
		{
			emptying->at =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), HELD_MS);
			emptying->pause = 0;
		}
		used[left++] = used[i];
	}
	return left;
}

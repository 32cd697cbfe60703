/*-------------------------------------------------------------------------
 *
 * turn.c
 *	  Which segment of the log writers use, and how much they may write there.
 *
 * 1. The relay says which segments are empty.  A writer that finds that the
 *	  current one has its share of pgpubsub.log_size turns to the next empty
 *	  one, so that the log keeps its size however late the relay is.
 *
 * 2. Where none is empty, a writer that can wait asks the relay for a look:
 *	  that empties one, or lets the current one grow, or has writers wait; see
 *	  relay/turn_segments.c.
 *
 * 3. A writer that used a segment which was turned over does no harm: it is not
 *	  emptied until its rows are noted.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "storage/bufmgr.h"
#include "utils/rel.h"

/* A segment's share of the log, in bytes. */
uint64
log_share(void)
{
	return (uint64) pgpubsub_log_size * 1024 / LOG_SEGMENTS;
}

/* The segment that writers are to use. */
int
log_current(Database *database)
{
	return LOG_TURN_CURRENT(pg_atomic_read_u32(&database->log.turn));
}

/* Is any segment empty, but the current one? */
bool
log_any_empty(Database *database)
{
	return LOG_TURN_EMPTY(pg_atomic_read_u32(&database->log.turn)) != 0;
}

/*
 * Have writers use the next empty segment instead of that one, unless another
 * process has done so.  Returns false if there is none.
 */
bool
log_turn(Database *database, int from)
{
	DatabaseLog *log = &database->log;
	uint32		turn = pg_atomic_read_u32(&log->turn);

	for (;;)
	{
		uint32		empty = LOG_TURN_EMPTY(turn);
		int			next = from;

		if (LOG_TURN_CURRENT(turn) != from)
			return true;
		if (empty == 0)
			return false;
		do
			next = (next + 1) % LOG_SEGMENTS;
		while ((empty & (1U << next)) == 0);
		Assert(next != from);
		if (pg_atomic_compare_exchange_u32(&log->turn, &turn,
										   LOG_TURN(next, empty & ~(1U << next))))
			break;
	}
	pg_atomic_fetch_add_u64(&log->rotations, 1);
	return true;
}

/*
 * The relay has seen that the segment is empty, after it read that turn: writers
 * may turn to it.  Returns false if there was a turn meanwhile, for it may have
 * come to it.
 */
bool
log_show_empty(Database *database, int segment, uint32 turn)
{
	uint32		empty = LOG_TURN_EMPTY(turn) | 1U << segment;

	if (LOG_TURN_CURRENT(turn) == segment || empty == LOG_TURN_EMPTY(turn))
		return true;
	if (!pg_atomic_compare_exchange_u32(&database->log.turn, &turn,
										LOG_TURN(LOG_TURN_CURRENT(turn), empty)))
		return false;
	ConditionVariableBroadcast(&database->log.room_cv);
	return true;
}

/*
 * May a writer insert into the segment, whose rows it has open?  Notes and toast
 * count as the relay has seen them, and long payloads since then.
 */
bool
log_has_room(Database *database, int segment, Relation rel)
{
	LogSegment *known = &database->log.segments[segment];
	uint64		bytes = (uint64) RelationGetNumberOfBlocks(rel) * BLCKSZ;

	bytes += pg_atomic_read_u64(&known->beside) +
		pg_atomic_read_u64(&known->toasted);
	return bytes < log_share() + pg_atomic_read_u64(&known->extra);
}

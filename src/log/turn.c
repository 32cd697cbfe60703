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

/*
 * A segment's share of the log, in bytes.  It is the relay's, since a session may
 * read the configuration late.
 */
uint64
log_share(Database *database)
{
	uint64		share = pg_atomic_read_u64(&database->log.share);

	return share != 0 ? share : (uint64) pgpubsub_log_size * 1024 / LOG_SEGMENTS;
}

/* The segment that writers are to use. */
int
log_current(Database *database)
{
	return LOG_TURN_CURRENT(pg_atomic_read_u32(&database->log.turn));
}

/* May writers turn to a segment that is empty? */
bool
log_can_turn(Database *database)
{
	return LOG_TURN_EMPTY(pg_atomic_read_u32(&database->log.turn)) != 0 &&
		pg_atomic_read_u32(&database->log.over) == 0;
}

/*
 * Have writers use the next empty segment instead of that one, unless another
 * process has done so.  Returns false if that cannot be done.
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
		if (empty == 0 || pg_atomic_read_u32(&log->over) != 0)
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
 * The relay has seen whether the segment is empty, after it read that turn: writers
 * may turn to it if so.  Returns false if there was a turn meanwhile, for it may
 * have come to it.
 */
bool
log_show_empty(Database *database, int segment, bool is_empty, uint32 turn)
{
	uint32		empty = LOG_TURN_EMPTY(turn);

	if (LOG_TURN_CURRENT(turn) == segment)
		return true;
	if (is_empty)
		empty |= 1U << segment;
	else
		empty &= ~(1U << segment);
	if (empty == LOG_TURN_EMPTY(turn))
		return true;
	if (!pg_atomic_compare_exchange_u32(&database->log.turn, &turn,
										LOG_TURN(LOG_TURN_CURRENT(turn), empty)))
		return false;
	if (is_empty)
		ConditionVariableBroadcast(&database->log.room_cv);
	return true;
}

/* How many bytes the segment may have. */
uint64
log_limit(Database *database, int segment)
{
	LogSegment *known = &database->log.segments[segment];
	uint64		share = log_share(database) + pg_atomic_read_u64(&known->extra);
	uint64		rest = pg_atomic_read_u64(&known->rest);

	return Max(share, rest);
}

/*
 * A writer, which has the segment's rows locked, has inserted up to that block.  To
 * know that costs the next ones less than to ask for the size of the file.
 */
void
log_add_rows(Database *database, int segment, BlockNumber last)
{
	pg_atomic_uint64 *bytes = &database->log.segments[segment].row_bytes;
	uint64		now = ((uint64) last + 1) * BLCKSZ;
	uint64		known = pg_atomic_read_u64(bytes);

	while (known < now && !pg_atomic_compare_exchange_u64(bytes, &known, now))
		;
}

/*
 * May a writer insert into the segment, whose rows it has open and locked?  Notes,
 * indexes and toast count as the relay has seen them, with what was added to toast
 * since.
 */
bool
log_has_room(Database *database, int segment, Relation rel)
{
	LogSegment *known = &database->log.segments[segment];
	uint64		bytes = pg_atomic_read_u64(&known->row_bytes);

	if (bytes == 0)
		bytes = (uint64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	return bytes + pg_atomic_read_u64(&known->beside) <
		log_limit(database, segment);
}

/*
 * A writer is about to insert payloads that are too long for a page, of so many
 * bytes in all.  Until the relay looks, that is what they take.
 */
void
log_add_long(Database *database, int segment, Size bytes)
{
	pg_atomic_fetch_add_u64(&database->log.segments[segment].beside, bytes);
}

/*-------------------------------------------------------------------------
 *
 * turn_positions.c
 *	  The two relations with positions take turns.
 *
 * 1. Every transaction that consumes adds a row to the current relation.  When
 *	  that has grown, and the other one is empty, positions go to the other one
 *	  from then on.
 *
 * 2. The relation that is not current is emptied, if it is not.  In the same
 *	  transaction, the rows that count are copied to the current one: for each
 *	  subscription the one with the highest version, wherever it is.  A row that
 *	  is copied twice does no harm.
 *
 * 3. Rows of subscriptions that exist no more are left behind.  Those that exist
 *	  are known in shared memory, once the relay has read their table; where it
 *	  cannot know all of them, it copies every row.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/table.h"
#include "base/debug.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* The relation is large enough for a turn, in bytes. */
#define TURN_BYTES		((uint64) 1024 * 1024)

/* What the other relation's rows, once copied, may take of the growth. */
#define LIVE_FACTOR		4

static RelaySegments *const segments = &relay.durable.segments;

/* The ids of the subscriptions that there are. */
typedef struct KnownIds
{
	bool		all;			/* whatever id, it may be one */
	int64	   *ids;			/* sorted */
	int			count;
} KnownIds;

/* Order of ids. */
static int
compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/* List the ids in shared memory, as many as there is room for. */
static int
list_ids(int64 *ids, int room)
{
	int			count = 0;

	LWLockAcquire(relay.database->lock, LW_SHARED);
	foreach_dlist(Subscription, subscription, node,
				  &relay.database->subscriptions)
	{
		if (subscription->id == 0)
			continue;
		if (count < room)
			ids[count] = subscription->id;
		count++;
	}
	LWLockRelease(relay.database->lock);
	return count;
}

/* Find out which subscriptions there are. */
static void
find_ids(KnownIds *known)
{
	Database   *database = relay.database;
	int			room = 0;

	known->ids = NULL;
	while ((known->count = list_ids(known->ids, room)) > room)
	{
		room = known->count + 8;
		known->ids = MemoryContextAllocHuge(CurrentMemoryContext,
											room * sizeof(int64));
	}
	if (known->count > 1)
		qsort(known->ids, known->count, sizeof(int64), compare_ids);

	/* the table may have some of which shared memory does not know */
	known->all = relay.no_room_at != 0 ||
		pg_atomic_read_u32(&database->relay.loaded) == 0 ||
		pg_atomic_read_u64(&database->requests.made) !=
		pg_atomic_read_u64(&database->requests.handled);
}

/* Is the position the ceiling, or that of a subscription that there is? */
static bool
is_wanted(const KnownIds *known, int64 id)
{
	return id == 0 || known->all ||
		(known->count > 0 &&
		 bsearch(&id, known->ids, known->count, sizeof(int64),
				 compare_ids) != NULL);
}

/*
 * In a transaction: empty the one relation, after copying what counts to the
 * other, which is the current one.  Returns false if that cannot be locked now.
 */
static bool
copy_and_empty(int from, int to)
{
	Relation	rel;
	KnownIds	known;
	ListCell   *lc;
	List	   *positions;

	if (!log_lock_to_empty(LOG_POSITION, from, 0))
		return false;
	rel = log_try_open(LOG_POSITION, to, RowExclusiveLock);
	if (rel == NULL)
		return false;

	/* in this order: whose row is read is known by then, unless it is gone */
	positions = log_positions_read(-1);
	find_ids(&known);
	foreach(lc, positions)
	{
		LogPosition *position = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (is_wanted(&known, position->id))
			log_position_put(rel, position);
	}
	segments->position_live = (uint64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	table_close(rel, NoLock);
	DEBUG_POINT("durable_positions_copied");
	log_empty(LOG_POSITION, from);
	segments->emptied = RELAY_EMPTIED_POSITIONS;
	DEBUG_POINT("durable_positions_emptying");
	return true;
}

/* Empty the relation that is not current.  Raises what that does. */
static void
empty_other(int from, int to)
{
	bool		done;

	if (!relay_emptying_due(&segments->position))
		return;
	relay_begin("emptying positions in the log");
	done = copy_and_empty(from, to);
	relay_end();
	MemoryContextSwitchTo(MessageContext);
	if (done)
		segments->position.at = segments->position.pause = 0;
	else
		relay_emptying_failed(&segments->position);
}

/*
 * Look whether positions are to go to the other relation, or that one is to be
 * emptied.  Not in a transaction; raises what that does.
 */
void
relay_turn_positions(void)
{
	DatabaseLog *log = &relay.database->log;
	int			current = (int) pg_atomic_read_u32(&log->position);
	int			other = (current + 1) % LOG_POSITIONS;
	uint64		before = segments->position_bytes;
	bool		empty;

	relay_begin("looking at positions in the log");
	segments->position_bytes = log_relation_bytes(LOG_POSITION, current);
	empty = log_is_empty(LOG_POSITION, other);
	relay_end();
	MemoryContextSwitchTo(MessageContext);

	/* while they grow, somebody reads what is in the log */
	if (segments->position_bytes != before)
		segments->pause = 1000;
	if (empty && segments->position_bytes >=
		TURN_BYTES + LIVE_FACTOR * segments->position_live)
	{
		pg_atomic_write_u32(&log->position, (uint32) other);
		DEBUG_POINT("durable_positions_switched");
		segments->position_bytes = 0;
		empty = false;
		other = current;
		current = (int) pg_atomic_read_u32(&log->position);
	}
	if (!empty)
		empty_other(other, current);
}

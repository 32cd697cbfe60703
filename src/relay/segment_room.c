/*-------------------------------------------------------------------------
 *
 * segment_room.c
 *	  What becomes of the log when it has its size.
 *
 * 1. The oldest segment is needed then.  No rule retains it any longer.  The
 *	  subscriptions that have something to read there lose that, if their
 *	  on_full is drop; or evict, and the log is full for evict_timeout, in which
 *	  writers wait.  For one that blocks, writers wait until it has read, or
 *	  fail.
 *
 * 2. Who reads a subscription just now has events that are not committed as
 *	  consumed, and loses nothing; and somebody may have a lock: EXPLAIN keeps
 *	  a segment from being emptied, and REINDEX in an open transaction locks
 *	  writers out of one that is empty.  Such a lock is waited for, a moment and
 *	  some times, while writers wait, too.  Then the current segment grows bit by
 *	  bit until there is an empty one, and a warning says why.
 *
 * 3. Where the relay itself is behind, and has not noted yet what is in the
 *	  oldest segment, writers wait for it.  Not if it cannot note, since it gets
 *	  an error or no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "miscadmin.h"
#include "utils/memutils.h"

/* While the log is full, the relay looks so often. */
#define FULL_LOOK_MS		50

/* While writers wait for the relay itself, so often. */
#define BEHIND_LOOK_MS		5

/*
 * While the log is full, who has the oldest segment locked is waited for so long,
 * so often, until a segment was emptied.
 */
#define PATIENCE_MS			30
#define PATIENT_EVERY_MS	50
#define PATIENT_TRIES		5

/* By what part of its share the current segment may grow until the next look. */
#define GROWTH_PARTS		4

#define WARN_EVERY_MS		5000

static RelaySegments *const segments = &relay.durable.segments;

/*
 * Show whether writers are to wait, and for whom: 0: they need not; 1: for one
 * that is never to lose anything; 2: for one that is evicted in a moment, or for
 * the relay.
 */
void
segment_show_full(uint32 full, const char *name)
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

/*
 * Writers need not wait.  With room, there is some for good; without, since they
 * may go beyond the log's size: for those who may be evicted, it is full yet.
 */
void
segment_end_full(bool room)
{
	if (segments->full_since == 0)
		return;
	if (room)
	{
		segments->full_since = 0;
		segments->patient_tries = 0;
	}
	segment_show_full(0, "");
}

/* Warn that the log is full, now and then, and when the reason is another. */
static void
warn_full(SegmentVerdict reason, const char *detail)
{
	TimestampTz now = GetCurrentTimestamp();

	if (segments->warned_of == reason &&
		!TimestampDifferenceExceeds(segments->warned_at, now, WARN_EVERY_MS))
		return;
	segments->warned_at = now;
	segments->warned_of = reason;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("pgpubsub log of durable channels in database \"%s\" is full",
					relay.database_name),
			 errdetail_internal("%s", detail),
			 errhint("Have the subscription's reader catch up, drop it, or raise pgpubsub.log_size.")));
}

/*
 * Let writers go on in the current segment, which has its share, for a bit beyond
 * what it has, as far as that is known, and what it may have.
 */
void
segment_let_grow(void)
{
	LogSegment *current =
	&relay.database->log.segments[log_current(relay.database)];
	uint64		bytes = pg_atomic_read_u64(&current->bytes);
	uint64		share = log_share(relay.database);
	uint64		extra = pg_atomic_read_u64(&current->extra);

	if (bytes > share)
		extra = Max(extra, bytes - share);
	pg_atomic_write_u64(&current->extra, extra + share / GROWTH_PARTS);
}

/*
 * Say what the verdict on the oldest segment means for writers; holders is NULL
 * if there is none, since it is locked.  With error, it could not be emptied for
 * one.
 */
static void
tell_full(const SegmentHolders *holders, bool error)
{
	SegmentVerdict verdict = holders ? holders->verdict : SEGMENT_FREE;

	switch (verdict)
	{
		case SEGMENT_BLOCKED:
			segment_show_full(1, holders->name);
			warn_full(verdict, psprintf("Subscription \"%s\" (block) has not read what is in the oldest segment; writers wait.",
										holders->name));
			break;
		case SEGMENT_EVICTING:
			segment_show_full(2, holders->name);
			break;
		case SEGMENT_READ:
			segment_show_full(0, "");
			segment_let_grow();
			warn_full(verdict, psprintf("Subscription \"%s\" is being read, and so loses nothing; the log grows.",
										holders->name));
			break;
		case SEGMENT_FREE:
		case SEGMENT_LOSABLE:
			segment_show_full(0, "");
			segment_let_grow();
			warn_full(SEGMENT_FREE, error ?
					  "The oldest segment could not be emptied, for an error that was logged before; the log grows." :
					  "The oldest segment is in use by another session, or is yet to be noted or sent; the log grows.");
			break;
	}
}

/* The log is full, but for a segment that is empty and locked. */
void
segment_tell_locked(void)
{
	relay_segments_due_in(FULL_LOOK_MS);
	tell_full(NULL, false);
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
find_holders(int segment, bool evict)
{
	SegmentHolders *volatile holders = NULL;

	PG_TRY();
	{
		holders = segment_find_holders(segment, evict);
		segments->segment[segment].unseen = false;
	}
	PG_CATCH();
	{
		segment_holders_unseen(segment);
	}
	PG_END_TRY();
	return holders;
}

/*
 * The segment is needed.  Who reads may free it at any moment, so there is no
 * pause for those who hold it; and no long one for a lock.  After an error, as of
 * a full disk, there is.
 */
static void
hurry(RelayEmptying *emptying)
{
	TimestampTz soon = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												   RELAY_FIRST_TRY_MS);

	if (emptying->error)
		return;
	emptying->at = emptying->pause == 0 ? 0 : Min(emptying->at, soon);
	emptying->pause = Min(emptying->pause, RELAY_FIRST_TRY_MS);
}

/*
 * Writers find no room in the log, and nobody but who has the segment locked, in
 * a transaction that is short as a rule, keeps it from being emptied.  Returns for
 * how many ms the lock is to be waited for now, 0 if not at all: the transaction may
 * be a long one, and the relay has other things to do.  If that was tried just now,
 * *later is set, and writers wait until the next try.
 */
static int
have_patience(RelayEmptying *emptying, bool *later)
{
	TimestampTz now = GetCurrentTimestamp();

	if (emptying->error || segments->patient_tries >= PATIENT_TRIES)
		return 0;
	*later = now < segments->patient_at;
	if (*later)
	{
		segment_show_full(2, "");
		relay_segments_due(segments->patient_at);
		return 0;
	}
	segments->patient_tries++;
	segments->patient_at = TimestampTzPlusMilliseconds(now, PATIENT_EVERY_MS);
	emptying->at = 0;
	return PATIENCE_MS;
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
 * The log is nearly full, or, with full, writers find no room in it: empty the
 * oldest of the segments used, if that may be lost, whatever the rules retain; else,
 * with full, let the current one grow, or tell writers to wait.  Returns whether
 * it was emptied.  Not in a transaction; raises nothing.
 */
bool
segment_make_room(const int *used, int count, bool full)
{
	SegmentHolders *holders = NULL;
	RelayEmptying *emptying;
	bool		evict = full && is_evicting();
	bool		losable;
	bool		later = false;
	int			patience = 0;
	int			oldest;

	if (full)
		relay_segments_due_in(FULL_LOOK_MS);
	if (count == 0)
	{
		if (full)
			segment_let_grow();
		return false;
	}
	oldest = find_oldest(used, count);
	emptying = &segments->segment[oldest];
	hurry(emptying);
	if (relay.durable.retry_at == 0 && segment_is_staged(oldest, false))
	{
		if (full)
		{
			segment_show_full(2, "");
			relay_segments_due_in(BEHIND_LOOK_MS);
		}
		return false;
	}
	if (!emptying->unseen || relay_emptying_due(emptying))
		holders = find_holders(oldest, evict);
	losable = holders && holders->verdict <= SEGMENT_LOSABLE;
	if (full && losable)
		patience = have_patience(emptying, &later);
	if (later)
		return false;
	if (losable &&
		segment_empty(oldest, holders->count > 0 ? holders : NULL, patience))
		return true;
	if (full)
		tell_full(holders, emptying->error);
	return false;
}

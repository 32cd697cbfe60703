/*-------------------------------------------------------------------------
 *
 * counts.c
 *	  How many events the log has lost: what is kept of emptied segments.
 *
 * 1. Each note tells how many events its channel has had before.  Of a
 *	  channel's notes each ends before the next begins, so where two do not go
 *	  on from one another, it is known how many events are missing in between.
 *
 * 2. Before a segment is emptied, each channel that has notes there gets one
 *	  without events in the current segment, with the last one's seq and the
 *	  counts up to there.  So the counts of a channel go on, whatever becomes of
 *	  its events and of the server.
 *
 * 3. A note of no channel, with an empty name, tells up to which seq events were
 *	  emptied: nothing behind that is lost.  And up to which seq that was done
 *	  without keeping the counts of all channels, since there were too many.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log_internal.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* Channels whose counts are kept of a segment, at most. */
#define MOST_KEPT		10000

/* What is kept of a channel with a long name takes so many bytes, about, ... */
#define KEPT_BYTES		300

/* ... and all of that no more than this part of a segment's share. */
#define KEPT_PARTS		4

/* Insert a note without events; the seq is where it stands. */
static void
put_count(Relation rel, const char *channel, uint64 seq, uint64 events,
		  uint64 bytes)
{
	LogNote		note = {.first_seq = seq,.last_seq = seq};

	strlcpy(note.channel, channel, NAMEDATALEN);
	note.events_before = events;
	note.bytes_before = bytes;
	note.at = GetCurrentTimestamp();
	log_note_insert(rel, &note);
}

/*
 * Keep the count of the channel as of its last note in the segment.  If it has a
 * later one elsewhere, for which nobody looks here, this does no harm.
 */
static void
keep_count(Relation rel, int segment, const char *channel)
{
	LogNote		last;

	if (log_note_nearest(segment, channel, PG_INT64_MAX, false, &last))
		put_count(rel, channel, last.last_seq,
				  last.events_before + last.events,
				  last.bytes_before + last.bytes);
}

/*
 * Of how many channels counts may be kept.  They must leave room in a small
 * segment: where they filled it, it would be turned over and emptied for them, and
 * so would be the next.
 */
static int
most_kept(Database *database)
{
	uint64		room = log_share(database) / KEPT_PARTS / KEPT_BYTES;

	return (int) Min(MOST_KEPT, room);
}

/*
 * The segment is to be emptied in this transaction, and is locked: keep what
 * there is to be known of its channels, in the notes of the current segment.
 * Returns false if these cannot be locked at once.  From then on it counts as
 * emptied, whatever becomes of the transaction.  The relay alone calls this.
 * Raises what reading and writing notes does.
 */
bool
log_keep_counts(Database *database, int segment)
{
	DatabaseLog *log = &database->log;
	uint64		gone = pg_atomic_read_u64(&log->gone_seq);
	uint64		last = pg_atomic_read_u64(&log->segments[segment].last_seq);
	uint64		forgotten = pg_atomic_read_u64(&log->forgotten_seq);
	MemoryContext context;
	MemoryContext old;
	char		channel[NAMEDATALEN] = "";
	int			kept = 0;
	int			most = most_kept(database);
	Relation	rel;

	gone = Max(gone, last);
	if (gone == 0)
		return true;
	Assert(log_current(database) != segment);
	rel = log_try_open(LOG_NOTES, log_current(database), RowExclusiveLock);
	if (rel == NULL)
		return false;
	context = AllocSetContextCreate(CurrentMemoryContext, "pgpubsub counts",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	while (forgotten < gone && log_note_next_channel(segment, channel))
	{
		CHECK_FOR_INTERRUPTS();
		keep_count(rel, segment, channel);
		if (++kept == most)
			forgotten = gone;
		MemoryContextReset(context);
	}
	put_count(rel, "", gone, forgotten, 0);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	table_close(rel, NoLock);

	/* before anybody sees the segment empty */
	pg_atomic_write_u64(&log->forgotten_seq, forgotten);
	pg_atomic_write_u64(&log->gone_seq, gone);
	return true;
}

/* The relay has read a note without a channel: show what it says. */
void
log_show_counts(Database *database, const LogNote *note)
{
	DatabaseLog *log = &database->log;

	if (note->last_seq > pg_atomic_read_u64(&log->gone_seq))
		pg_atomic_write_u64(&log->gone_seq, note->last_seq);
	if (note->events_before > pg_atomic_read_u64(&log->forgotten_seq))
		pg_atomic_write_u64(&log->forgotten_seq, note->events_before);
}

/*
 * The channel's note nearest to the seq, in any segment; see
 * log_note_nearest().
 */
static bool
find_nearest(const char *channel, uint64 seq, bool above, LogNote *note)
{
	bool		any = false;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		LogNote		found;

		if (!log_note_nearest(i, channel, seq, above, &found))
			continue;
		if (!any || (above ? found.last_seq < note->last_seq :
					 found.last_seq > note->last_seq))
			*note = found;
		any = true;
	}
	return any;
}

/*
 * How many events the channel has had before the seq, if that can be told from
 * the notes around it; above is the nearest that ends there or behind.
 */
static bool
count_before(const char *channel, uint64 seq, const LogNote *above,
			 uint64 *count)
{
	LogNote		below;

	*count = above->events_before;
	if (above->events > 0 && above->first_seq <= seq)
	{
		uint64		bytes = 0;

		*count += log_note_count(above, 0, seq - 1, &bytes);
		return true;
	}
	return find_nearest(channel, seq, false, &below) &&
		below.events_before + below.events == above->events_before;
}

/*
 * What log_lost() returns.  The notes of all segments are locked.
 */
static uint64
count_lost(Database *database, const char *channel, uint64 seq, bool *before)
{
	DatabaseLog *log = &database->log;
	LogReader  *reader;
	LogNote		above;
	LogNote		last;
	uint64		count;
	uint64		kept;
	uint64		bytes = 0;

	*before = find_nearest(channel, seq, false, &above);
	if (seq > pg_atomic_read_u64(&log->gone_seq))
		return 0;
	if (seq <= pg_atomic_read_u64(&log->forgotten_seq))
		return LOG_LOST_UNKNOWN;
	if (!log_note_last(channel, &last) ||
		!find_nearest(channel, seq, true, &above))
		return 0;
	if (!count_before(channel, seq, &above, &count))
		return LOG_LOST_UNKNOWN;
	reader = log_reader_create(database);
	kept = log_reader_count(reader, channel, seq - 1, last.last_seq, &bytes,
							NULL);
	log_reader_close(reader);
	count += kept;
	return last.events_before + last.events > count ?
		last.events_before + last.events - count : 0;
}

/*
 * How many of the channel's events from the seq on were in the log, and are not
 * any more; LOG_LOST_UNKNOWN if that is not known.  *before is set to whether
 * some were logged before the seq.  Who empties a segment moves counts from its
 * notes to another's: all are locked meanwhile, so that they are seen in one of
 * these places.  Raises what reading notes does; its memory is in the current
 * context.
 */
uint64
log_lost(Database *database, const char *channel, uint64 seq, bool *before)
{
	Relation	notes[LOG_SEGMENTS];
	uint64		lost;

	for (int i = 0; i < LOG_SEGMENTS; i++)
		notes[i] = log_open(LOG_NOTES, i, AccessShareLock);
	lost = count_lost(database, channel, Max(seq, 1), before);
	for (int i = 0; i < LOG_SEGMENTS; i++)
		table_close(notes[i], AccessShareLock);
	return lost;
}

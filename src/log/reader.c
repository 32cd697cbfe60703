/*-------------------------------------------------------------------------
 *
 * reader.c
 *	  Reading events back from the log, for who is behind the ring.
 *
 * 1. A channel's events are read by seq.  In each segment that may have some,
 *	  a look at the notes goes on from the first note that ends behind the last
 *	  event consumed; the events that its runs name are fetched by their
 *	  places.  Where a segment was turned over meanwhile, two have events of
 *	  the same time: the one with the lowest seq comes next.
 *
 * 2. No snapshot is used: what is noted is committed.  What a poll costs is
 *	  what it returns, whatever else is in the log.
 *
 * 3. A segment's notes are locked before the first look at them, its rows before
 *	  the first is fetched, and both until the poll ends.  Who empties it must
 *	  have both locks, exclusive, before it looks who needs the segment: so what
 *	  a note names is there.  One that was emptied before it was locked has
 *	  nothing, or newer events, which come by their seqs.  Nothing besides the
 *	  locks need tell that it was emptied.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log_internal.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/debug.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* So long after a segment was emptied, shared memory shows it at the latest. */
#define EMPTYING_WAIT_MS	1000

/* Where a channel is read in one segment. */
typedef struct SegmentCursor
{
	NoteScan   *scan;			/* NULL: not begun, or ended */
	bool		ended;
	bool		at_event;		/* the fields below are of the next event */
	LogNote		note;
	int			run;
	int			index;			/* in that run */
} SegmentCursor;

struct LogChannel
{
	char		name[NAMEDATALEN];
	SegmentCursor cursors[LOG_SEGMENTS];
	struct varlena *payload;	/* of the event read last */
};

struct LogReader
{
	Database   *database;
	MemoryContext context;
	Relation	rows[LOG_SEGMENTS]; /* NULL: not open */
	Buffer		buffer;			/* pinned; invalid: none */
	int			buffer_segment;
	List	   *channels;		/* of LogChannel */
};

/*
 * Make a reader, in the current memory context; nothing is locked yet.
 */
LogReader *
log_reader_create(Database *database)
{
	LogReader  *reader = palloc0(sizeof(LogReader));

	reader->database = database;
	reader->context = CurrentMemoryContext;
	reader->buffer = InvalidBuffer;
	return reader;
}

/* Begin to read a channel. */
LogChannel *
log_reader_channel(LogReader *reader, const char *name)
{
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	LogChannel *channel = palloc0(sizeof(LogChannel));

	strlcpy(channel->name, name, NAMEDATALEN);
	reader->channels = lappend(reader->channels, channel);
	MemoryContextSwitchTo(old);
	return channel;
}

/* The seq of the cursor's event. */
static uint64
cursor_seq(const SegmentCursor *cursor)
{
	return cursor->note.runs[cursor->run].seq + cursor->index;
}

/* Forget the cursor's note. */
static void
drop_note(SegmentCursor *cursor)
{
	if (cursor->note.runs)
		pfree(cursor->note.runs);
	cursor->note.runs = NULL;
	cursor->at_event = false;
}

/*
 * Move the cursor to the first event of its note behind the seq.  Returns false
 * if there is none.
 */
static bool
seek_in_note(SegmentCursor *cursor, uint64 after)
{
	LogNote    *note = &cursor->note;

	while (cursor->run < note->nruns)
	{
		LogRun	   *run = &note->runs[cursor->run];

		if (run->seq + run->count > after + 1)
		{
			if (run->seq + cursor->index <= after)
				cursor->index = (int) (after + 1 - run->seq);
			return true;
		}
		cursor->run++;
		cursor->index = 0;
	}
	return false;
}

/*
 * The segment has no notes of a channel that are wanted.  Raise 55000 if it has
 * none at all though there should be some: somebody has emptied it by hand.  The
 * relay says that it has emptied one just after the commit.
 */
static void
check_not_emptied(LogSegment *known, Relation notes, uint64 after)
{
	for (int tries = 0; RelationGetNumberOfBlocks(notes) == 0; tries++)
	{
		if (pg_atomic_read_u64(&known->last_seq) <= after)
			return;
		if (tries == EMPTYING_WAIT_MS)
			log_raise_emptied(notes);
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_POLL));
	}
}

/*
 * Have the cursor stand at the segment's first event of the channel behind the
 * seq, if that is not above upto.  Returns whether there is one.  Raises 55000.
 */
static bool
advance(LogReader *reader, LogChannel *channel, int segment, uint64 after,
		uint64 upto)
{
	LogSegment *known = &reader->database->log.segments[segment];
	SegmentCursor *cursor = &channel->cursors[segment];

	if (cursor->ended || pg_atomic_read_u64(&known->last_seq) <= after)
		return false;
	if (cursor->scan == NULL)
	{
		DEBUG_POINT("durable_reads_segment");
		cursor->scan = note_scan_begin(segment, channel->name, after, true);
	}
	for (;;)
	{
		if (cursor->at_event && seek_in_note(cursor, after))
			return cursor_seq(cursor) <= upto;
		drop_note(cursor);
		if (!note_scan_next(cursor->scan, &cursor->note))
		{
			cursor->ended = true;
			check_not_emptied(known, cursor->scan->rel, after);
			return false;
		}
		cursor->at_event = true;
		cursor->run = cursor->index = 0;
	}
}

/* The segment with the next event of the channel; -1 if there is none. */
static int
find_segment(LogReader *reader, LogChannel *channel, uint64 after, uint64 upto)
{
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	int			best = -1;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		if (advance(reader, channel, i, after, upto) &&
			(best < 0 || cursor_seq(&channel->cursors[i]) <
			 cursor_seq(&channel->cursors[best])))
			best = i;
	}
	MemoryContextSwitchTo(old);
	return best;
}

/* Have the page in reader->buffer, pinned. */
static void
pin_page(LogReader *reader, int segment, BlockNumber block)
{
	if (reader->rows[segment] == NULL)
	{
		DEBUG_POINT("durable_reads_rows");
		reader->rows[segment] = log_open(LOG_ROWS, segment, AccessShareLock);
	}
	if (BufferIsValid(reader->buffer) && reader->buffer_segment == segment &&
		BufferGetBlockNumber(reader->buffer) == block)
		return;
	if (BufferIsValid(reader->buffer))
		ReleaseBuffer(reader->buffer);
	reader->buffer = InvalidBuffer;

	/* somebody may have rewritten the relation */
	if (block >= RelationGetNumberOfBlocks(reader->rows[segment]))
		log_raise_corrupted(reader->rows[segment]);
	reader->buffer = ReadBuffer(reader->rows[segment], block);
	reader->buffer_segment = segment;
}

/*
 * Copy what the row has, if xid has inserted it; payload and detoasting are in
 * the reader's context.  Raises XX001 if it is another row.
 */
static void
fetch_row(LogReader *reader, LogChannel *channel, int segment,
		  const LogRun *run, int index, LogEvent *event)
{
	Relation	rel;
	Page		page;
	OffsetNumber offset = (OffsetNumber) (run->offset + index);
	HeapTupleData tuple;
	Datum		values[LOG_ROW_COLUMNS];
	bool		nulls[LOG_ROW_COLUMNS];
	bool		good = false;
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	struct varlena *payload = NULL;

	pin_page(reader, segment, run->block);
	rel = reader->rows[segment];
	LockBuffer(reader->buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(reader->buffer);
	if (offset <= PageGetMaxOffsetNumber(page) &&
		ItemIdIsNormal(PageGetItemId(page, offset)))
	{
		ItemId		item = PageGetItemId(page, offset);

		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(rel);
		ItemPointerSet(&tuple.t_self, run->block, offset);
		good = HeapTupleHeaderGetRawXmin(tuple.t_data) == run->xid;
	}
	if (good)
	{
		struct varlena *stored;

		/* nothing is deleted, so what is deformed stays as it is */
		heap_deform_tuple(&tuple, RelationGetDescr(rel), values, nulls);
		event->pid = DatumGetInt32(values[LOG_ROW_PID - 1]);
		stored = (struct varlena *) DatumGetPointer(values[LOG_ROW_PAYLOAD - 1]);
		payload = palloc(VARSIZE_ANY(stored));
		memcpy(payload, stored, VARSIZE_ANY(stored));
	}
	LockBuffer(reader->buffer, BUFFER_LOCK_UNLOCK);
	if (!good)
		log_raise_corrupted(rel);
	if (channel->payload)
		pfree(channel->payload);
	channel->payload = payload;
	if (VARATT_IS_EXTENDED(payload))
	{
		channel->payload = detoast_attr(payload);
		pfree(payload);
	}
	MemoryContextSwitchTo(old);
	event->payload = channel->payload;
	event->payload_len = VARSIZE(channel->payload) - VARHDRSZ;
}

/*
 * Read the channel's first event behind the seq, up to the other one, which
 * must have been given out.  Returns false if there is none.  The seq must not
 * be lower than it was in an earlier call.  Needs a snapshot, for what is too
 * long for a page.
 */
bool
log_reader_next(LogReader *reader, LogChannel *channel, uint64 after,
				uint64 upto, LogEvent *event)
{
	int			segment = find_segment(reader, channel, after, upto);
	SegmentCursor *cursor;

	if (segment < 0)
		return false;
	cursor = &channel->cursors[segment];
	event->seq = cursor_seq(cursor);
	event->at = cursor->note.at;
	fetch_row(reader, channel, segment, &cursor->note.runs[cursor->run],
			  cursor->index, event);
	pg_atomic_fetch_add_u64(&reader->database->log.read_back, 1);
	return true;
}

/*
 * How many of the note's events are behind the one seq, and not behind the
 * other; *bytes is increased by what their payloads have, about.
 */
uint64
log_note_count(const LogNote *note, uint64 after, uint64 upto, uint64 *bytes)
{
	uint64		events = 0;

	if (note->first_seq > after && note->last_seq <= upto)
	{
		*bytes += note->bytes;
		return note->events;
	}
	for (int i = 0; i < note->nruns; i++)
	{
		uint64		first = Max(note->runs[i].seq, after + 1);
		uint64		end = Min(note->runs[i].seq + note->runs[i].count, upto + 1);

		if (first < end)
			events += end - first;
	}

	/* payloads are not looked at for this: about so much */
	if (events > 0)
		*bytes += note->bytes / note->events * events;
	return events;
}

/*
 * How many events of the channel the log has behind the one seq, and not behind
 * the other; *bytes is increased by what their payloads have.  *oldest_at, if
 * not NULL, is set to when the first was noted.
 */
uint64
log_reader_count(LogReader *reader, const char *name, uint64 after,
				 uint64 upto, uint64 *bytes, TimestampTz *oldest_at)
{
	uint64		events = 0;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		LogSegment *known = &reader->database->log.segments[i];
		NoteScan   *scan;
		LogNote		note;

		if (pg_atomic_read_u64(&known->last_seq) <= after)
			continue;
		scan = note_scan_begin(i, name, after, true);
		while (note_scan_next(scan, &note))
		{
			bool		more = note.last_seq < upto;

			CHECK_FOR_INTERRUPTS();
			if (note.first_seq <= upto && note.events > 0)
			{
				if (oldest_at && (*oldest_at == 0 || note.at < *oldest_at))
					*oldest_at = note.at;
				events += log_note_count(&note, after, upto, bytes);
			}
			pfree(note.runs);
			if (!more)
				break;
		}
		note_scan_end(scan);
	}
	return events;
}

/*
 * The seq before the first event of the channel that was noted at that time or
 * later, as far as the log has it; PG_UINT64_MAX if there is none.
 */
uint64
log_reader_since(LogReader *reader, const char *name, TimestampTz time)
{
	uint64		result = PG_UINT64_MAX;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		LogSegment *known = &reader->database->log.segments[i];
		NoteScan   *scan;
		LogNote		note;
		bool		found = false;

		if (pg_atomic_read_u64(&known->last_seq) == 0 ||
			(TimestampTz) pg_atomic_read_u64(&known->last_at) < time)
			continue;
		scan = note_scan_begin(i, name, 0, true);
		while (!found && note_scan_next(scan, &note))
		{
			CHECK_FOR_INTERRUPTS();
			found = note.at >= time && note.events > 0;
			if (found)
				result = Min(result, note.first_seq - 1);
			pfree(note.runs);
		}
		note_scan_end(scan);
	}
	return result;
}

/* The lowest seq that the log has; 0 if it has none. */
uint64
log_oldest_seq(Database *database)
{
	uint64		oldest = 0;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		uint64		first = pg_atomic_read_u64(&database->log.segments[i].first_seq);

		if (first != 0 && (oldest == 0 || first < oldest))
			oldest = first;
	}
	return oldest;
}

/* The end: lets go of what is locked.  The memory is the caller's. */
void
log_reader_close(LogReader *reader)
{
	ListCell   *lc;

	if (BufferIsValid(reader->buffer))
		ReleaseBuffer(reader->buffer);
	foreach(lc, reader->channels)
	{
		LogChannel *channel = lfirst(lc);

		for (int i = 0; i < LOG_SEGMENTS; i++)
		{
			if (channel->cursors[i].scan)
				note_scan_end(channel->cursors[i].scan);
		}
	}
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		if (reader->rows[i])
			table_close(reader->rows[i], AccessShareLock);
	}
}

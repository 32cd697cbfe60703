/*-------------------------------------------------------------------------
 *
 * survey.c
 *	  Looking through the log: what is noted, and what is not.
 *
 * 1. All notes are read: which seqs and times each segment has, which channels
 *	  have something in the log, and which rows are noted, a bit for each.
 *
 * 2. Then all rows are, to find those of committed transactions that are not.
 *	  Of these, what has a place in the staging queue comes by that.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/survey.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Bytes of a bitmap that has a bit for each row of a page. */
#define PAGE_BITS		((MaxHeapTuplesPerPage + 7) / 8)

static RelayDurable *const durable = &relay.durable;

/* Is the row at that place noted? */
static bool
is_noted(const NotedRows *noted, BlockNumber block, OffsetNumber offset)
{
	int			bit = offset - 1;

	return block < noted->nblocks && bit < MaxHeapTuplesPerPage &&
		(noted->bits[(Size) block * PAGE_BITS + bit / 8] & (1 << bit % 8)) != 0;
}

/* Mark the run's rows as noted.  No two runs have the same row. */
static void
mark_run(NotedRows *noted, const LogRun *run)
{
	if (run->block >= noted->nblocks)
	{
		BlockNumber larger = Max(2 * noted->nblocks, run->block + 1024);
		Size		old = (Size) noted->nblocks * PAGE_BITS;
		Size		size = (Size) larger * PAGE_BITS;

		noted->bits = noted->bits ? repalloc_huge(noted->bits, size) :
			MemoryContextAllocHuge(CurrentMemoryContext, size);
		memset(noted->bits + old, 0, size - old);
		noted->nblocks = larger;
	}
	for (int i = 0; i < run->count; i++)
	{
		int			bit = run->offset - 1 + i;

		Assert(!is_noted(noted, run->block, run->offset + i));
		if (bit < MaxHeapTuplesPerPage)
			noted->bits[(Size) run->block * PAGE_BITS + bit / 8] |=
				(uint8) (1 << bit % 8);
	}
}

/* What the note says, the segment shows. */
static void
show_note(LogSegment *segment, const LogNote *note)
{
	uint64		first = pg_atomic_read_u64(&segment->first_seq);
	uint64		first_at = pg_atomic_read_u64(&segment->first_at);

	if (first == 0 || note->first_seq < first)
		pg_atomic_write_u64(&segment->first_seq, note->first_seq);
	if (first_at == 0 || note->at < (TimestampTz) first_at)
		pg_atomic_write_u64(&segment->first_at, (uint64) note->at);
	if (note->last_seq > pg_atomic_read_u64(&segment->last_seq))
		pg_atomic_write_u64(&segment->last_seq, note->last_seq);
	if (note->at > (TimestampTz) pg_atomic_read_u64(&segment->last_at))
		pg_atomic_write_u64(&segment->last_at, (uint64) note->at);
}

/* Look through the notes of a segment. */
static void
read_notes(Recovery *recovery, int index)
{
	Relation	rel = log_open(LOG_NOTES, index, AccessShareLock);
	TableScanDesc scan = PGPUBSUB_BEGINSCAN(rel, SnapshotAny);
	MemoryContext each = AllocSetContextCreate(CurrentMemoryContext,
											   "pgpubsub note",
											   ALLOCSET_DEFAULT_SIZES);
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		MemoryContext old;
		LogNote		note;

		CHECK_FOR_INTERRUPTS();
		if (!log_row_committed(tuple->t_data))
			continue;
		old = MemoryContextSwitchTo(each);
		log_note_parse(rel, tuple, &note);
		MemoryContextSwitchTo(old);
		if (note.events == 0)
		{
			/* what is kept of a segment that was emptied; see log/counts.c */
			if (note.channel[0] == '\0')
				log_show_counts(relay.database, &note);
			recovery->highest_seq = Max(recovery->highest_seq, note.last_seq);
			MemoryContextReset(each);
			continue;
		}
		for (int i = 0; i < note.nruns; i++)
			mark_run(&recovery->noted[index], &note.runs[i]);
		show_note(&relay.database->log.segments[index], &note);
		if (durable->channels)
			(void) hash_search(durable->channels, note.channel, HASH_ENTER,
							   NULL);
		recovery->highest_seq = Max(recovery->highest_seq, note.last_seq);
		MemoryContextReset(each);
	}
	MemoryContextDelete(each);
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* Remember the row. */
static void
add_lost(Recovery *recovery, int segment, const LogRow *row)
{
	LostRow    *lost;

	if (recovery->nrows == recovery->allocated)
	{
		recovery->allocated = Max(1024, 2 * recovery->allocated);
		recovery->rows = recovery->rows ?
			repalloc_huge(recovery->rows,
						  recovery->allocated * sizeof(LostRow)) :
			MemoryContextAllocHuge(recovery->context,
								   recovery->allocated * sizeof(LostRow));
	}
	lost = &recovery->rows[recovery->nrows++];
	lost->lsn = row->lsn;
	lost->xid = row->xid;
	lost->block = row->block;
	lost->offset = row->offset;
	lost->segment = (uint8) segment;
	lost->placed = false;
}

/* Look through the rows of a segment for those without a note. */
static void
read_rows(Recovery *recovery, int segment)
{
	LogScan    *scan = log_scan_begin(segment, InvalidTransactionId, false);
	LogRow		row;

	while (log_scan_next(scan, &row))
	{
		if (!is_noted(&recovery->noted[segment], row.block, row.offset))
			add_lost(recovery, segment, &row);
		pfree(row.channel);
	}
	log_scan_end(scan);
}

/* Order of rows by place. */
static int
compare_places(const void *a, const void *b)
{
	const LostRow *left = a;
	const LostRow *right = b;

	if (left->segment != right->segment)
		return left->segment < right->segment ? -1 : 1;
	if (left->block != right->block)
		return left->block < right->block ? -1 : 1;
	return (int) left->offset - (int) right->offset;
}

/* Order of rows by their transactions' begin to write. */
static int
compare_rows(const void *a, const void *b)
{
	const LostRow *left = a;
	const LostRow *right = b;

	if (left->lsn != right->lsn)
		return left->lsn < right->lsn ? -1 : 1;
	if (left->xid != right->xid)
		return left->xid < right->xid ? -1 : 1;
	return compare_places(a, b);
}

/* The row at that place, or the first behind it; nrows if there is none. */
static Size
find_row(Recovery *recovery, const LostRow *wanted)
{
	Size		low = 0;
	Size		high = recovery->nrows;

	while (low < high)
	{
		Size		middle = low + (high - low) / 2;

		if (compare_places(&recovery->rows[middle], wanted) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The rows of that transaction, from one place to another, have a place. */
static void
mark_placed(Recovery *recovery, TransactionId xid, const LostRow *first,
			const LostRow *last)
{
	for (Size i = find_row(recovery, first);
		 i < recovery->nrows &&
		 compare_places(&recovery->rows[i], last) <= 0; i++)
	{
		if (recovery->rows[i].xid == xid)
			recovery->rows[i].placed = true;
	}
}

/* An event in the staging queue has its row, or its rows, in the log. */
static void
mark_event(Recovery *recovery, TransactionId xid, StagedEvent *event)
{
	LostRow		first = {.segment = event->segment};
	LostRow		last = {.segment = event->segment};

	if (event->reference)
	{
		LogReference *reference = staged_event_reference(event);

		first.block = reference->first_block;
		first.offset = reference->first_offset;
		last.block = reference->last_block;
		last.offset = reference->last_offset;
	}
	else
	{
		first.block = last.block = ItemPointerGetBlockNumber(&event->place);
		first.offset = last.offset = ItemPointerGetOffsetNumber(&event->place);
	}
	mark_placed(recovery, xid, &first, &last);
}

/*
 * The next place in the queue; false at the end.  One that is just being taken
 * is waited for: there may be others behind it.
 */
static bool
next_place(Staging *staging, uint64 *pos, StagedView *view)
{
	bool		all;

	while (!staging_walk_places(staging, pos, view, &all))
	{
		if (all)
			return false;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
	}
	return true;
}

/*
 * Look which rows have a place in the staging queue; after rows were found to
 * be committed, so that the place is there.
 */
void
survey_leave_out_placed(Recovery *recovery)
{
	Staging    *staging = relay.database->log.staging;
	uint64		pos = 0;
	StagedView	view;
	Size		kept = 0;

	qsort(recovery->rows, recovery->nrows, sizeof(LostRow), compare_places);
	pg_memory_barrier();
	while (next_place(staging, &pos, &view))
	{
		StagedEvent *event = view.events;

		if (view.generation !=
			pg_atomic_read_u32(&relay.database->generation) ||
			!TransactionIdIsValid(view.xid) ||
			!TransactionIdDidCommit(view.xid))
			continue;
		for (uint32 i = 0; i < view.nevents; i++)
		{
			mark_event(recovery, view.xid, event);
			event = staged_event_next(event);
		}
	}
	for (Size i = 0; i < recovery->nrows; i++)
	{
		if (!recovery->rows[i].placed)
			recovery->rows[kept++] = recovery->rows[i];
	}
	recovery->nrows = kept;
	qsort(recovery->rows, recovery->nrows, sizeof(LostRow), compare_rows);
}

/* Have read_notes() list the channels. */
void
survey_list_channels(void)
{
	HASHCTL		ctl = {.keysize = NAMEDATALEN,.entrysize = NAMEDATALEN};

	if (durable->channels)
		hash_destroy(durable->channels);
	ctl.hcxt = TopMemoryContext;
	durable->channels = hash_create("pgpubsub logged channels", 256, &ctl,
									HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/* Read what there is, in a transaction of its own. */
void
survey_log(Recovery *recovery, bool rows)
{
	relay_begin("reading the log of durable channels");
	LockTimeout = RECOVER_LOCK_WAIT_MS;
	MemoryContextSwitchTo(recovery->context);
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		read_notes(recovery, i);
		if (rows)
			read_rows(recovery, i);
	}
	MemoryContextSwitchTo(recovery->context);
	LockTimeout = 0;
	relay_end();
	MemoryContextSwitchTo(recovery->context);
}

#ifdef USE_ASSERT_CHECKING
/*
 * Are all rows of the segment noted, each once?  In the transaction that is to
 * empty it, and has it locked.
 */
bool
survey_all_noted(int segment)
{
	Recovery   *recovery = palloc0(sizeof(Recovery));

	recovery->context = CurrentMemoryContext;
	read_notes(recovery, segment);
	read_rows(recovery, segment);
	return recovery->nrows == 0;
}
#endif

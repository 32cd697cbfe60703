/*-------------------------------------------------------------------------
 *
 * rows.c
 *	  Going through the rows of a segment, page by page.
 *
 * This is for the relay, which looks for the rows of one transaction that is
 * in the log only, or after a crash for all that have no note.  A row counts
 * only if the transaction that it names is the one that has inserted it: what
 * somebody has put there in another way does not.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

struct LogScan
{
	Relation	rel;
	TransactionId xid;			/* whose rows; invalid: everybody's */
	bool		payloads;		/* read the texts, too */
	BlockNumber block;			/* the next page */
	OffsetNumber offset;		/* the first row that counts there */
	BlockNumber last_block;		/* the last page */
	OffsetNumber last_offset;	/* the last row that counts there */

	/* of the page read last */
	MemoryContext context;
	HeapTuple	tuples[MaxHeapTuplesPerPage];
	int			ntuples;
	int			next;
};

/*
 * Begin to go through the segment: through the rows of that transaction, which
 * has committed, or, if it is invalid, through all rows of transactions that
 * have committed.  payloads tells whether channel, payload,
 * id and native are wanted.  Call log_scan_from() next.
 */
LogScan *
log_scan_begin(int segment, TransactionId xid, bool payloads)
{
	LogScan    *scan = palloc0(sizeof(LogScan));

	scan->rel = log_open(LOG_ROWS, segment, AccessShareLock);
	scan->xid = xid;
	scan->payloads = payloads;
	scan->context = AllocSetContextCreate(CurrentMemoryContext,
										  "pgpubsub log page",
										  ALLOCSET_DEFAULT_SIZES);
	log_scan_from(scan, 0, FirstOffsetNumber, InvalidBlockNumber, 0);
	return scan;
}

/*
 * Go on with the row at that place, and up to the row at the other one; or up
 * to what is the end of the segment now.
 */
void
log_scan_from(LogScan *scan, BlockNumber block, OffsetNumber offset,
			  BlockNumber last_block, OffsetNumber last_offset)
{
	BlockNumber nblocks = RelationGetNumberOfBlocks(scan->rel);

	scan->ntuples = scan->next = 0;
	scan->block = block;
	scan->offset = offset;
	scan->last_block = last_block;
	scan->last_offset = last_offset;
	if (last_block == InvalidBlockNumber || last_block >= nblocks)
	{
		scan->last_block = nblocks;
		scan->last_offset = 0;
	}
}

/* Does the tuple count? */
static bool
is_wanted(LogScan *scan, HeapTupleHeader header)
{
	if (TransactionIdIsValid(scan->xid))
		return HeapTupleHeaderGetRawXmin(header) == scan->xid;
	return log_row_committed(header);
}

/* Copy the tuples of the page that count. */
static void
read_page(LogScan *scan)
{
	Buffer		buffer = ReadBuffer(scan->rel, scan->block);
	MemoryContext old;
	Page		page;
	OffsetNumber last;

	MemoryContextReset(scan->context);
	old = MemoryContextSwitchTo(scan->context);
	scan->ntuples = scan->next = 0;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	last = PageGetMaxOffsetNumber(page);
	if (scan->block == scan->last_block)
		last = Min(last, scan->last_offset);
	for (OffsetNumber offset = scan->offset; offset <= last; offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(scan->rel);
		ItemPointerSet(&tuple.t_self, scan->block, offset);
		if (is_wanted(scan, tuple.t_data))
			scan->tuples[scan->ntuples++] = heap_copytuple(&tuple);
	}
	UnlockReleaseBuffer(buffer);
	MemoryContextSwitchTo(old);
	scan->block++;
	scan->offset = FirstOffsetNumber;
}

/* The text in a column, in the current memory context; NULL if it is null. */
static char *
text_of(Datum *values, bool *nulls, int column)
{
	return nulls[column - 1] ? NULL : TextDatumGetCString(values[column - 1]);
}

/*
 * Take the tuple apart.  Returns false if it names another transaction than the
 * one that has inserted it.
 */
static bool
parse_row(LogScan *scan, HeapTuple tuple, LogRow *row)
{
	Datum		values[LOG_ROW_COLUMNS];
	bool		nulls[LOG_ROW_COLUMNS];
	TransactionId xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);

	heap_deform_tuple(tuple, RelationGetDescr(scan->rel), values, nulls);
	for (int i = LOG_ROW_XID; i <= LOG_ROW_PAYLOAD; i++)
	{
		if (nulls[i - 1])
			return false;
	}
	if ((TransactionId) DatumGetInt64(values[LOG_ROW_XID - 1]) != xmin)
		return false;
	memset(row, 0, sizeof(LogRow));
	row->block = ItemPointerGetBlockNumber(&tuple->t_self);
	row->offset = ItemPointerGetOffsetNumber(&tuple->t_self);
	row->xid = xmin;
	row->lsn = (uint64) DatumGetInt64(values[LOG_ROW_LSN - 1]);
	row->pid = DatumGetInt32(values[LOG_ROW_PID - 1]);
	row->notified = DatumGetBool(values[LOG_ROW_NOTIFIED - 1]);
	row->channel = text_of(values, nulls, LOG_ROW_CHANNEL);
	row->payload_len = toast_raw_datum_size(values[LOG_ROW_PAYLOAD - 1]) -
		VARHDRSZ;
	if (scan->payloads)
	{
		row->id = text_of(values, nulls, LOG_ROW_ID);
		row->native = text_of(values, nulls, LOG_ROW_NATIVE);
		if (row->native == NULL)
			row->payload = text_of(values, nulls, LOG_ROW_PAYLOAD);
	}
	return true;
}

/*
 * The next row; false if there are no more.  Its strings are in the current
 * memory context.  What is to be read from toast needs a snapshot.
 */
bool
log_scan_next(LogScan *scan, LogRow *row)
{
	for (;;)
	{
		while (scan->next < scan->ntuples)
		{
			if (parse_row(scan, scan->tuples[scan->next++], row))
				return true;
		}
		CHECK_FOR_INTERRUPTS();
		if (scan->block > scan->last_block ||
			(scan->block == scan->last_block && scan->last_offset == 0))
			return false;
		read_page(scan);
	}
}

/* The end: lets go of the segment. */
void
log_scan_end(LogScan *scan)
{
	table_close(scan->rel, AccessShareLock);
	MemoryContextDelete(scan->context);
	pfree(scan);
}

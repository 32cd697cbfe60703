/*-------------------------------------------------------------------------
 *
 * write.c
 *	  A transaction that commits writes its events to the log.
 *
 * 1. The writer locks the segment that is the current one, until its
 *	  transaction ends, and inserts its events as rows: so they are there
 *	  after a crash, on a standby and in a backup if, and only if, the
 *	  transaction is.
 *
 * 2. Which segment is current is a hint in shared memory.  A writer that comes
 *	  late, and uses one that was turned over, does no harm: the segment is
 *	  emptied only with a lock that excludes writers, when all its rows have
 *	  been noted and read.
 *
 * 3. There is no index on rows: a row is found by its place.  Within one
 *	  segment, the rows of a transaction have ascending places, in the order
 *	  of its events: free space that others have left is not looked for.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/heapam.h"
#include "access/hio.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

struct LogWriter
{
	Relation	rel;
	int			segment;
	bool		notified;
	FullTransactionId xid;
	XLogRecPtr	lsn;
	TimestampTz at;
	CommandId	command;
	BulkInsertState bulk;		/* NULL for few rows */
	MemoryContext context;		/* of the batch */
	TupleTableSlot *slots[LOG_FLUSH_ROWS];
	ItemPointer places[LOG_FLUSH_ROWS]; /* where the caller wants to know them */
	int			nslots;
	Size		bytes;
	uint64		rows;			/* inserted */
	ItemPointerData first;
	ItemPointerData last;
};

/*
 * Open the current segment.  If another one has become that while this process
 * waited for the lock, take that.
 */
static Relation
open_current(Database *database, int *segment)
{
	Relation	rel;

	*segment = database ?
		(int) pg_atomic_read_u32(&database->log.current) : 0;
	for (int tries = 0;; tries++)
	{
		int			now;

		rel = log_open(LOG_ROWS, *segment, RowExclusiveLock);
		now = database ?
			(int) pg_atomic_read_u32(&database->log.current) : 0;
		if (now == *segment || tries == LOG_SEGMENTS)
			return rel;
		table_close(rel, RowExclusiveLock);
		*segment = now;
	}
}

/*
 * Begin to write.  notified tells whether native listeners get the events by a
 * NOTIFY of this transaction; bulk, whether there are more than are inserted at
 * a time: the page that the last went to is pinned then until the next, so that
 * VACUUM does not make room there for one that has a lower place.  database is NULL
 * if there is no shared memory.  Raises 55000; the transaction must be able to
 * get an xid.
 */
LogWriter *
log_writer_begin(Database *database, bool notified, bool bulk)
{
	LogWriter  *writer = palloc0(sizeof(LogWriter));

	writer->rel = open_current(database, &writer->segment);

	/* core wants one where rows may be toasted */
	PushActiveSnapshot(GetTransactionSnapshot());
	writer->notified = notified;
	writer->xid = GetTopFullTransactionId();
	writer->lsn = GetXLogInsertRecPtr();
	writer->at = GetCurrentTimestamp();
	writer->command = GetCurrentCommandId(true);
	writer->bulk = bulk ? GetBulkInsertState() : NULL;
	writer->context = AllocSetContextCreate(CurrentMemoryContext,
											"pgpubsub log batch",
											ALLOCSET_DEFAULT_SIZES);
	return writer;
}

/* The segment that the rows go to. */
int
log_writer_segment(LogWriter *writer)
{
	return writer->segment;
}

/* The slot for the next row. */
static TupleTableSlot *
next_slot(LogWriter *writer)
{
	TupleTableSlot **slot = &writer->slots[writer->nslots];

	if (*slot == NULL)
		*slot = MakeSingleTupleTableSlot(RelationGetDescr(writer->rel),
										 &TTSOpsVirtual);
	ExecClearTuple(*slot);
	return *slot;
}

/* Fill in the row for the event, the number-th of the transaction. */
static void
fill_slot(LogWriter *writer, TupleTableSlot *slot, const LogEntry *entry,
		  uint64 number)
{
	Datum	   *values = slot->tts_values;

	memset(slot->tts_isnull, false, LOG_ROW_COLUMNS * sizeof(bool));
	values[LOG_ROW_XID - 1] =
		Int64GetDatum((int64) U64FromFullTransactionId(writer->xid));
	values[LOG_ROW_LSN - 1] = Int64GetDatum((int64) writer->lsn);
	values[LOG_ROW_NUMBER - 1] = Int32GetDatum((int32) number);
	values[LOG_ROW_PID - 1] = Int32GetDatum(MyProcPid);
	values[LOG_ROW_AT - 1] = TimestampTzGetDatum(writer->at);
	values[LOG_ROW_NOTIFIED - 1] = BoolGetDatum(writer->notified);
	values[LOG_ROW_CHANNEL - 1] = CStringGetTextDatum(entry->channel);
	values[LOG_ROW_ID - 1] = CStringGetTextDatum(entry->id);
	values[LOG_ROW_PAYLOAD - 1] =
		PointerGetDatum(cstring_to_text_with_len(entry->payload,
												 (int) entry->payload_len));
	if (entry->native)
		values[LOG_ROW_NATIVE - 1] = CStringGetTextDatum(entry->native);
	else
	{
		values[LOG_ROW_NATIVE - 1] = (Datum) 0;
		slot->tts_isnull[LOG_ROW_NATIVE - 1] = true;
	}
	ExecStoreVirtualTuple(slot);
}

/*
 * Add an event; its row's place is written to *place, unless that is NULL, when
 * the batch is inserted.  What the entry points to is copied.
 */
void
log_writer_add(LogWriter *writer, const LogEntry *entry, ItemPointer place)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);
	TupleTableSlot *slot = next_slot(writer);

	fill_slot(writer, slot, entry, writer->rows + writer->nslots + 1);
	writer->places[writer->nslots++] = place;
	writer->bytes += entry->payload_len;
	MemoryContextSwitchTo(old);
	if (writer->nslots == LOG_FLUSH_ROWS || writer->bytes >= LOG_FLUSH_BYTES)
		log_writer_flush(writer);
}

/* Insert what was added. */
void
log_writer_flush(LogWriter *writer)
{
	MemoryContext old;

	if (writer->nslots == 0)
		return;
	old = MemoryContextSwitchTo(writer->context);
	CHECK_FOR_INTERRUPTS();

	/* pages beyond what is needed would be found by nobody afterwards */
	if (writer->bulk)
		PGPUBSUB_EXTEND_AS_NEEDED(writer->bulk);
	table_multi_insert(writer->rel, writer->slots, writer->nslots,
					   writer->command, HEAP_INSERT_SKIP_FSM, writer->bulk);
	for (int i = 0; i < writer->nslots; i++)
	{
		ItemPointer tid = &writer->slots[i]->tts_tid;

		Assert(writer->rows == 0 ||
			   ItemPointerCompare(&writer->last, tid) < 0);
		if (writer->rows++ == 0)
			writer->first = *tid;
		writer->last = *tid;
		if (writer->places[i])
			*writer->places[i] = *tid;
	}

	/* the slots' tuples are in the batch's memory */
	for (int i = 0; i < writer->nslots; i++)
		ExecClearTuple(writer->slots[i]);
	writer->nslots = 0;
	writer->bytes = 0;
	MemoryContextSwitchTo(old);
}

/* Say where all rows are that were inserted. */
void
log_writer_range(LogWriter *writer, LogReference *reference)
{
	memset(reference, 0, sizeof(LogReference));
	reference->rows = writer->rows;
	reference->first_block = ItemPointerGetBlockNumber(&writer->first);
	reference->first_offset = ItemPointerGetOffsetNumber(&writer->first);
	reference->last_block = ItemPointerGetBlockNumber(&writer->last);
	reference->last_offset = ItemPointerGetOffsetNumber(&writer->last);
	reference->note_block = reference->notify_block = reference->first_block;
	reference->note_offset = reference->notify_offset = reference->first_offset;
}

/* The end; the segment stays locked until the transaction ends. */
void
log_writer_end(LogWriter *writer)
{
	log_writer_flush(writer);
	for (int i = 0; i < LOG_FLUSH_ROWS; i++)
	{
		if (writer->slots[i])
			ExecDropSingleTupleTableSlot(writer->slots[i]);
	}
	if (writer->bulk)
	{
		FreeBulkInsertState(writer->bulk);
		table_finish_bulk_insert(writer->rel, HEAP_INSERT_SKIP_FSM);
	}
	table_close(writer->rel, NoLock);
	PopActiveSnapshot();
	MemoryContextDelete(writer->context);
	pfree(writer);
}

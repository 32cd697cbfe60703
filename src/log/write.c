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
 * 2. Which segment is current is a hint in shared memory; see turn.c.  A writer
 *	  that comes late, and uses one that was turned over, does no harm: the
 *	  segment is emptied only with a lock that excludes writers, when all its
 *	  rows have been noted and read.
 *
 * 3. There is no index on rows: a row is found by its place.  Within one
 *	  segment, the rows of a transaction have ascending places, in the order
 *	  of its events: free space that others have left is not looked for.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/hio.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/debug.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* What a row has at most besides its payload and its native text, in bytes. */
#define ROW_REST	400

/* Bytes of memory that a batch of many rows takes, as a rule. */
#define BATCH_BLOCK_SIZE	((Size) 512 * 1024)

struct LogWriter
{
	Relation	rel;
	Database   *database;		/* NULL if there is no shared memory */
	int			segment;
	bool		notified;
	FullTransactionId xid;
	XLogRecPtr	lsn;
	TimestampTz at;
	CommandId	command;
	BulkInsertState bulk;		/* NULL for few rows */
	MemoryContext batch;		/* rows until they are inserted; NULL for few */
	TupleTableSlot **slots;		/* NULL where none was needed yet */
	ItemPointer *places;		/* where the caller wants to know them */
	int			max_slots;
	int			nslots;
	Size		bytes;
	Size		long_bytes;		/* of these, in payloads for toast */
	bool		may_toast;		/* there is a row that may be too long */
	uint64		rows;			/* inserted */
	ItemPointerData first;
	ItemPointerData last;
};

/*
 * Open the current segment.  If another one has become that while this process
 * waited for the lock, take that; and turn to the next if it has its share, or is
 * locked by somebody else, as by REINDEX.  With
 * over, it may be written to whatever it has; else NULL is returned, and nothing
 * is locked, if there is no room.  After as many turns as there are segments, the
 * one at hand has to do: it is not emptied while it is locked.
 */
static Relation
open_current(Database *database, bool over, int *segment)
{
	if (database == NULL)
	{
		*segment = 0;
		return log_open(LOG_ROWS, *segment, RowExclusiveLock);
	}
	for (int tries = 0;; tries++)
	{
		Relation	rel;
		bool		turned;

		*segment = log_current(database);
		DEBUG_POINT("durable_segment_chosen");
		rel = log_try_open(LOG_ROWS, *segment, RowExclusiveLock);
		if (rel == NULL && tries < LOG_SEGMENTS &&
			log_turn(database, *segment))
			continue;
		if (rel == NULL)
			rel = log_open(LOG_ROWS, *segment, RowExclusiveLock);
		if (tries == LOG_SEGMENTS)
			return rel;
		if (log_current(database) == *segment)
		{
			if (log_has_room(database, *segment, rel))
				return rel;
			turned = log_turn(database, *segment);
			if (!turned && over)
				return rel;
		}
		else
			turned = true;
		table_close(rel, RowExclusiveLock);
		if (!turned)
			return NULL;
	}
}

/*
 * Begin to write.  notified tells whether native listeners get the events by a
 * NOTIFY of this transaction; nevents and bytes, how much there is at most.  If that
 * is more than is inserted at a time, the page that the last went to is pinned until
 * the next, so that VACUUM does not make room there for one that has a lower place.
 * over tells that the log may grow beyond its size: else NULL is returned, and
 * nothing is locked, if it is full, and *segment is set to the one that is.  database
 * is NULL if there is no shared memory.  Raises 55000; the transaction must be able
 * to get an xid.
 */
LogWriter *
log_writer_begin(Database *database, bool notified, uint32 nevents, Size bytes,
				 bool over, int *segment)
{
	Relation	rel = open_current(database, over, segment);
	bool		bulk = nevents > LOG_FLUSH_ROWS || bytes > LOG_FLUSH_BYTES;
	LogWriter  *writer;

	if (rel == NULL)
		return NULL;
	writer = palloc0(sizeof(LogWriter));
	writer->rel = rel;
	writer->database = database;
	writer->segment = *segment;
	writer->notified = notified;
	writer->xid = GetTopFullTransactionId();
	writer->lsn = GetXLogInsertRecPtr();
	writer->at = GetCurrentTimestamp();
	writer->command = GetCurrentCommandId(true);
	writer->bulk = bulk ? GetBulkInsertState() : NULL;
	writer->max_slots = (int) Min(nevents, LOG_FLUSH_ROWS);
	writer->slots = palloc0(writer->max_slots * sizeof(TupleTableSlot *));
	writer->places = palloc(writer->max_slots * sizeof(ItemPointer));

	/* the first block is kept from batch to batch */
	if (bulk)
		writer->batch = AllocSetContextCreate(CurrentMemoryContext,
											  "pgpubsub log batch",
											  ALLOCSET_DEFAULT_MINSIZE,
											  BATCH_BLOCK_SIZE,
											  ALLOCSET_DEFAULT_MAXSIZE);
	return writer;
}

/* The segment that the rows go to. */
int
log_writer_segment(LogWriter *writer)
{
	return writer->segment;
}

/* A text to be put into a row, in the current memory context. */
static Datum
text_datum(const char *string, Size len)
{
	return PointerGetDatum(cstring_to_text_with_len(string, (int) len));
}

/*
 * The row for the event, the number-th of the transaction, in the current memory
 * context.
 */
static HeapTuple
form_row(LogWriter *writer, const LogEntry *entry, uint64 number)
{
	static const int texts[] = {LOG_ROW_CHANNEL, LOG_ROW_ID, LOG_ROW_PAYLOAD,
	LOG_ROW_NATIVE};
	Datum		values[LOG_ROW_COLUMNS];
	bool		nulls[LOG_ROW_COLUMNS] = {false};
	HeapTuple	tuple;

	values[LOG_ROW_XID - 1] =
		Int64GetDatum((int64) U64FromFullTransactionId(writer->xid));
	values[LOG_ROW_LSN - 1] = Int64GetDatum((int64) writer->lsn);
	values[LOG_ROW_NUMBER - 1] = Int32GetDatum((int32) number);
	values[LOG_ROW_PID - 1] = Int32GetDatum(MyProcPid);
	values[LOG_ROW_AT - 1] = TimestampTzGetDatum(writer->at);
	values[LOG_ROW_NOTIFIED - 1] = BoolGetDatum(writer->notified);
	values[LOG_ROW_CHANNEL - 1] = text_datum(entry->channel, strlen(entry->channel));
	values[LOG_ROW_ID - 1] = text_datum(entry->id, strlen(entry->id));
	values[LOG_ROW_PAYLOAD - 1] = text_datum(entry->payload, entry->payload_len);
	nulls[LOG_ROW_NATIVE - 1] = entry->native == NULL;
	if (entry->native)
		values[LOG_ROW_NATIVE - 1] = text_datum(entry->native, strlen(entry->native));
	tuple = heap_form_tuple(RelationGetDescr(writer->rel), values, nulls);

	/* the next row uses the memory again, which is in the CPU's cache */
	for (int i = 0; i < (int) lengthof(texts); i++)
	{
		if (!nulls[texts[i] - 1])
			pfree(DatumGetPointer(values[texts[i] - 1]));
	}
	return tuple;
}

/*
 * Add an event; its row's place is written to *place, unless that is NULL, when
 * the batch is inserted.  What the entry points to is copied.
 */
void
log_writer_add(LogWriter *writer, const LogEntry *entry, ItemPointer place)
{
	TupleTableSlot **slot = &writer->slots[writer->nslots];
	MemoryContext old;

	Assert(writer->nslots < writer->max_slots);
	old = MemoryContextSwitchTo(GetMemoryChunkContext(writer));
	if (*slot == NULL)
		*slot = MakeSingleTupleTableSlot(RelationGetDescr(writer->rel),
										 &TTSOpsHeapTuple);

	/* as a tuple that the slot owns, core inserts it without a copy */
	if (writer->batch)
		MemoryContextSwitchTo(writer->batch);
	ExecStoreHeapTuple(form_row(writer, entry,
								writer->rows + writer->nslots + 1),
					   *slot, true);
	writer->places[writer->nslots++] = place;
	writer->bytes += entry->payload_len;
	if (entry->payload_len > TOAST_TUPLE_THRESHOLD)
		writer->long_bytes += entry->payload_len;
	if (entry->payload_len + (entry->native ? strlen(entry->native) : 0) +
		ROW_REST > TOAST_TUPLE_THRESHOLD)
		writer->may_toast = true;
	MemoryContextSwitchTo(old);
	if (writer->nslots == writer->max_slots || writer->bytes >= LOG_FLUSH_BYTES)
		log_writer_flush(writer);
}

/*
 * Insert the rows of the batch.  Core wants a snapshot where rows may be toasted,
 * and on some versions wherever there is a toast table; to take one costs more than
 * to insert a row that is not, with 64 writers.
 */
static void
insert_rows(LogWriter *writer)
{
	PushActiveSnapshot(writer->may_toast ? GetTransactionSnapshot() : SnapshotAny);
	if (writer->nslots == 1)
		table_tuple_insert(writer->rel, writer->slots[0], writer->command,
						   HEAP_INSERT_SKIP_FSM, writer->bulk);
	else
		table_multi_insert(writer->rel, writer->slots, writer->nslots,
						   writer->command, HEAP_INSERT_SKIP_FSM, writer->bulk);
	PopActiveSnapshot();
	writer->may_toast = false;
}

/* Insert what was added, and free its memory. */
void
log_writer_flush(LogWriter *writer)
{
	MemoryContext old;

	if (writer->nslots == 0)
		return;
	old = MemoryContextSwitchTo(writer->batch ? writer->batch :
								GetMemoryChunkContext(writer));
	CHECK_FOR_INTERRUPTS();

	/* or the segment could be emptied, with what this transaction has there */
	Assert(CheckRelationLockedByMe(writer->rel, RowExclusiveLock, false));
	if (writer->long_bytes > 0 && writer->database)
		log_add_long(writer->database, writer->segment, writer->long_bytes);

	/* pages beyond what is needed would be found by nobody afterwards */
	if (writer->bulk)
		PGPUBSUB_EXTEND_AS_NEEDED(writer->bulk);
	insert_rows(writer);
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
		ExecClearTuple(writer->slots[i]);
	}
	if (writer->database)
		log_add_rows(writer->database, writer->segment,
					 ItemPointerGetBlockNumber(&writer->last));
	writer->nslots = 0;
	writer->bytes = writer->long_bytes = 0;
	MemoryContextSwitchTo(old);
	if (writer->batch)
		MemoryContextReset(writer->batch);
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
	for (int i = 0; i < writer->max_slots && writer->slots[i]; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	if (writer->bulk)
	{
		FreeBulkInsertState(writer->bulk);
		table_finish_bulk_insert(writer->rel, HEAP_INSERT_SKIP_FSM);
	}
	table_close(writer->rel, NoLock);
	if (writer->batch)
		MemoryContextDelete(writer->batch);
	pfree(writer->slots);
	pfree(writer->places);
	pfree(writer);
}

/*-------------------------------------------------------------------------
 *
 * statement_rows.c
 *	  The rows of a statement as change events.
 *
 * The rows come from the trigger's transition tables, which spill to disk by
 * themselves, and are read once, through read pointers of our own.  An UPDATE
 * adds the old and the new row to them one right after the other, also when
 * the row moves to another partition: the n-th old row became the n-th new
 * one.  A BEFORE INSERT trigger of that partition can drop the row on its way.
 * There are fewer new rows then, nothing tells which one is missing, and each
 * row stands alone: first the old ones, then the new ones, so that who takes
 * them for deletes and inserts, in this order, gets what the table has.
 *
 * The rows are written once, into one buffer.  If they all fit, that is the
 * event.  An event has to say how many parts there are, so parts wait in a
 * temporary file until the last row is written.
 *
 * A row that may be too large for any event is a part of its own, and is
 * written twice, the second time with its key alone: whether the whole can be
 * published is known when it has its envelope, which may be less than the
 * widest.
 *
 * So no more than one event and one row are in memory here, whatever the
 * statement touched; what was published, core or publish_async.c keeps until
 * commit.
 *
 *-------------------------------------------------------------------------
 */
#include "event/statement_rows.h"

#include "event/event_settings.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

/* One transition table as we read it. */
typedef struct RowSource
{
	Tuplestorestate *store;		/* NULL if the operation has none */
	int			pointer;		/* our read pointer */
	TupleTableSlot *slot;
} RowSource;

/* The rows as they are written. */
typedef struct RowReader
{
	ChangeShape *shape;
	RowSource	old_rows;
	RowSource	new_rows;
	bool		apart;			/* old and new rows differ in number */
	MemoryContext scratch;		/* reset for each row */
	StringInfoData row;			/* the row at hand; empty if too large */
	StringInfoData short_row;	/* its key, if it may be too large */

	/* what they are written to */
	ChangeEvent *event;
	Size		limit;			/* bytes of rows in a part */
	bool		closed;			/* the part at hand takes no more rows */
	struct PartSpool *spool;
} RowReader;

/* ----------------------------------------------------------------------
 * Reading
 * ----------------------------------------------------------------------
 */

/* Begin to read a transition table from its start; store may be NULL. */
static void
source_open(RowSource *source, Tuplestorestate *store, TupleDesc tupdesc)
{
	source->store = store;
	if (store == NULL)
		return;
	source->pointer = tuplestore_alloc_read_pointer(store, EXEC_FLAG_REWIND);
	source->slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsMinimalTuple);
	tuplestore_select_read_pointer(store, source->pointer);
	tuplestore_rescan(store);
}

/* The next row, deformed and valid until the next call; NULL at the end. */
static TupleTableSlot *
source_next(RowSource *source)
{
	if (source->store == NULL)
		return NULL;
	tuplestore_select_read_pointer(source->store, source->pointer);
	if (!tuplestore_gettupleslot(source->store, true, false, source->slot))
		return NULL;
	slot_getallattrs(source->slot);
	return source->slot;
}

/* Release the row that is at hand. */
static void
source_close(RowSource *source)
{
	if (source->store)
		ExecDropSingleTupleTableSlot(source->slot);
}

/* ----------------------------------------------------------------------
 * Writing
 * ----------------------------------------------------------------------
 */

/* Make an object of the members in buf, each of which has a comma before it. */
static void
close_object(StringInfo buf)
{
	if (buf->len == 0)
		appendStringInfoChar(buf, '{');
	else
		buf->data[0] = '{';
	appendStringInfoChar(buf, '}');
}

/*
 * Write the row, and its short form if it may be too large for an event.  Each
 * is left empty if even that is too large.
 */
static void
write_row(RowReader *reader, TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	ChangeShape *shape = reader->shape;

	resetStringInfo(&reader->row);
	resetStringInfo(&reader->short_row);
	shape->too_large = false;
	change_append_row(&reader->row, shape, old_row, new_row);
	if (shape->too_large)
		resetStringInfo(&reader->row);
	else
		close_object(&reader->row);
	if (reader->row.len > 0 && (Size) reader->row.len <= reader->limit)
		return;

	shape->too_large = false;
	change_append_keys(&reader->short_row, shape, old_row, new_row);
	if (shape->too_large)
		resetStringInfo(&reader->short_row);
	else
		close_object(&reader->short_row);
}

/*
 * Write the next row that is wanted; false at the end.  What the types'
 * functions leave behind is freed with each row.
 */
static bool
next_row(RowReader *reader)
{
	TupleTableSlot *old_row,
			   *new_row;
	MemoryContext context;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(reader->scratch);
		old_row = source_next(&reader->old_rows);
		new_row = old_row && reader->apart ? NULL :
			source_next(&reader->new_rows);
		if (!old_row && !new_row)
			return false;
		context = MemoryContextSwitchTo(reader->scratch);
		if (!old_row || !new_row ||
			change_compare_rows(reader->shape, old_row, new_row))
			break;
		MemoryContextSwitchTo(context);
	}

	write_row(reader, old_row, new_row);
	MemoryContextSwitchTo(context);
	return true;
}

/* Bytes that an event has besides its rows, at most. */
static Size
envelope_size(const ChangeEvent *event)
{
	ChangeEvent widest = *event;
	StringInfoData no_rows,
				buf;
	Size		size;

	initStringInfo(&no_rows);
	initStringInfo(&buf);
	widest.rows = &no_rows;
	widest.count = PG_UINT64_MAX;
	widest.part = widest.parts = PG_UINT32_MAX;
	widest.at = GetCurrentTimestamp();
	widest.txid = PG_UINT64_MAX;
	memset(widest.id, '9', CHANGE_ID_SIZE - 1);
	widest.id[CHANGE_ID_SIZE - 1] = '\0';
	(void) change_event_write(&buf, &widest, CHANGE_WHOLE);
	size = buf.len;
	pfree(buf.data);
	pfree(no_rows.data);
	return size;
}

/* ----------------------------------------------------------------------
 * Parts
 * ----------------------------------------------------------------------
 */

/* Parts that wait for their number to be known. */
typedef struct PartSpool
{
	BufFile    *file;			/* NULL: none yet */
	uint32		nparts;
} PartSpool;

/* How a part lies in the file; its rows and their short form follow. */
typedef struct PartHeader
{
	uint64		count;			/* rows */
	int			len;			/* bytes of each */
	int			short_len;
} PartHeader;

/* Put event->rows aside as the next part, and empty it. */
static void
spool_part(PartSpool *spool, ChangeEvent *event)
{
	PartHeader	header;

	memset(&header, 0, sizeof(header));
	header.count = event->count;
	header.len = event->rows->len;
	header.short_len = event->short_rows->len;
	if (spool->file == NULL)
		spool->file = BufFileCreateTemp(false);
	BufFileWrite(spool->file, &header, sizeof(header));
	BufFileWrite(spool->file, event->rows->data, header.len);
	BufFileWrite(spool->file, event->short_rows->data, header.short_len);
	spool->nparts++;
	resetStringInfo(event->rows);
	resetStringInfo(event->short_rows);
	event->count = 0;
}

/* Read so many bytes of the file into buf. */
static void
read_spooled(PartSpool *spool, StringInfo buf, int len)
{
	resetStringInfo(buf);
	enlargeStringInfo(buf, len);
	PGPUBSUB_BUFFILE_READ(spool->file, buf->data, len);
	buf->len = len;
	buf->data[len] = '\0';
}

/* Emit the parts that were put aside. */
static void
emit_spooled(PartSpool *spool, ChangeEvent *event, TransitionEmit emit,
			 void *arg)
{
	if (BufFileSeek(spool->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rewind the temporary file of a statement's events")));
	event->parts = spool->nparts;
	for (event->part = 1; event->part <= event->parts; event->part++)
	{
		PartHeader	header;

		PGPUBSUB_BUFFILE_READ(spool->file, &header, sizeof(header));
		event->count = header.count;
		read_spooled(spool, event->rows, header.len);
		read_spooled(spool, event->short_rows, header.short_len);
		emit(event, arg);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Write all rows into event->rows; parts of at most limit bytes are put aside
 * but for the last one.  arg is the RowReader.
 */
static void
write_rows(void *arg)
{
	RowReader  *reader = arg;
	ChangeEvent *event = reader->event;
	StringInfo	rows = event->rows;
	StringInfo	row = &reader->row;

	while (next_row(reader))
	{
		bool		alone = row->len == 0 || (Size) row->len > reader->limit;

		if (event->count > 0 &&
			(alone || reader->closed ||
			 (Size) rows->len + 1 + row->len > reader->limit))
			spool_part(reader->spool, event);
		if (rows->len > 0)
			appendStringInfoChar(rows, ',');
		appendBinaryStringInfo(rows, row->data, row->len);
		appendBinaryStringInfo(event->short_rows, reader->short_row.data,
							   reader->short_row.len);
		event->count++;
		reader->closed = alone;
	}
}

/*
 * Make the events of one statement and hand each to emit().  event: shape and
 * op are set, the shape's max_payload too.  A table that the operation does
 * not have is NULL.  Emits nothing if there are no rows, or none that the
 * trigger watches.  A row that exceeds max_payload even alone is an event whose
 * rows emit() finds empty, and its key in short_rows.  Raises what temporary
 * files raise.
 */
void
transition_emit(ChangeEvent *event, TupleDesc tupdesc,
				Tuplestorestate *old_table, Tuplestorestate *new_table,
				TransitionEmit emit, void *arg)
{
	RowReader	reader;
	StringInfoData rows;
	StringInfoData short_rows;
	PartSpool	spool = {NULL, 0};
	Size		envelope;

	reader.shape = event->shape;
	source_open(&reader.old_rows, old_table, tupdesc);
	source_open(&reader.new_rows, new_table, tupdesc);
	reader.apart = old_table && new_table &&
		tuplestore_tuple_count(old_table) != tuplestore_tuple_count(new_table);
	reader.scratch = AllocSetContextCreate(CurrentMemoryContext,
										   "pgpubsub row",
										   ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&rows);
	initStringInfo(&short_rows);
	initStringInfo(&reader.row);
	initStringInfo(&reader.short_row);
	envelope = envelope_size(event);
	reader.limit = event->shape->max_payload -
		Min(envelope, event->shape->max_payload);
	reader.event = event;
	reader.closed = false;
	reader.spool = &spool;

	event->rows = &rows;
	event->short_rows = &short_rows;
	event->count = 0;
	if (event->shape->follows_session)
		event_settings_run(event->shape->runs_sql, write_rows, &reader);
	else
		write_rows(&reader);
	source_close(&reader.old_rows);
	source_close(&reader.new_rows);
	pfree(reader.row.data);
	pfree(reader.short_row.data);
	MemoryContextDelete(reader.scratch);
	if (spool.file)
	{
		spool_part(&spool, event);
		emit_spooled(&spool, event, emit, arg);
		BufFileClose(spool.file);
	}
	else if (event->count > 0)
	{
		event->part = event->parts = 1;
		emit(event, arg);
	}
	event->rows = event->short_rows = NULL;
	pfree(rows.data);
	pfree(short_rows.data);
}

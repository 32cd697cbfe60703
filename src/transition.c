/*-------------------------------------------------------------------------
 *
 * transition.c
 *	  The rows of a statement as change events.
 *
 * The rows, which row_pairs.c reads, are written once, into one buffer.  If
 * they all fit, that is the event.  An event has to say how many parts there
 * are, so parts wait in a temporary file until the last row is written.
 *
 * So no more than one event and one row are in memory here, whatever the
 * statement touched; what was published, core or publish_async.c keeps until
 * commit.
 *
 *-------------------------------------------------------------------------
 */
#include "transition.h"

#include "event_settings.h"
#include "miscadmin.h"
#include "row_pairs.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

/* The rows as they are written. */
typedef struct RowReader
{
	ChangeShape *shape;
	ChangeOp	op;
	RowPairs   *pairs;
	MemoryContext scratch;		/* reset for each row */

	/* what they are written to */
	ChangeEvent *event;
	Size		limit;			/* bytes of rows in a part */
	struct PartSpool *spool;
} RowReader;

/* ----------------------------------------------------------------------
 * Writing
 * ----------------------------------------------------------------------
 */

/*
 * Write the next row that is wanted into buf, as an object; false at the
 * end.  What the types' functions leave behind is freed with each row.
 */
static bool
next_row_object(RowReader *reader, StringInfo buf)
{
	TupleTableSlot *old_row,
			   *new_row;
	MemoryContext context;

	for (;;)
	{
		MemoryContextReset(reader->scratch);
		if (!row_pairs_next(reader->pairs, &old_row, &new_row))
			return false;
		context = MemoryContextSwitchTo(reader->scratch);
		if (!old_row || !new_row ||
			change_compare_rows(reader->shape, old_row, new_row))
			break;
		MemoryContextSwitchTo(context);
	}

	resetStringInfo(buf);
	change_append_row(buf, reader->shape, reader->op, old_row, new_row);
	MemoryContextSwitchTo(context);
	if (buf->len == 0)
		appendStringInfoChar(buf, '{');
	else
		buf->data[0] = '{';		/* the comma before the first member */
	appendStringInfoChar(buf, '}');
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
	change_event_write(&buf, &widest, CHANGE_WHOLE);
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

/* How a part lies in the file; its rows follow. */
typedef struct PartHeader
{
	uint64		count;			/* rows */
	int			len;			/* bytes */
} PartHeader;

/* Put event->rows aside as the next part, and empty it. */
static void
spool_part(PartSpool *spool, ChangeEvent *event)
{
	PartHeader	header;

	memset(&header, 0, sizeof(header));
	header.count = event->count;
	header.len = event->rows->len;
	if (spool->file == NULL)
		spool->file = BufFileCreateTemp(false);
	BufFileWrite(spool->file, &header, sizeof(header));
	BufFileWrite(spool->file, event->rows->data, header.len);
	spool->nparts++;
	resetStringInfo(event->rows);
	event->count = 0;
}

/* Emit the parts that were put aside. */
static void
emit_spooled(PartSpool *spool, ChangeEvent *event, TransitionEmit emit,
			 void *arg)
{
	StringInfo	rows = event->rows;

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
		resetStringInfo(rows);
		enlargeStringInfo(rows, header.len);
		PGPUBSUB_BUFFILE_READ(spool->file, rows->data, header.len);
		rows->len = header.len;
		rows->data[rows->len] = '\0';
		emit(event, arg);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Write all rows into event->rows; parts of at most limit bytes are put aside
 * but for the last one.  A row beyond the limit is a part of its own: whether
 * that can be published is known when it has its envelope, which may be less
 * than the widest.  arg is the RowReader.
 */
static void
write_rows(void *arg)
{
	RowReader  *reader = arg;
	ChangeEvent *event = reader->event;
	StringInfoData row;

	initStringInfo(&row);
	while (next_row_object(reader, &row))
	{
		StringInfo	rows = event->rows;

		if (rows->len > 0 && (Size) rows->len + 1 + row.len > reader->limit)
			spool_part(reader->spool, event);
		if (rows->len > 0)
			appendStringInfoChar(rows, ',');
		appendBinaryStringInfo(rows, row.data, row.len);
		event->count++;
	}
	pfree(row.data);
}

/*
 * Make the events of one statement and hand each to emit().  event: shape and
 * op are set, the shape's max_payload too.  A table that the operation does
 * not have is NULL.  Emits nothing if there are no rows, or none that the
 * trigger watches.  Raises 54000 if an event of one row alone exceeds
 * max_payload, and what temporary files raise.
 */
void
transition_emit(ChangeEvent *event, TupleDesc tupdesc,
				Tuplestorestate *old_table, Tuplestorestate *new_table,
				TransitionEmit emit, void *arg)
{
	RowReader	reader;
	StringInfoData rows;
	PartSpool	spool = {NULL, 0};
	Size		envelope;

	reader.shape = event->shape;
	reader.op = event->op;
	reader.pairs = row_pairs_begin(event->shape, tupdesc, old_table,
								   new_table);
	reader.scratch = AllocSetContextCreate(CurrentMemoryContext,
										   "pgpubsub row",
										   ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&rows);
	envelope = envelope_size(event);
	reader.limit = event->shape->max_payload -
		Min(envelope, event->shape->max_payload);
	reader.event = event;
	reader.spool = &spool;

	event->rows = &rows;
	event->count = 0;
	if (event->shape->follows_session)
		event_settings_run(event->shape->runs_sql, write_rows, &reader);
	else
		write_rows(&reader);
	row_pairs_end(reader.pairs);
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
	event->rows = NULL;
	pfree(rows.data);
}

/*-------------------------------------------------------------------------
 *
 * statement_rows.c
 *	  The rows of a statement as change events.
 *
 * 1. The rows come from the trigger's transition tables, which spill to disk
 *	  by themselves, and are read once, through read pointers of our own.
 *
 * 2. An UPDATE adds the old and the new version of a row to the two tables one
 *	  right after the other, also when the row moves to another partition: the
 *	  n-th old row became the n-th new one.  But when a row moves, a BEFORE
 *	  INSERT trigger of the other partition can drop it.  Then there are fewer
 *	  new rows than old ones, nothing tells which one is missing, and no row is
 *	  paired: first come all old rows, then all new ones.  A reader that takes
 *	  them for deletes and inserts, in this order, gets what the table has.
 *
 * 3. The rows are written once, into one buffer.  If they all fit, that is the
 *	  event.  Otherwise there are several parts, each an event of its own that
 *	  says how many parts there are.  So parts wait in a temporary file until
 *	  the last row is written.
 *
 * 4. A row that may be too long for any event is a part by itself, and is
 *	  written twice, the second time with its key alone.  Which of the two can
 *	  be published turns out when it has its envelope, since the envelope may be
 *	  smaller than the largest one, for which part sizes leave room.
 *
 * So there is at most one event and one row in memory here, whatever the
 * statement touched.  Published events are kept until commit by core, or by
 * publish_async.c.
 *
 *-------------------------------------------------------------------------
 */
#include "event/event_internal.h"

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

struct StatementRows
{
	/* what is read */
	RowSource	old_rows;
	RowSource	new_rows;
	bool		unpaired;		/* old and new rows differ in number */

	/* the row at hand */
	MemoryContext scratch;		/* reset for each row */
	StringInfoData row;			/* empty if it exceeds max_payload */
	StringInfoData short_row;	/* its key; empty if row surely fits */

	/* what the rows are written to */
	ChangeEvent *event;
	StringInfoData rows;		/* event->rows */
	StringInfoData short_rows;	/* event->short_rows */
	Size		limit;			/* bytes of rows in a part */
	bool		part_complete;	/* the part at hand takes no more rows */
	BufFile    *spool;			/* parts put aside; NULL: none yet */
	uint32		nspooled;
};

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

/* The next row, deformed, valid until the next call; NULL if there is none. */
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

/* End reading a transition table. */
static void
source_close(RowSource *source)
{
	if (source->store)
		ExecDropSingleTupleTableSlot(source->slot);
}

/*
 * Make an object of buf's members, before each of which there is a comma; or
 * empty buf if they exceed max_payload.
 */
static void
close_object(StringInfo buf, const ChangeShape *shape)
{
	if (shape->too_large)
		resetStringInfo(buf);
	else if (buf->len == 0)
		appendStringInfoString(buf, "{}");
	else
	{
		buf->data[0] = '{';
		appendStringInfoChar(buf, '}');
	}
}

/*
 * Write the row, and its short form too if the row may be too long for an
 * event.  Leaves each of them empty if it exceeds max_payload.
 */
static void
write_row(StatementRows *statement, TupleTableSlot *old_row,
		  TupleTableSlot *new_row)
{
	ChangeShape *shape = statement->event->shape;

	resetStringInfo(&statement->row);
	resetStringInfo(&statement->short_row);
	shape->too_large = false;
	change_append_row(&statement->row, shape, old_row, new_row);
	close_object(&statement->row, shape);
	if (statement->row.len > 0 && (Size) statement->row.len <= statement->limit)
		return;

	shape->too_large = false;
	change_append_keys(&statement->short_row, shape, old_row, new_row);
	close_object(&statement->short_row, shape);
}

/*
 * Write the next row that the trigger watches; false if there is none.  What
 * the types' functions leave behind is freed before the next row.
 */
static bool
next_row(StatementRows *statement)
{
	TupleTableSlot *old_row,
			   *new_row;
	MemoryContext context;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(statement->scratch);
		old_row = source_next(&statement->old_rows);
		new_row = old_row && statement->unpaired ? NULL :
			source_next(&statement->new_rows);
		if (!old_row && !new_row)
			return false;
		context = MemoryContextSwitchTo(statement->scratch);
		if (!old_row || !new_row ||
			change_compare_rows(statement->event->shape, old_row, new_row))
			break;
		MemoryContextSwitchTo(context);
	}

	write_row(statement, old_row, new_row);
	MemoryContextSwitchTo(context);
	return true;
}

/* The most bytes that an event has besides its rows. */
static Size
envelope_size(const ChangeEvent *event, StringInfo no_rows)
{
	ChangeEvent widest = *event;
	StringInfoData buf;
	Size		size;

	initStringInfo(&buf);
	widest.rows = no_rows;
	widest.count = PG_UINT64_MAX;
	widest.part = widest.parts = PG_UINT32_MAX;
	widest.at = GetCurrentTimestamp();
	widest.txid = PG_UINT64_MAX;
	memset(widest.id, '9', CHANGE_ID_SIZE - 1);
	widest.id[CHANGE_ID_SIZE - 1] = '\0';
	(void) change_event_write(&buf, &widest, CHANGE_WHOLE);
	size = buf.len;
	pfree(buf.data);
	return size;
}

/* How a part lies in the file; its rows and their short form follow. */
typedef struct PartHeader
{
	uint64		count;			/* rows */
	int			len;			/* bytes of the rows */
	int			short_len;		/* bytes of the short form */
} PartHeader;

/*
 * Put the rows that are written aside as the next part, and begin an empty one.
 * Raises what temporary files raise.
 */
static void
spool_part(StatementRows *statement)
{
	PartHeader	header;

	memset(&header, 0, sizeof(header));
	header.count = statement->event->count;
	header.len = statement->rows.len;
	header.short_len = statement->short_rows.len;
	if (statement->spool == NULL)
		statement->spool = BufFileCreateTemp(false);
	BufFileWrite(statement->spool, &header, sizeof(header));
	BufFileWrite(statement->spool, statement->rows.data, header.len);
	BufFileWrite(statement->spool, statement->short_rows.data,
				 header.short_len);
	statement->nspooled++;
	resetStringInfo(&statement->rows);
	resetStringInfo(&statement->short_rows);
	statement->event->count = 0;
}

/* Read len bytes of the file into buf. */
static void
read_spooled(BufFile *spool, StringInfo buf, int len)
{
	resetStringInfo(buf);
	enlargeStringInfo(buf, len);
	PGPUBSUB_BUFFILE_READ(spool, buf->data, len);
	buf->len = len;
	buf->data[len] = '\0';
}

/*
 * Write all rows.  Those of the last part are left in event->rows, and all
 * parts before it are put aside.  arg is the StatementRows.
 */
static void
write_rows(void *arg)
{
	StatementRows *statement = arg;
	ChangeEvent *event = statement->event;
	StringInfo	rows = &statement->rows;
	StringInfo	row = &statement->row;

	while (next_row(statement))
	{
		bool		alone = row->len == 0 ||
			(Size) row->len > statement->limit;

		if (event->count > 0 &&
			(alone || statement->part_complete ||
			 (Size) rows->len + 1 + row->len > statement->limit))
			spool_part(statement);
		if (rows->len > 0)
			appendStringInfoChar(rows, ',');
		appendBinaryStringInfo(rows, row->data, row->len);
		appendBinaryStringInfo(&statement->short_rows,
							   statement->short_row.data,
							   statement->short_row.len);
		event->count++;
		statement->part_complete = alone;
	}
}

/*
 * Write the rows of one statement, so that statement_rows_next() gives the
 * events.  In event, shape and op are set, and the shape's max_payload.  A
 * table that the operation does not have is NULL.  Raises what the types'
 * functions and temporary files raise.
 */
StatementRows *
statement_rows_open(ChangeEvent *event, TupleDesc tupdesc,
					Tuplestorestate *old_table, Tuplestorestate *new_table)
{
	StatementRows *statement = palloc0(sizeof(StatementRows));
	Size		envelope;

	source_open(&statement->old_rows, old_table, tupdesc);
	source_open(&statement->new_rows, new_table, tupdesc);
	statement->unpaired = old_table && new_table &&
		tuplestore_tuple_count(old_table) != tuplestore_tuple_count(new_table);
	statement->scratch = AllocSetContextCreate(CurrentMemoryContext,
											   "pgpubsub row",
											   ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&statement->row);
	initStringInfo(&statement->short_row);
	initStringInfo(&statement->rows);
	initStringInfo(&statement->short_rows);
	envelope = envelope_size(event, &statement->rows);
	statement->limit = event->shape->max_payload -
		Min(envelope, event->shape->max_payload);

	statement->event = event;
	event->rows = &statement->rows;
	event->short_rows = &statement->short_rows;
	event->count = 0;
	if (event->shape->follows_session)
		event_settings_run(event->shape->runs_sql, write_rows, statement);
	else
		write_rows(statement);
	source_close(&statement->old_rows);
	source_close(&statement->new_rows);
	MemoryContextDelete(statement->scratch);
	pfree(statement->row.data);
	pfree(statement->short_row.data);

	event->part = 0;
	event->parts = 1;
	if (statement->spool)
	{
		spool_part(statement);
		event->parts = statement->nspooled;
		if (BufFileSeek(statement->spool, 0, 0, SEEK_SET) != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not rewind the temporary file of a statement's events")));
	}
	return statement;
}

/*
 * Set event->rows, short_rows, count, part and parts for the next part.
 * Returns false if there is none: at the first call, if the statement had no
 * rows, or none that the trigger watches.  A row that exceeds max_payload even
 * alone is an event whose rows are empty, and its key is in short_rows.
 * Raises what temporary files raise.
 */
bool
statement_rows_next(StatementRows *statement)
{
	ChangeEvent *event = statement->event;
	PartHeader	header;

	if (event->part == event->parts)
		return false;
	event->part++;
	if (statement->spool == NULL)
		return event->count > 0;
	CHECK_FOR_INTERRUPTS();
	PGPUBSUB_BUFFILE_READ(statement->spool, &header, sizeof(header));
	event->count = header.count;
	read_spooled(statement->spool, &statement->rows, header.len);
	read_spooled(statement->spool, &statement->short_rows, header.short_len);
	return true;
}

/* Free what statement_rows_open() has made, after the last event. */
void
statement_rows_close(StatementRows *statement)
{
	if (statement->spool)
		BufFileClose(statement->spool);
	statement->event->rows = statement->event->short_rows = NULL;
	pfree(statement->rows.data);
	pfree(statement->short_rows.data);
	pfree(statement);
}

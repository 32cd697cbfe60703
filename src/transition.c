/*-------------------------------------------------------------------------
 *
 * transition.c
 *	  The rows of a statement as change events.
 *
 * The rows come from the trigger's transition tables, which spill to disk by
 * themselves, and are read through read pointers of our own.  They are read
 * and written once, into one buffer.  If they all fit, that is the event.  An
 * event has to say how many parts there are, so parts wait in a temporary file
 * until the last row is written.
 *
 * So no more than one event and one row are in memory here, whatever the
 * statement touched; what was published, core or publish_async.c keeps until
 * commit.  The exception is an UPDATE whose old and new rows differ in
 * number (a trigger on the partition that a row moved to dropped it, say):
 * they are paired by key, for which the old rows are kept in memory.  Rows
 * that find no partner, or have no key, are shown without one: the new ones
 * first, in their order, then the old ones.
 *
 *-------------------------------------------------------------------------
 */
#include "transition.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* One transition table as we read it. */
typedef struct RowSource
{
	Tuplestorestate *store;		/* NULL if the operation has none */
	int			pointer;		/* our read pointer */
	TupleTableSlot *slot;
} RowSource;

/* The old rows of one key, when old and new pair by key. */
typedef struct KeyedRows
{
	const char *key;			/* hash key: its JSON text */
	List	   *tuples;			/* of MinimalTuple, in the table's order */
	int			taken;			/* that many have found a new row */
	int			passed;			/* that many were read again since */
} KeyedRows;

/* Reads the rows of a statement, paired. */
typedef struct RowReader
{
	ChangeShape *shape;
	ChangeOp	op;
	RowSource	old_rows;
	RowSource	new_rows;
	bool		by_key;
	HTAB	   *keyed;			/* of KeyedRows; NULL if there is no key */
	TupleTableSlot *partner;	/* holds a tuple of keyed */
	MemoryContext scratch;		/* reset for each row */
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

/* Read from the start again. */
static void
source_rewind(RowSource *source)
{
	if (source->store == NULL)
		return;
	tuplestore_select_read_pointer(source->store, source->pointer);
	tuplestore_rescan(source->store);
}

/* The next row, deformed; NULL at the end. */
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

static uint32
hash_key(const void *key, Size size)
{
	const char *text = *(const char *const *) key;

	return hash_bytes((const unsigned char *) text, (int) strlen(text));
}

static int
compare_keys(const void *a, const void *b, Size size)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Find the old rows that have the row's key; make the entry if asked to. */
static KeyedRows *
find_keyed(RowReader *reader, TupleTableSlot *row, bool make)
{
	MemoryContext context = MemoryContextSwitchTo(reader->scratch);
	StringInfoData key;
	KeyedRows  *entry;
	const char *text;
	bool		found;

	initStringInfo(&key);
	change_append_key(&key, reader->shape, row);
	MemoryContextSwitchTo(context);
	text = key.data;
	entry = hash_search(reader->keyed, &text, HASH_FIND, NULL);
	if (entry == NULL && make)
	{
		text = pstrdup(text);
		entry = hash_search(reader->keyed, &text, HASH_ENTER, &found);
		entry->tuples = NIL;
		entry->taken = entry->passed = 0;
	}
	return entry;
}

/* Keep the old rows by their key. */
static void
keep_old_rows(RowReader *reader)
{
	HASHCTL		info;
	TupleTableSlot *row;

	info.keysize = sizeof(char *);
	info.entrysize = sizeof(KeyedRows);
	info.hash = hash_key;
	info.match = compare_keys;
	info.hcxt = CurrentMemoryContext;
	reader->keyed = hash_create("pgpubsub old rows by key", 256, &info,
								HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
								HASH_CONTEXT);
	while ((row = source_next(&reader->old_rows)) != NULL)
	{
		KeyedRows  *entry = find_keyed(reader, row, true);

		entry->tuples = lappend(entry->tuples, ExecCopySlotMinimalTuple(row));
		MemoryContextReset(reader->scratch);
		CHECK_FOR_INTERRUPTS();
	}
	source_rewind(&reader->old_rows);
}

/* Set up to read a statement's rows. */
static void
reader_open(RowReader *reader, const ChangeEvent *event, TupleDesc tupdesc,
			Tuplestorestate *old_table, Tuplestorestate *new_table)
{
	memset(reader, 0, sizeof(RowReader));
	reader->shape = event->shape;
	reader->op = event->op;
	reader->scratch = AllocSetContextCreate(CurrentMemoryContext,
											"pgpubsub row",
											ALLOCSET_DEFAULT_SIZES);
	source_open(&reader->old_rows, old_table, tupdesc);
	source_open(&reader->new_rows, new_table, tupdesc);
	if (old_table && new_table &&
		tuplestore_tuple_count(old_table) != tuplestore_tuple_count(new_table))
	{
		reader->by_key = true;
		reader->partner = MakeSingleTupleTableSlot(tupdesc,
												   &TTSOpsMinimalTuple);
		if (reader->shape->nkeys > 0)
			keep_old_rows(reader);
	}
}

/* Release the tuples that the reader's slots hold. */
static void
reader_close(RowReader *reader)
{
	if (reader->old_rows.slot)
		ExecDropSingleTupleTableSlot(reader->old_rows.slot);
	if (reader->new_rows.slot)
		ExecDropSingleTupleTableSlot(reader->new_rows.slot);
	if (reader->partner)
		ExecDropSingleTupleTableSlot(reader->partner);
	MemoryContextDelete(reader->scratch);
}

/* The old row that goes with this new one; NULL if there is none left. */
static TupleTableSlot *
take_partner(RowReader *reader, TupleTableSlot *new_row)
{
	KeyedRows  *entry = reader->keyed ?
		find_keyed(reader, new_row, false) : NULL;

	if (entry == NULL || entry->taken >= list_length(entry->tuples))
		return NULL;
	ExecStoreMinimalTuple(list_nth(entry->tuples, entry->taken++),
						  reader->partner, false);
	slot_getallattrs(reader->partner);
	return reader->partner;
}

/* The next old row that found no new one; NULL at the end. */
static TupleTableSlot *
next_unpaired_old(RowReader *reader)
{
	TupleTableSlot *row;

	while ((row = source_next(&reader->old_rows)) != NULL)
	{
		KeyedRows  *entry = reader->keyed ?
			find_keyed(reader, row, false) : NULL;

		if (entry == NULL || entry->passed >= entry->taken)
			return row;
		entry->passed++;
	}
	return NULL;
}

/*
 * Read the next row or pair of rows; false at the end.
 */
static bool
reader_next(RowReader *reader, TupleTableSlot **old_row,
			TupleTableSlot **new_row)
{
	CHECK_FOR_INTERRUPTS();
	*new_row = source_next(&reader->new_rows);
	if (!reader->by_key)
		*old_row = source_next(&reader->old_rows);
	else if (*new_row)
		*old_row = take_partner(reader, *new_row);
	else
		*old_row = next_unpaired_old(reader);
	return *old_row != NULL || *new_row != NULL;
}

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
		if (!reader_next(reader, &old_row, &new_row))
			return false;
		context = MemoryContextSwitchTo(reader->scratch);
		if (!old_row || !new_row ||
			change_compare_rows(reader->shape, old_row, new_row))
			break;
		MemoryContextSwitchTo(context);
	}

	resetStringInfo(buf);
	change_append_row(buf, reader->shape, reader->op, old_row, new_row, true);
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
 * but for the last one.
 */
static void
write_rows(RowReader *reader, ChangeEvent *event, Size limit, PartSpool *spool)
{
	StringInfoData row;

	initStringInfo(&row);
	while (next_row_object(reader, &row))
	{
		StringInfo	rows = event->rows;

		if ((Size) row.len > limit)
			change_too_large(event->shape,
							 row.len + event->shape->max_payload - limit);
		if (rows->len > 0 && (Size) rows->len + 1 + row.len > limit)
			spool_part(spool, event);
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
 * trigger watches.  Raises 54000 if one row alone exceeds max_payload, and what
 * temporary files raise.
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
	Size		limit;

	reader_open(&reader, event, tupdesc, old_table, new_table);
	initStringInfo(&rows);
	envelope = envelope_size(event);
	limit = event->shape->max_payload - Min(envelope,
											event->shape->max_payload);

	event->rows = &rows;
	event->count = 0;
	write_rows(&reader, event, limit, &spool);
	reader_close(&reader);
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

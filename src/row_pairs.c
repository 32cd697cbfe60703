/*-------------------------------------------------------------------------
 *
 * row_pairs.c
 *	  The rows of a statement, each old row with its new one.
 *
 * The rows come from the trigger's transition tables, which spill to disk by
 * themselves, and are read through read pointers of our own.
 *
 * 1. If there are as many old rows as new ones, they pair by position.
 * 2. Otherwise (a trigger on the partition that a row moved to dropped it,
 *	  say) they pair by key.  Keys are equal if their stored bytes are; old
 *	  rows of one key are used in their order.
 * 3. Rows that find no partner, or have no key, are read without one: the new
 *	  ones first, in their order, then the old ones.
 *
 * For 2, core's tuplesort does the work, within work_mem for each sort and on
 * disk beyond it.  Old and new rows are sorted by a hash of their key and
 * merged: only the old rows of one hash are held in memory.  What comes out is
 * sorted by where it is to be read:
 *
 *	 2n			the partner of the n-th new row
 *	 2n + 1		the n-th new row
 *	 FIRST_UNPAIRED_OLD + n
 *				the n-th old row, if it found no new one
 *
 * Sorted rows are the table's with two columns more at their end, so that
 * what reads the table's rows reads these as well.
 *
 *-------------------------------------------------------------------------
 */
#include "row_pairs.h"

#include "access/htup_details.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/tuplesort.h"

#define FIRST_UNPAIRED_OLD (INT64CONST(1) << 62)

/* One transition table as we read it. */
typedef struct RowSource
{
	Tuplestorestate *store;		/* NULL if the operation has none */
	int			pointer;		/* our read pointer */
	TupleTableSlot *slot;
} RowSource;

struct RowPairs
{
	RowSource	old_rows;
	RowSource	new_rows;
	bool		apart;			/* no row has a partner */

	/* of rows that were paired by key; else NULL */
	Tuplesortstate *sorted;
	int			natts;			/* of the table */
	TupleTableSlot *first;		/* two slots for rows of sorted */
	TupleTableSlot *second;
};

/* An old row that waits for the new row of its key. */
typedef struct WaitingRow
{
	MinimalTuple tuple;
	bool		taken;
} WaitingRow;

/* What pairing by key needs until all are paired. */
typedef struct KeyMerge
{
	ChangeShape *shape;
	TupleDesc	sort_desc;		/* the table's columns, hash and place */
	int			natts;			/* of the table */
	TupleTableSlot *put;		/* for put_row() */
	Tuplesortstate *output;

	Tuplesortstate *old_sort;
	TupleTableSlot *old_row;	/* the next one of old_sort */
	bool		old_left;		/* false: there is none */

	/* the old rows whose keys have this hash, if there is any */
	int64		hash;
	MemoryContext context;
	List	   *waiting;		/* of WaitingRow, in their order */
	int			num_taken;		/* that many at its head are taken */
	TupleTableSlot *waiting_slot;
} KeyMerge;

/* ----------------------------------------------------------------------
 * Transition tables
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

/* Release the tuple that the slot holds. */
static void
source_close(RowSource *source)
{
	if (source->store)
		ExecDropSingleTupleTableSlot(source->slot);
}

/* ----------------------------------------------------------------------
 * Sorted rows
 * ----------------------------------------------------------------------
 */

/* The table's columns and two more: hash and place. */
static TupleDesc
make_sort_desc(TupleDesc tupdesc)
{
	int			natts = tupdesc->natts;
	TupleDesc	result = CreateTemplateTupleDesc(natts + 2);

	for (int i = 1; i <= natts; i++)
		TupleDescCopyEntry(result, i, tupdesc, i);
	TupleDescInitBuiltinEntry(result, natts + 1, "hash", INT8OID, -1, 0);
	TupleDescInitBuiltinEntry(result, natts + 2, "place", INT8OID, -1, 0);
	PGPUBSUB_TUPLEDESC_FINALIZE(result);
	return result;
}

/* Begin to sort by the last columns, one (place) or two. */
static Tuplesortstate *
begin_sort(const KeyMerge *merge, int nkeys)
{
	AttrNumber	columns[2];
	Oid			operators[2] = {Int8LessOperator, Int8LessOperator};
	Oid			collations[2] = {InvalidOid, InvalidOid};
	bool		nulls_first[2] = {false, false};

	for (int i = 0; i < nkeys; i++)
		columns[i] = merge->sort_desc->natts - nkeys + 1 + i;
	return tuplesort_begin_heap(merge->sort_desc, nkeys, columns, operators,
								collations, nulls_first, work_mem, NULL,
								TUPLESORT_NONE);
}

/* Add a row, of a transition table or of another sort, to a sort. */
static void
put_row(KeyMerge *merge, Tuplesortstate *sort, TupleTableSlot *row,
		int64 hash, int64 place)
{
	TupleTableSlot *put = merge->put;

	CHECK_FOR_INTERRUPTS();
	ExecClearTuple(put);
	memcpy(put->tts_values, row->tts_values, merge->natts * sizeof(Datum));
	memcpy(put->tts_isnull, row->tts_isnull, merge->natts * sizeof(bool));
	put->tts_values[merge->natts] = Int64GetDatum(hash);
	put->tts_isnull[merge->natts] = false;
	put->tts_values[merge->natts + 1] = Int64GetDatum(place);
	put->tts_isnull[merge->natts + 1] = false;
	ExecStoreVirtualTuple(put);
	tuplesort_puttupleslot(sort, put);
}

/* The next row of a sort, deformed; NULL at the end. */
static TupleTableSlot *
next_sorted(Tuplesortstate *sort, TupleTableSlot *slot, bool copy)
{
	if (!tuplesort_gettupleslot(sort, true, copy, slot, NULL))
		return NULL;
	slot_getallattrs(slot);
	return slot;
}

static int64
row_hash(TupleTableSlot *row, int natts)
{
	return DatumGetInt64(row->tts_values[natts]);
}

static int64
row_place(TupleTableSlot *row, int natts)
{
	return DatumGetInt64(row->tts_values[natts + 1]);
}

/* ----------------------------------------------------------------------
 * Pairing by key
 * ----------------------------------------------------------------------
 */

/* Sort a table's rows by their keys' hashes, then in the table's order. */
static Tuplesortstate *
sort_by_key(KeyMerge *merge, RowSource *source)
{
	Tuplesortstate *sort = begin_sort(merge, 2);
	TupleTableSlot *row;
	int64		place = 0;

	while ((row = source_next(source)) != NULL)
		put_row(merge, sort, row,
				(int64) change_hash_key(merge->shape, row), place++);
	tuplesort_performsort(sort);
	return sort;
}

/* Put out an old row that has no new one. */
static void
put_unpaired_old(KeyMerge *merge, TupleTableSlot *row)
{
	put_row(merge, merge->output, row, 0,
			FIRST_UNPAIRED_OLD + row_place(row, merge->natts));
}

/* Go to the next old row. */
static void
advance_old(KeyMerge *merge)
{
	merge->old_left = next_sorted(merge->old_sort, merge->old_row,
								  false) != NULL;
}

/* Have the old row wait for a new one. */
static void
hold_old(KeyMerge *merge)
{
	MemoryContext caller = MemoryContextSwitchTo(merge->context);
	WaitingRow *waiting = palloc(sizeof(WaitingRow));

	waiting->tuple = ExecCopySlotMinimalTuple(merge->old_row);
	waiting->taken = false;
	merge->waiting = lappend(merge->waiting, waiting);
	MemoryContextSwitchTo(caller);
}

/* The waiting row, in its slot. */
static TupleTableSlot *
show_waiting(KeyMerge *merge, WaitingRow *waiting)
{
	ExecStoreMinimalTuple(waiting->tuple, merge->waiting_slot, false);
	slot_getallattrs(merge->waiting_slot);
	return merge->waiting_slot;
}

/* No more new rows of this hash come: what waits has no partner. */
static void
release_waiting(KeyMerge *merge)
{
	ListCell   *lc;

	foreach(lc, merge->waiting)
	{
		WaitingRow *waiting = lfirst(lc);

		if (!waiting->taken)
			put_unpaired_old(merge, show_waiting(merge, waiting));
	}
	merge->waiting = NIL;
	merge->num_taken = 0;
	MemoryContextReset(merge->context);
}

/* Go on to the old rows of this hash, which have to wait for new ones. */
static void
advance_to_hash(KeyMerge *merge, int64 hash)
{
	release_waiting(merge);
	merge->hash = hash;
	for (; merge->old_left; advance_old(merge))
	{
		int64		old_hash = row_hash(merge->old_row, merge->natts);

		if (old_hash > hash)
			break;
		if (old_hash == hash)
			hold_old(merge);
		else
			put_unpaired_old(merge, merge->old_row);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The old row that goes with this new one; NULL if there is none left. */
static TupleTableSlot *
take_partner(KeyMerge *merge, TupleTableSlot *new_row)
{
	for (int i = merge->num_taken; i < list_length(merge->waiting); i++)
	{
		WaitingRow *waiting = list_nth(merge->waiting, i);
		TupleTableSlot *row;

		CHECK_FOR_INTERRUPTS();
		if (waiting->taken)
			continue;
		row = show_waiting(merge, waiting);
		if (!change_same_key(merge->shape, row, new_row))
			continue;
		waiting->taken = true;
		if (i == merge->num_taken)
			merge->num_taken++;
		return row;
	}
	return NULL;
}

/* Merge the sorted rows into output. */
static void
merge_rows(KeyMerge *merge, Tuplesortstate *new_sort, TupleTableSlot *new_row)
{
	advance_old(merge);
	advance_to_hash(merge, PG_INT64_MIN);
	while (next_sorted(new_sort, new_row, false))
	{
		int64		hash = row_hash(new_row, merge->natts);
		int64		place = 2 * row_place(new_row, merge->natts);
		TupleTableSlot *partner;

		if (hash != merge->hash)
			advance_to_hash(merge, hash);
		partner = take_partner(merge, new_row);
		if (partner)
			put_row(merge, merge->output, partner, 0, place);
		put_row(merge, merge->output, new_row, 0, place + 1);
	}
	advance_to_hash(merge, PG_INT64_MAX);
	release_waiting(merge);
}

/* Pair all rows by key, and make ready to read them. */
static void
pair_by_key(RowPairs *pairs, ChangeShape *shape, TupleDesc tupdesc)
{
	KeyMerge	merge;
	TupleDesc	sort_desc = make_sort_desc(tupdesc);
	Tuplesortstate *new_sort;

	memset(&merge, 0, sizeof(merge));
	merge.shape = shape;
	merge.natts = tupdesc->natts;
	merge.sort_desc = sort_desc;
	merge.context = AllocSetContextCreate(CurrentMemoryContext,
										  "pgpubsub old rows of a key",
										  ALLOCSET_DEFAULT_SIZES);
	merge.put = MakeSingleTupleTableSlot(sort_desc, &TTSOpsVirtual);
	merge.old_row = MakeSingleTupleTableSlot(sort_desc, &TTSOpsMinimalTuple);
	merge.waiting_slot = MakeSingleTupleTableSlot(sort_desc,
												  &TTSOpsMinimalTuple);
	pairs->natts = tupdesc->natts;
	pairs->first = MakeSingleTupleTableSlot(sort_desc, &TTSOpsMinimalTuple);
	pairs->second = MakeSingleTupleTableSlot(sort_desc, &TTSOpsMinimalTuple);

	merge.old_sort = sort_by_key(&merge, &pairs->old_rows);
	new_sort = sort_by_key(&merge, &pairs->new_rows);
	merge.output = begin_sort(&merge, 1);
	merge_rows(&merge, new_sort, pairs->first);

	ExecDropSingleTupleTableSlot(merge.put);
	ExecDropSingleTupleTableSlot(merge.old_row);
	ExecDropSingleTupleTableSlot(merge.waiting_slot);
	ExecClearTuple(pairs->first);
	tuplesort_end(merge.old_sort);
	tuplesort_end(new_sort);
	MemoryContextDelete(merge.context);
	tuplesort_performsort(merge.output);
	pairs->sorted = merge.output;
}

/* ----------------------------------------------------------------------
 * Interface
 * ----------------------------------------------------------------------
 */

/*
 * Begin to read a statement's rows, in the current context.  A table that the
 * operation does not have is NULL.  Rows that differ in number are paired
 * here; raises what temporary files raise.
 */
RowPairs *
row_pairs_begin(ChangeShape *shape, TupleDesc tupdesc,
				Tuplestorestate *old_table, Tuplestorestate *new_table)
{
	RowPairs   *pairs = palloc0(sizeof(RowPairs));

	source_open(&pairs->old_rows, old_table, tupdesc);
	source_open(&pairs->new_rows, new_table, tupdesc);
	if (old_table && new_table &&
		tuplestore_tuple_count(old_table) != tuplestore_tuple_count(new_table))
	{
		if (shape->nkeys > 0)
			pair_by_key(pairs, shape, tupdesc);
		else
			pairs->apart = true;
	}
	return pairs;
}

/* Read the next row or pair of the sorted ones; false at the end. */
static bool
next_by_key(RowPairs *pairs, TupleTableSlot **old_row,
			TupleTableSlot **new_row)
{
	TupleTableSlot *row = next_sorted(pairs->sorted, pairs->first, true);
	int64		place;

	*old_row = *new_row = NULL;
	if (row == NULL)
		return false;
	place = row_place(row, pairs->natts);
	if (place < FIRST_UNPAIRED_OLD && place % 2 == 1)
	{
		*new_row = row;
		return true;
	}
	*old_row = row;
	if (place < FIRST_UNPAIRED_OLD)
		*new_row = next_sorted(pairs->sorted, pairs->second, true);
	return true;
}

/*
 * Read the next row or pair of rows, deformed and valid until the next call;
 * false at the end.
 */
bool
row_pairs_next(RowPairs *pairs, TupleTableSlot **old_row,
			   TupleTableSlot **new_row)
{
	CHECK_FOR_INTERRUPTS();
	if (pairs->sorted)
		return next_by_key(pairs, old_row, new_row);
	*new_row = source_next(&pairs->new_rows);
	*old_row = *new_row && pairs->apart ? NULL :
		source_next(&pairs->old_rows);
	return *old_row != NULL || *new_row != NULL;
}

/* Release what is held, but the memory, which goes with the context. */
void
row_pairs_end(RowPairs *pairs)
{
	source_close(&pairs->old_rows);
	source_close(&pairs->new_rows);
	if (pairs->sorted == NULL)
		return;
	ExecDropSingleTupleTableSlot(pairs->first);
	ExecDropSingleTupleTableSlot(pairs->second);
	tuplesort_end(pairs->sorted);
}

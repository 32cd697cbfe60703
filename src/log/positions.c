/*-------------------------------------------------------------------------
 *
 * positions.c
 *	  How far subscriptions have read, as it survives the server.
 *
 * 1. A transaction that has consumed inserts, before it commits, one row with
 *	  the subscription's new position.  An UPDATE would leave dead rows, and
 *	  somebody who keeps an old snapshot would have them pile up.
 *
 * 2. Each row has a version.  Of the rows of one subscription that have
 *	  committed, the one with the highest version counts.  Versions ascend,
 *	  since one session reads a subscription at a time.
 *
 * 3. Two relations take turns.  Before one is emptied, what counts in it is
 *	  copied to the other; see relay/turn_segments.c.
 *
 * 4. The row with id 0 is no position: no seq above its seq may be given out
 *	  before a higher one is on disk.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log_internal.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A position among those that are read. */
typedef struct PositionEntry
{
	int64		id;				/* hash key */
	LogPosition *position;
} PositionEntry;

/* Make an array of the channels' names. */
static Datum
names_array(const LogPosition *position)
{
	Datum	   *names = palloc(Max(position->nchannels, 1) * sizeof(Datum));

	for (int i = 0; i < position->nchannels; i++)
		names[i] = CStringGetTextDatum(position->channels[i]);
	return PointerGetDatum(construct_array(names, position->nchannels, TEXTOID,
										   -1, false, TYPALIGN_INT));
}

/* Make an array of the seqs that go with them. */
static Datum
seqs_array(const LogPosition *position)
{
	Datum	   *seqs = palloc(Max(position->nchannels, 1) * sizeof(Datum));

	for (int i = 0; i < position->nchannels; i++)
		seqs[i] = Int64GetDatum((int64) position->seqs[i]);
	return PointerGetDatum(construct_array(seqs, position->nchannels, INT8OID,
										   sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

/*
 * Insert the position into the relation, which is locked.  Raises what
 * inserting does.
 */
void
log_position_put(Relation rel, const LogPosition *position)
{
	Datum		values[LOG_POSITION_COLUMNS];
	bool		nulls[LOG_POSITION_COLUMNS] = {false};
	HeapTuple	tuple;

	values[LOG_POSITION_ID - 1] = Int64GetDatum(position->id);
	values[LOG_POSITION_VERSION - 1] =
		Int64GetDatum((int64) position->version);
	values[LOG_POSITION_SEQ - 1] = Int64GetDatum((int64) position->seq);
	values[LOG_POSITION_LOST - 1] = Int64GetDatum((int64) position->lost);
	values[LOG_POSITION_CHANNELS - 1] = names_array(position);
	values[LOG_POSITION_SEQS - 1] = seqs_array(position);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);

	/* core wants one where rows may be toasted */
	PushActiveSnapshot(GetTransactionSnapshot());
	simple_heap_insert(rel, tuple);
	PopActiveSnapshot();
	heap_freetuple(tuple);
}

#ifdef USE_ASSERT_CHECKING
/* A look at all positions takes its time: so many versions have one. */
#define VERSIONS_PER_LOOK	64

/*
 * Is the version above all that were committed for that id?  Also true where that
 * cannot be seen at once.
 */
static bool
is_above(int64 id, uint64 version)
{
	bool		above = true;

	if (version == 0 || version % VERSIONS_PER_LOOK != 0)
		return true;
	for (int i = 0; i < LOG_POSITIONS; i++)
	{
		Relation	rel = log_try_open(LOG_POSITION, i, AccessShareLock);
		TableScanDesc scan;
		HeapTuple	tuple;
		bool		isnull;

		if (rel == NULL)
			continue;
		scan = PGPUBSUB_BEGINSCAN(rel, SnapshotAny);
		while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		{
			TupleDesc	desc = RelationGetDescr(rel);

			if (log_row_committed(tuple->t_data) &&
				id == DatumGetInt64(heap_getattr(tuple, LOG_POSITION_ID, desc,
												 &isnull)) &&
				version <= (uint64)
				DatumGetInt64(heap_getattr(tuple, LOG_POSITION_VERSION, desc,
										   &isnull)))
				above = false;
		}
		table_endscan(scan);
		table_close(rel, AccessShareLock);
	}
	return above;
}
#endif

/*
 * Insert the position, for this transaction's commit; the relation stays locked
 * until then.  Raises 55000.
 */
void
log_position_insert(Database *database, const LogPosition *position)
{
	int			index;
	Relation	rel;

	/* else what was committed before would count */
	Assert(is_above(position->id, position->version));

	/* the one that is current when the lock is there */
	for (;;)
	{
		index = (int) pg_atomic_read_u32(&database->log.position);
		rel = log_open(LOG_POSITION, index, RowExclusiveLock);
		if (index == (int) pg_atomic_read_u32(&database->log.position))
			break;
		table_close(rel, RowExclusiveLock);
	}
	log_position_put(rel, position);
	table_close(rel, NoLock);
}

/* Take a tuple apart, in the current memory context. */
static LogPosition *
parse_position(Relation rel, HeapTuple tuple)
{
	Datum		values[LOG_POSITION_COLUMNS];
	bool		nulls[LOG_POSITION_COLUMNS];
	LogPosition *position = palloc0(sizeof(LogPosition));
	Datum	   *names;
	Datum	   *seqs;
	int			nseqs;

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	for (int i = 0; i < LOG_POSITION_COLUMNS; i++)
	{
		if (nulls[i])
			log_raise_corrupted(rel);
	}
	position->id = DatumGetInt64(values[LOG_POSITION_ID - 1]);
	position->version = (uint64) DatumGetInt64(values[LOG_POSITION_VERSION - 1]);
	position->seq = (uint64) DatumGetInt64(values[LOG_POSITION_SEQ - 1]);
	position->lost = (uint64) DatumGetInt64(values[LOG_POSITION_LOST - 1]);
	deconstruct_array(DatumGetArrayTypeP(values[LOG_POSITION_CHANNELS - 1]),
					  TEXTOID, -1, false, TYPALIGN_INT, &names, NULL,
					  &position->nchannels);
	deconstruct_array(DatumGetArrayTypeP(values[LOG_POSITION_SEQS - 1]),
					  INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					  &seqs, NULL, &nseqs);
	if (nseqs != position->nchannels)
		log_raise_corrupted(rel);
	position->channels = palloc(Max(nseqs, 1) * sizeof(char *));
	position->seqs = palloc(Max(nseqs, 1) * sizeof(uint64));
	for (int i = 0; i < nseqs; i++)
	{
		position->channels[i] = TextDatumGetCString(names[i]);
		position->seqs[i] = (uint64) DatumGetInt64(seqs[i]);
	}
	return position;
}

/* Copy the position into the context. */
static LogPosition *
copy_position(const LogPosition *position, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	LogPosition *copy = palloc(sizeof(LogPosition));

	*copy = *position;
	copy->channels = palloc(Max(position->nchannels, 1) * sizeof(char *));
	copy->seqs = palloc(Max(position->nchannels, 1) * sizeof(uint64));
	for (int i = 0; i < position->nchannels; i++)
	{
		copy->channels[i] = pstrdup(position->channels[i]);
		copy->seqs[i] = position->seqs[i];
	}
	MemoryContextSwitchTo(old);
	return copy;
}

#ifdef USE_ASSERT_CHECKING
/* Do both say the same?  They have the same version. */
static bool
are_same(const LogPosition *a, const LogPosition *b)
{
	if (a->seq != b->seq || a->lost != b->lost || a->nchannels != b->nchannels)
		return false;
	for (int i = 0; i < a->nchannels; i++)
	{
		if (a->seqs[i] != b->seqs[i] ||
			strcmp(a->channels[i], b->channels[i]) != 0)
			return false;
	}
	return true;
}
#endif

/*
 * Of the relation's positions, note those that count more than what is there,
 * in the current memory context.
 */
static void
read_relation(Relation rel, HTAB *positions)
{
	TableScanDesc scan = PGPUBSUB_BEGINSCAN(rel, SnapshotAny);
	MemoryContext context = CurrentMemoryContext;
	MemoryContext each = AllocSetContextCreate(context, "pgpubsub position",
											   ALLOCSET_SMALL_SIZES);
	HeapTuple	tuple;

	MemoryContextSwitchTo(each);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		LogPosition *position;
		PositionEntry *entry;
		bool		found;

		CHECK_FOR_INTERRUPTS();
		if (!log_row_committed(tuple->t_data))
			continue;
		position = parse_position(rel, tuple);
		entry = hash_search(positions, &position->id, HASH_ENTER, &found);

		/*
		 * A version names one position, of which there may be copies; 0 is
		 * that of one who has consumed nothing.
		 */
		Assert(!found || position->version == 0 ||
			   entry->position->version != position->version ||
			   are_same(entry->position, position));
		if (!found || entry->position->version < position->version)
			entry->position = copy_position(position, context);
		MemoryContextReset(each);
	}
	MemoryContextSwitchTo(context);
	MemoryContextDelete(each);
	table_endscan(scan);
}

/*
 * Read the positions that count, a list of LogPosition in the current memory
 * context.  skip is a relation not to be read, or -1.
 */
List *
log_positions_read(int skip)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(PositionEntry)};
	HTAB	   *positions = hash_create("pgpubsub positions", 256, &ctl,
										HASH_ELEM | HASH_BLOBS);
	HASH_SEQ_STATUS status;
	PositionEntry *entry;
	List	   *result = NIL;

	/* many channels may be too long for a page */
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < LOG_POSITIONS; i++)
	{
		Relation	rel;

		if (i == skip)
			continue;
		rel = log_open(LOG_POSITION, i, AccessShareLock);
		read_relation(rel, positions);
		table_close(rel, AccessShareLock);
	}
	PopActiveSnapshot();
	hash_seq_init(&status, positions);
	while ((entry = hash_seq_search(&status)) != NULL)
		result = lappend(result, entry->position);
	hash_destroy(positions);
	return result;
}

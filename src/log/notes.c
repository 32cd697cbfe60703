/*-------------------------------------------------------------------------
 *
 * notes.c
 *	  Notes: which seqs the rows of a segment have.
 *
 * 1. Only the relay, which comes after the commit, can give seqs in the order
 *	  in which transactions commit.  It notes them: a note is of one channel,
 *	  and lists runs, closed ranges of rows, with the first row's seq.
 *
 * 2. Notes are in the segment that their rows are in, so both are emptied
 *	  together.  An index on (channel, last seq) leads to the first note with
 *	  something that a reader has not had.
 *
 * 3. Where a segment is emptied, a note without events stays of each channel
 *	  that had notes there, in another segment: so what the channel has
 *	  had in all is not forgotten.  One of no channel, the empty name, tells up
 *	  to which seq events were emptied.
 *
 * 4. A note counts when its transaction has committed, whoever looks with
 *	  whatever snapshot: readers do not look by snapshots.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation_d.h"
#include "catalog/indexing.h"
#include "catalog/pg_type.h"
#include "log/log_internal.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * Insert the note into the relation, with its index entries.  Raises what
 * inserting does.
 */
void
log_note_insert(Relation rel, const LogNote *note)
{
	Datum		values[LOG_NOTE_COLUMNS];
	bool		nulls[LOG_NOTE_COLUMNS] = {false};
	Size		size = VARHDRSZ + note->nruns * sizeof(LogRun);
	bytea	   *runs = palloc(size);
	CatalogIndexState indexes;
	HeapTuple	tuple;

	Assert(note->nruns <= LOG_MAX_RUNS);
	Assert((note->nruns > 0) == (note->events > 0));
	Assert(note->first_seq > 0 && note->last_seq >= note->first_seq);
	SET_VARSIZE(runs, size);
	if (note->nruns > 0)
		memcpy(VARDATA(runs), note->runs, size - VARHDRSZ);
	values[LOG_NOTE_CHANNEL - 1] = CStringGetTextDatum(note->channel);
	values[LOG_NOTE_FIRST_SEQ - 1] = Int64GetDatum((int64) note->first_seq);
	values[LOG_NOTE_LAST_SEQ - 1] = Int64GetDatum((int64) note->last_seq);
	values[LOG_NOTE_EVENTS_BEFORE - 1] =
		Int64GetDatum((int64) note->events_before);
	values[LOG_NOTE_BYTES_BEFORE - 1] =
		Int64GetDatum((int64) note->bytes_before);
	values[LOG_NOTE_EVENTS - 1] = Int32GetDatum((int32) note->events);
	values[LOG_NOTE_BYTES - 1] = Int64GetDatum((int64) note->bytes);
	values[LOG_NOTE_AT - 1] = TimestampTzGetDatum(note->at);
	values[LOG_NOTE_RUNS - 1] = PointerGetDatum(runs);
	tuple = heap_form_tuple(RelationGetDescr(rel), values, nulls);

	/* core wants one where rows may be toasted */
	PushActiveSnapshot(GetTransactionSnapshot());
	indexes = CatalogOpenIndexes(rel);
	CatalogTupleInsertWithInfo(rel, tuple, indexes);
	CatalogCloseIndexes(indexes);
	PopActiveSnapshot();
	heap_freetuple(tuple);
	pfree(runs);
}

/*
 * Take a tuple of the relation apart.  Raises XX001 if it is no note: nobody
 * else writes there.
 */
void
log_note_parse(Relation rel, HeapTuple tuple, LogNote *note)
{
	Datum		values[LOG_NOTE_COLUMNS];
	bool		nulls[LOG_NOTE_COLUMNS];
	bytea	   *runs;

	heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
	for (int i = 0; i < LOG_NOTE_COLUMNS; i++)
	{
		if (nulls[i])
			log_raise_corrupted(rel);
	}
	text_to_cstring_buffer(DatumGetTextPP(values[LOG_NOTE_CHANNEL - 1]),
						   note->channel, NAMEDATALEN);
	note->first_seq = (uint64) DatumGetInt64(values[LOG_NOTE_FIRST_SEQ - 1]);
	note->last_seq = (uint64) DatumGetInt64(values[LOG_NOTE_LAST_SEQ - 1]);
	note->events_before =
		(uint64) DatumGetInt64(values[LOG_NOTE_EVENTS_BEFORE - 1]);
	note->bytes_before =
		(uint64) DatumGetInt64(values[LOG_NOTE_BYTES_BEFORE - 1]);
	note->events = (uint32) DatumGetInt32(values[LOG_NOTE_EVENTS - 1]);
	note->bytes = (uint64) DatumGetInt64(values[LOG_NOTE_BYTES - 1]);
	note->at = DatumGetTimestampTz(values[LOG_NOTE_AT - 1]);
	runs = DatumGetByteaPCopy(values[LOG_NOTE_RUNS - 1]);
	note->nruns = (int) ((VARSIZE(runs) - VARHDRSZ) / sizeof(LogRun));
	if (note->nruns > LOG_MAX_RUNS || (note->nruns > 0) != (note->events > 0))
		log_raise_corrupted(rel);
	note->runs = palloc(Max(note->nruns, 1) * sizeof(LogRun));
	memcpy(note->runs, VARDATA(runs), note->nruns * sizeof(LogRun));
	pfree(runs);
}

/* Raise XX001: the relation has what nobody can have written there. */
void
log_raise_corrupted(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("pgpubsub's log has invalid data in \"%s\"",
					RelationGetRelationName(rel)),
			 errdetail("Somebody has written or rewritten it by hand, or it was damaged."),
			 errhint("Have subscriptions read on behind it with pgpubsub.seek(), or restore the database from a backup.")));
}

/*
 * Begin to look for the channel's notes in the segment, by their last seqs:
 * those above the seq, or with upwards false those below it, the nearest first.
 */
NoteScan *
note_scan_begin(int segment, const char *channel, uint64 seq, bool upwards)
{
	NoteScan   *scan = palloc0(sizeof(NoteScan));
	List	   *indexes;

	scan->rel = log_open(LOG_NOTES, segment, AccessShareLock);
	scan->direction = upwards ? ForwardScanDirection : BackwardScanDirection;
	indexes = RelationGetIndexList(scan->rel);
	scan->index = log_open_valid_index(scan->rel, indexes);
	list_free(indexes);
	scan->slot = table_slot_create(scan->rel, NULL);
	scan->channel = CStringGetTextDatum(channel);
	ScanKeyInit(&scan->keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ,
				scan->channel);
	scan->keys[0].sk_collation = C_COLLATION_OID;
	ScanKeyInit(&scan->keys[1], 2,
				upwards ? BTGreaterStrategyNumber : BTLessStrategyNumber,
				upwards ? F_INT8GT : F_INT8LT, Int64GetDatum((int64) seq));
	scan->scan = PGPUBSUB_INDEX_BEGINSCAN(scan->rel, scan->index, SnapshotAny,
										  2);
	index_rescan(scan->scan, scan->keys, 2, NULL, 0);
	return scan;
}

/*
 * The next note that counts, its runs in the current memory context; false if
 * there are no more.
 */
bool
note_scan_next(NoteScan *scan, LogNote *note)
{
	while (index_getnext_slot(scan->scan, scan->direction, scan->slot))
	{
		bool		should_free;
		HeapTuple	tuple = ExecFetchSlotHeapTuple(scan->slot, false,
												   &should_free);
		bool		counts = log_row_committed(tuple->t_data);

		if (counts)
			log_note_parse(scan->rel, tuple, note);
		if (should_free)
			heap_freetuple(tuple);
		if (counts)
			return true;
	}
	return false;
}

/* The end: lets go of the segment's notes. */
void
note_scan_end(NoteScan *scan)
{
	index_endscan(scan->scan);
	index_close(scan->index, AccessShareLock);
	ExecDropSingleTupleTableSlot(scan->slot);
	table_close(scan->rel, AccessShareLock);
	pfree(scan);
}

/*
 * The seq of the channel's last event in the segment; 0 if it has none.  A note
 * without events, which was kept of another segment, may come behind that: who
 * has committed late has a higher seq, in an older segment.
 */
uint64
log_note_last_seq(int segment, const char *channel)
{
	NoteScan   *scan = note_scan_begin(segment, channel, PG_INT64_MAX, false);
	LogNote		note;
	uint64		last = 0;

	while (last == 0 && note_scan_next(scan, &note))
	{
		if (note.events > 0)
			last = note.last_seq;
		pfree(note.runs);
	}
	note_scan_end(scan);
	return last;
}

/*
 * The first channel behind that one, in the order of the index, that has a note
 * in the segment; false if there is none.  channel has NAMEDATALEN bytes.
 */
bool
log_note_next_channel(int segment, char *channel)
{
	NoteScan   *scan = note_scan_begin(segment, channel, 0, true);
	ScanKeyData key;
	LogNote		note;
	bool		found;

	ScanKeyInit(&key, 1, BTGreaterStrategyNumber, F_TEXT_GT, scan->channel);
	key.sk_collation = C_COLLATION_OID;
	index_endscan(scan->scan);
	scan->scan = PGPUBSUB_INDEX_BEGINSCAN(scan->rel, scan->index, SnapshotAny,
										  1);
	index_rescan(scan->scan, &key, 1, NULL, 0);
	found = note_scan_next(scan, &note);
	if (found)
	{
		strlcpy(channel, note.channel, NAMEDATALEN);
		pfree(note.runs);
	}
	note_scan_end(scan);
	return found;
}

/*
 * The channel's note nearest to the seq in the segment: the first that ends
 * there or behind it, or with above false the last that ends before it.  Its
 * runs are in the current memory context.  Returns false if there is none.
 */
bool
log_note_nearest(int segment, const char *channel, uint64 seq, bool above,
				 LogNote *note)
{
	NoteScan   *scan = note_scan_begin(segment, channel,
									   above ? seq - 1 : seq, above);
	bool		found = note_scan_next(scan, note);

	note_scan_end(scan);
	return found;
}

/*
 * The channel's last note in any segment, its runs in the current memory
 * context.  Returns false if it has none.
 */
bool
log_note_last(const char *channel, LogNote *note)
{
	bool		any = false;

	for (int segment = 0; segment < LOG_SEGMENTS; segment++)
	{
		NoteScan   *scan = note_scan_begin(segment, channel, PG_INT64_MAX,
										   false);
		LogNote		last;

		if (note_scan_next(scan, &last) &&
			(!any || last.last_seq > note->last_seq))
		{
			*note = last;
			any = true;
		}
		note_scan_end(scan);
	}
	return any;
}

/* Open one of the relation's indexes that can be used; raises 55000. */
Relation
log_open_valid_index(Relation rel, List *indexes)
{
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid)
		{
			/* it may have come since the relation was checked */
			log_check_index(rel, lfirst_oid(lc));
			return index;
		}
		index_close(index, AccessShareLock);
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" of pgpubsub's log has no valid index",
					RelationGetRelationName(rel)),
			 errhint("Run REINDEX TABLE %s.%s.", PGPUBSUB_SCHEMA,
					 RelationGetRelationName(rel))));
}

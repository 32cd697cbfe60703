/*-------------------------------------------------------------------------
 *
 * undecoded_write.c
 *	  Writing a table without logical decoding seeing it.
 *
 * A publication FOR ALL TABLES has the extension's own tables in it, and a
 * subscriber that lacks one stops at the first row of it.  What pgpubsub
 * writes there is therefore written in a way that logical decoding passes by.
 * Standbys replay it like any other row.
 *
 * 1. An INSERT can say so itself: TABLE_INSERT_NO_LOGICAL.
 * 2. A DELETE cannot.  But a DELETE from a table that has no replica identity
 *	  is logged without the old row's key, and decoding then has nothing to
 *	  send.  So the relation's cache entry says REPLICA IDENTITY NOTHING while
 *	  heap deletes the row.  (The catalog must not say that: core would refuse
 *	  everybody else's DELETE on a published table.)
 * 3. An UPDATE cannot say so either, so it becomes a DELETE and an INSERT.  To
 *	  triggers and foreign keys it stays an UPDATE.  Another session that waits
 *	  to update the row finds it deleted.
 *
 * The executor runs the statement itself, so that triggers, constraints and
 * foreign keys have their effect.  While the statement runs, an access method
 * of ours stands between the executor and heap; it is heap in all other
 * respects, and only this backend's cache entry of the relation names it.
 *
 * Invariant: between undecoded_begin() and undecoded_end() the cache entry of
 * the relation, which stays open, has our access method.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "utils/inval.h"
#include "utils/rel.h"

/* Heap, but for the three functions below. */
static TableAmRoutine undecoded_routine;

/* The relation that is being written, or NULL. */
static Relation written = NULL;

/* Insert the row that is in the slot. */
static void
undecoded_insert(Relation relation, TupleTableSlot *slot, CommandId cid,
				 PGPUBSUB_INSERT_OPTIONS options, BulkInsertState bistate)
{
	GetHeapamTableAmRoutine()->tuple_insert(relation, slot, cid,
											options | TABLE_INSERT_NO_LOGICAL,
											bistate);
}

/* Delete the row.  Returns what heap does. */
static TM_Result
delete_row(Relation relation, ItemPointer tid, CommandId cid,
		   Snapshot snapshot, Snapshot crosscheck, bool wait,
		   TM_FailureData *tmfd)
{
	char		identity = relation->rd_rel->relreplident;
	TM_Result	result;

	PG_TRY();
	{
		relation->rd_rel->relreplident = REPLICA_IDENTITY_NOTHING;
		result = PGPUBSUB_HEAP_DELETE(relation, tid, cid, snapshot, crosscheck,
									  wait, tmfd);
	}
	PG_FINALLY();
	{
		relation->rd_rel->relreplident = identity;
	}
	PG_END_TRY();
	return result;
}

/* Delete the row; the table has no partitions that it could move to. */
static TM_Result
undecoded_delete(PGPUBSUB_DELETE_PARAMETERS)
{
	return delete_row(relation, tid, cid, snapshot, crosscheck, wait, tmfd);
}

/* Delete the row and insert the one in the slot.  Returns what heap's does. */
static TM_Result
undecoded_update(Relation relation, ItemPointer otid, TupleTableSlot *slot,
				 CommandId cid, PGPUBSUB_UPDATE_OPTIONS
				 Snapshot snapshot, Snapshot crosscheck,
				 bool wait, TM_FailureData *tmfd, LockTupleMode *lockmode,
				 PGPUBSUB_UPDATE_INDEXES * update_indexes)
{
	TM_Result	result = delete_row(relation, otid, cid, snapshot, crosscheck,
									wait, tmfd);

	*lockmode = LockTupleExclusive;
	*update_indexes = PGPUBSUB_UPDATE_INDEXES_NONE;
	if (result == TM_Ok)
	{
		undecoded_insert(relation, slot, cid, 0, NULL);
		*update_indexes = PGPUBSUB_UPDATE_INDEXES_ALL;
	}
	return result;
}

/* The cache entry was built anew from the catalog: put our method in again. */
static void
relation_changed(Datum arg, Oid relid)
{
	if (written != NULL &&
		(!OidIsValid(relid) || relid == RelationGetRelid(written)))
		written->rd_tableam = &undecoded_routine;
}

/* Make the access method and watch the cache, once per backend. */
static void
set_up(void)
{
	static bool done = false;

	if (done)
		return;
	undecoded_routine = *GetHeapamTableAmRoutine();
	undecoded_routine.tuple_insert = undecoded_insert;
	undecoded_routine.tuple_delete = undecoded_delete;
	undecoded_routine.tuple_update = undecoded_update;
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	done = true;
}

/*
 * From now on, what this backend writes to the relation, which the caller has
 * open, is not decoded.  If this returns true, the caller calls undecoded_end()
 * whatever happens.  It returns false if nothing is logged for decoding, if the
 * table is no heap, or if a table is being written like this already.
 */
bool
undecoded_begin(Relation relation)
{
	if (!XLogLogicalInfoActive() || written != NULL ||
		relation->rd_tableam != GetHeapamTableAmRoutine())
		return false;
	set_up();
	written = relation;
	written->rd_tableam = &undecoded_routine;
	return true;
}

/* The relation is written like any other again.  Cannot fail. */
void
undecoded_end(void)
{
	written->rd_tableam = GetHeapamTableAmRoutine();
	written = NULL;
}

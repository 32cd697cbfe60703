/*-------------------------------------------------------------------------
 *
 * relations.c
 *	  The relations that the log is in: finding, checking and opening them.
 *
 * 1. The log of a database is in materialized views, which the extension's
 *	  script makes WITH NO DATA: nobody can write to those by SQL, and no
 *	  publication sends them.  Eight segments, each with rows and notes, take
 *	  turns, and two relations for positions do.
 *
 * 2. What is written and read here goes below SQL, by the columns' places.  So
 *	  a relation is looked at before it is used: somebody may have altered it,
 *	  and an index on an expression would run a user's code in everybody's
 *	  commit.  What is not as the script made it is an error, 55000.
 *
 * 3. Rows are found by their places on pages.  The relations are never
 *	  rewritten but by being emptied, which takes an exclusive lock: core's
 *	  VACUUM FULL and CLUSTER pass over a materialized view that was never
 *	  populated.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log_internal.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_opclass_d.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* What a relation must look like. */
typedef struct Shape
{
	const char *name;			/* the number of the relation follows */
	int			count;			/* of such relations */
	int			ncolumns;
	const Oid  *types;
	bool		indexed;
} Shape;

static const Oid row_types[LOG_ROW_COLUMNS] = {
	INT8OID, INT8OID, INT4OID, INT4OID, TIMESTAMPTZOID, BOOLOID, TEXTOID,
	TEXTOID, TEXTOID, TEXTOID
};

static const Oid note_types[LOG_NOTE_COLUMNS] = {
	TEXTOID, INT8OID, INT8OID, INT8OID, INT8OID, INT4OID, INT8OID,
	TIMESTAMPTZOID, BYTEAOID
};

static const Oid position_types[LOG_POSITION_COLUMNS] = {
	INT8OID, INT8OID, INT8OID, INT8OID, TEXTARRAYOID, INT8ARRAYOID
};

static const Shape shapes[LOG_KINDS] = {
	[LOG_ROWS] = {"log_row", LOG_SEGMENTS, LOG_ROW_COLUMNS, row_types, false},
	[LOG_NOTES] = {"log_note", LOG_SEGMENTS, LOG_NOTE_COLUMNS, note_types, true},
	[LOG_POSITION] = {"log_position", LOG_POSITIONS, LOG_POSITION_COLUMNS,
	position_types, false}
};

#define MOST_RELATIONS	LOG_SEGMENTS

/* What was found last; InvalidOid: to be looked for. */
static Oid	found[LOG_KINDS][MOST_RELATIONS];
static bool callbacks_registered = false;

/* Something has changed in the catalogs: look for all relations anew. */
static void
forget_found(Datum arg, int cacheid, uint32 hashvalue)
{
	memset(found, 0, sizeof(found));
}

/* A relation has changed: look for it anew if it is one of ours. */
static void
forget_relation(Datum arg, Oid relid)
{
	for (int kind = 0; kind < LOG_KINDS; kind++)
	{
		for (int i = 0; i < MOST_RELATIONS; i++)
		{
			if (!OidIsValid(relid) || found[kind][i] == relid)
				found[kind][i] = InvalidOid;
		}
	}
}

/*
 * The relation's Oid, or InvalidOid if it is not there, as before version 1.1.
 * In a transaction.
 */
Oid
log_oid(LogKind kind, int index)
{
	char		name[NAMEDATALEN];

	if (!callbacks_registered)
	{
		CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, forget_found, (Datum) 0);
		callbacks_registered = true;
	}
	if (!OidIsValid(found[kind][index]))
	{
		snprintf(name, sizeof(name), "%s_%d", shapes[kind].name, index + 1);
		found[kind][index] = own_relation_find(name, RELKIND_MATVIEW);
	}
	return found[kind][index];
}

/* Is there a log in this database?  In a transaction. */
bool
log_installed(void)
{
	return OidIsValid(log_oid(LOG_POSITION, LOG_POSITIONS - 1));
}

/* Raise 55000 for a relation of the log that somebody has altered. */
static void
raise_altered(const char *name, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" of pgpubsub's log is not as the extension made it",
					name),
			 errdetail("%s", what),
			 errhint("Undo what was altered, or drop the extension and create it anew.")));
}

/*
 * Raise 55000: the relation has had rows, and the relay has not emptied it.
 */
void
log_raise_emptied(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" of pgpubsub's log was emptied by somebody else",
					RelationGetRelationName(rel)),
			 errdetail("What was in it is lost."),
			 errhint("Have subscriptions read on behind it with pgpubsub.seek(), or restore the database from a backup.")));
}

/* Raise 55000 unless the columns are those that the extension's script made. */
static void
check_columns(Relation rel, const Shape *shape)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (desc->natts != shape->ncolumns)
		raise_altered(RelationGetRelationName(rel),
					  "It has another number of columns.");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || att->atttypid != shape->types[i])
			raise_altered(RelationGetRelationName(rel),
						  "A column has another type, or was dropped.");
	}
}

/* Is that the index's method? */
static bool
has_method(Oid index, Oid method)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	bool		good;

	if (!HeapTupleIsValid(tuple))
		return false;
	good = ((Form_pg_class) GETSTRUCT(tuple))->relam == method;
	ReleaseSysCache(tuple);
	return good;
}

/*
 * Do the index's columns compare and order as those of the extension's index?
 * Another order would hide notes from who reads, and another operator class
 * could run anybody's code.  The tuple is of pg_index.
 */
static bool
has_order(HeapTuple tuple)
{
	static const Oid classes[] = {TEXT_BTREE_OPS_OID, INT8_BTREE_OPS_OID};
	static const Oid collations[] = {C_COLLATION_OID, InvalidOid};
	oidvector  *class;
	oidvector  *collation;
	int2vector *option;
	bool		null;

	class = (oidvector *) DatumGetPointer(SysCacheGetAttr(INDEXRELID, tuple,
														  Anum_pg_index_indclass,
														  &null));
	collation = (oidvector *) DatumGetPointer(SysCacheGetAttr(INDEXRELID, tuple,
															  Anum_pg_index_indcollation,
															  &null));
	option = (int2vector *) DatumGetPointer(SysCacheGetAttr(INDEXRELID, tuple,
															Anum_pg_index_indoption,
															&null));
	for (int i = 0; i < (int) lengthof(classes); i++)
	{
		if (class->values[i] != classes[i] ||
			collation->values[i] != collations[i] || option->values[i] != 0)
			return false;
	}
	return true;
}

/*
 * Raise 55000 unless the index is as the extension's script made it: a plain
 * btree on the channel and the last seq of notes.
 */
void
log_check_index(Relation rel, Oid index)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	bool		good;

	if (!HeapTupleIsValid(tuple))
		return;					/* dropped just now */
	form = (Form_pg_index) GETSTRUCT(tuple);
	good = form->indnatts == 2 && form->indnkeyatts == 2 &&
		form->indkey.values[0] == LOG_NOTE_CHANNEL &&
		form->indkey.values[1] == LOG_NOTE_LAST_SEQ &&
		!form->indisunique && !form->indisexclusion &&
		heap_attisnull(tuple, Anum_pg_index_indexprs, NULL) &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) &&
		has_order(tuple) && has_method(index, BTREE_AM_OID);
	ReleaseSysCache(tuple);
	if (!good)
		raise_altered(RelationGetRelationName(rel),
					  "It has an index that the extension did not make.");
}

/* Raise 55000 unless the indexes are as they should be. */
static void
check_indexes(Relation rel, const Shape *shape)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;

	if (!shape->indexed && indexes != NIL)
		raise_altered(RelationGetRelationName(rel),
					  "It has an index that the extension did not make.");
	if (shape->indexed && indexes == NIL)
		raise_altered(RelationGetRelationName(rel), "Its index was dropped.");
	foreach(lc, indexes)
		log_check_index(rel, lfirst_oid(lc));
	list_free(indexes);
}

/* Check the relation, which is open, before it is used.  Raises 55000. */
static void
check_relation(Relation rel, const Shape *shape)
{
	if (rel->rd_rel->relkind != RELKIND_MATVIEW ||
		rel->rd_rel->relam != HEAP_TABLE_AM_OID ||
		rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		raise_altered(RelationGetRelationName(rel),
					  "It is not a materialized view that is kept as a heap.");

	/* VACUUM FULL and CLUSTER, too, move the rows of one that is populated */
	if (rel->rd_rel->relispopulated)
		raise_altered(RelationGetRelationName(rel), "It was refreshed.");
	check_columns(rel, shape);
	if (rel->rd_rel->relhasindex || shape->indexed)
		check_indexes(rel, shape);
}

/*
 * Open the relation with that lock; it may be closed with NoLock, to keep the
 * lock until the transaction ends.  Raises 55000 if it is not there, or is not
 * as the extension made it.
 */
Relation
log_open(LogKind kind, int index, LOCKMODE mode)
{
	Oid			oid = log_oid(kind, index);
	Relation	rel = OidIsValid(oid) ? try_relation_open(oid, mode) : NULL;

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the log of durable channels is not there"),
				 errdetail("Relation \"%s_%d\" does not belong to the extension in this database.",
						   shapes[kind].name, index + 1),
				 errhint("Run ALTER EXTENSION pgpubsub UPDATE, or create the extension. If somebody has renamed or dropped the relation, undo that, or drop the extension and create it anew.")));
	check_relation(rel, &shapes[kind]);
	return rel;
}

/*
 * Open the relation if it is there and the lock can be had at once; else return
 * NULL.  Raises 55000 if it is not as the extension made it.
 */
Relation
log_try_open(LogKind kind, int index, LOCKMODE mode)
{
	Oid			oid = log_oid(kind, index);
	Relation	rel;

	if (!OidIsValid(oid) || !ConditionalLockRelationOid(oid, mode))
		return NULL;
	rel = try_relation_open(oid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(oid, mode);
		return NULL;
	}
	check_relation(rel, &shapes[kind]);
	return rel;
}

/*
 * Have the lock of those who write to the log and find no relay, until the
 * transaction ends.  A relay that begins takes it in a mode that excludes them:
 * then they have ended, or see that it is there.
 */
void
log_lock_unplaced(LOCKMODE mode)
{
	/* nobody else locks a column */
	LockDatabaseObject(RelationRelationId, log_oid(LOG_ROWS, 0), 1, mode);
}

/* Let go of it after all: the relay is there. */
void
log_unlock_unplaced(LOCKMODE mode)
{
	UnlockDatabaseObject(RelationRelationId, log_oid(LOG_ROWS, 0), 1, mode);
}

#ifdef USE_ASSERT_CHECKING
/*
 * Has this process a lock on the log as a writer has it: on rows of a segment, or
 * that of those who find no relay?
 */
bool
log_locked_by_writer(void)
{
	LOCKTAG		tag;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		SET_LOCKTAG_RELATION(tag, MyDatabaseId, log_oid(LOG_ROWS, i));
		if (PGPUBSUB_LOCK_HELD(&tag, RowExclusiveLock))
			return true;
	}
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId,
					   log_oid(LOG_ROWS, 0), 1);
	return PGPUBSUB_LOCK_HELD(&tag, RowExclusiveLock);
}
#endif

/*
 * Bytes of the relation, without forks other than the main one; 0 if it cannot be
 * locked at once.
 */
static uint64
relation_bytes(Oid oid)
{
	Relation	rel;
	uint64		bytes = 0;

	if (!OidIsValid(oid) || !ConditionalLockRelationOid(oid, AccessShareLock))
		return 0;
	rel = try_relation_open(oid, NoLock);
	if (rel)
	{
		bytes = (uint64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
		relation_close(rel, NoLock);
	}
	UnlockRelationOid(oid, AccessShareLock);
	return bytes;
}

/* Bytes of the relation's indexes. */
static uint64
index_bytes(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	uint64		bytes = 0;

	foreach(lc, indexes)
		bytes += relation_bytes(lfirst_oid(lc));
	list_free(indexes);
	return bytes;
}

/*
 * Bytes of a segment: rows, what of them is too long for a page, notes, and
 * indexes; *rows is set to what rows have without that.  The segment's rows
 * must be locked, or the caller be the relay, which alone empties it.  Raises
 * 55000 if a relation is not as the extension made it.
 */
uint64
log_segment_bytes(int segment, uint64 *rows)
{
	uint64		bytes = 0;

	*rows = 0;
	for (LogKind kind = LOG_ROWS; kind <= LOG_NOTES; kind++)
	{
		Relation	rel = log_try_open(kind, segment, AccessShareLock);
		Oid			toast;

		if (rel == NULL)
			continue;
		toast = rel->rd_rel->reltoastrelid;
		bytes += (uint64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
		if (kind == LOG_ROWS)
			*rows = bytes;
		bytes += relation_bytes(toast) + index_bytes(rel);
		if (OidIsValid(toast) && ConditionalLockRelationOid(toast, AccessShareLock))
		{
			Relation	toast_rel = try_relation_open(toast, NoLock);

			if (toast_rel)
			{
				bytes += index_bytes(toast_rel);
				relation_close(toast_rel, NoLock);
			}
			UnlockRelationOid(toast, AccessShareLock);
		}
		table_close(rel, AccessShareLock);
	}
	return bytes;
}

/*
 * Has the transaction that inserted this tuple committed?  Nobody ever deletes
 * one.  The page is locked or the tuple is a copy.
 */
bool
log_row_committed(HeapTupleHeader header)
{
	if (HeapTupleHeaderXminCommitted(header))
		return true;
	if (HeapTupleHeaderXminInvalid(header))
		return false;
	return TransactionIdDidCommit(HeapTupleHeaderGetRawXmin(header));
}

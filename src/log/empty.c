/*-------------------------------------------------------------------------
 *
 * empty.c
 *	  Emptying a relation of the log.
 *
 * 1. A relation is emptied as TRUNCATE would do it: it gets new, empty files in
 *	  a transaction, whose commit removes the old ones, and whose rollback
 *	  leaves all as it was.  Its rows are never deleted, so nothing is to be
 *	  vacuumed, and an old snapshot that somebody keeps costs nothing.
 *
 * 2. It takes exclusive locks, for which nobody waits: who empties looks whether
 *	  anybody else has a lock, and comes back later if so.  That look comes
 *	  first, since to ask for an exclusive lock uses up a transaction id.
 *
 * 3. Everything is locked before anything is changed: the relation, its indexes,
 *	  its toast table and that one's indexes.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/index.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Is there nothing in the toast table?  Also false if it cannot be locked. */
static bool
is_empty_toast(Oid toast)
{
	Relation	rel;
	bool		empty;

	if (!ConditionalLockRelationOid(toast, AccessShareLock))
		return false;
	rel = table_open(toast, NoLock);
	empty = RelationGetNumberOfBlocks(rel) == 0;
	table_close(rel, AccessShareLock);
	return empty;
}

/*
 * Is there nothing in the relation?  Also false if it cannot be locked at once.
 * In a transaction.  Raises 55000 if it is not as the extension made it.
 */
bool
log_is_empty(LogKind kind, int index)
{
	Relation	rel = log_try_open(kind, index, AccessShareLock);
	Oid			toast;
	bool		empty;

	if (rel == NULL)
		return false;
	empty = RelationGetNumberOfBlocks(rel) == 0;

	/* who fails when he inserts may leave what is too long for a page */
	toast = rel->rd_rel->reltoastrelid;
	if (empty && OidIsValid(toast))
		empty = is_empty_toast(toast);
	table_close(rel, AccessShareLock);
	return empty;
}

/*
 * Could somebody lock the relation at once to write to it?  In a transaction.
 * Raises 55000 if it is not as the extension made it.
 */
bool
log_is_writable(LogKind kind, int index)
{
	Relation	rel = log_try_open(kind, index, RowExclusiveLock);

	if (rel == NULL)
		return false;
	table_close(rel, RowExclusiveLock);
	return true;
}

/*
 * Bytes of the relation, without toast and indexes; 0 if it cannot be locked at
 * once.  In a transaction.  Raises 55000 if it is not as the extension made it.
 */
uint64
log_relation_bytes(LogKind kind, int index)
{
	Relation	rel = log_try_open(kind, index, AccessShareLock);
	uint64		bytes;

	if (rel == NULL)
		return 0;
	bytes = (uint64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	table_close(rel, AccessShareLock);
	return bytes;
}

/*
 * Add to the list the relation's toast table, with its indexes.  Returns NIL if
 * that cannot be locked at once.
 */
static List *
add_toast(List *oids, Oid toast)
{
	Relation	rel;

	if (!ConditionalLockRelationOid(toast, AccessShareLock))
		return NIL;
	rel = relation_open(toast, NoLock);
	oids = lappend_oid(oids, toast);
	oids = list_concat(oids, RelationGetIndexList(rel));
	relation_close(rel, AccessShareLock);
	return oids;
}

/*
 * The relation and all that has storage of its own with it.  Returns NIL if
 * something of it cannot be locked at once.
 */
static List *
list_storage(LogKind kind, int index)
{
	Relation	rel = log_try_open(kind, index, AccessShareLock);
	List	   *oids;

	if (rel == NULL)
		return NIL;
	oids = list_make1_oid(RelationGetRelid(rel));
	oids = list_concat(oids, RelationGetIndexList(rel));
	if (OidIsValid(rel->rd_rel->reltoastrelid))
		oids = add_toast(oids, rel->rd_rel->reltoastrelid);
	table_close(rel, AccessShareLock);
	return oids;
}

/* Has anybody else a lock on the relation? */
static bool
is_used(Oid oid)
{
	LOCKTAG		tag;
	int			count;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, oid);
	pfree(GetLockConflicts(&tag, AccessExclusiveLock, &count));
	return count > 0;
}

/*
 * Lock the relation, waiting so many ms for others, who cannot lock it meanwhile.
 * Raises 55P03 if that is not long enough.
 */
static void
lock_patiently(Oid oid, int patience)
{
	int			timeout = LockTimeout;

	LockTimeout = patience;
	LockRelationOid(oid, AccessExclusiveLock);
	LockTimeout = timeout;
}

/*
 * Lock the relation, for log_empty(), if nobody else has a lock on it or
 * anything that belongs to it; with patience, in ms, who uses it is waited for so
 * long.  In a transaction, which keeps what was locked even if this returns false:
 * then it should end at once.  Raises 55P03 if the patience has ended, and 55000 if
 * the relation is not as the extension made it.
 */
bool
log_lock_to_empty(LogKind kind, int index, int patience)
{
	List	   *oids = list_storage(kind, index);
	ListCell   *lc;

	if (oids == NIL)
		return false;
	if (patience > 0)
		lock_patiently(linitial_oid(oids), patience);
	foreach(lc, oids)
	{
		if (is_used(lfirst_oid(lc)))
			return false;
	}
	foreach(lc, oids)
	{
		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessExclusiveLock))
			return false;
	}
	list_free(oids);
	return true;
}

/*
 * Empty the relation, which log_lock_to_empty() has locked, when this
 * transaction commits.  This process must not have it open.  Raises what the
 * catalogs and new files do.
 */
void
log_empty(LogKind kind, int index)
{
	Relation	rel = log_open(kind, index, AccessExclusiveLock);
	Oid			oid = RelationGetRelid(rel);
	Oid			toast = rel->rd_rel->reltoastrelid;

	PushActiveSnapshot(GetTransactionSnapshot());
	PGPUBSUB_SET_NEW_FILE(rel);
	if (OidIsValid(toast))
	{
		Relation	toast_rel = relation_open(toast, AccessExclusiveLock);

		PGPUBSUB_SET_NEW_FILE(toast_rel);
		relation_close(toast_rel, NoLock);
	}
	pgstat_count_truncate(rel);
	table_close(rel, NoLock);
	PGPUBSUB_REINDEX_RELATION(oid, REINDEX_REL_PROCESS_TOAST);
	PopActiveSnapshot();
}

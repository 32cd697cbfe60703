/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the server versions that pgpubsub supports.
 *
 * The code is written for the newest API; this file gives the older servers
 * the same names.  It is the only file that may look at PG_VERSION_NUM.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_COMPAT_H
#define PGPUBSUB_COMPAT_H

#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "pgpubsub needs PostgreSQL 15 or newer"
#endif

#include "fmgr.h"

/*
 * 16 and newer build extensions with hidden symbols, and export what the
 * function manager and the worker launcher look up: 15 leaves all of that to
 * the extension.  They have the VARDATA family outside of postgres.h, a read
 * that raises an error if it gets less, one ownership check for all kinds of
 * objects, an UPDATE that says which kinds of indexes it touches, and call the
 * number of a relation's file another name.  Who inserts in bulk gets ever more
 * pages at a time there, unless told not to.
 */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#define PGPUBSUB_BUFFILE_READ(file, ptr, size) \
	BufFileReadExact(file, ptr, size)
#define PGPUBSUB_OWNS_DATABASE(dboid, role) \
	object_ownercheck(DatabaseRelationId, dboid, role)
#define PGPUBSUB_OWNS_TABLE(reloid, role) \
	object_ownercheck(RelationRelationId, reloid, role)
#define PGPUBSUB_FUNCTION_ACLCHECK(function, role) \
	object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE)
#define PGPUBSUB_UPDATE_INDEXES TU_UpdateIndexes
#define PGPUBSUB_UPDATE_INDEXES_NONE TU_None
#define PGPUBSUB_UPDATE_INDEXES_ALL TU_All
#define PGPUBSUB_SET_NEW_FILE(rel) \
	RelationSetNewRelfilenumber(rel, (rel)->rd_rel->relpersistence)
#define PGPUBSUB_EXTEND_AS_NEEDED(bistate) \
	((bistate)->already_extended_by = 0)
#else
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(funcname) \
extern PGDLLEXPORT Datum funcname(PG_FUNCTION_ARGS); \
extern PGDLLEXPORT const Pg_finfo_record *pg_finfo_##funcname(void); \
const Pg_finfo_record * \
pg_finfo_##funcname(void) \
{ \
	static const Pg_finfo_record my_finfo = {1}; \
		return &my_finfo; \
} \
extern int no_such_variable
#define PGPUBSUB_BUFFILE_READ(file, ptr, size) \
		do { \
		if (BufFileRead(file, ptr, size) != (size_t) (size)) \
			ereport(ERROR, \
					(errcode_for_file_access(), \
					 errmsg("could not read from temporary file: %m"))); \
		} while (0)
#define PGPUBSUB_OWNS_DATABASE(dboid, role) \
		pg_database_ownercheck(dboid, role)
#define PGPUBSUB_OWNS_TABLE(reloid, role) \
		pg_class_ownercheck(reloid, role)
#define PGPUBSUB_FUNCTION_ACLCHECK(function, role) \
		pg_proc_aclcheck(function, role, ACL_EXECUTE)
#define PGPUBSUB_UPDATE_INDEXES bool
#define PGPUBSUB_UPDATE_INDEXES_NONE false
#define PGPUBSUB_UPDATE_INDEXES_ALL true
#define PGPUBSUB_SET_NEW_FILE(rel) \
		RelationSetNewRelfilenode(rel, (rel)->rd_rel->relpersistence)
#define PGPUBSUB_EXTEND_AS_NEEDED(bistate) ((void) (bistate))
#endif

/*
 * 17 renamed backend ids to ProcNumber (pgpubsub only ever means the index into
 * ProcGlobal->allProcs, which 15 and 16 call pgprocno), moved a backend's local
 * transaction id, added transaction_timeout, lets extensions name their wait
 * events: before, all extensions share one; wants to know the statement for
 * which it reindexes; and can ask for a stronger lock than the one named.
 */
#if PG_VERSION_NUM >= 170000
#define PGPUBSUB_MY_PROCNO ((int) MyProcNumber)
#define PGPUBSUB_LXID(proc) ((proc)->vxid.lxid)
#define PGPUBSUB_HAVE_TRANSACTION_TIMEOUT 1
#define PGPUBSUB_NEW_WAIT_EVENT(name) WaitEventExtensionNew(name)
#define PGPUBSUB_REINDEX_RELATION(oid, flags) \
	reindex_relation(NULL, oid, flags, &(ReindexParams) {0})
#define PGPUBSUB_LOCK_HELD(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define PGPUBSUB_MY_PROCNO (MyProc->pgprocno)
#define PGPUBSUB_LXID(proc) ((proc)->lxid)
#define PGPUBSUB_NEW_WAIT_EVENT(name) ((void) (name), PG_WAIT_EXTENSION)
#define PGPUBSUB_REINDEX_RELATION(oid, flags) \
	reindex_relation(oid, flags, &(ReindexParams) {0})
#define PGPUBSUB_LOCK_HELD(tag, mode) LockHeldByMe(tag, mode)
#endif

/*
 * 18 counts what index scans do, and 19 gives them options.
 */
#if PG_VERSION_NUM >= 190000
#define PGPUBSUB_INDEX_BEGINSCAN(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0, 0)
#elif PG_VERSION_NUM >= 180000
#define PGPUBSUB_INDEX_BEGINSCAN(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define PGPUBSUB_INDEX_BEGINSCAN(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/*
 * 18 added virtual generated columns, whose values no tuple has, and marks
 * functions that do not return before their type.
 */
#if PG_VERSION_NUM >= 180000
#define PGPUBSUB_IS_VIRTUAL(att) \
	((att)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define PGPUBSUB_IS_VIRTUAL(att) false
#define pg_noreturn __attribute__((noreturn))
#endif

/*
 * 19 dropped the initial size of a hash in shared memory.  It gives the access
 * method's delete and update options, among them whether the row moves to
 * another partition, makes all options unsigned, and has them for scans too.  It keeps what a session
 * listens to in a hash table; before, that was a list.
 */
#define PGPUBSUB_LISTENS_BY_LIST (PG_VERSION_NUM < 190000)
#if PG_VERSION_NUM >= 190000
#define PGPUBSUB_SHMEM_HASH(name, size, ctl, flags) \
	ShmemInitHash(name, size, ctl, flags)
#define PGPUBSUB_BEGINSCAN(relation, snapshot) \
	table_beginscan(relation, snapshot, 0, NULL, 0)
#define PGPUBSUB_INSERT_OPTIONS uint32
#define PGPUBSUB_UPDATE_OPTIONS uint32 options,
#define PGPUBSUB_DELETE_PARAMETERS \
	Relation relation, ItemPointer tid, CommandId cid, uint32 options, \
	Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd
#define PGPUBSUB_HEAP_DELETE(relation, tid, cid, snapshot, crosscheck, wait, tmfd) \
	GetHeapamTableAmRoutine()->tuple_delete(relation, tid, cid, 0, snapshot, \
											crosscheck, wait, tmfd)
#else
#define PGPUBSUB_SHMEM_HASH(name, size, ctl, flags) \
	ShmemInitHash(name, size, size, ctl, flags)
#define PGPUBSUB_BEGINSCAN(relation, snapshot) \
	table_beginscan(relation, snapshot, 0, NULL)
#define PGPUBSUB_INSERT_OPTIONS int
#define PGPUBSUB_UPDATE_OPTIONS
#define PGPUBSUB_DELETE_PARAMETERS \
	Relation relation, ItemPointer tid, CommandId cid, \
	Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd, \
	bool changingPart
#define PGPUBSUB_HEAP_DELETE(relation, tid, cid, snapshot, crosscheck, wait, tmfd) \
	GetHeapamTableAmRoutine()->tuple_delete(relation, tid, cid, snapshot, \
											crosscheck, wait, tmfd, false)
#endif

#endif							/* PGPUBSUB_COMPAT_H */

/*-------------------------------------------------------------------------
 *
 * log_internal.h
 *	  What the files of this room share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_LOG_INTERNAL_H
#define PGPUBSUB_LOG_INTERNAL_H

#include "log/log.h"

#include "access/relscan.h"
#include "access/sdir.h"
#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "nodes/pg_list.h"

/* A look for notes of one channel in one segment. */
typedef struct NoteScan
{
	Relation	rel;
	Relation	index;
	ScanDirection direction;
	Datum		channel;
	ScanKeyData keys[2];
	IndexScanDesc scan;
	TupleTableSlot *slot;
} NoteScan;

/* relations.c */
extern void log_check_index(Relation rel, Oid index);
pg_noreturn extern void log_raise_emptied(Relation rel);

/* notes.c */
extern NoteScan *note_scan_begin(int segment, const char *channel, uint64 seq,
								 bool upwards);
extern bool note_scan_next(NoteScan *scan, LogNote *note);
extern void note_scan_end(NoteScan *scan);
extern bool log_note_next_channel(int segment, char *channel);
extern bool log_note_nearest(int segment, const char *channel, uint64 seq,
							 bool above, LogNote *note);
extern Relation log_open_valid_index(Relation rel, List *indexes);
pg_noreturn extern void log_raise_corrupted(Relation rel);

/* reader.c */
extern uint64 log_note_count(const LogNote *note, uint64 after, uint64 upto,
							 uint64 *bytes);

#endif							/* PGPUBSUB_LOG_INTERNAL_H */

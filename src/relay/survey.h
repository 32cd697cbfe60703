/*-------------------------------------------------------------------------
 *
 * survey.h
 *	  What recover.c and survey.c know of a recovery.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_SURVEY_H
#define PGPUBSUB_SURVEY_H

#include "relay/relay_internal.h"

/*
 * How long to wait for a lock on the log, in ms.  A relay that begins ends then,
 * and is started again: so it is not in anybody's way.
 */
#define RECOVER_LOCK_WAIT_MS	1000

/* Which rows of a segment are noted. */
typedef struct NotedRows
{
	BlockNumber nblocks;		/* the bitmap has so many pages */
	uint8	   *bits;
} NotedRows;

/* A row without a note. */
typedef struct LostRow
{
	uint64		lsn;
	TransactionId xid;
	BlockNumber block;
	OffsetNumber offset;
	uint8		segment;
	bool		placed;			/* it comes by the staging queue */
} LostRow;

/* One recovery. */
typedef struct Recovery
{
	MemoryContext context;
	NotedRows	noted[LOG_SEGMENTS];
	LostRow    *rows;
	Size		nrows;
	Size		allocated;
	uint64		highest_seq;
} Recovery;

extern void survey_list_channels(void);
extern void survey_log(Recovery *recovery, bool rows);
extern void survey_leave_out_placed(Recovery *recovery);

#endif							/* PGPUBSUB_SURVEY_H */

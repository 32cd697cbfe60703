/*-------------------------------------------------------------------------
 *
 * merge.h
 *	  What poll.c and merge.c know of a poll.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_MERGE_H
#define PGPUBSUB_MERGE_H

#include "read/read_internal.h"

#include "lib/binaryheap.h"
#include "log/log.h"
#include "utils/tuplestore.h"

/* The next event of a channel. */
typedef struct Head
{
	RingNext	found;
	RingRecord	record;			/* if RING_FOUND */
	uint64		missed;			/* how many are missing before it */
	uint64		missed_upto;	/* number of the last one missed */
	uint64		missed_logged;	/* records up to that one that are in the log */
	uint64		told;			/* up to which the gap row told, or 0 */
	uint64		told_logged;	/* records up to that one that are in the log */

	/* the log */
	bool		from_log;		/* it is this event, not the record */
	LogEvent	event;
	LogChannel *channel;		/* where it is read; NULL: not yet */
} Head;

/* The seq of a head that was found. */
static inline uint64
head_seq(const Head *head)
{
	return head->from_log ? head->event.seq : head->record.seq;
}

/* One poll. */
typedef struct Poll
{
	Claim	   *claim;
	Ring	   *ring;
	bool		consume;		/* false: it is a look */
	Cursor	   *cursors;		/* the claim's, or a look's copy of them */
	int			ncursors;
	Head	   *heads;
	LogReader  *reader;			/* of the log; NULL: not needed yet */
	binaryheap *heap;			/* indexes of cursors, lowest seq first */

	/* what find_heads() has found */
	uint64		newest_seq;		/* in the ring, when it began to look */
	bool		newer;			/* some channel's next record has a higher seq */

	/* the gap row */
	uint64		relay_epoch;	/* when the events were found */
	uint64		gap_epoch;		/* up to which it tells */
	bool		gap_unknown;	/* nobody knows how many are missing */
	uint64		missed;			/* how many are missing, as far as is known */
	uint64		gap_seq;		/* the row's */

	/* what was returned */
	uint64		delivered_bytes;
	uint64		delivered;
	TimestampTz now;			/* when the first was found */
	uint64		delay_us;		/* how long they were there until now, in all */
	uint64		last_seq;
	bool		logged;			/* something of it is in the log */
	bool		progress;		/* cursors have moved over what was no event */

	/* the result */
	Tuplestorestate *store;
	TupleDesc	desc;
	text	   *payload;		/* of the current row */
	text	   *buffer;			/* reused for payloads */
	Size		payload_size;	/* of that */
	text	   *name;			/* of the channel of the last row */
	int			name_channel;
} Poll;

extern void merge_begin(Poll *poll);
extern bool merge_find_heads(Poll *poll);
extern void merge_find_head(Poll *poll, int i);
extern uint64 merge_untold_loss(Poll *poll, int i);

#endif							/* PGPUBSUB_MERGE_H */

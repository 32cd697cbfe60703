/*-------------------------------------------------------------------------
 *
 * staging_internal.h
 *	  The async queue in shared memory, for staging.c and staging_take.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_STAGING_INTERNAL_H
#define PGPUBSUB_STAGING_INTERNAL_H

#include "queue/staging.h"

#include "lib/ilist.h"
#include "storage/spin.h"

typedef enum StagedStatus
{
	STAGED_VOID,				/* aborted, or only fills up the end */
	STAGED_PENDING,
	STAGED_COMMITTED
} StagedStatus;

/* The header of a place; the transaction's events follow. */
struct StagedTransaction
{
	/* a filler has only these two */
	pg_atomic_uint32 length;	/* of the place, all included; written last,
								 * then constant until the place is freed */
	pg_atomic_uint32 status;	/* a StagedStatus; set by the transaction when
								 * it ends */

	/* written by the transaction before length; then constant */
	int			pid;
	int			procno;
	LocalTransactionId lxid;
	uint32		nevents;
	uint32		generation;		/* of the database slot */
	TransactionId xid;
	TimestampTz taken_at;

	/* written by the transaction before status; then constant */
	TimestampTz ended_at;

	/* whoever has the turn (see AppendTurn) */
	uint64		first;			/* number of its first event, 0: not taken */
	uint64		next;			/* the next place in its PlaceList or, once it
								 * is taken, the one taken next; 0: none */
};

/* Places in ascending order, each leading to the next; 0: none. */
typedef struct PlaceList
{
	uint64		first;
	uint64		last;
} PlaceList;

/* A process in the queue for room; changed by that process under the mutex. */
typedef struct RoomWaiter
{
	dlist_node	node;			/* in Staging.queue */
	Size		length;			/* bytes of the place that it wants */
} RoomWaiter;

/* What different processes write is in different lines of the cache. */
struct Staging
{
	/* constant */
	Size		size;
	char	   *data;
	RoomWaiter *waiters;		/* of each process, by its number */

	char		pad1[PG_CACHE_LINE_SIZE];

	/* any writer, by compare-and-swap */
	pg_atomic_uint64 head;		/* end of the places that are taken */

	/* changed under the mutex; read without it by each writer */
	pg_atomic_uint32 num_queued;	/* processes in queue */

	char		pad2[PG_CACHE_LINE_SIZE];

	/* written by whoever has the turn, read by any process */
	pg_atomic_uint64 tail;		/* begin of the places that are not free */
	pg_atomic_uint64 notified;	/* number up to which events are notified */
	pg_atomic_uint64 appended;	/* number up to which they are in the ring */
	pg_atomic_uint64 noted;		/* number up to which those that are in the
								 * log have their seqs for ever */
	pg_atomic_uint64 passes_begun;
	pg_atomic_uint64 passes_done;

	/* whoever has the turn */
	uint64		numbered;		/* the last number given */
	uint64		looked;			/* the first place not looked at yet */
	uint64		cleared;		/* committed ones before this may be taken */
	PlaceList	pending;		/* those found pending */
	PlaceList	committed;		/* those found committed, to be taken */
	uint64		last_taken;		/* a place, which may have been freed */

	/* broadcast by any process, without a lock */
	ConditionVariable moved;	/* tail, passes_done or queue has changed */

	/* the mutex, which is held for a few instructions only */
	slock_t		mutex;
	dlist_head	queue;			/* RoomWaiter.node, the first comes first */
};

#define HEADER_SIZE MAXALIGN(sizeof(StagedTransaction))

#define PLACE_AT(staging, pos) \
	((StagedTransaction *) ((staging)->data + (pos) % (staging)->size))

/*
 * The place's bytes, 0 if it has no header yet.
 *
 * The barrier pairs with the one in write_header(): who sees the length sees
 * the rest of the header.  Otherwise status could be read as the 0 that free
 * memory has: the place would be taken for a void one, and its events be lost.
 */
static inline uint32
place_length(StagedTransaction *place)
{
	uint32		length = pg_atomic_read_u32(&place->length);

	pg_read_barrier();
	return length;
}

/* staging_take.c */
extern void staging_forget_looks(Staging *staging);

#endif							/* PGPUBSUB_STAGING_INTERNAL_H */

/*-------------------------------------------------------------------------
 *
 * staging.h
 *	  The async queue: committed events on their way to the relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_STAGING_H
#define PGPUBSUB_STAGING_H

#include "base/pgpubsub.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/itemptr.h"

typedef struct Staging Staging;

/* A transaction's place in the queue. */
typedef struct StagedTransaction StagedTransaction;

/*
 * An event as it lies in the queue, MAXALIGNed; its strings follow, each
 * terminated: channel, id, payload, and the native payload if native_len > 0.
 */
typedef struct StagedEvent
{
	uint32		length;			/* with strings and alignment */
	uint32		payload_len;
	uint32		native_len;
	int32		slot;			/* of its channel; decided when it is taken */
	uint16		channel_len;
	uint16		id_len;

	/* of an event that is in the log */
	ItemPointerData place;		/* its row's, in the segment */
	uint8		segment;
	bool		reference;		/* the payload is a LogReference */
	uint64		seq;			/* which it was given; valid once noted */
} StagedEvent;

/* A transaction that the relay has taken. */
typedef struct StagedView
{
	StagedTransaction *transaction;
	uint64		pos;			/* its place */
	int			pid;
	uint32		generation;		/* of the database slot */
	TransactionId xid;			/* its own, if its events are in the log */
	TimestampTz ended_at;		/* when it has committed */
	uint32		nevents;
	StagedEvent *events;
	uint64		first;			/* number of its first event */
} StagedView;

/* The relay's way through the events that were taken, by their numbers. */
typedef struct StagedWalk
{
	StagedView	view;			/* transaction NULL: at the end */
	StagedEvent *event;			/* the next one */
	uint32		done;			/* events of the transaction before it */
} StagedWalk;

typedef enum StagedTake
{
	TAKE_NOTHING,
	TAKE_FOUND,
	TAKE_SOON					/* a transaction is just about to be marked */
} StagedTake;

/* events */
extern Size staged_event_length(Size channel_len, Size id_len,
								Size payload_len, Size native_len);
extern void staged_event_write(StagedEvent *event, const char *channel,
							   const char *id, const char *payload,
							   Size payload_len, const char *native);
extern const char *staged_event_channel(const StagedEvent *event);
extern const char *staged_event_id(const StagedEvent *event);
extern const char *staged_event_payload(const StagedEvent *event);
extern const char *staged_event_native(const StagedEvent *event);
extern StagedEvent *staged_event_next(StagedEvent *event);
extern void *staged_reference_write(StagedEvent *event, Size len);
extern Size staged_reference_length(Size len);
extern void *staged_event_reference(StagedEvent *event);

/* any process */
extern Size staging_shmem_size(Size bytes);
extern Staging *staging_init(void *space, Size bytes);
extern Size staging_size(Staging *staging);
extern Size staging_used(Staging *staging);
extern uint64 staging_head(Staging *staging);
extern Size staging_max_transaction(Staging *staging);

/* writers */
extern StagedTransaction *staging_reserve(Staging *staging, Size len,
										  uint32 nevents, uint32 generation,
										  TimestampTz now);
extern void staging_queue_up(Staging *staging, Size len);
extern StagedTransaction *staging_reserve_queued(Staging *staging,
												 uint32 nevents,
												 uint32 generation,
												 TimestampTz now);
extern void staging_leave_queue(Staging *staging);
extern char *staging_data(StagedTransaction *transaction);
extern void staging_set_xid(StagedTransaction *transaction, TransactionId xid);
extern void staging_mark(StagedTransaction *transaction, bool committed);
extern uint64 staging_next_pass(Staging *staging);
extern bool staging_pass_done(Staging *staging, uint64 pass);
extern TimestampTz staging_blocked_since(Staging *staging);
extern ConditionVariable *staging_moved(Staging *staging);

/* whoever has the turn; see AppendTurn */
extern void staging_recover(Staging *staging, StagedWalk *append,
							StagedWalk *notify);
extern uint64 staging_begin_pass(Staging *staging);
extern StagedTake staging_take(Staging *staging, uint64 end,
							   StagedWalk *append, StagedWalk *notify,
							   StagedView *view);
extern bool staging_comes_next(Staging *staging, StagedTransaction *place,
							   StagedView *view);
extern void staging_take_next(Staging *staging, StagedView *view);
extern uint64 staging_numbered(Staging *staging);
extern uint64 staging_walk_number(const StagedWalk *walk);
extern void staging_walk_advance(Staging *staging, StagedWalk *walk);
extern void staging_end_pass(Staging *staging);
extern bool staging_idle(Staging *staging);
extern uint64 staging_notified(Staging *staging);
extern void staging_set_notified(Staging *staging, uint64 number);
extern uint64 staging_appended(Staging *staging);
extern void staging_set_appended(Staging *staging, uint64 number);
extern uint64 staging_noted(Staging *staging);
extern void staging_set_noted(Staging *staging, uint64 number);
extern bool staging_walk_places(Staging *staging, uint64 *pos,
								StagedView *view, bool *all);
extern void staging_free(Staging *staging);

#endif							/* PGPUBSUB_STAGING_H */

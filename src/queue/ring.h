/*-------------------------------------------------------------------------
 *
 * ring.h
 *	  The fan-out ring: one writer, any number of readers, no lock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RING_H
#define PGPUBSUB_RING_H

#include "base/pgpubsub.h"

#include "datatype/timestamp.h"

typedef struct Ring Ring;

/* A place in the endless array of bytes that the ring is a window on. */
typedef uint64 RingPos;

/* No record starts at position 0. */
#define RING_NONE	((RingPos) 0)

/* The hold of a channel that holds nothing back. */
#define RING_NO_HOLD	PG_UINT64_MAX

/* A reader's copy of a record's header. */
typedef struct RingRecord
{
	RingPos		pos;
	RingPos		next;			/* channel's next record, or RING_NONE */
	RingPos		before;			/* ring_next: one passed over, or RING_NONE */
	int			channel;
	int			pid;			/* the publisher's backend */
	uint64		seq;			/* in the database */
	uint64		number;			/* in the channel, from 1 */
	uint64		bytes;			/* channel's payload bytes up to and with it */
	TimestampTz time;
	uint32		payload_len;
	bool		in_log;			/* it is in the log, too */
	uint64		log_before;		/* no event of the channel after this seq, and
								 * before this record, is in the log alone */
	uint64		logged;			/* the channel's records up to and with it
								 * that are in the log, too */
} RingRecord;

/* What a channel has in the ring; see ring_channel_state. */
typedef struct RingChannelState
{
	uint64		newest_number;	/* 0: never had one */
	uint64		newest_seq;
	uint64		bytes;			/* payload bytes ever */
	uint64		messages;		/* records in the ring */
	TimestampTz last_time;
	uint64		logged;			/* records ever that are in the log, too */
} RingChannelState;

typedef struct RingState
{
	Size		size;
	Size		used;
	uint64		messages;
	uint64		newest_seq;
	RingRecord	oldest;			/* valid if messages > 0 */
} RingState;

typedef enum RingNext
{
	RING_FOUND,					/* *record is the next one */
	RING_UP_TO_DATE,			/* nothing after number */
	RING_ALL_GONE				/* there were some, all overwritten */
} RingNext;

/*
 * For the tests: records that ring_next() has passed over in this process.
 * None if each last_pos was that of the record with the number.
 */
extern uint64 ring_passed_over;

/* any process */
extern Size ring_shmem_size(Size bytes, int nchannels);
extern Ring *ring_init(void *space, Size bytes, int nchannels);
extern RingNext ring_next(Ring *ring, int channel, uint64 number,
						  RingPos last_pos, RingRecord *record,
						  uint64 *newest);
extern bool ring_payload(Ring *ring, const RingRecord *record, char *dst);
extern RingPos ring_newest_position(Ring *ring, int channel, uint64 number);
extern uint64 ring_newest_number(Ring *ring, int channel);
extern uint64 ring_newest_seq(Ring *ring);
extern uint64 ring_log_newest(Ring *ring, int channel);
extern void ring_counts(Ring *ring, int channel, uint64 *number,
						uint64 *logged);
extern void ring_channel_state(Ring *ring, int channel,
							   RingChannelState *state);
extern void ring_state(Ring *ring, RingState *state);
extern Size ring_used(Ring *ring);
extern Size ring_size(Ring *ring);
extern bool ring_channel_empty(Ring *ring, int channel);
extern void ring_lower_hold(Ring *ring, int channel, uint64 number);

/* the writer: who has the turn, or has made sure that there is no relay */
extern void ring_reset(Ring *ring, uint64 newest_seq);
extern Size ring_record_size(Size payload_len);
extern int	ring_make_room(Ring *ring, Size bytes, uint64 *number);
extern bool ring_peek_half(Ring *ring, RingRecord *record);
extern bool ring_next_half(Ring *ring, RingRecord *record);
extern uint64 ring_append(Ring *ring, int channel, int pid, TimestampTz time,
						  const char *payload, Size payload_len);
extern void ring_append_logged(Ring *ring, int channel, int pid,
							   TimestampTz time, const char *payload,
							   Size payload_len, uint64 seq);
extern void ring_pass(Ring *ring, int channel, uint64 seq);
extern void ring_set_log_newest(Ring *ring, int channel, uint64 seq);
extern void ring_set_hold(Ring *ring, int channel, uint64 number);
extern uint64 ring_hold(Ring *ring, int channel);

#endif							/* PGPUBSUB_RING_H */

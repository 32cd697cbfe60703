/*-------------------------------------------------------------------------
 *
 * ring.c
 *	  The fan-out ring: one writer, any number of readers, no lock.
 *
 * 1. The ring is a window [tail, head) on an endless array of bytes.  Both
 *	  positions only grow; a position's place in memory is position modulo
 *	  size.  Records are MAXALIGNed and never wrap: where one does not fit
 *	  before the end, a pad fills it.
 *
 * 2. The records of one channel form a chain: each knows the position of the
 *	  next.  The channel's entry in chains[] knows the oldest and the newest.
 *	  A record's number counts within its channel, so what a reader missed is
 *	  a subtraction.
 *
 * 3. One process writes at a time, called the writer: who has the turn (see
 *	  AppendTurn in registry.h), mostly the relay.  To reuse bytes it first
 *	  advances tail beyond them, then issues a write barrier, then writes.  A
 *	  reader copies, issues a read barrier, and then looks at tail: if that is
 *	  still at or before its position, it has copied what was there, whole.
 *	  Without either barrier it could copy bytes of a new record and yet find
 *	  the old tail.  Nothing copied may be used before that check.
 *
 * 4. A new record becomes reachable in the order: its bytes, the previous
 *	  record's next (or the chain's first), the chain's newest number, the
 *	  ring's newest seq and head; with a write barrier between.  A reader goes
 *	  the other way, with a read barrier between: who knows a seq finds all
 *	  numbers up to it, and who knows a number finds the way to the record.
 *
 * 5. The writer never advances tail over a record whose number is above its
 *	  channel's hold.  The hold is a lower bound of what holding subscriptions
 *	  have consumed; the registry keeps it.
 *
 * 6. Records of a durable channel are in the log, too, under the same seq, and
 *	  some of the channel's events are in the log alone: they have passed by.
 *	  A record says up to which seq there may be such: a reader that has
 *	  consumed that one need not look there.  The chain's log_newest says the
 *	  same for who is behind the newest record.
 *
 * Nothing here takes a lock, looks at a catalog or raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "queue/ring.h"

#include "port/atomics.h"

#ifndef PG_HAVE_8BYTE_SINGLE_COPY_ATOMICITY
#error "pgpubsub needs a machine that reads and writes eight bytes at once"
#endif

#define RING_PAD	(-1)		/* the channel of a pad */

/* A record as it lies in the ring; the payload follows, not terminated. */
typedef struct RecordHeader
{
	uint32		length;			/* with header, payload and alignment */
	int32		channel;		/* pads have only these two fields */
	pg_atomic_uint64 next;
	uint64		seq;
	uint64		number;
	uint64		bytes;
	TimestampTz time;
	int32		pid;
	uint32		payload_len;
	uint64		log_before;		/* see RingRecord; the highest bit tells
								 * whether the record is in the log */
	uint64		logged;
} RecordHeader;

/* Seqs are below this; see HIGHEST_SEQ in registry/shmem.c. */
#define IN_LOG			(UINT64CONST(1) << 63)

/*
 * One channel's records.  Written by the writer, but hold also by sessions
 * whose subscriptions begin to hold; read by any process.
 */
typedef struct RingChain
{
	pg_atomic_uint64 first;		/* oldest record, or RING_NONE */
	pg_atomic_uint64 last;		/* newest record; may be behind tail */
	pg_atomic_uint64 newest_number;
	pg_atomic_uint64 newest_seq;
	pg_atomic_uint64 bytes;
	pg_atomic_uint64 messages;
	pg_atomic_uint64 last_time;
	pg_atomic_uint64 hold;		/* see 5. above */
	pg_atomic_uint64 log_newest;	/* no event above this seq is in the log
									 * and not in the chain */
	pg_atomic_uint64 logged;	/* records ever that are in the log, too */
	pg_atomic_uint64 changes;	/* odd while logged and newest_number change */
} RingChain;

struct Ring
{
	/* constant */
	Size		size;
	int			nchannels;
	char	   *data;
	RingChain  *chains;

	/* written by the writer, read by any process */
	pg_atomic_uint64 tail;
	pg_atomic_uint64 head;
	pg_atomic_uint64 newest_seq;
	pg_atomic_uint64 messages;

	/* the writer alone: the first record not more than half a ring old */
	RingPos		half;
};

uint64		ring_passed_over = 0;

StaticAssertDecl(sizeof(RecordHeader) % MAXIMUM_ALIGNOF == 0,
				 "record header must keep the payload aligned");

#define RECORD_AT(ring, pos) \
	((RecordHeader *) ((ring)->data + (pos) % (ring)->size))

/* Shared memory of a ring with so many bytes for records, in bytes. */
Size
ring_shmem_size(Size bytes, int nchannels)
{
	Size		size = MAXALIGN(sizeof(Ring));

	size = add_size(size, mul_size(nchannels, sizeof(RingChain)));
	return add_size(MAXALIGN(size), TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes));
}

/* Lay out an empty ring in space, which has ring_shmem_size() bytes. */
Ring *
ring_init(void *space, Size bytes, int nchannels)
{
	Ring	   *ring = (Ring *) space;

	ring->size = TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes);
	ring->nchannels = nchannels;
	ring->half = ring->size;
	ring->chains = (RingChain *) ((char *) space + MAXALIGN(sizeof(Ring)));
	ring->data = (char *) space +
		MAXALIGN(MAXALIGN(sizeof(Ring)) + nchannels * sizeof(RingChain));

	/* where eight bytes are atomic, the first write is like any other */
	pg_atomic_init_u64(&ring->head, ring->size);
	ring_reset(ring, 0);
	return ring;
}

/*
 * Empty the ring for another database; seqs go on after newest_seq.  Nobody may
 * write meanwhile; who reads finds the records gone.
 */
void
ring_reset(Ring *ring, uint64 newest_seq)
{
	pg_atomic_write_u64(&ring->tail, pg_atomic_read_u64(&ring->head));
	pg_atomic_write_u64(&ring->messages, 0);
	pg_atomic_write_u64(&ring->newest_seq, newest_seq);
	for (int i = 0; i < ring->nchannels; i++)
	{
		RingChain  *chain = &ring->chains[i];

		pg_atomic_write_u64(&chain->first, RING_NONE);
		pg_atomic_write_u64(&chain->last, RING_NONE);
		pg_atomic_write_u64(&chain->newest_number, 0);
		pg_atomic_write_u64(&chain->newest_seq, 0);
		pg_atomic_write_u64(&chain->bytes, 0);
		pg_atomic_write_u64(&chain->messages, 0);
		pg_atomic_write_u64(&chain->last_time, 0);
		pg_atomic_write_u64(&chain->hold, RING_NO_HOLD);
		pg_atomic_write_u64(&chain->log_newest, 0);
		pg_atomic_write_u64(&chain->logged, 0);
		pg_atomic_write_u64(&chain->changes, 0);
	}
}

/* Bytes that a record with this payload takes. */
Size
ring_record_size(Size payload_len)
{
	return MAXALIGN(sizeof(RecordHeader) + payload_len);
}

/* Bytes of pad that a record of this length at head needs before it. */
static inline Size
pad_length(Ring *ring, RingPos head, Size length)
{
	Size		left = ring->size - head % ring->size;

	return left < length ? left : 0;
}

/*
 * Drop the oldest record.  Returns false, and leaves it, if its channel's hold
 * forbids that; *channel and *number are then the record's.
 */
static bool
drop_oldest(Ring *ring, int *channel, uint64 *number)
{
	RingPos		tail = pg_atomic_read_u64(&ring->tail);
	RecordHeader *record = RECORD_AT(ring, tail);

	if (record->channel != RING_PAD)
	{
		RingChain  *chain = &ring->chains[record->channel];

		if (record->number > pg_atomic_read_u64(&chain->hold))
		{
			*channel = record->channel;
			*number = record->number;
			return false;
		}
		pg_atomic_write_u64(&chain->first,
							pg_atomic_read_u64(&record->next));
		pg_atomic_write_u64(&chain->messages,
							pg_atomic_read_u64(&chain->messages) - 1);
		pg_atomic_write_u64(&ring->messages,
							pg_atomic_read_u64(&ring->messages) - 1);
	}
	pg_atomic_write_u64(&ring->tail, tail + record->length);
	return true;
}

/*
 * Make room for records of so many bytes in all, at most a third of the ring,
 * by dropping the oldest ones.  Returns -1 if there is room now, else the
 * channel whose hold forbids it, and in *number which record it holds.
 *
 * Several records may pad the end of the memory at another place than one of
 * their length would, but with no more bytes.
 */
int
ring_make_room(Ring *ring, Size bytes, uint64 *number)
{
	RingPos		head = pg_atomic_read_u64(&ring->head);
	Size		needed = pad_length(ring, head, bytes) + bytes;
	int			channel = -1;

	Assert(needed <= ring->size);
	while (head + needed - pg_atomic_read_u64(&ring->tail) > ring->size)
	{
		if (!drop_oldest(ring, &channel, number))
			return channel;
	}
	return -1;
}

/* Fill the ring up to its end with a pad, where the next record won't fit. */
static RingPos
append_pad(Ring *ring, RingPos head, Size length)
{
	Size		pad = pad_length(ring, head, length);

	if (pad > 0)
	{
		RecordHeader *record = RECORD_AT(ring, head);

		record->length = pad;
		record->channel = RING_PAD;
	}
	return head + pad;
}

/*
 * Append a record, received at time from process pid, with that seq; in_log
 * tells whether it is in the log, too.
 */
static inline void
append_record(Ring *ring, int channel, int pid, TimestampTz time,
			  const char *payload, Size payload_len, uint64 seq, bool in_log)
{
	RingChain  *chain = &ring->chains[channel];
	Size		length = ring_record_size(payload_len);
	RingPos		head = pg_atomic_read_u64(&ring->head);
	RingPos		last = pg_atomic_read_u64(&chain->last);
	uint64		logged = pg_atomic_read_u64(&chain->logged);
	uint64		changes = pg_atomic_read_u64(&chain->changes);
	RecordHeader *record;
	RingPos		pos;

	/* ring_make_room() has advanced tail; no reader may see the bytes first */
	pg_write_barrier();

	pos = append_pad(ring, head, length);
	record = RECORD_AT(ring, pos);
	record->length = length;
	record->channel = channel;
	pg_atomic_init_u64(&record->next, RING_NONE);
	record->seq = seq;
	record->number = pg_atomic_read_u64(&chain->newest_number) + 1;
	record->bytes = pg_atomic_read_u64(&chain->bytes) + payload_len;
	record->time = time;
	record->pid = pid;
	record->payload_len = payload_len;
	record->log_before = pg_atomic_read_u64(&chain->log_newest);
	record->logged = logged;
	if (in_log)
	{
		record->log_before |= IN_LOG;
		record->logged++;
	}
	memcpy(record + 1, payload, payload_len);

	/* link it once it is whole: tail does not warn who comes here too early */
	pg_write_barrier();
	if (pg_atomic_read_u64(&chain->first) == RING_NONE)
		pg_atomic_write_u64(&chain->first, pos);
	else
		pg_atomic_write_u64(&RECORD_AT(ring, last)->next, pos);
	pg_atomic_write_u64(&chain->last, pos);
	pg_atomic_write_u64(&chain->bytes, record->bytes);
	pg_atomic_write_u64(&chain->last_time, (uint64) time);
	pg_atomic_write_u64(&chain->newest_seq, seq);
	pg_atomic_write_u64(&chain->messages,
						pg_atomic_read_u64(&chain->messages) + 1);
	pg_atomic_write_u64(&ring->messages,
						pg_atomic_read_u64(&ring->messages) + 1);
	if (in_log)
	{
		pg_atomic_write_u64(&chain->changes, changes + 1);
		pg_write_barrier();
		pg_atomic_write_u64(&chain->logged, logged + 1);
		pg_atomic_write_u64(&chain->log_newest, seq);
	}

	/*
	 * Give out its number once it is linked: who knows the number and finds
	 * the chain empty takes the record for overwritten.
	 */
	pg_write_barrier();
	pg_atomic_write_u64(&chain->newest_number, record->number);
	if (in_log)
	{
		pg_write_barrier();
		pg_atomic_write_u64(&chain->changes, changes + 2);
	}

	/*
	 * Give out its seq last: who knows that takes the events of all channels
	 * up to it, and would get this one behind later ones.
	 */
	pg_write_barrier();
	pg_atomic_write_u64(&ring->newest_seq, seq);
	pg_atomic_write_u64(&ring->head, pos + length);
}

/*
 * Append a record, received at time from process pid; returns its seq.
 * ring_make_room() has made room for it and all that were appended since.
 */
uint64
ring_append(Ring *ring, int channel, int pid, TimestampTz time,
			const char *payload, Size payload_len)
{
	uint64		seq = pg_atomic_read_u64(&ring->newest_seq) + 1;

	append_record(ring, channel, pid, time, payload, payload_len, seq, false);
	return seq;
}

/*
 * Append a record that is in the log with that seq, above all that were given
 * out.  Otherwise as ring_append().
 */
void
ring_append_logged(Ring *ring, int channel, int pid, TimestampTz time,
				   const char *payload, Size payload_len, uint64 seq)
{
	Assert(seq > pg_atomic_read_u64(&ring->newest_seq));
	append_record(ring, channel, pid, time, payload, payload_len, seq, true);
}

/*
 * Events up to that seq, above all that were given out, are in the log and not
 * in the ring; the last one is the channel's, unless channel is -1, as nobody
 * reads it.  Who sees the new seq sees that the channel has something in the
 * log.
 */
void
ring_pass(Ring *ring, int channel, uint64 seq)
{
	Assert(seq > pg_atomic_read_u64(&ring->newest_seq));
	if (channel >= 0)
		ring_set_log_newest(ring, channel, seq);
	pg_write_barrier();
	pg_atomic_write_u64(&ring->newest_seq, seq);
}

/*
 * Events of the channel may be in the log, and not in the ring, up to that seq;
 * none that come later, unless ring_pass() says so.
 */
void
ring_set_log_newest(Ring *ring, int channel, uint64 seq)
{
	pg_atomic_write_u64(&ring->chains[channel].log_newest, seq);
}

/* Up to which seq events of the channel may be in the log; 0: none are. */
uint64
ring_log_newest(Ring *ring, int channel)
{
	return pg_atomic_read_u64(&ring->chains[channel].log_newest);
}

/*
 * The number of the channel's newest record, and how many of its records up to
 * that one are in the log, too; both of one instant.
 */
void
ring_counts(Ring *ring, int channel, uint64 *number, uint64 *logged)
{
	RingChain  *chain = &ring->chains[channel];
	uint64		changes;

	do
	{
		changes = pg_atomic_read_u64(&chain->changes);
		pg_read_barrier();
		*number = pg_atomic_read_u64(&chain->newest_number);
		*logged = pg_atomic_read_u64(&chain->logged);
		pg_read_barrier();
	} while (changes % 2 != 0 ||
			 changes != pg_atomic_read_u64(&chain->changes));
}

/* Copy the header of the record at pos.  Returns false if it is gone. */
static bool
read_header(Ring *ring, RingPos pos, RingRecord *record)
{
	RecordHeader *header = RECORD_AT(ring, pos);

	record->pos = pos;
	record->next = pg_atomic_read_u64(&header->next);
	record->before = RING_NONE;
	record->channel = header->channel;
	record->pid = header->pid;
	record->seq = header->seq;
	record->number = header->number;
	record->bytes = header->bytes;
	record->time = header->time;
	record->payload_len = header->payload_len;
	record->in_log = (header->log_before & IN_LOG) != 0;
	record->log_before = header->log_before & ~IN_LOG;
	record->logged = header->logged;
	pg_read_barrier();
	return pos >= pg_atomic_read_u64(&ring->tail);
}

/*
 * Copy a record's payload to dst, which has record->payload_len bytes.  Returns
 * false if it is gone; dst is rubbish then.
 */
bool
ring_payload(Ring *ring, const RingRecord *record, char *dst)
{
	/* payload_len was checked in read_header(): this stays within the ring */
	memcpy(dst, RECORD_AT(ring, record->pos) + 1, record->payload_len);
	pg_read_barrier();
	return record->pos >= pg_atomic_read_u64(&ring->tail);
}

/*
 * Where a reader that is past last_pos starts: the record after it, or the
 * channel's oldest if last_pos is gone or RING_NONE.  *before is the position of
 * the record before that, or RING_NONE if that is not known.
 */
static RingPos
start_position(Ring *ring, RingChain *chain, RingPos last_pos,
			   RingPos *before)
{
	*before = RING_NONE;
	if (last_pos != RING_NONE && last_pos >= pg_atomic_read_u64(&ring->tail))
	{
		RingPos		next = pg_atomic_read_u64(&RECORD_AT(ring, last_pos)->next);

		pg_read_barrier();
		if (next != RING_NONE && last_pos >= pg_atomic_read_u64(&ring->tail))
		{
			*before = last_pos;
			return next;
		}
	}
	return pg_atomic_read_u64(&chain->first);
}

/*
 * Find the channel's first record with a number above the given one.
 * last_pos is the position of the record with that number or of one before
 * it, or RING_NONE; it only saves time.  *newest is the channel's newest
 * number if RING_ALL_GONE, at least the record's if RING_FOUND, and number if
 * RING_UP_TO_DATE.  If RING_FOUND, record->before is a better last_pos for the
 * same number, or RING_NONE.
 */
RingNext
ring_next(Ring *ring, int channel, uint64 number, RingPos last_pos,
		  RingRecord *record, uint64 *newest)
{
	RingChain  *chain = &ring->chains[channel];

	for (;;)
	{
		RingPos		pos;
		RingPos		before;

		*newest = pg_atomic_read_u64(&chain->newest_number);
		if (*newest <= number)
		{
			*newest = number;
			return RING_UP_TO_DATE;
		}

		/* the record with that number was linked before: see 4. above */
		pg_read_barrier();

		pos = start_position(ring, chain, last_pos, &before);
		last_pos = RING_NONE;
		while (pos != RING_NONE && read_header(ring, pos, record))
		{
			if (record->number > number)
			{
				/* it may have come after we looked */
				*newest = Max(*newest, record->number);
				record->before = before;
				return RING_FOUND;
			}
			before = pos;
			pos = record->next;
			ring_passed_over++;
		}

		/*
		 * An empty chain means that all up to newest are gone, if newest,
		 * read anew behind a barrier, has not grown meanwhile.  Otherwise the
		 * writer overtook us while we looked: look again.
		 */
		if (pos == RING_NONE &&
			pg_atomic_read_u64(&chain->first) == RING_NONE)
		{
			pg_read_barrier();
			if (pg_atomic_read_u64(&chain->newest_number) == *newest)
				return RING_ALL_GONE;
		}
	}
}

/*
 * A last_pos for a reader that begins after that number, near the channel's
 * newest, so that ring_next() need not walk there from the oldest; or
 * RING_NONE.
 */
RingPos
ring_newest_position(Ring *ring, int channel, uint64 number)
{
	RingPos		pos = pg_atomic_read_u64(&ring->chains[channel].last);
	RingRecord	record;

	pg_read_barrier();
	if (pos == RING_NONE || !read_header(ring, pos, &record) ||
		record.number > number)
		return RING_NONE;
	return pos;
}

/* The number of the channel's newest record; 0 if it never had one. */
uint64
ring_newest_number(Ring *ring, int channel)
{
	return pg_atomic_read_u64(&ring->chains[channel].newest_number);
}

/* The last seq given out; channels looked at afterwards have all up to it. */
uint64
ring_newest_seq(Ring *ring)
{
	uint64		seq = pg_atomic_read_u64(&ring->newest_seq);

	pg_read_barrier();
	return seq;
}

/* True if no record of the channel is in the ring. */
bool
ring_channel_empty(Ring *ring, int channel)
{
	return pg_atomic_read_u64(&ring->chains[channel].first) == RING_NONE;
}

/* What a channel has in the ring.  Fields are each true, not of one instant. */
void
ring_channel_state(Ring *ring, int channel, RingChannelState *state)
{
	RingChain  *chain = &ring->chains[channel];

	state->newest_number = pg_atomic_read_u64(&chain->newest_number);
	state->newest_seq = pg_atomic_read_u64(&chain->newest_seq);
	state->bytes = pg_atomic_read_u64(&chain->bytes);
	state->messages = pg_atomic_read_u64(&chain->messages);
	state->last_time = (TimestampTz) pg_atomic_read_u64(&chain->last_time);
	state->logged = pg_atomic_read_u64(&chain->logged);
}

/*
 * Step over the pad at tail, if there is one: the position of the oldest
 * record.  Returns RING_NONE if the writer moved tail meanwhile.
 */
static RingPos
oldest_position(Ring *ring, RingPos tail)
{
	int32		channel = RECORD_AT(ring, tail)->channel;
	uint32		length = RECORD_AT(ring, tail)->length;

	pg_read_barrier();
	if (pg_atomic_read_u64(&ring->tail) != tail)
		return RING_NONE;
	return channel == RING_PAD ? tail + length : tail;
}

/* What is in the ring.  Fields are each true, not of one instant. */
void
ring_state(Ring *ring, RingState *state)
{
	for (;;)
	{
		RingPos		tail = pg_atomic_read_u64(&ring->tail);
		RingPos		oldest;

		pg_read_barrier();
		state->size = ring->size;
		state->messages = pg_atomic_read_u64(&ring->messages);
		state->newest_seq = pg_atomic_read_u64(&ring->newest_seq);
		state->used = pg_atomic_read_u64(&ring->head) - tail;
		pg_read_barrier();
		/* if tail has moved, head may be more than a ring beyond ours */
		if (pg_atomic_read_u64(&ring->tail) != tail)
			continue;
		if (state->used == 0)
			state->messages = 0;
		if (state->messages == 0)
			return;
		oldest = oldest_position(ring, tail);
		if (oldest != RING_NONE &&
			read_header(ring, oldest, &state->oldest))
			return;
	}
}

/*
 * A subscription that has consumed up to number starts to hold the channel:
 * lower the hold to that, unless it is lower.
 */
void
ring_lower_hold(Ring *ring, int channel, uint64 number)
{
	pg_atomic_uint64 *hold = &ring->chains[channel].hold;
	uint64		old = pg_atomic_read_u64(hold);

	while (number < old &&
		   !pg_atomic_compare_exchange_u64(hold, &old, number))
		;
}

/* The channel's hold. */
uint64
ring_hold(Ring *ring, int channel)
{
	return pg_atomic_read_u64(&ring->chains[channel].hold);
}

/* Set the channel's hold.  No subscription may begin to hold meanwhile. */
void
ring_set_hold(Ring *ring, int channel, uint64 number)
{
	pg_atomic_write_u64(&ring->chains[channel].hold, number);
}

/* Bytes between tail and head; exact for the writer. */
Size
ring_used(Ring *ring)
{
	return pg_atomic_read_u64(&ring->head) - pg_atomic_read_u64(&ring->tail);
}

/* The next record that has become more than half a ring old; false if none. */
bool
ring_peek_half(Ring *ring, RingRecord *record)
{
	RingPos		head = pg_atomic_read_u64(&ring->head);
	RingPos		tail = pg_atomic_read_u64(&ring->tail);

	ring->half = Max(ring->half, tail);
	while (head - ring->half > ring->size / 2)
	{
		RecordHeader *header = RECORD_AT(ring, ring->half);

		if (header->channel != RING_PAD)
			return read_header(ring, ring->half, record);
		ring->half += header->length;
	}
	return false;
}

/* Get that record, and go on to the one behind it. */
bool
ring_next_half(Ring *ring, RingRecord *record)
{
	if (!ring_peek_half(ring, record))
		return false;
	ring->half += RECORD_AT(ring, record->pos)->length;
	return true;
}

/* Bytes in all. */
Size
ring_size(Ring *ring)
{
	return ring->size;
}

/*-------------------------------------------------------------------------
 *
 * ring_stress.c
 *	  The ring's protocol under several processes, outside the server.
 *
 * One writer appends records of random channels and lengths as fast as it
 * can; the ring is small, so it wraps all the time.  Readers follow as poll()
 * does: some at once, some so slowly that they are always overtaken, some
 * holding records back.  What is checked:
 *
 * - A record's time is a hash of its header and of its channel's generation,
 *	 its payload a stream that the hash begins: nothing torn is taken for a
 *	 record.
 * - In a channel numbers only grow, and read + lost = number - start; at the
 *	 end every reader has come to the last number that was published.
 * - Over its channels a reader sees seqs in ascending order.
 * - A reader that holds loses nothing after its hold was seen.
 * - A channel's slot is used again when nobody reads it, though its records are
 *	 still there; none of its former life shows up.
 * - What ring_next() gives as a better place to begin at is one.
 * - The views' figures fit together.
 *
 * usage: ring_stress [SECONDS [SEED]]
 *
 *-------------------------------------------------------------------------
 */
#include "steps.h"

#include "queue/ring.c"

#include "harness.h"

#define MAX_CHANNELS	24
#define MAX_PROCESSES	16
#define MAX_PAYLOAD		20000

/* What is tried. */
typedef struct Config
{
	const char *name;
	Size		bytes;			/* of the ring */
	int			nchannels;
	RingPos		start;			/* first position; 0: as it is */
	uint64		seq;			/* before the first */
	uint64		number;			/* of all channels before their first */
	int			max_payload;	/* 0: a quarter of the ring */
	int			nfast;
	int			nslow;
	int			nholders;
} Config;

/* Multiples of 8 near the ends of narrower integers. */
#define BEFORE(bits, bytes) ((UINT64CONST(1) << (bits)) - (bytes))

static const Config configs[] = {
	{"ring: two records", 1000, 1, 0, 0, 0, 0, 2, 1, 0},
	{"ring: 4 kB", 4096, 3, 0, 0, 0, 0, 2, 1, 0},
	{"ring: not a power of two", 5432, 5, 0, 0, 0, 0, 2, 1, 0},
	{"ring: odd bytes", 7777, 4, 0, 0, 0, 100, 2, 1, 1},
	{"ring: many channels", 16008, MAX_CHANNELS, 0, 0, 0, 300, 2, 1, 0},
	{"ring: chains often empty", 1200, MAX_CHANNELS, 0, 0, 0, 60, 3, 0, 0},
	{"ring: empty payloads", 3000, 2, 0, 0, 0, 1, 2, 1, 1},
	{"ring: held back", 9000, 4, 0, 0, 0, 0, 1, 1, 3},
	{"ring: long records", 66664, 3, 0, 0, 0, 0, 2, 1, 1},
	{"ring: positions over 2^31", 5000, 4, BEFORE(31, 40000), 0, 0, 0, 2, 1, 0},
	{"ring: positions over 2^32", 5000, 4, BEFORE(32, 40000),
	BEFORE(32, 100), BEFORE(32, 50), 0, 2, 1, 1},
	{"ring: positions over 2^63", 5000, 4, BEFORE(63, 40000),
	BEFORE(62, 100), BEFORE(31, 50), 0, 2, 1, 1},
};

/* More than there are records of one channel in any ring. */
#define MAX_LIVES		2048

/* Beside the ring: what its callers in the server keep. */
typedef struct Slot
{
	StressLock	lock;
	uint64		generation;		/* under lock */
	int			nreaders;		/* under lock */
	uint64		start;			/* number when the generation began */
	RingPos		start_pos;		/* position of that record, or RING_NONE */
	uint64		starts[MAX_LIVES];	/* start by generation, modulo */
	uint64		published;		/* records since */
	uint64		held[MAX_PROCESSES];	/* by readers that hold */
} Slot;

typedef struct Shared
{
	Slot		slots[MAX_CHANNELS];
	uint64		done;			/* the writer has ended */
	uint64		silent;			/* channel that gets no records now */
	uint64		rounds;			/* of the writer, each with a barrier */
	uint64		appended;
	uint64		wraps;
	uint64		reused;
	uint64		read;
	uint64		lost;
	uint64		gone;			/* payloads that were overwritten meanwhile */
	uint64		gaps;
	uint64		waits;			/* for a hold */
} Shared;

/* A reader's place in one channel. */
typedef struct Cursor
{
	bool		bound;
	int			channel;
	uint64		generation;
	uint64		start;
	uint64		number;
	RingPos		pos;
	uint64		read;
	uint64		lost;
	bool		strict;			/* holds: nothing may be lost any more */

	/* the next record */
	RingNext	found;
	RingRecord	record;
	uint64		missed_upto;
} Cursor;

typedef struct Reader
{
	int			index;
	bool		holds;
	bool		slow;
	uint64		last_seq;
	Cursor		cursors[MAX_CHANNELS];
} Reader;

static const Config *config;
static Ring *ring;
static Shared *shared;
static double deadline;
static char payload[MAX_PAYLOAD];

/* No reader of the slot holds. */
#define NOT_HELD PG_UINT64_MAX

/*
 * What a record must look like
 */

static uint64
record_hash(int channel, uint64 generation, uint64 seq, uint64 number,
			uint64 bytes, Size len)
{
	uint64		h = stress_hash(channel, generation);

	h = stress_hash(h, seq);
	h = stress_hash(h, number);
	h = stress_hash(h, bytes);
	return stress_hash(h, len);
}

/* The byte at i of a payload, cheap enough to check all. */
static inline char
payload_byte(uint64 hash, Size i)
{
	return (char) ((hash >> (i % 57)) + i);
}

static void
check_header(const RingRecord *record, int channel, uint64 generation)
{
	uint64		hash = record_hash(channel, generation, record->seq,
								   record->number, record->bytes,
								   record->payload_len);

	if (record->channel != channel)
		stress_fail("record at %llu is of channel %d, not %d",
					(unsigned long long) record->pos, record->channel, channel);
	if ((uint64) record->time != hash || record->pid != (int) (uint32) hash)
		stress_fail("header at %llu is torn: seq %llu, number %llu, length %u",
					(unsigned long long) record->pos,
					(unsigned long long) record->seq,
					(unsigned long long) record->number, record->payload_len);
	if (record->pos % MAXIMUM_ALIGNOF != 0)
		stress_fail("record at %llu is not aligned",
					(unsigned long long) record->pos);
	if (record->next != RING_NONE && record->next <= record->pos)
		stress_fail("record at %llu is followed by one at %llu",
					(unsigned long long) record->pos,
					(unsigned long long) record->next);
}

static void
check_payload(const RingRecord *record)
{
	uint64		hash = (uint64) record->time;

	for (Size i = 0; i < record->payload_len; i++)
	{
		if (payload[i] != payload_byte(hash, i))
			stress_fail("payload of seq %llu, %u bytes, is torn at byte %zu",
						(unsigned long long) record->seq, record->payload_len,
						(size_t) i);
	}
}

/* Which life of its channel a record is of that has been appended. */
static uint64
generation_of(const RingRecord *record)
{
	Slot	   *slot = &shared->slots[record->channel];
	uint64		generation = stress_get(&slot->generation);

	while (generation > 0 &&
		   stress_get(&slot->starts[generation % MAX_LIVES]) >= record->number)
		generation--;
	return generation;
}

/* Readers were overtaken, and yet read; slots were used again. */
static bool
covered(void)
{
	return shared->wraps >= 5 && shared->read > 0 && shared->gaps > 0 &&
		(config->nchannels < 4 || shared->reused > 0);
}

/*
 * The writer
 */

/* The most that a payload may have. */
static int
max_payload(void)
{
	return config->max_payload ? config->max_payload :
		(int) (ring_size(ring) / 4 - sizeof(RecordHeader));
}

/* As hold_recompute(): does somebody still hold the channel's number? */
static bool
still_held(int channel, uint64 number)
{
	Slot	   *slot = &shared->slots[channel];
	uint64		hold = RING_NO_HOLD;

	stress_lock(&slot->lock);
	for (int i = 0; i < MAX_PROCESSES; i++)
	{
		/* read once: others raise it */
		uint64		held = stress_get(&slot->held[i]);

		hold = Min(hold, held);
	}
	ring_set_hold(ring, channel, hold);
	stress_unlock(&slot->lock);
	return hold < number;
}

/* Others may wait for what this process has done. */
static void
end_round(void)
{
	steps_drain();
	stress_add(&shared->rounds, 1);
}

/* Room for a record with that payload; at times for some that follow, too. */
static void
make_room(Size len)
{
	static Size left = 0;		/* of what room was made for last */
	Size		bytes = ring_record_size(len);
	int			channel;
	uint64		number;

	if (left >= bytes)
	{
		left -= bytes;
		return;
	}
	left = stress_random(2) == 0 ? stress_random(ring_size(ring) / 4) : 0;
	bytes = Max(bytes, left);
	left = bytes - ring_record_size(len);
	while ((channel = ring_make_room(ring, bytes, &number)) >= 0)
	{
		if (!still_held(channel, number))
			continue;
		stress_add(&shared->waits, 1);
		end_round();
		stress_yield();
	}
}

/* Use the channel's slot again, if it was used and nobody reads it. */
static void
reuse_slot(int channel)
{
	Slot	   *slot = &shared->slots[channel];

	stress_lock(&slot->lock);
	if (slot->nreaders == 0 && slot->published > 0)
	{
		slot->start = ring_newest_number(ring, channel);
		slot->start_pos = ring_newest_position(ring, channel, slot->start);
		stress_set(&slot->starts[(slot->generation + 1) % MAX_LIVES],
				   slot->start);
		stress_set(&slot->generation, slot->generation + 1);
		stress_set(&slot->published, 0);
		stress_add(&shared->reused, 1);
	}
	stress_unlock(&slot->lock);
}

static void
append_one(int channel)
{
	Slot	   *slot = &shared->slots[channel];
	Size		len = stress_random(max_payload() + 1);
	uint64		seq = ring_newest_seq(ring) + 1;
	uint64		number = slot->start + slot->published + 1;
	uint64		bytes = pg_atomic_read_u64(&ring->chains[channel].bytes) + len;
	uint64		hash;

	/* short ones often, or there are never many */
	if (stress_random(2) == 0)
		len = stress_random(Min(len, 40) + 1);
	bytes = pg_atomic_read_u64(&ring->chains[channel].bytes) + len;
	hash = record_hash(channel, slot->generation, seq, number, bytes, len);
	for (Size i = 0; i < len; i++)
		payload[i] = payload_byte(hash, i);
	make_room(len);
	if (ring_append(ring, channel, (int) (uint32) hash, (TimestampTz) hash,
					payload, len) != seq)
		stress_fail("seq is not %llu", (unsigned long long) seq);
	if (ring_used(ring) > ring_size(ring))
		stress_fail("%zu bytes are used", (size_t) ring_used(ring));
	stress_set(&slot->published, slot->published + 1);
}

/* Every record is half a ring old once, in order. */
static void
check_half(void)
{
	static uint64 last = 0;
	RingRecord	record;

	while (ring_next_half(ring, &record))
	{
		if (record.seq <= last)
			stress_fail("seq %llu is half a ring old after %llu",
						(unsigned long long) record.seq,
						(unsigned long long) last);
		last = record.seq;
		check_header(&record, record.channel, generation_of(&record));
	}
}

/*
 * Some channels often, some seldom; and of several always one not at all, so
 * that its slot becomes empty.
 */
static int
choose_channel(void)
{
	int			channel = (int) stress_random(config->nchannels);

	if (stress_random(3) == 0)
		channel = (int) stress_random(channel + 1);
	return (uint64) channel == shared->silent ?
		(channel + 1) % config->nchannels : channel;
}

static void
writer_main(int index)
{
	RingPos		first = pg_atomic_read_u64(&ring->head);
	uint64		count = 0;

	while (stress_goes_on(deadline, covered))
	{
		for (int i = 0; i < 50; i++)
		{
			append_one(choose_channel());
			count++;
			if (stress_random(4) == 0)
				check_half();
			if (stress_random(8) == 0)
				end_round();
		}
		if (config->nchannels > 2)
		{
			if (shared->silent < MAX_CHANNELS)
				reuse_slot((int) shared->silent);
			if (stress_random(20) == 0)
				stress_set(&shared->silent, stress_random(config->nchannels));
		}
		if (stress_random(20) == 0)
			stress_yield();

		stress_set(&shared->appended, count);
		stress_set(&shared->wraps,
				   (pg_atomic_read_u64(&ring->head) - first) / ring_size(ring));

		/* let the readers catch up: then they are close behind */
		if (stress_random(400) == 0)
		{
			end_round();
			stress_sleep(500);
		}
	}
	end_round();
	stress_set(&shared->done, 1);
}

/*
 * Readers
 */

/* Wait until the writer has seen all that this process has written. */
static void
wait_for_writer(void)
{
	uint64		rounds;

	steps_drain();
	rounds = stress_get(&shared->rounds);
	while (stress_get(&shared->rounds) < rounds + 2 &&
		   !stress_get(&shared->done))
		stress_yield();
}

static void
bind_channel(Reader *reader, int channel)
{
	Cursor	   *cursor = &reader->cursors[channel];
	Slot	   *slot = &shared->slots[channel];

	stress_lock(&slot->lock);
	slot->nreaders++;
	memset(cursor, 0, sizeof(Cursor));
	cursor->bound = true;
	cursor->channel = channel;
	cursor->generation = slot->generation;
	cursor->number = ring_newest_number(ring, channel);

	/* from the oldest, whose seq may be one that the reader is past */
	if (!reader->holds && stress_random(3) == 0)
	{
		cursor->number = slot->start;
		cursor->pos = slot->start_pos;
		reader->last_seq = 0;
	}
	cursor->start = cursor->number;
	if (cursor->number != slot->start)
		cursor->pos = ring_newest_position(ring, channel, cursor->number);
	if (reader->holds)
	{
		stress_set(&slot->held[reader->index], cursor->number);
		ring_lower_hold(ring, channel, cursor->number);
	}
	stress_unlock(&slot->lock);
	if (reader->holds)
		wait_for_writer();
}

static void
check_sum(Cursor *cursor)
{
	if (cursor->read + cursor->lost != cursor->number - cursor->start)
		stress_fail("channel %d: %llu read, %llu lost, from %llu to %llu",
					cursor->channel, (unsigned long long) cursor->read,
					(unsigned long long) cursor->lost,
					(unsigned long long) cursor->start,
					(unsigned long long) cursor->number);
}

static void
unbind_channel(Reader *reader, int channel)
{
	Cursor	   *cursor = &reader->cursors[channel];
	Slot	   *slot = &shared->slots[channel];

	check_sum(cursor);
	stress_add(&shared->read, cursor->read);
	stress_add(&shared->lost, cursor->lost);
	stress_lock(&slot->lock);
	stress_set(&slot->held[reader->index], NOT_HELD);
	slot->nreaders--;
	cursor->bound = false;
	stress_unlock(&slot->lock);
}

/* What is given as a place before the next record is behind no reader. */
static void
check_before(const Cursor *cursor)
{
	RingRecord	before;

	if (cursor->record.before == RING_NONE ||
		!read_header(ring, cursor->record.before, &before))
		return;
	if (before.channel != cursor->channel || before.number > cursor->number)
		stress_fail("channel %d: number %llu of channel %d is no place to begin after %llu",
					cursor->channel, (unsigned long long) before.number,
					before.channel, (unsigned long long) cursor->number);
}

/* As poll's find_head(). */
static void
find_head(Reader *reader, Cursor *cursor, uint64 newest_seq)
{
	uint64		newest;

	cursor->missed_upto = 0;
	cursor->found = ring_next(ring, cursor->channel, cursor->number,
							  cursor->pos, &cursor->record, &newest);
	if (newest < cursor->number)
		stress_fail("channel %d: newest number %llu is behind %llu",
					cursor->channel, (unsigned long long) newest,
					(unsigned long long) cursor->number);
	if (cursor->found == RING_ALL_GONE)
		cursor->missed_upto = newest;
	if (cursor->found == RING_FOUND)
	{
		check_header(&cursor->record, cursor->channel, cursor->generation);
		check_before(cursor);
		if (cursor->record.number <= cursor->number)
			stress_fail("channel %d: number %llu after %llu", cursor->channel,
						(unsigned long long) cursor->record.number,
						(unsigned long long) cursor->number);
		if (newest < cursor->record.number)
			stress_fail("channel %d: newest number %llu, but found %llu",
						cursor->channel, (unsigned long long) newest,
						(unsigned long long) cursor->record.number);
		if (cursor->record.number > cursor->number + 1)
			cursor->missed_upto = cursor->record.number - 1;
		if (cursor->record.seq > newest_seq)
		{
			/* for the next poll; but what is found is whole */
			cursor->found = RING_UP_TO_DATE;
			if (ring_payload(ring, &cursor->record, payload))
				check_payload(&cursor->record);
		}
	}
	if (cursor->missed_upto > cursor->number && cursor->strict)
		stress_fail("channel %d: %llu to %llu were overwritten, but held",
					cursor->channel, (unsigned long long) cursor->number + 1,
					(unsigned long long) cursor->missed_upto);
}

/* The cursor whose next record is the oldest. */
static Cursor *
first_head(Reader *reader)
{
	Cursor	   *first = NULL;

	for (int i = 0; i < config->nchannels; i++)
	{
		Cursor	   *cursor = &reader->cursors[i];

		if (cursor->bound && cursor->found == RING_FOUND &&
			(first == NULL || cursor->record.seq < first->record.seq))
			first = cursor;
	}
	return first;
}

/* What is still there now was not gone when the reader took it for lost. */
static void
check_gone(const Cursor *cursor)
{
	RingChain  *chain = &ring->chains[cursor->channel];
	RingRecord	oldest;
	RingPos		pos;

	steps_drain();
	pos = pg_atomic_read_u64(&chain->first);
	if (pos != RING_NONE && read_header(ring, pos, &oldest) &&
		oldest.number <= cursor->missed_upto)
		stress_fail("channel %d: %llu to %llu counted as lost, but %llu is there",
					cursor->channel, (unsigned long long) cursor->number + 1,
					(unsigned long long) cursor->missed_upto,
					(unsigned long long) oldest.number);
}

/* Count what is gone as lost. */
static void
skip_missed(Cursor *cursor)
{
	if (cursor->missed_upto == 0)
		return;
	check_gone(cursor);
	cursor->lost += cursor->missed_upto - cursor->number;
	cursor->number = cursor->missed_upto;
	cursor->pos = RING_NONE;
	cursor->missed_upto = 0;
	stress_add(&shared->gaps, 1);
}

static void
take(Reader *reader, Cursor *cursor)
{
	RingRecord *record = &cursor->record;

	check_payload(record);
	if (record->seq <= reader->last_seq)
		stress_fail("seq %llu comes after %llu",
					(unsigned long long) record->seq,
					(unsigned long long) reader->last_seq);
	reader->last_seq = record->seq;
	cursor->number = record->number;
	cursor->pos = record->pos;
	cursor->read++;
}

/*
 * As poll(): read at most max records of all bound channels, oldest first.
 * Returns how many it read or counted as lost.
 */
static uint64
poll_once(Reader *reader, int max)
{
	uint64		newest_seq = ring_newest_seq(ring);
	uint64		before = 0;
	uint64		after = 0;

	for (int i = 0; i < config->nchannels; i++)
	{
		Cursor	   *cursor = &reader->cursors[i];

		if (!cursor->bound)
			continue;
		before += cursor->read + cursor->lost;
		find_head(reader, cursor, newest_seq);
		skip_missed(cursor);
		if (reader->holds)
			cursor->strict = true;
	}
	while (max-- > 0)
	{
		Cursor	   *cursor = first_head(reader);

		if (cursor == NULL)
			break;
		if (!ring_payload(ring, &cursor->record, payload))
		{
			if (cursor->strict)
				stress_fail("a held record was overwritten");
			stress_add(&shared->gone, 1);
			break;
		}
		take(reader, cursor);
		find_head(reader, cursor, newest_seq);
		if (cursor->missed_upto > 0)
			break;
	}
	for (int i = 0; i < config->nchannels; i++)
	{
		if (reader->cursors[i].bound)
			after += reader->cursors[i].read + reader->cursors[i].lost;
	}
	return after - before;
}

/* Commit: those who hold give free what they have read. */
static void
commit_positions(Reader *reader)
{
	steps_drain();
	for (int i = 0; reader->holds && i < config->nchannels; i++)
	{
		if (reader->cursors[i].bound)
			stress_set(&shared->slots[i].held[reader->index],
					   reader->cursors[i].number);
	}
}

/* At the end: everybody has come to the last record. */
static void
read_to_end(Reader *reader)
{
	steps_drain();
	while (poll_once(reader, 1000) > 0)
		;
	for (int i = 0; i < config->nchannels; i++)
	{
		Cursor	   *cursor = &reader->cursors[i];
		Slot	   *slot = &shared->slots[i];

		if (!cursor->bound)
			continue;
		if (cursor->number != slot->start + slot->published)
			stress_fail("channel %d: read up to %llu of %llu", i,
						(unsigned long long) cursor->number,
						(unsigned long long) (slot->start + slot->published));
		unbind_channel(reader, i);
	}
}

/* Bind a channel, or leave one; most often the silent one. */
static void
change_bindings(Reader *reader)
{
	int			channel = (int) stress_random(config->nchannels);
	uint64		silent = stress_get(&shared->silent);

	if (!reader->cursors[channel].bound && (uint64) channel != silent)
		bind_channel(reader, channel);
	else if (reader->cursors[channel].bound && stress_random(100) == 0)
		unbind_channel(reader, channel);
	if (silent < MAX_CHANNELS && reader->cursors[silent].bound &&
		stress_random(4) == 0)
		unbind_channel(reader, (int) silent);
}

static void
run_reader(int index, bool slow, bool holds)
{
	Reader		reader = {.index = index,.slow = slow,.holds = holds};

	while (!stress_get(&shared->done))
	{
		change_bindings(&reader);
		if (slow)
			stress_sleep((int) stress_random(2000));
		if (poll_once(&reader, 1 + (int) stress_random(slow ? 20 : 200)) == 0)
			stress_yield();
		commit_positions(&reader);
	}
	read_to_end(&reader);
}

static void
fast_main(int index)
{
	run_reader(index, false, false);
}

static void
slow_main(int index)
{
	run_reader(index, true, false);
}

static void
holder_main(int index)
{
	run_reader(index, stress_random(2) == 0, true);
}

/* Of a single channel every seq is a number, which is said first. */
static void
check_newest(void)
{
	uint64		seq = ring_newest_seq(ring) - config->seq;
	uint64		number = ring_newest_number(ring, 0) - config->number;

	if (config->nchannels == 1 && number < seq)
		stress_fail("%llu records have a seq, but only %llu a number",
					(unsigned long long) seq, (unsigned long long) number);
}

/* The views. */
static void
viewer_main(int index)
{
	uint64		last_oldest = 0;

	while (!stress_get(&shared->done))
	{
		int			channel = (int) stress_random(config->nchannels);
		RingChannelState channel_state;
		RingState	state;

		check_newest();
		ring_state(ring, &state);
		if (state.used > state.size)
			stress_fail("%zu of %zu bytes are used", (size_t) state.used,
						(size_t) state.size);
		if (state.messages > 0)
		{
			if (state.oldest.channel < 0 ||
				state.oldest.channel >= config->nchannels)
				stress_fail("the oldest record is of channel %d",
							state.oldest.channel);
			if (state.oldest.seq < last_oldest)
				stress_fail("the oldest seq went from %llu back to %llu",
							(unsigned long long) last_oldest,
							(unsigned long long) state.oldest.seq);
			last_oldest = state.oldest.seq;

			/* whoever appended it has said before which life it is of */
			check_header(&state.oldest, state.oldest.channel,
						 generation_of(&state.oldest));
		}
		ring_channel_state(ring, channel, &channel_state);
		steps_drain();
		if (channel_state.newest_seq > ring_newest_seq(ring) + 1)
			stress_fail("the newest seq of channel %d is %llu", channel,
						(unsigned long long) channel_state.newest_seq);
		stress_yield();
	}
}

/*
 * The tests
 */

static void
make_ring(void *space)
{
	ring = ring_init(space, config->bytes, config->nchannels);
	if (config->start != 0)
	{
		pg_atomic_write_u64(&ring->tail, config->start);
		pg_atomic_write_u64(&ring->head, config->start);
		ring->half = config->start;
	}
	ring_reset(ring, config->seq);
	for (int i = 0; i < config->nchannels; i++)
	{
		pg_atomic_write_u64(&ring->chains[i].newest_number, config->number);
		shared->slots[i].start = config->number;
		shared->slots[i].starts[0] = config->number;
	}
	for (int i = 0; i < MAX_CHANNELS; i++)
	{
		for (int j = 0; j < MAX_PROCESSES; j++)
			shared->slots[i].held[j] = NOT_HELD;
	}
	steps_weak_reads(ring, ring->data);
	steps_shared_memory(ring->data, ring->data + ring->size);
	steps_drain();
}

static bool
run_config(double seconds)
{
	Size		size = ring_shmem_size(config->bytes, config->nchannels);
	void	   *space = stress_map(size);
	StressMain	mains[MAX_PROCESSES];
	int			n = 0;
	bool		good;

	shared = stress_map(sizeof(Shared));
	shared->silent = MAX_CHANNELS;
	make_ring(space);
	deadline = stress_now() + seconds;
	mains[n++] = writer_main;
	mains[n++] = viewer_main;
	for (int i = 0; i < config->nfast; i++)
		mains[n++] = fast_main;
	for (int i = 0; i < config->nslow; i++)
		mains[n++] = slow_main;
	for (int i = 0; i < config->nholders; i++)
		mains[n++] = holder_main;
	good = stress_run(config->name, mains, n, seconds, covered);
	printf("#   %llu appended, %llu wraps, %llu read, %llu lost in %llu gaps, %llu payloads gone, %llu slots reused, %llu waits for a hold\n",
		   (unsigned long long) shared->appended,
		   (unsigned long long) shared->wraps,
		   (unsigned long long) shared->read,
		   (unsigned long long) shared->lost,
		   (unsigned long long) shared->gaps,
		   (unsigned long long) shared->gone,
		   (unsigned long long) shared->reused,
		   (unsigned long long) shared->waits);
	stress_unmap(space, size);
	stress_unmap(shared, sizeof(Shared));
	return good;
}

int
main(int argc, char **argv)
{
	double		seconds;

	stress_init(argc, argv, &seconds);
	for (size_t i = 0; i < lengthof(configs); i++)
	{
		config = &configs[i];
		if (!run_config(seconds / lengthof(configs)))
			break;
	}
	return stress_summary();
}

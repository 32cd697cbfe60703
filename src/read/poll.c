/*-------------------------------------------------------------------------
 *
 * poll.c
 *	  poll(): what a subscription has to read.
 *
 * 1. A poll merges the subscription's channels by seq: a heap holds the next
 *	  record of each, and no records are touched but these and those that are
 *	  returned.  A poll returns nothing newer than the newest seq that there
 *	  was when it began: up to there it sees the records of all channels,
 *	  whatever is appended while it looks at one after the other.
 *
 * 2. How many events are missing is known once the next record of each channel
 *	  is: the distance between its number and the cursor's.  The gap row that
 *	  tells it comes first, so it is put only when the first record's payload
 *	  has been copied whole.  If a record is overwritten later in the same poll,
 *	  the poll ends there, and the next one has the gap row.
 *
 * 3. A look, a poll that does not consume, leaves the cursors.  It notes what
 *	  its gap row told, for a later ack() of that row.  The rows that it shows
 *	  are not remembered: one that is overwritten before the ack is lost.
 *
 * 4. To wait, a reader enters the lists of waiters, see waiting_readers.c, then
 *	  looks once more, then sleeps on its latch.
 *
 * 5. A client that has gone gets no events; see wait.c.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "funcapi.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/* Columns of poll()'s result. */
#define POLL_COLUMNS	6

/* The next record of a channel. */
typedef struct Head
{
	RingNext	found;
	RingRecord	record;			/* if RING_FOUND */
	uint64		missed_upto;	/* number of the last one missed, or 0 */
} Head;

/* One poll. */
typedef struct Poll
{
	Claim	   *claim;
	Ring	   *ring;
	bool		consume;		/* false: it is a look */
	Cursor	   *cursors;		/* the claim's, or a look's copy of them */
	int			ncursors;
	Head	   *heads;
	binaryheap *heap;			/* indexes of cursors, lowest seq first */

	/* what find_heads() has found */
	uint64		newest_seq;		/* in the ring, when it began to look */
	bool		newer;			/* some channel's next record has a higher seq */

	/* the gap row */
	uint64		gap_epoch;		/* up to which it tells */
	bool		gap_unknown;	/* nobody knows how many are missing */
	uint64		missed;			/* how many are missing, as far as is known */
	uint64		gap_seq;		/* the row's */

	/* what was returned */
	uint64		delivered_bytes;
	uint64		last_seq;

	/* the result */
	Tuplestorestate *store;
	TupleDesc	desc;
	text	   *payload;		/* of the current row; reused */
	Size		payload_size;
	text	   *name;			/* of the channel of the last row */
	int			name_channel;
} Poll;

PG_FUNCTION_INFO_V1(pgpubsub_poll);
PG_FUNCTION_INFO_V1(pgpubsub_poll_1_1);

/* Order of the heap: the lowest seq is its first. */
static int
compare_heads(Datum a, Datum b, void *arg)
{
	Head	   *heads = (Head *) arg;
	uint64		left = heads[DatumGetInt32(a)].record.seq;
	uint64		right = heads[DatumGetInt32(b)].record.seq;

	return left < right ? 1 : left > right ? -1 : 0;
}

/* Find the next record of the channel that cursor i reads. */
static void
find_head(Poll *poll, int i)
{
	Cursor	   *cursor = &poll->cursors[i];
	Head	   *head = &poll->heads[i];
	uint64		newest;

	head->missed_upto = 0;
	head->found = ring_next(poll->ring, cursor->channel, cursor->number,
							cursor->pos, &head->record, &newest);
	if (head->found == RING_ALL_GONE)
		head->missed_upto = newest;
	else if (head->found == RING_FOUND &&
			 head->record.number > cursor->number + 1)
		head->missed_upto = head->record.number - 1;

	/* a record that came after the poll began is for the next poll */
	if (head->found == RING_FOUND && head->record.seq > poll->newest_seq)
	{
		head->found = RING_UP_TO_DATE;
		poll->newer = true;
	}
}

/*
 * Take the claim's cursors as they are now, or for a look a copy of them, in
 * the current memory context.
 */
static void
take_cursors(Poll *poll)
{
	Claim	   *claim = poll->claim;

	position_sync(claim);
	poll->ncursors = claim->position.ncursors;
	poll->cursors = claim->position.cursors;
	if (!poll->consume)
	{
		Size		size = poll->ncursors * sizeof(Cursor);

		poll->cursors = palloc(Max(size, 1));
		memcpy(poll->cursors, claim->position.cursors, size);
	}
	poll->heads = palloc(Max(poll->ncursors, 1) * sizeof(Head));
	poll->heap = binaryheap_allocate(Max(poll->ncursors, 1), compare_heads,
									 poll->heads);
}

/* Find the next record of each channel, and what is missing before it. */
static void
find_all_heads(Poll *poll)
{
	do
	{
		poll->newest_seq = ring_newest_seq(poll->ring);
		poll->newer = false;
		poll->missed = 0;
		binaryheap_reset(poll->heap);
		for (int i = 0; i < poll->ncursors; i++)
		{
			find_head(poll, i);
			if (poll->heads[i].found == RING_FOUND)
				binaryheap_add_unordered(poll->heap, Int32GetDatum(i));
			if (poll->heads[i].missed_upto > 0)
				poll->missed += poll->heads[i].missed_upto -
					poll->cursors[i].number;
		}

		/* if all records are newer, begin again: a gap row needs the first */
	} while (binaryheap_empty(poll->heap) && poll->newer);
	binaryheap_build(poll->heap);
}

/*
 * Find what to return first.  Returns whether there is anything.
 *
 * A new relay raises the gap epoch, and then queues events whose numbers the
 * old relay may have given to others.  A reader that saw them with the old
 * epoch would skip those that are not beyond cursors placed before.  So it
 * reads the epoch again after the records, behind a read barrier, until it has
 * not grown.
 */
static bool
find_heads(Poll *poll)
{
	Claim	   *claim = poll->claim;

	do
	{
		poll->gap_epoch = registry_gap_epoch(claim->database,
											 claim->own.subscription);
		if (poll->gap_epoch != claim->gap_epoch)
			take_cursors(poll);
		find_all_heads(poll);
		pg_read_barrier();
	} while (registry_gap_epoch(claim->database, claim->own.subscription) !=
			 poll->gap_epoch);
	poll->gap_unknown = poll->gap_epoch != claim->position.gap_seen;
	return !binaryheap_empty(poll->heap) || poll->missed > 0 ||
		poll->gap_unknown;
}

/* Copy the record's payload into poll->payload; false if it was overwritten. */
static bool
fetch_payload(Poll *poll, const RingRecord *record)
{
	Size		size = VARHDRSZ + record->payload_len;

	if (size > poll->payload_size)
	{
		if (poll->payload)
			pfree(poll->payload);
		poll->payload_size = Max(size, 2 * poll->payload_size);
		poll->payload = palloc(poll->payload_size);
	}
	SET_VARSIZE(poll->payload, size);
	return ring_payload(poll->ring, record, VARDATA(poll->payload));
}

/*
 * Add the gap row, if there is a gap, and move the cursors over what it tells.
 */
static void
put_gap(Poll *poll)
{
	Datum		values[POLL_COLUMNS] = {0};
	bool		nulls[POLL_COLUMNS] = {false, true, true, true, true, false};

	if (poll->missed == 0 && !poll->gap_unknown)
		return;
	poll->gap_seq = poll->newest_seq;
	if (!binaryheap_empty(poll->heap))
		poll->gap_seq =
			poll->heads[DatumGetInt32(binaryheap_first(poll->heap))].record.seq - 1;
	values[0] = Int64GetDatum((int64) poll->gap_seq);
	values[5] = Int64GetDatum(poll->gap_unknown ? -1 : (int64) poll->missed);
	tuplestore_putvalues(poll->store, poll->desc, values, nulls);

	for (int i = 0; i < poll->ncursors; i++)
	{
		if (poll->heads[i].missed_upto > 0)
			position_skip(&poll->cursors[i], poll->heads[i].missed_upto);
	}
}

/*
 * The channel's name, made anew only if the row before was of another channel.
 */
static text *
channel_name(Poll *poll, int channel)
{
	if (poll->name == NULL || poll->name_channel != channel)
	{
		if (poll->name)
			pfree(poll->name);
		poll->name =
			cstring_to_text(poll->claim->database->channels[channel].name);
		poll->name_channel = channel;
	}
	return poll->name;
}

/*
 * Add the record with poll->payload to the result, and move the cursor to it.
 */
static void
put_message(Poll *poll, Cursor *cursor, const RingRecord *record)
{
	Datum		values[POLL_COLUMNS];
	bool		nulls[POLL_COLUMNS] = {false, false, false, false, false, true};

	values[0] = Int64GetDatum((int64) record->seq);
	values[1] = PointerGetDatum(channel_name(poll, cursor->channel));
	values[2] = PointerGetDatum(poll->payload);
	values[3] = Int32GetDatum(record->pid);
	values[4] = TimestampTzGetDatum(record->time);
	values[5] = (Datum) 0;
	tuplestore_putvalues(poll->store, poll->desc, values, nulls);

	cursor->number = record->number;
	cursor->pos = record->pos;
	cursor->delivered++;
	poll->delivered_bytes += record->payload_len;
	poll->last_seq = record->seq;
}

/*
 * Replace the heap's top, a record of cursor i, by the next one of that cursor.
 * Returns false if records are missing before that.
 */
static bool
advance_heap(Poll *poll, int i)
{
	find_head(poll, i);
	if (poll->heads[i].missed_upto > 0)
		return false;
	if (poll->heads[i].found == RING_FOUND)
		binaryheap_replace_first(poll->heap, Int32GetDatum(i));
	else
		(void) binaryheap_remove_first(poll->heap);
	return true;
}

/*
 * Add what there is to the result: a gap row and at most max_messages events.
 * Returns false, with nothing done, if there is nothing.
 */
static bool
return_messages(Poll *poll, int max_messages)
{
	bool		first = true;

	if (!find_heads(poll))
		return false;
	if (poll->consume)
		position_consume(poll->claim);

	while (!binaryheap_empty(poll->heap) && max_messages > 0)
	{
		int			i = DatumGetInt32(binaryheap_first(poll->heap));

		CHECK_FOR_INTERRUPTS();
		if (!fetch_payload(poll, &poll->heads[i].record))
		{
			if (!first)
				return true;
			/* the result is still empty, and more is missing now */
			(void) find_heads(poll);
			continue;
		}
		if (first)
			put_gap(poll);
		first = false;
		put_message(poll, &poll->cursors[i], &poll->heads[i].record);
		max_messages--;
		if (!advance_heap(poll, i))
			return true;
	}
	if (first)
		put_gap(poll);
	return true;
}

/*
 * After a look: note what its gap row told as missing, so that whoever acks the
 * row is not told of it again.
 */
static void
note_told(Poll *poll)
{
	Claim	   *claim = poll->claim;
	Subscription *subscription = claim->own.subscription;

	if (poll->missed == 0 && !poll->gap_unknown)
		return;
	LWLockAcquire(claim->database->lock, LW_SHARED);
	if (reader_claim_valid(claim))
	{
		subscription->told_gap = poll->gap_epoch;
		subscription->told_seq = poll->gap_seq;
		for (int i = 0; i < poll->ncursors; i++)
		{
			Cursor	   *cursor = &claim->position.cursors[i];
			uint64		missed = poll->cursors[i].lost - cursor->lost;

			if (missed > 0)
				cursor->binding->told = cursor->number + missed;
		}
	}
	LWLockRelease(claim->database->lock);
}

/* After consuming: the claim's position moves. */
static void
note_consumed(Poll *poll)
{
	Position   *position = &poll->claim->position;

	poll->claim->handed_out = true;
	position->gap_seen = poll->gap_epoch;
	position->delivered_bytes += poll->delivered_bytes;
	position->seq = Max(position->seq, poll->last_seq);
}

/*
 * Poll once, without waiting.  Returns whether there was anything to return.
 * Ends the session instead of returning rows to a client that has gone.
 */
static bool
poll_once(Claim *claim, int max_messages, bool consume, ReturnSetInfo *result)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pgpubsub poll",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Poll		poll = {0};
	bool		any;

	poll.claim = claim;
	poll.ring = claim->database->ring;
	poll.consume = consume;
	poll.store = result->setResult;
	poll.desc = result->setDesc;
	take_cursors(&poll);
	any = return_messages(&poll, max_messages);
	if (any)
		client_expect();
	if (any && consume)
		note_consumed(&poll);
	else if (any)
		note_told(&poll);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return any;
}

/*
 * Is there a reason not to sleep: events, a gap, a new binding?  It is enough
 * to look without the lock: whoever makes one wakes those in the lists
 * afterwards.
 */
static bool
anything_new(Claim *claim)
{
	Database   *database = claim->database;
	Subscription *subscription = claim->own.subscription;

	if (claim->generation != subscription->generation ||
		claim->bindings_version != subscription->bindings_version ||
		subscription->doomed || reader_shall_step_aside(claim) ||
		registry_gap_epoch(database, subscription) !=
		claim->position.gap_seen)
		return true;
	for (int i = 0; i < claim->position.ncursors; i++)
	{
		Cursor	   *cursor = &claim->position.cursors[i];

		if (ring_newest_number(database->ring, cursor->channel) >
			cursor->number)
			return true;
	}
	return false;
}

/*
 * Sleep until something happens, for at most timeout milliseconds.  Ends the
 * session if its client has gone.
 */
static void
sleep_until_new(Claim *claim, long timeout)
{
	Database   *database = claim->database;
	bool		valid;

	LWLockAcquire(database->lock, LW_SHARED);
	valid = reader_claim_valid(claim);
	if (valid)
		registry_start_waiting(database, claim->own.subscription);
	LWLockRelease(database->lock);
	if (!valid)
		return;
	PG_TRY();
	{
		if (!anything_new(claim))
			client_sleep(timeout, pgpubsub_wait_event(PGPUBSUB_WAIT_POLL));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_FINALLY();
	{
		registry_stop_waiting();
	}
	PG_END_TRY();
}

/*
 * Show whether this reader waits in poll().  Returns false if this process is
 * not the reader any more, because the subscription's slot was freed; another
 * subscription may have it now.
 */
static bool
set_waiting(Claim *claim, bool waiting)
{
	Subscription *subscription = claim->own.subscription;
	bool		mine;

	SpinLockAcquire(&subscription->reader.mutex);
	mine = subscription->reader.pid == MyProcPid;
	if (mine)
		subscription->reader.waiting = waiting;
	SpinLockRelease(&subscription->reader.mutex);
	return mine;
}

/* The poll is over: count it; any tells whether it has returned a row. */
static void
end_poll(Claim *claim, bool any)
{
	Subscription *subscription = claim->own.subscription;

	if (!set_waiting(claim, false))
		return;
	pg_atomic_fetch_add_u64(&subscription->stats.polls, 1);
	if (!any)
		pg_atomic_fetch_add_u64(&subscription->stats.empty_polls, 1);
	pg_atomic_write_u64(&subscription->stats.last_poll_at,
						(uint64) GetCurrentTimestamp());
}

/* Poll until there is something to return, or until deadline. */
static void
poll_until(Database *database, const char *name, int max_messages,
		   TimestampTz deadline, bool consume, ReturnSetInfo *result)
{
	Claim	   *claim = reader_claim(database, name, deadline, false);
	bool		any;

	hold_again(database, claim->own.subscription, claim->generation);
	while (!(any = poll_once(claim, max_messages, consume, result)))
	{
		long		left =
		TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		reader_expect_relay(database);
		if (left <= 0)
			break;
		(void) set_waiting(claim, true);
		sleep_until_new(claim, left);
		if (!reader_step_aside(claim))
			claim = reader_claim(database, name, deadline, false);
	}
	end_poll(claim, any);
}

/*
 * poll() on the subscription of that name; the call has the other arguments.
 * wide tells whether max_messages is a bigint.
 */
static Datum
poll_subscription(FunctionCallInfo fcinfo, const char *name, bool wide)
{
	Database   *database;
	int64		max_messages;
	int64		timeout;

	check_not_null(fcinfo, 1, "max_messages");
	max_messages = wide ? PG_GETARG_INT64(1) : PG_GETARG_INT32(1);
	database = reader_database("pgpubsub.poll");
	check_not_null(fcinfo, 2, "timeout");
	check_not_null(fcinfo, 3, "consume");
	if (max_messages < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_messages must be at least 1"),
				 errdetail("It is %lld.", (long long) max_messages),
				 errhint("Give the number of events that one poll may return at most.")));
	timeout = reader_timeout(PG_GETARG_INTERVAL_P(2));
	if (PG_GETARG_BOOL(3))
		reader_note_call();

	InitMaterializedSRF(fcinfo, 0);

	/* a client can take no more than 2^31 - 1 rows */
	poll_until(database, name, (int) Min(max_messages, PG_INT32_MAX),
			   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout),
			   PG_GETARG_BOOL(3), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/*
 * poll() of version 1.0: its subscription is a name, max_messages an integer.
 */
Datum
pgpubsub_poll(PG_FUNCTION_ARGS)
{
	return poll_subscription(fcinfo, reader_name(fcinfo), false);
}

/*
 * pgpubsub.poll(subscription text, max_messages bigint, timeout interval,
 * consume boolean) RETURNS TABLE (seq bigint, channel text, payload text,
 * pid integer, relayed_at timestamptz, lost bigint)
 */
Datum
pgpubsub_poll_1_1(PG_FUNCTION_ARGS)
{
	return poll_subscription(fcinfo, reader_text_name(fcinfo), true);
}

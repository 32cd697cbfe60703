/*-------------------------------------------------------------------------
 *
 * poll.c
 *	  poll().
 *
 * 1. A poll merges the subscription's channels by seq: a heap holds the next
 *	  record of each, and only records that it returns are touched besides.
 *	  It returns nothing newer than the newest seq that there was when it
 *	  began: up to there it sees all channels' records, whatever is appended
 *	  while it looks at one after the other.
 *
 * 2. What is missing is known once the next record of each channel is: the
 *	  distance between its number and the cursor's.  The gap row that tells it
 *	  comes first, so it is sent only when the first record's payload has been
 *	  copied whole.  If a record is overwritten later in the same poll, the
 *	  poll ends there, and the next one has the gap row.
 *
 * 3. A look leaves the cursors, and notes what its gap row told: a later ack()
 *	  of that row has those events behind it.  The rows that it shows are not
 *	  remembered: one that is overwritten before the ack is lost.
 *
 * 4. To wait, a reader enters the lists of waiters, see registry_waiters.c,
 *	  then looks once more, then sleeps on its latch.
 *
 * 5. A client that has gone gets no events: a wait ends when the connection
 *	  does, and it is looked at before rows are handed out and, in autocommit,
 *	  before they count as consumed; see client.c.
 *
 *-------------------------------------------------------------------------
 */
#include "read/reader.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "read/client_wait.h"
#include "registry/holders.h"
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
	bool		consume;
	Cursor	   *cursors;		/* the claim's, or a copy if it is a look */
	int			ncursors;
	Head	   *heads;
	binaryheap *heap;			/* indexes of cursors, lowest seq first */

	/* the gap row */
	uint64		gap_epoch;
	bool		gap_unknown;
	uint64		missed;
	uint64		newest_seq;		/* when we began to look */
	bool		newer;			/* some record has a higher one */
	uint64		gap_seq;

	/* what was returned */
	uint64		delivered_bytes;
	uint64		last_seq;
	int			rows;

	/* the result */
	Tuplestorestate *store;
	TupleDesc	desc;
	text	   *payload;		/* reused */
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

/* Find the next record of one channel. */
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

	/* one that came while we looked is for the next poll */
	if (head->found == RING_FOUND && head->record.seq > poll->newest_seq)
	{
		head->found = RING_UP_TO_DATE;
		poll->newer = true;
	}
}

/*
 * Take the claim's cursors as they are now, or a copy of them for a look; in
 * the current context.
 */
static void
take_cursors(Poll *poll)
{
	Claim	   *claim = poll->claim;

	reader_sync(claim);
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

		/* if all is newer, begin again: a gap row needs the first of it */
	} while (binaryheap_empty(poll->heap) && poll->newer);
	binaryheap_build(poll->heap);
}

/*
 * Find what to return first.  Returns whether there is anything to say.
 *
 * A gap epoch that has grown comes with cursors that may have to be placed
 * anew, and with a gap row.  So what a new relay has queued must not be looked
 * at before the epoch that it has raised.
 */
static bool
find_heads(Poll *poll)
{
	Claim	   *claim = poll->claim;

	do
	{
		poll->gap_epoch = registry_gap_epoch(claim->database,
											 claim->subscription);
		if (poll->gap_epoch != claim->gap_epoch)
			take_cursors(poll);
		find_all_heads(poll);
		pg_read_barrier();
	} while (registry_gap_epoch(claim->database, claim->subscription) !=
			 poll->gap_epoch);
	poll->gap_unknown = poll->gap_epoch != claim->position.gap_seen;
	return !binaryheap_empty(poll->heap) || poll->missed > 0 ||
		poll->gap_unknown;
}

/* Copy the record's payload into poll->payload; false if it is gone. */
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

/* Add the gap row to the result, and count what it tells as missed. */
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
	poll->rows++;

	for (int i = 0; i < poll->ncursors; i++)
	{
		Cursor	   *cursor = &poll->cursors[i];
		uint64		upto = poll->heads[i].missed_upto;

		if (upto == 0)
			continue;
		cursor->lost += upto - cursor->number;
		cursor->number = upto;
		cursor->pos = RING_NONE;
	}
}

/* The channel's name; mostly that of the row before. */
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

/* Add the record, whose payload was fetched, to the result. */
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
	poll->rows++;
}

/* Put the next record of cursor i, if there is one, into the heap's top. */
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
 * Return what there is, at most max_messages.  Returns false, with nothing
 * done, if there is nothing.
 */
static bool
return_messages(Poll *poll, int max_messages)
{
	bool		first = true;

	if (!find_heads(poll))
		return false;
	if (poll->consume)
	{
		reader_save(poll->claim);
		reader_consume(poll->claim);
	}

	while (!binaryheap_empty(poll->heap) && max_messages-- > 0)
	{
		int			i = DatumGetInt32(binaryheap_first(poll->heap));

		CHECK_FOR_INTERRUPTS();
		while (!fetch_payload(poll, &poll->heads[i].record))
		{
			if (!first)
				return true;
			/* nothing was said yet: what is missing is more now */
			(void) find_heads(poll);
			if (binaryheap_empty(poll->heap))
				break;
			i = DatumGetInt32(binaryheap_first(poll->heap));
		}
		if (binaryheap_empty(poll->heap))
			break;
		if (first)
			put_gap(poll);
		first = false;
		put_message(poll, &poll->cursors[i], &poll->heads[i].record);
		if (!advance_heap(poll, i))
			return true;
	}
	if (first)
		put_gap(poll);
	return true;
}

/*
 * After a look: note what its gap row told as missing, so that whoever acks the
 * row is not told again.
 */
static void
note_told(Poll *poll)
{
	Claim	   *claim = poll->claim;
	Subscription *subscription = claim->subscription;

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

/* Make a poll of the claim as it stands now, in the current context. */
static void
begin_poll(Poll *poll, Claim *claim, bool consume)
{
	poll->claim = claim;
	poll->ring = claim->database->ring;
	poll->consume = consume;
	take_cursors(poll);
}

/*
 * Poll once, without waiting.  Returns whether there was anything.  Ends the
 * session instead of giving rows to a client that has gone.
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

	begin_poll(&poll, claim, consume);
	poll.store = result->setResult;
	poll.desc = result->setDesc;
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

/* True if there is a reason not to sleep: events, a gap, a new binding. */
static bool
anything_new(Claim *claim)
{
	Database   *database = claim->database;
	Subscription *subscription = claim->subscription;

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
 * Sleep until something happens, or for at most timeout milliseconds.  Ends
 * the session if its client has gone.
 */
static void
sleep_until_new(Claim *claim, long timeout)
{
	Database   *database = claim->database;
	bool		valid;

	LWLockAcquire(database->lock, LW_SHARED);
	valid = reader_claim_valid(claim);
	if (valid)
		registry_start_waiting(database, claim->subscription);
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
 * Show that the reader waits in poll(), or no more.  Returns false if it is
 * not the reader any more: the subscription's slot was freed, and may be
 * another's.
 */
static bool
set_waiting(Claim *claim, bool waiting)
{
	Subscription *subscription = claim->subscription;
	bool		mine;

	SpinLockAcquire(&subscription->reader.mutex);
	mine = subscription->reader.pid == MyProcPid;
	if (mine)
		subscription->reader.waiting = waiting;
	SpinLockRelease(&subscription->reader.mutex);
	return mine;
}

/* The poll is over: count it. */
static void
end_poll(Claim *claim, bool any)
{
	Subscription *subscription = claim->subscription;

	if (!set_waiting(claim, false))
		return;
	pg_atomic_fetch_add_u64(&subscription->stats.polls, 1);
	if (!any)
		pg_atomic_fetch_add_u64(&subscription->stats.empty_polls, 1);
	pg_atomic_write_u64(&subscription->stats.last_poll_at,
						(uint64) GetCurrentTimestamp());
}

/*
 * Poll until there is something, or until deadline.
 */
static void
poll_until(Database *database, const char *name, int max_messages,
		   TimestampTz deadline, bool consume, ReturnSetInfo *result)
{
	Claim	   *claim = reader_claim(database, name, deadline, false);

	hold_again(database, claim->subscription, claim->generation);
	while (!poll_once(claim, max_messages, consume, result))
	{
		long		left =
		TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		reader_expect_relay(database);
		if (left <= 0)
		{
			end_poll(claim, false);
			return;
		}
		(void) set_waiting(claim, true);
		sleep_until_new(claim, left);
		if (!reader_step_aside(claim))
			claim = reader_claim(database, name, deadline, false);
	}
	end_poll(claim, true);
}

/*
 * What poll() does, to the subscription of that name; the arguments behind
 * max_messages are those of the call.
 */
static Datum
poll_subscription(FunctionCallInfo fcinfo, const char *name,
				  int64 max_messages)
{
	Database   *database = reader_database("pgpubsub.poll");
	int64		timeout;

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

	/* a client can take no more rows than that */
	poll_until(database, name, (int) Min(max_messages, PG_INT32_MAX),
			   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout),
			   PG_GETARG_BOOL(3), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/*
 * pgpubsub.poll_1_0(subscription name, max_messages integer, timeout interval,
 * consume boolean), poll() before version 1.1
 */
Datum
pgpubsub_poll(PG_FUNCTION_ARGS)
{
	const char *name = reader_name(fcinfo);

	check_not_null(fcinfo, 1, "max_messages");
	return poll_subscription(fcinfo, name, PG_GETARG_INT32(1));
}

/*
 * pgpubsub.poll(subscription text, max_messages bigint, timeout interval,
 * consume boolean)
 */
Datum
pgpubsub_poll_1_1(PG_FUNCTION_ARGS)
{
	const char *name = reader_text_name(fcinfo);

	check_not_null(fcinfo, 1, "max_messages");
	return poll_subscription(fcinfo, name, PG_GETARG_INT64(1));
}

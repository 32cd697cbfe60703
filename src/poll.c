/*-------------------------------------------------------------------------
 *
 * poll.c
 *	  poll() and ack().
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
 * 3. A look leaves the cursors and notes in the bindings what it showed; this
 *	  session remembers the rows too.  So ack() can tell events that were
 *	  shown and then overwritten from events that were lost.
 *
 * 4. To wait, a reader puts its bindings into the channels' lists of waiters,
 *	  then looks once more, then sleeps on its latch.  The relay appends first
 *	  and looks at the lists then; one of the two sees the other.
 *
 *-------------------------------------------------------------------------
 */
#include "reader.h"

#include <math.h>

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "hold.h"
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

/* Rows of a look that are remembered, at most. */
#define LOOK_ROWS	10000

/*
 * A message that the last look of this session has shown, or the last one of a
 * channel that its gap row told of.
 */
typedef struct ShownRow
{
	uint64		seq;
	uint64		number;
	int			channel;
	bool		missed;
} ShownRow;

/* The last look of this session. */
typedef struct Look
{
	Subscription *subscription; /* NULL: nothing is remembered */
	uint32		generation;
	uint64		number;			/* as noted in the subscription, or 0 */
	ShownRow   *rows;			/* in TopMemoryContext */
	int			nrows;
} Look;

static Look last_look;

PG_FUNCTION_INFO_V1(pgpubsub_poll);
PG_FUNCTION_INFO_V1(pgpubsub_ack);

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
 * Find the next record of each channel and what is missing before it.
 * Returns whether there is anything to say.
 */
static bool
find_heads(Poll *poll)
{
	poll->gap_epoch = registry_gap_epoch(poll->claim->database,
										 poll->claim->subscription);
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
	poll->gap_unknown = poll->gap_epoch != poll->claim->position.gap_seen;
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

/* Begin to remember the rows of a look, if they are not too many. */
static void
begin_look(Subscription *subscription, int max_messages)
{
	last_look.subscription = NULL;
	last_look.number = 0;
	last_look.nrows = 0;

	if (last_look.rows == NULL)
		last_look.rows = MemoryContextAlloc(TopMemoryContext,
											LOOK_ROWS * sizeof(ShownRow));

	if (max_messages > LOOK_ROWS)
		return;
	last_look.subscription = subscription;
	last_look.generation = subscription->generation;
}

/* Remember a row of a look, or forget it all if there is no room. */
static void
remember_shown(int channel, uint64 seq, uint64 number, bool missed)
{
	ShownRow   *row;

	if (last_look.nrows == LOOK_ROWS)
		last_look.subscription = NULL;

	if (last_look.subscription == NULL)
		return;
	row = &last_look.rows[last_look.nrows++];
	row->channel = channel;
	row->seq = seq;
	row->number = number;
	row->missed = missed;
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
		if (!poll->consume)
			remember_shown(cursor->channel, poll->gap_seq, upto, true);
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
	if (!poll->consume)
		remember_shown(cursor->channel, record->seq, record->number, false);
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
		poll->claim->position.consumed = true;
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

/* After a look: note in the bindings what it showed. */
static void
note_look(Poll *poll)
{
	Subscription *subscription = poll->claim->subscription;
	Database   *database = poll->claim->database;

	LWLockAcquire(database->lock, LW_SHARED);
	if (!reader_claim_valid(poll->claim))
	{
		LWLockRelease(database->lock);
		return;
	}
	last_look.number = ++subscription->looks;
	if (poll->missed > 0 || poll->gap_unknown)
	{
		subscription->looked_gap = poll->gap_epoch;
		subscription->looked_gap_seq = poll->gap_seq;
	}
	else
		subscription->looked_gap = subscription->looked_gap_seq = 0;
	for (int i = 0; i < poll->ncursors; i++)
	{
		Cursor	   *shown = &poll->cursors[i];
		Cursor	   *cursor = &poll->claim->position.cursors[i];
		Binding    *binding = cursor->binding;
		uint64		first = shown->number - shown->delivered +
			cursor->delivered;

		if (shown->number == cursor->number)
		{
			/* a look that began further on was rolled back */
			if (binding->looked_first > cursor->number)
				binding->looked_first = binding->looked_number =
					binding->looked_seq = 0;
			continue;
		}

		/*
		 * Its gap row counts, even if an earlier look went further; unless
		 * that began further on, too, in a transaction that was rolled back.
		 */
		if (shown->number < binding->looked_number &&
			first >= binding->looked_first)
		{
			binding->looked_first = first;
			continue;
		}
		binding->looked_first = first;
		binding->looked_number = shown->number;
		binding->looked_seq = poll->last_seq;
		if (poll->last_seq == 0)
			binding->looked_seq = poll->gap_seq;
	}
	LWLockRelease(database->lock);
}

/* After consuming: the claim's position moves. */
static void
note_consumed(Poll *poll)
{
	Position   *position = &poll->claim->position;

	position->gap_seen = poll->gap_epoch;
	position->delivered_bytes += poll->delivered_bytes;
	position->seq = Max(position->seq, poll->last_seq);
}

/* Make a poll of the claim as it stands now, in the current context. */
static void
begin_poll(Poll *poll, Claim *claim, int max_messages, bool consume)
{
	reader_sync(claim);
	poll->claim = claim;
	poll->ring = claim->database->ring;
	poll->consume = consume;
	poll->ncursors = claim->position.ncursors;
	poll->cursors = claim->position.cursors;
	if (!consume)
	{
		Size		size = poll->ncursors * sizeof(Cursor);

		begin_look(claim->subscription, max_messages);

		poll->cursors = palloc(Max(size, 1));
		memcpy(poll->cursors, claim->position.cursors, size);
	}
	poll->heads = palloc(Max(poll->ncursors, 1) * sizeof(Head));
	poll->heap = binaryheap_allocate(Max(poll->ncursors, 1), compare_heads,
									 poll->heads);
}

/*
 * Poll once, without waiting.  Returns whether there was anything.
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

	begin_poll(&poll, claim, max_messages, consume);
	poll.store = result->setResult;
	poll.desc = result->setDesc;
	any = return_messages(&poll, max_messages);
	if (any && consume)
		note_consumed(&poll);
	else if (any)
		note_look(&poll);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return any;
}

/*
 * Put the claim's bindings into the lists of waiters.  Returns false if they
 * are gone.
 */
static bool
start_waiting(Claim *claim)
{
	Database   *database = claim->database;

	LWLockAcquire(database->lock, LW_SHARED);
	if (!reader_claim_valid(claim))
	{
		LWLockRelease(database->lock);
		return false;
	}
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	for (int i = 0; i < claim->position.ncursors; i++)
	{
		Binding    *binding = claim->position.cursors[i].binding;
		Channel    *channel = &database->channels[binding->channel];

		if (binding->waiting)
			continue;
		dlist_push_tail(&channel->waiters, &binding->wait_node);
		binding->waiting = true;
		pg_atomic_fetch_add_u32(&channel->nwaiters, 1);
	}
	LWLockRelease(database->wait_lock);
	LWLockRelease(database->lock);

	/* be in the lists before looking for new events */
	pg_memory_barrier();
	return true;
}

/* Take them out again, unless whoever dropped them did. */
static void
stop_waiting(Claim *claim)
{
	Database   *database = claim->database;

	LWLockAcquire(database->lock, LW_SHARED);
	if (!reader_claim_valid(claim))
	{
		LWLockRelease(database->lock);
		return;
	}
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	for (int i = 0; i < claim->position.ncursors; i++)
	{
		Binding    *binding = claim->position.cursors[i].binding;

		if (!binding->waiting)
			continue;
		dlist_delete(&binding->wait_node);
		binding->waiting = false;
		pg_atomic_fetch_sub_u32(&database->channels[binding->channel].nwaiters,
								1);
	}
	LWLockRelease(database->wait_lock);
	LWLockRelease(database->lock);
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

/* Sleep until something happens, or for at most timeout milliseconds. */
static void
sleep_until_new(Claim *claim, long timeout)
{
	if (!start_waiting(claim))
		return;
	PG_TRY();
	{
		if (!anything_new(claim))
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 timeout,
							 pgpubsub_wait_event(PGPUBSUB_WAIT_POLL));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_FINALLY();
	{
		stop_waiting(claim);
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

	SpinLockAcquire(&subscription->mutex);
	mine = subscription->reader_pid == MyProcPid;
	if (mine)
		subscription->waiting = waiting;
	SpinLockRelease(&subscription->mutex);
	return mine;
}

/* The poll is over: count it. */
static void
end_poll(Claim *claim, bool any)
{
	Subscription *subscription = claim->subscription;

	if (!set_waiting(claim, false))
		return;
	pg_atomic_fetch_add_u64(&subscription->polls, 1);
	if (!any)
		pg_atomic_fetch_add_u64(&subscription->empty_polls, 1);
	pg_atomic_write_u64(&subscription->last_poll_at,
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

/* The interval as milliseconds, cut to pgpubsub.max_poll_wait. */
static int64
poll_timeout(const Interval *timeout)
{
	double		ms = timeout->time / 1000.0 +
		((double) timeout->month * DAYS_PER_MONTH + timeout->day) *
		(USECS_PER_DAY / 1000);

	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout cannot be negative"),
				 errhint("Give an interval of 0 or more.")));
	if (ms > pgpubsub_max_poll_wait)
		return pgpubsub_max_poll_wait;
	return (int64) ceil(ms);
}

/*
 * pgpubsub.poll(subscription, max_messages, timeout, consume)
 */
Datum
pgpubsub_poll(PG_FUNCTION_ARGS)
{
	Database   *database = reader_database("pgpubsub.poll");
	int64		timeout;
	int			max_messages;

	reader_check_not_null(fcinfo, 0, "subscription");
	reader_check_not_null(fcinfo, 1, "max_messages");
	reader_check_not_null(fcinfo, 2, "timeout");
	reader_check_not_null(fcinfo, 3, "consume");
	max_messages = PG_GETARG_INT32(1);
	if (max_messages < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_messages must be at least 1"),
				 errdetail("It is %d.", max_messages),
				 errhint("Give the number of events that one poll may return at most.")));
	timeout = poll_timeout(PG_GETARG_INTERVAL_P(2));
	if (PG_GETARG_BOOL(3))
		reader_note_call();

	InitMaterializedSRF(fcinfo, 0);
	poll_until(database, NameStr(*PG_GETARG_NAME(0)), max_messages,
			   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout),
			   PG_GETARG_BOOL(3), (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/* An ack in one channel. */
typedef struct Ack
{
	Claim	   *claim;
	uint64		seq;
	uint64		consumed;		/* events, over all channels */
	uint64		bytes;
	uint64		last_seq;
} Ack;

/* Has this session made the subscription's last look, and remembers it? */
static bool
remembers_look(Claim *claim)
{
	return last_look.subscription == claim->subscription &&
		last_look.generation == claim->generation &&
		last_look.number > 0 &&
		last_look.number == claim->subscription->looks;
}

/*
 * How many events of the cursor's channel, after it and up to number, that
 * look has shown which the ack covers; *last is the number of the last one
 * that it has shown or told as missing.
 */
static uint64
count_shown(Ack *ack, Cursor *cursor, uint64 number, uint64 *last)
{
	uint64		shown = 0;

	*last = 0;

	/* a binding made since is to another channel, or behind all that */
	if (cursor->binding->looked_number == 0)
		return 0;
	for (int i = 0; i < last_look.nrows; i++)
	{
		ShownRow   *row = &last_look.rows[i];

		if (row->channel != cursor->channel || row->seq > ack->seq ||
			row->number <= cursor->number || row->number > number)
			continue;
		if (!row->missed)
			shown++;
		*last = row->number;
	}
	return shown;
}

/*
 * Move the cursor to number over events that are no longer there: those that
 * a look has shown count as delivered, the others as lost.
 */
static void
ack_missing(Ack *ack, Cursor *cursor, uint64 number)
{
	Binding    *binding = cursor->binding;
	uint64		missing = number - cursor->number;
	uint64		shown = 0;
	uint64		last;

	if (remembers_look(ack->claim))
		shown = count_shown(ack, cursor, number, &last);
	else if (ack->seq >= binding->looked_seq && binding->looked_seq > 0)
	{
		uint64		from = Max(cursor->number, binding->looked_first);
		uint64		upto = Min(number, binding->looked_number);

		if (upto > from)
			shown = upto - from;
	}
	cursor->delivered += shown;
	cursor->lost += missing - shown;
	cursor->number = number;
	cursor->pos = RING_NONE;
	ack->consumed += shown;
}

/* Up to which number the ack covers events that are no longer there. */
static uint64
ack_missing_upto(Ack *ack, Cursor *cursor, uint64 last_missing)
{
	Subscription *subscription = ack->claim->subscription;
	Binding    *binding = cursor->binding;
	uint64		upto = 0;

	if (remembers_look(ack->claim))
	{
		(void) count_shown(ack, cursor, last_missing, &upto);
		return upto;
	}
	if (binding->looked_seq > 0 && ack->seq >= binding->looked_seq)
		upto = binding->looked_number;
	else if (subscription->looked_gap_seq > 0 &&
			 ack->seq >= subscription->looked_gap_seq)
		upto = binding->looked_first;
	return Min(upto, last_missing);
}

/* Consume the channel's events up to and including ack->seq. */
static void
ack_channel(Ack *ack, Cursor *cursor)
{
	Ring	   *ring = ack->claim->database->ring;

	for (;;)
	{
		RingChannelState state;
		RingRecord	record;
		uint64		newest;
		uint64		upto;
		RingNext	found;

		CHECK_FOR_INTERRUPTS();
		ring_channel_state(ring, cursor->channel, &state);
		found = ring_next(ring, cursor->channel, cursor->number, cursor->pos,
						  &record, &newest);
		if (found == RING_FOUND && record.seq <= ack->seq)
		{
			if (record.number > cursor->number + 1)
				ack_missing(ack, cursor, record.number - 1);
			cursor->number = record.number;
			cursor->pos = record.pos;
			cursor->delivered++;
			ack->consumed++;
			ack->bytes += record.payload_len;
			ack->last_seq = Max(ack->last_seq, record.seq);
			continue;
		}
		if (found == RING_UP_TO_DATE)
			return;

		/* those before the next one are gone; which of them are covered? */
		if (found == RING_ALL_GONE && newest == state.newest_number &&
			ack->seq >= state.newest_seq)
			upto = newest;
		else
			upto = ack_missing_upto(ack, cursor,
									found == RING_FOUND ? record.number - 1 :
									newest);
		if (upto > cursor->number)
			ack_missing(ack, cursor, upto);
		return;
	}
}

/* Raise an error if no event has this seq yet. */
static void
check_ack_seq(Database *database, int64 seq)
{
	uint64		newest = ring_newest_seq(database->ring);

	if (seq < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("seq cannot be negative"),
				 errhint("Give the seq of a row that poll() returned.")));
	if ((uint64) seq > newest)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("seq %lld was not given out yet", (long long) seq),
				 errdetail("The newest event of this database has seq %llu.",
						   (unsigned long long) newest),
				 errhint("Give the seq of a row that poll() returned.")));
}

/*
 * pgpubsub.ack(subscription, seq) RETURNS bigint
 */
Datum
pgpubsub_ack(PG_FUNCTION_ARGS)
{
	Database   *database = reader_database("pgpubsub.ack");
	Subscription *subscription;
	Position   *position;
	Ack			ack = {0};

	reader_check_not_null(fcinfo, 0, "subscription");
	reader_check_not_null(fcinfo, 1, "seq");
	reader_note_call();
	ack.claim = reader_claim(database, NameStr(*PG_GETARG_NAME(0)), 0, false);
	check_ack_seq(database, PG_GETARG_INT64(1));
	ack.seq = (uint64) PG_GETARG_INT64(1);

	subscription = ack.claim->subscription;
	position = &ack.claim->position;
	reader_save(ack.claim);
	position->consumed = true;
	for (int i = 0; i < position->ncursors; i++)
		ack_channel(&ack, &position->cursors[i]);
	if (subscription->looked_gap > position->gap_seen &&
		ack.seq >= subscription->looked_gap_seq)
		position->gap_seen = subscription->looked_gap;
	position->delivered_bytes += ack.bytes;
	position->seq = Max(position->seq, ack.last_seq);
	PG_RETURN_INT64((int64) ack.consumed);
}

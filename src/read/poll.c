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
#include "read/merge.h"

#include "access/xact.h"
#include "base/debug.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Columns of poll()'s result. */
#define POLL_COLUMNS	6

PG_FUNCTION_INFO_V1(pgpubsub_poll);
PG_FUNCTION_INFO_V1(pgpubsub_poll_1_1);

/*
 * Have the event's payload in poll->payload; false if it was overwritten.
 */
static bool
fetch_payload(Poll *poll, const Head *head)
{
	const RingRecord *record = &head->record;
	Size		size = VARHDRSZ + record->payload_len;

	if (head->from_log)
	{
		poll->payload = head->event.payload;
		return true;
	}
	if (size > poll->payload_size)
	{
		if (poll->buffer)
			pfree(poll->buffer);
		poll->payload_size = Max(size, 2 * poll->payload_size);
		poll->buffer = palloc(poll->payload_size);
	}
	poll->payload = poll->buffer;
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
			head_seq(&poll->heads[DatumGetInt32(binaryheap_first(poll->heap))]) - 1;
	values[0] = Int64GetDatum((int64) poll->gap_seq);
	values[5] = Int64GetDatum(poll->gap_unknown ? -1 : (int64) poll->missed);
	tuplestore_putvalues(poll->store, poll->desc, values, nulls);
	poll->logged |= poll->gap_unknown && position_reads_durable(poll->claim);

	for (int i = 0; i < poll->ncursors; i++)
	{
		Cursor	   *cursor = &poll->cursors[i];
		Head	   *head = &poll->heads[i];
		uint64		untold = merge_untold_loss(poll, i);

		if (head->missed > 0)
		{
			position_skip(cursor, head->missed_upto, head->missed_logged);
			head->told = head->missed_upto;
			head->told_logged = head->missed_logged;
		}
		cursor->lost += untold;
		cursor->log_lost += untold;
		poll->logged |= untold > 0;
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
 * Add the event with poll->payload to the result, and move the cursor to it.
 */
static void
put_message(Poll *poll, Cursor *cursor, const Head *head)
{
	const RingRecord *record = &head->record;
	uint64		seq = head_seq(head);
	TimestampTz at = head->from_log ? head->event.at : record->time;
	Datum		values[POLL_COLUMNS];
	bool		nulls[POLL_COLUMNS] = {false, false, false, false, false, true};

	values[0] = Int64GetDatum((int64) seq);
	values[1] = PointerGetDatum(channel_name(poll, cursor->channel));
	values[2] = PointerGetDatum(poll->payload);
	values[3] = Int32GetDatum(head->from_log ? head->event.pid : record->pid);
	values[4] = TimestampTzGetDatum(at);
	values[5] = (Datum) 0;
	tuplestore_putvalues(poll->store, poll->desc, values, nulls);

	if (!head->from_log)
	{
		cursor->number = record->number;
		cursor->logged = record->logged;
		cursor->pos = record->pos;
	}
	cursor->seq = Max(cursor->seq, seq);
	cursor->delivered++;
	poll->logged |= head->from_log || record->in_log;
	if (head->from_log || record->in_log)
		DEBUG_CROSSING((int) (poll->claim->own.subscription -
							  pgpubsub_control->subscriptions),
					   head->from_log);
	poll->delivered_bytes += VARSIZE(poll->payload) - VARHDRSZ;
	poll->delivered++;
	if (poll->now > at)
		poll->delay_us += (uint64) (poll->now - at);
	poll->last_seq = seq;
}

/*
 * Replace the heap's top, a record of cursor i, by the next one of that cursor.
 * Returns false if records are missing before that.
 */
static bool
advance_heap(Poll *poll, int i)
{
	merge_find_head(poll, i);
	if (poll->heads[i].missed > 0)
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

	if (!merge_find_heads(poll))
		return false;
	if (poll->consume)
		position_consume(poll->claim);
	poll->now = GetCurrentTimestamp();

	while (!binaryheap_empty(poll->heap) && max_messages > 0)
	{
		int			i = DatumGetInt32(binaryheap_first(poll->heap));

		CHECK_FOR_INTERRUPTS();
		if (!fetch_payload(poll, &poll->heads[i]))
		{
			if (!first)
				return true;
			/* the result is still empty, and more is missing now */
			(void) merge_find_heads(poll);
			continue;
		}
		if (first)
			put_gap(poll);
		first = false;
		put_message(poll, &poll->cursors[i], &poll->heads[i]);
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
		claim->position.gap_shown = claim->position.gap_sought;
		subscription->told_seq = poll->gap_seq;
		for (int i = 0; i < poll->ncursors; i++)
		{
			Cursor	   *cursor = &claim->position.cursors[i];
			Head	   *head = &poll->heads[i];

			cursor->binding->told_lost = poll->cursors[i].log_lost -
				cursor->log_lost;
			if (head->told == 0)
				continue;
			cursor->binding->told = head->told;
			cursor->binding->told_logged = head->told_logged;
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
	position->gap_sought = false;
	position->delivered_bytes += poll->delivered_bytes;
	position->delays += poll->delivered;
	position->delay_us += poll->delay_us;
	position->seq = Max(position->seq, poll->last_seq);
	position->logged |= poll->logged;
	position_advance(poll->claim, poll->last_seq);
}

/*
 * The poll has gone over what was no event, nothing in the log or what had been
 * read from there: show that, whatever becomes of the transaction, so that
 * nobody waits or looks for it again.
 */
static void
keep_progress(Poll *poll)
{
	Claim	   *claim = poll->claim;

	if (!poll->progress)
		return;
	for (int i = 0; i < poll->ncursors && !poll->consume; i++)
	{
		Cursor	   *cursor = &claim->position.cursors[i];
		Cursor	   *looked = &poll->cursors[i];

		if (looked->delivered != cursor->delivered ||
			looked->lost != cursor->lost)
			continue;
		cursor->number = looked->number;
		cursor->logged = looked->logged;
		cursor->pos = looked->pos;
		cursor->seq = looked->seq;
		cursor->seq_moved |= looked->seq_moved;
	}
	LWLockAcquire(claim->database->lock, LW_SHARED);
	if (reader_claim_valid(claim))
		position_show_progress(claim);
	LWLockRelease(claim->database->lock);
}

/*
 * Raise 25006 if the poll would have to write a position to the log, and the
 * transaction must not.
 */
static void
check_may_write(Poll *poll)
{
	if (poll->consume && XactReadOnly &&
		poll->claim->own.subscription->id != 0 &&
		position_reads_durable(poll->claim))
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot consume events of a durable channel in a read-only transaction"),
				 errdetail("How far subscription \"%s\" has read is written when the transaction commits.",
						   poll->claim->own.subscription->name),
				 errhint("Poll in a transaction that may write, or with consume => false.")));
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
	merge_begin(&poll);
	check_may_write(&poll);
	any = return_messages(&poll, max_messages);
	if (poll.reader)
		log_reader_close(poll.reader);
	keep_progress(&poll);
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
		registry_relay_epoch(database, subscription) != claim->relay_epoch ||
		pg_atomic_read_u64(&subscription->gap_epoch) !=
		claim->position.gap_seen)
		return true;
	for (int i = 0; i < claim->position.ncursors; i++)
	{
		Cursor	   *cursor = &claim->position.cursors[i];

		if (binding_pending(database, cursor->channel, cursor->number,
							cursor->seq))
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

/*-------------------------------------------------------------------------
 *
 * ack.c
 *	  ack(): consume what a look has shown, up to a seq.
 *
 * Events that are no longer in the queue count as lost, whether a look has
 * shown them or not.  Their seqs went with them, so the ack covers missing
 * events of a channel only where these are sure not to be above the given seq:
 *
 * 1.  If it covers a later event of the channel, or the newest one that there
 *	  ever was, it covers all that are missing before that.
 * 2. If it covers the last gap row that a look has shown, it covers the events
 *	  that this row has told.
 *
 * All others are left to the next gap row.  So each is counted once, and the
 * reader misses none without being told: a shown event that was overwritten
 * may be told as lost, but no event behind the acked seq is passed over.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "log/log.h"
#include "miscadmin.h"

PG_FUNCTION_INFO_V1(pgpubsub_ack);
PG_FUNCTION_INFO_V1(pgpubsub_ack_1_1);

/* An ack, and what it has consumed so far. */
typedef struct Ack
{
	Claim	   *claim;
	uint64		seq;			/* up to and including this one */
	uint64		consumed;		/* events that were there, of all channels */
	uint64		bytes;			/* of their payloads */
	TimestampTz now;			/* when it began */
	uint64		delays;			/* events of which it is known since when they
								 * were there */
	uint64		delay_us;		/* how long in all, until now */
	uint64		last_seq;		/* the highest of theirs */
	bool		logged;			/* some of them are in the log */
} Ack;

/* The channel's next record in the ring, beyond what is consumed of the log. */
static RingNext
next_record(Ring *ring, Cursor *cursor, RingRecord *record, uint64 *newest)
{
	for (;;)
	{
		RingNext	found = ring_next(ring, cursor->channel, cursor->number,
									  cursor->pos, record, newest);

		if (found != RING_FOUND || !record->in_log ||
			record->seq > cursor->seq)
			return found;
		cursor->number = record->number;
		cursor->logged = record->logged;
		cursor->pos = record->pos;
	}
}

/*
 * Count what the log has of the channel behind the seq had, up to and including
 * ack->seq.
 */
static void
count_logged(Ack *ack, Cursor *cursor, uint64 had)
{
	Database   *database = ack->claim->database;
	LogReader  *reader = log_reader_create(database);
	uint64		count;

	count = log_reader_count(reader,
							 database->channels[cursor->channel].name,
							 had, ack->seq, &ack->bytes, NULL);
	log_reader_close(reader);
	cursor->delivered += count;
	ack->consumed += count;
	ack->logged |= count > 0;
	if (count > 0)
		ack->last_seq = Max(ack->last_seq, ack->seq);
}

/*
 * Consume what a look has told of events that the log has lost.  After a restart, a
 * pattern may have what all channels have lost.
 */
static void
ack_loss(Ack *ack, Cursor *cursor)
{
	uint64		untold;
	uint64		told;

	if (ack->seq < ack->claim->own.subscription->told_seq ||
		cursor->binding->told_lost == 0)
		return;

	/* what was told of a place that was sought and rolled back is not */
	untold = pg_atomic_read_u64(&cursor->binding->log_lost) - cursor->log_lost;
	told = Min(cursor->binding->told_lost, untold);
	cursor->lost += told;
	cursor->log_lost += told;
	cursor->binding->told_lost = 0;
	ack->logged = true;
}

/*
 * Consume the channel's events up to and including ack->seq.  From where some of
 * them are in the log and not in the ring, all that are in the log are counted
 * there.
 */
static void
ack_channel(Ack *ack, Cursor *cursor)
{
	Database   *database = ack->claim->database;
	Ring	   *ring = database->ring;
	RingChannelState state;
	RingRecord	record;
	RingNext	found;
	uint64		newest;
	uint64		upto = 0;
	uint64		upto_logged = 0;
	uint64		had = cursor->seq;	/* of the log, all up to this is counted */
	bool		by_log = false; /* and all that is behind */
	uint64		number;
	uint64		logged;

	ack_loss(ack, cursor);
	if (database->channels[cursor->channel].is_pattern)
		return;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		ring_channel_state(ring, cursor->channel, &state);
		ring_counts(ring, cursor->channel, &number, &logged);
		found = next_record(ring, cursor, &record, &newest);
		if (!by_log &&
			Min(found == RING_FOUND ? record.log_before :
				ring_log_newest(ring, cursor->channel), ack->seq) > had &&
			pg_atomic_read_u32(&database->log.active) != 0)
		{
			count_logged(ack, cursor, had);
			by_log = true;
		}
		if (found != RING_FOUND || record.seq > ack->seq)
			break;
		if (position_missed(cursor, record.number - 1,
							record.logged - record.in_log) > 0)
			position_skip(cursor, record.number - 1,
						  record.logged - record.in_log);
		cursor->number = record.number;
		cursor->logged = record.logged;
		cursor->pos = record.pos;
		cursor->moved = true;
		if (record.in_log && by_log)
			continue;
		had = Max(had, record.seq);
		cursor->delivered++;
		ack->consumed++;
		ack->bytes += record.payload_len;
		ack->delays++;
		if (ack->now > record.time)
			ack->delay_us += (uint64) (ack->now - record.time);
		ack->last_seq = Max(ack->last_seq, record.seq);
		ack->logged |= record.in_log;
	}
	if (cursor->seq < ack->seq)
	{
		cursor->seq = ack->seq;
		cursor->seq_moved = true;
	}
	if (found == RING_UP_TO_DATE)
		return;

	/* the next events are gone; up to which are they covered? */
	if (found == RING_ALL_GONE && newest == state.newest_number &&
		newest == number && ack->seq >= state.newest_seq)
	{
		upto = newest;
		upto_logged = logged;
	}
	else if (ack->seq >= ack->claim->own.subscription->told_seq)
	{
		upto = cursor->binding->told;
		upto_logged = cursor->binding->told_logged;
	}
	if (upto > cursor->number)
	{
		position_skip(cursor, upto, upto_logged);
		cursor->moved = true;
	}
}

/* Raise 22023 if the seq is negative, or if no event has it yet. */
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

/* ack() on the subscription of that name; how many events it has consumed. */
static Datum
ack_subscription(FunctionCallInfo fcinfo, const char *name)
{
	Database   *database = reader_database("pgpubsub.ack");
	Subscription *subscription;
	Position   *position;
	Ack			ack = {0};

	check_not_null(fcinfo, 1, "seq");
	reader_note_call();
	ack.claim = reader_claim(database, name, 0, false);
	check_ack_seq(database, PG_GETARG_INT64(1));

	/* the event may come from a relay that has started since the claim */
	position_sync(ack.claim);
	ack.seq = (uint64) PG_GETARG_INT64(1);
	ack.now = GetCurrentTimestamp();

	subscription = ack.claim->own.subscription;
	position = &ack.claim->position;
	position_consume(ack.claim);
	for (int i = 0; i < position->ncursors; i++)
		ack_channel(&ack, &position->cursors[i]);
	if ((subscription->told_gap > position->gap_seen || position->gap_shown) &&
		ack.seq >= subscription->told_seq)
	{
		position->gap_seen = Max(position->gap_seen, subscription->told_gap);
		position->gap_sought = position->gap_shown = false;
		ack.logged |= position_reads_durable(ack.claim);
	}
	position->delivered_bytes += ack.bytes;
	position->delays += ack.delays;
	position->delay_us += ack.delay_us;
	position->seq = Max(position->seq, ack.last_seq);
	position->logged |= ack.logged;
	PG_RETURN_INT64((int64) ack.consumed);
}

/* ack() of version 1.0: its subscription is a name. */
Datum
pgpubsub_ack(PG_FUNCTION_ARGS)
{
	return ack_subscription(fcinfo, reader_name(fcinfo));
}

/* pgpubsub.ack(subscription text, seq bigint) RETURNS bigint */
Datum
pgpubsub_ack_1_1(PG_FUNCTION_ARGS)
{
	return ack_subscription(fcinfo, reader_text_name(fcinfo));
}

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
	uint64		last_seq;		/* the highest of theirs */
} Ack;

/* Consume the channel's events up to and including ack->seq. */
static void
ack_channel(Ack *ack, Cursor *cursor)
{
	Ring	   *ring = ack->claim->database->ring;
	RingChannelState state;
	RingRecord	record;
	RingNext	found;
	uint64		newest;
	uint64		upto = 0;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		ring_channel_state(ring, cursor->channel, &state);
		found = ring_next(ring, cursor->channel, cursor->number, cursor->pos,
						  &record, &newest);
		if (found != RING_FOUND || record.seq > ack->seq)
			break;
		if (record.number > cursor->number + 1)
			position_skip(cursor, record.number - 1);
		cursor->number = record.number;
		cursor->pos = record.pos;
		cursor->delivered++;
		ack->consumed++;
		ack->bytes += record.payload_len;
		ack->last_seq = Max(ack->last_seq, record.seq);
	}
	if (found == RING_UP_TO_DATE)
		return;

	/* the next events are gone; up to which are they covered? */
	if (found == RING_ALL_GONE && newest == state.newest_number &&
		ack->seq >= state.newest_seq)
		upto = newest;
	else if (ack->seq >= ack->claim->own.subscription->told_seq)
		upto = cursor->binding->told;
	if (upto > cursor->number)
		position_skip(cursor, upto);
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

	subscription = ack.claim->own.subscription;
	position = &ack.claim->position;
	position_consume(ack.claim);
	for (int i = 0; i < position->ncursors; i++)
		ack_channel(&ack, &position->cursors[i]);
	if (subscription->told_gap > position->gap_seen &&
		ack.seq >= subscription->told_seq)
		position->gap_seen = subscription->told_gap;
	position->delivered_bytes += ack.bytes;
	position->seq = Max(position->seq, ack.last_seq);
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

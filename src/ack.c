/*-------------------------------------------------------------------------
 *
 * ack.c
 *	  ack(): consume what a look has shown, up to a seq.
 *
 * Where events that the ack covers are no longer in the queue, what looks have
 * noted tells whether they were shown: this session's own by the row (see
 * look.c), another's by the bindings' looked_ numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "reader.h"

#include "fmgr.h"
#include "look.h"
#include "miscadmin.h"

PG_FUNCTION_INFO_V1(pgpubsub_ack);
PG_FUNCTION_INFO_V1(pgpubsub_ack_1_1);

/* An ack, and what it has consumed so far. */
typedef struct Ack
{
	Claim	   *claim;
	uint64		seq;
	uint64		consumed;		/* events, over all channels */
	uint64		bytes;
	uint64		last_seq;
} Ack;

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

	if (look_remembered(ack->claim))
		shown = look_count_shown(cursor, ack->seq, number, &last);
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

	if (look_remembered(ack->claim))
	{
		(void) look_count_shown(cursor, ack->seq, last_missing, &upto);
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
 * What ack() does, to the subscription of that name.
 */
static Datum
ack_subscription(FunctionCallInfo fcinfo, const char *name)
{
	Database   *database = reader_database("pgpubsub.ack");
	Subscription *subscription;
	Position   *position;
	Ack			ack = {0};

	reader_check_not_null(fcinfo, 1, "seq");
	reader_note_call();
	ack.claim = reader_claim(database, name, 0, false);
	check_ack_seq(database, PG_GETARG_INT64(1));

	/* the event may be of a relay that was started since the claim was made */
	reader_sync(ack.claim);
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

/*
 * pgpubsub.ack_1_0(subscription name, seq bigint), ack() before version 1.1
 */
Datum
pgpubsub_ack(PG_FUNCTION_ARGS)
{
	return ack_subscription(fcinfo, reader_name(fcinfo));
}

/*
 * pgpubsub.ack(subscription text, seq bigint) RETURNS bigint
 */
Datum
pgpubsub_ack_1_1(PG_FUNCTION_ARGS)
{
	return ack_subscription(fcinfo, reader_text_name(fcinfo));
}

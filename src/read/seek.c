/*-------------------------------------------------------------------------
 *
 * seek.c
 *	  seek(): have a subscription read from another place on.
 *
 * The position moves with the transaction, as ack() moves it: it is committed
 * with it, and rolled back with it or its savepoint.  Nothing that is passed
 * over counts as lost or delivered.  What is missing from the new place on is:
 * the next gap row tells that, and nothing of what was missing elsewhere.  It is
 * part of the position, in this process until commit, and in the log.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/xact.h"
#include "base/debug.h"
#include "log/log.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(pgpubsub_seek);

/* The place that each of the claim's cursors is to have. */
static Placement *
find_places(Claim *claim, const StartAt *start)
{
	Position   *position = &claim->position;
	Placement  *places = palloc(Max(position->ncursors, 1) * sizeof(Placement));

	for (int i = 0; i < position->ncursors; i++)
	{
		places[i].binding = position->cursors[i].binding;
		places[i].channel = position->cursors[i].channel;
	}
	start_at_find(claim->database, start, places, position->ncursors);
	return places;
}

/* The seq of the cursor's next event, if that is below result; else result. */
static uint64
next_of_channel(Database *database, LogReader *reader, Cursor *cursor,
				uint64 result)
{
	Channel    *channel = &database->channels[cursor->channel];
	RingRecord	record;
	LogEvent	event;
	uint64		newest;
	uint64		number = cursor->number;
	RingPos		pos = cursor->pos;

	if (channel->is_pattern)
		return result;
	while (ring_next(database->ring, cursor->channel, number, pos, &record,
					 &newest) == RING_FOUND)
	{
		CHECK_FOR_INTERRUPTS();
		if (!record.in_log || record.seq > cursor->seq)
		{
			result = Min(result, record.seq);
			break;
		}

		/* a poll passes over it, too */
		number = record.number;
		pos = record.pos;
	}
	if (pg_atomic_read_u32(&database->log.active) != 0 &&
		cursor->seq < result - 1 &&
		log_reader_next(reader, log_reader_channel(reader, channel->name),
						cursor->seq, result - 1, &event))
		result = event.seq;
	return result;
}

/* The seq that comes next, from where the claim's cursors are. */
static uint64
next_seq(Claim *claim)
{
	Position   *position = &claim->position;
	uint64		result = ring_newest_seq(claim->database->ring) + 1;
	LogReader  *reader = log_reader_create(claim->database);

	for (int i = 0; i < position->ncursors; i++)
		result = next_of_channel(claim->database, reader,
								 &position->cursors[i], result);
	log_reader_close(reader);
	return result;
}

/*
 * Move the claim's cursors to those places; gap: there may be more missing than
 * they say.  The lock is held, and the claim is valid.
 */
static void
move_cursors(Claim *claim, const Placement *places, bool gap)
{
	Position   *position = &claim->position;

	for (int i = 0; i < position->ncursors; i++)
	{
		Cursor	   *cursor = &position->cursors[i];

		cursor->number = places[i].number;
		cursor->pos = places[i].pos;
		cursor->logged = places[i].logged;
		cursor->seq = places[i].seq;
		cursor->moved = true;

		/* the relay adds nothing while somebody reads */
		cursor->log_lost = pg_atomic_read_u64(&cursor->binding->log_lost) -
			placement_lost(&places[i]);
		cursor->binding->told_lost = 0;
	}
	position->logged = position->sought = true;
	position->gap_sought = gap;
	position->gap_shown = false;
}

/*
 * pgpubsub.seek(subscription text, start_at text) RETURNS bigint
 */
Datum
pgpubsub_seek(PG_FUNCTION_ARGS)
{
	const char *name = reader_text_name(fcinfo);
	Database   *database = reader_database("pgpubsub.seek");
	StartAt		start;
	Placement  *places;
	Claim	   *claim;

	check_not_null(fcinfo, 1, "start_at");
	start_at_parse(text_to_cstring(PG_GETARG_TEXT_PP(1)), &start);
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute pgpubsub.seek() in a read-only transaction"),
				 errhint("Call it in a transaction that may write.")));
	reader_note_call();
	claim = reader_claim(database, name, 0, false);
	start_at_check(database, &start);

	/* what was committed before now is before now */
	if (start.kind == START_NOW)
		reader_wait_for_relay(database, reader_deadline());
	position_sync(claim);
	position_consume(claim);
	if (start.kind != START_NOW)
		reader_hold_log(claim, start.kind == START_SEQ && start.seq > 0 ?
						start.seq - 1 : 0);
	DEBUG_POINT("durable_seeks");
	places = find_places(claim, &start);
	LWLockAcquire(database->lock, LW_SHARED);
	if (reader_claim_valid(claim))
		move_cursors(claim, places,
					 start_at_gone(database, &start, places,
								   claim->position.ncursors));
	LWLockRelease(database->lock);
	pfree(places);
	PG_RETURN_INT64((int64) next_seq(claim));
}

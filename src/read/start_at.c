/*-------------------------------------------------------------------------
 *
 * start_at.c
 *	  Where a subscription starts to read: start_at of subscribe() and seek().
 *
 * A place is now, the oldest event that is to be had, the event with a seq, or
 * the first one since a time.  Events of durable channels are looked for in the
 * log, all others in the ring, which does not know them by time further than
 * its own records.  What was there from the wanted seq on, and is not any more,
 * is a gap.  The log tells how many events it has lost; of what was in the ring
 * alone, nobody knows.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "catalog/pg_type.h"
#include "log/log.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Raise 22023 for what is no place to start at. */
static void
raise_unrecognized(const char *start_at)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized start_at: \"%s\"", start_at),
			 errhint("Give now, oldest, a sequence number or a timestamp.")));
}

/* Parse a timestamp; raises 22023 if it is none. */
static TimestampTz
parse_time(const char *start_at)
{
	MemoryContext context = CurrentMemoryContext;
	volatile TimestampTz result = 0;
	volatile bool good = true;

	/* only what begins with a digit can be a time as meant here */
	if (start_at[0] < '0' || start_at[0] > '9')
		raise_unrecognized(start_at);
	PG_TRY();
	{
		result = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
														 CStringGetDatum(start_at),
														 ObjectIdGetDatum(InvalidOid),
														 Int32GetDatum(-1)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();

		/* what parsing a time says of a bad one is of class 22 */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		FlushErrorState();
		FreeErrorData(error);
		good = false;
	}
	PG_END_TRY();
	if (!good || TIMESTAMP_NOT_FINITE(result))
		raise_unrecognized(start_at);
	return result;
}

/*
 * Parse start_at; raises 22023.
 */
void
start_at_parse(const char *start_at, StartAt *start)
{
	char	   *end;

	memset(start, 0, sizeof(StartAt));
	start->kind = strcmp(start_at, "now") == 0 ? START_NOW :
		strcmp(start_at, "oldest") == 0 ? START_OLDEST : START_SEQ;
	if (start->kind != START_SEQ)
		return;
	errno = 0;
	start->seq = (uint64) strtoll(start_at, &end, 10);
	if (errno == 0 && start_at[0] >= '0' && start_at[0] <= '9' && *end == '\0')
		return;
	start->kind = START_TIME;
	start->time = parse_time(start_at);
}

/*
 * Raise 22023 for an event that does not exist yet.
 */
void
start_at_check(Database *database, const StartAt *start)
{
	uint64		newest = ring_newest_seq(database->ring);

	if (start->kind == START_SEQ && start->seq > newest + 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_at %llu was not given out yet",
						(unsigned long long) start->seq),
				 errdetail("The newest event of this database has seq %llu.",
						   (unsigned long long) newest),
				 errhint("Give now, oldest or the seq of an event.")));
	if (start->kind == START_TIME && start->time > GetCurrentTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("start_at %s is in the future",
						timestamptz_to_str(start->time)),
				 errhint("Give now, or a time that has passed.")));
}

/* Is the record the first that is wanted? */
static bool
is_first(const StartAt *start, const RingRecord *record)
{
	return start->kind == START_OLDEST ||
		(start->kind == START_SEQ && record->seq >= start->seq) ||
		(start->kind == START_TIME && record->time >= start->time);
}

/* Find the place in the ring. */
static void
find_in_ring(Database *database, const StartAt *start, Placement *place)
{
	Ring	   *ring = database->ring;
	Channel    *channel = &database->channels[place->channel];

	place->number = channel->base_number;
	place->pos = channel->base_pos;
	place->logged = 0;
	for (;;)
	{
		RingRecord	record;
		uint64		newest;
		RingNext	found = ring_next(ring, place->channel, place->number,
									  place->pos, &record, &newest);

		CHECK_FOR_INTERRUPTS();
		if (found == RING_UP_TO_DATE)
			return;
		if (found == RING_ALL_GONE)
		{
			ring_counts(ring, place->channel, &place->number,
						&place->logged);
			return;
		}
		place->logged = record.logged - record.in_log;
		if (is_first(start, &record))
		{
			place->number = record.number - 1;
			return;
		}
		place->number = record.number;
		place->logged = record.logged;
		place->pos = record.pos;
	}
}

/*
 * The seq before the first event of the log that is wanted.  The oldest is one
 * that the log keeps: what it has emptied may be in the ring yet, but nothing says
 * so when that goes from there, too.
 */
static uint64
find_in_log(Database *database, const StartAt *start, int channel)
{
	const char *name = database->channels[channel].name;
	uint64		newest = ring_newest_seq(database->ring);
	bool		active = pg_atomic_read_u32(&database->log.active) != 0;
	LogReader  *reader;
	LogEvent	event;
	uint64		seq;

	if (start->kind == START_SEQ)
		return start->seq > 0 ? start->seq - 1 : 0;
	if (!active)
		return start->kind == START_OLDEST ? 0 : newest;
	reader = log_reader_create(database);
	if (start->kind == START_TIME)
		seq = log_reader_since(reader, name, start->time);
	else if (log_reader_next(reader, log_reader_channel(reader, name), 0,
							 newest, &event))
		seq = event.seq - 1;
	else
		seq = newest;
	log_reader_close(reader);
	return Min(seq, newest);
}

/*
 * Set what the log has lost of the channel from the place on; see log_lost().
 * Only a seq asks for what is not there.
 */
static void
find_lost(Database *database, const StartAt *start, Placement *place)
{
	if (start->kind == START_SEQ &&
		pg_atomic_read_u32(&database->log.active) != 0)
		place->lost = log_lost(database,
							   database->channels[place->channel].name,
							   start->seq, &place->was_logged);
}

/*
 * Find the places of the channels, and what is lost there.  The bindings stay,
 * as this session is the reader; no lock is held.
 */
void
start_at_find(Database *database, const StartAt *start, Placement *places,
			  int count)
{
	for (int i = 0; i < count; i++)
	{
		Placement  *place = &places[i];
		Channel    *channel = &database->channels[place->channel];
		uint64		newest;

		place->lost = 0;
		place->was_logged = false;
		if (start->kind == START_NOW || channel->is_pattern)
		{
			place->seq = ring_newest_seq(database->ring);
			ring_counts(database->ring, place->channel, &newest,
						&place->logged);
			place->number = pg_atomic_read_u64(&channel->received);
			place->pos = ring_newest_position(database->ring, place->channel,
											  place->number);
			continue;
		}
		find_in_ring(database, start, place);
		place->seq = find_in_log(database, start, place->channel);
		find_lost(database, start, place);
	}
}

/*
 * May events from the seq on be gone from the ring already, and may they not be
 * in the log?
 */
static bool
is_gone(Database *database, uint64 seq, bool durable)
{
	RingState	state;
	uint64		oldest = durable ? log_oldest_seq(database) : 0;

	if (durable && oldest != 0 && oldest <= seq)
		return false;
	ring_state(database->ring, &state);
	return seq < (state.messages > 0 ? state.oldest.seq :
				  state.newest_seq + 1);
}

/*
 * May some of the channels have had events from the wanted seq on that nobody
 * finds any more, beside those that are known to be lost in their places?  Where
 * the log knows, nothing else was lost, unless the channel was not durable yet.
 * database->lock is held.
 */
bool
start_at_gone(Database *database, const StartAt *start,
			  const Placement *places, int count)
{
	Assert(LWLockHeldByMe(database->lock));
	if (start->kind != START_SEQ)
		return false;
	for (int i = 0; i < count; i++)
	{
		Channel    *channel = &database->channels[places[i].channel];
		uint64		forgotten = channel->is_pattern ?
			database->table.forgotten : channel->forgotten;

		if (places[i].lost == LOG_LOST_UNKNOWN ||
			(places[i].lost == 0 && !places[i].was_logged &&
			 is_gone(database, start->seq, channel->durable)) ||
			(!channel->durable && start->seq <= forgotten))
			return true;
	}
	return false;
}

/*-------------------------------------------------------------------------
 *
 * stat_log.c
 *	  What the views read of the log of durable channels.
 *
 * 1. The row of stat_log is what shared memory knows of a database's log.  Of
 *	  this session's database the size is looked at, too.
 *
 * 2. What a subscription has not read, and the ring has not, is counted by the
 *	  log's notes, in this session's database: of others the log cannot be
 *	  read.  The caller has copied the channels, and holds no lock.
 *
 * 3. A view is looked at when something is wrong: it does not fail because
 *	  somebody has altered the log's relations.  So the log is read in a
 *	  subtransaction, and what is known without it is shown if that fails.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/xact.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

PG_FUNCTION_INFO_V1(pgpubsub_log_stats);

/*
 * In PG_CATCH(): roll the subtransaction back, and raise the error again, but
 * not what relations raise that are not as the extension has made them.
 */
static void
forgive_altered(MemoryContext context, ResourceOwner owner)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error->sqlerrcode != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE &&
		error->sqlerrcode != ERRCODE_DATA_CORRUPTED)
		ReThrowError(error);
	FreeErrorData(error);
}

/*
 * Read what the extension's relations have.  Returns false if that fails since
 * they were altered.  No LWLock is held.
 */
static bool
try_to_read(void (*read) (void *), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		read(arg);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		done = true;
	}
	PG_CATCH();
	{
		forgive_altered(context, owner);
	}
	PG_END_TRY();
	return done;
}

/* Read the rules which channels are durable. */
static void
read_rules(void *arg)
{
	(void) durable_rules_any();
}

/* Can the rules which channels are durable be read?  No LWLock is held. */
bool
stat_log_try_rules(void)
{
	return try_to_read(read_rules, NULL);
}

/* A duration in microseconds as an interval. */
static Interval *
duration(int64 microseconds)
{
	Interval   *result = palloc0(sizeof(Interval));

	result->day = (int32) Min(microseconds / USECS_PER_DAY, PG_INT32_MAX);
	result->time = microseconds % USECS_PER_DAY;
	return result;
}

/*
 * For how long events of the channel are kept; NULL if it is not durable.  By
 * the rules, if they can be read, as this transaction has them; else as the
 * relay knows them: durable, and for so many microseconds.
 */
Interval *
stat_log_retain(const char *channel, bool durable, int64 retain, bool by_rules)
{
	if (by_rules)
		return durable_rules_retain(channel);
	return durable ? duration(retain) : NULL;
}

/* What is to be counted in the log. */
typedef struct LogCount
{
	Database   *database;
	const LoggedChannel *channels;
	int			nchannels;
	uint64		upto;			/* seq */
	Backlog		logged;			/* the result */
	TimestampTz next_at;		/* of the oldest event that comes from there;
								 * 0: none does */
} LogCount;

/* Count what the log has. */
static void
count_log(void *arg)
{
	LogCount   *count = arg;
	LogReader  *reader = log_reader_create(count->database);

	for (int i = 0; i < count->nchannels; i++)
	{
		const LoggedChannel *channel = &count->channels[i];
		TimestampTz oldest_at = 0;
		uint64		events;

		events = log_reader_count(reader, channel->name, channel->seq,
								  count->upto, &count->logged.bytes,
								  &oldest_at);
		if (events == 0)
			continue;
		if (count->logged.pending == 0 || oldest_at < count->logged.oldest_at)
			count->logged.oldest_at = oldest_at;
		if (channel->ring.next_in_log &&
			(count->next_at == 0 || oldest_at < count->next_at))
			count->next_at = oldest_at;
		count->logged.pending += events;
	}
	log_reader_close(reader);
}

/* Add what is pending, in bytes as well. */
static void
add_pending(Backlog *backlog, uint64 pending, uint64 bytes,
			TimestampTz oldest_at)
{
	if (pending == 0)
		return;
	if (backlog->pending == 0 || oldest_at < backlog->oldest_at)
		backlog->oldest_at = oldest_at;
	backlog->pending += pending;
	backlog->bytes += bytes;
}

/*
 * Add to what a subscription has not consumed of other channels what it has not
 * of these: what is in the log up to that seq, and what is in the ring alone;
 * or just what is in the ring, if the log cannot be read.  next_in_log says
 * whether the next event comes from the log.
 */
void
stat_log_add_backlog(Database *database, const LoggedChannel *channels,
					 int nchannels, uint64 upto, Backlog *backlog)
{
	LogCount	count = {
		.database = database,
		.channels = channels,
		.nchannels = nchannels,
		.upto = upto
	};
	TimestampTz next_in_ring = 0;
	bool		read;

	if (nchannels == 0)
		return;
	read = try_to_read(count_log, &count);
	backlog->next_in_log = false;
	for (int i = 0; i < nchannels; i++)
	{
		const Backlog *ring = &channels[i].ring;
		uint64		pending = read ? ring->unlogged : ring->pending;

		/* what the ring has of a channel that is read from it is in the log */
		if (read && !ring->next_in_log && ring->pending > 0 &&
			(next_in_ring == 0 || ring->oldest_at < next_in_ring))
			next_in_ring = ring->oldest_at;
		backlog->next_in_log |= !read && ring->next_in_log;
		/* of payloads that are not in the log about so much */
		if (pending > 0 && ring->pending > 0)
			add_pending(backlog, pending,
						ring->bytes / ring->pending * pending,
						ring->oldest_at);
	}
	if (backlog->pending > 0 &&
		(next_in_ring == 0 || backlog->oldest_at < next_in_ring))
		next_in_ring = backlog->oldest_at;
	if (count.next_at != 0 &&
		(next_in_ring == 0 || count.next_at <= next_in_ring))
		backlog->next_in_log = true;
	if (read)
		add_pending(backlog, count.logged.pending, count.logged.bytes,
					count.logged.oldest_at);
}

/* What stat_log shows of segments. */
typedef struct SegmentsView
{
	uint64		bytes;
	int			used;
	uint64		newest_seq;
	TimestampTz oldest_at;		/* 0: there is no event */
} SegmentsView;

/* Look how large the segments are; arg is an array of their bytes. */
static void
measure_segments(void *arg)
{
	uint64	   *bytes = arg;
	uint64		rows;

	for (int i = 0; i < LOG_SEGMENTS; i++)
		bytes[i] = log_segment_bytes(i, &rows);
}

/* Find out what is known of the segments. */
static void
view_segments(Database *database, bool own, SegmentsView *view)
{
	DatabaseLog *log = &database->log;
	uint64		bytes[LOG_SEGMENTS] = {0};

	memset(view, 0, sizeof(SegmentsView));
	if (own)
		(void) try_to_read(measure_segments, bytes);
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		LogSegment *segment = &log->segments[i];
		uint64		last_seq = pg_atomic_read_u64(&segment->last_seq);
		TimestampTz first_at =
		(TimestampTz) pg_atomic_read_u64(&segment->first_at);

		/* one that is just being emptied is not looked at */
		view->bytes += bytes[i] > 0 ? bytes[i] :
			pg_atomic_read_u64(&segment->bytes);
		if (last_seq != 0 || i == log_current(database))
			view->used++;
		if (last_seq == 0)
			continue;
		view->newest_seq = Max(view->newest_seq, last_seq);
		if (first_at != 0 &&
			(view->oldest_at == 0 || first_at < view->oldest_at))
			view->oldest_at = first_at;
	}
}

/* The row of stat_log for the database. */
static void
put_log(FunctionCallInfo fcinfo, Database *database, Oid oid)
{
	ViewRow		row = {.column = 0};
	SegmentsView segments;
	uint64		oldest_seq = log_oldest_seq(database);
	char		held_by[NAMEDATALEN];

	view_segments(database, oid == MyDatabaseId, &segments);
	LWLockAcquire(database->lock, LW_SHARED);
	strlcpy(held_by, database->log.held_by, NAMEDATALEN);
	LWLockRelease(database->lock);

	view_add(&row, ObjectIdGetDatum(oid));
	view_add_int64(&row, (uint64) pgpubsub_log_size * 1024);
	view_add_int64(&row, segments.bytes);
	view_add(&row, Int32GetDatum(segments.used));
	view_add_if(&row, oldest_seq != 0, Int64GetDatum((int64) oldest_seq));
	view_add_if(&row, segments.newest_seq != 0,
				Int64GetDatum((int64) segments.newest_seq));
	view_add_if(&row, segments.oldest_at != 0,
				TimestampTzGetDatum(segments.oldest_at));
	view_add_int64(&row, pg_atomic_read_u64(&database->log.appended));
	view_add_int64(&row, pg_atomic_read_u64(&database->log.appended_bytes));
	view_add_int64(&row, pg_atomic_read_u64(&database->log.read_back));
	view_add_int64(&row, pg_atomic_read_u64(&database->log.rotations));
	if (held_by[0] != '\0')
		view_add_name(&row, held_by, shown_name_encoding(oid));
	else
		view_add_if(&row, false, (Datum) 0);
	view_add_int64(&row, pg_atomic_read_u64(&database->log.full_count));
	view_put(fcinfo, &row);
}

/* pgpubsub.log_stats() RETURNS SETOF record: the rows of stat_log */
Datum
pgpubsub_log_stats(PG_FUNCTION_ARGS)
{
	Database   *database;
	DatabaseView view = {0};

	InitMaterializedSRF(fcinfo, 0);
	while ((database = view_next_database(&view)) != NULL)
		put_log(fcinfo, database, view.oid);
	return (Datum) 0;
}

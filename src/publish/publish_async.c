/*-------------------------------------------------------------------------
 *
 * publish_async.c
 *	  Events that go through the staging queue.
 *
 * 1. Until commit, events wait in the backend's memory; see pending_events.c.
 *
 * 2. Before commit, while it may still wait or fail, the transaction takes
 *	  the next place in the staging queue and copies its events there.  The
 *	  end of the transaction marks the place, which is one write.
 *
 * 3. Where that is not possible, the events are published as NOTIFYs of this
 *	  transaction after all.  The reasons are:
 *	  - there is no relay;
 *	  - the events are more than the queue can hold;
 *	  - there is no room although all that was staged before has been
 *		notified;
 *	  - there is no room, and this session has consumed something, so that it
 *		must not wait.
 *	  In each case but the last, what was staged before is notified first, so
 *	  that events stay in order.
 *	  While it is the ring that is full, and somebody reads the events, the
 *	  transaction waits instead: a relay that stops would lose them.  It does
 *	  not wait for long for transactions that have a place and do not come to
 *	  their end, for want of a synchronous standby, say.
 *
 * 4. Transactions that wait for room stand in a queue, so that a large one has
 *	  its turn although small ones keep coming.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "access/xact.h"
#include "registry/holders.h"

/*
 * How long transactions that do not come to their end may hold a full staging
 * queue, from when the first of them took its place, before others stop waiting
 * for them, even if one holder follows another.
 */
#define PATIENCE_MS	1000

/* The async events of this transaction. */
typedef struct AsyncTransaction
{
	PendingEvents events;

	/* where it publishes: the database's slot, as it was found */
	Database   *database;
	uint32		generation;

	StagedTransaction *place;	/* in the staging queue; NULL: none */
	bool		in_queue;		/* it stands in the queue for room */
	bool		settled;		/* the events are staged, or about to be
								 * published: later ones are published at once */
	bool		counted_unstaged;	/* it is counted in unstaged.begun */
} AsyncTransaction;

/* All zero between transactions. */
static AsyncTransaction async;

/* Is the database to have no relay, so that nobody takes staged events? */
static bool
left_out(Database *my_database)
{
	return pg_atomic_read_u32(&my_database->relay.unavailable) == RELAY_LEFT_OUT;
}

/*
 * Is there a relay to stage events for?  One that is about to be started
 * counts, so that nothing is lost while it restarts.  If none can be started,
 * events are staged only while others are: NOTIFYs would overtake those.
 */
static bool
relay_expected(Database *my_database)
{
	if (left_out(my_database))
		return false;
	return pg_atomic_read_u32(&my_database->relay.state) != RELAY_STOPPED ||
		(pg_atomic_read_u32(&my_database->relay.loaded) != 0 &&
		 pg_atomic_read_u32(&my_database->relay.unavailable) == RELAY_AVAILABLE) ||
		!staging_idle(my_database->staging);
}

/*
 * Count the transaction among those whose events go by NOTIFY: the relay is to
 * read them before what is staged after them.
 */
static void
note_unstaged(void)
{
	if (!async.counted_unstaged)
		pg_atomic_fetch_add_u64(&async.database->unstaged.begun, 1);
	async.counted_unstaged = true;
}

/*
 * Add an event to those that are staged at commit.  my_database is what
 * registry_my_database() has just returned; the other arguments are those of
 * publish_event().  Returns false if it is too late, or there is no relay: then
 * the caller publishes the event at once.
 */
bool
async_add(Database *my_database, const char *channel, const char *id,
		  const char *payload, Size len, const char *native)
{
	if (async.database == NULL)
	{
		async.database = my_database;
		async.generation = registry_my_generation();
	}
	if (async.settled ||
		(async.events.first_chunk == NULL && !relay_expected(my_database)))
	{
		note_unstaged();
		return false;
	}
	pending_add(&async.events, channel, id, payload, len, native);
	return true;
}

/*
 * Is it in vain to wait for the relay?  It is if the slot is no longer this
 * database's, or the relay is gone because the database is to have none.
 */
static bool
nobody_comes(void)
{
	return pg_atomic_read_u32(&async.database->generation) != async.generation ||
		(left_out(async.database) &&
		 pg_atomic_read_u32(&async.database->relay.state) == RELAY_STOPPED);
}

/*
 * Wait until all that was committed before is notified.  When the transaction's
 * budget for waiting is used up, raises 53400 or, in a worker of logical
 * replication, returns.
 */
static void
wait_until_notified(void)
{
	uint64		pass = staging_next_pass(async.database->staging);
	TimestampTz start = room_begin_staging(async.database->staging);

	while (!staging_pass_done(async.database->staging, pass) &&
		   !staging_idle(async.database->staging) && !nobody_comes() &&
		   room_sleep_staging(async.database, async.database->staging,
							  start, LONG_MAX))
		 /* look again */ ;
	room_end_wait(start);
}

/* The first channel among the events' that a subscription reads, or NULL. */
static const char *
find_bound_channel(void)
{
	const char *result = NULL;
	const char *last = NULL;

	LWLockAcquire(async.database->lock, LW_SHARED);
	for (Chunk *chunk = async.events.first_chunk; chunk && !result;
		 chunk = chunk->next)
	{
		Size		pos = 0;

		while (pos < chunk->used && !result)
		{
			StagedEvent *event = (StagedEvent *) (chunk->data + pos);
			const char *channel = staged_event_channel(event);

			if ((!last || strcmp(last, channel) != 0) &&
				registry_find_bound_channel(async.database, channel) >= 0)
				result = channel;
			last = channel;
			pos += event->length;
		}
	}
	LWLockRelease(async.database->lock);
	return result;
}

/*
 * How long to wait yet for transactions that hold the queue, in ms.  *held_since
 * is since when the queue has been found held; 0: it was not held last time.
 */
static long
patience_left(TimestampTz *held_since)
{
	long		patience = Min(PATIENCE_MS, pgpubsub_publish_timeout / 2);
	TimestampTz since = staging_blocked_since(async.database->staging);

	if (since == 0)
		*held_since = 0;
	else if (*held_since == 0 || since < *held_since)
		*held_since = since;
	if (*held_since == 0)
		return patience;
	return patience - TimestampDifferenceMilliseconds(*held_since,
													  GetCurrentTimestamp());
}

/*
 * Wait for room in the staging queue, where there is none although all that was
 * committed before is notified.  Returns false without waiting if there is no
 * patience left (in ms), or nobody reads what is to be staged; and also if a
 * worker of logical replication has used up its budget.  *start is when the wait
 * for the staging queue began.  Raises 53400.
 */
static bool
wait_for_place(TimestampTz *start, long patience)
{
	const char *channel;
	bool		room;

	if (patience <= 0)
		return false;
	channel = find_bound_channel();
	if (channel == NULL)
		return false;
	if (pg_atomic_read_u32(&async.database->relay.state) != RELAY_FULL)
		return room_sleep_staging(async.database, async.database->staging,
								  *start, patience);

	/* the relay waits for room in the ring, so wait for that first */
	room_end_wait(*start);
	room = room_wait(async.database, channel);
	*start = room_begin_staging(async.database->staging);
	return room;
}

/* Leave the queue for room, if this transaction stands in it.  Cannot fail. */
static void
leave_queue(void)
{
	if (async.in_queue)
		staging_leave_queue(async.database->staging);
	async.in_queue = false;
}

/* Take a place if it is this transaction's turn and there is room. */
static bool
take_queued_place(void)
{
	async.place = staging_reserve_queued(async.database->staging,
										 async.events.end.nevents, async.generation,
										 GetCurrentTimestamp());
	if (async.place)
		async.in_queue = false;
	return async.place != NULL;
}

/*
 * Wait for a place, standing in the queue for room.  Returns without one if
 * waiting on would be in vain.  Raises 53400.
 */
static void
wait_in_queue(void)
{
	uint64		pass = staging_next_pass(async.database->staging);
	TimestampTz start = room_begin_staging(async.database->staging);
	TimestampTz held_since = 0;

	while (!take_queued_place() && !nobody_comes())
	{
		long		patience = patience_left(&held_since);

		if (staging_pass_done(async.database->staging, pass) ?
			!wait_for_place(&start, patience) :
			!room_sleep_staging(async.database, async.database->staging,
								start, LONG_MAX))
			break;
	}
	room_end_wait(start);
}

/*
 * Take a place.  Returns false if there is no room, and this session must not
 * wait or waiting would be in vain.  Raises 53400.
 */
static bool
reserve_place(void)
{
	async.place = staging_reserve(async.database->staging, async.events.end.bytes,
								  async.events.end.nevents, async.generation,
								  GetCurrentTimestamp());
	if (async.place)
		return true;

	/* who must not wait may still find that it is his turn */
	staging_queue_up(async.database->staging, async.events.end.bytes);
	async.in_queue = true;
	if (transaction_may_be_awaited())
		(void) take_queued_place();
	else
		wait_in_queue();
	leave_queue();
	return async.place != NULL;
}

/*
 * Stage the events.  Returns false if they have to be published by NOTIFY
 * instead.  May wait, and raises 53400.
 */
static bool
stage(void)
{
	const char *channel;

	if (pg_atomic_read_u32(&async.database->generation) != async.generation)
		return false;
	if (pg_atomic_read_u32(&async.database->relay.state) == RELAY_FULL)
	{
		if (transaction_may_be_awaited())
			return false;
		channel = find_bound_channel();
		if (channel)
			(void) room_wait(async.database, channel);
	}
	if (!relay_expected(async.database))
		return false;
	if (async.events.end.bytes > staging_max_transaction(async.database->staging))
	{
		if (!transaction_may_be_awaited())
			wait_until_notified();
		return false;
	}
	if (!reserve_place())
		return false;

	/*
	 * Who ends a relay for good marks the database as left out first; then
	 * the relay looks whether any place is taken, and if so takes the events.
	 * We look for that mark once our place is taken.  So either the relay
	 * sees our place or we see the mark.  Were the mark read earlier, both
	 * could miss the other, and nobody would take the events.
	 */
	pg_memory_barrier();
	if (left_out(async.database))
	{
		staging_mark(async.place, false);
		async.place = NULL;
		return false;
	}
	pending_copy(&async.events, staging_data(async.place));
	registry_prepare_to_wake();
	return true;
}

/*
 * Before commit: stage the events.  Those that cannot be staged the caller gets
 * from async_next_unstaged(), and publishes at once.  May wait, and raises
 * 53400.
 */
void
async_pre_commit(void)
{
	if (async.events.end.nevents > 0 && !stage())
		note_unstaged();
	async.settled = true;
}

/*
 * The next event that could not be staged, valid until the next call; NULL if
 * there are no more.  Memory is freed on the way: core copies what is
 * published, and a large transaction should not be in memory twice.
 */
StagedEvent *
async_next_unstaged(void)
{
	return async.place ? NULL : pending_shift(&async.events);
}

/* Has this transaction events of async mode? */
bool
async_any(void)
{
	return async.events.end.nevents > 0;
}

/* The top transaction has ended.  Cannot fail. */
void
async_at_end(bool commit)
{
	leave_queue();
	if (async.place)
	{
		staging_mark(async.place, commit);
		if (!commit ||
			!commit_append(async.database, async.generation, async.place))
			registry_wake(&async.database->relay.procno);
	}
	if (async.counted_unstaged)
		pg_atomic_fetch_add_u64(&async.database->unstaged.ended, 1);
	memset(&async, 0, sizeof(async));
}

/* The subtransaction of that level has committed.  Cannot fail. */
void
async_at_subcommit(int level)
{
	pending_at_subcommit(&async.events, level);
}

/* The subtransaction of that level was rolled back.  Cannot fail. */
void
async_at_subabort(int level)
{
	pending_at_subabort(&async.events, level);
}

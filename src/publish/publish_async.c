/*-------------------------------------------------------------------------
 *
 * publish_async.c
 *	  Events that go through the staging queue.
 *
 * 1. Until commit, events wait in the backend's memory, in chunks, just as
 *	  they will lie in the staging queue.  A rollback to a savepoint cuts off
 *	  what came after it.
 *
 * 2. Before commit, while it may still wait or fail, the transaction takes
 *	  the next place in the staging queue and copies its events there.  The
 *	  end of the transaction marks the place; that is one write.
 *
 * 3. Where that cannot be done, the events are published as NOTIFYs of this
 *	  transaction after all: there is no relay, or more than the queue can
 *	  hold, or no room while all that was staged before has been notified, or
 *	  this session has consumed something and must not wait.  In each case but
 *	  the last what was staged before is notified first, so that the order
 *	  stands.
 *	  While it is only the queue that is full, and somebody reads the events,
 *	  the transaction waits instead: a relay that stops would lose them.  It
 *	  does not wait for long for transactions that have a place and do not
 *	  come to their end, for want of a synchronous standby, say.
 *
 * 4. Those who wait for room queue up for it, so that a large transaction has
 *	  its turn although small ones keep coming.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_async.h"

#include "access/xact.h"
#include "base/nesting.h"
#include "publish/commit_append.h"
#include "publish/wait_for_room.h"
#include "registry/holders.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/*
 * Bytes of the first chunk, which should not cost a small transaction more
 * than what its memory context has anyway, and of the last of those that
 * follow, each with twice the bytes of the one before.
 */
#define FIRST_CHUNK_SIZE	1024
#define LAST_CHUNK_SIZE		(512 * 1024)

/*
 * Bytes of each chunk after these.  What the C library has from the system
 * piece by piece it often cannot give back, and the session would keep the
 * memory of its largest transaction.  From this size on every chunk is a
 * mapping of its own: malloc() of glibc raises the limit for these up to 32 MB,
 * as others free such memory, and no further.  Pages that are not used cost
 * nothing.
 */
#define MAPPED_CHUNK_SIZE	(33 * 1024 * 1024)

/*
 * How long a full staging queue may be held by transactions that do not come
 * to their end, from when the first of them took its place, before the others
 * stop waiting for it.  It is of no matter for what they wait meanwhile, nor
 * whether one such transaction follows the other.
 */
#define PATIENCE_MS	1000

typedef struct Chunk
{
	struct Chunk *prev;
	struct Chunk *next;
	Size		size;
	Size		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Chunk;

/* Where the events end. */
typedef struct End
{
	Chunk	   *chunk;
	Size		used;			/* bytes of that chunk */
	Size		bytes;			/* in all chunks */
	uint32		nevents;
} End;

/* Where they ended when a subtransaction added its first. */
typedef struct SavedEnd
{
	int			level;
	End			end;
	struct SavedEnd *upper;
} SavedEnd;

/* All in TopTransactionContext. */
static Chunk *first_chunk = NULL;
static End	end;
static SavedEnd *saved_ends = NULL;

/* The database slot, and this transaction's place in its queue. */
static Database *database = NULL;
static uint32 database_generation;
static StagedTransaction *place = NULL;

/* This transaction is in the queue for room. */
static bool queued = false;

/* Since when the queue has been found held by others' places; 0: it is not. */
static TimestampTz held_since = 0;

/* The events are staged or published: later ones are published at once. */
static bool closed = false;

/* This transaction is counted in UnstagedTransactions.begun. */
static bool unstaged = false;

/* Is the database left out, so that its relay takes nothing more? */
static bool
left_out(Database *my_database)
{
	return pg_atomic_read_u32(&my_database->relay.unavailable) == RELAY_LEFT_OUT;
}

/*
 * Is there a relay to stage events for?  One that is about to be started
 * counts, so that its restart loses nothing.  With none to be had, events
 * are staged only behind others, for the order's sake.
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

/* Remember where the events ended before this subtransaction. */
static void
save_end(void)
{
	SavedEnd   *saved;

	if (!nesting_needs_copy(1, saved_ends ? saved_ends->level : 0))
		return;
	saved = MemoryContextAlloc(TopTransactionContext, sizeof(SavedEnd));
	saved->level = GetCurrentTransactionNestLevel();
	saved->end = end;
	saved->upper = saved_ends;
	saved_ends = saved;
}

/* Forget the innermost of those. */
static void
drop_saved_end(void)
{
	SavedEnd   *saved = saved_ends;

	saved_ends = saved->upper;
	pfree(saved);
}

/* Bytes of the chunk that follows, for an event of so many bytes. */
static Size
next_chunk_size(Size length)
{
	Size		size;

	if (end.chunk == NULL)
		size = FIRST_CHUNK_SIZE;
	else if (end.chunk->size < LAST_CHUNK_SIZE)
		size = 2 * end.chunk->size;
	else
		size = MAPPED_CHUNK_SIZE;
	return Max(size, length);
}

/* Room for an event of so many bytes. */
static StagedEvent *
make_room(Size length)
{
	Chunk	   *chunk = end.chunk;

	if (chunk == NULL || chunk->size - chunk->used < length)
	{
		Size		size = next_chunk_size(length);

		chunk = MemoryContextAllocHuge(TopTransactionContext,
									   offsetof(Chunk, data) + size);
		chunk->size = size;
		chunk->used = 0;
		chunk->prev = end.chunk;
		chunk->next = NULL;
		if (end.chunk)
			end.chunk->next = chunk;
		else
			first_chunk = chunk;
		end.chunk = chunk;
	}
	return (StagedEvent *) (chunk->data + chunk->used);
}

/* This transaction publishes in that slot. */
static void
use_database(Database *my_database)
{
	if (database != NULL)
		return;
	database = my_database;
	database_generation = registry_my_generation();
}

/*
 * Events go by NOTIFY: the relay is to read them before what is staged after
 * them.
 */
static void
note_unstaged(void)
{
	if (!unstaged)
		pg_atomic_fetch_add_u64(&database->unstaged.begun, 1);
	unstaged = true;
}

/*
 * Add an event to those that are staged at commit, in the slot that
 * registry_my_database() has just returned.  The other arguments are as for
 * publish_event().  Returns false if it is too late for that, or the relay
 * cannot be had: publish it at once then.
 */
bool
async_add(Database *my_database, const char *channel, const char *id,
		  const char *payload, Size len, const char *native)
{
	Size		length = staged_event_length(strlen(channel), strlen(id), len,
											 native ? strlen(native) : 0);
	StagedEvent *event;

	if (closed || (first_chunk == NULL && !relay_expected(my_database)))
	{
		use_database(my_database);
		note_unstaged();
		return false;
	}
	save_end();
	event = make_room(length);
	staged_event_write(event, channel, id, payload, len, native);
	end.chunk->used += length;
	end.used = end.chunk->used;
	end.bytes += length;
	end.nevents++;
	use_database(my_database);
	return true;
}

/* Copy the events to the place that was taken. */
static void
copy_events(void)
{
	char	   *p = staging_data(place);

	for (Chunk *chunk = first_chunk; chunk; chunk = chunk->next)
	{
		memcpy(p, chunk->data, chunk->used);
		p += chunk->used;
	}
}

/*
 * Is it in vain to wait for the relay: is the slot no longer this database's,
 * or the relay gone because the database is left out?
 */
static bool
nobody_comes(void)
{
	return pg_atomic_read_u32(&database->generation) != database_generation ||
		(left_out(database) &&
		 pg_atomic_read_u32(&database->relay.state) == RELAY_STOPPED);
}

/*
 * Wait until all that was committed before is notified.  At the end of the
 * transaction's budget it raises 53400, or ends in a worker of logical
 * replication.
 */
static void
wait_until_notified(void)
{
	uint64		pass = staging_next_pass(database->staging);
	TimestampTz start = room_begin_staging(database);

	while (!staging_pass_done(database->staging, pass) &&
		   !staging_idle(database->staging) && !nobody_comes())
	{
		if (!room_sleep_staging(database, start, LONG_MAX))
			break;
	}
	room_end_staging(start);
}

/* The first channel of the events that somebody reads, or NULL. */
static const char *
find_bound_channel(void)
{
	const char *result = NULL;
	const char *last = NULL;

	LWLockAcquire(database->lock, LW_SHARED);
	for (Chunk *chunk = first_chunk; chunk && !result; chunk = chunk->next)
	{
		Size		pos = 0;

		while (pos < chunk->used && !result)
		{
			StagedEvent *event = (StagedEvent *) (chunk->data + pos);
			const char *channel = staged_event_channel(event);

			pos += event->length;
			if (last && strcmp(last, channel) == 0)
				continue;
			last = channel;
			if (registry_find_bound_channel(database, channel) >= 0)
				result = channel;
		}
	}
	LWLockRelease(database->lock);
	return result;
}

/*
 * How long to wait yet for transactions that hold the queue, in ms.
 */
static long
patience_left(void)
{
	long		patience = Min(PATIENCE_MS, pgpubsub_publish_timeout / 2);
	TimestampTz since = staging_blocked_since(database->staging);

	if (since == 0)
		held_since = 0;
	else if (held_since == 0 || since < held_since)
		held_since = since;
	if (held_since == 0)
		return patience;
	return patience - TimestampDifferenceMilliseconds(held_since,
													  GetCurrentTimestamp());
}

/*
 * There is no room in the staging queue although all that was committed
 * before is notified.  Waits, if it may be expected to come free and somebody
 * reads what is to be staged; else returns false.
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
	if (pg_atomic_read_u32(&database->relay.state) != RELAY_FULL)
		return room_sleep_staging(database, *start, patience);

	/* what holds the queue holds this one too */
	room_end_staging(*start);
	room = room_wait(database, channel);
	*start = room_begin_staging(database);
	return room;
}

/* Leave the queue for room, if this transaction is in it.  Cannot fail. */
static void
leave_queue(void)
{
	if (queued)
		staging_leave_queue(database->staging);
	queued = false;
}

/* Take a place, if it is this transaction's turn and there is room. */
static bool
take_queued_place(void)
{
	place = staging_reserve_queued(database->staging, end.nevents,
								   database_generation,
								   GetCurrentTimestamp());
	if (place)
		queued = false;
	return place != NULL;
}

/*
 * Wait for a place, in the queue.  Returns without one if waiting for it would
 * be in vain.
 */
static void
wait_in_queue(void)
{
	uint64		pass = staging_next_pass(database->staging);
	TimestampTz start = room_begin_staging(database);

	held_since = 0;
	while (!take_queued_place() && !nobody_comes())
	{
		long		patience = patience_left();

		if (staging_pass_done(database->staging, pass) ?
			!wait_for_place(&start, patience) :
			!room_sleep_staging(database, start, LONG_MAX))
			break;
	}
	room_end_staging(start);
}

/*
 * Take a place.  Returns false if there is no room, and waiting for it would
 * be in vain, or this session must not wait.
 */
static bool
reserve_place(void)
{
	place = staging_reserve(database->staging, end.bytes, end.nevents,
							database_generation, GetCurrentTimestamp());
	if (place)
		return true;

	/* whoever must not wait may still have his turn at once */
	staging_queue_up(database->staging, end.bytes);
	queued = true;
	if (transaction_may_be_awaited)
		(void) take_queued_place();
	else
		wait_in_queue();
	leave_queue();
	return place != NULL;
}

/* Stage the events.  Returns false if they have to be published at once. */
static bool
stage(void)
{
	const char *channel;

	if (pg_atomic_read_u32(&database->generation) != database_generation)
		return false;
	if (pg_atomic_read_u32(&database->relay.state) == RELAY_FULL)
	{
		if (transaction_may_be_awaited)
			return false;
		channel = find_bound_channel();
		if (channel)
			(void) room_wait(database, channel);
	}
	if (!relay_expected(database))
		return false;
	if (end.bytes > staging_max_transaction(database->staging))
	{
		if (!transaction_may_be_awaited)
			wait_until_notified();
		return false;
	}
	if (!reserve_place())
		return false;

	/*
	 * A relay that leaves for good looks for places after it was told to, and
	 * we look whether it was after we have one: either sees the other.
	 */
	pg_memory_barrier();
	if (left_out(database))
	{
		staging_mark(place, false);
		place = NULL;
		return false;
	}
	copy_events();
	registry_prepare_to_wake();
	return true;
}

/*
 * Before commit: stage the events, or publish them by publish_now.  May wait
 * and may raise 53400.
 */
void
async_pre_commit(PublishNow publish_now)
{
	bool		any = end.nevents > 0;

	if (any && !stage())
	{
		note_unstaged();

		/* core copies what it is given: do not hold a large one twice */
		while (first_chunk)
		{
			Chunk	   *chunk = first_chunk;

			for (Size pos = 0; pos < chunk->used;)
			{
				StagedEvent *event = (StagedEvent *) (chunk->data + pos);

				pos += event->length;
				publish_now(staged_event_channel(event),
							staged_event_id(event),
							staged_event_payload(event), event->payload_len,
							staged_event_native(event));
			}
			first_chunk = chunk->next;
			pfree(chunk);
		}
		end.chunk = NULL;
	}
	closed = true;
}

/*
 * Has this transaction events that are not staged or published yet?
 */
bool
async_any(void)
{
	return end.nevents > 0;
}

/*
 * The top transaction has ended.  Cannot fail.
 */
void
async_at_end(bool commit)
{
	leave_queue();
	if (place)
	{
		staging_mark(place, commit);
		if (!commit || !commit_append(database, database_generation, place))
			registry_wake(&database->relay.procno);
	}
	if (unstaged)
		pg_atomic_fetch_add_u64(&database->unstaged.ended, 1);
	unstaged = false;
	place = NULL;
	database = NULL;
	first_chunk = NULL;
	saved_ends = NULL;
	memset(&end, 0, sizeof(end));
	closed = false;
}

/* A subtransaction has ended well: its events are its parent's. */
void
async_at_subcommit(int level)
{
	if (saved_ends == NULL || saved_ends->level < level)
		return;
	if (nesting_parent_needs_copy(1, saved_ends->upper ?
								  saved_ends->upper->level : 0, level))
		saved_ends->level = level - 1;
	else
		drop_saved_end();
}

/* A subtransaction was rolled back: cut off its events. */
void
async_at_subabort(int level)
{
	while (saved_ends && saved_ends->level >= level)
	{
		Chunk	   *chunk = end.chunk;

		end = saved_ends->end;
		drop_saved_end();
		while (chunk != end.chunk)
		{
			Chunk	   *prev = chunk->prev;

			pfree(chunk);
			chunk = prev;
		}
		if (end.chunk == NULL)
			first_chunk = NULL;
		else
		{
			end.chunk->used = end.used;
			end.chunk->next = NULL;
		}
	}
}

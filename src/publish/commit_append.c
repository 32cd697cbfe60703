/*-------------------------------------------------------------------------
 *
 * commit_append.c
 *	  Appending to the ring at commit, without the relay.
 *
 * To have a staged event appended by the relay costs a wake-up of that, on the
 * event's way to its reader.  Where the relay sleeps and has nothing to do, the
 * transaction that ends does itself what the relay would do next: it takes its
 * own place, appends the events, moves both marks, and wakes the readers.
 *
 * 1. Ring and staging queue have one writer at a time: who has the turn.  The
 *	  relay gives it up only when it goes to sleep and all that it knows of is
 *	  taken, appended and notified; so it need not know what was done meanwhile.
 *	  When it wakes it takes the turn again, for which it waits no longer than
 *	  one transaction's events take.
 *
 * 2. A transaction that finds the turn taken, or for any reason cannot append,
 *	  wakes the relay.  Its place was marked before it looked, and the relay looks
 *	  at the places after it has taken the turn.
 *
 * 3. It appends only if nothing else is to be done before: no place before its
 *	  own is pending or to be taken, no earlier transaction that was not staged
 *	  is still to be read, and there is room.  And only where it is cheap: it
 *	  leaves to the relay what is long, what many readers wait for, and what
 *	  native listeners are to get.  The relay is woken to warn of a queue that
 *	  fills up.
 *
 * 4. While many sessions publish it leaves all to the relay, which does it for
 *	  many transactions at a time; see relay_pace.c.
 *
 * Nothing here raises an error: the transaction has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/commit_append.h"

#include "base/debug.h"
#include "miscadmin.h"
#include "storage/s_lock.h"
#include "utils/timestamp.h"

/* What a transaction appends itself, at most; bytes of records. */
#define MOST_EVENTS		16
#define MOST_BYTES		(8 * 1024)

/* Bindings whose readers it wakes, at most. */
#define MOST_WAITING	2

/* The relay tries so often to take the turn, then after so many us each. */
#define SPINS			100
#define TURN_SLEEP_US	1000

/* How long changes of the publishing session are counted, in ms. */
#define WINDOW_MS		10

/*
 * So many changes in a millisecond are a load: the relay, which pauses for that
 * time then, has several transactions in each round.
 */
#define BUSY_PER_MS		2

/* Take the turn if it is free. */
static bool
take_free_turn(Database *database, Turn turn)
{
	uint32		expected = TURN_FREE;

	return pg_atomic_compare_exchange_u32(&database->turn.holder, &expected, turn);
}

/*
 * The relay goes to sleep, and has nothing to do.
 */
void
commit_append_give_turn(Database *database)
{
	/* what it has written is there before; its latch is looked at after */
	pg_memory_barrier();
	pg_atomic_write_u32(&database->turn.holder, TURN_FREE);
	pg_memory_barrier();
}

/*
 * The relay is awake, or exits: take the turn, unless it has it.
 */
void
commit_append_take_turn(Database *database)
{
	int			spins = 0;

	if (pg_atomic_read_u32(&database->turn.holder) == TURN_RELAY)
		return;

	/* no spinlock: one that is long not scheduled must not end the server */
	while (!take_free_turn(database, TURN_RELAY))
	{
		if (spins++ < SPINS)
			SPIN_DELAY();
		else
			pg_usleep(TURN_SLEEP_US);
	}
}

/*
 * Count a transaction of that session, which is taken.  The turn must be had.
 */
void
commit_append_count(Database *database, int pid)
{
	if (database->turn.window_pid != pid)
		database->turn.window_changes++;
	database->turn.window_pid = pid;
}

/* Do many sessions publish at that time?  The turn must be had. */
static bool
many_publish(Database *database, TimestampTz now)
{
	int64		ms = (now - database->turn.window_start) / 1000;

	if (ms >= WINDOW_MS || ms < 0)
	{
		database->turn.window_busy =
			database->turn.window_changes >= ms * BUSY_PER_MS;
		database->turn.window_start = now;
		database->turn.window_changes = 0;
	}
	return database->turn.window_busy;
}

/*
 * Find the channels that the events go to; *bytes is what their records take.
 * Returns false if that is too much, or too many wait for them.
 * database->lock must be held.
 */
static bool
find_channels(Database *database, const StagedView *view, Size *bytes)
{
	StagedEvent *event = view->events;
	uint32		waiting = 0;
	int			last = -1;

	*bytes = 0;
	for (uint32 i = 0; i < view->nevents; i++)
	{
		int			slot = registry_find_bound_channel(database,
													   staged_event_channel(event));

		event->slot = slot;
		if (slot >= 0)
			*bytes += ring_record_size(event->payload_len);
		if (slot >= 0 && slot != last)
			waiting += pg_atomic_read_u32(&database->channels[slot].nwaiters);
		last = slot;
		event = staged_event_next(event);
	}
	return waiting <= MOST_WAITING && *bytes <= MOST_BYTES;
}

/* Is there room for so many bytes of records, without anybody to be evicted? */
static bool
have_room(Ring *ring, Size bytes)
{
	uint64		number;

	return ring_make_room(ring, bytes, &number) < 0;
}

/* Is there somebody to be warned of, by the relay? */
static bool
is_half_held(Ring *ring)
{
	RingRecord	record;

	while (ring_peek_half(ring, &record))
	{
		if (record.number > ring_hold(ring, record.channel))
			return true;
		(void) ring_next_half(ring, &record);
	}
	return false;
}

/* Append the events to their channels, which are listed in slots. */
static int
append_events(Database *database, const StagedView *view, TimestampTz now,
			  int *slots)
{
	StagedEvent *event = view->events;
	int			nslots = 0;

	for (uint32 i = 0; i < view->nevents; i++)
	{
		int			slot = event->slot;

		if (slot >= 0)
		{
			pg_atomic_fetch_add_u64(&database->channels[slot].received, 1);
			(void) ring_append(database->ring, slot, view->pid, now,
							   staged_event_payload(event),
							   event->payload_len);
			registry_count_published(database, event->payload_len);
			if (nslots == 0 || slots[nslots - 1] != slot)
				slots[nslots++] = slot;
		}
		event = staged_event_next(event);
	}
	registry_note_peak(database);
	return nslots;
}

/*
 * Do what the relay would do next.  Returns the number of channels in slots, -1
 * if the relay has to do it.  database->lock must be held, and the turn be had.
 */
static int
append_place(Database *database, StagedTransaction *place, TimestampTz now,
			 int *slots)
{
	StagedView	view;
	Size		bytes;
	int			nslots;

	if (!staging_comes_next(database->staging, place, &view) ||
		view.nevents > MOST_EVENTS ||
		!find_channels(database, &view, &bytes) ||
		(bytes > 0 && !have_room(database->ring, bytes)))
		return -1;
	staging_take_next(database->staging, &view);
	commit_append_count(database, view.pid);
	nslots = append_events(database, &view, now, slots);
	staging_set_appended(database->staging,
						 staging_numbered(database->staging));
	staging_set_notified(database->staging,
						 staging_numbered(database->staging));
	staging_free(database->staging);
	return nslots;
}

/* The same, if the lock is to be had and nothing else speaks against it. */
static int
try_append(Database *database, uint32 generation, StagedTransaction *place,
		   int *slots)
{
	TimestampTz now = GetCurrentTimestamp();
	int			nslots;

	if (pg_atomic_read_u32(&database->generation) != generation ||
		many_publish(database, now) ||
		pg_atomic_read_u64(&database->unstaged.begun) !=
		pg_atomic_read_u64(&database->unstaged.read) ||
		registry_has_listeners(MyDatabaseId) ||
		!LWLockConditionalAcquire(database->lock, LW_SHARED))
		return -1;
	nslots = append_place(database, place, now, slots);
	LWLockRelease(database->lock);
	return nslots;
}

/*
 * The transaction, whose place has just been marked, has committed: append its
 * events and wake who waits for them.  Returns false if the relay has to be
 * woken, for that or to warn.  Cannot fail.  No LWLock of a database may be held.
 */
bool
commit_append(Database *database, uint32 generation, StagedTransaction *place)
{
	int			slots[MOST_EVENTS];
	int			nslots;
	bool		warn;

	if (!take_free_turn(database, TURN_WRITER))
		return false;
	nslots = try_append(database, generation, place, slots);
	warn = nslots > 0 && is_half_held(database->ring);
	DEBUG_POINT("commit_append");
	commit_append_give_turn(database);

	/* as in relay_append.c: events are in the ring before we look who waits */
	(void) registry_wake_channels(database, slots, nslots);
	return nslots >= 0 && !warn;
}

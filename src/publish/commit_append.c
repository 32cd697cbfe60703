/*-------------------------------------------------------------------------
 *
 * commit_append.c
 *	  Appending to the ring at commit, without the relay.
 *
 * If the relay appends a staged event, the event waits for the relay to wake up
 * on its way to the reader.  Where the relay sleeps and has nothing to do, the
 * transaction that ends does itself what the relay would do next: it takes its
 * own place, appends the events, moves both marks, and wakes the readers.
 *
 * 1. Ring and staging queue have one writer at a time: the process that has the
 *	  turn.  The relay gives the turn up only when it goes to sleep and all that
 *	  it knows of is taken, appended and notified; so it need not know what was
 *	  done in the meantime.  When it wakes it takes the turn again, and waits
 *	  for it no longer than appending one transaction's events takes.
 *
 * 2. A transaction that finds the turn taken, or for any reason cannot append,
 *	  wakes the relay.  Its place was marked before it looked at the turn, and
 *	  the relay looks at the places after it has taken the turn.  So no place
 *	  is left that neither of them appends.
 *
 * 3. A transaction appends only if nothing else is to be done before: no place
 *	  before its own is pending or to be taken, no earlier transaction that was
 *	  not staged is still to be read, and there is room.  And it does so only
 *	  where it is cheap: it leaves to the relay what is long, what many readers
 *	  wait for, and what native listeners are to get.  It also wakes the relay
 *	  to warn of a ring that fills up.
 *
 * 4. While many sessions publish, all is left to the relay, which appends the
 *	  events of many transactions at a time; see relay/relay.c.
 *
 * Nothing here raises an error: the transaction has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "base/debug.h"
#include "miscadmin.h"
#include "storage/s_lock.h"

/*
 * A transaction with more events, with more bytes of records, or for which more
 * bindings' readers wait, is left to the relay.
 */
#define MOST_EVENTS		16
#define MOST_BYTES		(8 * 1024)
#define MOST_WAITING	2

/* The relay tries so often to take the turn; then it sleeps between tries. */
#define SPINS			100
#define TURN_SLEEP_US	1000

/*
 * How busy a database is: how often, within so many ms, the next transaction
 * was another session's than the one before.
 */
#define WINDOW_MS		10

/*
 * From so many such changes per ms on, the relay, which then pauses for a ms
 * between rounds, has several transactions in each.
 */
#define BUSY_PER_MS		2

/* Take the turn if it is free.  A full memory barrier. */
static bool
take_free_turn(Database *database, Turn turn)
{
	uint32		expected = TURN_FREE;

	return pg_atomic_compare_exchange_u32(&database->turn.holder, &expected, turn);
}

/*
 * Give the turn up: the relay, which goes to sleep and has nothing to do, or
 * the transaction that had it.
 */
void
commit_append_give_turn(Database *database)
{
	/*
	 * The first barrier: who takes the turn next sees all that we have
	 * written to the ring and the staging queue.  Without it, that process
	 * could append over our records.  The second: the turn can be seen free
	 * before the relay looks at its latch.  A transaction that finds the turn
	 * taken sets the latch after that, so the relay does not sleep while a
	 * place waits for it.
	 */
	pg_memory_barrier();
	pg_atomic_write_u32(&database->turn.holder, TURN_FREE);
	pg_memory_barrier();
}

/*
 * For the relay, when it is awake or exits: take the turn, unless it has it.
 */
void
commit_append_take_turn(Database *database)
{
	int			spins = 0;

	if (pg_atomic_read_u32(&database->turn.holder) == TURN_RELAY)
		return;

	/* no spinlock, which ends the server if its holder is long not scheduled */
	while (!take_free_turn(database, TURN_RELAY))
	{
		if (spins++ < SPINS)
			SPIN_DELAY();
		else
			pg_usleep(TURN_SLEEP_US);
	}
}

/*
 * Count a transaction of the session pid, which was taken.  The caller has the
 * turn.
 */
void
commit_append_count(Database *database, int pid)
{
	Assert(pg_atomic_read_u32(&database->turn.holder) != TURN_FREE);
	if (database->turn.window_pid != pid)
		database->turn.window_changes++;
	database->turn.window_pid = pid;
}

/* Do many sessions publish now?  The caller has the turn. */
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
 * Find the channels that the events go to, and set *bytes to what their records
 * take.  Returns false if that is too much, or too many readers wait for them.
 * The caller holds database->lock.
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

/* Does somebody hold half of the ring, of which the relay is to warn? */
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

/*
 * Append the events to their channels.  Lists these in slots, and returns how
 * many it lists.  The caller has the turn, and there is room.
 */
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
			registry_count_appending(database, view->ended_at, now);
			if (nslots == 0 || slots[nslots - 1] != slot)
				slots[nslots++] = slot;
		}
		event = staged_event_next(event);
	}
	registry_note_peak(database);
	return nslots;
}

/*
 * Do with the place what the relay would do next.  Returns the number of
 * channels in slots, or -1 if the relay has to do it.  The caller holds
 * database->lock and has the turn.
 */
static int
append_place(Database *database, StagedTransaction *place, TimestampTz now,
			 int *slots)
{
	StagedView	view;
	Size		bytes;
	uint64		held;
	int			nslots;

	Assert(LWLockHeldByMe(database->lock));
	Assert(pg_atomic_read_u32(&database->turn.holder) == TURN_WRITER);
	if (!staging_comes_next(database->staging, place, &view) ||
		view.nevents > MOST_EVENTS ||
		!find_channels(database, &view, &bytes) ||
		(bytes > 0 && ring_make_room(database->ring, bytes, &held) >= 0))
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

/*
 * Do what append_place() does, or return -1 if the slot is no longer this
 * database's, the relay has to do it, or the lock cannot be had at once.
 */
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
 * The transaction has committed, and its place has just been marked: append its
 * events and wake the readers that wait for them.  Returns false if the caller
 * has to wake the relay, to do that or to warn.  Cannot fail.  The caller holds
 * no LWLock of a database.
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

	/*
	 * Giving up the turn was a barrier: the events are in the ring before we
	 * look who waits.  A reader enters the list of waiters and then looks at
	 * the ring, so either it sees the events or we see it waiting.
	 */
	(void) registry_wake_channels(database, slots, nslots);
	return nslots >= 0 && !warn;
}

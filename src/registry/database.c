/*-------------------------------------------------------------------------
 *
 * database.c
 *	  Database slots, and waking who waits in them.
 *
 * A slot belongs to one database that has pgpubsub, from its first use there
 * until the extension or the database is dropped.  Which one is guarded by
 * the control lock.  When a slot is freed its generation grows; whoever keeps
 * a pointer to it across a wait compares that.
 *
 * The slot's channels keep their count of publishers over that: transactions
 * that have published count themselves out when they end, whenever that is.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/registry_internal.h"

#include "base/debug.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

/* This backend's database slot, while its generation is this. */
static Database *my_database = NULL;
static uint32 my_generation;

/* slots_state() when this backend's database had, and could get, no slot */
static bool my_database_refused = false;
static uint64 refused_state;

/*
 * Set the latch of the process whose number is in *procno, if any.  A stale
 * number wakes another process once too often, which does no harm.
 */
void
registry_wake(pg_atomic_uint32 *procno)
{
	uint32		target = pg_atomic_read_u32(procno);

	if (target != PG_UINT32_MAX)
		SetLatch(&GetPGProcByNumber((int) target)->procLatch);
}

/*
 * Ask the relay to look at the channels that want listening to and at
 * subscriptions to be dropped.  Returns the request's number: the relay has
 * done it when handled is at least that.
 */
uint64
registry_request(Database *database)
{
	uint64		request = pg_atomic_add_fetch_u64(&database->requests.made, 1);

	registry_wake(&database->relay.procno);
	return request;
}

/* Wake the subscription's reader, if it waits in poll(). */
void
registry_wake_reader(Subscription *subscription)
{
	int			procno = -1;

	SpinLockAcquire(&subscription->reader.mutex);
	if (subscription->reader.pid != 0 && subscription->reader.waiting)
		procno = subscription->reader.procno;
	SpinLockRelease(&subscription->reader.mutex);
	if (procno >= 0)
		SetLatch(&GetPGProcByNumber(procno)->procLatch);
}

/*
 * Count an event of so many bytes that was appended.  The caller has the turn.
 */
void
registry_count_published(Database *database, Size bytes)
{
	DatabaseStats *stats = &database->stats;

	pg_atomic_write_u64(&stats->published,
						pg_atomic_read_u64(&stats->published) + 1);
	pg_atomic_write_u64(&stats->published_bytes,
						pg_atomic_read_u64(&stats->published_bytes) + bytes);
}

/*
 * An event of a transaction that has committed at that time was appended now.
 * The caller has the turn.
 */
void
registry_count_appending(Database *database, TimestampTz committed_at,
						 TimestampTz now)
{
	DelayCount *delay = &database->stats.appending;

	pg_atomic_write_u64(&delay->count, pg_atomic_read_u64(&delay->count) + 1);

	/* "now" may be that of the round, which has begun before */
	if (now > committed_at)
		pg_atomic_write_u64(&delay->us, pg_atomic_read_u64(&delay->us) +
							(uint64) (now - committed_at));
}

/* After appending: keep the high-water mark.  The caller has the turn. */
void
registry_note_peak(Database *database)
{
	Size		used = ring_used(database->ring);

	if (used > pg_atomic_read_u64(&database->stats.peak_used))
		pg_atomic_write_u64(&database->stats.peak_used, used);
}

/* Wake every session of the database that waits for events. */
void
registry_wake_waiters(Database *database)
{
	LWLockAcquire(database->lock, LW_SHARED);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
		registry_wake_waiting(database, subscription);
	LWLockRelease(database->lock);
}

/*
 * Native listeners
 *
 * Core does not tell whether anybody listens.  So each session that says
 * LISTEN makes that known before it does, and until it exits.  Who takes staged
 * events looks there once they are committed.  Both issue a memory barrier in
 * between: so a session whose LISTEN was committed before the events were is
 * seen, and they are sent by NOTIFY.  Else it would wait for them in vain.
 */

/* At the process's exit: it listens no more. */
static void
forget_listener(int code, Datum arg)
{
	pg_atomic_write_u32(&pgpubsub_control->listening_in[PGPUBSUB_MY_PROCNO],
						InvalidOid);
	pg_atomic_fetch_sub_u32(&pgpubsub_control->num_listening, 1);
}

/* This session is about to LISTEN.  Does nothing unless preloaded. */
void
registry_note_listener(void)
{
	static bool noted = false;

	if (noted || pgpubsub_control == NULL || PGPUBSUB_MY_PROCNO >= MaxBackends)
		return;
	before_shmem_exit(forget_listener, (Datum) 0);
	pg_atomic_fetch_add_u32(&pgpubsub_control->num_listening, 1);
	pg_atomic_write_u32(&pgpubsub_control->listening_in[PGPUBSUB_MY_PROCNO],
						MyDatabaseId);
	pg_memory_barrier();
	noted = true;
}

/*
 * May any session of the database listen, other than relays?  A transaction
 * that ends asks this, so it looks through all processes only if any listens.
 */
bool
registry_has_listeners(Oid database)
{
	pg_memory_barrier();
	if (pg_atomic_read_u32(&pgpubsub_control->num_listening) == 0)
		return false;
	for (int i = 0; i < MaxBackends; i++)
		if (pg_atomic_read_u32(&pgpubsub_control->listening_in[i]) == database)
			return true;
	return false;
}

/*
 * Databases
 */

/* The slot of the database, or NULL.  The control lock must be held. */
Database *
registry_lookup_database(Oid oid)
{
	Assert(LWLockHeldByMe(pgpubsub_control->lock));
	for (int i = 0; i < pgpubsub_max_databases; i++)
		if (pgpubsub_control->databases[i].oid == oid)
			return &pgpubsub_control->databases[i];
	return NULL;
}

/* The slot of the database, or NULL.  Takes the control lock. */
Database *
registry_find_database(Oid oid)
{
	Database   *database;

	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	database = registry_lookup_database(oid);
	LWLockRelease(pgpubsub_control->lock);
	return database;
}

/*
 * Where a database's seqs start: above all that were given out before, over
 * restarts too.  After a crash the clock, in microseconds, sees to that.
 */
static uint64
first_seq(void)
{
	uint64		clock = (uint64) GetCurrentTimestamp() +
		(uint64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

	clock -= DEBUG_CLOCK_BACK * (uint64) USECS_PER_SEC;
	return Max(clock, pgpubsub_control->highest_seq + 1);
}

/*
 * Begin anew to count what the views show; from what was published they
 * subtract the base.  database->lock is held, exclusive, or nobody uses the
 * slot yet.
 */
void
registry_reset_counts(Database *database)
{
	database->stats.reset_at = GetCurrentTimestamp();
	database->stats.published_base = pg_atomic_read_u64(&database->stats.published);
	database->stats.published_bytes_base =
		pg_atomic_read_u64(&database->stats.published_bytes);
	pg_atomic_write_u64(&database->stats.peak_used, 0);
	pg_atomic_write_u64(&database->stats.truncated, 0);
	database->stats.appending_base =
		pg_atomic_read_u64(&database->stats.appending.count);
	database->stats.appending_us_base =
		pg_atomic_read_u64(&database->stats.appending.us);
	pg_atomic_write_u64(&database->stats.delivered, 0);
	pg_atomic_write_u64(&database->stats.delivered_bytes, 0);
	pg_atomic_write_u64(&database->stats.lost, 0);
	pg_atomic_write_u64(&database->stats.reading.count, 0);
	pg_atomic_write_u64(&database->stats.reading.us, 0);
	pg_atomic_write_u64(&database->full.count, 0);
	pg_atomic_write_u64(&database->full.ms, 0);
	pg_atomic_write_u64(&database->full.evictions, 0);
	pg_atomic_write_u64(&database->relay.bad_frames, 0);
	registry_reset_log_counts(database);
}

/*
 * The slot of the database, which gets one if it has none; NULL if all are
 * taken.  The control lock must be held, exclusive.
 */
Database *
registry_acquire_database(Oid oid)
{
	Database   *database = registry_lookup_database(oid);

	Assert(LWLockHeldByMeInMode(pgpubsub_control->lock, LW_EXCLUSIVE));
	if (database)
		return database;

	database = registry_lookup_database(InvalidOid);
	if (database)
	{
		database->oid = oid;
		pg_atomic_fetch_add_u32(&pgpubsub_control->given, 1);
		registry_reset_counts(database);
		ring_reset(database->ring, first_seq() - 1);
	}
	return database;
}

/* True if the setting pgpubsub.databases lets this database have a relay. */
bool
registry_database_allowed(const char *name)
{
	char	   *copy = pstrdup(pgpubsub_databases);
	List	   *names = NIL;
	ListCell   *cell;
	bool		allowed = false;

	/* the setting's check hook has made sure that this succeeds */
	(void) SplitGUCList(copy, ',', &names);
	foreach(cell, names)
	{
		const char *item = (const char *) lfirst(cell);

		allowed |= strcmp(item, "*") == 0 || strcmp(item, name) == 0;
	}
	list_free(names);
	pfree(copy);
	return allowed;
}

/*
 * Remember the slot as this backend's, or NULL.  The control lock keeps it from
 * being freed in between.
 */
static void
set_my_database(Database *database)
{
	Assert(LWLockHeldByMe(pgpubsub_control->lock));
	my_database = database;
	if (database)
		my_generation = pg_atomic_read_u32(&database->generation);
}

/* While this does not change, a database that could get no slot has none. */
static uint64
slots_state(void)
{
	return (uint64) pg_atomic_read_u32(&pgpubsub_control->version) << 32 |
		pg_atomic_read_u32(&pgpubsub_control->given);
}

/*
 * Give this backend's database a slot, if it can get one; ask for a relay.
 * Else remember that it was refused when slots_state() was state.
 */
static void
acquire_my_database(uint64 state)
{
	char	   *name = get_database_name(MyDatabaseId);

	if (name && registry_database_allowed(name))
	{
		LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
		set_my_database(registry_acquire_database(MyDatabaseId));
		LWLockRelease(pgpubsub_control->lock);
		if (my_database)
			registry_wake(&pgpubsub_control->launcher_procno);
	}
	my_database_refused = (my_database == NULL);
	refused_state = state;
}

/*
 * The slot of this backend's database; NULL if it has none and create is
 * false, or if it can get none (not preloaded, all slots taken, left out by
 * the setting).  With create, the caller is in a transaction.
 */
Database *
registry_my_database(bool create)
{
	uint64		state;

	if (pgpubsub_control == NULL)
		return NULL;
	if (my_database &&
		pg_atomic_read_u32(&my_database->generation) == my_generation)
		return my_database;

	/* each event asks, so one in vain shall not take everybody's lock */
	state = slots_state();
	if (my_database_refused && refused_state == state)
		return NULL;

	/*
	 * A slot that is given between the two looks is found, or belongs to a
	 * newer state.  Were state read last, it could be taken for one in which
	 * this database was refused.
	 */
	pg_read_barrier();
	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	set_my_database(registry_lookup_database(MyDatabaseId));
	LWLockRelease(pgpubsub_control->lock);
	if (my_database == NULL && create)
		acquire_my_database(state);
	return my_database;
}

/* The generation of the slot that registry_my_database() has returned last. */
uint32
registry_my_generation(void)
{
	return my_generation;
}

/*
 * Free the slot: drop its subscriptions and forget its channels.  No relay
 * runs.
 */
void
registry_free_database(Database *database)
{
	uint64		newest_seq = ring_newest_seq(database->ring);

	Assert(LWLockHeldByMeInMode(pgpubsub_control->lock, LW_EXCLUSIVE));
	Assert(database->relay.pid == 0);

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	pg_atomic_fetch_add_u32(&database->generation, 1);
	while (!dlist_is_empty(&database->subscriptions))
		registry_drop_subscription(database,
								   dlist_head_element(Subscription, node,
													  &database->subscriptions));
	registry_forget_channels(database);
	registry_forget_log(database);
	pgpubsub_control->highest_seq = Max(pgpubsub_control->highest_seq,
										newest_seq);
	ring_reset(database->ring, newest_seq);
	pg_atomic_write_u64(&database->stats.published, 0);
	pg_atomic_write_u64(&database->stats.published_bytes, 0);
	database->stats.published_base = database->stats.published_bytes_base = 0;
	pg_atomic_write_u64(&database->stats.appending.count, 0);
	pg_atomic_write_u64(&database->stats.appending.us, 0);
	database->stats.appending_base = database->stats.appending_us_base = 0;
	database->oid = InvalidOid;
	LWLockRelease(database->lock);

	database->dropping = database->relay.leave = false;
	database->creator_pid = database->hold_pid = 0;
	database->relay.starts = 0;
	database->relay.listened = database->relay.failed = false;
	pg_atomic_write_u32(&database->relay.loaded, 0);
	pg_atomic_write_u32(&database->relay.unavailable, RELAY_AVAILABLE);
	pg_atomic_fetch_add_u32(&pgpubsub_control->version, 1);

	/* who waits for the relay waits in vain */
	ConditionVariableBroadcast(staging_moved(database->staging));
	ConditionVariableBroadcast(&database->full.room_cv);
}

/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  Shared memory: how much, how it is laid out, and what outlives the server.
 *
 * 1. One block has the control structure, the pool of subscriptions, the
 *	  database slots, what there is of each process, and for each slot its
 *	  ring, staging queue, channels and bindings.  Beside it are the hashes of
 *	  names.  All is sized from the settings when the server starts.  The size
 *	  functions and the layout go through the parts in the same order.
 *
 * 2. A lock may be taken only while none of a later line is held:
 *
 *		1. heavyweight locks: on a subscription's name, on tables
 *		2. the control lock (Control.lock)
 *		3. a database's lock (Database.lock)
 *		4. the subscription lock (Control.subscription_lock)
 *		5. a database's wait lock (Database.wait_lock)
 *		6. spinlocks: a subscription's mutex, those in condition variables
 *
 *	  Never two of the same line at once.  No LWLock is held during anything
 *	  that waits, looks at a catalog or may raise an error.  Waits are on
 *	  latches and condition variables.
 *
 * 3. The highest seq is saved when the server stops, so that seqs increase
 *	  over restarts even if the clock was set back.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/registry_internal.h"

#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_bitutils.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#define SAVE_FILE	PGSTAT_STAT_PERMANENT_DIRECTORY "/pgpubsub.seq"
#define SAVE_MAGIC	UINT64CONST(0x7067707562737562)

/*
 * No seq that was given out can be above this: they begin at the clock, in
 * microseconds.  Up to here they fit into a bigint for ever.
 */
#define HIGHEST_SEQ	(UINT64CONST(1) << 62)

/* What SAVE_FILE has. */
typedef struct SaveFile
{
	uint64		magic;
	uint64		highest_seq;
	uint64		check;			/* of the two above */
} SaveFile;

Control    *pgpubsub_control = NULL;
HTAB	  **registry_channel_hashes = NULL;
HTAB	   *registry_subscription_hash = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* True if the library was preloaded, so that there is shared memory. */
bool
pgpubsub_preloaded(void)
{
	return pgpubsub_control != NULL;
}

/*
 * How much
 */

/* Bindings in each database's pool. */
static int
max_bindings(void)
{
	return 8 * pgpubsub_max_subscriptions + pgpubsub_max_channels;
}

/* Buckets of each database's hash of bindings; a power of two. */
int
registry_num_buckets(void)
{
	return (int) pg_nextpower2_32((uint32) max_bindings());
}

/* Shared memory of each database's ring, in bytes. */
static Size
ring_space(void)
{
	return MAXALIGN(ring_shmem_size((Size) pgpubsub_queue_size * 1024,
									pgpubsub_max_channels));
}

/* Shared memory of each database's staging queue, in bytes. */
static Size
staging_space(void)
{
	return MAXALIGN(staging_shmem_size((Size) pgpubsub_staging_size * 1024));
}

/* Shared memory of one database, without its channel hash, in bytes. */
static Size
database_size(void)
{
	Size		size = add_size(ring_space(), mul_size(2, staging_space()));

	/* the channels begin with a line of the cache */
	size = add_size(size, PG_CACHE_LINE_SIZE);
	size = add_size(size, MAXALIGN(mul_size(pgpubsub_max_channels,
											sizeof(Channel))));
	size = add_size(size, MAXALIGN(mul_size(max_bindings(),
											sizeof(Binding))));
	return add_size(size, MAXALIGN(mul_size(registry_num_buckets(),
											sizeof(int))));
}

/* The part of shared memory that is one block, in bytes. */
static Size
control_size(void)
{
	Size		size = MAXALIGN(sizeof(Control));

	size = add_size(size, MAXALIGN(mul_size(pgpubsub_max_subscriptions,
											sizeof(Subscription))));
	size = add_size(size, PG_CACHE_LINE_SIZE);
	size = add_size(size, MAXALIGN(mul_size(pgpubsub_max_databases,
											sizeof(Database))));
	size = add_size(size, MAXALIGN(mul_size(MaxBackends, sizeof(Waiter))));
	size = add_size(size, MAXALIGN(mul_size(MaxBackends,
											sizeof(pg_atomic_uint32))));
	return add_size(size, mul_size(pgpubsub_max_databases, database_size()));
}

/* Ask for shared memory and locks. */
static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(control_size());
	RequestAddinShmemSpace(mul_size(pgpubsub_max_databases,
									hash_estimate_size(pgpubsub_max_channels,
													   sizeof(ChannelEntry))));
	RequestAddinShmemSpace(hash_estimate_size(pgpubsub_max_subscriptions,
											  sizeof(SubscriptionEntry)));
	RequestNamedLWLockTranche("pgpubsub", 2 + 2 * pgpubsub_max_databases);
}

/*
 * The layout
 */

/* Lay out one channel's slot. */
static void
init_channel(Database *database, Channel *channel)
{
	channel->database = database;
	dlist_push_tail(&database->table.free_channels, &channel->node);
	dlist_init(&channel->bindings);
	dlist_init(&channel->waiters);
	pg_atomic_init_u32(&channel->generation, 0);
	pg_atomic_init_u32(&channel->nbindings, 0);
	pg_atomic_init_u32(&channel->listening, 0);
	pg_atomic_init_u32(&channel->log_counted, 0);
	pg_atomic_init_u64(&channel->log_events, 0);
	pg_atomic_init_u64(&channel->log_bytes, 0);
	pg_atomic_init_u64(&channel->received, 0);
	pg_atomic_init_u32(&channel->nwaiters, 0);
	pg_atomic_init_u32(&channel->used, 0);
	pg_atomic_init_u32(&channel->publishers, 0);
	pg_atomic_init_u64(&channel->delivered, 0);
	pg_atomic_init_u64(&channel->truncated, 0);
	pg_atomic_init_u64(&channel->lost, 0);
}

/* Lay out the pool of bindings. */
static void
init_bindings(Database *database)
{
	for (int i = 0; i < max_bindings(); i++)
	{
		pg_atomic_init_u64(&database->bindings[i].number, 0);
		pg_atomic_init_u64(&database->bindings[i].pos, RING_NONE);
		pg_atomic_init_u64(&database->bindings[i].logged, 0);
		pg_atomic_init_u64(&database->bindings[i].seq, 0);
		pg_atomic_init_u64(&database->bindings[i].log_lost, 0);
		dlist_push_tail(&database->table.free_bindings,
						&database->bindings[i].channel_node);
	}
	for (int i = 0; i < registry_num_buckets(); i++)
		database->binding_buckets[i] = -1;
}

/*
 * The slot is another database's, or nobody's: forget the log that it had.
 * What waits on the condition variable finds that by itself.
 */
void
registry_forget_log(Database *database)
{
	DatabaseLog *log = &database->log;

	pg_atomic_write_u32(&log->active, 0);
	pg_atomic_write_u32(&log->turn, LOG_TURN(0, 0));
	pg_atomic_write_u64(&log->share, 0);
	pg_atomic_write_u32(&log->over, 0);
	pg_atomic_write_u32(&log->turning, 0);
	pg_atomic_write_u32(&log->position, 0);
	pg_atomic_write_u32(&log->full, 0);
	pg_atomic_write_u32(&log->recovered, LOG_NOT_RECOVERED);
	pg_atomic_write_u64(&log->gone_seq, 0);
	pg_atomic_write_u64(&log->forgotten_seq, 0);
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		pg_atomic_write_u64(&log->segments[i].first_seq, 0);
		pg_atomic_write_u64(&log->segments[i].last_seq, 0);
		pg_atomic_write_u64(&log->segments[i].first_at, 0);
		pg_atomic_write_u64(&log->segments[i].last_at, 0);
		pg_atomic_write_u64(&log->segments[i].bytes, 0);
		pg_atomic_write_u64(&log->segments[i].beside, 0);
		pg_atomic_write_u64(&log->segments[i].row_bytes, 0);
		pg_atomic_write_u64(&log->segments[i].rest, 0);
		pg_atomic_write_u64(&log->segments[i].extra, 0);
	}
	log->held_by[0] = '\0';
	log->surveyed = false;
}

/*
 * Begin anew to count what the views show of the log.
 */
void
registry_reset_log_counts(Database *database)
{
	pg_atomic_write_u64(&database->log.appended, 0);
	pg_atomic_write_u64(&database->log.appended_bytes, 0);
	pg_atomic_write_u64(&database->log.read_back, 0);
	pg_atomic_write_u64(&database->log.rotations, 0);
	pg_atomic_write_u64(&database->log.full_count, 0);
}

/*
 * Initialize what is known of a database's log.  Where eight bytes are atomic,
 * the first write is like any other.
 */
static void
init_log(Database *database)
{
	registry_forget_log(database);
	pg_atomic_write_u32(&database->log.asked, 0);
	pg_atomic_write_u32(&database->log.looked, 0);
	ConditionVariableInit(&database->log.room_cv);
	registry_reset_log_counts(database);
}

/* Initialize what there is of a database's slot but lists and memory. */
static void
init_counters(Database *database)
{
	pg_atomic_init_u32(&database->generation, 0);
	pg_atomic_init_u32(&database->relay.procno, PG_UINT32_MAX);
	pg_atomic_init_u32(&database->relay.state, RELAY_STOPPED);
	pg_atomic_init_u32(&database->relay.loaded, 0);
	pg_atomic_init_u32(&database->relay.unavailable, 0);
	ConditionVariableInit(&database->relay.cv);
	ConditionVariableInit(&database->full.room_cv);
	pg_atomic_init_u32(&database->table.version, 0);
	pg_atomic_init_u32(&database->table.npatterns, 0);
	pg_atomic_init_u32(&database->table.channels_full, 0);
	pg_atomic_init_u64(&database->table.released, 0);
	pg_atomic_init_u64(&database->requests.made, 0);
	pg_atomic_init_u64(&database->requests.handled, 0);
	ConditionVariableInit(&database->requests.cv);
	pg_atomic_init_u64(&database->requests.reload, 0);
	pg_atomic_init_u64(&database->relay_epoch, 0);
	init_log(database);
	pg_atomic_init_u64(&database->stats.published, 0);
	pg_atomic_init_u64(&database->stats.published_bytes, 0);
	pg_atomic_init_u64(&database->stats.peak_used, 0);
	pg_atomic_init_u64(&database->stats.appending.count, 0);
	pg_atomic_init_u64(&database->stats.appending.us, 0);
	pg_atomic_init_u64(&database->stats.delivered, 0);
	pg_atomic_init_u64(&database->stats.delivered_bytes, 0);
	pg_atomic_init_u64(&database->stats.lost, 0);
	pg_atomic_init_u64(&database->stats.reading.count, 0);
	pg_atomic_init_u64(&database->stats.reading.us, 0);
	pg_atomic_init_u64(&database->full.count, 0);
	pg_atomic_init_u64(&database->full.ms, 0);
	pg_atomic_init_u64(&database->full.since, 0);
	pg_atomic_init_u64(&database->full.warned_at, 0);
	pg_atomic_init_u64(&database->full.evictions, 0);
	pg_atomic_init_u64(&database->relay.bad_frames, 0);
	pg_atomic_init_u32(&database->relay.notify_trouble, 0);
	pg_atomic_init_u64(&database->unstaged.begun, 0);
	pg_atomic_init_u64(&database->unstaged.ended, 0);
	pg_atomic_init_u64(&database->unstaged.read, 0);
	pg_atomic_init_u32(&database->turn.holder, TURN_RELAY);
	pg_atomic_init_u64(&database->stats.truncated, 0);
}

/* Lay out one database's slot, with its own memory at space. */
static void
init_database(Database *database, int index, LWLockPadded *locks, char *space)
{
	database->index = index;
	database->lock = &locks[0].lock;
	database->wait_lock = &locks[1].lock;

	database->ring = ring_init(space, (Size) pgpubsub_queue_size * 1024,
							   pgpubsub_max_channels);
	space += ring_space();
	database->staging = staging_init(space,
									 (Size) pgpubsub_staging_size * 1024);
	space += staging_space();
	database->log.staging = staging_init(space,
										 (Size) pgpubsub_staging_size * 1024);
	space += staging_space();
	space = (char *) CACHELINEALIGN(space);
	database->channels = (Channel *) space;
	dlist_init(&database->table.free_channels);
	dlist_init(&database->table.unbound_channels);
	dlist_init(&database->table.bound_channels);
	dlist_init(&database->table.bound_patterns);
	dlist_init(&database->table.changed_channels);
	for (int i = 0; i < pgpubsub_max_channels; i++)
		init_channel(database, &database->channels[i]);
	space += MAXALIGN(pgpubsub_max_channels * sizeof(Channel));

	database->bindings = (Binding *) space;
	space += MAXALIGN(max_bindings() * sizeof(Binding));
	database->binding_buckets = (int *) space;
	dlist_init(&database->subscriptions);
	dlist_init(&database->table.free_bindings);
	init_bindings(database);
	init_counters(database);
}

/*
 * Begin to count, for a subscription that nobody reads yet.  Where eight bytes
 * are atomic, as ring.c demands, the first write is like any other.
 */
void
registry_init_stats(SubscriptionStats *stats)
{
	pg_atomic_write_u64(&stats->delivered, 0);
	pg_atomic_write_u64(&stats->delivered_bytes, 0);
	pg_atomic_write_u64(&stats->lost, 0);
	pg_atomic_write_u64(&stats->polls, 0);
	pg_atomic_write_u64(&stats->empty_polls, 0);
	pg_atomic_write_u64(&stats->last_poll_at, 0);
}

/* Lay out one subscription's slot. */
static void
init_subscription(Subscription *subscription)
{
	dlist_init(&subscription->bindings);
	dlist_init(&subscription->waiters);
	dlist_init(&subscription->patterns);
	SpinLockInit(&subscription->reader.mutex);
	ConditionVariableInit(&subscription->reader.cv);
	pg_atomic_init_u64(&subscription->seq, 0);
	pg_atomic_init_u64(&subscription->gap_seen, 0);
	pg_atomic_init_u64(&subscription->sought, PG_UINT64_MAX);
	pg_atomic_init_u64(&subscription->gap_epoch, 0);
	pg_atomic_init_u64(&subscription->position_version, 0);
	registry_init_stats(&subscription->stats);
	dlist_push_tail(&pgpubsub_control->free_subscriptions,
					&subscription->node);
}

/* Lay out the one block. */
static void
init_control(void)
{
	LWLockPadded *locks = GetNamedLWLockTranche("pgpubsub");
	char	   *space = (char *) pgpubsub_control;

	memset(space, 0, control_size());
	space += MAXALIGN(sizeof(Control));
	pgpubsub_control->lock = &locks[0].lock;
	pgpubsub_control->subscription_lock = &locks[1].lock;
	pg_atomic_init_u32(&pgpubsub_control->num_listening, 0);
	pg_atomic_init_u32(&pgpubsub_control->launcher_procno, PG_UINT32_MAX);
	pg_atomic_init_u32(&pgpubsub_control->version, 0);
	pg_atomic_init_u32(&pgpubsub_control->given, 0);

	dlist_init(&pgpubsub_control->free_subscriptions);
	pgpubsub_control->subscriptions = (Subscription *) space;
	for (int i = 0; i < pgpubsub_max_subscriptions; i++)
		init_subscription(&pgpubsub_control->subscriptions[i]);
	space += MAXALIGN(pgpubsub_max_subscriptions * sizeof(Subscription));

	/* it has members that are to be in lines of the cache of their own */
	space = (char *) CACHELINEALIGN(space);
	pgpubsub_control->databases = (Database *) space;
	space += MAXALIGN(pgpubsub_max_databases * sizeof(Database));
	pgpubsub_control->waiters = (Waiter *) space;
	space += MAXALIGN(MaxBackends * sizeof(Waiter));
	pgpubsub_control->listening_in = (pg_atomic_uint32 *) space;
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&pgpubsub_control->listening_in[i], InvalidOid);
	space += MAXALIGN(MaxBackends * sizeof(pg_atomic_uint32));
	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		init_database(&pgpubsub_control->databases[i], i, &locks[2 + 2 * i],
					  space);
		space += database_size();
	}
}

/* Create the shared memory, or attach to it.  AddinShmemInitLock is held. */
static void
attach_shmem(void)
{
	HASHCTL		ctl = {0};
	bool		found;

	pgpubsub_control = ShmemInitStruct("pgpubsub", control_size(), &found);
	if (!found)
		init_control();

	registry_channel_hashes = MemoryContextAlloc(TopMemoryContext,
												 pgpubsub_max_databases *
												 sizeof(HTAB *));
	ctl.keysize = sizeof(ChannelKey);
	ctl.entrysize = sizeof(ChannelEntry);
	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		char		name[64];

		snprintf(name, sizeof(name), "pgpubsub channels %d", i);
		registry_channel_hashes[i] = PGPUBSUB_SHMEM_HASH(name, pgpubsub_max_channels, &ctl,
														 HASH_ELEM | HASH_BLOBS |
														 HASH_FIXED_SIZE);
	}

	ctl.keysize = sizeof(SubscriptionKey);
	ctl.entrysize = sizeof(SubscriptionEntry);
	registry_subscription_hash = PGPUBSUB_SHMEM_HASH("pgpubsub subscriptions",
													 pgpubsub_max_subscriptions, &ctl,
													 HASH_ELEM | HASH_BLOBS |
													 HASH_FIXED_SIZE);
}

/*
 * What outlives the server
 */

/* Read what the last shutdown saved; 0 if it saved nothing. */
static uint64
load_highest_seq(void)
{
	FILE	   *file = AllocateFile(SAVE_FILE, PG_BINARY_R);
	SaveFile	saved;
	uint64		result = 0;

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", SAVE_FILE)));
		return 0;
	}
	if (fread(&saved, sizeof(saved), 1, file) == 1 &&
		saved.magic == SAVE_MAGIC &&
		saved.check == (saved.magic ^ saved.highest_seq) &&
		saved.highest_seq <= HIGHEST_SEQ)
		result = saved.highest_seq;
	else
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignored invalid data in file \"%s\"", SAVE_FILE)));
	FreeFile(file);
	return result;
}

/* At the postmaster's exit: save the highest seq. */
static void
save_highest_seq(int code, Datum arg)
{
	const char *temporary = SAVE_FILE ".tmp";
	SaveFile	saved = {.magic = SAVE_MAGIC};
	FILE	   *file;

	/* not after a crash, when shared memory may be anything */
	if (code != 0 || pgpubsub_control == NULL)
		return;
	saved.highest_seq = pgpubsub_control->highest_seq;
	for (int i = 0; i < pgpubsub_max_databases; i++)
		saved.highest_seq = Max(saved.highest_seq,
								ring_newest_seq(pgpubsub_control->databases[i].ring));
	saved.check = saved.magic ^ saved.highest_seq;

	file = AllocateFile(temporary, PG_BINARY_W);
	if (file == NULL || fwrite(&saved, sizeof(saved), 1, file) != 1)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temporary)));
		if (file)
			FreeFile(file);
		unlink(temporary);
		return;
	}
	FreeFile(file);
	(void) durable_rename(temporary, SAVE_FILE, LOG);
}

/* Lay out shared memory, or attach to it. */
static void
startup_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	attach_shmem();
	if (!IsUnderPostmaster)
		pgpubsub_control->highest_seq = load_highest_seq();
	LWLockRelease(AddinShmemInitLock);
	if (!IsUnderPostmaster)
		on_shmem_exit(save_highest_seq, (Datum) 0);
}

/* Have the server set up shared memory; from _PG_init(), when preloaded. */
void
registry_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

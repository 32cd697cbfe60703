/*-------------------------------------------------------------------------
 *
 * shmem_layout.c
 *	  The layout of shared memory.
 *
 * One block has the control structure, the pool of subscriptions, the
 * database slots, what there is of each process, and for each slot its ring,
 * staging queue, channels and bindings.  Beside it there are the hashes of
 * names.  All of it is static: sized from the settings when the server starts,
 * and initialized once.
 *
 * The size functions and the initialization go through the same parts in the
 * same order.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/registry_internal.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

Control    *pgpubsub_control = NULL;
HTAB	  **registry_channel_hashes = NULL;
HTAB	   *registry_subscription_hash = NULL;

/*
 * Bindings in each database's pool.
 */
int
registry_max_bindings(void)
{
	return 8 * pgpubsub_max_subscriptions + pgpubsub_max_channels;
}

/*
 * Buckets of each database's hash of bindings.
 */
int
registry_num_buckets(void)
{
	return (int) pg_nextpower2_32((uint32) registry_max_bindings());
}

/*
 * LWLocks that registry_shmem_init() takes.
 */
int
registry_num_locks(void)
{
	return 2 + 2 * pgpubsub_max_databases;
}

/* Shared memory of one database, without its channel hash, in bytes. */
static Size
database_size(void)
{
	Size		size = ring_shmem_size((Size) pgpubsub_queue_size * 1024,
									   pgpubsub_max_channels);

	size = add_size(MAXALIGN(size),
					MAXALIGN(staging_shmem_size((Size) pgpubsub_staging_size * 1024)));

	/* the channels begin with a line of the cache */
	size = add_size(size, PG_CACHE_LINE_SIZE);
	size = add_size(size, MAXALIGN(mul_size(pgpubsub_max_channels,
											sizeof(Channel))));
	size = add_size(size, MAXALIGN(mul_size(registry_max_bindings(),
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
	size = add_size(size, MAXALIGN(mul_size(pgpubsub_max_databases,
											sizeof(Database))));
	size = add_size(size, MAXALIGN(mul_size(MaxBackends, sizeof(Waiter))));
	size = add_size(size, MAXALIGN(mul_size(MaxBackends,
											sizeof(pg_atomic_uint32))));
	return add_size(size, mul_size(pgpubsub_max_databases, database_size()));
}

/*
 * All shared memory that registry_shmem_init() takes, in bytes.
 */
Size
registry_shmem_size(void)
{
	Size		size = control_size();

	size = add_size(size, mul_size(pgpubsub_max_databases,
								   hash_estimate_size(pgpubsub_max_channels,
													  sizeof(ChannelEntry))));
	return add_size(size, hash_estimate_size(pgpubsub_max_subscriptions,
											 sizeof(SubscriptionEntry)));
}

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
	for (int i = 0; i < registry_max_bindings(); i++)
	{
		pg_atomic_init_u64(&database->bindings[i].number, 0);
		pg_atomic_init_u64(&database->bindings[i].pos, RING_NONE);
		dlist_push_tail(&database->table.free_bindings,
						&database->bindings[i].channel_node);
	}
	for (int i = 0; i < registry_num_buckets(); i++)
		database->binding_buckets[i] = -1;
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
	space += MAXALIGN(ring_shmem_size((Size) pgpubsub_queue_size * 1024,
									  pgpubsub_max_channels));
	database->staging = staging_init(space,
									 (Size) pgpubsub_staging_size * 1024);
	space += MAXALIGN(staging_shmem_size((Size) pgpubsub_staging_size * 1024));
	space = (char *) CACHELINEALIGN(space);
	database->channels = (Channel *) space;
	dlist_init(&database->table.free_channels);
	dlist_init(&database->table.unbound_channels);
	dlist_init(&database->table.bound_channels);
	dlist_init(&database->table.bound_patterns);
	for (int i = 0; i < pgpubsub_max_channels; i++)
		init_channel(database, &database->channels[i]);
	space += MAXALIGN(pgpubsub_max_channels * sizeof(Channel));

	database->bindings = (Binding *) space;
	space += MAXALIGN(registry_max_bindings() * sizeof(Binding));
	database->binding_buckets = (int *) space;
	dlist_init(&database->subscriptions);
	dlist_init(&database->table.free_bindings);
	init_bindings(database);

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
	pg_atomic_init_u64(&database->gap_epoch, 0);
	pg_atomic_init_u64(&database->stats.published, 0);
	pg_atomic_init_u64(&database->stats.published_bytes, 0);
	pg_atomic_init_u64(&database->stats.peak_used, 0);
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

/* Lay out one subscription's slot. */
static void
init_subscription(Subscription *subscription)
{
	dlist_init(&subscription->bindings);
	dlist_init(&subscription->waiters);
	dlist_init(&subscription->patterns);
	SpinLockInit(&subscription->mutex);
	ConditionVariableInit(&subscription->reader_cv);
	pg_atomic_init_u64(&subscription->seq, 0);
	pg_atomic_init_u64(&subscription->gap_seen, 0);
	pg_atomic_init_u64(&subscription->gap_epoch, 0);
	pg_atomic_init_u64(&subscription->delivered, 0);
	pg_atomic_init_u64(&subscription->delivered_bytes, 0);
	pg_atomic_init_u64(&subscription->lost, 0);
	pg_atomic_init_u64(&subscription->polls, 0);
	pg_atomic_init_u64(&subscription->empty_polls, 0);
	pg_atomic_init_u64(&subscription->last_poll_at, 0);
	dlist_push_tail(&pgpubsub_control->free_subscriptions,
					&subscription->node);
}

/* Lay out the one block; locks as in registry_shmem_init(). */
static void
init_control(LWLockPadded *locks)
{
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

/*
 * Create or attach to the shared memory.  The caller holds
 * AddinShmemInitLock; locks are registry_num_locks() of the tranche.
 */
void
registry_shmem_init(LWLockPadded *locks)
{
	HASHCTL		ctl = {0};
	bool		found;

	pgpubsub_control = ShmemInitStruct("pgpubsub", control_size(), &found);
	if (!found)
		init_control(locks);

	registry_channel_hashes = MemoryContextAlloc(TopMemoryContext,
												 pgpubsub_max_databases *
												 sizeof(HTAB *));
	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		char		name[64];

		snprintf(name, sizeof(name), "pgpubsub channels %d", i);
		ctl.keysize = sizeof(ChannelKey);
		ctl.entrysize = sizeof(ChannelEntry);
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
 * True if the library was preloaded, so that there is shared memory.
 */
bool
pgpubsub_preloaded(void)
{
	return pgpubsub_control != NULL;
}

/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  Databases, channels, subscriptions and bindings in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_REGISTRY_H
#define PGPUBSUB_REGISTRY_H

#include "base/pgpubsub.h"
#include "queue/ring.h"
#include "queue/staging.h"

#include "lib/ilist.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

typedef enum OnFull
{
	ON_FULL_DROP,
	ON_FULL_EVICT,
	ON_FULL_BLOCK
} OnFull;

typedef enum RelayState
{
	RELAY_STOPPED,
	RELAY_STARTING,
	RELAY_LISTENING,
	RELAY_FULL
} RelayState;

/*
 * A line of the cache: what writers, the relay and readers change all the time
 * is apart, and apart from what all read.
 */
#define CHANNEL_LINE	64

/*
 * A channel that pgpubsub knows, or (is_pattern) a pattern that some
 * subscription names.  Its index in Database.channels is also its channel in
 * the ring.
 */
typedef struct Channel
{
	/* constant */
	struct Database *database;

	/* database->lock; exclusive to change */
	dlist_node	node;			/* in one of the database's lists of channels */
	bool		in_use;
	bool		is_pattern;
	char		name[NAMEDATALEN];
	dlist_head	bindings;
	uint64		base_number;	/* of the slot's last event before this
								 * channel */
	RingPos		base_pos;		/* that event's place, or RING_NONE */
	uint64		forgotten;		/* the database's when it was made known */
	uint64		published_base; /* newest number at stats_reset */
	uint64		published_bytes_base;

	/* changed under database->lock, exclusive; read without */
	pg_atomic_uint32 generation;	/* grows before the slot is freed */
	pg_atomic_uint32 nbindings;

	/* written by the relay alone, seldom */
	pg_atomic_uint32 listening; /* its LISTEN has committed */

	/* any process, atomically, seldom */
	pg_atomic_uint32 used;		/* by a trigger or publish(); so it is known */

	/* any writer, atomically; open transactions; outlives a reuse of the slot */
	pg_atomic_uint32 publishers pg_attribute_aligned(CHANNEL_LINE);

	/* number of the last event received or staged; who has the turn adds */
	pg_atomic_uint64 received pg_attribute_aligned(CHANNEL_LINE);

	/* database->wait_lock; the relay looks at it with each event */
	dlist_head	waiters;		/* Binding.wait_node */
	pg_atomic_uint32 nwaiters;	/* read without the lock */

	/* any reader, atomically */
	pg_atomic_uint64 delivered pg_attribute_aligned(CHANNEL_LINE);
	pg_atomic_uint64 lost;
	pg_atomic_uint64 truncated; /* events made that exceeded max_payload */
} Channel;

struct Subscription;

/* How a subscription came to read a channel, and what is about to happen. */
#define BINDING_BY_NAME		0x01	/* named in subscribe() (or is a pattern) */
#define BINDING_BY_PATTERN	0x02	/* matched by one of its patterns */
#define BINDING_ADDED		0x04	/* by a transaction that is still open */
#define BINDING_DROPPED		0x08	/* by a transaction that is still open */
#define BINDING_MARKED		0x10	/* while the lock is held, see
									 * undo_change() */

/* The number of a binding that has no position yet. */
#define BINDING_UNPLACED	PG_UINT64_MAX

/* A subscription's position in one channel. */
typedef struct Binding
{
	/* database->lock; exclusive to change */
	struct Subscription *subscription;	/* NULL: free */
	int			channel;
	uint32		flags;
	dlist_node	channel_node;
	dlist_node	subscription_node;
	dlist_node	pattern_node;	/* if its channel is a pattern */
	int			hash_next;		/* index of the next one in its bucket, or -1 */

	/* written at commit by the subscription's reader */
	pg_atomic_uint64 number;	/* of the last event consumed */

	/*
	 * Written by the reader at commit, after number; read before it by
	 * others, who under the lock may put a later one in its place.  Whether
	 * the record is still there says the ring.
	 */
	pg_atomic_uint64 pos;		/* of that event or one before, or RING_NONE */

	/* the reader alone: index of its cursor, mostly; -1: it has none */
	int			cursor;

	/*
	 * The reader alone: number of the last event of the channel that the gap
	 * row of a look told as missing.  Its seq is not above the subscription's
	 * told_seq.
	 */
	uint64		told;

	/* database->wait_lock */
	dlist_node	wait_node;
	bool		waiting;		/* in the list of the channel's waiters */
} Binding;

typedef enum SubscriptionState
{
	SUBSCRIPTION_FREE,
	SUBSCRIPTION_CREATING,		/* by a transaction that is still open */
	SUBSCRIPTION_ACTIVE,
	SUBSCRIPTION_DROPPING		/* by a transaction that is still open */
} SubscriptionState;

typedef struct Subscription
{
	/* database->lock; exclusive to change */
	SubscriptionState state;
	int			database;		/* index of its slot */
	int			changer_pid;	/* who is creating or dropping it */
	char		name[NAMEDATALEN];
	Oid			owner;
	OnFull		on_full;
	bool		temporary;
	int			session_pid;	/* whose temporary one it is */
	bool		replaces;		/* one of that name, which is being dropped */
	bool		doomed;			/* to be dropped once nobody reads it */
	bool		stale;			/* to be read from the table again then */
	uint32		generation;		/* grows when the slot is freed */
	uint32		bindings_version;	/* grows when its bindings change */
	bool		evicted;		/* holds nothing until it is polled */
	bool		foreign;		/* nor that: made in another database */
	bool		adopted;		/* it was; the table is to say so */
	bool		holding;		/* the full queue waits for it */
	dlist_head	bindings;		/* Binding.subscription_node */
	dlist_head	patterns;		/* Binding.pattern_node, those to patterns */
	dlist_node	node;			/* in database->subscriptions or free list */
	TimestampTz created_at;

	/* mutex */
	slock_t		mutex;
	int			reader_pid;		/* 0: nobody reads it */
	int			reader_procno;
	bool		waiting;		/* the reader waits in poll() */
	int			wanted;			/* sessions that want to change or drop it */
	int			wanted_pid;		/* the last of them */
	ConditionVariable reader_cv;	/* the reader let go */

	/* its database's wait_lock */
	dlist_head	waiters;		/* Waiter.node */

	/* the reader alone, at commit; read by views */
	pg_atomic_uint64 seq;		/* last one consumed */
	pg_atomic_uint64 gap_seen;	/* part of the gap epoch it was told of */

	/* the reader alone: the last gap row that a look has shown */
	uint64		told_gap;		/* gap epoch */
	uint64		told_seq;		/* seq of the row; 0: there was none */

	/* any process, atomically */
	pg_atomic_uint64 gap_epoch; /* grows when it missed events unknown */
	pg_atomic_uint64 delivered;
	pg_atomic_uint64 delivered_bytes;
	pg_atomic_uint64 lost;
	pg_atomic_uint64 polls;
	pg_atomic_uint64 empty_polls;
	pg_atomic_uint64 last_poll_at;
} Subscription;

/* A process that may wait for events of a subscription. */
typedef struct Waiter
{
	/* wait_lock of the subscription's database */
	Subscription *subscription; /* NULL: it does not wait */
	dlist_node	node;
} Waiter;

/* Why a database has no relay and is not about to get one. */
typedef enum RelayUnavailable
{
	RELAY_AVAILABLE,
	RELAY_NO_WORKER,			/* none could be started just now */
	RELAY_LEFT_OUT				/* it is not to have one, or cannot */
} RelayUnavailable;

/* Whose turn it is to take staged events and to write the ring. */
typedef enum Turn
{
	TURN_RELAY,					/* the relay's; or there is none */
	TURN_FREE,					/* the relay sleeps, and has nothing to do */
	TURN_WRITER					/* of a transaction that ends just now */
} Turn;

/* Why the relay cannot notify staged events. */
typedef enum NotifyTrouble
{
	NOTIFY_FINE,
	NOTIFY_FAILING,				/* core refuses them: its queue is full */
	NOTIFY_LOCKED				/* another commit with notifications hangs */
} NotifyTrouble;

/*
 * Whether a database has a relay.  The process that has attached as its relay
 * is "the relay" in what follows.
 */
typedef struct DatabaseRelay
{
	/* control lock; exclusive to change */
	int			pid;			/* 0: none runs */
	uint32		starts;
	bool		leave;			/* it is asked to exit */
	bool		listened;		/* the last one came so far */
	bool		failed;			/* and ended by an error */

	/* changed under the control lock, exclusive; read without */
	pg_atomic_uint32 procno;	/* PG_UINT32_MAX: none */
	pg_atomic_uint32 state;		/* a RelayState */
	pg_atomic_uint32 loaded;	/* one has read the table */
	pg_atomic_uint32 unavailable;	/* a RelayUnavailable */
	ConditionVariable cv;		/* pid or state changed */

	/* written by the relay alone */
	pg_atomic_uint64 bad_frames;
	pg_atomic_uint32 notify_trouble;	/* with staged events, a NotifyTrouble */
	bool		lost_events;	/* for want of memory, not yet told */
} DatabaseRelay;

/*
 * What sessions have asked the relay to do.  Any process, atomically.
 */
typedef struct RelayRequests
{
	pg_atomic_uint64 made;		/* how many ... */
	pg_atomic_uint64 handled;	/* ... and how many of them it has done */
	ConditionVariable cv;		/* handled has grown */
	pg_atomic_uint64 reload;	/* the table was written by hand */
} RelayRequests;

/*
 * The free and the used slots of channels and bindings.
 */
typedef struct ChannelTable
{
	/* database->lock; exclusive to change */
	dlist_head	free_bindings;	/* Binding.channel_node */
	dlist_head	free_channels;	/* Channel.node; each is in one of the four */
	dlist_head	unbound_channels;	/* in use, no binding; longest so first */
	dlist_head	bound_channels;
	dlist_head	bound_patterns;
	uint64		searched;		/* released, when none was found last */
	uint64		forgotten;		/* newest seq in the ring whose channel is not
								 * known any more */

	/* changed under database->lock, exclusive; read without */
	pg_atomic_uint32 version;	/* grows with every channel made */
	pg_atomic_uint32 npatterns; /* patterns that some subscription names */
	pg_atomic_uint32 channels_full; /* no slot could be reused last */

	/* any process, atomically */
	pg_atomic_uint64 released;	/* slots that may be reused since, if full */
} ChannelTable;

/*
 * What the views count.
 */
typedef struct DatabaseStats
{
	/* database->lock; exclusive to change */
	TimestampTz reset_at;
	uint64		published_base; /* events queued at reset_at */
	uint64		published_bytes_base;

	/* any process, atomically */
	pg_atomic_uint64 truncated; /* events made that exceeded max_payload */

	/* written by who has the turn */
	pg_atomic_uint64 published;
	pg_atomic_uint64 published_bytes;
	pg_atomic_uint64 peak_used;
} DatabaseStats;

/*
 * The full queue.  Written by the relay alone.
 */
typedef struct FullQueue
{
	ConditionVariable room_cv;	/* no longer full, or waiting for others */
	pg_atomic_uint64 count;		/* times that it was full */
	pg_atomic_uint64 ms;		/* how long in all */
	pg_atomic_uint64 since;		/* TimestampTz; 0: not full */
	pg_atomic_uint64 warned_at; /* TimestampTz of the last warning */
	pg_atomic_uint64 evictions;
} FullQueue;

/*
 * Async transactions that are published by NOTIFY after all.
 */
typedef struct UnstagedTransactions
{
	/* any writer, atomically */
	pg_atomic_uint64 begun;		/* counted before they commit, ... */
	pg_atomic_uint64 ended;		/* ... and when they have ended */

	/* written by the relay alone */
	pg_atomic_uint64 read;		/* what had ended when the relay read all */
} UnstagedTransactions;

/*
 * Who appends to the ring.
 */
typedef struct AppendTurn
{
	/*
	 * A Turn.  A process takes it, by compare-and-swap, when it is free; the
	 * relay has it while it is awake.  See commit_append.c.
	 */
	pg_atomic_uint32 holder;

	/* whoever has the turn: whose transactions were taken in this window */
	int			window_pid;
	int			window_changes;
	TimestampTz window_start;
	bool		window_busy;
} AppendTurn;

/*
 * One database that has pgpubsub.  The slot is static; generation grows when
 * it is freed.
 */
typedef struct Database
{
	/* constant */
	int			index;
	LWLock	   *lock;			/* guards the registry of this database */
	LWLock	   *wait_lock;		/* guards the lists of waiting readers */
	Ring	   *ring;
	Staging    *staging;
	Channel    *channels;		/* pgpubsub_max_channels */
	Binding    *bindings;		/* registry_max_bindings() */
	int		   *binding_buckets;	/* a hash of the bindings; under lock */

	/* control lock; exclusive to change */
	Oid			oid;			/* InvalidOid: free */
	bool		dropping;		/* free the slot once no relay runs */
	int			creator_pid;	/* whose CREATE EXTENSION is not committed */
	int			hold_pid;		/* who keeps the database for itself */

	/* changed under the control lock, exclusive; read without */
	pg_atomic_uint32 generation;

	DatabaseRelay relay;
	RelayRequests requests;

	/* lock; exclusive to change */
	dlist_head	subscriptions;
	uint64		commits;		/* subscribes and unsubscribes committed */

	/* any process, atomically */
	pg_atomic_uint64 gap_epoch; /* grows when all subscriptions missed events */

	ChannelTable table;
	DatabaseStats stats;
	FullQueue	full;
	UnstagedTransactions unstaged;

	char		pad[CHANNEL_LINE];	/* before what many writers write */
	AppendTurn	turn;
} Database;

/* What all databases share. */
typedef struct Control
{
	/* constant */
	LWLock	   *lock;			/* the control lock */
	LWLock	   *subscription_lock;	/* guards the pool and the hash of names */
	Subscription *subscriptions;	/* pgpubsub_max_subscriptions */
	Database   *databases;		/* pgpubsub_max_databases */
	Waiter	   *waiters;		/* by number of process; MaxBackends */

	/*
	 * By number of process, MaxBackends: the database in which it has said
	 * LISTEN, or InvalidOid.  Written by that process, read by who takes
	 * staged events.
	 */
	pg_atomic_uint32 *listening_in;

	/* lock; exclusive to change */
	uint64		highest_seq;	/* of databases that left and of earlier runs */
	Oid			probed;			/* last one found without the extension */

	/* subscription_lock */
	dlist_head	free_subscriptions;

	/* any process, atomically */
	pg_atomic_uint32 num_listening; /* processes that have said LISTEN */
	pg_atomic_uint32 launcher_procno;	/* PG_UINT32_MAX: none */
	pg_atomic_uint32 version;	/* grows when a database may get a slot again */
	pg_atomic_uint32 given;		/* grows when a database gets a slot */
} Control;

/* NULL if pgpubsub is not preloaded */
extern Control *pgpubsub_control;

extern bool pgpubsub_preloaded(void);

/* shared memory */
extern int	registry_max_bindings(void);
extern Size registry_shmem_size(void);
extern void registry_shmem_init(LWLockPadded *locks);
extern int	registry_num_locks(void);

/* databases */
extern Database *registry_find_database(Oid oid);
extern Database *registry_lookup_database(Oid oid);
extern Database *registry_my_database(bool create);
extern uint32 registry_my_generation(void);
extern Database *registry_acquire_database(Oid oid);
extern bool registry_database_allowed(const char *name);
extern void registry_free_database(Database *database);
extern void registry_wake(pg_atomic_uint32 *procno);
extern uint64 registry_request(Database *database);
extern void registry_wake_reader(Subscription *subscription);
extern void registry_wake_waiters(Database *database);
extern void registry_count_published(Database *database, Size bytes);
extern void registry_note_peak(Database *database);
extern void registry_note_listener(void);
extern bool registry_has_listeners(Oid database);

/* sessions that wait for events */
extern void registry_start_waiting(Database *database,
								   Subscription *subscription);
extern void registry_stop_waiting(void);
extern void registry_prepare_to_wake(void);
extern int	registry_wake_channels(Database *database, const int *slots,
								   int nslots);
extern void registry_wake_waiting(Database *database,
								  Subscription *subscription);
extern void registry_expel_waiting(Database *database,
								   Subscription *subscription);
extern int	registry_waiting_pid(Database *database,
								 Subscription *subscription);

/* channels; database->lock held, exclusive to make one */
extern int	registry_find_channel(Database *database, const char *name,
								  bool is_pattern);
extern int	registry_find_bound_channel(Database *database, const char *name);
extern int	registry_make_channel(Database *database, const char *name,
								  bool is_pattern);
extern bool registry_channels_full(Database *database);
extern bool registry_is_pattern(const char *name);
extern bool registry_pattern_matches(const char *pattern, const char *name);
extern bool registry_gap_for_matching(Database *database, const char *name);

/* channels; no lock needed */
extern void registry_leave_channel(Channel *channel);
extern void registry_channel_released(Channel *channel);

/* for the tests */
extern uint64 registry_passed_over(void);

/* subscriptions; database->lock held, exclusive to change */
extern Subscription *registry_find_subscription(Database *database,
												const char *name);
extern Subscription *registry_make_subscription(Database *database,
												const char *name, Oid owner,
												OnFull on_full,
												bool temporary);
extern void registry_restore_name(Database *database,
								  Subscription *subscription);
extern void registry_drop_subscription(Database *database,
									   Subscription *subscription);
extern uint64 registry_gap_epoch(Database *database,
								 Subscription *subscription);

/* bindings; database->lock held, exclusive to change */
extern Binding *registry_find_binding(Subscription *subscription,
									  int channel);
extern Binding *registry_bind(Database *database, Subscription *subscription,
							  int channel, uint32 flags);
extern void registry_unbind(Database *database, Binding *binding);
extern void registry_set_position(Binding *binding, uint64 number, RingPos pos);
extern uint64 registry_position(Binding *binding, RingPos *pos);
extern void registry_prune(Database *database, Subscription *subscription);

#endif							/* PGPUBSUB_REGISTRY_H */

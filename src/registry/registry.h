/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  Databases, channels, subscriptions and bindings in shared memory.
 *
 * Fields stand in groups that say who may touch them, and under what.  "lock;
 * exclusive to change" means that who reads holds the lock too, shared or
 * better.  shmem.c has the order of the locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_REGISTRY_H
#define PGPUBSUB_REGISTRY_H

#include "base/pgpubsub.h"
#include "queue/ring.h"
#include "queue/staging.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

/*
 * Go through a list: var is each structure of that type in it, by its member.
 */
#define foreach_dlist(type, var, member, head) \
	for (type *var = dlist_is_empty(head) ? NULL : \
		 dlist_head_element(type, member, head); \
		 var != NULL; \
		 var = dlist_has_next(head, &var->member) ? \
		 dlist_container(type, member, dlist_next_node(head, &var->member)) : \
		 NULL)

/*
 * What is done if the queue is full of events that a subscription has not had.
 */
typedef enum OnFull
{
	ON_FULL_DROP,				/* they are overwritten */
	ON_FULL_EVICT,				/* they are held, but not for ever */
	ON_FULL_BLOCK				/* they are held, and publishers wait */
} OnFull;

typedef enum RelayState
{
	RELAY_STOPPED,				/* there is none */
	RELAY_STARTING,				/* it does not listen yet */
	RELAY_LISTENING,
	RELAY_FULL					/* it listens, and the queue is full */
} RelayState;

/*
 * Bytes of a line of the cache.  What writers, the relay and readers change all
 * the time is in different lines, and not in one with what all of them read.
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

	/* database->lock; exclusive to change; constant while it has bindings */
	bool		in_use;
	bool		is_pattern;
	char		name[NAMEDATALEN];
	uint64		base_number;	/* of the slot's last event before this
								 * channel */
	uint64		base_seq;		/* up to which events may be in the log of
								 * which the slot does not know */
	RingPos		base_pos;		/* that event's place, or RING_NONE */
	uint64		forgotten;		/* ChannelTable's when it was made known */

	/* database->lock; exclusive to change */
	dlist_node	node;			/* in one of ChannelTable's lists */
	dlist_head	bindings;		/* Binding.channel_node */
	bool		durable;		/* its events are logged, for all that the
								 * relay, or who made it known, knows */
	int64		retain;			/* how long events stay in the log, in us */
	uint64		published_base; /* newest number at stats_reset */
	uint64		published_bytes_base;
	dlist_node	changed_node;	/* in ChannelTable.changed_channels */
	bool		changed;		/* it is there */

	/* changed under database->lock, exclusive; read without */
	pg_atomic_uint32 generation;	/* grows before the slot is freed */
	pg_atomic_uint32 nbindings;

	/* written by the relay alone, seldom; read without a lock */
	pg_atomic_uint32 listening; /* its LISTEN has committed */
	pg_atomic_uint32 log_counted;	/* log_events and log_bytes are known */
	pg_atomic_uint64 log_events;	/* events that were ever logged, ... */
	pg_atomic_uint64 log_bytes; /* ... and their payloads */

	/* any process, atomically, seldom */
	pg_atomic_uint32 used;		/* by a trigger or publish(); so it is known */

	/*
	 * Open transactions that have published on it: any writer, atomically.
	 * Outlives the channel's end, even that of the database's slot.
	 */
	pg_atomic_uint32 publishers pg_attribute_aligned(CHANNEL_LINE);

	/*
	 * Number of the last event received or staged.  Whoever has the turn
	 * adds; the relay takes back at its exit what it has not appended.
	 */
	pg_atomic_uint64 received pg_attribute_aligned(CHANNEL_LINE);

	/* database->wait_lock */
	dlist_head	waiters;		/* Binding.wait_node */

	/* changed under database->wait_lock; whoever appends reads it without */
	pg_atomic_uint32 nwaiters;	/* length of waiters */

	/* any process, atomically; mostly readers */
	pg_atomic_uint64 delivered pg_attribute_aligned(CHANNEL_LINE);
	pg_atomic_uint64 lost;
	pg_atomic_uint64 truncated; /* events made that exceeded max_payload */
} Channel;

struct Subscription;

/* Flags of a binding: how the subscription came to it, and what is to come. */
#define BINDING_BY_NAME		0x01	/* named in subscribe() (or is a pattern) */
#define BINDING_BY_PATTERN	0x02	/* matched by one of its patterns */
#define BINDING_ADDED		0x04	/* by a transaction that is still open */
#define BINDING_DROPPED		0x08	/* by a transaction that is still open */
#define BINDING_MARKED		0x10	/* see bindings_undo(); no longer than the
									 * lock is held */

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
	uint64		known_from;		/* lowest version of a position in the log
								 * that knows it, if it was added */
	int			hash_next;		/* index of the next one in its bucket, or -1 */

	/*
	 * The position.  Read under database->lock.  Written by the
	 * subscription's reader under it, shared, or by anybody under it,
	 * exclusive; but who holds it shared may put a better pos in place of the
	 * one just read.
	 */
	pg_atomic_uint64 number;	/* of the last event consumed */
	pg_atomic_uint64 pos;		/* of that event or one before, or RING_NONE */
	pg_atomic_uint64 logged;	/* of the ring's records up to that number,
								 * those that are in the log, too */
	pg_atomic_uint64 seq;		/* up to which all in the log is consumed */
	pg_atomic_uint64 log_lost;	/* events that the log has lost, not told yet */

	/* the reader alone */
	int			cursor;			/* index of its cursor, mostly; -1: none */
	uint64		told;			/* number of the last event that the gap row
								 * of a look told as missing; see told_seq */
	uint64		told_logged;	/* records up to it that are in the log */
	uint64		told_lost;		/* what it told of log_lost */

	/* database->wait_lock */
	dlist_node	wait_node;		/* in Channel.waiters */
	bool		waiting;		/* it is there */
} Binding;

typedef enum SubscriptionState
{
	SUBSCRIPTION_FREE,
	SUBSCRIPTION_CREATING,		/* by a transaction that is still open */
	SUBSCRIPTION_ACTIVE,
	SUBSCRIPTION_DROPPING		/* by a transaction that is still open */
} SubscriptionState;

/*
 * Who reads a subscription.  The mutex guards all of it.  Besides, pid and
 * procno change only under database->lock, shared or better: who holds that
 * exclusively may read them without the mutex.  And the reader looks at wanted
 * without it: who adds to that wakes the reader afterwards.
 */
typedef struct SubscriptionReader
{
	slock_t		mutex;
	int			pid;			/* 0: nobody reads it */
	int			procno;			/* of the last reader */
	bool		waiting;		/* the reader waits in poll() */
	int			wanted;			/* sessions that want to change or drop it */
	int			wanted_pid;		/* the last of them */
	ConditionVariable cv;		/* pid has become 0, or wanted has fallen */
} SubscriptionReader;

/* What the views count.  Any process, atomically. */
typedef struct SubscriptionStats
{
	pg_atomic_uint64 delivered;
	pg_atomic_uint64 delivered_bytes;
	pg_atomic_uint64 lost;
	pg_atomic_uint64 polls;
	pg_atomic_uint64 empty_polls;
	pg_atomic_uint64 last_poll_at;
} SubscriptionStats;

typedef struct Subscription
{
	/* database->lock; exclusive to change */
	SubscriptionState state;
	int			database;		/* index of its slot */
	int			changer_pid;	/* who is creating or dropping it */
	char		name[NAMEDATALEN];
	Oid			owner;
	bool		temporary;
	int			session_pid;	/* whose temporary one it is */
	bool		replaces;		/* one of that name, which is being dropped */
	bool		stale;			/* its reader, or an open change, kept it from
								 * being changed as the table says */
	int			num_changing;	/* changes of its channels that are not
								 * committed, all of one transaction */
	int			changing_pid;	/* whose they are, if there are any */
	bool		adopted;		/* polled here, made in another database; the
								 * table is to say so */
	int64		id;				/* of its positions in the log; 0: it has none */
	bool		holding;		/* the full queue waits for it */
	dlist_head	bindings;		/* Binding.subscription_node */
	dlist_head	patterns;		/* Binding.pattern_node, those to patterns */
	dlist_node	node;			/* in database->subscriptions, or the free
								 * list: there under subscription_lock */
	TimestampTz created_at;

	/*
	 * database->lock; exclusive to change.  Its reader reads them without,
	 * too: a change that it misses it sees when it looks next.
	 */
	uint32		generation;		/* grows when the slot is freed */
	uint32		bindings_version;	/* grows when its bindings change */
	OnFull		on_full;
	bool		doomed;			/* to be dropped once nobody reads it */
	bool		evicted;		/* holds nothing until it is polled */
	bool		foreign;		/* made in another database, and holds nothing
								 * until it is polled here */

	SubscriptionReader reader;

	/* database->wait_lock */
	dlist_head	waiters;		/* Waiter.node */

	/* written by the reader, or before there is one; read by any process */
	pg_atomic_uint64 seq;		/* of the last event consumed */
	pg_atomic_uint64 gap_seen;	/* the value of gap_epoch that it was told of */
	pg_atomic_uint64 sought;	/* the seq back to which its reader may have
								 * moved it, not committed; PG_UINT64_MAX: it
								 * has not */

	/* the reader alone: the last gap row that a look has shown */
	uint64		told_gap;		/* gap epoch */
	uint64		told_seq;		/* seq of the row; 0: there was none */

	/* any process, atomically */
	pg_atomic_uint64 gap_epoch; /* grows when it has missed events, nobody
								 * knows how many */
	pg_atomic_uint64 position_version;	/* the last one given to a position in
										 * the log */

	SubscriptionStats stats;
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
 * is "the relay" in what follows.  While there is none, what it alone writes
 * may be written by whoever gives the slot to a database, or frees it.
 */
typedef struct DatabaseRelay
{
	/* control lock; exclusive to change */
	int			pid;			/* 0: none runs */
	uint32		starts;
	bool		leave;			/* it is asked to exit */

	/* changed under the control lock, exclusive; read without */
	pg_atomic_uint32 procno;	/* PG_UINT32_MAX: none */
	pg_atomic_uint32 unavailable;	/* a RelayUnavailable */

	/*
	 * Written by the relay alone, read by any process.  It comes and goes
	 * under the control lock, exclusive, together with its pid.
	 */
	pg_atomic_uint32 state;		/* a RelayState */

	ConditionVariable cv;		/* pid or state has changed */

	/*
	 * How the last one ended.  Written by the relay, listened without a lock;
	 * by others under the control lock, exclusive, while there is none.  The
	 * launcher reads both when the server has told it that the relay ended.
	 */
	bool		listened;		/* it came so far as to listen */
	bool		failed;			/* it ended by an error */

	/* written by the relay alone, read by any process */
	pg_atomic_uint32 loaded;	/* one has read the table */
	pg_atomic_uint32 notify_trouble;	/* with staged events, a NotifyTrouble */
	pg_atomic_uint64 bad_frames;	/* stat_reset() sets it to 0 */

	/* the relay alone */
	bool		lost_events;	/* for want of memory, not yet told */
} DatabaseRelay;

/* What sessions have asked the relay to do. */
typedef struct RelayRequests
{
	/* any process, atomically */
	pg_atomic_uint64 made;		/* how many */
	pg_atomic_uint64 reload;	/* how often the table was written by hand */

	/* written by the relay alone, read by any process */
	pg_atomic_uint64 handled;	/* how many of those made it has done */

	ConditionVariable cv;		/* handled has grown */
} RelayRequests;

/* The free and the used slots of channels and bindings. */
typedef struct ChannelTable
{
	/* database->lock; exclusive to change */
	dlist_head	free_bindings;	/* Binding.channel_node */
	dlist_head	free_channels;	/* Channel.node; each is in one of the four */
	dlist_head	unbound_channels;	/* in use, no binding; longest so first */
	dlist_head	bound_channels;
	dlist_head	bound_patterns;
	dlist_head	changed_channels;	/* Channel.changed_node: what was made,
									 * bound first or unbound last since the
									 * relay has looked */
	uint64		searched;		/* released, when no slot was found last */
	uint64		forgotten;		/* newest seq in the ring whose channel is not
								 * known any more */

	/* changed under database->lock, exclusive; read without */
	pg_atomic_uint32 version;	/* grows with every channel made */
	pg_atomic_uint32 npatterns; /* bindings to patterns */
	pg_atomic_uint32 channels_full; /* no slot could be reused last */

	/* any process, atomically */
	pg_atomic_uint64 released;	/* slots that may be reused since, if full */
} ChannelTable;

/* How often something took its time, and how long in all, in us. */
typedef struct DelayCount
{
	pg_atomic_uint64 count;
	pg_atomic_uint64 us;
} DelayCount;

/* What the views count. */
typedef struct DatabaseStats
{
	/* database->lock; exclusive to change */
	TimestampTz reset_at;
	uint64		published_base; /* published at reset_at */
	uint64		published_bytes_base;
	uint64		appending_base; /* and appending's */
	uint64		appending_us_base;

	/* any process, atomically */
	pg_atomic_uint64 truncated; /* events made that exceeded max_payload */

	/* written by who has the turn, read by any process */
	pg_atomic_uint64 published;
	pg_atomic_uint64 published_bytes;
	pg_atomic_uint64 peak_used; /* bytes; stat_reset() sets it to 0 */
	DelayCount	appending;		/* from commit to the ring, where that is
								 * known */

	/*
	 * Of all subscriptions, those that were dropped among them.  Any process,
	 * atomically; mostly readers.
	 */
	pg_atomic_uint64 delivered pg_attribute_aligned(CHANNEL_LINE);
	pg_atomic_uint64 delivered_bytes;
	pg_atomic_uint64 lost;
	DelayCount	reading;		/* from ring or log until they were consumed */
} DatabaseStats;

/* The full queue. */
typedef struct FullQueue
{
	ConditionVariable room_cv;	/* no longer full, or waiting for others */

	/* written by the relay alone, read by any process */
	pg_atomic_uint64 since;		/* TimestampTz; 0: not full */
	pg_atomic_uint64 warned_at; /* TimestampTz of the last warning */

	/* written by the relay, and set to 0 by stat_reset() */
	pg_atomic_uint64 count;		/* times that it was full */
	pg_atomic_uint64 ms;		/* how long in all */
	pg_atomic_uint64 evictions;
} FullQueue;

/* Async transactions that are published by NOTIFY after all. */
typedef struct UnstagedTransactions
{
	/* any writer, atomically */
	pg_atomic_uint64 begun;		/* counted before they commit, ... */
	pg_atomic_uint64 ended;		/* ... and when they have ended */

	/* written by the relay alone, read by any writer */
	pg_atomic_uint64 read;		/* what had ended when the relay read all */
} UnstagedTransactions;

/* Who appends to the ring, and takes staged events. */
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

/* Segments of the log, which are used in turn. */
#define LOG_SEGMENTS	8

/* The relations of the log that have positions, which are used in turn. */
#define LOG_POSITIONS	2

/* Have all rows of the log a note, or a place in the staging queue? */
typedef enum LogRecovery
{
	LOG_NOT_RECOVERED,
	LOG_RECOVERING,				/* a relay looks; or has ended meanwhile */
	LOG_RECOVERED
} LogRecovery;

/* A DatabaseLog's turn: the current segment, and a bit for each empty one. */
#define LOG_TURN(current, empty)	((uint32) (current) | (uint32) (empty) << 8)
#define LOG_TURN_CURRENT(turn)	((int) ((turn) & 0xFF))
#define LOG_TURN_EMPTY(turn)	((turn) >> 8)

/* What is known of a segment of the log. */
typedef struct LogSegment
{
	/* written by the relay alone, read by any process */
	pg_atomic_uint64 first_seq; /* the lowest one noted in it; 0: none */
	pg_atomic_uint64 last_seq;	/* the highest one noted in it */
	pg_atomic_uint64 first_at;	/* TimestampTz of the first note */
	pg_atomic_uint64 last_at;	/* and of the last */
	pg_atomic_uint64 bytes;		/* of its relations, when looked at last */
	pg_atomic_uint64 rest;		/* bytes that it may have since the others
								 * leave as much, be it more than its share */

	/* any process, atomically */
	pg_atomic_uint64 beside;	/* of these, all but rows; with what writers
								 * have put into toast since, about */
	pg_atomic_uint64 row_bytes; /* of rows, about; 0: not known */
	pg_atomic_uint64 extra;		/* bytes that it may have beyond its share */
} LogSegment;

/* The log of a database's durable channels. */
typedef struct DatabaseLog
{
	/* constant */
	Staging    *staging;		/* of transactions with events in the log */

	/* written by the relay alone, read by any process */
	pg_atomic_uint32 active;	/* there is a rule, or something in the log */
	pg_atomic_uint32 position;	/* the relation that positions go to */
	pg_atomic_uint32 full;		/* the segment that is needed next is held: 1:
								 * for ever, if need be; 2: until its holder
								 * is evicted, or the relay has noted it */
	LogSegment	segments[LOG_SEGMENTS];
	pg_atomic_uint64 share;		/* of a segment, in bytes; 0: not known yet */
	pg_atomic_uint32 over;		/* the log has more than its size, and is not
								 * to be turned over until it has not */
	pg_atomic_uint32 turning;	/* a relay looks when it is asked to */
	pg_atomic_uint32 looked;	/* the newest asked that the relay has seen
								 * before it looked at the segments */
	ConditionVariable room_cv;	/* full has become false, looked has grown, or
								 * a segment is empty */
	pg_atomic_uint64 gone_seq;	/* up to which events were emptied; none
								 * behind it was */
	pg_atomic_uint64 forgotten_seq; /* up to which the counts of channels may
									 * be unknown */

	/*
	 * A LogRecovery, written by the relay; LOG_NOT_RECOVERED also by a writer
	 * whose events are in the log without a place.
	 */
	pg_atomic_uint32 recovered;

	/* database->lock; exclusive to change */
	char		held_by[NAMEDATALEN];	/* a subscription that keeps the
										 * oldest segment; empty: none */

	/* the relay alone */
	bool		surveyed;		/* what is above was read from the log */

	/* any process, atomically; see log/turn.c */
	pg_atomic_uint32 turn;		/* LOG_TURN(): the segment that writers use,
								 * and those that are empty */
	pg_atomic_uint32 asked;		/* grows when a writer wants a look */

	/* any process, atomically */
	pg_atomic_uint64 appended;	/* events */
	pg_atomic_uint64 appended_bytes;	/* of their payloads */
	pg_atomic_uint64 read_back; /* events that poll() has read from the log */
	pg_atomic_uint64 rotations;
	pg_atomic_uint64 full_count;
} DatabaseLog;

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
	Binding    *bindings;		/* see max_bindings() */
	int		   *binding_buckets;	/* a hash of the bindings; under lock */

	/*
	 * Control lock; exclusive to change.  To free the slot takes lock as
	 * well, exclusive: who holds that, and finds its own database, keeps it.
	 */
	Oid			oid;			/* InvalidOid: free */

	/*
	 * Control lock; exclusive to change.  finish_drop() looks at dropping
	 * without it, and again with it before it does anything.
	 */
	bool		dropping;		/* free the slot once no relay runs */
	int			creator_pid;	/* whose CREATE EXTENSION is not committed */
	int			hold_pid;		/* who keeps the database for itself */

	/* changed under the control lock, exclusive; read without */
	pg_atomic_uint32 generation;

	DatabaseRelay relay;
	RelayRequests requests;

	/* lock; exclusive to change */
	dlist_head	subscriptions;	/* Subscription.node */
	uint64		commits;		/* subscribes and unsubscribes committed, and
								 * drop_channels() */
	uint64		additions;		/* add_channels() committed */

	/* written by the relay alone, read by any process */
	pg_atomic_uint64 relay_epoch;	/* grows when a relay begins to listen,
									 * and may give numbers to other events
									 * than the one before */

	DatabaseLog log;
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

	/* written by the launcher alone, read by any process */
	pg_atomic_uint32 launcher_procno;	/* PG_UINT32_MAX: none */

	/* any process, atomically */
	pg_atomic_uint32 num_listening; /* processes that have said LISTEN */
	pg_atomic_uint32 version;	/* grows when a database may get a slot again */
	pg_atomic_uint32 given;		/* grows when a database gets a slot */
} Control;

/* NULL if pgpubsub is not preloaded */
extern Control *pgpubsub_control;

extern bool pgpubsub_preloaded(void);

extern void registry_init(void);

/* databases */
extern Database *registry_find_database(Oid oid);
extern Database *registry_lookup_database(Oid oid);
extern Database *registry_my_database(bool create);
extern uint32 registry_my_generation(void);
extern Database *registry_acquire_database(Oid oid);
extern bool registry_database_allowed(const char *name);
extern void registry_free_database(Database *database);
extern void registry_reset_counts(Database *database);
extern void registry_wake(pg_atomic_uint32 *procno);
extern uint64 registry_request(Database *database);
extern void registry_wake_reader(Subscription *subscription);
extern void registry_wake_waiters(Database *database);
extern void registry_count_published(Database *database, Size bytes);
extern void registry_count_appending(Database *database, TimestampTz committed_at,
									 TimestampTz now);
extern void registry_note_peak(Database *database);
extern void registry_note_listener(void);
extern bool registry_has_listeners(Oid database);

/* sessions that wait for events */
extern void registry_start_waiting(Database *database,
								   Subscription *subscription);
extern void registry_stop_waiting(void);
extern void registry_prepare_to_wake(void);
extern void registry_rouse_waiting(Database *database, int slot);
extern int	registry_wake_channels(Database *database, const int *slots,
								   int nslots);
extern int	registry_waiting_pid(Database *database,
								 Subscription *subscription);

/* channels; database->lock held, exclusive to make one */
extern int	registry_find_channel(Database *database, const char *name,
								  bool is_pattern);
extern int	registry_find_bound_channel(Database *database, const char *name);
extern int	registry_make_channel(Database *database, const char *name,
								  bool is_pattern);
extern bool registry_channels_full(Database *database);
extern bool registry_gap_for_matching(Database *database, const char *name);

extern int	registry_take_changed(Database *database, int *slots);

/* channels; no lock needed */
extern bool registry_is_pattern(const char *name);
extern bool registry_pattern_matches(const char *pattern, const char *name);
extern void registry_leave_channel(Channel *channel);
extern void registry_channel_released(Channel *channel);

/*
 * for the tests: bindings and slots passed over in this process to find others
 */
extern uint64 registry_passed_over;

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
extern uint64 registry_relay_epoch(Database *database,
								   Subscription *subscription);
extern bool registry_all_durable(Database *database,
								 Subscription *subscription);

/* bindings; database->lock held, exclusive to change */
extern void registry_unbind(Database *database, Binding *binding);
extern void registry_set_position(Binding *binding, uint64 number, RingPos pos,
								  uint64 logged, uint64 seq);
extern uint64 registry_position(Binding *binding, RingPos *pos);
extern void registry_prune(Database *database, Subscription *subscription);
extern void registry_binding_committed(Database *database, Binding *binding);

/*
 * May this process read the binding?  Not if another one has added it and not
 * committed that, nor if this one is about to drop it.  The subscription's
 * database's lock is held.
 */
static inline bool
binding_readable(const Binding *binding)
{
	const Subscription *subscription = binding->subscription;
	bool		own = subscription->num_changing == 0 ||
		subscription->changing_pid == MyProcPid;

	return (binding->flags & (own ? BINDING_DROPPED : BINDING_ADDED)) == 0;
}

#endif							/* PGPUBSUB_REGISTRY_H */

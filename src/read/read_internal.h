/*-------------------------------------------------------------------------
 *
 * read_internal.h
 *	  What the files of this room know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_READ_INTERNAL_H
#define PGPUBSUB_READ_INTERNAL_H

#include "read/read.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "log/log.h"
#include "registry/channel_lists.h"
#include "registry/holders.h"
#include "registry/registry.h"
#include "utils/array.h"
#include "utils/relcache.h"

/* This transaction's position in one of the subscription's channels. */
typedef struct Cursor
{
	Binding    *binding;
	int			channel;
	uint64		number;			/* of the last event consumed */
	RingPos		pos;			/* of that event or one before, or RING_NONE */
	uint64		logged;			/* of the ring's records up to that number,
								 * those that are in the log, too */
	uint64		seq;			/* up to which all in the log is consumed */
	uint64		log_lost;		/* of the binding's log_lost, what was told,
								 * without what seek() adds: modulo 2^64 */
	uint64		delivered;		/* events that this transaction has consumed */
	uint64		lost;			/* events that it has found missing */
	bool		moved;			/* without either, as by seek() */
	bool		seq_moved;		/* seq alone, over what other channels have */
} Cursor;

/* All that a rollback to a savepoint has to bring back. */
typedef struct Position
{
	Cursor	   *cursors;		/* ncursors to read, then nkept ones */
	int			ncursors;
	int			nkept;			/* moved, of channels that are being dropped */
	uint64		gap_seen;		/* gap epoch that the client was told of */
	uint64		seq;			/* the last one consumed */
	uint64		delivered_bytes;
	uint64		delays;			/* events of which it is known since when they
								 * were there */
	uint64		delay_us;		/* how long in all, until they were consumed */
	bool		consumed;		/* there is something that commit has to write */
	bool		logged;			/* and some of it was in the log */
	bool		sought;			/* it may have gone back */
	bool		gap_sought;		/* to where nobody knows how many are missing;
								 * not told yet */
	bool		gap_shown;		/* but a look has shown it */
} Position;

/* A position to which a rollback to a savepoint returns. */
typedef struct SavedPosition
{
	int			level;			/* nesting level that moved away from it */
	Position	position;
	struct SavedPosition *upper;
} SavedPosition;

/*
 * A subscription that this transaction reads, in TopTransactionContext until
 * the transaction ends.
 */
typedef struct Claim
{
	/* own.uncommitted: position.consumed or changing_level > 0 */
	OwnReading	own;
	uint32		generation;		/* the subscription's, when it was claimed */
	Database   *database;
	uint32		database_generation;
	int			level;			/* nesting level that claimed it */
	int			changing_level; /* lowest that changes or drops it, or 0 */

	/* What the cursors reflect, if synced. */
	bool		synced;
	uint32		bindings_version;
	uint64		relay_epoch;

	bool		handed_out;		/* poll() has consumed, for the client */
	Position	position;
	SavedPosition *saved;		/* innermost first */
} Claim;

/* The lock of the subscription's database. */
static inline LWLock *
subscription_lock(Subscription *subscription)
{
	return pgpubsub_control->databases[subscription->database].lock;
}

/*
 * May the channel have something for who has consumed up to that number in the
 * ring, and up to that seq in the log?  A pattern has nothing.
 */
static inline bool
binding_pending(Database *database, int channel, uint64 number, uint64 seq)
{
	return !database->channels[channel].is_pattern &&
		(ring_newest_number(database->ring, channel) > number ||
		 ring_log_newest(database->ring, channel) > seq);
}

typedef enum ActionKind
{
	ACTION_CREATE,
	ACTION_CHANGE,				/* by subscribe() */
	ACTION_ADD_CHANNELS,
	ACTION_DROP_CHANNELS,
	ACTION_DROP
} ActionKind;

/* What this transaction has done to a subscription. */
typedef struct Action
{
	ActionKind	kind;
	int			level;			/* nesting level */
	Database   *database;
	uint32		database_generation;
	Subscription *subscription;
	uint32		generation;

	/* a drop's */
	SubscriptionState old_state;

	/* any change's */
	FoundBindings found;

	/* ACTION_CHANGE */
	OnFull		on_full;		/* from commit on */
	int		   *slots;			/* channels, in the order given */
	int			nslots;

	dlist_node	node;			/* in the transaction's actions */
} Action;

/* Where a subscription starts to read. */
typedef enum StartKind
{
	START_NOW,
	START_OLDEST,
	START_SEQ,
	START_TIME
} StartKind;

typedef struct StartAt
{
	StartKind	kind;
	uint64		seq;			/* START_SEQ: the first to be read */
	TimestampTz time;			/* START_TIME */
} StartAt;

/* A binding, and the position that it is to have. */
typedef struct Placement
{
	Binding    *binding;
	int			channel;
	uint64		number;
	RingPos		pos;
	uint64		logged;
	uint64		seq;
	uint64		lost;			/* events behind it that the log has lost; or
								 * LOG_LOST_UNKNOWN */
	bool		was_logged;		/* the log had events before it */
} Placement;

/* What of that is known. */
static inline uint64
placement_lost(const Placement *place)
{
	return place->lost == LOG_LOST_UNKNOWN ? 0 : place->lost;
}

/* start_at.c */
extern void start_at_parse(const char *start_at, StartAt *start);
extern void start_at_check(Database *database, const StartAt *start);
extern void start_at_find(Database *database, const StartAt *start,
						  Placement *places, int count);
extern bool start_at_gone(Database *database, const StartAt *start,
						  const Placement *places, int count);

/* subscribe.c */
#define ON_FULL_VALUES	(ON_FULL_BLOCK + 1)
extern const char *const on_full_names[ON_FULL_VALUES];
extern void subscribe_check_may_block(void);
extern void subscribe_lock_name(const char *name);

/* find_subscription.c */
extern const char *reader_name(FunctionCallInfo fcinfo);
extern const char *reader_text_name(FunctionCallInfo fcinfo);
extern void reader_check_name(const char *name);
extern int64 reader_timeout(const Interval *timeout);
extern Database *reader_database(const char *function);
extern bool reader_relay_left(Database *database);
extern void reader_expect_relay(Database *database);
extern TimestampTz reader_deadline(void);
extern void reader_wait_for_relay(Database *database, TimestampTz deadline);
extern bool reader_visible(Subscription *subscription);
extern void reader_no_subscription(const char *name);
extern Subscription *reader_find_replacing(Database *database,
										   const char *name, int *pid);
extern void reader_check_owner(const char *name, Oid owner);
extern Oid	reader_subscription_owner(Database *database, const char *name);
extern Oid	reader_wanted_owner(Database *database, const char *name);

/* claim.c */
extern void reader_hold_log(Claim *claim, uint64 seq);
extern Claim *reader_claim(Database *database, const char *name,
						   TimestampTz deadline, bool change);
extern Claim *reader_claim_to_drop(Database *database, const char *name,
								   TimestampTz deadline);
extern void reader_resync(Subscription *subscription);
extern bool reader_claim_valid(Claim *claim);
extern bool reader_shall_step_aside(Claim *claim);
extern bool reader_step_aside(Claim *claim);
extern void reader_note_call(void);
extern void reader_pre_prepare(void);
extern void reader_publish_at_commit(void);
extern void reader_at_end(bool commit);
extern void reader_at_subcommit(int level);
extern void reader_at_subabort(int level);

/* position.c */
extern void position_sync(Claim *claim);
extern void position_save(Claim *claim);
extern void position_consume(Claim *claim);
extern void position_skip(Cursor *cursor, uint64 number, uint64 logged);
extern uint64 position_missed(const Cursor *cursor, uint64 number,
							  uint64 logged);
extern void position_advance(Claim *claim, uint64 seq);
extern bool position_reads_durable(Claim *claim);
extern void position_show_progress(Claim *claim);
extern void position_write(Claim *claim);
extern void position_publish(Claim *claim);
extern void position_subcommit(Claim *claim, int level);
extern void position_subabort(Claim *claim, int level);
extern void free_claim(Claim *claim);

/* wait.c */
extern void client_sleep(long timeout, uint32 wait_event);
extern void client_expect(void);

/* subscription_changes.c */
extern Action *action_prepare(ActionKind kind, Database *database,
							  int nchannels, bool all);
extern bool action_valid(Action *action);
extern void action_enter(Action *action, Subscription *subscription);
extern void temporary_subscription_begins(void);
extern void table_written(const char *table);

/* A statement that is run often. */
typedef struct KeptStatement
{
	bool		plan_anew;		/* each time */
	struct _SPI_plan *plan;		/* what was prepared; NULL: nothing yet */
} KeptStatement;

/* subscription_table.c */
extern bool subscription_table_writing(void);
extern Oid	subscription_table_oid(void);
extern Oid	subscription_table_lock(void);
extern bool subscription_table_has(const char *name);
extern void subscription_table_expect(const char *name);
extern bool subscription_table_insert(const char *name, ArrayType *channels,
									  const char *on_full,
									  TimestampTz created_at, int64 id);
extern void subscription_table_put_back(Oid table, Oid row_type, Datum row);
extern void subscription_table_update(const char *name, ArrayType *channels,
									  const char *on_full);
extern bool subscription_table_delete_unread(const char *name);

extern uint64 subscription_table_write(Oid table, const char *sql, int nargs,
									   Oid *types, Datum *values,
									   int expected, bool at_once,
									   KeptStatement *kept);
extern void subscription_table_read_kept(const char *sql, int nargs,
										 Oid *types, Datum *values,
										 bool read_only, KeptStatement *kept);
extern void subscription_table_row_missing(const char *name);

/* subscription_channels.c */
extern void subscription_channels_add(const char *name, char **channels,
									  int count, uint64 since,
									  uint64 version);
extern void subscription_channels_drop(const char *name, char **channels,
									   int count);
extern int64 subscription_channels_id(const char *name);
extern void subscription_channels_clear(int64 id);
extern void subscription_channels_forget(void);

/* view_rows.c */
#define VIEW_MAX_COLUMNS	29

/* What the control lock guards of a database; all zero before the first one. */
typedef struct DatabaseView
{
	int			next;			/* index of the slot that is looked at next */
	Oid			oid;
	int			relay_pid;
	uint32		relay_starts;
} DatabaseView;

/* The encoding of names that are shown as they are. */
#define SHOWN_AS_IS		(-1)

/* A row of a view, filled from left to right. */
typedef struct ViewRow
{
	Datum		values[VIEW_MAX_COLUMNS];
	bool		nulls[VIEW_MAX_COLUMNS];
	int			column;			/* the next to be set */
} ViewRow;

extern void view_add(ViewRow *row, Datum value);
extern void view_add_int64(ViewRow *row, uint64 value);
extern void view_add_if(ViewRow *row, bool present, Datum value);
extern void view_add_name(ViewRow *row, const char *name, int encoding);
extern void view_put(FunctionCallInfo fcinfo, ViewRow *row);
extern Database *view_next_database(DatabaseView *view);
extern int	shown_name_encoding(Oid database);
extern const char *shown_name(const char *name, int encoding);

/* stat_log.c */

/* A channel of a subscription of which the log is to be asked. */
typedef struct LoggedChannel
{
	char		name[NAMEDATALEN];
	uint64		seq;			/* up to which all in the log is consumed */
	Backlog		ring;			/* what the ring has that is not */
} LoggedChannel;

extern bool stat_log_try_rules(void);
extern Interval *stat_log_retain(const char *channel, bool durable,
								 int64 retain, bool by_rules);
extern void stat_log_add_backlog(Database *database,
								 const LoggedChannel *channels, int nchannels,
								 uint64 upto, Backlog *backlog);

#endif							/* PGPUBSUB_READ_INTERNAL_H */

/*-------------------------------------------------------------------------
 *
 * relay_internal.h
 *	  The relay's state, and what its files do for each other.
 *
 * A process is the relay of one database at most, and core calls it back
 * without an argument: so its state is one global object, of this folder alone.
 * A file that has a part of it to itself names that by a constant pointer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RELAY_INTERNAL_H
#define PGPUBSUB_RELAY_INTERNAL_H

#include "base/pgpubsub.h"
#include "lib/ilist.h"
#include "log/log.h"
#include "queue/frame.h"
#include "registry/registry.h"
#include "storage/lock.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

/* What native listeners get of an event that came in frames; see receive.c. */
typedef struct Twin
{
	bool		expected;
	bool		overdue;		/* it comes with the next read or never */
	int			pid;
	uint32		crc;
	char		channel[NAMEDATALEN];
} Twin;

typedef struct Inbox Inbox;

/* A message of the inbox. */
typedef struct InboxMessage
{
	int			channel;
	int			pid;
	uint64		after;			/* staged events with numbers up to this one
								 * were taken before it was received */
	Size		len;
	const char *payload;		/* not terminated; good until inbox_pop() */
} InboxMessage;

/* A channel that the relay listens to. */
typedef struct Listened
{
	char		name[NAMEDATALEN];	/* hash key */
	int			slot;

	/* the order */
	uint64		events;			/* since the last look at the order */
	bool		idle;			/* had none before that look */
	dlist_node	node;			/* in core's order */
} Listened;

/* A channel to LISTEN or UNLISTEN to; its slot is pinned meanwhile. */
typedef struct ListenChange
{
	char		name[NAMEDATALEN];
	int			slot;
	bool		listen;
} ListenChange;

/* A staged event that is to be appended to the ring. */
typedef struct StagedItem
{
	int			slot;			/* of its channel; -1: nobody reads it */
	int			pid;			/* of its writer */
	TimestampTz ended_at;		/* when that has committed */
	const char *payload;
	Size		len;			/* bytes of payload */
} StagedItem;

/* receive.c: what core delivers. */
typedef struct RelayReceive
{
	FrameAssembly assembly;
	Twin		twin;
	Inbox	   *inbox;
} RelayReceive;

/* Slots of channels that have changed, each once. */
typedef struct ChangedChannels
{
	int		   *slots;			/* room for pgpubsub_max_channels */
	bool	   *has;			/* by slot */
	int			count;
} ChangedChannels;

/* listen.c: the channels that the relay listens to. */
typedef struct RelayListen
{
	HTAB	   *channels;		/* of Listened, by name */
	ListenChange *changes;		/* room for pgpubsub_max_channels */
	int			num_changes;
	ChangedChannels changed;	/* to be looked at */
	int		   *taken;			/* room for pgpubsub_max_channels */

	/* the order */
	dlist_head	order;			/* Listened.node, as core has them */
	uint64		num_events;		/* since the last look at the order */
	uint64		to_move;		/* channels that are worth moving */
} RelayListen;

/* append.c: the way into the ring. */
typedef struct RelayAppend
{
	TimestampTz round_time;		/* of this round; its events get it */

	/* what readers were not woken for yet */
	int			num_appended;	/* events */
	int		   *touched;		/* slots of their channels, each once */
	int			num_touched;
	bool	   *is_touched;		/* by slot */

	/* while the queue is full */
	TimestampTz full_since;		/* 0: it is not full */
	TimestampTz judged_at;		/* when what is due was judged last */
	bool		full_warned;	/* since it became full */
} RelayAppend;

/* staged.c: a staging queue, the async one or the log's. */
typedef struct RelayStaged
{
	Staging    *staging;
	StagedWalk	append;			/* the next event for the ring */
	StagedWalk	notify;			/* the next event for native listeners */

	/* the last look at the places */
	StagedTake	take_result;
	bool		more;			/* it ended at its limit */
	uint64		last_pos;		/* of the transaction taken last */

	/* the pass at hand */
	uint64		pass_end;		/* places there were when it began; 0: none */
	bool		pass_taken;		/* all of them are taken, ... */
	uint64		pass_number;	/* ... with numbers up to this one */

	/* the batch at hand */
	StagedWalk	batch;			/* where it ends */
	uint64		batch_number;	/* of its last event; 0: it has none */
	LogReference *reference;	/* of which it sends a part; NULL: none */
	BlockNumber notify_block;	/* the next row that is to be sent */
	OffsetNumber notify_offset;
	struct seen_hash *seen;		/* its events; see repeats() */
	TimestampTz retry_at;		/* after a failure; 0: at once */
	TimestampTz logged_at;		/* when a failure was logged last */

	/* the lock of all that NOTIFY, if it was not to be had the last time */
	bool		lock_missed;
	VirtualTransactionId lock_holder;
	int			lock_wait;		/* the next wait for it, in ms */
} RelayStaged;

/* A position that was read from the log. */
typedef struct RelayPosition
{
	int64		id;				/* hash key: the subscription's */
	LogPosition *position;
} RelayPosition;

/* Something of the log that is to be emptied, when it is not in use. */
typedef struct RelayEmptying
{
	TimestampTz at;				/* not before this time; 0: at once */
	int			pause;			/* the next pause, in ms; 0: the shortest */
	bool		unseen;			/* who needs it could not be found out */
	bool		error;			/* the last try has raised one */
	bool		damaged;		/* a segment's notes were emptied by others */
} RelayEmptying;

/* What the holders of a segment let be done with it. */
typedef enum SegmentVerdict
{
	SEGMENT_FREE,				/* nobody needs it */
	SEGMENT_LOSABLE,			/* all who need it may lose it now */
	SEGMENT_READ,				/* one of these reads just now */
	SEGMENT_EVICTING,			/* one of them is to be evicted later */
	SEGMENT_BLOCKED				/* one of them is never to lose anything */
} SegmentVerdict;

/* What a transaction has emptied: one of these, or a segment. */
#define RELAY_EMPTIED_NOTHING		0
#define RELAY_EMPTIED_POSITIONS		1
#define RELAY_EMPTIED_SEGMENT(n)	((n) + 2)

/* turn_segments.c, turn_positions.c */
typedef struct RelaySegments
{
	TimestampTz looked_at;		/* the last look; 0: there was none */
	TimestampTz look_at;		/* the next one; 0: when something is noted */
	uint64		commits;		/* database->commits, as of the last look */
	uint64		rules;			/* the version of the rules */
	int			pause;			/* between looks if nothing is noted, in ms */
	uint64		events;			/* log.appended, as of the last look */
	uint64		bytes;			/* log.appended_bytes */
	uint64		growth;			/* of the current segment, up to then, in
								 * bytes */
	uint64		position_bytes; /* of the relation that positions go to */
	uint64		position_live;	/* what it had when the other was emptied */
	int64		retain;			/* the longest of all rules, in us */
	int			emptied;		/* by the transaction at hand; see above */
	struct SegmentHolders *losing;	/* whose loss by it is shown already */
	RelayEmptying segment[LOG_SEGMENTS];
	RelayEmptying position;
	int			patient_tries;	/* to wait for who has the oldest locked */
	TimestampTz patient_at;		/* and the next is due */
	TimestampTz full_since;		/* when the oldest segment was needed first */
	TimestampTz warned_at;		/* that the log is full, and why */
	SegmentVerdict warned_of;
	TimestampTz logged_at;		/* when a failure was logged last */
} RelaySegments;

/* durable.c: events of durable channels. */
typedef struct RelayDurable
{
	RelayStaged queue;
	TimestampTz retry_at;		/* after a failure; 0: at once */
	TimestampTz logged_at;		/* when a failure was logged last */
	bool		more;			/* there is more to do at once */

	/* note.c */
	HTAB	   *totals;			/* of each channel that was noted */
	struct NoteBatch *batch;	/* the one at hand; NULL: none */
	uint64		ceiling;		/* no seq above this may be given out */

	/* apply_rules.c: of what was applied last */
	uint64		rules_version;
	uint64		rules_reload;
	bool		rules_applied;	/* once; then to what has changed */
	ChangedChannels changed;	/* to be looked at */
	TimestampTz rules_at;		/* when to try again; 0: nothing has failed */

	/* recover.c */
	TimestampTz recover_at;		/* when to look again; 0: when asked for */
	bool		unrecovered;	/* rows are to be noted before anything else */
	MemoryContext position_context;
	HTAB	   *positions;		/* of RelayPosition, as of the relay's start */
	HTAB	   *added;			/* of AddedChannel, while the table is loaded */
	bool		unreadable;		/* positions could not be read */
	bool		unplaced;		/* a subscription has no position there yet */
	TimestampTz place_at;		/* when to try again to write it; 0: at once */
	HTAB	   *channels;		/* names of those that had something in the
								 * log then; NULL: it was not looked through */

	RelaySegments segments;
} RelayDurable;

/* relay.c: how soon the relay looks again; see there. */
typedef struct RelayPace
{
	int			num_woken;		/* sessions woken since the last pause */
	int			last_pid;		/* whose event came last; 0: none this round */

	/* the window at hand */
	TimestampTz window_start;
	uint64		num_rounds;
	uint64		num_changes;	/* of the writer */
	uint64		counted;		/* changes before this round */

	bool		busy;			/* the window before it was */
} RelayPace;

typedef struct Relay
{
	Database   *database;		/* the slot that it has claimed; NULL: none */
	char		database_name[NAMEDATALEN];

	/* load_subscriptions.c */
	uint64		reloaded;		/* requests.reload, as of the last load */
	TimestampTz no_room_at;		/* when not all rows had room last; 0: never */
	bool		no_room;		/* so it was at the last look at the table */
	int			num_loads;		/* looks at the table */

	RelayReceive receive;
	RelayListen listen;
	RelayAppend append;
	RelayStaged staged;
	RelayDurable durable;
	RelayPace	pace;
} Relay;

extern Relay relay;

/* relay.c */
extern void relay_begin(const char *activity);
extern void relay_end(void);
extern void relay_undo(void);
extern ErrorData *relay_abort(void);
extern void relay_pace_event(int pid);
extern void relay_tell_gaps(void);

/* receive.c */
extern void relay_receive_init(void);
extern void relay_receive(bool force);
extern void relay_receive_all(void);
extern void relay_receive_twin(void);

/* inbox.c */
extern Inbox *inbox_create(MemoryContext context);
extern void inbox_reserve(Inbox *inbox);
extern bool inbox_put(Inbox *inbox, int channel, int pid, uint64 after,
					  const char *payload, Size len);
extern bool inbox_peek(Inbox *inbox, InboxMessage *message);
extern void inbox_pop(Inbox *inbox);
extern bool inbox_overflows(Inbox *inbox);

/* listen.c */
extern void relay_listen_init(void);
extern void relay_take_changed(void);
extern void relay_listen_to_bound(bool first);
extern int	relay_listen_receive(const char *name);
extern int	relay_listen_count_event(const char *name);
extern void relay_listen_exit(void);
extern int	relay_pin_bound_channel(const char *name);
extern void relay_listen_reorder(void);

/* append.c */
extern void relay_append_init(void);
extern void relay_append(void);
extern long relay_append_timeout(void);
extern void relay_append_touch(int channel);
extern void relay_append_wake(void);
extern void relay_append_exit(void);

/* staged.c */
extern void relay_staged_init(void);
extern void relay_staged_take(void);
extern void relay_staged_take_all(void);
extern uint64 relay_staged_taken(void);
extern bool relay_staged_peek(uint64 upto, StagedItem *item);
extern void relay_staged_appended(void);
extern void relay_queue_init(RelayStaged *queue, Staging *staging);
extern bool relay_queue_notify(RelayStaged *queue);
extern void relay_queue_take(RelayStaged *queue);
extern bool relay_staged_backlog(void);
extern long relay_queue_timeout(RelayStaged *queue);

/* durable.c */
extern void relay_durable_init(void);
extern void relay_durable_resume(void);
extern void relay_durable_work(void);
extern void relay_durable_work_all(void);
extern void relay_durable_show(const char *channel, uint64 seq);
extern bool relay_durable_notify(void);
extern bool relay_durable_backlog(void);
extern long relay_durable_timeout(void);
extern void relay_durable_error(const char *what, TimestampTz *logged_at,
								const char *detail);

/* note.c */
typedef struct NoteBatch NoteBatch;
extern void note_init(void);
extern void note_begin(void);
extern uint64 note_next_seq(void);
extern void note_add(int segment, const char *channel, TransactionId xid,
					 BlockNumber block, OffsetNumber offset, uint64 seq,
					 Size payload_len);
extern void note_on_commit(Staging *staging, uint64 number);
extern void note_on_commit_reference(LogReference *reference,
									 BlockNumber block, OffsetNumber offset);
extern void note_look_for_lost(int segment);
extern void note_write(void);
extern void note_abort(void);
extern void note_count_channel(int slot);
extern void note_raise_seq(uint64 seq);

/* apply_rules.c */
extern void relay_apply_rules(void);
extern void relay_apply_rules_again(void);

/* recover.c */
extern void relay_recover(void);
extern bool relay_recover_is_due(void);
extern void relay_recover_again(void);

/* turn_segments.c */
extern void relay_turn_segments(void);
extern long relay_turn_segments_timeout(void);
extern void relay_turn_segments_exit(void);
extern void relay_segments_due(TimestampTz at);
extern void relay_segments_due_in(long ms);
extern bool relay_segments_asked(void);

/* turn_positions.c */
extern void relay_turn_positions(void);

/* segment_holders.c */
typedef struct SegmentHolder SegmentHolder;

/* Who needs a segment. */
typedef struct SegmentHolders
{
	int			segment;
	SegmentVerdict verdict;
	char		name[NAMEDATALEN];	/* the subscription of that verdict */
	SegmentHolder *holders;
	int			count;
} SegmentHolders;

extern bool segment_is_held(int segment);
extern bool segment_is_needed(int segment, const SegmentHolders *losing);
extern SegmentHolders *segment_find_holders(int segment, bool evict);
extern bool segment_lose(SegmentHolders *holders);
extern void segment_lost(SegmentHolders *holders);
extern void segment_not_lost(SegmentHolders *holders);

/* empty_segments.c */
extern bool relay_emptying_due(RelayEmptying *emptying);
extern void relay_emptying_failed(RelayEmptying *emptying);
extern void relay_segments_error(const char *what);
extern bool segment_is_staged(int segment, bool notify);
extern bool segment_empty(int segment, SegmentHolders *losing, int patience);
extern void segment_empty_exit(void);
extern void segment_holders_unseen(int segment);
extern int	segment_empty_unneeded(int *used, int count);

#ifdef USE_ASSERT_CHECKING
/* survey.c */
extern bool survey_all_noted(int segment);

/* positions.c */
extern bool relay_positions_past(int segment);
#endif

/* segment_room.c */
extern void segment_show_full(uint32 full, const char *name);
extern void segment_end_full(bool room);
extern void segment_let_grow(void);
extern void segment_tell_locked(void);
extern bool segment_make_room(const int *used, int count, bool full);

/* The first pause between tries to lock what is in use. */
#define RELAY_FIRST_TRY_MS	100

/* positions.c */
extern uint64 relay_read_positions(void);
extern void relay_restore_position(Subscription *subscription);
extern void relay_place_new(Subscription *subscription);
extern void relay_write_first_positions(void);

/* load_channels.c */
typedef struct AddedKey
{
	int64		subscription;	/* its id */
	char		channel[NAMEDATALEN];
} AddedKey;

/* A row of the table of channels that were added or dropped. */
typedef struct AddedChannel
{
	AddedKey	key;
	bool		dropped;
	bool		placed;			/* since and version are known */
	uint64		since;			/* up to there the log is before the channel */
	uint64		version;		/* positions above it know the channel */
	uint64		number;			/* of the row in the order of the table's rows */
} AddedChannel;

extern bool relay_lock_indexes(Oid table);
extern bool relay_lock_channels(void);
extern void relay_read_channels(void);
extern void relay_forget_channels(void);
extern char **relay_merge_channels(int64 id, char **names, int *count);
extern AddedChannel *relay_find_added(int64 id, const char *channel);

/* load_subscriptions.c */
extern bool relay_load_subscriptions(void);

/* write_subscriptions.c */
extern bool relay_remove_orphans(int orphans);
extern bool relay_adopt(void);

#endif							/* PGPUBSUB_RELAY_INTERNAL_H */

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

/* listen.c: the channels that the relay listens to. */
typedef struct RelayListen
{
	HTAB	   *channels;		/* of Listened, by name */
	ListenChange *changes;		/* room for pgpubsub_max_channels */
	int			num_changes;

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

/* staged.c: the staging queue. */
typedef struct RelayStaged
{
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
	struct seen_hash *seen;		/* its events; see repeats() */
	TimestampTz retry_at;		/* after a failure; 0: at once */
	TimestampTz logged_at;		/* when a failure was logged last */

	/* the lock of all that NOTIFY, if it was not to be had the last time */
	bool		lock_missed;
	VirtualTransactionId lock_holder;
	int			lock_wait;		/* the next wait for it, in ms */
} RelayStaged;

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

	RelayReceive receive;
	RelayListen listen;
	RelayAppend append;
	RelayStaged staged;
	RelayPace	pace;
} Relay;

extern Relay relay;

/* relay.c */
extern void relay_begin(const char *activity);
extern void relay_end(void);
extern void relay_pace_event(int pid);

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
extern void relay_append_exit(void);

/* staged.c */
extern void relay_staged_init(void);
extern void relay_staged_take(void);
extern void relay_staged_take_all(void);
extern uint64 relay_staged_taken(void);
extern bool relay_staged_peek(uint64 upto, StagedItem *item);
extern void relay_staged_appended(void);
extern bool relay_staged_notify(void);
extern bool relay_staged_backlog(void);
extern long relay_staged_timeout(void);

/* load_subscriptions.c */
extern bool relay_load_subscriptions(void);

/* write_subscriptions.c */
extern bool relay_remove_orphans(int orphans);
extern bool relay_adopt(void);

#endif							/* PGPUBSUB_RELAY_INTERNAL_H */

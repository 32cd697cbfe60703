/*-------------------------------------------------------------------------
 *
 * publish_internal.h
 *	  What the files of this room share.
 *
 * Events come from trigger.c, or from SQL, to publish.c, which sends them
 * itself or has publish_async.c stage them.  Both let the writer wait in
 * wait_for_room.c.  attach.c makes the triggers, with the files after it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_PUBLISH_INTERNAL_H
#define PGPUBSUB_PUBLISH_INTERNAL_H

#include "publish/publish.h"

#include "catalog/pg_trigger.h"
#include "event/change_event.h"
#include "nodes/nodes.h"
#include "utils/reltrigger.h"

/*
 * What a publisher remembers of one channel: where its slot in shared memory
 * is.  Initialize it with publish_channel_init(), keep it for as long as you
 * like (per trigger, say) and pass it with each event for the channel.  Then
 * publishing needs no look-up.
 */
typedef struct PublishChannel
{
	char		name[NAMEDATALEN];
	Database   *database;
	uint32		database_generation;
	uint32		channel_generation;
	int			slot;
	bool		resolved;		/* the fields above are set */
	int			mode;			/* PublishMode, or PUBLISH_MODE_SETTING */
	uint32		version;		/* of the channel table when it had no room
								 * for the channel; else 0 */
	bool		durable;		/* by the rules of that version */
	uint64		rules_version;
} PublishChannel;

/* The operations of attach(), and the TRIGGER_TYPE_ bit of each. */
#define ATTACHED_OPERATIONS 4
extern const char *const attached_operation_names[ATTACHED_OPERATIONS];
extern const int16 attached_operation_events[ATTACHED_OPERATIONS];

/* The operations that have rows. */
#define ROW_EVENTS \
	(TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)

/* The condition of a trigger. */
typedef struct Condition
{
	const char *text;
	Node	   *expression;		/* raw parse tree */
	bool		names_old;
	bool		names_new;
} Condition;

/* What attach() was asked for. */
typedef struct Attachment
{
	Oid			relid;
	int16		events;			/* TRIGGER_TYPE_ bits */
	bool		statement;		/* level */
	Condition  *condition;		/* NULL if there is none */
	TriggerOptions options;
} Attachment;

/* Does the attachment have a trigger that is called for each row? */
#define ATTACHED_BY_ROW(attachment) \
	(!(attachment)->statement && ((attachment)->events & ROW_EVENTS) != 0)

/* A trigger on a table that calls notify_change(). */
typedef struct AttachedTrigger
{
	char	   *name;
	const char *channel;
	int16		type;			/* TRIGGER_TYPE_ bits */
	bool		cloned;			/* from a partitioned parent's */
	bool		special;		/* has what attach() gives no trigger */
	char	   *old_table;		/* transition tables; NULL: none */
	char	   *new_table;
	char	  **args;
	int			nargs;
	char	   *condition;		/* pg_trigger.tgqual; NULL: none */
} AttachedTrigger;

typedef struct Chunk
{
	struct Chunk *prev;
	struct Chunk *next;
	Size		size;
	Size		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Chunk;

/* How far the events of the transaction go. */
typedef struct EventsEnd
{
	Chunk	   *chunk;			/* the last one */
	Size		used;			/* bytes of that chunk */
	Size		bytes;			/* in all chunks */
	uint32		nevents;
} EventsEnd;

/*
 * Events that wait for their transaction's commit, in TopTransactionContext;
 * see pending_events.c.  All zero: there are none.
 */
typedef struct PendingEvents
{
	Chunk	   *first_chunk;
	EventsEnd	end;
	struct SavedEnd *saved_ends;
	Size		shifted;		/* bytes of the first chunk that were taken
								 * away */
} PendingEvents;

/* pending_events.c */
typedef struct SavedEnd SavedEnd;
extern void pending_add(PendingEvents *events, const char *channel,
						const char *id, const char *payload, Size len,
						const char *native);
extern void pending_copy(const PendingEvents *events, char *p);
extern StagedEvent *pending_next(const PendingEvents *events, Chunk **chunk,
								 Size *pos);
extern StagedEvent *pending_shift(PendingEvents *events);
extern void pending_at_subcommit(PendingEvents *events, int level);
extern void pending_at_subabort(PendingEvents *events, int level);

/* publish_durable.c */
extern void durable_add(const char *channel, const char *id,
						const char *payload, Size len, const char *native);
extern void durable_pre_commit(void);
extern bool durable_any(void);
extern void durable_at_end(bool commit);
extern void durable_at_subcommit(int level);
extern void durable_at_subabort(int level);

/* publish.c */
extern void publish_notify(const char *channel, bool framed, const char *id,
						   const char *payload, Size len,
						   const char *native_payload);
extern void publish_channel_init(PublishChannel *channel, const char *name);
extern void publish_event(PublishChannel *channel, const char *id,
						  const char *payload, Size len,
						  const char *native_payload);
extern void publish_count_truncated(PublishChannel *channel);
extern uint64 publish_next_event_number(void);
extern Size publish_max_payload(void);
extern void publish_channel_known(const char *name);

/* publish_async.c */
extern bool async_add(Database *database, const char *channel,
					  const char *id, const char *payload, Size len,
					  const char *native);
extern void async_pre_commit(void);
extern StagedEvent *async_next_unstaged(void);
extern bool async_any(void);
extern void async_at_end(bool commit);
extern void async_at_subcommit(int level);
extern void async_at_subabort(int level);

/* commit_append.c */
extern bool commit_append(Database *database, uint32 generation,
						  StagedTransaction *place);

/* wait_for_room.c */
extern bool room_wait(Database *database, const char *channel);
extern TimestampTz room_begin_staging(Staging *staging);
extern bool room_sleep_staging(Database *database, Staging *staging,
							   TimestampTz start, long at_most);
extern bool room_wait_log(Database *database, int segment);
extern void room_end_wait(TimestampTz start);
extern void room_at_end(void);

/* attached_triggers.c */
extern List *attached_find(Oid relid, const char *channel);
extern bool attached_any_cloned(const List *triggers);
extern bool attached_stands(const Attachment *attachment,
							const List *triggers);
extern List *attached_covered_children(const Attachment *attachment);
extern int	attached_drop(Relation rel, const List *triggers);
extern void attached_replace(const Attachment *attachment, Relation rel,
							 const List *triggers);

/* trigger_clones.c */
extern Oid	trigger_clone_root(const Trigger *trigger, Oid relation,
							   List **tables);
extern List *trigger_clones_on_children(Oid relation, const char *name);
extern bool is_hypertable(Oid relation);

/* trigger_condition.c */
extern Condition *condition_parse(const char *text);
extern Node *condition_analyze(Condition *condition, Relation rel);
extern void condition_error_context(void *arg);

#endif							/* PGPUBSUB_PUBLISH_INTERNAL_H */

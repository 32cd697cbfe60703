/*-------------------------------------------------------------------------
 *
 * attached_triggers.h
 *	  The triggers that make an attachment: finding, creating, dropping them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_ATTACHED_TRIGGERS_H
#define PGPUBSUB_ATTACHED_TRIGGERS_H

#include "base/pgpubsub.h"

#include "catalog/pg_trigger.h"
#include "event/trigger_options.h"
#include "nodes/pg_list.h"
#include "publish/trigger_condition.h"
#include "utils/relcache.h"

/* The operations, with their bit in pg_trigger.tgtype. */
typedef struct AttachedOperation
{
	const char *name;
	int16		event;
} AttachedOperation;

#define ATTACHED_OPERATIONS 4
extern const AttachedOperation attached_operations[ATTACHED_OPERATIONS];

/* Those that have rows. */
#define ROW_EVENTS \
	(TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)

/* What attach() was asked for. */
typedef struct Attachment
{
	Oid			relid;
	int16		events;			/* TRIGGER_TYPE_ bits */
	bool		statement;		/* level */
	Condition  *condition;		/* NULL if there is none */
	TriggerOptions options;
} Attachment;

/* Do rows of this attachment have triggers of their own? */
#define ATTACHED_BY_ROW(attachment) \
	(!(attachment)->statement && ((attachment)->events & ROW_EVENTS) != 0)

/* A trigger of ours on a table. */
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

extern List *attached_find(Oid relid, const char *channel);
extern bool attached_any_cloned(const List *triggers);
extern bool attached_stands(const Attachment *attachment,
							const List *triggers);
extern List *attached_covered_children(const Attachment *attachment);
extern int	attached_drop(Relation rel, const List *triggers);
extern void attached_create(const Attachment *attachment, Relation rel);
extern void attached_replace(const Attachment *attachment, Relation rel,
							 const List *triggers);

#endif							/* PGPUBSUB_ATTACHED_TRIGGERS_H */

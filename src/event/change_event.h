/*-------------------------------------------------------------------------
 *
 * change_event.h
 *	  Rows of a table as JSON change events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_CHANGE_EVENT_H
#define PGPUBSUB_CHANGE_EVENT_H

#include "event/trigger_options.h"

#include "event/json_value.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

typedef enum ChangeOp
{
	CHANGE_INSERT,
	CHANGE_UPDATE,
	CHANGE_DELETE,
	CHANGE_TRUNCATE
} ChangeOp;

#define CHANGE_NUM_OPS (CHANGE_TRUNCATE + 1)

/* A column as events show it. */
typedef struct ChangeColumn
{
	const char *name;
	int			index;			/* of its value in a slot */
	int16		len;			/* as pg_attribute.attlen */
	bool		byval;
	bool		carried;		/* events show it in new and old */
	bool		watched;
	bool		in_key;
	char	   *label;			/* ,"name": */
	int			label_len;		/* bytes */
	JsonType	type;
} ChangeColumn;

/*
 * All that events of one trigger on one table have in common, looked up once.
 * It is stale when the table, its attached ancestor or a type changes.
 */
typedef struct ChangeShape
{
	const char *channel;
	const char *schema;			/* these three name the attached table, */
	const char *table;
	const char *partition;		/* and the leaf, NULL if it is the same */
	OldValues	old_values;
	EventFormat format;
	bool		watching;		/* an UPDATE must change a watched column */
	bool		runs_user_code;
	bool		runs_sql;		/* while a row is written */
	bool		follows_session;	/* what is written; see event_settings.c */
	List	   *row_types;		/* OIDs of relations that this depends on */
	Size		max_payload;	/* bytes; the caller sets it per event */
	bool		too_large;		/* what is being written exceeds it */

	int			ncolumns;
	ChangeColumn *columns;
	int			nkeys;
	int		   *keys;			/* indexes into columns */

	/* JSON that does not vary between events; see change_event_format.c */
	char	   *heads[CHANGE_NUM_OPS];	/* of plain objects, after the id */
	char	   *cloud_heads[CHANGE_NUM_OPS];	/* of cloud events */
	char	   *names;			/* schema, table, partition */
	char	   *db;				/* the database's name, a JSON string */

	bool	   *changed;		/* per column: the UPDATE at hand changed it */
	bool		key_changed;	/* it changed the key */
	const ChangeColumn *reading;	/* whose value is at hand; else NULL */
} ChangeShape;

/* Where a shape takes its names from. */
typedef struct ChangeNames
{
	const char *channel;
	const char *schema;
	const char *table;
	const char *partition;
	bool		statement;		/* level of the trigger */
} ChangeNames;

/* Long enough for two 64-bit numbers and what is between them. */
#define CHANGE_ID_SIZE 44

/* One event, as change_event_write() wants it. */
typedef struct ChangeEvent
{
	ChangeShape *shape;
	ChangeOp	op;
	TupleTableSlot *old_row;	/* deformed; NULL if the operation has none */
	TupleTableSlot *new_row;
	uint64		txid;
	TimestampTz at;
	char		id[CHANGE_ID_SIZE];

	/* of an event for a statement only */
	StringInfo	rows;			/* what is between [ and ]; else NULL */
	StringInfo	short_rows;		/* of a row that may be too large: its key */
	uint64		count;			/* of rows in this event */
	uint32		part;			/* 1 to parts */
	uint32		parts;
} ChangeEvent;

/* What change_event_write() leaves out or adds. */
#define CHANGE_WITH_BODY	0x01	/* key's row: new, old, changed; rows */
#define CHANGE_WITH_KEY		0x02	/* old_key, too */
#define CHANGE_TRUNCATED	0x04	/* say that the body was left out */
#define CHANGE_WHOLE		(CHANGE_WITH_BODY | CHANGE_WITH_KEY)
#define CHANGE_SHORT		(CHANGE_WITH_KEY | CHANGE_TRUNCATED)
#define CHANGE_SHORTEST		CHANGE_TRUNCATED

/* change_event.c */
extern ChangeShape *change_shape_create(Relation rel,
										const ChangeNames *names,
										const TriggerOptions *options);
extern bool change_compare_rows(ChangeShape *shape, TupleTableSlot *old_row,
								TupleTableSlot *new_row);
extern void change_append_key(StringInfo buf, ChangeShape *shape,
							  TupleTableSlot *row);
extern void change_append_new(StringInfo buf, ChangeShape *shape,
							  TupleTableSlot *row);
extern void change_append_row(StringInfo buf, ChangeShape *shape,
							  TupleTableSlot *old_row,
							  TupleTableSlot *new_row);
extern void change_append_keys(StringInfo buf, ChangeShape *shape,
							   TupleTableSlot *old_row,
							   TupleTableSlot *new_row);
extern void change_append_before(StringInfo buf, ChangeShape *shape,
								 TupleTableSlot *old_row,
								 TupleTableSlot *new_row);

/* change_event_format.c */
extern void change_shape_format(ChangeShape *shape, const ChangeNames *names);
extern void change_event_identify(ChangeEvent *event, uint64 number);
extern bool change_event_write(StringInfo buf, const ChangeEvent *event,
							   int what);

#endif							/* PGPUBSUB_CHANGE_EVENT_H */

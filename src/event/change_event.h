/*-------------------------------------------------------------------------
 *
 * change_event.h
 *	  Changes of rows as JSON events: what this room offers to the others.
 *
 * A trigger's arguments are parsed into TriggerOptions.  With them and the
 * table a ChangeShape is made, once per trigger and table.  A ChangeEvent
 * names the rows of one change; change_event_compose() writes it as text.
 * The rows of a statement become one or more events in statement_rows.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_CHANGE_EVENT_H
#define PGPUBSUB_CHANGE_EVENT_H

#include "base/pgpubsub.h"

#include "access/htup.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

/* What of the old row an UPDATE or DELETE carries. */
typedef enum OldValues
{
	OLD_VALUES_NONE,
	OLD_VALUES_KEY,
	OLD_VALUES_CHANGED,
	OLD_VALUES_FULL
} OldValues;

typedef enum EventFormat
{
	EVENT_PLAIN,
	EVENT_DEBEZIUM,
	EVENT_CLOUDEVENTS
} EventFormat;

typedef struct TriggerOptions
{
	char	   *channel;		/* NULL: the attached table's name */
	List	   *columns;		/* of char *; NIL: all */
	List	   *watch;			/* of char *; NIL: every UPDATE is an event */
	OldValues	old_values;
	EventFormat format;
	int			publish_mode;	/* a PublishMode, or PUBLISH_MODE_SETTING */
} TriggerOptions;

typedef enum ChangeOp
{
	CHANGE_INSERT,
	CHANGE_UPDATE,
	CHANGE_DELETE,
	CHANGE_TRUNCATE
} ChangeOp;

#define CHANGE_NUM_OPS (CHANGE_TRUNCATE + 1)

/*
 * All that events of one trigger on one table have in common, looked up once.
 * It is stale when the table, its attached ancestor or a type changes.
 */
typedef struct ChangeShape
{
	const char *channel;
	const char *schema;			/* schema and name of the attached table */
	const char *table;
	const char *partition;		/* the leaf; NULL if that is the attached
								 * table itself */
	OldValues	old_values;
	EventFormat format;
	bool		watching;		/* an UPDATE must change a watched column */
	bool		runs_user_code; /* writing a row may run a user's function */
	bool		runs_sql;		/* writing a row may run SQL */
	bool		follows_session;	/* values' text follows settings; see
									 * event_settings.c */
	List	   *row_types;		/* OIDs of relations whose row types occur */
	Size		max_payload;	/* bytes; the caller sets it per event */
	bool		too_large;		/* what is being written exceeds max_payload */

	int			ncolumns;
	struct ChangeColumn *columns;
	uint32	   *type_hashes;	/* per column: its base type in the syscache */
	int			nkeys;
	int		   *keys;			/* indexes into columns */

	/* JSON that does not vary between events; see change_event_format.c */
	char	   *heads[CHANGE_NUM_OPS];	/* of plain objects, after the id */
	char	   *cloud_heads[CHANGE_NUM_OPS];	/* of cloud events */
	char	   *names;			/* schema, table, partition */
	char	   *db;				/* the database's name, a JSON string */

	/* the event that is being written */
	bool	   *changed;		/* per column: the UPDATE changed it */
	bool		key_changed;	/* the UPDATE changed the key */
	const struct ChangeColumn *reading; /* the column whose value is being
										 * written, or NULL */
} ChangeShape;

/* The names that a shape is made with. */
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

/* One event before it is written. */
typedef struct ChangeEvent
{
	ChangeShape *shape;
	ChangeOp	op;
	TupleTableSlot *old_row;	/* deformed; NULL if the operation has none */
	TupleTableSlot *new_row;
	uint64		txid;
	TimestampTz at;
	char		id[CHANGE_ID_SIZE];

	/* set by statement_rows.c, for an event of a statement's rows only */
	StringInfo	rows;			/* what is between [ and ]; else NULL */
	StringInfo	short_rows;		/* the key of a row that may be too large */
	uint64		count;			/* of rows in this event */
	uint32		part;			/* 1 to parts */
	uint32		parts;
} ChangeEvent;

/* An event as text, in buffers that the caller makes and keeps. */
typedef struct ChangeText
{
	StringInfoData text;		/* what subscribers get */
	StringInfoData short_text;
	const char *native;			/* what native listeners get: short_text; NULL
								 * if that is text, too */
	bool		truncated;		/* it is too large for max_payload: text has
								 * no body */
} ChangeText;

/* What change_error_context() needs to know. */
typedef struct ChangeErrorContext
{
	const char *trigger;		/* its name */
	const ChangeShape *shape;
} ChangeErrorContext;

/* The rows of one statement on their way to events. */
typedef struct StatementRows StatementRows;

/* trigger_options.c */
extern void trigger_options_init(TriggerOptions *options);
extern void trigger_options_parse(TriggerOptions *options, int nargs,
								  char **args);
extern List *trigger_options_arguments(const TriggerOptions *options);
extern const char *trigger_options_find(int nargs, char **args,
										const char *name);
extern char **trigger_options_split(bytea *arguments, int *nargs);
extern char **trigger_options_of(Relation catalog, HeapTuple tuple, int *nargs);
extern const char *quote_if_needed(const char *name);
extern void check_channel_name(const char *name);
extern int	parse_word(const char *option, const char *value,
					   const char *const *words, int nwords);
extern OldValues parse_old_values(const char *value);
extern EventFormat parse_event_format(const char *value);
extern int	parse_publish_mode(const char *value);

/* change_event.c */
extern ChangeShape *change_shape_create(Relation rel,
										const ChangeNames *names,
										const TriggerOptions *options);
extern bool change_compare_rows(ChangeShape *shape, TupleTableSlot *old_row,
								TupleTableSlot *new_row);
extern void change_error_context(void *arg);

/* change_event_format.c */
extern void change_event_identify(ChangeEvent *event, uint64 number);
extern void change_event_compose(ChangeEvent *event, ChangeText *text);

/* statement_rows.c */
extern StatementRows *statement_rows_open(ChangeEvent *event,
										  TupleDesc tupdesc,
										  Tuplestorestate *old_table,
										  Tuplestorestate *new_table);
extern bool statement_rows_next(StatementRows *statement);
extern void statement_rows_close(StatementRows *statement);

/* json_value.c */
extern void json_append_string(StringInfo buf, const char *str, Size len);

#endif							/* PGPUBSUB_CHANGE_EVENT_H */

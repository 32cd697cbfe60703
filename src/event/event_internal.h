/*-------------------------------------------------------------------------
 *
 * event_internal.h
 *	  What the files of this room share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_EVENT_INTERNAL_H
#define PGPUBSUB_EVENT_INTERNAL_H

#include "event/change_event.h"

/* How the values of a type are written. */
typedef enum JsonKind
{
	JSON_KIND_BOOL,
	JSON_KIND_INT2,
	JSON_KIND_INT4,
	JSON_KIND_INT8,
	JSON_KIND_NUMBER,			/* output function; quoted if no number */
	JSON_KIND_DATETIME,			/* date or timestamp */
	JSON_KIND_TIMESTAMPTZ,
	JSON_KIND_TEXT,				/* text, varchar and char */
	JSON_KIND_JSON,				/* json: copied */
	JSON_KIND_JSONB,			/* output function, not quoted */
	JSON_KIND_ARRAY,
	JSON_KIND_COMPOSITE,
	JSON_KIND_CAST,				/* cast function to json */
	JSON_KIND_OTHER				/* output function, quoted */
} JsonKind;

/* What is needed to write values of one type; cached by the caller. */
typedef struct JsonType
{
	JsonKind	kind;
	bool		runs_user_code; /* a user's function may run */
	bool		runs_sql;		/* and that may be one not written in C */
	bool		follows_session;	/* see event_settings.c */
	bool		size_tells;		/* the value's size tells the text's least
								 * length; see json_least_length() */
	Oid			base;			/* the type below all domains */
	List	   *row_types;		/* OIDs of relations whose row types occur */
	FmgrInfo	function;		/* output or cast function, if kind has one */
	struct KeptTime *kept;		/* for JSON_KIND_TIMESTAMPTZ only */
} JsonType;

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

/* What change_event_write() leaves out or adds. */
#define CHANGE_WITH_BODY	0x01	/* what changed: new, old, rows, .. */
#define CHANGE_WITH_KEY		0x02	/* key, and old_key if it changed */
#define CHANGE_TRUNCATED	0x04	/* say that the body was left out */
#define CHANGE_WHOLE		(CHANGE_WITH_BODY | CHANGE_WITH_KEY)
#define CHANGE_SHORT		(CHANGE_WITH_KEY | CHANGE_TRUNCATED)
#define CHANGE_SHORTEST		CHANGE_TRUNCATED

/* json_value.c */
extern void json_type_init(JsonType *type, Oid typid, MemoryContext context);
extern Size json_least_length(const JsonType *type, Datum value);
extern void json_append_value(StringInfo buf, JsonType *type, Datum value);
extern void json_append_uint64(StringInfo buf, uint64 number);

/* event_settings.c */
extern void event_settings_run(bool runs_sql, void (*work) (void *arg),
							   void *arg);
extern void event_settings_renew(void);

/* change_event.c */
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
extern bool change_event_write(StringInfo buf, const ChangeEvent *event,
							   int what);

#endif							/* PGPUBSUB_EVENT_INTERNAL_H */

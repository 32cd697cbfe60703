/*-------------------------------------------------------------------------
 *
 * json_value.h
 *	  One value of a table's column as JSON text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_JSON_VALUE_H
#define PGPUBSUB_JSON_VALUE_H

#include "base/compat.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* How the values of a type are written. */
typedef enum JsonKind
{
	JSON_KIND_BOOL,
	JSON_KIND_INT2,
	JSON_KIND_INT4,
	JSON_KIND_INT8,
	JSON_KIND_NUMBER,			/* output function; quoted if no number */
	JSON_KIND_DATE,
	JSON_KIND_TIMESTAMP,
	JSON_KIND_TIMESTAMPTZ,
	JSON_KIND_TEXT,				/* text, varchar and char */
	JSON_KIND_JSON,				/* json: as it is */
	JSON_KIND_JSONB,			/* output function, as it is */
	JSON_KIND_ARRAY,
	JSON_KIND_COMPOSITE,
	JSON_KIND_CAST,				/* cast function to json */
	JSON_KIND_OTHER				/* output function, quoted */
} JsonKind;

struct KeptTime;

/* What is needed to write values of one type; cached by the caller. */
typedef struct JsonType
{
	JsonKind	kind;
	bool		runs_user_code; /* a user's function may run */
	bool		runs_sql;		/* and that may be one not written in C */
	bool		follows_session;	/* see event_settings.c */
	bool		size_tells;		/* of its text; see json_least_length() */
	Oid			base;			/* the type below all domains */
	List	   *row_types;		/* OIDs of relations: types of rows in it */
	FmgrInfo	function;		/* output or cast function, if kind has one */
	struct KeptTime *kept;		/* of JSON_KIND_TIMESTAMPTZ only */
} JsonType;

extern void json_type_init(JsonType *type, Oid typid, MemoryContext context);
extern Size json_least_length(const JsonType *type, Datum value);
extern void json_append_value(StringInfo buf, JsonType *type, Datum value);
extern void json_append_string(StringInfo buf, const char *str, Size len);
extern void json_append_uint64(StringInfo buf, uint64 number);

#endif							/* PGPUBSUB_JSON_VALUE_H */

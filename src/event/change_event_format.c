/*-------------------------------------------------------------------------
 *
 * change_event_format.c
 *	  An event as text: the envelopes plain, Debezium and CloudEvents.
 *
 * Plain:		{"id":,"op":,"schema":,"table":,"partition":,
 *				 "key":,"old_key":,"new":,"old":,"changed":,
 *				 "txid":,"pid":,"ts":,"node":}
 *	 with "count":,"part":,"parts":,"rows":[..] for a statement's rows, in
 *	 place of what stands from "key" to "changed"
 * Debezium:	{"id":,"key":,"before":,"after":,"source":{"version":,
 *				 "connector":,"name":,"ts_ms":,"db":,"schema":,"table":,
 *				 "partition":,"txId":},"op":,"ts_ms":,"node":}
 * CloudEvents: {"specversion":,"id":,"source":,"type":,"subject":,"time":,
 *				 "datacontenttype":,"data":{the plain object}}
 *
 * 1. Only an UPDATE that changed the key has old_key; in Debezium's format,
 *	  "before" has the old key's columns instead.
 *
 * 2. An event that is too long, for max_payload or only for native listeners,
 *	  is written a second time without its body, and with "truncated":true at
 *	  its end.  The body is new, old and changed; before and after, in whose
 *	  place there is old_key then; or the rows of a statement.  If even that is
 *	  too long, key and old_key are left out as well, and only together: a key
 *	  without old_key would say that the key did not change.  Where a single
 *	  row of a statement is too long for an event, "rows" has its key alone.
 *
 * 3. Debezium's connectors give the key beside the envelope, as the message's
 *	  own key; here it has to be inside.  Of source, Debezium requires version,
 *	  connector, name, ts_ms, db, schema and table; name tells servers apart.
 *
 * 4. Times are the clock's, not the transaction's, and in UTC whatever
 *	  TimeZone says.
 *
 *-------------------------------------------------------------------------
 */
#include "event/event_internal.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"	/* get_database_name(), from 19 on */
#include "utils/memutils.h"

/* The operation as each format names it. */
static const char *const plain_ops[CHANGE_NUM_OPS] =
{"INSERT", "UPDATE", "DELETE", "TRUNCATE"};
static const char *const debezium_ops[CHANGE_NUM_OPS] = {"c", "u", "d", "t"};
static const char *const cloud_ops[CHANGE_NUM_OPS] =
{"insert", "update", "delete", "truncate"};

/* As default_version in pgpubsub.control: the test formats compares them. */
#define EXTENSION_VERSION "1.1"

/* A buffer that grew beyond this, in bytes, is not kept for the next event. */
#define KEPT_BUFFER_SIZE (64 * 1024)

#define APPEND_LITERAL(buf, literal) \
	appendBinaryStringInfo(buf, literal, sizeof(literal) - 1)

/* Append the label, which includes comma and colon, and a name as string. */
static void
append_name(StringInfo buf, const char *label, const char *name)
{
	appendStringInfoString(buf, label);
	json_append_string(buf, name, strlen(name));
}

/* Append a slash and a name, percent-encoded as RFC 3986 wants it in a path. */
static void
append_uri_segment(StringInfo buf, const char *name)
{
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		name = pg_server_to_any(name, strlen(name), PG_UTF8);
	appendStringInfoChar(buf, '/');
	for (; *name; name++)
	{
		unsigned char c = (unsigned char) *name;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			(c >= '0' && c <= '9') || strchr("-._~", c) != NULL)
			appendStringInfoChar(buf, c);
		else
			appendStringInfo(buf, "%%%02X", c);
	}
}

/* What follows the id in a cloud event, up to the type. */
static char *
cloud_head(const ChangeShape *shape, ChangeOp op, const char *db,
		   bool statement)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "\",\"source\":\"");
	append_uri_segment(&buf, db);
	append_uri_segment(&buf, shape->schema);
	append_uri_segment(&buf, shape->table);
	appendStringInfo(&buf, "\",\"type\":\"pgpubsub.%s.%s\"",
					 statement || op == CHANGE_TRUNCATE ? "statement" : "row",
					 cloud_ops[op]);
	return buf.data;
}

/*
 * Prepare the parts of the envelope that do not vary between events.  Called
 * by change_shape_create() once the shape has its names.
 */
void
change_shape_format(ChangeShape *shape, const ChangeNames *names)
{
	char	   *db = get_database_name(MyDatabaseId);
	StringInfoData buf;

	initStringInfo(&buf);
	append_name(&buf, ",\"schema\":", shape->schema);
	append_name(&buf, ",\"table\":", shape->table);
	if (shape->partition)
		append_name(&buf, ",\"partition\":", shape->partition);
	shape->names = buf.data;

	initStringInfo(&buf);
	json_append_string(&buf, db, strlen(db));
	shape->db = buf.data;

	for (int op = 0; op < CHANGE_NUM_OPS; op++)
	{
		shape->heads[op] = psprintf("\",\"op\":\"%s\"%s", plain_ops[op],
									shape->names);
		if (shape->format == EVENT_CLOUDEVENTS)
			shape->cloud_heads[op] = cloud_head(shape, op, db,
												names->statement);
	}
}

/*
 * Give the event its id, time and transaction.  number is the event's number
 * in this top transaction, which is assigned a transaction id if it has none.
 */
void
change_event_identify(ChangeEvent *event, uint64 number)
{
	int			len;

	event->txid = U64FromFullTransactionId(GetTopFullTransactionId());
	event->at = GetCurrentTimestamp();
	len = pg_ulltoa_n(event->txid, event->id);
	event->id[len++] = '-';
	len += pg_ulltoa_n(number, event->id + len);
	event->id[len] = '\0';
}

/* Write a number below 100 as two digits; returns what follows them. */
static inline char *
two_digits(char *to, int number)
{
	*to++ = '0' + number / 10;
	*to++ = '0' + number % 10;
	return to;
}

/*
 * Append a time as "2026-11-21T03:12:00.123456+00:00", quoted.  The text of the
 * last second is kept, since most events are of the second of the one before.
 */
static void
append_time(StringInfo buf, TimestampTz at)
{
	static int64 kept_second = PG_INT64_MIN;
	static char text[] = "\"0000-00-00T00:00:00.000000+00:00\"";
	int64		second = at / USECS_PER_SEC;
	int			usec = at % USECS_PER_SEC;

	if (second != kept_second)
	{
		int64		day = second / SECS_PER_DAY;
		int			time = second % SECS_PER_DAY;
		int			year,
					month,
					mday;

		j2date((int) day + POSTGRES_EPOCH_JDATE, &year, &month, &mday);
		two_digits(two_digits(text + 1, year / 100), year % 100);
		two_digits(text + 6, month);
		two_digits(text + 9, mday);
		two_digits(text + 12, time / SECS_PER_HOUR);
		two_digits(text + 15, time / SECS_PER_MINUTE % MINS_PER_HOUR);
		two_digits(text + 18, time % SECS_PER_MINUTE);
		kept_second = second;
	}
	two_digits(text + 21, usec / 10000);
	two_digits(text + 23, usec / 100 % 100);
	two_digits(text + 25, usec % 100);
	appendBinaryStringInfo(buf, text, sizeof(text) - 1);
}

/* Append a time in milliseconds since 1970. */
static void
append_ms(StringInfo buf, TimestampTz at)
{
	json_append_uint64(buf, at / 1000 +
					   (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
					   (USECS_PER_DAY / 1000));
}

/* Is pgpubsub.node_name set? */
static bool
has_node_name(void)
{
	return pgpubsub_node_name && pgpubsub_node_name[0] != '\0';
}

/*
 * Append pgpubsub.node_name.  It comes from a file, which has no encoding: if
 * it is not valid in the database's encoding, its non-ASCII bytes become "?".
 */
static void
append_node_name(StringInfo buf)
{
	char		ascii[PGPUBSUB_NODE_NAME_MAX + 1];
	int			len = (int) strlen(pgpubsub_node_name);

	if (pg_verifymbstr(pgpubsub_node_name, len, true))
	{
		json_append_string(buf, pgpubsub_node_name, len);
		return;
	}
	for (int i = 0; i < len; i++)
		ascii[i] = IS_HIGHBIT_SET(pgpubsub_node_name[i]) ? '?' :
			pgpubsub_node_name[i];
	json_append_string(buf, ascii, len);
}

/* Append what ends an event in every format: node, truncated, the brace. */
static void
append_end(StringInfo buf, int what)
{
	if (has_node_name())
	{
		APPEND_LITERAL(buf, ",\"node\":");
		append_node_name(buf);
	}
	if (what & CHANGE_TRUNCATED)
		APPEND_LITERAL(buf, ",\"truncated\":true");
	appendStringInfoChar(buf, '}');
}

/* The row whose key is the event's key; NULL if there is none. */
static TupleTableSlot *
key_row(const ChangeEvent *event)
{
	return event->shape->nkeys == 0 ? NULL :
		event->new_row ? event->new_row : event->old_row;
}

/* Append how many rows of a statement the event has, and the rows. */
static void
append_rows(StringInfo buf, const ChangeEvent *event, int what)
{
	StringInfo	rows = NULL;

	APPEND_LITERAL(buf, ",\"count\":");
	json_append_uint64(buf, event->count);
	if (event->parts > 1)
	{
		APPEND_LITERAL(buf, ",\"part\":");
		json_append_uint64(buf, event->part);
		APPEND_LITERAL(buf, ",\"parts\":");
		json_append_uint64(buf, event->parts);
	}
	if (what & CHANGE_WITH_BODY)
		rows = event->rows;
	else if ((what & CHANGE_WITH_KEY) && event->short_rows &&
			 event->short_rows->len > 0)
		rows = event->short_rows;
	if (rows)
	{
		APPEND_LITERAL(buf, ",\"rows\":[");
		appendBinaryStringInfo(buf, rows->data, rows->len);
		appendStringInfoChar(buf, ']');
	}
}

/* Append the event as a plain object. */
static void
append_plain(StringInfo buf, const ChangeEvent *event, int what)
{
	ChangeShape *shape = event->shape;

	APPEND_LITERAL(buf, "{\"id\":\"");
	appendStringInfoString(buf, event->id);
	appendStringInfoString(buf, shape->heads[event->op]);
	if (event->rows)
		append_rows(buf, event, what);
	else if (what & CHANGE_WITH_BODY)
		change_append_row(buf, shape, event->old_row, event->new_row);
	else if (what & CHANGE_WITH_KEY)
		change_append_keys(buf, shape, event->old_row, event->new_row);
	APPEND_LITERAL(buf, ",\"txid\":");
	json_append_uint64(buf, event->txid);
	APPEND_LITERAL(buf, ",\"pid\":");
	json_append_uint64(buf, MyProcPid);
	APPEND_LITERAL(buf, ",\"ts\":");
	append_time(buf, event->at);
	append_end(buf, what);
}

/* Append Debezium's "source", which says where the event comes from. */
static void
append_debezium_source(StringInfo buf, const ChangeEvent *event)
{
	const ChangeShape *shape = event->shape;

	APPEND_LITERAL(buf, ",\"source\":{\"version\":\"" EXTENSION_VERSION
				   "\",\"connector\":\"pgpubsub\",\"name\":");
	if (has_node_name())
		append_node_name(buf);
	else
		appendStringInfoString(buf, shape->db);
	APPEND_LITERAL(buf, ",\"ts_ms\":");
	append_ms(buf, event->at);
	APPEND_LITERAL(buf, ",\"db\":");
	appendStringInfoString(buf, shape->db);
	appendStringInfoString(buf, shape->names);
	APPEND_LITERAL(buf, ",\"txId\":");
	json_append_uint64(buf, event->txid);
	appendStringInfoChar(buf, '}');
}

/* Append the event in Debezium's envelope. */
static void
append_debezium(StringInfo buf, const ChangeEvent *event, int what)
{
	ChangeShape *shape = event->shape;
	TupleTableSlot *keyed = key_row(event);

	APPEND_LITERAL(buf, "{\"id\":\"");
	appendStringInfoString(buf, event->id);
	appendStringInfoChar(buf, '"');
	if (keyed && (what & CHANGE_WITH_BODY))
	{
		APPEND_LITERAL(buf, ",\"key\":");
		change_append_key(buf, shape, keyed);
	}
	else if (what & CHANGE_WITH_KEY)
		change_append_keys(buf, shape, event->old_row, event->new_row);
	if (what & CHANGE_WITH_BODY)
	{
		APPEND_LITERAL(buf, ",\"before\":");
		change_append_before(buf, shape, event->old_row, event->new_row);
		APPEND_LITERAL(buf, ",\"after\":");
		if (event->new_row)
			change_append_new(buf, shape, event->new_row);
		else
			APPEND_LITERAL(buf, "null");
	}
	append_debezium_source(buf, event);
	APPEND_LITERAL(buf, ",\"op\":\"");
	appendStringInfoString(buf, debezium_ops[event->op]);
	APPEND_LITERAL(buf, "\",\"ts_ms\":");
	append_ms(buf, event->at);
	append_end(buf, what);
}

/* Append the event as a cloud event, whose subject is the key's JSON text. */
static void
append_cloud_event(StringInfo buf, const ChangeEvent *event, int what)
{
	ChangeShape *shape = event->shape;
	TupleTableSlot *keyed = key_row(event);

	APPEND_LITERAL(buf, "{\"specversion\":\"1.0\",\"id\":\"");
	appendStringInfoString(buf, event->id);
	appendStringInfoString(buf, shape->cloud_heads[event->op]);
	if (keyed && (what & CHANGE_WITH_KEY))
	{
		StringInfoData key;

		initStringInfo(&key);
		change_append_key(&key, shape, keyed);
		APPEND_LITERAL(buf, ",\"subject\":");
		json_append_string(buf, key.data, key.len);
		pfree(key.data);
	}
	APPEND_LITERAL(buf, ",\"time\":");
	append_time(buf, event->at);
	APPEND_LITERAL(buf, ",\"datacontenttype\":\"application/json\",\"data\":");
	append_plain(buf, event, what);
	appendStringInfoChar(buf, '}');
}

/*
 * Append the event, or as much of it as the CHANGE_ bits in what say.  The
 * rows must be deformed; for an UPDATE, change_compare_rows() must have been
 * called.  Returns false if the text exceeds the shape's max_payload, and buf
 * then has a part of it.  CHANGE_SHORTEST takes a few kilobytes at most, and
 * can be published whatever max_payload says.  Raises what the types'
 * functions raise.
 */
bool
change_event_write(StringInfo buf, const ChangeEvent *event, int what)
{
	event->shape->too_large = false;
	switch (event->shape->format)
	{
		case EVENT_PLAIN:
			append_plain(buf, event, what);
			break;
		case EVENT_DEBEZIUM:
			append_debezium(buf, event, what);
			break;
		case EVENT_CLOUDEVENTS:
			append_cloud_event(buf, event, what);
			break;
	}
	/* statement_rows.c leaves out a row that is too large by itself */
	if (event->rows && event->rows->len == 0 && (what & CHANGE_WITH_BODY))
		return false;
	return !event->shape->too_large &&
		(Size) buf->len <= event->shape->max_payload;
}

/* Empty a buffer for the next event; give back what a large one took. */
static void
empty_buffer(StringInfo buf)
{
	if (buf->maxlen > KEPT_BUFFER_SIZE)
	{
		MemoryContext context = GetMemoryChunkContext(buf->data);
		MemoryContext caller = MemoryContextSwitchTo(context);

		pfree(buf->data);
		initStringInfo(buf);
		MemoryContextSwitchTo(caller);
	}
	else
		resetStringInfo(buf);
}

/*
 * Write the event without its body; without its key, too, if with the key it
 * exceeds max_payload or max, in bytes.
 */
static void
write_short_event(StringInfo buf, ChangeEvent *event, int max)
{
	empty_buffer(buf);
	if (change_event_write(buf, event, CHANGE_SHORT) && buf->len <= max)
		return;
	empty_buffer(buf);
	(void) change_event_write(buf, event, CHANGE_SHORTEST);
}

/* The arguments of change_event_compose(), for write_event(). */
typedef struct Writing
{
	ChangeEvent *event;
	ChangeText *text;
} Writing;

/* Do what change_event_compose() says; arg is a Writing. */
static void
write_event(void *arg)
{
	Writing    *writing = arg;
	ChangeEvent *event = writing->event;
	ChangeText *text = writing->text;

	empty_buffer(&text->text);
	text->native = NULL;
	text->truncated = !change_event_write(&text->text, event, CHANGE_WHOLE);
	if (text->truncated)
		write_short_event(&text->text, event, INT_MAX);
	else if (event->short_rows)
		resetStringInfo(event->short_rows); /* it was not too large */
	if (text->text.len <= PGPUBSUB_NATIVE_MAX)
		return;
	write_short_event(&text->short_text, event, PGPUBSUB_NATIVE_MAX);
	text->native = text->short_text.data;
}

/*
 * Write the event, as much of it as can be published, and what native
 * listeners get instead if it is too long for them.  It must have its
 * identity; else as for change_event_write().
 */
void
change_event_compose(ChangeEvent *event, ChangeText *text)
{
	Writing		writing = {event, text};

	/* the rows of a statement have been written under these settings */
	if (event->shape->follows_session && event->rows == NULL)
		event_settings_run(event->shape->runs_sql, write_event, &writing);
	else
		write_event(&writing);
}

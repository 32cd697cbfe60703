/*-------------------------------------------------------------------------
 *
 * event.c
 *	  See event.h.
 *
 * A payload is whatever somebody has published.  Where it is a change event of
 * pgpubsub's, in any of the three formats, its members fill the template, and its
 * own id is the key by which duplicates are known: it is the same even if the
 * server, after a crash, gives the event a higher seq.
 *
 * An id in any other payload is none: two events may well have the same one, and a
 * broker that knows duplicates by it would drop the second.  The key is then the
 * system identifier, the database and the seq.
 *
 * Who may publish may also write what looks like a change event, with the id that a
 * real one is about to get.  So that a broker does not take the real one for a
 * duplicate of that, the key has a sum of the payload, too.  And nothing that a
 * payload says goes into a header whose length the broker bounds, unless its length
 * is bounded here.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/event.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge/json.h"
#include "common/bytes.h"
#include "common/memory.h"

/* The digits of a number in an id. */
#define MOST_DIGITS 20

/* What a payload is. */
typedef struct Payload
{
	const char *content_type;
	JsonValue	id;				/* of a change event */
	JsonValue	op;
	JsonValue	schema;
	JsonValue	table;
	JsonValue	key;
} Payload;

/* Members that tell what an object is. */
typedef enum Member
{
	MEMBER_ID, MEMBER_OP, MEMBER_SCHEMA, MEMBER_TABLE, MEMBER_KEY, MEMBER_TXID,
	MEMBER_SOURCE, MEMBER_TS_MS, MEMBER_SPECVERSION, MEMBER_TYPE, MEMBER_DATA,
	MEMBERS
} Member;

static const char *const member_names[MEMBERS] = {
	"id", "op", "schema", "table", "key", "txid",
	"source", "ts_ms", "specversion", "type", "data"
};

/* Is it an id of a change event: two numbers with a dash between? */
static bool
is_event_id(JsonValue value)
{
	size_t		digits[2] = {0, 0};
	int			dashes = 0;

	if (!json_is_string(value))
		return false;
	for (size_t i = 1; i + 1 < value.length; i++)
	{
		char		c = value.start[i];

		if (c == '-')
			dashes++;
		else if (c < '0' || c > '9')
			return false;
		else if (dashes < 2)
			digits[dashes]++;
		if (dashes > 1)
			return false;
	}
	return dashes == 1 && digits[0] > 0 && digits[0] <= MOST_DIGITS &&
		digits[1] > 0 && digits[1] <= MOST_DIGITS;
}

/* Is it one of the operations? */
static bool
is_op(JsonValue value)
{
	return json_equals(value, "INSERT") || json_equals(value, "UPDATE") ||
		json_equals(value, "DELETE") || json_equals(value, "TRUNCATE");
}

/* Take a plain change event's members, if it is one. */
static bool
take_plain(Payload *payload, const JsonValue *members)
{
	if (!is_event_id(members[MEMBER_ID]) || !is_op(members[MEMBER_OP]) ||
		!json_is_string(members[MEMBER_SCHEMA]) ||
		!json_is_string(members[MEMBER_TABLE]) || members[MEMBER_TXID].start == NULL)
		return false;
	payload->id = members[MEMBER_ID];
	payload->op = members[MEMBER_OP];
	payload->schema = members[MEMBER_SCHEMA];
	payload->table = members[MEMBER_TABLE];
	payload->key = members[MEMBER_KEY];
	return true;
}

/* Take the members of one in Debezium's format, if it is one. */
static bool
take_debezium(Payload *payload, const JsonValue *members)
{
	static const char *const letters[] = {"c", "u", "d", "t"};
	static const char *const ops[] =
	{"\"INSERT\"", "\"UPDATE\"", "\"DELETE\"", "\"TRUNCATE\""};
	JsonValue	source[MEMBERS];

	if (!is_event_id(members[MEMBER_ID]) || members[MEMBER_TS_MS].start == NULL ||
		!json_is_object(members[MEMBER_SOURCE]) ||
		!json_members(members[MEMBER_SOURCE].start, members[MEMBER_SOURCE].length,
					  member_names, source, MEMBERS) ||
		!json_is_string(source[MEMBER_SCHEMA]) || !json_is_string(source[MEMBER_TABLE]))
		return false;
	for (int i = 0; i < 4; i++)
	{
		if (json_equals(members[MEMBER_OP], letters[i]))
		{
			payload->id = members[MEMBER_ID];
			payload->op = (JsonValue)
			{
				ops[i], strlen(ops[i])
			};
			payload->schema = source[MEMBER_SCHEMA];
			payload->table = source[MEMBER_TABLE];
			payload->key = members[MEMBER_KEY];
			return true;
		}
	}
	return false;
}

/* Take those of one in CloudEvents' format, if it is one of ours. */
static void
take_cloud(Payload *payload, const JsonValue *members)
{
	JsonValue	data[MEMBERS];

	if (json_is_object(members[MEMBER_DATA]) &&
		json_members(members[MEMBER_DATA].start, members[MEMBER_DATA].length,
					 member_names, data, MEMBERS))
		(void) take_plain(payload, data);
}

/* Find out what a payload is. */
static void
understand(Payload *payload, const char *text, size_t length)
{
	JsonValue	members[MEMBERS];

	memset(payload, 0, sizeof(*payload));
	payload->content_type = "text/plain; charset=utf-8";
	if (!json_members(text, length, member_names, members, MEMBERS))
	{
		if (json_is_valid(text, length))
			payload->content_type = "application/json";
		return;
	}
	payload->content_type = "application/json";
	if (json_is_string(members[MEMBER_SPECVERSION]) && json_is_string(members[MEMBER_ID]) &&
		json_is_string(members[MEMBER_SOURCE]) && json_is_string(members[MEMBER_TYPE]))
	{
		payload->content_type = "application/cloudevents+json";
		take_cloud(payload, members);
	}
	else if (!take_plain(payload, members))
		(void) take_debezium(payload, members);
}

/* Append a key's values, with commas between, in the order of its columns. */
static void
append_key(Bytes *bytes, JsonValue key)
{
	JsonWalk	walk;
	JsonValue	name;
	JsonValue	value;
	bool		first = true;

	if (!json_is_object(key))
	{
		json_append_text(bytes, key);
		return;
	}
	json_walk(&walk, key);
	while (json_walk_next(&walk, &name, &value))
	{
		if (!first)
			bytes_append_byte(bytes, ',');
		first = false;
		json_append_text(bytes, value);
	}
}

/*
 * End a value for the template, which begins at that offset, with a zero byte: a
 * byte that must not be becomes '_', and a value that is empty the placeholder.
 */
static void
end_value(const EventSetting *setting, Bytes *bytes, size_t begin)
{
	if (bytes->end == begin)
		bytes_append(bytes, setting->placeholder, strlen(setting->placeholder));
	for (size_t i = begin; i < bytes->end; i++)
	{
		if (bytes->data[i] == '\0' || !setting->allowed((unsigned char) bytes->data[i]))
			bytes->data[i] = '_';
	}
	bytes_append_byte(bytes, '\0');
}

/* The address that the template makes of the channel and the payload. */
static void
append_address(const EventSetting *setting, const char *channel,
			   const Payload *payload, Bytes *result)
{
	static Bytes scratch;
	const JsonValue parts[TEMPLATE_NAMES] = {
		[TEMPLATE_SCHEMA] = payload->schema,[TEMPLATE_TABLE] = payload->table,
		[TEMPLATE_OP] = payload->op,[TEMPLATE_KEY] = payload->key
	};
	size_t		offsets[TEMPLATE_NAMES];
	const char *values[TEMPLATE_NAMES];

	scratch.begin = scratch.end = 0;
	for (int i = 0; i < TEMPLATE_NAMES; i++)
	{
		offsets[i] = scratch.end;
		if (i == TEMPLATE_CHANNEL)
			bytes_append(&scratch, channel, strlen(channel));
		else if (i == TEMPLATE_KEY && parts[i].start != NULL)
			append_key(&scratch, parts[i]);
		else if (parts[i].start != NULL)
			json_append_text(&scratch, parts[i]);
		end_value(setting, &scratch, offsets[i]);
	}
	for (int i = 0; i < TEMPLATE_NAMES; i++)
		values[i] = scratch.data + offsets[i];
	template_expand(setting->address, values, result);
}

/* Append a value as a string of its own, without the zero bytes it may hold. */
static void
append_value(Bytes *bytes, JsonValue value)
{
	size_t		begin = bytes->end;

	if (value.start != NULL)
		json_append_text(bytes, value);
	for (size_t i = begin; i < bytes->end; i++)
	{
		if ((unsigned char) bytes->data[i] < ' ')
			bytes->data[i] = '?';
	}
	bytes_append_byte(bytes, '\0');
}

/* A sum of the bytes: FNV-1a. */
static uint64_t
sum_of(const char *text, size_t length)
{
	uint64_t	sum = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < length; i++)
		sum = (sum ^ (unsigned char) text[i]) * UINT64_C(0x100000001b3);
	return sum;
}

/* Offsets in a message's memory. */
typedef struct Offsets
{
	size_t		channel;
	size_t		id;
	size_t		key;
	size_t		op;
	size_t		address;
	size_t		payload;
} Offsets;

/* Make a message of what was written down. */
static Message *
make_message(const Bytes *text, const Offsets *offsets, size_t payload_length)
{
	Message    *message = memory_get_zeroed(sizeof(Message) + text->end);
	char	   *data = (char *) (message + 1);

	memcpy(data, text->data, text->end);
	message->size = sizeof(Message) + text->end;
	message->channel = data + offsets->channel;
	message->id = data + offsets->id;
	message->key = data + offsets->key;
	message->op = data + offsets->op;
	message->address = data + offsets->address;
	message->payload = data + offsets->payload;
	message->payload_length = payload_length;
	return message;
}

/* The message of an event; to be freed with message_free(). */
Message *
event_message(const EventSetting *setting, int64_t seq, int64_t relayed_at,
			  const char *channel, const char *text, size_t length)
{
	static Bytes scratch;
	Offsets		offsets;
	Payload		payload;
	Message    *message;
	char		number[32];

	understand(&payload, text, length);
	scratch.begin = scratch.end = 0;
	offsets.channel = scratch.end;
	bytes_append_string(&scratch, channel);
	offsets.id = scratch.end;
	offsets.key = offsets.id;
	if (payload.id.start != NULL)
	{
		append_value(&scratch, payload.id);
		offsets.key = scratch.end;
		bytes_append(&scratch, setting->origin, strlen(setting->origin));
		bytes_append_byte(&scratch, ':');
		json_append_text(&scratch, payload.id);
		snprintf(number, sizeof(number), ":%016" PRIx64, sum_of(text, length));
		bytes_append_string(&scratch, number);
	}
	else
	{
		snprintf(number, sizeof(number), "-%" PRId64, seq);
		bytes_append(&scratch, setting->origin, strlen(setting->origin));
		bytes_append_string(&scratch, number);
	}
	offsets.op = scratch.end;
	append_value(&scratch, payload.op);
	offsets.address = scratch.end;
	append_address(setting, channel, &payload, &scratch);
	offsets.payload = scratch.end;
	bytes_append(&scratch, text, length);
	bytes_append_byte(&scratch, '\0');
	message = make_message(&scratch, &offsets, length);
	message->seq = seq;
	message->relayed_at = relayed_at;
	message->type = "pgpubsub.event";
	message->content_type = payload.content_type;
	return message;
}

/*
 * The message of a gap: so many events are missing before what comes next, or, with
 * -1, nobody knows how many.  It goes where an event of a channel "pgpubsub.gap"
 * would go whose payload is no change event.
 */
Message *
event_gap(const EventSetting *setting, int64_t seq, int64_t lost)
{
	static const Payload none;
	Bytes		scratch = {0};
	Bytes		body = {0};
	Offsets		offsets;
	Message    *message;
	char		number[64];

	snprintf(number, sizeof(number), "{\"type\":\"pgpubsub.gap\",\"seq\":%" PRId64 ",\"lost\":", seq);
	bytes_append(&body, number, strlen(number));
	snprintf(number, sizeof(number), lost >= 0 ? "%" PRId64 : "null", lost);
	bytes_append(&body, number, strlen(number));
	bytes_append(&body, ",\"subscription\":", 16);
	json_append_quoted(&body, setting->subscription);
	bytes_append_byte(&body, '}');
	offsets.channel = scratch.end;
	bytes_append_byte(&scratch, '\0');
	offsets.id = offsets.key = scratch.end;
	snprintf(number, sizeof(number), "-%" PRId64 "-gap", seq);
	bytes_append(&scratch, setting->origin, strlen(setting->origin));
	bytes_append_string(&scratch, number);
	offsets.op = scratch.end;
	bytes_append_byte(&scratch, '\0');
	offsets.address = scratch.end;
	append_address(setting, "pgpubsub.gap", &none, &scratch);
	offsets.payload = scratch.end;
	bytes_append(&scratch, body.data, body.end);
	bytes_append_byte(&scratch, '\0');
	message = make_message(&scratch, &offsets, body.end);
	message->seq = seq;
	message->is_gap = true;
	message->lost = lost;
	message->type = "pgpubsub.gap";
	message->content_type = "application/json";
	bytes_free(&body);
	bytes_free(&scratch);
	return message;
}

/*-------------------------------------------------------------------------
 *
 * json.h
 *	  JSON text: is it valid, and where in it are the members of an object?
 *
 * Nothing is copied and nothing is allocated: a value is a piece of the text.
 * Numbers stay as they are written, whatever their size.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_JSON_H
#define BRIDGE_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bytes.h"

/* A piece of the text; start is NULL where there is no such value. */
typedef struct JsonValue
{
	const char *start;
	size_t		length;
} JsonValue;

/* A walk through the members of an object; see json_walk(). */
typedef struct JsonWalk
{
	const char *at;
	const char *end;
	bool		first;
} JsonWalk;

extern bool json_is_valid(const char *text, size_t length);
extern bool json_members(const char *text, size_t length,
						 const char *const *names, JsonValue *values, int count);
extern void json_walk(JsonWalk *walk, JsonValue object);
extern bool json_walk_next(JsonWalk *walk, JsonValue *name, JsonValue *value);
extern bool json_is_string(JsonValue value);
extern bool json_is_object(JsonValue value);
extern bool json_equals(JsonValue value, const char *string);
extern void json_append_text(Bytes *bytes, JsonValue value);
extern void json_append_quoted(Bytes *bytes, const char *string);

#endif

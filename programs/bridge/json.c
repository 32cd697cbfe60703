/*-------------------------------------------------------------------------
 *
 * json.c
 *	  See json.h.
 *
 * A recursive descent by RFC 8259 over bytes.  Arrays and objects may be nested
 * MAX_DEPTH deep; what is deeper counts as invalid, which for the bridge means
 * that a payload goes through as plain text.  Who calls knows that the bytes are
 * UTF-8, for the server has sent them so.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/json.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEPTH 200

typedef struct Scan
{
	const char *at;
	const char *end;
} Scan;

static bool scan_value(Scan *scan, int depth);

/* Go over white space. */
static void
skip_space(Scan *scan)
{
	while (scan->at < scan->end &&
		   (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\n' || *scan->at == '\r'))
		scan->at++;
}

/* Go over that character, if it is the next one behind white space. */
static bool
skip_char(Scan *scan, char c)
{
	skip_space(scan);
	if (scan->at >= scan->end || *scan->at != c)
		return false;
	scan->at++;
	return true;
}

/* Is it a hexadecimal digit?  Whatever the locale. */
static bool
is_hex(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Is it a decimal digit? */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Go over a string, which begins at the next character. */
static bool
scan_string(Scan *scan)
{
	if (!skip_char(scan, '"'))
		return false;
	while (scan->at < scan->end)
	{
		char		c = *scan->at++;

		if (c == '"')
			return true;
		if ((unsigned char) c < ' ')
			return false;
		if (c != '\\')
			continue;
		if (scan->at >= scan->end)
			return false;
		c = *scan->at++;
		if (c == 'u')
		{
			for (int i = 0; i < 4; i++)
			{
				if (scan->at >= scan->end || !is_hex(*scan->at++))
					return false;
			}
		}
		else if (c == '\0' || strchr("\"\\/bfnrt", c) == NULL)
			return false;
	}
	return false;
}

/* Go over one digit or more. */
static bool
scan_digits(Scan *scan)
{
	const char *begin = scan->at;

	while (scan->at < scan->end && is_digit(*scan->at))
		scan->at++;
	return scan->at > begin;
}

/* Go over a number. */
static bool
scan_number(Scan *scan)
{
	if (*scan->at == '-')
		scan->at++;
	if (scan->at < scan->end && *scan->at == '0')
		scan->at++;
	else if (!scan_digits(scan))
		return false;
	if (scan->at < scan->end && *scan->at == '.')
	{
		scan->at++;
		if (!scan_digits(scan))
			return false;
	}
	if (scan->at < scan->end && (*scan->at == 'e' || *scan->at == 'E'))
	{
		scan->at++;
		if (scan->at < scan->end && (*scan->at == '+' || *scan->at == '-'))
			scan->at++;
		return scan_digits(scan);
	}
	return true;
}

/* Go over that word. */
static bool
scan_word(Scan *scan, const char *word)
{
	size_t		length = strlen(word);

	if ((size_t) (scan->end - scan->at) < length ||
		memcmp(scan->at, word, length) != 0)
		return false;
	scan->at += length;
	return true;
}

/* Go over a member's name and value, and tell where these are. */
static bool
scan_member(Scan *scan, int depth, JsonValue *name, JsonValue *value)
{
	skip_space(scan);
	name->start = scan->at;
	if (!scan_string(scan))
		return false;
	name->length = scan->at - name->start;
	if (!skip_char(scan, ':'))
		return false;
	skip_space(scan);
	value->start = scan->at;
	if (!scan_value(scan, depth))
		return false;
	value->length = scan->at - value->start;
	return true;
}

/* Go over an object or an array, whose bracket is the next character. */
static bool
scan_container(Scan *scan, int depth)
{
	char		close = *scan->at++ == '{' ? '}' : ']';
	JsonValue	name;
	JsonValue	value;

	if (depth >= MAX_DEPTH)
		return false;
	if (skip_char(scan, close))
		return true;
	do
	{
		if (close == '}' ? !scan_member(scan, depth + 1, &name, &value) :
			!scan_value(scan, depth + 1))
			return false;
	} while (skip_char(scan, ','));
	return skip_char(scan, close);
}

/* Go over a value of any kind, so many containers deep. */
static bool
scan_value(Scan *scan, int depth)
{
	skip_space(scan);
	if (scan->at >= scan->end)
		return false;
	switch (*scan->at)
	{
		case '{':
		case '[':
			return scan_container(scan, depth);
		case '"':
			return scan_string(scan);
		case 't':
			return scan_word(scan, "true");
		case 'f':
			return scan_word(scan, "false");
		case 'n':
			return scan_word(scan, "null");
		default:
			return scan_number(scan);
	}
}

/* Is the text one JSON value? */
bool
json_is_valid(const char *text, size_t length)
{
	Scan		scan = {text, text + length};

	if (!scan_value(&scan, 0))
		return false;
	skip_space(&scan);
	return scan.at == scan.end;
}

/*
 * Is the text one JSON object?  Then values are those of its members that have
 * the names; the last one counts where a name comes twice, as with jsonb.  No
 * name may need an escape.
 */
bool
json_members(const char *text, size_t length, const char *const *names,
			 JsonValue *values, int count)
{
	Scan		scan = {text, text + length};
	JsonValue	name;
	JsonValue	value;

	memset(values, 0, count * sizeof(JsonValue));
	if (!skip_char(&scan, '{'))
		return false;
	if (!skip_char(&scan, '}'))
	{
		do
		{
			if (!scan_member(&scan, 1, &name, &value))
				return false;
			for (int i = 0; i < count; i++)
			{
				if (json_equals(name, names[i]))
					values[i] = value;
			}
		} while (skip_char(&scan, ','));
		if (!skip_char(&scan, '}'))
			return false;
	}
	skip_space(&scan);
	return scan.at == scan.end;
}

/* Begin to walk through the members of an object out of valid JSON text. */
void
json_walk(JsonWalk *walk, JsonValue object)
{
	walk->at = object.start + 1;
	walk->end = object.start + object.length;
	walk->first = true;
}

/* The next member; false if there is none. */
bool
json_walk_next(JsonWalk *walk, JsonValue *name, JsonValue *value)
{
	Scan		scan = {walk->at, walk->end};
	bool		more = walk->first || skip_char(&scan, ',');

	if (!more || !scan_member(&scan, 0, name, value))
		return false;
	walk->at = scan.at;
	walk->first = false;
	return true;
}

/* Is it a string? */
bool
json_is_string(JsonValue value)
{
	return value.start != NULL && *value.start == '"';
}

/* Is it an object? */
bool
json_is_object(JsonValue value)
{
	return value.start != NULL && *value.start == '{';
}

/* Is it that string, written without escapes? */
bool
json_equals(JsonValue value, const char *string)
{
	size_t		length = strlen(string);

	return json_is_string(value) && value.length == length + 2 &&
		memcmp(value.start + 1, string, length) == 0;
}

/* The number that four hexadecimal digits are. */
static unsigned
hex_number(const char *digits)
{
	unsigned	number = 0;

	for (int i = 0; i < 4; i++)
	{
		char		c = digits[i];

		number = number * 16 + (is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return number;
}

/* Append a character in UTF-8; what is no character becomes a '?'. */
static void
append_character(Bytes *bytes, unsigned code)
{
	if (code == 0 || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF)
		code = '?';
	if (code < 0x80)
		bytes_append_byte(bytes, (char) code);
	else
	{
		int			more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
		static const unsigned char heads[] = {0, 0xC0, 0xE0, 0xF0};

		bytes_append_byte(bytes, (char) (heads[more] | code >> (6 * more)));
		while (more-- > 0)
			bytes_append_byte(bytes, (char) (0x80 | (code >> (6 * more) & 0x3F)));
	}
}

/* Append what an escape stands for; *at is behind the backslash, and moves on. */
static void
append_escape(Bytes *bytes, const char **at, const char *end)
{
	static const char from[] = "bfnrt";
	static const char to[] = "\b\f\n\r\t";
	char		c = *(*at)++;
	const char *found = strchr(from, c);
	unsigned	code;

	if (c != 'u')
	{
		bytes_append_byte(bytes, found != NULL ? to[found - from] : c);
		return;
	}
	code = hex_number(*at);
	*at += 4;
	if (code >= 0xD800 && code < 0xDC00 && end - *at >= 6 &&
		(*at)[0] == '\\' && (*at)[1] == 'u')
	{
		unsigned	low = hex_number(*at + 2);

		if (low >= 0xDC00 && low < 0xE000)
		{
			code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
			*at += 6;
		}
	}
	append_character(bytes, code);
}

/*
 * Append a value out of valid JSON text, without a zero byte: of a string what it
 * says, of everything else how it is written.
 */
void
json_append_text(Bytes *bytes, JsonValue value)
{
	const char *at = value.start + 1;
	const char *end = value.start + value.length - 1;

	if (!json_is_string(value))
	{
		bytes_append(bytes, value.start, value.length);
		return;
	}
	while (at < end)
	{
		if (*at == '\\')
		{
			at++;
			append_escape(bytes, &at, end);
		}
		else
			bytes_append_byte(bytes, *at++);
	}
}

/* Append a string as JSON, in quotes. */
void
json_append_quoted(Bytes *bytes, const char *string)
{
	char		escape[8];

	bytes_append_byte(bytes, '"');
	for (; *string != '\0'; string++)
	{
		if (*string == '"' || *string == '\\')
			bytes_append_byte(bytes, '\\');
		if ((unsigned char) *string < ' ')
		{
			snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char) *string);
			bytes_append(bytes, escape, 6);
		}
		else
			bytes_append_byte(bytes, *string);
	}
	bytes_append_byte(bytes, '"');
}

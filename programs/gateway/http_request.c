/*-------------------------------------------------------------------------
 *
 * http_request.c
 *	  See http_request.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/http_request.h"

#include <string.h>
#include <strings.h>

#define MAX_HEADERS 100

/* The longest body length that is taken for a number. */
#define MAX_CONTENT_LENGTH INT64_C(1000000000)

/* Is the text the string? */
bool
http_text_is(HttpText text, const char *string)
{
	return text.at != NULL && text.length == strlen(string) &&
		memcmp(text.at, string, text.length) == 0;
}

/* The same, whatever the case of its letters. */
static bool
is_caseless(HttpText text, const char *string)
{
	return text.length == strlen(string) && strncasecmp(text.at, string, text.length) == 0;
}

/* May the character be in a header's name? */
static bool
is_token(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		(c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

/* Refuse the request with that status. */
static HttpResult
broken(HttpRequest *request, int status)
{
	request->status = status;
	return HTTP_BROKEN;
}

/*
 * The next line, without its end, of what is there; false if it is not whole.
 * *bad is set if it has a character that no line may have.
 */
static bool
next_line(const char *bytes, size_t length, size_t *at, HttpText *line, bool *bad)
{
	const char *start = bytes + *at;
	const char *end = memchr(start, '\n', length - *at);
	size_t		size;

	/* what is wrong already need not be waited for */
	size = end == NULL ? length - *at : (size_t) (end - start);
	for (size_t i = 0; i < size && !*bad; i++)
	{
		unsigned char c = start[i];

		if ((c < ' ' && c != '\t' && c != '\r') || c == 0x7F ||
			(c == '\r' && i + 1 < size))
			*bad = true;
	}
	if (*bad || end == NULL)
		return false;
	if (size == 0 || start[size - 1] != '\r')
	{
		*bad = true;
		return false;
	}
	line->at = start;
	line->length = size - 1;
	*at += size + 1;
	return true;
}

/* The method of that name. */
static HttpMethod
find_method(HttpText name)
{
	static const char *const names[] = {"GET", "HEAD", "POST", "OPTIONS"};

	for (int i = 0; i < HTTP_OTHER; i++)
	{
		if (http_text_is(name, names[i]))
			return (HttpMethod) i;
	}
	return HTTP_OTHER;
}

/* Split a target into path and query; false if it is neither /... nor http://.../... */
static bool
take_target(HttpRequest *request, HttpText target)
{
	const char *end = target.at + target.length;
	const char *mark;

	if (target.length == 1 && *target.at == '*')
	{
		request->path = target;
		return request->method == HTTP_OPTIONS;
	}
	if (target.length > 7 && strncasecmp(target.at, "http://", 7) == 0)
	{
		const char *slash = memchr(target.at + 7, '/', target.length - 7);

		if (slash == NULL)
			return false;
		target.at = slash;
		target.length = end - slash;
	}
	if (target.length == 0 || *target.at != '/')
		return false;
	mark = memchr(target.at, '?', target.length);
	request->path.at = target.at;
	request->path.length = (mark == NULL ? end : mark) - target.at;
	if (mark != NULL)
	{
		request->query.at = mark + 1;
		request->query.length = end - mark - 1;
	}
	return memchr(target.at, '#', target.length) == NULL;
}

/* METHOD TARGET HTTP/1.x; 0, or the status with which it is refused. */
static int
take_request_line(HttpRequest *request, HttpText line)
{
	static const char version[] = "HTTP/1.";
	const char *end = line.at + line.length;
	const char *first = memchr(line.at, ' ', line.length);
	const char *second = first == NULL ? NULL : memchr(first + 1, ' ', end - first - 1);
	HttpText	method;
	HttpText	target;

	if (first == NULL || second == NULL || first == line.at)
		return 400;
	method.at = line.at;
	method.length = first - line.at;
	target.at = first + 1;
	target.length = second - first - 1;
	for (size_t i = 0; i < method.length; i++)
	{
		if (!is_token(method.at[i]))
			return 400;
	}
	if (memchr(target.at, '\t', target.length) != NULL)
		return 400;
	second++;
	if (end - second != sizeof(version) ||
		memcmp(second, version, sizeof(version) - 1) != 0 ||
		(end[-1] != '0' && end[-1] != '1'))
		return end - second >= 5 && memcmp(second, "HTTP/", 5) == 0 ? 505 : 400;
	request->minor = end[-1] - '0';
	request->method = find_method(method);
	return take_target(request, target) ? 0 : 400;
}

/* The text without white space at its ends. */
static HttpText
trim(HttpText text)
{
	while (text.length > 0 && (*text.at == ' ' || *text.at == '\t'))
	{
		text.at++;
		text.length--;
	}
	while (text.length > 0 &&
		   (text.at[text.length - 1] == ' ' || text.at[text.length - 1] == '\t'))
		text.length--;
	return text;
}

/* Does the list, with commas, have the word? */
static bool
has_word(HttpText list, const char *word)
{
	size_t		at = 0;

	while (at < list.length)
	{
		HttpText	part = {list.at + at, 0};

		while (at + part.length < list.length && part.at[part.length] != ',')
			part.length++;
		at += part.length + 1;
		if (is_caseless(trim(part), word))
			return true;
	}
	return false;
}

/* A body's length; false if it is none. */
static bool
read_length(HttpText value, int64_t *length)
{
	if (value.length == 0 || value.length > 10)
		return false;
	*length = 0;
	for (size_t i = 0; i < value.length; i++)
	{
		if (value.at[i] < '0' || value.at[i] > '9')
			return false;
		*length = *length * 10 + (value.at[i] - '0');
	}
	return *length <= MAX_CONTENT_LENGTH;
}

/* What is kept of a request's headers while they are read. */
typedef struct Headers
{
	int			count;
	HttpText	connection;
	HttpText	content_length;
} Headers;

/* Keep a header that may come but once; 0, or the status. */
static int
keep_once(HttpText *field, HttpText value)
{
	if (field->at != NULL)
		return 400;
	*field = value;
	return 0;
}

/* Keep a header's value that may come in several lines, of which the first one does. */
static int
keep_first(HttpText *field, HttpText value)
{
	if (field->at == NULL)
		*field = value;
	return 0;
}

/* Take what the header says; 0, or the status with which it is refused. */
static int
take_header(HttpRequest *request, Headers *headers, HttpText name, HttpText value)
{
	if (is_caseless(name, "host"))
		return keep_once(&request->host, value);
	if (is_caseless(name, "authorization"))
		return keep_once(&request->authorization, value);
	if (is_caseless(name, "cookie"))
		return keep_once(&request->cookie, value);
	if (is_caseless(name, "origin"))
		return keep_once(&request->origin, value);
	if (is_caseless(name, "last-event-id"))
		return keep_once(&request->last_event_id, value);
	if (is_caseless(name, "content-type"))
		return keep_once(&request->content_type, value);
	if (is_caseless(name, "accept"))
		return keep_first(&request->accept, value);
	if (is_caseless(name, "connection"))
		return keep_once(&headers->connection, value);
	if (is_caseless(name, "content-length"))
	{
		if (!read_length(value, &request->content_length))
			return 400;
		return keep_once(&headers->content_length, value);
	}
	if (is_caseless(name, "transfer-encoding"))
		return 501;
	if (is_caseless(name, "expect"))
	{
		request->expects_continue = true;
		return is_caseless(value, "100-continue") ? 0 : 417;
	}
	return 0;
}

/* NAME: VALUE; 0, or the status with which it is refused. */
static int
take_header_line(HttpRequest *request, Headers *headers, HttpText line)
{
	const char *colon = memchr(line.at, ':', line.length);
	HttpText	name;
	HttpText	value;

	if (colon == NULL || colon == line.at)
		return 400;
	if (++headers->count > MAX_HEADERS)
		return 431;
	name.at = line.at;
	name.length = colon - line.at;
	for (size_t i = 0; i < name.length; i++)
	{
		if (!is_token(name.at[i]))
			return 400;
	}
	value.at = colon + 1;
	value.length = line.at + line.length - value.at;
	return take_header(request, headers, name, trim(value));
}

/*
 * Read the head of a request, which may have so many bytes at most.  The texts in
 * *request are within bytes.
 */
HttpResult
http_request_parse(const char *bytes, size_t length, size_t longest, HttpRequest *request)
{
	Headers		headers = {0};
	size_t		at = 0;
	bool		bad = false;
	bool		begun = false;
	HttpText	line;
	int			status;

	memset(request, 0, sizeof(*request));

	/* a client may have sent an empty line behind the body before */
	if (length >= 2 && memcmp(bytes, "\r\n", 2) == 0)
		at = 2;
	while (next_line(bytes, length, &at, &line, &bad))
	{
		if (at > longest)
			return broken(request, 431);
		if (begun && line.length == 0)
		{
			request->head = at;
			if (request->minor == 1 && request->host.at == NULL)
				return broken(request, 400);
			request->keep_alive = request->minor == 1 ?
				!has_word(headers.connection, "close") :
				has_word(headers.connection, "keep-alive");
			return HTTP_WHOLE;
		}
		status = begun ? take_header_line(request, &headers, line) :
			take_request_line(request, line);
		if (status != 0)
			return broken(request, status);
		begun = true;
	}
	if (bad)
		return broken(request, 400);
	return length > longest ? broken(request, 431) : HTTP_MORE;
}

/* The value of a hexadecimal digit, or -1. */
static int
hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Decode some of a query; false if it is wrong, or longer than there is room. */
static bool
decode(HttpText text, char *decoded, size_t size)
{
	size_t		count = 0;

	for (size_t i = 0; i < text.length; i++)
	{
		char		c = text.at[i];

		if (c == '+')
			c = ' ';
		else if (c == '%')
		{
			int			high = i + 2 < text.length ? hex_value(text.at[i + 1]) : -1;
			int			low = high < 0 ? -1 : hex_value(text.at[i + 2]);

			if (low < 0)
				return false;
			c = (char) (high << 4 | low);
			i += 2;
		}
		if (c == '\0' || count + 1 >= size)
			return false;
		decoded[count++] = c;
	}
	decoded[count] = '\0';
	return true;
}

/*
 * The next name and value of the query, decoded; false at its end, or if something
 * is wrong with it, and then *bad is set.
 */
bool
http_query_next(HttpText *query, char *name, size_t name_size,
				char *value, size_t value_size, bool *bad)
{
	HttpText	part;
	const char *equals;
	HttpText	left;
	HttpText	right = {"", 0};

	while (query->length > 0 && *query->at == '&')
	{
		query->at++;
		query->length--;
	}
	if (query->length == 0)
		return false;
	part.at = query->at;
	part.length = 0;
	while (part.length < query->length && part.at[part.length] != '&')
		part.length++;
	query->at += part.length;
	query->length -= part.length;
	equals = memchr(part.at, '=', part.length);
	left.at = part.at;
	left.length = equals == NULL ? part.length : (size_t) (equals - part.at);
	if (equals != NULL)
	{
		right.at = equals + 1;
		right.length = part.at + part.length - right.at;
	}
	if (decode(left, name, name_size) && decode(right, value, value_size))
		return true;
	*bad = true;
	return false;
}

/*-------------------------------------------------------------------------
 *
 * http_request.h
 *	  The head of an HTTP/1.1 request: its fields, from bytes.
 *
 * No socket, no memory, no state: it can be fuzzed alone.  What is not needed
 * here is refused rather than understood: no lines that go on in the next one, no
 * bodies in chunks, no line ends without CR.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_HTTP_REQUEST_H
#define GATEWAY_HTTP_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Some of the request's bytes; at is NULL if there is no such field. */
typedef struct HttpText
{
	const char *at;
	size_t		length;
} HttpText;

typedef enum HttpMethod
{
	HTTP_GET,
	HTTP_HEAD,
	HTTP_POST,
	HTTP_OPTIONS,
	HTTP_OTHER
} HttpMethod;

typedef enum HttpResult
{
	HTTP_MORE,					/* the head is not whole */
	HTTP_WHOLE,
	HTTP_BROKEN					/* status says how */
} HttpResult;

typedef struct HttpRequest
{
	HttpMethod	method;
	HttpText	path;			/* as it came, not decoded */
	HttpText	query;			/* without the question mark */
	int			minor;			/* of HTTP/1 */
	bool		keep_alive;
	bool		expects_continue;
	int64_t		content_length; /* 0 if there is none */
	HttpText	authorization;
	HttpText	cookie;
	HttpText	origin;
	HttpText	host;
	HttpText	last_event_id;
	HttpText	content_type;
	HttpText	accept;
	size_t		head;			/* bytes up to the body */
	int			status;			/* of the answer, if it is broken */
} HttpRequest;

extern HttpResult http_request_parse(const char *bytes, size_t length,
									 size_t longest, HttpRequest *request);
extern bool http_query_next(HttpText *query, char *name, size_t name_size,
							char *value, size_t value_size, bool *bad);
extern bool http_text_is(HttpText text, const char *string);

#endif

/*-------------------------------------------------------------------------
 *
 * http.c
 *	  The head of an HTTP request, and the query in it, under libFuzzer: see
 *	  scripts/fuzz.
 *
 * An input is what a client sends, and is read cut off at each byte, as it may come:
 * what was wrong stays so, and what was whole has the same fields.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "gateway/http_request.h"

#define LONGEST 1024

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fail if it does not hold. */
static void
must(bool condition)
{
	if (!condition)
		abort();
}

/* The text, if it is there, lies within the head. */
static void
within(const char *bytes, const HttpRequest *request, HttpText text)
{
	must(text.at == NULL ||
		 (text.at >= bytes && text.at + text.length <= bytes + request->head));
}

/* Read all of the query. */
static void
read_query(HttpText query)
{
	char		name[16];
	char		value[64];
	bool		bad = false;
	size_t		left = query.length;

	while (http_query_next(&query, name, sizeof(name), value, sizeof(value), &bad))
	{
		must(strlen(name) < sizeof(name) && strlen(value) < sizeof(value));
		must(query.length < left);
		left = query.length;
	}
	must(bad || query.length == 0);
}

/* Read so many bytes, in memory of their own; *head and *status tell of the request. */
static HttpResult
read_head(const uint8_t *data, size_t size, size_t *head, int *status)
{
	char	   *bytes = malloc(size > 0 ? size : 1);
	HttpRequest request;
	HttpResult	result;

	must(bytes != NULL);
	memcpy(bytes, data, size);
	memset(&request, 0, sizeof(request));
	result = http_request_parse(bytes, size, LONGEST, &request);
	*head = request.head;
	*status = request.status;
	if (result == HTTP_BROKEN)
		must(request.status >= 400 && request.status < 600);
	else if (result == HTTP_WHOLE)
	{
		const HttpText texts[] = {request.path, request.query, request.authorization,
			request.cookie, request.origin, request.host, request.last_event_id,
		request.content_type, request.accept};

		must(request.head > 0 && request.head <= size && request.head <= LONGEST);
		must(request.content_length >= 0);
		for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
			within(bytes, &request, texts[i]);
		if (request.query.at != NULL)
			read_query(request.query);
	}
	free(bytes);
	return result;
}

/* Take one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	HttpResult	last = HTTP_MORE;
	size_t		last_head = 0;

	for (size_t length = 0; length <= size && length <= LONGEST + 2; length++)
	{
		size_t		head;
		int			status;
		HttpResult	result = read_head(data, length, &head, &status);

		must(last == HTTP_MORE || result == last);
		must(last != HTTP_WHOLE || head == last_head);
		last = result;
		last_head = head;
	}
	must(size <= LONGEST || last != HTTP_MORE);
	return 0;
}

/*-------------------------------------------------------------------------
 *
 * http_request_test.c
 *	  The heads of HTTP requests: what is found in them, what is refused, and what
 *	  is said of every truncation and of every other value of every byte.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/http_request.h"

#include "test/check.h"

#define LONGEST 8192

static const char whole[] =
"GET /events?channel=a%20b&channel=%C3%A9&x HTTP/1.1\r\n"
"Host: example.org\r\n"
"Authorization:Basic eDp5\r\n"
"Last-Event-ID: \t17 \r\n"
"Accept: text/event-stream\r\n"
"\r\n";

/* What is said of those bytes, in memory of exactly their size. */
static HttpResult
parse(const char *bytes, size_t length, HttpRequest *request)
{
	char	   *copy = exact_copy(bytes, length);
	HttpResult	result = http_request_parse(copy, length, LONGEST, request);
	volatile char sum = 0;

	/* read all that it points to */
	if (result == HTTP_WHOLE)
	{
		const HttpText *texts[] = {&request->path, &request->query, &request->host,
		&request->authorization, &request->last_event_id};

		for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		{
			for (size_t j = 0; texts[i]->at != NULL && j < texts[i]->length; j++)
				sum += texts[i]->at[j];
		}
	}
	free(copy);
	return result;
}

/* The status with which the string is refused; 0: it is not. */
static int
refused(const char *string)
{
	HttpRequest request;

	return parse(string, strlen(string), &request) == HTTP_BROKEN ? request.status : 0;
}

static void
test_whole(void)
{
	HttpRequest request;
	char		name[100];
	char		value[100];
	bool		bad = false;

	CHECK(http_request_parse(whole, sizeof(whole) - 1, LONGEST, &request) == HTTP_WHOLE);
	CHECK(request.method == HTTP_GET);
	CHECK(http_text_is(request.path, "/events"));
	CHECK(http_text_is(request.host, "example.org"));
	CHECK(http_text_is(request.authorization, "Basic eDp5"));
	CHECK(http_text_is(request.last_event_id, "17"));
	CHECK(request.origin.at == NULL);
	CHECK(request.keep_alive && request.content_length == 0);
	CHECK(request.head == sizeof(whole) - 1);
	CHECK(http_query_next(&request.query, name, sizeof(name), value, sizeof(value), &bad));
	CHECK(strcmp(name, "channel") == 0 && strcmp(value, "a b") == 0);
	CHECK(http_query_next(&request.query, name, sizeof(name), value, sizeof(value), &bad));
	CHECK(strcmp(value, "\xC3\xA9") == 0);
	CHECK(http_query_next(&request.query, name, sizeof(name), value, sizeof(value), &bad));
	CHECK(strcmp(name, "x") == 0 && *value == '\0');
	CHECK(!http_query_next(&request.query, name, sizeof(name), value, sizeof(value), &bad) && !bad);
}

static void
test_truncations(void)
{
	HttpRequest request;

	for (size_t length = 0; length < sizeof(whole) - 1; length++)
		CHECK(parse(whole, length, &request) == HTTP_MORE);
	for (size_t i = 0; i < sizeof(whole) - 1; i++)
	{
		char		other[sizeof(whole)];

		memcpy(other, whole, sizeof(whole));
		for (int c = 0; c < 256; c++)
		{
			other[i] = (char) c;
			(void) parse(other, sizeof(whole) - 1, &request);
		}
	}
	checks++;
}

static void
test_refused(void)
{
	CHECK(refused("GET / HTTP/1.1\r\nHost: a\r\n\r\n") == 0);
	CHECK(refused("GET http://a/b?c HTTP/1.1\r\nHost: a\r\n\r\n") == 0);
	CHECK(refused("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n") == 0);
	CHECK(refused("GET / HTTP/1.0\r\n\r\n") == 0);
	CHECK(refused("\r\nGET / HTTP/1.0\r\n\r\n") == 0);
	CHECK(refused("GET / HTTP/1.1\r\n\r\n") == 400);
	CHECK(refused("GET * HTTP/1.1\r\nHost: a\r\n\r\n") == 400);
	CHECK(refused("GET /\n") == 400);
	CHECK(refused("GET / HTTP/1.1\nHost: a\r\n\r\n") == 400);
	CHECK(refused("GET / HTTP/2.0\r\n\r\n") == 505);
	CHECK(refused("GET / FTP/1.1\r\n\r\n") == 400);
	CHECK(refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n") == 400);
	CHECK(refused("GET relative HTTP/1.1\r\nHost: a\r\n\r\n") == 400);
	CHECK(refused("GET /#fragment HTTP/1.1\r\nHost: a\r\n\r\n") == 400);
	CHECK(refused("G(T / HTTP/1.1\r\nHost: a\r\n\r\n") == 400);
	CHECK(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n") == 400);
	CHECK(refused("GET / HTTP/1.1\r\nHost : a\r\n\r\n") == 400);
	CHECK(refused("GET / HTTP/1.1\r\nHost: a\r\n more\r\n\r\n") == 400);
	CHECK(refused("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n") == 400);
	CHECK(refused("GET / HTTP/1.1\r\nnothing\r\n\r\n") == 400);
	CHECK(refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n") == 400);
	CHECK(refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n") == 400);
	CHECK(refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n") == 400);
	CHECK(refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n") == 400);
	CHECK(refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") == 501);
	CHECK(refused("POST / HTTP/1.1\r\nHost: a\r\nExpect: gold\r\n\r\n") == 417);
	CHECK(refused("\x16\x03\x01") == 400);
}

static void
test_long(void)
{
	static const char start[] = {'G', 'E', 'T', ' ', '/'};
	static char bytes[LONGEST * 2];
	HttpRequest request;

	memset(bytes, 'a', sizeof(bytes));
	memcpy(bytes, start, sizeof(start));
	CHECK(parse(bytes, LONGEST, &request) == HTTP_MORE);
	CHECK(parse(bytes, LONGEST + 1, &request) == HTTP_BROKEN && request.status == 431);
	strcpy(bytes, "GET / HTTP/1.1\r\n");
	for (int i = 0; i < 101; i++)
		strcat(bytes, "A: b\r\n");
	strcat(bytes, "\r\n");
	CHECK(refused(bytes) == 431);
}

static void
test_connection(void)
{
	static const struct
	{
		const char *head;
		bool		keep_alive;
	}			cases[] = {
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, CLOSE\r\n\r\n", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", true},
		{"GET / HTTP/1.0\r\n\r\n", false},
		{"GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", true},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		HttpRequest request;

		CHECK(http_request_parse(cases[i].head, strlen(cases[i].head), LONGEST, &request) == HTTP_WHOLE);
		CHECK(request.keep_alive == cases[i].keep_alive);
	}
}

static void
test_queries(void)
{
	static const char *const wrong[] = {"a=%", "a=%1", "a=%1g", "a=%00", "%zz=1", "a=0123456789"};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		char	   *copy = exact_copy(wrong[i], strlen(wrong[i]));
		HttpText	query = {copy, strlen(wrong[i])};
		char		name[10];
		char		value[10];
		bool		bad = false;

		CHECK(!http_query_next(&query, name, sizeof(name), value, sizeof(value), &bad) && bad);
		free(copy);
	}
}

int
main(void)
{
	test_whole();
	test_truncations();
	test_refused();
	test_long();
	test_connection();
	test_queries();
	return checks_done("http_request");
}

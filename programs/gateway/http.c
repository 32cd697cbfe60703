/*-------------------------------------------------------------------------
 *
 * http.c
 *	  See http.h.
 *
 * 1. A request is taken when its head is whole, and who asks is known before
 *	  anything of its body is kept: a stranger has the bytes of a head here, and no
 *	  more.
 *
 * 2. Nor does a stranger have a connection for longer than a login may take,
 *	  whatever it asks for that needs none.
 *
 * 3. One request at a time.  What comes behind it waits, and is not read beyond a
 *	  bound.  Nor is a request taken while many answers wait to be sent.
 *
 * 4. A stream of events has the connection until its end.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/http.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/login.h"
#include "gateway/stream.h"

/* Bytes that are kept of requests that wait, beside a body that is awaited. */
#define INPUT_AHEAD (64 * 1024)

/* Answers that wait to be sent while another request is taken, in bytes. */
#define ANSWERS_AHEAD (64 * 1024)

/* Has the client shown who it is? */
bool
http_is_known(const Client *client)
{
	return client->role != NULL || client->http->proven;
}

/* How many seconds a stranger still has to show who it is; not above zero: none. */
static int64_t
stranger_seconds(const Client *client)
{
	return limits.login_timeout -
		(int64_t) (gateway_now() - client->http->known_at) / 1000;
}

/* Await some of a request for so many seconds, of a stranger for no more than it has. */
static void
await_request(Client *client, int64_t seconds)
{
	if (!http_is_known(client) && stranger_seconds(client) < seconds)
		seconds = stranger_seconds(client);
	client_deadline(client, seconds > 0 ? seconds : 1);
}

/* A connection has come. */
void
http_begin(Client *client)
{
	client->http = memory_get_zeroed(sizeof(Http));
	client->http->client = client;
	client->http->known_at = gateway_now();
	list_init(&client->http->link);
	await_request(client, limits.http_head_timeout);
}

/* Forget the request's head, in which there may be a password or a token. */
void
http_forget_head(Http *http)
{
	memory_wipe(http->head, http->request.head);
	http->head = NULL;
	memset(&http->request, 0, sizeof(http->request));
}

/* Forget the request. */
static void
forget_request(Http *http)
{
	http_forget_head(http);
	list_remove(&http->link);
	if (http->has_claims)
		jwt_claims_free(&http->claims);
	http->has_claims = false;
}

/* The connection goes. */
void
http_drop(Client *client)
{
	Http	   *http = client->http;

	if (http == NULL)
		return;
	events_drop(client);
	publish_drop(client);
	forget_request(http);
	free(http);
	client->http = NULL;
}

/* Is more of the client's input to be read?  Of a stranger, a head is enough. */
bool
http_wants_input(const Client *client)
{
	const Http *http = client->http;
	size_t		kept = bytes_length(&client->in);

	if (http->phase == HTTP_BODY_PHASE)
		return kept < (size_t) limits.http_body + INPUT_AHEAD;
	return http_is_known(client) ? kept < INPUT_AHEAD : kept <= (size_t) limits.http_head;
}

/* Which file is to answer. */
static HttpRoute
find_route(const HttpRequest *request)
{
	static const char *const paths[] = {"/events", "/publish", "/metrics", "/healthz",
	"/", "/stats"};

	for (int i = 0; i < HTTP_NOWHERE; i++)
	{
		if (http_text_is(request->path, paths[i]))
			return (HttpRoute) i;
	}
	return HTTP_NOWHERE;
}

/* Does the route know the method?  HEAD is a GET whose body is not sent. */
static bool
method_fits(HttpRoute route, HttpMethod method)
{
	if (route == HTTP_PUBLISH)
		return method == HTTP_POST;
	return method == HTTP_GET || (method == HTTP_HEAD && route != HTTP_EVENTS);
}

/* Does the client come from this machine? */
static bool
is_loopback(const Client *client)
{
	return client->local || strncmp(client->address, "127.", 4) == 0 ||
		strncmp(client->address, "[::1]", 5) == 0 ||
		strncmp(client->address, "[::ffff:127.", 12) == 0;
}

/*
 * Does the request name this machine, as somebody does who asks from here?  A page whose
 * own name has become an address of this machine names itself.
 */
static bool
names_this_machine(const HttpRequest *request)
{
	HttpText	host = request->host;
	char		name[40];
	unsigned char address[4];
	const char *colon;

	if (host.at == NULL)
		return true;
	if (request->origin.at != NULL || host.length >= sizeof(name))
		return false;
	colon = memrchr(host.at, ':', host.length);
	if (colon != NULL && *host.at == '[' && colon[-1] != ']')
		colon = NULL;
	snprintf(name, sizeof(name), "%.*s",
			 colon == NULL ? (int) host.length : (int) (colon - host.at), host.at);
	return strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0 ||
		(inet_pton(AF_INET, name, address) == 1 && address[0] == 127);
}

/* The body of a POST is whole. */
static void
take_body(Client *client, const char *body)
{
	client->http->phase = HTTP_BUSY;
	publish_request(client, body, client->http->request.content_length);
}

/* Whoever asks may ask: answer, or await the body. */
void
http_route(Client *client)
{
	Http	   *http = client->http;

	switch (http->route)
	{
		case HTTP_EVENTS:
			events_request(client);
			break;
		case HTTP_PUBLISH:
			if (!publish_may(client))
				break;
			if (http->request.content_length == 0)
			{
				take_body(client, "");
				break;
			}
			http->phase = HTTP_BODY_PHASE;
			client_set_state(client, CLIENT_STARTUP);
			client_deadline(client, limits.http_head_timeout);
			if (http->request.expects_continue)
			{
				static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

				queue_add_bytes(&client->out, go_on, sizeof(go_on) - 1);
				client_touch(client);
			}
			client_input(client);
			break;
		case HTTP_METRICS:
			metrics_request(client);
			break;
		case HTTP_PAGE:
		case HTTP_STATS:
			page_request(client);
			break;
		case HTTP_HEALTH:
		case HTTP_NOWHERE:
			break;
	}
}

/* A request's head is whole: answer it, or begin to. */
static void
take_head(Client *client)
{
	static const char ok[] = "ok\n";
	Http	   *http = client->http;
	const HttpRequest *request = &http->request;

	gateway.counters.requests++;
	http->phase = HTTP_BUSY;
	http->route = find_route(request);
	if (http->proven)
		http->known_at = gateway_now();
	http->proven = false;
	http->keep_alive = request->keep_alive && !gateway.draining &&
		(http_is_known(client) || stranger_seconds(client) > 0);
	if (request->method != HTTP_POST && request->content_length > 0)
		http_reply_error(client, 400, "only POST has a body here");
	else if (request->method == HTTP_OPTIONS)
		http_reply_preflight(client);
	else if (http->route == HTTP_NOWHERE)
		http_reply_error(client, 404, "there are /, /stats, /events, /publish, /metrics and /healthz");
	else if (!method_fits(http->route, request->method))
		http_reply_error(client, 405, "this method is not for this path");
	else if (gateway.options.require_tls && !client->local && client->transport.ssl == NULL)
		http_reply_error(client, 403, "connections without TLS are not allowed");
	else if (http->route == HTTP_HEALTH && stream_is_up())
		http_reply(client, 200, "text/plain", ok, sizeof(ok) - 1);
	else if (http->route == HTTP_HEALTH)
		http_reply_error(client, 503, "the gateway gets no events from the server now");
	else if (request->content_length > limits.http_body)
		http_reply_error(client, 413, "the body is too long (http-body)");
	else if (http->route == HTTP_METRICS && is_loopback(client) &&
			 names_this_machine(request) && !gateway.options.metrics_login)
	{
		http->proven = true;
		http_route(client);
	}
	else if (http_authorize(client))
		http_route(client);
}

/* The request is no request. */
static void
refuse_broken(Client *client, int status)
{
	client->http->phase = HTTP_BUSY;
	client->http->keep_alive = false;
	http_reply_error(client, status, status == 431 ? "the head is too long (http-head)" :
					 "the request is malformed, or of a kind that is not known here");
}

/*
 * Take the requests at bytes, as far as they are whole and the phase allows;
 * returns how many bytes that were.  The client may be closed then.
 */
size_t
http_take(Client *client, const char *bytes, size_t count)
{
	size_t		taken = 0;

	while (client->state == CLIENT_STARTUP)
	{
		Http	   *http = client->http;

		if (http->phase == HTTP_BODY_PHASE)
		{
			size_t		length = http->request.content_length;

			if (count - taken < length)
				return taken;
			take_body(client, bytes + taken);
			taken += length;
			continue;
		}
		if (count == taken || client->out.bytes > ANSWERS_AHEAD)
			return taken;
		switch (http_request_parse(bytes + taken, count - taken, limits.http_head,
								   &http->request))
		{
			case HTTP_MORE:
				if (!http->head_begun)
					await_request(client, limits.http_head_timeout);
				http->head_begun = true;
				memset(&http->request, 0, sizeof(http->request));
				return taken;
			case HTTP_BROKEN:
				refuse_broken(client, http->request.status);
				return count;
			case HTTP_WHOLE:
				http->head = memory_copy_bytes(bytes + taken, http->request.head);
				(void) http_request_parse(http->head, http->request.head,
										  limits.http_head, &http->request);
				taken += http->request.head;
				client_deadline(client, 0);
				take_head(client);
				break;
		}
	}
	return client->state == CLIENT_CLOSED || client->state == CLIENT_CLOSING ?
		count : taken;
}

/*
 * Does the connection go on when the request is answered?  Not if a body that was not
 * read stands where the next request should.
 */
bool
http_keeps(const Client *client)
{
	const Http *http = client->http;

	return http->keep_alive && !client->input_ended &&
		(http->request.content_length == 0 || http->publication != NULL);
}

/* The request's answer is in the queue: the next one, or the end. */
void
http_answered(Client *client)
{
	Http	   *http = client->http;
	bool		keep_alive = http_keeps(client);

	publish_drop(client);
	forget_request(http);
	client_touch(client);
	if (!keep_alive)
	{
		client_end(client, NULL, "closed: it was answered");
		return;
	}
	http->phase = HTTP_HEAD_PHASE;
	http->head_begun = false;
	await_request(client, limits.http_idle);
	client_set_state(client, CLIENT_STARTUP);
	client_input(client);
}

/*
 * The connection is to end, and the report, if there is one, says why: what can
 * still be said is.  A stream just ends: its client comes again, and asks for what it
 * has missed.
 */
void
http_end(Client *client, const Report *report)
{
	Http	   *http = client->http;

	if (report == NULL || http->phase == HTTP_STREAM || http->head == NULL)
		return;
	http->keep_alive = false;
	http_say_error(client, http_status_of(report), report->message);
}

/* Its deadline has come. */
void
http_timed_out(Client *client)
{
	Http	   *http = client->http;

	if (client->state == CLIENT_QUEUED || client->state == CLIENT_LOGIN)
		login_timed_out(client);
	else if (http->phase == HTTP_HEAD_PHASE && !http->head_begun)
		client_close(client, "closed: it has asked for nothing more");
	else if (http->phase == HTTP_HEAD_PHASE || http->phase == HTTP_BODY_PHASE)
	{
		http->phase = HTTP_BUSY;
		http->keep_alive = false;
		http_reply_error(client, 408, "the request has not come in time");
	}
	else if (http->publication != NULL)
		publish_timed_out(client);
	else if (http->stream != NULL)
		events_timed_out(client);
	else if (http->route == HTTP_METRICS)
		metrics_answer(client);
	else if (http->route == HTTP_PAGE || http->route == HTTP_STATS)
		page_timed_out(client);
}

/* Some of what waited was sent. */
void
http_sent(Client *client)
{
	Http	   *http = client->http;

	if (http->stream != NULL)
		events_sent(client);
	else if (client->state == CLIENT_STARTUP && http->phase == HTTP_HEAD_PHASE &&
			 client->out.bytes == 0 && bytes_length(&client->in) > 0)
		client_input(client);
}

/* Say why to a client that has just come, and close its socket. */
void
http_refuse_connection(int fd, int status)
{
	char		text[200];
	int			length = snprintf(text, sizeof(text),
								  "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
								  status, http_reason(status));

	(void) send(fd, text, length, MSG_NOSIGNAL);
	close(fd);
}

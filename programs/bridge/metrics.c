/*-------------------------------------------------------------------------
 *
 * metrics.c
 *	  GET /metrics: numbers in OpenMetrics text, version 1.0.0; GET /healthz.
 *
 * A small face of HTTP/1.1 for whoever collects metrics: each connection has one
 * request, which is answered and closed.  A request's head may have REQUEST_SIZE
 * bytes and take REQUEST_MS; at most MAX_CLIENTS are there at a time.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bridge/bridge.h"
#include "bridge/outbox.h"
#include "bridge/sink.h"
#include "bridge/source.h"
#include "common/bytes.h"
#include "common/log.h"
#include "common/memory.h"

#define REQUEST_SIZE 8192
#define REQUEST_MS 10000
#define MAX_CLIENTS 50

typedef struct HttpClient
{
	uv_tcp_t	socket;
	uv_timer_t	timer;
	uv_write_t	write;
	int			open;			/* handles that are not closed yet */
	size_t		length;
	char		request[REQUEST_SIZE];
	Bytes		answer;
} HttpClient;

/* A metric that is a counter. */
typedef struct CounterMetric
{
	const char *name;
	const char *help;
	const		_Atomic uint64_t *value;
} CounterMetric;

static uv_tcp_t listener;
static int	client_count;
static uint64_t last_confirmed;
static uint64_t last_at;		/* ms */
static double rate;				/* confirmed per second, over the last tick */

#define COUNTER(name, field, help) {"pgpubsub_bridge_" name, help, &bridge.counters.field}

static const CounterMetric counters[] = {
	COUNTER("events", events, "Events that came from the server."),
	COUNTER("gaps", gaps, "Gaps in what came from the server."),
	COUNTER("lost_events", lost, "Events that these gaps told of."),
	COUNTER("sent", sent, "Messages that were sent to the broker."),
	COUNTER("confirmed", confirmed, "Messages that the broker has confirmed."),
	COUNTER("confirmed_bytes", confirmed_bytes, "Bytes of their payloads."),
	COUNTER("resent", resent, "Messages that were not confirmed when a connection was lost."),
	COUNTER("refused", refused, "How often the broker did not take a message for now."),
	COUNTER("unroutable", unroutable, "How often a message could not be delivered."),
	COUNTER("dropped", dropped, "Messages among these that were dropped."),
	COUNTER("dead_lettered", dead_lettered, "Messages that the dead-letter place has."),
	COUNTER("acked", acked, "Messages that the server was told of."),
	COUNTER("broker_connects", broker_connects, "Connections to the broker."),
	COUNTER("broker_failures", broker_failures, "Such connections that failed or were lost."),
	COUNTER("server_connects", server_connects, "Connections to the server."),
	COUNTER("server_failures", server_failures, "Such connections that failed or were lost."),
};

/* Messages that were confirmed in the last second. */
double
metrics_rate(void)
{
	return rate;
}

/* A second has gone by. */
void
metrics_tick(void)
{
	uint64_t	confirmed = bridge.counters.confirmed;
	uint64_t	now = bridge_now();

	if (last_at != 0 && now > last_at)
		rate = (double) (confirmed - last_confirmed) * 1000 / (double) (now - last_at);
	last_confirmed = confirmed;
	last_at = now;
}

/* Add a line or some. */
static void
add_line(Bytes *text, const char *format,...)
{
	char		line[400];
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	bytes_append(text, line, strlen(line));
}

/* Add a gauge. */
static void
add_gauge(Bytes *text, const char *name, const char *help, double value)
{
	add_line(text, "# TYPE pgpubsub_bridge_%s gauge\n# HELP pgpubsub_bridge_%s %s\n"
			 "pgpubsub_bridge_%s %.15g\n", name, name, help, name, value);
}

/* Add the state of a side: 1 for the one that it is in. */
static void
add_states(Bytes *text, const char *side, const char *(*name) (int), int count, int state)
{
	add_line(text, "# TYPE pgpubsub_bridge_%s_state gauge\n"
			 "# HELP pgpubsub_bridge_%s_state The state that the %s's side is in has a 1.\n",
			 side, side, side);
	for (int i = 0; i < count; i++)
		add_line(text, "pgpubsub_bridge_%s_state{state=\"%s\"} %d\n", side, name(i), i == state);
}

/* Names of states, by number. */
static const char *
source_name(int state)
{
	return source_state_name((SourceState) state);
}

/* Names of states, by number. */
static const char *
sink_name(int state)
{
	return sink_state_name((SinkState) state);
}

/* Write all metrics. */
static void
write_metrics(Bytes *text)
{
	OutboxState state;
	double		lag;

	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		add_line(text, "# TYPE %s counter\n# HELP %s %s\n%s_total %" PRIu64 "\n",
				 counters[i].name, counters[i].name, counters[i].help, counters[i].name,
				 (uint64_t) *counters[i].value);
	outbox_look(&state);
	lag = state.oldest_at == 0 ? 0 : (double) time(NULL) - (double) state.oldest_at / 1e6;
	add_gauge(text, "outbox_messages", "Messages in memory.", state.count);
	add_gauge(text, "outbox_bytes", "Bytes of them.", (double) state.bytes);
	add_gauge(text, "unconfirmed", "Messages that are sent and not confirmed.", state.sent);
	add_gauge(text, "lag_seconds", "How old the oldest event in memory is.", lag > 0 ? lag : 0);
	add_gauge(text, "rate", "Messages that were confirmed in the last second.", rate);
	add_states(text, "server", source_name, SOURCE_UP + 1, source_state());
	add_states(text, "broker", sink_name, SINK_STOPPED + 1, sink_state());
	add_line(text, "# EOF\n");
}

/* A handle of a client is closed. */
static void
handle_closed(uv_handle_t *handle)
{
	HttpClient *client = handle->data;

	if (--client->open > 0)
		return;
	client_count--;
	bytes_free(&client->answer);
	free(client);
}

/* Close the connection. */
static void
close_client(HttpClient *client)
{
	if (uv_is_closing((uv_handle_t *) &client->socket))
		return;
	uv_close((uv_handle_t *) &client->socket, handle_closed);
	uv_close((uv_handle_t *) &client->timer, handle_closed);
}

/* The answer is sent. */
static void
answer_sent(uv_write_t *write, int failed)
{
	(void) failed;
	close_client(write->data);
}

/* Answer, and close the connection then. */
static void
answer(HttpClient *client, const char *status, const char *type, const Bytes *body)
{
	uv_buf_t	buffer;

	add_line(&client->answer,
			 "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
			 "Cache-Control: no-store\r\nConnection: close\r\n\r\n",
			 status, type, bytes_length(body));
	bytes_append(&client->answer, body->data, body->end);
	buffer = uv_buf_init(client->answer.data, (unsigned) client->answer.end);
	uv_read_stop((uv_stream_t *) &client->socket);
	client->write.data = client;
	if (uv_write(&client->write, (uv_stream_t *) &client->socket, &buffer, 1, answer_sent) != 0)
		close_client(client);
}

/* Is the request for that path, with or without a query? */
static bool
asks_for(const char *request, const char *path)
{
	size_t		length = strlen(path);

	return strncmp(request, "GET ", 4) == 0 && strncmp(request + 4, path, length) == 0 &&
		(request[4 + length] == ' ' || request[4 + length] == '?');
}

/* The head of a request has come. */
static void
take_request(HttpClient *client)
{
	static const char text[] = "text/plain; charset=utf-8";
	Bytes		body = {0};

	if (asks_for(client->request, "/metrics"))
	{
		write_metrics(&body);
		answer(client, "200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", &body);
	}
	else if (asks_for(client->request, "/healthz"))
	{
		bool		good = source_state() == SOURCE_STANDBY ||
			(source_state() == SOURCE_UP && sink_state() == SINK_UP);

		add_line(&body, "server %s\nbroker %s\n", source_state_name(source_state()),
				 sink_state_name(sink_state()));
		answer(client, good ? "200 OK" : "503 Service Unavailable", text, &body);
	}
	else
	{
		add_line(&body, "GET /metrics or /healthz\n");
		answer(client, "404 Not Found", text, &body);
	}
	bytes_free(&body);
}

/* Where the next bytes go: behind what has come, with room for a zero byte. */
static void
give_room(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
	HttpClient *client = handle->data;

	(void) suggested;
	*buffer = uv_buf_init(client->request + client->length,
						  (unsigned) (REQUEST_SIZE - 1 - client->length));
}

/* Bytes have come. */
static void
take_bytes(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
	HttpClient *client = stream->data;

	(void) buffer;
	if (count < 0)
	{
		close_client(client);
		return;
	}
	client->length += (size_t) count;
	client->request[client->length] = '\0';
	if (strstr(client->request, "\r\n\r\n") != NULL)
		take_request(client);
	else if (client->length >= REQUEST_SIZE - 1)
		close_client(client);
}

/* It has taken too long. */
static void
too_slow(uv_timer_t *timer)
{
	close_client(timer->data);
}

/* Somebody connects. */
static void
take_client(uv_stream_t *stream, int failed)
{
	HttpClient *client;

	(void) stream;
	if (failed)
		return;
	client = memory_get_zeroed(sizeof(HttpClient));
	client->socket.data = client->timer.data = client;
	client->open = 2;
	client_count++;
	uv_tcp_init(&bridge.loop, &client->socket);
	uv_timer_init(&bridge.loop, &client->timer);
	if (uv_accept((uv_stream_t *) &listener, (uv_stream_t *) &client->socket) != 0 ||
		client_count > MAX_CLIENTS)
	{
		close_client(client);
		return;
	}
	uv_timer_start(&client->timer, too_slow, REQUEST_MS, 0);
	uv_read_start((uv_stream_t *) &client->socket, give_room, take_bytes);
}

/* Find the address that the option names; the program ends if it is none. */
static void
find_address(struct sockaddr_storage *address)
{
	const char *text = bridge.options.metrics;
	const char *colon = strrchr(text, ':');
	char		host[100] = "";
	char	   *name = host;
	char	   *end;
	long		port = strtol(colon + 1, &end, 10);
	size_t		length = (size_t) (colon - text);

	if (length < sizeof(host))
		memcpy(host, text, length);
	if (*name == '[' && length > 1 && name[length - 1] == ']')
	{
		name[length - 1] = '\0';
		name++;
	}
	if (*name == '\0')
		strcpy(host, "127.0.0.1");
	if (colon[1] == '\0' || *end != '\0' || port < 0 || port > 65535 ||
		(uv_ip4_addr(name, (int) port, (struct sockaddr_in *) address) != 0 &&
		 uv_ip6_addr(name, (int) port, (struct sockaddr_in6 *) address) != 0))
		log_fatal("option metrics takes ADDRESS:PORT, not \"%s\"", text);
}

/* Listen, if that is wanted. */
void
metrics_start(void)
{
	struct sockaddr_storage address;
	int			failed;

	if (bridge.options.metrics == NULL)
		return;
	find_address(&address);
	uv_tcp_init(&bridge.loop, &listener);
	failed = uv_tcp_bind(&listener, (struct sockaddr *) &address, 0);
	if (failed == 0)
		failed = uv_listen((uv_stream_t *) &listener, 20, take_client);
	if (failed != 0)
		log_fatal("could not listen at %s: %s", bridge.options.metrics, uv_strerror(failed));
}

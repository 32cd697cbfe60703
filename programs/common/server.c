/*-------------------------------------------------------------------------
 *
 * server.c
 *	  See server.h.
 *
 * While it connects, libpq may close its socket and open another one, which
 * may have the same number.  So nothing looks at the socket while libpq is at
 * work, and a new handle does afterwards.
 *
 *-------------------------------------------------------------------------
 */
#include "common/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"

/* How long a connection may take to come about, in ms. */
#define CONNECT_MS 15000

static void server_ready(uv_poll_t *poll, int status, int events);
static void server_connect(Server *server);

/* libuv is done with the handle. */
static void
poll_closed(uv_handle_t *handle)
{
	free(handle);
}

/* Look at the socket no more. */
static void
unwatch(Server *server)
{
	if (server->poll == NULL)
		return;
	uv_poll_stop(server->poll);
	uv_close((uv_handle_t *) server->poll, poll_closed);
	server->poll = NULL;
}

/* Look for these events at the socket. */
static void
watch(Server *server, int events)
{
	if (server->poll == NULL)
	{
		server->poll = memory_get_zeroed(sizeof(uv_poll_t));
		if (uv_poll_init(server->loop, server->poll, PQsocket(server->conn)) != 0)
			log_fatal("could not watch the connection for %s", server->what);
		server->poll->data = server;
	}
	uv_poll_start(server->poll, events, server_ready);
}

/* It is time for the next try. */
static void
try_again(uv_timer_t *timer)
{
	server_connect(timer->data);
}

/* What the connection waits for has not come. */
static void
waited_too_long(uv_timer_t *timer)
{
	server_lost(timer->data, "the server does not answer");
}

/*
 * The connection is lost, or was given up for that reason: it is made again
 * after a while.
 */
void
server_lost(Server *server, const char *reason)
{
	uint32_t	delay = backoff_next(&server->backoff);
	size_t		length = strcspn(reason, "\n");

	unwatch(server);
	log_line(LOG_LEVEL_WARNING, "the connection for %s is lost: %.*s; next try in %u ms",
			 server->what, (int) length, reason, delay);
	PQfinish(server->conn);
	server->conn = NULL;
	server->state = SERVER_AWAY;
	uv_timer_start(&server->timer, try_again, delay, 0);
	server->lost(server);
}

/* Close the connection for good. */
void
server_close(Server *server)
{
	unwatch(server);
	uv_timer_stop(&server->timer);
	if (server->conn != NULL)
		PQfinish(server->conn);
	server->conn = NULL;
	server->state = SERVER_AWAY;
}

/* Go on connecting. */
static void
connect_further(Server *server)
{
	PostgresPollingStatusType status;

	unwatch(server);
	status = PQconnectPoll(server->conn);
	switch (status)
	{
		case PGRES_POLLING_READING:
			watch(server, UV_READABLE);
			break;
		case PGRES_POLLING_WRITING:
			watch(server, UV_WRITABLE);
			break;
		case PGRES_POLLING_OK:
			uv_timer_stop(&server->timer);
			PQsetnonblocking(server->conn, 1);
			server->state = SERVER_CONNECTED;
			watch(server, UV_READABLE);
			server->connected(server);
			break;
		default:
			server_lost(server, PQerrorMessage(server->conn));
			break;
	}
}

/* A server's notice is worth a line only when something is looked for. */
static void
take_notice(void *context, const char *message)
{
	const Server *server = context;

	log_line(LOG_LEVEL_DEBUG, "the server says to the connection for %s: %s",
			 server->what, message);
}

/* Begin to connect. */
static void
server_connect(Server *server)
{
	const char *keywords[] = {"dbname", "application_name", "client_encoding",
		"keepalives", "keepalives_idle", "keepalives_interval",
	"keepalives_count", "tcp_user_timeout", NULL};
	const char *values[] = {server->conninfo, server->application, "UTF8",
	"1", "5", "5", "3", "15000", NULL};

	server->state = SERVER_CONNECTING;
	server->conn = PQconnectStartParams(keywords, values, 1);
	if (server->conn == NULL)
		log_fatal("out of memory");
	PQsetNoticeProcessor(server->conn, take_notice, server);
	if (PQstatus(server->conn) == CONNECTION_BAD)
	{
		server_lost(server, PQerrorMessage(server->conn));
		return;
	}
	uv_timer_start(&server->timer, waited_too_long, CONNECT_MS, 0);
	watch(server, UV_WRITABLE);
}

/* Begin to connect for the first time; see server.h for what is to be set. */
void
server_start(Server *server)
{
	server->backoff.shortest = 100;
	server->backoff.longest = 5000;
	uv_timer_init(server->loop, &server->timer);
	server->timer.data = server;
	server_connect(server);
}

/* The connection is of use: the next failure is the first again. */
void
server_works(Server *server)
{
	backoff_reset(&server->backoff);
}

/* Send what libpq has, as far as the socket takes it. */
static void
flush(Server *server)
{
	int			left = PQflush(server->conn);

	if (left < 0)
		server_lost(server, PQerrorMessage(server->conn));
	else
		watch(server, left > 0 ? UV_READABLE | UV_WRITABLE : UV_READABLE);
}

/*
 * Something was given to libpq to send; an answer has to come within so many
 * seconds, or the connection is given up.
 */
void
server_sent(Server *server, int64_t seconds)
{
	server->answer_ms = seconds * 1000;
	uv_timer_start(&server->timer, waited_too_long, server->answer_ms, 0);
	flush(server);
}

/*
 * More was given to libpq to send, while an answer is awaited: that has no longer
 * for it, or a server that answers nothing would be given up only when nobody asks.
 */
void
server_sent_more(Server *server)
{
	flush(server);
}

/* The server has answered, or taken, some of what it was sent: the rest has time again. */
void
server_progresses(Server *server)
{
	if (server->state == SERVER_CONNECTED && uv_is_active((uv_handle_t *) &server->timer))
		uv_timer_start(&server->timer, waited_too_long, server->answer_ms, 0);
}

/* No answer is to come. */
void
server_idle(Server *server)
{
	uv_timer_stop(&server->timer);
}

/* Something is up with the socket. */
static void
server_ready(uv_poll_t *poll, int status, int events)
{
	Server	   *server = poll->data;

	if (server->state == SERVER_CONNECTING)
	{
		connect_further(server);
		return;
	}
	if ((status < 0 || (events & UV_READABLE)) &&
		!PQconsumeInput(server->conn))
	{
		server_lost(server, PQerrorMessage(server->conn));
		return;
	}

	/*
	 * libuv stops to look at a socket that has an error, which is read only
	 * behind what the server has said before, so that it has to look again.
	 */
	if (status < 0)
		watch(server, UV_READABLE);
	if (events & UV_WRITABLE)
	{
		server_progresses(server);
		flush(server);
	}
	if (server->state == SERVER_CONNECTED)
		server->input(server);
}

/*-------------------------------------------------------------------------
 *
 * server.h
 *	  A connection to the server that is made again for ever.
 *
 * libpq without blocking, but for the resolution of the host's name.  Its owner
 * sets loop, conninfo, application, what and the functions, and they stay while
 * the connection is in use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_SERVER_H
#define COMMON_SERVER_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <uv.h>

#include "common/backoff.h"

/*
 * What every session of the gateway's begins with, so that what a role or a database has
 * set does not stop it.  Where the network is cut, the server ends the session as
 * soon as the gateway gives it up: it has locks and subscriptions that the next
 * one needs, and if nothing is under way, the server would miss nothing for hours.
 */
#define SERVER_SETTINGS \
	"SET statement_timeout = 0; SET lock_timeout = 0;" \
	" SET idle_session_timeout = 0; SET search_path = pg_catalog;" \
	" SET idle_in_transaction_session_timeout = 0;" \
	" SET client_connection_check_interval = '2s';" \
	" SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5;" \
	" SET tcp_keepalives_count = 3; SET tcp_user_timeout = '15s';" \
	" SET default_transaction_isolation = 'read committed';" \
	" SET default_transaction_read_only = off;"

typedef enum ServerState
{
	SERVER_CONNECTING,
	SERVER_CONNECTED,
	SERVER_AWAY					/* until the next try */
} ServerState;

typedef struct Server
{
	uv_loop_t  *loop;			/* whose thread alone calls these functions */
	const char *conninfo;
	const char *application;	/* its application_name */
	const char *what;			/* for the log */
	ServerState state;
	PGconn	   *conn;			/* NULL while it is away */
	uv_poll_t  *poll;			/* NULL: nothing is looked for */
	uv_timer_t	timer;			/* the next try, or the end of a wait */
	Backoff		backoff;
	uint64_t	answer_ms;		/* in which the next answer has to come */

	/* The connection stands, and nothing was sent. */
	void		(*connected) (struct Server *server);

	/* Something has come: PQconsumeInput() was called. */
	void		(*input) (struct Server *server);

	/* The connection is lost; server->conn is gone. */
	void		(*lost) (struct Server *server);
} Server;

extern void server_start(Server *server);
extern void server_lost(Server *server, const char *reason);
extern void server_works(Server *server);
extern void server_sent(Server *server, int64_t seconds);
extern void server_sent_more(Server *server);
extern void server_progresses(Server *server);
extern void server_idle(Server *server);
extern void server_close(Server *server);

#endif

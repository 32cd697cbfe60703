/*-------------------------------------------------------------------------
 *
 * upstream.c
 *	  See upstream.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/upstream.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "common/log.h"
#include "common/memory.h"
#include "common/server.h"
#include "gateway/client.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/resume.h"
#include "gateway/stream.h"
#include "gateway/tls.h"

/* What the last stream has learned. */
typedef struct Known
{
	char	   *database;		/* NULL: nothing yet */
	char	   *version;
	char	   *schema;
	bool		is_utf8;
	struct sockaddr_storage address;
	socklen_t	address_size;
} Known;

static Known known;

static uv_prepare_t change_handle;
static uv_timer_t role_timer;
static bool started;

/* Replace a string. */
static void
set_string(char **string, const char *value)
{
	free(*string);
	*string = memory_copy_string(value);
}

/*
 * Find where the connection goes to, for logins.  The host's name is not
 * resolved again: libpq may have chosen one of several addresses.
 */
static bool
find_address(const PGconn *conn)
{
	const char *host = PQhost(conn);
	const char *address = PQhostaddr(conn);
	int			port = atoi(PQport(conn));

	memset(&known.address, 0, sizeof(known.address));
	if (*host == '/' || *host == '@')
	{
		struct sockaddr_un *local = (struct sockaddr_un *) &known.address;

		local->sun_family = AF_UNIX;
		if (snprintf(local->sun_path, sizeof(local->sun_path), "%s/.s.PGSQL.%d",
					 host, port) >= (int) sizeof(local->sun_path))
			return false;
		known.address_size = offsetof(struct sockaddr_un, sun_path) +
			strlen(local->sun_path) + 1;
		if (*host == '@')
		{
			local->sun_path[0] = '\0';
			known.address_size--;
		}
		return true;
	}
	if (strchr(address, ':') != NULL)
	{
		struct sockaddr_in6 *six = (struct sockaddr_in6 *) &known.address;

		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		known.address_size = sizeof(*six);
		return inet_pton(AF_INET6, address, &six->sin6_addr) == 1;
	}
	else
	{
		struct sockaddr_in *four = (struct sockaddr_in *) &known.address;

		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		known.address_size = sizeof(*four);
		return inet_pton(AF_INET, address, &four->sin_addr) == 1;
	}
}

/*
 * The stream's connection stands, and this is what the server is like.  NULL, or, if one
 * stood before, why logins cannot go there now, as long as the next call.
 */
const char *
upstream_learn(PGconn *conn, const char *version, const char *schema,
			   const char *encoding)
{
	static char error[512];
	bool		first = known.database == NULL;

	if (!tls_learn_server(conn, error, sizeof(error)))
	{
		if (first)
			log_fatal("%s", error);
		return error;
	}
	if (first && tls_is_on() && tls_to_server() && !gateway.options.ask_password &&
		!tls_same_certificate(conn))
		log_line(LOG_LEVEL_WARNING, "clients with TLS cannot log in by scram-sha-256 unless they set channel_binding=disable, as the server has TLS, too, with another certificate: connect to it by a Unix socket or without TLS, give this program the server's certificate, or use --ask-password");
	if (!find_address(conn))
		log_fatal("could not find out the server's address");
	set_string(&known.database, PQdb(conn));
	set_string(&known.version, version);
	set_string(&known.schema, schema);
	known.is_utf8 = strcmp(encoding, "SQL_ASCII") != 0;
	if (first)
		log_line(LOG_LEVEL_INFO, "connected to database \"%s\"", known.database);
	return NULL;
}

/* Where the server is; false while that is not known. */
bool
upstream_address(struct sockaddr_storage *address, socklen_t *size)
{
	if (known.database == NULL)
		return false;
	*address = known.address;
	*size = known.address_size;
	return true;
}

/* The gateway's database; NULL while there was no connection yet. */
const char *
upstream_database(void)
{
	return known.database;
}

/* What version() returns. */
const char *
upstream_version(void)
{
	return known.version;
}

/* What current_schema() returns. */
const char *
upstream_schema(void)
{
	return known.schema;
}

/* Are texts UTF-8?  In a database of SQL_ASCII they may be anything. */
bool
upstream_is_utf8(void)
{
	return known.is_utf8;
}

/* Before the loop sleeps: what all clients have asked for in this turn. */
static void
change_channels(uv_prepare_t *handle)
{
	uv_prepare_stop(handle);
	commands_channels();
}

/* The subscription is to have other channels. */
void
upstream_channels_changed(void)
{
	if (started)
		uv_prepare_start(&change_handle, change_channels);
}

/* Look whether sessions may still go on: by their age, and by their roles. */
static void
check_roles(uv_timer_t *timer)
{
	(void) timer;
	clients_end_old();
	commands_check_roles();
}

/* The limits may be others: look at the sessions as often as they say. */
void
upstream_reconfigure(void)
{
	if (started)
		uv_timer_start(&role_timer, check_roles, limits.session_check * 1000,
					   limits.session_check * 1000);
}

/* Begin to connect. */
void
upstream_start(void)
{
	started = true;
	uv_prepare_init(&gateway.loop, &change_handle);
	uv_timer_init(&gateway.loop, &role_timer);
	upstream_reconfigure();
	stream_start();
	commands_start();
}

/* Begin to connect that one, whose what and functions are set, to the gateway's server. */
void
upstream_connect(Server *server)
{
	static char application[100];

	snprintf(application, sizeof(application), "pgpubsub-gateway %s",
			 gateway.options.name);
	server->loop = &gateway.loop;
	server->conninfo = gateway.options.dbname;
	server->application = application;
	server_start(server);
}

/* Drop the subscription and close the connections; then call stopped. */
void
upstream_stop(void (*stopped) (void))
{
	uv_timer_stop(&role_timer);
	resume_stop();
	stream_stop();
	commands_stop(stopped);
}

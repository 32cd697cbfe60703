/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Whether the server lets a role in with a password that has come over HTTP.
 *
 * The login is libpq's, to where the gateway's own connections go, but with
 * nothing else of the gateway's: no password, and no certificate.  It takes its
 * turn among all logins (login.c), and counts only if the server has asked for the
 * password.
 *
 *-------------------------------------------------------------------------
 */
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/login_internal.h"

static void probe_ready(uv_poll_t *poll, int status, int events);

/* The loop is done with the handle. */
static void
probe_closed(uv_handle_t *handle)
{
	free(handle);
}

/* Look at the socket no more. */
static void
unwatch(Login *login)
{
	if (login->probe_poll == NULL)
		return;
	uv_poll_stop(login->probe_poll);
	uv_close((uv_handle_t *) login->probe_poll, probe_closed);
	login->probe_poll = NULL;
}

/* Look for these events; libpq's socket may be another one each time. */
static void
watch(Login *login, int events)
{
	login->probe_poll = memory_get_zeroed(sizeof(uv_poll_t));
	uv_poll_init(&gateway.loop, login->probe_poll, PQsocket(login->probe));
	login->probe_poll->data = login;
	uv_poll_start(login->probe_poll, events, probe_ready);
}

/* What libpq says of the connection is no use to who must not know where that goes. */
static void
ignore_notice(void *context, const char *message)
{
	(void) context;
	(void) message;
}

/* Connect the login to the server; false if it has ended. */
bool
probe_connect(Login *login)
{
	/* a certificate that is not there is none */
	const char *keywords[] = {"dbname", "user", "password", "application_name",
	"sslcert", "gssencmode", "connect_timeout", NULL};
	const char *values[] = {gateway.options.dbname, login->user, login->password,
	"pgpubsub-gateway login", "/dev/null/none", "disable", "0", NULL};

	login->probe = PQconnectStartParams(keywords, values, 1);
	if (login->probe == NULL || PQstatus(login->probe) == CONNECTION_BAD)
	{
		PQfinish(login->probe);
		login->probe = NULL;
		login_server_away(login->client, NULL);
		return false;
	}
	PQsetNoticeProcessor(login->probe, ignore_notice, NULL);
	watch(login, UV_WRITABLE);
	return true;
}

/* The login is over: free it; returns whether it had a connection. */
bool
probe_close(Login *login)
{
	bool		had_one = login->probe != NULL;

	unwatch(login);
	PQfinish(login->probe);
	OPENSSL_cleanse(login->password, strlen(login->password));
	free(login->password);
	free(login);
	return had_one;
}

/*
 * The server has not let it in.  libpq does not tell why but in words, so each
 * failure behind the question for the password counts as a wrong one.
 */
static void
probe_refused(Login *login)
{
	static const Report report = {
		.sqlstate = "28P01",
		.message = "the server refuses this name and password",
	};
	Client	   *client = login->client;

	bool		asked = PQconnectionUsedPassword(login->probe);

	if (!asked && strstr(PQerrorMessage(login->probe), "FATAL") == NULL)
	{
		login_server_away(client, NULL);
		return;
	}
	if (asked)
		login_has_failed(login);
	login_refuse(client, &report);
}

/* Something is up with the socket: go on connecting. */
static void
probe_ready(uv_poll_t *poll, int status, int events)
{
	Login	   *login = poll->data;

	(void) status;
	(void) events;
	unwatch(login);
	switch (PQconnectPoll(login->probe))
	{
		case PGRES_POLLING_READING:
			watch(login, UV_READABLE);
			break;
		case PGRES_POLLING_WRITING:
			watch(login, UV_WRITABLE);
			break;
		case PGRES_POLLING_OK:
			login_probed(login, PQconnectionUsedPassword(login->probe));
			break;
		default:
			probe_refused(login);
			break;
	}
}

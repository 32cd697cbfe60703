/*-------------------------------------------------------------------------
 *
 * login.c
 *	  See login.h.
 *
 * 1. Who may log in is the server's to say.  The client's startup packet goes
 *	  to the server on a connection of its own, the login's leg, and so do its
 *	  answers; what the server says comes back.  It all ends with the server's
 *	  ReadyForQuery: after AuthenticationOk it may still refuse.  Then the leg is
 *	  closed, and the client is the gateway's.
 *
 * 2. One message at a time: an answer is taken from the client only if the
 *	  server waits for one.  So nothing that a client sends behind its password
 *	  gets to the server, where it would run as a statement.
 *
 * 3. The server sees the gateway's address, not the client's.  Where it trusts
 *	  that (trust, peer), or knows it by other means than the client's answer,
 *	  letting the client in would let in anybody.  So a login counts only if the
 *	  server asked for a proof and the client gave it, unless the option
 *	  allow-unproven-login says otherwise.
 *
 *	  A client with TLS that binds its password to the channel could not answer a server
 *	  that has another certificate: with ask-password it is asked for the password, and
 *	  probe.c answers the server.
 *
 * 4. The leg goes to the server from which the events come: the host that libpq
 *	  found for these.  Nothing else of the gateway's own connection is used: no
 *	  password, no certificate.
 *
 * 5. Logins cost the server far more than anything else here.  At most
 *	  limits.max_logins go on at a time, and the others wait in a queue.  While many
 *	  events are delivered there are fewer, so that these need not wait for a core:
 *	  each login has a new process start at the server.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/login_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/address.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/session.h"
#include "gateway/tls.h"
#include "gateway/upstream.h"

/* So many deliveries a second are many; they are counted for so long at least, in ms. */
#define BUSY_RATE 10000
#define BUSY_WINDOW_MS 100

/* What the server does for a login with the core is over after so long, in ms. */
#define WORK_MS 100

static ListNode login_queue;
static int	queued_logins;
static int	running_logins;
static ListNode running_list;
static uv_timer_t again;

static void login_start_next(void);

/* To be called once. */
void
login_init(void)
{
	list_init(&login_queue);
	list_init(&running_list);
	uv_timer_init(&gateway.loop, &again);
	uv_unref((uv_handle_t *) &again);
}

/* The client's login ends, if it has one, however it went. */
void
login_drop(Client *client)
{
	Login	   *login = client->login;

	if (login == NULL)
		return;
	client->login = NULL;
	login->client = NULL;
	if (!list_is_empty(&login->link) && !login->has_leg)
		queued_logins--;
	list_remove(&login->link);
	bytes_free(&login->to_server);
	bytes_free(&login->from_server);
	settings_release(login->settings);
	probe_free(login->probe);
	login->probe = NULL;
	free(login->user);
	login->user = NULL;
	if (leg_close(login))
	{
		running_logins--;
		login_start_next();
	}
}

/* Refuse the login. */
void
login_refuse(Client *client, const Report *report)
{
	char		reason[300];

	gateway.counters.failed_logins++;
	snprintf(reason, sizeof(reason), "login refused: %s", report->message);
	client_end(client, report, reason);
}

/* The login has taken too long. */
void
login_timed_out(Client *client)
{
	static const Report report = {
		.sqlstate = "08006",
		.message = "canceling authentication due to timeout",
	};

	login_refuse(client, &report);
}

/* The server cannot be had for a login. */
void
login_server_away(Client *client, const char *detail)
{
	Report		report = {
		.sqlstate = "57P03",
		.message = "the server cannot be reached",
		.detail = detail,
		.hint = "Try again.",
	};

	login_refuse(client, &report);
}

/* Is the server waiting for a message of the client? */
bool
login_wants_answer(const Client *client)
{
	return client->login != NULL && client->login->wants_answer;
}

/* Are many events delivered now? */
static bool
streams_are_busy(void)
{
	static uint64_t begun;
	static uint64_t counted;
	static bool busy;
	uint64_t	ms = gateway_now() - begun;

	if (ms >= BUSY_WINDOW_MS)
	{
		busy = (gateway.counters.deliveries - counted) * 1000 / ms >= BUSY_RATE;
		begun = gateway_now();
		counted = gateway.counters.deliveries;
	}
	return busy;
}

/*
 * May one more login begin at the server?  While it is busy, those do not count that
 * wait for their clients, or have been waited for: they cost little, as where the server
 * asks another one, and could keep out all others.
 */
static bool
may_start_login(void)
{
	int64_t		busy = limits.busy_logins;

	if (running_logins >= limits.max_logins)
		return false;
	if (!streams_are_busy())
		return true;
	if (busy == 0)
		busy = (int64_t) uv_available_parallelism() / 2;
	if (busy == 0)
		busy = 1;
	for (ListNode *node = running_list.next; node != &running_list; node = node->next)
	{
		const Login *login = list_container(Login, link, node);

		if (!login->wants_answer && login->works_since + WORK_MS > gateway_now())
			busy--;
	}
	return busy > 0;
}

/* May the client, which has not failed too often, be tried?  False if it was refused. */
static bool
may_be_tried(Client *client, const char *user)
{
	static const Report failed = {
		.sqlstate = "53400",
		.message = "too many logins as this role from this address have failed",
		.hint = "Wait a minute, and try again with the right password.",
	};
	char		host[sizeof(client->address)];
	char		role[NAME_BYTES + 1];

	client_host(client, host, sizeof(host));
	snprintf(role, sizeof(role), "%s", user);
	if (client->local || address_may_log_in(host, role))
		return true;
	login_refuse(client, &failed);
	return false;
}

/* Some time has passed. */
static void
start_again(uv_timer_t *timer)
{
	(void) timer;
	login_start_next();
}

/* Start those logins whose turn it is. */
static void
login_start_next(void)
{
	static bool starting;

	/* One that fails at once comes here again. */
	if (starting)
		return;
	starting = true;
	while (may_start_login() && !list_is_empty(&login_queue))
	{
		Login	   *login = list_container(Login, link, login_queue.next);

		list_remove(&login->link);
		queued_logins--;
		if (may_be_tried(login->client, login->user) && leg_connect(login))
		{
			running_logins++;
			list_append(&running_list, &login->link);
			login->works_since = gateway_now();
			client_set_state(login->client, CLIENT_LOGIN);
		}
	}
	starting = false;
	if (!list_is_empty(&login_queue))
		uv_timer_start(&again, start_again, WORK_MS, 0);
}

/* The password that the client has given is wrong. */
void
login_has_failed(const Login *login)
{
	const Client *client = login->client;
	char		host[sizeof(client->address)];

	if (client->local)
		return;
	client_host(client, host, sizeof(host));
	address_has_failed(host, login->user);
}

/*
 * The role that the server takes the user's name for, of which it reads no more than
 * names have: else one role would count as many.  To be freed.
 */
char *
login_role_name(const char *user)
{
	return strndup(user, NAME_BYTES);
}

/* May the client try to log in as the user now?  False if it was refused. */
bool
login_may_begin(Client *client, const char *user)
{
	static const Report full = {
		.sqlstate = "53300",
		.message = "sorry, too many logins wait already",
		.detail = "The gateway has its login-queue.",
		.hint = "Try again.",
	};

	if (!may_be_tried(client, user))
		return false;
	if (queued_logins >= limits.login_queue && !may_start_login())
		login_refuse(client, &full);
	else if (upstream_database() == NULL)
		login_server_away(client, NULL);
	else
		return true;
	return false;
}

/* A login of the client, which is not in the queue yet. */
Login *
login_make(Client *client)
{
	Login	   *login = memory_get_zeroed(sizeof(Login));

	list_init(&login->link);
	login->client = client;
	login->settings = settings_empty();
	client->login = login;
	return login;
}

/* The login waits for its turn, which may be now. */
void
login_queue_up(Login *login)
{
	Client	   *client = login->client;

	list_append(&login_queue, &login->link);
	queued_logins++;
	client_set_state(client, CLIENT_QUEUED);
	client_touch(client);
	login_start_next();
}

/*
 * Ask the client, which has TLS, for its password, and answer the server with that: a
 * client that binds a password to its channel could not answer it.
 */
void
login_ask_password(Login *login)
{
	Client	   *client = login->client;
	Bytes		body = {0};

	login->asks_password = true;
	login->wants_answer = true;
	bytes_append_int32(&body, LOGIN_AUTH_PASSWORD);
	reply_raw(&client->out, 'R', body.data + body.begin, bytes_length(&body));
	bytes_free(&body);
	client_set_state(client, CLIENT_LOGIN);
	client_touch(client);
}

/* The client has said its password, which we have asked for. */
static void
take_password(Login *login, const Packet *packet)
{
	static const Report broken = {
		.sqlstate = "08P01",
		.message = "invalid password packet size",
	};
	static const Report empty = {
		.sqlstate = "28P01",
		.message = "empty password returned by client",
	};
	PacketReader reader;
	const char *password;

	packet_read(&reader, packet);
	password = packet_string(&reader);
	if (reader.bad || reader.at != reader.end || *password == '\0')
	{
		login_refuse(login->client, reader.bad || reader.at != reader.end ? &broken : &empty);
		return;
	}
	if (!login_may_begin(login->client, login->user))
		return;
	login->asks_password = false;
	login->wants_answer = false;
	login->probe = probe_make(password);
	login_queue_up(login);
}

/* The client's answer to the server's challenge: it goes there as it is. */
void
login_answer(Client *client, const Packet *packet)
{
	static const Report broken = {
		.sqlstate = "08P01",
		.message = "expected password response",
	};
	Login	   *login = client->login;

	if (packet->type == 'X')
	{
		client_close(client, "closed: it has ended the connection");
		return;
	}
	if (packet->type != 'p')
	{
		login_refuse(client, &broken);
		return;
	}
	if (login->asks_password)
	{
		take_password(login, packet);
		return;
	}
	login->wants_answer = false;
	login->works_since = gateway_now();
	login->answered = true;
	bytes_append(&login->to_server, packet->body - 5, packet->total);
	leg_poll(login);
}

/* The server has asked for something that cannot be done here. */
void
login_refuse_method(Client *client, uint32_t method)
{
	char		detail[100];
	Report		report = {
		.sqlstate = "0A000",
		.message = "the server asks for an authentication method that cannot be used here",
		.detail = detail,
		.hint = "Passwords (scram-sha-256, md5, password, ldap, pam, radius) can be used.",
	};

	snprintf(detail, sizeof(detail), "It is the method with the number %u.", method);
	login_refuse(client, &report);
}

/*
 * The server lets the client in: was that the client's doing, or does that not matter?
 * False if it was refused.
 */
bool
login_may_be_let_in(const Login *login)
{
	static const Report report = {
		.sqlstate = "28000",
		.message = "login without a proof is refused",
		.detail = "The server has asked for no password: it trusts the gateway, not the client.",
		.hint = "Have pg_hba.conf ask for scram-sha-256 from the gateway's address.",
	};

	if (gateway.options.allow_unproven_login || (login->challenged && login->answered))
		return true;
	login_refuse(login->client, &report);
	return false;
}

/* An authentication request has come; false if the login has ended. */
static bool
take_request(Login *login, const Packet *packet)
{
	Client	   *client = login->client;
	PacketReader reader;
	uint32_t	method;

	packet_read(&reader, packet);
	method = packet_int32(&reader);
	switch (reader.bad ? UINT32_MAX : method)
	{
		case LOGIN_AUTH_OK:
			login->authenticated = true;
			if (!login_may_be_let_in(login))
				return false;
			break;
		case LOGIN_AUTH_PASSWORD:
		case LOGIN_AUTH_MD5:
		case LOGIN_AUTH_SASL:
		case LOGIN_AUTH_SASL_CONTINUE:
			login->challenged = true;
			login->wants_answer = true;
			login_start_next();
			break;
		case LOGIN_AUTH_SASL_FINAL:
			break;
		default:
			login_refuse_method(client, method);
			return false;
	}
	return true;
}

/*
 * A client without TLS takes a server that offers to bind the password to a channel
 * for one that somebody stands in front of.  Where the server has that with the
 * gateway, it is not offered on.  Returns whether the request was sent.
 */
static bool
offer_mechanisms(Login *login, const Packet *packet)
{
	static const char bound[] = "-PLUS";
	Client	   *client = login->client;
	PacketReader reader;
	Bytes		body = {0};
	const char *name;

	packet_read(&reader, packet);
	if (packet_int32(&reader) != LOGIN_AUTH_SASL || client->transport.ssl != NULL ||
		!tls_to_server())
		return false;
	bytes_append_int32(&body, LOGIN_AUTH_SASL);
	while ((name = packet_string(&reader)) != NULL && !reader.bad && *name != '\0')
	{
		size_t		length = strlen(name);

		if (length < sizeof(bound) ||
			strcmp(name + length - (sizeof(bound) - 1), bound) != 0)
			bytes_append_string(&body, name);
	}
	bytes_append_byte(&body, '\0');
	reply_raw(&client->out, 'R', body.data + body.begin, bytes_length(&body));
	bytes_free(&body);
	client_touch(client);
	return true;
}

/* The encodings in which a client's bytes are those of the gateway's sessions. */
static bool
encoding_fits(const Settings *settings)
{
	const char *client = settings_value(settings, "client_encoding");
	const char *server = settings_value(settings, "server_encoding");

	if (client == NULL || server == NULL)
		return false;
	return strcmp(client, "UTF8") == 0 ||
		(strcmp(client, "SQL_ASCII") == 0 &&
		 (strcmp(server, "UTF8") == 0 || strcmp(server, "SQL_ASCII") == 0));
}

/* The server's ReadyForQuery: the client is in. */
static void
finish_login(Login *login)
{
	static const Report encoding = {
		.sqlstate = "22023",
		.message = "client_encoding must be UTF8 here",
		.hint = "Set client_encoding, or the environment variable PGCLIENTENCODING.",
	};
	Client	   *client = login->client;

	if (!login->authenticated || !encoding_fits(login->settings))
	{
		login_refuse(client, &encoding);
		return;
	}
	client->server_settings = settings_shared(login->settings);
	login->settings = NULL;
	client->role = role_hold(login->user);
	client->logged_in_at = gateway_now();
	login_drop(client);
	client_deadline(client, 0);
	client_give_pid(client);
	session_begin(client);
	gateway.counters.logins++;
	reply_key(&client->out, client->pid, client->key);
	reply_ready(&client->out, 'I');
	client_touch(client);
	client_set_state(client, CLIENT_READY);
	client_input(client);
}

/* A message of the server; false if the login has ended. */
bool
login_server_message(Login *login, const Packet *packet)
{
	Client	   *client = login->client;
	PacketReader reader;
	const char *name;
	const char *value;

	if (login->probe != NULL && client->http != NULL)
		return probe_message(login, packet);
	packet_read(&reader, packet);
	switch (packet->type)
	{
		case 'R':
			if (login->probe != NULL)
			{
				if (!probe_message(login, packet))
					return false;
				if (!login->authenticated)
					return true;
				if (!login_may_be_let_in(login))
					return false;
				break;
			}
			if (!take_request(login, packet))
				return false;
			if (offer_mechanisms(login, packet))
				return true;
			break;
		case 'S':
			name = packet_string(&reader);
			value = packet_string(&reader);
			if (reader.bad)
				break;
			login->settings = settings_with(login->settings, name, value, true);
			break;
		case 'K':
			/* That is the leg's; the client gets its own. */
			return true;
		case 'Z':
			finish_login(login);
			return false;
		case 'E':
			reply_raw(&client->out, 'E', packet->body, packet->length);
			gateway.counters.failed_logins++;
			if (login->answered && !login->authenticated)
				login_has_failed(login);
			client_end(client, NULL, "login refused by the server");
			return false;
		case 'N':
			break;
		default:
			login_server_away(client, "It has answered what is no part of a login.");
			return false;
	}
	reply_raw(&client->out, packet->type, packet->body, packet->length);
	client_touch(client);
	return true;
}

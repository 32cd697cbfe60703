/*-------------------------------------------------------------------------
 *
 * login_startup.c
 *	  A client's packets before its login: requests for TLS, to cancel, and to log in.
 *
 * The server's startup packet is made from the client's, whose database has to be the
 * gateway's.  What that says of the protocol's version and options is answered here.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/login_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/session.h"
#include "gateway/tls.h"
#include "gateway/upstream.h"

/* The most options of the protocol's own that a client may ask for. */
#define MAX_PROTOCOL_OPTIONS 16

/* Put a parameter into the startup packet. */
static void
add_parameter(Bytes *packet, const char *name, const char *value)
{
	bytes_append_string(packet, name);
	bytes_append_string(packet, value);
}

/* Does the value of the parameter "replication" ask for it? */
static bool
asks_for_replication(const char *value)
{
	static const char *const no[] = {"false", "off", "no", "0", "f", "n"};

	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
	{
		if (strcasecmp(value, no[i]) == 0)
			return false;
	}
	return true;
}

/* Refuse the login to that database, which is not the gateway's. */
static void
refuse_database(Client *client, const char *database)
{
	char		message[200];
	char		hint[200];
	Report		report = {
		.sqlstate = "3D000",
		.message = message,
		.hint = hint,
	};

	snprintf(message, sizeof(message),
			 "database \"%.63s\" cannot be connected to here", database);
	snprintf(hint, sizeof(hint), "This gateway serves database \"%.63s\".",
			 upstream_database());
	login_refuse(client, &report);
}

/*
 * End the server's startup packet with the database, and write its length; false if the
 * client was refused.
 */
static bool
end_packet(Login *login, const char *database)
{
	Bytes	   *packet = &login->to_server;

	if (strcmp(database, upstream_database()) != 0)
	{
		refuse_database(login->client, database);
		return false;
	}
	add_parameter(packet, "database", database);
	bytes_append_byte(packet, '\0');
	for (int i = 0; i < 4; i++)
		packet->data[i] = packet->end >> (24 - 8 * i) & 0xFF;
	return true;
}

/*
 * Make the server's startup packet from the client's, which is 3.something.
 * False if the client was refused.
 */
static bool
make_startup(Login *login, const Startup *startup)
{
	static const Report broken = {
		.sqlstate = "08P01",
		.message = "invalid startup packet layout: expected terminator as last byte",
	};
	static const Report no_user = {
		.sqlstate = "28000",
		.message = "no PostgreSQL user name specified in startup packet",
	};
	static const Report replication = {
		.sqlstate = "0A000",
		.message = "replication connections are not possible here",
		.hint = "Connect to the server itself.",
	};
	PacketReader parameters = startup->parameters;
	Client	   *client = login->client;
	const char *options[MAX_PROTOCOL_OPTIONS];
	int			option_count = 0;
	const char *database = NULL;
	const char *user = NULL;
	const char *name;
	const char *value;

	bytes_append_int32(&login->to_server, 0);
	bytes_append_int32(&login->to_server, 3 << 16);
	while (startup_next(&parameters, &name, &value))
	{
		if (strcmp(name, "user") == 0)
			user = value;
		else if (strcmp(name, "database") == 0)
			database = value;
		else if (strcmp(name, "replication") == 0)
		{
			if (!asks_for_replication(value))
				continue;
			login_refuse(client, &replication);
			return false;
		}
		else if (strncmp(name, "_pq_.", 5) == 0)
		{
			if (option_count < MAX_PROTOCOL_OPTIONS)
				options[option_count++] = name;
			continue;
		}
		add_parameter(&login->to_server, name, value);
	}
	if (parameters.bad || user == NULL || *user == '\0')
	{
		login_refuse(client, parameters.bad ? &broken : &no_user);
		return false;
	}
	if (!end_packet(login, database == NULL || *database == '\0' ? user : database))
		return false;
	login->user = login_role_name(user);
	if (startup->minor > 0 || option_count > 0)
		reply_negotiate(&client->out, options, option_count);
	return true;
}

/* The user that the startup packet names, or "". */
static const char *
startup_user(const Startup *startup)
{
	PacketReader parameters = startup->parameters;
	const char *user = "";
	const char *name;
	const char *value;

	while (startup_next(&parameters, &name, &value))
	{
		if (strcmp(name, "user") == 0)
			user = value;
	}
	return user;
}

/* Refuse a startup packet of that version of the protocol. */
static void
refuse_version(Client *client, unsigned int major, unsigned int minor)
{
	char		message[100];
	Report		report = {
		.sqlstate = "0A000",
		.message = message,
	};

	snprintf(message, sizeof(message),
			 "unsupported frontend protocol %u.%u: server supports 3.0 to 3.0",
			 major, minor);
	login_refuse(client, &report);
}

/* A client that wants to log in. */
static void
begin_login(Client *client, const Startup *startup)
{
	static const Report clear = {
		.sqlstate = "28000",
		.message = "connections without TLS are not allowed",
		.hint = "Connect with sslmode=require, or better verify-full.",
	};
	Login	   *login;

	if (startup->major != 3)
	{
		refuse_version(client, startup->major, startup->minor);
		return;
	}
	if (gateway.options.require_tls && !client->local && client->transport.ssl == NULL)
	{
		login_refuse(client, &clear);
		return;
	}
	if (!login_may_begin(client, startup_user(startup)))
		return;
	login = login_make(client);
	if (!make_startup(login, startup))
		return;
	if (gateway.options.ask_password && client->transport.ssl != NULL)
		login_ask_password(login);
	else
		login_queue_up(login);
}

/* Are both the same?  Takes as long whatever they are. */
static bool
same_key(uint32_t one, uint32_t other)
{
	volatile uint32_t difference = one ^ other;

	return difference == 0;
}

/*
 * The client asks for TLS, or for GSS, which is not to be had.  As in the server,
 * there is no TLS at a Unix socket; and who asks again, or for either once there is
 * TLS, has sent an unknown version of the protocol.
 */
static void
answer_tls(Client *client, bool tls)
{
	bool	   *asked = tls ? &client->asked_tls : &client->asked_gss;

	if (*asked || client->transport.ssl != NULL)
	{
		refuse_version(client, 1234, tls ? 5679 : 5680);
		return;
	}
	*asked = true;
	if (!tls || !tls_is_on() || client->local)
	{
		queue_add_bytes(&client->out, "N", 1);
		client_touch(client);
	}
	else if (send(client->transport.fd, "S", 1, MSG_NOSIGNAL) != 1)
		client_close(client, "closed: it cannot be sent to");
	else
		(void) client_begin_tls(client, false);
}

/*
 * The first packet of a client, behind which there are that many bytes more.
 */
void
login_startup(Client *client, const Packet *packet, size_t behind)
{
	static const Report broken = {
		.sqlstate = "08P01",
		.message = "invalid startup packet",
	};
	Startup		startup;
	Client	   *other;

	startup_decode(packet, &startup);
	switch (startup.kind)
	{
		case STARTUP_LOGIN:
			begin_login(client, &startup);
			break;
		case STARTUP_CANCEL:
			other = client_by_pid(startup.pid);
			if (other != NULL && same_key(other->key, startup.key))
				session_cancel(other);
			client_close(client, "closed: a cancel request");
			break;
		case STARTUP_TLS:
		case STARTUP_GSS:

			/*
			 * Whoever has put something behind the request in clear is not
			 * the client that has sent this.
			 */
			if (behind > 0)
			{
				login_refuse(client, &broken);
				return;
			}
			answer_tls(client, startup.kind == STARTUP_TLS);
			break;
		case STARTUP_BROKEN:
			login_refuse(client, &broken);
			break;
	}
}

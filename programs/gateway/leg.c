/*-------------------------------------------------------------------------
 *
 * leg.c
 *	  The connection on which a login goes to the server.
 *
 * It begins as libpq's does: if the events come with TLS, the server is asked for
 * that first, and its certificate is checked.  Nothing of the login is sent before.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/login_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/tls.h"
#include "gateway/upstream.h"

/* What a server may say in a login: a message, and all that is not sent on yet. */
#define MAX_SERVER_MESSAGE (256 * 1024)

static void leg_ready(uv_poll_t *poll, int status, int events);

/* libuv is done with the leg's handle. */
static void
leg_closed(uv_handle_t *handle)
{
	Login	   *login = handle->data;

	close(login->transport.fd);
	free(login);
}

/* The login is over: free it; returns whether it had a leg. */
bool
leg_close(Login *login)
{
	if (!login->has_leg)
	{
		free(login);
		return false;
	}
	transport_free(&login->transport);
	uv_poll_stop(&login->poll);
	uv_close((uv_handle_t *) &login->poll, leg_closed);
	return true;
}

/* Look for what the leg has to do. */
void
leg_poll(Login *login)
{
	bool		writes = bytes_length(&login->to_server) > 0 &&
		!login->asks_tls && !login->transport.handshaking;
	int			events = UV_READABLE;

	if (!login->connected || writes || login->transport.waits_to_write ||
		login->transport.unsent != NULL)
		events |= UV_WRITABLE;
	uv_poll_start(&login->poll, events, leg_ready);
}

/* Connect the login to the server; false if it has ended. */
bool
leg_connect(Login *login)
{
	struct sockaddr_storage address;
	socklen_t	size;
	Client	   *client = login->client;
	int			fd;

	if (!upstream_address(&address, &size))
	{
		login_server_away(client, NULL);
		return false;
	}
	fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || (connect(fd, (struct sockaddr *) &address, size) < 0 &&
				   errno != EINPROGRESS))
	{
		int			error = errno;

		if (fd >= 0)
			close(fd);
		login_server_away(client, strerror(error));
		return false;
	}
	login->transport.fd = fd;
	login->has_leg = true;
	uv_poll_init(&gateway.loop, &login->poll, fd);
	login->poll.data = login;
	leg_poll(login);
	return true;
}

/* Take the whole messages that have come; false if the login has ended. */
static bool
take_messages(Login *login)
{
	for (;;)
	{
		Packet		packet;
		PacketResult result;

		result = backend_packet_parse(login->from_server.data + login->from_server.begin,
									  bytes_length(&login->from_server),
									  MAX_SERVER_MESSAGE, &packet);
		if (result == PACKET_MORE)
			return true;
		if (result == PACKET_BROKEN)
		{
			login_server_away(login->client, "It has answered what is no message.");
			return false;
		}
		if (!login_server_message(login, &packet))
			return false;
		bytes_consume(&login->from_server, packet.total);
	}
}

/* The server has said whether it has TLS; false if the login has ended. */
static bool
take_tls_answer(Login *login)
{
	char		answer;
	ssize_t		count = recv(login->transport.fd, &answer, 1, 0);

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (count != 1 || answer != 'S' ||
		!transport_begin_tls(&login->transport, tls_for_server(), false))
	{
		login_server_away(login->client, "It has no TLS for the login.");
		return false;
	}
	login->asks_tls = false;
	return true;
}

/* Read what the server says. */
static void
leg_read(Login *login)
{
	Client	   *client = login->client;
	char		buffer[16384];
	bool		was_shaking;
	ssize_t		count;

	if (login->asks_tls && (!take_tls_answer(login) || login->asks_tls))
		return;
	was_shaking = login->transport.handshaking;
	count = transport_receive(&login->transport, buffer, sizeof(buffer));
	if (was_shaking || login->transport.waits_to_write)
		leg_poll(login);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (count <= 0)
	{
		login_server_away(client, count == 0 ? "It has closed the connection." :
						  errno == EPROTO ? transport_error() : strerror(errno));
		return;
	}
	bytes_append(&login->from_server, buffer, count);

	/* The client may have answered already. */
	if (take_messages(login))
		client_input(client);
}

/* The connection stands: begin to talk.  False if the login has ended. */
static bool
leg_connected(Login *login)
{
	static const unsigned char ask[] = {0, 0, 0, 8, 4, 210, 22, 47};
	int			error = 0;
	socklen_t	size = sizeof(error);

	if (getsockopt(login->transport.fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ||
		error != 0)
	{
		login_server_away(login->client, strerror(error));
		return false;
	}
	login->connected = true;
	if (!tls_to_server())
		return true;
	if (send(login->transport.fd, ask, sizeof(ask), MSG_NOSIGNAL) != sizeof(ask))
	{
		login_server_away(login->client, strerror(errno));
		return false;
	}
	login->asks_tls = true;
	return true;
}

/* Send what is to be sent to the server. */
static void
leg_write(Login *login)
{
	Bytes	   *out = &login->to_server;

	if (!login->connected && !leg_connected(login))
		return;
	if (!login->asks_tls && !login->transport.handshaking &&
		(bytes_length(out) > 0 || login->transport.unsent != NULL))
	{
		struct iovec part = {out->data + out->begin, bytes_length(out)};
		ssize_t		sent = transport_send(&login->transport, &part, 1);

		if (sent < 0 && errno != EAGAIN && errno != EINTR)
		{
			/* What it has said before it closed tells more. */
			leg_read(login);
			return;
		}
		if (sent > 0)
			bytes_consume(out, sent);
	}
	leg_poll(login);
}

/* Something is up with the leg's socket. */
static void
leg_ready(uv_poll_t *poll, int status, int events)
{
	Login	   *login = poll->data;
	bool		read = (events & UV_READABLE) || login->transport.waits_to_write;

	if (login->client == NULL)
		return;
	if (status < 0)
	{
		/* libuv reports a refused connection so. */
		leg_read(login);
		return;
	}
	if (events & UV_WRITABLE)
		leg_write(login);
	if (read && login->client != NULL)
		leg_read(login);
}

/*-------------------------------------------------------------------------
 *
 * client.c
 *	  See client.h.
 *
 * 1. All sockets are read into one buffer.  Only what is no whole message yet,
 *	  or came while the client waits for the server, is kept with the client, so
 *	  that one which is idle has no buffers at all.
 *
 * 2. Nothing is sent where it is said.  A client with something to send is put
 *	  into a list, and before the loop sleeps all in it are flushed: what an
 *	  event brings to a client in one turn goes out with one system call.
 *
 * 3. A client that takes less than it gets has at most limits.client_buffer
 *	  bytes waiting.  Then all that waits is dropped, and the connection ends
 *	  with an error that says so.
 *
 * 4. A client is freed when libuv has closed its handle, never within a
 *	  function that was given it.  Whoever calls what may close a client looks
 *	  at its state afterwards.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/login.h"
#include "gateway/session.h"
#include "gateway/tls.h"

/* Parts that one system call sends. */
#define SEND_PARTS 64

/* Bytes that are kept of what a client says while it waits for the server. */
#define INPUT_AHEAD (80 * 1024)

/* What one look reads of a client that has not shown who it is: a record of TLS. */
#define READ_STRANGER (16 * 1024)

/* Bytes of a message's type and length. */
#define MESSAGE_HEAD 5

/* The first byte of a connection that begins with TLS. */
#define TLS_HANDSHAKE 0x16

static ListNode dirty_clients;
static uv_prepare_t flush_handle;

static void client_socket_ready(uv_poll_t *poll, int status, int events);

/* How the log names the client. */
void
client_name(const Client *client, char *name, size_t size)
{
	if (client->role != NULL)
		snprintf(name, size, "client %llu (%s, role %s)",
				 (unsigned long long) client->number, client->address,
				 client->role->name);
	else
		snprintf(name, size, "client %llu (%s)",
				 (unsigned long long) client->number, client->address);
}

/* The host that the client has come from, without its port. */
void
client_host(const Client *client, char *host, size_t size)
{
	const char *colon = strrchr(client->address, ':');

	if (client->local || colon == NULL)
		snprintf(host, size, "%s", client->address);
	else
		snprintf(host, size, "%.*s", (int) (colon - client->address), client->address);
}

/* Write a line of the client to the log. */
static void
client_log(const Client *client, LogLevel level, const char *what)
{
	char		name[160];

	client_name(client, name, sizeof(name));
	log_line(level, "%s: %s", name, what);
}

/* Look for those events at the socket from now on. */
static void
set_polled(Client *client, int events)
{
	if (client->polled == events)
		return;
	client->polled = events;
	if (events == 0)
		uv_poll_stop(&client->poll);
	else
		uv_poll_start(&client->poll, events, client_socket_ready);
}

/* Look for what the client's state and buffers ask for. */
static void
update_polled(Client *client)
{
	int			events = 0;

	if (client->state == CLIENT_CLOSED)
		return;
	switch (client->state)
	{
		case CLIENT_STARTUP:
		case CLIENT_READY:
			events = UV_READABLE;
			break;
		case CLIENT_QUEUED:
		case CLIENT_LOGIN:
			/* A password is, and no more. */
			if (bytes_length(&client->in) < (size_t) limits.max_startup + MESSAGE_HEAD)
				events = UV_READABLE;
			break;
		case CLIENT_WAITING:
			/* What a client says ahead is kept, but not without bound. */
			if (bytes_length(&client->in) < INPUT_AHEAD)
				events = UV_READABLE;
			break;
		case CLIENT_CLOSING:
		case CLIENT_CLOSED:
			break;
	}
	if (client->input_ended || client->held_back ||
		(client->http != NULL && !http_wants_input(client)))
		events &= ~UV_READABLE;
	if (client->blocked)
		events |= UV_WRITABLE;

	/*
	 * A socket that nobody reads is looked at for its end, until that is
	 * known.
	 */
	if (!(events & UV_READABLE) && !client->input_ended)
		events |= UV_DISCONNECT;
	set_polled(client, events);
}

/* Give the client another state. */
void
client_set_state(Client *client, ClientState state)
{
	client->state = state;
	update_polled(client);
}

/* The client has something to send, which goes before the loop sleeps. */
void
client_touch(Client *client)
{
	if (list_is_empty(&client->dirty) && client->state != CLIENT_CLOSED &&
		!client->blocked)
		list_append(&dirty_clients, &client->dirty);
}

/* libuv is done with the client's handle: free what is left. */
static void
client_closed(uv_handle_t *handle)
{
	Client	   *client = handle->data;

	close(client->transport.fd);
	free(client);
}

/*
 * Close the connection now, whatever waits to be sent.  The reason goes to the
 * log, unless it is NULL as it is there already.
 */
void
client_close(Client *client, const char *reason)
{
	if (client->state == CLIENT_CLOSED)
		return;
	if (reason != NULL)
		client_log(client, client->role != NULL ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG,
				   reason);
	login_drop(client);
	session_drop(client);
	http_drop(client);
	members_remove_all(client);
	clients_leave(client);
	list_remove(&client->dirty);
	bytes_free(&client->in);
	queue_free(&client->out);
	queue_free(&client->held);
	transport_free(&client->transport);
	settings_release(client->server_settings);
	role_release(client->role);
	client->server_settings = NULL;
	client->role = NULL;
	client->state = CLIENT_CLOSED;
	uv_poll_stop(&client->poll);
	uv_close((uv_handle_t *) &client->poll, client_closed);
}

/*
 * End the connection with a last message, which is always FATAL, or what HTTP has
 * for that; a report of NULL sends none.  What waits to be sent goes first, unless
 * there is much of it before a message.
 */
void
client_end(Client *client, const Report *report, const char *reason)
{
	if (client->state == CLIENT_CLOSED || client->state == CLIENT_CLOSING)
		return;
	if (client->transport.handshaking)
	{
		/* there is no way yet to say anything */
		client_close(client, reason);
		return;
	}
	client_log(client, LOG_LEVEL_INFO, reason);
	login_drop(client);
	session_drop(client);
	members_remove_all(client);
	queue_free(&client->held);
	if (report != NULL && client->out.bytes > (size_t) limits.client_buffer / 2)
		queue_cut(&client->out);
	if (client->http != NULL)
	{
		http_end(client, report);
		http_drop(client);
	}
	else if (report != NULL)
	{
		Report		fatal = *report;

		fatal.severity = "FATAL";
		reply_report(&client->out, &fatal);
	}
	client_deadline(client, limits.closing_timeout);
	client_set_state(client, CLIENT_CLOSING);
	client_touch(client);
}

/* The client has more waiting than it may. */
static void
client_too_slow(Client *client)
{
	char		detail[200];
	Report		report = {
		.sqlstate = "53400",
		.message = "terminating connection because the client is too slow",
		.detail = detail,
		.hint = "Notifications were lost.  Connect and listen again, and read what they were about anew.",
	};

	snprintf(detail, sizeof(detail),
			 "%zu bytes wait for it; the limit is %lld (client-buffer).",
			 client->out.bytes + client->held.bytes,
			 (long long) limits.client_buffer);
	gateway.counters.too_slow++;
	queue_cut(&client->out);
	client_end(client, &report, "ended: it is too slow");
}

/* Send what can be sent. */
static void
client_flush(Client *client)
{
	bool		any = false;

	while (client->out.count > 0 || client->transport.unsent != NULL)
	{
		struct iovec vector[SEND_PARTS];
		ssize_t		sent = transport_send(&client->transport, vector,
										  queue_vector(&client->out, vector, SEND_PARTS));

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		{
			client->blocked = true;
			update_polled(client);
			if (any && client->http != NULL)
				http_sent(client);
			return;
		}
		if (sent < 0)
		{
			client_close(client, "closed: it cannot be sent to");
			return;
		}
		queue_sent(&client->out, sent);
		any = true;
	}
	if (client->blocked)
	{
		client->blocked = false;
		update_polled(client);
	}
	if (client->state == CLIENT_CLOSING)
		client_close(client, NULL);
	else if (any && client->http != NULL)
		http_sent(client);
	else if (client->held_back)
	{
		client->held_back = false;
		client_input(client);
	}
}

/* May the piece wait for the client, too? */
static bool
has_room(const Client *client, const Piece *piece)
{
	return client->out.bytes + client->held.bytes + piece->length <=
		(size_t) limits.client_buffer;
}

/* Give a notification to the client, now or when it is idle. */
void
client_deliver(Client *client, Piece *piece)
{
	if (client->state != CLIENT_READY && client->state != CLIENT_WAITING)
		return;
	if (!has_room(client, piece))
	{
		/* Many events at once are no fault of the client's. */
		if (!client->blocked)
			client_flush(client);
		if (client->state == CLIENT_CLOSED)
			return;
		if (!has_room(client, piece))
		{
			client_too_slow(client);
			return;
		}
	}
	gateway.counters.deliveries++;
	if (session_is_idle(client))
	{
		queue_add_piece(&client->out, piece);
		client_touch(client);
	}
	else
		queue_add_piece(&client->held, piece);
}

/* Before the loop sleeps: send. */
static void
flush_all(uv_prepare_t *handle)
{
	(void) handle;
	while (!list_is_empty(&dirty_clients))
	{
		Client	   *client = list_container(Client, dirty, dirty_clients.next);

		list_remove(&client->dirty);
		client_flush(client);
	}
}

/* The longest body that the client may send now. */
static size_t
longest_message(const Client *client)
{
	return client->state == CLIENT_READY || client->state == CLIENT_WAITING ?
		limits.max_message : limits.max_startup;
}

/* The client has sent what is no message. */
static void
client_broken(Client *client, const Packet *packet)
{
	char		detail[100];
	Report		report = {
		.sqlstate = "08P01",
		.message = "invalid frontend message",
		.detail = detail,
	};

	snprintf(detail, sizeof(detail),
			 "It has no type, a wrong length, or more than %zu bytes.",
			 longest_message(client));
	(void) packet;
	client_end(client, &report, "ended: it has broken the protocol");
}

/*
 * Take the messages at bytes, as far as they are whole, the client's state allows,
 * and it takes the answers; returns how many bytes that were.  The client may be
 * closed then.
 */
static size_t
take_messages(Client *client, const char *bytes, size_t count)
{
	size_t		taken = 0;

	if (client->http != NULL)
		return http_take(client, bytes, count);
	for (;;)
	{
		Packet		packet;
		PacketResult result;

		if (client->state == CLIENT_STARTUP)
			result = startup_parse(bytes + taken, count - taken,
								   limits.max_startup, &packet);
		else if (client->state == CLIENT_READY &&
				 client->out.bytes > (size_t) limits.client_buffer)
		{
			/* what waits for a Sync is sent now, or that would never come */
			client->held_back = true;
			client_touch(client);
			return taken;
		}
		else if (client->state == CLIENT_READY ||
				 (client->state == CLIENT_LOGIN && login_wants_answer(client)))
			result = packet_parse(bytes + taken, count - taken,
								  longest_message(client), &packet);
		else
			return taken;
		if (result == PACKET_MORE)
			return taken;
		if (result == PACKET_BROKEN)
		{
			client_broken(client, &packet);
			return count;
		}
		taken += packet.total;
		if (client->state == CLIENT_STARTUP)
			login_startup(client, &packet, count - taken);
		else if (client->state == CLIENT_LOGIN)
			login_answer(client, &packet);
		else
			session_message(client, &packet);
	}
}

/*
 * Take what is kept of the client's input, as its state allows more than it
 * did.
 */
void
client_input(Client *client)
{
	if (client->parsing)
		return;
	client->parsing = true;
	if (bytes_length(&client->in) > 0)
	{
		/* The messages are read in place: the buffer must not move. */
		Bytes		in = client->in;
		size_t		taken;

		memset(&client->in, 0, sizeof(client->in));
		taken = take_messages(client, in.data + in.begin, bytes_length(&in));
		bytes_consume(&in, taken);
		if (client->state == CLIENT_CLOSED || client->state == CLIENT_CLOSING)
			bytes_free(&in);
		else
			client->in = in;
	}
	client->parsing = false;
	if (client->input_ended && client->state == CLIENT_READY && !client->held_back)
		client_end(client, NULL, "closed: it has ended the connection");
	else
		update_polled(client);
}

/* The client cannot be read from any more; errno says why. */
static void
client_lost(Client *client)
{
	char		reason[300];

	if (errno != EPROTO)
	{
		client_close(client, "closed: the connection is lost");
		return;
	}
	snprintf(reason, sizeof(reason), "closed: TLS fails: %s", transport_error());
	client_log(client, LOG_LEVEL_INFO, reason);
	client_close(client, NULL);
}

/*
 * Have TLS with the client, which has asked for it, or direct: has begun it, and
 * has to name PostgreSQL's protocol.  What is to be said in clear was sent.
 */
bool
client_begin_tls(Client *client, bool direct)
{
	if (transport_begin_tls(&client->transport, tls_for_client(client->http != NULL), direct))
		return true;
	client_close(client, "closed: there is no memory for TLS");
	return false;
}

/*
 * If the client's first byte begins TLS, so be it.  Later ones do not: somebody may
 * have put what came before in front of another's connection, and its answer would
 * pass for one to that.  False if the client was closed.
 */
static bool
begin_direct_tls(Client *client)
{
	unsigned char first;

	if (!tls_is_on() || client->heard)
		return true;
	if (recv(client->transport.fd, &first, 1, MSG_PEEK) != 1 || first != TLS_HANDSHAKE)
		return true;
	return client_begin_tls(client, client->http == NULL);
}

/* Has the client not shown who it is? */
static bool
is_stranger(const Client *client)
{
	return client->http != NULL ? !http_is_known(client) : client->pid == 0;
}

/* Take what was received, as far as may be now, and keep the rest. */
static void
take_received(Client *client, const char *bytes, size_t count)
{
	size_t		taken;

	client->heard = true;
	if (bytes_length(&client->in) > 0)
	{
		bytes_append(&client->in, bytes, count);
		client_input(client);
		return;
	}
	client->parsing = true;
	taken = take_messages(client, bytes, count);
	client->parsing = false;
	if (client->state == CLIENT_CLOSED || client->state == CLIENT_CLOSING)
		return;
	bytes_append(&client->in, bytes + taken, count - taken);
	update_polled(client);
}

/* The client has ended its sending.  It may still read: what it has asked for is done. */
static void
end_input(Client *client)
{
	client->input_ended = true;
	if (client->state == CLIENT_WAITING || client->held_back)
		update_polled(client);
	else
		client_end(client, NULL, "closed: it has ended the connection");
}

/* Read what has come. */
static void
client_read(Client *client)
{
	static char buffer[64 * 1024];
	size_t		size = is_stranger(client) ? READ_STRANGER : sizeof(buffer);
	bool		secret = client->http != NULL || client->pid == 0;
	ssize_t		count;

	if (client->state == CLIENT_STARTUP && client->transport.ssl == NULL &&
		!begin_direct_tls(client))
		return;
	count = transport_receive(&client->transport, buffer, size);
	if (client->transport.waits_to_write)
	{
		client->blocked = true;
		update_polled(client);
	}
	if (count < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
		return;
	if (count < 0)
		client_lost(client);
	else if (count == 0)
		end_input(client);
	else
	{
		take_received(client, buffer, count);
		if (secret)
			explicit_bzero(buffer, count);
	}
}

/* Something is up with the client's socket. */
static void
client_socket_ready(uv_poll_t *poll, int status, int events)
{
	Client	   *client = poll->data;
	bool		read = (events & UV_READABLE) || client->transport.waits_to_write;

	if (status < 0)
	{
		client_close(client, "closed: its socket fails");
		return;
	}
	if (events & UV_WRITABLE)
		client_flush(client);
	if (read && client->state != CLIENT_CLOSED && client->state != CLIENT_CLOSING)
		client_read(client);
	if ((events & UV_DISCONNECT) && !(events & UV_READABLE) &&
		client->state != CLIENT_CLOSED)
	{
		/*
		 * Half closed, or gone?  Who is gone cannot be sent to, and that will
		 * tell.
		 */
		client->input_ended = true;
		update_polled(client);
	}
}

/* To be called once, when the loop stands. */
void
clients_start_flushing(void)
{
	list_init(&dirty_clients);
	uv_prepare_init(&gateway.loop, &flush_handle);
	uv_prepare_start(&flush_handle, flush_all);
}

/*-------------------------------------------------------------------------
 *
 * listener.c
 *	  See listener.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/log.h"
#include "gateway/address.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/http.h"

/* Connections that the kernel keeps until they are accepted. */
#define BACKLOG 1024

/* Connections that are accepted in one turn of the loop. */
#define ACCEPT_AT_ONCE 64

typedef struct Listener
{
	int			fd;				/* -1: there is none */
	uv_poll_t	poll;
	char		description[200];
} Listener;

static Listener tcp_listener = {.fd = -1};
static Listener http_listener = {.fd = -1};
static Listener local_listener = {.fd = -1};
static struct sockaddr_un local_address;

/*
 * Split ADDRESS:PORT, where an address of IPv6 is in brackets.  False if it is
 * any address: none, or "*".
 */
static bool
split_address(const char *option, const char *text, char *host, size_t host_size,
			  char *port, size_t port_size)
{
	const char *colon = strrchr(text, ':');
	size_t		length = colon == NULL ? 0 : (size_t) (colon - text);

	if (colon == NULL || colon[1] == '\0' || length >= host_size ||
		strlen(colon + 1) >= port_size)
		log_fatal("option %s takes ADDRESS:PORT, not \"%s\"", option, text);
	snprintf(port, port_size, "%s", colon + 1);
	if (length > 1 && text[0] == '[' && text[length - 1] == ']')
	{
		text++;
		length -= 2;
	}
	snprintf(host, host_size, "%.*s", (int) length, text);
	return length > 0 && text[0] != '*';
}

/* A peer's or one's own address, as text. */
static void
write_address(const struct sockaddr_storage *address, char *text, size_t size)
{
	char		host[INET6_ADDRSTRLEN] = "";

	if (address->ss_family == AF_INET)
	{
		const struct sockaddr_in *four = (const struct sockaddr_in *) address;

		inet_ntop(AF_INET, &four->sin_addr, host, sizeof(host));
		snprintf(text, size, "%s:%d", host, ntohs(four->sin_port));
	}
	else if (address->ss_family == AF_INET6)
	{
		const struct sockaddr_in6 *six = (const struct sockaddr_in6 *) address;

		inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof(host));
		snprintf(text, size, "[%s]:%d", host, ntohs(six->sin6_port));
	}
	else
		snprintf(text, size, "local");
}

/* Bind a TCP socket, so that an address that is taken is known at once. */
static void
open_tcp(Listener *listener, const char *option, const char *text)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM,.ai_flags = AI_PASSIVE};
	struct addrinfo *found;
	struct sockaddr_storage bound = {0};
	socklen_t	size = sizeof(bound);
	char		host[256] = "";
	char		port[16] = "";
	bool		named = split_address(option, text, host, sizeof(host), port, sizeof(port));
	int			error;
	int			on = 1;
	int			fd;

	error = getaddrinfo(named ? host : NULL, port, &hints, &found);
	if (error != 0)
		log_fatal("could not find address \"%s\": %s", text, gai_strerror(error));
	fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		bind(fd, found->ai_addr, found->ai_addrlen) < 0 ||
		getsockname(fd, (struct sockaddr *) &bound, &size) < 0)
		log_fatal("could not bind address \"%s\": %s", text, strerror(errno));
	freeaddrinfo(found);
	listener->fd = fd;
	write_address(&bound, listener->description, sizeof(listener->description));
}

/* Is somebody listening at the address of the Unix socket? */
static bool
local_is_taken(void)
{
	int			fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool		taken;

	if (fd < 0)
		return false;
	taken = connect(fd, (struct sockaddr *) &local_address, sizeof(local_address)) == 0;
	close(fd);
	return taken;
}

/* Bind the Unix socket.  One that nobody listens at any more is replaced. */
static void
open_local(const char *directory, int64_t port)
{
	int			fd;

	local_address.sun_family = AF_UNIX;
	if (snprintf(local_address.sun_path, sizeof(local_address.sun_path),
				 "%s/.s.PGSQL.%lld", directory, (long long) port) >=
		(int) sizeof(local_address.sun_path))
		log_fatal("the path of the socket in \"%s\" is too long", directory);
	if (local_is_taken())
		log_fatal("somebody listens at \"%s\" already", local_address.sun_path);
	unlink(local_address.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *) &local_address, sizeof(local_address)) < 0 ||
		chmod(local_address.sun_path, 0777) < 0)
		log_fatal("could not make socket \"%s\": %s", local_address.sun_path,
				  strerror(errno));
	local_listener.fd = fd;
	snprintf(local_listener.description, sizeof(local_listener.description), "%s",
			 local_address.sun_path);
}

/* Bind what the options name; the program ends if that cannot be. */
void
listeners_open(void)
{
	if (gateway.options.listen != NULL)
		open_tcp(&tcp_listener, "listen", gateway.options.listen);
	if (gateway.options.http != NULL)
		open_tcp(&http_listener, "http", gateway.options.http);
	if (gateway.options.socket_dir != NULL)
		open_local(gateway.options.socket_dir, gateway.options.port);
}

/* Clients have come. */
static void
accept_clients(uv_poll_t *poll, int status, int events)
{
	static const Report not_allowed = {
		.severity = "FATAL",
		.sqlstate = "28000",
		.message = "connections from this address are not allowed",
	};
	Listener   *listener = poll->data;

	(void) status;
	(void) events;
	for (int i = 0; i < ACCEPT_AT_ONCE; i++)
	{
		struct sockaddr_storage address = {0};
		socklen_t	size = sizeof(address);
		char		text[64];
		int			on = 1;
		int			fd = accept4(listener->fd, (struct sockaddr *) &address, &size,
								 SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0)
		{
			if (errno == EMFILE || errno == ENFILE)
				log_line(LOG_LEVEL_WARNING, "could not accept a connection: %s",
						 strerror(errno));
			return;
		}
		if (listener != &local_listener)
		{
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
			setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
		}
		write_address(&address, text, sizeof(text));
		if (gateway.options.allowed != NULL &&
			!address_is_in(gateway.options.allowed, (struct sockaddr *) &address))
		{
			if (listener == &http_listener)
				http_refuse_connection(fd, 403);
			else
				client_refuse(fd, &not_allowed);
			log_line(LOG_LEVEL_INFO, "refused a connection from %s, which is not allowed", text);
		}
		else
			client_accept(fd, listener == &local_listener, listener == &http_listener, text);
	}
}

/* Accept connections at one of them. */
static void
start(Listener *listener)
{
	if (listener->fd < 0)
		return;
	if (listen(listener->fd, BACKLOG) < 0)
		log_fatal("could not listen at %s: %s", listener->description, strerror(errno));
	uv_poll_init(&gateway.loop, &listener->poll, listener->fd);
	listener->poll.data = listener;
	uv_poll_start(&listener->poll, UV_READABLE, accept_clients);
}

/* Accept connections from now on. */
void
listeners_start(void)
{
	start(&tcp_listener);
	start(&http_listener);
	start(&local_listener);
}

/* The loop is done with the handle. */
static void
listener_closed(uv_handle_t *handle)
{
	Listener   *listener = handle->data;

	close(listener->fd);
	listener->fd = -1;
}

/* Accept no more. */
void
listeners_close(void)
{
	Listener   *all[] = {&tcp_listener, &http_listener, &local_listener};

	for (int i = 0; i < 3; i++)
	{
		uv_handle_t *handle = (uv_handle_t *) &all[i]->poll;

		if (all[i]->fd < 0 || handle->data == NULL || uv_is_closing(handle))
			continue;
		uv_poll_stop(&all[i]->poll);
		uv_close(handle, listener_closed);
	}
	if (local_listener.fd >= 0)
		unlink(local_address.sun_path);
}

/* Where they are, as text. */
void
listeners_describe(char *text, size_t size)
{
	const char *const all[] = {
		tcp_listener.fd >= 0 ? tcp_listener.description : "",
		local_listener.fd >= 0 ? local_listener.description : "",
		http_listener.fd >= 0 ? http_listener.description : "",
	};

	*text = '\0';
	for (int i = 0; i < 3; i++)
	{
		size_t		used = strlen(text);

		if (*all[i] != '\0')
			snprintf(text + used, size - used, "%s%s%s", used > 0 ? " and " : "",
					 i == 2 ? "http://" : "", all[i]);
	}
}

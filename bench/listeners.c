/*-------------------------------------------------------------------------
 *
 * listeners.c
 *	  Thousands of clients in one process, to see what a server, a gateway or a
 *	  pool bears.
 *
 *		listeners
 *
 * 1. It speaks the protocol itself, for libpq's connection takes more memory
 *	  and time than what is measured.  It connects as PGHOST, PGPORT, PGUSER and
 *	  PGDATABASE say, and must be let in without a password.
 *
 * 2. Commands come on its standard input, one a line, each answered by one line:
 *
 *		connect COUNT		open so many more connections
 *		listen NAME MANY	connection i listens to NAME_(i % MANY)
 *		unlisten			to nothing any more
 *		poll NAME TIMEOUT	connection i reads the subscription NAME_i, again
 *							and again, with poll() and that timeout, instead
 *							of the one before
 *		begin				count from here
 *		end EXPECTED		wait until that many events have come since, or no
 *							more do, and say what came
 *		quit
 *
 *	  The commands up to "poll" answer, when all connections are done,
 *
 *		COMMAND: count=N failed=N closed=N seconds=S
 *
 *	  and "end" says
 *
 *		end: deliveries=N seconds=S bytes=N per_read=N p50=N p99=N max=N closed=N
 *
 *	  where seconds runs from "begin" to the last event, per_read is how many
 *	  came with one read, and p50, p99 and max are in microseconds, from the time
 *	  that an event's payload begins with, if it does: in nanoseconds, of
 *	  CLOCK_REALTIME.
 *
 * 3. All connections share one buffer.  What a read leaves of a message that has
 *	  not come whole is kept with the connection until the next.
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PROTOCOL		196608
#define BUFFER_BYTES	(256 * 1024)
#define MAX_READY		512

/* Logins that are under way at a time: the rest would only wait in a queue. */
#define LOGINS_AT_ONCE	32

/* Fewer events than expected have come: how long to wait for the next. */
#define PATIENCE_NS		INT64_C(10000000000)

/* How long a command may take altogether. */
#define COMMAND_NS		INT64_C(600000000000)

/*
 * A histogram of times whose buckets are 1/64 of their value wide: SUB of them for
 * each power of two, of nanoseconds.
 */
#define SUB_BITS		6
#define SUB				(1 << SUB_BITS)
#define BUCKETS			(SUB * (65 - SUB_BITS))

typedef struct Connection
{
	int			fd;				/* -1: it has ended */
	bool		busy;			/* it waits for ReadyForQuery */
	uint32_t	kept;			/* bytes of a message that is not whole */
	char	   *rest;			/* those; NULL: none */
} Connection;

static Connection *connections;
static int	num_connections;
static int	num_busy;
static int	num_failed;			/* errors that were answered to the command */
static int	num_closed;			/* connections that have ended */
static int	epoll;
static char buffer[BUFFER_BYTES];

/* with "poll": a connection that has its result asks again */
static const char *poll_name;
static const char *poll_timeout;

/* since "begin" */
static int64_t began;
static int64_t last_delivery;
static int64_t deliveries;
static int64_t bytes;
static int64_t reads;			/* those that brought events */
static int64_t timed;			/* events that have a time */
static int64_t longest;
static int64_t histogram[BUCKETS];

/* The time of day, which two processes share, in nanoseconds. */
static int64_t
time_of_day(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The variable of the environment, or what it is without. */
static const char *
environment(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value != NULL && *value != '\0' ? value : otherwise;
}

/* ----------------------------------------------------------------
 * Times
 * ----------------------------------------------------------------
 */

/* The bucket of a time. */
static int
bucket_of(int64_t time)
{
	int			shift;

	if (time < SUB)
		return time < 0 ? 0 : (int) time;
	shift = 63 - __builtin_clzll((unsigned long long) time) - SUB_BITS;
	return shift * SUB + (int) (time >> shift);
}

/* The least time of a bucket, in microseconds. */
static double
bucket_us(int bucket)
{
	int			shift = bucket < SUB ? 0 : bucket / SUB - 1;

	return (double) ((int64_t) (bucket - shift * SUB) << shift) / 1e3;
}

/* The time below which that part of the events was. */
static double
percentile(double part)
{
	int64_t		left = (int64_t) ((double) timed * part);

	for (int i = 0; i < BUCKETS; i++)
	{
		left -= histogram[i];
		if (left < 0)
			return bucket_us(i);
	}
	return 0;
}

/* Count an event, whose payload has that many bytes at most. */
static void
count_event(const char *payload, int size, int64_t now)
{
	int64_t		sent = 0;
	int			i = 0;

	deliveries++;
	for (; i < size && i < 19 && payload[i] >= '0' && payload[i] <= '9'; i++)
		sent = sent * 10 + (payload[i] - '0');
	if (i == 19)
	{
		timed++;
		histogram[bucket_of(now - sent)]++;
		if (now - sent > longest)
			longest = now - sent;
	}
}

/* ----------------------------------------------------------------
 * Connections
 * ----------------------------------------------------------------
 */

/* The connection waits for nothing any more. */
static void
set_idle(Connection *connection)
{
	if (connection->busy)
		num_busy--;
	connection->busy = false;
}

/* The connection has ended. */
static void
end_connection(Connection *connection)
{
	set_idle(connection);
	close(connection->fd);
	connection->fd = -1;
	free(connection->rest);
	connection->rest = NULL;
	connection->kept = 0;
	num_closed++;
}

/* Send it bytes.  They are few, and it takes what was sent before at once. */
static void
send_bytes(Connection *connection, const char *data, int size)
{
	if (send(connection->fd, data, (size_t) size, MSG_NOSIGNAL) != size)
	{
		if (errno != EPIPE && errno != ECONNRESET)
			client_die("could not send: %s", strerror(errno));
		end_connection(connection);
		return;
	}
	if (!connection->busy)
		num_busy++;
	connection->busy = true;
}

/* Send it a simple query. */
static void
send_query(Connection *connection, const char *sql)
{
	char		message[512];
	uint32_t	length = (uint32_t) strlen(sql) + 5;
	uint32_t	wire = htonl(length);

	if (connection->fd < 0)
		return;
	if (length + 1 > sizeof(message))
		client_die("the query is too long: %s", sql);
	message[0] = 'Q';
	memcpy(message + 1, &wire, 4);
	memcpy(message + 5, sql, length - 4);
	send_bytes(connection, message, (int) length + 1);
}

/* Ask for its subscription's next events. */
static void
send_poll(Connection *connection)
{
	char		sql[256];

	snprintf(sql, sizeof(sql),
			 "SELECT payload FROM pgpubsub.poll('%s_%d', 1000, '%s')",
			 poll_name, (int) (connection - connections), poll_timeout);
	send_query(connection, sql);
}

/* Send the packet with which a connection begins. */
static void
send_startup(Connection *connection)
{
	const char *const fields[] = {
		"user", environment("PGUSER", "postgres"),
		"database", environment("PGDATABASE", "postgres"),
	};
	char		packet[512];
	uint32_t	length = 8;
	uint32_t	wire = htonl(PROTOCOL);

	memcpy(packet + 4, &wire, 4);
	for (int i = 0; i < 4; i++)
	{
		uint32_t	size = (uint32_t) strlen(fields[i]) + 1;

		if (length + size + 1 > sizeof(packet))
			client_die("PGUSER and PGDATABASE are too long");
		memcpy(packet + length, fields[i], size);
		length += size;
	}
	packet[length++] = '\0';
	wire = htonl(length);
	memcpy(packet, &wire, 4);
	send_bytes(connection, packet, (int) length);
}

/* A socket that is connected. */
static int
open_socket(void)
{
	const char *host = environment("PGHOST", "/tmp");
	const char *port = environment("PGPORT", "5432");
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	int			on = 1;
	int			error;
	int			fd;

	if (*host == '/')
	{
		struct sockaddr_un address = {.sun_family = AF_UNIX};

		if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/.s.PGSQL.%s",
					 host, port) >= (int) sizeof(address.sun_path))
			client_die("PGHOST is too long: %s", host);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 ||
			connect(fd, (struct sockaddr *) &address, sizeof(address)) != 0)
			client_die("could not connect to %s: %s", address.sun_path,
					   strerror(errno));
	}
	else
	{
		error = getaddrinfo(host, port, &hints, &found);
		if (error != 0)
			client_die("%s: %s", host, gai_strerror(error));
		fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0)
			client_die("could not connect to %s port %s: %s", host, port,
					   strerror(errno));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		freeaddrinfo(found);
	}
	if (fcntl(fd, F_SETFL, O_NONBLOCK) != 0)
		client_die("fcntl: %s", strerror(errno));
	return fd;
}

/* Open the next connection, and begin its login. */
static void
open_connection(void)
{
	Connection *connection = &connections[num_connections];
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};

	memset(connection, 0, sizeof(Connection));
	connection->fd = open_socket();
	num_connections++;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0)
		client_die("epoll_ctl: %s", strerror(errno));
	send_startup(connection);
}

/* ----------------------------------------------------------------
 * What comes
 * ----------------------------------------------------------------
 */

/* An error was answered; the first is shown. */
static void
count_error(const char *body, uint32_t size)
{
	if (num_failed++ > 0)
		return;
	for (uint32_t at = 0; at < size && body[at] != '\0';)
	{
		if (body[at] == 'M')
			fprintf(stderr, "listeners: %s\n", body + at + 1);
		at += 1 + (uint32_t) strnlen(body + at, size - at);
	}
}

/* Take a message. */
static void
take_message(Connection *connection, char type, const char *body, uint32_t size,
			 int64_t now)
{
	uint32_t	word;
	uint32_t	name;

	switch (type)
	{
		case 'A':
			name = (uint32_t) strnlen(body + 4, size - 4) + 5;
			if (name < size)
				count_event(body + name, (int) (size - name), now);
			break;
		case 'D':
			/* a row of poll(), whose first column is the payload */
			if (poll_name != NULL && size > 6)
			{
				memcpy(&word, body + 2, 4);
				if (word != UINT32_MAX)
					count_event(body + 6, (int) (size - 6), now);
			}
			break;
		case 'R':
			memcpy(&word, body, 4);
			if (word != 0)
				client_die("a password was asked for");
			break;
		case 'E':
			count_error(body, size);
			break;
		case 'Z':
			set_idle(connection);
			if (poll_name != NULL)
				send_poll(connection);
			break;
		default:
			break;
	}
}

/* Take the whole messages of what is in the buffer; returns their bytes. */
static uint32_t
take_messages(Connection *connection, uint32_t size, int64_t now)
{
	uint32_t	at = 0;

	while (size - at >= 5 && connection->fd >= 0)
	{
		uint32_t	length;

		memcpy(&length, buffer + at + 1, 4);
		length = ntohl(length);
		if (length < 4 || length > BUFFER_BYTES / 2)
			client_die("a message of %u bytes has come", length);
		if (size - at <= length)
			break;
		take_message(connection, buffer[at], buffer + at + 5, length - 4, now);
		at += length + 1;
	}
	return at;
}

/* Take what has come. */
static void
serve_connection(Connection *connection)
{
	uint32_t	kept = connection->kept;
	int64_t		before = deliveries;
	uint32_t	size;
	uint32_t	taken;
	ssize_t		got;

	if (connection->fd < 0)
		return;
	got = recv(connection->fd, buffer + kept, BUFFER_BYTES - kept, 0);
	if (got <= 0)
	{
		if (got == 0 || (errno != EAGAIN && errno != EINTR))
			end_connection(connection);
		return;
	}
	if (kept > 0)
		memcpy(buffer, connection->rest, kept);
	size = kept + (uint32_t) got;
	taken = take_messages(connection, size, time_of_day());
	if (deliveries > before)
	{
		reads++;
		bytes += got;
		last_delivery = client_now_ns();
	}
	if (connection->fd < 0)
		return;
	free(connection->rest);
	connection->rest = NULL;
	connection->kept = size - taken;
	if (connection->kept > 0)
	{
		connection->rest = malloc(connection->kept);
		if (connection->rest == NULL)
			client_die("out of memory");
		memcpy(connection->rest, buffer + taken, connection->kept);
	}
}

/*
 * Serve all for so many milliseconds at most, or -1 without end.  True if there
 * is a command to be read.
 */
static bool
serve(int milliseconds)
{
	struct epoll_event ready[MAX_READY];
	int			count = epoll_wait(epoll, ready, MAX_READY, milliseconds);
	bool		command = false;

	for (int i = 0; i < count; i++)
	{
		if (ready[i].data.ptr != NULL)
			serve_connection(ready[i].data.ptr);
		else
			command = true;
	}
	return command;
}

/* ----------------------------------------------------------------
 * Commands
 * ----------------------------------------------------------------
 */

/* Standard input counts as ready only when a command is awaited. */
static void
watch_commands(bool on)
{
	struct epoll_event event = {.events = on ? EPOLLIN : 0, .data.ptr = NULL};

	if (epoll_ctl(epoll, EPOLL_CTL_MOD, STDIN_FILENO, &event) != 0)
		client_die("epoll_ctl: %s", strerror(errno));
}

/* Wait until no more than that many connections are busy. */
static void
wait_for_busy(int most, int64_t started)
{
	while (num_busy > most)
	{
		(void) serve(1000);
		if (client_now_ns() - started > COMMAND_NS)
			client_die("%d connections wait in vain", num_busy);
	}
}

/* Answer a command that was for all connections. */
static void
answer(const char *command, int count, int64_t started)
{
	printf("%s: count=%d failed=%d closed=%d seconds=%.3f\n", command, count,
		   num_failed, num_closed, (double) (client_now_ns() - started) / 1e9);
}

static void
command_connect(int count)
{
	int64_t		started = client_now_ns();

	/* (events refer to connections that are there already) */
	for (int i = 0; i < count; i++)
	{
		wait_for_busy(LOGINS_AT_ONCE - 1, started);
		open_connection();
	}
	wait_for_busy(0, started);
	answer("connect", count, started);
}

static void
command_listen(const char *name, int many)
{
	int64_t		started = client_now_ns();
	char		sql[256];

	for (int i = 0; i < num_connections; i++)
	{
		snprintf(sql, sizeof(sql), "LISTEN %s_%d", name, i % many);
		send_query(&connections[i], sql);
		/* (answers come meanwhile, and take room) */
		if (i % 100 == 99)
			(void) serve(0);
	}
	wait_for_busy(0, started);
	answer("listen", num_connections, started);
}

static void
command_unlisten(void)
{
	int64_t		started = client_now_ns();

	for (int i = 0; i < num_connections; i++)
		send_query(&connections[i], "UNLISTEN *");
	wait_for_busy(0, started);
	answer("unlisten", num_connections, started);
}

static void
command_poll(const char *name, const char *timeout)
{
	int64_t		started = client_now_ns();
	bool		first = poll_name == NULL;

	/* (the names before are few, and stay) */
	poll_name = strdup(name);
	poll_timeout = strdup(timeout);
	if (poll_name == NULL || poll_timeout == NULL)
		client_die("out of memory");
	for (int i = 0; first && i < num_connections; i++)
		send_poll(&connections[i]);
	answer("poll", num_connections, started);
}

static void
command_begin(void)
{
	memset(histogram, 0, sizeof(histogram));
	deliveries = bytes = reads = timed = longest = 0;
	began = last_delivery = client_now_ns();
	printf("begin:\n");
}

static void
command_end(int64_t expected)
{
	int64_t		asked = client_now_ns();

	while (deliveries < expected)
	{
		int64_t		since = last_delivery > asked ? last_delivery : asked;

		if (client_now_ns() - since > PATIENCE_NS)
			break;
		(void) serve(100);
	}
	printf("end: deliveries=%lld seconds=%.6f bytes=%lld per_read=%.2f"
		   " p50=%.1f p99=%.1f max=%.1f closed=%d\n",
		   (long long) deliveries, (double) (last_delivery - began) / 1e9,
		   (long long) bytes, reads > 0 ? (double) deliveries / (double) reads : 0,
		   percentile(0.5), percentile(0.99), (double) longest / 1e3, num_closed);
}

/* Do a command.  False at the end. */
static bool
do_command(char *line)
{
	char		word[3][64] = {"", "", ""};
	int			words = sscanf(line, "%63s %63s %63s", word[0], word[1], word[2]);

	num_failed = 0;
	if (words == 1 && strcmp(word[0], "quit") == 0)
		return false;
	if (words == 2 && strcmp(word[0], "connect") == 0)
		command_connect((int) client_number(word[1], "COUNT"));
	else if (words == 3 && strcmp(word[0], "listen") == 0)
		command_listen(word[1], (int) client_number(word[2], "MANY"));
	else if (words == 1 && strcmp(word[0], "unlisten") == 0)
		command_unlisten();
	else if (words == 3 && strcmp(word[0], "poll") == 0)
		command_poll(word[1], word[2]);
	else if (words == 1 && strcmp(word[0], "begin") == 0)
		command_begin();
	else if (words == 2 && strcmp(word[0], "end") == 0)
		command_end(client_number(word[1], "EXPECTED"));
	else
		client_die("not a command: %s", line);
	fflush(stdout);
	return true;
}

/*
 * As many files as may be open; the connections are never more.  Commands come by
 * whole lines, each after the last one's answer, so that stdio never holds back
 * one that epoll does not know of.
 */
int
main(int argc, char **argv)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	struct rlimit files;
	char		line[256];

	(void) argv;
	if (argc != 1)
		client_die("usage: listeners; commands come on its standard input");
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		client_die("getrlimit: %s", strerror(errno));
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) != 0)
		client_die("setrlimit: %s", strerror(errno));
	if (files.rlim_max > 1000000)
		files.rlim_max = 1000000;
	connections = calloc(files.rlim_max, sizeof(Connection));
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0 || connections == NULL)
		client_die("out of memory");
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0)
		client_die("commands must come through a pipe: %s", strerror(errno));

	for (;;)
	{
		if (!serve(-1))
			continue;
		watch_commands(false);
		if (fgets(line, sizeof(line), stdin) == NULL || !do_command(line))
			return 0;
		watch_commands(true);
	}
}

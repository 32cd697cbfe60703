/*-------------------------------------------------------------------------
 *
 * clients.c
 *	  All clients: how they come, their deadlines and pids, and walks over them.
 *
 * The end of one client may be that of any other one.  So whoever walks a list of
 * clients moves it to a head of its own, and takes it from its front.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/login.h"
#include "gateway/session.h"

/* Between two looks at the deadlines, in ms. */
#define DEADLINE_TICK 200

/* A pid that no process on a server has, as Linux gives none above 2^22. */
#define FIRST_PID (1 << 22)

ListNode	all_clients;
int			client_count;

static ListNode timed_clients;
static HashTable clients_by_pid;
static uint64_t next_number = 1;
static uint32_t next_pid;
static uv_timer_t deadline_timer;

/* Random bytes for keys and the like; the program ends if there are none. */
static void
random_bytes(void *bytes, size_t length)
{
	if (getrandom(bytes, length, 0) != (ssize_t) length)
		log_fatal("could not get random bytes: %s", strerror(errno));
}

/* Say why to a client that has just come, and close its socket. */
void
client_refuse(int fd, const Report *report)
{
	Queue		out = {0};
	struct iovec part;

	reply_report(&out, report);
	if (queue_vector(&out, &part, 1) == 1)
		(void) send(fd, part.iov_base, part.iov_len, MSG_NOSIGNAL);
	queue_free(&out);
	close(fd);
}

/* A connection has come; fd is its socket, which does not block. */
void
client_accept(int fd, bool local, bool http, const char *address)
{
	static const Report full = {
		.severity = "FATAL",
		.sqlstate = "53300",
		.message = "sorry, too many clients already",
		.detail = "The gateway has its max-clients.",
	};
	Client	   *client;

	if (client_count >= limits.max_clients)
	{
		if (http)
			http_refuse_connection(fd, 503);
		else
			client_refuse(fd, &full);
		return;
	}
	client = memory_get_zeroed(sizeof(Client));
	client->transport.fd = fd;
	client->local = local;
	client->number = next_number++;
	snprintf(client->address, sizeof(client->address), "%s", address);
	list_init(&client->dirty);
	list_init(&client->timed);
	list_init(&client->members);
	list_init(&client->echoes);
	list_append(&all_clients, &client->link);
	client_count++;
	gateway.counters.accepted++;
	uv_poll_init(&gateway.loop, &client->poll, fd);
	client->poll.data = client;
	client_deadline(client, limits.login_timeout);
	if (http)
		http_begin(client);
	client_set_state(client, CLIENT_STARTUP);
}

/* The client is closed: it is none of all clients any more. */
void
clients_leave(Client *client)
{
	if (client->pid != 0)
		hash_remove(&clients_by_pid, &client->by_pid);
	client_count--;
	list_remove(&client->link);
	list_remove(&client->timed);
}

/* Give the client a pid and a key of its own. */
void
client_give_pid(Client *client)
{
	do
	{
		next_pid++;
		if (next_pid <= FIRST_PID || next_pid > INT32_MAX)
			next_pid = FIRST_PID + 1;
	} while (client_by_pid(next_pid) != NULL);
	client->pid = next_pid;
	random_bytes(&client->key, sizeof(client->key));
	hash_insert(&clients_by_pid, &client->by_pid, client->pid);
}

/* The client with that pid, or NULL. */
Client *
client_by_pid(uint32_t pid)
{
	HashNode   *node = hash_first(&clients_by_pid, pid);

	return node == NULL ? NULL : hash_container(Client, by_pid, node);
}

/*
 * Call a function with each client, and with context.  It may end any of them: the
 * end of one may be that of others, as a login's turn comes and fails.
 */
void
clients_visit(void (*visit) (Client *client, const void *context), const void *context)
{
	ListNode	left;
	ListNode   *node;

	list_init(&left);
	list_move(&left, &all_clients);
	while ((node = list_take_first(&left)) != NULL)
	{
		list_append(&all_clients, node);
		visit(list_container(Client, link, node), context);
	}
}

/* What clients_end_all() was given. */
typedef struct Ending
{
	const Report *report;
	const char *reason;
	bool		listeners_only;
} Ending;

/* End the client, if it is one of those that are to end. */
static void
end_one(Client *client, const void *context)
{
	const Ending *ending = context;

	/* a stream has a word for a gap */
	if (!ending->listeners_only || (client->member_count > 0 && client->http == NULL))
		client_end(client, ending->report, ending->reason);
}

/* End all clients, or those that listen to a channel. */
void
clients_end_all(const Report *report, const char *reason, bool listeners_only)
{
	Ending		ending = {report, reason, listeners_only};

	clients_visit(end_one, &ending);
}

/* The client ends unless a new deadline is set; 0 seconds: no deadline. */
void
client_deadline(Client *client, int64_t seconds)
{
	list_remove(&client->timed);
	client->deadline = 0;
	if (seconds > 0)
	{
		client->deadline = gateway_now() + seconds * 1000;
		list_append(&timed_clients, &client->timed);
		if (!uv_is_active((uv_handle_t *) &deadline_timer))
			uv_timer_again(&deadline_timer);
	}
}

/* The client's deadline has come, and it has none any more. */
static void
client_timed_out(Client *client)
{
	if (client->state == CLIENT_CLOSING)
		client_close(client, "closed: it has not taken its last message");
	else if (client->http != NULL)
		http_timed_out(client);
	else if (client->state == CLIENT_WAITING)
		session_timed_out(client);
	else if (client->pid == 0)
		login_timed_out(client);
}

/*
 * Look at the deadlines; the timer stops when there are none.  The end of one
 * client's wait may end, or begin, that of any other: a login's turn comes, or the
 * connection for commands is lost.  So the list is taken from its head.
 */
static void
look_at_deadlines(uv_timer_t *timer)
{
	uint64_t	now = gateway_now();
	ListNode	left;
	ListNode   *node;

	list_init(&left);
	list_move(&left, &timed_clients);
	while ((node = list_take_first(&left)) != NULL)
	{
		Client	   *client = list_container(Client, timed, node);

		if (client->deadline > now)
			list_append(&timed_clients, node);
		else
		{
			client->deadline = 0;
			client_timed_out(client);
		}
	}
	if (list_is_empty(&timed_clients))
		uv_timer_stop(timer);
}

/* To be called once, when the loop stands. */
void
clients_init(void)
{
	list_init(&all_clients);
	list_init(&timed_clients);
	random_bytes(&next_pid, sizeof(next_pid));
	next_pid = FIRST_PID + (next_pid & 0x3FFFFFFF);
	clients_start_flushing();
	uv_timer_init(&gateway.loop, &deadline_timer);
	uv_timer_start(&deadline_timer, look_at_deadlines, DEADLINE_TICK,
				   DEADLINE_TICK);
	uv_timer_stop(&deadline_timer);
}

/*-------------------------------------------------------------------------
 *
 * resume.c
 *	  See resume.h.
 *
 * 1. Such a client gets a temporary subscription of its own, which starts behind
 *	  the last event that it has seen.  The server reads it from its queue, or from
 *	  the log of durable channels, and says what is gone, with a gap row.
 *
 * 2. All are on one connection, which is made when it is needed first, and take
 *	  turns there, a query each.  At most limits.max_resumes have a subscription at a
 *	  time; the others wait.  A client that does not take what it gets has no turn: it
 *	  is stalled, the rest of the rows that were read for it is kept, and it goes on
 *	  with these.  While others wait, it keeps its subscription no longer than
 *	  limits.resume_timeout; then it gets another one when it has taken what it got.
 *
 * 3. It ends at the target, a seq that the gateway's own stream has come to: what
 *	  comes behind is in the history, or will be.  Where the history has lost that
 *	  meanwhile, it goes on to another target, with a new subscription.
 *
 * 4. A channel that is not durable is in the server's queue only while somebody is
 *	  subscribed to it, and the server does not know since when that is.  So where the
 *	  gateway was not all the time, the server is asked whether the channel is
 *	  durable; if it is not, or may not be known, the client is told of a gap.
 *
 * 5. If the connection is lost, each begins anew behind the last event that it has
 *	  given to its client.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/resume.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/log.h"
#include "common/memory.h"
#include "common/server.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/stream.h"
#include "gateway/upstream.h"

/* Events of one query: of the first, and of any. */
#define FIRST_POLL_EVENTS 1
#define POLL_EVENTS 100

/* Between two looks at those that are stalled, in ms. */
#define STALLED_TICK 1000

/* How long the server may take for an answer, in seconds. */
#define ANSWER_SECONDS 30

struct Resume
{
	ListNode	link;			/* of waiting, list or stalled, or of none */
	Client	   *client;			/* NULL: it has gone, or has all */
	char		name[64];		/* of the subscription */
	char	   *channels;		/* as an array's text */
	char	   *doubtful;		/* those that have to be durable, until that
								 * is known; or NULL */
	bool		uncertain;		/* they are not, or nobody knows */
	int64_t		at;				/* the client has all up to here */
	int64_t		target;
	uint64_t	subscribed;		/* the connection with its subscription; 0:
								 * none */
	uint64_t	subscribed_at;	/* ms */
	bool		again;			/* with a new subscription */
	bool		stalled;		/* in that list */
	PGresult   *rows;			/* read, and not all given to the client yet;
								 * or NULL */
	int			row;			/* the next one */
	int			poll_events;	/* to be read by the next query */
};

typedef struct Resumption
{
	Server		server;
	bool		started;
	bool		ready;			/* for a query */
	ListNode	waiting;		/* without a subscription */
	ListNode	list;			/* with one, and with something to do */
	ListNode	stalled;		/* with one, until the client takes more */
	uv_timer_t	stalled_timer;
	int			subscriptions;
	uint64_t	connection;		/* its number, from 1 */
	Resume	   *current;		/* whose query is with the server */
	bool		dropping;		/* that query drops the subscription */
	PGresult   *result;			/* of the query */
	uint32_t	secret;
	uint64_t	last_number;
} Resumption;

static Resumption resumption;

/* Forget the rows that were read for it. */
static void
drop_rows(Resume *resume)
{
	PQclear(resume->rows);
	resume->rows = NULL;
}

/* Free it; it is in no list. */
static void
resume_free(Resume *resume)
{
	drop_rows(resume);
	free(resume->channels);
	free(resume->doubtful);
	free(resume);
}

/* Does it have a subscription?  One of a connection that was lost is none. */
static bool
is_subscribed(const Resume *resume)
{
	return resume->subscribed == resumption.connection;
}

/* It has a subscription no more. */
static void
subscription_ends(Resume *resume)
{
	if (is_subscribed(resume))
		resumption.subscriptions--;
	resume->subscribed = 0;
}

/*
 * What is next for it, which is in no list: a query, when its turn comes, or nothing
 * until resume_go_on().
 */
static void
line_up(Resume *resume)
{
	bool		may_go_on = resume->client != NULL &&
		events_resume_may_go_on(resume->client);

	if (!is_subscribed(resume))
	{
		/* it will read these again */
		drop_rows(resume);
		if (resume->client == NULL)
			resume_free(resume);
		else if (may_go_on)
			list_append(&resumption.waiting, &resume->link);
	}
	else if (resume->client == NULL || resume->again || may_go_on)
		list_append(&resumption.list, &resume->link);
	else
	{
		resume->stalled = true;
		list_append(&resumption.stalled, &resume->link);
	}
}

/* Take it out of its list, if it is in one. */
static void
take_out(Resume *resume)
{
	list_remove(&resume->link);
	resume->stalled = false;
}

/* Send the query with those parameters for it. */
static void
send_query(Resume *resume, const char *query, int count, const char *const *values)
{
	resumption.current = resume;
	resumption.ready = false;
	if (!PQsendQueryParams(resumption.server.conn, query, count, NULL, values, NULL, NULL, 0))
		server_lost(&resumption.server, PQerrorMessage(resumption.server.conn));
	else
		server_sent(&resumption.server, ANSWER_SECONDS);
}

/* Ask whether all channels are durable for which it matters. */
static void
ask_durable(Resume *resume)
{
	const char *values[1] = {resume->doubtful};

	send_query(resume, "SELECT count(*) FROM unnest($1::text[]) AS wanted (name)"
			   " WHERE NOT EXISTS (SELECT FROM pgpubsub.channel AS c WHERE c.durable"
			   " AND wanted.name LIKE replace(replace(replace(replace("
			   "c.channel, '\\', '\\\\'), '_', '\\_'), '%', '\\%'), '*', '%'))", 1, values);
}

/* Make its subscription. */
static void
subscribe(Resume *resume)
{
	char		start[24];
	const char *values[3] = {resume->name, resume->channels, start};

	resume->again = false;
	snprintf(start, sizeof(start), "%" PRId64, resume->at + 1);
	send_query(resume, "SELECT pgpubsub.subscribe($1, $2::text[], 'drop', $3, true)",
			   3, values);
}

/* Read some events of it, or drop it. */
static void
read_on(Resume *resume)
{
	char		count[12];
	const char *values[2] = {resume->name, count};

	snprintf(count, sizeof(count), "%d", resume->poll_events);
	resumption.dropping = resume->client == NULL || resume->again;
	if (resumption.dropping)
		send_query(resume, "SELECT pgpubsub.unsubscribe($1)", 1, values);
	else
		send_query(resume, "SELECT seq, channel, payload, lost"
				   " FROM pgpubsub.poll($1, $2::bigint)", 2, values);
}

/* Ask for whoever's turn it is. */
static void
next_query(void)
{
	ListNode   *node;

	if (!resumption.ready)
		return;
	resumption.dropping = false;
	if (resumption.subscriptions < limits.max_resumes &&
		(node = list_take_first(&resumption.waiting)) != NULL)
	{
		Resume	   *resume = list_container(Resume, link, node);

		if (resume->doubtful != NULL)
			ask_durable(resume);
		else
			subscribe(resume);
	}
	else if ((node = list_take_first(&resumption.list)) != NULL)
		read_on(list_container(Resume, link, node));
	else
		server_idle(&resumption.server);
}

/* What the server has said against it. */
static void
failed(Resume *resume, const PGresult *result)
{
	Client	   *client = resume->client;
	Report		report = {
		.sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE),
		.message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY),
	};

	if (report.sqlstate == NULL || report.message == NULL)
	{
		report.sqlstate = "08006";
		report.message = "the server has failed";
	}
	log_line(LOG_LEVEL_WARNING, "could not read what a client has missed: %s", report.message);
	if (client == NULL)
	{
		/* it was to be dropped, and ends with the connection */
		subscription_ends(resume);
		return;
	}
	resume->client = NULL;
	events_resume_failed(client, &report);
}

/*
 * Of so many events that are lost, the last of which is beyond the target and has that
 * seq, how many are not?  -1: nobody knows.
 */
static int64_t
lost_to_target(const Resume *resume, int64_t seq, int64_t lost)
{
	int64_t		kept = lost < 0 ? -1 :
		events_resume_behind(resume->client, resume->target, seq);

	return kept < 0 || kept > lost ? -1 : lost - kept;
}

/* Give the next row to the client; false if that has all up to the target then. */
static bool
give_row(Resume *resume)
{
	const PGresult *rows = resume->rows;
	int			row = resume->row++;
	int64_t		seq = strtoll(PQgetvalue(rows, row, 0), NULL, 10);
	bool		beyond = seq > resume->target;
	const char *channel = PQgetisnull(rows, row, 1) ? NULL : PQgetvalue(rows, row, 1);

	if (channel == NULL)
	{
		int64_t		lost = strtoll(PQgetvalue(rows, row, 3), NULL, 10);

		if (beyond)
			lost = lost_to_target(resume, seq, lost);
		if (lost != 0)
			events_resumed(resume->client, beyond ? resume->target : seq, NULL, NULL, lost);
	}
	else if (!beyond && strcmp(channel, subscription_name()) != 0)
		events_resumed(resume->client, seq, channel, PQgetvalue(rows, row, 2), 0);
	if (beyond)
		resume->at = resume->target;
	else if (seq > resume->at)
		resume->at = seq;
	return resume->at < resume->target;
}

/*
 * Give the client as many of the rows that were read for it as it may have now, and if
 * these are all, see where it goes on.
 */
static void
give_rows(Resume *resume)
{
	bool		more = PQntuples(resume->rows) > 0;

	while (more && resume->row < PQntuples(resume->rows))
	{
		if (!events_resume_may_go_on(resume->client))
			return;
		more = give_row(resume);
	}
	drop_rows(resume);
	if (more)
		return;
	resume->at = resume->target;
	if (events_resume_reached(resume->client, resume->at, &resume->target))
		resume->client = NULL;
	else
		resume->again = true;
}

/*
 * Events of it have come, in a result that is the resume's from now on.  The next query
 * reads as many as fit into what the client may have waiting, as far as that can be
 * told from these, and at most twice as many.
 */
static void
take_events(Resume *resume, PGresult *result)
{
	size_t		room = limits.client_buffer / 2;
	size_t		bytes = PQresultMemorySize(result);
	int			rows = PQntuples(result);

	if (resume->client == NULL)
	{
		PQclear(result);
		return;
	}
	if (rows > 0)
	{
		size_t		fit = room / (bytes / rows + 1);
		size_t		most = resume->poll_events * 2;

		if (most > POLL_EVENTS)
			most = POLL_EVENTS;
		resume->poll_events = fit < 1 ? 1 : fit > most ? (int) most : (int) fit;
	}
	resume->rows = result;
	resume->row = 0;
	give_rows(resume);
}

/* The query's answer is whole. */
static void
finish_query(void)
{
	Resume	   *resume = resumption.current;
	PGresult   *result = resumption.result;
	bool		good = PQresultStatus(result) == PGRES_TUPLES_OK;

	resumption.current = NULL;
	resumption.result = NULL;
	resumption.ready = true;
	if (resume->doubtful != NULL)
	{
		resume->uncertain = !good || strcmp(PQgetvalue(result, 0, 0), "0") != 0;
		free(resume->doubtful);
		resume->doubtful = NULL;
	}
	else if (!good)
		failed(resume, result);
	else if (resumption.dropping)
		subscription_ends(resume);
	else if (is_subscribed(resume))
	{
		take_events(resume, result);
		result = NULL;
	}
	else
	{
		resume->subscribed = resumption.connection;
		resume->subscribed_at = gateway_now();
		resumption.subscriptions++;
		if (resume->client != NULL)
			events_resume_begins(resume->client, resume->uncertain);
	}
	PQclear(result);
	line_up(resume);
	server_works(&resumption.server);
}

/* Something has come. */
static void
resume_input(Server *server)
{
	while (server->conn != NULL && !PQisBusy(server->conn))
	{
		PGresult   *result = PQgetResult(server->conn);

		if (result != NULL)
		{
			PQclear(resumption.result);
			resumption.result = result;
			continue;
		}
		if (resumption.ready)
			return;
		if (resumption.current != NULL)
			finish_query();
		else
		{
			PQclear(resumption.result);
			resumption.result = NULL;
			resumption.ready = true;
		}
		next_query();
	}
}

/* The connection stands. */
static void
resume_connected(Server *server)
{
	if (!PQsendQuery(server->conn, SERVER_SETTINGS))
		server_lost(server, PQerrorMessage(server->conn));
	else
		server_sent(server, ANSWER_SECONDS);
}

/* The connection is lost, and all subscriptions with it. */
static void
resume_lost(Server *server)
{
	ListNode   *node;
	Resume	   *current = resumption.current;

	(void) server;
	resumption.ready = false;
	resumption.current = NULL;
	PQclear(resumption.result);
	resumption.result = NULL;
	resumption.subscriptions = 0;
	resumption.connection++;
	if (current != NULL)
		line_up(current);
	while ((node = list_take_first(&resumption.list)) != NULL)
		line_up(list_container(Resume, link, node));
	while ((node = list_take_first(&resumption.stalled)) != NULL)
	{
		Resume	   *resume = list_container(Resume, link, node);

		resume->stalled = false;
		line_up(resume);
	}
}

/*
 * Others wait for a subscription: take it from those that have had one long enough and
 * whose clients do not take what they got.
 */
static void
look_at_stalled(uv_timer_t *timer)
{
	uint64_t	now = gateway_now();
	ListNode   *next;

	(void) timer;
	if (list_is_empty(&resumption.waiting) ||
		resumption.subscriptions < limits.max_resumes)
		return;
	for (ListNode *node = resumption.stalled.next; node != &resumption.stalled; node = next)
	{
		Resume	   *resume = list_container(Resume, link, node);

		next = node->next;
		if (resume->subscribed_at + limits.resume_timeout * 1000 > now)
			continue;
		take_out(resume);
		drop_rows(resume);
		resume->again = true;
		line_up(resume);
	}
	next_query();
}

/* Connect, if that was not done yet. */
static void
start(void)
{
	if (resumption.started)
		return;
	resumption.started = true;
	resumption.connection = 1;
	list_init(&resumption.waiting);
	list_init(&resumption.list);
	list_init(&resumption.stalled);
	uv_timer_init(&gateway.loop, &resumption.stalled_timer);
	uv_timer_start(&resumption.stalled_timer, look_at_stalled, STALLED_TICK, STALLED_TICK);
	if (getrandom(&resumption.secret, sizeof(resumption.secret), 0) !=
		sizeof(resumption.secret))
		log_fatal("could not get random bytes");
	resumption.server.what = "what clients have missed";
	resumption.server.connected = resume_connected;
	resumption.server.input = resume_input;
	resumption.server.lost = resume_lost;
	upstream_connect(&resumption.server);
}

/*
 * The client is to get what came on the channels behind the seq from, up to the
 * target, which the gateway's stream has come to; see events_resumed() and its like.
 * Those channels are doubtful of which the gateway has not had all since from.
 */
Resume *
resume_begin(Client *client, const char *const *channels, int count,
			 const char *const *doubtful, int doubtful_count, int64_t from, int64_t target)
{
	Resume	   *resume = memory_get_zeroed(sizeof(Resume));

	start();
	list_init(&resume->link);
	resume->client = client;
	resume->channels = array_literal(channels, count);
	if (doubtful_count > 0)
		resume->doubtful = array_literal(doubtful, doubtful_count);
	resume->at = from;
	resume->target = target;
	resume->poll_events = FIRST_POLL_EVENTS;
	snprintf(resume->name, sizeof(resume->name), "gateway-resume-%08" PRIx32 "-%" PRIu64,
			 resumption.secret, ++resumption.last_number);
	list_append(&resumption.waiting, &resume->link);
	next_query();
	return resume;
}

/* Its client has taken enough to get more. */
void
resume_go_on(Resume *resume)
{
	if (resumption.current == resume ||
		(!list_is_empty(&resume->link) && !resume->stalled))
		return;
	take_out(resume);
	if (resume->rows != NULL && is_subscribed(resume))
		give_rows(resume);
	line_up(resume);
	next_query();
}

/* Its client goes. */
void
resume_drop(Resume *resume)
{
	resume->client = NULL;
	if (resumption.current == resume)
		return;
	take_out(resume);
	line_up(resume);
	next_query();
}

/* The program ends. */
void
resume_stop(void)
{
	if (resumption.started)
		server_close(&resumption.server);
}

/*-------------------------------------------------------------------------
 *
 * stream.c
 *	  See stream.h.
 *
 * 1. The gateway has one lasting subscription, with on_full => 'drop': it never
 *	  holds writers, and what it misses is counted.  It is made anew when the
 *	  program starts, and dropped when it ends; over a lost connection it stays,
 *	  and goes on where it was.
 *
 * 2. Events are polled in a transaction, given to the clients, and then the transaction
 *	  is committed, together with the next poll.  If the connection is lost before
 *	  the commit, the same events come again; those with a seq that was seen are
 *	  passed over, so no client gets one twice.  (To look and to acknowledge would
 *	  do, too, but for what the queue overwrites between the two: the next gap row
 *	  would have its number once more, though clients have got it.)
 *
 * 3. A poll waits for a while: for our own other session, which has the subscription
 *	  while it drops channels of it, and for events.  (That session may have to wait
 *	  for longer: then the poll has failed, and is sent again.)  When there is nothing
 *	  for longer, CALL pgpubsub.wait sleeps, which holds no snapshot.  It also is the
 *	  heartbeat: it ends after WAIT_SECONDS, and a server that has not answered some
 *	  time later is taken for lost.
 *
 * 4. A poll of one event costs the server as much as one of ten.  So when events have
 *	  gone to many clients, the next poll waits a moment, and leaves the CPU to those
 *	  clients: under load, each brings several.
 *
 * 5. Two gateways with the same name would take each other's events, so the
 *	  name is locked by the stream's session.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/server.h"
#include "gateway/channels.h"
#include "gateway/client.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/marks.h"
#include "gateway/quota.h"
#include "gateway/upstream.h"

/*
 * How long the server sleeps when there is nothing, in a poll, which has a snapshot, and
 * outside; and may be late by.
 */
#define POLL_MS 200
#define WAIT_SECONDS 20
#define ANSWER_SECONDS 15

/*
 * Events of one poll: of the first, and at most.  Fewer where they are large, as all are
 * in memory at once, and where there are many patterns, each of which is compared
 * with each of them before the loop goes on.
 */
#define FIRST_POLL_EVENTS 100
#define POLL_EVENTS 1000
#define POLL_BYTES (8 * 1024 * 1024)
#define POLL_COMPARISONS 20000

/* Events that keep coming for so long show that the connection works, too, in ms. */
#define STANDS_MS 5000

/* A poll that led to so many deliveries is followed by a pause, of so long. */
#define MANY_DELIVERIES 100
#define PAUSE_MS 1

typedef enum StreamStep
{
	STREAM_SETUP,
	STREAM_FORGET,				/* what an earlier gateway of the name had */
	STREAM_SUBSCRIBE,
	STREAM_POLL,
	STREAM_COMMIT,				/* there was nothing */
	STREAM_WAIT
} StreamStep;

typedef struct Stream
{
	Server		server;
	StreamStep	step;
	bool		up;				/* the subscription stands */
	uint64_t	up_at;			/* ms; since when */
	bool		subscribed_once;
	bool		failed;			/* a result of the step was an error */
	int64_t		last_seq;		/* of the last event that was seen */
	int64_t		gap_seq;		/* of the last gap row that was seen */
	bool		polled;			/* there are rows that may come again, as the
								 * commit was not confirmed */
	bool		in_transaction; /* a poll's, which is to be committed */
	int			rows;			/* of the poll */
	int			poll_events;	/* that the next one may have, by their size */
	int			polled_events;	/* that this one may have */
	uint64_t	deliveries;		/* that there had been before the poll */
	uint64_t	drops;			/* commands_drops() then */
	uv_timer_t	pause;
	char		name[64];		/* the subscription's */
} Stream;

static Stream stream;

/* The subscription's name. */
const char *
subscription_name(void)
{
	return stream.name;
}

/* Does the subscription stand, with a connection that reads it? */
bool
stream_is_up(void)
{
	return stream.up;
}

/* The seq of the last event that was seen; 0: there was none. */
int64_t
stream_last_seq(void)
{
	return stream.last_seq;
}

/* The names as the text of an array, to be freed. */
char *
array_literal(const char *const *names, int count)
{
	Bytes		text = {0};

	bytes_append_byte(&text, '{');
	for (int i = 0; i < count; i++)
	{
		bytes_append_byte(&text, '"');
		for (const char *at = names[i]; *at != '\0'; at++)
		{
			if (*at == '"' || *at == '\\')
				bytes_append_byte(&text, '\\');
			bytes_append_byte(&text, *at);
		}
		bytes_append_byte(&text, '"');
		if (i + 1 < count)
			bytes_append_byte(&text, ',');
	}
	bytes_append(&text, "}", 2);
	return text.data;
}

/* Send a query of several statements, in which %1$s is the quoted name. */
static void
send_query(StreamStep step, const char *query, int64_t seconds)
{
	stream.step = step;
	stream.failed = false;
	stream.rows = 0;
	if (!PQsendQuery(stream.server.conn, query))
		server_lost(&stream.server, PQerrorMessage(stream.server.conn));
	else
		server_sent(&stream.server, seconds);
}

/* The name, quoted; to be freed with PQfreemem(). */
static char *
quoted_name(void)
{
	char	   *quoted = PQescapeLiteral(stream.server.conn, stream.name,
										 strlen(stream.name));

	if (quoted == NULL)
		log_fatal("could not quote the name: %s", PQerrorMessage(stream.server.conn));
	return quoted;
}

/* The connection stands. */
static void
stream_connected(Server *server)
{
	char		query[2048];
	char	   *name = quoted_name();

	(void) server;
	snprintf(query, sizeof(query),
			 SERVER_SETTINGS
			 " SELECT version(), 'public', current_setting('server_encoding'),"
			 " pg_try_advisory_lock(hashtext('pgpubsub-gateway'), hashtext(%s)),"
			 " pg_is_in_recovery(), current_setting('pgpubsub.max_channels', true)", name);
	PQfreemem(name);
	send_query(STREAM_SETUP, query, ANSWER_SECONDS);
}

/* Drop what an earlier gateway of the name has left. */
static void
forget_old(void)
{
	char		query[256];
	char	   *name = quoted_name();

	snprintf(query, sizeof(query), "SELECT pgpubsub.unsubscribe(%s)", name);
	PQfreemem(name);
	send_query(STREAM_FORGET, query, ANSWER_SECONDS);
}

/*
 * Make the subscription, or have it as it is to be: with the channels that were
 * effective.  Those that are wanted are added afterwards, as ever: if one cannot be,
 * the others are.  A subscription needs a channel: where nobody listens, it gets the
 * gateway's own for a while.  Not otherwise: that is no durable one, and a restart
 * would make a gap.
 */
static void
subscribe(void)
{
	int			count;
	const char **names = channels_to_subscribe(stream.name, &count);
	char	   *array = array_literal(names, count);
	const char *values[2] = {stream.name, array};

	stream.step = STREAM_SUBSCRIBE;
	stream.failed = false;
	if (!PQsendQueryParams(stream.server.conn,
						   "SELECT pgpubsub.subscribe($1, $2::text[], 'drop')",
						   2, NULL, values, NULL, NULL, 0))
		server_lost(&stream.server, PQerrorMessage(stream.server.conn));
	else
		server_sent(&stream.server, ANSWER_SECONDS);
	free(array);
	free(names);
}

/* Read events, and commit that those before were read. */
static void
poll_events(void)
{
	char		query[512];
	char	   *name = quoted_name();
	int			count = POLL_COMPARISONS / (channels_pattern_count() + 1);

	uv_timer_stop(&stream.pause);
	if (count > stream.poll_events)
		count = stream.poll_events;
	if (count < 1)
		count = 1;
	snprintf(query, sizeof(query),
			 "%sBEGIN; SELECT seq, channel, payload, pid, lost"
			 " FROM pgpubsub.poll(%s, %d, '%d ms')",
			 stream.in_transaction ? "COMMIT; " : "", name, count, POLL_MS);
	PQfreemem(name);
	stream.in_transaction = true;
	stream.polled_events = count;
	stream.deliveries = gateway.counters.deliveries;
	stream.drops = commands_drops();
	send_query(STREAM_POLL, query, ANSWER_SECONDS);
}

/* The pause is over. */
static void
pause_over(uv_timer_t *timer)
{
	(void) timer;
	poll_events();
}

/*
 * The poll has brought something: read on, at once if there is more, else as 4 at the
 * head of this file says.
 */
static void
poll_on(void)
{
	if (gateway.counters.deliveries - stream.deliveries < MANY_DELIVERIES ||
		stream.rows >= stream.polled_events)
		poll_events();
	else
		uv_timer_start(&stream.pause, pause_over, PAUSE_MS, 0);
}

/* End the transaction of a poll that had nothing, as one must not sleep in it. */
static void
commit(void)
{
	stream.in_transaction = false;
	send_query(STREAM_COMMIT, "COMMIT", ANSWER_SECONDS);
}

/* Sleep until there is something. */
static void
wait_for_events(void)
{
	char		query[256];
	char	   *name = quoted_name();

	snprintf(query, sizeof(query), "CALL pgpubsub.wait(%s, '%d s')", name, WAIT_SECONDS);
	PQfreemem(name);
	send_query(STREAM_WAIT, query, WAIT_SECONDS + ANSWER_SECONDS);
}

/*
 * So many events are missing, -1 if nobody knows how many.  whole: what comes behind
 * seq does not miss any.
 */
static void
gap(int64_t seq, int64_t lost, bool whole)
{
	char		detail[100];
	Report		report = {
		.sqlstate = "57P05",
		.message = "terminating connection because notifications were lost",
		.detail = detail,
		.hint = "Connect and listen again, and read what they were about anew.",
	};

	if (lost >= 0)
		snprintf(detail, sizeof(detail),
				 "%lld events of the gateway's channels were lost.", (long long) lost);
	else
		snprintf(detail, sizeof(detail),
				 "It is not known how many events of the gateway's channels were lost.");
	log_line(LOG_LEVEL_WARNING, "%s", detail);
	gateway.counters.gaps++;
	channels_gap();
	marks_send_again();
	if (gateway.options.http != NULL)
		events_gap(seq > stream.last_seq ? seq : stream.last_seq, lost, whole);
	clients_end_all(&report, "ended: notifications were lost", true);
}

/* Choose how many events the next poll reads, by the size of these. */
static void
choose_poll_events(const PGresult *result)
{
	int			rows = PQntuples(result);
	size_t		fit;

	if (rows == 0)
		return;
	fit = POLL_BYTES / (PQresultMemorySize(result) / rows + 1);
	if (fit > (size_t) stream.poll_events * 2)
		fit = stream.poll_events * 2;
	stream.poll_events = fit < 1 ? 1 : fit > POLL_EVENTS ? POLL_EVENTS : (int) fit;
}

/* Give the events of a poll to the clients. */
static void
take_events(const PGresult *result)
{
	for (int row = 0; row < PQntuples(result); row++)
	{
		int64_t		seq = strtoll(PQgetvalue(result, row, 0), NULL, 10);

		if (PQgetisnull(result, row, 1))
		{
			/*
			 * A gap row's seq may be one that was seen, as it is below that
			 * of the next event.  It comes again if it was not committed that
			 * it has come.
			 */
			if (!stream.polled || seq != stream.gap_seq)
				gap(seq, strtoll(PQgetvalue(result, row, 4), NULL, 10), true);
			stream.gap_seq = seq;
			continue;
		}
		if (seq <= stream.last_seq)
			continue;
		stream.last_seq = seq;
		if (strcmp(PQgetvalue(result, row, 1), stream.name) == 0)
			marks_event(seq, PQgetvalue(result, row, 2));
		else
			channels_event(seq, PQgetvalue(result, row, 1), PQgetvalue(result, row, 2),
						   (int) strtol(PQgetvalue(result, row, 3), NULL, 10));
	}
	stream.rows = PQntuples(result);
	choose_poll_events(result);
	stream.polled = stream.rows > 0;
}

/* The setup's answer; false if the connection is of no use. */
static bool
take_setup(const PGresult *result)
{
	const char *why;

	if (strcmp(PQgetvalue(result, 0, 3), "t") != 0)
	{
		server_lost(&stream.server,
					"another gateway has this name, or our own former session has not ended yet");
		return false;
	}
	if (strcmp(PQgetvalue(result, 0, 4), "t") == 0)
	{
		server_lost(&stream.server, "the server is a standby");
		return false;
	}
	quota_learn(strtoll(PQgetvalue(result, 0, 5), NULL, 10));
	why = upstream_learn(stream.server.conn, PQgetvalue(result, 0, 0),
						 PQgetvalue(result, 0, 1), PQgetvalue(result, 0, 2));
	if (why != NULL)
		server_lost(&stream.server, why);
	return why == NULL;
}

/* The subscription's answer. */
static void
take_subscribed(const PGresult *result)
{
	bool		created = strcmp(PQgetvalue(result, 0, 0), "t") == 0;
	bool		lost = created && stream.subscribed_once;

	stream.subscribed_once = true;
	stream.up = true;
	stream.up_at = gateway_now();
	log_line(LOG_LEVEL_INFO, "subscription \"%s\" stands", stream.name);
	if (lost)
		gap(stream.last_seq, -1, false);
	channels_added(NULL);
	commands_channels();
	gateway_server_ready();
}

/* An error has come; false if the connection is of no use then. */
static bool
take_error(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	stream.failed = true;
	if (stream.step == STREAM_FORGET && state != NULL && strcmp(state, "42704") == 0)
		return true;
	if (stream.step == STREAM_POLL && state != NULL && strcmp(state, "55006") == 0 &&
		(commands_drops() % 2 != 0 || commands_drops() != stream.drops))
		return true;
	server_lost(&stream.server, PQresultErrorMessage(result));
	return false;
}

/* All results of the step have come: what is next? */
static void
next_step(void)
{
	switch (stream.step)
	{
		case STREAM_SETUP:
			if (stream.subscribed_once)
				subscribe();
			else
				forget_old();
			break;
		case STREAM_FORGET:
			subscribe();
			break;
		case STREAM_WAIT:
			/* All that the stream does has worked once. */
			server_works(&stream.server);
			poll_events();
			break;
		case STREAM_SUBSCRIBE:
			poll_events();
			break;
		case STREAM_POLL:
			if (stream.rows > 0 && gateway_now() > stream.up_at + STANDS_MS)
				server_works(&stream.server);
			if (stream.rows > 0)
				poll_on();
			else if (stream.failed)
				poll_events();
			else
				commit();
			break;
		case STREAM_COMMIT:
			wait_for_events();
			break;
	}
}

/* A result has come; false if the connection is lost. */
static bool
take_result(PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status == PGRES_COMMAND_OK)
	{
		if (strcmp(PQcmdStatus(result), "COMMIT") == 0)
			stream.polled = false;
		return true;
	}
	if (status != PGRES_TUPLES_OK)
		return take_error(result);
	if (stream.step == STREAM_SETUP)
		return take_setup(result);
	if (stream.step == STREAM_SUBSCRIBE)
		take_subscribed(result);
	else if (stream.step == STREAM_POLL && PQnfields(result) == 5)
		take_events(result);
	return stream.server.state == SERVER_CONNECTED;
}

/* Something has come. */
static void
stream_input(Server *server)
{
	while (!PQisBusy(server->conn))
	{
		PGresult   *result = PQgetResult(server->conn);
		bool		good;

		if (result == NULL)
		{
			next_step();
			return;
		}
		good = take_result(result);
		PQclear(result);
		if (!good)
			return;
	}
}

/* The connection is lost; the subscription stays. */
static void
stream_lost(Server *server)
{
	(void) server;
	uv_timer_stop(&stream.pause);
	stream.up = false;
	stream.in_transaction = false;
	channels_want_again();
}

/* Begin to connect. */
void
stream_start(void)
{
	snprintf(stream.name, sizeof(stream.name), "%s", gateway.options.name);
	stream.poll_events = FIRST_POLL_EVENTS;
	uv_timer_init(&gateway.loop, &stream.pause);
	stream.server.what = "events";
	stream.server.connected = stream_connected;
	stream.server.input = stream_input;
	stream.server.lost = stream_lost;
	upstream_connect(&stream.server);
}

/* Read no more. */
void
stream_stop(void)
{
	stream.up = false;
	uv_timer_stop(&stream.pause);
	server_close(&stream.server);
}

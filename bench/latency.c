/*-------------------------------------------------------------------------
 *
 * latency.c
 *	  How long from COMMIT to the reader's client.
 *
 *		latency KIND SAMPLES
 *
 * KIND is native, transactional, async, durable, outbox or pgq.  The reader's
 * poll consumes, and is a transaction of its own, whose commit is over when the
 * client has the event.  With async-ack and durable-ack it looks, and acks when
 * the client has the event; with async-begin and durable-begin it consumes in a
 * transaction that the client commits when it has the event; with
 * durable-relaxed its own commit does not wait for the disk.  The channel of
 * durable is to be durable, and its subscription lasts, as all do whose
 * positions are to outlive a crash.  An outbox and PgQ cannot be waited for:
 * they are asked every 10 ms.
 *
 * Each sample is a transaction that changes a row of the table "latency" and
 * notifies, on a machine that does nothing else, while the reader waits.  The
 * time runs from when COMMIT is sent to when the reader's client has the event,
 * both in this process.  Prints, in microseconds:
 *
 *		latency: p50=N p99=N
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHANNEL			"latency"
#define SUBSCRIPTION	"latency"

/* Samples before those that count. */
#define WARM_UP			20

/* Between samples, so that the reader waits again. */
#define PAUSE_US		2000

/* How long an event may take at most. */
#define PATIENCE_MS		10000

static bool native;
static bool acking;				/* the reader looks and acks */
static bool in_transaction;		/* the reader has one open when it polls */
static bool taking;				/* the reader takes from an outbox, or PgQ */

/* The reader's query. */
typedef enum
{
	QUERY_NONE,					/* none; it looks again later, if it takes */
	QUERY_POLL,
	QUERY_END					/* ack or commit */
} Query;

static Query query;
static int64_t again_at;		/* with QUERY_NONE: when it looks again */

/* Have the reader wait for the next event. */
static void
send_poll(PGconn *reader)
{
	query = QUERY_POLL;
	if (taking)
		client_send_take(reader, "100");
	else
		client_send_poll(reader, SUBSCRIPTION, "100", "30 s");
}

/* Have the reader ack the last event of what it was shown. */
static void
send_ack(PGconn *reader, const PGresult *shown)
{
	const char *const params[] = {SUBSCRIPTION,
	PQgetvalue(shown, PQntuples(shown) - 1, 0)};

	query = QUERY_END;
	if (!PQsendQueryParams(reader, "SELECT pgpubsub.ack($1, $2)", 2, NULL,
						   params, NULL, NULL, 0))
		client_die("%s", PQerrorMessage(reader));
}

/* Have the reader commit what it has consumed, and begin the next transaction. */
static void
send_commit(PGconn *reader)
{
	query = QUERY_END;
	if (!PQsendQuery(reader, "COMMIT AND CHAIN"))
		client_die("%s", PQerrorMessage(reader));
}

/* The reader's poll has this result: did it bring the event? */
static bool
take_result(PGconn *reader, const PGresult *result)
{
	long		lost = 0;
	bool		found = client_count_rows(result, &lost) > 0;

	if (found && acking)
		send_ack(reader, result);
	else if (found && in_transaction)
		send_commit(reader);
	else if (!found && taking)
	{
		query = QUERY_NONE;
		again_at = client_now_ns() + TAKE_AGAIN_MS * INT64_C(1000000);
	}
	else
		send_poll(reader);
	return found;
}

/* When the event came, in nanoseconds; 0 if it has not yet. */
static int64_t
event_came(PGconn *reader)
{
	PGnotify   *notify;
	PGresult   *result;
	int64_t		came = 0;

	if (!PQconsumeInput(reader))
		client_die("%s", PQerrorMessage(reader));
	if (native)
	{
		while ((notify = PQnotifies(reader)) != NULL)
		{
			came = client_now_ns();
			PQfreemem(notify);
		}
	}
	else if (query != QUERY_NONE && client_poll_result(reader, &result))
	{
		int64_t		now = client_now_ns();

		/* the next one's sending is not on this event's way */
		if (query == QUERY_END)
			send_poll(reader);
		else if (take_result(reader, result))
			came = now;
		PQclear(result);
	}
	return came;
}

/*
 * Serve the reader for so long, and until it waits for an event: what it does
 * with the last one is not on the next one's way.
 */
static void
serve_reader(PGconn *reader, int64_t nanoseconds)
{
	int64_t		end = client_now_ns() + nanoseconds;

	for (;;)
	{
		int64_t		now = client_now_ns();
		struct pollfd fd = {.fd = PQsocket(reader), .events = POLLIN};

		if (now >= end && query != QUERY_END)
			return;
		if (taking && query == QUERY_NONE && now >= again_at)
			send_poll(reader);
		if (poll(&fd, 1, 1) > 0 && event_came(reader) != 0)
			client_die("an event came that nobody had published");
	}
}

/* The transaction's own result: has it come? */
static bool
commit_done(PGconn *writer)
{
	PGresult   *result;

	if (!PQconsumeInput(writer))
		client_die("%s", PQerrorMessage(writer));
	if (!client_poll_result(writer, &result))
		return false;
	PQclear(result);
	return true;
}

/* Take one sample, in nanoseconds. */
static int64_t
take_sample(PGconn *writer, PGconn *reader, const char *publish, int number)
{
	struct pollfd fds[2] = {{.fd = PQsocket(reader), .events = POLLIN},
	{.fd = PQsocket(writer), .events = POLLIN}};
	char		payload[32];
	const char *const params[] = {CHANNEL, payload};
	bool		committed = false;
	int64_t		came = 0;
	int64_t		started;

	snprintf(payload, sizeof(payload), "%d", number);
	client_execute(writer, "BEGIN");
	client_execute(writer, "UPDATE latency SET n = n + 1");
	PQclear(client_query(writer, publish, 2, params));

	started = client_now_ns();
	if (!PQsendQuery(writer, "COMMIT"))
		client_die("%s", PQerrorMessage(writer));
	while (!committed || came == 0)
	{
		int64_t		now = client_now_ns();
		int			wait = PATIENCE_MS;

		if (now - started > PATIENCE_MS * INT64_C(1000000))
			client_die("no event after %d ms", PATIENCE_MS);
		if (taking && query == QUERY_NONE)
		{
			if (now >= again_at)
				send_poll(reader);
			else
				wait = (int) ((again_at - now) / 1000000) + 1;
		}
		(void) poll(fds, 2, wait);
		if (fds[0].revents && came == 0)
			came = event_came(reader);
		if (fds[1].revents && !committed)
			committed = commit_done(writer);
	}
	return came - started;
}

/* End the lasting subscription, once its reader has gone. */
static void
unsubscribe(PGconn *conn)
{
	PGresult   *result;
	bool		gone = false;

	while (!gone)
	{
		result = client_query(conn, "SELECT FROM pg_stat_activity"
							  " WHERE application_name = 'bench reader'",
							  0, NULL);
		gone = PQntuples(result) == 0;
		PQclear(result);
		if (!gone)
			usleep(10000);
	}
	client_execute(conn, "SELECT pgpubsub.unsubscribe('" SUBSCRIPTION "')");
}

static int
compare_samples(const void *a, const void *b)
{
	int64_t		left = *(const int64_t *) a;
	int64_t		right = *(const int64_t *) b;

	return (left > right) - (left < right);
}

int
main(int argc, char **argv)
{
	PGconn	   *writer;
	PGconn	   *reader;
	const char *kind;
	const char *publish = "SELECT pgpubsub.publish($1, $2)";
	long		count;
	int64_t    *samples;

	if (argc != 3)
		client_die("usage: latency native|transactional|async[-ack|-begin]|durable[-ack|-begin|-relaxed]|outbox|pgq SAMPLES");
	kind = argv[1];
	native = strcmp(kind, "native") == 0;
	acking = strstr(kind, "-ack") != NULL;
	in_transaction = strstr(kind, "-begin") != NULL;
	taking = client_takes(kind);
	count = client_number(argv[2], "SAMPLES");
	samples = calloc(count, sizeof(int64_t));
	if (samples == NULL)
		client_die("out of memory");

	writer = client_connect("bench writer");
	reader = client_connect("bench reader");
	if (native)
	{
		publish = "SELECT pg_notify($1, $2)";
		client_listen(reader, CHANNEL);
	}
	else if (taking)
	{
		publish = strcmp(kind, "pgq") == 0 ?
			"SELECT pgq.insert_event($1, 'latency', $2)" :
			"INSERT INTO outbox.outbox (channel, payload) VALUES ($1, $2)";
		client_prepare_take(reader, kind, CHANNEL);
		send_poll(reader);
	}
	else
	{
		bool		durable = strncmp(kind, "durable", 7) == 0;
		char		set[64];

		if (strstr(kind, "-relaxed"))
			client_execute(reader, "SET synchronous_commit = off");
		snprintf(set, sizeof(set), "SET pgpubsub.publish_mode = %.*s",
				 durable ? 5 : (int) strcspn(kind, "-"),
				 durable ? "async" : kind);
		client_execute(writer, set);
		client_subscribe(reader, SUBSCRIPTION, CHANNEL, "now", durable);
		client_prepare_poll(reader, !acking);
		if (in_transaction)
			client_execute(reader, "BEGIN");
		send_poll(reader);
	}

	for (int i = -WARM_UP; i < count; i++)
	{
		int64_t		sample = take_sample(writer, reader, publish, i);

		if (i >= 0)
			samples[i] = sample;

		/* what is asked at intervals is not always asked just now */
		serve_reader(reader, PAUSE_US * INT64_C(1000) +
					 (taking ? rand() % (TAKE_AGAIN_MS * 1000000) : 0));
	}
	qsort(samples, count, sizeof(int64_t), compare_samples);
	printf("latency: p50=%.1f p99=%.1f\n", samples[count / 2] / 1e3,
		   samples[count * 99 / 100] / 1e3);
	client_execute(writer, "SELECT pg_terminate_backend(pid)"
				   " FROM pg_stat_activity"
				   " WHERE application_name = 'bench reader'");
	PQfinish(reader);
	if (strncmp(kind, "durable", 7) == 0)
		unsubscribe(writer);
	PQfinish(writer);
	return 0;
}

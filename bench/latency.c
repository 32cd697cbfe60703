/*-------------------------------------------------------------------------
 *
 * latency.c
 *	  How long from COMMIT to the reader's client.
 *
 *		latency native|transactional|async SAMPLES
 *
 * Each sample is a transaction that changes a row of the table "latency" and
 * notifies, on a machine that does nothing else.  The time runs from when
 * COMMIT is sent to when the reader's client has the event, both in this
 * process.  Prints, in microseconds:
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

static bool native;

/* When the event came, in nanoseconds; 0 if it has not yet. */
static int64_t
event_came(PGconn *reader)
{
	PGnotify   *notify;
	PGresult   *result;
	long		lost = 0;
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
	else if (client_poll_result(reader, &result))
	{
		if (client_count_rows(result, &lost) > 0)
			came = client_now_ns();
		PQclear(result);

		/* the next one's sending is not on this event's way */
		client_send_poll(reader, SUBSCRIPTION, "100", "30 s");
	}
	return came;
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
		if (poll(fds, 2, 10000) == 0)
			client_die("no event after 10 s");
		if (fds[0].revents && came == 0)
			came = event_came(reader);
		if (fds[1].revents && !committed)
			committed = commit_done(writer);
	}
	return came - started;
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
	const char *publish = "SELECT pgpubsub.publish($1, $2)";
	long		count;
	int64_t    *samples;

	if (argc != 3)
		client_die("usage: latency native|transactional|async SAMPLES");
	native = strcmp(argv[1], "native") == 0;
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
	else
	{
		char		set[64];

		snprintf(set, sizeof(set), "SET pgpubsub.publish_mode = %s", argv[1]);
		client_execute(writer, set);
		client_subscribe(reader, SUBSCRIPTION, CHANNEL, "now");
		client_send_poll(reader, SUBSCRIPTION, "100", "30 s");
	}

	for (int i = -WARM_UP; i < count; i++)
	{
		int64_t		sample = take_sample(writer, reader, publish, i);

		if (i >= 0)
			samples[i] = sample;
		usleep(PAUSE_US);
	}
	qsort(samples, count, sizeof(int64_t), compare_samples);
	printf("latency: p50=%.1f p99=%.1f\n", samples[count / 2] / 1e3,
		   samples[count * 99 / 100] / 1e3);
	client_execute(writer, "SELECT pg_terminate_backend(pid)"
				   " FROM pg_stat_activity"
				   " WHERE application_name = 'bench reader'");
	PQfinish(reader);
	PQfinish(writer);
	return 0;
}

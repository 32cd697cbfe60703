/*-------------------------------------------------------------------------
 *
 * publisher.c
 *	  Publish events that say when they were sent.
 *
 *		publisher native|async COUNT RATE PER_COMMIT BYTES NAME MANY
 *
 * COUNT transactions, RATE of them a second, or 0: as fast as they are taken; each of
 * PER_COMMIT events of BYTES bytes, transaction i on the channel NAME_(i % MANY).
 * A payload begins with the time at which its transaction was sent: it is one
 * statement that commits by itself, so the time runs from the COMMIT's sending, and
 * includes what the statement takes.  They are sent at their time even if the
 * server is behind: then what they wait counts, too.  Prints:
 *
 *		publisher: events=N seconds=S late=N
 *
 * where late is how many of them could not be sent within 10 ms of their time.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE				/* ppoll() */

#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STATEMENT		"publish"
#define LATE_NS			INT64_C(10000000)

/* Without a rate: so many are under way at a time. */
#define AT_ONCE			4

static PGconn *conn;
static long done;

/* The time of day, which two processes share, in nanoseconds. */
static int64_t
time_of_day(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * Prepare publishing.  The events of a transaction differ, for NOTIFY would make
 * one of those that are the same.
 */
static void
prepare(const char *kind)
{
	char		sql[512];
	PGresult   *result;
	const char *function = "pg_notify";

	if (strcmp(kind, "async") == 0)
	{
		client_execute(conn, "SET pgpubsub.publish_mode = async");
		function = "pgpubsub.publish";
	}
	else if (strcmp(kind, "native") != 0)
		client_die("unknown kind: %s", kind);
	snprintf(sql, sizeof(sql),
			 "SELECT count(%s($1::text, rpad($2::text || ' ' || i, $3::int, '.')))"
			 " FROM generate_series(1, $4::int) AS i", function);
	result = PQprepare(conn, STATEMENT, sql, 0, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		client_die("%s", PQerrorMessage(conn));
	PQclear(result);
}

/* Take the results that have come. */
static void
take_results(void)
{
	PGresult   *result;

	if (!PQconsumeInput(conn))
		client_die("%s", PQerrorMessage(conn));
	while (!PQisBusy(conn))
	{
		result = PQgetResult(conn);
		if (result == NULL)
		{
			/* the end of one query's results, or of all that was sent */
			if (PQisBusy(conn) || (result = PQgetResult(conn)) == NULL)
				return;
		}
		if (PQresultStatus(result) == PGRES_PIPELINE_SYNC)
			done++;
		else if (PQresultStatus(result) != PGRES_TUPLES_OK)
			client_die("%s", PQresultErrorMessage(result));
		PQclear(result);
	}
}

/* Wait for results until then, or without end. */
static void
wait_until(int64_t then)
{
	struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
	int64_t		left = then - client_now_ns();
	struct timespec timeout = {.tv_sec = left / 1000000000,
	.tv_nsec = left % 1000000000};

	if (then != 0 && left <= 0)
		return;
	if (PQflush(conn) > 0)
		fd.events |= POLLOUT;
	if (ppoll(&fd, 1, then != 0 ? &timeout : NULL, NULL) > 0)
		take_results();
}

/* Send a transaction. */
static void
send_transaction(const char *bytes, const char *per_commit, const char *name,
				 long number)
{
	char		channel[64];
	char		now[32];
	const char *const params[] = {channel, now, bytes, per_commit};

	snprintf(channel, sizeof(channel), "%s_%ld", name, number);
	snprintf(now, sizeof(now), "%019lld", (long long) time_of_day());
	if (!PQsendQueryPrepared(conn, STATEMENT, 4, params, NULL, NULL, 0) ||
		!PQpipelineSync(conn) || PQflush(conn) < 0)
		client_die("%s", PQerrorMessage(conn));
}

int
main(int argc, char **argv)
{
	long		count;
	long		rate;
	long		many;
	long		late = 0;
	int64_t		started;

	if (argc != 8)
		client_die("usage: publisher native|async COUNT RATE PER_COMMIT BYTES NAME MANY");
	count = client_number(argv[2], "COUNT");
	rate = strcmp(argv[3], "0") == 0 ? 0 : client_number(argv[3], "RATE");
	(void) client_number(argv[4], "PER_COMMIT");
	(void) client_number(argv[5], "BYTES");
	many = client_number(argv[7], "MANY");
	conn = client_connect("bench publisher");
	prepare(argv[1]);
	if (!PQenterPipelineMode(conn) || PQsetnonblocking(conn, 1) != 0)
		client_die("%s", PQerrorMessage(conn));

	started = client_now_ns();
	for (long i = 0; i < count; i++)
	{
		int64_t		then = rate == 0 ? 0 : started + i * INT64_C(1000000000) / rate;

		while (rate == 0 ? i - done >= AT_ONCE : client_now_ns() < then)
			wait_until(then);
		if (rate != 0 && client_now_ns() - then > LATE_NS)
			late++;
		if (i % 16 == 15)
			take_results();
		send_transaction(argv[5], argv[4], argv[6], i % many);
	}
	while (done < count)
		wait_until(0);
	printf("publisher: events=%ld seconds=%.3f late=%ld\n",
		   count * client_number(argv[4], "PER_COMMIT"),
		   (double) (client_now_ns() - started) / 1e9, late);
	PQfinish(conn);
	return 0;
}

/*-------------------------------------------------------------------------
 *
 * drain.c
 *	  How fast one reader gets what is in a queue.
 *
 *		drain KIND NAME BATCH LIMIT [REPEATS]
 *
 * KIND is one of these, and NAME says which:
 *
 *		channel			subscribe to it, or a pattern, from the oldest event on
 *		subscription	one that was away
 *		table			read those rows of the table "plain", by its index
 *		outbox, pgq		take from the outbox, from the queue of that name
 *
 * Gets BATCH at a time, each in a transaction, until it has LIMIT events or
 * there are no more; PgQ's batches are as its ticker has made them.  With
 * REPEATS, a subscription or table is gone through once more often than that,
 * and the first time does not count.  Prints:
 *
 *		drain: events=N seconds=S
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* PgQ's ticker may not have made a batch of the last events yet. */
#define PATIENCE_NS		INT64_C(30000000000)

static PGconn *conn;
static const char *kind;
static const char *name;
static const char *batch;
static long limit;
static long lost;
static char last[32] = "0";		/* the id of the last row of the table */

/* Send the query for the next batch. */
static void
send_query(void)
{
	const char *const params[] = {name, last, batch};

	if (client_takes(kind))
		client_send_take(conn, batch);
	else if (strcmp(kind, "table") != 0)
		client_send_poll(conn, name, batch, "0");
	else if (!PQsendQueryPrepared(conn, POLL_STATEMENT, 3, params, NULL, NULL, 0))
		client_die("%s", PQerrorMessage(conn));
}

/* Get the next batch; how many events it has. */
static int
get_batch(void)
{
	PGresult   *result;
	int			rows;

	send_query();
	result = PQgetResult(conn);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		client_die("%s", PQerrorMessage(conn));
	rows = client_count_rows(result, &lost);
	if (rows > 0 && strcmp(kind, "table") == 0)
		snprintf(last, sizeof(last), "%s", PQgetvalue(result, rows - 1, 0));
	PQclear(result);
	while ((result = PQgetResult(conn)) != NULL)
		PQclear(result);
	return rows;
}

/* Go through all; how many events. */
static long
go_through(void)
{
	int64_t		progress = client_now_ns();
	long		events = 0;

	while (events < limit)
	{
		int			rows = get_batch();

		events += rows;
		if (rows > 0)
			progress = client_now_ns();
		else if (strcmp(kind, "pgq") != 0)
			break;
		else if (client_now_ns() - progress > PATIENCE_NS)
			client_die("no more than %ld events in queue %s", events, name);
		else
			usleep(1000);
	}
	return events;
}

/* To the beginning. */
static void
go_back(void)
{
	const char *const params[] = {name};

	if (strcmp(kind, "table") == 0)
		strcpy(last, "0");
	else
		PQclear(client_query(conn, "SELECT pgpubsub.seek($1, 'oldest')", 1,
							 params));
}

/* Prepare the query. */
static void
prepare(void)
{
	PGresult   *result;

	if (client_takes(kind))
		client_prepare_take(conn, kind, name);
	else if (strcmp(kind, "table") == 0)
	{
		result = PQprepare(conn, POLL_STATEMENT,
						   "SELECT id, channel, payload, pid, NULL FROM public.plain"
						   " WHERE channel = $1 AND id > $2"
						   " ORDER BY channel, id LIMIT $3", 0, NULL);
		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			client_die("%s", PQerrorMessage(conn));
		PQclear(result);
	}
	else
	{
		if (strcmp(kind, "channel") == 0)
			client_subscribe(conn, name, name, "oldest", false);
		client_prepare_poll(conn, true);
	}
}

int
main(int argc, char **argv)
{
	long		events = 0;
	long		repeats = 0;
	int64_t		spent = 0;

	if (argc != 5 && argc != 6)
		client_die("usage: drain channel|subscription|table|outbox|pgq NAME BATCH LIMIT [REPEATS]");
	kind = argv[1];
	name = argv[2];
	batch = argv[3];
	(void) client_number(batch, "BATCH");
	limit = client_number(argv[4], "LIMIT");
	if (argc == 6)
		repeats = client_number(argv[5], "REPEATS");
	conn = client_connect("bench drain");
	prepare();

	for (long i = 0; i <= repeats; i++)
	{
		int64_t		started = client_now_ns();
		long		count = go_through();

		if (i > 0 || repeats == 0)
		{
			spent += client_now_ns() - started;
			events += count;
		}
		if (i < repeats)
			go_back();
	}
	printf("drain: events=%ld seconds=%.6f\n", events, spent / 1e9);
	if (lost > 0)
		client_die("%ld events were lost", lost);
	PQfinish(conn);
	return 0;
}

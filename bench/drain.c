/*-------------------------------------------------------------------------
 *
 * drain.c
 *	  How fast one reader polls what is in the queue.
 *
 *		drain CHANNEL BATCH LIMIT
 *
 * Subscribes to the channel, or pattern, from the oldest event on, and polls
 * BATCH at a time, each poll a transaction, until it has LIMIT events or there
 * are no more.  Prints:
 *
 *		drain: events=N seconds=S
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <stdio.h>

#define SUBSCRIPTION	"drain"

int
main(int argc, char **argv)
{
	PGconn	   *conn;
	long		limit;
	long		events = 0;
	long		lost = 0;
	int			rows;
	int64_t		started;

	if (argc != 4)
		client_die("usage: drain CHANNEL BATCH LIMIT");
	(void) client_number(argv[2], "BATCH");
	limit = client_number(argv[3], "LIMIT");
	conn = client_connect("bench drain");
	client_subscribe(conn, SUBSCRIPTION, argv[1], "oldest");

	started = client_now_ns();
	do
	{
		PGresult   *result;

		client_send_poll(conn, SUBSCRIPTION, argv[2], "0");
		result = PQgetResult(conn);
		if (PQresultStatus(result) != PGRES_TUPLES_OK)
			client_die("%s", PQerrorMessage(conn));
		rows = client_count_rows(result, &lost);
		events += rows;
		PQclear(result);
		while ((result = PQgetResult(conn)) != NULL)
			PQclear(result);
	} while (rows > 0 && events < limit);
	printf("drain: events=%ld seconds=%.6f\n", events,
		   (client_now_ns() - started) / 1e9);
	if (lost > 0)
		client_die("%ld events were lost", lost);
	PQfinish(conn);
	return 0;
}

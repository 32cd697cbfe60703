/*-------------------------------------------------------------------------
 *
 * check.c
 *	  --check: is all well?  Each side is connected to once, and nothing is sent.
 *
 *-------------------------------------------------------------------------
 */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge/bridge.h"
#include "bridge/sink.h"
#include "common/log.h"

/* Say what is wrong with the server's side; false. */
static bool
server_is_wrong(const char *what, const char *why)
{
	size_t		length = strcspn(why, "\n");

	log_line(LOG_LEVEL_ERROR, "%s: %.*s", what, (int) length, why);
	return false;
}

/*
 * May the subscription be read?  That somebody reads it just now is no fault.  A look
 * consumes nothing.
 */
static bool
check_subscription(PGconn *conn)
{
	const char *values[1] = {bridge.options.subscription};
	PGresult   *result = PQexecParams(conn,
									  "SELECT count(*) FROM pgpubsub.poll($1, 1, consume => false)",
									  1, NULL, values, NULL, NULL, 0);
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	bool		good = PQresultStatus(result) == PGRES_TUPLES_OK;

	if (!good && state != NULL && strcmp(state, "55006") == 0)
	{
		printf("the subscription is being read by another session\n");
		good = true;
	}
	if (!good)
		server_is_wrong("the subscription cannot be read", PQresultErrorMessage(result));
	PQclear(result);
	return good;
}

/* Is it a lasting one?  Only who may read the table of these can tell. */
static bool
check_lasting(PGconn *conn)
{
	const char *values[1] = {bridge.options.subscription};
	PGresult   *result = PQexecParams(conn,
									  "SELECT EXISTS (SELECT FROM pgpubsub.subscription WHERE name = $1)",
									  1, NULL, values, NULL, NULL, 0);
	bool		good = PQresultStatus(result) != PGRES_TUPLES_OK ||
		strcmp(PQgetvalue(result, 0, 0), "t") == 0;

	PQclear(result);
	return good || server_is_wrong("the subscription cannot be read",
								   "it is temporary, and ends with its session");
}

/* Is the server's side good? */
static bool
check_server(void)
{
	const char *keywords[] = {"dbname", "application_name", "client_encoding", "connect_timeout", NULL};
	const char *values[] = {bridge.options.dbname, "pgpubsub-bridge --check", "UTF8", "15", NULL};
	PGconn	   *conn = PQconnectdbParams(keywords, values, 1);
	bool		good = PQstatus(conn) == CONNECTION_OK;

	if (good)
		good = check_subscription(conn) && check_lasting(conn);
	else
		server_is_wrong("no connection to the server", PQerrorMessage(conn));
	PQfinish(conn);
	return good;
}

/* Is the broker ready for messages that go there?  If not, that is logged. */
static bool
check_place(const char *address, bool dead)
{
	char		error[SINK_ERROR_SIZE] = "";

	if (bridge.options.sink->exists(address, dead, error))
		return true;
	log_line(LOG_LEVEL_ERROR, "messages cannot go to %s\"%s\": %s",
			 dead ? "the dead-letter place " : "", address, error);
	return false;
}

/* Where messages go, if that is always the same, and where dead ones do. */
static bool
check_places(void)
{
	const Template *address = &bridge.options.address;
	bool		good = true;

	if (bridge.options.dead_letter != NULL)
		good = check_place(bridge.options.dead_letter, true);
	if (good && address->count == 1 && address->parts[0].name == TEMPLATE_NAMES)
		good = check_place(address->parts[0].text, false);
	return good;
}

/* Is the broker's side good? */
static bool
check_broker(void)
{
	const SinkKind *sink = bridge.options.sink;
	char		error[SINK_ERROR_SIZE] = "";
	bool		good = sink->connect(error);

	if (!good)
		log_line(LOG_LEVEL_ERROR, "no connection to the broker: %s", error);
	else
		good = check_places();
	sink->disconnect();
	return good;
}

/* Look at both sides; the program's exit status. */
int
check_run(void)
{
	bool		server = check_server();
	bool		broker = check_broker();

	if (!server || !broker)
		return 1;
	printf("pgpubsub-bridge: all is well\n");
	return 0;
}

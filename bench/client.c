/*-------------------------------------------------------------------------
 *
 * client.c
 *	  What the benchmark's client programs share.
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Columns of the prepared poll(). */
#define COLUMN_CHANNEL	1
#define COLUMN_LOST		4

/*
 * End the program with a message.
 */
void
client_die(const char *format, ...)
{
	va_list		args;

	fputs("error: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

/*
 * The positive number that an argument has.
 */
long
client_number(const char *text, const char *what)
{
	char	   *end;
	long		number;

	errno = 0;
	number = strtol(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || number < 1)
		client_die("%s must be a positive number: %s", what, text);
	return number;
}

/*
 * A clock that only goes forward, in nanoseconds.
 */
int64_t
client_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

/* CPU time that a process has used, in nanoseconds; 0 is this process. */
int64_t
client_cpu_ns(pid_t pid)
{
	clockid_t	clock;
	struct timespec used;

	if (clock_getcpuclockid(pid, &clock) != 0 ||
		clock_gettime(clock, &used) != 0)
		client_die("no CPU time of process %d", (int) pid);
	return (int64_t) used.tv_sec * 1000000000 + used.tv_nsec;
}

/*
 * Connect, under that application_name.
 */
PGconn *
client_connect(const char *application)
{
	static const char *const keywords[] = {"application_name", NULL};
	const char *const values[] = {application, NULL};
	PGconn	   *conn = PQconnectdbParams(keywords, values, 0);

	if (PQstatus(conn) != CONNECTION_OK)
		client_die("%s", PQerrorMessage(conn));
	return conn;
}

/* Die unless the result is that of a command that went well. */
static void
check_result(PGconn *conn, const PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		client_die("%s", PQerrorMessage(conn));
}

/*
 * Run a query and wait for its result.
 */
PGresult *
client_query(PGconn *conn, const char *sql, int nparams,
			 const char *const *params)
{
	PGresult   *result = PQexecParams(conn, sql, nparams, NULL, params, NULL,
									  NULL, 0);

	check_result(conn, result);
	return result;
}

/*
 * Run a command for its effect.
 */
void
client_execute(PGconn *conn, const char *sql)
{
	PQclear(client_query(conn, sql, 0, NULL));
}

/*
 * LISTEN to a channel.
 */
void
client_listen(PGconn *conn, const char *channel)
{
	char	   *name = PQescapeIdentifier(conn, channel, strlen(channel));
	char		sql[256];

	if (name == NULL)
		client_die("%s", PQerrorMessage(conn));
	snprintf(sql, sizeof(sql), "LISTEN %s", name);
	PQfreemem(name);
	client_execute(conn, sql);
}

/*
 * Prepare a statement.
 */
static void
prepare(PGconn *conn, const char *statement, const char *sql)
{
	PGresult   *result = PQprepare(conn, statement, sql, 0, NULL);

	check_result(conn, result);
	PQclear(result);
}

/*
 * Prepare poll(), that consumes or only looks.
 */
void
client_prepare_poll(PGconn *conn, bool consume)
{
	prepare(conn, POLL_STATEMENT,
			consume ?
			"SELECT seq, channel, payload, pid, lost"
			" FROM pgpubsub.poll($1, $2, $3)" :
			"SELECT seq, channel, payload, pid, lost"
			" FROM pgpubsub.poll($1, $2, $3, false)");
}

/*
 * Create a subscription to a channel or a pattern.
 */
void
client_subscribe(PGconn *conn, const char *subscription, const char *channel,
				 const char *start_at, bool lasting)
{
	const char *const params[] = {subscription, channel, start_at,
	lasting ? "false" : "true"};

	PQclear(client_query(conn,
						 "SELECT pgpubsub.subscribe($1, ARRAY[$2::text],"
						 " start_at => $3, temporary => $4)",
						 4, params));
}

/*
 * Is that a kind of queue that cannot wait, so that it must be asked again and
 * again?
 */
bool
client_takes(const char *kind)
{
	return strcmp(kind, "outbox") == 0 || strcmp(kind, "pgq") == 0;
}

/*
 * Prepare taking events out of an outbox, or the next batch out of a queue of
 * PgQ, which is as large as its ticker has made it.  Its columns are those of
 * poll().
 */
void
client_prepare_take(PGconn *conn, const char *kind, const char *queue)
{
	const char *const params[] = {queue};
	char	   *name;
	char		sql[256];

	if (strcmp(kind, "outbox") == 0)
	{
		prepare(conn, TAKE_STATEMENT,
				"DELETE FROM outbox.outbox WHERE id IN"
				" (SELECT id FROM outbox.outbox ORDER BY id LIMIT $1"
				" FOR UPDATE SKIP LOCKED)"
				" RETURNING id, channel, payload, pid, NULL");
		return;
	}
	PQclear(client_query(conn, "SELECT pgq.register_consumer($1, 'bench')",
						 1, params));
	name = PQescapeLiteral(conn, queue, strlen(queue));
	if (name == NULL)
		client_die("%s", PQerrorMessage(conn));
	snprintf(sql, sizeof(sql),
			 "SELECT id, channel, payload, pid, NULL"
			 " FROM public.take_batch(%s, 'bench') WHERE $1::int > 0", name);
	PQfreemem(name);
	prepare(conn, TAKE_STATEMENT, sql);
}

/*
 * Send the statement that takes, without waiting for its result.
 */
void
client_send_take(PGconn *conn, const char *max_messages)
{
	const char *const params[] = {max_messages};

	if (!PQsendQueryPrepared(conn, TAKE_STATEMENT, 1, params, NULL, NULL, 0))
		client_die("%s", PQerrorMessage(conn));
}

/*
 * Send a poll, without waiting for its result.
 */
void
client_send_poll(PGconn *conn, const char *subscription,
				 const char *max_messages, const char *timeout)
{
	const char *const params[] = {subscription, max_messages, timeout};

	if (!PQsendQueryPrepared(conn, POLL_STATEMENT, 3, params, NULL, NULL, 0))
		client_die("%s", PQerrorMessage(conn));
}

/*
 * Take the poll's result if all of it has come; false if it has not.
 */
bool
client_poll_result(PGconn *conn, PGresult **result)
{
	PGresult   *next;

	if (PQisBusy(conn))
		return false;
	*result = PQgetResult(conn);
	check_result(conn, *result);
	while ((next = PQgetResult(conn)) != NULL)
		PQclear(next);
	return true;
}

/*
 * How many events a poll returned; *lost grows by what its gap row says, by
 * one if that does not know.
 */
int
client_count_rows(const PGresult *result, long *lost)
{
	int			rows = PQntuples(result);

	if (rows > 0 && PQgetisnull(result, 0, COLUMN_CHANNEL))
	{
		long		gap = atol(PQgetvalue(result, 0, COLUMN_LOST));

		*lost += gap > 0 ? gap : 1;
		return rows - 1;
	}
	return rows;
}

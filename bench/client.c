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
 * Create a temporary subscription to a channel or a pattern, and prepare
 * poll().
 */
void
client_subscribe(PGconn *conn, const char *subscription, const char *channel,
				 const char *start_at)
{
	const char *const params[] = {subscription, channel, start_at};
	PGresult   *result;

	PQclear(client_query(conn,
						 "SELECT pgpubsub.subscribe($1, ARRAY[$2::text],"
						 " start_at => $3, temporary => true)",
						 3, params));
	result = PQprepare(conn, POLL_STATEMENT,
					   "SELECT seq, channel, payload, pid, lost"
					   " FROM pgpubsub.poll($1, $2, $3)", 0, NULL);
	check_result(conn, result);
	PQclear(result);
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

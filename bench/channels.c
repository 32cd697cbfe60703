/*-------------------------------------------------------------------------
 *
 * channels.c
 *	  What it costs to add channels to a subscription, and whom it stalls.
 *
 *		channels COUNT
 *
 * The subscription "many" has one channel, and a session that waits for its
 * events.  Then COUNT channels are added to it, one by one, each in a transaction
 * of its own, and dropped again.  All the while another session reads another
 * subscription, to which an event is published every 2 ms; the time runs from
 * when that is sent to when the reader's client has it.  The same is measured
 * for two seconds before, when nothing else happens.  Prints:
 *
 *		quiet: events=N p50=N p99=N max=N
 *		add: count=N seconds=N.NNN events=N p50=N p99=N max=N
 *		drop: count=N seconds=N.NNN events=N p50=N p99=N max=N
 *
 * with the times of the events in microseconds.  The server's settings must
 * leave room: pgpubsub.max_channels above COUNT, pgpubsub.max_subscriptions
 * above COUNT / 8.
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAUSE_US		2000
#define QUIET_NS		INT64_C(2000000000)
#define PATIENCE_MS		10000
#define MOST_EVENTS		1000000

static PGconn *reader;
static PGconn *writer;
static int64_t *times;			/* of the events of a phase, in ns */
static int	num_times;

/* Order of numbers. */
static int
compare(const void *a, const void *b)
{
	int64_t		left = *(const int64_t *) a;
	int64_t		right = *(const int64_t *) b;

	return left < right ? -1 : left > right;
}

/* The event that is that part of the way from the fastest to the slowest. */
static long
percentile(double part)
{
	int			index = (int) (num_times * part);

	return (long) (times[index < num_times ? index : num_times - 1] / 1000);
}

/* Wait until the reader has the event that was published. */
static void
receive(void)
{
	for (;;)
	{
		struct pollfd wanted = {.fd = PQsocket(reader),.events = POLLIN};
		PGresult   *result = NULL;

		while (!client_poll_result(reader, &result))
		{
			if (poll(&wanted, 1, PATIENCE_MS) <= 0 ||
				!PQconsumeInput(reader))
				client_die("no event within %d ms", PATIENCE_MS);
		}
		if (result != NULL)
		{
			long		lost = 0;
			int			rows = client_count_rows(result, &lost);

			PQclear(result);
			client_send_poll(reader, "probe", "100", "1 min");
			if (rows > 0)
				return;
		}
	}
}

/* Publish an event, and measure how long it takes to the reader. */
static void
measure_event(void)
{
	int64_t		begin = client_now_ns();

	client_execute(writer, "NOTIFY probe");
	receive();
	if (num_times < MOST_EVENTS)
		times[num_times++] = client_now_ns() - begin;
	usleep(PAUSE_US);
}

/* Print what was measured since the last call. */
static void
report(const char *phase, long count, int64_t began)
{
	qsort(times, num_times, sizeof(int64_t), compare);
	printf("%s:", phase);
	if (count > 0)
		printf(" count=%ld seconds=%.3f", count,
			   (double) (client_now_ns() - began) / 1e9);
	printf(" events=%d p50=%ld p99=%ld max=%ld\n", num_times, percentile(0.5),
		   percentile(0.99), percentile(1));
	fflush(stdout);
	num_times = 0;
}

/* In a process of its own: call the function for each of the channels. */
static pid_t
begin_calls(const char *function, long count)
{
	pid_t		pid = fork();
	char		sql[200];
	PGconn	   *conn;

	if (pid != 0)
		return pid;
	conn = client_connect("changer");
	snprintf(sql, sizeof(sql), "PREPARE change AS SELECT pgpubsub.%s('many', ARRAY[$1])",
			 function);
	client_execute(conn, sql);
	for (long i = 0; i < count; i++)
	{
		snprintf(sql, sizeof(sql), "EXECUTE change('channel_%ld')", i);
		client_execute(conn, sql);
	}
	PQfinish(conn);
	_exit(0);
}

/* Add the channels, or drop them, and measure events all the while. */
static void
measure_calls(const char *phase, const char *function, long count)
{
	int64_t		began = client_now_ns();
	pid_t		pid = begin_calls(function, count);
	int			status;

	if (pid < 0)
		client_die("cannot fork");
	while (waitpid(pid, &status, WNOHANG) == 0)
		measure_event();
	if (status != 0)
		client_die("%s() failed", function);
	report(phase, count, began);
}

/* In a process of its own: wait for the events of the subscription, for ever. */
static pid_t
begin_waiting(void)
{
	pid_t		pid = fork();
	PGconn	   *conn;

	if (pid != 0)
		return pid;
	conn = client_connect("waiting");
	for (;;)
		client_execute(conn, "SELECT count(*) FROM pgpubsub.poll('many', 100, '1 min')");
}

int
main(int argc, char **argv)
{
	long		count;
	int64_t		began;
	pid_t		waiting;

	if (argc != 2)
		client_die("usage: channels COUNT");
	count = client_number(argv[1], "COUNT");
	times = malloc(MOST_EVENTS * sizeof(int64_t));
	if (times == NULL)
		client_die("out of memory");
	writer = client_connect("writer");
	client_execute(writer, "SELECT pgpubsub.subscribe('many', '{first}', 'drop')");
	waiting = begin_waiting();
	reader = client_connect("reader");
	client_subscribe(reader, "probe", "probe", "now", false);
	client_prepare_poll(reader, true);
	client_send_poll(reader, "probe", "100", "1 min");

	began = client_now_ns();
	while (client_now_ns() - began < QUIET_NS)
		measure_event();
	report("quiet", 0, began);
	measure_calls("add", "add_channels", count);
	measure_calls("drop", "drop_channels", count);
	kill(waiting, SIGTERM);
	client_execute(writer, "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
				   " WHERE application_name = 'waiting'");
	client_execute(writer, "SELECT pgpubsub.unsubscribe('many')");
	return 0;
}

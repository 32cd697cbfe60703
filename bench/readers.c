/*-------------------------------------------------------------------------
 *
 * readers.c
 *	  Many readers in one process, while a command runs.
 *
 *		readers KIND COUNT CHANNEL COMMAND [ARGUMENT...]
 *
 * Opens COUNT connections, always waiting for more, of one of these kinds:
 * they "listen"; they "poll" a temporary subscription each; they poll one that
 * is "lasting"; they take from an "outbox", or from the queue of "pgq" that is
 * named as the channel, and look again every 10 ms when that is empty.  A # in
 * CHANNEL stands for the reader's number.  Then runs COMMAND, counts what the
 * readers receive until it has ended and no more comes, and prints one line
 * after its output:
 *
 *		readers: deliveries=N lost=N seconds=S behind=S backends_us=N client_us=N command_us=N
 *
 * where seconds runs to the command's end, and behind from there to the last
 * event; then the CPU time that the readers' backends, this process, and the
 * command used from the command's start on.  The environment may set
 * BENCH_EXPECTED: then it waits patiently until so many events have come.
 *
 * One epoll loop serves all connections.  The command holds the write end of
 * a pipe: when it ends, the pipe does.  At last the readers' backends are
 * terminated, for one that waits in poll() does not notice that its client
 * has gone.
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define APPLICATION		"bench readers"
#define MAX_MESSAGES	"1000"
#define POLL_TIMEOUT	"30 s"
#define MAX_READY		64

/* With the command ended, no event for so long means that all have come. */
#define SILENCE_MS		300

/* The same where a ticker has to make batches. */
#define TICKER_SILENCE_MS	1500

/* The same while fewer than expected have come: less than POLL_TIMEOUT. */
#define PATIENCE_MS		20000

typedef struct Reader
{
	PGconn	   *conn;
	char		subscription[64];
	int64_t		again_at;		/* it found nothing and looks again then, or 0 */
} Reader;

static const char *kind;
static bool polling;			/* a subscription, of whichever kind */
static bool lasting;
static bool taking;				/* from an outbox, or PgQ */
static Reader *readers;
static int	num_readers;
static long deliveries;
static long lost;
static long expected;
static int64_t last_delivery;

/* The channel of reader i: # in the template stands for i. */
static void
channel_name(const char *template, int i, char *name, size_t size)
{
	const char *mark = strchr(template, '#');

	if (mark == NULL)
		snprintf(name, size, "%s", template);
	else
		snprintf(name, size, "%.*s%d%s", (int) (mark - template), template, i,
				 mark + 1);
}

/* Send the reader's next query. */
static void
send_query(Reader *reader)
{
	reader->again_at = 0;
	if (taking)
		client_send_take(reader->conn, MAX_MESSAGES);
	else
		client_send_poll(reader->conn, reader->subscription, MAX_MESSAGES,
						 POLL_TIMEOUT);
}

/* Connect reader i and have it wait for events. */
static void
start_reader(Reader *reader, int i, const char *template, int epoll)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = reader};
	char		channel[64];

	channel_name(template, i, channel, sizeof(channel));
	reader->conn = client_connect(APPLICATION);
	if (polling)
	{
		snprintf(reader->subscription, sizeof(reader->subscription),
				 "reader_%d_%d", (int) getpid(), i);
		client_subscribe(reader->conn, reader->subscription, channel, "now",
						 lasting);
		client_prepare_poll(reader->conn, true);
		send_query(reader);
	}
	else if (taking)
	{
		client_prepare_take(reader->conn, kind, channel);
		send_query(reader);
	}
	else
		client_listen(reader->conn, channel);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, PQsocket(reader->conn), &event) != 0)
		client_die("epoll_ctl: %s", strerror(errno));
}

/* Count what has come for the reader. */
static void
serve_reader(Reader *reader)
{
	PGnotify   *notify;
	PGresult   *result;
	long		before = deliveries;

	if (!PQconsumeInput(reader->conn))
		client_die("%s", PQerrorMessage(reader->conn));
	if (!polling && !taking)
	{
		while ((notify = PQnotifies(reader->conn)) != NULL)
		{
			deliveries++;
			PQfreemem(notify);
		}
	}
	else if (client_poll_result(reader->conn, &result))
	{
		deliveries += client_count_rows(result, &lost);
		PQclear(result);
		if (taking && deliveries == before)
			reader->again_at = client_now_ns() + TAKE_AGAIN_MS * INT64_C(1000000);
		else
			send_query(reader);
	}
	if (deliveries > before)
		last_delivery = client_now_ns();
}

/* Start the command; *done becomes readable when it has ended. */
static pid_t
start_command(char **argv, int *done)
{
	int			ends[2];
	pid_t		pid;

	if (pipe(ends) != 0)
		client_die("pipe: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		client_die("fork: %s", strerror(errno));
	if (pid == 0)
	{
		close(ends[0]);
		execvp(argv[0], argv);
		client_die("%s: %s", argv[0], strerror(errno));
	}
	close(ends[1]);
	*done = ends[0];
	return pid;
}

/*
 * Have those look again whose time has come.  Returns how many milliseconds it
 * is until the next one's, or -1.
 */
static int
look_again(void)
{
	int64_t		now = client_now_ns();
	int64_t		next = 0;

	if (!taking)
		return -1;
	for (int i = 0; i < num_readers; i++)
	{
		if (readers[i].again_at == 0)
			continue;
		if (readers[i].again_at <= now)
			send_query(&readers[i]);
		else if (next == 0 || readers[i].again_at < next)
			next = readers[i].again_at;
	}
	return next == 0 ? -1 : (int) ((next - now) / 1000000) + 1;
}

/*
 * With the command ended at that time: how many milliseconds it is until
 * nothing has come for so long that all has come.
 */
static int64_t
silence_left(int64_t ended)
{
	int64_t		since = last_delivery > ended ? last_delivery : ended;
	int64_t		silence = strcmp(kind, "pgq") == 0 ? TICKER_SILENCE_MS : SILENCE_MS;

	if (deliveries + lost < expected)
		silence = PATIENCE_MS;
	return silence - (client_now_ns() - since) / 1000000;
}

/*
 * Serve the readers until the command has ended and nothing more comes.
 * Returns when it ended.
 */
static int64_t
serve(int epoll, int done)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	struct epoll_event ready[MAX_READY];
	int64_t		ended = 0;

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, done, &event) != 0)
		client_die("epoll_ctl: %s", strerror(errno));
	for (;;)
	{
		int			wait = look_again();
		int			count;

		if (ended != 0)
		{
			int64_t		left = silence_left(ended);

			if (left <= 0)
				return ended;
			if (wait < 0 || left < wait)
				wait = (int) left;
		}
		count = epoll_wait(epoll, ready, MAX_READY, wait);
		for (int i = 0; i < count; i++)
		{
			if (ready[i].data.ptr != NULL)
			{
				serve_reader(ready[i].data.ptr);
				continue;
			}
			ended = client_now_ns();
			(void) epoll_ctl(epoll, EPOLL_CTL_DEL, done, NULL);
		}
	}
}

/* CPU time that the readers' backends have used, in nanoseconds. */
static int64_t
backends_cpu_ns(void)
{
	int64_t		sum = 0;

	for (int i = 0; i < num_readers; i++)
		sum += client_cpu_ns(PQbackendPID(readers[i].conn));
	return sum;
}

/* CPU time that the command used, in microseconds. */
static double
command_cpu_us(void)
{
	struct rusage used;

	if (getrusage(RUSAGE_CHILDREN, &used) != 0)
		client_die("getrusage: %s", strerror(errno));
	return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
		used.ru_utime.tv_usec + used.ru_stime.tv_usec;
}

/*
 * End the readers' backends, and wait until they are gone; then their lasting
 * subscriptions can go.
 */
static void
stop_readers(PGconn *control)
{
	bool		gone = false;

	for (int i = 0; i < num_readers; i++)
		PQfinish(readers[i].conn);
	while (!gone)
	{
		PGresult   *result;

		result = client_query(control,
							  "SELECT pg_terminate_backend(pid)"
							  " FROM pg_stat_activity"
							  " WHERE application_name = '" APPLICATION "'",
							  0, NULL);
		gone = PQntuples(result) == 0;
		PQclear(result);
		if (!gone)
			usleep(10000);
	}
	for (int i = 0; lasting && i < num_readers; i++)
	{
		const char *const params[] = {readers[i].subscription};

		PQclear(client_query(control, "SELECT pgpubsub.unsubscribe($1)",
							 1, params));
	}
}

int
main(int argc, char **argv)
{
	int			epoll = epoll_create1(EPOLL_CLOEXEC);
	PGconn	   *control;
	int			done;
	int			status;
	pid_t		command;
	int64_t		started;
	int64_t		ended;
	int64_t		backends;
	int64_t		client;

	if (argc < 5)
		client_die("usage: readers listen|poll|lasting|outbox|pgq COUNT CHANNEL COMMAND...");
	kind = argv[1];
	lasting = strcmp(kind, "lasting") == 0;
	polling = lasting || strcmp(kind, "poll") == 0;
	taking = client_takes(kind);
	if (!polling && !taking && strcmp(kind, "listen") != 0)
		client_die("unknown kind of reader: %s", kind);
	if (getenv("BENCH_EXPECTED") != NULL)
		expected = client_number(getenv("BENCH_EXPECTED"), "BENCH_EXPECTED");
	num_readers = (int) client_number(argv[2], "COUNT");
	readers = calloc(num_readers, sizeof(Reader));
	if (epoll < 0 || readers == NULL)
		client_die("out of memory");

	control = client_connect("bench control");
	client_execute(control, "SET client_min_messages = error");
	for (int i = 0; i < num_readers; i++)
		start_reader(&readers[i], i, argv[3], epoll);

	backends = backends_cpu_ns();
	client = client_cpu_ns(0);
	started = client_now_ns();
	command = start_command(argv + 4, &done);
	ended = serve(epoll, done);
	client = client_cpu_ns(0) - client;
	backends = backends_cpu_ns() - backends;
	if (waitpid(command, &status, 0) != command)
		client_die("waitpid: %s", strerror(errno));
	printf("readers: deliveries=%ld lost=%ld seconds=%.3f behind=%.3f"
		   " backends_us=%.0f client_us=%.0f command_us=%.0f\n",
		   deliveries, lost, (ended - started) / 1e9,
		   last_delivery > ended ? (last_delivery - ended) / 1e9 : 0.0,
		   backends / 1e3, client / 1e3, command_cpu_us());
	stop_readers(control);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/*-------------------------------------------------------------------------
 *
 * logins.c
 *	  Logins, right and wrong ones, however fast they are answered.
 *
 *		logins storm RATE SECONDS USER PASSWORD
 *		logins hold COUNT CHANNEL COMMAND
 *
 * The first offers RATE logins a second, every other with a wrong password; who
 * is let in leaves at once.  It waits until all are answered, and prints:
 *
 *		logins: offered=N in=N refused=N other=N wrong=N seconds=S p50=N max=N open=N
 *
 * where refused are those with a wrong password that were told so, other those
 * that failed for any other reason, wrong those that had the wrong answer, and
 * open how many were under way at most.  Times are in milliseconds, of those
 * that were let in.
 *
 * The second runs a command of the shell while COUNT connections listen.
 *
 * Both connect as the environment says.
 *
 *-------------------------------------------------------------------------
 */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define MAX_READY		128

/* What the server says to a wrong password has no SQLSTATE in libpq. */
#define WRONG_PASSWORD	"password authentication failed"

/* How long the answers may take. */
#define PATIENCE_NS		INT64_C(120000000000)

typedef struct Login
{
	PGconn	   *conn;
	bool		right;			/* the password is */
	int64_t		began;
} Login;

static int	epoll;
static Login *logins;
static double *times;			/* of those that were let in, in ms */
static long offered;
static long answered;
static long let_in;
static long refused;
static long other;
static long wrong;
static long most_open;

static int
compare_times(const void *a, const void *b)
{
	double		left = *(const double *) a;
	double		right = *(const double *) b;

	return (left > right) - (left < right);
}

/* Have epoll look at what the connection waits for. */
static void
watch(Login *login, PostgresPollingStatusType wants)
{
	struct epoll_event event = {.data.ptr = login,
	.events = wants == PGRES_POLLING_READING ? EPOLLIN : EPOLLOUT};
	int			fd = PQsocket(login->conn);

	/* a socket that was closed, of that or another number, is unknown again */
	if (epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) != 0 &&
		(errno != ENOENT || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0))
		client_die("epoll_ctl: %s", strerror(errno));
}

/* The login was answered. */
static void
end_login(Login *login, bool in)
{
	const char *error = PQerrorMessage(login->conn);

	answered++;
	if (in)
	{
		times[let_in++] = (double) (client_now_ns() - login->began) / 1e6;
		if (!login->right)
			wrong++;
	}
	else if (strstr(error, WRONG_PASSWORD) != NULL)
	{
		refused++;
		if (login->right)
			wrong++;
	}
	else if (other++ == 0)
		fprintf(stderr, "logins: %s", error);
	PQfinish(login->conn);
	login->conn = NULL;
}

/* Go on with a login. */
static void
serve_login(Login *login)
{
	PostgresPollingStatusType wants;

	if (login->conn == NULL)
		return;
	wants = PQconnectPoll(login->conn);
	if (wants == PGRES_POLLING_OK || wants == PGRES_POLLING_FAILED)
		end_login(login, wants == PGRES_POLLING_OK);
	else
		watch(login, wants);
}

/* Begin a login. */
static void
begin_login(const char *user, const char *password)
{
	Login	   *login = &logins[offered];
	char		other_password[100];
	const char *const keywords[] = {"user", "password", "sslmode", "gssencmode",
	"application_name", NULL};
	const char *const values[] = {user,
		offered % 2 == 0 ? password : other_password,
	"disable", "disable", "bench logins", NULL};

	snprintf(other_password, sizeof(other_password), "not %s", password);
	login->right = offered % 2 == 0;
	login->began = client_now_ns();
	login->conn = PQconnectStartParams(keywords, values, 0);
	offered++;
	if (offered - answered > most_open)
		most_open = offered - answered;
	if (login->conn == NULL)
		client_die("out of memory");
	if (PQstatus(login->conn) == CONNECTION_BAD)
		end_login(login, false);
	else
		watch(login, PGRES_POLLING_WRITING);
}

/* Serve logins for so many milliseconds. */
static void
serve(int milliseconds)
{
	struct epoll_event ready[MAX_READY];
	int			count = epoll_wait(epoll, ready, MAX_READY, milliseconds);

	for (int i = 0; i < count; i++)
		serve_login(ready[i].data.ptr);
}

/* Offer logins, and say how they went. */
static void
storm(long rate, long seconds, const char *user, const char *password)
{
	long		count = rate * seconds;
	int64_t		started = client_now_ns();

	logins = calloc(count, sizeof(Login));
	times = calloc(count, sizeof(double));
	if (logins == NULL || times == NULL)
		client_die("out of memory");
	while (answered < count)
	{
		int64_t		now = client_now_ns();

		while (offered < count &&
			   started + offered * INT64_C(1000000000) / rate <= now)
			begin_login(user, password);
		serve(offered < count ? 1 : 100);
		if (now - started > seconds * INT64_C(1000000000) + PATIENCE_NS)
			client_die("%ld logins were not answered", offered - answered);
	}
	qsort(times, let_in, sizeof(double), compare_times);
	printf("logins: offered=%ld in=%ld refused=%ld other=%ld wrong=%ld"
		   " seconds=%.3f p50=%.1f max=%.1f open=%ld\n",
		   offered, let_in, refused, other, wrong,
		   (double) (client_now_ns() - started) / 1e9,
		   let_in > 0 ? times[let_in / 2] : 0,
		   let_in > 0 ? times[let_in - 1] : 0, most_open);
}

/* Run a command while so many listen. */
static int
hold(long count, const char *channel, const char *command)
{
	PGconn	  **conns = calloc(count, sizeof(PGconn *));
	int			status;

	if (conns == NULL)
		client_die("out of memory");
	for (long i = 0; i < count; i++)
	{
		char		listen[200];

		conns[i] = client_connect("bench holder");
		snprintf(listen, sizeof(listen), "LISTEN %s", channel);
		PQclear(PQexec(conns[i], listen));
	}
	status = system(command);
	for (long i = 0; i < count; i++)
		PQfinish(conns[i]);
	free(conns);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int
main(int argc, char **argv)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) != 0)
		client_die("getrlimit: %s", strerror(errno));
	files.rlim_cur = files.rlim_max;
	(void) setrlimit(RLIMIT_NOFILE, &files);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
		client_die("epoll_create1: %s", strerror(errno));
	if (argc == 6 && strcmp(argv[1], "storm") == 0)
		storm(client_number(argv[2], "RATE"), client_number(argv[3], "SECONDS"),
			  argv[4], argv[5]);
	else if (argc == 5 && strcmp(argv[1], "hold") == 0)
		return hold(client_number(argv[2], "COUNT"), argv[3], argv[4]);
	else
		client_die("usage: logins storm RATE SECONDS USER PASSWORD, or logins hold COUNT CHANNEL COMMAND");
	return 0;
}

/*-------------------------------------------------------------------------
 *
 * main.c
 *	  pgpubsub-gateway: options, the loop, signals.
 *
 * The program binds its sockets, connects to the server, and accepts clients
 * once its subscription stands; then it says that it is ready, on standard
 * output and to systemd.  From then on nothing that the server does ends it.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/hash.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/options.h"
#include "gateway/channels.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/listener.h"
#include "gateway/login.h"
#include "gateway/marks.h"
#include "gateway/upstream.h"

/* Sockets and files beside the clients'. */
#define OTHER_FILES 200

/* Between two looks at what is left while the program drains, in ms. */
#define DRAIN_TICK 50

Gateway		gateway;

static char *config_file;
static char *log_level;
static bool help;
static uv_signal_t signals[2];
static uv_timer_t drain_timer;
static uint64_t drain_deadline;

#define OPTION(name, kind, target, value_name, help) \
	{name, kind, target, 0, 0, value_name, help, false}

static const Option named_options[] = {
	OPTION("dbname", OPTION_TEXT, &gateway.options.dbname, "CONNINFO",
		   "the server and the database, in libpq's syntax"),
	OPTION("listen", OPTION_TEXT, &gateway.options.listen, "ADDRESS:PORT",
		   "accept clients there"),
	OPTION("socket-dir", OPTION_TEXT, &gateway.options.socket_dir, "DIR",
		   "accept clients at a Unix socket there"),
	{"port", OPTION_NUMBER, &gateway.options.port, 1, 65535, "N",
	"the number in that socket's name", false},
	OPTION("name", OPTION_TEXT, &gateway.options.name, "NAME",
		   "of this gateway and its subscription (gateway-HOST-PORT)"),
	OPTION("allow-unproven-login", OPTION_FLAG, &gateway.options.allow_unproven_login, NULL,
		   "let in whom the server lets in without a password"),
	OPTION("log-level", OPTION_TEXT, &log_level, "LEVEL",
		   "debug, info, warning or error (info)"),
	OPTION("config", OPTION_TEXT, &config_file, "FILE",
		   "read options from this file, as name = value"),
	OPTION("help", OPTION_FLAG, &help, NULL, "print this"),
};

#define NAMED_OPTIONS ((int) (sizeof(named_options) / sizeof(named_options[0])))

/* All options, those of the limits among them; to be freed. */
static Option *
all_options(int *count)
{
	Option	   *options;

	*count = NAMED_OPTIONS + limit_count;
	options = memory_get_zeroed(*count * sizeof(Option));
	memcpy(options, named_options, sizeof(named_options));
	for (int i = 0; i < limit_count; i++)
	{
		Option	   *option = &options[NAMED_OPTIONS + i];

		option->name = limit_table[i].option;
		option->kind = OPTION_NUMBER;
		option->target = limit_table[i].value;
		option->least = limit_table[i].least;
		option->most = limit_table[i].most;
		option->value_name = "N";
		option->help = limit_table[i].help;
	}
	return options;
}

static void
print_help(const Option *options, int count)
{
	printf("pgpubsub-gateway: LISTEN and NOTIFY for many clients over two connections\n\n"
		   "Usage: pgpubsub-gateway --dbname CONNINFO (--listen ADDRESS:PORT | --socket-dir DIR --port N) [OPTION...]\n\n");
	options_print(options, NAMED_OPTIONS);
	printf("\nLimits:\n");
	options_print(options + NAMED_OPTIONS, count - NAMED_OPTIONS);
	printf("\nA password belongs into a service or password file, not into CONNINFO.\n");
}

/* A name that is the same whenever this gateway is started. */
static void
make_name(void)
{
	char		host[40] = "";
	char		name[64];
	const char *port = gateway.options.listen == NULL ? NULL :
		strrchr(gateway.options.listen, ':');

	gethostname(host, sizeof(host) - 1);
	if (port != NULL)
		snprintf(name, sizeof(name), "gateway-%s-%s", host, port + 1);
	else
		snprintf(name, sizeof(name), "gateway-%s-%d", host, (int) gateway.options.port);
	gateway.options.name = memory_copy_string(name);
}

/* Set the level of the log. */
static void
set_log_level(void)
{
	static const char *const levels[] = {"debug", "info", "warning", "error"};

	if (log_level == NULL)
		return;
	for (int i = 0; i < 4; i++)
	{
		if (strcmp(log_level, levels[i]) == 0)
		{
			log_threshold = (LogLevel) i;
			return;
		}
	}
	log_fatal("log-level is debug, info, warning or error, not \"%s\"", log_level);
}

/* Read the options; the program ends if they are not as they must be. */
static void
read_options(int argc, char **argv)
{
	char		error[1024];
	int			count;
	Option	   *options = all_options(&count);

	if (!options_read_arguments(options, count, argc, argv, error, sizeof(error)))
		log_fatal("%s; see --help", error);
	if (help)
	{
		print_help(options, count);
		exit(0);
	}
	if (config_file != NULL &&
		!options_read_file(options, count, config_file, error, sizeof(error)))
		log_fatal("%s", error);
	free(options);
	set_log_level();
	if (gateway.options.dbname == NULL)
		log_fatal("no server was named: --dbname is needed; see --help");
	if (gateway.options.listen == NULL && gateway.options.socket_dir == NULL)
		log_fatal("nowhere to listen: --listen or --socket-dir is needed; see --help");
	if (gateway.options.socket_dir != NULL && gateway.options.port == 0)
		log_fatal("--socket-dir needs --port");
	if (gateway.options.name == NULL)
		make_name();
	if (strlen(gateway.options.name) < 1 || strlen(gateway.options.name) > 63)
		log_fatal("option name takes 1 to 63 bytes");
	if (strcmp(gateway.options.name, "pgpubsub") == 0 ||
		strchr(gateway.options.name, '*') != NULL)
		log_fatal("the name \"%s\" is reserved", gateway.options.name);
}

/* Have as many files as may be; say so if those are too few. */
static void
raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void) setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < (rlim_t) limits.max_clients + OTHER_FILES)
	{
		limits.max_clients = (int64_t) limit.rlim_cur - OTHER_FILES;
		if (limits.max_clients < 1)
			log_fatal("the limit of open files, %llu, is too low",
					  (unsigned long long) limit.rlim_cur);
		log_line(LOG_LEVEL_WARNING,
				 "max-clients is %lld only, as at most %llu files may be open",
				 (long long) limits.max_clients, (unsigned long long) limit.rlim_cur);
	}
}

/* Tell systemd, if it has started the program. */
static void
tell_systemd(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t	size;
	int			fd;

	if (path == NULL || strlen(path) >= sizeof(address.sun_path))
		return;
	strcpy(address.sun_path, path);
	size = offsetof(struct sockaddr_un, sun_path) + strlen(path);
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void) sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *) &address, size);
	close(fd);
}

/* The subscription stands: accept clients, if that is the first time. */
void
gateway_server_ready(void)
{
	static bool ready;
	char		where[512];

	if (ready || gateway.draining)
		return;
	ready = true;
	listeners_start();
	listeners_describe(where, sizeof(where));
	printf("pgpubsub-gateway is ready: %s\n", where);
	fflush(stdout);
	tell_systemd("READY=1");
}

/* The subscription is dropped and the connections are closed. */
static void
stopped(void)
{
	uv_stop(&gateway.loop);
}

/* End the clients as they become idle; then the connections, and the loop. */
static void
drain(uv_timer_t *timer)
{
	static const Report report = {
		.sqlstate = "57P01",
		.message = "terminating connection due to administrator command",
	};
	bool		late = gateway_now() >= drain_deadline;
	ListNode   *next;

	for (ListNode *node = all_clients.next; node != &all_clients; node = next)
	{
		Client	   *client = list_container(Client, link, node);

		next = node->next;
		if (late)
			client_close(client, "closed: the gateway ends");
		else if (client->state != CLIENT_WAITING)
			client_end(client, &report, "ended: the gateway ends");
	}
	if (client_count > 0)
		return;
	uv_timer_stop(timer);
	upstream_stop(stopped);
}

/* SIGTERM or SIGINT; a second one ends the program at once. */
static void
take_signal(uv_signal_t *handle, int number)
{
	(void) handle;
	if (gateway.draining)
	{
		stopped();
		return;
	}
	log_line(LOG_LEVEL_INFO, "ends by signal %d, with %d clients", number, client_count);
	gateway.draining = true;
	tell_systemd("STOPPING=1");
	listeners_close();
	drain_deadline = gateway_now() + limits.drain_timeout * 1000;
	uv_timer_start(&drain_timer, drain, 0, DRAIN_TICK);
}

int
main(int argc, char **argv)
{
	uint64_t	seed;

	log_set_program("pgpubsub-gateway");
	read_options(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		log_fatal("could not get random bytes: %s", strerror(errno));
	hash_seed(seed);
	raise_file_limit();
	if (uv_loop_init(&gateway.loop) != 0)
		log_fatal("could not make an event loop");
	uv_timer_init(&gateway.loop, &drain_timer);
	for (int i = 0; i < 2; i++)
	{
		uv_signal_init(&gateway.loop, &signals[i]);
		uv_signal_start(&signals[i], take_signal, i == 0 ? SIGTERM : SIGINT);
	}
	clients_init();
	channels_init();
	marks_init();
	login_init();
	listeners_open();
	upstream_start();
	uv_run(&gateway.loop, UV_RUN_DEFAULT);
	log_line(LOG_LEVEL_INFO, "has ended");
	return 0;
}

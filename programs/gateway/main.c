/*-------------------------------------------------------------------------
 *
 * main.c
 *	  pgpubsub-gateway: the loop, signals.
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
#include <unistd.h>

#include "common/hash.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/systemd.h"
#include "gateway/channels.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/listener.h"
#include "gateway/login.h"
#include "gateway/marks.h"
#include "gateway/upstream.h"

/* Between two looks at what is left while the program drains, in ms. */
#define DRAIN_TICK 50

Gateway		gateway;

static uv_signal_t signals[3];
static uv_timer_t drain_timer;
static uint64_t drain_deadline;

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
	systemd_tell("READY=1");
}

/* The subscription is dropped and the connections are closed. */
static void
stopped(void)
{
	uv_stop(&gateway.loop);
}

/* The program ends, and so does the client if it is idle, or if it is late. */
static void
drain_client(Client *client, const void *context)
{
	static const Report report = {
		.sqlstate = "57P01",
		.message = "terminating connection due to administrator command",
	};
	const bool *late = context;

	if (*late)
		client_close(client, "closed: the gateway ends");
	else if (client->state != CLIENT_WAITING)
		client_end(client, &report, "ended: the gateway ends");
}

/* End the clients as they become idle; then the connections, and the loop. */
static void
drain(uv_timer_t *timer)
{
	bool		late = gateway_now() >= drain_deadline;

	clients_visit(drain_client, &late);
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
	systemd_tell("STOPPING=1");
	listeners_close();
	drain_deadline = gateway_now() + limits.drain_timeout * 1000;
	uv_timer_start(&drain_timer, drain, 0, DRAIN_TICK);
}

/* SIGHUP. */
static void
take_hangup(uv_signal_t *handle, int number)
{
	(void) handle;
	(void) number;
	systemd_tell("RELOADING=1");
	config_read_again();
	systemd_tell("READY=1");
}

/* See the top of this file. */
int
main(int argc, char **argv)
{
	uint64_t	seed;

	log_set_program("pgpubsub-gateway");
	config_read(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		log_fatal("could not get random bytes: %s", strerror(errno));
	hash_seed(seed);
	if (uv_loop_init(&gateway.loop) != 0)
		log_fatal("could not make an event loop");
	uv_timer_init(&gateway.loop, &drain_timer);
	for (int i = 0; i < 3; i++)
		uv_signal_init(&gateway.loop, &signals[i]);
	uv_signal_start(&signals[0], take_signal, SIGTERM);
	uv_signal_start(&signals[1], take_signal, SIGINT);
	uv_signal_start(&signals[2], take_hangup, SIGHUP);
	clients_init();
	channels_init();
	events_init();
	page_init();
	marks_init();
	login_init();
	listeners_open();
	upstream_start();
	uv_run(&gateway.loop, UV_RUN_DEFAULT);
	log_line(LOG_LEVEL_INFO, "has ended");
	return 0;
}

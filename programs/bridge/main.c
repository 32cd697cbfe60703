/*-------------------------------------------------------------------------
 *
 * main.c
 *	  pgpubsub-bridge: threads, signals, the end.
 *
 * The main thread has the loop: the server, metrics, signals.  A second one has
 * the broker.  The program tells systemd that it is ready once the subscription can be
 * read, or another bridge reads it: a broker that is away is waited for.  On standard
 * output it says so when the broker has been connected, too.  From then on nothing
 * that either side does ends it, unless --on-unroutable is stop and a message can
 * never be delivered.
 *
 * Exit status: 0 after SIGTERM; 1 for a wrong option or a subscription that cannot
 * be read; 4 for a message that cannot be delivered.
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bridge/bridge.h"
#include "bridge/sink.h"
#include "bridge/source.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/systemd.h"

#define STATUS_UNDELIVERABLE 4

/* Between two turns of metrics and of what else goes by time, in ms. */
#define TICK_MS 1000

Bridge		bridge;

static uv_signal_t signals[2];
static uv_timer_t tick_timer;
static uv_timer_t drain_timer;
static uv_async_t failed_handle;
static uv_async_t ready_handle;
static char *failure;			/* belongs to the lock */
static pthread_mutex_t failure_lock = PTHREAD_MUTEX_INITIALIZER;
static int	status;

/* The time in ms, from some moment on; for any thread. */
uint64_t
bridge_now(void)
{
	return uv_hrtime() / 1000000;
}

/* Does everything stand for the first time?  Then say so. */
static void
look_ready(uv_async_t *handle)
{
	static bool told;
	static bool ready;

	(void) handle;
	if (ready || bridge.draining || source_state() == SOURCE_AWAY)
		return;
	if (!told)
		systemd_tell("READY=1");
	told = true;
	if (source_state() == SOURCE_UP && bridge.counters.broker_connects == 0)
		return;
	ready = true;
	printf("pgpubsub-bridge is ready: subscription \"%s\" to %s\n",
		   bridge.options.subscription, bridge.options.sink->name);
	fflush(stdout);
}

/* One side stands: perhaps both do now.  For any thread. */
void
bridge_ready(void)
{
	uv_async_send(&ready_handle);
}

/* The server's side has done what there is to do. */
void
bridge_stopped(void)
{
	uv_stop(&bridge.loop);
}

/* It takes too long. */
static void
drained_too_long(uv_timer_t *timer)
{
	OutboxState state;

	(void) timer;
	outbox_look(&state);
	log_line(LOG_LEVEL_WARNING, "the broker has not confirmed %d messages in time; they are sent again after the next start",
			 state.sent);
	uv_stop(&bridge.loop);
}

/* Send no more, and end when what was sent is confirmed and acknowledged. */
static void
drain(void)
{
	bridge.draining = true;
	systemd_tell("STOPPING=1");
	sink_drain();
	uv_timer_start(&drain_timer, drained_too_long, bridge.options.drain_timeout * 1000, 0);
	source_drain();
}

/* SIGTERM or SIGINT; a second one ends the program at once. */
static void
take_signal(uv_signal_t *handle, int number)
{
	(void) handle;
	if (bridge.draining)
		_exit(1);
	log_line(LOG_LEVEL_INFO, "ends by signal %d", number);
	drain();
}

/* A message can never be delivered: that is the end.  For any thread. */
void
bridge_fail(const char *reason)
{
	pthread_mutex_lock(&failure_lock);
	if (failure == NULL)
		failure = memory_copy_string(reason);
	pthread_mutex_unlock(&failure_lock);
	uv_async_send(&failed_handle);
}

/* Say what cannot be delivered, and drain. */
static void
take_failure(uv_async_t *handle)
{
	(void) handle;
	pthread_mutex_lock(&failure_lock);
	log_line(LOG_LEVEL_ERROR, "%s; the bridge stops: make room for it, or use --on-unroutable drop or dead-letter",
			 failure);
	pthread_mutex_unlock(&failure_lock);
	status = STATUS_UNDELIVERABLE;
	if (!bridge.draining)
		drain();
}

/* What goes by time. */
static void
tick(uv_timer_t *timer)
{
	(void) timer;
	metrics_tick();
	source_wake();
}

/* Make what the loop needs before anything else. */
static void
start_loop(void)
{
	if (uv_loop_init(&bridge.loop) != 0)
		log_fatal("could not make an event loop");
	uv_timer_init(&bridge.loop, &tick_timer);
	uv_timer_init(&bridge.loop, &drain_timer);
	uv_async_init(&bridge.loop, &failed_handle, take_failure);
	uv_async_init(&bridge.loop, &ready_handle, look_ready);
	for (int i = 0; i < 2; i++)
		uv_signal_init(&bridge.loop, &signals[i]);
	uv_signal_start(&signals[0], take_signal, SIGTERM);
	uv_signal_start(&signals[1], take_signal, SIGINT);
	uv_timer_start(&tick_timer, tick, TICK_MS, TICK_MS);
}

/* Start both sides, and run the loop until the end; the exit status. */
int
main(int argc, char **argv)
{
	sigset_t	pipes;

	log_set_program("pgpubsub-bridge");
	config_read(argc, argv);
	sigemptyset(&pipes);
	sigaddset(&pipes, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipes, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (bridge.options.check)
		return check_run();
	start_loop();
	metrics_start();
	source_start();
	sink_start();
	uv_run(&bridge.loop, UV_RUN_DEFAULT);
	sink_stop();
	log_line(LOG_LEVEL_INFO, "has ended");
	return status;
}

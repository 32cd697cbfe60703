/*-------------------------------------------------------------------------
 *
 * sink.c
 *	  See sink.h.
 *
 * 1. The thread connects, sends what the outbox has, at most --window messages
 *	  that are not confirmed, and takes what the broker says.  If the connection
 *	  is lost, all that is not confirmed is sent again, in order.
 *
 * 2. A broker that answers "not now" (a full queue) is asked again after a while;
 *	  until then nothing is sent.  What was sent behind that message may have been
 *	  taken: only a window of 1 keeps the order then.
 *
 * 3. One that answers "never" (no queue is bound, the message is too long) has
 *	  the message dropped, sent to the dead-letter place, or the program end, as
 *	  --on-unroutable says.
 *
 * 4. Some brokers close the connection because of a message, and do not say which
 *	  one, or refuse all that came in one piece with it.  Then as many messages as
 *	  were sent go one by one, until it happens with one alone.
 *
 * 5. Back-off starts anew when a message is confirmed, not when a connection
 *	  stands: a broker that takes connections and no messages is not stormed.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/sink.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "bridge/bridge.h"
#include "bridge/source.h"
#include "common/backoff.h"
#include "common/log.h"

/* The longest wait for the broker in one piece, in ms. */
#define WAIT_MS 1000

/*
 * A thread that wakes for each message does little else.  So where the window is
 * almost full, nothing is sent before an eighth of it is free, and the server's side
 * hears of as many confirms at a time, or when all are there.
 */
#define COARSE 8

/* How long the thread may take to end, in s. */
#define STOP_SECONDS 2

/* Between two lines of the log that say the same, in ms. */
#define QUIET_MS 5000

/* A kind of line that may come often. */
typedef struct Repeated
{
	const char *what;			/* for the line that tells how often it has */
	uint64_t	at;				/* ms; when it was said last; 0: never */
	uint64_t	unsaid;			/* how often it was not, since */
	char		reason[SINK_ERROR_SIZE];
} Repeated;

typedef struct Sink
{
	const SinkKind *kind;
	pthread_t	thread;
	int			wake_fd;
	_Atomic int state;			/* SinkState */
	_Atomic bool draining;
	_Atomic bool stopping;

	/* the thread's own */
	const UrlHost *host;		/* of the last try; NULL: the library chooses */
	unsigned	tries;
	int			progress;		/* messages done with that the server's side
								 * has not heard of */
	bool		connected;
	bool		blocked;
	bool		failed;			/* "stop" has come to pass */
	bool		blamed;			/* the connection was closed for a message */
	char		blame[SINK_ERROR_SIZE];
	int			careful;		/* messages that are to go one by one */
	uint64_t	alone;			/* the position of the last one that did */
	bool		any_alone;
	Backoff		backoff;		/* of connections */
	Backoff		refusals;
	uint64_t	next_try;		/* ms; of a connection */
	uint64_t	hold_until;		/* ms; nothing is sent before */
	uint64_t	heard_at;		/* ms; the broker has said something, or was
								 * sent the first message */
	Repeated	refused_lines;
	Repeated	trouble_lines;
	Repeated	unroutable_lines;
} Sink;

static Sink sink = {
	.wake_fd = -1,
	.refused_lines = {.what = "the broker does not take an event now"},
	.unroutable_lines = {.what = "an event cannot be delivered"},
	.trouble_lines = {.what = "trouble with the broker"},
	.backoff = {.shortest = 100,.longest = 10000},
	.refusals = {.shortest = 100,.longest = 2000}
};

#ifdef SINK_AMQP
extern const SinkKind amqp_sink;
#endif
#ifdef SINK_NATS
extern const SinkKind nats_sink;
#endif
#ifdef SINK_KAFKA
extern const SinkKind kafka_sink;
#endif
#ifdef SINK_REDIS
extern const SinkKind redis_sink;
#endif

static const SinkKind *const kinds[] = {
#ifdef SINK_AMQP
	&amqp_sink,
#endif
#ifdef SINK_NATS
	&nats_sink,
#endif
#ifdef SINK_KAFKA
	&kafka_sink,
#endif
#ifdef SINK_REDIS
	&redis_sink,
#endif
	NULL
};

/* The kind of broker that a URL's scheme stands for, or NULL. */
const SinkKind *
sink_kind(const char *scheme)
{
	for (int i = 0; kinds[i] != NULL; i++)
	{
		for (int j = 0; j < 3 && kinds[i]->schemes[j] != NULL; j++)
		{
			if (strcmp(kinds[i]->schemes[j], scheme) == 0)
				return kinds[i];
		}
	}
	return NULL;
}

/* The state's name, for metrics and application_name. */
const char *
sink_state_name(SinkState state)
{
	static const char *const names[] =
	{"connecting", "up", "blocked", "refused", "away", "stopped"};

	return names[state];
}

/* How the sink is, for any thread. */
SinkState
sink_state(void)
{
	return (SinkState) atomic_load(&sink.state);
}

/* Give it another state. */
static void
set_state(SinkState state)
{
	atomic_store(&sink.state, state);
}

/* Say how often a line was not written. */
static void
say_rest(Repeated *line)
{
	if (line->unsaid > 0)
		log_line(LOG_LEVEL_WARNING, "%s: %llu times more: %s", line->what,
				 (unsigned long long) line->unsaid, line->reason);
	line->unsaid = 0;
}

/* May a line with that reason be written now?  Not the same one all the time. */
static bool
may_say(Repeated *line, const char *reason)
{
	uint64_t	now = bridge_now();
	bool		same = strncmp(reason, line->reason, sizeof(line->reason) - 1) == 0;

	if (line->at != 0 && now < line->at + QUIET_MS && same)
	{
		line->unsaid++;
		return false;
	}
	say_rest(line);
	line->at = now;
	snprintf(line->reason, sizeof(line->reason), "%s", reason);
	return true;
}

/* Say what was not, if that was some time ago. */
static void
say_rests(uint64_t now)
{
	Repeated   *const lines[] =
	{&sink.refused_lines, &sink.unroutable_lines, &sink.trouble_lines};

	for (int i = 0; i < 3; i++)
	{
		if (lines[i]->unsaid > 0 && now >= lines[i]->at + QUIET_MS)
		{
			say_rest(lines[i]);
			lines[i]->at = now;
		}
	}
}

/* The URL's host to which to connect now: the next one with each try. */
const UrlHost *
sink_next_host(void)
{
	const Url  *url = &bridge.options.url;

	sink.host = &url->hosts[sink.tries++ % url->host_count];
	return sink.host;
}

/* What becomes readable when the thread has something else to do. */
int
sink_wake_fd(void)
{
	return sink.wake_fd;
}

/* Have the thread look whether there is something to do; for any thread. */
void
sink_wake(void)
{
	uint64_t	one = 1;

	/* (there is no thread while --check looks at the broker) */
	if (sink.wake_fd >= 0 &&
		write(sink.wake_fd, &one, sizeof(one)) != sizeof(one) && errno != EAGAIN)
		log_fatal("could not wake the broker's side: %s", strerror(errno));
}

/*
 * Sleep until the socket is readable, until sink_wake(), or for so many ms; fd -1:
 * there is none.  Is the socket readable?
 */
bool
sink_poll(int fd, int timeout)
{
	struct pollfd fds[2] = {{.fd = sink.wake_fd,.events = POLLIN},
	{.fd = fd,.events = POLLIN}};
	uint64_t	count;

	if (poll(fds, 2, timeout) <= 0)
		return false;
	if (fds[0].revents != 0 &&
		read(sink.wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_fatal("could not read who wakes the broker's side: %s", strerror(errno));
	return fd >= 0 && fds[1].revents != 0;
}

/* Where the message goes: what the template says, or the dead-letter place. */
const char *
sink_address(const Message *message)
{
	return message->dead ? bridge.options.dead_letter : message->address;
}

/* The broker has confirmed the message of that position, which was sent. */
void
sink_confirmed(uint64_t position)
{
	const Message *message = outbox_message(position);

	sink.heard_at = bridge_now();
	if (message == NULL)
		return;
	bridge.counters.confirmed++;
	bridge.counters.confirmed_bytes += message->payload_length;
	if (message->dead)
		bridge.counters.dead_lettered++;
	outbox_confirm(position);
	backoff_reset(&sink.backoff);
	if (sink.careful > 0)
		sink.careful--;
	if (sink.kind->reconnects && sink_state() == SINK_AWAY)
		set_state(SINK_UP);
	if (sink.hold_until == 0)
		backoff_reset(&sink.refusals);
	sink.progress++;
}

/* The broker does not take the message now; it is sent again after a while. */
void
sink_refused(uint64_t position, const char *reason)
{
	const Message *message = outbox_message(position);
	uint64_t	now = bridge_now();

	sink.heard_at = now;
	if (message == NULL)
		return;
	bridge.counters.refused++;
	if (sink.hold_until == 0)
		sink.hold_until = now + backoff_next(&sink.refusals);
	if (may_say(&sink.refused_lines, reason))
		log_line(LOG_LEVEL_WARNING, "the broker does not take event %lld now: %s; it is sent again",
				 (long long) message->seq, reason);
	outbox_requeue(position);
	set_state(SINK_REFUSED);
}

/* The broker will never take the message, where it was sent to. */
void
sink_unroutable(uint64_t position, const char *reason)
{
	Message    *message = outbox_message(position);
	const char *place;

	sink.heard_at = bridge_now();
	if (message == NULL)
		return;
	place = sink_address(message);
	bridge.counters.unroutable++;
	if (bridge.options.unroutable == UNROUTABLE_STOP || message->dead)
	{
		char		text[SINK_ERROR_SIZE + 300];

		snprintf(text, sizeof(text), "%s %lld cannot be delivered to \"%s\"%s: %s",
				 message->is_gap ? "gap" : "event", (long long) message->seq, place,
				 message->dead ? ", the dead-letter place" : "", reason);
		outbox_requeue(position);
		if (!sink.failed)
			bridge_fail(text);
		sink.failed = true;
		return;
	}
	if (may_say(&sink.unroutable_lines, reason))
		log_line(LOG_LEVEL_WARNING, "%s %lld cannot be delivered to \"%s\": %s; it is %s",
				 message->is_gap ? "gap" : "event", (long long) message->seq, place, reason,
				 bridge.options.unroutable == UNROUTABLE_DROP ? "dropped" : "sent to the dead-letter place");
	if (bridge.options.unroutable == UNROUTABLE_DROP)
	{
		bridge.counters.dropped++;
		if (sink.careful > 0)
			sink.careful--;
		outbox_confirm(position);
		sink.progress++;
		return;
	}
	message->dead = true;
	message->reason = strdup(reason);
	outbox_requeue(position);
}

/*
 * The broker will never take the message, or one that came in one piece with it: only
 * of a message that was sent alone is it known.
 */
void
sink_suspected(uint64_t position, const char *reason)
{
	OutboxState state;

	if (sink.any_alone && position == sink.alone)
	{
		sink_unroutable(position, reason);
		return;
	}
	sink.heard_at = bridge_now();
	outbox_look(&state);
	if (sink.careful < state.sent)
		sink.careful = state.sent;
	outbox_requeue(position);
}

/* The connection was closed because of a message; its loss comes next. */
void
sink_blamed(const char *reason)
{
	sink.blamed = true;
	snprintf(sink.blame, sizeof(sink.blame), "%s", reason);
}

/* The broker says that it takes nothing for now, or that it does again. */
void
sink_blocked(bool blocked, const char *reason)
{
	if (blocked != sink.blocked)
		log_line(LOG_LEVEL_WARNING, blocked ?
				 "the broker takes nothing for now: %s" : "the broker takes messages again%s",
				 blocked ? reason : "");
	sink.blocked = blocked;
	sink.heard_at = bridge_now();
	set_state(blocked ? SINK_BLOCKED : SINK_UP);
}

/* A library that reconnects by itself has lost a broker, perhaps the last one. */
void
sink_trouble(const char *reason, bool away)
{
	bridge.counters.broker_failures++;
	if (away)
		set_state(SINK_AWAY);
	if (may_say(&sink.trouble_lines, reason))
		log_line(LOG_LEVEL_WARNING, "trouble with the broker: %s", reason);
}

/* A library that reconnects by itself has a broker again. */
void
sink_back(void)
{
	if (sink_state() == SINK_AWAY)
		set_state(SINK_UP);
	source_wake();
}

/* The connection is lost, or could not be made: what next? */
static void
lost(const char *error)
{
	uint64_t	position;
	uint32_t	delay = backoff_next(&sink.backoff);
	OutboxState state;

	outbox_look(&state);
	sink.kind->disconnect();
	sink.connected = false;
	sink.blocked = false;
	bridge.counters.broker_failures++;
	if (sink.blamed && outbox_only_sent(&position))
		sink_unroutable(position, sink.blame);
	else if (sink.blamed)
		sink.careful = state.sent;
	sink.blamed = false;
	bridge.counters.resent += outbox_rewind();
	sink.next_try = bridge_now() + delay;
	set_state(SINK_AWAY);
	if (!atomic_load(&sink.stopping))
		log_line(LOG_LEVEL_WARNING, "no connection to the broker: %s; next try in %u ms",
				 error, delay);
	source_wake();
}

/* Connect, or wait until it is time to. */
static void
connect_or_wait(void)
{
	char		error[SINK_ERROR_SIZE] = "";
	uint64_t	now = bridge_now();

	if (now < sink.next_try)
	{
		sink_poll(-1, (int) (sink.next_try - now));
		return;
	}
	set_state(SINK_CONNECTING);
	if (!sink.kind->connect(error))
	{
		lost(error);
		return;
	}
	sink.connected = true;
	sink.heard_at = bridge_now();
	bridge.counters.broker_connects++;
	set_state(SINK_UP);
	log_line(LOG_LEVEL_INFO, "connected to %s at %s", sink.kind->name,
			 sink.host != NULL ? sink.host->name : bridge.options.url.hosts[0].name);
	bridge_ready();
	source_wake();
}

/* How many messages may be sent and not confirmed. */
static int
window(void)
{
	int			most = (int) bridge.options.window;

	if (sink.careful > 0)
		return 1;
	return sink.kind->most_sent > 0 && most > sink.kind->most_sent ?
		sink.kind->most_sent : most;
}

/* Send what may be sent; false if the connection is lost. */
static bool
send_messages(char *error)
{
	OutboxState state;
	int			room;

	if (sink.failed || sink.blocked || atomic_load(&sink.draining))
		return true;
	outbox_look(&state);
	if (sink.hold_until != 0)
	{
		/* what was sent behind the refused message may be refused, too */
		if (bridge_now() < sink.hold_until || state.sent > 0)
			return true;
		sink.hold_until = 0;
		set_state(SINK_UP);
	}
	if (state.sent == 0)
		sink.heard_at = bridge_now();
	else if (window() - state.sent < window() / COARSE)
		return true;
	room = sink.kind->in_turns && state.sent > 0 ? 0 : window() - state.sent;
	while (room-- > 0 && sink.hold_until == 0 && !sink.failed &&
		   (sink.kind->ready == NULL || sink.kind->ready()))
	{
		uint64_t	position;
		Message    *message = outbox_next(&position);

		if (message == NULL)
			break;
		bridge.counters.sent++;
		sink.any_alone = window() == 1;
		sink.alone = position;
		if (!sink.kind->publish(message, position, error))
			return false;
	}
	return sink.kind->flush(error);
}

/* For how long may the thread sleep, in ms? */
static int
sleep_time(void)
{
	uint64_t	now = bridge_now();

	if (sink.hold_until <= now || sink.hold_until > now + WAIT_MS)
		return WAIT_MS;
	return (int) (sink.hold_until - now);
}

/* One turn with a connection; false if it is lost. */
static bool
work(char *error)
{
	OutboxState state;
	uint64_t	limit = (uint64_t) bridge.options.confirm_timeout * 1000;
	bool		good = send_messages(error) && sink.kind->wait(sleep_time(), error);

	say_rests(bridge_now());
	if (!good)
		return false;
	outbox_look(&state);
	if (sink.progress > window() / COARSE || (sink.progress > 0 && state.sent == 0))
	{
		sink.progress = 0;
		source_wake();
	}
	if (state.sent > 0 && !sink.blocked && !sink.kind->reconnects && bridge_now() > sink.heard_at + limit)
	{
		snprintf(error, SINK_ERROR_SIZE, "it has confirmed nothing for %lld s",
				 (long long) bridge.options.confirm_timeout);
		return false;
	}
	return true;
}

/* The thread. */
static void *
run(void *argument)
{
	char		error[SINK_ERROR_SIZE];

	(void) argument;
	while (!atomic_load(&sink.stopping))
	{
		error[0] = '\0';
		if (sink.failed)
		{
			set_state(SINK_STOPPED);
			if (!sink.connected)
			{
				sink_poll(-1, WAIT_MS);
				continue;
			}
		}
		if (!sink.connected)
			connect_or_wait();
		else if (!work(error))
			lost(error);
	}
	if (sink.connected)
		sink.kind->disconnect();
	set_state(SINK_STOPPED);
	return NULL;
}

/* Start the thread. */
void
sink_start(void)
{
	int			failed;

	sink.kind = bridge.options.sink;
	sink.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (sink.wake_fd < 0)
		log_fatal("could not make an eventfd: %s", strerror(errno));
	failed = pthread_create(&sink.thread, NULL, run, NULL);
	if (failed != 0)
		log_fatal("could not start a thread: %s", strerror(failed));
}

/* Send nothing more; what was sent may still be confirmed. */
void
sink_drain(void)
{
	atomic_store(&sink.draining, true);
	sink_wake();
}

/* End the thread, or leave it alone if the broker's library waits too long. */
void
sink_stop(void)
{
	struct timespec limit;

	atomic_store(&sink.stopping, true);
	sink_wake();
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += STOP_SECONDS;
	(void) pthread_timedjoin_np(sink.thread, NULL, &limit);
}

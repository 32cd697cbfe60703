/*-------------------------------------------------------------------------
 *
 * source.c
 *	  See source.h.
 *
 * 1. One connection, on which one query is under way at a time.  It looks at
 *	  events without consuming them, and acknowledges in the same query what the
 *	  broker has confirmed: always a beginning of what came, as the outbox sees to.
 *
 * 2. A look begins at the acknowledged position, so it shows again what is in the
 *	  outbox; that is passed over by its seq.  With an empty outbox everything is
 *	  new, whatever its seq: somebody may have called seek().
 *
 * 3. When there is nothing and all is acknowledged, CALL pgpubsub.wait sleeps,
 *	  which holds no snapshot, and ends after WAIT_SECONDS.  As long as something
 *	  is in the outbox, that call would end at once.  So then a timer has it looked
 *	  again, LOOK_PAUSE_MS after the last look, as long as the broker is there.
 *
 * 4. The outbox is bounded: no look while it has half a batch or more, or half of
 *	  its bytes, so that the most of what a look shows is new, and the broker's side
 *	  still has work until it has come.  Rows of a look that have no room are passed
 *	  over, and come again.
 *
 * 5. A claim on a subscription ends with each transaction, so a lock of the
 *	  session tells whose turn it is: a second bridge tries it again and again, and
 *	  goes on once the first one's session has ended.  Anybody may take such a lock,
 *	  so the log names who has it.  Whether the subscription may be read at all is
 *	  found out before.  A look may fail with 55006 all the same, when somebody
 *	  polls by hand: it is tried again.
 *
 * 6. If the connection is lost with an acknowledgement under way, or soon after one
 *	  (synchronous_commit is off, and the server may have crashed), that is sent once
 *	  more on the next connection, before the first look.  Without it, what the
 *	  broker has confirmed would be sent again.
 *
 * 7. Should the server's sleep end at once again and again, and a look show nothing,
 *	  the bridge rests, rather than ask as fast as it can.
 *
 * 8. A gap row comes first, and again until it is acknowledged.  It counts what is
 *	  in the outbox too, as that is not acknowledged: that much is taken off.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bridge/bridge.h"
#include "bridge/sink.h"
#include "bridge/source_internal.h"
#include "common/log.h"
#include "common/memory.h"

Source		source;

static void decide(void);

/* How the connection is. */
SourceState
source_state(void)
{
	return source.state;
}

/* The state's name, for metrics and application_name. */
const char *
source_state_name(SourceState state)
{
	static const char *const names[] = {"away", "standby", "up"};

	return names[state];
}

/* The sink has something to tell: for any thread. */
void
source_wake(void)
{
	uv_async_send(&source.wake);
}

/* The name, quoted; to be freed with PQfreemem().  There is a connection. */
char *
source_quote(const char *text)
{
	char	   *quoted = PQescapeLiteral(source.server.conn, text, strlen(text));

	if (quoted == NULL)
		log_fatal("could not quote the name: %s", PQerrorMessage(source.server.conn));
	return quoted;
}

/* Send a query; its answer has to come within so many seconds. */
void
source_send(SourceStep step, const char *query, int64_t seconds)
{
	source.step = step;
	if (!PQsendQuery(source.server.conn, query) ||
		(step == STEP_LOOK && !PQsetSingleRowMode(source.server.conn)))
		server_lost(&source.server, PQerrorMessage(source.server.conn));
	else
		server_sent(&source.server, seconds);
}

/* What application_name is to be: who reads what, and how it goes. */
static void
make_application(char *text, size_t size)
{
	OutboxState state;
	double		lag;

	outbox_look(&state);
	lag = state.oldest_at == 0 ? 0 : ((double) time(NULL) - (double) state.oldest_at / 1e6);
	snprintf(text, size, "pgpubsub-bridge %.20s: %s %.0f/s lag %.0fs unconf %d",
			 bridge.options.subscription, sink_state_name(sink_state()),
			 metrics_rate(), lag > 0 ? lag : 0, state.sent);
	/* (a character may have been cut, and the server shows ASCII alone) */
	for (; *text != '\0'; text++)
	{
		if ((unsigned char) *text < ' ' || (unsigned char) *text > '~')
			*text = '?';
	}
}

/* Is it time to set another application_name?  Then to the quoted one. */
static bool
next_application(char **quoted)
{
	char		text[APPLICATION_SIZE];

	if (bridge_now() < source.application_at + 1000)
		return false;
	make_application(text, sizeof(text));
	if (strcmp(text, source.application) == 0)
		return false;
	strcpy(source.application, text);
	source.application_at = bridge_now();
	*quoted = source_quote(text);
	return true;
}

/* Write the query's beginning: the acknowledgement, and application_name. */
static void
begin_query(char *query, size_t size, const char *name)
{
	char	   *application;
	size_t		used = 0;

	query[0] = '\0';
	if (source.ack_pending)
		used += snprintf(query, size, "SELECT pgpubsub.ack(%s, %" PRId64 ");",
						 name, source.ack_seq);
	if (source.ack_pending)
	{
		source.acked_at = bridge_now();
		source.ack_under_way = true;
	}
	source.ack_pending = false;
	if (next_application(&application))
	{
		snprintf(query + used, size - used, "SET application_name = %s;", application);
		PQfreemem(application);
	}
}

/* Look for events, and acknowledge what is confirmed. */
static void
look(void)
{
	char		query[1024];
	char	   *name = source_quote(bridge.options.subscription);

	outbox_look(&source.before);
	source.asked = source.before.count + source.look_size;
	source.rows = source.taken = 0;
	source.cut = source.retry = false;
	begin_query(query, sizeof(query), name);
	snprintf(query + strlen(query), sizeof(query) - strlen(query),
			 "SELECT seq, channel, payload, lost, date_part('epoch', relayed_at)"
			 " FROM pgpubsub.poll(%s, %d, consume => false)", name, source.asked);
	PQfreemem(name);
	source_send(STEP_LOOK, query, ANSWER_SECONDS * 4);
}

/* Acknowledge only. */
static void
acknowledge(void)
{
	char		query[1024];
	char	   *name = source_quote(bridge.options.subscription);

	begin_query(query, sizeof(query), name);
	PQfreemem(name);
	source_send(STEP_ACK, query, ANSWER_SECONDS);
}

/* Tell the server how things are, if it is time to; false if it is not. */
static bool
tell(void)
{
	char		query[512];
	char	   *text;

	if (!next_application(&text))
		return false;
	snprintf(query, sizeof(query), "SET application_name = %s", text);
	PQfreemem(text);
	source_send(STEP_NAME, query, ANSWER_SECONDS);
	return true;
}

/* Sleep until there is something, or tell how things are first. */
static void
sleep_or_tell(void)
{
	char		query[512];
	char	   *text;

	if (tell())
		return;
	text = source_quote(bridge.options.subscription);
	snprintf(query, sizeof(query), "CALL pgpubsub.wait(%s, '%d s')", text, WAIT_SECONDS);
	PQfreemem(text);
	source.nothing = false;
	source.wait_at = bridge_now();
	source_send(STEP_WAIT, query, WAIT_SECONDS + ANSWER_SECONDS);
}

/* It is time to look again. */
static void
turn_over(uv_timer_t *timer)
{
	(void) timer;
	if (source.server.state != SERVER_CONNECTED || source.step != STEP_NONE)
		return;
	if (source.state == SOURCE_STANDBY)
		source_try_lock();
	else
	{
		source.retry = false;
		source.more = true;
		decide();
	}
}

/* Take a turn after so many ms. */
static void
turn_later(uint64_t delay)
{
	uv_timer_start(&source.turn, turn_over, delay, 0);
}

/* A time that differs between bridges, so that two do not stay in step. */
static uint64_t
other_turn(void)
{
	return TURN_MS + (uv_hrtime() ^ (uint64_t) getpid() * 7919) % TURN_MS;
}

/* Take what the broker has confirmed out of the outbox, to be acknowledged. */
static void
take_confirmed(void)
{
	int64_t		seq;
	int			count = outbox_take_confirmed(&seq);

	if (count == 0)
		return;
	if (!source.ack_pending)
		source.ack_since = bridge_now();
	source.ack_pending = true;
	source.ack_seq = seq;
	bridge.counters.acked += count;
}

/*
 * The program drains: acknowledge, and end when nothing is under way.  The state is
 * from before, so that what was under way no more then is acknowledged.
 */
static void
drain_further(const OutboxState *state)
{
	take_confirmed();
	if (source.ack_pending)
		acknowledge();
	else if (state->sent == 0 && !source.drained)
	{
		source.drained = true;
		bridge_stopped();
	}
}

/*
 * No query is under way: what is next?  While the broker is away, the connection
 * rests with what is in the outbox.
 */
static void
decide(void)
{
	OutboxState state;
	size_t		most = (size_t) bridge.options.buffer << 20;
	bool		room;

	if (source.server.state != SERVER_CONNECTED || source.step != STEP_NONE ||
		source.state != SOURCE_UP || source.retry)
		return;
	outbox_look(&state);
	if (bridge.draining)
	{
		drain_further(&state);
		return;
	}
	room = state.count <= bridge.options.batch / 2 && state.bytes <= most / 2;
	if (room && (source.more || (state.count == 0 && (source.ack_pending || !source.nothing))))
		look();
	else if (source.ack_pending && bridge_now() > source.ack_since + ACK_MS)
		acknowledge();
	else if (state.count == 0 && !source.ack_pending && source.vain_waits > VAIN_WAITS)
	{
		source.vain_waits = 0;
		turn_later(other_turn());
	}
	else if (state.count == 0 && !source.ack_pending)
		sleep_or_tell();
	else if (room && sink_state() == SINK_UP && !uv_is_active((uv_handle_t *) &source.turn))
		turn_later(LOOK_PAUSE_MS + (uint64_t) state.count / LOOK_PAUSE_ROWS);
	else
		(void) tell();
}

/* The broker has confirmed something, or its state is another. */
static void
awake(uv_async_t *handle)
{
	(void) handle;
	take_confirmed();
	decide();
}

/* A gap row has come: make a message of what nobody knows of yet. */
static void
take_gap(int64_t seq, int64_t lost)
{
	if (lost >= 0)
	{
		lost -= outbox_known_lost(seq);
		if (lost <= 0)
			return;
	}
	else if (source.before.count > 0 && seq <= source.before.last_seq)
		return;
	bridge.counters.gaps++;
	if (lost > 0)
		bridge.counters.lost += (uint64_t) lost;
	if (lost > 0)
		log_line(LOG_LEVEL_WARNING, "%lld events were lost before seq %lld: the subscription was too far behind",
				 (long long) lost, (long long) seq + 1);
	else
		log_line(LOG_LEVEL_WARNING, "it is not known how many events were lost before seq %lld: the server has restarted, and not all channels are durable",
				 (long long) seq + 1);
	outbox_append(event_gap(&source.setting, seq, lost));
	source.taken++;
}

/* A row of a look. */
static void
take_row(const PGresult *row)
{
	int64_t		seq = strtoll(PQgetvalue(row, 0, 0), NULL, 10);
	OutboxState now;

	if (PQgetisnull(row, 0, 1))
	{
		take_gap(seq, strtoll(PQgetvalue(row, 0, 3), NULL, 10));
		return;
	}
	source.rows++;
	if (source.before.count > 0 && seq <= source.before.last_seq)
		return;
	outbox_look(&now);
	if (source.cut || (now.count > 0 && now.bytes >= (size_t) bridge.options.buffer << 20))
	{
		source.cut = true;
		return;
	}
	outbox_append(event_message(&source.setting, seq,
								(int64_t) (strtod(PQgetvalue(row, 0, 4), NULL) * 1e6),
								PQgetvalue(row, 0, 1), PQgetvalue(row, 0, 2),
								PQgetlength(row, 0, 2)));
	source.taken++;
	bridge.counters.events++;
	if (source.taken % WAKE_ROWS == 0)
		sink_wake();
}

/* All rows of a look have come. */
static void
look_done(void)
{
	int64_t		batch = bridge.options.batch;

	source.in_use_told = false;
	source.more = source.cut || source.rows >= source.asked;
	source.nothing = source.taken == 0 && !source.more;
	if (source.nothing && bridge_now() < source.wait_at + VAIN_MS)
		source.vain_waits++;
	else
		source.vain_waits = 0;
	if (source.cut)
		source.look_size = source.taken > 1 ? source.taken : 1;
	else if (source.more && source.look_size < batch)
		source.look_size = source.look_size * 2 < batch ? source.look_size * 2 : (int) batch;
	if (!source.looked_once)
		log_line(LOG_LEVEL_INFO, "reads subscription \"%s\"", bridge.options.subscription);
	source.looked_once = true;
	server_works(&source.server);
	bridge_ready();
	if (source.taken > 0)
		sink_wake();
}

/* All results of the step have come. */
static void
next_step(void)
{
	SourceStep	step = source.step;

	server_idle(&source.server);
	source.step = STEP_NONE;
	source.ack_under_way = false;
	if (source_setup_step(step))
		return;
	if (step == STEP_LOCK && source.state == SOURCE_STANDBY)
	{
		turn_later(other_turn());
		return;
	}
	if (source.retry)
	{
		/* somebody else reads the subscription */
		turn_later(other_turn());
		return;
	}
	if (step == STEP_LOOK)
		look_done();
	decide();
}

/* A result has come; false if the connection is lost. */
static bool
take_result(const PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_COMMAND_OK:
			return true;
		case PGRES_SINGLE_TUPLE:
			if (PQnfields(result) == 5)
				take_row(result);
			return true;
		case PGRES_TUPLES_OK:
			return source_setup_result(result);
		default:
			return source_error(result);
	}
}

/* Something has come. */
static void
source_input(Server *server)
{
	while (!PQisBusy(server->conn))
	{
		PGresult   *result = PQgetResult(server->conn);
		bool		good;

		if (result == NULL)
		{
			if (source.step != STEP_NONE)
				next_step();
			return;
		}
		good = take_result(result);
		PQclear(result);
		if (!good)
			return;
	}
}

/*
 * The connection is lost.  What is in the outbox goes on to the broker, and what
 * that confirms is acknowledged on the next connection.
 */
static void
source_lost(Server *server)
{
	(void) server;
	bridge.counters.server_failures++;
	uv_timer_stop(&source.turn);
	if (source.ack_under_way ||
		(source.acked_at != 0 && bridge_now() < source.acked_at + ACK_AGAIN_MS))
		source.ack_pending = true;
	source.ack_under_way = false;
	if (source.cut)
		source.look_size = source.taken > 1 ? source.taken : 1;
	source.state = SOURCE_AWAY;
	source.step = STEP_NONE;
	source.retry = false;
	if (bridge.draining && !source.drained)
	{
		source.drained = true;
		bridge_stopped();
	}
}

/* Begin to connect. */
void
source_start(void)
{
	source.look_size = (int) (bridge.options.batch < FIRST_LOOK ? bridge.options.batch : FIRST_LOOK);
	source.setting.subscription = bridge.options.subscription;
	source.setting.placeholder = bridge.options.placeholder;
	source.setting.address = &bridge.options.address;
	source.setting.allowed = bridge.options.sink->allowed;
	outbox_init((int) bridge.options.batch * 3 + 16);
	uv_async_init(&bridge.loop, &source.wake, awake);
	uv_timer_init(&bridge.loop, &source.turn);
	source.server.loop = &bridge.loop;
	source.server.conninfo = bridge.options.dbname;
	source.server.application = "pgpubsub-bridge";
	source.server.what = "events";
	source.server.connected = source_connected;
	source.server.input = source_input;
	source.server.lost = source_lost;
	server_start(&source.server);
}

/*
 * Read no more: acknowledge what is confirmed, then bridge_stopped() is called.  A
 * sleep in the server ends with its connection.
 */
void
source_drain(void)
{
	if (source.server.state != SERVER_CONNECTED || source.state != SOURCE_UP)
	{
		source.drained = true;
		server_close(&source.server);
		bridge_stopped();
		return;
	}
	if (source.step == STEP_WAIT)
	{
		source.drained = true;
		server_close(&source.server);
		bridge_stopped();
		return;
	}
	decide();
}

/*-------------------------------------------------------------------------
 *
 * commands.c
 *	  See commands.h.
 *
 * Commands go to the server in libpq's pipeline mode, one after the other
 * without waiting for answers.  Each is a Unit: some statements and a Sync,
 * which makes them one transaction, so a unit is committed when the answer to
 * its Sync has come, and not before.
 *
 * Units wait in queue while the connection is away.  One that was sent when the
 * connection was lost may have been committed or not; it is never sent again.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/list.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/server.h"
#include "gateway/channels.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/marks.h"
#include "gateway/stream.h"
#include "gateway/upstream.h"

/* Units that are with the server at a time. */
#define MAX_SENT 256

/* How long the server may take for the next answer, in seconds. */
#define ANSWER_SECONDS 30

/* How long publish() may wait for room in a full queue. */
#define PUBLISH_TIMEOUT "1s"

/* Until channels that could not be dropped are tried again, in ms. */
#define AGAIN_MS 5000

typedef enum UnitKind
{
	UNIT_NOTICES,
	UNIT_ADD,
	UNIT_DROP,
	UNIT_MARK,
	UNIT_ROLES,
	UNIT_CHANNEL_STATS,
	UNIT_SUBSCRIPTION_STATS,	/* follows the other one at once */
	UNIT_MONITORS,
	UNIT_PAGE,					/* follows UNIT_MONITORS at once */
	UNIT_UNSUBSCRIBE
} UnitKind;

typedef struct Notice
{
	struct Notice *next;
	const char *channel;
	const char *payload;
} Notice;

typedef struct Unit
{
	ListNode	link;			/* in queue or sent */
	UnitKind	kind;
	bool		was_sent;
	PGresult   *error;
	PGresult   *rows;			/* of the kinds that ask for some */
	char	  **names;			/* of UNIT_DROP, once it was sent */
	int			name_count;
} Unit;

struct Notices
{
	Unit		unit;			/* the first member */
	Arena		arena;
	Notice	   *first;
	Notice	  **end;
	Client	   *client;			/* NULL: it has gone, or has no echo */
	bool		publishes;		/* with publish(), not pg_notify() */
	NoticesDone done;
	void	   *context;
};

typedef struct Commands
{
	Server		server;
	bool		ready;			/* in pipeline mode */
	ListNode	queue;
	ListNode	sent;
	int			sent_count;
	int			waiting;		/* notices in both */
	bool		add_asked;		/* UNIT_ADD is in one of them */
	bool		drop_asked;
	bool		mark_asked;		/* UNIT_MARK is in queue */
	bool		roles_asked;
	bool		stats_asked;
	PGresult   *channel_stats;	/* until the others have come */
	bool		page_asked;
	PGresult   *monitors;		/* until the page's numbers have come */
	uv_timer_t	again;
	void		(*stopped) (void);
} Commands;

static Commands commands;

static void send_queue(void);

/* How many transactions of clients wait. */
int64_t
commands_waiting(void)
{
	return commands.waiting;
}

/* A unit without notices, at the end of the queue. */
static void
add_unit(UnitKind kind)
{
	Unit	   *unit = memory_get_zeroed(sizeof(Unit));

	unit->kind = kind;
	list_append(&commands.queue, &unit->link);
	send_queue();
}

/* Forget the unit, which is in no list. */
static void
unit_free(Unit *unit)
{
	PQclear(unit->error);
	PQclear(unit->rows);
	for (int i = 0; unit->names != NULL && i < unit->name_count; i++)
		free(unit->names[i]);
	free(unit->names);
	if (unit->kind == UNIT_NOTICES)
	{
		arena_free(&((Notices *) unit)->arena);
		commands.waiting--;
	}
	free(unit);
}

/* What the client's transaction is to notify; done tells how that went. */
Notices *
commands_begin(Client *client, NoticesDone done, void *context)
{
	Notices    *notices = memory_get_zeroed(sizeof(Notices));

	notices->unit.kind = UNIT_NOTICES;
	list_init(&notices->unit.link);
	notices->end = &notices->first;
	notices->client = client;
	notices->done = done;
	notices->context = context;
	commands.waiting++;

	return notices;
}

/*
 * What a client over HTTP publishes: as commands_begin(), but with pgpubsub.publish(),
 * which logs what is for a durable channel and takes long payloads, and without an
 * echo.
 */
Notices *
commands_publish(NoticesDone done, void *context)
{
	Notices    *notices = commands_begin(NULL, done, context);

	notices->publishes = true;
	return notices;
}

/* One more. */
void
commands_add(Notices *notices, const char *channel, const char *payload)
{
	Notice	   *notice = arena_get(&notices->arena, sizeof(Notice));

	notice->channel = arena_copy(&notices->arena, channel, strlen(channel));
	notice->payload = arena_copy(&notices->arena, payload, strlen(payload));
	*notices->end = notice;
	notices->end = &notice->next;
}

/* That is all: to the server with it.  done is not called from here. */
void
commands_send(Notices *notices)
{
	list_append(&commands.queue, &notices->unit.link);
	send_queue();
}

/* Nobody wants to know any more how it goes. */
void
commands_forget(Notices *notices)
{
	if (commands_withdraw(notices))
		return;
	notices->client = NULL;
	notices->done = NULL;
}

/* Take it back, if it was not sent: false if it was. */
bool
commands_withdraw(Notices *notices)
{
	if (notices->unit.was_sent)
		return false;
	list_remove(&notices->unit.link);
	unit_free(&notices->unit);
	return true;
}

/*
 * Have the server drop the channels that nobody wants, and then add those that
 * somebody does.
 */
void
commands_channels(void)
{
	if (!stream_is_up() || !commands.ready)
		return;
	if (!commands.drop_asked)
	{
		commands.drop_asked = true;
		add_unit(UNIT_DROP);
	}
	if (!commands.add_asked)
	{
		commands.add_asked = true;
		add_unit(UNIT_ADD);
	}
}

/* Have a mark sent to all who wait for one. */
void
commands_mark(void)
{
	if (commands.mark_asked)
		return;
	commands.mark_asked = true;
	add_unit(UNIT_MARK);
}

/* Have the server look whether the clients' roles may still connect. */
void
commands_check_roles(void)
{
	if (commands.roles_asked || !commands.ready)
		return;
	commands.roles_asked = true;

	add_unit(UNIT_ROLES);
}

/*
 * Have metrics_stats() called with what the views say now; false if it will not be, as
 * the server is away.
 */
bool
commands_stats(void)
{
	if (!commands.ready)
		return false;
	if (commands.stats_asked)
		return true;
	commands.stats_asked = true;
	add_unit(UNIT_CHANNEL_STATS);
	if (!commands.ready)
		return false;
	add_unit(UNIT_SUBSCRIPTION_STATS);
	return commands.ready;
}

/*
 * Have page_answered() called with which of page_roles() may see the page, and what
 * it shows; false if it will not be, as the server is away.
 */
bool
commands_page(void)
{
	if (!commands.ready)
		return false;
	if (commands.page_asked)
		return true;
	commands.page_asked = true;
	add_unit(UNIT_MONITORS);
	if (!commands.ready)
		return false;
	add_unit(UNIT_PAGE);
	return commands.ready;
}

/* Give libpq a statement with parameters. */
static bool
send_statement(const char *query, int count, const char *const *values)
{
	return PQsendQueryParams(commands.server.conn, query, count, NULL, values,
							 NULL, NULL, 0);
}

static bool
send_notices(Notices *notices)
{
	int			pid = PQbackendPID(commands.server.conn);
	const char *query = notices->publishes ?
		"SELECT pgpubsub.publish($1, $2::text)" : "SELECT pg_catalog.pg_notify($1, $2)";

	/* others wait behind it: it must not wait long for a full queue */
	if (notices->publishes &&
		!send_statement("SELECT set_config('pgpubsub.publish_timeout', '" PUBLISH_TIMEOUT
						"', true)", 0, NULL))
		return false;
	for (const Notice *notice = notices->first; notice != NULL; notice = notice->next)
	{
		const char *values[2] = {notice->channel, notice->payload};

		if (!send_statement(query, 2, values))
			return false;
		gateway.counters.notified++;
		if (notices->client != NULL)
			channel_expect_echo(notice->channel, notice->payload, pid, notices->client);
	}
	return true;
}

/* Call a function with the subscription's name and an array of channels. */
static bool
send_names(const char *query, const char *const *names, int count)
{
	char	   *array = array_literal(names, count);
	const char *values[2] = {subscription_name(), array};
	bool		good = send_statement(query, 2, values);

	free(array);
	return good;
}

/* Add the channels that are wanted, if there are any. */
static bool
send_add(void)
{
	int			count;
	const char **names = channels_take_wanted(&count);
	bool		good;

	if (names == NULL)
		return true;
	good = send_names("SELECT pgpubsub.add_channels($1, $2::text[])", names, count);
	free(names);
	return good;
}

/* Drop the channels that are not. */
static bool
send_drop(Unit *unit)
{
	unit->names = channels_take_dropped(&unit->name_count);
	return unit->names == NULL ||
		send_names("SELECT pgpubsub.drop_channels($1, $2::text[])",
				   (const char *const *) unit->names, unit->name_count);
}

/* Notify the gateway itself. */
static bool
send_mark(void)
{
	char		payload[64];
	const char *values[2] = {subscription_name(), payload};
	uint64_t	number = 0;

	commands.mark_asked = false;
	(void) marks_take(&number);
	mark_payload(number, payload, sizeof(payload));
	return send_statement("SELECT pg_catalog.pg_notify($1, $2)", 2, values);
}

static bool
send_roles(void)
{
	int			count;
	const char **names = roles_in_use(&count);
	char	   *array = array_literal(names, count);
	const char *values[1] = {array};
	bool		good;

	good = send_statement("SELECT used.name FROM unnest($1::text[]) AS used (name)"
						  " LEFT JOIN pg_catalog.pg_roles AS role ON role.rolname = used.name"
						  " WHERE role.oid IS NULL OR NOT role.rolcanlogin"
						  " OR role.rolvaliduntil < now()"
						  " OR NOT has_database_privilege(role.oid, current_database(), 'CONNECT')",
						  1, values);
	free(array);
	free(names);
	return good;
}

/* Ask for the numbers of the channels. */
static bool
send_channel_stats(void)
{
	return send_statement("SELECT channel, subscriptions, messages, published, published_bytes,"
						  " delivered, lost, truncated FROM pgpubsub.stat_channels"
						  " WHERE datname = current_database()", 0, NULL);
}

/* Ask for the numbers of the subscriptions. */
static bool
send_subscription_stats(void)
{
	return send_statement("SELECT subscription, pending, pending_bytes,"
						  " coalesce(extract(epoch FROM now() - oldest_pending_at), 0),"
						  " delivered, delivered_bytes, lost, polls, empty_polls"
						  " FROM pgpubsub.stat_subscriptions"
						  " WHERE datname = current_database()", 0, NULL);
}

/* Ask which of the roles that look at the page may read the views it is made of. */
static bool
send_monitors(void)
{
	int			count;
	const char **names = page_roles(&count);
	char	   *array = array_literal(names, count);
	const char *values[1] = {array};
	bool		good;

	good = send_statement("SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY ($1::text[])"
						  " AND pg_has_role(oid, 'pg_monitor', 'USAGE')", 1, values);
	free(array);
	free(names);
	return good;
}

/*
 * Ask for what the page shows, as one JSON object.  It has a bounded number of rows:
 * those that somebody who looks for trouble wants to see first.
 */
static bool
send_page(void)
{
	return send_statement(
						  "SELECT json_build_object("
						  "'database', current_database(),"
						  " 'version', current_setting('server_version'),"
						  " 'queue', (SELECT row_to_json(queue) FROM pgpubsub.stat_queue AS queue"
						  " WHERE datname = current_database()),"
						  " 'log', (SELECT row_to_json(log) FROM pgpubsub.stat_log AS log"
						  " WHERE datname = current_database()),"
						  " 'channel_count', (SELECT count(*) FROM pgpubsub.stat_channels"
						  " WHERE datname = current_database()),"
						  " 'channels', (SELECT coalesce(json_agg(shown), '[]') FROM ("
						  "SELECT channel, subscriptions, messages, newest_seq, published,"
						  " published_bytes, delivered, lost, last_at, truncated, durable"
						  " FROM pgpubsub.stat_channels WHERE datname = current_database()"
						  " ORDER BY last_at DESC NULLS LAST, channel LIMIT 100) AS shown),"
						  " 'subscription_count', (SELECT count(*) FROM pgpubsub.stat_subscriptions"
						  " WHERE datname = current_database()),"
						  " 'subscriptions', (SELECT coalesce(json_agg(shown), '[]') FROM ("
						  "SELECT subscription, owner::text AS owner, channels[1:8] AS channels,"
						  " cardinality(channels) AS channel_count, on_full, state, pid, seq,"
						  " pending, pending_bytes,"
						  " extract(epoch FROM now() - oldest_pending_at) AS lag,"
						  " delivered, lost, polls, empty_polls, last_poll_at, from_log"
						  " FROM pgpubsub.stat_subscriptions WHERE datname = current_database()"
						  " ORDER BY state = 'holding' DESC, pending_bytes DESC, subscription"
						  " LIMIT 100) AS shown))", 0, NULL);
}

/* Give the unit to libpq. */
static bool
send_unit(Unit *unit)
{
	const char *name = subscription_name();

	switch (unit->kind)
	{
		case UNIT_NOTICES:
			return send_notices((Notices *) unit);
		case UNIT_ADD:
			return send_add();
		case UNIT_DROP:
			return send_drop(unit);
		case UNIT_MARK:
			return send_mark();
		case UNIT_ROLES:
			return send_roles();
		case UNIT_CHANNEL_STATS:
			return send_channel_stats();
		case UNIT_SUBSCRIPTION_STATS:
			return send_subscription_stats();
		case UNIT_MONITORS:
			return send_monitors();
		case UNIT_PAGE:
			return send_page();
		case UNIT_UNSUBSCRIBE:
			return send_statement("SELECT pgpubsub.unsubscribe($1)", 1, &name);
	}
	return false;
}

/* Send what waits, as far as may be. */
static void
send_queue(void)
{
	bool		any = false;

	while (commands.ready && commands.sent_count < MAX_SENT &&
		   !list_is_empty(&commands.queue))
	{
		Unit	   *unit = list_container(Unit, link, commands.queue.next);

		list_remove(&unit->link);
		list_append(&commands.sent, &unit->link);
		unit->was_sent = true;
		commands.sent_count++;

		any = true;
		if (!send_unit(unit) || !PQpipelineSync(commands.server.conn))
		{
			server_lost(&commands.server, PQerrorMessage(commands.server.conn));
			return;
		}
	}
	if (any)
		server_sent(&commands.server, ANSWER_SECONDS);
}

/* What an error of the server says. */
static void
report_of(const PGresult *result, Report *report)
{
	memset(report, 0, sizeof(*report));
	report->sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	report->message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	report->detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	report->hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	if (report->sqlstate == NULL)
		report->sqlstate = "08006";
	if (report->message == NULL)
		report->message = "the server has failed";
}

/* Try again to change the channels. */
static void
ask_again(uv_timer_t *timer)
{
	(void) timer;
	commands_channels();
}

/* The server has answered whether it has added the channels. */
static void
add_answered(const Report *report)
{
	commands.add_asked = false;

	/* A stream that has been lost meanwhile subscribes to all anew. */
	if (!stream_is_up())
		return;
	if (report != NULL)
		log_line(LOG_LEVEL_WARNING, "could not add channels: %s", report->message);
	channels_added(report);
}

/* The server has dropped channels, or is asked again later. */
static void
drop_answered(Unit *unit, const Report *report)
{
	commands.drop_asked = false;
	if (report == NULL)
		return;
	log_line(LOG_LEVEL_WARNING, "could not drop channels: %s", report->message);
	channels_drop_again(unit->names, unit->name_count);
	unit->names = NULL;
	uv_timer_start(&commands.again, ask_again, AGAIN_MS, 0);
}

/* End the clients whose roles may not connect any more. */
static void
roles_answered(const PGresult *rows)
{
	static const Report report = {
		.sqlstate = "28000",
		.message = "terminating connection because the role may not connect any more",
	};

	commands.roles_asked = false;

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
		clients_end_role(PQgetvalue(rows, i, 0), &report);
}

/* The server has told the numbers of the channels, or of the subscriptions. */
static void
stats_answered(Unit *unit)
{
	Stats		stats = {commands.channel_stats, unit->rows};

	if (unit->kind == UNIT_CHANNEL_STATS)
	{
		commands.channel_stats = unit->rows;
		unit->rows = NULL;
		return;
	}
	commands.stats_asked = false;
	metrics_stats(&stats);
	PQclear(commands.channel_stats);
	commands.channel_stats = NULL;
}

/* The server has said who may see the page, or what it shows. */
static void
page_unit_answered(Unit *unit, const Report *report)
{
	PGresult   *monitors = commands.monitors;

	if (unit->kind == UNIT_MONITORS)
	{
		commands.monitors = unit->rows;
		unit->rows = NULL;
		return;
	}
	commands.monitors = NULL;
	commands.page_asked = false;
	page_answered(monitors, unit->rows, report);
	PQclear(monitors);
}

/* The unit is done; report tells of its error, if it had one. */
static void
unit_done(Unit *unit, const Report *report)
{
	Notices    *notices = (Notices *) unit;

	switch (unit->kind)
	{
		case UNIT_NOTICES:
			if (notices->done != NULL)
				notices->done(notices->context, report);
			break;
		case UNIT_ADD:
			add_answered(report);
			break;
		case UNIT_DROP:
			drop_answered(unit, report);
			break;
		case UNIT_MARK:
			if (report != NULL)
				log_line(LOG_LEVEL_WARNING, "could not notify: %s", report->message);
			break;
		case UNIT_ROLES:
			roles_answered(unit->rows);
			break;
		case UNIT_CHANNEL_STATS:
		case UNIT_SUBSCRIPTION_STATS:
			stats_answered(unit);
			break;
		case UNIT_MONITORS:
		case UNIT_PAGE:
			page_unit_answered(unit, report);
			break;
		case UNIT_UNSUBSCRIBE:
			server_close(&commands.server);
			commands.ready = false;
			commands.stopped();

			break;
	}
	unit_free(unit);
}

/* The answer to the Sync of the first unit that was sent has come. */
static void
finish_first(void)
{
	Unit	   *unit = list_container(Unit, link, commands.sent.next);
	Report		report;

	if (list_is_empty(&commands.sent))
		return;
	list_remove(&unit->link);
	commands.sent_count--;

	if (unit->error != NULL)
		report_of(unit->error, &report);
	unit_done(unit, unit->error != NULL ? &report : NULL);
}

/* A result of the first unit has come. */
static void
take_result(PGresult *result)
{
	Unit	   *unit = list_is_empty(&commands.sent) ? NULL :
		list_container(Unit, link, commands.sent.next);

	switch (PQresultStatus(result))
	{
		case PGRES_PIPELINE_SYNC:
			PQclear(result);
			finish_first();
			return;
		case PGRES_FATAL_ERROR:
			if (unit != NULL && unit->error == NULL)
			{
				unit->error = result;
				return;
			}
			break;
		case PGRES_TUPLES_OK:
			if (unit != NULL && unit->rows == NULL &&
				(unit->kind == UNIT_ROLES || unit->kind == UNIT_CHANNEL_STATS ||
				 unit->kind == UNIT_SUBSCRIPTION_STATS || unit->kind == UNIT_MONITORS ||
				 unit->kind == UNIT_PAGE))
			{
				unit->rows = result;
				return;
			}
			break;
		default:
			break;
	}
	PQclear(result);
}

/* The answer to the setup has come: go over to pipeline mode. */
static void
finish_setup(void)
{
	PGconn	   *conn = commands.server.conn;

	server_idle(&commands.server);
	if (!PQenterPipelineMode(conn))
	{
		server_lost(&commands.server, PQerrorMessage(conn));
		return;
	}
	server_works(&commands.server);
	commands.ready = true;

	commands_channels();
	send_queue();
}

/* Something has come. */
static void
commands_input(Server *server)
{
	bool		nothing = false;

	while (server->conn != NULL && !PQisBusy(server->conn))
	{
		PGresult   *result = PQgetResult(server->conn);

		if (result == NULL && !commands.ready)
		{
			finish_setup();
			return;
		}
		if (result == NULL && (nothing || commands.sent_count == 0))
			break;
		nothing = result == NULL;
		if (result == NULL)
			continue;
		if (commands.ready)
			take_result(result);
		else if (PQresultStatus(result) == PGRES_COMMAND_OK)
			PQclear(result);
		else
		{
			char	   *reason = memory_copy_string(PQresultErrorMessage(result));

			PQclear(result);
			server_lost(server, reason);
			free(reason);
			return;
		}
	}
	if (server->conn == NULL)
		return;
	if (commands.sent_count == 0)
		server_idle(server);
	send_queue();
}

/* The connection stands. */
static void
commands_connected(Server *server)
{
	if (!PQsendQuery(server->conn,
					 "SET statement_timeout = 0; SET lock_timeout = 0;"
					 " SET idle_session_timeout = 0; SET search_path = pg_catalog;"
					 " SET client_connection_check_interval = '2s';"
					 " SET default_transaction_isolation = 'read committed';"
					 " SET default_transaction_read_only = off"))
		server_lost(server, PQerrorMessage(server->conn));
	else
		server_sent(server, ANSWER_SECONDS);
}

/* The connection is lost: what was sent has an unknown outcome. */
static void
commands_lost(Server *server)
{
	static const Report unknown = {
		.sqlstate = "08007",
		.message = "the outcome of the transaction is unknown",
		.detail = "The connection to the server was lost while it committed.",
	};
	ListNode	lost;

	(void) server;
	commands.ready = false;

	list_init(&lost);
	while (!list_is_empty(&commands.sent))
	{
		ListNode   *node = commands.sent.next;

		list_remove(node);
		list_append(&lost, node);
	}
	commands.sent_count = 0;

	while (!list_is_empty(&lost))
	{
		Unit	   *unit = list_container(Unit, link, lost.next);

		list_remove(&unit->link);
		if (unit->kind == UNIT_ADD)
		{
			commands.add_asked = false;

			channels_want_again();
			unit_free(unit);
		}
		else if (unit->kind == UNIT_MARK)
		{
			marks_send_again();
			unit_free(unit);
		}
		else
			unit_done(unit, &unknown);
	}
}

/* Begin to connect. */
void
commands_start(void)
{
	list_init(&commands.queue);
	list_init(&commands.sent);
	uv_timer_init(&gateway.loop, &commands.again);
	commands.server.what = "commands";
	commands.server.connected = commands_connected;
	commands.server.input = commands_input;
	commands.server.lost = commands_lost;

	upstream_connect(&commands.server);
}

/* Drop the subscription, if the server is there, and close the connection. */
void
commands_stop(void (*stopped) (void))
{
	commands.stopped = stopped;

	uv_timer_stop(&commands.again);
	if (commands.ready)
		add_unit(UNIT_UNSUBSCRIBE);
	else
	{
		server_close(&commands.server);
		stopped();
	}
}

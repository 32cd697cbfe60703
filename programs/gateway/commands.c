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
 * publish() waits for room in a full queue of the server's, and all behind it in the
 * pipeline wait as well; so few of these are sent at a time.  The gateway's own units go
 * first, and then the clients' by turns (notices.c).
 *
 * Units wait in queue while the connection is away.  One that was sent when the
 * connection was lost may have been committed or not; it is never sent again.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/commands_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/server.h"
#include "gateway/channels.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/marks.h"
#include "gateway/stream.h"
#include "gateway/upstream.h"

/* Units that are with the server at a time, and how many of them may publish(). */
#define MAX_SENT 256
#define MAX_PUBLISHING 8

/* How long the server may take for the connection's setup, in seconds. */
#define SETUP_SECONDS 30

/* Until channels that could not be dropped are tried again, in ms. */
#define AGAIN_MS 5000

/*
 * The same of the subscription, where the stream's session has a transaction that it
 * has not ended yet, and how often.
 */
#define UNSUBSCRIBE_AGAIN_MS 20
#define UNSUBSCRIBE_TRIES 100

typedef struct Commands
{
	Server		server;
	bool		ready;			/* in pipeline mode */
	ListNode	queue;			/* units of the gateway's own */
	ListNode	sent;
	int			sent_count;
	int			publishing;		/* publications among these */
	bool		add_asked;		/* UNIT_ADD is in one of them */
	bool		drop_asked;
	uint64_t	drops;			/* how often that has changed */
	bool		mark_asked;		/* UNIT_MARK is in queue */
	bool		roles_asked;
	bool		stats_asked;
	PGresult   *channel_stats;	/* until the others have come */
	bool		page_asked;
	PGresult   *monitors;		/* until the page's numbers have come */
	uv_timer_t	again;
	int			unsubscribe_tries;
	void		(*stopped) (void);
} Commands;

static Commands commands;

static void send_queue(void);

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
		notices_drop((Notices *) unit);
	free(unit);
}

/* That is all: to the server with it.  done is not called from here. */
void
commands_send(Notices *notices)
{
	notices_wait(notices);
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
		commands.drops++;
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

/* Take what is to be sent next from where it waits; NULL if nothing is. */
static Unit *
take_next(void)
{
	ListNode   *node = list_take_first(&commands.queue);
	Notices    *notices;

	if (node != NULL)
		return list_container(Unit, link, node);
	notices = notices_take(commands.publishing < MAX_PUBLISHING);
	return notices == NULL ? NULL : &notices->unit;
}

/* Is it a client's that calls publish()? */
static bool
is_publication(const Unit *unit)
{
	return unit->kind == UNIT_NOTICES && ((const Notices *) unit)->publishes;
}

/* The unit is with the server from now on, or (by -1) no more. */
static void
count_sent(const Unit *unit, int by)
{
	commands.sent_count += by;
	if (is_publication(unit))
		commands.publishing += by;
}

/* Send what waits, as far as may be. */
static void
send_queue(void)
{
	bool		awaits_answer = commands.sent_count > 0;
	bool		any = false;
	Unit	   *unit;

	while (commands.ready && commands.sent_count < MAX_SENT && (unit = take_next()) != NULL)
	{
		list_append(&commands.sent, &unit->link);
		unit->was_sent = true;
		count_sent(unit, 1);
		any = true;
		if (unit->kind == UNIT_MARK)
			commands.mark_asked = false;
		if (!unit_send(commands.server.conn, unit) || !PQpipelineSync(commands.server.conn))
		{
			server_lost(&commands.server, PQerrorMessage(commands.server.conn));
			return;
		}
	}
	if (any && awaits_answer)
		server_sent_more(&commands.server);
	else if (any)
		server_sent(&commands.server, limits.server_timeout);
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

/*
 * How often the server was asked to drop channels, so that the stream may have to wait,
 * and has answered, together.
 */
uint64_t
commands_drops(void)
{
	return commands.drops;
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

	/* If the stream has been lost meanwhile, they are wanted again. */
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
	commands.drops++;
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

/* Try again to drop the subscription. */
static void
unsubscribe_again(uv_timer_t *timer)
{
	(void) timer;
	if (commands.ready)
		add_unit(UNIT_UNSUBSCRIBE);
	else
		commands.stopped();
}

/* The server has dropped the subscription, or cannot, or not yet. */
static void
unsubscribe_answered(const Report *report)
{
	if (report != NULL && strcmp(report->sqlstate, "55006") == 0 &&
		++commands.unsubscribe_tries < UNSUBSCRIBE_TRIES)
	{
		uv_timer_start(&commands.again, unsubscribe_again, UNSUBSCRIBE_AGAIN_MS, 0);
		return;
	}
	if (report != NULL)
		log_line(LOG_LEVEL_WARNING, "could not drop the subscription: %s", report->message);
	server_close(&commands.server);
	commands.ready = false;
	commands.stopped();
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
			unsubscribe_answered(report);
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
	count_sent(unit, -1);
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
		server_progresses(server);
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
	/* (the setup has its time, too) */
	if (commands.ready && commands.sent_count == 0)
		server_idle(server);
	send_queue();
}

/* The connection stands. */
static void
commands_connected(Server *server)
{
	if (!PQsendQuery(server->conn, SERVER_SETTINGS))
		server_lost(server, PQerrorMessage(server->conn));
	else
		server_sent(server, SETUP_SECONDS);
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
	commands.sent_count = commands.publishing = 0;
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

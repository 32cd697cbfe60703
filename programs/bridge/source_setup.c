/*-------------------------------------------------------------------------
 *
 * source_setup.c
 *	  From a new connection to the server to the first look at events.
 *
 * 1. The session is set up, so that what a role or a database may have set does not
 *	  stop it.
 *
 * 2. Is the subscription there, and may it be read?  If not, the program ends when it
 *	  has not read any event yet; later, it tries again.
 *
 * 3. The session takes the lock that tells whose turn it is; see source.c.
 *
 * 4. A temporary subscription is refused, as far as that can be seen.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge/bridge.h"
#include "bridge/source_internal.h"
#include "common/log.h"
#include "common/memory.h"

/*
 * The connection stands.  What a role or a database may have set must not stop
 * it, and a server whose bridge has died should find out soon.
 */
void
source_connected(Server *server)
{
	(void) server;
	bridge.counters.server_connects++;
	source.application[0] = '\0';
	source_send(STEP_SETUP,
				"SET statement_timeout = 0; SET lock_timeout = 0;"
				" SET idle_session_timeout = 0; SET search_path = pg_catalog;"
				" SET client_connection_check_interval = '2s';"
				" SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5;"
				" SET tcp_keepalives_count = 3; SET tcp_user_timeout = '15s';"
				" SET default_transaction_isolation = 'read committed';"
				" SET default_transaction_read_only = off;"
				" SET synchronous_commit = off; SET timezone = 'UTC';"
				" SELECT pg_is_in_recovery(),"
				" (SELECT system_identifier FROM pg_control_system()),"
				" (SELECT oid FROM pg_database WHERE datname = current_database())",
				ANSWER_SECONDS);
}

/* See whether the subscription is there and may be read, whoever reads it now. */
static void
probe(void)
{
	char		query[512];
	char	   *name = source_quote(bridge.options.subscription);

	snprintf(query, sizeof(query),
			 "SELECT count(*), has_table_privilege('pgpubsub.subscription', 'SELECT')"
			 " FROM pgpubsub.poll(%s, 1, consume => false)", name);
	PQfreemem(name);
	source_send(STEP_PROBE, query, ANSWER_SECONDS);
}

/* Try to be the subscription's bridge. */
void
source_try_lock(void)
{
	char		query[1024];
	char	   *name = source_quote(bridge.options.subscription);

	snprintf(query, sizeof(query),
			 "SELECT pg_try_advisory_lock(k),"
			 " (SELECT format('process %%s of role %%s', l.pid, a.usename)"
			 " FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)"
			 " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
			 " AND l.database = a.datid AND a.datname = current_database()"
			 " AND l.classid = ((k >> 32) & 4294967295)::oid"
			 " AND l.objid = (k & 4294967295)::oid LIMIT 1)"
			 " FROM hashtextextended('pgpubsub-bridge ' || %s, 0) AS k", name);
	PQfreemem(name);
	source_send(STEP_LOCK, query, ANSWER_SECONDS);
}

/*
 * A temporary subscription ends with its session, and is not one to build on.  Only
 * who may read the table of the others can tell.
 */
static void
ask_kind(void)
{
	char		query[512];
	char	   *name = source_quote(bridge.options.subscription);

	snprintf(query, sizeof(query),
			 "SELECT EXISTS (SELECT FROM pgpubsub.subscription WHERE name = %s),"
			 " EXISTS (SELECT FROM pgpubsub.stat_subscriptions WHERE subscription = %s"
			 " AND datname = current_database())", name, name);
	PQfreemem(name);
	source_send(STEP_KIND, query, ANSWER_SECONDS);
}

/* The setup's answer; false if the connection is of no use. */
static bool
take_setup(const PGresult *result)
{
	char		origin[100];

	if (strcmp(PQgetvalue(result, 0, 0), "t") == 0)
	{
		server_lost(&source.server, "the server is a standby");
		return false;
	}
	snprintf(origin, sizeof(origin), "%s-%s", PQgetvalue(result, 0, 1),
			 PQgetvalue(result, 0, 2));
	free(source.origin);
	source.origin = memory_copy_string(origin);
	source.setting.origin = source.origin;
	return true;
}

/* The lock's answer. */
static void
take_lock(const PGresult *result)
{
	if (strcmp(PQgetvalue(result, 0, 0), "t") == 0)
	{
		source.state = SOURCE_UP;
		source.more = true;
		source.retry = false;
		source.standby_told = false;
		return;
	}
	source.state = SOURCE_STANDBY;
	outbox_drop_unsent();
	if (!source.standby_told)
		log_line(LOG_LEVEL_INFO, "another bridge reads subscription \"%s\" (%s); this one takes over when that has ended",
				 bridge.options.subscription,
				 PQgetisnull(result, 0, 1) ? "it has just ended" : PQgetvalue(result, 0, 1));
	source.standby_told = true;
	bridge_ready();
}

/* Is there no use in trying again? */
static bool
is_final(const char *state)
{
	static const char *const states[] = {"42704", "42501", "42883", "42P01", "3F000", "0A000", "22023"};

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
	{
		if (strcmp(state, states[i]) == 0)
			return true;
	}
	return false;
}

/* An error has come; false if the connection is of no use then. */
bool
source_error(const PGresult *result)
{
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	char		text[800];

	if (state == NULL || message == NULL)
	{
		server_lost(&source.server, PQresultErrorMessage(result));
		return false;
	}
	snprintf(text, sizeof(text), "%s%s%s%s%s", message, detail != NULL ? "; " : "",
			 detail != NULL ? detail : "", hint != NULL ? "; " : "", hint != NULL ? hint : "");
	if (strcmp(state, "55006") == 0 && source.step == STEP_PROBE)
		return true;
	if (strcmp(state, "55006") == 0 && (source.step == STEP_LOOK || source.step == STEP_ACK))
	{
		if (!source.in_use_told)
			log_line(LOG_LEVEL_WARNING, "%s; the bridge tries again", text);
		source.in_use_told = source.retry = true;
		/* what was acknowledged in the same query is undone with it */
		source.ack_pending |= source.ack_under_way;
		source.ack_under_way = false;
		return true;
	}
	if (!source.looked_once && source.step != STEP_SETUP && is_final(state))
		log_fatal("cannot read subscription \"%s\": %s", bridge.options.subscription, text);
	server_lost(&source.server, text);
	return false;
}

/* The step of the setup is over: begin the next one; false if there is none. */
bool
source_setup_step(SourceStep step)
{
	switch (step)
	{
		case STEP_SETUP:
			probe();
			return true;
		case STEP_PROBE:
			source_try_lock();
			return true;
		case STEP_LOCK:
			if (source.state != SOURCE_UP || !source.may_ask || source.looked_once)
				return false;
			ask_kind();
			return true;
		default:
			return false;
	}
}

/* A step's rows have come; false if the connection is of no use. */
bool
source_setup_result(const PGresult *result)
{
	switch (source.step)
	{
		case STEP_SETUP:
			return take_setup(result);
		case STEP_PROBE:
			source.may_ask = strcmp(PQgetvalue(result, 0, 1), "t") == 0;
			return true;
		case STEP_LOCK:
			take_lock(result);
			return true;
		case STEP_KIND:
			if (strcmp(PQgetvalue(result, 0, 0), "t") != 0 &&
				strcmp(PQgetvalue(result, 0, 1), "t") == 0)
				log_fatal("cannot read subscription \"%s\": it is temporary, and ends with its session",
						  bridge.options.subscription);
			return true;
		default:
			return true;
	}
}

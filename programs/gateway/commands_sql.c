/*-------------------------------------------------------------------------
 *
 * commands_sql.c
 *	  What a unit says to the server: see commands.c.
 *
 * Each unit is a few statements with parameters, which libpq queues; commands.c puts
 * a Sync behind them, and takes their answers.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/commands_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/memory.h"
#include "gateway/channels.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/marks.h"
#include "gateway/stream.h"

/* How long publish() may wait for room in a full queue. */
#define PUBLISH_TIMEOUT "1s"

/* Give libpq a statement with parameters. */
static bool
send_statement(PGconn *conn, const char *query, int count, const char *const *values)
{
	return PQsendQueryParams(conn, query, count, NULL, values,
							 NULL, NULL, 0);
}

/* Notify, or publish, what the client's transaction does. */
static bool
send_notices(PGconn *conn, Notices *notices)
{
	int			pid = PQbackendPID(conn);
	const char *query = notices->publishes ?
		"SELECT pgpubsub.publish($1, $2::text)" : "SELECT pg_catalog.pg_notify($1, $2)";

	/* others wait behind it: it must not wait long for a full queue */
	if (notices->publishes &&
		!send_statement(conn, "SELECT set_config('pgpubsub.publish_timeout', '" PUBLISH_TIMEOUT
						"', true)", 0, NULL))
		return false;
	for (const Notice *notice = notices->first; notice != NULL; notice = notice->next)
	{
		const char *values[2] = {notice->channel, notice->payload};

		if (!send_statement(conn, query, 2, values))
			return false;
		gateway.counters.notified++;
		if (notices->client != NULL)
			channel_expect_echo(notice->channel, notice->payload, pid, notices->client);
	}
	return true;
}

/* Call a function with the subscription's name and an array of channels. */
static bool
send_names(PGconn *conn, const char *query, const char *const *names, int count)
{
	char	   *array = array_literal(names, count);
	const char *values[2] = {subscription_name(), array};
	bool		good = send_statement(conn, query, 2, values);

	free(array);
	return good;
}

/* Add the channels that are wanted, if there are any. */
static bool
send_add(PGconn *conn)
{
	int			count;
	const char **names;
	bool		good;

	/* a stream that comes back subscribes to what is effective, and no more */
	names = stream_is_up() ? channels_take_wanted(&count) : NULL;
	if (names == NULL)
		return true;
	good = send_names(conn, "SELECT pgpubsub.add_channels($1, $2::text[])", names, count);
	free(names);
	return good;
}

/* Drop the channels that are not. */
static bool
send_drop(PGconn *conn, Unit *unit)
{
	unit->names = channels_take_dropped(&unit->name_count);
	return unit->names == NULL ||
		send_names(conn, "SELECT pgpubsub.drop_channels($1, $2::text[])",
				   (const char *const *) unit->names, unit->name_count);
}

/* Notify the gateway itself. */
static bool
send_mark(PGconn *conn)
{
	char		payload[64];
	const char *values[2] = {subscription_name(), payload};
	uint64_t	number = 0;

	(void) marks_take(&number);
	mark_payload(number, payload, sizeof(payload));
	return send_statement(conn, "SELECT pg_catalog.pg_notify($1, $2)", 2, values);
}

/* Ask which of the roles that clients have may not connect any more. */
static bool
send_roles(PGconn *conn)
{
	int			count;
	const char **names = roles_in_use(&count);
	char	   *array = array_literal(names, count);
	const char *values[1] = {array};
	bool		good;

	good = send_statement(conn, "SELECT used.name FROM unnest($1::text[]) AS used (name)"
						  " LEFT JOIN pg_catalog.pg_roles AS role ON role.rolname = used.name"
						  " WHERE role.oid IS NULL OR NOT role.rolcanlogin"
						  " OR role.rolvaliduntil < now()"
						  " OR NOT has_database_privilege(role.oid, current_database(), 'CONNECT')",
						  1, values);
	free(array);
	free(names);
	return good;
}

/* Ask a question whose parameter is how many rows there are to be at most. */
static bool
send_limited(PGconn *conn, const char *query)
{
	char		rows[24];
	const char *values[1] = {rows};

	snprintf(rows, sizeof(rows), "%lld", (long long) limits.metrics_rows);
	return send_statement(conn, query, 1, values);
}

/* Ask for the numbers of the channels, those on which most was published first. */
static bool
send_channel_stats(PGconn *conn)
{
	return send_limited(conn, "SELECT channel, subscriptions, messages, published, published_bytes,"
						" delivered, lost, truncated, count(*) OVER ()"
						" FROM pgpubsub.stat_channels WHERE datname = current_database()"
						" ORDER BY published DESC, channel LIMIT $1::int8");
}

/* Ask for the numbers of the subscriptions, those furthest behind first. */
static bool
send_subscription_stats(PGconn *conn)
{
	return send_limited(conn, "SELECT subscription, pending, pending_bytes,"
						" coalesce(extract(epoch FROM now() - oldest_pending_at), 0),"
						" delivered, delivered_bytes, lost, polls, empty_polls, count(*) OVER ()"
						" FROM pgpubsub.stat_subscriptions WHERE datname = current_database()"
						" ORDER BY pending DESC, delivered DESC, subscription LIMIT $1::int8");
}

/* Ask which of the roles that look at the page may read the views it is made of. */
static bool
send_monitors(PGconn *conn)
{
	int			count;
	const char **names = page_roles(&count);
	char	   *array = array_literal(names, count);
	const char *values[1] = {array};
	bool		good;

	good = send_statement(conn, "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY ($1::text[])"
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
send_page(PGconn *conn)
{
	return send_statement(conn,
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

/* Give the unit to the connection, which is in pipeline mode; false if it cannot take it. */
bool
unit_send(PGconn *conn, Unit *unit)
{
	const char *name = subscription_name();

	switch (unit->kind)
	{
		case UNIT_NOTICES:
			return send_notices(conn, (Notices *) unit);
		case UNIT_ADD:
			return send_add(conn);
		case UNIT_DROP:
			return send_drop(conn, unit);
		case UNIT_MARK:
			return send_mark(conn);
		case UNIT_ROLES:
			return send_roles(conn);
		case UNIT_CHANNEL_STATS:
			return send_channel_stats(conn);
		case UNIT_SUBSCRIPTION_STATS:
			return send_subscription_stats(conn);
		case UNIT_MONITORS:
			return send_monitors(conn);
		case UNIT_PAGE:
			return send_page(conn);
		case UNIT_UNSUBSCRIBE:
			return send_statement(conn, "SELECT pgpubsub.unsubscribe($1)", 1, &name);
	}
	return false;
}

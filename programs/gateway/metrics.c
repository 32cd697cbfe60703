/*-------------------------------------------------------------------------
 *
 * metrics.c
 *	  GET /metrics: numbers in Prometheus' text format, version 0.0.4.
 *
 * The gateway's own are of this moment.  Those of the extension's views are asked
 * for at most once a second, however many ask; what the gateway's role may not see
 * (it needs pg_monitor) is left out, and so is all of it while the server is away:
 * pgpubsub_stats_up says whether they are there.  Whoever may publish can make up
 * channels, so that so many only have numbers as metrics-rows says.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "gateway/channels.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/history.h"
#include "gateway/http.h"
#include "gateway/stream.h"

/* Numbers of the views may be so old, in ms. */
#define STATS_MS 1000

/* How long to wait for the server, in seconds. */
#define WAIT_SECONDS 5

static const char content_type[] = "text/plain; version=0.0.4; charset=utf-8";

static ListNode waits;			/* of clients who wait for the views' numbers */
static Bytes stats_text;		/* these, as text */
static bool stats_good;			/* they could be read, the last time */
static uint64_t stats_at;		/* ms; 0: never */

/* A metric that is a column of a view. */
typedef struct ViewMetric
{
	int			column;
	const char *name;
	const char *type;
	const char *help;
} ViewMetric;

/* Add a string without its end. */
static void
add_text(Bytes *text, const char *string)
{
	bytes_append(text, string, strlen(string));
}

/* What a metric is. */
static void
add_head(Bytes *text, const char *name, const char *type, const char *help)
{
	char		line[300];

	snprintf(line, sizeof(line), "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
	add_text(text, line);
}

/* A metric with one number. */
static void
add_number(Bytes *text, const char *name, const char *type, const char *help,
		   uint64_t number)
{
	char		line[200];

	add_head(text, name, type, help);
	snprintf(line, sizeof(line), "%s %" PRIu64 "\n", name, number);
	add_text(text, line);
}

/* A label's value, in which some characters are written otherwise. */
static void
add_label(Bytes *text, const char *value)
{
	for (; *value != '\0'; value++)
	{
		if (*value == '\n')
			add_text(text, "\\n");
		else
		{
			if (*value == '\\' || *value == '"')
				bytes_append_byte(text, '\\');
			bytes_append_byte(text, *value);
		}
	}
}

/* A view's rows: a metric for each of those columns, labelled by the first one. */
static void
add_view(Bytes *text, const PGresult *rows, const char *label,
		 const ViewMetric *metrics, int count)
{
	for (int i = 0; i < count; i++)
	{
		const ViewMetric *metric = &metrics[i];

		add_head(text, metric->name, metric->type, metric->help);
		for (int row = 0; row < PQntuples(rows); row++)
		{
			if (PQgetisnull(rows, row, metric->column))
				continue;
			add_text(text, metric->name);
			bytes_append_byte(text, '{');
			add_text(text, label);
			add_text(text, "=\"");
			add_label(text, PQgetvalue(rows, row, 0));
			add_text(text, "\"} ");
			add_text(text, PQgetvalue(rows, row, metric->column));
			bytes_append_byte(text, '\n');
		}
	}
}

/* How many rows the view has, of which perhaps not all were told: that is in a column. */
static void
add_row_count(Bytes *text, const PGresult *rows, int column, const char *name,
			  const char *help)
{
	uint64_t	count = PQntuples(rows) == 0 ? 0 :
		strtoull(PQgetvalue(rows, 0, column), NULL, 10);

	add_number(text, name, "gauge", help, count);
}

/* Write down the views' numbers. */
static void
write_stats(const Stats *stats)
{
	static const ViewMetric channel_metrics[] = {
		{1, "pgpubsub_channel_subscriptions", "gauge", "Subscriptions that read the channel."},
		{2, "pgpubsub_channel_messages", "gauge", "Events of the channel in the queue."},
		{3, "pgpubsub_channel_published_total", "counter", "Events that were queued."},
		{4, "pgpubsub_channel_published_bytes_total", "counter", "Bytes of their payloads."},
		{5, "pgpubsub_channel_delivered_total", "counter", "Events that subscriptions have consumed."},
		{6, "pgpubsub_channel_lost_total", "counter", "Events that subscriptions have missed."},
		{7, "pgpubsub_channel_truncated_total", "counter", "Events that were too long and were cut."},
	};
	static const ViewMetric subscription_metrics[] = {
		{1, "pgpubsub_subscription_pending", "gauge", "Events that wait for the subscription."},
		{2, "pgpubsub_subscription_pending_bytes", "gauge", "Bytes that wait for the subscription."},
		{3, "pgpubsub_subscription_lag_seconds", "gauge", "How long the oldest of these waits."},
		{4, "pgpubsub_subscription_delivered_total", "counter", "Events that it has consumed."},
		{5, "pgpubsub_subscription_delivered_bytes_total", "counter", "Bytes of their payloads."},
		{6, "pgpubsub_subscription_lost_total", "counter", "Events that it has missed."},
		{7, "pgpubsub_subscription_polls_total", "counter", "Calls of poll()."},
		{8, "pgpubsub_subscription_empty_polls_total", "counter", "Calls of poll() that had nothing."},
	};

	bytes_free(&stats_text);
	if (stats->channels != NULL)
	{
		add_view(&stats_text, stats->channels, "channel", channel_metrics,
				 sizeof(channel_metrics) / sizeof(channel_metrics[0]));
		add_row_count(&stats_text, stats->channels, 8, "pgpubsub_channels",
					  "Channels of the database; metrics-rows of them have numbers here.");
	}
	if (stats->subscriptions != NULL)
	{
		add_view(&stats_text, stats->subscriptions, "subscription", subscription_metrics,
				 sizeof(subscription_metrics) / sizeof(subscription_metrics[0]));
		add_row_count(&stats_text, stats->subscriptions, 9, "pgpubsub_subscriptions",
					  "Subscriptions of the database; metrics-rows of them have numbers here.");
	}
	stats_good = stats->channels != NULL && stats->subscriptions != NULL;
}

/* How many clients have logged in, or stream, on each face. */
static void
add_clients(Bytes *text)
{
	char		line[200];
	int			postgresql = 0;
	int			http = 0;
	int			streams = 0;

	for (const ListNode *node = all_clients.next; node != &all_clients; node = node->next)
	{
		const Client *client = list_container(Client, link, node);

		if (client->http == NULL)
			postgresql++;
		else
			http++;
		if (client->http != NULL && client->http->phase == HTTP_STREAM)
			streams++;
	}
	add_head(text, "pgpubsub_gateway_clients", "gauge", "Connections of clients.");
	snprintf(line, sizeof(line),
			 "pgpubsub_gateway_clients{face=\"postgresql\"} %d\n"
			 "pgpubsub_gateway_clients{face=\"http\"} %d\n", postgresql, http);
	add_text(text, line);
	add_number(text, "pgpubsub_gateway_streams", "gauge",
			   "HTTP connections on which events are streamed.", streams);
}

/* What the gateway itself knows. */
static void
add_own(Bytes *text)
{
	const Counters *counters = &gateway.counters;
	static const char counter[] = "counter";
	static const char gauge[] = "gauge";

	add_clients(text);
	add_number(text, "pgpubsub_gateway_connections_total", counter,
			   "Connections that were accepted.", counters->accepted);
	add_number(text, "pgpubsub_gateway_logins_total", counter,
			   "Logins by password that were let in.", counters->logins);
	add_number(text, "pgpubsub_gateway_failed_logins_total", counter,
			   "Logins and tokens that were refused.", counters->failed_logins);
	add_number(text, "pgpubsub_gateway_http_requests_total", counter,
			   "Requests over HTTP.", counters->requests);
	add_number(text, "pgpubsub_gateway_events_total", counter,
			   "Events that came from the server.", counters->events);
	add_number(text, "pgpubsub_gateway_deliveries_total", counter,
			   "Events that were given to clients.", counters->deliveries);
	add_number(text, "pgpubsub_gateway_resumed_total", counter,
			   "Events among them that the server had to tell once more.", counters->resumed);
	add_number(text, "pgpubsub_gateway_notified_total", counter,
			   "Events that clients have published.", counters->notified);
	add_number(text, "pgpubsub_gateway_too_slow_total", counter,
			   "How often a client was too slow.", counters->too_slow);
	add_number(text, "pgpubsub_gateway_dropped_total", counter,
			   "Events that slow HTTP clients have lost.", counters->stream_lost);
	add_number(text, "pgpubsub_gateway_stream_gaps_total", counter,
			   "Gap events that HTTP clients were told.", counters->stream_gaps);
	add_number(text, "pgpubsub_gateway_upstream_gaps_total", counter,
			   "Gaps in what came from the server.", counters->gaps);
	add_number(text, "pgpubsub_gateway_upstream_up", gauge,
			   "Whether events come from the server now.", stream_is_up() ? 1 : 0);
	add_number(text, "pgpubsub_gateway_last_seq", gauge,
			   "The seq of the last event that came.", stream_last_seq());
	add_number(text, "pgpubsub_gateway_channels", gauge,
			   "Channels that the gateway is subscribed to.", channels_count());
	add_number(text, "pgpubsub_gateway_history_bytes", gauge,
			   "Bytes of the events that are kept for clients that are behind.", history_bytes());
	add_number(text, "pgpubsub_gateway_waiting_commits", gauge,
			   "Transactions that wait for the server.", commands_waiting());
	add_number(text, "pgpubsub_stats_up", gauge,
			   "Whether the numbers of the server's views are here.",
			   stats_good ? 1 : 0);
}

/* Tell the client what is known. */
void
metrics_answer(Client *client)
{
	Bytes		text = {0};

	if (stats_at + STATS_MS + WAIT_SECONDS * 1000 < gateway_now())
		stats_good = false;
	add_own(&text);
	if (stats_good || stats_at + STATS_MS >= gateway_now())
		bytes_append(&text, stats_text.data + stats_text.begin, bytes_length(&stats_text));
	client_deadline(client, 0);
	http_reply(client, 200, content_type, text.data + text.begin, bytes_length(&text));
	bytes_free(&text);
}

/* The server has told the views' numbers. */
void
metrics_stats(const Stats *stats)
{
	ListNode   *node;

	stats_at = gateway_now();
	write_stats(stats);
	while (waits.next != NULL && (node = list_take_first(&waits)) != NULL)
		metrics_answer(list_container(Http, link, node)->client);
}

/* GET /metrics, from somebody who may. */
void
metrics_request(Client *client)
{
	if (client->http->has_claims)
	{
		http_reply_error(client, 403, "a token says nothing of metrics; log in with a password");
		return;
	}
	if (waits.next == NULL)
		list_init(&waits);
	if ((stats_at != 0 && stats_at + STATS_MS > gateway_now()) || !commands_stats())
	{
		metrics_answer(client);
		return;
	}
	list_append(&waits, &client->http->link);
	client_deadline(client, WAIT_SECONDS);
	client_set_state(client, CLIENT_WAITING);
}

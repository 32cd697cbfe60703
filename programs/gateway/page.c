/*-------------------------------------------------------------------------
 *
 * page.c
 *	  GET /: a page that shows what goes on, and GET /stats: what it shows.
 *
 * 1. The page is one file, page.html, which is part of the program.  Its script and
 *	  its style are in it; the answer's Content-Security-Policy has their hashes,
 *	  and lets the browser run nothing else and ask nobody else.
 *
 * 2. /stats is one JSON object, or a stream of them (Server-Sent Events), one a
 *	  second, if the request accepts text/event-stream.  The server is asked once
 *	  a second at most, however many look, and not at all while nobody does.
 *
 * 3. Both are for roles that may read the views (pg_monitor), and for tokens with
 *	  the claim monitor.  The server says so of the roles in each look, so that a
 *	  stream ends within a second or two of the role's being revoked.
 *
 * 4. Who takes nothing gets nothing more, until it does or its time is over: at most
 *	  one object waits for a client.
 *
 *-------------------------------------------------------------------------
 */
#include <jansson.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/memory.h"
#include "gateway/channels.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/history.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/stream.h"

/* Between two looks, in ms. */
#define LOOK_MS 1000

/* How long the server may take before who looks is told, in ms. */
#define LATE_MS 3000

/* How long a request waits for the server, in seconds. */
#define WAIT_SECONDS 5

/* Greater integers are strings in JSON, as JavaScript has no such numbers. */
#define LARGEST_NUMBER INT64_C(9007199254740991)

/* page.html, with a zero behind it; the Makefile makes it. */
extern const char page_html[];
extern const size_t page_html_length;

static char page_headers[512];	/* of the page's answer */
static ListNode waits;			/* of requests that wait for a look */
static ListNode watchers;		/* of streams */
static uv_timer_t look_timer;	/* runs while there is any of these */
static uint64_t looked_at;		/* ms; 0: never */
static uint64_t asked_at;		/* ms; when what is not answered was asked; 0:
								 * all is */
static uint64_t answered_at;	/* ms; when the server has said something */
static PGresult *monitors;		/* the roles that may look, as of then */
static json_t * stats;			/* what the server has said then, or NULL */
static char *why_none;			/* or why not */

/* May the client's role look, as of the last answer? */
static bool
is_monitor(const Client *client)
{
	for (int i = 0; client->role != NULL && i < PQntuples(monitors); i++)
	{
		if (strcmp(PQgetvalue(monitors, i, 0), client->role->name) == 0)
			return true;
	}
	return false;
}

/* Is what the server has said last of just now? */
static bool
is_fresh(void)
{
	return answered_at != 0 && answered_at + LOOK_MS > gateway_now();
}

/* Write integers that JavaScript would round as strings. */
static json_t *
without_large_numbers(json_t * value)
{
	const char *key;
	json_t	   *member;
	void	   *next;
	size_t		i;
	char		number[24];

	if (json_is_integer(value) && (json_integer_value(value) > LARGEST_NUMBER ||
								   json_integer_value(value) < -LARGEST_NUMBER))
	{
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		json_decref(value);
		return json_string(number);
	}
	json_object_foreach_safe(value, next, key, member)
		json_object_set_new(value, key, without_large_numbers(json_incref(member)));
	json_array_foreach(value, i, member)
		json_array_set_new(value, i, without_large_numbers(json_incref(member)));
	return value;
}

/* What the gateway itself knows. */
static json_t *
own_numbers(void)
{
	const Counters *counters = &gateway.counters;
	json_int_t	postgresql = 0;
	json_int_t	http = 0;
	json_int_t	streams = 0;

	for (const ListNode *node = all_clients.next; node != &all_clients; node = node->next)
	{
		const Client *client = list_container(Client, link, node);

		if (client->http == NULL)
			postgresql++;
		else
			http++;
		if (client->http != NULL && client->http->stream != NULL)
			streams++;
	}
	return json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I,"
					 " s:I, s:I, s:I, s:I}",
					 "name", subscription_name(),
					 "up", (int) stream_is_up(),
					 "postgresql_clients", postgresql,
					 "http_clients", http,
					 "streams", streams,
					 "logins", (json_int_t) counters->logins,
					 "failed_logins", (json_int_t) counters->failed_logins,
					 "events", (json_int_t) counters->events,
					 "deliveries", (json_int_t) counters->deliveries,
					 "notified", (json_int_t) counters->notified,
					 "too_slow", (json_int_t) counters->too_slow,
					 "lost", (json_int_t) counters->stream_lost,
					 "stream_gaps", (json_int_t) counters->stream_gaps,
					 "gaps", (json_int_t) counters->gaps,
					 "channels", (json_int_t) channels_count(),
					 "history_bytes", (json_int_t) history_bytes(),
					 "waiting", (json_int_t) commands_waiting());
}

/* The object, as text; to be freed. */
static char *
object_text(void)
{
	struct timespec now;
	json_t	   *object = json_object();
	char	   *text;

	clock_gettime(CLOCK_REALTIME, &now);
	json_object_set_new(object, "at", json_integer((json_int_t) now.tv_sec * 1000 +
												   now.tv_nsec / 1000000));
	json_object_set_new(object, "gateway", without_large_numbers(own_numbers()));
	json_object_set(object, "server", stats == NULL ? json_null() : stats);
	json_object_set_new(object, "error", why_none == NULL ? json_null() :
						json_string(why_none));
	text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return text == NULL ? memory_copy_string("{}") : text;
}

/* What was known of the server is not so any more. */
static void
forget_stats(const char *why)
{
	json_decref(stats);
	stats = NULL;
	free(why_none);
	why_none = memory_copy_string(why);
}

/* Does the client take nothing for too long?  May more be sent? */
static bool
takes(Client *client)
{
	Http	   *http = client->http;

	if (client->out.bytes == 0)
	{
		http->stuck_at = 0;
		return true;
	}
	if (http->stuck_at == 0)
		http->stuck_at = gateway_now();
	else if (http->stuck_at + limits.http_write_timeout * 1000 <= gateway_now())
		client_close(client, "closed: it takes nothing (http-write-timeout)");
	return false;
}

/* Put the object into the queues of those who watch and take it. */
static void
tell_watchers(void)
{
	char	   *text;
	size_t		length;
	Piece	   *piece;
	ListNode   *next;

	if (list_is_empty(&watchers))
		return;
	text = object_text();
	length = strlen(text);
	piece = piece_make(length + 8);
	memcpy(piece->data, "data: ", 6);
	memcpy(piece->data + 6, text, length);
	memcpy(piece->data + 6 + length, "\n\n", 2);
	free(text);
	for (ListNode *node = watchers.next; node != &watchers; node = next)
	{
		Client	   *client = list_container(Http, link, node)->client;

		next = node->next;
		if (!takes(client))
			continue;
		queue_add_piece(&client->out, piece);
		client_touch(client);
	}
	piece_release(piece);
}

/* The answer's head, and the first object; the others come with each look. */
static void
begin_stream(Client *client)
{
	Http	   *http = client->http;
	int64_t		ends = http->has_claims ? http->claims.expires - (int64_t) time(NULL) : 0;
	char	   *text = object_text();

	http->phase = HTTP_STREAM;
	http->keep_alive = false;
	http->looked = false;
	http_reply_stream(client);
	queue_add_bytes(&client->out, "data: ", 6);
	queue_add_bytes(&client->out, text, strlen(text));
	queue_add_bytes(&client->out, "\n\n", 2);
	free(text);
	http_forget_head(http);
	list_append(&watchers, &http->link);
	client_touch(client);
	client_deadline(client, http->has_claims ? (ends > 0 ? ends : 1) : 0);
	client_set_state(client, CLIENT_READY);
}

/* Does the client accept a stream? */
static bool
accepts_events(const HttpRequest *request)
{
	static const char type[] = "text/event-stream";

	for (size_t i = 0; i + sizeof(type) - 1 <= request->accept.length; i++)
	{
		if (strncasecmp(request->accept.at + i, type, sizeof(type) - 1) == 0)
			return true;
	}
	return false;
}

static void look_soon(void);

/* Whoever asks may look: answer. */
static void
answer(Client *client)
{
	Http	   *http = client->http;
	char	   *text;

	list_remove(&http->link);
	client_deadline(client, 0);
	if (http->route == HTTP_PAGE)
		http_reply_with(client, 200, "text/html; charset=utf-8", page_headers,
						page_html, page_html_length);
	else if (http->request.method == HTTP_GET && accepts_events(&http->request))
	{
		begin_stream(client);
		look_soon();
	}
	else
	{
		text = object_text();
		http_reply_with(client, 200, "application/json",
						"Cross-Origin-Resource-Policy: same-origin\r\n", text, strlen(text));
		free(text);
	}
}

/* Whoever asks may not, or nobody knows. */
static void
refuse(Client *client, int status, const char *message)
{
	list_remove(&client->http->link);
	client_deadline(client, 0);
	http_reply_error(client, status, message);
}

/*
 * Answer those who wait and of whom it is known whether they may look.  If the server
 * could not say, those who have come with a token get what there is.
 */
static void
answer_waits(bool is_known)
{
	ListNode	left;
	ListNode   *node;

	/* an answer takes the client's next request, which may be one to wait */
	list_init(&left);
	list_move(&left, &waits);
	while ((node = list_take_first(&left)) != NULL)
	{
		Http	   *http = list_container(Http, link, node);

		list_append(&waits, node);
		if (http->has_claims)
			answer(http->client);
		else if (!is_known)
			refuse(http->client, 503, "the server cannot be asked who may look");
		else if (is_monitor(http->client))
			answer(http->client);
		else if (http->looked)
			refuse(http->client, 403, "the role is no member of pg_monitor");
	}
}

/* End the streams of roles that may not look any more. */
static void
end_watchers(void)
{
	ListNode   *next;

	for (ListNode *node = watchers.next; node != &watchers; node = next)
	{
		Http	   *http = list_container(Http, link, node);

		next = node->next;
		if (!http->has_claims && http->looked && !is_monitor(http->client))
			client_end(http->client, NULL, "ended: its role is no member of pg_monitor any more");
	}
}

/* A second has passed. */
static void
look(uv_timer_t *timer)
{
	if (list_is_empty(&waits) && list_is_empty(&watchers))
	{
		uv_timer_stop(timer);
		return;
	}
	if (!commands_page())
	{
		forget_stats("the server cannot be reached");
		tell_watchers();
		answer_waits(false);
	}
	else if (asked_at == 0)
		asked_at = gateway_now();
	else if (asked_at + LATE_MS <= gateway_now())
	{
		forget_stats("the server does not answer");
		tell_watchers();
	}
	looked_at = gateway_now();
}

/* Have a look soon, and again while anybody waits or watches. */
static void
look_soon(void)
{
	uint64_t	now = gateway_now();
	uint64_t	at = looked_at == 0 ? now : looked_at + LOOK_MS;

	if (!uv_is_active((uv_handle_t *) &look_timer))
		uv_timer_start(&look_timer, look, at > now ? at - now : 0, LOOK_MS);
}

/* The roles of those who wait and watch, of whom the server is asked now; to be freed. */
const char **
page_roles(int *count)
{
	ListNode   *const heads[] = {&waits, &watchers};
	const char **names = memory_get((client_count + 1) * sizeof(char *));

	*count = 0;
	for (int i = 0; i < 2; i++)
	{
		for (ListNode *node = heads[i]->next; node != heads[i]; node = node->next)
		{
			Http	   *http = list_container(Http, link, node);

			if (http->has_claims || http->client->role == NULL)
				continue;
			http->looked = true;
			names[(*count)++] = http->client->role->name;
		}
	}
	return names;
}

/* The server has said which of page_roles() may look, and what there is to see. */
void
page_answered(const PGresult *roles, const PGresult *rows, const Report *why)
{
	json_t	   *object = rows == NULL || PQntuples(rows) != 1 ? NULL :
		json_loads(PQgetvalue(rows, 0, 0), 0, NULL);

	PQclear(monitors);
	monitors = roles == NULL ? NULL :
		PQcopyResult(roles, PG_COPYRES_ATTRS | PG_COPYRES_TUPLES);
	answered_at = gateway_now();
	asked_at = 0;
	forget_stats(why == NULL ? "the server has said nothing" : why->message);
	if (object != NULL && monitors != NULL)
	{
		stats = without_large_numbers(object);
		free(why_none);
		why_none = NULL;
	}
	else
		json_decref(object);
	if (monitors != NULL)
		end_watchers();
	tell_watchers();
	answer_waits(monitors != NULL);
}

/* GET / or /stats, from somebody who is known. */
void
page_request(Client *client)
{
	Http	   *http = client->http;

	if (http->has_claims && !http->claims.monitor)
	{
		http_reply_error(client, 403, "the token does not let you look (monitor)");
		return;
	}
	if (http->has_claims ? http->route == HTTP_PAGE || is_fresh() :
		is_fresh() && is_monitor(client))
	{
		answer(client);
		return;
	}
	http->looked = false;
	list_append(&waits, &http->link);
	client_deadline(client, WAIT_SECONDS);
	client_set_state(client, CLIENT_WAITING);
	look_soon();
}

/* The request has waited long enough, or the stream's token has expired. */
void
page_timed_out(Client *client)
{
	Http	   *http = client->http;

	if (http->phase == HTTP_STREAM)
		client_end(client, NULL, "ended: its token has expired");
	else if (http->has_claims)
		answer(client);
	else
		refuse(client, 503, "the server has not said in time whether you may look");
}

/* Add what stands in the element to those that the browser may run, or lay out by. */
static void
add_hash(const char *directive, const char *begin, const char *end)
{
	const char *from = strstr(page_html, begin) + strlen(begin);
	unsigned char hash[SHA256_DIGEST_LENGTH];
	char		text[64];
	size_t		length = strlen(page_headers);

	SHA256((const unsigned char *) from, strstr(from, end) - from, hash);
	EVP_EncodeBlock((unsigned char *) text, hash, sizeof(hash));
	snprintf(page_headers + length, sizeof(page_headers) - length, "; %s 'sha256-%s'",
			 directive, text);
}

/* To be called once, when the loop stands. */
void
page_init(void)
{
	size_t		length;

	list_init(&waits);
	list_init(&watchers);
	uv_timer_init(&gateway.loop, &look_timer);
	snprintf(page_headers, sizeof(page_headers),
			 "Content-Security-Policy: default-src 'none'; connect-src 'self';"
			 " base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
	add_hash("style-src", "<style>", "</style>");
	add_hash("script-src", "<script>", "</script>");
	length = strlen(page_headers);
	snprintf(page_headers + length, sizeof(page_headers) - length,
			 "\r\nReferrer-Policy: no-referrer\r\n"
			 "Cross-Origin-Resource-Policy: same-origin\r\n");
}

/*-------------------------------------------------------------------------
 *
 * http_reply.c
 *	  Answers over HTTP, and who may see them in a browser.
 *
 * An error's body is a JSON object whose member "error" says what is wrong.
 *
 *-------------------------------------------------------------------------
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "gateway/gateway.h"
#include "gateway/http.h"

/* The status's name. */
const char *
http_reason(int status)
{
	static const struct
	{
		int			status;
		const char *reason;
	}			reasons[] = {
		{200, "OK"}, {204, "No Content"}, {400, "Bad Request"}, {401, "Unauthorized"},
		{403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"},
		{408, "Request Timeout"}, {413, "Content Too Large"},
		{415, "Unsupported Media Type"}, {417, "Expectation Failed"},
		{429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"}, {501, "Not Implemented"},
		{503, "Service Unavailable"}, {504, "Gateway Timeout"},
		{505, "HTTP Version Not Supported"},
	};

	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
	{
		if (reasons[i].status == status)
			return reasons[i].reason;
	}
	return "Unknown";
}

/* The status that tells most of what the report does. */
int
http_status_of(const Report *report)
{
	static const struct
	{
		const char *sqlstate;	/* or its beginning */
		int			status;
	}			statuses[] = {
		{"28", 401}, {"3D", 503}, {"42501", 403}, {"53400", 429}, {"08007", 504},
		{"08P", 400}, {"22", 400}, {"54", 413}, {"53", 503}, {"55", 503}, {"57", 503},
		{"08", 503},
	};

	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
	{
		if (strncmp(report->sqlstate, statuses[i].sqlstate,
					strlen(statuses[i].sqlstate)) == 0)
			return statuses[i].status;
	}
	return 500;
}

/* Add a string without its end. */
static void
add_text(Bytes *text, const char *string)
{
	bytes_append(text, string, strlen(string));
}

/* Is the origin one of those of --cors-origin? */
static bool
is_allowed_origin(HttpText origin)
{
	static const char between[] = ", \t";
	const char *list = gateway.options.cors_origin;

	if (list == NULL || origin.at == NULL)
		return false;
	for (list += strspn(list, between); *list != '\0'; list += strspn(list, between))
	{
		size_t		length = strcspn(list, between);

		if (length == origin.length && memcmp(list, origin.at, length) == 0)
			return true;
		list += length;
	}
	return false;
}

/*
 * May the page that asks, if it is one, do so?  It may if it comes from here or from
 * one of the origins of --cors-origin; without an Origin header it is no page.
 */
bool
http_origin_may(const Client *client)
{
	const HttpRequest *request = &client->http->request;
	HttpText	origin = request->origin;
	HttpText	host = request->host;
	const char *scheme = client->transport.ssl == NULL ? "http://" : "https://";
	size_t		length = strlen(scheme);

	if (origin.at == NULL || is_allowed_origin(origin))
		return true;
	return host.at != NULL && origin.length == length + host.length &&
		memcmp(origin.at, scheme, length) == 0 &&
		memcmp(origin.at + length, host.at, host.length) == 0;
}

/* The first line, and what a browser needs to show the answer to a page. */
static void
begin_head(const Client *client, Bytes *head, int status)
{
	HttpText	origin = client->http->request.origin;
	char		line[100];

	snprintf(line, sizeof(line), "HTTP/1.1 %d %s\r\n", status, http_reason(status));
	add_text(head, line);
	if (gateway.options.cors_origin != NULL)
		add_text(head, "Vary: Origin\r\n");
	if (is_allowed_origin(origin))
	{
		add_text(head, "Access-Control-Allow-Origin: ");
		bytes_append(head, origin.at, origin.length);
		add_text(head, "\r\nAccess-Control-Allow-Credentials: true\r\n");
	}
	add_text(head, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
}

/* Put a head, and perhaps a body, into the client's queue. */
static void
send_answer(Client *client, Bytes *head, const char *body, size_t length)
{
	queue_add_bytes(&client->out, head->data + head->begin, bytes_length(head));
	if (length > 0)
		queue_add_bytes(&client->out, body, length);
	bytes_free(head);
	client_touch(client);
}

/* Put an answer into the client's queue, and no more. */
static void
say(Client *client, int status, const char *type, const char *more,
	const char *body, size_t length)
{
	Bytes		head = {0};
	char		line[200];

	begin_head(client, &head, status);
	add_text(&head, more);
	if (type != NULL)
	{
		snprintf(line, sizeof(line), "Content-Type: %s\r\n", type);
		add_text(&head, line);
	}
	if (status != 204)
	{
		snprintf(line, sizeof(line), "Content-Length: %zu\r\n", length);
		add_text(&head, line);
	}
	add_text(&head, http_keeps(client) ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
	send_answer(client, &head, body,
				client->http->request.method == HTTP_HEAD ? 0 : length);
}

/* Answer the request, with further headers. */
void
http_reply_with(Client *client, int status, const char *type, const char *more,
				const char *body, size_t length)
{
	say(client, status, type, more, body, length);
	http_answered(client);
}

/* Answer the request. */
void
http_reply(Client *client, int status, const char *type, const char *body, size_t length)
{
	say(client, status, type, "", body, length);
	http_answered(client);
}

/* Put an error into the client's queue, and no more. */
void
http_say_error(Client *client, int status, const char *message)
{
	const char *more = "";
	json_t	   *object = json_pack("{s:s}", "error", message);
	char	   *body = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);

	if (status == 401)
		more = gateway.options.jwt == NULL ?
			"WWW-Authenticate: Basic realm=\"pgpubsub\", charset=\"UTF-8\"\r\n" :
			"WWW-Authenticate: Basic realm=\"pgpubsub\", charset=\"UTF-8\"\r\n"
			"WWW-Authenticate: Bearer realm=\"pgpubsub\"\r\n";
	else if (status == 405)
		more = client->http->route == HTTP_PUBLISH ? "Allow: POST, OPTIONS\r\n" :
			"Allow: GET, OPTIONS\r\n";
	else if (status == 503 || status == 429)
		more = "Retry-After: 1\r\n";
	say(client, status, "application/json", more, body == NULL ? "{}" : body,
		body == NULL ? 2 : strlen(body));
	free(body);
	json_decref(object);
}

/* Answer the request with an error. */
void
http_reply_error(Client *client, int status, const char *message)
{
	http_say_error(client, status, message);
	http_answered(client);
}

/* Answer a browser that asks whether a page may ask. */
void
http_reply_preflight(Client *client)
{
	if (!is_allowed_origin(client->http->request.origin))
	{
		http_reply_error(client, 403, "pages of this origin may not ask here (cors-origin)");
		return;
	}
	say(client, 204, NULL,
		"Access-Control-Allow-Methods: GET, POST\r\n"
		"Access-Control-Allow-Headers: Authorization, Content-Type, Last-Event-ID\r\n"
		"Access-Control-Max-Age: 600\r\n", NULL, 0);
	http_answered(client);
}

/* Begin a stream of events, which has the connection until its end. */
void
http_reply_stream(Client *client)
{
	Bytes		head = {0};

	begin_head(client, &head, 200);
	add_text(&head, "Content-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n"
			 "Connection: close\r\n\r\n");
	send_answer(client, &head, ":\n\n", 3);
}

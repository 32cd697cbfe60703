/*-------------------------------------------------------------------------
 *
 * http_publish.c
 *	  POST /publish.
 *
 * The body is an object with "channel" and "payload", or an array of such, which
 * are one transaction.  A payload that is no string is published as JSON.  The
 * answer comes when the server has committed: 200, or the error; or 504 if nobody
 * knows whether it has, as the connection was lost, or given up as no answers came.
 *
 *-------------------------------------------------------------------------
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/stream.h"

#define NAME_BYTES 63

typedef struct Publication
{
	Client	   *client;
	Notices    *notices;		/* with the server, or on the way there; or
								 * NULL */
	int			count;			/* of events */
} Publication;

/* The request goes, or is answered; what the server was asked to do, it does. */
void
publish_drop(Client *client)
{
	Publication *publication = client->http->publication;

	if (publication == NULL)
		return;
	client->http->publication = NULL;
	if (publication->notices != NULL)
		commands_forget(publication->notices);
	free(publication);
}

/* The server has committed, or not, as the report says. */
static void
published(void *context, const Report *report)
{
	Publication *publication = context;
	Client	   *client = publication->client;
	char		body[60];

	publication->notices = NULL;
	client_deadline(client, 0);
	if (report != NULL)
	{
		http_reply_error(client, http_status_of(report), report->message);
		return;
	}
	snprintf(body, sizeof(body), "{\"published\":%d}\n", publication->count);
	http_reply(client, 200, "application/json", body, strlen(body));
}

/*
 * The server takes too long.  What was sent there is waited for: see
 * commit_timed_out().
 */
void
publish_timed_out(Client *client)
{
	Publication *publication = client->http->publication;

	if (commands_withdraw(publication->notices))
	{
		publication->notices = NULL;
		http_reply_error(client, 503, "the server is busy, or cannot be reached; nothing was published");
	}
	else
		client_deadline(client, limits.server_timeout);
}

/*
 * Whose turn it is when the client publishes: its role's, or that of all tokens that
 * name the same subject.  To be freed.
 */
static char *
owner_of(const Client *client)
{
	const JwtClaims *claims = &client->http->claims;
	Bytes		owner = {0};

	if (!client->http->has_claims)
		return memory_copy_string(client->role->name);
	bytes_append(&owner, "token ", 6);
	bytes_append_string(&owner, claims->subject == NULL ? "" : claims->subject);
	return owner.data;
}

/* Is the name of a channel none?  Then why. */
static const char *
name_is_wrong(const char *channel)
{
	if (channel == NULL)
		return "each event needs a channel, which is a string";
	if (*channel == '\0' || strlen(channel) > NAME_BYTES)
		return "channel names have 1 to 63 bytes";
	if (strchr(channel, '*') != NULL || strcmp(channel, "pgpubsub") == 0 ||
		strcmp(channel, subscription_name()) == 0)
		return "this channel name is reserved";
	return NULL;
}

/* Add the event to what is published; the status with which it is refused, or 0. */
static int
add_event(Client *client, json_t * event, const char **why)
{
	Publication *publication = client->http->publication;
	const char *channel = json_string_value(json_object_get(event, "channel"));
	json_t	   *payload = json_object_get(event, "payload");
	char	   *text;

	*why = name_is_wrong(channel);
	if (*why != NULL)
		return 400;
	if (payload == NULL)
	{
		*why = "each event needs a payload";
		return 400;
	}
	if (!http_may_publish(client, channel))
	{
		*why = "the token does not let you publish on this channel";
		return 403;
	}
	text = json_is_string(payload) ? memory_copy_string(json_string_value(payload)) :
		json_dumps(payload, JSON_COMPACT | JSON_ENCODE_ANY);
	if (text == NULL)
	{
		*why = "this payload cannot be written as JSON";
		return 400;
	}
	commands_add(publication->notices, channel, text);
	free(text);
	publication->count++;
	return 0;
}

/* Add all events of the body; the status with which it is refused, or 0. */
static int
add_events(Client *client, json_t * body, const char **why)
{
	size_t		i;
	json_t	   *event;
	int			status = 0;

	if (json_is_object(body))
		return add_event(client, body, why);
	*why = "the body is an object with channel and payload, or an array of these";
	if (!json_is_array(body) || json_array_size(body) == 0)
		return 400;
	json_array_foreach(body, i, event)
	{
		if (status == 0)
			status = add_event(client, event, why);
	}
	return status;
}

/* Is the body said to be JSON?  A page cannot say that without being asked first. */
static bool
is_json(HttpText type)
{
	static const char json[] = "application/json";
	size_t		length = sizeof(json) - 1;

	return type.at != NULL && type.length >= length &&
		memcmp(type.at, json, length) == 0 &&
		(type.length == length || type.at[length] == ';' || type.at[length] == ' ');
}

/*
 * May whoever has sent the head of a POST /publish send the body?  False if the request
 * was refused.
 */
bool
publish_may(Client *client)
{
	const Http *http = client->http;

	if (http->has_claims && http->claims.publish_count == 0)
		http_reply_error(client, 403, "the token does not let you publish");
	else if (!is_json(http->request.content_type))
		http_reply_error(client, 415, "the body has to be application/json");
	else
		return true;
	return false;
}

/* POST /publish, with its body, whose sender may send it: see publish_may(). */
void
publish_request(Client *client, const char *body, size_t length)
{
	Http	   *http = client->http;
	const char *why = NULL;
	char	   *owner;
	json_t	   *json;
	int			status;

	http->publication = memory_get_zeroed(sizeof(Publication));
	http->publication->client = client;
	owner = owner_of(client);
	if (commands_are_full(owner))
	{
		free(owner);
		http_reply_error(client, 503, "too many transactions wait for the server (max-commits, max-role-commits, commit-memory)");
		return;
	}
	json = json_loadb(body, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
	http->publication->notices = commands_publish(owner, published, http->publication);
	free(owner);
	status = add_events(client, json, &why);
	json_decref(json);
	if (status != 0)
	{
		http_reply_error(client, status, why);
		return;
	}
	client_deadline(client, limits.server_timeout);
	client_set_state(client, CLIENT_WAITING);
	commands_send(http->publication->notices);
}

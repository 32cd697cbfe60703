/*-------------------------------------------------------------------------
 *
 * http.h
 *	  A client that has come over HTTP.
 *
 * Its Client has the socket, the buffers, the deadline and the state, as any
 * client's; what is HTTP's own is in its Http.
 *
 * http.c takes requests and says which file answers them, http_reply.c writes
 * answers, http_login.c knows who asks and what they may, and http_events.c,
 * http_publish.c, metrics.c and page.c answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_HTTP_H
#define GATEWAY_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/client.h"
#include "gateway/http_request.h"
#include "gateway/jwt.h"

/*
 * What is done with the connection.  The client's state is STARTUP in HEAD and
 * BODY; QUEUED or LOGIN while the server checks a password, and WAITING for all
 * else in BUSY; READY in STREAM.
 */
typedef enum HttpPhase
{
	HTTP_HEAD_PHASE,			/* a request's head is to come */
	HTTP_BODY_PHASE,			/* its body is */
	HTTP_BUSY,					/* it is being answered */
	HTTP_STREAM					/* events are sent for ever */
} HttpPhase;

typedef enum HttpRoute
{
	HTTP_EVENTS,
	HTTP_PUBLISH,
	HTTP_METRICS,
	HTTP_HEALTH,
	HTTP_PAGE,
	HTTP_STATS,
	HTTP_NOWHERE
} HttpRoute;

struct EventStream;
struct Publication;

typedef struct Http
{
	Client	   *client;
	HttpPhase	phase;
	char	   *head;			/* a copy, while the request is answered */
	HttpRequest request;		/* its texts are in head */
	HttpRoute	route;
	bool		keep_alive;
	bool		proven;			/* who has sent the last request may, by a
								 * token, or as it comes from here */
	uint64_t	known_at;		/* ms; since then the client is a stranger,
								 * unless it has a role, or proven */
	bool		head_begun;		/* some of the next request is there */
	ListNode	link;			/* of those who wait for metrics, or for
								 * page.c */
	bool		looked;			/* page.c: the server is asked about its role */
	uint64_t	stuck_at;		/* ms; page.c: it takes nothing since then; 0:
								 * it does */

	/* who asks */
	bool		has_claims;		/* by a token; else by a password */
	JwtClaims	claims;
	unsigned char proof[32];	/* a hash of what this connection's password
								 * was proven with, if the client has a role */

	struct EventStream *stream; /* or NULL */
	struct Publication *publication;	/* or NULL */
} Http;

/* http.c */
extern void http_begin(Client *client);
extern void http_drop(Client *client);
extern void http_forget_head(Http *http);
extern size_t http_take(Client *client, const char *bytes, size_t count);
extern bool http_wants_input(const Client *client);
extern bool http_is_known(const Client *client);
extern bool http_keeps(const Client *client);
extern void http_end(Client *client, const Report *report);
extern void http_timed_out(Client *client);
extern void http_sent(Client *client);
extern void http_answered(Client *client);
extern void http_route(Client *client);
extern void http_refuse_connection(int fd, int status);

/* http_reply.c */
extern void http_reply(Client *client, int status, const char *type,
					   const char *body, size_t length);
extern void http_reply_with(Client *client, int status, const char *type,
							const char *more, const char *body, size_t length);
extern void http_reply_error(Client *client, int status, const char *message);
extern void http_say_error(Client *client, int status, const char *message);
extern void http_reply_preflight(Client *client);
extern void http_reply_stream(Client *client);
extern int	http_status_of(const Report *report);
extern const char *http_reason(int status);
extern bool http_origin_may(const Client *client);

/* http_login.c */
extern bool http_authorize(Client *client);
extern void http_logged_in(Client *client);
extern bool http_may_read(const Client *client, const char *channel);
extern bool http_may_publish(const Client *client, const char *channel);
extern bool name_matches(const char *pattern, const char *name);

/* http_events.c */
extern void events_init(void);
extern void events_request(Client *client);
extern void events_drop(Client *client);
extern void events_timed_out(Client *client);

/* http_behind.c */
extern void events_deliver(Client *client, uint64_t number);
extern void events_gap(int64_t seq, int64_t lost, bool whole);
extern void events_forget(void);
extern void events_sent(Client *client);

/* http_publish.c */
extern bool publish_may(Client *client);
extern void publish_request(Client *client, const char *body, size_t length);
extern void publish_drop(Client *client);
extern void publish_timed_out(Client *client);

/* metrics.c */
extern void metrics_request(Client *client);
extern void metrics_answer(Client *client);

/* page.c */
extern void page_init(void);
extern void page_request(Client *client);
extern void page_timed_out(Client *client);

#endif

/*-------------------------------------------------------------------------
 *
 * login_internal.h
 *	  A login, for login.c, which knows what is said, and leg.c and probe.c, which
 *	  have the connection to the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LOGIN_INTERNAL_H
#define GATEWAY_LOGIN_INTERNAL_H

#include <libpq-fe.h>

#include "gateway/login.h"

typedef struct Login Login;

struct Login
{
	ListNode	link;			/* in the queue, while it waits */
	Client	   *client;
	bool		has_leg;
	Transport	transport;		/* of the leg */
	uv_poll_t	poll;
	Bytes		to_server;
	Bytes		from_server;
	bool		connected;
	bool		asks_tls;		/* the server is to say whether it has TLS */
	bool		wants_answer;	/* the server waits for the client */
	bool		challenged;		/* the server has asked for a proof */
	bool		answered;		/* and the client has given one */
	bool		authenticated;	/* AuthenticationOk has come */
	Settings   *settings;		/* the ParameterStatus */
	char	   *user;
	char	   *password;		/* over HTTP; else NULL, and it has a leg */
	PGconn	   *probe;			/* or NULL */
	uv_poll_t  *probe_poll;		/* or NULL */
};

/* login.c */
extern bool login_may_begin(Client *client, const char *user);
extern Login *login_make(Client *client);
extern void login_queue_up(Login *login);
extern void login_server_away(Client *client, const char *detail);
extern bool login_server_message(Login *login, const Packet *packet);
extern void login_refuse(Client *client, const Report *report);
extern void login_probed(Login *login, bool proven);
extern void login_has_failed(const Login *login);

/* leg.c */
extern bool leg_connect(Login *login);
extern void leg_poll(Login *login);
extern bool leg_close(Login *login);

/* probe.c */
extern bool probe_connect(Login *login);
extern bool probe_close(Login *login);

#endif

/*-------------------------------------------------------------------------
 *
 * login_internal.h
 *	  A login, for login.c, which knows what is said, leg.c, which has the connection
 *	  to the server, and probe.c, which answers the server for a client over HTTP,
 *	  or one that was asked for its password.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LOGIN_INTERNAL_H
#define GATEWAY_LOGIN_INTERNAL_H

#include "gateway/login.h"

/* Authentication requests. */
#define LOGIN_AUTH_OK 0
#define LOGIN_AUTH_PASSWORD 3
#define LOGIN_AUTH_MD5 5
#define LOGIN_AUTH_SASL 10
#define LOGIN_AUTH_SASL_CONTINUE 11
#define LOGIN_AUTH_SASL_FINAL 12

typedef struct Login Login;
typedef struct Probe Probe;

struct Login
{
	ListNode	link;			/* in the queue while it waits, or among those
								 * that have a leg */
	uint64_t	works_since;	/* ms; that the server has had something to do */
	Client	   *client;
	bool		has_leg;
	Transport	transport;		/* of the leg */
	uv_poll_t	poll;
	Bytes		to_server;
	Bytes		from_server;
	bool		connected;
	bool		asks_tls;		/* the server is to say whether it has TLS */
	bool		wants_answer;	/* the server waits for the client, or we do */
	bool		asks_password;	/* we do, before the server has heard of it */
	bool		challenged;		/* the server has asked for a proof */
	bool		answered;		/* and the client has given one */
	bool		authenticated;	/* AuthenticationOk has come */
	Settings   *settings;		/* the ParameterStatus */
	char	   *user;
	Probe	   *probe;			/* it answers the server: over HTTP, and where
								 * the password was asked for; else NULL */
};

/* login.c */
extern char *login_role_name(const char *user);
extern bool login_may_begin(Client *client, const char *user);
extern Login *login_make(Client *client);
extern void login_queue_up(Login *login);
extern void login_ask_password(Login *login);
extern void login_server_away(Client *client, const char *detail);
extern bool login_server_message(Login *login, const Packet *packet);
extern void login_refuse(Client *client, const Report *report);
extern void login_refuse_method(Client *client, uint32_t method);
extern bool login_may_be_let_in(const Login *login);
extern void login_has_failed(const Login *login);

/* leg.c */
extern bool leg_connect(Login *login);
extern void leg_poll(Login *login);
extern bool leg_close(Login *login);

/* probe.c */
extern Probe *probe_make(const char *password);
extern bool probe_message(Login *login, const Packet *packet);
extern void probe_free(Probe *probe);

#endif

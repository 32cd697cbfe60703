/*-------------------------------------------------------------------------
 *
 * client.h
 *	  A client's connection, whatever it does.
 *
 * client.c has the socket, the state and the buffers.  What comes in, it gives
 * to login.c or session.c, by the state; what they say goes into out, and is
 * sent at the end of the loop's turn.  client_set_state() is the one place where
 * a state changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_CLIENT_H
#define GATEWAY_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "common/bytes.h"
#include "common/hash.h"
#include "common/list.h"
#include "gateway/channels.h"
#include "gateway/queue.h"
#include "gateway/reply.h"
#include "gateway/settings.h"
#include "gateway/transport.h"

/*
 * STARTUP: no startup packet yet.
 * QUEUED: it is there; the login waits for its turn.
 * LOGIN: the login's messages go to and fro between client and server.
 * READY: logged in; messages are taken.
 * WAITING: a transaction waits for the server; nothing is taken.
 * CLOSING: the last message is being sent.
 * CLOSED: the socket is closed; the memory goes at the next turn.
 */
typedef enum ClientState
{
	CLIENT_STARTUP,
	CLIENT_QUEUED,
	CLIENT_LOGIN,
	CLIENT_READY,
	CLIENT_WAITING,
	CLIENT_CLOSING,
	CLIENT_CLOSED
} ClientState;

/* A role that clients have logged in as. */
typedef struct Role
{
	HashNode	node;
	int			references;
	char		name[];
} Role;

struct Http;
struct Login;
struct Session;

typedef struct Client
{
	ListNode	link;			/* of all clients */
	ListNode	dirty;			/* of those with something to send */
	ListNode	timed;			/* of those with a deadline */
	HashNode	by_pid;			/* once it has a pid */
	ClientState state;
	Transport	transport;
	uv_poll_t	poll;
	int			polled;			/* events that poll looks for */
	uint64_t	deadline;		/* ms; 0: none */
	uint64_t	number;			/* for the log */
	uint64_t	logged_in_at;	/* ms */

	Bytes		in;				/* what came and is not a whole message */
	Queue		out;			/* what is to be sent */
	Queue		held;			/* notifications that wait for the idle state */
	bool		blocked;		/* the socket takes no more */
	bool		held_back;		/* too many answers wait to take more messages */
	bool		input_ended;	/* the client sends no more */
	bool		heard;			/* it has sent something, so TLS cannot begin */
	bool		asked_tls;		/* with an SSLRequest */
	bool		asked_gss;		/* with a GSSENCRequest */
	bool		parsing;		/* in_take() is at work */

	uint32_t	pid;			/* 0: not logged in */
	uint32_t	key;
	Role	   *role;
	Settings   *server_settings;	/* at the login */
	struct Login *login;		/* in QUEUED and LOGIN */
	struct Session *session;	/* from READY on */
	struct Http *http;			/* it has come over HTTP, else NULL */
	ListNode	members;		/* channels that it listens to */
	int			member_count;
	ListNode	echoes;			/* own events that are to come back */
	bool		local;			/* it came by a Unix socket */
	char		address[64];
} Client;

extern ListNode all_clients;
extern int	client_count;

extern void client_set_state(Client *client, ClientState state);
extern void client_touch(Client *client);
extern void client_end(Client *client, const Report *report,
					   const char *reason);
extern void client_close(Client *client, const char *reason);
extern void client_deliver(Client *client, Piece *piece);
extern void client_input(Client *client);
extern bool client_begin_tls(Client *client, bool direct);
extern void client_name(const Client *client, char *name, size_t size);
extern void client_host(const Client *client, char *host, size_t size);
extern void clients_start_flushing(void);

/* clients.c */
extern void clients_init(void);
extern void client_accept(int fd, bool local, bool http, const char *address);
extern void client_refuse(int fd, const Report *report);
extern void clients_leave(Client *client);
extern void client_deadline(Client *client, int64_t seconds);
extern void client_give_pid(Client *client);
extern Client *client_by_pid(uint32_t pid);
extern void clients_visit(void (*visit) (Client *client, const void *context),
						  const void *context);
extern void clients_end_all(const Report *report, const char *reason,
							bool listeners_only);

/* roles.c */
extern Role *role_hold(const char *name);
extern void role_release(Role *role);
extern const char **roles_in_use(int *count);
extern void clients_end_role(const char *role, const Report *report);
extern void clients_end_old(void);

#endif

/*-------------------------------------------------------------------------
 *
 * limits.h
 *	  Every bound of the gateway, in one table.
 *
 * Each is an option of the same name, with '-' for '_'.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LIMITS_H
#define GATEWAY_LIMITS_H

#include <stdint.h>

typedef struct Limits
{
	int64_t		client_buffer;	/* bytes that wait for a client */
	int64_t		max_clients;
	int64_t		max_message;	/* bytes of a client's message */
	int64_t		max_startup;	/* bytes of a startup packet or a password */
	int64_t		max_channels;	/* of one client */
	int64_t		max_role_channels;	/* distinct ones, of one role; 0: half of
									 * what the server has */
	int64_t		max_total_channels; /* of all clients; 0: seven eighths */
	int64_t		max_patterns;	/* of one stream over HTTP */
	int64_t		max_statements; /* prepared by one client, and its portals */
	int64_t		max_session;	/* bytes that a session keeps */
	int64_t		max_transaction;	/* bytes of what a transaction does */
	int64_t		max_commits;	/* transactions that wait for the server */
	int64_t		max_role_commits;	/* of one role, for their turn */
	int64_t		commit_memory;	/* bytes of all of these */
	int64_t		max_logins;		/* at the server at a time */
	int64_t		busy_logins;	/* the same, while many events are delivered */
	int64_t		failed_logins;	/* as one role from one network in a minute */
	int64_t		login_queue;	/* logins that wait for their turn */
	int64_t		login_timeout;	/* seconds for a whole login */
	int64_t		max_scram_iterations;	/* that are computed for a login over
										 * HTTP */
	int64_t		server_timeout; /* seconds a client waits for the server, or
								 * for its next answer */
	int64_t		closing_timeout;	/* seconds to take the last message */
	int64_t		max_session_age;	/* seconds since the login; 0: any */
	int64_t		session_check;	/* seconds between two looks at the roles */
	int64_t		history;		/* bytes of the last events, for HTTP */
	int64_t		max_resumes;	/* subscriptions for what clients have missed */
	int64_t		resume_timeout; /* seconds for which a client that takes
								 * nothing keeps one of these */
	int64_t		metrics_rows;	/* channels, and subscriptions, in /metrics */
	int64_t		http_head;		/* bytes of a request's head */
	int64_t		http_body;		/* and of its body */
	int64_t		http_head_timeout;	/* seconds for either */
	int64_t		http_idle;		/* seconds between two requests */
	int64_t		http_heartbeat; /* seconds of a stream without a word */
	int64_t		http_write_timeout; /* seconds in which a stream's client
									 * takes nothing */
	int64_t		drain_timeout;	/* seconds from SIGTERM to the end */
} Limits;

typedef struct LimitInfo
{
	const char *option;
	int64_t    *value;
	int64_t		least;
	int64_t		most;
	const char *help;
} LimitInfo;

extern Limits limits;
extern const LimitInfo limit_table[];
extern const int limit_count;

#endif

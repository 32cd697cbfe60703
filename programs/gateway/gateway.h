/*-------------------------------------------------------------------------
 *
 * gateway.h
 *	  What there is one of: the loop, the options, and what all count.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

typedef struct Options
{
	char	   *dbname;			/* libpq's connection string */
	char	   *listen;			/* ADDRESS:PORT, or NULL */
	char	   *socket_dir;		/* or NULL */
	int64_t		port;			/* of the socket in socket_dir */
	char	   *name;			/* of this instance: its subscription's */
	bool		allow_unproven_login;
	bool		ask_password;
	bool		require_tls;	/* of clients, but for those at the Unix
								 * socket */
	char	   *tls_certificate;	/* files, or NULL */
	char	   *tls_key;
	char	   *allow;			/* networks that clients may come from, or
								 * NULL */
	struct AddressList *allowed;	/* these, NULL: all */
	char	   *http;			/* ADDRESS:PORT, or NULL */
	char	   *jwt_key;		/* a file, or NULL */
	char	   *jwt_audience;	/* or NULL */
	char	   *jwt_issuer;
	struct JwtKey *jwt;			/* of these, or NULL */
	char	   *cors_origin;	/* origins, or NULL */
	bool		metrics_login;	/* of clients from this machine, too */
	char	   *log_level;
} Options;

typedef struct Counters
{
	uint64_t	accepted;
	uint64_t	logins;
	uint64_t	failed_logins;
	uint64_t	events;
	uint64_t	deliveries;
	uint64_t	notified;
	uint64_t	too_slow;
	uint64_t	gaps;
	uint64_t	resumed;		/* events from a subscription of a client's */
	uint64_t	stream_gaps;	/* gap events that were sent */
	uint64_t	stream_lost;	/* events that clients over HTTP have lost as
								 * they were too slow */
	uint64_t	requests;		/* over HTTP */
} Counters;

typedef struct Gateway
{
	uv_loop_t	loop;
	Options		options;
	Counters	counters;
	bool		draining;
} Gateway;

extern Gateway gateway;

/* main.c: the subscription stands. */
extern void gateway_server_ready(void);

/* config.c */
extern void config_read(int argc, char **argv);
extern void config_read_again(void);

/* The loop's clock, in milliseconds. */
static inline uint64_t
gateway_now(void)
{
	return uv_now(&gateway.loop);
}

#endif

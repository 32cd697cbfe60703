/*-------------------------------------------------------------------------
 *
 * bridge.h
 *	  pgpubsub-bridge: what its files share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_H
#define BRIDGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "bridge/template.h"
#include "bridge/url.h"

/* What becomes of a message that the broker cannot route or never takes. */
typedef enum UnroutablePolicy
{
	UNROUTABLE_STOP,
	UNROUTABLE_DROP,
	UNROUTABLE_DEAD_LETTER
} UnroutablePolicy;

struct SinkKind;

/* Read once; then nobody writes them. */
typedef struct Options
{
	char	   *dbname;
	char	   *subscription;
	char	   *to;
	char	   *exchange;
	char	   *routing_key;
	char	   *subject;
	char	   *topic;
	char	   *stream;
	char	   *placeholder;	/* for what a payload does not have */
	char	   *on_unroutable;
	char	   *dead_letter;	/* the place, in the broker's terms */
	char	   *password_file;
	bool		tls;
	char	   *tls_ca;
	char	   *tls_cert;
	char	   *tls_key;
	char	   *kafka_config;
	char	   *metrics;
	char	   *log_level;
	int64_t		batch;			/* events of one look */
	int64_t		window;			/* messages sent and not confirmed */
	int64_t		buffer;			/* MB */
	int64_t		confirm_timeout;	/* s */
	int64_t		drain_timeout;	/* s */
	bool		check;

	/* what was made of these */
	Url			url;
	Template	address;
	UnroutablePolicy unroutable;
	const struct SinkKind *sink;
} Options;

/* What has happened since the start; any thread counts. */
typedef struct Counters
{
	_Atomic uint64_t events;	/* that came from the server */
	_Atomic uint64_t gaps;
	_Atomic uint64_t lost;		/* events that these told of */
	_Atomic uint64_t sent;
	_Atomic uint64_t confirmed;
	_Atomic uint64_t confirmed_bytes;
	_Atomic uint64_t resent;	/* sent and not confirmed when a connection
								 * was lost */
	_Atomic uint64_t refused;	/* answers: not now */
	_Atomic uint64_t unroutable;	/* answers: never */
	_Atomic uint64_t dropped;
	_Atomic uint64_t dead_lettered;
	_Atomic uint64_t acked;		/* events that the server was told of */
	_Atomic uint64_t broker_connects;
	_Atomic uint64_t broker_failures;
	_Atomic uint64_t server_connects;
	_Atomic uint64_t server_failures;
} Counters;

typedef struct Bridge
{
	uv_loop_t	loop;
	Options		options;
	Counters	counters;
	bool		draining;
} Bridge;

extern Bridge bridge;

extern void config_read(int argc, char **argv);

/* main.c */
extern uint64_t bridge_now(void);
extern void bridge_ready(void);
extern void bridge_stopped(void);
extern void bridge_fail(const char *reason);

/* check.c */
extern int	check_run(void);

/* metrics.c */
extern void metrics_start(void);
extern void metrics_tick(void);
extern double metrics_rate(void);

#endif

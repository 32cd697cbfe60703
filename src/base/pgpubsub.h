/*-------------------------------------------------------------------------
 *
 * pgpubsub.h
 *	  Limits, settings and wait events that all parts share.
 *
 * The settings are defined in settings.c.  Those that size shared memory
 * exist only when the library was preloaded; pgpubsub_preloaded() tells.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_H
#define PGPUBSUB_H

#include "postgres.h"

#include "base/compat.h"

#define PGPUBSUB_EXTENSION		"pgpubsub"
#define PGPUBSUB_SCHEMA			"pgpubsub"

/* The reserved channel, on which frames travel. */
#define PGPUBSUB_FRAME_CHANNEL	"pgpubsub"

/* The longest payload, in bytes, that a native NOTIFY carries. */
#define PGPUBSUB_NATIVE_MAX		7999

/*
 * The longest payload, in bytes, that pgpubsub.max_payload can allow: one that
 * is much longer does not go through SQL.
 */
#define PGPUBSUB_PAYLOAD_MAX	(256 * 1024 * 1024)

/* The longest pgpubsub.node_name, in bytes. */
#define PGPUBSUB_NODE_NAME_MAX	255

/* The longest channel name, in bytes. */
#define PGPUBSUB_CHANNEL_MAX	(NAMEDATALEN - 1)

/* In the name of a subscribed channel, stands for any run of characters. */
#define PGPUBSUB_WILDCARD		'*'

typedef enum PublishMode
{
	PUBLISH_TRANSACTIONAL,
	PUBLISH_ASYNC
} PublishMode;

/* Where a PublishMode is expected: the setting decides, at each event. */
#define PUBLISH_MODE_SETTING	(-1)

/* Settings; the units are those that SHOW uses for an unadorned number. */
extern int	pgpubsub_queue_size;	/* kB, per database */
extern int	pgpubsub_staging_size;	/* kB, per database */
extern int	pgpubsub_max_databases;
extern int	pgpubsub_max_subscriptions; /* per cluster */
extern int	pgpubsub_max_channels;	/* per database */
extern char *pgpubsub_databases;
extern int	pgpubsub_publish_mode;
extern int	pgpubsub_publish_timeout;	/* ms */
extern int	pgpubsub_evict_timeout; /* ms */
extern int	pgpubsub_log_size;	/* kB, per database */
extern int	pgpubsub_max_payload;	/* bytes */
extern int	pgpubsub_max_poll_wait; /* ms */
extern bool pgpubsub_muted;
extern char *pgpubsub_node_name;

/* What pgpubsub's processes wait for; named in pg_stat_activity from 17 on. */
typedef enum PgpubsubWait
{
	PGPUBSUB_WAIT_LAUNCHER_MAIN,
	PGPUBSUB_WAIT_RELAY_MAIN,
	PGPUBSUB_WAIT_RELAY_EXIT,
	PGPUBSUB_WAIT_POLL,
	PGPUBSUB_WAIT_READER,
	PGPUBSUB_WAIT_SUBSCRIBE,
	PGPUBSUB_WAIT_QUEUE_FULL
} PgpubsubWait;

#define PGPUBSUB_NUM_WAITS (PGPUBSUB_WAIT_QUEUE_FULL + 1)

/* settings.c */
extern void settings_define_session(void);
extern void settings_define_server(void);
extern bool pgpubsub_check_channel_name(const char *name, int elevel);
extern void check_not_null(FunctionCallInfo fcinfo, int arg, const char *name);
extern uint32 pgpubsub_wait_event(PgpubsubWait wait);

#endif							/* PGPUBSUB_H */

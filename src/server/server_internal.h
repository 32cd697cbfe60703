/*-------------------------------------------------------------------------
 *
 * server_internal.h
 *	  What the files of this folder do for each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_SERVER_INTERNAL_H
#define PGPUBSUB_SERVER_INTERNAL_H

#include "base/pgpubsub.h"
#include "nodes/nodes.h"
#include "postmaster/bgworker.h"
#include "registry/registry.h"
#include "utils/timestamp.h"

/* The launcher's delays, where something fails again and again. */
#define FIRST_DELAY_MS	100
#define LAST_DELAY_MS	30000

/* What has to be had from elsewhere is asked for again after so long. */
#define RETRY_MS		1000

/* How long to wait for a relay to leave; core itself waits 5 s after that. */
#define LEAVE_TIMEOUT_MS	10000

/* Why a database may not have a relay. */
typedef enum Refusal
{
	REFUSAL_NONE,				/* it may */
	REFUSAL_NO_CONNECTIONS,
	REFUSAL_INVALID,
	REFUSAL_LEFT_OUT
} Refusal;

/* launcher.c */
extern BackgroundWorkerHandle *launcher_start_relay(Oid database,
													const char *name);
extern bool launcher_worker_alive(BackgroundWorkerHandle *handle);
extern bool launcher_time_to_warn(TimestampTz *last);

/* find_databases.c */
extern bool look_up_database(Oid oid, char *name, Refusal *refusal);
extern const char *describe_refusal(Refusal refusal);
extern void search_begin(void);
extern void search_follow_setting(void);
extern void search_advance(void);
extern long search_timeout(void);
extern BackgroundWorkerHandle *search_give_probe(Oid database,
												 TimestampTz *started_at);

/* hold_database.c */
extern void hold_database(Oid oid, bool is_dropped);
extern void hold_for_command(Node *command);
extern void hold_release(int level, bool commit);
extern void hold_at_subcommit(int level);
extern void ask_to_leave(Database *database, Oid oid);
extern void send_relay_away(Database *database, Oid oid, bool drop);
extern void wait_until_left(Database *database, Oid oid);

#endif							/* PGPUBSUB_SERVER_INTERNAL_H */

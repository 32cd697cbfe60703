/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  The relay, as the launcher and transaction.c know it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RELAY_H
#define PGPUBSUB_RELAY_H

#include "base/pgpubsub.h"

/* The process's title, with the database's name. */
#define RELAY_TITLE		"pgpubsub relay for database %s"

extern PGDLLEXPORT void pgpubsub_relay_main(Datum database_oid);
extern void relay_staged_at_commit(void);
extern void relay_note_at_commit(void);
extern void relay_empty_at_commit(void);

/* for the launcher, too */
extern void worker_exit_if_terminated(int code);

#endif							/* PGPUBSUB_RELAY_H */

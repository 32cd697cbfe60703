/*-------------------------------------------------------------------------
 *
 * server.h
 *	  Which databases have a relay, as init.c and transaction.c know it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_SERVER_H
#define PGPUBSUB_SERVER_H

#include "base/pgpubsub.h"

extern void hooks_init(void);
extern void launcher_init(void);
extern PGDLLEXPORT void pgpubsub_launcher_main(Datum arg);

/* for transaction.c */
extern void hooks_pre_prepare(void);
extern void hooks_at_end(bool commit);
extern void hooks_at_subcommit(int level);
extern void hooks_at_subabort(int level);

#endif							/* PGPUBSUB_SERVER_H */

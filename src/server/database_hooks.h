/*-------------------------------------------------------------------------
 *
 * database_hooks.h
 *	  How databases, the extension in them, and roles come and go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_DATABASE_HOOKS_H
#define PGPUBSUB_DATABASE_HOOKS_H

#include "base/pgpubsub.h"

extern void database_hooks_init(void);

/* for transaction.c */
extern void database_hooks_pre_prepare(void);
extern void database_hooks_at_end(bool commit);
extern void database_hooks_at_subcommit(int level);
extern void database_hooks_at_subabort(int level);

#endif							/* PGPUBSUB_DATABASE_HOOKS_H */

/*-------------------------------------------------------------------------
 *
 * subscribe.h
 *	  subscribe() and unsubscribe(), and what the end of a transaction makes
 *	  of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_SUBSCRIBE_H
#define PGPUBSUB_SUBSCRIBE_H

#include "base/pgpubsub.h"

extern void subscribe_table_written(void);
extern void subscribe_discard(void);

/* for transaction.c */
extern void subscribe_pre_commit(void);
extern void subscribe_pre_prepare(void);
extern void subscribe_at_commit(void);
extern void subscribe_at_abort(void);
extern void subscribe_at_prepare(void);
extern void subscribe_at_subcommit(int level);
extern void subscribe_at_subabort(int level);

#endif							/* PGPUBSUB_SUBSCRIBE_H */

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

extern void subscribe_init(void);
extern void subscribe_table_written(void);
extern void subscribe_discard(void);

#endif							/* PGPUBSUB_SUBSCRIBE_H */

/*-------------------------------------------------------------------------
 *
 * replication.h
 *	  The table of subscriptions and logical replication.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_REPLICATION_H
#define PGPUBSUB_REPLICATION_H

#include "pgpubsub.h"

extern void replication_warn(const char *publication);

#endif							/* PGPUBSUB_REPLICATION_H */

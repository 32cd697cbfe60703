/*-------------------------------------------------------------------------
 *
 * replication_warning.h
 *	  The table of subscriptions and logical replication.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_REPLICATION_WARNING_H
#define PGPUBSUB_REPLICATION_WARNING_H

#include "base/pgpubsub.h"

extern void replication_warn(const char *publication);

#endif							/* PGPUBSUB_REPLICATION_WARNING_H */

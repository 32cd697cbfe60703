/*-------------------------------------------------------------------------
 *
 * load_subscriptions.h
 *	  The table of subscriptions, as the relay reads it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_LOAD_SUBSCRIPTIONS_H
#define PGPUBSUB_LOAD_SUBSCRIPTIONS_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

extern bool relay_table_load(Database *database);
extern bool relay_table_adopt(Database *database);

#endif							/* PGPUBSUB_LOAD_SUBSCRIPTIONS_H */

/*-------------------------------------------------------------------------
 *
 * relay_table.h
 *	  The table of subscriptions, as the relay reads it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RELAY_TABLE_H
#define PGPUBSUB_RELAY_TABLE_H

#include "pgpubsub.h"
#include "registry.h"

extern bool relay_table_load(Database *database);
extern bool relay_table_adopt(Database *database);

#endif							/* PGPUBSUB_RELAY_TABLE_H */

/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  The relay: one background worker per database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RELAY_H
#define PGPUBSUB_RELAY_H

#include "pgpubsub.h"

extern PGDLLEXPORT void pgpubsub_relay_main(Datum database_oid);

#endif							/* PGPUBSUB_RELAY_H */

/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  The relay: one background worker per database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RELAY_H
#define PGPUBSUB_RELAY_H

#include "base/pgpubsub.h"

/* The process's title, with the database's name. */
#define RELAY_TITLE		"pgpubsub relay for database %s"

extern PGDLLEXPORT void pgpubsub_relay_main(Datum database_oid);

#endif							/* PGPUBSUB_RELAY_H */

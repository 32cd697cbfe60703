/*-------------------------------------------------------------------------
 *
 * relay_pace.h
 *	  How soon the relay looks again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RELAY_PACE_H
#define PGPUBSUB_RELAY_PACE_H

#include "pgpubsub.h"
#include "registry.h"

extern void relay_pace_event(int pid);
extern void relay_pace(Database *database, int woken, bool backlog);

#endif							/* PGPUBSUB_RELAY_PACE_H */

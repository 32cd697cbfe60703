/*-------------------------------------------------------------------------
 *
 * pace.h
 *	  How soon the relay looks again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_PACE_H
#define PGPUBSUB_PACE_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

extern void relay_pace_event(int pid);
extern void relay_pace(Database *database, int woken, bool backlog);

#endif							/* PGPUBSUB_PACE_H */

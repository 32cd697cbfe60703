/*-------------------------------------------------------------------------
 *
 * append.h
 *	  From the relay's inbox and the staging queue into the ring.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_APPEND_H
#define PGPUBSUB_APPEND_H

#include "base/pgpubsub.h"
#include "registry/registry.h"
#include "relay/inbox.h"

extern void relay_append_init(Database *database, Inbox *inbox);
extern void relay_append(void);
extern int	relay_append_woken(void);
extern long relay_append_timeout(void);
extern void relay_append_exit(Database *database);

#endif							/* PGPUBSUB_APPEND_H */

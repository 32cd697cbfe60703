/*-------------------------------------------------------------------------
 *
 * listen.h
 *	  The channels that the relay listens to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_LISTEN_H
#define PGPUBSUB_LISTEN_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

extern void relay_listen_init(Database *database);
extern void relay_listen_to_bound(bool first);
extern void relay_listen_announce(void);
extern int	relay_listen_receive(const char *name);
extern int	relay_listen_count_event(Database *database, const char *name);
extern void relay_listen_reorder(void);
extern void relay_listen_exit(void);
extern int	relay_pin_bound_channel(Database *database, const char *name);
extern void relay_unpin_channel(Database *database, int slot);

#endif							/* PGPUBSUB_LISTEN_H */

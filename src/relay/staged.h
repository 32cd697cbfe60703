/*-------------------------------------------------------------------------
 *
 * staged.h
 *	  From the staging queue to the ring and to native listeners.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_STAGED_H
#define PGPUBSUB_STAGED_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

/* A staged event that is to be appended to the ring. */
typedef struct StagedItem
{
	int			slot;			/* of its channel; -1: nobody reads it */
	int			pid;			/* of its writer */
	const char *payload;
	Size		len;			/* bytes of payload */
} StagedItem;

extern void relay_staged_init(Database *database);
extern uint64 relay_staged_begin(void);
extern void relay_staged_take(uint64 end);
extern void relay_staged_take_all(uint64 end);
extern uint64 relay_staged_taken(void);
extern bool relay_staged_peek(uint64 upto, StagedItem *item);
extern void relay_staged_appended(void);
extern bool relay_staged_notify(void);
extern bool relay_staged_backlog(void);
extern long relay_staged_timeout(void);

extern void relay_staged_at_commit(void);

#endif							/* PGPUBSUB_STAGED_H */

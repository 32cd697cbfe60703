/*-------------------------------------------------------------------------
 *
 * relay_staged.h
 *	  From the staging queue to NOTIFY and back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_RELAY_STAGED_H
#define PGPUBSUB_RELAY_STAGED_H

#include "pgpubsub.h"
#include "inbox.h"
#include "registry.h"

/* What relay_staged_batch() has done. */
typedef enum StagedResult
{
	STAGED_NOTHING,				/* there was nothing, or it failed */
	STAGED_BATCH,				/* a batch; look again */
	STAGED_LISTEN_FIRST			/* the relay has to listen to a channel */
} StagedResult;

/* Reads the notifications that have arrived. */
typedef void (*ReadNotifications) (void);

/*
 * The slot of a channel that somebody reads, -1 if nobody does; *listening
 * tells whether the relay listens to it.
 */
typedef int (*FindChannel) (const char *name, bool *listening);

extern void relay_staged_init(Database *database, Inbox *inbox,
							  FindChannel find);
extern StagedResult relay_staged_batch(ReadNotifications read);
extern bool relay_staged_receive(const char *channel, const char *payload,
								 Size len);
extern bool relay_staged_soon(void);
extern bool relay_staged_backlog(void);
extern long relay_staged_timeout(void);

#endif							/* PGPUBSUB_RELAY_STAGED_H */

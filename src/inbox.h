/*-------------------------------------------------------------------------
 *
 * inbox.h
 *	  What the relay has received and not yet queued: a FIFO in private
 *	  memory, then in temporary files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_INBOX_H
#define PGPUBSUB_INBOX_H

#include "pgpubsub.h"

typedef struct Inbox Inbox;

typedef struct InboxMessage
{
	int			channel;		/* -1: only staged counts */
	int			pid;
	uint64		staged;			/* number of a staged event, or 0 */
	Size		len;
	const char *payload;		/* not terminated; good until inbox_pop() */
} InboxMessage;

extern Inbox *inbox_create(MemoryContext context);
extern void inbox_reserve(Inbox *inbox);
extern bool inbox_put(Inbox *inbox, int channel, int pid, uint64 staged,
					  const char *payload, Size len);
extern bool inbox_peek(Inbox *inbox, InboxMessage *message);
extern void inbox_pop(Inbox *inbox);
extern bool inbox_overflows(Inbox *inbox);

#endif							/* PGPUBSUB_INBOX_H */

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

#include "base/pgpubsub.h"

typedef struct Inbox Inbox;

typedef struct InboxMessage
{
	int			channel;
	int			pid;
	uint64		after;			/* staged events with numbers up to this one
								 * were taken before it was received */
	Size		len;
	const char *payload;		/* not terminated; good until inbox_pop() */
} InboxMessage;

extern Inbox *inbox_create(MemoryContext context);
extern void inbox_reserve(Inbox *inbox);
extern bool inbox_put(Inbox *inbox, int channel, int pid, uint64 after,
					  const char *payload, Size len);
extern bool inbox_peek(Inbox *inbox, InboxMessage *message);
extern void inbox_pop(Inbox *inbox);
extern bool inbox_overflows(Inbox *inbox);

#endif							/* PGPUBSUB_INBOX_H */

/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  The messages between the server and the broker, in order.
 *
 * The main thread appends what it has read, and takes out at the front what the
 * broker has confirmed; the sink's thread sends what is between.  A message stays
 * until all before it are confirmed, so that what is acknowledged to the server is
 * always a beginning of what came.
 *
 * A message has a position, which grows by one from message to message and is
 * never used again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_OUTBOX_H
#define BRIDGE_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum MessageState
{
	MESSAGE_QUEUED,				/* to be sent */
	MESSAGE_SENT,				/* the broker has not said anything yet */
	MESSAGE_CONFIRMED			/* or dropped: done with */
} MessageState;

/*
 * An event, or a gap.  The strings are part of its memory, never NULL, and do not
 * change.  The rest belongs to the outbox's lock, but for dead and reason, which
 * the sink's thread alone writes and reads.
 */
typedef struct Message
{
	int64_t		seq;
	int64_t		lost;			/* of a gap; -1: nobody knows how many */
	int64_t		relayed_at;		/* microseconds since 1970; 0: unknown */
	bool		is_gap;
	const char *type;			/* "pgpubsub.event" or "pgpubsub.gap" */
	const char *channel;
	const char *id;				/* the key by which duplicates are known */
	const char *key;			/* the same among events of several servers */
	const char *op;				/* "": the payload has none */
	const char *content_type;
	const char *address;		/* what the template makes of it */
	const char *payload;
	size_t		payload_length;
	size_t		size;			/* of all its memory */

	MessageState state;
	bool		dead;			/* goes to the dead-letter place */
	char	   *reason;			/* for which it is dead; allocated */
} Message;

/* A row of the outbox as others see it. */
typedef struct OutboxState
{
	int			count;			/* messages in it */
	int			sent;			/* of these, sent and not confirmed */
	size_t		bytes;
	int64_t		first_seq;		/* of the first one; 0: it is empty */
	int64_t		last_seq;
	int64_t		oldest_at;		/* relayed_at of the first one */
} OutboxState;

extern void outbox_init(int room);

/* For the main thread. */
extern void outbox_append(Message *message);
extern int	outbox_take_confirmed(int64_t *seq);
extern int64_t outbox_known_lost(int64_t seq);
extern void outbox_drop_unsent(void);

/* For the sink's thread. */
extern Message *outbox_next(uint64_t *position);
extern Message *outbox_message(uint64_t position);
extern void outbox_confirm(uint64_t position);
extern void outbox_requeue(uint64_t position);
extern int	outbox_rewind(void);
extern bool outbox_only_sent(uint64_t *position);

/* For both. */
extern void outbox_look(OutboxState *state);
extern void message_free(Message *message);

#endif

/*-------------------------------------------------------------------------
 *
 * outbox.c
 *	  See outbox.h.
 *
 * A ring: the message of a position is in messages[position modulo room].
 *
 *	  first <= next <= end
 *
 * 1. Positions from first up to end are in use.
 *
 * 2. No message before next is QUEUED.  A message behind it may be SENT or
 *	  CONFIRMED: if one is sent again, next goes back to it.
 *
 * 3. sent is the number of messages that are SENT.
 *
 * All of it belongs to the lock.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/outbox.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"

typedef struct Outbox
{
	pthread_mutex_t lock;
	Message   **messages;
	uint64_t	room;			/* a power of two */
	uint64_t	first;
	uint64_t	next;
	uint64_t	end;
	int			sent;
	size_t		bytes;
} Outbox;

static Outbox outbox = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The slot of a position. */
static Message **
slot(uint64_t position)
{
	return &outbox.messages[position & (outbox.room - 1)];
}

/* Give a message another state; the caller holds the lock. */
static void
set_state(Message *message, MessageState state)
{
	outbox.sent += (state == MESSAGE_SENT) - (message->state == MESSAGE_SENT);
	message->state = state;
}

/* Make room for so many messages; to be called once, before the rest. */
void
outbox_init(int room)
{
	outbox.room = 16;
	while (outbox.room < (uint64_t) room)
		outbox.room *= 2;
	outbox.messages = memory_get_zeroed(outbox.room * sizeof(Message *));
}

/* Append a message, for which there is room; it is the outbox's now. */
void
outbox_append(Message *message)
{
	pthread_mutex_lock(&outbox.lock);
	if (outbox.end - outbox.first >= outbox.room)
		log_fatal("the outbox is too small");
	message->state = MESSAGE_QUEUED;
	*slot(outbox.end++) = message;
	outbox.bytes += message->size;
	pthread_mutex_unlock(&outbox.lock);
}

/*
 * Take out what is confirmed at the front, and return how many messages that is; seq
 * becomes that of the last one.
 */
int
outbox_take_confirmed(int64_t *seq)
{
	int			count = 0;

	pthread_mutex_lock(&outbox.lock);
	while (outbox.first < outbox.end &&
		   (*slot(outbox.first))->state == MESSAGE_CONFIRMED)
	{
		Message    *message = *slot(outbox.first++);

		*seq = message->seq;
		count++;
		outbox.bytes -= message->size;
		message_free(message);
	}
	if (outbox.next < outbox.first)
		outbox.next = outbox.first;
	pthread_mutex_unlock(&outbox.lock);
	return count;
}

/*
 * How many of the events up to that seq, which the server counts as lost, are
 * here, or were told as lost by a gap that is here.
 */
int64_t
outbox_known_lost(int64_t seq)
{
	int64_t		known = 0;

	pthread_mutex_lock(&outbox.lock);
	for (uint64_t i = outbox.first; i < outbox.end && (*slot(i))->seq <= seq; i++)
	{
		const Message *message = *slot(i);

		known += !message->is_gap ? 1 : message->lost > 0 ? message->lost : 0;
	}
	pthread_mutex_unlock(&outbox.lock);
	return known;
}

/*
 * Forget what was not sent, behind the last message that was: somebody else reads
 * the subscription from now on, or the program ends.
 */
void
outbox_drop_unsent(void)
{
	pthread_mutex_lock(&outbox.lock);
	while (outbox.end > outbox.first &&
		   (*slot(outbox.end - 1))->state == MESSAGE_QUEUED)
	{
		Message    *message = *slot(--outbox.end);

		outbox.bytes -= message->size;
		message_free(message);
	}
	if (outbox.next > outbox.end)
		outbox.next = outbox.end;
	pthread_mutex_unlock(&outbox.lock);
}

/*
 * The next message to be sent, with its position; it counts as sent.  NULL: there
 * is none.  It stays as long as it is not confirmed.
 */
Message *
outbox_next(uint64_t *position)
{
	Message    *message = NULL;

	pthread_mutex_lock(&outbox.lock);
	while (outbox.next < outbox.end &&
		   (*slot(outbox.next))->state != MESSAGE_QUEUED)
		outbox.next++;
	if (outbox.next < outbox.end)
	{
		*position = outbox.next++;
		message = *slot(*position);
		set_state(message, MESSAGE_SENT);
	}
	pthread_mutex_unlock(&outbox.lock);
	return message;
}

/* The message of that position if it is there and is sent, else NULL. */
Message *
outbox_message(uint64_t position)
{
	Message    *message = NULL;

	pthread_mutex_lock(&outbox.lock);
	if (position >= outbox.first && position < outbox.end &&
		(*slot(position))->state == MESSAGE_SENT)
		message = *slot(position);
	pthread_mutex_unlock(&outbox.lock);
	return message;
}

/* The broker has the message of that position, or it is dropped. */
void
outbox_confirm(uint64_t position)
{
	pthread_mutex_lock(&outbox.lock);
	if (position >= outbox.first && position < outbox.end)
		set_state(*slot(position), MESSAGE_CONFIRMED);
	pthread_mutex_unlock(&outbox.lock);
}

/* The message of that position, which is sent, is to be sent again. */
void
outbox_requeue(uint64_t position)
{
	pthread_mutex_lock(&outbox.lock);
	if (position >= outbox.first && position < outbox.end)
	{
		set_state(*slot(position), MESSAGE_QUEUED);
		if (outbox.next > position)
			outbox.next = position;
	}
	pthread_mutex_unlock(&outbox.lock);
}

/*
 * The connection is lost: all that was sent and is not confirmed is to be sent
 * again.  Returns how much that is.
 */
int
outbox_rewind(void)
{
	int			count;

	pthread_mutex_lock(&outbox.lock);
	count = outbox.sent;
	for (uint64_t i = outbox.first; i < outbox.end; i++)
	{
		if ((*slot(i))->state == MESSAGE_SENT)
			set_state(*slot(i), MESSAGE_QUEUED);
	}
	outbox.next = outbox.first;
	pthread_mutex_unlock(&outbox.lock);
	return count;
}

/* Is exactly one message sent and not confirmed?  Its position. */
bool
outbox_only_sent(uint64_t *position)
{
	bool		only;

	pthread_mutex_lock(&outbox.lock);
	only = outbox.sent == 1;
	for (uint64_t i = outbox.first; only && i < outbox.end; i++)
	{
		if ((*slot(i))->state == MESSAGE_SENT)
			*position = i;
	}
	pthread_mutex_unlock(&outbox.lock);
	return only;
}

/* How it is at this moment. */
void
outbox_look(OutboxState *state)
{
	memset(state, 0, sizeof(*state));
	pthread_mutex_lock(&outbox.lock);
	state->count = (int) (outbox.end - outbox.first);
	state->sent = outbox.sent;
	state->bytes = outbox.bytes;
	if (state->count > 0)
	{
		state->first_seq = (*slot(outbox.first))->seq;
		state->last_seq = (*slot(outbox.end - 1))->seq;
		state->oldest_at = (*slot(outbox.first))->relayed_at;
	}
	pthread_mutex_unlock(&outbox.lock);
}

/* Free a message that is in no outbox. */
void
message_free(Message *message)
{
	free(message->reason);
	free(message);
}

/*-------------------------------------------------------------------------
 *
 * marks.h
 *	  Where in the stream of events a moment is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_MARKS_H
#define GATEWAY_MARKS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/list.h"

struct Client;

struct MarkWait;

/* The mark has come, with that seq. */
typedef void (*MarkReached) (struct MarkWait *wait, int64_t seq);

/* Somebody who waits until the stream has come to what is committed now. */
typedef struct MarkWait
{
	ListNode	link;			/* itself: it does not wait */
	uint64_t	number;			/* of the mark; 0: not sent yet */
	struct Client *client;
	MarkReached reached;
} MarkWait;

extern void marks_init(void);
extern void mark_wait(MarkWait *wait, struct Client *client, MarkReached reached);
extern void mark_wait_end(MarkWait *wait);
extern bool marks_take(uint64_t *number);
extern void mark_payload(uint64_t number, char *payload, int size);
extern void marks_event(int64_t seq, const char *payload);
extern void marks_send_again(void);

#endif

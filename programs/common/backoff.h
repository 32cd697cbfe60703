/*-------------------------------------------------------------------------
 *
 * backoff.h
 *	  How long to wait before the next try: longer each time, and never as long
 *	  as everybody else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_BACKOFF_H
#define COMMON_BACKOFF_H

#include <stdint.h>

/* Times are in milliseconds. */
typedef struct Backoff
{
	uint32_t	shortest;
	uint32_t	longest;
	uint32_t	current;		/* 0: the next failure is the first */
} Backoff;

extern uint32_t backoff_next(Backoff *backoff);
extern void backoff_reset(Backoff *backoff);

#endif

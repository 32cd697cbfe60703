/*-------------------------------------------------------------------------
 *
 * backoff.c
 *	  See backoff.h.
 *
 *-------------------------------------------------------------------------
 */
#include "common/backoff.h"

#include <stdlib.h>
#include <sys/random.h>

/*
 * The delay before the next try, in milliseconds: it doubles with each failure
 * up to the longest, and half of it is random, so that those who lost the same
 * server do not come back in step.
 */
uint32_t
backoff_next(Backoff *backoff)
{
	uint32_t	noise = 0;

	if (backoff->current == 0)
		backoff->current = backoff->shortest;
	else if (backoff->current < backoff->longest / 2)
		backoff->current *= 2;
	else
		backoff->current = backoff->longest;
	if (getrandom(&noise, sizeof(noise), 0) != sizeof(noise))
		noise = 0;
	return backoff->current / 2 + noise % (backoff->current / 2 + 1);
}

/* It has worked: the next failure is the first again. */
void
backoff_reset(Backoff *backoff)
{
	backoff->current = 0;
}

/*-------------------------------------------------------------------------
 *
 * debug.h
 *	  What only builds with assertions have, for tests; see debug.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_DEBUG_H
#define PGPUBSUB_DEBUG_H

#include "base/pgpubsub.h"

#ifdef USE_ASSERT_CHECKING

extern void debug_init(void);
extern void debug_point(const char *name);
extern void debug_crossing(int subscription, bool from_log);
extern int	debug_inbox_divisor;
extern int	debug_clock_back;

#define DEBUG_POINT(name)		debug_point(name)
#define DEBUG_CROSSING(subscription, from_log)	debug_crossing(subscription, from_log)
#define DEBUG_INBOX_DIVISOR		debug_inbox_divisor
#define DEBUG_CLOCK_BACK		debug_clock_back

#else

#define debug_init()			((void) 0)
#define DEBUG_POINT(name)		((void) 0)
#define DEBUG_CROSSING(subscription, from_log)	((void) 0)
#define DEBUG_INBOX_DIVISOR		1
#define DEBUG_CLOCK_BACK		0

#endif

#endif							/* PGPUBSUB_DEBUG_H */

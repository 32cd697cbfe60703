/*-------------------------------------------------------------------------
 *
 * source.h
 *	  The server's side: events of the subscription go into the outbox, and what
 *	  the broker has confirmed is acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_SOURCE_H
#define BRIDGE_SOURCE_H

#include <stdbool.h>

typedef enum SourceState
{
	SOURCE_AWAY,
	SOURCE_STANDBY,				/* another bridge reads the subscription */
	SOURCE_UP
} SourceState;

extern void source_start(void);
extern void source_drain(void);
extern void source_wake(void);
extern SourceState source_state(void);
extern const char *source_state_name(SourceState state);

#endif

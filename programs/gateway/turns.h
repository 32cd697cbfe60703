/*-------------------------------------------------------------------------
 *
 * turns.h
 *	  What many have waiting, of which each gets a turn.
 *
 * Whoever has much waiting is not served before those who have little: the first
 * thing of each owner is taken in turn, and those of one owner in their order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_TURNS_H
#define GATEWAY_TURNS_H

#include <stdbool.h>

#include "common/hash.h"
#include "common/list.h"

typedef struct TurnOwner TurnOwner;

/* What waits has one of these; it belongs to whoever waits. */
typedef struct Turn
{
	ListNode	link;			/* of those of its owner */
	TurnOwner  *owner;			/* NULL: it does not wait */
} Turn;

/* A zeroed struct has nothing that waits. */
typedef struct Turns
{
	HashTable	owners;			/* those who have something that waits */
	ListNode	ring;			/* the same, who is next first */
} Turns;

extern void turns_add(Turns *turns, Turn *turn, const char *owner);
extern Turn *turns_take(Turns *turns);
extern void turns_remove(Turns *turns, Turn *turn);
extern int	turns_of(const Turns *turns, const char *owner);
extern bool turns_are_empty(const Turns *turns);

#endif

/*-------------------------------------------------------------------------
 *
 * turns.c
 *	  See turns.h.
 *
 * An owner is known while it has something that waits, and is in the ring then.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/turns.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

struct TurnOwner
{
	HashNode	node;
	ListNode	link;			/* in the ring */
	ListNode	turns;
	int			count;			/* of these */
	char		name[];
};

/* The owner of that name, or NULL if it has nothing that waits. */
static TurnOwner *
find_owner(const Turns *turns, const char *name)
{
	HashNode   *node = hash_first(&turns->owners, hash_string(name));

	for (; node != NULL; node = hash_next(node))
	{
		TurnOwner  *owner = hash_container(TurnOwner, node, node);

		if (strcmp(owner->name, name) == 0)
			return owner;
	}
	return NULL;
}

/* Let the turn, which does not wait, wait behind those of the owner of that name. */
void
turns_add(Turns *turns, Turn *turn, const char *name)
{
	TurnOwner  *owner = find_owner(turns, name);

	if (owner == NULL)
	{
		owner = memory_get_zeroed(sizeof(TurnOwner) + strlen(name) + 1);
		strcpy(owner->name, name);
		list_init(&owner->turns);
		hash_insert(&turns->owners, &owner->node, hash_string(name));
		if (turns->ring.next == NULL)
			list_init(&turns->ring);
		list_append(&turns->ring, &owner->link);
	}
	owner->count++;
	turn->owner = owner;
	list_append(&owner->turns, &turn->link);
}

/* The turn waits no more; it may not have. */
void
turns_remove(Turns *turns, Turn *turn)
{
	TurnOwner  *owner = turn->owner;

	if (owner == NULL)
		return;
	turn->owner = NULL;
	list_remove(&turn->link);
	if (--owner->count > 0)
		return;
	list_remove(&owner->link);
	hash_remove(&turns->owners, &owner->node);
	free(owner);
}

/* Whose turn it is: it waits no more.  NULL if none does. */
Turn *
turns_take(Turns *turns)
{
	TurnOwner  *owner;
	Turn	   *turn;

	if (turns_are_empty(turns))
		return NULL;
	owner = list_container(TurnOwner, link, turns->ring.next);
	turn = list_container(Turn, link, owner->turns.next);

	/* the others come before its next one */
	list_remove(&owner->link);
	list_append(&turns->ring, &owner->link);
	turns_remove(turns, turn);
	return turn;
}

/* How many of that owner wait. */
int
turns_of(const Turns *turns, const char *name)
{
	const TurnOwner *owner = find_owner(turns, name);

	return owner == NULL ? 0 : owner->count;
}

/* Does nothing wait? */
bool
turns_are_empty(const Turns *turns)
{
	return turns->owners.count == 0;
}

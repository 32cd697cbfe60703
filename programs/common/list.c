/*-------------------------------------------------------------------------
 *
 * list.c
 *	  See list.h.
 *
 *-------------------------------------------------------------------------
 */
#include "common/list.h"

/* Remove the first node of the head's list, and return it; NULL if there is none. */
ListNode *
list_take_first(ListNode *head)
{
	ListNode   *node = head->next;

	if (node == head)
		return NULL;
	list_remove(node);
	return node;
}

/*
 * Put all nodes of one list at the end of another one.  Whoever walks a list, and
 * calls what may remove any of its nodes, moves it to a head of his own, and takes
 * the first one until there is none.
 */
void
list_move(ListNode *to, ListNode *from)
{
	if (list_is_empty(from))
		return;
	from->next->previous = to->previous;
	to->previous->next = from->next;
	from->previous->next = to;
	to->previous = from->previous;
	list_init(from);
}

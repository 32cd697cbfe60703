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

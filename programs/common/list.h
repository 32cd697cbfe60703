/*-------------------------------------------------------------------------
 *
 * list.h
 *	  Rings of structs that carry their own links.
 *
 * A ListNode that is in no list points to itself, once it was initialized, so
 * removing it twice does no harm.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_LIST_H
#define COMMON_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ListNode
{
	struct ListNode *previous;
	struct ListNode *next;
} ListNode;

/* The struct of that type in which the node is that member. */
#define list_container(type, member, node) \
	((type *) ((char *) (node) - offsetof(type, member)))

static inline void
list_init(ListNode *node)
{
	node->previous = node;
	node->next = node;
}

/* Is this head's list empty, or is this node in no list? */
static inline bool
list_is_empty(const ListNode *node)
{
	return node->next == node;
}

static inline void
list_remove(ListNode *node)
{
	node->previous->next = node->next;
	node->next->previous = node->previous;
	list_init(node);
}

/* Put the node, which is in no list, at the end of the head's. */
static inline void
list_append(ListNode *head, ListNode *node)
{
	node->previous = head->previous;
	node->next = head;
	head->previous->next = node;
	head->previous = node;
}

extern ListNode *list_take_first(ListNode *head);
extern void list_move(ListNode *to, ListNode *from);

#endif

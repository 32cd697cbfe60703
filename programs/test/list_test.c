/*-------------------------------------------------------------------------
 *
 * list_test.c
 *	  A list that is moved, and walked while its nodes go.
 *
 *-------------------------------------------------------------------------
 */
#include "common/list.h"
#include "test/check.h"

/* How many nodes the list has, the same both ways; -1 if they differ. */
static int
count(const ListNode *head)
{
	int			forth = 0;
	int			back = 0;

	for (const ListNode *node = head->next; node != head; node = node->next)
		forth++;
	for (const ListNode *node = head->previous; node != head; node = node->previous)
		back++;
	return forth == back ? forth : -1;
}

/* All nodes move, in their order, behind those that are there. */
static void
test_move(void)
{
	ListNode	from;
	ListNode	to;
	ListNode	nodes[4];

	list_init(&from);
	list_init(&to);
	list_move(&to, &from);
	CHECK(count(&from) == 0 && count(&to) == 0);
	for (int i = 0; i < 4; i++)
		list_append(i == 0 ? &to : &from, &nodes[i]);
	list_move(&to, &from);
	CHECK(count(&from) == 0 && count(&to) == 4);
	for (int i = 0; i < 4; i++)
		CHECK(list_take_first(&to) == &nodes[i]);
	CHECK(list_take_first(&to) == NULL);
}

/* Whatever goes, or comes to the old head, while a moved list is walked, it ends. */
static void
test_walk(void)
{
	for (int which = 0; which < 4; which++)
	{
		ListNode	head;
		ListNode	left;
		ListNode	nodes[4];
		ListNode   *node;
		int			seen = 0;

		list_init(&head);
		list_init(&left);
		for (int i = 0; i < 4; i++)
			list_append(&head, &nodes[i]);
		list_move(&left, &head);
		while ((node = list_take_first(&left)) != NULL && seen < 10)
		{
			seen++;
			list_append(&head, node);
			if (node == &nodes[0])
			{
				list_remove(&nodes[which]);
				list_append(&head, &nodes[which]);
			}
		}
		CHECK(seen == (which == 0 ? 4 : 3));
		CHECK(count(&head) == 4 && count(&left) == 0);
	}
}

int
main(void)
{
	test_move();
	test_walk();
	return checks_done("list_test");
}

/*-------------------------------------------------------------------------
 *
 * listen_order.c
 *	  The order in which core searches the channels that the relay listens to.
 *
 * Up to PostgreSQL 18, a session keeps the channels that it listens to in a
 * list, in the order of the LISTENs, and searches it from its head for each
 * notification of the database (IsListeningOn() of async.c).  With thousands
 * of channels that would be most of the relay's work.  So the relay keeps a
 * list in the order that core's has, and counts what comes on each channel.
 * Where idle channels stand before busy ones, it UNLISTENs and LISTENs them in
 * one transaction: that puts them at the end, and nothing is missed.  It
 * spends no more comparisons on that than the idle channels have cost.
 *
 * 19 has a hash table instead.  When 18 is no longer supported, remove this
 * file, PGPUBSUB_LISTENS_BY_LIST, and the fields for the order in
 * relay_internal.h.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "commands/async.h"

/* Channels that are moved in one transaction, at most. */
#define MOVE_AT_ONCE	128

/* Events between two looks at the order, at least. */
#define REORDER_EVENTS	1000

static RelayListen *const listening = &relay.listen;

/*
 * Find out which channels were idle since the last look, and how many of them
 * are worth moving to the end of the list: what searching past them has cost,
 * over what a move costs, which is two searches through the whole list.
 */
static uint64
count_worth_moving(void)
{
	uint64		idle = 0;
	uint64		idle_before_busy = 0;
	uint64		wasted = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &listening->order)
	{
		Listened   *entry = dlist_container(Listened, node, iter.cur);

		entry->idle = entry->events == 0;
		if (entry->idle)
			idle++;
		else
		{
			wasted += entry->events * idle;
			idle_before_busy = idle;
		}
		entry->events = 0;
	}
	listening->num_events = 0;
	if (wasted == 0)
		return 0;
	return Min(wasted / (2 * hash_get_num_entries(listening->channels)),
			   idle_before_busy);
}

/* Move the first idle channels to the end, MOVE_AT_ONCE at most. */
static void
move_some(void)
{
	dlist_head	moved = DLIST_STATIC_INIT(moved);
	dlist_mutable_iter iter;
	int			most = (int) Min(listening->to_move, MOVE_AT_ONCE);
	int			n = 0;

	relay_begin("listening to channels");
	dlist_foreach_modify(iter, &listening->order)
	{
		Listened   *entry = dlist_container(Listened, node, iter.cur);

		if (n == most)
			break;
		if (!entry->idle)
			continue;
		Async_Unlisten(entry->name);
		Async_Listen(entry->name);
		dlist_delete(&entry->node);
		dlist_push_tail(&moved, &entry->node);
		n++;
	}
	relay_end();
	ereport(DEBUG1,
			(errmsg_internal("pgpubsub relay moved %d idle channels behind busy ones",
							 n)));

	/* channels may have gone since they were counted */
	listening->to_move = n < MOVE_AT_ONCE ? 0 : listening->to_move - n;
	while (!dlist_is_empty(&moved))
		dlist_push_tail(&listening->order, dlist_pop_head_node(&moved));
}

/*
 * Now and then, have busy channels come first in core's list.  Must not be in
 * a transaction.
 */
void
relay_listen_reorder(void)
{
	if (!PGPUBSUB_LISTENS_BY_LIST)
		return;
	if (listening->to_move == 0 &&
		listening->num_events >=
		(uint64) Max(REORDER_EVENTS,
					 hash_get_num_entries(listening->channels)))
		listening->to_move = count_worth_moving();
	if (listening->to_move > 0)
		move_some();
}

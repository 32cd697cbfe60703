/*-------------------------------------------------------------------------
 *
 * listen.c
 *	  The channels that the relay listens to.
 *
 * 1. The relay listens to the channels that are bound, and to the reserved
 *	  one.  While it listens to a channel, Channel.listening is set, and its
 *	  slot is not reused.  It is set and reset a moment after that changes,
 *	  when the relay has dealt with what it had received before: until then
 *	  publishers send frames.
 *
 * 2. Core, up to 18, keeps what a session listens to in a list, in the order
 *	  of the LISTENs, and searches it from its head for each notification.
 *	  With thousands of channels that would be most of the relay's work.  So
 *	  the relay keeps the same list, counts what comes on each channel, and
 *	  where idle channels stand before busy ones, it UNLISTENs and LISTENs them
 *	  in one transaction: that puts them at the end, and nothing is missed.
 *	  It spends no more comparisons on that than the idle ones have cost.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/listen.h"

#include "access/xact.h"
#include "commands/async.h"
#include "pgstat.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* Channels that are moved in one transaction, at most. */
#define MOVE_AT_ONCE	128

/* Events between two looks at the order, at least. */
#define REORDER_EVENTS	1000

/* A channel that the relay listens to, by name. */
typedef struct Listened
{
	char		name[NAMEDATALEN];
	int			slot;
	uint64		events;			/* since the last look at the order */
	bool		idle;			/* had none before that */
	dlist_node	node;			/* in core's order */
} Listened;

/* A channel to LISTEN or UNLISTEN to; its slot is pinned meanwhile. */
typedef struct ListenChange
{
	char		name[NAMEDATALEN];
	int			slot;
	bool		listen;
} ListenChange;

static Database *database = NULL;
static HTAB *listened = NULL;
static dlist_head order = DLIST_STATIC_INIT(order);
static uint64 num_events = 0;	/* since the last look at the order */
static uint64 to_move = 0;		/* channels that are worth moving */

static ListenChange *changes = NULL;
static int	num_changes = 0;

/*
 * Set up, before the relay listens.
 */
void
relay_listen_init(Database *my_database)
{
	HASHCTL		ctl = {0};

	database = my_database;
	ctl.keysize = NAMEDATALEN;
	ctl.entrysize = sizeof(Listened);
	listened = hash_create("pgpubsub listened channels", 256, &ctl,
						   HASH_ELEM | HASH_STRINGS);
	changes = MemoryContextAlloc(TopMemoryContext,
								 pgpubsub_max_channels * sizeof(ListenChange));
}

/*
 * The slot of a channel that somebody reads; -1 if nobody does.  It is
 * pinned: nobody reuses it until relay_unpin_channel().
 */
int
relay_pin_bound_channel(Database *my_database, const char *name)
{
	int			slot;

	LWLockAcquire(my_database->lock, LW_SHARED);
	slot = registry_find_bound_channel(my_database, name);
	if (slot >= 0)
		pg_atomic_fetch_add_u32(&my_database->channels[slot].publishers, 1);
	LWLockRelease(my_database->lock);
	return slot;
}

/*
 * The slot may be reused as far as the relay is concerned.
 */
void
relay_unpin_channel(Database *my_database, int slot)
{
	registry_leave_channel(&my_database->channels[slot]);
}

/*
 * The slot of the channel on which something was received, if the relay
 * listens to it, else -1.
 */
int
relay_listen_receive(const char *name)
{
	Listened   *entry = hash_search(listened, name, HASH_FIND, NULL);

	if (entry == NULL)
		return -1;
	entry->events++;
	num_events++;
	return entry->slot;
}

/*
 * Count an event that did not come by LISTEN as received on its channel.
 * Returns the channel's slot, which is not reused before the event is in the
 * ring; -1 if nobody reads it.
 */
int
relay_listen_count_event(Database *my_database, const char *name)
{
	Listened   *entry = hash_search(listened, name, HASH_FIND, NULL);
	int			slot = entry ? entry->slot :
		relay_pin_bound_channel(my_database, name);

	if (slot >= 0)
		pg_atomic_fetch_add_u64(&my_database->channels[slot].received, 1);
	if (slot >= 0 && entry == NULL)
		relay_unpin_channel(my_database, slot);
	return slot;
}

/*
 * Make the list of channels that are bound and not listened to, or the other
 * way round.
 */
static void
list_changes(void)
{
	num_changes = 0;
	LWLockAcquire(database->lock, LW_SHARED);
	for (int slot = 0; slot < pgpubsub_max_channels; slot++)
	{
		Channel    *channel = &database->channels[slot];
		bool		bound = channel->in_use && !channel->is_pattern &&
			pg_atomic_read_u32(&channel->nbindings) > 0;
		ListenChange *change = &changes[num_changes];

		if (bound == (pg_atomic_read_u32(&channel->listening) != 0))
			continue;
		strlcpy(change->name, channel->name, NAMEDATALEN);
		change->slot = slot;
		change->listen = bound;
		pg_atomic_fetch_add_u32(&channel->publishers, 1);
		num_changes++;
	}
	LWLockRelease(database->lock);
}

/*
 * Let go of the channels that a change was under way for.
 */
void
relay_listen_exit(void)
{
	for (int i = 0; i < num_changes; i++)
		relay_unpin_channel(database, changes[i].slot);
	num_changes = 0;
}

/* The change has committed: from now on we listen to it, or no more. */
static void
apply_change(ListenChange *change)
{
	Listened   *entry;

	if (change->listen)
	{
		entry = hash_search(listened, change->name, HASH_ENTER, NULL);
		entry->slot = change->slot;
		entry->events = 0;
		entry->idle = false;
		dlist_push_tail(&order, &entry->node);
	}
	else
	{
		entry = hash_search(listened, change->name, HASH_FIND, NULL);
		dlist_delete(&entry->node);
		(void) hash_search(listened, change->name, HASH_REMOVE, NULL);
	}
}

/* Begin and end a transaction that changes what we listen to. */
static void
begin_listening(void)
{
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "listening to channels");
	StartTransactionCommand();
}

static void
end_listening(void)
{
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Listen to the channels that are bound and only to those; the first time
 * to the reserved one too.  A channel whose bindings change meanwhile brings
 * another request.  relay_listen_announce() comes next.
 */
void
relay_listen_to_bound(bool first)
{
	list_changes();
	if (num_changes == 0 && !first)
		return;

	begin_listening();
	if (first)
		Async_Listen(PGPUBSUB_FRAME_CHANNEL);
	for (int i = 0; i < num_changes; i++)
	{
		if (changes[i].listen)
			Async_Listen(changes[i].name);
		else
			Async_Unlisten(changes[i].name);
	}
	end_listening();
	for (int i = 0; i < num_changes; i++)
		apply_change(&changes[i]);
}

/*
 * Let publishers know of the changes, and of that the slots may be reused.
 */
void
relay_listen_announce(void)
{
	for (int i = 0; i < num_changes; i++)
		pg_atomic_write_u32(&database->channels[changes[i].slot].listening,
							changes[i].listen ? 1 : 0);
	relay_listen_exit();
}

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

	dlist_foreach(iter, &order)
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
	num_events = 0;
	if (wasted == 0)
		return 0;
	return Min(wasted / (2 * hash_get_num_entries(listened)),
			   idle_before_busy);
}

/* Move some of the first idle channels to the end. */
static void
move_some(void)
{
	dlist_head	moved = DLIST_STATIC_INIT(moved);
	dlist_mutable_iter iter;
	int			most = (int) Min(to_move, MOVE_AT_ONCE);
	int			n = 0;

	begin_listening();
	dlist_foreach_modify(iter, &order)
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
	end_listening();
	ereport(DEBUG1,
			(errmsg_internal("pgpubsub relay moved %d idle channels behind busy ones",
							 n)));

	/* there may be fewer than there were */
	to_move = n < MOVE_AT_ONCE ? 0 : to_move - n;
	while (!dlist_is_empty(&moved))
		dlist_push_tail(&order, dlist_pop_head_node(&moved));
}

/*
 * Now and then, have busy channels come first in core's list.
 */
void
relay_listen_reorder(void)
{
	if (!PGPUBSUB_LISTENS_BY_LIST)
		return;
	if (to_move == 0 &&
		num_events >= (uint64) Max(REORDER_EVENTS,
								   hash_get_num_entries(listened)))
		to_move = count_worth_moving();
	if (to_move > 0)
		move_some();
}

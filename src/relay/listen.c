/*-------------------------------------------------------------------------
 *
 * listen.c
 *	  The channels that the relay listens to.
 *
 * The relay listens to the channels that are bound, and to the reserved one.
 * While it listens to a channel, Channel.listening is set, and the channel's
 * slot is not reused.  The flag changes a moment after the LISTEN or UNLISTEN
 * has committed, when the relay has dealt with what it had received before:
 * until then publishers send frames.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "commands/async.h"
#include "utils/memutils.h"

static RelayListen *const listening = &relay.listen;

/* Room for changed channels, none of which is there. */
static void
init_changed(ChangedChannels *changed)
{
	changed->slots = MemoryContextAlloc(TopMemoryContext,
										pgpubsub_max_channels * sizeof(int));
	changed->has = MemoryContextAllocZero(TopMemoryContext,
										  pgpubsub_max_channels * sizeof(bool));
	changed->count = 0;
}

/*
 * Set up, before the relay listens.
 */
void
relay_listen_init(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = NAMEDATALEN;
	ctl.entrysize = sizeof(Listened);
	dlist_init(&listening->order);
	listening->channels = hash_create("pgpubsub listened channels", 256, &ctl,
									  HASH_ELEM | HASH_STRINGS);
	listening->changes =
		MemoryContextAlloc(TopMemoryContext,
						   pgpubsub_max_channels * sizeof(ListenChange));
	listening->taken = MemoryContextAlloc(TopMemoryContext,
										  pgpubsub_max_channels * sizeof(int));
	init_changed(&listening->changed);
	init_changed(&relay.durable.changed);
}

/* Add the slot to those that are to be looked at. */
static void
add_changed(ChangedChannels *changed, int slot)
{
	if (changed->has[slot])
		return;
	changed->has[slot] = true;
	changed->slots[changed->count++] = slot;
}

/*
 * Learn which channels were made, bound first or unbound last, for those who
 * look at them in a moment: list_changes() and apply_rules().  So what they do
 * costs by that, and not by all channels that there are.
 */
void
relay_take_changed(void)
{
	int			count;

	LWLockAcquire(relay.database->lock, LW_EXCLUSIVE);
	count = registry_take_changed(relay.database, listening->taken);
	LWLockRelease(relay.database->lock);
	for (int i = 0; i < count; i++)
	{
		add_changed(&listening->changed, listening->taken[i]);
		add_changed(&relay.durable.changed, listening->taken[i]);
	}
}

/*
 * The slot of a channel that somebody reads; -1 if nobody does.  Nobody reuses
 * it until the caller calls registry_leave_channel().
 */
int
relay_pin_bound_channel(const char *name)
{
	Database   *database = relay.database;
	int			slot;

	LWLockAcquire(database->lock, LW_SHARED);
	slot = registry_find_bound_channel(database, name);
	if (slot >= 0)
		pg_atomic_fetch_add_u32(&database->channels[slot].publishers, 1);
	LWLockRelease(database->lock);
	return slot;
}

/*
 * The slot of the channel on which something was received, if the relay
 * listens to it, else -1.
 */
int
relay_listen_receive(const char *name)
{
	Listened   *entry = hash_search(listening->channels, name, HASH_FIND, NULL);

	if (entry == NULL)
		return -1;
	entry->events++;
	listening->num_events++;
	return entry->slot;
}

/*
 * Count an event that did not come by LISTEN as received on its channel.
 * Returns the channel's slot, which is not reused before the event is in the
 * ring; -1 if nobody reads it.
 */
int
relay_listen_count_event(const char *name)
{
	Channel    *channels = relay.database->channels;
	Listened   *entry = hash_search(listening->channels, name, HASH_FIND,
									NULL);
	int			slot = entry ? entry->slot : relay_pin_bound_channel(name);

	if (slot >= 0)
		pg_atomic_fetch_add_u64(&channels[slot].received, 1);
	if (slot >= 0 && entry == NULL)
		registry_leave_channel(&channels[slot]);
	return slot;
}

/*
 * If the slot's channel is bound and not listened to, or the other way round,
 * add that to the list of changes.  Pins the slot.
 */
static void
list_change(int slot)
{
	Channel    *channel = &relay.database->channels[slot];
	bool		bound = channel->in_use && !channel->is_pattern &&
		pg_atomic_read_u32(&channel->nbindings) > 0;
	ListenChange *change;

	if (bound == (pg_atomic_read_u32(&channel->listening) != 0))
		return;
	change = &listening->changes[listening->num_changes];
	strlcpy(change->name, channel->name, NAMEDATALEN);
	change->slot = slot;
	change->listen = bound;
	pg_atomic_fetch_add_u32(&channel->publishers, 1);
	listening->num_changes++;
}

/*
 * Make the list of changes, of the channels that have changed; with all, of all
 * channels, for another relay may have taken note of what has changed before.
 */
static void
list_changes(bool all)
{
	Database   *database = relay.database;
	ChangedChannels *changed = &listening->changed;

	relay_take_changed();
	listening->num_changes = 0;
	LWLockAcquire(database->lock, LW_SHARED);
	for (int i = 0; i < (all ? pgpubsub_max_channels : changed->count); i++)
		list_change(all ? i : changed->slots[i]);
	LWLockRelease(database->lock);
	for (int i = 0; i < changed->count; i++)
		changed->has[changed->slots[i]] = false;
	changed->count = 0;
}

/*
 * Let go of the channels that list_changes() has pinned.
 */
void
relay_listen_exit(void)
{
	for (int i = 0; i < listening->num_changes; i++)
		registry_leave_channel(&relay.database->channels[listening->changes[i].slot]);
	listening->num_changes = 0;
}

/* The change has committed. */
static void
apply_change(ListenChange *change)
{
	Listened   *entry = hash_search(listening->channels, change->name,
									change->listen ? HASH_ENTER : HASH_REMOVE,
									NULL);

	if (change->listen)
	{
		entry->slot = change->slot;
		entry->events = 0;
		entry->idle = false;
		dlist_push_tail(&listening->order, &entry->node);
	}
	else
		dlist_delete(&entry->node);
}

/* Have core make the listed changes; the first time also listen for frames. */
static void
make_changes(bool first)
{
	relay_begin("listening to channels");
	if (first)
		Async_Listen(PGPUBSUB_FRAME_CHANNEL);
	for (int i = 0; i < listening->num_changes; i++)
	{
		if (listening->changes[i].listen)
			Async_Listen(listening->changes[i].name);
		else
			Async_Unlisten(listening->changes[i].name);
	}
	relay_end();
	for (int i = 0; i < listening->num_changes; i++)
		apply_change(&listening->changes[i]);
}

/*
 * Listen to the channels that are bound and only to those, the first time to
 * the reserved one too; then let publishers know.  A channel whose bindings
 * change meanwhile brings another request.  Must not be in a transaction.
 */
void
relay_listen_to_bound(bool first)
{
	list_changes(first);
	if (listening->num_changes > 0 || first)
		make_changes(first);

	/* before a publisher may leave out frames */
	relay_receive_twin();
	for (int i = 0; i < listening->num_changes; i++)
	{
		ListenChange *change = &listening->changes[i];

		pg_atomic_write_u32(&relay.database->channels[change->slot].listening,
							change->listen ? 1 : 0);
	}
	relay_listen_exit();
}

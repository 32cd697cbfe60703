/*-------------------------------------------------------------------------
 *
 * channel_table.c
 *	  Channels and patterns in shared memory.
 *
 * 1. A channel slot is known from its first use on: by a subscription, a
 *	  trigger or publish().  It is reused, when the table is full, only if no
 *	  binding, no event on its way to the ring and no open transaction that
 *	  published on it refers to it.  Its events in the ring may stay: numbers
 *	  go on, so that those of the new channel are above base_number, which no
 *	  binding of it is behind.
 *
 * 2. A pattern takes a channel slot too.  Its bindings say which subscriptions
 *	  name it; a new channel that it matches is bound to those.
 *
 * The table is bounded: functions that take from it say when it is full, and
 * raise nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/registry_internal.h"

/* Slots with events in the ring that are looked at before one is reused. */
#define REUSE_CHOICE	16

uint64		registry_passed_over = 0;

/* Fill in the key of a channel or pattern. */
static void
channel_key(ChannelKey *key, const char *name, bool is_pattern)
{
	memset(key, 0, sizeof(ChannelKey));
	strlcpy(key->name, name, NAMEDATALEN);
	key->is_pattern = is_pattern;
}

/* The slot of the channel, or of the pattern; -1 if it is not known. */
int
registry_find_channel(Database *database, const char *name, bool is_pattern)
{
	ChannelKey	key;
	ChannelEntry *entry;

	Assert(LWLockHeldByMe(database->lock));
	channel_key(&key, name, is_pattern);
	entry = hash_search(registry_channel_hashes[database->index], &key, HASH_FIND,
						NULL);
	return entry ? entry->slot : -1;
}

/* The slot of the channel, if somebody reads it; -1 if nobody does. */
int
registry_find_bound_channel(Database *database, const char *name)
{
	int			slot = registry_find_channel(database, name, false);

	if (slot >= 0 &&
		pg_atomic_read_u32(&database->channels[slot].nbindings) == 0)
		return -1;
	return slot;
}

/* Forget all channels of the database, whose slot is being freed. */
void
registry_forget_channels(Database *database)
{
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	for (int i = 0; i < pgpubsub_max_channels; i++)
	{
		Channel    *channel = &database->channels[i];
		ChannelKey	key;

		pg_atomic_write_u64(&channel->received, 0);
		if (!channel->in_use)
			continue;
		channel_key(&key, channel->name, channel->is_pattern);
		hash_search(registry_channel_hashes[database->index], &key, HASH_REMOVE, NULL);
		channel->in_use = false;
		move_channel(channel, &database->table.free_channels);
		pg_atomic_fetch_add_u32(&channel->generation, 1);
	}
	pg_atomic_write_u32(&database->table.channels_full, 0);
}

/*
 * What kept the channel's slot from being reused has ended, but perhaps for its
 * bindings.  Cannot fail.
 *
 * The barrier pairs with the one in take_channel_slot(), which sets
 * channels_full and then looks through all slots.  The caller has freed this
 * slot, and looks at channels_full now: so that process finds the slot, or we
 * count it as released.  Else it could stay unused for ever.
 */
void
registry_channel_released(Channel *channel)
{
	Database   *database = channel->database;

	if (pg_atomic_read_u32(&channel->nbindings) > 0)
		return;
	pg_memory_barrier();
	if (pg_atomic_read_u32(&database->table.channels_full) != 0)
		pg_atomic_fetch_add_u64(&database->table.released, 1);
}

/*
 * A transaction that was counted among the channel's publishers has ended.
 * Takes no lock and cannot fail.
 */
void
registry_leave_channel(Channel *channel)
{
	if (pg_atomic_fetch_sub_u32(&channel->publishers, 1) == 1)
		registry_channel_released(channel);
}

/*
 * True if nothing refers to the channel any more.  Its events that are still
 * in the ring have been consumed, or nobody has read them.
 */
static bool
channel_reusable(Database *database, int slot)
{
	Channel    *channel = &database->channels[slot];

	return pg_atomic_read_u32(&channel->nbindings) == 0 &&
		pg_atomic_read_u32(&channel->publishers) == 0 &&
		pg_atomic_read_u32(&channel->listening) == 0 &&
		pg_atomic_read_u64(&channel->received) ==
		ring_newest_number(database->ring, slot);
}

/*
 * Take the slot from its channel.  Returns false, and leaves it, if somebody
 * has begun to publish on it.
 *
 * A publisher that remembers the slot takes no lock: it counts itself among
 * the publishers, and then looks at the generation.  Here the generation
 * grows, and then the publishers are looked at; both first steps are full
 * barriers.  So either the publisher sees that the slot is another's, or we
 * see the publisher.  Else its events could go to the next channel of the slot.
 * If the generation has grown for nothing, publishers look for the slot anew,
 * and find it.
 */
static bool
free_channel_slot(Database *database, int slot)
{
	Channel    *channel = &database->channels[slot];
	ChannelKey	key;
	RingChannelState ring;

	pg_atomic_fetch_add_u32(&channel->generation, 1);
	if (pg_atomic_read_u32(&channel->publishers) != 0)
		return false;
	if (!ring_channel_empty(database->ring, slot))
	{
		ring_channel_state(database->ring, slot, &ring);
		database->table.forgotten = Max(database->table.forgotten, ring.newest_seq);
	}
	channel_key(&key, channel->name, channel->is_pattern);
	hash_search(registry_channel_hashes[database->index], &key, HASH_REMOVE,
				NULL);
	channel->in_use = false;
	move_channel(channel, &database->table.free_channels);
	return true;
}

/*
 * A slot that may be reused, among those that have had no binding for longest;
 * rather one without events in the ring, as somebody may yet ask for those.
 * -1 if there is none.  One that may not be reused goes to the list's end.
 */
static int
find_reusable(Database *database)
{
	dlist_mutable_iter iter;
	dlist_node *last = dlist_is_empty(&database->table.unbound_channels) ? NULL :
		dlist_tail_node(&database->table.unbound_channels);
	int			with_events = 0;
	int			found = -1;

	dlist_foreach_modify(iter, &database->table.unbound_channels)
	{
		Channel    *channel = dlist_container(Channel, node, iter.cur);
		int			slot = channel - database->channels;

		registry_passed_over++;
		if (!channel_reusable(database, slot))
			move_channel(channel, &database->table.unbound_channels);
		else if (ring_channel_empty(database->ring, slot))
			return slot;
		else
		{
			if (found < 0)
				found = slot;
			if (++with_events == REUSE_CHOICE)
				break;
		}
		if (iter.cur == last)
			break;
	}
	return found;
}

/* A slot that is taken from a channel that nothing refers to; -1 if none. */
static int
reuse_channel_slot(Database *database)
{
	int			slot;

	do
		slot = find_reusable(database);
	while (slot >= 0 && !free_channel_slot(database, slot));
	return slot;
}

/* True if no slot was found last, and no more have become free since. */
bool
registry_channels_full(Database *database)
{
	Assert(LWLockHeldByMe(database->lock));
	return pg_atomic_read_u32(&database->table.channels_full) != 0 &&
		pg_atomic_read_u64(&database->table.released) == database->table.searched;
}

/* A free channel slot, one that is reused if need be; -1 if there is none. */
static int
take_channel_slot(Database *database)
{
	int			slot;

	if (!dlist_is_empty(&database->table.free_channels))
	{
		Channel    *channel = dlist_head_element(Channel, node,
												 &database->table.free_channels);

		return (int) (channel - database->channels);
	}
	if (registry_channels_full(database))
		return -1;
	slot = reuse_channel_slot(database);
	if (slot < 0)
	{
		/* look again, now that registry_channel_released() counts */
		pg_atomic_write_u32(&database->table.channels_full, 1);
		pg_memory_barrier();
		database->table.searched = pg_atomic_read_u64(&database->table.released);
		slot = reuse_channel_slot(database);
	}
	if (slot >= 0)
		pg_atomic_write_u32(&database->table.channels_full, 0);
	return slot;
}

/* The subscription misses events, nobody knows how many: let it look. */
static void
miss_events(Database *database, Subscription *subscription)
{
	pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
	registry_wake_waiting(database, subscription);
}

/*
 * Bind the new channel to a subscription with a pattern that matches, by its
 * binding to that pattern: it reads it from its first event on.  If an open
 * change adds or drops the pattern, it does so with this binding too.
 */
static void
bind_by_pattern(Database *database, Binding *pattern, int slot)
{
	Channel    *channel = &database->channels[slot];
	Subscription *subscription = pattern->subscription;
	uint32		open = pattern->flags & (BINDING_ADDED | BINDING_DROPPED);
	Binding    *binding = registry_find_binding(subscription, slot);
	uint64		number;
	uint64		logged;

	if (binding != NULL)
	{
		/* another pattern of the subscription matched, just now */
		if (!(open & BINDING_DROPPED))
			binding->flags &= ~BINDING_DROPPED;
		if (!(open & BINDING_ADDED) && (binding->flags & BINDING_ADDED))
			registry_binding_committed(database, binding);
		return;
	}
	binding = registry_bind(database, subscription, slot,
							BINDING_BY_PATTERN | open);
	if (binding == NULL)
	{
		miss_events(database, subscription);
		return;
	}
	ring_counts(database->ring, slot, &number, &logged);
	registry_set_position(binding, channel->base_number, channel->base_pos,
						  logged, channel->base_seq);
	if (open & BINDING_ADDED)
		return;
	if (subscription->on_full != ON_FULL_DROP)
		ring_lower_hold(database->ring, slot, channel->base_number);
	registry_wake_waiting(database, subscription);
}

/*
 * Bind the new channel to the subscriptions with a pattern that matches its
 * name; or, if slot is -1, as there is no room for it, tell them that they miss
 * events.  Returns whether there are any.
 */
static bool
bind_matching(Database *database, const char *name, int slot)
{
	bool		any = false;

	if (pg_atomic_read_u32(&database->table.npatterns) == 0)
		return false;
	foreach_dlist(Channel, pattern, node, &database->table.bound_patterns)
	{
		if (!registry_pattern_matches(pattern->name, name))
			continue;
		foreach_dlist(Binding, binding, channel_node, &pattern->bindings)
		{
			if (slot >= 0)
				bind_by_pattern(database, binding, slot);
			else
				miss_events(database, binding->subscription);
			any = true;
		}
	}
	return any;
}

/*
 * Tell the subscriptions with a pattern that matches the name of a channel
 * for which there is no room that they miss events.  Returns whether there
 * are any.
 */
bool
registry_gap_for_matching(Database *database, const char *name)
{
	Assert(LWLockHeldByMe(database->lock));
	return bind_matching(database, name, -1);
}

/*
 * The slot of the channel or pattern, which is made known if it is not; -1
 * if the table is full.  A new channel is bound to the subscriptions whose
 * patterns match; the caller sends the relay a request if it has bindings
 * and nobody listens.
 */
int
registry_make_channel(Database *database, const char *name, bool is_pattern)
{
	int			slot = registry_find_channel(database, name, is_pattern);
	Channel    *channel;
	ChannelKey	key;
	ChannelEntry *entry;
	RingChannelState ring;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (slot >= 0)
		return slot;
	slot = take_channel_slot(database);
	if (slot < 0)
		return -1;

	channel_key(&key, name, is_pattern);
	entry = hash_search(registry_channel_hashes[database->index], &key,
						HASH_ENTER_NULL, NULL);
	if (entry == NULL)
		return -1;
	entry->slot = slot;

	/*
	 * Numbers go on where the slot's last channel has left them, and its
	 * records stay in the ring: the relay knows of no change.
	 */
	channel = &database->channels[slot];
	channel->base_number = ring_newest_number(database->ring, slot);
	channel->base_pos = ring_newest_position(database->ring, slot,
											 channel->base_number);
	Assert(pg_atomic_read_u64(&channel->received) == channel->base_number);
	ring_channel_state(database->ring, slot, &ring);

	/* who begins before this looks whether the log has something */
	channel->base_seq = ring_newest_seq(database->ring);
	ring_set_log_newest(database->ring, slot, channel->base_seq);
	channel->durable = false;
	channel->retain = 0;
	pg_atomic_write_u32(&channel->log_counted, 0);
	pg_atomic_write_u64(&channel->log_events, 0);
	pg_atomic_write_u64(&channel->log_bytes, 0);
	channel->forgotten = database->table.forgotten;
	channel->published_base = channel->base_number;
	channel->published_bytes_base = ring.bytes;
	strlcpy(channel->name, name, NAMEDATALEN);
	channel->is_pattern = is_pattern;
	pg_atomic_write_u32(&channel->used, 0);
	pg_atomic_write_u64(&channel->delivered, 0);
	pg_atomic_write_u64(&channel->lost, 0);
	pg_atomic_write_u64(&channel->truncated, 0);
	move_channel(channel, &database->table.unbound_channels);
	channel->in_use = true;
	note_changed(channel);
	pg_atomic_fetch_add_u32(&database->table.version, 1);
	if (!is_pattern)
		(void) bind_matching(database, name, slot);
	return slot;
}

/*
 * Take the slots of the channels that were made, bound first or unbound last
 * since this was called last, into the array, which has room for
 * pgpubsub_max_channels; returns how many there are.  The relay alone calls
 * this, so that a request costs by what has changed, and not by what there is.
 */
int
registry_take_changed(Database *database, int *slots)
{
	dlist_head *changed = &database->table.changed_channels;
	int			count = 0;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	while (!dlist_is_empty(changed))
	{
		Channel    *channel = dlist_container(Channel, changed_node,
											  dlist_pop_head_node(changed));

		channel->changed = false;
		slots[count++] = (int) (channel - database->channels);
	}
	return count;
}

/* True if the name of a subscribed channel is a pattern. */
bool
registry_is_pattern(const char *name)
{
	return strchr(name, PGPUBSUB_WILDCARD) != NULL;
}

/*
 * True if the pattern matches all of name.  The wildcard is ASCII and both
 * are in a server encoding, in which no other character contains its byte.
 */
bool
registry_pattern_matches(const char *pattern, const char *name)
{
	const char *star = NULL;
	const char *resume = NULL;

	while (*name)
	{
		if (*pattern == PGPUBSUB_WILDCARD)
		{
			star = pattern++;
			resume = name;
		}
		else if (*pattern == *name)
		{
			pattern++;
			name++;
		}
		else if (star)
		{
			/* let the last wildcard take one byte more */
			pattern = star + 1;
			name = ++resume;
		}
		else
			return false;
	}
	while (*pattern == PGPUBSUB_WILDCARD)
		pattern++;
	return *pattern == '\0';
}

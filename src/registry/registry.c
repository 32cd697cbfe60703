/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  Channels, subscriptions and bindings in shared memory.
 *
 * 1. A channel slot is known from its first use on: by a subscription, a
 *	  trigger or publish().  It is reused, when the table is full, only if no
 *	  binding, no event on its way to the ring and no open transaction that
 *	  published on it refers to it.  Its events in the ring may stay: numbers
 *	  go on, so that those of the new channel are above base_number, which no
 *	  binding of it is behind.  Patterns take channel slots too.
 *
 * 2. A subscription is a name, an owner and a set of bindings.  Its reader is
 *	  the session that has written its pid there under the mutex; it keeps it
 *	  until its transaction ends.  Only the reader removes bindings, so a
 *	  reader's pointers to them stay good; any session adds one, when a new
 *	  channel matches a pattern.
 *
 * 3. A binding is a subscription's position in a channel: the number of the
 *	  last event consumed.  What is pending and what was lost are differences
 *	  of numbers.
 *
 * registry_shmem.c has the layout, registry_database.c the database slots.
 *
 * Pools are bounded.  Functions that take from one say when it is empty and
 * raise nothing.  The lock order stands in shmem.c; each function asserts
 * what its caller must hold.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/registry_internal.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

/* Slots with events in the ring that are looked at before one is reused. */
#define REUSE_CHOICE	16

/* Bindings and slots that this process has passed over to find others. */
static uint64 passed_over = 0;

/* Fill in the key of a channel or pattern. */
static void
channel_key(ChannelKey *key, const char *name, bool is_pattern)
{
	memset(key, 0, sizeof(ChannelKey));
	strlcpy(key->name, name, NAMEDATALEN);
	key->is_pattern = is_pattern;
}

/*
 * Channels
 */

/*
 * The slot of the channel, or of the pattern; -1 if it is not known.
 * database->lock must be held.
 */
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

/*
 * The slot of the channel, if somebody reads it; -1 if nobody does.
 * database->lock must be held.
 */
int
registry_find_bound_channel(Database *database, const char *name)
{
	int			slot = registry_find_channel(database, name, false);

	if (slot >= 0 &&
		pg_atomic_read_u32(&database->channels[slot].nbindings) == 0)
		return -1;
	return slot;
}

/* Put the channel at the end of one of its database's lists. */
static void
move_channel(Channel *channel, dlist_head *list)
{
	dlist_delete(&channel->node);
	dlist_push_tail(list, &channel->node);
}

/*
 * How many bindings and slots this process has passed over to find others.
 */
uint64
registry_passed_over(void)
{
	return passed_over;
}

/*
 * Forget all channels of the database, whose slot is being freed.
 * database->lock must be held, exclusive.
 */
void
registry_forget_channels(Database *database)
{
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
 * What kept the channel's slot from being reused has ended, but for its
 * bindings.  Whoever finds no slot sets channels_full, then looks through all
 * of them; the other way round here: one of the two sees the other.  Cannot
 * fail.
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
 * Whoever was counted among the channel's publishers is it no more.  Takes no
 * lock and cannot fail.
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
 * A publisher that has its slot in mind takes no lock: it counts itself, then
 * looks at the generation.  The other way round here, and both are full
 * barriers: if it has found the old generation, it is seen.  It finds its slot
 * anew when the generation has grown for nothing.
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
 * What may not be reused now is looked at last next time.  -1 if there is none.
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

		passed_over++;
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
	for (;;)
	{
		int			slot = find_reusable(database);

		if (slot < 0)
			return -1;
		if (free_channel_slot(database, slot))
			return slot;
	}
}

/*
 * True if there is no slot for another channel, and nothing has changed that
 * since one was looked for.  database->lock must be held.
 */
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
		/* again, now that who lets go of one tells */
		pg_atomic_write_u32(&database->table.channels_full, 1);
		pg_memory_barrier();
		database->table.searched = pg_atomic_read_u64(&database->table.released);
		slot = reuse_channel_slot(database);
	}
	if (slot >= 0)
		pg_atomic_write_u32(&database->table.channels_full, 0);
	return slot;
}

/*
 * Bind the new channel to a subscription with a pattern that matches, by its
 * binding to that pattern: it reads it from its first event on.  If an open
 * change drops the pattern, it drops this binding too.
 */
static void
bind_by_pattern(Database *database, Binding *pattern, int slot)
{
	Channel    *channel = &database->channels[slot];
	Subscription *subscription = pattern->subscription;
	uint32		dropped = pattern->flags & BINDING_DROPPED;
	Binding    *binding = registry_find_binding(subscription, slot);

	if (binding != NULL)
	{
		/* by another pattern of the same subscription, just now */
		if (!dropped)
			binding->flags &= ~BINDING_DROPPED;
		return;
	}
	binding = registry_bind(database, subscription, slot,
							BINDING_BY_PATTERN | dropped);
	if (binding == NULL)
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
	else
	{
		registry_set_position(binding, channel->base_number,
							  channel->base_pos);
		if (subscription->on_full != ON_FULL_DROP)
			ring_lower_hold(database->ring, slot, channel->base_number);
	}

	registry_wake_waiting(database, subscription);
}

/* Bind the new channel to the subscriptions with a pattern that matches. */
static void
bind_matching(Database *database, int slot)
{
	const char *name = database->channels[slot].name;
	dlist_iter	each;

	if (pg_atomic_read_u32(&database->table.npatterns) == 0)
		return;
	dlist_foreach(each, &database->table.bound_patterns)
	{
		Channel    *pattern = dlist_container(Channel, node, each.cur);
		dlist_iter	iter;

		if (!registry_pattern_matches(pattern->name, name))
			continue;
		dlist_foreach(iter, &pattern->bindings)
			bind_by_pattern(database,
							dlist_container(Binding, channel_node, iter.cur),
							slot);
	}
}

/*
 * The slot of the channel or pattern, which is made known if it is not; -1
 * if the table is full.  A new channel is bound to the subscriptions whose
 * patterns match; the caller sends the relay a request if it has bindings
 * and nobody listens.  database->lock must be held, exclusive.
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
	pg_atomic_fetch_add_u32(&database->table.version, 1);
	if (!is_pattern)
		bind_matching(database, slot);
	return slot;
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

/*
 * Tell the subscriptions with a pattern that matches the name of a channel
 * for which there is no room that they miss events.  Returns whether there
 * are any.  database->lock must be held.
 */
bool
registry_gap_for_matching(Database *database, const char *name)
{
	bool		any = false;
	dlist_iter	each;

	Assert(LWLockHeldByMe(database->lock));
	if (pg_atomic_read_u32(&database->table.npatterns) == 0)
		return false;
	dlist_foreach(each, &database->table.bound_patterns)
	{
		Channel    *pattern = dlist_container(Channel, node, each.cur);
		dlist_iter	iter;

		if (!registry_pattern_matches(pattern->name, name))
			continue;
		dlist_foreach(iter, &pattern->bindings)
		{
			Binding    *by = dlist_container(Binding, channel_node, iter.cur);

			pg_atomic_fetch_add_u64(&by->subscription->gap_epoch, 1);
			registry_wake_waiting(database, by->subscription);
			any = true;
		}
	}
	return any;
}

/*
 * Subscriptions
 */

/* Fill in the key of a subscription. */
static void
subscription_key(SubscriptionKey *key, Oid database, const char *name)
{
	memset(key, 0, sizeof(SubscriptionKey));
	key->database = database;
	strlcpy(key->name, name, NAMEDATALEN);
}

/*
 * The subscription of that name, in whatever state; NULL if there is none.
 * database->lock must be held.
 */
Subscription *
registry_find_subscription(Database *database, const char *name)
{
	SubscriptionKey key;
	SubscriptionEntry *entry;
	Subscription *subscription = NULL;

	Assert(LWLockHeldByMe(database->lock));
	subscription_key(&key, database->oid, name);
	LWLockAcquire(pgpubsub_control->subscription_lock, LW_SHARED);
	entry = hash_search(registry_subscription_hash, &key, HASH_FIND, NULL);
	if (entry)
		subscription = &pgpubsub_control->subscriptions[entry->slot];
	LWLockRelease(pgpubsub_control->subscription_lock);
	return subscription;
}

/*
 * A slot from the pool, its name entered in the hash; NULL if none is free.
 * *replaces tells if the name meant another until now.
 */
static Subscription *
take_subscription_slot(Oid database, const char *name, bool *replaces)
{
	SubscriptionKey key;
	SubscriptionEntry *entry;
	Subscription *subscription = NULL;

	subscription_key(&key, database, name);
	LWLockAcquire(pgpubsub_control->subscription_lock, LW_EXCLUSIVE);
	if (!dlist_is_empty(&pgpubsub_control->free_subscriptions))
	{
		/* replaces the entry of one that this transaction is dropping */
		entry = hash_search(registry_subscription_hash, &key, HASH_ENTER_NULL,
							replaces);
		if (entry)
		{
			subscription = dlist_container(Subscription, node,
										   dlist_pop_head_node(&pgpubsub_control->free_subscriptions));
			entry->slot = subscription - pgpubsub_control->subscriptions;
		}
	}
	LWLockRelease(pgpubsub_control->subscription_lock);
	return subscription;
}

/*
 * Make a subscription in state creating, without bindings.  Returns NULL if
 * the pool is empty.  database->lock must be held, exclusive.
 */
Subscription *
registry_make_subscription(Database *database, const char *name, Oid owner,
						   OnFull on_full, bool temporary)
{
	Subscription *subscription;
	bool		replaces;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	subscription = take_subscription_slot(database->oid, name, &replaces);
	if (subscription == NULL)
		return NULL;

	subscription->state = SUBSCRIPTION_CREATING;
	subscription->database = database->index;
	subscription->changer_pid = MyProcPid;
	strlcpy(subscription->name, name, NAMEDATALEN);
	subscription->owner = owner;
	subscription->on_full = on_full;
	subscription->temporary = temporary;
	subscription->session_pid = temporary ? MyProcPid : 0;
	subscription->replaces = replaces;
	subscription->doomed = subscription->stale = false;
	subscription->evicted = subscription->holding = false;
	subscription->foreign = subscription->adopted = false;
	subscription->created_at = GetCurrentTimestamp();
	pg_atomic_write_u64(&subscription->seq, 0);
	pg_atomic_write_u64(&subscription->gap_epoch, 0);
	pg_atomic_write_u64(&subscription->gap_seen,
						registry_gap_epoch(database, subscription));
	pg_atomic_write_u64(&subscription->delivered, 0);
	pg_atomic_write_u64(&subscription->delivered_bytes, 0);
	pg_atomic_write_u64(&subscription->lost, 0);
	pg_atomic_write_u64(&subscription->polls, 0);
	pg_atomic_write_u64(&subscription->empty_polls, 0);
	pg_atomic_write_u64(&subscription->last_poll_at, 0);
	subscription->told_gap = subscription->told_seq = 0;
	dlist_push_tail(&database->subscriptions, &subscription->node);
	return subscription;
}

/*
 * Have the name mean this subscription again, after one that replaced it was
 * dropped.  Takes nothing from a pool if the name is still in use; else there
 * is room, as the dropped one just left it.  database->lock must be held,
 * exclusive.
 */
void
registry_restore_name(Database *database, Subscription *subscription)
{
	SubscriptionKey key;
	SubscriptionEntry *entry;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	subscription_key(&key, database->oid, subscription->name);
	LWLockAcquire(pgpubsub_control->subscription_lock, LW_EXCLUSIVE);
	entry = hash_search(registry_subscription_hash, &key, HASH_ENTER_NULL, NULL);
	if (entry)
		entry->slot = subscription - pgpubsub_control->subscriptions;
	LWLockRelease(pgpubsub_control->subscription_lock);
}

/*
 * Drop the subscription with its bindings, at once.  The caller is its
 * reader or has made sure that it has none, and sends the relay a request
 * afterwards.  database->lock must be held, exclusive.
 */
void
registry_drop_subscription(Database *database, Subscription *subscription)
{
	SubscriptionKey key;
	SubscriptionEntry *entry;
	int			slot = subscription - pgpubsub_control->subscriptions;
	int			reader_procno = -1;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	while (!dlist_is_empty(&subscription->bindings))
		registry_unbind(database, dlist_head_element(Binding,
													 subscription_node,
													 &subscription->bindings));
	registry_expel_waiting(database, subscription);
	dlist_delete(&subscription->node);
	subscription->state = SUBSCRIPTION_FREE;
	subscription->generation++;

	/* before another database can take the slot */
	SpinLockAcquire(&subscription->mutex);
	if (subscription->reader_pid != 0)
		reader_procno = subscription->reader_procno;
	subscription->reader_pid = 0;
	subscription->waiting = false;
	SpinLockRelease(&subscription->mutex);

	subscription_key(&key, database->oid, subscription->name);
	LWLockAcquire(pgpubsub_control->subscription_lock, LW_EXCLUSIVE);
	entry = hash_search(registry_subscription_hash, &key, HASH_FIND, NULL);
	if (entry && entry->slot == slot)
		hash_search(registry_subscription_hash, &key, HASH_REMOVE, NULL);
	dlist_push_head(&pgpubsub_control->free_subscriptions,
					&subscription->node);
	LWLockRelease(pgpubsub_control->subscription_lock);

	if (reader_procno >= 0)
		SetLatch(&GetPGProcByNumber(reader_procno)->procLatch);
	ConditionVariableBroadcast(&subscription->reader_cv);
}

/*
 * A number that grows when the subscription has missed events and nobody
 * knows how many.
 */
uint64
registry_gap_epoch(Database *database, Subscription *subscription)
{
	return pg_atomic_read_u64(&database->gap_epoch) +
		pg_atomic_read_u64(&subscription->gap_epoch);
}

/*
 * Bindings
 */

/* The bucket of the subscription's binding to the channel. */
static int *
binding_bucket(Subscription *subscription, int channel)
{
	Database   *database = &pgpubsub_control->databases[subscription->database];
	int			slot = subscription - pgpubsub_control->subscriptions;
	uint32		hash = hash_combine(murmurhash32((uint32) slot),
									murmurhash32((uint32) channel));

	return &database->binding_buckets[hash & (registry_num_buckets() - 1)];
}

/* Put the binding into its bucket, or take it out. */
static void
hash_binding(Database *database, Binding *binding)
{
	int		   *bucket = binding_bucket(binding->subscription,
										binding->channel);

	binding->hash_next = *bucket;
	*bucket = binding - database->bindings;
}

static void
unhash_binding(Database *database, Binding *binding)
{
	int		   *link = binding_bucket(binding->subscription, binding->channel);

	while (&database->bindings[*link] != binding)
		link = &database->bindings[*link].hash_next;
	*link = binding->hash_next;
}

/*
 * The subscription's binding to the channel, or NULL.  The lock of its
 * database must be held.
 */
Binding *
registry_find_binding(Subscription *subscription, int channel)
{
	Database   *database = &pgpubsub_control->databases[subscription->database];
	int			next = *binding_bucket(subscription, channel);

	while (next >= 0)
	{
		Binding    *binding = &database->bindings[next];

		if (binding->subscription == subscription &&
			binding->channel == channel)
			return binding;
		passed_over++;
		next = binding->hash_next;
	}
	return NULL;
}

/*
 * Bind the subscription to the channel, to which it has no binding; it has
 * no position yet.  Returns NULL if the pool is empty.  database->lock must
 * be held, exclusive.
 */
Binding *
registry_bind(Database *database, Subscription *subscription, int channel,
			  uint32 flags)
{
	Channel    *slot = &database->channels[channel];
	Binding    *binding;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (dlist_is_empty(&database->table.free_bindings))
		return NULL;
	binding = dlist_container(Binding, channel_node,
							  dlist_pop_head_node(&database->table.free_bindings));
	binding->subscription = subscription;
	binding->channel = channel;
	binding->flags = flags;
	pg_atomic_write_u64(&binding->number, BINDING_UNPLACED);
	pg_atomic_write_u64(&binding->pos, RING_NONE);
	binding->told = 0;
	binding->cursor = -1;
	binding->waiting = false;
	dlist_push_tail(&slot->bindings, &binding->channel_node);
	dlist_push_tail(&subscription->bindings, &binding->subscription_node);
	hash_binding(database, binding);
	subscription->bindings_version++;
	if (pg_atomic_fetch_add_u32(&slot->nbindings, 1) == 0)
		move_channel(slot, slot->is_pattern ? &database->table.bound_patterns :
					 &database->table.bound_channels);
	if (slot->is_pattern)
	{
		dlist_push_tail(&subscription->patterns, &binding->pattern_node);
		pg_atomic_fetch_add_u32(&database->table.npatterns, 1);
	}

	/* who waits is in no list of this channel's waiters yet */
	registry_wake_waiting(database, subscription);
	return binding;
}

/*
 * Write the binding's position: the number of the last event consumed and, to
 * find the next one at once, the place of that event or of one before, or
 * RING_NONE.  The caller is the subscription's reader, or holds the lock of
 * its database, exclusive.
 */
void
registry_set_position(Binding *binding, uint64 number, RingPos pos)
{
	pg_atomic_write_u64(&binding->number, number);
	pg_write_barrier();
	pg_atomic_write_u64(&binding->pos, pos);
}

/*
 * Read the binding's position: the number, BINDING_UNPLACED if there is none
 * yet, and in *pos a place that is not behind it, though the reader may commit
 * meanwhile.  The caller is the reader, or holds the lock of its database.
 */
uint64
registry_position(Binding *binding, RingPos *pos)
{
	*pos = pg_atomic_read_u64(&binding->pos);
	pg_read_barrier();
	return pg_atomic_read_u64(&binding->number);
}

/*
 * The binding goes: count what it has lost and was not told of, as the views
 * have until now.  stat_reset() may have taken that off in advance.
 */
static void
count_lost(Database *database, Binding *binding)
{
	uint64		number = pg_atomic_read_u64(&binding->number);
	uint64		lost;

	if (number == BINDING_UNPLACED)
		return;
	lost = ring_lost(database->ring, binding->channel, number);
	pg_atomic_fetch_add_u64(&binding->subscription->lost, lost);
	pg_atomic_fetch_add_u64(&database->channels[binding->channel].lost, lost);
}

/*
 * Remove the binding.  The caller is the subscription's reader or has made
 * sure that it has none, and sends the relay a request afterwards.
 * database->lock must be held, exclusive.
 */
void
registry_unbind(Database *database, Binding *binding)
{
	Channel    *channel = &database->channels[binding->channel];

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));

	/* it cannot begin to wait now, only end, and nobody looks at it then */
	if (binding->waiting)
	{
		LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
		if (binding->waiting)
		{
			dlist_delete(&binding->wait_node);
			binding->waiting = false;
			pg_atomic_fetch_sub_u32(&channel->nwaiters, 1);
		}
		LWLockRelease(database->wait_lock);
	}

	count_lost(database, binding);
	dlist_delete(&binding->channel_node);
	dlist_delete(&binding->subscription_node);
	unhash_binding(database, binding);
	binding->subscription->bindings_version++;
	if (channel->is_pattern)
	{
		dlist_delete(&binding->pattern_node);
		pg_atomic_fetch_sub_u32(&database->table.npatterns, 1);
	}
	binding->subscription = NULL;
	if (pg_atomic_fetch_sub_u32(&channel->nbindings, 1) == 1)
	{
		move_channel(channel, &database->table.unbound_channels);
		registry_channel_released(channel);
	}
	dlist_push_head(&database->table.free_bindings, &binding->channel_node);
}

/* True if one of the subscription's patterns matches the name. */
static bool
subscription_matches(Database *database, Subscription *subscription,
					 const char *name)
{
	dlist_iter	iter;

	dlist_foreach(iter, &subscription->patterns)
	{
		Binding    *binding = dlist_container(Binding, pattern_node, iter.cur);

		if (registry_pattern_matches(database->channels[binding->channel].name,
									 name))
			return true;
	}
	return false;
}

/*
 * Remove the bindings that the subscription neither names nor matches.  As
 * registry_unbind().
 */
void
registry_prune(Database *database, Subscription *subscription)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		/* one that an open change drops is not ours to remove */
		if (!(binding->flags & (BINDING_BY_NAME | BINDING_DROPPED)) &&
			!subscription_matches(database, subscription,
								  database->channels[binding->channel].name))
			registry_unbind(database, binding);
	}
}

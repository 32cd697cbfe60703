/*-------------------------------------------------------------------------
 *
 * registry.c
 *	  Channels, subscriptions and bindings in shared memory.
 *
 * 1. A channel slot is known from its first use on: by a subscription, a
 *	  trigger or publish().  It is reused, when the table is full, only if no
 *	  binding, no ring record, no event on its way and no open transaction
 *	  that published on it refers to it.  Patterns take channel slots too.
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
#include "registry_internal.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

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

		if (!channel->in_use)
			continue;
		channel_key(&key, channel->name, channel->is_pattern);
		hash_search(registry_channel_hashes[database->index], &key, HASH_REMOVE, NULL);
		channel->in_use = false;
		pg_atomic_write_u64(&channel->received, 0);
		pg_atomic_fetch_add_u32(&channel->generation, 1);
	}
}

/* True if nothing refers to the channel any more. */
static bool
channel_reusable(Database *database, int slot)
{
	Channel    *channel = &database->channels[slot];

	return pg_atomic_read_u32(&channel->nbindings) == 0 &&
		pg_atomic_read_u32(&channel->publishers) == 0 &&
		pg_atomic_read_u32(&channel->listening) == 0 &&
		pg_atomic_read_u64(&channel->received) ==
		ring_newest_number(database->ring, slot) &&
		ring_channel_empty(database->ring, slot);
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

	pg_atomic_fetch_add_u32(&channel->generation, 1);
	if (pg_atomic_read_u32(&channel->publishers) != 0)
		return false;
	channel_key(&key, channel->name, channel->is_pattern);
	hash_search(registry_channel_hashes[database->index], &key, HASH_REMOVE,
				NULL);
	channel->in_use = false;
	return true;
}

/* A free channel slot, one that is reused if need be; -1 if there is none. */
static int
take_channel_slot(Database *database)
{
	for (int slot = 0; slot < pgpubsub_max_channels; slot++)
	{
		if (!database->channels[slot].in_use)
			return slot;
	}
	for (int slot = 0; slot < pgpubsub_max_channels; slot++)
	{
		if (channel_reusable(database, slot) &&
			free_channel_slot(database, slot))
			return slot;
	}
	return -1;
}

/*
 * Bind the new channel to a subscription with a pattern that matches, by its
 * binding to that pattern: it reads it from its first event on.  If an open
 * change drops the pattern, it drops this binding too.
 */
static void
bind_by_pattern(Database *database, Binding *pattern, int slot)
{
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
		pg_atomic_write_u64(&binding->number, 0);
		if (subscription->on_full != ON_FULL_DROP)
			ring_lower_hold(database->ring, slot, 0);
	}

	registry_wake_waiting(database, subscription);
}

/* Bind the new channel to the subscriptions with a pattern that matches. */
static void
bind_matching(Database *database, int slot)
{
	const char *name = database->channels[slot].name;

	if (pg_atomic_read_u32(&database->npatterns) == 0)
		return;
	for (int i = 0; i < pgpubsub_max_channels; i++)
	{
		Channel    *pattern = &database->channels[i];
		dlist_iter	iter;

		if (!pattern->in_use || !pattern->is_pattern ||
			!registry_pattern_matches(pattern->name, name))
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

	ring_reset_channel(database->ring, slot);
	channel = &database->channels[slot];
	strlcpy(channel->name, name, NAMEDATALEN);
	channel->is_pattern = is_pattern;
	channel->published_base = channel->published_bytes_base = 0;
	pg_atomic_write_u32(&channel->used, 0);
	pg_atomic_write_u64(&channel->received, 0);
	pg_atomic_write_u64(&channel->delivered, 0);
	pg_atomic_write_u64(&channel->lost, 0);
	channel->in_use = true;
	pg_atomic_fetch_add_u32(&database->version, 1);
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

	Assert(LWLockHeldByMe(database->lock));
	if (pg_atomic_read_u32(&database->npatterns) == 0)
		return false;
	for (int i = 0; i < pgpubsub_max_channels; i++)
	{
		Channel    *pattern = &database->channels[i];
		dlist_iter	iter;

		if (!pattern->in_use || !pattern->is_pattern ||
			!registry_pattern_matches(pattern->name, name))
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
	subscription->looks = 0;
	subscription->looked_gap = subscription->looked_gap_seq = 0;
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

/*
 * The subscription's binding to the channel, or NULL.  The lock of its
 * database must be held.
 */
Binding *
registry_find_binding(Subscription *subscription, int channel)
{
	dlist_iter	iter;

	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (binding->channel == channel)
			return binding;
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
	if (dlist_is_empty(&database->free_bindings))
		return NULL;
	binding = dlist_container(Binding, channel_node,
							  dlist_pop_head_node(&database->free_bindings));
	binding->subscription = subscription;
	binding->channel = channel;
	binding->flags = flags;
	pg_atomic_write_u64(&binding->number, BINDING_UNPLACED);
	binding->pos = RING_NONE;
	binding->looked_first = binding->looked_number = binding->looked_seq = 0;
	binding->waiting = false;
	dlist_push_tail(&slot->bindings, &binding->channel_node);
	dlist_push_tail(&subscription->bindings, &binding->subscription_node);
	subscription->bindings_version++;
	pg_atomic_fetch_add_u32(&slot->nbindings, 1);
	if (slot->is_pattern)
		pg_atomic_fetch_add_u32(&database->npatterns, 1);

	/* who waits is in no list of this channel's waiters yet */
	registry_wake_waiting(database, subscription);
	return binding;
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
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	if (binding->waiting)
	{
		dlist_delete(&binding->wait_node);
		binding->waiting = false;
		pg_atomic_fetch_sub_u32(&channel->nwaiters, 1);
	}
	LWLockRelease(database->wait_lock);

	dlist_delete(&binding->channel_node);
	dlist_delete(&binding->subscription_node);
	binding->subscription->bindings_version++;
	binding->subscription = NULL;
	pg_atomic_fetch_sub_u32(&channel->nbindings, 1);
	if (channel->is_pattern)
		pg_atomic_fetch_sub_u32(&database->npatterns, 1);
	dlist_push_head(&database->free_bindings, &binding->channel_node);
}

/* True if one of the subscription's patterns matches the name. */
static bool
subscription_matches(Database *database, Subscription *subscription,
					 const char *name)
{
	dlist_iter	iter;

	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);
		Channel    *channel = &database->channels[binding->channel];

		if (channel->is_pattern &&
			registry_pattern_matches(channel->name, name))
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

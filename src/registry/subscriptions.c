/*-------------------------------------------------------------------------
 *
 * subscriptions.c
 *	  Subscriptions and their bindings in shared memory.
 *
 * 1. A subscription is a name, an owner and a set of bindings.  Its reader is
 *	  the session that has written its pid there under the mutex; it keeps it
 *	  until its transaction ends.  Only the reader removes bindings, so a
 *	  reader's pointers to them stay good; any session adds one, when a new
 *	  channel matches a pattern.
 *
 * 2. A binding is a subscription's position in a channel: the number of the
 *	  last event consumed.  What is pending and what was lost are differences
 *	  of numbers.
 *
 * Both pools are bounded: functions that take from one say when it is empty,
 * and raise nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/registry_internal.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "registry/holders.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

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

/* The subscription of that name, in whatever state; NULL if there is none. */
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

	/* it may have the entry of one that this transaction is dropping */
	entry = dlist_is_empty(&pgpubsub_control->free_subscriptions) ? NULL :
		hash_search(registry_subscription_hash, &key, HASH_ENTER_NULL, replaces);
	if (entry)
	{
		subscription = dlist_container(Subscription, node,
									   dlist_pop_head_node(&pgpubsub_control->free_subscriptions));
		entry->slot = subscription - pgpubsub_control->subscriptions;
	}
	LWLockRelease(pgpubsub_control->subscription_lock);
	return subscription;
}

/*
 * Make a subscription in state creating, without bindings.  Returns NULL if the
 * pool is empty.
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
	subscription->num_changing = subscription->changing_pid = 0;
	subscription->evicted = subscription->holding = false;
	subscription->foreign = subscription->adopted = false;
	subscription->created_at = GetCurrentTimestamp();
	pg_atomic_write_u64(&subscription->seq, 0);
	pg_atomic_write_u64(&subscription->gap_epoch, 0);
	pg_atomic_write_u64(&subscription->gap_seen, 0);
	pg_atomic_write_u64(&subscription->position_version, 0);
	subscription->id = 0;
	registry_init_stats(&subscription->stats);
	subscription->told_gap = subscription->told_seq = 0;
	dlist_push_tail(&database->subscriptions, &subscription->node);
	return subscription;
}

/*
 * Have the name mean this subscription again, after the one that replaced it
 * was dropped: there is room in the hash, as that one just left it.
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
 * Drop the subscription with its bindings, at once.  The caller is its reader
 * or has made sure that it has none, and sends the relay a request afterwards.
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
	SpinLockAcquire(&subscription->reader.mutex);
	if (subscription->reader.pid != 0)
		reader_procno = subscription->reader.procno;
	subscription->reader.pid = 0;
	subscription->reader.waiting = false;
	SpinLockRelease(&subscription->reader.mutex);
	pg_atomic_write_u64(&subscription->sought, PG_UINT64_MAX);

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
	ConditionVariableBroadcast(&subscription->reader.cv);
}

/*
 * A number that grows when a relay has begun to listen, or the subscription has
 * missed events and nobody knows how many: what is known of its positions is to
 * be read anew.
 */
uint64
registry_relay_epoch(Database *database, Subscription *subscription)
{
	return pg_atomic_read_u64(&database->relay_epoch) +
		pg_atomic_read_u64(&subscription->gap_epoch);
}

/*
 * Are all of the subscription's channels durable, so that it misses nothing if
 * the relay or the server is not there for a while?  A pattern is if all that
 * it matches is.
 */
bool
registry_all_durable(Database *database, Subscription *subscription)
{
	Assert(LWLockHeldByMe(database->lock));
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		if ((binding->flags & BINDING_BY_NAME) &&
			!database->channels[binding->channel].durable)
			return false;
	}
	return !subscription->temporary;
}

/*
 * Bindings
 */

/* The database that the subscription is in. */
static inline Database *
subscription_database(Subscription *subscription)
{
	return &pgpubsub_control->databases[subscription->database];
}

/* The bucket of the subscription's binding to the channel. */
static int *
binding_bucket(Subscription *subscription, int channel)
{
	Database   *database = subscription_database(subscription);
	int			slot = subscription - pgpubsub_control->subscriptions;
	uint32		hash = hash_combine(murmurhash32((uint32) slot),
									murmurhash32((uint32) channel));

	return &database->binding_buckets[hash & (registry_num_buckets() - 1)];
}

/* The subscription's binding to the channel, or NULL. */
Binding *
registry_find_binding(Subscription *subscription, int channel)
{
	Database   *database = subscription_database(subscription);
	int			next = *binding_bucket(subscription, channel);

	Assert(LWLockHeldByMe(database->lock));
	while (next >= 0)
	{
		Binding    *binding = &database->bindings[next];

		if (binding->subscription == subscription &&
			binding->channel == channel)
			return binding;
		registry_passed_over++;
		next = binding->hash_next;
	}
	return NULL;
}

/*
 * Bind the subscription to the channel, to which it has no binding; it has no
 * position yet.  With BINDING_ADDED nobody but this process reads it until
 * registry_binding_committed().  Returns NULL if the pool is empty.
 */
Binding *
registry_bind(Database *database, Subscription *subscription, int channel,
			  uint32 flags)
{
	Channel    *slot = &database->channels[channel];
	int		   *bucket = binding_bucket(subscription, channel);
	Binding    *binding;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (dlist_is_empty(&database->table.free_bindings))
		return NULL;
	binding = dlist_container(Binding, channel_node,
							  dlist_pop_head_node(&database->table.free_bindings));
	binding->subscription = subscription;
	binding->channel = channel;
	binding->flags = flags;
	binding->known_from = 0;
	pg_atomic_write_u64(&binding->number, BINDING_UNPLACED);
	pg_atomic_write_u64(&binding->pos, RING_NONE);
	pg_atomic_write_u64(&binding->logged, 0);
	pg_atomic_write_u64(&binding->seq, 0);
	pg_atomic_write_u64(&binding->log_lost, 0);
	binding->told = binding->told_logged = binding->told_lost = 0;
	binding->cursor = -1;
	binding->waiting = false;
	dlist_push_tail(&slot->bindings, &binding->channel_node);
	dlist_push_tail(&subscription->bindings, &binding->subscription_node);
	binding->hash_next = *bucket;
	*bucket = binding - database->bindings;
	if (pg_atomic_fetch_add_u32(&slot->nbindings, 1) == 0)
	{
		note_changed(slot);
		move_channel(slot, slot->is_pattern ? &database->table.bound_patterns :
					 &database->table.bound_channels);
	}
	if (slot->is_pattern)
	{
		dlist_push_tail(&subscription->patterns, &binding->pattern_node);
		pg_atomic_fetch_add_u32(&database->table.npatterns, 1);
	}
	if (flags & BINDING_ADDED)
		return binding;

	/* who waits for the subscription is not in this channel's list yet */
	subscription->bindings_version++;
	registry_wake_waiting(database, subscription);
	return binding;
}

/*
 * The change that has added the binding, which has a position, is committed:
 * readers have it from now on.  Those who wait for the subscription go on, and
 * are woken by the channel's events too; if there are any already, at once.
 */
void
registry_binding_committed(Database *database, Binding *binding)
{
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	binding->flags &= ~BINDING_ADDED;
	binding->subscription->bindings_version++;
	registry_await_binding(database, binding);
}

/*
 * Write the binding's position: the number of the last event consumed and, to
 * find the next one at once, the place of that event or of one before, or
 * RING_NONE; of the ring's records up to it, how many are in the log, too; and
 * the seq up to which all that is in the log is consumed.  The lock must be
 * exclusive unless the caller is the reader.
 *
 * The barrier pairs with the one in registry_position(), by which others read
 * pos and then number, while the reader commits.  So the number that they get
 * is not before that of pos; else they would begin to look behind events that
 * are pending, and show too few.
 */
void
registry_set_position(Binding *binding, uint64 number, RingPos pos,
					  uint64 logged, uint64 seq)
{
	Assert(LWLockHeldByMe(subscription_database(binding->subscription)->lock));
	pg_atomic_write_u64(&binding->logged, logged);
	pg_atomic_write_u64(&binding->seq, seq);
	pg_atomic_write_u64(&binding->number, number);
	pg_write_barrier();
	pg_atomic_write_u64(&binding->pos, pos);
}

/*
 * Read the binding's position: the number, BINDING_UNPLACED if there is none
 * yet, and in *pos a place that is not behind it.
 */
uint64
registry_position(Binding *binding, RingPos *pos)
{
	Assert(LWLockHeldByMe(subscription_database(binding->subscription)->lock));
	*pos = pg_atomic_read_u64(&binding->pos);
	pg_read_barrier();
	return pg_atomic_read_u64(&binding->number);
}

/*
 * The binding goes: count what it has lost and was not told of, which the views
 * have added until now.  (stat_reset() has then taken it off in advance.)
 */
static void
count_lost(Database *database, Binding *binding)
{
	Backlog		backlog = {0};

	hold_add_backlog(database, binding, &backlog);
	pg_atomic_fetch_add_u64(&binding->subscription->stats.lost, backlog.lost);
	pg_atomic_fetch_add_u64(&database->channels[binding->channel].lost,
							backlog.lost);
	pg_atomic_fetch_add_u64(&database->stats.lost, backlog.lost);
}

/*
 * Remove the binding.  The caller is the subscription's reader or has made sure
 * that it has none, and sends the relay a request afterwards.
 */
void
registry_unbind(Database *database, Binding *binding)
{
	Channel    *channel = &database->channels[binding->channel];
	int		   *link = binding_bucket(binding->subscription, binding->channel);

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	registry_expel_binding(database, binding);
	count_lost(database, binding);
	dlist_delete(&binding->channel_node);
	dlist_delete(&binding->subscription_node);
	while (&database->bindings[*link] != binding)
		link = &database->bindings[*link].hash_next;
	*link = binding->hash_next;
	binding->subscription->bindings_version++;
	if (channel->is_pattern)
	{
		dlist_delete(&binding->pattern_node);
		pg_atomic_fetch_sub_u32(&database->table.npatterns, 1);
	}
	binding->subscription = NULL;
	if (pg_atomic_fetch_sub_u32(&channel->nbindings, 1) == 1)
	{
		note_changed(channel);
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
	foreach_dlist(Binding, binding, pattern_node, &subscription->patterns)
	{
		if (registry_pattern_matches(database->channels[binding->channel].name,
									 name))
			return true;
	}
	return false;
}

/*
 * Remove the bindings that the subscription neither names nor matches.  What is
 * said of registry_unbind() holds.
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

/*-------------------------------------------------------------------------
 *
 * holders.c
 *	  Which subscriptions hold the queue, and how far they are behind.
 *
 * 1. A committed subscription with on_full evict or block holds each of its
 *	  channels at the number that it has consumed, as committed: no later
 *	  event may be overwritten.  An evicted one holds nothing until it is
 *	  polled, nor does one that was made in another database, of which this is
 *	  a copy.
 *
 * 2. The ring keeps, for each channel, a lower bound of those numbers: the
 *	  hold.  Consuming does not raise it; the relay computes it anew when the
 *	  tail reaches it.  Whoever begins to hold lowers it, under the database's
 *	  lock, exclusive; the relay raises it under the lock, shared or better.
 *	  So none is overlooked.
 *
 * 3. subscription->holding marks what the relay waits for right now, for the
 *	  views and for the writers' error.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/holders.h"

#include "storage/lwlock.h"
#include "utils/timestamp.h"

bool		transaction_may_be_awaited = false;

/* Does the subscription hold anything? */
static bool
holds(Subscription *subscription)
{
	return (subscription->state == SUBSCRIPTION_ACTIVE ||
			subscription->state == SUBSCRIPTION_DROPPING) &&
		subscription->on_full != ON_FULL_DROP &&
		!subscription->evicted && !subscription->foreign &&
		!subscription->doomed;
}

/*
 * Add up what the binding has not consumed.  The time it takes does not depend
 * on how many events there are: a place too far back, which a binding may have
 * until its first event is consumed, is moved up by who comes first.
 * database->lock must be held.
 */
void
hold_add_backlog(Database *database, Binding *binding, Backlog *backlog)
{
	Ring	   *ring = database->ring;
	RingPos		pos;
	uint64		number = registry_position(binding, &pos);
	RingRecord	record;
	RingChannelState state;
	uint64		newest;
	RingNext	found;

	Assert(LWLockHeldByMe(database->lock));
	if (number == BINDING_UNPLACED)
		return;
	found = ring_next(ring, binding->channel, number, pos, &record, &newest);
	if (found == RING_UP_TO_DATE)
		return;
	if (found == RING_ALL_GONE)
	{
		backlog->lost += newest - number;
		return;
	}

	/* unless its reader has committed one meanwhile */
	if (record.before != RING_NONE && record.before != pos)
		pg_atomic_compare_exchange_u64(&binding->pos, &pos, record.before);

	/* read after the record, so not behind it */
	ring_channel_state(ring, binding->channel, &state);
	backlog->lost += record.number - number - 1;
	if (backlog->pending == 0 || record.time < backlog->oldest_at)
		backlog->oldest_at = record.time;
	backlog->pending += Max(state.newest_number, record.number) -
		record.number + 1;
	backlog->bytes += Max(state.bytes, record.bytes) - record.bytes +
		record.payload_len;
}

/*
 * The subscription begins to hold, if it is of a kind that does.
 * database->lock must be held, exclusive.
 */
void
hold_start(Database *database, Subscription *subscription)
{
	dlist_iter	iter;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (!holds(subscription))
		return;
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (!database->channels[binding->channel].is_pattern)
			ring_lower_hold(database->ring, binding->channel,
							pg_atomic_read_u64(&binding->number));
	}
}

/*
 * True if the binding forbids to overwrite its channel's event with that
 * number.  The lock of its database must be held.
 */
static bool
stands_at(Binding *binding, uint64 number)
{
	return holds(binding->subscription) &&
		pg_atomic_read_u64(&binding->number) < number;
}

/*
 * Compute the channel's hold anew.  Returns whether it still forbids to
 * overwrite the event with that number.  The relay alone calls this.
 */
bool
hold_recompute(Database *database, int channel, uint64 number)
{
	uint64		hold = RING_NO_HOLD;
	dlist_iter	iter;

	LWLockAcquire(database->lock, LW_SHARED);
	dlist_foreach(iter, &database->channels[channel].bindings)
	{
		Binding    *binding = dlist_container(Binding, channel_node, iter.cur);

		/* one read: it may be committed anew while we look */
		uint64		consumed = pg_atomic_read_u64(&binding->number);

		if (holds(binding->subscription))
			hold = Min(hold, consumed);
	}
	ring_set_hold(database->ring, channel, hold);
	LWLockRelease(database->lock);
	return hold < number;
}

/*
 * Mark those, and only those, subscriptions as holding that forbid to
 * overwrite the channel's event with that number.  Returns whether any mark
 * has changed.
 */
bool
hold_mark(Database *database, int channel, uint64 number)
{
	dlist_iter	iter;
	bool		changed = false;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	dlist_foreach(iter, &database->subscriptions)
	{
		Subscription *subscription = dlist_container(Subscription, node,
													 iter.cur);
		Binding    *binding;
		bool		holding = false;

		if (holds(subscription))
		{
			binding = registry_find_binding(subscription, channel);
			holding = binding && stands_at(binding, number);
		}
		changed |= subscription->holding != holding;
		subscription->holding = holding;
	}
	LWLockRelease(database->lock);
	return changed;
}

/*
 * Nobody holds the queue any more.
 */
void
hold_unmark_all(Database *database)
{
	dlist_iter	iter;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	dlist_foreach(iter, &database->subscriptions)
		dlist_container(Subscription, node, iter.cur)->holding = false;
	LWLockRelease(database->lock);
}

/* Fill in what messages say of the subscription.  The lock is held. */
static void
describe_holder(Database *database, Subscription *subscription,
				Holder *holder)
{
	dlist_iter	iter;

	memset(holder, 0, sizeof(Holder));
	strlcpy(holder->name, subscription->name, NAMEDATALEN);
	holder->on_full = subscription->on_full;
	SpinLockAcquire(&subscription->mutex);
	holder->reader_pid = subscription->reader_pid;
	SpinLockRelease(&subscription->mutex);
	dlist_foreach(iter, &subscription->bindings)
		hold_add_backlog(database, dlist_container(Binding, subscription_node,
												   iter.cur),
						 &holder->backlog);
}

/*
 * Evict a subscription with on_full evict, or whatever its is, that forbids
 * to overwrite the channel's event with that number.  Returns false if there
 * is none, else describes it.
 */
bool
hold_evict(Database *database, int channel, uint64 number, bool whatever,
		   Holder *evicted)
{
	dlist_iter	iter;
	bool		found = false;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	dlist_foreach(iter, &database->channels[channel].bindings)
	{
		Binding    *binding = dlist_container(Binding, channel_node, iter.cur);
		Subscription *subscription = binding->subscription;

		if (stands_at(binding, number) &&
			(whatever || subscription->on_full == ON_FULL_EVICT))
		{
			describe_holder(database, subscription, evicted);
			subscription->evicted = true;
			subscription->holding = false;
			found = true;
			break;
		}
	}
	LWLockRelease(database->lock);
	if (found)
		pg_atomic_fetch_add_u64(&database->full.evictions, 1);
	return found;
}

/*
 * The subscription that is furthest behind among those that forbid to
 * overwrite the channel's event with that number; false if none does.
 */
bool
hold_find_holder(Database *database, int channel, uint64 number,
				 Holder *holder)
{
	Binding    *furthest = NULL;
	uint64		lowest = RING_NO_HOLD;
	dlist_iter	iter;

	LWLockAcquire(database->lock, LW_SHARED);
	dlist_foreach(iter, &database->channels[channel].bindings)
	{
		Binding    *binding = dlist_container(Binding, channel_node, iter.cur);
		uint64		consumed = pg_atomic_read_u64(&binding->number);

		if (stands_at(binding, number) && consumed < lowest)
		{
			lowest = consumed;
			furthest = binding;
		}
	}
	if (furthest)
		describe_holder(database, furthest->subscription, holder);
	LWLockRelease(database->lock);
	return furthest != NULL;
}

/*
 * A subscription that the full queue waits for, with on_full block if it is to
 * be one of those; false if there is none.
 */
bool
hold_find_awaited(Database *database, bool block, Holder *holder)
{
	dlist_iter	iter;
	bool		found = false;

	LWLockAcquire(database->lock, LW_SHARED);
	dlist_foreach(iter, &database->subscriptions)
	{
		Subscription *subscription = dlist_container(Subscription, node,
													 iter.cur);

		if (subscription->holding &&
			(!block || subscription->on_full == ON_FULL_BLOCK))
		{
			describe_holder(database, subscription, holder);
			found = true;
			break;
		}
	}
	LWLockRelease(database->lock);
	return found;
}

/*
 * The subscription is polled: if it was evicted, or made in another database,
 * it holds from here on; unless its slot was freed since it had this
 * generation.
 */
void
hold_again(Database *database, Subscription *subscription, uint32 generation)
{
	bool		adopted = false;

	if (!subscription->evicted && !subscription->foreign)
		return;
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (subscription->generation == generation)
	{
		adopted = subscription->foreign;
		subscription->adopted |= adopted;
		subscription->evicted = subscription->foreign = false;
		hold_start(database, subscription);
	}
	LWLockRelease(database->lock);

	/* the relay writes it into the table */
	if (adopted)
		registry_request(database);
}

/*
 * A sentence that says who holds the queue and how far it is behind, in the
 * current memory context.
 */
char *
hold_describe(const Holder *holder)
{
	long		behind = holder->backlog.pending == 0 ? 0 :
		TimestampDifferenceMilliseconds(holder->backlog.oldest_at,
									GetCurrentTimestamp());
	char		reader[64] = "nobody reads it";

	if (holder->reader_pid != 0)
		snprintf(reader, sizeof(reader), "process %d reads it",
				 holder->reader_pid);
	return psprintf("Subscription \"%s\" (%s) is behind by %llu messages, %llu bytes and %ld.%03ld s; %s.",
					holder->name,
					holder->on_full == ON_FULL_BLOCK ? "block" : "evict",
					(unsigned long long) holder->backlog.pending,
					(unsigned long long) holder->backlog.bytes,
					behind / 1000, behind % 1000, reader);
}

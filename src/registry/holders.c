/*-------------------------------------------------------------------------
 *
 * holders.c
 *	  Which subscriptions hold the queue, and how far they are behind.
 *
 * 1. A committed subscription with on_full evict or block holds each of its
 *	  channels at the number that it has consumed, as committed: no later
 *	  event may be overwritten.  One that was evicted, or made in another
 *	  database, of which this is a copy, holds nothing until it is polled; nor
 *	  does a channel that is being added until that is committed.
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

#include "registry/registry_internal.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

slist_head	own_readings = SLIST_STATIC_INIT(own_readings);

/*
 * May it be this session's transaction that a full queue waits for?  It has
 * consumed or changed something that is not committed, or is the only one that
 * can read a subscription that holds the queue.
 */
bool
transaction_may_be_awaited(void)
{
	slist_iter	iter;

	slist_foreach(iter, &own_readings)
	{
		OwnReading *own = slist_container(OwnReading, node, iter.cur);

		if (own->uncommitted || own->subscription->on_full != ON_FULL_DROP)
			return true;
	}
	return false;
}

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
 * How many events the binding has not had up to another number, up to which so
 * many records are in the log, too.
 */
static uint64
missed(Binding *binding, uint64 number, uint64 upto, uint64 logged)
{
	int64		result = (int64) (upto - number) -
		(int64) (logged - pg_atomic_read_u64(&binding->logged));

	return result > 0 ? (uint64) result : 0;
}

/*
 * Has the binding consumed events that the ring still has, or are some that it
 * has not consumed in the log alone?  Then the log is to be asked.
 */
static bool
is_in_log(Database *database, Binding *binding, RingNext found,
		  const RingRecord *record)
{
	uint64		seq = pg_atomic_read_u64(&binding->seq);
	Channel    *channel = &database->channels[binding->channel];

	/* where nothing was ever logged, it is no use to ask */
	if (!channel->durable && pg_atomic_read_u64(&channel->log_events) == 0)
		return false;
	if (found == RING_FOUND)
		return record->log_before > seq ||
			(record->in_log && record->seq <= seq);
	return ring_log_newest(database->ring, binding->channel) > seq;
}

/* May there be events in the log alone that the binding has not consumed? */
static bool
may_have_passed(Database *database, Binding *binding)
{
	return ring_log_newest(database->ring, binding->channel) >
		pg_atomic_read_u64(&binding->seq);
}

/*
 * Add up what the binding has not consumed, as far as the ring has it; in_log
 * says that who wants to know all has to ask the log, for what has passed by the
 * ring may come behind what is there.  The time it takes does
 * not depend on how many events there are: a place too far back, which a
 * binding may have until its first event is consumed, is moved up by who comes
 * first.
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
	uint64		logged;
	uint64		pending;
	RingNext	found;

	Assert(LWLockHeldByMe(database->lock));
	if (number == BINDING_UNPLACED)
		return;
	backlog->lost += pg_atomic_read_u64(&binding->log_lost);
	if (database->channels[binding->channel].is_pattern)
		return;
	found = ring_next(ring, binding->channel, number, pos, &record, &newest);
	if (pg_atomic_read_u32(&database->log.active) != 0)
	{
		bool		next_in_log = is_in_log(database, binding, found, &record);

		backlog->next_in_log |= next_in_log;
		backlog->in_log |= next_in_log || may_have_passed(database, binding);
	}
	if (found == RING_UP_TO_DATE)
		return;
	if (found == RING_ALL_GONE)
	{
		ring_counts(ring, binding->channel, &newest, &logged);
		backlog->lost += missed(binding, number, newest, logged);
		return;
	}

	/* unless its reader has committed one meanwhile */
	if (record.before != RING_NONE && record.before != pos)
		pg_atomic_compare_exchange_u64(&binding->pos, &pos, record.before);

	/* read after the record, so not behind it */
	ring_channel_state(ring, binding->channel, &state);
	backlog->lost += missed(binding, number, record.number - 1,
							record.logged - record.in_log);
	if (backlog->pending == 0 || record.time < backlog->oldest_at)
		backlog->oldest_at = record.time;
	pending = Max(state.newest_number, record.number) - record.number + 1;
	backlog->pending += pending;

	logged = state.logged + record.in_log;
	logged -= Min(logged, record.logged);
	backlog->unlogged += pending - Min(pending, logged);
	backlog->bytes += Max(state.bytes, record.bytes) - record.bytes +
		record.payload_len;
}

/* The binding begins to hold, if its subscription is of a kind that does. */
void
hold_start_binding(Database *database, Binding *binding)
{
	Channel    *channel = &database->channels[binding->channel];

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (holds(binding->subscription) && !channel->is_pattern &&
		!channel->durable && !(binding->flags & BINDING_ADDED))
		ring_lower_hold(database->ring, binding->channel,
						pg_atomic_read_u64(&binding->number));
}

/* The subscription begins to hold, if it is of a kind that does. */
void
hold_start(Database *database, Subscription *subscription)
{
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (!holds(subscription))
		return;
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
		hold_start_binding(database, binding);
}

/* Does the binding forbid to overwrite its channel's event of that number? */
static bool
stands_at(Binding *binding, uint64 number)
{
	Database   *database =
	&pgpubsub_control->databases[binding->subscription->database];

	return holds(binding->subscription) &&
		!(binding->flags & BINDING_ADDED) &&
		!database->channels[binding->channel].durable &&
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

	LWLockAcquire(database->lock, LW_SHARED);
	foreach_dlist(Binding, binding, channel_node,
				  &database->channels[channel].bindings)
	{
		/* one read: it may be committed anew while we look */
		uint64		consumed = pg_atomic_read_u64(&binding->number);

		if (holds(binding->subscription) &&
			!(binding->flags & BINDING_ADDED) &&
			!database->channels[channel].durable)
			hold = Min(hold, consumed);
	}
	ring_set_hold(database->ring, channel, hold);
	LWLockRelease(database->lock);
	return hold < number;
}

/*
 * Mark just those subscriptions as holding that forbid to overwrite the
 * channel's event with that number.  Returns whether any mark has changed.
 */
bool
hold_mark(Database *database, int channel, uint64 number)
{
	bool		changed = false;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
	{
		Binding    *binding = holds(subscription) ?
			registry_find_binding(subscription, channel) : NULL;
		bool		holding = binding && stands_at(binding, number);

		changed |= subscription->holding != holding;
		subscription->holding = holding;
	}
	LWLockRelease(database->lock);
	return changed;
}

/* Nobody holds the queue any more. */
void
hold_unmark_all(Database *database)
{
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
		subscription->holding = false;
	LWLockRelease(database->lock);
}

/* Fill in what messages say of the subscription; database->lock is held. */
static void
describe_holder(Database *database, Subscription *subscription,
				Holder *holder)
{
	memset(holder, 0, sizeof(Holder));
	strlcpy(holder->name, subscription->name, NAMEDATALEN);
	holder->on_full = subscription->on_full;
	SpinLockAcquire(&subscription->reader.mutex);
	holder->reader_pid = subscription->reader.pid;
	SpinLockRelease(&subscription->reader.mutex);
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
		hold_add_backlog(database, binding, &holder->backlog);
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
	bool		found = false;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	foreach_dlist(Binding, binding, channel_node,
				  &database->channels[channel].bindings)
	{
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

	LWLockAcquire(database->lock, LW_SHARED);
	foreach_dlist(Binding, binding, channel_node,
				  &database->channels[channel].bindings)
	{
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

/* A subscription that the full queue waits for, if block one of that kind. */
bool
hold_find_awaited(Database *database, bool block, Holder *holder)
{
	bool		found = false;

	LWLockAcquire(database->lock, LW_SHARED);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
	{
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

/* A sentence that says who holds the queue and how far it is behind. */
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

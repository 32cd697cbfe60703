/*-------------------------------------------------------------------------
 *
 * segment_holders.c
 *	  Who needs a segment of the log, and what is lost if it is emptied anyway.
 *
 * 1. A binding holds a segment if its channel has a note there behind what the
 *	  binding has consumed, as committed; or behind the place to which an open
 *	  transaction has moved it back.  Most are told without a look at the
 *	  notes, by the seqs that are known.  A subscription holds it that is
 *	  lasting or temporary, being created or dropped; a pattern holds nothing.
 *
 * 2. Where a segment is emptied that is held, each binding that holds it loses
 *	  its channel's events up to the last one that it has there.  These are
 *	  counted before, in all segments, since a few of them may be in another
 *	  one: it goes over those too.
 *
 * 3. The loss is a position that the subscription gets in the log, in the
 *	  transaction that empties the segment: so both are there after a crash, or
 *	  neither.  Shared memory shows it right before: from when it was found that
 *	  nobody reads the subscription, who begins to read must find it.  If the
 *	  transaction fails, it is taken back, unless somebody has read on meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* A binding that may hold a segment. */
struct SegmentHolder
{
	/* as they were when it was found */
	Binding    *binding;
	Subscription *subscription;
	uint32		generation;		/* of the subscription */
	int			channel;
	uint64		seq;			/* behind which the binding needs it */
	OnFull		on_full;		/* what becomes of it when the log is full */
	bool		busy;			/* somebody reads or creates it */
	char		name[NAMEDATALEN];
	char		channel_name[NAMEDATALEN];

	/* what it loses */
	uint64		upto;			/* the channel's last event in the segment */
	uint64		lost;			/* events */
	bool		applied;		/* the binding shows it */
};

/* Positions of the subscriptions that lose something. */
typedef struct LostPosition
{
	LogPosition row;
	NameData   *names;
} LostPosition;

/* The seq behind which the binding needs what its channel has. */
static uint64
needed_seq(Binding *binding)
{
	uint64		committed = pg_atomic_read_u64(&binding->seq);
	uint64		sought = pg_atomic_read_u64(&binding->subscription->sought);

	return Min(committed, sought);
}

/*
 * May the binding have something to read in a segment with events up to that
 * seq?  database->lock is held.
 */
static bool
may_hold(Binding *binding, uint64 last_seq)
{
	Database   *database = relay.database;
	uint64		seq;

	if (binding->subscription == NULL ||
		binding->subscription->state == SUBSCRIPTION_FREE ||
		database->channels[binding->channel].is_pattern)
		return false;
	seq = needed_seq(binding);
	return seq < last_seq &&
		ring_log_newest(database->ring, binding->channel) > seq;
}

/* Describe the binding.  database->lock is held. */
static void
describe(Binding *binding, SegmentHolder *holder)
{
	Subscription *subscription = binding->subscription;

	memset(holder, 0, sizeof(SegmentHolder));
	holder->binding = binding;
	holder->subscription = subscription;
	holder->generation = subscription->generation;
	holder->channel = binding->channel;
	holder->seq = needed_seq(binding);
	holder->on_full = subscription->on_full;
	if (subscription->temporary || subscription->foreign ||
		subscription->evicted)
		holder->on_full = ON_FULL_DROP;
	SpinLockAcquire(&subscription->reader.mutex);
	holder->busy = subscription->reader.pid != 0;
	SpinLockRelease(&subscription->reader.mutex);
	if (subscription->state == SUBSCRIPTION_CREATING ||
		subscription->num_changing > 0 ||
		pg_atomic_read_u64(&binding->number) == BINDING_UNPLACED)
		holder->busy = true;
	strlcpy(holder->name, subscription->name, NAMEDATALEN);
	strlcpy(holder->channel_name,
			relay.database->channels[binding->channel].name, NAMEDATALEN);
}

/*
 * Describe the bindings that may hold a segment with events up to that seq, as
 * many as there is room for; returns how many there are.
 */
static int
list_candidates(uint64 last_seq, SegmentHolder *holders, int room)
{
	Database   *database = relay.database;
	int			count = 0;

	LWLockAcquire(database->lock, LW_SHARED);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
	{
		foreach_dlist(Binding, binding, subscription_node,
					  &subscription->bindings)
		{
			if (!may_hold(binding, last_seq))
				continue;
			if (count < room)
				describe(binding, &holders[count]);
			count++;
		}
	}
	LWLockRelease(database->lock);
	return count;
}

/*
 * The bindings that may hold a segment with events up to that seq; *count is set
 * to their number.
 */
static SegmentHolder *
find_candidates(uint64 last_seq, int *count)
{
	SegmentHolder *holders = NULL;
	int			room = 0;

	for (;;)
	{
		*count = list_candidates(last_seq, holders, room);
		if (*count <= room)
			return holders;
		if (holders)
			pfree(holders);
		room = *count + 8;
		holders = MemoryContextAllocHuge(CurrentMemoryContext,
										 room * sizeof(SegmentHolder));
	}
}

/* The seq of the segment's last event; 0 if it has none. */
static uint64
last_seq_of(int segment)
{
	return pg_atomic_read_u64(&relay.database->log.segments[segment].last_seq);
}

/* Is the binding one of those that lose the segment? */
static bool
is_losing(const SegmentHolders *losing, const SegmentHolder *holder)
{
	for (int i = 0; losing && i < losing->count; i++)
	{
		if (losing->holders[i].binding == holder->binding &&
			losing->holders[i].subscription == holder->subscription &&
			losing->holders[i].generation == holder->generation)
			return true;
	}
	return false;
}

/*
 * In the transaction that has locked the segment to empty it: does anybody need
 * it but the holders given, or NULL?  Who has begun to need it before, by going
 * back, is seen; who does later finds that it is locked.
 */
bool
segment_is_needed(int segment, const SegmentHolders *losing)
{
	int			count;
	SegmentHolder *holders = find_candidates(last_seq_of(segment), &count);
	bool		needed = false;

	for (int i = 0; i < count && !needed; i++)
		needed = !is_losing(losing, &holders[i]) &&
			log_note_last_seq(segment, holders[i].channel_name) >
			holders[i].seq;
	if (holders)
		pfree(holders);
	return needed;
}

/*
 * Has any subscription something to read in the segment?  Not in a transaction;
 * raises what reading the log does.
 */
bool
segment_is_held(int segment)
{
	MemoryContext old = CurrentMemoryContext;
	int			count;
	SegmentHolder *holders = find_candidates(last_seq_of(segment), &count);
	bool		held = false;

	if (count > 0)
	{
		relay_begin("looking who needs a segment of the log");
		for (int i = 0; i < count && !held; i++)
			held = log_note_last_seq(segment, holders[i].channel_name) >
				holders[i].seq;
		relay_end();
		MemoryContextSwitchTo(old);
	}
	if (holders)
		pfree(holders);
	return held;
}

/* What the holder lets be done with the segment. */
static SegmentVerdict
judge(const SegmentHolder *holder, bool evict)
{
	if (holder->on_full == ON_FULL_BLOCK)
		return SEGMENT_BLOCKED;
	if (holder->on_full == ON_FULL_EVICT && !evict)
		return SEGMENT_EVICTING;
	return holder->busy ? SEGMENT_READ : SEGMENT_LOSABLE;
}

/*
 * Find who has something to read in the segment, and judge what may be done;
 * evict: those with on_full evict may lose it.  The result is in the current
 * memory context.  Not in a transaction; raises what reading the log does.
 */
SegmentHolders *
segment_find_holders(int segment, bool evict)
{
	MemoryContext old = CurrentMemoryContext;
	SegmentHolders *result = palloc0(sizeof(SegmentHolders));
	int			count;

	result->segment = segment;
	result->verdict = SEGMENT_FREE;
	result->holders = find_candidates(last_seq_of(segment), &count);
	if (count == 0)
		return result;
	relay_begin("looking who needs a segment of the log");
	for (int i = 0; i < count; i++)
	{
		SegmentHolder *holder = &result->holders[i];
		SegmentVerdict verdict = judge(holder, evict);

		CHECK_FOR_INTERRUPTS();
		holder->upto = log_note_last_seq(segment, holder->channel_name);
		if (holder->upto <= holder->seq)
			continue;
		if (verdict > result->verdict)
		{
			result->verdict = verdict;
			strlcpy(result->name, holder->name, NAMEDATALEN);
		}
		result->holders[result->count++] = *holder;
	}
	relay_end();
	MemoryContextSwitchTo(old);
	return result;
}

/* Count what each holder loses; in the transaction. */
static void
count_losses(SegmentHolders *holders)
{
	LogReader  *reader = log_reader_create(relay.database);

	for (int i = 0; i < holders->count; i++)
	{
		SegmentHolder *holder = &holders->holders[i];
		uint64		bytes = 0;

		/* the segment is locked: nothing comes to it any more */
		holder->upto = log_note_last_seq(holders->segment,
										 holder->channel_name);
		holder->lost = log_reader_count(reader, holder->channel_name,
										holder->seq, holder->upto, &bytes,
										NULL);
	}
	log_reader_close(reader);
}

/*
 * Is the holder as it was found, and does nobody read it?  database->lock is
 * held, exclusive.
 */
static bool
is_unchanged(const SegmentHolder *holder)
{
	Subscription *subscription = holder->subscription;

	return subscription->generation == holder->generation &&
		(subscription->state == SUBSCRIPTION_ACTIVE ||
		 subscription->state == SUBSCRIPTION_DROPPING) &&
		subscription->reader.pid == 0 &&
		holder->binding->subscription == subscription &&
		holder->binding->channel == holder->channel &&
		pg_atomic_read_u64(&holder->binding->seq) == holder->seq;
}

/*
 * Fill in the subscription's position, as its bindings have it.  Returns false
 * if there is room for fewer channels than it has.  database->lock is held.
 */
static bool
fill_position(Subscription *subscription, LostPosition *position, int room)
{
	LogPosition *row = &position->row;

	row->id = subscription->id;
	row->seq = row->lost = 0;
	row->nchannels = 0;
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		uint64		seq = pg_atomic_read_u64(&binding->seq);

		row->seq = Max(row->seq, seq);
	}
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		Channel    *channel = &relay.database->channels[binding->channel];
		uint64		seq = pg_atomic_read_u64(&binding->seq);

		row->lost += pg_atomic_read_u64(&binding->log_lost);
		if (seq == row->seq || channel->is_pattern)
			continue;
		if (row->nchannels == room)
			return false;
		strlcpy(NameStr(position->names[row->nchannels]), channel->name,
				NAMEDATALEN);
		row->channels[row->nchannels] =
			NameStr(position->names[row->nchannels]);
		row->seqs[row->nchannels++] = seq;
	}
	if (pg_atomic_read_u64(&subscription->gap_epoch) !=
		pg_atomic_read_u64(&subscription->gap_seen))
		row->lost = LOG_LOST_UNKNOWN;
	row->version = pg_atomic_add_fetch_u64(&subscription->position_version, 1);
	return true;
}

/*
 * How many channels the subscription is bound to; 0 if its slot was freed since
 * it had this generation.
 */
static int
count_bindings(Subscription *subscription, uint32 generation)
{
	int			count = 0;

	LWLockAcquire(relay.database->lock, LW_SHARED);
	if (subscription->generation == generation)
	{
		foreach_dlist(Binding, binding, subscription_node,
					  &subscription->bindings)
			count++;
	}
	LWLockRelease(relay.database->lock);
	return count;
}

/* Have the holders' bindings show the loss; see lose_one(). */
static bool
apply(SegmentHolder *holders, int count, LostPosition *position, int room)
{
	bool		unchanged = true;

	LWLockAcquire(relay.database->lock, LW_EXCLUSIVE);
	for (int i = 0; i < count && unchanged; i++)
		unchanged = is_unchanged(&holders[i]);
	for (int i = 0; i < count && unchanged; i++)
	{
		SegmentHolder *holder = &holders[i];

		pg_atomic_write_u64(&holder->binding->seq, holder->upto);
		pg_atomic_fetch_add_u64(&holder->binding->log_lost, holder->lost);
		holder->applied = true;
	}
	unchanged = unchanged &&
		fill_position(holders[0].subscription, position, room);
	LWLockRelease(relay.database->lock);
	return unchanged;
}

/*
 * Have a subscription lose what its holders, which are count, need of the
 * segment: in shared memory, and in the log when this transaction commits.
 * Returns false if somebody reads it, or anything has changed.
 */
static bool
lose_one(Relation positions, SegmentHolder *holders, int count)
{
	int			room = count_bindings(holders[0].subscription,
									  holders[0].generation) + 8;
	LostPosition position;

	position.names = palloc(room * sizeof(NameData));
	position.row.channels = palloc(room * sizeof(char *));
	position.row.seqs = palloc(room * sizeof(uint64));
	if (!apply(holders, count, &position, room))
		return false;
	if (position.row.id != 0)
		log_position_put(positions, &position.row);
	return true;
}

/*
 * In the transaction that empties the segment, which is locked: have its
 * holders lose it.  Returns false if that is not possible now.  If it does, or
 * raises an error, as reading and writing the log may, or the transaction fails
 * later, call segment_not_lost() afterwards; else segment_lost().
 */
bool
segment_lose(SegmentHolders *holders)
{
	int			current = (int) pg_atomic_read_u32(&relay.database->log.position);
	Relation	positions = log_try_open(LOG_POSITION, current,
										 RowExclusiveLock);
	bool		done = true;

	if (positions == NULL)
		return false;
	count_losses(holders);

	/* the bindings of a subscription were listed one after the other */
	for (int i = 0; i < holders->count && done;)
	{
		int			first = i;

		while (i < holders->count && holders->holders[i].subscription ==
			   holders->holders[first].subscription)
			i++;
		done = lose_one(positions, &holders->holders[first], i - first);
	}
	table_close(positions, NoLock);
	return done;
}

/*
 * The transaction has failed: what was lost is there again.  Not for a binding
 * that was read meanwhile: its reader was told of the loss, and is beyond.
 * Cannot fail.
 */
void
segment_not_lost(SegmentHolders *holders)
{
	LWLockAcquire(relay.database->lock, LW_EXCLUSIVE);
	for (int i = 0; i < holders->count; i++)
	{
		SegmentHolder *holder = &holders->holders[i];
		uint64		seq = holder->seq;

		if (!holder->applied)
			continue;
		holder->seq = holder->upto;
		if (is_unchanged(holder) &&
			pg_atomic_read_u64(&holder->binding->log_lost) >= holder->lost)
		{
			pg_atomic_write_u64(&holder->binding->seq, seq);
			pg_atomic_fetch_sub_u64(&holder->binding->log_lost, holder->lost);
		}
	}
	LWLockRelease(relay.database->lock);
}

/* Those with on_full evict lose more at once, until they are polled. */
static void
mark_evicted(SegmentHolders *holders)
{
	LWLockAcquire(relay.database->lock, LW_EXCLUSIVE);
	for (int i = 0; i < holders->count; i++)
	{
		SegmentHolder *holder = &holders->holders[i];

		if (holder->on_full != ON_FULL_EVICT ||
			holder->subscription->generation != holder->generation ||
			holder->subscription->evicted)
			continue;
		holder->subscription->evicted = true;
		pg_atomic_fetch_add_u64(&relay.database->full.evictions, 1);
	}
	LWLockRelease(relay.database->lock);
}

/*
 * The segment was emptied, and what its holders needed is lost: say so, and wake
 * who waits for something to read.
 */
void
segment_lost(SegmentHolders *holders)
{
	DatabaseLog *log = &relay.database->log;

	/* if writers had to wait for it, that is counted already */
	if (pg_atomic_read_u32(&log->full) == 0)
		pg_atomic_fetch_add_u64(&log->full_count, 1);
	mark_evicted(holders);
	for (int i = 0; i < holders->count;)
	{
		SegmentHolder *first = &holders->holders[i];
		uint64		lost = 0;

		for (; i < holders->count &&
			 holders->holders[i].subscription == first->subscription; i++)
			lost += holders->holders[i].lost;
		ereport(first->on_full == ON_FULL_EVICT ? LOG : DEBUG1,
				(errmsg("pgpubsub subscription \"%s\" in database \"%s\" has lost %llu events of durable channels",
						first->name, relay.database_name,
						(unsigned long long) lost),
				 errdetail("The log was full, and it had not read them.")));
	}
	registry_wake_waiters(relay.database);
}

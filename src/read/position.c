/*-------------------------------------------------------------------------
 *
 * position.c
 *	  How far a transaction has read a subscription that it has claimed.
 *
 * 1. The claim has a cursor for each binding, in this process's memory, and
 *	  reading moves that alone.  The bindings have what is committed.
 *
 * 2. The first move within a subtransaction saves a copy, to which a rollback
 *	  to its savepoint returns.  No two copies share their cursors.
 *
 * 3. Commit allocates nothing: it copies numbers into bindings.  These cannot
 *	  have gone, since only the reader removes bindings, and its commit does so
 *	  afterwards.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/xact.h"
#include "base/debug.h"
#include "base/nesting.h"
#include "log/log.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* Has this transaction moved the cursor? */
static bool
is_moved(const Cursor *cursor)
{
	return cursor->delivered > 0 || cursor->lost > 0 || cursor->moved;
}

/*
 * Make the cursor for the binding: as it is among the nold old ones if this
 * transaction has moved it, else where the binding stands, as committed.
 * binding->cursor is its index, unless the old ones are a savepoint's; or -1.
 */
static void
carry_cursor(Cursor *cursor, Binding *binding, Cursor *old, int nold)
{
	int			likely = binding->cursor;
	uint64		committed = pg_atomic_read_u64(&binding->seq);
	uint64		seq = 0;

	for (int i = 0; i < nold && likely >= 0; i++)
	{
		Cursor	   *candidate = &old[(likely + i) % nold];

		if (candidate->binding == binding &&
			candidate->channel == binding->channel)
		{
			if (is_moved(candidate))
			{
				*cursor = *candidate;
				return;
			}
			if (candidate->seq_moved)
				seq = candidate->seq;
			break;
		}
	}
	memset(cursor, 0, sizeof(Cursor));
	cursor->binding = binding;
	cursor->channel = binding->channel;
	cursor->number = registry_position(binding, &cursor->pos);
	cursor->logged = pg_atomic_read_u64(&binding->logged);
	cursor->seq = Max(committed, seq);
	cursor->seq_moved = seq > 0;
}

/*
 * Make cursors, behind the count that there are, for the bindings that are not
 * being dropped; or for those that are, as far as this transaction has consumed
 * from them.  Returns how many cursors there are then.
 */
static int
carry_cursors(Claim *claim, bool dropped, Cursor *cursors, int count)
{
	Position   *old = &claim->position;
	dlist_iter	iter;

	dlist_foreach(iter, &claim->own.subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (binding_readable(binding) == dropped)
			continue;

		/* what another session is adding is not there yet */
		if (dropped && !(binding->flags & BINDING_DROPPED))
			continue;
		carry_cursor(&cursors[count], binding, old->cursors,
					 old->ncursors + old->nkept);
		binding->cursor = dropped && !is_moved(&cursors[count]) ? -1 : count++;
	}
	return count;
}

/* Memory for all cursors; releases the database's lock to raise 53200. */
static Cursor *
alloc_cursors(Claim *claim)
{
	Cursor	   *cursors;
	dlist_iter	iter;
	int			count = 0;

	dlist_foreach(iter, &claim->own.subscription->bindings)
		count++;
	cursors = MemoryContextAllocExtended(TopTransactionContext,
										 Max(count, 1) * sizeof(Cursor),
										 MCXT_ALLOC_NO_OOM);
	if (cursors == NULL)
	{
		LWLockRelease(claim->database->lock);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed on %d positions of subscription \"%s\".",
						   count, claim->own.subscription->name)));
	}
	return cursors;
}

/* Free the position's cursors, if it has any yet. */
static void
free_cursors(Position *position)
{
	if (position->cursors)
		pfree(position->cursors);
}

/*
 * Have the claim's cursors reflect the subscription's bindings, as patterns
 * may have got new ones.  Bindings that this transaction drops are not read
 * any more.  The cursors by which it has consumed from them are kept behind
 * the others: that is counted, and read on from there if it names the channel
 * again.
 *
 * A relay that ends gives the numbers of what it had received and not queued
 * to other events, and takes back bindings that are beyond; the next relay
 * raises the relay epoch before it queues anything.  A cursor that this
 * transaction has not moved may be beyond too, so it is placed anew when the
 * epoch has grown.  Raises 53200 for want of memory.
 */
void
position_sync(Claim *claim)
{
	Subscription *subscription = claim->own.subscription;
	Position   *position = &claim->position;
	Cursor	   *cursors;
	int			count;
	int			all;
	uint64		relay_epoch;

	/* relays end with the lock, so one cannot come and go meanwhile */
	LWLockAcquire(claim->database->lock, LW_SHARED);
	relay_epoch = registry_relay_epoch(claim->database, subscription);
	if ((claim->synced && claim->relay_epoch == relay_epoch &&
		 claim->bindings_version == subscription->bindings_version) ||
		claim->generation != subscription->generation)
	{
		LWLockRelease(claim->database->lock);
		return;
	}
	cursors = alloc_cursors(claim);
	count = carry_cursors(claim, false, cursors, 0);
	all = carry_cursors(claim, true, cursors, count);
	claim->bindings_version = subscription->bindings_version;
	claim->relay_epoch = relay_epoch;
	claim->synced = true;
	LWLockRelease(claim->database->lock);
	free_cursors(position);
	position->cursors = cursors;
	position->ncursors = count;
	position->nkept = all - count;
}

/* Forget the innermost saved position. */
static void
drop_saved(Claim *claim)
{
	SavedPosition *saved = claim->saved;

	claim->saved = saved->upper;
	free_cursors(&saved->position);
	pfree(saved);
}

/* Free a claim that ends before its transaction. */
void
free_claim(Claim *claim)
{
	while (claim->saved)
		drop_saved(claim);
	free_cursors(&claim->position);
	pfree(claim);
}

/*
 * The claim's position is about to move: save it for a rollback to the current
 * savepoint, unless that was done.
 */
void
position_save(Claim *claim)
{
	SavedPosition *saved;
	Size		size = (claim->position.ncursors + claim->position.nkept) *
		sizeof(Cursor);

	if (!nesting_needs_copy(claim->level,
							claim->saved ? claim->saved->level : 0))
		return;
	saved = MemoryContextAlloc(TopTransactionContext, sizeof(SavedPosition));
	saved->position = claim->position;
	saved->position.cursors = MemoryContextAlloc(TopTransactionContext,
												 Max(size, 1));
	memcpy(saved->position.cursors, claim->position.cursors, size);
	saved->level = GetCurrentTransactionNestLevel();
	saved->upper = claim->saved;
	claim->saved = saved;
}

/* The claim's position is about to move, and commit shall write it. */
void
position_consume(Claim *claim)
{
	position_save(claim);
	claim->position.consumed = true;
	claim->own.uncommitted = true;
}

/*
 * Move the cursor to number, over events that are no longer there.  logged is
 * how many of the ring's records up to that number are in the log, too: those
 * are not lost.
 */
void
position_skip(Cursor *cursor, uint64 number, uint64 logged)
{
	cursor->lost += position_missed(cursor, number, logged);
	cursor->number = number;
	cursor->logged = logged;
	cursor->pos = RING_NONE;
}

/*
 * How many events between the cursor and that number, with it, are not in the
 * log, where logged is how many records up to it are.
 */
uint64
position_missed(const Cursor *cursor, uint64 number, uint64 logged)
{
	int64		missed = (int64) (number - cursor->number) -
		(int64) (logged - cursor->logged);

	/* the two numbers of a position are not read at one instant */
	return missed > 0 ? (uint64) missed : 0;
}

/*
 * Everything of the log up to that seq is consumed, in all channels: what they
 * have not had is above it.
 */
void
position_advance(Claim *claim, uint64 seq)
{
	for (int i = 0; i < claim->position.ncursors; i++)
	{
		Cursor	   *cursor = &claim->position.cursors[i];

		if (cursor->seq >= seq)
			continue;
		cursor->seq = seq;
		cursor->seq_moved = true;
	}
}

/*
 * Does the claim read a durable channel, so that what it has been told of gaps is
 * in the log, too?
 */
bool
position_reads_durable(Claim *claim)
{
	for (int i = 0; i < claim->position.ncursors; i++)
	{
		int			channel = claim->position.cursors[i].channel;

		if (claim->database->channels[channel].durable)
			return true;
	}
	return false;
}

/*
 * Show where cursors stand that this transaction has moved over no event.  The
 * lock is held, and the claim is valid.
 */
void
position_show_progress(Claim *claim)
{
	for (int i = 0; i < claim->position.ncursors; i++)
	{
		Cursor	   *cursor = &claim->position.cursors[i];

		if (!is_moved(cursor) && cursor->number != BINDING_UNPLACED)
			registry_set_position(cursor->binding, cursor->number, cursor->pos,
								  cursor->logged, cursor->seq);
	}
}

/* Note in the position that the channel is at another seq; if there is room. */
static void
add_channel(LogPosition *row, NameData *names, int room, const char *channel,
			uint64 seq)
{
	if (row->nchannels < room)
	{
		strlcpy(NameStr(names[row->nchannels]), channel, NAMEDATALEN);
		row->channels[row->nchannels] = NameStr(names[row->nchannels]);
		row->seqs[row->nchannels] = seq;
	}
	row->nchannels++;
}

/*
 * Fill in where the claim's cursors are, and what was lost; the row has its seq.
 * What another session is adding just now, and has placed, belongs to it too:
 * once that is committed, this position counts for it.  If nchannels is above
 * room then, not all channels are there.
 */
static void
fill_position(Claim *claim, LogPosition *row, NameData *names, int room)
{
	Position   *position = &claim->position;
	Subscription *subscription = claim->own.subscription;
	Channel    *channels = claim->database->channels;

	row->nchannels = 0;
	row->lost = 0;
	LWLockAcquire(claim->database->lock, LW_SHARED);
	if (!reader_claim_valid(claim))
	{
		LWLockRelease(claim->database->lock);
		return;
	}
	for (int i = 0; i < position->ncursors; i++)
	{
		Cursor	   *cursor = &position->cursors[i];
		Channel    *channel = &channels[cursor->channel];

		row->lost += pg_atomic_read_u64(&cursor->binding->log_lost) -
			cursor->log_lost;
		if (cursor->seq != row->seq && !channel->is_pattern)
			add_channel(row, names, room, channel->name, cursor->seq);
	}
	if (subscription->num_changing > 0 &&
		subscription->changing_pid != MyProcPid)
	{
		foreach_dlist(Binding, binding, subscription_node,
					  &subscription->bindings)
		{
			Channel    *channel = &channels[binding->channel];

			if ((binding->flags & BINDING_ADDED) && !channel->is_pattern &&
				pg_atomic_read_u64(&binding->number) != BINDING_UNPLACED)
				add_channel(row, names, room, channel->name,
							pg_atomic_read_u64(&binding->seq));
		}
	}
	LWLockRelease(claim->database->lock);
}

/*
 * Write the claim's position to the log, before commit, if something that it
 * has consumed was there.  Raises what writing to the log does.
 */
void
position_write(Claim *claim)
{
	Subscription *subscription = claim->own.subscription;
	Position   *position = &claim->position;
	LogPosition row = {.id = subscription->id};
	int			room = position->ncursors;
	MemoryContext context;
	MemoryContext old;

	if (row.id == 0 || !position->consumed || !position->logged)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "pgpubsub position",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	row.version = pg_atomic_add_fetch_u64(&subscription->position_version, 1);
	for (int i = 0; i < position->ncursors; i++)
		row.seq = Max(row.seq, position->cursors[i].seq);
	do
	{
		NameData   *names;

		room = Max(room, row.nchannels);
		names = palloc(Max(room, 1) * sizeof(NameData));
		row.channels = palloc(Max(room, 1) * sizeof(char *));
		row.seqs = palloc(Max(room, 1) * sizeof(uint64));
		fill_position(claim, &row, names, room);
	} while (row.nchannels > room);
	if (position->gap_sought ||
		pg_atomic_read_u64(&subscription->gap_epoch) != position->gap_seen)
		row.lost = LOG_LOST_UNKNOWN;
	log_position_insert(claim->database, &row);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	DEBUG_POINT("durable_position_written");
}

/* Count what the claim has consumed in what its database has in all. */
static void
count_in_database(Claim *claim, uint64 delivered, uint64 lost)
{
	DatabaseStats *stats = &claim->database->stats;
	Position   *position = &claim->position;

	/* adding zero would take the line of the cache from other readers */
	if (delivered > 0)
	{
		pg_atomic_fetch_add_u64(&stats->delivered, delivered);
		pg_atomic_fetch_add_u64(&stats->delivered_bytes,
								position->delivered_bytes);
	}
	if (lost > 0)
		pg_atomic_fetch_add_u64(&stats->lost, lost);
	if (position->delays > 0)
	{
		pg_atomic_fetch_add_u64(&stats->reading.count, position->delays);
		pg_atomic_fetch_add_u64(&stats->reading.us, position->delay_us);
	}
}

/* Write the position of a valid claim to where others see it.  Cannot fail. */
void
position_publish(Claim *claim)
{
	Subscription *subscription = claim->own.subscription;
	uint64		delivered = 0;
	uint64		lost = 0;
	int			count = claim->position.ncursors + claim->position.nkept;

	Assert(LWLockHeldByMe(claim->database->lock));
	for (int i = 0; i < count; i++)
	{
		Cursor	   *cursor = &claim->position.cursors[i];
		Channel    *channel = &claim->database->channels[cursor->channel];

		/* one that was not moved is not ours to write */
		if (cursor->seq_moved && !is_moved(cursor))
			pg_atomic_write_u64(&cursor->binding->seq, cursor->seq);
		if (!is_moved(cursor))
			continue;
		Assert(cursor->number != BINDING_UNPLACED);
		Assert(cursor->binding->subscription == subscription &&
			   cursor->binding->channel == cursor->channel);
		registry_set_position(cursor->binding, cursor->number, cursor->pos,
							  cursor->logged, cursor->seq);
		if (cursor->log_lost != 0)
			pg_atomic_fetch_sub_u64(&cursor->binding->log_lost,
									cursor->log_lost);
		pg_atomic_fetch_add_u64(&channel->delivered, cursor->delivered);
		pg_atomic_fetch_add_u64(&channel->lost, cursor->lost);
		delivered += cursor->delivered;
		lost += cursor->lost;
	}
	pg_atomic_write_u64(&subscription->gap_seen, claim->position.gap_seen);
	if (claim->position.gap_sought)
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
	pg_atomic_write_u64(&subscription->seq, claim->position.seq);
	pg_atomic_fetch_add_u64(&subscription->stats.delivered, delivered);
	pg_atomic_fetch_add_u64(&subscription->stats.delivered_bytes,
							claim->position.delivered_bytes);
	pg_atomic_fetch_add_u64(&subscription->stats.lost, lost);
	count_in_database(claim, delivered, lost);
}

/* A subtransaction has committed: what it saved is its parent's, if needed. */
void
position_subcommit(Claim *claim, int level)
{
	SavedPosition *saved = claim->saved;

	if (saved == NULL || saved->level < level)
		return;
	if (nesting_parent_needs_copy(claim->level, saved->upper ?
								  saved->upper->level : 0, level))
		saved->level = level - 1;
	else
		drop_saved(claim);
}

/* A subtransaction was rolled back: the position is what it was before. */
void
position_subabort(Claim *claim, int level)
{
	if (claim->saved && claim->saved->level >= level)
	{
		/* the saved cursors become the claim's, and the others go */
		Position	moved = claim->position;

		claim->position = claim->saved->position;
		claim->saved->position = moved;
		drop_saved(claim);
	}

	/* bindings may have gone with the subtransaction */
	claim->synced = false;
}

/*-------------------------------------------------------------------------
 *
 * positions.c
 *	  Where the log says that subscriptions have read up to.
 *
 * A relay that begins reads all positions, and has each subscription that it
 * loads from the table go on where its position says.  After that, shared memory
 * knows better than what was read then; only for a row that somebody has written
 * by hand they are read anew.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/table.h"
#include "registry/channel_lists.h"
#include "utils/memutils.h"

/* How long a lock on the log is waited for, and when to try again after that. */
#define LOCK_WAIT_MS	100
#define RETRY_MS		500

static RelayDurable *const durable = &relay.durable;

/*
 * Read the positions that count, for who loads subscriptions, and the ceiling.
 * In a transaction, with no lock held.  Returns the highest seq among them; 0 if
 * there is no log.
 */
uint64
relay_read_positions(void)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(RelayPosition)};
	MemoryContext old;
	List	   *positions;
	ListCell   *lc;
	uint64		highest = 0;

	if (!log_installed())
		return 0;

	durable->positions = NULL;
	if (durable->position_context)
		MemoryContextDelete(durable->position_context);
	durable->position_context = AllocSetContextCreate(TopMemoryContext,
													  "pgpubsub positions",
													  ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(durable->position_context);
	positions = log_positions_read(-1);
	ctl.hcxt = durable->position_context;
	durable->positions = hash_create("pgpubsub relay positions", 256, &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(lc, positions)
	{
		LogPosition *position = lfirst(lc);
		RelayPosition *entry = hash_search(durable->positions, &position->id,
										   HASH_ENTER, NULL);

		entry->position = position;
		highest = Max(highest, position->seq);
		for (int i = 0; i < position->nchannels; i++)
			highest = Max(highest, position->seqs[i]);
		if (position->id == 0)
			durable->ceiling = Max(durable->ceiling, position->seq);
	}
	MemoryContextSwitchTo(old);
	return highest;
}

/* The seq up to which the position has consumed the channel. */
static uint64
restored_seq(const LogPosition *position, const char *channel)
{
	for (int i = 0; i < position->nchannels; i++)
	{
		if (strcmp(position->channels[i], channel) == 0)
			return position->seqs[i];
	}
	return position->seq;
}

/*
 * Have the binding go on in the log where the position says, if that knows the
 * channel, which may have been added since; without a position, at the log's
 * beginning, or where the channel was added.  Never behind a seq that was not
 * given out yet.  The database's lock must be held, exclusive.
 */
static void
restore_binding(Binding *binding, const LogPosition *position)
{
	const char *channel = relay.database->channels[binding->channel].name;
	AddedChannel *added = relay_find_added(binding->subscription->id, channel);
	uint64		seq = position == NULL ? 0 : restored_seq(position, channel);

	if (added != NULL && added->placed)
	{
		binding->known_from = added->version + 1;
		if (position == NULL || position->version <= added->version)
			seq = Min(added->since, ring_newest_seq(relay.database->ring));
	}
	pg_atomic_write_u64(&binding->seq, seq);
}

/*
 * The log has no position of the subscription.  If it was in the table when the
 * relay began, it was made when the log was empty, and has consumed nothing of
 * what came there: a position would tell.  If its row was written just now, it
 * begins now, and the log is told so later.  The database's lock must be held,
 * exclusive.
 */
static void
begin_without_position(Subscription *subscription)
{
	if (pg_atomic_read_u32(&relay.database->relay.loaded) != 0)
	{
		relay.durable.unplaced = true;
		return;
	}
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
		restore_binding(binding, NULL);
}

/* The seq up to which the subscription has consumed all its channels. */
static uint64
lowest_seq(Subscription *subscription)
{
	uint64		lowest = ring_newest_seq(relay.database->ring);

	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		uint64		seq = pg_atomic_read_u64(&binding->seq);

		if (!relay.database->channels[binding->channel].is_pattern)
			lowest = Min(lowest, seq);
	}
	return lowest;
}

/*
 * Write positions of subscriptions that have none.  In a transaction; raises what
 * writing to the log does.
 */
static void
write_positions(void)
{
	Database   *database = relay.database;
	int64	   *ids = palloc(pgpubsub_max_subscriptions * sizeof(int64));
	uint64	   *seqs = palloc(pgpubsub_max_subscriptions * sizeof(uint64));
	int			count = 0;

	LWLockAcquire(database->lock, LW_SHARED);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
	{
		if (subscription->id == 0 ||
			subscription->state != SUBSCRIPTION_ACTIVE ||
			pg_atomic_read_u64(&subscription->position_version) != 0 ||
			dlist_is_empty(&subscription->bindings))
			continue;
		ids[count] = subscription->id;
		seqs[count++] = lowest_seq(subscription);
	}
	LWLockRelease(database->lock);
	for (int i = 0; i < count; i++)
	{
		LogPosition position = {.id = ids[i],.seq = seqs[i]};

		log_position_insert(database, &position);
	}
}

/*
 * Write positions of those whose rows were new when the table was read, if there
 * are such.  Not in a transaction.  Raises nothing: what fails, as on a full
 * disk, is tried again later; who reads meanwhile writes a position as well.
 */
void
relay_write_first_positions(void)
{
	MemoryContext old = CurrentMemoryContext;

	if (!durable->unplaced ||
		pg_atomic_read_u32(&relay.database->log.active) == 0 ||
		(durable->place_at != 0 && GetCurrentTimestamp() < durable->place_at))
		return;
	durable->place_at = 0;
	PG_TRY();
	{
		relay_begin("writing positions of new subscriptions");
		LockTimeout = LOCK_WAIT_MS;
		write_positions();
		LockTimeout = 0;
		relay_end();
		durable->unplaced = false;
	}
	PG_CATCH();
	{
		relay_durable_error("write positions of new subscriptions",
							&durable->logged_at, "It is tried again.");
		durable->place_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
}

/*
 * Have the subscription go on in the log where it was, as far as the log says.
 * The database's lock must be held, exclusive.
 */
void
relay_restore_position(Subscription *subscription)
{
	RelayPosition *entry = NULL;
	uint64		lost;

	if (relay.durable.unreadable)
	{
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);

		/* what it writes counts more than what could not be read */
		pg_atomic_write_u64(&subscription->position_version,
							(uint64) GetCurrentTimestamp());
	}
	if (relay.durable.positions == NULL || subscription->id == 0)
		return;
	entry = hash_search(relay.durable.positions, &subscription->id,
						HASH_FIND, NULL);
	if (entry == NULL)
	{
		begin_without_position(subscription);
		return;
	}
	lost = entry->position->lost;
	if (lost == LOG_LOST_UNKNOWN)
	{
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
		lost = 0;
	}

	/* versions that were given out since, and may have committed, are above */
	Assert(pg_atomic_read_u64(&subscription->position_version) <=
		   entry->position->version);
	pg_atomic_write_u64(&subscription->position_version,
						entry->position->version);
	pg_atomic_write_u64(&subscription->seq, entry->position->seq);
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		restore_binding(binding, entry->position);

		/* of which channels they were is not known */
		pg_atomic_write_u64(&binding->log_lost, lost);
		lost = 0;
	}
}

/*
 * Give bindings without a position one: behind the last event received; while
 * the relay loads the table for the first time, where the log says, as for those
 * that had room at once; and tell of a gap.  The database's lock must be held,
 * exclusive.
 */
void
relay_place_new(Subscription *subscription)
{
	Database   *database = relay.database;
	bool		first = pg_atomic_read_u32(&database->relay.loaded) == 0;
	RelayPosition *entry = NULL;
	bool		any = false;

	if (first && durable->positions != NULL && subscription->id != 0)
		entry = hash_search(durable->positions, &subscription->id, HASH_FIND,
							NULL);
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		bool		placed = pg_atomic_read_u64(&binding->number) !=
			BINDING_UNPLACED;

		if (placed)
			continue;
		any = true;
		binding_place_now(database, binding);
		if (first && durable->positions != NULL && subscription->id != 0)
			restore_binding(binding, entry ? entry->position : NULL);
	}

	/* until now, what was sent went by unseen, but for what is in the log */
	if (any && first && relay.num_loads > 0 &&
		!registry_all_durable(database, subscription))
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
}

#ifdef USE_ASSERT_CHECKING
/* What a subscription has consumed of a channel. */
typedef struct Consumed
{
	int64		id;				/* the subscription's */
	uint64		known_from;		/* the binding's */
	char		channel[NAMEDATALEN];
} Consumed;

/* List what subscriptions that nobody reads or changes are bound to. */
static int
list_consumed(Consumed *list, int room)
{
	int			count = 0;

	LWLockAcquire(relay.database->lock, LW_EXCLUSIVE);
	foreach_dlist(Subscription, subscription, node,
				  &relay.database->subscriptions)
	{
		if (subscription->id == 0 || subscription->reader.pid != 0 ||
			subscription->state != SUBSCRIPTION_ACTIVE)
			continue;
		foreach_dlist(Binding, binding, subscription_node,
					  &subscription->bindings)
		{
			Channel    *channel = &relay.database->channels[binding->channel];

			if (channel->is_pattern || count == room ||
				(binding->flags & (BINDING_ADDED | BINDING_DROPPED)) != 0)
				continue;
			list[count].id = subscription->id;
			list[count].known_from = binding->known_from;
			strlcpy(list[count++].channel, channel->name, NAMEDATALEN);
		}
	}
	LWLockRelease(relay.database->lock);
	return count;
}

/* So many bindings are looked at. */
#define MOST_CONSUMED	1000

/*
 * Are the positions that the log has past all that is in the segment?  In the
 * transaction that is to empty it, and has it locked.  Who is read just now, or
 * has no position yet, is left out.
 */
bool
relay_positions_past(int segment)
{
	Consumed   *list = palloc(MOST_CONSUMED * sizeof(Consumed));

	/* in this order: what was consumed before is in the log by now */
	int			count = list_consumed(list, MOST_CONSUMED);
	List	   *positions;
	ListCell   *lc;

	for (int i = 0; i < LOG_POSITIONS; i++)
	{
		Relation	rel = log_try_open(LOG_POSITION, i, AccessShareLock);

		if (rel == NULL)
			return true;
		table_close(rel, AccessShareLock);
	}
	positions = log_positions_read(-1);
	foreach(lc, positions)
	{
		LogPosition *position = lfirst(lc);

		for (int i = 0; i < count; i++)
		{
			if (list[i].id == position->id &&
				list[i].known_from <= position->version &&
				restored_seq(position, list[i].channel) <
				log_note_last_seq(segment, list[i].channel))
				return false;
		}
	}
	return true;
}
#endif

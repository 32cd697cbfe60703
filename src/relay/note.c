/*-------------------------------------------------------------------------
 *
 * note.c
 *	  The relay notes which seqs the events of durable channels have.
 *
 * 1. A batch of events gets its seqs from the relay, and a transaction of its
 *	  own writes them to the log as notes, before anybody sees the events.  It
 *	  does not wait for the disk: who has seen an event, and commits what came
 *	  of it, has that behind the note in the WAL.  Who has seen one whose note
 *	  did not get to the disk before a crash gets it again, with a higher seq.
 *
 * 2. So that no seq ever names two events, none is given out above a ceiling
 *	  that is on disk, and after a restart seqs begin above it.
 *
 * 3. The batch's marks move in the commit itself, see relay_note_at_commit(): a
 *	  relay that ends at any moment leaves to the next one either a batch that
 *	  is to be noted anew, which nobody has seen, or seqs to be used as they
 *	  are.
 *
 * 4. A note tells how many events its channel has had before.  These counts go
 *	  on from the channel's last note, which is looked for when the channel has
 *	  its first event in the life of a relay.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/table.h"
#include "access/xact.h"
#include "base/debug.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "relay/relay.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* So many seqs may be given out before the ceiling is raised again. */
#define CEILING_STEP	(UINT64CONST(1) << 24)

/* How long a batch waits for a lock on the log, in ms. */
#define LOCK_WAIT_MS	100

/* Channels whose counts are kept in memory, at most. */
#define MOST_TOTALS		10000

/* What a channel has had in all. */
typedef struct Total
{
	char		channel[NAMEDATALEN];	/* hash key */
	uint64		events;
	uint64		bytes;
} Total;

/* A note of the batch at hand; one that is full is followed by another. */
typedef struct BatchNote
{
	LogNote		note;
	Total	   *total;			/* the channel's */
	int			segment;
	int			allocated;		/* of note.runs */
} BatchNote;

typedef struct BatchEntry
{
	char		channel[NAMEDATALEN];	/* hash key */
	BatchNote  *last;			/* its note that grows */
} BatchEntry;

/* The batch at hand, in its transaction's memory. */
struct NoteBatch
{
	HTAB	   *entries;		/* of BatchEntry */
	List	   *notes;			/* of BatchNote, in the order of first seqs */
	BatchNote  *last;			/* that an event went to; NULL: none did */
	uint64		next_seq;
	TimestampTz at;

	/* what the commit is to do */
	Staging    *staging;		/* NULL: nothing */
	uint64		number;
	LogReference *reference;	/* NULL: nothing */
	BlockNumber block;
	OffsetNumber offset;
	bool		committing;		/* this transaction is the batch's */
};

static RelayDurable *const durable = &relay.durable;

/* Make the table of counts anew: they are read from the log again. */
static void
forget_totals(void)
{
	HASHCTL		ctl = {.keysize = NAMEDATALEN,.entrysize = sizeof(Total)};

	if (durable->totals)
		hash_destroy(durable->totals);
	ctl.hcxt = TopMemoryContext;
	durable->totals = hash_create("pgpubsub log totals", 256, &ctl,
								  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/*
 * Set up, before the first batch.
 */
void
note_init(void)
{
	forget_totals();
}

/*
 * The channel's counts; in a transaction.
 */
static Total *
find_total(const char *channel)
{
	bool		found;
	Total	   *total;

	total = hash_search(durable->totals, channel, HASH_FIND, NULL);
	if (total == NULL)
	{
		LogNote		note;

		memset(&note, 0, sizeof(note));
		if (log_note_last(channel, &note))
			pfree(note.runs);
		total = hash_search(durable->totals, channel, HASH_ENTER, &found);
		total->events = note.events_before + note.events;
		total->bytes = note.bytes_before + note.bytes;
	}
	return total;
}

/*
 * Have the slot's channel show its counts, which are looked for if need be.  In
 * a transaction.
 */
void
note_count_channel(int slot)
{
	Channel    *channel = &relay.database->channels[slot];
	char		name[NAMEDATALEN];
	Total	   *total;
	bool		wanted;

	LWLockAcquire(relay.database->lock, LW_SHARED);
	wanted = channel->in_use && !channel->is_pattern &&
		pg_atomic_read_u32(&channel->log_counted) == 0;
	strlcpy(name, channel->name, NAMEDATALEN);
	LWLockRelease(relay.database->lock);
	if (!wanted)
		return;
	total = find_total(name);
	LWLockAcquire(relay.database->lock, LW_SHARED);
	if (channel->in_use && strcmp(channel->name, name) == 0)
	{
		pg_atomic_write_u64(&channel->log_events, total->events);
		pg_atomic_write_u64(&channel->log_bytes, total->bytes);
		pg_atomic_write_u32(&channel->log_counted, 1);
	}
	LWLockRelease(relay.database->lock);
}

/*
 * Seqs up to this one are used: have the next be above it.  The caller has the
 * turn.
 */
void
note_raise_seq(uint64 seq)
{
	if (seq > ring_newest_seq(relay.database->ring))
		ring_pass(relay.database->ring, -1, seq);
}

/*
 * Raise the ceiling above what the next batch may need.  Not in a transaction.
 */
static void
raise_ceiling(void)
{
	LogPosition position = {.id = 0};
	uint64		newest = ring_newest_seq(relay.database->ring);

	if (durable->ceiling >= newest + CEILING_STEP / 2)
		return;
	position.seq = position.version = newest + CEILING_STEP;
	relay_begin("raising the highest seq");
	LockTimeout = LOCK_WAIT_MS;
	log_position_insert(relay.database, &position);
	ForceSyncCommit();
	LockTimeout = 0;
	relay_end();
	durable->ceiling = position.seq;
}

#ifdef USE_ASSERT_CHECKING
/* The highest seq that any segment has. */
static uint64
highest_noted(void)
{
	uint64		highest = 0;

	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		LogSegment *known = &relay.database->log.segments[i];
		uint64		last = pg_atomic_read_u64(&known->last_seq);

		highest = Max(highest, last);
	}
	return highest;
}
#endif

/*
 * Begin a batch, and its transaction; raises what writing to the log does.
 */
void
note_begin(void)
{
	HASHCTL		ctl = {.keysize = NAMEDATALEN,.entrysize = sizeof(BatchEntry)};
	MemoryContext old;

	Assert(durable->batch == NULL);
	raise_ceiling();
	if (hash_get_num_entries(durable->totals) > MOST_TOTALS)
		forget_totals();
	relay_begin("noting events of durable channels");

	/* nobody's lock is to stop the relay: the batch fails, and is tried again */
	LockTimeout = LOCK_WAIT_MS;
	old = MemoryContextSwitchTo(TopTransactionContext);
	durable->batch = palloc0(sizeof(NoteBatch));
	ctl.hcxt = TopTransactionContext;
	durable->batch->entries = hash_create("pgpubsub notes", 64, &ctl,
										  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	durable->batch->next_seq = ring_newest_seq(relay.database->ring) + 1;
	durable->batch->at = GetCurrentTimestamp();
	Assert(durable->batch->next_seq > highest_noted());
	Assert(durable->batch->next_seq <= durable->ceiling);
	MemoryContextSwitchTo(old);
}

/*
 * The batch's next seq.
 */
uint64
note_next_seq(void)
{
	Assert(durable->batch->next_seq <= durable->ceiling);
	return durable->batch->next_seq++;
}

/* A new note of the batch for this channel and segment. */
static BatchNote *
make_note(const char *channel, int segment, uint64 seq)
{
	BatchNote  *result = palloc0(sizeof(BatchNote));
	Total	   *total = find_total(channel);
	LogNote    *note = &result->note;

	result->segment = segment;
	result->allocated = 8;
	strlcpy(note->channel, channel, NAMEDATALEN);
	note->first_seq = seq;
	result->total = total;
	note->events_before = total->events;
	note->bytes_before = total->bytes;
	note->at = durable->batch->at;
	note->runs = palloc(result->allocated * sizeof(LogRun));
	durable->batch->notes = lappend(durable->batch->notes, result);
	return result;
}

/*
 * The note that an event of the channel in the segment goes to.  Of a channel's
 * notes each ends before the next begins, whichever segments they are in: so
 * their counts tell whether one is missing in between.
 */
static BatchNote *
find_note(const char *channel, int segment, uint64 seq)
{
	BatchNote  *last = durable->batch->last;
	BatchEntry *entry;
	bool		found;

	/* many events of a channel come one after the other, as a rule */
	if (last && last->segment == segment && last->note.nruns < LOG_MAX_RUNS &&
		strcmp(last->note.channel, channel) == 0)
		return last;
	entry = hash_search(durable->batch->entries, channel, HASH_ENTER, &found);
	if (!found || entry->last->segment != segment ||
		entry->last->note.nruns == LOG_MAX_RUNS)
		entry->last = make_note(channel, segment, seq);
	durable->batch->last = entry->last;
	return entry->last;
}

/* Add the row to the note's runs. */
static void
add_to_runs(BatchNote *to, TransactionId xid, BlockNumber block,
			OffsetNumber offset, uint64 seq)
{
	LogNote    *note = &to->note;
	LogRun	   *run = note->nruns > 0 ? &note->runs[note->nruns - 1] : NULL;

	/* seqs ascend, and so do a transaction's rows: no row is noted twice */
	Assert(run == NULL || run->seq + run->count <= seq);
	Assert(run == NULL || run->xid != xid || run->block < block ||
		   (run->block == block && run->offset + run->count <= offset));
	if (run && run->xid == xid && run->block == block &&
		run->offset + run->count == offset && run->seq + run->count == seq)
	{
		run->count++;
		return;
	}
	if (note->nruns == to->allocated)
	{
		to->allocated = Min(2 * to->allocated, LOG_MAX_RUNS);
		note->runs = repalloc(note->runs, to->allocated * sizeof(LogRun));
	}
	run = &note->runs[note->nruns++];
	memset(run, 0, sizeof(LogRun));
	run->seq = seq;
	run->xid = xid;
	run->block = block;
	run->offset = offset;
	run->count = 1;
}

/*
 * Note that the row at that place has this seq, which is the batch's last one.
 */
void
note_add(int segment, const char *channel, TransactionId xid,
		 BlockNumber block, OffsetNumber offset, uint64 seq,
		 Size payload_len)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	BatchNote  *to = find_note(channel, segment, seq);

	Assert(seq == durable->batch->next_seq - 1);
	add_to_runs(to, xid, block, offset, seq);
	to->note.last_seq = seq;
	to->note.events++;
	to->note.bytes += payload_len;
	to->total->events++;
	to->total->bytes += payload_len;
	MemoryContextSwitchTo(old);
}

/*
 * When the batch commits, events of the queue up to that number are noted.
 */
void
note_on_commit(Staging *staging, uint64 number)
{
	durable->batch->staging = staging;
	durable->batch->number = number;
}

/*
 * When the batch commits, the next row to be noted is the one at that place, or
 * what comes behind it.
 */
void
note_on_commit_reference(LogReference *reference, BlockNumber block,
						 OffsetNumber offset)
{
	durable->batch->reference = reference;
	durable->batch->block = block;
	durable->batch->offset = offset;
}

/* What is noted is known of the segments before anybody looks there. */
static void
show_segment(const BatchNote *noted)
{
	LogSegment *segment = &relay.database->log.segments[noted->segment];
	uint64		first = pg_atomic_read_u64(&segment->first_seq);

	if (first == 0 || noted->note.first_seq < first)
	{
		pg_atomic_write_u64(&segment->first_seq, noted->note.first_seq);
		pg_atomic_write_u64(&segment->first_at, (uint64) noted->note.at);
	}
	if (noted->note.last_seq > pg_atomic_read_u64(&segment->last_seq))
		pg_atomic_write_u64(&segment->last_seq, noted->note.last_seq);
	pg_atomic_write_u64(&segment->last_at, (uint64) noted->note.at);
}

/*
 * A transaction of this process commits.  If it is a batch's, which only a
 * relay has, move the marks.  Cannot fail.
 */
void
relay_note_at_commit(void)
{
	NoteBatch  *batch = durable->batch;
	ListCell   *lc;

	if (batch == NULL || !batch->committing)
		return;
	foreach(lc, batch->notes)
		show_segment(lfirst(lc));
	pg_atomic_write_u32(&relay.database->log.active, 1);
	if (batch->reference)
	{
		batch->reference->note_block = batch->block;
		batch->reference->note_offset = batch->offset;
	}
	if (batch->staging)
		staging_set_noted(batch->staging, batch->number);
}

/* The channel's slot, if it has one, shows what it has had in all. */
static void
show_total(const LogNote *note)
{
	Database   *database = relay.database;
	int			slot;

	LWLockAcquire(database->lock, LW_SHARED);
	slot = registry_find_channel(database, note->channel, false);
	if (slot >= 0)
	{
		Channel    *channel = &database->channels[slot];

		pg_atomic_write_u64(&channel->log_events,
							note->events_before + note->events);
		pg_atomic_write_u64(&channel->log_bytes,
							note->bytes_before + note->bytes);
		pg_atomic_write_u32(&channel->log_counted, 1);
	}
	LWLockRelease(database->lock);
	pg_atomic_fetch_add_u64(&database->log.appended, note->events);
	pg_atomic_fetch_add_u64(&database->log.appended_bytes, note->bytes);
}

/*
 * The relation has the segment's notes.  If somebody else has emptied it, as REFRESH
 * does, those who have not read what was there are told that something is missing.
 */
static void
look_for_lost_notes(int index, Relation rel)
{
	Database   *database = relay.database;
	LogSegment *segment = &database->log.segments[index];
	uint64		last = pg_atomic_read_u64(&segment->last_seq);

	if (last == 0 || RelationGetNumberOfBlocks(rel) > 0)
		return;
	ereport(LOG,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("relation \"%s\" of pgpubsub's log was emptied by somebody else",
					RelationGetRelationName(rel)),
			 errdetail("Subscriptions that have not read what was in it are told of a gap.")));
	LWLockAcquire(database->lock, LW_SHARED);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
	{
		bool		misses = false;

		foreach_dlist(Binding, binding, subscription_node,
					  &subscription->bindings)
			misses |= pg_atomic_read_u64(&binding->seq) < last;
		if (misses)
			pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
	}
	LWLockRelease(database->lock);
	pg_atomic_write_u64(&segment->first_seq, 0);
	pg_atomic_write_u64(&segment->last_seq, 0);
	durable->segments.segment[index].damaged = true;
}

/*
 * Look for lost notes of the segment, before it is emptied or gets notes of another
 * one: afterwards nobody could tell.  In a transaction.  Raises 55000 if the
 * relation is not as the extension made it.
 */
void
note_look_for_lost(int segment)
{
	Relation	rel = log_try_open(LOG_NOTES, segment, AccessShareLock);

	if (rel == NULL)
		return;
	look_for_lost_notes(segment, rel);
	table_close(rel, AccessShareLock);
}

/*
 * Write the batch's notes, and commit.  Raises what that does; then call
 * note_abort().
 */
void
note_write(void)
{
	NoteBatch  *batch = durable->batch;
	Relation	rels[LOG_SEGMENTS] = {NULL};
	ListCell   *lc;

	foreach(lc, batch->notes)
	{
		BatchNote  *noted = lfirst(lc);

		if (rels[noted->segment] == NULL)
		{
			rels[noted->segment] = log_open(LOG_NOTES, noted->segment,
											RowExclusiveLock);
			look_for_lost_notes(noted->segment, rels[noted->segment]);
		}
		log_note_insert(rels[noted->segment], &noted->note);
	}
	for (int i = 0; i < LOG_SEGMENTS; i++)
	{
		if (rels[i])
			table_close(rels[i], NoLock);
	}

	/* the commit frees the batch: what is shown afterwards is shown before */
	foreach(lc, batch->notes)
		show_total(&((BatchNote *) lfirst(lc))->note);
	DEBUG_POINT("durable_note_inserted");
	batch->committing = true;
	LockTimeout = 0;
	relay_end();
	durable->batch = NULL;

	/* a wait for a lock may have reset the latch that somebody has set */
	SetLatch(MyLatch);
	DEBUG_POINT("durable_noted");
}

/*
 * The batch has raised an error, and its transaction was rolled back: it is to
 * be made anew.
 */
void
note_abort(void)
{
	durable->batch = NULL;
	LockTimeout = 0;
	forget_totals();
}

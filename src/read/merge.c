/*-------------------------------------------------------------------------
 *
 * merge.c
 *	  The next event of each channel that a poll reads, from ring or log.
 *
 * 1. A channel's next event is in the ring, or it is in the log alone.  A record
 *	  of the ring says up to which seq the log may have events of the channel
 *	  that are not in the ring before it: who has consumed up to there goes on
 *	  with the record.  All others look into the log first, which has whatever
 *	  has left the ring, or passed by it.
 *
 * 2. What was read from the log, and is in the ring too, is passed over there:
 *	  its seq tells.
 *
 * 3. How many events are missing is told by two numbers of the ring: how many
 *	  records the channel had, and how many of these are in the log.
 *
 *-------------------------------------------------------------------------
 */
#include "read/merge.h"

#include "base/debug.h"
#include "miscadmin.h"

/* Order of the heap: the lowest seq is its first. */
static int
compare_heads(Datum a, Datum b, void *arg)
{
	Head	   *heads = (Head *) arg;
	uint64		left = head_seq(&heads[DatumGetInt32(a)]);
	uint64		right = head_seq(&heads[DatumGetInt32(b)]);

	return left < right ? 1 : left > right ? -1 : 0;
}

/*
 * Find the next record in the ring of the channel that cursor i reads, beyond
 * what the reader has had from the log.
 */
static void
find_record(Poll *poll, Cursor *cursor, Head *head)
{
	uint64		newest;
	uint64		number;
	uint64		logged = 0;

	for (;;)
	{
		head->found = ring_next(poll->ring, cursor->channel, cursor->number,
								cursor->pos, &head->record, &newest);
		if (head->found == RING_ALL_GONE)
		{
			ring_counts(poll->ring, cursor->channel, &number, &logged);
			if (number == newest)
				break;
			continue;
		}
		if (head->found != RING_FOUND || !head->record.in_log ||
			head->record.seq > cursor->seq)
			break;
		cursor->number = head->record.number;
		cursor->logged = head->record.logged;
		cursor->pos = head->record.pos;
		poll->progress = true;
	}
	head->missed = 0;
	if (head->found == RING_ALL_GONE)
	{
		head->missed_upto = newest;
		head->missed_logged = logged;
	}
	else if (head->found == RING_FOUND)
	{
		head->missed_upto = head->record.number - 1;
		head->missed_logged = head->record.logged - head->record.in_log;
	}
	if (head->found != RING_UP_TO_DATE)
		head->missed = position_missed(cursor, head->missed_upto,
									   head->missed_logged);
}

/*
 * Events of the channel up to that seq, and not those that the cursor has had,
 * may be in the log, and not in the ring.  Find the first; false if there is
 * none.
 */
static bool
find_logged(Poll *poll, Cursor *cursor, Head *head, uint64 upto)
{
	Database   *database = poll->claim->database;

	if (upto <= cursor->seq)
		return false;

	/* who has set log_newest had set this before */
	pg_read_barrier();
	if (pg_atomic_read_u32(&database->log.active) != 0)
	{
		if (poll->reader == NULL)
			poll->reader = log_reader_create(database);
		if (head->channel == NULL)
			head->channel =
				log_reader_channel(poll->reader,
								   database->channels[cursor->channel].name);
		if (log_reader_next(poll->reader, head->channel, cursor->seq, upto,
							&head->event))
			return true;
	}

	/* nothing of the channel is there: nobody need look again */
	cursor->seq = upto;
	cursor->seq_moved = true;
	poll->progress = true;
	return false;
}

/* Find the next event of the channel that cursor i reads. */
void
merge_find_head(Poll *poll, int i)
{
	Cursor	   *cursor = &poll->cursors[i];
	Head	   *head = &poll->heads[i];
	uint64		upto;

	head->from_log = false;
	if (poll->claim->database->channels[cursor->channel].is_pattern)
	{
		head->found = RING_UP_TO_DATE;
		head->missed = 0;
		return;
	}
	find_record(poll, cursor, head);
	DEBUG_POINT("poll_seam");

	/* a record that came after the poll began is for the next poll */
	if (head->found == RING_FOUND && head->record.seq > poll->newest_seq)
	{
		head->found = RING_UP_TO_DATE;
		head->missed = 0;
		poll->newer = true;
	}

	/* what is in the log alone comes before the record */
	upto = head->found == RING_FOUND ? head->record.log_before :
		ring_log_newest(poll->ring, cursor->channel);
	if (find_logged(poll, cursor, head, Min(upto, poll->newest_seq)))
	{
		head->found = RING_FOUND;
		head->from_log = true;
		head->missed = 0;
	}
	else if (head->found == RING_ALL_GONE && head->missed == 0)
	{
		/* all that were in the ring were read from the log */
		cursor->number = head->missed_upto;
		cursor->logged = head->missed_logged;
		cursor->pos = RING_NONE;
		poll->progress = true;
	}
}

/*
 * Take the claim's cursors as they are now, or for a look a copy of them, in
 * the current memory context.
 */
void
merge_begin(Poll *poll)
{
	Claim	   *claim = poll->claim;

	position_sync(claim);
	poll->ncursors = claim->position.ncursors;
	poll->cursors = claim->position.cursors;
	if (!poll->consume)
	{
		Size		size = poll->ncursors * sizeof(Cursor);

		poll->cursors = palloc(Max(size, 1));
		memcpy(poll->cursors, claim->position.cursors, size);
	}
	poll->heads = palloc0(Max(poll->ncursors, 1) * sizeof(Head));
	poll->heap = binaryheap_allocate(Max(poll->ncursors, 1), compare_heads,
									 poll->heads);
}

/* Events that the log has lost of the channel, and that were not told yet. */
uint64
merge_untold_loss(Poll *poll, int i)
{
	Cursor	   *cursor = &poll->cursors[i];

	return pg_atomic_read_u64(&cursor->binding->log_lost) - cursor->log_lost;
}

/*
 * Read the log anew: what was looked for there before newest_seq was read may
 * lack what came since.
 */
static void
forget_reader(Poll *poll)
{
	if (poll->reader == NULL)
		return;
	log_reader_close(poll->reader);
	poll->reader = NULL;
	for (int i = 0; i < poll->ncursors; i++)
		poll->heads[i].channel = NULL;
}

/* Find the next event of each channel, and what is missing before it. */
static void
find_all_heads(Poll *poll)
{
	do
	{
		forget_reader(poll);
		poll->newest_seq = ring_newest_seq(poll->ring);
		poll->newer = false;
		poll->missed = 0;
		binaryheap_reset(poll->heap);
		for (int i = 0; i < poll->ncursors; i++)
		{
			merge_find_head(poll, i);
			if (poll->heads[i].found == RING_FOUND)
				binaryheap_add_unordered(poll->heap, Int32GetDatum(i));
			poll->missed += poll->heads[i].missed + merge_untold_loss(poll, i);
		}

		/* if all records are newer, begin again: a gap row needs the first */
	} while (binaryheap_empty(poll->heap) && poll->newer);
	binaryheap_build(poll->heap);
}

/*
 * Find what to return first.  Returns whether there is anything.
 *
 * A new relay raises the relay epoch, and then queues events whose numbers the
 * old relay may have given to others.  A reader that saw them with the old
 * epoch would skip those that are not beyond cursors placed before.  So it
 * reads the epoch again after the records, behind a read barrier, until it has
 * not grown.
 */
bool
merge_find_heads(Poll *poll)
{
	Claim	   *claim = poll->claim;

	do
	{
		poll->relay_epoch = registry_relay_epoch(claim->database,
												 claim->own.subscription);
		poll->gap_epoch =
			pg_atomic_read_u64(&claim->own.subscription->gap_epoch);
		if (poll->relay_epoch != claim->relay_epoch)
			merge_begin(poll);
		find_all_heads(poll);
		pg_read_barrier();
	} while (registry_relay_epoch(claim->database, claim->own.subscription) !=
			 poll->relay_epoch);
	poll->gap_unknown = poll->gap_epoch != claim->position.gap_seen ||
		claim->position.gap_sought;
	return !binaryheap_empty(poll->heap) || poll->missed > 0 ||
		poll->gap_unknown;
}

/*-------------------------------------------------------------------------
 *
 * staging_take.c
 *	  The async queue: how committed events are taken, in which order.
 *
 * All of this is for whoever has the turn (see AppendTurn in registry.h): the
 * relay, or a transaction that ends while the relay sleeps.
 *
 * 1. Transactions are taken in the order of their places.  The relay may pass
 *	  over a pending one only while that transaction is in progress: nobody
 *	  has seen its rows then.  One that is pending but no longer in progress is
 *	  about to set its status; the relay waits for it.  What a transaction is
 *	  passed over for must have been found committed before that check.  So a
 *	  transaction that has seen another's rows comes after it.
 *
 * 2. One transaction may stay pending for very long, for want of a synchronous
 *	  standby, say, while others come and go behind it.  So the relay looks at
 *	  a place once on its way to head, and keeps two lists in the order of
 *	  places: those found pending, and those found committed but not taken yet.
 *	  One check of those pending clears many that are committed.  What is
 *	  cleared stays so: whoever was in progress after a commit was not seen by
 *	  it.
 *
 * 3. Events are numbered in the order in which they are taken.  Two marks on
 *	  that sequence make a restart of the relay exact: appended, up to which
 *	  they are in the ring, and notified, up to which they were sent by a
 *	  transaction that has committed.  Neither waits for the other.  Space is
 *	  freed behind both.
 *
 * 4. Each transaction that was taken leads to the one that was taken next.  The
 *	  relay walks along there twice: with one walk it appends events, with the
 *	  other it notifies them.  A place that a walk has not passed is not freed,
 *	  since the walk's mark has not passed it either.  No walk comes to one that
 *	  is taken at its own commit, which appends and notifies it at once: both
 *	  walks are at their ends then.
 *
 * 5. A queue of events that are in the log has a third mark: noted, up to which
 *	  their seqs are known for ever.  It goes ahead of appended; what is between
 *	  the two is to be appended with the seqs that the events have there.
 *
 * 6. A pass is one look of the relay at all places.  When it ends, all that was
 *	  committed before it began is taken and notified.
 *
 * Nothing here looks at a catalog or raises an error, but for want of memory in
 * staging_recover().
 *
 *-------------------------------------------------------------------------
 */
#include "queue/staging_internal.h"

#include "miscadmin.h"
#include "storage/proc.h"

/*
 * Of the places not looked at yet, so many that are committed are looked for
 * at a time.  A transaction that ends is behind no more than these.
 */
#define LOOK_AHEAD	64

/* Begin anew to look at the places, from tail on. */
void
staging_forget_looks(Staging *staging)
{
	uint64		tail = pg_atomic_read_u64(&staging->tail);

	staging->looked = staging->cleared = tail;
	staging->pending = staging->committed = (PlaceList)
	{
		0
	};
}

/*
 * Is the place's transaction still in progress?  Its end clears lxid before
 * anybody can see its rows.
 */
static bool
in_progress(StagedTransaction *place)
{
	return PGPUBSUB_LXID(GetPGProcByNumber(place->procno)) == place->lxid;
}

/* Describe the place. */
static void
view_place(StagedTransaction *place, uint64 pos, StagedView *view)
{
	view->transaction = place;
	view->pos = pos;
	view->pid = place->pid;
	view->generation = place->generation;
	view->xid = place->xid;
	view->ended_at = place->ended_at;
	view->nevents = place->nevents;
	view->events = (StagedEvent *) staging_data(place);
	view->first = place->first;
}

/* Is there nothing to do for a relay: no place is taken, no pass under way? */
bool
staging_idle(Staging *staging)
{
	return pg_atomic_read_u64(&staging->head) ==
		pg_atomic_read_u64(&staging->tail) &&
		pg_atomic_read_u64(&staging->passes_begun) ==
		pg_atomic_read_u64(&staging->passes_done);
}

/*
 * Begin to look at all places; returns the end of those there are.
 * staging_next_pass() says what the barrier is for.
 */
uint64
staging_begin_pass(Staging *staging)
{
	pg_atomic_write_u64(&staging->passes_begun,
						pg_atomic_read_u64(&staging->passes_begun) + 1);
	pg_memory_barrier();
	return pg_atomic_read_u64(&staging->head);
}

/* All that was committed when the pass began is notified. */
void
staging_end_pass(Staging *staging)
{
	pg_atomic_write_u64(&staging->passes_done,
						pg_atomic_read_u64(&staging->passes_begun));
	ConditionVariableBroadcast(&staging->moved);
}

/* What leads to the place that follows the one at before; 0: to the first. */
static uint64 *
list_link(Staging *staging, PlaceList *list, uint64 before)
{
	return before == 0 ? &list->first : &PLACE_AT(staging, before)->next;
}

/* Remove the place that follows the one at before; 0: the first. */
static void
list_remove(Staging *staging, PlaceList *list, uint64 before)
{
	uint64	   *link = list_link(staging, list, before);
	uint64		pos = *link;

	*link = PLACE_AT(staging, pos)->next;
	if (list->last == pos)
		list->last = before;
}

/* Insert the place at pos, where the one at before is; 0: at the beginning. */
static void
list_insert(Staging *staging, PlaceList *list, uint64 before, uint64 pos)
{
	uint64	   *link = list_link(staging, list, before);

	PLACE_AT(staging, pos)->next = *link;
	if (*link == 0)
		list->last = pos;
	*link = pos;
}

/*
 * Of the places found pending, move those that are committed by now to the list
 * of those to be taken; void ones are done with.
 */
static void
look_at_pending(Staging *staging)
{
	PlaceList  *pending = &staging->pending;
	PlaceList  *committed = &staging->committed;
	uint64		kept = 0;		/* the last one that is still pending */
	uint64		before = 0;		/* the last committed one before it */
	uint64		pos;

	while ((pos = *list_link(staging, pending, kept)) != 0)
	{
		uint32		status = pg_atomic_read_u32(&PLACE_AT(staging, pos)->status);
		uint64		next;

		if (status == STAGED_PENDING)
		{
			kept = pos;
			continue;
		}
		list_remove(staging, pending, kept);
		if (status != STAGED_COMMITTED)
			continue;
		while ((next = *list_link(staging, committed, before)) != 0 &&
			   next < pos)
			before = next;
		list_insert(staging, committed, before, pos);
	}
}

/*
 * Look at the places that follow, up to end, until there is something to take.
 * Returns false if one has no header: nobody may look behind that.
 */
static bool
look_ahead(Staging *staging, uint64 end)
{
	int			found = 0;

	while (staging->looked < end && found < LOOK_AHEAD)
	{
		uint64		pos = staging->looked;
		StagedTransaction *place = PLACE_AT(staging, pos);
		uint32		length = place_length(place);
		uint32		status;

		if (length == 0)
			return false;
		status = pg_atomic_read_u32(&place->status);
		if (status == STAGED_PENDING)
			list_insert(staging, &staging->pending, staging->pending.last, pos);
		else if (status == STAGED_COMMITTED && place->first == 0)
		{
			list_insert(staging, &staging->committed, staging->committed.last,
						pos);
			found++;
		}
		staging->looked = pos + length;
	}
	return true;
}

/*
 * Find out which of the committed places may be taken although pending ones
 * come before them: those up to the first pending one whose transaction is no
 * longer in progress.  Returns that one, or NULL if there is none.
 *
 * The barrier has two purposes.  Let A be pending, and B a later place.  The
 * barrier keeps this check of A behind the read of status by which B was found
 * committed.  The other way round, A could be seen in progress, then commit, B
 * read A's rows and commit, and only then B be found committed; B would be
 * taken before A, whose rows it has seen.  And the barrier keeps the reads of
 * B's events, which follow, behind that of its status: see staging_mark().
 */
static StagedTransaction *
clear_committed(Staging *staging)
{
	pg_memory_barrier();
	staging->cleared = staging->looked;
	for (uint64 pos = staging->pending.first; pos != 0;
		 pos = PLACE_AT(staging, pos)->next)
	{
		if (!in_progress(PLACE_AT(staging, pos)))
		{
			staging->cleared = pos;
			return PLACE_AT(staging, pos);
		}
	}
	return NULL;
}

/*
 * Look for something to take before end.  Returns false if more may come at
 * any moment, since a place is just about to get its header or its status.
 */
static bool
look(Staging *staging, uint64 end)
{
	uint64		tail = pg_atomic_read_u64(&staging->tail);
	bool		all = true;
	StagedTransaction *ended;

	/*
	 * What lies before tail is free, or others' places again.  The barrier
	 * keeps reads of lengths behind that of end, which is a value of head: so
	 * a length of 0 means a place without a header, not memory still free.
	 */
	staging->looked = Max(staging->looked, tail);
	pg_read_barrier();
	do
	{
		look_at_pending(staging);
		if (staging->committed.first == 0)
			all = look_ahead(staging, end);
		ended = clear_committed(staging);

		/*
		 * That transaction sets its status about now.  If it has, look again:
		 * its place may be the first to be taken.  The barrier has status
		 * read anew, after we saw the transaction at its end.
		 */
		pg_memory_barrier();
	} while (ended &&
			 pg_atomic_read_u32(&ended->status) != STAGED_PENDING);
	return all && ended == NULL;
}

/* Let the walk begin with the transaction. */
static void
enter_transaction(StagedWalk *walk, const StagedView *view)
{
	walk->view = *view;
	walk->event = view->events;
	walk->done = 0;
}

/* The transaction is taken: number its events, and lead both walks to it. */
static void
number_place(Staging *staging, StagedView *view, StagedWalk *append,
			 StagedWalk *notify)
{
	view->first = staging->numbered + 1;
	view->transaction->first = view->first;
	view->transaction->next = 0;
	staging->numbered += view->nevents;

	/* a walk that is not at its end has not passed the last one: it stands */
	if (append->view.transaction != NULL || notify->view.transaction != NULL)
		PLACE_AT(staging, staging->last_taken)->next = view->pos;
	staging->last_taken = view->pos;
	if (append->view.transaction == NULL)
		enter_transaction(append, view);
	if (notify->view.transaction == NULL)
		enter_transaction(notify, view);
}

/*
 * Take the next transaction, before end, and number its events.  Both walks,
 * which are in the relay's own memory, come to it.  end: what staging_head()
 * has said, no earlier than in the call before.  What this costs does not grow
 * with what is behind a transaction that stays pending.
 */
StagedTake
staging_take(Staging *staging, uint64 end, StagedWalk *append,
			 StagedWalk *notify, StagedView *view)
{
	PlaceList  *committed = &staging->committed;
	bool		all = true;
	uint64		pos;

	if (committed->first == 0 || committed->first >= staging->cleared)
		all = look(staging, end);
	pos = committed->first;
	if (pos == 0)
		return all ? TAKE_NOTHING : TAKE_SOON;
	if (pos >= staging->cleared)
		return TAKE_SOON;
	list_remove(staging, committed, 0);
	view_place(PLACE_AT(staging, pos), pos, view);
	number_place(staging, view, append, notify);
	return TAKE_FOUND;
}

/*
 * Is this process's transaction, which it has marked as committed, the next one
 * to be taken?  *view describes it then.
 */
bool
staging_comes_next(Staging *staging, StagedTransaction *place, StagedView *view)
{
	uint64		head = pg_atomic_read_u64(&staging->head);
	uint64		pos = Max(staging->looked,
						  pg_atomic_read_u64(&staging->tail));

	Assert(staging->committed.first == 0);
	Assert(staging_appended(staging) == staging->numbered);
	Assert(staging_notified(staging) == staging->numbered);
	if (staging->pending.first != 0)
		return false;

	/* pass over void places; the barrier is for head, as in look() */
	pg_read_barrier();
	while (pos < head && PLACE_AT(staging, pos) != place)
	{
		uint32		length = place_length(PLACE_AT(staging, pos));

		if (length == 0 ||
			pg_atomic_read_u32(&PLACE_AT(staging, pos)->status) != STAGED_VOID)
			return false;
		pos += length;
	}
	staging->looked = pos;

	/* since it was marked, the relay may have taken and freed the place */
	if (pos >= head || place_length(place) == 0 || place->pid != MyProcPid ||
		place->first != 0)
		return false;
	view_place(place, pos, view);
	return true;
}

/*
 * Take what staging_comes_next() has described, and number its events.  Before
 * the turn is given up, the caller moves both marks past it and frees it.
 */
void
staging_take_next(Staging *staging, StagedView *view)
{
	view->first = view->transaction->first = staging->numbered + 1;
	staging->numbered += view->nevents;
	staging->last_taken = view->pos;
}

/* The last number given to an event that was taken. */
uint64
staging_numbered(Staging *staging)
{
	return staging->numbered;
}

/* The number of the walk's next event; the walk is not at its end. */
uint64
staging_walk_number(const StagedWalk *walk)
{
	return walk->view.first + walk->done;
}

/*
 * The walk goes on to the next event that was taken.  Move its mark afterwards:
 * what it leaves may be freed then.
 */
void
staging_walk_advance(Staging *staging, StagedWalk *walk)
{
	uint64		next = walk->view.transaction->next;

	if (++walk->done < walk->view.nevents)
		walk->event = staged_event_next(walk->event);
	else if (next != 0)
	{
		view_place(PLACE_AT(staging, next), next, &walk->view);
		enter_transaction(walk, &walk->view);
	}
	else
		memset(walk, 0, sizeof(StagedWalk));
}

/* Up to which number events were notified, committed. */
uint64
staging_notified(Staging *staging)
{
	return pg_atomic_read_u64(&staging->notified);
}

/* Say up to which number they were; one write. */
void
staging_set_notified(Staging *staging, uint64 number)
{
	pg_atomic_write_u64(&staging->notified, number);
}

/* Up to which number events are in the ring. */
uint64
staging_appended(Staging *staging)
{
	return pg_atomic_read_u64(&staging->appended);
}

/* Say up to which number they are; one write. */
void
staging_set_appended(Staging *staging, uint64 number)
{
	pg_atomic_write_u64(&staging->appended, number);
}

/* Up to which number events of the log are noted, committed. */
uint64
staging_noted(Staging *staging)
{
	return pg_atomic_read_u64(&staging->noted);
}

/* Say up to which number they are; one write. */
void
staging_set_noted(Staging *staging, uint64 number)
{
	pg_atomic_write_u64(&staging->noted, number);
}

/*
 * Go through the places that are taken, committed or not, but not void: *pos is
 * 0 to begin with, and is moved on.  Returns false at the end, when *all is
 * true, or at a place that has no header yet.
 */
bool
staging_walk_places(Staging *staging, uint64 *pos, StagedView *view, bool *all)
{
	uint64		head = pg_atomic_read_u64(&staging->head);

	uint64		tail = pg_atomic_read_u64(&staging->tail);

	pg_read_barrier();
	*all = true;
	*pos = Max(*pos, tail);
	while (*pos < head)
	{
		StagedTransaction *place = PLACE_AT(staging, *pos);
		uint32		length = place_length(place);

		*all = length != 0;
		if (length == 0)
			return false;
		*pos += length;
		if (pg_atomic_read_u32(&place->status) == STAGED_VOID)
			continue;
		pg_read_barrier();
		view_place(place, *pos - length, view);
		return true;
	}
	return false;
}

/*
 * Free the places at the tail that are void, or whose events are all in the
 * ring and notified.
 *
 * The memory is zero before tail moves over it: a writer that sees the new tail
 * may take a place there and write its header.  Were our zeroes to arrive
 * after that, they would wipe it out, and all would wait for a header for ever.
 */
void
staging_free(Staging *staging)
{
	uint64		head = pg_atomic_read_u64(&staging->head);
	uint64		tail = pg_atomic_read_u64(&staging->tail);
	uint64		done = Min(staging_appended(staging), staging_notified(staging));
	uint64		pos = tail;

	pg_read_barrier();
	while (pos < head)
	{
		StagedTransaction *place = PLACE_AT(staging, pos);
		uint32		length = place_length(place);
		uint32		status = pg_atomic_read_u32(&place->status);

		if (length == 0 || status == STAGED_PENDING)
			break;
		if (status == STAGED_COMMITTED &&
			(place->first == 0 || place->first + place->nevents - 1 > done))
			break;

		/* what is in the log has its seq for good, and was sent */
		Assert(status != STAGED_COMMITTED ||
			   place->xid == (TransactionId) 0 ||
			   place->first + place->nevents - 1 <= staging_noted(staging));

		/* a void one may have been found pending; then it is the first there */
		if (pos == staging->pending.first)
			list_remove(staging, &staging->pending, 0);
		memset(place, 0, length);
		pos += length;
	}
	if (pos == tail)
		return;
	pg_memory_barrier();
	pg_atomic_write_u64(&staging->tail, pos);
	ConditionVariableBroadcast(&staging->moved);
}

/* Order of transactions that were taken: by number. */
static int
compare_views(const void *a, const void *b)
{
	uint64		left = ((const StagedView *) a)->first;
	uint64		right = ((const StagedView *) b)->first;

	return left < right ? -1 : left > right;
}

/*
 * The transactions that were taken and are not past both marks, in no order,
 * allocated in the current context.
 */
static StagedView *
list_taken(Staging *staging, size_t *count)
{
	uint64		head = pg_atomic_read_u64(&staging->head);
	uint64		done = Min(staging_appended(staging), staging_notified(staging));
	size_t		allocated = 64;
	StagedView *views = palloc(allocated * sizeof(StagedView));
	uint32		length;

	*count = 0;
	pg_read_barrier();
	for (uint64 pos = pg_atomic_read_u64(&staging->tail); pos < head; pos += length)
	{
		StagedTransaction *place = PLACE_AT(staging, pos);

		/* the last relay has not seen what is behind one without a header */
		length = place_length(place);
		if (length == 0)
			break;
		if (pg_atomic_read_u32(&place->status) != STAGED_COMMITTED ||
			place->first == 0 || place->first + place->nevents - 1 <= done)
			continue;
		if (*count == allocated)
		{
			allocated *= 2;
			views = repalloc_huge(views, allocated * sizeof(StagedView));
		}
		view_place(place, pos, &views[(*count)++]);
	}
	return views;
}

/* Have the walk go on behind the mark, from the first transaction. */
static void
resume_walk(Staging *staging, StagedWalk *walk, const StagedView *first,
			uint64 mark)
{
	memset(walk, 0, sizeof(StagedWalk));
	if (first != NULL)
		enter_transaction(walk, first);
	while (walk->view.transaction != NULL && staging_walk_number(walk) <= mark)
		staging_walk_advance(staging, walk);
}

/*
 * A new relay: number on where the last one stopped, and have both walks go
 * on behind their marks.  Raises 53200 for want of memory.
 */
void
staging_recover(Staging *staging, StagedWalk *append, StagedWalk *notify)
{
	size_t		count;
	StagedView *taken = list_taken(staging, &count);

	staging->numbered = Max(Max(staging_appended(staging),
								staging_notified(staging)),
							staging_noted(staging));
	staging->last_taken = 0;
	staging_forget_looks(staging);
	qsort(taken, count, sizeof(StagedView), compare_views);
	for (size_t i = 0; i < count; i++)
		taken[i].transaction->next = i + 1 < count ? taken[i + 1].pos : 0;
	if (count > 0)
	{
		const StagedView *last = &taken[count - 1];

		staging->last_taken = last->pos;
		staging->numbered = last->first + last->nevents - 1;
	}
	resume_walk(staging, append, count > 0 ? taken : NULL,
				staging_appended(staging));
	resume_walk(staging, notify, count > 0 ? taken : NULL,
				staging_notified(staging));
	pfree(taken);
}

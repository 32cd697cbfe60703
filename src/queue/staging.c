/*-------------------------------------------------------------------------
 *
 * staging.c
 *	  The async queue: committed events on their way to the relay.
 *
 * 1. The queue is a window [tail, head) on an endless array of bytes, like
 *	  the ring.  A transaction takes the next place before it commits: it
 *	  advances head by compare-and-swap, writes its header there, the length
 *	  last, and copies its events.  There is no lock: many writers commit at
 *	  once, and one that is not scheduled must not stop the others.
 *
 * 2. What is free is zero, so a place whose length is zero has been taken but
 *	  has no header yet.  Nobody looks behind it until it has one, which is
 *	  only a moment.
 *
 *	  The header's status is pending until the transaction's end sets it, with
 *	  one write that cannot fail, to committed or void.
 *
 * 3. The relay takes transactions in the order of their places.  It may pass
 *	  over a pending one only while that transaction is in progress: nobody
 *	  has seen its rows then.  One that is pending but no longer in progress is
 *	  about to set its status; the relay waits for it.  What a transaction is
 *	  passed over for must have been found committed before that check.  So a
 *	  transaction that has seen another's rows comes after it.
 *
 *	  One transaction may stay pending for very long, for want of a synchronous
 *	  standby, say, while others come and go behind it.  So the relay looks at
 *	  a place once on its way to head, and keeps two lists, both in the order
 *	  of places: those that it found pending, and those that it found committed
 *	  and has not taken yet.  One check of those pending clears many that are
 *	  committed.  What is cleared stays so: whoever was in progress after a
 *	  commit can never have been seen by it.
 *
 * 4. Events are numbered in the order in which they are taken.  Two marks on
 *	  that sequence make a restart of the relay exact: appended, up to which
 *	  they are in the ring, and notified, up to which they were sent by a
 *	  transaction that has committed.  Neither waits for the other.  Space is
 *	  freed behind both.
 *
 * 5. Each transaction that was taken leads to the one that was taken next.  The
 *	  relay walks along there twice: with one walk it appends events, with the
 *	  other it notifies them.  A place that a walk has not passed is not freed,
 *	  since the walk's mark has not passed it either.
 *
 *	  A transaction that is taken at its own commit is appended and notified at
 *	  once, and no walk comes to it: both are at their ends then.
 *
 * 6. A pass is one look of the relay at all places.  Whoever has to know that
 *	  all that was committed before is taken and notified waits for a pass to
 *	  end that began after.
 *
 * 7. Who finds no room may queue up for it, and is served in turn: then nobody
 *	  else takes a place, and of those in the queue only who leaves enough for
 *	  all before him.  So a large transaction is not starved by small ones.
 *	  The spinlock serializes those in the queue, and each leaves it in the
 *	  same moment in which he takes his place.  Who gives up, or ends in an
 *	  error, leaves it when his transaction ends, at the latest.
 *
 * Nothing here looks at a catalog or raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "queue/staging.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/spin.h"

typedef enum StagedStatus
{
	STAGED_VOID,				/* aborted, or only fills up the end */
	STAGED_PENDING,
	STAGED_COMMITTED
} StagedStatus;

struct StagedTransaction
{
	/* a filler has only these two */
	pg_atomic_uint32 length;	/* with header, events and alignment; written
								 * last, then constant */
	pg_atomic_uint32 status;	/* set by the transaction when it ends */

	/* constant */
	int			pid;
	int			procno;
	LocalTransactionId lxid;
	uint32		nevents;
	uint32		generation;		/* of the database slot */
	TimestampTz taken_at;

	/* who has the turn; see commit_append.c */
	uint64		first;			/* number of its first event, 0: not taken */
	uint64		next;			/* place in the same list, 0: the last; once
								 * it is taken, the place that was taken next */
};

/* Places in ascending order, each leading to the next; 0: none. */
typedef struct PlaceList
{
	uint64		first;
	uint64		last;
} PlaceList;

/* A process in the queue for room. */
typedef struct Waiter
{
	dlist_node	node;
	Size		length;			/* of the place that it wants */
} Waiter;

/* What different processes write is in different lines of the cache. */
struct Staging
{
	/* constant */
	Size		size;
	char	   *data;
	Waiter	   *waiters;		/* of each process, by its number */

	char		pad1[PG_CACHE_LINE_SIZE];

	/* any writer, by compare-and-swap */
	pg_atomic_uint64 head;

	/* changed under mutex; read by each writer */
	pg_atomic_uint32 num_queued;

	char		pad2[PG_CACHE_LINE_SIZE];

	/* written by who has the turn */
	pg_atomic_uint64 tail;
	pg_atomic_uint64 notified;
	pg_atomic_uint64 appended;
	pg_atomic_uint64 passes_begun;
	pg_atomic_uint64 passes_done;
	uint64		numbered;		/* the last number given */
	uint64		looked;			/* the first place not looked at yet */
	uint64		cleared;		/* what is committed before may be taken */
	PlaceList	pending;		/* found pending */
	PlaceList	committed;		/* found committed, to be taken */
	uint64		last_taken;		/* place; may have been freed */

	ConditionVariable moved;	/* tail or passes_done */

	/* mutex */
	slock_t		mutex;
	dlist_head	queue;			/* Waiter.node, the first comes first */
};

#define HEADER_SIZE MAXALIGN(sizeof(StagedTransaction))

/*
 * Of the places not looked at yet, so many that are committed are looked for
 * at a time.  A transaction that ends is behind no more than these.
 */
#define LOOK_AHEAD	64

/* The longest place, header and alignment included, in bytes. */
#define MAX_PLACE	((Size) 1024 * 1024 * 1024)

#define PLACE_AT(staging, pos) \
	((StagedTransaction *) ((staging)->data + (pos) % (staging)->size))

/*
 * Events
 */

/* Bytes that an event takes with strings of these lengths. */
Size
staged_event_length(Size channel_len, Size id_len, Size payload_len,
					Size native_len)
{
	return MAXALIGN(sizeof(StagedEvent) + channel_len + 1 + id_len + 1 +
					payload_len + 1 + (native_len > 0 ? native_len + 1 : 0));
}

/* Append a string with its end; returns what follows. */
static char *
put_string(char *p, const char *s, Size len)
{
	memcpy(p, s, len);
	p[len] = '\0';
	return p + len + 1;
}

/*
 * Write the event to where there are staged_event_length() bytes.  native is
 * NULL if there is no other payload for native listeners.
 */
void
staged_event_write(StagedEvent *event, const char *channel, const char *id,
				   const char *payload, Size payload_len, const char *native)
{
	char	   *p = (char *) (event + 1);

	event->channel_len = strlen(channel);
	event->id_len = strlen(id);
	event->payload_len = payload_len;
	event->native_len = native ? strlen(native) : 0;
	event->slot = -1;
	event->length = staged_event_length(event->channel_len, event->id_len,
										payload_len, event->native_len);
	p = put_string(p, channel, event->channel_len);
	p = put_string(p, id, event->id_len);
	p = put_string(p, payload, payload_len);
	if (native)
		(void) put_string(p, native, event->native_len);
}

const char *
staged_event_channel(const StagedEvent *event)
{
	return (const char *) (event + 1);
}

const char *
staged_event_id(const StagedEvent *event)
{
	return staged_event_channel(event) + event->channel_len + 1;
}

const char *
staged_event_payload(const StagedEvent *event)
{
	return staged_event_id(event) + event->id_len + 1;
}

/* What native listeners get instead of the payload, or NULL. */
const char *
staged_event_native(const StagedEvent *event)
{
	return event->native_len == 0 ? NULL :
		staged_event_payload(event) + event->payload_len + 1;
}

/* The event that follows in the same transaction, if there is one. */
StagedEvent *
staged_event_next(StagedEvent *event)
{
	return (StagedEvent *) ((char *) event + event->length);
}

/*
 * Any process
 */

/* Shared memory of what comes before the data, in bytes. */
static Size
control_size(void)
{
	return add_size(MAXALIGN(sizeof(Staging)),
					MAXALIGN(mul_size(MaxBackends, sizeof(Waiter))));
}

/* Shared memory of a queue of so many bytes, in bytes. */
Size
staging_shmem_size(Size bytes)
{
	return add_size(control_size(), TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes));
}

/* Begin anew to look at the places, from tail on. */
static void
forget_looks(Staging *staging)
{
	uint64		tail = pg_atomic_read_u64(&staging->tail);

	staging->looked = staging->cleared = tail;
	memset(&staging->pending, 0, sizeof(PlaceList));
	memset(&staging->committed, 0, sizeof(PlaceList));
}

/* Lay out an empty queue in space, which has staging_shmem_size() bytes. */
Staging *
staging_init(void *space, Size bytes)
{
	Staging    *staging = (Staging *) space;

	staging->size = TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes);
	staging->waiters = (Waiter *) ((char *) space + MAXALIGN(sizeof(Staging)));
	staging->data = (char *) space + control_size();
	memset(staging->data, 0, staging->size);
	pg_atomic_init_u64(&staging->head, staging->size);
	pg_atomic_init_u64(&staging->tail, staging->size);
	pg_atomic_init_u64(&staging->notified, 0);
	pg_atomic_init_u64(&staging->appended, 0);
	pg_atomic_init_u64(&staging->passes_begun, 0);
	pg_atomic_init_u64(&staging->passes_done, 0);
	staging->numbered = 0;
	staging->last_taken = 0;
	forget_looks(staging);
	ConditionVariableInit(&staging->moved);
	SpinLockInit(&staging->mutex);
	dlist_init(&staging->queue);
	pg_atomic_init_u32(&staging->num_queued, 0);
	return staging;
}

/* Bytes in all. */
Size
staging_size(Staging *staging)
{
	return staging->size;
}

/* The end of the places that are taken now. */
uint64
staging_head(Staging *staging)
{
	return pg_atomic_read_u64(&staging->head);
}

/* Bytes in use. */
Size
staging_used(Staging *staging)
{
	uint64		head;
	uint64		tail;

	/* while tail stands, head is not behind it, nor more than size ahead */
	do
	{
		tail = pg_atomic_read_u64(&staging->tail);
		pg_read_barrier();
		head = pg_atomic_read_u64(&staging->head);
		pg_read_barrier();
	} while (tail != pg_atomic_read_u64(&staging->tail));
	return head - tail;
}

/*
 * The most bytes of events that a transaction can stage: a place is not
 * divided, so half of the queue is what always comes free in one piece; and
 * its length has 32 bits.
 */
Size
staging_max_transaction(Staging *staging)
{
	return Min(staging->size / 2, MAX_PLACE) - HEADER_SIZE;
}

/* Broadcast when space has come free or a pass has ended. */
ConditionVariable *
staging_moved(Staging *staging)
{
	return &staging->moved;
}

/*
 * The place's bytes, 0 if it has no header yet.  What is read of the header
 * afterwards is there.
 */
static inline uint32
place_length(StagedTransaction *place)
{
	uint32		length = pg_atomic_read_u32(&place->length);

	pg_read_barrier();
	return length;
}

/*
 * Writers
 */

/* Fill in the header of the place that this transaction has taken. */
static void
write_header(StagedTransaction *place, Size length, uint32 nevents,
			 uint32 generation, TimestampTz now)
{
	pg_atomic_write_u32(&place->status, STAGED_PENDING);
	place->pid = MyProcPid;
	place->procno = PGPUBSUB_MY_PROCNO;
	place->lxid = PGPUBSUB_LXID(MyProc);
	place->nevents = nevents;
	place->generation = generation;
	place->taken_at = now;
	place->first = 0;
	pg_write_barrier();
	pg_atomic_write_u32(&place->length, length);
}

/* Bytes of the place for so many bytes of events. */
static inline Size
place_size(Size len)
{
	return HEADER_SIZE + MAXALIGN(len);
}

/*
 * What has to stay empty at the end of the memory before a place of so many
 * bytes at head, as a place does not wrap.
 */
static inline Size
filler_before(Staging *staging, uint64 head, Size length)
{
	Size		left = staging->size - head % staging->size;

	return left >= length ? 0 : left;
}

/* Take the next place, of so many bytes.  Returns NULL if there is no room. */
static StagedTransaction *
take_place(Staging *staging, Size length)
{
	uint64		tail = pg_atomic_read_u64(&staging->tail);
	uint64		head;
	Size		left;

	/* in this order, head is not behind tail */
	pg_read_barrier();
	head = pg_atomic_read_u64(&staging->head);
	do
	{
		left = filler_before(staging, head, length);
		if (head + left + length - tail > staging->size)
			return NULL;
	} while (!pg_atomic_compare_exchange_u64(&staging->head, &head,
											 head + left + length));

	if (left > 0)
		pg_atomic_write_u32(&PLACE_AT(staging, head)->length, left);
	return PLACE_AT(staging, head + left);
}

/*
 * Take the next place, for so many bytes of events.  Returns NULL if there
 * is no room now, or others queue for it.  The caller must mark it when its
 * transaction ends.
 */
StagedTransaction *
staging_reserve(Staging *staging, Size len, uint32 nevents, uint32 generation,
				TimestampTz now)
{
	StagedTransaction *place;

	Assert(len <= staging_max_transaction(staging));
	if (pg_atomic_read_u32(&staging->num_queued) != 0)
		return NULL;
	place = take_place(staging, place_size(len));
	if (place)
		write_header(place, place_size(len), nevents, generation, now);
	return place;
}

/* This process's entry in the queue for room. */
static Waiter *
my_waiter(Staging *staging)
{
	Assert(PGPUBSUB_MY_PROCNO >= 0 && PGPUBSUB_MY_PROCNO < MaxBackends);
	return &staging->waiters[PGPUBSUB_MY_PROCNO];
}

/*
 * Queue up for room for so many bytes of events; the caller must leave the
 * queue, or get its place, before its transaction has ended.
 */
void
staging_queue_up(Staging *staging, Size len)
{
	Waiter	   *waiter = my_waiter(staging);

	waiter->length = place_size(len);
	SpinLockAcquire(&staging->mutex);
	dlist_push_tail(&staging->queue, &waiter->node);
	pg_atomic_write_u32(&staging->num_queued,
						pg_atomic_read_u32(&staging->num_queued) + 1);
	SpinLockRelease(&staging->mutex);
}

/* Take the entry out of the queue.  The spinlock must be held. */
static void
remove_waiter(Staging *staging, Waiter *waiter)
{
	dlist_delete(&waiter->node);
	pg_atomic_write_u32(&staging->num_queued,
						pg_atomic_read_u32(&staging->num_queued) - 1);
}

/*
 * Is it the entry's turn: is it the first in the queue, or would there be
 * room for all before it, whatever stays empty at the end of the memory?
 * used: bytes that are in use.  The spinlock must be held.
 */
static bool
has_turn(Staging *staging, Waiter *waiter, Size used)
{
	Size		left = staging->size - used;
	Size		longest = waiter->length;
	Size		sum = waiter->length;
	dlist_iter	iter;

	if (dlist_head_node(&staging->queue) == &waiter->node)
		return true;
	dlist_foreach(iter, &staging->queue)
	{
		Waiter	   *other = dlist_container(Waiter, node, iter.cur);

		if (other == waiter)
			break;
		sum += other->length;
		longest = Max(longest, other->length);
		if (sum + longest > left)
			return false;
	}
	return true;
}

/* Is there room for the first in the queue?  The spinlock must be held. */
static bool
first_has_room(Staging *staging)
{
	uint64		head = pg_atomic_read_u64(&staging->head);
	Waiter	   *first;

	if (dlist_is_empty(&staging->queue))
		return false;
	first = dlist_container(Waiter, node, dlist_head_node(&staging->queue));
	return staging_used(staging) + first->length +
		filler_before(staging, head, first->length) <= staging->size;
}

/*
 * Take a place for what this process has queued up for, if it has its turn
 * and there is room; it has left the queue then.  Else returns NULL.  As for
 * staging_reserve() otherwise.
 */
StagedTransaction *
staging_reserve_queued(Staging *staging, uint32 nevents, uint32 generation,
					   TimestampTz now)
{
	Waiter	   *waiter = my_waiter(staging);
	StagedTransaction *place = NULL;
	bool		wake = false;

	SpinLockAcquire(&staging->mutex);
	if (has_turn(staging, waiter, staging_used(staging)))
		place = take_place(staging, waiter->length);
	if (place)
	{
		remove_waiter(staging, waiter);
		wake = first_has_room(staging);
	}
	SpinLockRelease(&staging->mutex);
	if (place)
		write_header(place, waiter->length, nevents, generation, now);

	/* what was not its turn before is now */
	if (wake)
		ConditionVariableBroadcast(&staging->moved);
	return place;
}

/*
 * Leave the queue without a place.  Cannot fail.
 */
void
staging_leave_queue(Staging *staging)
{
	SpinLockAcquire(&staging->mutex);
	remove_waiter(staging, my_waiter(staging));
	SpinLockRelease(&staging->mutex);

	/* there may be room for those behind */
	ConditionVariableBroadcast(&staging->moved);
}

/* Where the events go. */
char *
staging_data(StagedTransaction *transaction)
{
	return (char *) transaction + HEADER_SIZE;
}

/*
 * The transaction has ended.  One write; cannot fail.
 */
void
staging_mark(StagedTransaction *transaction, bool committed)
{
	pg_write_barrier();
	pg_atomic_write_u32(&transaction->status,
						committed ? STAGED_COMMITTED : STAGED_VOID);
}

/* The pass that begins next. */
uint64
staging_next_pass(Staging *staging)
{
	pg_memory_barrier();
	return pg_atomic_read_u64(&staging->passes_begun) + 1;
}

/* Is that pass over? */
bool
staging_pass_done(Staging *staging, uint64 pass)
{
	return pg_atomic_read_u64(&staging->passes_done) >= pass;
}

/*
 * If the oldest place belongs to a transaction that has not ended, nothing
 * comes free before it does: when it took the place.  Else 0.
 */
TimestampTz
staging_blocked_since(Staging *staging)
{
	uint64		tail;
	TimestampTz since;
	bool		blocked;

	/* look again if the place came free, and perhaps was reused, meanwhile */
	do
	{
		StagedTransaction *place;

		tail = pg_atomic_read_u64(&staging->tail);
		place = PLACE_AT(staging, tail);
		pg_read_barrier();

		/* without a length it is being taken, or freed, at this moment */
		blocked = pg_atomic_read_u64(&staging->head) != tail &&
			place_length(place) != 0 &&
			pg_atomic_read_u32(&place->status) == STAGED_PENDING;
		since = blocked ? place->taken_at : 0;
		pg_read_barrier();
	} while (tail != pg_atomic_read_u64(&staging->tail));
	return since;
}

/*
 * The relay, or whoever has the turn
 */

/* Is the place's transaction still in progress? */
static bool
in_progress(StagedTransaction *place)
{
	/* the end clears it before anybody can see the rows */
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
	view->nevents = place->nevents;
	view->events = (StagedEvent *) staging_data(place);
	view->first = place->first;
}

/* Nothing to do for a relay: no place is taken. */
bool
staging_idle(Staging *staging)
{
	return pg_atomic_read_u64(&staging->head) ==
		pg_atomic_read_u64(&staging->tail) &&
		pg_atomic_read_u64(&staging->passes_begun) ==
		pg_atomic_read_u64(&staging->passes_done);
}

/* Begin to look at all places; returns the end of those there are. */
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
 * Of the places that were found pending, those that are committed by now join
 * the others that are to be taken; void ones are done with.
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
		uint32		status;
		uint64		next;

		status = pg_atomic_read_u32(&PLACE_AT(staging, pos)->status);
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
 * Look at the places that follow, up to end, until there is something to
 * take.  Returns false if there is one without a header, behind which nobody
 * may look.
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
 * Find out which of those committed may be taken before those pending that
 * come before them.  Returns the first of these whose transaction is no longer
 * in progress, at which that ends; NULL if there is none.
 */
static StagedTransaction *
clear_committed(Staging *staging)
{
	/* the status of those committed was read before this */
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

	/* what lies behind tail is others' memory now */
	staging->looked = Max(staging->looked, tail);
	pg_read_barrier();
	do
	{
		look_at_pending(staging);
		if (staging->committed.first == 0)
			all = look_ahead(staging, end);
		ended = clear_committed(staging);

		/* it sets its status about now; if it just has, it may come first */
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
 * Take the next transaction, and number its events.  Both walks come to it;
 * they are the relay's, in its own memory.  end: what staging_head() has said,
 * no earlier than in the call before; no place from there on is taken.  What
 * this costs does not grow with what is behind a transaction that stays
 * pending.
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
 * to be taken?  *view describes it then.  All that was taken is appended and
 * notified.
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

	/* void places are nobody's */
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

	/* since it was marked it may have been taken, and be another's now */
	if (pos >= head || place_length(place) == 0 || place->pid != MyProcPid ||
		place->first != 0)
		return false;
	view_place(place, pos, view);
	return true;
}

/*
 * Take the transaction of which staging_comes_next() has said so, and number
 * its events.  No walk comes to it: before the turn is given up, the caller
 * moves both marks past it and frees it.
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
 * The walk goes on to the next event that was taken.  What it leaves may be
 * freed once the walk's mark is moved, so move that afterwards.
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

/* Move that mark; one write. */
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

/* Move that mark; one write. */
void
staging_set_appended(Staging *staging, uint64 number)
{
	pg_atomic_write_u64(&staging->appended, number);
}

/*
 * Free the places at the tail that are void, or whose events are all in the
 * ring and notified.
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
			(place->first == 0 ||
			 place->first + place->nevents - 1 > done))
			break;

		/* a void one may have been found pending, before all others then */
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

		length = place_length(place);

		/* the last relay has not seen what is behind it either */
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
	if (first == NULL)
		return;
	enter_transaction(walk, first);
	while (walk->view.transaction != NULL && staging_walk_number(walk) <= mark)
		staging_walk_advance(staging, walk);
}

/*
 * A new relay: number on where the last one stopped, and have both walks go
 * on behind their marks.
 */
void
staging_recover(Staging *staging, StagedWalk *append, StagedWalk *notify)
{
	size_t		count;
	StagedView *taken = list_taken(staging, &count);

	staging->numbered = Max(staging_appended(staging),
							staging_notified(staging));
	staging->last_taken = 0;
	forget_looks(staging);
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

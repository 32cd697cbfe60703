/*-------------------------------------------------------------------------
 *
 * staging.c
 *	  The async queue: how transactions put their events there.
 *
 * 1. The queue is a window [tail, head) on an endless array of bytes, like
 *	  the ring.  A transaction takes the next place before it commits: it
 *	  advances head by compare-and-swap, writes its header there, the length
 *	  last, and copies its events.  There is no lock: many writers commit at
 *	  once, and one that is not scheduled must not stop the others.
 *
 * 2. What is free is zero, so a place whose length is zero has been taken but
 *	  has no header yet.  Nobody looks behind it until it has one, which is
 *	  only a moment.  Places do not wrap: where one does not fit before the
 *	  end of the memory, a filler comes first, which has a length and is void.
 *
 * 3. The header's status is pending until the transaction's end sets it, with
 *	  one write that cannot fail, to committed or void.  From then on the place
 *	  belongs to whoever has the turn (see AppendTurn in registry.h), mostly
 *	  the relay: staging_take.c says how it goes on.
 *
 * 4. A writer that finds no room may queue up for it, and is served in turn.
 *	  As long as anybody queues, nobody else takes a place.  Of those in the
 *	  queue, the first may, and each that leaves enough room for all before it.
 *	  So a large transaction is not starved by small ones.  Each leaves the
 *	  queue, under the mutex, as it takes its place, or when its transaction
 *	  ends.
 *
 * Nothing here looks at a catalog or raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "queue/staging_internal.h"

#include "miscadmin.h"
#include "storage/proc.h"

/* The longest place, header and alignment included, in bytes. */
#define MAX_PLACE	((Size) 1024 * 1024 * 1024)

StaticAssertDecl(sizeof(StagedEvent) % MAXIMUM_ALIGNOF == 0,
				 "what follows the header of an event must be aligned");

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
 * what native listeners get instead of the payload, or NULL.
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
	event->reference = false;
	event->seq = 0;
	event->length = staged_event_length(event->channel_len, event->id_len,
										payload_len, event->native_len);
	p = put_string(p, channel, event->channel_len);
	p = put_string(p, id, event->id_len);
	p = put_string(p, payload, payload_len);
	if (native)
		(void) put_string(p, native, event->native_len);
}

/*
 * Write an event that stands for others, which are elsewhere, to where there are
 * staged_reference_length() bytes; returns where what it says of those goes.
 */
void *
staged_reference_write(StagedEvent *event, Size len)
{
	memset(event, 0, sizeof(StagedEvent));
	event->payload_len = len;
	event->slot = -1;
	event->reference = true;
	event->length = staged_reference_length(len);
	return staged_event_reference(event);
}

/* Bytes that such an event takes, with so many of its own. */
Size
staged_reference_length(Size len)
{
	return MAXALIGN(sizeof(StagedEvent) + len);
}

/* What such an event says of those that it stands for, MAXALIGNed. */
void *
staged_event_reference(StagedEvent *event)
{
	Assert(event->reference);
	return event + 1;
}

/* The name of its channel, terminated. */
const char *
staged_event_channel(const StagedEvent *event)
{
	return (const char *) (event + 1);
}

/* Its id, terminated. */
const char *
staged_event_id(const StagedEvent *event)
{
	return staged_event_channel(event) + event->channel_len + 1;
}

/* Its payload, terminated. */
const char *
staged_event_payload(const StagedEvent *event)
{
	return staged_event_id(event) + event->id_len + 1;
}

/* What native listeners get instead of the payload, terminated, or NULL. */
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
 * The queue as a whole, for any process
 */

/* Shared memory of what comes before the data, in bytes. */
static Size
control_size(void)
{
	return add_size(MAXALIGN(sizeof(Staging)),
					MAXALIGN(mul_size(MaxBackends, sizeof(RoomWaiter))));
}

/* Shared memory of a queue of so many bytes, in bytes. */
Size
staging_shmem_size(Size bytes)
{
	return add_size(control_size(), TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes));
}

/* Lay out an empty queue in space, which has staging_shmem_size() bytes. */
Staging *
staging_init(void *space, Size bytes)
{
	Staging    *staging = (Staging *) space;

	staging->size = TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes);
	staging->waiters = (RoomWaiter *) ((char *) space + MAXALIGN(sizeof(Staging)));
	staging->data = (char *) space + control_size();
	memset(staging->data, 0, staging->size);
	pg_atomic_init_u64(&staging->head, staging->size);
	pg_atomic_init_u64(&staging->tail, staging->size);
	pg_atomic_init_u64(&staging->notified, 0);
	pg_atomic_init_u64(&staging->appended, 0);
	pg_atomic_init_u64(&staging->noted, 0);
	pg_atomic_init_u64(&staging->passes_begun, 0);
	pg_atomic_init_u64(&staging->passes_done, 0);
	staging->numbered = 0;
	staging->last_taken = 0;
	staging_forget_looks(staging);
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

/*
 * Bytes in use.  Tail is read first, since head only grows: the other way
 * round, the relay could free what was taken since, and tail be beyond our
 * head.  And it is read again last: if it has moved, writers may have gone on
 * into what came free, and our head be more than the whole queue beyond our
 * tail.
 */
Size
staging_used(Staging *staging)
{
	uint64		head;
	uint64		tail;

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

/* Broadcast when space has come free, or a pass or somebody's turn ended. */
ConditionVariable *
staging_moved(Staging *staging)
{
	return &staging->moved;
}

/*
 * Writers
 */

/*
 * Fill in the header of the place that this transaction has taken.  The length
 * comes last, behind a barrier: see place_length().
 */
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
	place->xid = InvalidTransactionId;
	place->taken_at = place->ended_at = now;
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

/*
 * Take the next place, of so many bytes.  Returns NULL if there is no room.
 *
 * Tail is read before head, so that it is not ahead of it: else, if others took
 * places and the relay freed them between our two reads, the difference would
 * wrap around and look like a full queue.  A tail that is too old only means
 * less room.  What is freed was made zero before tail moved over it, so nobody
 * writes there any more; see staging_free().
 */
static StagedTransaction *
take_place(Staging *staging, Size length)
{
	uint64		tail = pg_atomic_read_u64(&staging->tail);
	uint64		head;
	Size		left;

	pg_read_barrier();
	head = pg_atomic_read_u64(&staging->head);
	do
	{
		left = filler_before(staging, head, length);
		if (head + left + length - tail > staging->size)
			return NULL;
	} while (!pg_atomic_compare_exchange_u64(&staging->head, &head,
											 head + left + length));

	/*
	 * Where many sessions publish, each comes to nearly every page of the
	 * memory for the first time.  If it reads there first, Linux maps the
	 * pages around along with that one, which it does not for a write.
	 */
	(void) pg_atomic_read_u32(&PLACE_AT(staging, head + left)->length);

	/* its status is void, since free memory is zero */
	if (left > 0)
		pg_atomic_write_u32(&PLACE_AT(staging, head)->length, left);
	return PLACE_AT(staging, head + left);
}

/*
 * Take the next place, for so many bytes of events.  generation is that of the
 * database's slot.  Returns NULL if there is no room, or others queue for it.
 * The caller must mark the place when its transaction ends.
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
static RoomWaiter *
my_waiter(Staging *staging)
{
	Assert(PGPUBSUB_MY_PROCNO >= 0 && PGPUBSUB_MY_PROCNO < MaxBackends);
	return &staging->waiters[PGPUBSUB_MY_PROCNO];
}

/*
 * Queue up for room for so many bytes of events; the caller must have left the
 * queue, or got its place, when its transaction ends.
 */
void
staging_queue_up(Staging *staging, Size len)
{
	RoomWaiter *waiter = my_waiter(staging);

	waiter->length = place_size(len);
	SpinLockAcquire(&staging->mutex);
	dlist_push_tail(&staging->queue, &waiter->node);
	pg_atomic_write_u32(&staging->num_queued,
						pg_atomic_read_u32(&staging->num_queued) + 1);
	SpinLockRelease(&staging->mutex);
}

/* Take the entry out of the queue.  The mutex must be held. */
static void
remove_waiter(Staging *staging, RoomWaiter *waiter)
{
	dlist_delete(&waiter->node);
	pg_atomic_write_u32(&staging->num_queued,
						pg_atomic_read_u32(&staging->num_queued) - 1);
}

/*
 * Is it the entry's turn: is it the first in the queue, or would there be
 * room for all before it, whatever stays empty at the end of the memory?
 * used: bytes that are in use.  The mutex must be held.
 */
static bool
has_turn(Staging *staging, RoomWaiter *waiter, Size used)
{
	Size		left = staging->size - used;
	Size		longest = waiter->length;
	Size		sum = waiter->length;
	dlist_iter	iter;

	if (dlist_head_node(&staging->queue) == &waiter->node)
		return true;
	dlist_foreach(iter, &staging->queue)
	{
		RoomWaiter *other = dlist_container(RoomWaiter, node, iter.cur);

		if (other == waiter)
			break;
		sum += other->length;
		longest = Max(longest, other->length);
		if (sum + longest > left)
			return false;
	}
	return true;
}

/* Is there room for the first in the queue?  The mutex must be held. */
static bool
first_has_room(Staging *staging)
{
	uint64		head = pg_atomic_read_u64(&staging->head);
	RoomWaiter *first;

	if (dlist_is_empty(&staging->queue))
		return false;
	first = dlist_container(RoomWaiter, node, dlist_head_node(&staging->queue));
	return staging_used(staging) + first->length +
		filler_before(staging, head, first->length) <= staging->size;
}

/*
 * Take the place that this process has queued up for, if it has its turn and
 * there is room; it has left the queue then.  Else return NULL.  Otherwise like
 * staging_reserve().
 */
StagedTransaction *
staging_reserve_queued(Staging *staging, uint32 nevents, uint32 generation,
					   TimestampTz now)
{
	RoomWaiter *waiter = my_waiter(staging);
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

	/* the next in the queue sleeps since it was not its turn */
	if (wake)
		ConditionVariableBroadcast(&staging->moved);
	return place;
}

/* Leave the queue without a place.  Cannot fail. */
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
 * The transaction that has the place, and has not marked it yet, says which it
 * is: its events are in the log, as rows of this transaction.
 */
void
staging_set_xid(StagedTransaction *transaction, TransactionId xid)
{
	transaction->xid = xid;
}

/*
 * The transaction has ended.  Cannot fail.
 *
 * The barrier pairs with the one in clear_committed(), which comes between
 * seeing the status and reading the events.  Without the two, the relay could
 * see the status before the events are there, and append rubbish.
 */
void
staging_mark(StagedTransaction *transaction, bool committed)
{
	transaction->ended_at = GetCurrentTimestamp();
	pg_write_barrier();
	pg_atomic_write_u32(&transaction->status,
						committed ? STAGED_COMMITTED : STAGED_VOID);
}

/*
 * The pass that begins next: when it is over, all that was committed before
 * this call is notified.
 *
 * The barrier pairs with the one in staging_begin_pass().  A writer marks its
 * place, or a session sees its commit, and then reads passes_begun here; the
 * relay writes passes_begun, and then looks at the places.  So the relay sees
 * the mark, or we see that its pass has begun, and wait for the one after.
 * Without the two barriers both could miss the other's write, and we wait for a
 * pass that has left the events out.
 */
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
 *
 * If the relay frees the place meanwhile, another transaction may reuse it, so
 * that what we read is of no one transaction.  But tail moves before that, and
 * we look again.  The barriers keep all other reads between the two of tail.
 */
TimestampTz
staging_blocked_since(Staging *staging)
{
	uint64		tail;
	TimestampTz since;
	bool		blocked;

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

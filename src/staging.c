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
 * 4. Events are numbered in the order in which they are taken.  Two marks on
 *	  that sequence make a restart of the relay exact: appended, up to which
 *	  they are in the ring, and notified, up to which they were sent by a
 *	  transaction that has committed.  Neither waits for the other.  Space is
 *	  freed behind both.
 *
 * 5. Each transaction that was taken leads to the next one, by a pointer in its
 *	  place.  The relay follows these pointers twice: with one walk it appends
 *	  events, with the other it notifies them.  A place that a walk has not
 *	  passed is not freed, since the walk's mark has not passed it either.
 *
 * 6. A pass is one look of the relay at all places.  Whoever has to know that
 *	  all that was committed before is taken and notified waits for a pass to
 *	  end that began after.
 *
 * Nothing here looks at a catalog or raises an error.
 *
 *-------------------------------------------------------------------------
 */
#include "staging.h"

#include "miscadmin.h"
#include "storage/proc.h"

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

	/* the relay alone */
	uint64		first;			/* number of its first event, 0: not taken */
	StagedTransaction *next;	/* the one taken after it; NULL: none yet */
};

struct Staging
{
	/* constant */
	Size		size;
	char	   *data;

	/* any writer, by compare-and-swap */
	pg_atomic_uint64 head;

	/* written by the relay alone */
	pg_atomic_uint64 tail;
	pg_atomic_uint64 notified;
	pg_atomic_uint64 appended;
	pg_atomic_uint64 passes_begun;
	pg_atomic_uint64 passes_done;
	uint64		numbered;		/* the last number given */
	uint64		scan;			/* nothing to take before it */
	StagedTransaction *last;	/* the one taken last; may have been freed */

	ConditionVariable moved;	/* tail or passes_done */
};

#define HEADER_SIZE MAXALIGN(sizeof(StagedTransaction))

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

/* Shared memory of a queue of so many bytes, in bytes. */
Size
staging_shmem_size(Size bytes)
{
	return add_size(MAXALIGN(sizeof(Staging)),
					TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes));
}

/* Lay out an empty queue in space, which has staging_shmem_size() bytes. */
Staging *
staging_init(void *space, Size bytes)
{
	Staging    *staging = (Staging *) space;

	staging->size = TYPEALIGN_DOWN(MAXIMUM_ALIGNOF, bytes);
	staging->data = (char *) space + MAXALIGN(sizeof(Staging));
	memset(staging->data, 0, staging->size);
	pg_atomic_init_u64(&staging->head, staging->size);
	pg_atomic_init_u64(&staging->tail, staging->size);
	pg_atomic_init_u64(&staging->notified, 0);
	pg_atomic_init_u64(&staging->appended, 0);
	pg_atomic_init_u64(&staging->passes_begun, 0);
	pg_atomic_init_u64(&staging->passes_done, 0);
	staging->numbered = 0;
	staging->scan = staging->size;
	staging->last = NULL;
	ConditionVariableInit(&staging->moved);
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
	place->next = NULL;
	pg_write_barrier();
	pg_atomic_write_u32(&place->length, length);
}

/*
 * Take the next place, for so many bytes of events.  Returns NULL if there
 * is no room now.  The caller must mark it when its transaction ends.
 */
StagedTransaction *
staging_reserve(Staging *staging, Size len, uint32 nevents, uint32 generation,
				TimestampTz now)
{
	Size		length = HEADER_SIZE + MAXALIGN(len);
	uint64		tail = pg_atomic_read_u64(&staging->tail);
	StagedTransaction *place;
	uint64		head;
	Size		left;

	Assert(len <= staging_max_transaction(staging));

	/* in this order, head is not behind tail */
	pg_read_barrier();
	head = pg_atomic_read_u64(&staging->head);
	do
	{
		/* a place does not wrap: what is too short at the end stays empty */
		left = staging->size - head % staging->size;
		if (left >= length)
			left = 0;
		if (head + left + length - tail > staging->size)
			return NULL;
	} while (!pg_atomic_compare_exchange_u64(&staging->head, &head,
											 head + left + length));

	if (left > 0)
		pg_atomic_write_u32(&PLACE_AT(staging, head)->length, left);
	place = PLACE_AT(staging, head + left);
	write_header(place, length, nevents, generation, now);
	return place;
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
 * The relay
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

/*
 * May the committed place at pos be taken before those pending ones that come
 * before it?  Sets *again if one of them was committed meanwhile, so that it
 * comes first.
 */
static bool
may_overtake(Staging *staging, uint64 pos, bool *again)
{
	uint64		before = staging->scan;

	while (before < pos)
	{
		StagedTransaction *place = PLACE_AT(staging, before);

		if (pg_atomic_read_u32(&place->status) == STAGED_PENDING &&
			!in_progress(place))
		{
			/* it has ended, and sets its status about now */
			pg_memory_barrier();
			if (pg_atomic_read_u32(&place->status) == STAGED_PENDING)
				return false;
		}
		if (pg_atomic_read_u32(&place->status) == STAGED_COMMITTED &&
			place->first == 0)
		{
			*again = true;
			return false;
		}
		before += place_length(place);
	}
	return true;
}

/*
 * Let the walk begin with the transaction.
 */
static void
enter_transaction(StagedWalk *walk, const StagedView *view)
{
	walk->view = *view;
	walk->event = view->events;
	walk->done = 0;
}

/*
 * The transaction is taken: number its events, and lead both walks to it.
 */
static void
take_place(Staging *staging, StagedView *view, StagedWalk *append,
		   StagedWalk *notify)
{
	view->first = staging->numbered + 1;
	view->transaction->first = view->first;
	staging->numbered += view->nevents;

	/* a walk that is not at its end has not passed the last one: it stands */
	if (append->view.transaction != NULL || notify->view.transaction != NULL)
		staging->last->next = view->transaction;
	staging->last = view->transaction;
	if (append->view.transaction == NULL)
		enter_transaction(append, view);
	if (notify->view.transaction == NULL)
		enter_transaction(notify, view);
}

/*
 * Take the next transaction, and number its events.  Both walks come to it;
 * they are the relay's, in its own memory.
 */
StagedTake
staging_take(Staging *staging, StagedWalk *append, StagedWalk *notify,
			 StagedView *view)
{
	uint64		head = pg_atomic_read_u64(&staging->head);
	uint64		tail = pg_atomic_read_u64(&staging->tail);
	uint64		pos;
	bool		passed = false;
	bool		soon = false;

	/* what lies behind tail is others' memory now */
	staging->scan = Max(staging->scan, tail);
	pos = staging->scan;
	pg_read_barrier();
	while (pos < head)
	{
		StagedTransaction *place = PLACE_AT(staging, pos);
		uint32		length = place_length(place);
		uint32		status;
		bool		again = false;

		if (length == 0)
			return TAKE_SOON;
		status = pg_atomic_read_u32(&place->status);
		if (status == STAGED_PENDING)
		{
			passed = true;
			/* one that has ended may have been seen: a pass must not miss it */
			soon |= !in_progress(place);
		}
		if (status != STAGED_COMMITTED || place->first != 0)
		{
			pos += length;
			if (!passed)
				staging->scan = pos;
			continue;
		}

		/* the status was read before we look at those passed over */
		pg_memory_barrier();
		if (!passed || may_overtake(staging, pos, &again))
		{
			view_place(place, pos, view);
			take_place(staging, view, append, notify);
			return TAKE_FOUND;
		}
		if (!again)
			return TAKE_SOON;
		pos = staging->scan;
		passed = soon = false;
	}
	return soon ? TAKE_SOON : TAKE_NOTHING;
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
staging_walk_advance(StagedWalk *walk)
{
	StagedTransaction *next = walk->view.transaction->next;

	if (++walk->done < walk->view.nevents)
		walk->event = staged_event_next(walk->event);
	else if (next != NULL)
	{
		view_place(next, 0, &walk->view);
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
compare_taken(const void *a, const void *b)
{
	uint64		left = (*(StagedTransaction *const *) a)->first;
	uint64		right = (*(StagedTransaction *const *) b)->first;

	return left < right ? -1 : left > right;
}

/*
 * The transactions that were taken and are not past both marks, in no order,
 * allocated in the current context.
 */
static StagedTransaction **
list_taken(Staging *staging, size_t *count)
{
	uint64		head = pg_atomic_read_u64(&staging->head);
	uint64		done = Min(staging_appended(staging), staging_notified(staging));
	size_t		allocated = 64;
	StagedTransaction **list = palloc(allocated * sizeof(*list));
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
			list = repalloc_huge(list, allocated * sizeof(*list));
		}
		list[(*count)++] = place;
	}
	return list;
}

/* Have the walk go on behind the mark, from the first transaction. */
static void
resume_walk(StagedWalk *walk, StagedTransaction *first, uint64 mark)
{
	memset(walk, 0, sizeof(StagedWalk));
	if (first == NULL)
		return;
	view_place(first, 0, &walk->view);
	enter_transaction(walk, &walk->view);
	while (walk->view.transaction != NULL && staging_walk_number(walk) <= mark)
		staging_walk_advance(walk);
}

/*
 * A new relay: number on where the last one stopped, and have both walks go
 * on behind their marks.
 */
void
staging_recover(Staging *staging, StagedWalk *append, StagedWalk *notify)
{
	size_t		count;
	StagedTransaction **taken = list_taken(staging, &count);
	StagedTransaction *first = NULL;

	staging->numbered = Max(staging_appended(staging),
							staging_notified(staging));
	staging->scan = pg_atomic_read_u64(&staging->tail);
	staging->last = NULL;
	qsort(taken, count, sizeof(*taken), compare_taken);
	if (count > 0)
	{
		first = taken[0];
		for (size_t i = 0; i < count; i++)
			taken[i]->next = i + 1 < count ? taken[i + 1] : NULL;
		staging->last = taken[count - 1];
		staging->numbered = staging->last->first + staging->last->nevents - 1;
	}
	pfree(taken);
	resume_walk(append, first, staging_appended(staging));
	resume_walk(notify, first, staging_notified(staging));
}

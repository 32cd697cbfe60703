/*-------------------------------------------------------------------------
 *
 * pending_events.c
 *	  Events that wait in memory for their transaction's commit.
 *
 * They are in chunks, in the form that they will have in the staging queue.  A
 * rollback to a savepoint cuts off what came after it.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "access/xact.h"
#include "base/nesting.h"
#include "utils/memutils.h"

/*
 * Bytes of chunks.  The first should fit into what a small transaction's memory
 * context has anyway.  Each of the next is twice as large as the one before it.
 */
#define FIRST_CHUNK_SIZE	1024
#define LAST_CHUNK_SIZE		(512 * 1024)

/*
 * Bytes of each chunk after these.  What the C library got from the system in
 * small pieces it often cannot give back: the session would keep the memory of
 * its largest transaction.  So large a chunk is always a mapping of its own,
 * since glibc's malloc() raises the size from which it makes mappings to 32 MB
 * at most.  Pages of a mapping that are not used cost nothing.
 */
#define MAPPED_CHUNK_SIZE	(33 * 1024 * 1024)

/* How far they went when a subtransaction added its first event. */
struct SavedEnd
{
	int			level;
	EventsEnd	end;
	struct SavedEnd *upper;
};

/* Remember where the events end, before a subtransaction adds its first. */
static void
save_end(PendingEvents *events)
{
	SavedEnd   *saved;

	if (!nesting_needs_copy(1, events->saved_ends ? events->saved_ends->level : 0))
		return;
	saved = MemoryContextAlloc(TopTransactionContext, sizeof(SavedEnd));
	saved->level = GetCurrentTransactionNestLevel();
	saved->end = events->end;
	saved->upper = events->saved_ends;
	events->saved_ends = saved;
}

/* Forget the innermost saved end. */
static void
drop_saved_end(PendingEvents *events)
{
	SavedEnd   *saved = events->saved_ends;

	events->saved_ends = saved->upper;
	pfree(saved);
}

/* Bytes of the next chunk, which an event of length bytes must fit into. */
static Size
next_chunk_size(PendingEvents *events, Size length)
{
	Size		size = events->end.chunk == NULL ? FIRST_CHUNK_SIZE :
		events->end.chunk->size < LAST_CHUNK_SIZE ? 2 * events->end.chunk->size :
		MAPPED_CHUNK_SIZE;

	return Max(size, length);
}

/* Room for an event of length bytes; raises out of memory. */
static StagedEvent *
make_room(PendingEvents *events, Size length)
{
	Chunk	   *chunk = events->end.chunk;

	if (chunk == NULL || chunk->size - chunk->used < length)
	{
		Size		size = next_chunk_size(events, length);

		chunk = MemoryContextAllocHuge(TopTransactionContext,
									   offsetof(Chunk, data) + size);
		chunk->size = size;
		chunk->used = 0;
		chunk->prev = events->end.chunk;
		chunk->next = NULL;
		if (events->end.chunk)
			events->end.chunk->next = chunk;
		else
			events->first_chunk = chunk;
		events->end.chunk = chunk;
	}
	return (StagedEvent *) (chunk->data + chunk->used);
}

/* Add an event; the arguments are those of publish_event().  Raises 53200. */
void
pending_add(PendingEvents *events, const char *channel, const char *id,
			const char *payload, Size len, const char *native)
{
	Size		length = staged_event_length(strlen(channel), strlen(id), len,
											 native ? strlen(native) : 0);

	save_end(events);
	staged_event_write(make_room(events, length), channel, id, payload, len,
					   native);
	events->end.chunk->used += length;
	events->end.used = events->end.chunk->used;
	events->end.bytes += length;
	events->end.nevents++;
}

/* Copy the events to where there are events->end.bytes. */
void
pending_copy(const PendingEvents *events, char *p)
{
	for (Chunk *chunk = events->first_chunk; chunk; chunk = chunk->next)
	{
		memcpy(p, chunk->data, chunk->used);
		p += chunk->used;
	}
}

/*
 * The next event, from the first to the last; NULL if there are no more.
 * *chunk is NULL and *pos 0 to begin with.
 */
StagedEvent *
pending_next(const PendingEvents *events, Chunk **chunk, Size *pos)
{
	StagedEvent *event;

	if (*chunk == NULL)
		*chunk = events->first_chunk;
	else if (*pos == (*chunk)->used && (*chunk)->next != NULL)
	{
		*chunk = (*chunk)->next;
		*pos = 0;
	}
	if (*chunk == NULL || *pos == (*chunk)->used)
		return NULL;
	event = (StagedEvent *) ((*chunk)->data + *pos);
	*pos += event->length;
	return event;
}

/*
 * Take the first event away: it is valid until the next call.  NULL if there
 * are no more.
 */
StagedEvent *
pending_shift(PendingEvents *events)
{
	Chunk	   *chunk;
	StagedEvent *event;

	while ((chunk = events->first_chunk) && events->shifted == chunk->used)
	{
		events->first_chunk = chunk->next;
		events->shifted = 0;
		pfree(chunk);
	}
	if (chunk == NULL)
	{
		events->end.chunk = NULL;
		return NULL;
	}
	event = (StagedEvent *) (chunk->data + events->shifted);
	events->shifted += event->length;
	return event;
}

/*
 * The subtransaction of that level has committed: its events are its parent's.
 * Cannot fail.
 */
void
pending_at_subcommit(PendingEvents *events, int level)
{
	if (events->saved_ends == NULL || events->saved_ends->level < level)
		return;
	if (nesting_parent_needs_copy(1, events->saved_ends->upper ?
								  events->saved_ends->upper->level : 0, level))
		events->saved_ends->level = level - 1;
	else
		drop_saved_end(events);
}

/*
 * The subtransaction of that level was rolled back: cut off its events.  Cannot
 * fail.
 */
void
pending_at_subabort(PendingEvents *events, int level)
{
	while (events->saved_ends && events->saved_ends->level >= level)
	{
		Chunk	   *chunk = events->end.chunk;

		events->end = events->saved_ends->end;
		drop_saved_end(events);
		while (chunk != events->end.chunk)
		{
			Chunk	   *prev = chunk->prev;

			pfree(chunk);
			chunk = prev;
		}
		if (events->end.chunk == NULL)
			events->first_chunk = NULL;
		else
		{
			events->end.chunk->used = events->end.used;
			events->end.chunk->next = NULL;
		}
	}
}

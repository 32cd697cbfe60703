/*-------------------------------------------------------------------------
 *
 * inbox.c
 *	  What the relay has received and not yet queued: a FIFO in private
 *	  memory, then in temporary files.
 *
 * 1. Core hands notifications over inside a transaction, while errors are
 *	  fatal; so putting one in never raises an error, and never waits.
 *
 * 2. Messages lie in chunks.  They are put at the end of the last chunk and
 *	  taken from the first.  A chunk that was emptied is kept for the next, so
 *	  that the usual load allocates nothing.
 *
 * 3. When the chunks have reached MEMORY_LIMIT, the inbox spills: new
 *	  messages go into one more chunk, the spill chunk, which is written to
 *	  a file whenever it is full.  The order is: chunks, files, spill chunk.
 *	  When the chunks are used up, the files are read back, a chunk at a time;
 *	  when those are used up too, the spill chunk becomes an ordinary one, and
 *	  the inbox spills no more.
 *
 * 4. A file holds chunks as they lay in memory, each after its length.  There
 *	  are several, the segments: the last is written, the first is read, and
 *	  removed when that was read whole; so a backlog that stands while the relay
 *	  keeps pace takes no more and more space.
 *
 * 5. Opening a file may raise an error.  So the first is opened when the inbox
 *	  is created, and the next by inbox_reserve(), which is called before core's
 *	  queue is read; what one such read brings goes into one segment, however
 *	  long that gets.  If no file can be opened, the last goes on too.
 *
 * 6. The inbox overflows when its files take more than FILE_LIMIT, what was
 *	  read and is not given back yet included.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "base/debug.h"
#include "storage/fd.h"
#include "utils/memutils.h"

/* Bytes of a chunk that holds no larger message. */
#define CHUNK_SIZE		(256 * 1024)

/* Bytes of chunks from which on messages go to a file. */
#define MEMORY_LIMIT	((Size) 64 * 1024 * 1024 / DEBUG_INBOX_DIVISOR)

/* Bytes of a segment after which another is begun. */
#define SEGMENT_SIZE	((off_t) 16 * 1024 * 1024 / DEBUG_INBOX_DIVISOR)

/* Bytes of files from which on the inbox overflows. */
#define FILE_LIMIT		((off_t) 1024 * 1024 * 1024 / DEBUG_INBOX_DIVISOR)

typedef struct Chunk
{
	dlist_node	node;
	Size		size;			/* bytes of data[] */
	Size		start;			/* first byte not taken */
	Size		end;			/* first byte not used */
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Chunk;

/* A message in a chunk; the payload follows.  MAXALIGNed. */
typedef struct Entry
{
	int32		channel;
	int32		pid;
	uint64		after;
	Size		len;
} Entry;

/* A temporary file. */
typedef struct Segment
{
	dlist_node	node;
	File		file;
	off_t		end;			/* bytes written */
} Segment;

struct Inbox
{
	MemoryContext context;
	dlist_head	chunks;
	Size		memory;			/* bytes of those chunks */
	Chunk	   *spare;

	/* while it spills */
	Chunk	   *spill;
	dlist_head	segments;		/* never empty */
	off_t		read_pos;		/* in the first segment */
	off_t		on_disk;		/* bytes of all segments */
	off_t		reserve_at;		/* of the last one: then begin another */
};

/* The segment that is read, and the one that is written. */
#define FIRST_SEGMENT(inbox) \
	dlist_head_element(Segment, node, &(inbox)->segments)
#define LAST_SEGMENT(inbox) \
	dlist_tail_element(Segment, node, &(inbox)->segments)

/*
 * Begin another segment.  May raise an error, as OpenTemporaryFile() does, and
 * leaves the inbox unchanged then.
 */
static void
add_segment(Inbox *inbox)
{
	Segment    *segment = MemoryContextAlloc(inbox->context, sizeof(Segment));

	PG_TRY();
	{
		segment->file = OpenTemporaryFile(true);
	}
	PG_CATCH();
	{
		pfree(segment);
		PG_RE_THROW();
	}
	PG_END_TRY();
	segment->end = 0;
	dlist_push_tail(&inbox->segments, &segment->node);
	inbox->reserve_at = SEGMENT_SIZE;
}

/*
 * An empty inbox, in the context.  May raise an error, as add_segment() does.
 */
Inbox *
inbox_create(MemoryContext context)
{
	Inbox	   *inbox = MemoryContextAllocZero(context, sizeof(Inbox));

	inbox->context = context;
	dlist_init(&inbox->chunks);
	dlist_init(&inbox->segments);
	add_segment(inbox);
	return inbox;
}

/*
 * Begin another segment, if the last one is long enough.  Must not be in core's
 * transaction.  Raises nothing: if it fails, the last segment grows by
 * SEGMENT_SIZE before the next try.
 */
void
inbox_reserve(Inbox *inbox)
{
	MemoryContext old = CurrentMemoryContext;

	if (LAST_SEGMENT(inbox)->end < inbox->reserve_at)
		return;
	PG_TRY();
	{
		add_segment(inbox);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		inbox->reserve_at = LAST_SEGMENT(inbox)->end + SEGMENT_SIZE;
		ereport(LOG,
				(errmsg("pgpubsub relay could not begin another temporary file: %s",
						error->message)));
		FreeErrorData(error);
	}
	PG_END_TRY();
}

/* An empty chunk with room for so many bytes, or NULL. */
static Chunk *
make_chunk(Inbox *inbox, Size needed)
{
	Chunk	   *chunk = inbox->spare;
	Size		size = Max(needed, CHUNK_SIZE);

	if (chunk && chunk->size >= needed)
		inbox->spare = NULL;
	else
	{
		chunk = MemoryContextAllocExtended(inbox->context,
										   offsetof(Chunk, data) + size,
										   MCXT_ALLOC_HUGE |
										   MCXT_ALLOC_NO_OOM);
		if (chunk == NULL)
			return NULL;
		chunk->size = size;
	}
	chunk->start = chunk->end = 0;
	return chunk;
}

/* Keep the chunk for later, or free it. */
static void
recycle_chunk(Inbox *inbox, Chunk *chunk)
{
	if (inbox->spare == NULL && chunk->size == CHUNK_SIZE)
		inbox->spare = chunk;
	else
		pfree(chunk);
}

/* Put the chunk at the end of the list. */
static void
link_chunk(Inbox *inbox, Chunk *chunk)
{
	dlist_push_tail(&inbox->chunks, &chunk->node);
	inbox->memory += chunk->size;
}

/* Take the chunk out of the list. */
static void
unlink_chunk(Inbox *inbox, Chunk *chunk)
{
	dlist_delete(&chunk->node);
	inbox->memory -= chunk->size;
	recycle_chunk(inbox, chunk);
}

/*
 * Write so many bytes at that place in the last segment; false if that fails.
 */
static bool
write_file(Inbox *inbox, void *data, Size len, off_t pos)
{
	return FileWrite(LAST_SEGMENT(inbox)->file, data, len, pos,
					 WAIT_EVENT_BUFFILE_WRITE) == (int) len;
}

/* Read so many bytes from where the files were read; false if that fails. */
static bool
read_file(Inbox *inbox, void *data, Size len)
{
	if (FileRead(FIRST_SEGMENT(inbox)->file, data, len, inbox->read_pos,
				 WAIT_EVENT_BUFFILE_READ) != (int) len)
		return false;
	inbox->read_pos += len;
	return true;
}

/* Is there anything in the files that was not read? */
static bool
file_unread(Inbox *inbox)
{
	return inbox->read_pos < FIRST_SEGMENT(inbox)->end;
}

/* If the first segment was read whole, give its space back. */
static void
release_segment(Inbox *inbox)
{
	Segment    *segment = FIRST_SEGMENT(inbox);

	if (segment->end == 0 || file_unread(inbox))
		return;
	inbox->read_pos = 0;
	inbox->on_disk -= segment->end;
	if (segment == LAST_SEGMENT(inbox))
	{
		(void) FileTruncate(segment->file, 0, WAIT_EVENT_BUFFILE_TRUNCATE);
		segment->end = 0;
		inbox->reserve_at = SEGMENT_SIZE;
		return;
	}
	FileClose(segment->file);
	dlist_delete(&segment->node);
	pfree(segment);
}

/* Write the spill chunk to the file and empty it; false if that fails. */
static bool
flush_spill(Inbox *inbox)
{
	Chunk	   *spill = inbox->spill;
	Segment    *segment = LAST_SEGMENT(inbox);
	Size		len = sizeof(spill->end) + spill->end;

	if (!write_file(inbox, &spill->end, sizeof(spill->end), segment->end) ||
		!write_file(inbox, spill->data, spill->end,
					segment->end + sizeof(spill->end)))
		return false;
	segment->end += len;
	inbox->on_disk += len;
	spill->end = 0;
	return true;
}

/* The chunk that takes the next message of so many bytes, or NULL. */
static Chunk *
chunk_for_put(Inbox *inbox, Size needed)
{
	Chunk	   *chunk = inbox->spill;

	if (chunk == NULL && !dlist_is_empty(&inbox->chunks))
		chunk = dlist_tail_element(Chunk, node, &inbox->chunks);
	if (chunk && chunk->size - chunk->end >= needed)
		return chunk;

	if (inbox->spill)
	{
		if (!flush_spill(inbox))
			return NULL;
		if (inbox->spill->size >= needed)
			return inbox->spill;
		chunk = make_chunk(inbox, needed);
		if (chunk)
		{
			recycle_chunk(inbox, inbox->spill);
			inbox->spill = chunk;
		}
		return chunk;
	}

	chunk = make_chunk(inbox, needed);
	if (chunk && inbox->memory + chunk->size > MEMORY_LIMIT)
		inbox->spill = chunk;
	else if (chunk)
		link_chunk(inbox, chunk);
	return chunk;
}

/*
 * Put a message at the end.  Returns false, and loses it, if there is no
 * memory, or the file cannot be written.  Raises nothing.
 */
bool
inbox_put(Inbox *inbox, int channel, int pid, uint64 after,
		  const char *payload, Size len)
{
	Size		needed = MAXALIGN(sizeof(Entry) + len);
	Chunk	   *chunk = chunk_for_put(inbox, needed);
	Entry	   *entry;

	if (chunk == NULL)
		return false;
	entry = (Entry *) (chunk->data + chunk->end);
	entry->channel = channel;
	entry->pid = pid;
	entry->after = after;
	entry->len = len;
	memcpy(entry + 1, payload, len);
	memset((char *) (entry + 1) + len, 0, needed - sizeof(Entry) - len);
	chunk->end += needed;
	return true;
}

/* Read a chunk back from the file; false if that fails. */
static bool
load_chunk(Inbox *inbox)
{
	Chunk	   *chunk;
	Size		end;

	if (!read_file(inbox, &end, sizeof(end)))
		return false;
	chunk = make_chunk(inbox, end);
	if (chunk == NULL)
		return false;
	if (!read_file(inbox, chunk->data, end))
	{
		recycle_chunk(inbox, chunk);
		return false;
	}
	chunk->end = end;
	link_chunk(inbox, chunk);
	release_segment(inbox);
	return true;
}

/*
 * The first chunk, which is read from the file if it is there; NULL if there is
 * no chunk.  Raises an error if the file cannot be read.
 */
static Chunk *
first_chunk(Inbox *inbox)
{
	if (!dlist_is_empty(&inbox->chunks))
		return dlist_head_element(Chunk, node, &inbox->chunks);
	if (file_unread(inbox))
	{
		if (!load_chunk(inbox))
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read the relay's temporary file: %m")));
	}
	else if (inbox->spill)
	{
		/* the files are used up: messages stay in memory again */
		link_chunk(inbox, inbox->spill);
		inbox->spill = NULL;
	}
	else
		return NULL;
	return dlist_head_element(Chunk, node, &inbox->chunks);
}

/*
 * The first message, which stays.  Returns false if there is none.  Raises an
 * error if the file cannot be read: that ends the relay, and opens a gap.
 */
bool
inbox_peek(Inbox *inbox, InboxMessage *message)
{
	Chunk	   *chunk = first_chunk(inbox);
	Entry	   *entry;

	/* a spill chunk is empty if it was written, and no larger one was had */
	while (chunk && chunk->start == chunk->end)
	{
		unlink_chunk(inbox, chunk);
		chunk = first_chunk(inbox);
	}
	if (chunk == NULL)
		return false;
	entry = (Entry *) (chunk->data + chunk->start);
	message->channel = entry->channel;
	message->pid = entry->pid;
	message->after = entry->after;
	message->len = entry->len;
	message->payload = (const char *) (entry + 1);
	return true;
}

/* Take out the first message; inbox_peek() has just returned it. */
void
inbox_pop(Inbox *inbox)
{
	Chunk	   *chunk = dlist_head_element(Chunk, node, &inbox->chunks);
	Entry	   *entry = (Entry *) (chunk->data + chunk->start);

	chunk->start += MAXALIGN(sizeof(Entry) + entry->len);
	if (chunk->start == chunk->end)
		unlink_chunk(inbox, chunk);
}

/*
 * True if so much has come in that the queue must take it, whoever holds it.
 */
bool
inbox_overflows(Inbox *inbox)
{
	return inbox->on_disk > FILE_LIMIT;
}

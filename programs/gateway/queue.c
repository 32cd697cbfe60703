/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  See queue.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/queue.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/* The first size of a client's own piece, with its head. */
#define OWN_PIECE 512

/* A queue that is empty keeps room for so many pieces. */
#define KEEP_ROOM 16

/* A shared piece of that length, with one reference; the caller fills it. */
Piece *
piece_make(size_t length)
{
	Piece	   *piece = memory_get(sizeof(Piece) + length);

	piece->references = 1;
	piece->length = length;
	piece->room = 0;
	return piece;
}

/* Give a reference up; the last one frees the piece. */
void
piece_release(Piece *piece)
{
	if (--piece->references == 0)
		free(piece);
}

/* Where the number-th piece of the queue is kept. */
static Piece **
slot(const Queue *queue, uint32_t number)
{
	return &queue->pieces[(queue->first + number) & (queue->room - 1)];
}

/* Put a piece at the queue's end, whose reference the queue has from now on. */
static void
push(Queue *queue, Piece *piece)
{
	if (queue->count == queue->room)
	{
		uint32_t	room = queue->room > 0 ? queue->room * 2 : 4;
		Piece	  **pieces = memory_get(room * sizeof(Piece *));

		for (uint32_t i = 0; i < queue->count; i++)
			pieces[i] = *slot(queue, i);
		free(queue->pieces);
		queue->pieces = pieces;
		queue->first = 0;
		queue->room = room;
	}
	queue->count++;
	*slot(queue, queue->count - 1) = piece;
}

/* Drop the queue's first piece. */
static void
shift(Queue *queue)
{
	piece_release(*slot(queue, 0));
	queue->first = (queue->first + 1) & (queue->room - 1);
	queue->count--;
	queue->sent = 0;
}

/* Add a shared piece, in which the queue gets a reference of its own. */
void
queue_add_piece(Queue *queue, Piece *piece)
{
	piece->references++;
	push(queue, piece);
	queue->bytes += piece->length;
}

/* Add a message, or several whole ones, for this client alone. */
void
queue_add_bytes(Queue *queue, const void *bytes, size_t length)
{
	Piece	   *piece = queue->count > 0 ? *slot(queue, queue->count - 1) : NULL;

	if (piece == NULL || piece->room - piece->length < length ||
		piece->room == 0)
	{
		size_t		room = OWN_PIECE - sizeof(Piece);

		if (room < length)
			room = length;
		piece = memory_get(sizeof(Piece) + room);
		piece->references = 1;
		piece->length = 0;
		piece->room = room;
		push(queue, piece);
	}
	memcpy(piece->data + piece->length, bytes, length);
	piece->length += length;
	queue->bytes += length;
}

/* Move all pieces of one queue, none of which is sent in part, to another's end. */
void
queue_move(Queue *to, Queue *from)
{
	for (uint32_t i = 0; i < from->count; i++)
		push(to, *slot(from, i));
	to->bytes += from->bytes;
	from->count = 0;
	from->bytes = 0;
	queue_free(from);
}

/* Describe what is to be sent next, in at most max parts; returns how many. */
int
queue_vector(const Queue *queue, struct iovec *vector, int max)
{
	int			parts = 0;

	for (uint32_t i = 0; i < queue->count && parts < max; i++)
	{
		Piece	   *piece = *slot(queue, i);
		uint32_t	skip = i == 0 ? queue->sent : 0;

		vector[parts].iov_base = piece->data + skip;
		vector[parts++].iov_len = piece->length - skip;
	}
	return parts;
}

/* So many bytes were sent; memory goes once the queue is empty. */
void
queue_sent(Queue *queue, size_t length)
{
	queue->bytes -= length;
	while (length > 0)
	{
		uint32_t	left = (*slot(queue, 0))->length - queue->sent;

		if (length < left)
		{
			queue->sent += length;
			return;
		}
		length -= left;
		shift(queue);
	}
	if (queue->count == 0 && queue->room > KEEP_ROOM)
		queue_free(queue);
}

/* Drop all but the piece that is sent in part, if there is one. */
void
queue_cut(Queue *queue)
{
	uint32_t	keep = queue->sent > 0 ? 1 : 0;

	while (queue->count > keep)
	{
		Piece	   *piece = *slot(queue, queue->count - 1);

		queue->bytes -= piece->length;
		piece_release(piece);
		queue->count--;
	}
}

/* Drop all, and the memory. */
void
queue_free(Queue *queue)
{
	while (queue->count > 0)
		shift(queue);
	free(queue->pieces);
	memset(queue, 0, sizeof(*queue));
}

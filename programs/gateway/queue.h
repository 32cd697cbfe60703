/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  What is to be sent to a client, in pieces that clients may share.
 *
 * A Piece is some bytes with a count of the queues that have it.  An event is
 * one piece in the queues of all who get it.  What is said to one client alone
 * is gathered in pieces of its own, which grow while they are the last of its
 * queue.
 *
 * Each piece ends where a message ends, so that a queue can be cut behind the
 * piece that is being sent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_QUEUE_H
#define GATEWAY_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct Piece
{
	uint32_t	references;
	uint32_t	length;
	uint32_t	room;			/* 0: it is shared, and must not grow */
	char		data[];
} Piece;

typedef struct Queue
{
	Piece	  **pieces;			/* a ring of room */
	uint32_t	first;
	uint32_t	count;
	uint32_t	room;
	uint32_t	sent;			/* bytes of the first piece that are sent */
	size_t		bytes;			/* in the queue, not sent */
} Queue;

extern Piece *piece_make(size_t length);
extern void piece_release(Piece *piece);

extern void queue_add_piece(Queue *queue, Piece *piece);
extern void queue_add_bytes(Queue *queue, const void *bytes, size_t length);
extern void queue_move(Queue *to, Queue *from);
extern int	queue_vector(const Queue *queue, struct iovec *vector, int max);
extern void queue_sent(Queue *queue, size_t length);
extern void queue_cut(Queue *queue);
extern void queue_free(Queue *queue);

#endif

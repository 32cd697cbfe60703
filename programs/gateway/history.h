/*-------------------------------------------------------------------------
 *
 * history.h
 *	  The last events, for clients over HTTP that are behind.
 *
 * Each event, and each gap, gets an Entry with a number, one higher than the
 * last one's.  The oldest go when all take more than limits.history bytes, as
 *	  http_behind.c has it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_HISTORY_H
#define GATEWAY_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/queue.h"

typedef struct Entry
{
	int64_t		seq;
	int64_t		lost;			/* of a gap; -1: unknown */
	char	   *channel;		/* NULL: a gap */
	Piece	   *piece;			/* the event as it is sent; NULL: a gap */
} Entry;

extern Piece *event_piece_make(int64_t seq, const char *channel,
							   const char *payload);
extern uint64_t history_add_event(int64_t seq, const char *channel,
								  const char *payload);
extern uint64_t history_add_gap(int64_t seq, int64_t lost, bool whole);
extern uint64_t history_excess(void);
extern void history_forget(uint64_t upto);
extern const Entry *history_entry(uint64_t number);
extern uint64_t history_end(void);
extern uint64_t history_after(int64_t seq);
extern bool history_reaches(int64_t seq);
extern void history_mark(int64_t seq);
extern int64_t history_bytes(void);

#endif

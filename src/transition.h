/*-------------------------------------------------------------------------
 *
 * transition.h
 *	  The rows of a statement as change events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_TRANSITION_H
#define PGPUBSUB_TRANSITION_H

#include "change_event.h"

#include "utils/tuplestore.h"

/* Gets each event once rows, count, part and parts are set. */
typedef void (*TransitionEmit) (ChangeEvent *event, void *arg);

extern void transition_emit(ChangeEvent *event, TupleDesc tupdesc,
							Tuplestorestate *old_table,
							Tuplestorestate *new_table,
							TransitionEmit emit, void *arg);

#endif							/* PGPUBSUB_TRANSITION_H */

/*-------------------------------------------------------------------------
 *
 * statement_rows.h
 *	  The rows of a statement as change events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_STATEMENT_ROWS_H
#define PGPUBSUB_STATEMENT_ROWS_H

#include "event/change_event.h"

#include "utils/tuplestore.h"

/* Gets each event once rows, count, part and parts are set. */
typedef void (*TransitionEmit) (ChangeEvent *event, void *arg);

extern void transition_emit(ChangeEvent *event, TupleDesc tupdesc,
							Tuplestorestate *old_table,
							Tuplestorestate *new_table,
							TransitionEmit emit, void *arg);

#endif							/* PGPUBSUB_STATEMENT_ROWS_H */

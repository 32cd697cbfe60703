/*-------------------------------------------------------------------------
 *
 * row_pairs.h
 *	  The rows of a statement, each old row with its new one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_ROW_PAIRS_H
#define PGPUBSUB_ROW_PAIRS_H

#include "change_event.h"

#include "utils/tuplestore.h"

typedef struct RowPairs RowPairs;

extern RowPairs *row_pairs_begin(ChangeShape *shape, TupleDesc tupdesc,
								 Tuplestorestate *old_table,
								 Tuplestorestate *new_table);
extern bool row_pairs_next(RowPairs *pairs, TupleTableSlot **old_row,
						   TupleTableSlot **new_row);
extern void row_pairs_end(RowPairs *pairs);

#endif							/* PGPUBSUB_ROW_PAIRS_H */

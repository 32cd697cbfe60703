/*-------------------------------------------------------------------------
 *
 * nesting.h
 *	  At which nesting level of subtransactions something was done.
 *
 * What a subtransaction has done becomes its parent's when it commits, and is
 * undone when it is rolled back.  A part that only has to know whether
 * something was done keeps the lowest level at which it was: 0 means that it
 * was not done.  A part that has to go back to what was before keeps a stack
 * of copies, the innermost first, each with the level that made it before its
 * first change.
 *
 * All levels are those of GetCurrentTransactionNestLevel(): 1 is the top
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_NESTING_H
#define PGPUBSUB_NESTING_H

#include "postgres.h"

#include "access/xact.h"

/*
 * It is done now, at this level and perhaps at lower ones before.
 */
static inline void
nesting_note(int *done)
{
	int			level = GetCurrentTransactionNestLevel();

	if (*done == 0 || *done > level)
		*done = level;
}

/*
 * The subtransaction of that level has committed.
 */
static inline void
nesting_subcommit(int *done, int level)
{
	if (*done >= level)
		*done = level - 1;
}

/*
 * The subtransaction of that level was rolled back.  Returns whether that has
 * undone it.
 */
static inline bool
nesting_subabort(int *done, int level)
{
	if (*done < level)
		return false;
	*done = 0;
	return true;
}

/*
 * Must a copy be made before a change at the current level?  since: the level
 * below which there is nothing to go back to; newest: the level of the
 * innermost copy, or 0.
 */
static inline bool
nesting_needs_copy(int since, int newest)
{
	int			level = GetCurrentTransactionNestLevel();

	return level > since && newest < level;
}

/*
 * The subtransaction of that level has committed.  Does its parent need the
 * copy that it has made?  since is as above; older: the level of the copy
 * before it, or 0.  A parent that has a copy keeps that, which is the older.
 */
static inline bool
nesting_parent_needs_copy(int since, int older, int level)
{
	return level - 1 > since && older != level - 1;
}

#endif							/* PGPUBSUB_NESTING_H */

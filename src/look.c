/*-------------------------------------------------------------------------
 *
 * look.c
 *	  What the last look of this session has shown.
 *
 * A look (a poll that does not consume) may show events that are overwritten
 * before the ack.  By the rows that are kept here ack() tells those, which
 * were delivered, from what was lost.
 *
 *-------------------------------------------------------------------------
 */
#include "look.h"

#include "utils/memutils.h"

/* Rows of a look that are remembered, at most. */
#define LOOK_ROWS	10000

/*
 * A message that the last look of this session has shown, or the last one of a
 * channel that its gap row told of.
 */
typedef struct ShownRow
{
	uint64		seq;
	uint64		number;
	int			channel;
	bool		missed;
} ShownRow;

/* The last look of this session. */
typedef struct Look
{
	Subscription *subscription; /* NULL: nothing is remembered */
	uint32		generation;
	uint64		number;			/* as noted in the subscription, or 0 */
	ShownRow   *rows;			/* in TopMemoryContext */
	int			nrows;
} Look;

static Look last_look;

/*
 * Begin to remember the rows of a look, unless it may be of too many.  Raises
 * 53200 for want of memory.
 */
void
look_begin(Subscription *subscription, int max_messages)
{
	last_look.subscription = NULL;
	last_look.number = 0;
	last_look.nrows = 0;

	if (last_look.rows == NULL)
		last_look.rows = MemoryContextAlloc(TopMemoryContext,
											LOOK_ROWS * sizeof(ShownRow));

	if (max_messages > LOOK_ROWS)
		return;
	last_look.subscription = subscription;
	last_look.generation = subscription->generation;
}

/*
 * Remember a row of a look, or forget it all if there is no room; missed: it is
 * not one that was shown, but the last of a channel that the gap row told of.
 */
void
look_remember(int channel, uint64 seq, uint64 number, bool missed)
{
	ShownRow   *row;

	if (last_look.nrows == LOOK_ROWS)
		last_look.subscription = NULL;

	if (last_look.subscription == NULL)
		return;
	row = &last_look.rows[last_look.nrows++];
	row->channel = channel;
	row->seq = seq;
	row->number = number;
	row->missed = missed;
}

/*
 * The look has ended; it was the subscription's number'th.
 */
void
look_end(uint64 number)
{
	last_look.number = number;
}

/*
 * Has this session made the subscription's last look, and remembers it?
 */
bool
look_remembered(Claim *claim)
{
	return last_look.subscription == claim->subscription &&
		last_look.generation == claim->generation &&
		last_look.number > 0 &&
		last_look.number == claim->subscription->looks;
}

/*
 * How many events of the cursor's channel, after it and up to number, the look
 * has shown that have no higher seq than that; *last is the number of the last
 * one that it has shown or told as missing, 0 if there is none.
 */
uint64
look_count_shown(Cursor *cursor, uint64 seq, uint64 number, uint64 *last)
{
	uint64		shown = 0;

	*last = 0;

	/* a binding made since is to another channel, or behind all that */
	if (cursor->binding->looked_number == 0)
		return 0;
	for (int i = 0; i < last_look.nrows; i++)
	{
		ShownRow   *row = &last_look.rows[i];

		if (row->channel != cursor->channel || row->seq > seq ||
			row->number <= cursor->number || row->number > number)
			continue;
		if (!row->missed)
			shown++;
		*last = row->number;
	}
	return shown;
}

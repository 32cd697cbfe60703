/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  How soon the relay looks again.
 *
 * An event that comes alone is handled at once.  Under load that would be
 * wasteful: each commit wakes the relay, which has a transaction, a look at
 * core's queue and a signal to every waiting reader for one event; all of it
 * takes the CPU from the writers and readers that there are.  So the relay
 * lets some time pass between two rounds, in which nobody has to wake it:
 *
 * - 1 ms while many sessions publish at once.  That is seen by how often the
 *	 writer changes from one event to the next: more often than there are
 *	 rounds, and more than BUSY_PER_MS times in a millisecond.  One session
 *	 alone, however fast it commits, never waits for this;
 * - as long as the readers that were woken need to come back, so that the
 *	 next round finds most of them waiting, and each gets several events for
 *	 one wake-up; at most LONGEST_MS.
 *
 * It does not pause while the queue is full, or the staging queue fills up, or
 * somebody waits for a request.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/pace.h"

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

/* How long rounds are counted before the pace is set anew, in ms. */
#define WINDOW_MS	10

/* Changes of the writer in a millisecond that make a load. */
#define BUSY_PER_MS	0.5

/* A reader that is woken has come back, and left others some time, in us. */
#define READER_US	200

/* The longest pause. */
#define LONGEST_MS	40

/* The window at hand. */
static TimestampTz window_start = 0;
static uint64 num_rounds = 0;
static uint64 num_changes = 0;	/* of the writer */

static int	last_pid = 0;
static uint64 counted = 0;		/* changes before this round */
static bool busy = false;

/*
 * An event of that writer is handled in this round.
 */
void
relay_pace_event(int pid)
{
	if (pid != last_pid)
		num_changes++;
	last_pid = pid;
}

/* Count the round; at the end of a window, set the pace for the next. */
static void
end_round(void)
{
	TimestampTz now;
	long		ms;

	if (num_changes == counted && last_pid == 0)
		return;
	counted = num_changes;
	last_pid = 0;
	num_rounds++;
	now = GetCurrentTimestamp();
	ms = (long) ((now - window_start) / 1000);
	if (ms < WINDOW_MS)
		return;
	busy = num_changes * 4 >= num_rounds * 5 &&
		num_changes >= ms * BUSY_PER_MS;
	window_start = now;
	num_rounds = num_changes = counted = 0;
}

/* Does anybody wait for more than events? */
static bool
needed_now(Database *database)
{
	return pg_atomic_read_u32(&database->relay.state) != RELAY_LISTENING ||
		pg_atomic_read_u64(&database->requests.made) !=
		pg_atomic_read_u64(&database->requests.handled);
}

/*
 * Pause as befits a round that woke so many readers, unless there is a
 * backlog.  The relay's latch does not end the pause, so setting it costs the
 * others no signal; interrupts do within a millisecond, and are served by the
 * caller.
 */
void
relay_pace(Database *database, int woken, bool backlog)
{
	int			ms = Min(woken * READER_US / 1000, LONGEST_MS);

	end_round();
	if (busy)
		ms = Max(ms, 1);
	if (backlog)
		return;
	for (; ms > 0 && !needed_now(database) && !InterruptPending; ms--)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
}

/*-------------------------------------------------------------------------
 *
 * debug.c
 *	  What only builds with assertions have, for tests.
 *
 * 1. DEBUG_POINT("name") in the code marks a window that a test may want to
 *	  keep open: between two steps of which another process must not see the
 *	  first alone, or where a crash must do no harm.  While there is a file of
 *	  that name in the directory pgpubsub.debug_points, whoever comes to the
 *	  point waits there, and says so in the server log when it comes and when it
 *	  goes on.  So a test makes the file, has something done that comes to the
 *	  point, waits for the line (the log_line_prefix has the pid), looks at what
 *	  the others do meanwhile, or kills the process, and removes the file.  A
 *	  point may stand anywhere, under an LWLock and in commit and exit callbacks
 *	  too.  Where interrupts are not held off, whoever was told to end meanwhile
 *	  ends when the point is opened, with the line in the log: so a test has a
 *	  process end just there.
 *
 * 2. pgpubsub.debug_inbox_divisor makes the bounds of the relay's memory and
 *	  temporary file so many times smaller, to reach them with little.
 *
 * 3. pgpubsub.debug_clock_back has a server that starts see the clock so many
 *	  seconds back when it chooses the first seqs.
 *
 * 4. pgpubsub.debug_crossings tells how often the events of durable channels that
 *	  the session has polled came by turns from the log and from the ring.
 *
 * The others are for the server's configuration alone, and all are shown nowhere.
 *
 *-------------------------------------------------------------------------
 */
#include "base/debug.h"

#ifdef USE_ASSERT_CHECKING

#include <sys/stat.h>

#include "storage/pmsignal.h"
#include "utils/guc.h"

int			debug_inbox_divisor = 1;
int			debug_clock_back = 0;
static int	debug_crossings = 0;
static char *debug_points = NULL;

/*
 * Define the settings; from _PG_init(), when preloaded.
 */
void
debug_init(void)
{
	DefineCustomStringVariable("pgpubsub.debug_points",
							   "Sets the directory whose files name points to wait at.",
							   NULL,
							   &debug_points, "",
							   PGC_POSTMASTER,
							   GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.debug_inbox_divisor",
							"Sets by how much the bounds of the relay's buffer are divided.",
							NULL,
							&debug_inbox_divisor, 1, 1, 1024,
							PGC_POSTMASTER,
							GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.debug_clock_back",
							"Sets how far back the clock is that the first seqs come from.",
							NULL,
							&debug_clock_back, 0, 0, INT_MAX,
							PGC_POSTMASTER,
							GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.debug_crossings",
							"Shows how often the session went from the log to the ring, and back.",
							NULL,
							&debug_crossings, 0, 0, INT_MAX,
							PGC_INTERNAL,
							GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							NULL, NULL, NULL);
}

/*
 * Wait while there is a file of that name.  Interrupts are served at the end,
 * unless they are held off, as by any message; nothing else is raised.
 */
void
debug_point(const char *name)
{
	char		path[MAXPGPATH];
	struct stat st;

	if (debug_points == NULL || debug_points[0] == '\0')
		return;
	snprintf(path, sizeof(path), "%s/%s", debug_points, name);
	if (stat(path, &st) != 0)
		return;
	ereport(LOG,
			(errmsg_internal("pgpubsub debug point %s: waiting", name)));
	while (stat(path, &st) == 0 && PostmasterIsAlive())
		pg_usleep(1000);
	ereport(LOG,
			(errmsg_internal("pgpubsub debug point %s: going on", name)));
}

/* So many subscriptions, at least, are told from one another. */
#define DEBUG_READERS	64

/*
 * The session has polled an event of a durable channel, from the log or from the
 * ring, for the subscription in that slot.
 */
void
debug_crossing(int subscription, bool from_log)
{
	static uint8 last[DEBUG_READERS];	/* 0: none; 1: the ring; 2: the log */
	uint8	   *before = &last[subscription % DEBUG_READERS];
	uint8		now = from_log ? 2 : 1;

	if (*before != 0 && *before != now)
		debug_crossings++;
	*before = now;
}

#endif							/* USE_ASSERT_CHECKING */

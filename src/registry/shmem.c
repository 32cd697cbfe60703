/*-------------------------------------------------------------------------
 *
 * shmem.c
 *	  Shared memory: how much, and what outlives the server.
 *
 * All of it is static and sized from the settings.  A lock may be taken only
 * while none of a later line is held:
 *
 *		1. heavyweight locks: on a subscription's name, on tables
 *		2. the control lock (Control.lock)
 *		3. a database's lock (Database.lock)
 *		4. the subscription lock (Control.subscription_lock)
 *		5. a database's wait lock (Database.wait_lock)
 *		6. spinlocks: a subscription's mutex, those in condition variables
 *
 * Never two of the same line at once.  No LWLock is held during anything that
 * waits, looks at a catalog or may raise an error.  Waits are on latches and
 * condition variables.
 *
 * The highest seq is saved when the server stops, so that seqs increase over
 * restarts even if the clock was set back.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/shmem.h"

#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "registry/registry.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#define SAVE_FILE	PGSTAT_STAT_PERMANENT_DIRECTORY "/pgpubsub.seq"
#define SAVE_MAGIC	UINT64CONST(0x7067707562737562)

/*
 * No seq that was given out can be above this: they begin at the clock, in
 * microseconds.  Up to here they fit into a bigint for ever.
 */
#define HIGHEST_SEQ	(UINT64CONST(1) << 62)

/* What SAVE_FILE has. */
typedef struct SaveFile
{
	uint64		magic;
	uint64		highest_seq;
	uint64		check;			/* of the two above */
} SaveFile;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Ask for shared memory and locks. */
static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(registry_shmem_size());
	RequestNamedLWLockTranche("pgpubsub", registry_num_locks());
}

/* Read what the last shutdown saved; 0 if it saved nothing. */
static uint64
load_highest_seq(void)
{
	FILE	   *file = AllocateFile(SAVE_FILE, PG_BINARY_R);
	SaveFile	saved;
	uint64		result = 0;

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", SAVE_FILE)));
		return 0;
	}
	if (fread(&saved, sizeof(saved), 1, file) == 1 &&
		saved.magic == SAVE_MAGIC &&
		saved.check == (saved.magic ^ saved.highest_seq) &&
		saved.highest_seq <= HIGHEST_SEQ)
		result = saved.highest_seq;
	else
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignored invalid data in file \"%s\"", SAVE_FILE)));
	FreeFile(file);
	return result;
}

/* At the postmaster's exit: save the highest seq. */
static void
save_highest_seq(int code, Datum arg)
{
	const char *temporary = SAVE_FILE ".tmp";
	SaveFile	saved = {.magic = SAVE_MAGIC};
	FILE	   *file;

	/* not after a crash, when shared memory may be anything */
	if (code != 0 || pgpubsub_control == NULL)
		return;
	saved.highest_seq = pgpubsub_control->highest_seq;
	for (int i = 0; i < pgpubsub_max_databases; i++)
		saved.highest_seq = Max(saved.highest_seq,
								ring_newest_seq(pgpubsub_control->databases[i].ring));
	saved.check = saved.magic ^ saved.highest_seq;

	file = AllocateFile(temporary, PG_BINARY_W);
	if (file == NULL || fwrite(&saved, sizeof(saved), 1, file) != 1)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", temporary)));
		if (file)
			FreeFile(file);
		unlink(temporary);
		return;
	}
	FreeFile(file);
	(void) durable_rename(temporary, SAVE_FILE, LOG);
}

/* Lay out shared memory, or attach to it. */
static void
startup_shmem(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	registry_shmem_init(GetNamedLWLockTranche("pgpubsub"));
	if (!IsUnderPostmaster)
		pgpubsub_control->highest_seq = load_highest_seq();
	LWLockRelease(AddinShmemInitLock);
	if (!IsUnderPostmaster)
		on_shmem_exit(save_highest_seq, (Datum) 0);
}

/*
 * Set up this file; from _PG_init(), when preloaded.
 */
void
shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

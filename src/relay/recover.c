/*-------------------------------------------------------------------------
 *
 * recover.c
 *	  What a relay has to find out from the log before it can go on.
 *
 * 1. After the server has started, nothing is in shared memory.  The relay
 *	  looks through all notes, to know which segments have which seqs, and
 *	  through all positions.  It begins to give seqs above all of them, and
 *	  above the ceiling that is kept with the positions.
 *
 * 2. Then it looks for rows that have no note: their transactions have
 *	  committed, and the relay that was to note them was not there, or its note
 *	  did not get to the disk.  What has a place in the staging queue comes by
 *	  that; it is looked for after the rows, and a place stays until its rows
 *	  are noted: so none is overlooked.  The others are noted in the order in
 *	  which their transactions began to write to the log: where one has seen
 *	  what another has done, that is the order of the two.
 *
 * 3. Before that, those have ended who write to the log and have found no
 *	  relay; see publish_durable.c.
 *
 * 4. A relay that cannot note them, as a disk is full say, goes on without, and
 *	  tries again; what is staged is noted after them.  So those who need no log
 *	  have a relay, and what was written first comes first.
 *
 * 5. A row of a transaction that is in progress gets a place before that
 *	  commits; or its writer gets none, and asks for another look when it has
 *	  committed.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/survey.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/debug.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufpage.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* After a failure, the next look comes after so long. */
#define LOOK_AGAIN_MS	500

/* Rows that are noted at a time. */
#define BATCH_ROWS		1000

static RelayDurable *const durable = &relay.durable;

/* The memory of the recovery at hand; NULL: none is. */
static MemoryContext recovery_context = NULL;

/* An event that is noted by recovery. */
typedef struct Recovered
{
	char	   *channel;
	uint64		seq;
	char	   *native;			/* for native listeners; NULL: they had it */
} Recovered;

/* Note one row; in the batch's transaction.  Returns false if it is gone. */
static bool
note_lost(const LostRow *lost, Recovered *recovered)
{
	LogScan    *scan = log_scan_begin(lost->segment, lost->xid, true);
	LogRow		row;
	bool		found;

	log_scan_from(scan, lost->block, lost->offset, lost->block, lost->offset);
	found = log_scan_next(scan, &row);
	log_scan_end(scan);
	if (!found)
		return false;
	recovered->channel = row.channel;
	recovered->native = row.notified ? NULL :
		row.native ? row.native : row.payload;
	if (durable->channels)
		(void) hash_search(durable->channels, row.channel, HASH_ENTER, NULL);
	recovered->seq = note_next_seq();
	note_add(lost->segment, row.channel, row.xid, row.block, row.offset,
			 recovered->seq, row.payload_len);
	return true;
}

/*
 * NOTIFY native listeners of events that were recovered.  The events are noted,
 * so a failure is logged, and that is all.
 */
static void
notify_recovered(const Recovered *recovered, int count)
{
	if (!registry_has_listeners(MyDatabaseId))
		return;
	PG_TRY();
	{
		relay_begin("notifying recovered events");
		LockTimeout = RECOVER_LOCK_WAIT_MS;
		for (int i = 0; i < count; i++)
		{
			if (recovered[i].native)
				Async_Notify(recovered[i].channel, recovered[i].native);
		}
		relay_end();
	}
	PG_CATCH();
	{
		relay_durable_error("notify events that were recovered",
							&durable->logged_at,
							"Subscriptions get them.");
	}
	PG_END_TRY();
}

/* Note the next rows from the given one on; returns how many were done. */
static Size
note_some(Recovery *recovery, Size first)
{
	MemoryContext batch = AllocSetContextCreate(recovery->context,
												"pgpubsub recovered rows",
												ALLOCSET_DEFAULT_SIZES);
	Recovered  *recovered = MemoryContextAlloc(batch,
											   BATCH_ROWS * sizeof(Recovered));
	Size		end = Min(first + BATCH_ROWS, recovery->nrows);
	int			count = 0;

	note_begin();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(batch);
	for (Size i = first; i < end; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (note_lost(&recovery->rows[i], &recovered[count]))
			count++;
	}
	PopActiveSnapshot();
	note_write();
	for (int i = 0; i < count; i++)
		relay_durable_show(recovered[i].channel, recovered[i].seq);
	relay_append_wake();
	notify_recovered(recovered, count);
	MemoryContextSwitchTo(recovery->context);
	MemoryContextDelete(batch);
	return end - first;
}

/* The segment with the newest events is the one to go on with. */
static void
choose_current(void)
{
	DatabaseLog *log = &relay.database->log;
	int			newest = 0;

	for (int i = 1; i < LOG_SEGMENTS; i++)
	{
		if (pg_atomic_read_u64(&log->segments[i].last_seq) >
			pg_atomic_read_u64(&log->segments[newest].last_seq))
			newest = i;
	}
	pg_atomic_write_u32(&log->turn, LOG_TURN(newest, 0));
}

/*
 * Of channels that were made known before, nobody knew what the log has: let
 * their readers look there.
 */
static void
let_readers_look(void)
{
	Database   *database = relay.database;
	uint64		newest = ring_newest_seq(database->ring);

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	for (int slot = 0; slot < pgpubsub_max_channels; slot++)
	{
		if (database->channels[slot].in_use)
			ring_set_log_newest(database->ring, slot, newest);
	}
	LWLockRelease(database->lock);
}

/* Note the rows that have neither note nor place. */
static void
note_lost_rows(Recovery *recovery)
{
	Size		done = 0;

	survey_leave_out_placed(recovery);
	DEBUG_POINT("durable_recovers");
	while (done < recovery->nrows)
		done += note_some(recovery, done);
	if (recovery->nrows > 0)
		ereport(LOG,
				(errmsg("pgpubsub relay for database \"%s\" has recovered %zu events",
						relay.database_name, recovery->nrows)));
}

/*
 * A writer that sets LOG_NOT_RECOVERED meanwhile has rows that this recovery may
 * not have seen.  If the relay ends meanwhile, the next one begins anew.
 */
static void
recover_rows(Recovery *recovery)
{
	DatabaseLog *log = &relay.database->log;
	uint32		expected = LOG_RECOVERING;

	pg_atomic_write_u32(&log->recovered, LOG_RECOVERING);
	pg_memory_barrier();
	survey_log(recovery, true);
	note_lost_rows(recovery);
	durable->recover_at = 0;
	(void) pg_atomic_compare_exchange_u32(&log->recovered, &expected,
										  LOG_RECOVERED);
}

/* In PG_CATCH(): has somebody altered the log? */
static bool
is_altered(void)
{
	return geterrcode() == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
		geterrcode() == ERRCODE_DATA_CORRUPTED;
}

/*
 * The same, in the recovery's memory.  Raises nothing: what fails is tried again
 * later.  If somebody has altered the log, what is noted meanwhile does not wait
 * until that is undone.
 */
static void
try_recover_rows(Recovery *recovery)
{
	PG_TRY();
	{
		MemoryContextSwitchTo(recovery->context);
		recover_rows(recovery);
		durable->unrecovered = false;
	}
	PG_CATCH();
	{
		if (is_altered())
			durable->unrecovered = false;
		relay_durable_error("recover events of durable channels",
							&durable->logged_at,
							"They are in the log, and it is tried again.");
		note_abort();
		pg_atomic_write_u32(&relay.database->log.recovered,
							LOG_NOT_RECOVERED);
		durable->recover_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_AGAIN_MS);
	}
	PG_END_TRY();
}

/*
 * Wait for those who write to the log and have found no relay, so that this one
 * does not get from LISTEN what it finds there.  Not for long: then this relay
 * ends with an error, and the next one tries again.
 */
static void
await_unplaced(void)
{
	relay_begin("waiting for writers to durable channels");
	LockTimeout = RECOVER_LOCK_WAIT_MS;
	log_lock_unplaced(ExclusiveLock);
	LockTimeout = 0;
	relay_end();
}

/* A recovery, in memory of its own. */
static Recovery *
make_recovery(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "pgpubsub recovery",
												  ALLOCSET_DEFAULT_SIZES);
	Recovery   *recovery = MemoryContextAllocZero(context, sizeof(Recovery));

	recovery->context = context;
	recovery_context = context;
	return recovery;
}

/* It has ended, one way or the other. */
static void
end_recovery(void)
{
	if (recovery_context)
		MemoryContextDelete(recovery_context);
	recovery_context = NULL;
}

/*
 * The extension was updated from 1.0, and subscriptions that were loaded from its
 * table have no id yet: load them again, before events are noted whose readers
 * could not write their positions.  Returns false if the table is locked: then
 * this is asked for again.
 */
static bool
load_ids(void)
{
	pg_atomic_fetch_add_u64(&relay.database->requests.reload, 1);
	if (relay_load_subscriptions())
		return true;
	(void) registry_request(relay.database);
	return false;
}

/*
 * Find out what the log has, unless shared memory knows from an earlier relay,
 * and note what was not noted.  Raises what reading and writing the log does.
 */
static void
recover(void)
{
	Database   *database = relay.database;
	MemoryContext old = CurrentMemoryContext;
	Recovery   *recovery;
	bool		installed;

	note_init();
	relay_durable_resume();
	relay_begin("looking for the log of durable channels");
	installed = log_installed();
	relay_end();
	MemoryContextSwitchTo(old);
	if (!installed)
		return;

	if (!database->log.surveyed &&
		pg_atomic_read_u32(&database->relay.loaded) != 0 && !load_ids())
		return;
	recovery = make_recovery();
	MemoryContextSwitchTo(recovery->context);
	relay_begin("reading positions");
	LockTimeout = RECOVER_LOCK_WAIT_MS;
	recovery->highest_seq = relay_read_positions();
	LockTimeout = 0;
	relay_end();
	MemoryContextSwitchTo(recovery->context);
	if (!database->log.surveyed)
	{
		survey_list_channels();
		survey_log(recovery, false);
		for (int i = 0; i < LOG_SEGMENTS; i++)
			recovery->noted[i] = (NotedRows)
		{
			0
		};
	}
	for (int i = 0; i < LOG_SEGMENTS; i++)
		recovery->highest_seq =
			Max(recovery->highest_seq,
				pg_atomic_read_u64(&database->log.segments[i].last_seq));
	if (recovery->highest_seq > 0)
	{
		pg_atomic_write_u32(&database->log.active, 1);
		note_raise_seq(recovery->highest_seq);
		if (!database->log.surveyed)
			note_raise_seq(durable->ceiling);
		let_readers_look();
	}
	if (!database->log.surveyed)
		choose_current();
	database->log.surveyed = true;

	/* those who have found none say what they have written when they commit */
	await_unplaced();
	if (pg_atomic_read_u32(&database->log.recovered) != LOG_RECOVERED)
	{
		durable->unrecovered = true;
		try_recover_rows(recovery);
	}
	MemoryContextSwitchTo(old);
	end_recovery();
}

/*
 * Before a relay loads subscriptions: do what the head of this file says.  If
 * somebody has altered the log, that is logged, and the relay goes on without;
 * raises other errors.
 */
void
relay_recover(void)
{
	MemoryContext old = CurrentMemoryContext;

	durable->unreadable = false;
	PG_TRY();
	{
		recover();
	}
	PG_CATCH();
	{
		if (!is_altered())
			PG_RE_THROW();
		relay_durable_error("read the log of durable channels",
							&durable->logged_at,
							"Subscriptions begin now.");
		note_abort();
		end_recovery();
		durable->positions = NULL;
		durable->unreadable = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
}

/*
 * Is the relay to look again for rows without a note, now or later?
 */
bool
relay_recover_is_due(void)
{
	return relay.database->log.surveyed &&
		pg_atomic_read_u32(&relay.database->log.recovered) != LOG_RECOVERED;
}

/*
 * Look again for rows without a note, if it is time, or a writer has asked for
 * it.  Raises nothing: what fails is tried again.
 */
void
relay_recover_again(void)
{
	MemoryContext old = CurrentMemoryContext;

	if (!relay_recover_is_due() || (durable->recover_at != 0 &&
									GetCurrentTimestamp() < durable->recover_at))
		return;
	try_recover_rows(make_recovery());
	MemoryContextSwitchTo(old);
	end_recovery();
}

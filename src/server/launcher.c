/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Which databases have a relay.
 *
 * 1. The launcher is a static background worker, connected to no database.
 *	  When it starts it goes through the databases, one at a time, and starts a
 *	  relay in each; a relay that does not find the extension there leaves at
 *	  once.  After that it keeps a relay running for each database slot.  The
 *	  order is that of pgpubsub.databases; among those that one item of it lets
 *	  in, templates come last, and else the oldest first.  So if there are more
 *	  than there are slots, the same ones get them each time.
 *
 * 2. Only the launcher starts relays.  A relay writes its pid into its
 *	  database's slot before it does anything, under the control lock, and
 *	  leaves if there is one: so there are never two.  It takes it out again
 *	  under the same lock, and touches the slot no more.
 *
 * 3. A relay that ends wakes the launcher, which starts the next at once when
 *	  the process is gone.
 *	  After one that ended before it listened, or by an error soon after it was
 *	  started, that is after a delay, which grows while they do so.
 *
 * 4. A slot marked dropping is freed when its relay has left.  If databases
 *	  were found that could get no slot, the launcher then goes through all of
 *	  them again.
 *
 * 5. When pgpubsub.databases has changed, all databases are gone through again
 *	  too.  One that could get no slot is left out then, while none is free.
 *
 * 6. What cannot be mended by trying is tried seldom, and told seldom: why a
 *	  database may not have a relay once, that it could get no slot once until
 *	  one is free, that there are too few workers every 30 s.
 *
 * The hooks by which databases and the extension go away are in
 * database_hooks.c.
 *
 *-------------------------------------------------------------------------
 */
#include "server/launcher.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "base/worker.h"
#include "catalog/pg_database.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "registry/registry.h"
#include "relay/relay.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

/* The first delay after a relay that ended too soon, and the last. */
#define FIRST_DELAY_MS	100
#define LAST_DELAY_MS	30000

/* An error within so long of its start is too soon. */
#define SOON_MS			10000

/* What has to be had from elsewhere is asked for again after so long. */
#define RETRY_MS		1000

/* So many databases are named in one warning. */
#define NAMES_IN_WARNING	20

/* A database to be looked into. */
typedef struct Candidate
{
	Oid			oid;
	char		name[NAMEDATALEN];
	int			rank;			/* the item of the setting that lets it in */
	bool		is_template;
	bool		again;			/* the first look failed */
	bool		refused;		/* has the extension, but could get no slot */
} Candidate;

/* Why a database may not have a relay. */
typedef enum Refusal
{
	REFUSAL_NONE,				/* it may */
	REFUSAL_NO_CONNECTIONS,
	REFUSAL_INVALID,
	REFUSAL_LEFT_OUT
} Refusal;

/* What the launcher knows of the relay that it started for a slot. */
typedef struct Worker
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL: none */
	TimestampTz started_at;
	int			delay;			/* ms, before the next one */
	TimestampTz not_before;
	Refusal		warned;			/* why it cannot have one, as was told */
	TimestampTz refused_at;		/* when that was so; 0: it is not */
	uint64		requested;		/* what the relay was asked for by then */
	TimestampTz no_worker_at;	/* when it was told that none is free */
} Worker;

/* One per database slot. */
static Worker *workers = NULL;

/* The relay that looks into a database, and the databases still to come. */
static BackgroundWorkerHandle *probe = NULL;
static TimestampTz probe_started_at;
static Candidate *candidates = NULL;
static int	num_candidates = 0;
static int	max_candidates = 64;
static int	next_candidate = 0;

/* pgpubsub.databases as the list was made by; is it to be made again? */
static char *listed_by = NULL;
static bool list_wanted = false;

/* A database was found that could get no slot; control->version then. */
static bool none_free = false;
static uint32 none_free_version;

/* When databases may be gone through again for that, and the delay, in ms. */
static TimestampTz list_not_before = 0;
static int	list_delay = 0;

/*
 * Register the launcher; from _PG_init(), when preloaded.
 */
void
launcher_init(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "pgpubsub", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "pgpubsub_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pgpubsub launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pgpubsub launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* Start a relay in the database; NULL if there is no free worker slot. */
static BackgroundWorkerHandle *
start_relay(Oid database, const char *name)
{
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	MemoryContext old;
	bool		started;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	strlcpy(worker.bgw_library_name, "pgpubsub", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "pgpubsub_relay_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, RELAY_TITLE, name);
	strlcpy(worker.bgw_type, "pgpubsub relay", BGW_MAXLEN);

	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &handle);
	MemoryContextSwitchTo(old);
	return started ? handle : NULL;
}

/* Was *last not within LAST_DELAY_MS?  It is now, then. */
static bool
time_to_warn(TimestampTz *last)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(*last, now, LAST_DELAY_MS))
		return false;
	*last = now;
	return true;
}

/* Warn now and then that no worker slot is free for the slot's relay. */
static void
warn_no_worker(Worker *worker, const char *name)
{
	if (time_to_warn(&worker->no_worker_at))
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no relay for database \"%s\"", name),
				 errdetail("No background worker slot is free."),
				 errhint("Raise max_worker_processes (%d) and restart the server.",
						 max_worker_processes)));
}

/*
 * Warn now and then that no worker slot is free to look into databases.  Which
 * of them have the extension is not known, so name all that are still to come.
 */
static void
warn_no_probe(void)
{
	static TimestampTz last = 0;
	StringInfoData names;
	int			count = 0;

	if (!time_to_warn(&last))
		return;
	initStringInfo(&names);
	for (int i = next_candidate; i < num_candidates; i++)
	{
		if (registry_find_database(candidates[i].oid) != NULL)
			continue;
		if (++count > NAMES_IN_WARNING)
		{
			appendStringInfoString(&names, ", ...");
			break;
		}
		appendStringInfo(&names, "%s\"%s\"", count > 1 ? ", " : "",
						 candidates[i].name);
	}
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker slot is free to look for databases that want a relay"),
			 errdetail("These have none, and may want one: %s.", names.data),
			 errhint("Raise max_worker_processes (%d) and restart the server.",
					 max_worker_processes)));
	pfree(names.data);
}

/*
 * Looking at pg_database
 */

/* May a relay run in the database of that row? */
static Refusal
find_refusal(HeapTuple tuple)
{
	Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

	if (!form->datallowconn)
		return REFUSAL_NO_CONNECTIONS;
	if (database_is_invalid_form(form))
		return REFUSAL_INVALID;
	if (!registry_database_allowed(NameStr(form->datname)))
		return REFUSAL_LEFT_OUT;
	return REFUSAL_NONE;
}

/* The refusal as a sentence. */
static const char *
describe_refusal(Refusal refusal)
{
	switch (refusal)
	{
		case REFUSAL_NONE:
			break;
		case REFUSAL_NO_CONNECTIONS:
			return "It does not allow connections (ALLOW_CONNECTIONS).";
		case REFUSAL_INVALID:
			return "It is invalid: DROP DATABASE was interrupted.";
		case REFUSAL_LEFT_OUT:
			return "The setting pgpubsub.databases leaves it out.";
	}
	return "";
}

/* The first of the setting's items that lets in a database of that name. */
static int
find_item(List *items, const char *name)
{
	int			index = 0;
	ListCell   *cell;

	foreach(cell, items)
	{
		const char *item = (const char *) lfirst(cell);

		if (strcmp(item, "*") == 0 || strcmp(item, name) == 0)
			break;
		index++;
	}
	return index;
}

/* In what order databases are looked into; for qsort(). */
static int
compare_candidates(const void *a, const void *b)
{
	const Candidate *left = a;
	const Candidate *right = b;

	if (left->rank != right->rank)
		return left->rank < right->rank ? -1 : 1;
	if (left->is_template != right->is_template)
		return left->is_template ? 1 : -1;
	return left->oid < right->oid ? -1 : left->oid > right->oid ? 1 : 0;
}

/* Make the list of databases to look into, from all of pg_database. */
static void
list_candidates(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	List	   *items;

	candidates = MemoryContextAlloc(TopMemoryContext,
									max_candidates * sizeof(Candidate));
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();

	/* the setting's check hook has made sure that this succeeds */
	(void) SplitGUCList(pstrdup(pgpubsub_databases), ',', &items);
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (find_refusal(tuple) != REFUSAL_NONE)
			continue;
		if (num_candidates == max_candidates)
		{
			max_candidates *= 2;
			candidates = repalloc(candidates,
								  max_candidates * sizeof(Candidate));
		}
		candidates[num_candidates].oid = form->oid;
		strlcpy(candidates[num_candidates].name, NameStr(form->datname),
				NAMEDATALEN);
		candidates[num_candidates].rank =
			find_item(items, NameStr(form->datname));
		candidates[num_candidates].is_template = form->datistemplate;
		candidates[num_candidates].again = false;
		candidates[num_candidates].refused = false;
		num_candidates++;
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	qsort(candidates, num_candidates, sizeof(Candidate), compare_candidates);
}

/*
 * The name of the database, if it exists; *refusal is why it may not have a
 * relay.
 */
static bool
look_up_database(Oid oid, char *name, Refusal *refusal)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	*refusal = REFUSAL_NONE;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (!found && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->oid != oid)
			continue;
		found = true;
		strlcpy(name, NameStr(form->datname), NAMEDATALEN);
		*refusal = find_refusal(tuple);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	return found;
}

/*
 * Keeping relays running
 */

/* Is the worker that was started still there? */
static bool
worker_alive(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	return handle != NULL &&
		GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED;
}

/* Is every slot taken?  If so, notes it. */
static bool
note_none_free(void)
{
	bool		found;

	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	found = registry_lookup_database(InvalidOid) != NULL;
	if (!found)
	{
		none_free = true;
		none_free_version = pg_atomic_read_u32(&pgpubsub_control->version);
	}
	LWLockRelease(pgpubsub_control->lock);
	return !found;
}

/* Go through all databases again, whether or not that was done. */
static void
list_again(void)
{
	Candidate  *old = candidates;
	int			num_old = num_candidates;

	Assert(probe == NULL);
	list_wanted = false;
	num_candidates = next_candidate = 0;
	none_free = false;
	list_candidates();
	for (int i = 0; i < num_candidates; i++)
	{
		for (int j = 0; j < num_old; j++)
		{
			if (old[j].oid == candidates[i].oid)
				candidates[i].refused |= old[j].refused;
		}
	}
	pfree(old);
}

/*
 * The probe has ended.  If the database has no slot now, and was not found
 * without the extension, there was none left for it, as it has told; or the
 * worker failed: look into it once more at the end.
 */
static void
end_probe(void)
{
	Candidate  *candidate = &candidates[next_candidate - 1];

	pfree(probe);
	probe = NULL;
	candidate->refused = false;
	if (pgpubsub_control->probed == candidate->oid ||
		registry_find_database(candidate->oid) != NULL)
		return;
	candidate->refused = note_none_free();
	if (candidate->refused || candidate->again)
		return;
	if (num_candidates == max_candidates)
	{
		max_candidates *= 2;
		candidates = repalloc(candidates, max_candidates * sizeof(Candidate));
		candidate = &candidates[next_candidate - 1];
	}
	candidates[num_candidates] = *candidate;
	candidates[num_candidates++].again = true;
}

/* Look into the next database, when the last was looked into. */
static void
advance_probe(void)
{
	Candidate  *candidate;

	if (worker_alive(probe))
		return;
	if (probe)
		end_probe();
	if (list_wanted)
		list_again();
	while (next_candidate < num_candidates)
	{
		candidate = &candidates[next_candidate];

		/* it may have got its slot by itself, or would be told the same */
		if (registry_find_database(candidate->oid) != NULL ||
			(candidate->refused && note_none_free()))
		{
			next_candidate++;
			continue;
		}
		probe_started_at = GetCurrentTimestamp();
		probe = start_relay(candidate->oid, candidate->name);
		if (probe)
			next_candidate++;
		else
			warn_no_probe();
		return;
	}
}

/*
 * If the probe looks into this database, which has a slot now, it is the slot's
 * relay, or is about to find that it has one: wait for its end like for that of
 * any other.
 */
static void
adopt_probe(Worker *worker)
{
	if (probe == NULL || worker->handle != NULL ||
		candidates[next_candidate - 1].oid != worker->database)
		return;
	worker->handle = probe;
	worker->started_at = probe_started_at;
	probe = NULL;
}

/* What a slot wants, as the launcher sees it. */
typedef struct SlotView
{
	Oid			oid;
	bool		dropping;
	bool		running;
	bool		held;
} SlotView;

/* Look at the slot; free it if that is due. */
static void
view_slot(Database *database, SlotView *view)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->hold_pid != 0 &&
		BackendPidGetProc(database->hold_pid) == NULL)
		database->hold_pid = 0;
	if (database->oid != InvalidOid && database->dropping &&
		database->relay.pid == 0)
		registry_free_database(database);
	view->oid = database->oid;
	view->dropping = database->dropping;
	view->running = database->relay.pid != 0;
	view->held = database->hold_pid != 0;
	LWLockRelease(pgpubsub_control->lock);
}

/*
 * Wait longer after each relay of the slot that ended too soon.  One that was
 * asked to leave, or terminated, did not.
 */
static void
note_end(Worker *worker, Database *database)
{
	TimestampTz now = GetCurrentTimestamp();

	pfree(worker->handle);
	worker->handle = NULL;
	if (database->relay.listened &&
		(!database->relay.failed ||
		 TimestampDifferenceExceeds(worker->started_at, now, SOON_MS)))
		worker->delay = 0;
	else
		worker->delay = Min(Max(2 * worker->delay, FIRST_DELAY_MS),
							LAST_DELAY_MS);
	worker->not_before = TimestampTzPlusMilliseconds(now, worker->delay);
}

/* Warn, unless that was told, why the database of a slot has no relay. */
static void
warn_cannot(Worker *worker, const char *name, Refusal refusal)
{
	if (worker->warned == refusal)
		return;
	worker->warned = refusal;
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no relay for database \"%s\"", name),
			 errdetail("%s", describe_refusal(refusal)),
			 errhint("Its subscriptions get no events until that is changed and the configuration is reloaded.")));
}

/* Free the slot of a database that is no more. */
static void
drop_slot(Database *database, Oid oid)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && database->relay.pid == 0)
		registry_free_database(database);
	LWLockRelease(pgpubsub_control->lock);
}

/* Say why the database has no relay, if the slot is its and it has none. */
static void
set_unavailable(Database *database, Oid oid, RelayUnavailable unavailable)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && database->relay.pid == 0)
		pg_atomic_write_u32(&database->relay.unavailable, unavailable);
	LWLockRelease(pgpubsub_control->lock);
}

/* A relay that ends without having come further is one that came nowhere. */
static void
expect_relay(Database *database, Oid oid)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && database->relay.pid == 0)
		database->relay.listened = database->relay.failed = false;
	LWLockRelease(pgpubsub_control->lock);
}

/* Start the slot's relay, if its database may have one. */
static void
start_slot_relay(Database *database, Worker *worker, SlotView *view)
{
	char		name[NAMEDATALEN];
	Refusal		refusal;

	if (!look_up_database(view->oid, name, &refusal))
	{
		drop_slot(database, view->oid);
		return;
	}
	if (refusal != REFUSAL_NONE)
	{
		set_unavailable(database, view->oid, RELAY_LEFT_OUT);
		warn_cannot(worker, name, refusal);
		worker->refused_at = GetCurrentTimestamp();
		worker->requested = pg_atomic_read_u64(&database->requests.made);
		worker->not_before = TimestampTzPlusMilliseconds(worker->refused_at,
														 LAST_DELAY_MS);
		return;
	}
	worker->refused_at = 0;
	worker->warned = REFUSAL_NONE;
	expect_relay(database, view->oid);
	worker->started_at = GetCurrentTimestamp();
	worker->handle = start_relay(view->oid, name);
	if (worker->handle == NULL)
	{
		set_unavailable(database, view->oid, RELAY_NO_WORKER);
		warn_no_worker(worker, name);
		worker->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 RETRY_MS);
	}
}

/*
 * When the slot's next relay may be started.  If its database could not have
 * one, and somebody has asked for something since, look again soon.
 */
static TimestampTz
next_start(Database *database, Worker *worker)
{
	if (worker->refused_at != 0 &&
		pg_atomic_read_u64(&database->requests.made) != worker->requested)
		return TimestampTzPlusMilliseconds(worker->refused_at, RETRY_MS);
	return worker->not_before;
}

/*
 * See to it that the slot has a relay, if it shall.  Returns how long the
 * launcher may sleep on its account, in ms; -1 for ever.
 */
static long
supervise(Database *database, Worker *worker)
{
	SlotView	view;
	TimestampTz now;
	TimestampTz start;

	view_slot(database, &view);
	if (view.oid != worker->database)
	{
		/* another database has the slot now */
		if (worker->handle)
			pfree(worker->handle);
		memset(worker, 0, sizeof(Worker));
		worker->database = view.oid;
	}
	if (OidIsValid(view.oid))
		adopt_probe(worker);
	if (worker->handle && !worker_alive(worker->handle))
		note_end(worker, database);
	if (!OidIsValid(view.oid) || view.dropping || view.running ||
		view.held || worker->handle != NULL)
		return view.held ? 1000 : -1;

	now = GetCurrentTimestamp();
	start = next_start(database, worker);
	if (start > now)
		return TimestampDifferenceMilliseconds(now, start) + 1;
	start_slot_relay(database, worker, &view);
	return worker->handle ? -1 :
		TimestampDifferenceMilliseconds(now, next_start(database, worker)) + 1;
}

/* Go through all slots once; how long the launcher may sleep, as above. */
static long
supervise_all(void)
{
	long		timeout = -1;

	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		long		wanted = supervise(&pgpubsub_control->databases[i],
									   &workers[i]);

		if (wanted >= 0 && (timeout < 0 || wanted < timeout))
			timeout = wanted;
	}
	return timeout;
}

/*
 * Ask the slot's relay to leave, if it has one.  Nothing more is staged from
 * now on; what is, the relay sends before it goes.
 */
static void
send_away(Database *database, Oid oid)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	if (database->oid == oid && database->relay.pid != 0)
	{
		pg_atomic_write_u32(&database->relay.unavailable, RELAY_LEFT_OUT);
		pg_memory_barrier();
		database->relay.leave = true;
	}
	LWLockRelease(pgpubsub_control->lock);
	registry_wake(&database->relay.procno);
}

/*
 * The configuration was read again: relays whose databases may have none now
 * leave, and whatever could not be started is tried at once.
 */
static void
review_slots(void)
{
	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		Database   *database = &pgpubsub_control->databases[i];
		Oid			oid = database->oid;
		char		name[NAMEDATALEN];
		Refusal		refusal;

		workers[i].not_before = 0;
		if (OidIsValid(oid) && look_up_database(oid, name, &refusal) &&
			refusal != REFUSAL_NONE)
			send_away(database, oid);
	}
}

/* Look into databases that pgpubsub.databases lets in since it was changed. */
static void
follow_setting(void)
{
	if (listed_by != NULL && strcmp(listed_by, pgpubsub_databases) == 0)
		return;
	if (listed_by != NULL)
	{
		pfree(listed_by);
		list_wanted = true;
		pg_atomic_fetch_add_u32(&pgpubsub_control->version, 1);
	}
	listed_by = MemoryContextStrdup(TopMemoryContext, pgpubsub_databases);
}

/*
 * Go through the databases again if some could get no slot and one has become
 * free since.  Returns how long the launcher may sleep until then, in ms; -1
 * for ever.
 */
static long
look_for_refused(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!none_free || list_wanted || next_candidate < num_candidates ||
		probe != NULL ||
		pg_atomic_read_u32(&pgpubsub_control->version) == none_free_version)
		return -1;
	if (list_not_before > now)
		return TimestampDifferenceMilliseconds(now, list_not_before) + 1;

	/* slots that come and go shall not have the log filled */
	if (TimestampDifferenceExceeds(list_not_before, now, LAST_DELAY_MS))
		list_delay = 0;
	list_delay = Min(Max(2 * list_delay, FIRST_DELAY_MS), LAST_DELAY_MS);
	list_not_before = TimestampTzPlusMilliseconds(now, list_delay);
	list_again();
	return 0;
}

/* At exit: nobody is to be woken any more. */
static void
launcher_exit(int code, Datum arg)
{
	pg_atomic_write_u32(&pgpubsub_control->launcher_procno, PG_UINT32_MAX);
}

/*
 * The launcher's entry point.
 */
void
pgpubsub_launcher_main(Datum arg)
{
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	/* connected to no database, it has only what the configuration sets */
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);

	before_shmem_exit(launcher_exit, (Datum) 0);
	pg_atomic_write_u32(&pgpubsub_control->launcher_procno,
						(uint32) PGPUBSUB_MY_PROCNO);
	workers = MemoryContextAllocZero(TopMemoryContext,
									 pgpubsub_max_databases * sizeof(Worker));
	list_candidates();
	follow_setting();

	for (;;)
	{
		long		timeout;
		long		look;

		/* the status has the postmaster start it again, if the server goes on */
		worker_exit_if_terminated(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			review_slots();
			follow_setting();
		}
		timeout = supervise_all();
		advance_probe();
		look = look_for_refused();
		if (look >= 0 && (timeout < 0 || timeout > look))
			timeout = look;
		if (next_candidate < num_candidates &&
			(timeout < 0 || timeout > RETRY_MS))
			timeout = RETRY_MS;
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_LAUNCHER_MAIN));
		ResetLatch(MyLatch);
	}
}

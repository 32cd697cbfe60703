/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Keeping a relay running for each database that has a slot.
 *
 * 1. The launcher is a static background worker, connected to no database.  It
 *	  finds the databases that are to have a relay (find_databases.c), and after
 *	  that keeps a relay running for each database slot.
 *
 * 2. Only the launcher starts relays.  A relay writes its pid into its
 *	  database's slot before it does anything, under the control lock, and
 *	  leaves if there is one: so there are never two.  It takes its pid out
 *	  again under that lock, and touches the slot no more.
 *
 * 3. A relay that ends wakes the launcher, which starts the next at once when
 *	  the process is gone.  After a relay that ended before it listened, or by
 *	  an error soon after it was started, the next one comes after a delay,
 *	  which grows while they do so.
 *
 * 4. A slot marked dropping is freed when its relay has left.
 *
 * 5. What cannot be mended by trying is tried seldom, and told seldom: why a
 *	  database may not have a relay once, that it could get no slot once until
 *	  one is free, that there are too few workers every 30 s.
 *
 * How databases and the extension in them come and go is in hooks.c.
 *
 *-------------------------------------------------------------------------
 */
#include "server/server.h"

#include "postmaster/interrupt.h"
#include "relay/relay.h"
#include "server/server_internal.h"
#include "storage/ipc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

/* An error within so long of its start is too soon. */
#define SOON_MS			10000

/* What the launcher knows of the relay that it started for a slot. */
typedef struct Worker
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL: none */
	TimestampTz started_at;
	int			delay;			/* ms, before the next relay */
	TimestampTz not_before;		/* the next relay */
	Refusal		warned;			/* why it has no relay, as was warned of */
	TimestampTz refused_at;		/* when the database was refused; 0: it is not */
	uint64		requested;		/* requests that there were by then */
	TimestampTz no_worker_at;	/* last warning that no worker slot is free */
} Worker;

/* One per database slot. */
static Worker *workers = NULL;

/* Fill in what the launcher and the relays have in common. */
static void
describe_worker(BackgroundWorker *worker, const char *type,
				const char *function)
{
	memset(worker, 0, sizeof(BackgroundWorker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	strlcpy(worker->bgw_library_name, "pgpubsub", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker->bgw_name, type, BGW_MAXLEN);
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
}

/*
 * Register the launcher; from _PG_init(), when preloaded.
 */
void
launcher_init(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return;
	describe_worker(&worker, "pgpubsub launcher", "pgpubsub_launcher_main");
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
}

/*
 * Start a relay in the database; NULL if there is no free worker slot.
 */
BackgroundWorkerHandle *
launcher_start_relay(Oid database, const char *name)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	MemoryContext old;
	bool		started;

	describe_worker(&worker, "pgpubsub relay", "pgpubsub_relay_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, RELAY_TITLE, name);
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = MyProcPid;
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &handle);
	MemoryContextSwitchTo(old);
	return started ? handle : NULL;
}

/*
 * Was *last longer ago than LAST_DELAY_MS?  Then sets it to now.
 */
bool
launcher_time_to_warn(TimestampTz *last)
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
	if (launcher_time_to_warn(&worker->no_worker_at))
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no relay for database \"%s\"", name),
				 errdetail("No background worker slot is free."),
				 errhint("Raise max_worker_processes (%d) and restart the server.",
						 max_worker_processes)));
}

/*
 * Is the worker that was started still there, or about to be?
 */
bool
launcher_worker_alive(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	return handle != NULL &&
		GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED;
}

/* What a slot wants, as the launcher sees it. */
typedef struct SlotView
{
	Oid			oid;
	bool		dropping;
	bool		running;
	bool		held;
} SlotView;

/*
 * Look at the slot; free it if that is due.  A process that has ended without
 * letting go of the slot holds it no more.
 */
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
 * The slot's relay has ended.  Wait longer after each that ended too soon; one
 * that was asked to leave, or terminated, did not.  (No lock: if a session
 * frees the slot just now, at worst the next relay comes after a delay.)
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

/* Warn why the database of a slot has no relay, once for each reason. */
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

/*
 * Take the control lock, which the caller releases.  Returns whether the slot
 * is still that database's, and no relay has it.
 */
static bool
lock_idle_slot(Database *database, Oid oid)
{
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	return database->oid == oid && database->relay.pid == 0;
}

/* Let sessions know why the database has no relay, if it still has none. */
static void
set_unavailable(Database *database, Oid oid, RelayUnavailable unavailable)
{
	if (lock_idle_slot(database, oid))
		pg_atomic_write_u32(&database->relay.unavailable, unavailable);
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
		/* the database is no more */
		if (lock_idle_slot(database, view->oid))
			registry_free_database(database);
		LWLockRelease(pgpubsub_control->lock);
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

	/*
	 * A relay that ends before it writes into the slot must not be taken for
	 * the last one that listened.
	 */
	if (lock_idle_slot(database, view->oid))
		database->relay.listened = database->relay.failed = false;
	LWLockRelease(pgpubsub_control->lock);

	worker->started_at = GetCurrentTimestamp();
	worker->handle = launcher_start_relay(view->oid, name);
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
 * See to it that the slot has a relay, if it is to have one.  Returns how long
 * the launcher may sleep, in ms; -1 for ever.
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
	if (OidIsValid(view.oid) && worker->handle == NULL)
		worker->handle = search_give_probe(view.oid, &worker->started_at);
	if (worker->handle && !launcher_worker_alive(worker->handle))
		note_end(worker, database);
	if (!OidIsValid(view.oid) || view.dropping || view.running ||
		view.held || worker->handle != NULL)
		return view.held ? RETRY_MS : -1;

	now = GetCurrentTimestamp();
	start = next_start(database, worker);
	if (start > now)
		return TimestampDifferenceMilliseconds(now, start) + 1;
	start_slot_relay(database, worker, &view);
	return worker->handle ? -1 :
		TimestampDifferenceMilliseconds(now, next_start(database, worker)) + 1;
}

/* Supervise all slots; returns the shortest that supervise() does. */
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
 * The configuration was read again: relays whose databases may have none now
 * leave, and whatever could not be started is tried at once.
 */
static void
review_slots(void)
{
	for (int i = 0; i < pgpubsub_max_databases; i++)
	{
		Database   *database = &pgpubsub_control->databases[i];
		Oid			oid = database->oid;	/* send_relay_away() looks again */
		char		name[NAMEDATALEN];
		Refusal		refusal;

		workers[i].not_before = 0;
		if (OidIsValid(oid) && look_up_database(oid, name, &refusal) &&
			refusal != REFUSAL_NONE)
			send_relay_away(database, oid, false);
	}
}

/* At exit: there is no launcher to be woken any more. */
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

	/* the configuration may say otherwise */
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_SUSET, PGC_S_OVERRIDE);

	before_shmem_exit(launcher_exit, (Datum) 0);
	pg_atomic_write_u32(&pgpubsub_control->launcher_procno,
						(uint32) PGPUBSUB_MY_PROCNO);
	workers = MemoryContextAllocZero(TopMemoryContext,
									 pgpubsub_max_databases * sizeof(Worker));
	search_begin();

	for (;;)
	{
		long		timeout;
		long		search;

		/* the status has the postmaster start it again, if the server goes on */
		worker_exit_if_terminated(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			review_slots();
			search_follow_setting();
		}
		timeout = supervise_all();
		search_advance();
		search = search_timeout();
		if (search >= 0 && (timeout < 0 || timeout > search))
			timeout = search;
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_LAUNCHER_MAIN));
		ResetLatch(MyLatch);
	}
}

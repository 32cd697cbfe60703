/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  The relay: one background worker per database, and its loop.
 *
 * 1. The relay LISTENs to the reserved channel and to every channel that a
 *	  subscription is bound to (listen.c).  In each round it has core deliver
 *	  what was notified into its inbox (receive.c), takes what is staged
 *	  (staged.c), appends both to the ring (append.c), and notifies native
 *	  listeners of what was staged.
 *
 * 2. Backends ask for something by raising a counter and setting the relay's
 *	  latch.  It brings subscriptions in line with their table
 *	  (load_subscriptions.c), LISTENs and UNLISTENs, then reads all that is
 *	  committed by then, staged events included, and only then says that it has
 *	  handled the request.
 *
 * 3. When the relay starts, it cannot know what was sent while there was
 *	  none: every subscription is told so by the database's gap epoch.
 *
 * 4. An event that comes alone is handled at once.  Under load that would take
 *	  the CPU from writers and readers: a transaction, a look at core's queue
 *	  and a signal to every waiting reader for one event.  So the relay lets
 *	  some time pass between two rounds, in which nobody has to wake it:
 *
 *	  - 1 ms while many sessions publish at once.  That is seen by how often the
 *		writer changes from one event to the next: more often than there are
 *		rounds, and more than BUSY_PER_MS times in a millisecond.  One session
 *		alone, however fast it commits, never waits for this;
 *	  - as long as the readers that were woken need to come back, so that the
 *		next round finds most of them waiting, and each gets several events
 *		for one wake-up; at most LONGEST_PAUSE_MS.
 *
 *	  It does not pause while the queue is full, or the staging queue fills up,
 *	  or somebody waits for a request.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay.h"

#include "access/xact.h"
#include "base/debug.h"
#include "catalog/pg_authid.h"
#include "commands/async.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "mb/pg_wchar.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "publish/publish.h"
#include "relay/relay_internal.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"

/* A request that could not be done is tried again after so long. */
#define RETRY_MS		200

/* A relay that leaves for good sends what is staged within this time. */
#define FINISH_MS		2000

/* How long rounds are counted before the pace is set anew, in ms. */
#define PACE_WINDOW_MS	10

/* Changes of the writer in a millisecond that make a load. */
#define BUSY_PER_MS		0.5

/* A reader that is woken has come back, and left others some time, in us. */
#define READER_US		200

#define LONGEST_PAUSE_MS	40

Relay		relay;

static RelayPace *const pace = &relay.pace;

/*
 * End with this exit status, and without core's FATAL message, if this worker
 * is told to end: it has nothing under way where it asks, and who watches the
 * log shall not be alarmed by an orderly shutdown.
 */
void
worker_exit_if_terminated(int code)
{
	if (!ProcDiePending)
		return;

	/* ereport() looks for interrupts too */
	ProcDiePending = false;
	ereport(DEBUG1,
			(errmsg_internal("%s shutting down", MyBgworkerEntry->bgw_type)));
	proc_exit(code);
}

/*
 * Begin a transaction; pg_stat_activity shows the activity meanwhile.
 */
void
relay_begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, activity);
	StartTransactionCommand();
}

/*
 * Commit that transaction.
 */
void
relay_end(void)
{
	CommitTransactionCommand();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Or roll it back, where no error was raised.
 */
void
relay_undo(void)
{
	AbortCurrentTransaction();
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * In PG_CATCH(): roll the transaction back, and return the error, which is in
 * MessageContext, as is what is allocated next.
 */
ErrorData *
relay_abort(void)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(MessageContext);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	LockTimeout = 0;
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(MessageContext);
	pgstat_report_activity(STATE_IDLE, NULL);
	return error;
}

/*
 * What is in the inbox for this channel is lost, as the next relay will say by
 * a gap, and the numbers of its events are given to others.  So no position may
 * be beyond what is in the ring, and a subscription that holds must hold
 * whatever comes there next.  (The cursors of open transactions follow when
 * they find the gap; see position_sync().)  The database's lock must be held,
 * exclusive.
 */
static void
forget_received(int slot)
{
	Database   *database = relay.database;
	Channel    *channel = &database->channels[slot];
	uint64		newest = ring_newest_number(database->ring, slot);
	dlist_iter	iter;

	pg_atomic_write_u32(&channel->listening, 0);
	pg_atomic_write_u64(&channel->received, newest);
	dlist_foreach(iter, &channel->bindings)
	{
		Binding    *binding = dlist_container(Binding, channel_node, iter.cur);
		uint64		number = pg_atomic_read_u64(&binding->number);

		if (number <= newest || number == BINDING_UNPLACED)
			continue;
		pg_atomic_write_u64(&binding->number, newest);
		ring_lower_hold(database->ring, slot, newest);
	}
	registry_channel_released(channel);
}

/*
 * At exit, however it comes about: let others know that no relay runs.  What
 * they see of it changes in one step under the control lock.  When relay.pid is
 * given up, the slot may be the next relay's, or another database's: this
 * process writes nothing there any more.
 */
static void
relay_exit(int code, Datum arg)
{
	Database   *database = relay.database;

	LWLockReleaseAll();
	commit_append_take_turn(database);
	relay_append_exit();
	relay_turn_segments_exit();
	relay_listen_exit();
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	Assert(database->relay.pid == MyProcPid);
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	for (int slot = 0; slot < pgpubsub_max_channels; slot++)
		forget_received(slot);
	LWLockRelease(database->lock);
	pg_atomic_write_u32(&database->relay.state, RELAY_STOPPED);
	database->relay.pid = 0;
	database->relay.failed = code != 0 &&
		pgStatSessionEndCause != DISCONNECT_KILLED;
	database->relay.leave = false;
	pg_atomic_write_u32(&database->relay.procno, PG_UINT32_MAX);
	LWLockRelease(pgpubsub_control->lock);
	DEBUG_POINT("relay_exit");
	ConditionVariableBroadcast(&database->relay.cv);
	registry_wake(&pgpubsub_control->launcher_procno);
}

/* The extension is not in this database: have its slot freed, if any. */
static void
forget_database(void)
{
	Database   *database;

	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	database = registry_lookup_database(MyDatabaseId);
	if (database && database->creator_pid == 0 && database->relay.pid == 0)
		database->dropping = true;
	pgpubsub_control->probed = MyDatabaseId;
	LWLockRelease(pgpubsub_control->lock);
	registry_wake(&pgpubsub_control->launcher_procno);
}

/*
 * Become the database's relay.  Returns false if it has one, is to have none,
 * or there is no slot for it.
 */
static bool
claim_database(bool installed)
{
	Database   *database;
	bool		claimed = false;

	if (!installed)
	{
		forget_database();
		return false;
	}
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	database = registry_acquire_database(MyDatabaseId);
	if (database)
		claimed = database->relay.pid == 0 && !database->dropping &&
			database->hold_pid == 0;
	if (claimed)
	{
		/* register the callback first: that may fail */
		before_shmem_exit(relay_exit, (Datum) 0);
		relay.database = database;
		database->relay.pid = MyProcPid;
		database->relay.leave = false;
		database->relay.starts++;
		database->relay.listened = database->relay.failed = false;
		pg_atomic_write_u32(&database->relay.state, RELAY_STARTING);
		pg_atomic_write_u32(&database->relay.unavailable, RELAY_AVAILABLE);
		pg_atomic_write_u32(&database->relay.procno,
							(uint32) PGPUBSUB_MY_PROCNO);
	}
	LWLockRelease(pgpubsub_control->lock);
	if (claimed)
		ConditionVariableBroadcast(&database->relay.cv);

	/* the launcher goes on to the next database */
	registry_wake(&pgpubsub_control->launcher_procno);
	if (database == NULL)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no relay for database \"%s\"",
						relay.database_name),
				 errdetail("pgpubsub.max_databases (%d) others have one.",
						   pgpubsub_max_databases),
				 errhint("Raise pgpubsub.max_databases and restart the server, or leave databases out with pgpubsub.databases.")));
	return claimed;
}

/*
 * Is the extension in this database, committed?  Learns the database's name,
 * too, which may have changed since the launcher looked it up, and cannot
 * change any more.
 */
static bool
extension_installed(void)
{
	char		title[BGW_MAXLEN];
	char	   *name;
	bool		installed;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	name = get_database_name(MyDatabaseId);
	strlcpy(relay.database_name, name ? name : "", NAMEDATALEN);
	snprintf(title, sizeof(title), RELAY_TITLE, relay.database_name);
	if (strcmp(title, MyBgworkerEntry->bgw_name) != 0)
		init_ps_display(title);
	installed = OidIsValid(get_extension_oid(PGPUBSUB_EXTENSION, true));
	CommitTransactionCommand();
	return installed;
}

/* Is a CREATE EXTENSION under way in this database? */
static bool
extension_being_created(void)
{
	Database   *database;
	bool		result;

	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	database = registry_lookup_database(MyDatabaseId);
	result = database != NULL && database->creator_pid != 0;
	LWLockRelease(pgpubsub_control->lock);
	return result;
}

/*
 * Override settings that a relay depends on, before it connects: that applies
 * those of the database and the role, except to what a higher source has set.
 */
static void
override_settings(void)
{
	static const char *const settings[][2] = {
		/* whose rights the relay has; for session_authorization see below */
		{"role", "none"},
		{"row_security", "off"},
		{"session_replication_role", "origin"},

		/* what ends it, or has it wait */
		{"exit_on_error", "off"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
#ifdef PGPUBSUB_HAVE_TRANSACTION_TIMEOUT
		{"transaction_timeout", "0"},
#endif
		{"idle_in_transaction_session_timeout", "0"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"synchronous_commit", "off"},
		{"temp_file_limit", "-1"},

		/* any database has a conversion to this one, which is none */
		{"client_encoding", "SQL_ASCII"},

		/* what its queries mean, take, and say */
		{"search_path", "pg_catalog"},
		{"max_parallel_workers_per_gather", "0"},
		{"jit", "off"},
		{"client_min_messages", "error"},
		{"debug_print_parse", "off"},
		{"debug_print_rewritten", "off"},
		{"debug_print_plan", "off"}
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET,
						PGC_S_OVERRIDE);
}

/*
 * Set up what the relay keeps in memory, override the settings that could not
 * be overridden before it was connected, and receive what core sends.
 */
static void
set_up(void)
{
	MessageContext = AllocSetContextCreate(TopMemoryContext,
										   "MessageContext",
										   ALLOCSET_DEFAULT_SIZES);
	relay_listen_init();
	relay_append_init();

	/*
	 * session_authorization cannot be set outside of a transaction, nor
	 * without a role's name; but the relay runs as what it connected as.
	 */
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_SUSET,
					PGC_S_OVERRIDE);
	relay_receive_init();
}

/* Do what backends ask for.  Returns false if a lock has it tried again. */
static bool
handle_requests(void)
{
	Database   *database = relay.database;
	uint64		requested = pg_atomic_read_u64(&database->requests.made);
	bool		done;

	if (requested == pg_atomic_read_u64(&database->requests.handled))
		return true;

	/* the extension may have been updated since the relay began */
	if (!database->log.surveyed)
		relay_recover();
	done = relay_load_subscriptions();
	relay_listen_to_bound(false);
	relay_apply_rules();

	/* what is committed by now was sent before whatever is asked for */
	relay_staged_take_all();
	relay_append();
	relay_durable_work_all();

	/*
	 * The request does not wait for a table that was written by hand and is
	 * locked: that becomes another request.  The first look at the table must
	 * have been taken.
	 */
	if (!done && pg_atomic_read_u32(&database->relay.loaded) == 0)
		return false;
	if (!done)
		pg_atomic_fetch_add_u64(&database->requests.made, 1);
	pg_atomic_write_u64(&database->requests.handled, requested);
	ConditionVariableBroadcast(&database->requests.cv);
	return done;
}

/*
 * What was sent until now may be lost, or was lost, nobody knows how much: tell
 * the subscriptions, but for those all of whose events are in the log.
 */
void
relay_tell_gaps(void)
{
	Database   *database = relay.database;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	pg_atomic_fetch_add_u64(&database->relay_epoch, 1);
	foreach_dlist(Subscription, subscription, node, &database->subscriptions)
	{
		if (!registry_all_durable(database, subscription))
			pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
	}
	LWLockRelease(database->lock);
}

/* Begin to listen, and let others know: all subscriptions may have a gap. */
static void
start_listening(void)
{
	Database   *database = relay.database;
	uint64		requested = pg_atomic_read_u64(&database->requests.made);
	bool		loaded;

	relay_durable_init();
	relay_recover();
	loaded = relay_load_subscriptions();
	relay_listen_to_bound(true);
	relay_apply_rules();
	relay_staged_init();
	relay_tell_gaps();
	database->relay.listened = true;
	pg_atomic_write_u32(&database->relay.state, RELAY_LISTENING);
	ConditionVariableBroadcast(&database->relay.cv);
	if (loaded)
		pg_atomic_write_u64(&database->requests.handled, requested);
	else
		(void) registry_request(database);
	ConditionVariableBroadcast(&database->requests.cv);
	registry_wake_waiters(database);
	ereport(LOG,
			(errmsg("pgpubsub relay for database \"%s\" started",
					relay.database_name)));
}

/* Has somebody asked the relay to leave? */
static bool
asked_to_leave(void)
{
	bool		leave;

	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	leave = relay.database->relay.leave || relay.database->dropping;
	LWLockRelease(pgpubsub_control->lock);
	return leave;
}

/*
 * Before the relay leaves: append and notify what is staged, unless a relay
 * comes after whoever holds the database.  A writer that takes a place from now
 * on sees that it is too late; one that has a place and commits is waited for,
 * FINISH_MS at most.
 */
static void
finish_staged(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   FINISH_MS);
	bool		held;

	do
	{
		LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
		held = relay.database->hold_pid != 0;
		LWLockRelease(pgpubsub_control->lock);
		if (held || (staging_idle(relay.database->staging) &&
					 staging_idle(relay.database->log.staging)))
			return;
		relay_staged_take_all();
		relay_append();
		relay_durable_work_all();
		if (relay_queue_notify(&relay.staged) | relay_durable_notify())
			continue;
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_EXIT));
	} while (GetCurrentTimestamp() < deadline);
}

/*
 * Count an event of that writer in this round.
 */
void
relay_pace_event(int pid)
{
	if (pid != pace->last_pid)
		pace->num_changes++;
	pace->last_pid = pid;
}

/* Count the round; at the end of a window, set the pace for the next. */
static void
end_round(void)
{
	TimestampTz now;
	long		ms;

	if (pace->num_changes == pace->counted && pace->last_pid == 0)
		return;
	pace->counted = pace->num_changes;
	pace->last_pid = 0;
	pace->num_rounds++;
	now = GetCurrentTimestamp();
	ms = (long) ((now - pace->window_start) / 1000);
	if (ms < PACE_WINDOW_MS)
		return;
	pace->busy = pace->num_changes * 4 >= pace->num_rounds * 5 &&
		pace->num_changes >= ms * BUSY_PER_MS;
	pace->window_start = now;
	pace->num_rounds = pace->num_changes = pace->counted = 0;
}

/* Does anybody wait for more than events? */
static bool
needed_now(void)
{
	Database   *database = relay.database;

	return pg_atomic_read_u32(&database->relay.state) != RELAY_LISTENING ||
		pg_atomic_read_u64(&database->requests.made) !=
		pg_atomic_read_u64(&database->requests.handled) ||
		relay_segments_asked();
}

/*
 * The round is over: pause as 4 at the head of this file says, unless there is
 * a backlog.  The relay's latch does not end the pause, so setting it costs
 * the others no signal; interrupts end it within a millisecond.
 */
static void
pause_after_round(bool backlog)
{
	int			ms = Min(pace->num_woken * READER_US / 1000, LONGEST_PAUSE_MS);

	pace->num_woken = 0;
	end_round();
	if (pace->busy)
		ms = Max(ms, 1);
	if (backlog)
		return;
	for (; ms > 0 && !needed_now() && !InterruptPending; ms--)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
}

/* The shorter of two timeouts, of which -1 is the longest. */
static long
shorter_timeout(long a, long b)
{
	if (a < 0 || b < 0)
		return Max(a, b);
	return Min(a, b);
}

/*
 * Sleep until there is something to do; handled: no request has to be tried
 * again.  While the relay sleeps, and knows of nothing to do, writers may
 * append to the ring themselves.
 */
static void
sleep_until_needed(bool handled)
{
	long		timeout = shorter_timeout(relay_append_timeout(),
										  relay_queue_timeout(&relay.staged));
	bool		idle;

	if (!handled)
		timeout = shorter_timeout(timeout, RETRY_MS);

	/* what is due for the log later is no reason to keep the turn */
	idle = timeout < 0;
	timeout = shorter_timeout(timeout, relay_durable_timeout());

	/* a full queue may have left something to append, whatever is due */
	if (idle && timeout != 0 &&
		pg_atomic_read_u32(&relay.database->relay.state) == RELAY_LISTENING)
		commit_append_give_turn(relay.database);
	timeout = shorter_timeout(timeout, relay_turn_segments_timeout());
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
					 (timeout >= 0 ? WL_TIMEOUT : 0),
					 timeout,
					 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
	commit_append_take_turn(relay.database);
	ResetLatch(MyLatch);
}

/* The loop: do what there is to do, again and again, until asked to leave. */
static void
work(void)
{
	RelayRequests *requests = &relay.database->requests;

	while (!asked_to_leave())
	{
		bool		handled;
		bool		more;

		worker_exit_if_terminated(0);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		relay_receive(false);
		DEBUG_POINT("relay_takes");
		relay_staged_take();
		relay_append();
		relay_durable_work();
		handled = handle_requests();
		more = relay_queue_notify(&relay.staged);
		more |= relay_durable_notify();
		relay_apply_rules_again();
		relay_recover_again();
		relay_write_first_positions();
		relay_turn_segments();
		relay_listen_reorder();
		pause_after_round(more || relay_staged_backlog() ||
						  relay_durable_backlog());

		/* a wait for a lock may have reset the latch that a request has set */
		if (notifyInterruptPending || more ||
			(handled && pg_atomic_read_u64(&requests->made) !=
			 pg_atomic_read_u64(&requests->handled)))
			continue;
		pgstat_report_stat(false);
		sleep_until_needed(handled);
	}
}

/*
 * The relay's entry point.
 */
void
pgpubsub_relay_main(Datum database_oid)
{
	bool		creating;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	override_settings();
	DEBUG_POINT("relay_start");
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database_oid),
											  InvalidOid, 0);

	/*
	 * Look in this order: a CREATE EXTENSION that commits in between is then
	 * seen as being created, or as installed, or as both.
	 */
	creating = extension_being_created();
	if (!claim_database(extension_installed() || creating))
		proc_exit(0);
	set_up();
	start_listening();
	work();
	finish_staged();
	ereport(LOG,
			(errmsg("pgpubsub relay for database \"%s\" leaves",
					relay.database_name)));
	proc_exit(0);
}

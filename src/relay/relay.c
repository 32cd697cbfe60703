/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  The relay: one background worker per database.
 *
 * 1. It LISTENs, in its own backend, to the reserved channel and to every
 *	  channel that a subscription is bound to.  Core delivers notifications
 *	  to a frontend; the relay has none, so it points PqCommMethods at
 *	  functions of its own and gets each NotificationResponse there.
 *
 * 2. receive_message() runs inside core's transaction, which holds a
 *	  snapshot, and where any error is FATAL.  It puts together frames, finds
 *	  the channel, copies the event into the inbox, and does nothing else.  It
 *	  raises nothing and waits for nothing but short LWLocks.
 *
 * 3. When core has committed that transaction, the inbox goes into the ring;
 *	  see relay_append.c.
 *
 * 4. Backends ask for something by raising a counter and setting the relay's
 *	  latch.  It LISTENs and UNLISTENs, then reads all that is committed by
 *	  then, staged events included, and only then says that it has handled the
 *	  request.
 *
 * 5. When the relay starts, it cannot know what was sent while there was
 *	  none: every subscription is told so by the database's gap epoch.
 *
 * The table of subscriptions is read by relay_table.c.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay.h"

#include "access/xact.h"
#include "base/debug.h"
#include "base/worker.h"
#include "catalog/pg_authid.h"
#include "commands/async.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "libpq/libpq.h"
#include "libpq/pqcomm.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "publish/commit_append.h"
#include "publish/publish.h"
#include "queue/frame.h"
#include "registry/registry.h"
#include "relay/append.h"
#include "relay/inbox.h"
#include "relay/listen.h"
#include "relay/load_subscriptions.h"
#include "relay/pace.h"
#include "relay/staged.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memdebug.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/timestamp.h"

/* A request that could not be done is tried again after so long. */
#define RETRY_MS	200

/*
 * The native notification that a complete frame was delivered in place of.  It
 * follows at once, if we listen to its channel when core comes to it: that may
 * be after this read, and so after a LISTEN; see listen_to_bound().
 */
typedef struct Twin
{
	bool		expected;
	bool		overdue;		/* with the next read it comes or never does */
	int			pid;
	uint32		crc;
	char		channel[NAMEDATALEN];
} Twin;

static Database *my_slot = NULL;
static char database_name[NAMEDATALEN];
static Inbox *inbox = NULL;
static FrameAssembly assembly;
static Twin twin;

/* The request to read the table again that was done last. */
static uint64 reloaded = 0;

/*
 * Receiving
 */

/* Put an event into the inbox.  The channel's slot cannot be reused. */
static void
receive_event(int slot, int pid, const char *payload, Size len)
{
	relay_pace_event(pid);
	if (inbox_put(inbox, slot, pid, relay_staged_taken(), payload, len))
		pg_atomic_fetch_add_u64(&my_slot->channels[slot].received, 1);
	else
		my_slot->relay.lost_events = true;
}

/* A notification on the reserved channel. */
static void
receive_frame(int pid, const char *text, Size len)
{
	uint64		bad = assembly.bad;
	FrameResult result = frame_accept(&assembly, pid, text, len,
									  publish_payload_limit());
	int			slot;

	if (assembly.bad != bad)
		pg_atomic_fetch_add_u64(&my_slot->relay.bad_frames,
								(int64) (assembly.bad - bad));
	twin.expected = false;
	if (result != FRAME_COMPLETE)
		return;

	slot = relay_pin_bound_channel(my_slot, assembly.channel);
	if (slot >= 0)
	{
		receive_event(slot, pid, assembly.data, assembly.len);
		relay_unpin_channel(my_slot, slot);
	}

	twin.expected = true;
	twin.overdue = false;
	twin.pid = pid;
	twin.crc = assembly.native_crc;
	strlcpy(twin.channel, assembly.channel, NAMEDATALEN);
	frame_drop(&assembly);
}

/* Was the event delivered already, from its frames? */
static bool
is_twin(int pid, const char *channel, const char *payload, Size len)
{
	bool		result = twin.expected && twin.pid == pid &&
		strcmp(twin.channel, channel) == 0 &&
		twin.crc == frame_crc(payload, len);

	twin.expected = false;
	return result;
}

/*
 * A notification on a channel that we listen to.  One of our own is of a
 * staged event, which does not come this way.
 */
static void
receive_native(int pid, const char *channel, const char *payload, Size len)
{
	int			slot = relay_listen_receive(channel);

	if (assembly.active)
	{
		/* the parts of an event come one after the other */
		frame_drop(&assembly);
		pg_atomic_fetch_add_u64(&my_slot->relay.bad_frames, 1);
	}
	if (twin.expected && is_twin(pid, channel, payload, len))
		return;
	if (slot >= 0 && pid != MyProcPid)
		receive_event(slot, pid, payload, len);
}

/*
 * Core sends a message to the frontend.  NotificationResponse is an int32 in
 * network order, the channel and the payload, each terminated.  All else
 * (NOTICEs, ERRORs) is in the server log and nowhere else.  Must not raise
 * anything, must not wait.
 */
static int
receive_message(char msgtype, const char *s, size_t len)
{
	uint32		pid;
	const char *channel;
	const char *payload;
	Size		channel_len;

	if (msgtype != 'A' || my_slot == NULL || len < sizeof(pid) + 2)
		return 0;

	/* memcheck takes what others have put into core's queue for our padding */
	VALGRIND_MAKE_MEM_DEFINED(s, len);
	memcpy(&pid, s, sizeof(pid));
	pid = pg_ntoh32(pid);
	channel = s + sizeof(pid);
	channel_len = strnlen(channel, len - sizeof(pid));
	payload = channel + channel_len + 1;
	if (payload >= s + len || channel_len > PGPUBSUB_CHANNEL_MAX)
		return 0;

	len = strnlen(payload, s + len - payload);
	if (publish_channel_reserved(channel))
		receive_frame((int) pid, payload, len);
	else
		receive_native((int) pid, channel, payload, len);
	return 0;
}

/* Nothing to reset, to flush, or to be pending. */
static void
relay_comm_reset(void)
{
}

static int
relay_flush(void)
{
	return 0;
}

static bool
relay_is_send_pending(void)
{
	return false;
}

static void
relay_putmessage_noblock(char msgtype, const char *s, size_t len)
{
	(void) receive_message(msgtype, s, len);
}

static const PQcommMethods relay_comm_methods = {
	.comm_reset = relay_comm_reset,
	.flush = relay_flush,
	.flush_if_writable = relay_flush,
	.is_send_pending = relay_is_send_pending,
	.putmessage = receive_message,
	.putmessage_noblock = relay_putmessage_noblock
};

/* Have core read its queue now, whether or not it has signalled us. */
static void
read_notifications(bool force)
{
	if (force)
		notifyInterruptPending = true;
	if (!notifyInterruptPending)
		return;
	inbox_reserve(inbox);
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "reading notifications");
	ProcessNotifyInterrupt(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (my_slot->relay.lost_events)
	{
		my_slot->relay.lost_events = false;
		pg_atomic_fetch_add_u64(&my_slot->gap_epoch, 1);
		ereport(LOG,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("pgpubsub relay has lost events for want of memory")));
		registry_wake_waiters(my_slot);
	}
}

/*
 * Listen to what is bound, as relay_listen_to_bound().
 *
 * Core's read may have ended between a frame and its native notification,
 * although their transaction is committed: it goes as far as the queue went
 * when it began, and a transaction's entries get there a page at a time.  If
 * we listen to the channel by now, the next read begins with the native one;
 * if not, it comes never.  What could be mistaken for it, the same text sent
 * by that session without a frame, is not sent before the channel is
 * announced.
 */
static void
listen_to_bound(bool first)
{
	relay_listen_to_bound(first);
	twin.overdue = true;
	if (twin.expected)
		read_notifications(true);

	/* that read may have ended just behind another frame */
	if (twin.overdue)
		twin.expected = false;
	relay_listen_announce();
}

/*
 * Requests
 */

/*
 * Drop the subscriptions that are doomed and that nobody reads.  Returns
 * whether there is a stale one that nobody reads.
 */
static bool
drop_doomed(void)
{
	dlist_mutable_iter iter;
	bool		stale = false;

	LWLockAcquire(my_slot->lock, LW_EXCLUSIVE);
	dlist_foreach_modify(iter, &my_slot->subscriptions)
	{
		Subscription *subscription = dlist_container(Subscription, node,
													 iter.cur);

		/* none can become its reader: a doomed one is visible to nobody */
		if (subscription->reader_pid != 0)
			continue;
		stale |= subscription->stale;
		if (subscription->doomed)
			registry_drop_subscription(my_slot, subscription);
	}
	LWLockRelease(my_slot->lock);
	return stale;
}

/*
 * Bring subscriptions in line with the table, if it may have changed.
 * Returns false if that has to be tried again.
 */
static bool
reload_table(void)
{
	uint64		reload = pg_atomic_read_u64(&my_slot->requests.reload);

	if (!drop_doomed() && reload == reloaded &&
		pg_atomic_read_u32(&my_slot->relay.loaded) != 0)
		return relay_table_adopt(my_slot);
	if (!relay_table_load(my_slot))
		return false;
	reloaded = reload;
	pg_atomic_write_u32(&my_slot->relay.loaded, 1);
	(void) drop_doomed();
	return relay_table_adopt(my_slot);
}

/*
 * Taking
 *
 * An async transaction that could not be staged was published by NOTIFY.  What
 * comes after it, of the same session say, has taken its place after that
 * commit, and must not overtake it.  So the relay first looks where the places
 * end, then reads what was notified by then, and takes no place beyond that
 * end.
 */

/* Read core's queue, and remember which transactions were not staged. */
static void
read_all_notifications(void)
{
	uint64		ended = pg_atomic_read_u64(&my_slot->unstaged.ended);

	/* what has ended is in core's queue */
	pg_memory_barrier();
	read_notifications(true);
	pg_atomic_write_u64(&my_slot->unstaged.read, ended);
}

/* Take what is staged, as relay_staged_take(). */
static void
take_staged(void)
{
	uint64		end = relay_staged_begin();

	/* a transaction was counted before what follows it took its place */
	pg_memory_barrier();
	if (pg_atomic_read_u64(&my_slot->unstaged.begun) !=
		pg_atomic_read_u64(&my_slot->unstaged.read))
		read_all_notifications();
	relay_staged_take(end);
}

/* Read and take all that is committed by now. */
static void
take_all_staged(void)
{
	uint64		end = relay_staged_begin();

	pg_memory_barrier();
	read_all_notifications();
	relay_staged_take_all(end);
}

/*
 * Do what backends have asked for.  Returns false if it has to be tried
 * again, because the table is locked.
 */
static bool
handle_requests(void)
{
	uint64		requested = pg_atomic_read_u64(&my_slot->requests.made);
	bool		done;

	if (requested == pg_atomic_read_u64(&my_slot->requests.handled))
		return true;

	done = reload_table();
	listen_to_bound(false);

	/* what is committed by now was sent before whatever is asked for */
	take_all_staged();
	relay_append();

	/* a table written by hand may come later; but not the first look at it */
	if (!done && pg_atomic_read_u32(&my_slot->relay.loaded) == 0)
		return false;
	if (!done)
		pg_atomic_fetch_add_u64(&my_slot->requests.made, 1);
	pg_atomic_write_u64(&my_slot->requests.handled, requested);
	ConditionVariableBroadcast(&my_slot->requests.cv);
	return done;
}

/*
 * Life
 */

/* Show what the relay is about. */
static void
set_relay_state(RelayState state)
{
	pg_atomic_write_u32(&my_slot->relay.state, state);
	ConditionVariableBroadcast(&my_slot->relay.cv);
}

/*
 * What is in the inbox is lost, as the next relay will say: the numbers of its
 * events are given to others.  So no position may be beyond what is in the
 * ring, and nobody may hold less than what comes there next.  (The cursors of
 * open transactions follow when they find the gap; see reader_sync().)  The
 * database's lock is held, exclusive.
 */
static void
forget_received(int slot)
{
	Channel    *channel = &my_slot->channels[slot];
	uint64		newest = ring_newest_number(my_slot->ring, slot);
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
		ring_lower_hold(my_slot->ring, slot, newest);
	}
	registry_channel_released(channel);
}

/*
 * At exit, however it comes about: let others know that no relay runs.  What
 * they see of it changes in one step under the control lock, of which giving up
 * relay_pid is a part: from then on the slot may be the next relay's, or
 * another database's, and nothing is written there any more.
 */
static void
relay_exit(int code, Datum arg)
{
	LWLockReleaseAll();
	commit_append_take_turn(my_slot);
	relay_append_exit(my_slot);
	relay_listen_exit();
	LWLockAcquire(pgpubsub_control->lock, LW_EXCLUSIVE);
	Assert(my_slot->relay.pid == MyProcPid);
	LWLockAcquire(my_slot->lock, LW_EXCLUSIVE);
	for (int slot = 0; slot < pgpubsub_max_channels; slot++)
		forget_received(slot);
	LWLockRelease(my_slot->lock);
	pg_atomic_write_u32(&my_slot->relay.state, RELAY_STOPPED);
	my_slot->relay.pid = 0;
	my_slot->relay.failed = code != 0 &&
		pgStatSessionEndCause != DISCONNECT_KILLED;
	my_slot->relay.leave = false;
	pg_atomic_write_u32(&my_slot->relay.procno, PG_UINT32_MAX);
	LWLockRelease(pgpubsub_control->lock);
	DEBUG_POINT("relay_exit");
	ConditionVariableBroadcast(&my_slot->relay.cv);
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
	{
		claimed = database->relay.pid == 0 && !database->dropping &&
			database->hold_pid == 0;
	}
	if (claimed)
	{
		/* this first: it may fail */
		before_shmem_exit(relay_exit, (Datum) 0);
		my_slot = database;
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
						database_name),
				 errdetail("pgpubsub.max_databases (%d) others have one.",
						   pgpubsub_max_databases),
				 errhint("Raise pgpubsub.max_databases and restart the server, or leave databases out with pgpubsub.databases.")));
	return claimed;
}

/*
 * Learn the database's name, for messages and the process's title.  It stays as
 * long as we are connected; the launcher may have looked it up before it was
 * changed.  In a transaction.
 */
static void
learn_name(void)
{
	char		title[BGW_MAXLEN];
	char	   *name = get_database_name(MyDatabaseId);

	strlcpy(database_name, name ? name : "", sizeof(database_name));
	snprintf(title, sizeof(title), RELAY_TITLE, database_name);
	if (strcmp(title, MyBgworkerEntry->bgw_name) != 0)
		init_ps_display(title);
}

/* Is the extension in this database, committed?  Learns its name, too. */
static bool
extension_installed(void)
{
	bool		installed;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	learn_name();
	installed = OidIsValid(get_extension_oid(PGPUBSUB_EXTENSION, true));
	CommitTransactionCommand();
	return installed;
}

/* Is a CREATE EXTENSION under way in this database? */
static bool
extension_being_created(void)
{
	Database   *database = registry_find_database(MyDatabaseId);

	return database != NULL && database->creator_pid != 0;
}

/*
 * Override what a database, its owner or a role may have set for sessions; a
 * relay depends on it.  Before it connects: connecting applies their settings,
 * and ignores those that were set from a higher source.
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
 * Override what could not be before the relay was connected.  Then have what
 * core sends to a frontend.
 */
static void
set_up_session(void)
{
	/*
	 * session_authorization cannot be set outside of a transaction, nor
	 * without a role's name; but the relay runs as what it connected as.
	 */
	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);
	SetConfigOption("client_encoding", GetDatabaseEncodingName(), PGC_SUSET,
					PGC_S_OVERRIDE);

	whereToSendOutput = DestRemote;
	FrontendProtocol = PG_PROTOCOL_LATEST;
	PqCommMethods = &relay_comm_methods;
}

/* Make what the relay keeps in its own memory. */
static void
set_up_memory(void)
{
	inbox = inbox_create(AllocSetContextCreate(TopMemoryContext,
											   "pgpubsub inbox",
											   ALLOCSET_DEFAULT_SIZES));
	assembly.context = TopMemoryContext;
	MessageContext = AllocSetContextCreate(TopMemoryContext,
										   "MessageContext",
										   ALLOCSET_DEFAULT_SIZES);
	relay_listen_init(my_slot);
	relay_append_init(my_slot, inbox);
}

/* Begin to listen, and tell all subscriptions that they may have a gap. */
static void
start_listening(void)
{
	uint64		requested = pg_atomic_read_u64(&my_slot->requests.made);
	bool		loaded;

	loaded = reload_table();
	listen_to_bound(true);
	relay_staged_init(my_slot);
	pg_atomic_fetch_add_u64(&my_slot->gap_epoch, 1);
	my_slot->relay.listened = true;
	set_relay_state(RELAY_LISTENING);
	if (loaded)
		pg_atomic_write_u64(&my_slot->requests.handled, requested);
	else
		(void) registry_request(my_slot);
	ConditionVariableBroadcast(&my_slot->requests.cv);
	registry_wake_waiters(my_slot);
	ereport(LOG,
			(errmsg("pgpubsub relay for database \"%s\" started",
					database_name)));
}

/* Has somebody asked the relay to leave? */
static bool
asked_to_leave(void)
{
	bool		leave;

	LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
	leave = my_slot->relay.leave || my_slot->dropping;
	LWLockRelease(pgpubsub_control->lock);
	return leave;
}

/* A relay that leaves for good sends what is staged within this time. */
#define FINISH_MS	2000

/*
 * Before it leaves: append and notify what is staged, if no relay comes after
 * this one, which is so unless somebody needs the database for himself.
 * Whoever takes a place from now on sees that he is too late; who has one and
 * commits is waited for, within limits.
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
		held = my_slot->hold_pid != 0;
		LWLockRelease(pgpubsub_control->lock);
		if (held || staging_idle(my_slot->staging))
			return;
		take_all_staged();
		relay_append();
		if (relay_staged_notify())
			continue;
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_EXIT));
	} while (GetCurrentTimestamp() < deadline);
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
 * The relay's entry point.
 */
void
pgpubsub_relay_main(Datum database_oid)
{
	bool		creating;
	bool		handled;
	bool		more;
	long		timeout;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	override_settings();
	DEBUG_POINT("relay_start");
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(database_oid),
											  InvalidOid, 0);

	/* in this order: when it is committed, it is no longer being created */
	creating = extension_being_created();
	if (!claim_database(extension_installed() || creating))
		proc_exit(0);
	set_up_memory();
	set_up_session();
	start_listening();

	while (!asked_to_leave())
	{
		worker_exit_if_terminated(0);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		read_notifications(false);
		DEBUG_POINT("relay_takes");
		take_staged();
		relay_append();
		handled = handle_requests();
		more = relay_staged_notify();
		relay_listen_reorder();
		relay_pace(my_slot, relay_append_woken(),
				   more || relay_staged_backlog());

		/* a wait for a lock may have reset the latch that a request has set */
		if (notifyInterruptPending || more ||
			(handled && pg_atomic_read_u64(&my_slot->requests.made) !=
			 pg_atomic_read_u64(&my_slot->requests.handled)))
			continue;
		pgstat_report_stat(false);
		timeout = shorter_timeout(relay_append_timeout(),
								  relay_staged_timeout());
		if (!handled)
			timeout = shorter_timeout(timeout, RETRY_MS);

		/* a full queue may have left something to append, whatever is due */
		if (timeout < 0 &&
			pg_atomic_read_u32(&my_slot->relay.state) == RELAY_LISTENING)
			commit_append_give_turn(my_slot);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout,
						 pgpubsub_wait_event(PGPUBSUB_WAIT_RELAY_MAIN));
		commit_append_take_turn(my_slot);
		ResetLatch(MyLatch);
	}
	finish_staged();
	ereport(LOG,
			(errmsg("pgpubsub relay for database \"%s\" leaves",
					database_name)));
	proc_exit(0);
}

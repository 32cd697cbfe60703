/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  Being a subscription's only reader.
 *
 * 1. A transaction that polls, acks, changes or drops a subscription first
 *	  claims it: it writes its pid into the subscription, until it ends or the
 *	  subtransaction that claimed it is rolled back.  So there is at most one
 *	  reader.  It works on its own copy of the positions; see position.c.
 *
 * 2. The claims of this transaction are the list own_readings, which tells the
 *	  publishing side whether a full queue may wait for this transaction.
 *
 * 3. A subscription stays as long as it has a reader, unless the slot of its
 *	  database is freed; the generations in the claim show that.
 *
 * 4. A reader that waits in poll() and has consumed nothing gives the claim up
 *	  for a moment when a session wants to change or drop the subscription and
 *	  so counts itself in subscription->reader.wanted.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/table.h"
#include "access/xact.h"
#include "base/nesting.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* What a subscription is claimed for. */
typedef enum ClaimMode
{
	CLAIM_TO_READ,
	CLAIM_TO_CHANGE,			/* or to drop it */
	CLAIM_TO_DROP_CHANNELS		/* whoever reads it is waited for */
} ClaimMode;

/* What this transaction does as a reader, beside its claims. */
typedef struct Reading
{
	/* lowest nesting level with a call that forbids to prepare it, or 0 */
	int			called_level;

	/* the subscription among whose wanting sessions this one counts, or NULL */
	Subscription *wanted;
} Reading;

static Reading reading = {0};

/* The claim that an element of own_readings is part of. */
static Claim *
claim_of(slist_node *node)
{
	return slist_container(Claim, own.node, node);
}

/* The claim of this transaction on the subscription, or NULL. */
static Claim *
find_claim(Subscription *subscription)
{
	slist_iter	iter;

	slist_foreach(iter, &own_readings)
	{
		Claim	   *claim = claim_of(iter.cur);

		if (claim->own.subscription == subscription &&
			claim->generation == subscription->generation)
			return claim;
	}
	return NULL;
}

/*
 * Raise 55006 for a subscription that the process with this pid reads; change
 * tells whether this one was to change or drop it.
 */
static void
subscription_in_use(const char *name, int pid, bool change)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("subscription \"%s\" is being read by another session",
					name),
			 errdetail("Process %d has it until its transaction ends.", pid),
			 change ?
			 errhint("Try again when it has ended, or end that session with pg_terminate_backend().") :
			 errhint("Give poll() a timeout to wait for it, or use one subscription per consumer.")));
}

/*
 * Try to write this process into the subscription as its reader.  Returns 0; or
 * the pid of the reader that it has, and in *waits whether that only waits in
 * poll(); or, as sessions that want to change it go first, the pid of one.
 */
static int
take_subscription(Subscription *subscription, bool change, bool *waits)
{
	int			pid;

	Assert(LWLockHeldByMe(subscription_lock(subscription)));
	SpinLockAcquire(&subscription->reader.mutex);
	pid = subscription->reader.pid;
	*waits = subscription->reader.waiting;
	if (pid == 0 && !change && subscription->reader.wanted > 0)
		pid = subscription->reader.wanted_pid;
	if (pid == 0)
	{
		subscription->reader.pid = MyProcPid;
		subscription->reader.procno = PGPUBSUB_MY_PROCNO;
		subscription->reader.waiting = false;
	}
	SpinLockRelease(&subscription->reader.mutex);
	return pid;
}

/* Let the next reader in. */
static void
release_subscription(Subscription *subscription)
{
	Assert(LWLockHeldByMe(subscription_lock(subscription)));
	pg_atomic_write_u64(&subscription->sought, PG_UINT64_MAX);
	SpinLockAcquire(&subscription->reader.mutex);
	Assert(subscription->reader.pid == MyProcPid);
	subscription->reader.pid = 0;
	subscription->reader.waiting = false;
	SpinLockRelease(&subscription->reader.mutex);
	ConditionVariableBroadcast(&subscription->reader.cv);
}

/* Remember in this transaction what take_subscription() has taken. */
static void
enter_claim(Claim *claim, Database *database, Subscription *subscription)
{
	claim->database = database;
	claim->database_generation = pg_atomic_read_u32(&database->generation);
	claim->own.subscription = subscription;
	claim->generation = subscription->generation;
	claim->level = GetCurrentTransactionNestLevel();
	claim->position.gap_seen = pg_atomic_read_u64(&subscription->gap_seen);
	claim->position.seq = pg_atomic_read_u64(&subscription->seq);
	slist_push_head(&own_readings, &claim->own.node);
}

/* Count this session out of those that want a subscription.  Cannot fail. */
static void
unwant_subscription(void)
{
	Subscription *subscription = reading.wanted;

	if (subscription == NULL)
		return;
	reading.wanted = NULL;
	SpinLockAcquire(&subscription->reader.mutex);
	subscription->reader.wanted--;
	SpinLockRelease(&subscription->reader.mutex);
	ConditionVariableBroadcast(&subscription->reader.cv);
}

/* Count this session among those that want to change the subscription. */
static void
want_subscription(Subscription *subscription)
{
	if (reading.wanted == subscription)
		return;
	unwant_subscription();
	reading.wanted = subscription;
	SpinLockAcquire(&subscription->reader.mutex);
	subscription->reader.wanted++;
	subscription->reader.wanted_pid = MyProcPid;
	SpinLockRelease(&subscription->reader.mutex);
}

/*
 * One attempt at a claim.  Returns it; or NULL and the reader's pid, having
 * prepared to sleep on the subscription's condition variable; or NULL and
 * *subscription NULL, if that went away or has another owner by now.
 */
static Claim *
try_claim(Database *database, const char *name, Oid owner, bool change,
		  Claim *new_claim, Subscription **subscription, int *pid,
		  bool *waits)
{
	Claim	   *claim = NULL;

	LWLockAcquire(database->lock, LW_SHARED);
	*subscription = database->oid != MyDatabaseId ? NULL :
		registry_find_subscription(database, name);
	if (*subscription &&
		(!reader_visible(*subscription) || (*subscription)->owner != owner))
		*subscription = NULL;
	if (*subscription)
		claim = find_claim(*subscription);
	if (*subscription && claim == NULL)
	{
		ConditionVariablePrepareToSleep(&(*subscription)->reader.cv);
		*pid = take_subscription(*subscription, change, waits);
		if (*pid == 0)
		{
			claim = new_claim;
			enter_claim(claim, database, *subscription);
		}
	}
	LWLockRelease(database->lock);
	return claim;
}

/*
 * Wait until the reader, which has that pid, lets go; may return early.  Raises
 * 55006 at the deadline.  A session that is to change or drop the subscription
 * does so even if its client has gone; one that would read it ends then.
 */
static void
wait_for_reader(Subscription *subscription, const char *name, int pid,
				TimestampTz deadline, bool change)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													   deadline);
	uint32		event = pgpubsub_wait_event(PGPUBSUB_WAIT_READER);

	if (left <= 0)
		subscription_in_use(name, pid, change);
	if (!change)
	{
		client_sleep(left, event);
		left = 0;
	}
	(void) ConditionVariableTimedSleep(&subscription->reader.cv, left, event);
}

/* The loop of reader_claim(), which cleans up after it. */
static Claim *
claim_loop(Database *database, const char *name, TimestampTz deadline,
		   ClaimMode mode, Claim *new_claim)
{
	bool		change = mode != CLAIM_TO_READ;

	for (;;)
	{
		Oid			owner = reader_subscription_owner(database, name);
		Subscription *subscription;
		Claim	   *claim;
		int			pid = 0;
		bool		waits = false;

		CHECK_FOR_INTERRUPTS();
		if (!OidIsValid(owner))
		{
			subscription = reader_find_replacing(database, name, &pid);
			if (subscription)
				wait_for_reader(subscription, name, pid, deadline, change);
			else if (!OidIsValid(reader_wanted_owner(database, name)))
				reader_no_subscription(name);
			continue;
		}
		reader_check_owner(name, owner);
		claim = try_claim(database, name, owner, change, new_claim,
						  &subscription, &pid, &waits);
		if (claim != NULL)
			return claim;
		if (subscription == NULL)
			continue;
		if (mode == CLAIM_TO_CHANGE && !waits)
			subscription_in_use(name, pid, change);
		if (change)
		{
			want_subscription(subscription);
			registry_wake_reader(subscription);
		}
		wait_for_reader(subscription, name, pid, deadline, change);
	}
}

/*
 * Claim the subscription for this transaction, as the mode says.  The claim's
 * cursors may not reflect the bindings.
 */
static Claim *
claim_subscription(Database *database, const char *name, TimestampTz deadline,
				   ClaimMode mode)
{
	Claim	   *new_claim = MemoryContextAllocZero(TopTransactionContext,
												   sizeof(Claim));
	Claim	   *volatile claim = NULL;

	PG_TRY();
	{
		claim = claim_loop(database, name, deadline, mode, new_claim);
	}
	PG_FINALLY();
	{
		ConditionVariableCancelSleep();
		unwant_subscription();
	}
	PG_END_TRY();

	if (claim != new_claim)
		pfree(new_claim);
	if (mode != CLAIM_TO_READ)
	{
		nesting_note(&claim->changing_level);
		claim->own.uncommitted = true;
	}
	return claim;
}

/*
 * Claim the subscription for this transaction.  Waits until deadline for
 * another reader, then raises 55006; for a change or drop only if that waits
 * in poll(), as it lets go then.  Raises 42704 if there is no such
 * subscription, 42501 if it is not the current user's, 55000 without a relay.
 * No LWLock may be held.
 */
Claim *
reader_claim(Database *database, const char *name, TimestampTz deadline,
			 bool change)
{
	Claim	   *claim = claim_subscription(database, name, deadline,
										   change ? CLAIM_TO_CHANGE :
										   CLAIM_TO_READ);

	position_sync(claim);
	return claim;
}

/*
 * Claim the subscription to drop channels of it.  Waits until deadline for
 * another reader, whatever that does, then raises 55006; raises the rest of what
 * reader_claim() does.  A claim that this transaction has not had costs nothing
 * for the subscription's other channels: it has no cursors before it is read.
 * No LWLock may be held.
 */
Claim *
reader_claim_to_drop(Database *database, const char *name,
					 TimestampTz deadline)
{
	return claim_subscription(database, name, deadline,
							  CLAIM_TO_DROP_CHANNELS);
}

/*
 * This transaction has changed the subscription's bindings: if it reads the
 * subscription, it looks at them again before it reads on.
 */
void
reader_resync(Subscription *subscription)
{
	Claim	   *claim = find_claim(subscription);

	if (claim != NULL)
		claim->synced = false;
}

/*
 * The claim is about to move back to that seq, or to a higher one: until the
 * transaction ends, no segment of the log is emptied that has something behind
 * it.  The relay locks a segment, and then looks who needs it; this shows what is
 * needed, and then waits for the relay's lock.  So the relay sees it, or what is
 * gone is known to be gone when this returns.  Raises 55000.
 */
void
reader_hold_log(Claim *claim, uint64 seq)
{
	Database   *database = claim->database;
	pg_atomic_uint64 *sought = &claim->own.subscription->sought;

	LWLockAcquire(database->lock, LW_SHARED);
	if (reader_claim_valid(claim) && seq < pg_atomic_read_u64(sought))
		pg_atomic_write_u64(sought, seq);
	LWLockRelease(database->lock);
	if (pg_atomic_read_u32(&database->log.active) == 0)
		return;
	for (int i = 0; i < LOG_SEGMENTS; i++)
		table_close(log_open(LOG_NOTES, i, AccessShareLock), AccessShareLock);
}

/* The SQL function that is running forbids to prepare its transaction. */
void
reader_note_call(void)
{
	nesting_note(&reading.called_level);
}

/* Raise 0A000 if reader_note_call() was called in this transaction. */
void
reader_pre_prepare(void)
{
	if (reading.called_level > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that has read or changed subscriptions"),
				 slist_is_empty(&own_readings) ? 0 :
				 errdetail("The transaction has subscription \"%s\".",
						   claim_of(slist_head_node(&own_readings))->own.subscription->name),
				 errhint("Commit it with COMMIT, or poll in a transaction of its own.")));
}

/*
 * Before commit, while it may still fail: make sure that every cursor's binding
 * is there, and that a client is there to get what a poll in autocommit has
 * consumed.  (A client that has sent COMMIT has got its rows.)
 */
void
read_pre_commit(void)
{
	slist_iter	iter;

	slist_foreach(iter, &own_readings)
	{
		Claim	   *claim = claim_of(iter.cur);

		/* without a position to show, its cursors do not matter */
		if (claim->position.consumed)
			position_sync(claim);
		position_write(claim);
		if (claim->handed_out && !IsTransactionBlock())
			client_expect();
	}
}

/* The transaction has committed: show its positions.  Cannot fail. */
void
reader_publish_at_commit(void)
{
	slist_iter	iter;

	slist_foreach(iter, &own_readings)
	{
		Claim	   *claim = claim_of(iter.cur);

		if (!claim->position.consumed)
			continue;

		/* who goes back holds what the ring's hold may have passed */
		LWLockAcquire(claim->database->lock,
					  claim->position.sought ? LW_EXCLUSIVE : LW_SHARED);
		if (reader_claim_valid(claim))
		{
			position_publish(claim);
			if (claim->position.sought)
				hold_start(claim->database, claim->own.subscription);
		}
		LWLockRelease(claim->database->lock);
	}
}

/*
 * Let go of the subscription; at commit, when the claim's position is shown.
 * The caller forgets the claim.  Cannot fail.
 */
static void
end_claim(Claim *claim, bool commit)
{
	Database   *database = claim->database;
	Subscription *subscription = claim->own.subscription;
	bool		awaited = false;

	LWLockAcquire(database->lock, LW_SHARED);
	if (reader_claim_valid(claim))
	{
		awaited = subscription->doomed || subscription->stale;
		release_subscription(subscription);
	}
	LWLockRelease(database->lock);
	if (awaited)
		registry_request(database);
	else if (commit && claim->position.consumed)
	{
		/*
		 * The relay writes that the queue is full, then reads positions; we
		 * have written ours, and then read that.  With a barrier in both, one
		 * sees the other; else the relay might wait for room that is there.
		 */
		pg_memory_barrier();
		if (pg_atomic_read_u32(&database->relay.state) == RELAY_FULL)
			registry_wake(&database->relay.procno);
	}
}

/* The transaction has ended, and its claims end with it.  Cannot fail. */
void
reader_at_end(bool commit)
{
	slist_iter	iter;

	/* a FATAL error passes by reader_claim()'s own cleanup */
	unwant_subscription();
	slist_foreach(iter, &own_readings)
		end_claim(claim_of(iter.cur), commit);
	slist_init(&own_readings);
	reading.called_level = 0;
}

/* A subtransaction has committed; see read_at_subcommit(). */
void
reader_at_subcommit(int level)
{
	slist_iter	iter;

	nesting_subcommit(&reading.called_level, level);
	slist_foreach(iter, &own_readings)
	{
		Claim	   *claim = claim_of(iter.cur);

		nesting_subcommit(&claim->level, level);
		nesting_subcommit(&claim->changing_level, level);
		position_subcommit(claim, level);
	}
}

/*
 * The subtransaction of that level was rolled back: end the claims that it has
 * made, and bring back the positions of the others.  Cannot fail.
 */
void
reader_at_subabort(int level)
{
	slist_mutable_iter iter;

	(void) nesting_subabort(&reading.called_level, level);
	slist_foreach_modify(iter, &own_readings)
	{
		Claim	   *claim = claim_of(iter.cur);

		if (claim->level >= level)
		{
			slist_delete_current(&iter);
			end_claim(claim, false);
			free_claim(claim);
			continue;
		}
		position_subabort(claim, level);
		(void) nesting_subabort(&claim->changing_level, level);
		claim->own.uncommitted = claim->position.consumed ||
			claim->changing_level > 0;
	}
}

/* Is what was claimed there?  It stays while the database's lock is held. */
bool
reader_claim_valid(Claim *claim)
{
	return pg_atomic_read_u32(&claim->database->generation) ==
		claim->database_generation &&
		claim->own.subscription->generation == claim->generation;
}

/*
 * Does a session want to change or drop the subscription, and can this one
 * let it, having consumed and changed nothing?
 */
bool
reader_shall_step_aside(Claim *claim)
{
	return claim->own.subscription->reader.wanted > 0 &&
		!claim->own.uncommitted;
}

/*
 * End the claim and return false if reader_shall_step_aside(), or if the
 * subscription is gone or about to go.  (Whoever makes it go wakes the reader
 * afterwards, so a look without the lock is enough.)
 */
bool
reader_step_aside(Claim *claim)
{
	if (reader_claim_valid(claim) && !claim->own.subscription->doomed &&
		!reader_shall_step_aside(claim))
		return true;
	slist_delete(&own_readings, &claim->own.node);
	end_claim(claim, false);
	free_claim(claim);
	return false;
}

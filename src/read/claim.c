/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  Being a subscription's only reader.
 *
 * 1. A transaction that polls, acks, changes or drops a subscription first
 *	  claims it: it writes its pid into the subscription, and keeps it there
 *	  until the transaction ends or the subtransaction that claimed it is
 *	  rolled back.  So a subscription has at most one reader.
 *
 * 2. While it has the claim, it works on its own copy of the positions; see
 *	  position.c.  Commit writes them back; an abort only forgets them.
 *
 * 3. The claims of this transaction are the list own_readings, where the
 *	  publishing side sees whether a full queue may wait for this transaction.
 *
 * 4. A subscription ends only with its reader, or after it.  The exception is
 *	  a database's slot that is freed with all that it has.  The generations of
 *	  both slots, kept in the claim, show that.
 *
 * 5. A session that wants to change or drop a subscription does not wait for
 *	  a reader that has work to commit.  But a reader that waits in poll() and
 *	  has consumed nothing gives the claim up for a moment when such a session
 *	  counts itself in subscription->wanted.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/xact.h"
#include "base/nesting.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* What this transaction does as a reader, beside the claims that it has. */
static struct
{
	/*
	 * The lowest nesting level at which it has called a function that keeps
	 * it from being prepared, whatever came of the call; 0: none.
	 */
	int			called_level;

	/* the subscription whose count of wanting sessions has this one; or NULL */
	Subscription *wanted;
} reading;

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
 * Raise 55006 for a subscription that the session with this pid reads.  With
 * change, this session was to change or drop the subscription.
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
 * Try to write this process into the subscription as its reader.  Returns 0 if
 * that is done, else the pid of the reader that it has; *waits then tells
 * whether that reader only waits in poll().  Sessions that want to change the
 * subscription go first: who only wants to read it gets the pid of one of
 * them.  The lock of the subscription's database must be held.
 */
static int
take_subscription(Subscription *subscription, bool change, bool *waits)
{
	int			pid;

	SpinLockAcquire(&subscription->mutex);
	pid = subscription->reader_pid;
	*waits = subscription->waiting;
	if (pid == 0 && !change && subscription->wanted > 0)
		pid = subscription->wanted_pid;
	if (pid == 0)
	{
		subscription->reader_pid = MyProcPid;
		subscription->reader_procno = PGPUBSUB_MY_PROCNO;
		subscription->waiting = false;
	}
	SpinLockRelease(&subscription->mutex);
	return pid;
}

/*
 * Let the next reader in.  The lock of the subscription's database must be
 * held.
 */
static void
release_subscription(Subscription *subscription)
{
	SpinLockAcquire(&subscription->mutex);
	Assert(subscription->reader_pid == MyProcPid);
	subscription->reader_pid = 0;
	subscription->waiting = false;
	SpinLockRelease(&subscription->mutex);
	ConditionVariableBroadcast(&subscription->reader_cv);
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

/* Count this session among those that want to change the subscription. */
static void
want_subscription(Subscription *subscription)
{
	reading.	wanted = subscription;

	SpinLockAcquire(&subscription->mutex);
	subscription->wanted++;
	subscription->wanted_pid = MyProcPid;
	SpinLockRelease(&subscription->mutex);
}

/* Count this session out again, if it was counted.  Cannot fail. */
static void
unwant_subscription(void)
{
	Subscription *subscription = reading.wanted;

	if (subscription == NULL)
		return;
	reading.	wanted = NULL;

	SpinLockAcquire(&subscription->mutex);
	subscription->wanted--;
	SpinLockRelease(&subscription->mutex);
	ConditionVariableBroadcast(&subscription->reader_cv);
}

/*
 * One attempt at a claim, for which new_claim is used unless this transaction
 * has one.  Returns the claim; or NULL with the reader's pid, having prepared
 * to sleep on the subscription's condition variable; or NULL with
 * *subscription NULL, if the subscription went away or changed hands since its
 * owner was looked up.
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
		ConditionVariablePrepareToSleep(&(*subscription)->reader_cv);
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
 * Wait until the reader lets go, or until deadline; the caller has prepared to
 * sleep on the subscription's condition variable.  May return early.  Returns
 * false at the deadline.  A session that is to change or drop the subscription
 * does so even if its client has gone; one that would read it ends then.
 */
static bool
wait_for_reader(Subscription *subscription, TimestampTz deadline, bool change)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													   deadline);
	uint32		event = pgpubsub_wait_event(PGPUBSUB_WAIT_READER);

	if (left <= 0)
		return false;
	if (!change)
	{
		client_sleep(left, event);
		left = 0;
	}
	(void) ConditionVariableTimedSleep(&subscription->reader_cv, left, event);
	return true;
}

/*
 * The loop of reader_claim().  The caller counts this session out of those
 * that want a subscription.
 */
static Claim *
claim_loop(Database *database, const char *name, TimestampTz deadline,
		   bool change, Claim *new_claim)
{
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
			if (subscription == NULL)
			{
				if (!OidIsValid(reader_wanted_owner(database, name)))
					reader_no_subscription(name);
				continue;
			}
			if (!wait_for_reader(subscription, deadline, change))
				subscription_in_use(name, pid, change);
			continue;
		}
		reader_check_owner(name, owner);
		claim = try_claim(database, name, owner, change, new_claim,
						  &subscription, &pid, &waits);
		if (claim != NULL)
			return claim;
		if (subscription == NULL)
			continue;
		if (change && waits)
		{
			if (reading.wanted != subscription)
			{
				unwant_subscription();
				want_subscription(subscription);
			}
			registry_wake_reader(subscription);
		}
		if ((change && !waits) ||
			!wait_for_reader(subscription, deadline, change))
			subscription_in_use(name, pid, change);
	}
}

/*
 * Claim the subscription for this transaction, unless it has it.  Waits until
 * deadline for another reader, then raises 55006 with its pid.  With change,
 * the subscription is to be changed or dropped; then only a reader that waits
 * in poll() is waited for, as that lets go.  Raises 42704 if there is no such
 * subscription, 42501 if it is not the current user's, 55000 if there is no
 * relay.  No LWLock may be held.
 */
Claim *
reader_claim(Database *database, const char *name, TimestampTz deadline,
			 bool change)
{
	Claim	   *new_claim = MemoryContextAllocZero(TopTransactionContext,
												   sizeof(Claim));
	Claim	   *volatile claim = NULL;

	PG_TRY();
	{
		claim = claim_loop(database, name, deadline, change, new_claim);
	}
	PG_FINALLY();
	{
		ConditionVariableCancelSleep();
		unwant_subscription();
	}
	PG_END_TRY();

	if (claim != new_claim)
		pfree(new_claim);
	if (change)
	{
		nesting_note(&claim->changing_level);
		claim->own.uncommitted = true;
	}
	position_sync(claim);
	return claim;
}

/*
 * Note that the SQL function that is running reads or changes subscriptions
 * with its transaction, which can therefore not be prepared.
 */
void
reader_note_call(void)
{
	nesting_note(&reading.called_level);
}

/*
 * Before PREPARE TRANSACTION: raise 0A000 if this transaction has claims, or
 * anything else that would have to be kept until COMMIT PREPARED.
 */
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
 * Before commit, while the transaction may still fail: make sure that every
 * cursor belongs to a binding that is there, and that there is still a client
 * to get what a poll in autocommit has consumed.  (A client that has sent
 * COMMIT has got its rows.)  Raises 53200 for want of memory.
 */
void
read_pre_commit(void)
{
	slist_iter	iter;

	slist_foreach(iter, &own_readings)
	{
		Claim	   *claim = claim_of(iter.cur);

		position_sync(claim);
		if (claim->handed_out && !IsTransactionBlock())
			client_expect();
	}
}

/*
 * The transaction has committed: show its positions.  What it has changed of
 * subscriptions follows, for a binding that goes counts as lost what its
 * position leaves.  Cannot fail.
 */
void
reader_publish_at_commit(void)
{
	slist_iter	iter;

	slist_foreach(iter, &own_readings)
	{
		Claim	   *claim = claim_of(iter.cur);

		if (!claim->position.consumed)
			continue;
		LWLockAcquire(claim->database->lock, LW_SHARED);
		if (reader_claim_valid(claim))
			position_publish(claim);
		LWLockRelease(claim->database->lock);
	}
}

/*
 * Let go of the subscription; with commit, after the claim's position was
 * shown.  The caller takes the claim out of the list.  Cannot fail.
 */
static void
end_claim(Claim *claim, bool commit)
{
	Database   *database = claim->database;
	bool		awaited = false;

	LWLockAcquire(database->lock, LW_SHARED);
	if (reader_claim_valid(claim))
	{
		awaited = claim->own.subscription->doomed ||
			claim->own.subscription->stale;
		release_subscription(claim->own.subscription);
	}
	LWLockRelease(database->lock);
	if (awaited)
		registry_request(database);
	else if (commit && claim->position.consumed)
	{
		/*
		 * A relay that finds the queue full says so, and looks at positions
		 * afterwards.  We have written ours, and now look whether it says so.
		 * With a barrier on both sides either sees the other; without it the
		 * relay could wait for room that is there.
		 */
		pg_memory_barrier();
		if (pg_atomic_read_u32(&database->relay.state) == RELAY_FULL)
			registry_wake(&database->relay.procno);
	}
}

/*
 * The transaction has committed, and so have its changes of subscriptions; or
 * it was aborted or prepared.  Cannot fail.
 */
void
reader_at_end(bool commit)
{
	slist_iter	iter;

	/* a FATAL error passes by reader_claim()'s own cleanup */
	unwant_subscription();
	slist_foreach(iter, &own_readings)
		end_claim(claim_of(iter.cur), commit);
	slist_init(&own_readings);
	reading.	called_level = 0;
}

/*
 * The subtransaction of that level has committed: what it has done is its
 * parent's.  Cannot fail.
 */
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
			position_free(claim);
			pfree(claim);
			continue;
		}
		position_subabort(claim, level);
		(void) nesting_subabort(&claim->changing_level, level);
		claim->own.uncommitted = claim->position.consumed ||
			claim->changing_level > 0;
	}
}

/*
 * Is what the claim points to still what was claimed?  The lock of its database
 * must be held for the answer to stay true.
 */
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
	Subscription *subscription = claim->own.subscription;
	bool		wanted;

	if (claim->own.uncommitted)
		return false;
	SpinLockAcquire(&subscription->mutex);
	wanted = subscription->wanted > 0;
	SpinLockRelease(&subscription->mutex);
	return wanted;
}

/*
 * Let a session in that wants to change or drop the subscription, if this
 * transaction has consumed and changed nothing of it.  Returns false if that
 * was done, or if the subscription is gone or about to go: then the claim is
 * no more.  No LWLock may be held.
 */
bool
reader_step_aside(Claim *claim)
{
	/*
	 * Looked at without the lock: whoever dooms or drops the subscription
	 * wakes its reader afterwards, which then looks again.
	 */
	bool		gone = !reader_claim_valid(claim) ||
		claim->own.subscription->doomed;

	if (!gone && !reader_shall_step_aside(claim))
		return true;
	slist_delete(&own_readings, &claim->own.node);
	end_claim(claim, false);
	position_free(claim);
	pfree(claim);
	return false;
}

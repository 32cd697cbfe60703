/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  Being a subscription's reader: claim, position, commit.
 *
 * 1. A transaction that polls, acks or changes a subscription first claims
 *	  it: it writes its pid into the subscription, under the mutex, and keeps
 *	  it until the transaction ends (or the subtransaction that claimed it is
 *	  rolled back).  So there is at most one reader.
 *
 * 2. While it has the claim it works on a copy of the bindings' positions, in
 *	  its own memory.  Commit writes them back; an abort only forgets them.
 *	  The first change within a subtransaction saves a copy, to which a
 *	  rollback to its savepoint returns.  No two of these share their cursors.
 *
 * 3. Commit allocates nothing: it copies numbers into bindings that cannot
 *	  have gone, since only the reader removes them, and the same commit does
 *	  so afterwards.  The exception is a database slot that was freed, which
 *	  the generations show.
 *
 * 4. A reader that waits in poll() and has consumed nothing gives the claim
 *	  up for a moment when a session wants to change or drop the
 *	  subscription; see poll.c.
 *
 *-------------------------------------------------------------------------
 */
#include "read/reader.h"

#include "base/nesting.h"
#include "miscadmin.h"
#include "read/client_wait.h"
#include "registry/holders.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* This transaction's claims, in TopTransactionContext. */
static Claim *claims = NULL;

/*
 * The lowest nesting level at which this transaction has called what it cannot
 * prepare, whatever came of it; 0: none.
 */
static int	called_level = 0;

/* The subscription among whose wanting sessions this one is counted. */
static Subscription *wanted_subscription = NULL;

/*
 * True if this session may know that the subscription exists: it is
 * committed, or this session's own.  Its database's lock must be held.
 */
bool
reader_visible(Subscription *subscription)
{
	if (subscription->doomed)
		return false;
	switch (subscription->state)
	{
		case SUBSCRIPTION_FREE:
			return false;
		case SUBSCRIPTION_CREATING:
			return subscription->changer_pid == MyProcPid;
		case SUBSCRIPTION_ACTIVE:
			return true;
		case SUBSCRIPTION_DROPPING:
			return subscription->changer_pid != MyProcPid;
	}
	return false;
}

/*
 * Say for transaction_may_be_awaited what this transaction's claims are, after
 * they have changed.
 */
static void
note_awaited(void)
{
	transaction_may_be_awaited = false;
	for (Claim *claim = claims; claim; claim = claim->next)
	{
		if (claim->position.consumed || claim->changing_level > 0 ||
			claim->subscription->on_full != ON_FULL_DROP)
			transaction_may_be_awaited = true;
	}
}

/* The claim of this transaction on the subscription, or NULL. */
static Claim *
find_claim(Subscription *subscription)
{
	for (Claim *claim = claims; claim; claim = claim->next)
	{
		if (claim->subscription == subscription &&
			claim->generation == subscription->generation)
			return claim;
	}
	return NULL;
}

/*
 * Raise 42704 for a subscription that does not exist.
 */
void
reader_no_subscription(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("subscription \"%s\" does not exist", name),
			 errhint("Create it with pgpubsub.subscribe().")));
}

/*
 * Raise 55006 for a subscription that another session reads; change: this one
 * is to change or drop it.
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
 * Try to write this process into the subscription as its reader.  Returns 0,
 * or the pid of the reader that it has; *waits then tells if that one only
 * waits in poll().  Sessions that want to change it go first.  Its
 * database's lock must be held.
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

/* Let the next reader in. */
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
	claim->subscription = subscription;
	claim->generation = subscription->generation;
	claim->level = GetCurrentTransactionNestLevel();
	claim->position.gap_seen = pg_atomic_read_u64(&subscription->gap_seen);
	claim->position.seq = pg_atomic_read_u64(&subscription->seq);
	claim->next = claims;
	claims = claim;
}

/* Count this session among those that want to change the subscription. */
static void
want_subscription(Subscription *subscription)
{
	wanted_subscription = subscription;
	SpinLockAcquire(&subscription->mutex);
	subscription->wanted++;
	subscription->wanted_pid = MyProcPid;
	SpinLockRelease(&subscription->mutex);
}

/* Count it out again.  Cannot fail. */
static void
unwant_subscription(void)
{
	Subscription *subscription = wanted_subscription;

	if (subscription == NULL)
		return;
	wanted_subscription = NULL;
	SpinLockAcquire(&subscription->mutex);
	subscription->wanted--;
	SpinLockRelease(&subscription->mutex);
	ConditionVariableBroadcast(&subscription->reader_cv);
}

/*
 * One attempt at a claim.  Returns it, or NULL with the reader's pid, having
 * prepared to sleep on the subscription's condition variable; or NULL with
 * *subscription NULL, if it went away or changed hands since its owner was
 * looked up.
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
 * Wait until the reader lets go, or until deadline.  Returns false at the
 * deadline.  change: for one that changes or drops the subscription, which
 * it does even if its client has gone; what would read is ended then.
 */
static bool
wait_for_reader(Subscription *subscription, TimestampTz deadline, bool change)
{
	long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													   deadline);
	uint32		event = pgpubsub_wait_event(PGPUBSUB_WAIT_READER);

	if (left <= 0)
		return false;
	if (change)
		ConditionVariableTimedSleep(&subscription->reader_cv, left, event);
	else
		client_sleep_on(&subscription->reader_cv, left, event);
	return true;
}

/*
 * Another session has dropped the subscription of this name and created one
 * in its place, and has not committed that: the new one and the session's
 * pid, having prepared to sleep on its condition variable.  Else NULL.
 */
Subscription *
reader_find_replacing(Database *database, const char *name, int *pid)
{
	Subscription *subscription;

	LWLockAcquire(database->lock, LW_SHARED);
	subscription = registry_find_subscription(database, name);
	if (subscription && (subscription->state != SUBSCRIPTION_CREATING ||
						 !subscription->replaces ||
						 subscription->changer_pid == MyProcPid))
		subscription = NULL;
	if (subscription)
	{
		*pid = subscription->changer_pid;
		ConditionVariablePrepareToSleep(&subscription->reader_cv);
	}
	LWLockRelease(database->lock);
	return subscription;
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
			if (wanted_subscription != subscription)
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
 * Claim the subscription for this transaction.  Waits until deadline for
 * another reader, then raises 55006 with its pid.  change: it is to be
 * changed or dropped; then only a reader that waits in poll() is waited for,
 * as it lets go.  Raises 42704 if it does not exist, 42501 if it is not
 * ours.  No LWLock may be held.
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
		nesting_note(&claim->changing_level);
	note_awaited();
	reader_sync(claim);
	return claim;
}

/* Has this transaction moved it? */
static bool
is_moved(const Cursor *cursor)
{
	return cursor->delivered > 0 || cursor->lost > 0;
}

/* Where the binding stands, as is committed. */
static void
place_cursor(Cursor *cursor, Binding *binding)
{
	cursor->number = registry_position(binding, &cursor->pos);
}

/*
 * The cursor for the binding, as it stood if this transaction has moved it,
 * else as is committed.  likely: the index that it had among the old ones when
 * they were made, unless they are those of a savepoint; -1 if it was never
 * among any.
 */
static void
carry_cursor(Cursor *cursor, Binding *binding, Cursor *old, int nold,
			 int likely)
{
	for (int i = 0; i < nold && likely >= 0; i++)
	{
		Cursor	   *candidate = &old[(likely + i) % nold];

		if (candidate->binding == binding &&
			candidate->channel == binding->channel)
		{
			*cursor = *candidate;
			if (!is_moved(cursor))
				place_cursor(cursor, binding);
			return;
		}
	}
	memset(cursor, 0, sizeof(Cursor));
	cursor->binding = binding;
	cursor->channel = binding->channel;
	place_cursor(cursor, binding);
}

/*
 * Have the claim's cursors reflect the subscription's bindings: patterns may
 * have got new ones.  Those that this transaction drops are not read any more.
 * If it has consumed from them, their cursors are kept behind the others: that
 * is counted, and it goes on from there if it names the channel again.
 *
 * A relay that ends gives the numbers of what it had received and not queued
 * to others, and takes back bindings that are beyond; the next relay raises the
 * gap epoch before it queues anything.  A cursor that this transaction has not
 * moved may be beyond too, so it is placed anew when the epoch has grown.
 */
void
reader_sync(Claim *claim)
{
	Subscription *subscription = claim->subscription;
	Cursor	   *old = claim->position.cursors;
	int			nold = claim->position.ncursors + claim->position.nkept;
	Cursor	   *cursors;
	dlist_iter	iter;
	int			count = 0;
	uint64		gap_epoch;

	/* relays end with the lock, so one cannot come and go meanwhile */
	LWLockAcquire(claim->database->lock, LW_SHARED);
	gap_epoch = registry_gap_epoch(claim->database, subscription);
	if ((claim->synced && claim->gap_epoch == gap_epoch &&
		 claim->bindings_version == subscription->bindings_version) ||
		claim->generation != subscription->generation)
	{
		LWLockRelease(claim->database->lock);
		return;
	}
	dlist_foreach(iter, &subscription->bindings)
		count++;
	cursors = MemoryContextAllocExtended(TopTransactionContext,
										 Max(count, 1) * sizeof(Cursor),
										 MCXT_ALLOC_NO_OOM);
	if (cursors == NULL)
	{
		LWLockRelease(claim->database->lock);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory"),
				 errdetail("Failed on %d positions of subscription \"%s\".",
						   count, subscription->name)));
	}
	count = 0;
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (!(binding->flags & BINDING_DROPPED))
		{
			carry_cursor(&cursors[count], binding, old, nold,
						 binding->cursor);
			binding->cursor = count++;
		}
	}
	claim->position.ncursors = count;
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (binding->flags & BINDING_DROPPED)
		{
			carry_cursor(&cursors[count], binding, old, nold,
						 binding->cursor);
			binding->cursor = is_moved(&cursors[count]) ? count++ : -1;
		}
	}
	claim->position.cursors = cursors;
	claim->position.nkept = count - claim->position.ncursors;
	claim->bindings_version = subscription->bindings_version;
	claim->gap_epoch = gap_epoch;
	claim->synced = true;
	LWLockRelease(claim->database->lock);
	if (old)
		pfree(old);
}

/* Free the position's cursors, if it has any yet. */
static void
free_cursors(Position *position)
{
	if (position->cursors)
		pfree(position->cursors);
}

/* Forget the innermost saved position. */
static void
drop_saved(Claim *claim)
{
	SavedPosition *saved = claim->saved;

	claim->saved = saved->upper;
	free_cursors(&saved->position);
	pfree(saved);
}

/* Free a claim that has ended before its transaction. */
static void
free_claim(Claim *claim)
{
	while (claim->saved)
		drop_saved(claim);
	free_cursors(&claim->position);
	pfree(claim);
}

/*
 * To be called before the claim's position moves: save it for a rollback to
 * the current savepoint, unless that was done.
 */
void
reader_save(Claim *claim)
{
	SavedPosition *saved;
	Size		size = (claim->position.ncursors + claim->position.nkept) *
		sizeof(Cursor);

	if (!nesting_needs_copy(claim->level,
							claim->saved ? claim->saved->level : 0))
		return;
	saved = MemoryContextAlloc(TopTransactionContext, sizeof(SavedPosition));
	saved->position = claim->position;
	saved->position.cursors = MemoryContextAlloc(TopTransactionContext,
												 Max(size, 1));
	memcpy(saved->position.cursors, claim->position.cursors, size);
	saved->level = GetCurrentTransactionNestLevel();
	saved->upper = claim->saved;
	claim->saved = saved;
}

/*
 * Something is consumed: commit writes the claim's position.  What is consumed
 * is in the position, and was saved before (reader_save()).
 */
void
reader_consume(Claim *claim)
{
	claim->position.consumed = true;
	transaction_may_be_awaited = true;
}

/*
 * The SQL function that is running reads or changes subscriptions with its
 * transaction.
 */
void
reader_note_call(void)
{
	nesting_note(&called_level);
}

/*
 * PREPARE TRANSACTION: raise an error if there is anything that would have to
 * be kept until COMMIT PREPARED.
 */
void
reader_pre_prepare(void)
{
	if (called_level > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot prepare a transaction that has read or changed subscriptions"),
				 claims ? errdetail("The transaction has subscription \"%s\".",
									claims->subscription->name) : 0,
				 errhint("Commit it with COMMIT, or poll in a transaction of its own.")));
}

/*
 * Before commit, while it may still fail: make sure that every cursor is of
 * a binding that is there, and that somebody gets what a poll in autocommit
 * has consumed.  A client that has sent COMMIT has got its rows.
 */
void
reader_pre_commit(void)
{
	for (Claim *claim = claims; claim; claim = claim->next)
	{
		reader_sync(claim);
		if (claim->handed_out && !IsTransactionBlock())
			client_expect();
	}
}

/* Write the position to where other sessions see it.  Cannot fail. */
static void
publish_position(Claim *claim)
{
	Subscription *subscription = claim->subscription;
	uint64		delivered = 0;
	uint64		lost = 0;
	int			count = claim->position.ncursors + claim->position.nkept;

	for (int i = 0; i < count; i++)
	{
		Cursor	   *cursor = &claim->position.cursors[i];
		Channel    *channel = &claim->database->channels[cursor->channel];

		/* one that was not moved is not ours to write */
		if (!is_moved(cursor))
			continue;
		Assert(cursor->number != BINDING_UNPLACED);
		Assert(cursor->binding->subscription == subscription &&
			   cursor->binding->channel == cursor->channel);
		registry_set_position(cursor->binding, cursor->number, cursor->pos);
		pg_atomic_fetch_add_u64(&channel->delivered, cursor->delivered);
		pg_atomic_fetch_add_u64(&channel->lost, cursor->lost);
		delivered += cursor->delivered;
		lost += cursor->lost;
	}
	pg_atomic_write_u64(&subscription->gap_seen, claim->position.gap_seen);
	pg_atomic_write_u64(&subscription->seq, claim->position.seq);
	pg_atomic_fetch_add_u64(&subscription->delivered, delivered);
	pg_atomic_fetch_add_u64(&subscription->delivered_bytes,
							claim->position.delivered_bytes);
	pg_atomic_fetch_add_u64(&subscription->lost, lost);
}

/*
 * The transaction has committed: its positions stand.  Its changes of
 * subscriptions come after: a binding that goes counts as lost what its
 * position says.  Cannot fail.
 */
void
reader_publish_at_commit(void)
{
	for (Claim *claim = claims; claim; claim = claim->next)
	{
		if (!claim->position.consumed)
			continue;
		LWLockAcquire(claim->database->lock, LW_SHARED);
		if (reader_claim_valid(claim))
			publish_position(claim);
		LWLockRelease(claim->database->lock);
	}
}

/* Give up the claim; after commit, its position stands.  Cannot fail. */
static void
end_claim(Claim *claim, bool commit)
{
	Database   *database = claim->database;
	bool		awaited = false;

	LWLockAcquire(database->lock, LW_SHARED);
	if (reader_claim_valid(claim))
	{
		awaited = claim->subscription->doomed || claim->subscription->stale;
		release_subscription(claim->subscription);
	}
	LWLockRelease(database->lock);
	if (awaited)
		registry_request(database);
	else if (commit && claim->position.consumed)
	{
		/* the position is to be seen before we look who waits for it */
		pg_memory_barrier();
		if (pg_atomic_read_u32(&database->relay.state) == RELAY_FULL)
			registry_wake(&database->relay.procno);
	}
}

/* The transaction has committed, and so have its changes.  Cannot fail. */
void
reader_at_commit(void)
{
	for (Claim *claim = claims; claim; claim = claim->next)
		end_claim(claim, true);
	claims = NULL;
	note_awaited();
	called_level = 0;
}

/* The transaction has aborted or was prepared.  Cannot fail. */
void
reader_at_abort(void)
{
	/* a FATAL error passes by reader_claim()'s own cleanup */
	unwant_subscription();
	for (Claim *claim = claims; claim; claim = claim->next)
		end_claim(claim, false);
	claims = NULL;
	note_awaited();
	called_level = 0;
}

/* A subtransaction has ended well: what it did is its parent's. */
void
reader_at_subcommit(int level)
{
	nesting_subcommit(&called_level, level);
	for (Claim *claim = claims; claim; claim = claim->next)
	{
		SavedPosition *saved = claim->saved;

		nesting_subcommit(&claim->level, level);
		nesting_subcommit(&claim->changing_level, level);
		if (saved == NULL || saved->level < level)
			continue;
		if (nesting_parent_needs_copy(claim->level, saved->upper ?
									  saved->upper->level : 0, level))
			saved->level = level - 1;
		else
			drop_saved(claim);
	}
}

/* A subtransaction was rolled back: bring back the positions before it. */
void
reader_at_subabort(int level)
{
	Claim	  **link = &claims;

	(void) nesting_subabort(&called_level, level);
	while (*link)
	{
		Claim	   *claim = *link;

		if (claim->level >= level)
		{
			*link = claim->next;
			end_claim(claim, false);
			free_claim(claim);
			continue;
		}
		if (claim->saved && claim->saved->level >= level)
		{
			/* the saved cursors become the claim's, and the others go */
			Position	moved = claim->position;

			claim->position = claim->saved->position;
			claim->saved->position = moved;
			drop_saved(claim);
		}
		(void) nesting_subabort(&claim->changing_level, level);

		/* bindings may have gone with the subtransaction */
		claim->synced = false;
		link = &claim->next;
	}
	note_awaited();
}

/*
 * Is what the claim points to still what was claimed?  Its database's lock
 * must be held for the answer to stay true.
 */
bool
reader_claim_valid(Claim *claim)
{
	return pg_atomic_read_u32(&claim->database->generation) ==
		claim->database_generation &&
		claim->subscription->generation == claim->generation;
}

/*
 * Does a session want to change or drop the subscription, and can this one
 * let it, having consumed and changed nothing?
 */
bool
reader_shall_step_aside(Claim *claim)
{
	return claim->subscription->wanted > 0 && !claim->position.consumed &&
		claim->changing_level == 0;
}

/*
 * Let a session in that wants to change or drop the subscription, if this
 * transaction has consumed nothing from it.  Returns false if it did, or if
 * the subscription is gone: there is no claim any more then.
 */
bool
reader_step_aside(Claim *claim)
{
	bool		gone = !reader_claim_valid(claim) ||
		claim->subscription->doomed;

	if (!gone && !reader_shall_step_aside(claim))
		return true;
	for (Claim **link = &claims; *link; link = &(*link)->next)
	{
		if (*link == claim)
		{
			*link = claim->next;
			break;
		}
	}
	end_claim(claim, false);
	free_claim(claim);
	note_awaited();
	return false;
}

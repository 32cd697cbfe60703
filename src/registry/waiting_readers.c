/*-------------------------------------------------------------------------
 *
 * waiting_readers.c
 *	  Sessions that wait for events of a subscription.
 *
 * 1. Several sessions may wait for one subscription: its reader, in poll(),
 *	  and any number in CALL wait, which do not claim it.  Each process has
 *	  one Waiter in shared memory, found by its number; it is in the list of
 *	  the subscription that the process waits for.
 *
 * 2. As long as anybody waits for it, the subscription's bindings are in the
 *	  lists of their channels' waiters, each but for the moment between an
 *	  event on that channel, when who appends it takes the binding out, and
 *	  the return of a session, which puts it in again.  The last one to leave
 *	  takes them all out.
 *
 * 3. A session enters the lists, issues a memory barrier, and then looks for
 *	  new events.  Who appends, the relay or a transaction at its commit, issues
 *	  one after it has appended, and then looks at the lists.  So the session
 *	  finds the event, or is found.  Without the barriers each could miss what
 *	  the other has written, and the session sleep with an event pending.  One
 *	  that is woken leaves, looks, and enters again.
 *
 * 4. Who drops a subscription takes its waiters out of the list and wakes
 *	  them, before the slot can be another's.  A process that exits leaves.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/registry_internal.h"

#include "base/debug.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/memutils.h"

/* The database whose wait_lock guards this process's Waiter, while it is in. */
static Database *waits_in = NULL;

/* Who is to be woken: room for twice MaxBackends. */
static PGPROC **to_wake = NULL;

/* This process's Waiter. */
static Waiter *
my_waiter(void)
{
	Assert(PGPUBSUB_MY_PROCNO < MaxBackends);
	return &pgpubsub_control->waiters[PGPUBSUB_MY_PROCNO];
}

/* The waiter's process. */
static PGPROC *
waiter_proc(Waiter *waiter)
{
	return GetPGProcByNumber(waiter - pgpubsub_control->waiters);
}

/* At the process's exit: wait no more. */
static void
leave_at_exit(int code, Datum arg)
{
	registry_stop_waiting();
}

/* Put the binding into its channel's list of waiters, if it is not there. */
static void
enter_channel(Database *database, Binding *binding)
{
	Channel    *channel = &database->channels[binding->channel];

	if (binding->waiting)
		return;
	dlist_push_tail(&channel->waiters, &binding->wait_node);
	binding->waiting = true;
	pg_atomic_fetch_add_u32(&channel->nwaiters, 1);
}

/* Put the subscription's bindings into their channels' lists of waiters. */
static void
enter_channels(Database *database, Subscription *subscription)
{
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
		enter_channel(database, binding);
}

/* Take the binding out of its channel's list of waiters, if it is there. */
static void
leave_channel(Database *database, Binding *binding)
{
	if (!binding->waiting)
		return;
	dlist_delete(&binding->wait_node);
	binding->waiting = false;
	pg_atomic_fetch_sub_u32(&database->channels[binding->channel].nwaiters, 1);
}

/*
 * The binding is about to go: events of its channel wake nobody by it any more.
 * As database->lock is held, exclusive, no session can begin to wait.
 * take_waiting() goes without that lock, but leaves alone a binding that does
 * not wait.
 */
void
registry_expel_binding(Database *database, Binding *binding)
{
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	if (!binding->waiting)
		return;
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	leave_channel(database, binding);
	LWLockRelease(database->wait_lock);
}

/*
 * Have this process woken by events of the subscription, by new bindings of it
 * and by its end.  The caller looks for new events afterwards, and calls
 * registry_stop_waiting() whatever comes; a session that exits need not.  The
 * subscription must be there.
 */
void
registry_start_waiting(Database *database, Subscription *subscription)
{
	static bool exit_registered = false;
	Waiter	   *waiter = my_waiter();

	Assert(LWLockHeldByMe(database->lock));
	Assert(waits_in == NULL);
	if (!exit_registered)
	{
		before_shmem_exit(leave_at_exit, (Datum) 0);
		exit_registered = true;
	}
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	waits_in = database;
	waiter->subscription = subscription;
	dlist_push_tail(&subscription->waiters, &waiter->node);
	enter_channels(database, subscription);
	LWLockRelease(database->wait_lock);

	pg_memory_barrier();		/* see 3. above */
}

/*
 * This process waits no more, if it did.  No LWLock of a database may be held.
 */
void
registry_stop_waiting(void)
{
	Database   *database = waits_in;
	Waiter	   *waiter;

	if (database == NULL)
		return;
	waiter = my_waiter();
	LWLockAcquire(database->lock, LW_SHARED);
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	if (waiter->subscription)
	{
		Subscription *subscription = waiter->subscription;

		dlist_delete(&waiter->node);
		waiter->subscription = NULL;
		if (dlist_is_empty(&subscription->waiters))
		{
			foreach_dlist(Binding, binding, subscription_node,
						  &subscription->bindings)
				leave_channel(database, binding);
		}
	}
	waits_in = NULL;
	LWLockRelease(database->wait_lock);
	LWLockRelease(database->lock);
}

/*
 * Allocate what registry_wake_channels() needs, which cannot fail.  Raises
 * 53200 for want of memory.
 */
void
registry_prepare_to_wake(void)
{
	if (to_wake == NULL)
		to_wake = MemoryContextAlloc(TopMemoryContext,
									 2 * MaxBackends * sizeof(PGPROC *));
}

/*
 * List in to_wake, behind the count that it has, the processes that wait for
 * events of the channel, and take the bindings for which they do out of the
 * channel's list.  A session waits in the lists of other channels too, so there
 * may be repetitions.  Returns how many are listed then; from MaxBackends on
 * there may be more.
 */
static int
take_waiting(Channel *channel, int count)
{
	LWLock	   *lock = channel->database->wait_lock;

	if (pg_atomic_read_u32(&channel->nwaiters) == 0)
		return count;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	while (!dlist_is_empty(&channel->waiters) && count < MaxBackends)
	{
		Binding    *binding =
		dlist_container(Binding, wait_node,
						dlist_pop_head_node(&channel->waiters));

		DEBUG_POINT("relay_wakes");
		foreach_dlist(Waiter, waiter, node, &binding->subscription->waiters)
			to_wake[count++] = waiter_proc(waiter);

		/*
		 * waiting becomes false last, and the subtraction is a full barrier.
		 * registry_expel_binding() does not wait for wait_lock when it finds
		 * that false, and the binding, even its subscription, is freed then.
		 */
		pg_atomic_fetch_sub_u32(&channel->nwaiters, 1);
		binding->waiting = false;
	}
	LWLockRelease(lock);
	return count;
}

/* Set the latches of those who are listed; returns how many. */
static int
wake_listed(int count)
{
	for (int i = 0; i < count; i++)
		SetLatch(&to_wake[i]->procLatch);
	return count;
}

/*
 * Wake the processes that wait for events of these channels; returns how many
 * there were.  The caller has issued a memory barrier since it appended the
 * events; see 3. above.  Latches are set without wait_lock and when all lists
 * are done with, so that nobody who is woken runs into that, or is woken for
 * the next channel again.
 */
int
registry_wake_channels(Database *database, const int *slots, int nslots)
{
	int			count = 0;
	int			woken = 0;

	for (int i = 0; i < nslots; i++)
	{
		Channel    *channel = &database->channels[slots[i]];

		while ((count = take_waiting(channel, count)) >= MaxBackends)
		{
			woken += wake_listed(count);
			count = 0;
		}
	}
	return woken + wake_listed(count);
}

/*
 * An event of the channel will be there in about the time in which a process
 * that sleeps gets to the CPU: if one subscription alone waits for it, wake its
 * session already.  That stays in the lists, and if it comes before the event, it
 * finds nothing, sleeps on, and is woken again.  Where many wait, each waking
 * twice would take the CPU from who is to show the event.
 */
void
registry_rouse_waiting(Database *database, int slot)
{
	Channel    *channel = &database->channels[slot];
	PGPROC	   *proc = NULL;

	Assert(LWLockHeldByMe(database->lock));
	if (pg_atomic_read_u32(&channel->nwaiters) != 1)
		return;
	LWLockAcquire(database->wait_lock, LW_SHARED);
	if (!dlist_is_empty(&channel->waiters))
	{
		Binding    *binding = dlist_head_element(Binding, wait_node,
												 &channel->waiters);

		proc = waiter_proc(dlist_head_element(Waiter, node,
											  &binding->subscription->waiters));
	}
	LWLockRelease(database->wait_lock);
	if (proc)
		SetLatch(&proc->procLatch);
}

/* Wake all sessions that wait for the subscription. */
void
registry_wake_waiting(Database *database, Subscription *subscription)
{
	Assert(LWLockHeldByMe(database->lock));
	LWLockAcquire(database->wait_lock, LW_SHARED);
	foreach_dlist(Waiter, waiter, node, &subscription->waiters)
		SetLatch(&waiter_proc(waiter)->procLatch);
	LWLockRelease(database->wait_lock);
}

/*
 * The subscription has got the binding just now: have those who wait for it
 * woken by the channel's events too, and at once if there are any.  So an
 * addition costs neither them nor us anything for the other channels.  The
 * barrier is that of 3. above.
 */
void
registry_await_binding(Database *database, Binding *binding)
{
	Subscription *subscription = binding->subscription;
	Channel    *channel = &database->channels[binding->channel];
	bool		waited_for;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	waited_for = !dlist_is_empty(&subscription->waiters);
	if (waited_for)
		enter_channel(database, binding);
	LWLockRelease(database->wait_lock);
	if (!waited_for || channel->is_pattern)
		return;
	pg_memory_barrier();
	if (ring_newest_number(database->ring, binding->channel) >
		pg_atomic_read_u64(&binding->number) ||
		ring_log_newest(database->ring, binding->channel) >
		pg_atomic_read_u64(&binding->seq))
		registry_wake_waiting(database, subscription);
}

/*
 * The subscription, which has no bindings any more, is about to go: its waiters
 * wait for nothing, and are woken.
 */
void
registry_expel_waiting(Database *database, Subscription *subscription)
{
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	LWLockAcquire(database->wait_lock, LW_EXCLUSIVE);
	while (!dlist_is_empty(&subscription->waiters))
	{
		Waiter	   *waiter =
		dlist_container(Waiter, node,
						dlist_pop_head_node(&subscription->waiters));

		waiter->subscription = NULL;
		SetLatch(&waiter_proc(waiter)->procLatch);
	}
	LWLockRelease(database->wait_lock);
}

/* The pid of one session that waits for the subscription, or 0. */
int
registry_waiting_pid(Database *database, Subscription *subscription)
{
	int			pid = 0;

	Assert(LWLockHeldByMe(database->lock));
	LWLockAcquire(database->wait_lock, LW_SHARED);
	if (!dlist_is_empty(&subscription->waiters))
		pid = waiter_proc(dlist_head_element(Waiter, node,
											 &subscription->waiters))->pid;
	LWLockRelease(database->wait_lock);
	return pid;
}

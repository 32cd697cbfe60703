/*-------------------------------------------------------------------------
 *
 * write_subscriptions.c
 *	  What the relay writes into the table of subscriptions.
 *
 * 1. A row whose owner is no more is as good as none: after DROP ROLE the relay
 *	  of each database drops such subscriptions and removes the rows.
 *
 * 2. A copy of a database has the original's rows, which say where they were
 *	  made.  Their subscriptions are foreign until they are polled here; then
 *	  the relay writes that they are this database's.
 *
 * The relay is a superuser, and writes as the table's owner.  It does not wait
 * for the table or for rows: what somebody has locked is tried again.  What
 * refers to the rows may keep the relay for a tenth of a second.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "read/read.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/* A change of the table: delete_orphans() or adopt(). */
typedef struct TableChange
{
	/* returns how many rows are left to be tried again */
	int			(*make) (const struct TableChange *change);
	int			orphans;		/* for delete_orphans(): rows to delete */
	const char *name;			/* for adopt(): the subscription's */
	const char *activity;		/* shown meanwhile */
	const char *failed;			/* the warning if it fails, */
	const char *then;			/* and its hint */
} TableChange;

/*
 * Delete the rows whose owner is no more, but for those that somebody has
 * locked.  Returns how many those were.
 */
static int
delete_orphans(const TableChange *change)
{
	SPITupleTable *found;
	uint64		count;

	SPI_connect();
	subscription_table_read("SELECT s.name FROM pgpubsub.subscription AS s"
							" WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r"
							" WHERE r.oid OPERATOR(pg_catalog.=) s.owner)"
							" FOR UPDATE OF s SKIP LOCKED",
							0, NULL, NULL, false);
	found = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		const char *name = NameStr(*DatumGetName(SPI_getbinval(found->vals[i],
															   found->tupdesc,
															   1, &isnull)));

		subscription_table_delete(name, true);
		ereport(LOG,
				(errmsg("dropped subscription \"%s\", whose owner was dropped",
						name)));
	}
	SPI_finish();
	return Max(change->orphans - (int) count, 0);
}

/*
 * Make the change in a subtransaction: if it fails, as it may where the table
 * is referenced, warn and leave the rows.  Returns how many are to be tried
 * again.
 */
static int
try_change(const TableChange *change)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int left = 0;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		left = change->make(change);

		/* a wait may have timed out just when its lock was granted */
		CHECK_FOR_INTERRUPTS();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg_internal("%s", change->failed),
				 errdetail("%s", error->message),
				 errhint("%s", change->then)));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return left;
}

/*
 * Make the change in a transaction of its own.  Returns false if some rows are
 * locked, or the table is.
 */
static bool
change_table(const TableChange *change)
{
	Oid			table;
	int			left = 1;

	relay_begin(change->activity);
	table = subscription_table_find();
	if (!OidIsValid(table))
		left = 0;
	else if (ConditionalLockRelationOid(table, RowExclusiveLock))
	{
		left = 0;
		if (subscription_table_find() == table)
		{
			PushActiveSnapshot(GetTransactionSnapshot());

			/* the relay must not wait for what somebody has locked */
			SetConfigOption("lock_timeout", "100ms", PGC_SUSET,
							PGC_S_OVERRIDE);
			left = try_change(change);
			SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
			PopActiveSnapshot();
		}
	}
	relay_end();
	return left == 0;
}

/*
 * Remove the rows whose owner is no more, of which there are so many; as
 * change_table() does.
 */
bool
relay_remove_orphans(int orphans)
{
	TableChange change = {
		.make = delete_orphans,
		.orphans = orphans,
		.activity = "removing subscriptions",
		.failed = "could not delete subscriptions whose owner was dropped from table pgpubsub.subscription",
		.then = "They are dropped all the same. Delete their rows."
	};

	return change_table(&change);
}

/*
 * Write that the subscription is this database's.  Returns 1 if it is locked.
 */
static int
adopt(const TableChange *change)
{
	return subscription_table_adopt(change->name) ? 0 : 1;
}

/*
 * The next subscription that was made in another database and polled in this
 * one, which the table does not say yet; NULL if there is none.  Copies its
 * name and its slot's generation.
 */
static Subscription *
next_adopted(char *name, uint32 *generation)
{
	Database   *database = relay.database;
	Subscription *found = NULL;
	dlist_iter	iter;

	LWLockAcquire(database->lock, LW_SHARED);
	dlist_foreach(iter, &database->subscriptions)
	{
		Subscription *subscription = dlist_container(Subscription, node,
													 iter.cur);

		if (!subscription->adopted ||
			subscription->state != SUBSCRIPTION_ACTIVE)
			continue;
		strlcpy(name, subscription->name, NAMEDATALEN);
		*generation = subscription->generation;
		found = subscription;
		break;
	}
	LWLockRelease(database->lock);
	return found;
}

/*
 * Write into the table which subscriptions that were made in another database
 * have been polled in this one, each as change_table() does.
 */
bool
relay_adopt(void)
{
	Database   *database = relay.database;
	char		name[NAMEDATALEN];
	uint32		generation;
	Subscription *subscription;
	TableChange change = {
		.make = adopt,
		.name = name,
		.activity = "adopting subscriptions",
		.failed = "could not write into table pgpubsub.subscription where a subscription was polled",
		.then = "After a restart it holds nobody until it is polled again."
	};

	while ((subscription = next_adopted(name, &generation)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!change_table(&change))
			return false;
		LWLockAcquire(database->lock, LW_EXCLUSIVE);
		if (subscription->generation == generation)
			subscription->adopted = false;
		LWLockRelease(database->lock);
	}
	return true;
}

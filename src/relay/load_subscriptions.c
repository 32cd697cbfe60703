/*-------------------------------------------------------------------------
 *
 * load_subscriptions.c
 *	  The table of subscriptions, as the relay reads it.
 *
 * subscribe(), unsubscribe(), add_channels() and drop_channels() keep tables and
 * shared memory equal by themselves.  The relay brings shared memory in line with the table when it
 * starts, and when somebody else has written the table: pg_restore, or a
 * superuser by hand.
 *
 * It must not mistake a subscribe() that commits at the same time for such a
 * difference.  Each commit of one of them grows database->commits, or additions,
 * under the database's lock, after its row has become visible.  So the relay
 * notes these counters before it takes its snapshot, and begins again if one has
 * grown by the time it has the lock to apply what it has read.
 *
 * The relay is a superuser, and who owns the schema may put anything in the
 * table's place: the relay looks only at the extension's own table, and reads
 * it as the table's owner.  What it writes there is in write_subscriptions.c.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "event/change_event.h"
#include "executor/spi.h"
#include "read/read.h"
#include "registry/channel_lists.h"
#include "registry/holders.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* The first look at the table is taken so often, while there is no room. */
#define FIRST_LOADS		25

/* A row of the table. */
typedef struct Row
{
	char		name[NAMEDATALEN];
	Oid			owner;
	char	  **channels;
	int			nchannels;
	int		   *slots;			/* room for the channels' slots */
	OnFull		on_full;
	TimestampTz created_at;
	bool		foreign;		/* made in another database */
	int64		id;				/* of its positions; 0: it has none */
} Row;

typedef struct Rows
{
	Row		   *rows;
	Row		  **by_name;		/* those rows, sorted */
	int			count;
	int			orphans;		/* rows not among them: their owner is no more */
} Rows;

/*
 * Lock the table for reading, if it is there, and the one of channels that were
 * added.  Does not wait: returns false if somebody has one or an index locked.
 */
static bool
lock_table(Oid *table)
{
	*table = subscription_table_find();
	if (!OidIsValid(*table))
	{
		/* a commit wakes us before it sends its invalidation messages */
		InvalidateSystemCaches();
		*table = subscription_table_find();
	}
	if (!OidIsValid(*table))
		return true;
	if (!ConditionalLockRelationOid(*table, AccessShareLock))
		return false;

	/* it may have been dropped before we had the lock */
	if (subscription_table_find() != *table)
	{
		*table = InvalidOid;
		return true;
	}
	return relay_lock_indexes(*table) && relay_lock_channels();
}

/*
 * Take a tuple of the query apart, into the current context.  Returns false if
 * it names no channels or no subscription.
 */
static bool
parse_row(HeapTuple tuple, TupleDesc desc, Row *row)
{
	bool		isnull;
	char	   *on_full;
	Oid			made_in;

	strlcpy(row->name,
			NameStr(*DatumGetName(SPI_getbinval(tuple, desc, 1, &isnull))),
			NAMEDATALEN);
	row->owner = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &isnull));
	row->channels = bindings_parse(DatumGetArrayTypeP(SPI_getbinval(tuple, desc, 3, &isnull)),
								   WARNING, &row->nchannels);
	on_full = TextDatumGetCString(SPI_getbinval(tuple, desc, 4, &isnull));
	row->on_full = strcmp(on_full, "block") == 0 ? ON_FULL_BLOCK :
		strcmp(on_full, "drop") == 0 ? ON_FULL_DROP : ON_FULL_EVICT;
	row->created_at =
		DatumGetTimestampTz(SPI_getbinval(tuple, desc, 5, &isnull));
	made_in = DatumGetObjectId(SPI_getbinval(tuple, desc, 7, &isnull));
	row->foreign = !isnull && made_in != MyDatabaseId;
	row->id = DatumGetInt64(SPI_getbinval(tuple, desc, 8, &isnull));
	if (isnull)
		row->id = 0;
	if (row->channels != NULL)
	{
		row->channels = relay_merge_channels(row->id, row->channels,
											 &row->nchannels);
		row->slots = palloc(Max(row->nchannels, 1) * sizeof(int));
	}
	return row->channels != NULL && row->name[0] != '\0';
}

/* Order of rows by name. */
static int
compare_rows(const void *a, const void *b)
{
	return strcmp((*(Row *const *) a)->name, (*(Row *const *) b)->name);
}

/* Sort the rows for find_row(). */
static void
sort_rows(Rows *rows)
{
	rows->by_name = palloc(Max(rows->count, 1) * sizeof(Row *));
	for (int i = 0; i < rows->count; i++)
		rows->by_name[i] = &rows->rows[i];
	qsort(rows->by_name, rows->count, sizeof(Row *), compare_rows);
}

/*
 * Read all rows, into the context; of channels that were added, until
 * relay_forget_channels().  In a transaction with a snapshot.
 */
static void
read_rows(Rows *result, MemoryContext context)
{
	MemoryContext old;
	char	   *sql;

	old = MemoryContextSwitchTo(context);
	relay_read_channels();
	MemoryContextSwitchTo(old);
	SPI_connect();

	/* the join sees a DROP ROLE that our caches may not have heard of */
	sql = psprintf("SELECT s.name, s.owner::pg_catalog.oid, s.channels,"
				   " s.on_full, s.created_at, r.oid IS NULL, %s, %s"
				   " FROM pgpubsub.subscription AS s"
				   " LEFT JOIN pg_catalog.pg_roles AS r"
				   " ON r.oid OPERATOR(pg_catalog.=) s.owner",
				   subscription_table_knows_origin() ? "s.made_in" :
				   "NULL::pg_catalog.oid",
				   subscription_table_has_ids() ? "s.id" :
				   "NULL::pg_catalog.int8");
	subscription_table_read(sql, 0, NULL, NULL, true);

	old = MemoryContextSwitchTo(context);
	result->rows = palloc(Max(SPI_processed, 1) * sizeof(Row));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Row		   *row = &result->rows[result->count];
		bool		isnull;

		if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i],
									   SPI_tuptable->tupdesc, 6, &isnull)))
			result->orphans++;
		else if (parse_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, row))
			result->count++;
		else
			ereport(WARNING,
					(errmsg("ignored row \"%s\" of table pgpubsub.subscription",
							row->name),
					 errhint("Correct its channels, or delete it.")));
	}
	sort_rows(result);
	MemoryContextSwitchTo(old);
	SPI_finish();
}

/* The row with that name, or NULL. */
static Row *
find_row(Rows *rows, const char *name)
{
	Row			wanted;
	Row		   *key = &wanted;
	Row		  **found;

	if (rows->count == 0)
		return NULL;
	strlcpy(wanted.name, name, NAMEDATALEN);
	found = bsearch(&key, rows->by_name, rows->count, sizeof(Row *),
					compare_rows);
	return found ? *found : NULL;
}

/*
 * Make the subscription that the row describes; it starts now.  As for all that
 * changes shared memory here, the database's lock must be held, exclusive.
 */
static BindResult
create_from_row(Row *row)
{
	Database   *database = relay.database;
	Subscription *subscription =
	registry_make_subscription(database, row->name, row->owner,
							   row->on_full, false);
	BindResult	result;

	if (subscription == NULL)
		return BIND_NO_SUBSCRIPTION;
	subscription->created_at = row->created_at;
	subscription->foreign = row->foreign;
	subscription->id = row->id;

	/* if there was no room for the subscription, it has missed events */
	if (row->created_at < relay.no_room_at)
		pg_atomic_fetch_add_u64(&subscription->gap_epoch, 1);
	result = bindings_add(database, subscription, row->channels,
						  row->nchannels, 0, NULL);
	bindings_place_now(database, subscription);
	relay_restore_position(subscription);
	subscription->state = SUBSCRIPTION_ACTIVE;
	hold_start(database, subscription);
	return result;
}

/*
 * Give the subscription what the row has.  If it has a reader, which must
 * not lose bindings, or somebody is changing its channels, it is marked stale,
 * and the end of that brings the relay here again.
 */
static BindResult
update_from_row(Subscription *subscription, Row *row)
{
	Database   *database = relay.database;
	BindResult	result;
	dlist_mutable_iter iter;

	subscription->owner = row->owner;
	subscription->on_full = row->on_full;
	subscription->id = row->id;

	/* a subscription that was polled here holds events without another poll */
	if (row->foreign && !subscription->foreign)
		subscription->adopted = true;
	else if (!row->foreign)
		subscription->foreign = subscription->adopted = false;
	hold_start(database, subscription);
	if (bindings_same(database, subscription, row->channels, row->nchannels))
		return BIND_DONE;
	if (subscription->reader.pid != 0 || subscription->num_changing > 0)
	{
		subscription->stale = true;
		return BIND_DONE;
	}
	result = bindings_add(database, subscription, row->channels,
						  row->nchannels, 0, NULL);
	relay_place_new(subscription);
	bindings_mark_dropped(database, subscription, row->channels,
						  row->nchannels);
	dlist_foreach_modify(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if (binding->flags & BINDING_DROPPED)
			registry_unbind(database, binding);
	}
	bindings_find_slots(database, row->channels, row->nchannels, row->slots);
	bindings_order(database, subscription, row->slots, row->nchannels);
	hold_start(database, subscription);
	return result;
}

/* Bring shared memory in line with the row, if nobody else has its name. */
static BindResult
apply_row(Row *row)
{
	Database   *database = relay.database;
	Subscription *subscription = registry_find_subscription(database,
															row->name);

	if (subscription == NULL || subscription->doomed)
		return create_from_row(row);
	if (subscription->state == SUBSCRIPTION_ACTIVE &&
		!subscription->temporary)
		return update_from_row(subscription, row);

	/* an open transaction, or a temporary one, has the name */
	return BIND_DONE;
}

/* Doom the lasting subscriptions that have no row, and wake their readers. */
static void
doom_missing(Rows *rows)
{
	dlist_iter	iter;

	dlist_foreach(iter, &relay.database->subscriptions)
	{
		Subscription *subscription = dlist_container(Subscription, node,
													 iter.cur);

		subscription->stale = false;
		if (subscription->state != SUBSCRIPTION_ACTIVE ||
			subscription->temporary || subscription->doomed ||
			find_row(rows, subscription->name) != NULL)
			continue;
		subscription->doomed = true;
		if (subscription->reader.pid != 0)
			SetLatch(&GetPGProcByNumber(subscription->reader.procno)->procLatch);
	}
}

/* Has one of the rows a pattern that matches the name? */
static bool
is_matched(const Rows *rows, const char *name)
{
	for (int i = 0; i < rows->count; i++)
	{
		Row		   *row = &rows->rows[i];

		for (int j = 0; j < row->nchannels; j++)
		{
			if (registry_is_pattern(row->channels[j]) &&
				registry_pattern_matches(row->channels[j], name))
				return true;
		}
	}
	return false;
}

/*
 * Make known the channels that have something in the log since before the
 * server's start, as far as patterns match them: so they are read, too.
 */
static void
make_logged_known(const Rows *rows)
{
	Database   *database = relay.database;
	HASH_SEQ_STATUS status;
	const char *name;

	if (relay.durable.channels == NULL ||
		pg_atomic_read_u32(&database->relay.loaded) != 0)
		return;
	hash_seq_init(&status, relay.durable.channels);
	while ((name = hash_seq_search(&status)) != NULL)
	{
		int			slot;

		if (!is_matched(rows, name))
			continue;
		slot = registry_make_channel(database, name, false);
		if (slot >= 0)
			pg_atomic_write_u32(&database->channels[slot].used, 1);
	}
}

/*
 * Tell those whose patterns match a channel that has something in the log, and
 * for which there was no room, that they miss events.
 */
static void
tell_unknown(void)
{
	Database   *database = relay.database;
	HASH_SEQ_STATUS status;
	const char *name;

	if (relay.durable.channels == NULL ||
		pg_atomic_read_u32(&database->relay.loaded) != 0)
		return;
	hash_seq_init(&status, relay.durable.channels);
	while ((name = hash_seq_search(&status)) != NULL)
	{
		if (registry_find_channel(database, name, false) < 0)
			(void) registry_gap_for_matching(database, name);
	}
}

/*
 * There was no room for all channels of the subscriptions, and the relay has
 * just begun: transactions that published before it did may have taken it, and
 * are about to end.  Try again for a while, so that nobody is left without.
 */
static bool
shall_load_again(void)
{
	return relay.no_room && relay.num_loads < FIRST_LOADS &&
		pg_atomic_read_u32(&relay.database->relay.loaded) == 0;
}

/*
 * Bring shared memory in line with the rows, unless a change of subscriptions has
 * committed since commits was read; returns whether it did.
 */
static bool
apply_rows(Rows *rows, uint64 commits)
{
	Database   *database = relay.database;
	BindResult	failure = BIND_DONE;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (database->commits + database->additions != commits)
	{
		LWLockRelease(database->lock);
		return false;
	}
	doom_missing(rows);
	make_logged_known(rows);
	for (int i = 0; i < rows->count; i++)
	{
		BindResult	result = apply_row(&rows->rows[i]);

		if (result != BIND_DONE)
			failure = result;
	}
	tell_unknown();
	LWLockRelease(database->lock);
	relay.no_room = failure != BIND_DONE;
	if (relay.no_room)
		relay.no_room_at = GetCurrentTimestamp();
	if (!shall_load_again())
		bindings_report(failure, WARNING);
	return true;
}

/*
 * Oid of notify_change(), InvalidOid if it is not there.  LookupFuncName()
 * would not do: it raises an error for what is dropped meanwhile.
 */
static Oid
find_notify_change(void)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum("notify_change"),
						   PointerGetDatum(buildoidvector(NULL, 0)),
						   ObjectIdGetDatum(get_namespace_oid(PGPUBSUB_SCHEMA, true)));
}

/*
 * The channels of the triggers that there are, in the current context; those
 * cloned from a parent's have the parent's.  Does not wait for the catalog.
 */
static List *
find_attached_channels(void)
{
	Oid			function = find_notify_change();
	List	   *channels = NIL;
	Relation	catalog;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(function) ||
		!ConditionalLockRelationOid(TriggerRelationId, AccessShareLock))
		return NIL;
	catalog = table_open(TriggerRelationId, NoLock);
	scan = systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
		const char *channel;
		char	  **args;
		int			nargs;

		if (form->tgfoid != function || OidIsValid(form->tgparentid))
			continue;
		args = trigger_options_of(catalog, tuple, &nargs);
		channel = trigger_options_find(nargs, args, "channel");
		if (channel == NULL)
			channel = get_rel_name(form->tgrelid);
		if (channel && pgpubsub_check_channel_name(channel, DEBUG2))
			channels = lappend(channels, (void *) channel);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return channels;
}

/* Make the channels known, as far as there is room, so that patterns match. */
static void
make_channels_known(const List *channels)
{
	Database   *database = relay.database;
	ListCell   *lc;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	foreach(lc, channels)
	{
		int			slot = registry_make_channel(database, lfirst(lc), false);

		if (slot < 0)
			break;
		pg_atomic_write_u32(&database->channels[slot].used, 1);
	}
	LWLockRelease(database->lock);
}

/* Has one of the rows no subscription? */
static bool
any_new(Rows *rows)
{
	Database   *database = relay.database;
	bool		any = false;

	LWLockAcquire(database->lock, LW_SHARED);
	for (int i = 0; i < rows->count && !any; i++)
		any = registry_find_subscription(database, rows->rows[i].name) == NULL;
	LWLockRelease(database->lock);
	return any;
}

/*
 * Read the table of subscriptions and bring shared memory in line with it; the
 * first time, also make the channels of triggers known.  Returns false if the
 * table is locked, or a row that is to be removed is.
 */
static bool
load_table(void)
{
	Database   *database = relay.database;
	bool		done = false;
	bool		locked = true;
	int			orphans = 0;

	while (!done && locked)
	{
		Rows		rows = {0};
		List	   *attached = NIL;
		uint64		commits;
		Oid			table;

		CHECK_FOR_INTERRUPTS();
		LWLockAcquire(database->lock, LW_SHARED);
		commits = database->commits + database->additions;
		LWLockRelease(database->lock);

		relay_begin("reading subscriptions");
		locked = lock_table(&table);
		PushActiveSnapshot(GetTransactionSnapshot());
		if (locked && OidIsValid(table))
			read_rows(&rows, CurTransactionContext);
		if (locked && pg_atomic_read_u32(&database->relay.loaded) != 0 &&
			any_new(&rows))
			(void) relay_read_positions();
		if (locked && pg_atomic_read_u32(&database->relay.loaded) == 0)
			attached = find_attached_channels();
		PopActiveSnapshot();
		if (locked)
			done = apply_rows(&rows, commits);
		relay_forget_channels();
		if (done)
			make_channels_known(attached);
		orphans = rows.orphans;
		relay_end();
	}
	if (done)
		relay_write_first_positions();
	relay.num_loads += done;
	if (done && shall_load_again())
		return false;
	if (!done || orphans == 0 || relay_remove_orphans(orphans))
		return locked;

	/* nobody waits for locked rows before the first look at the table is done */
	if (pg_atomic_read_u32(&database->relay.loaded) != 0)
		return false;
	pg_atomic_fetch_add_u64(&database->requests.reload, 1);
	(void) registry_request(database);
	return true;
}

/*
 * Drop the subscriptions that are doomed and that nobody reads.  Returns
 * whether there is a stale one that nobody reads.
 */
static bool
drop_doomed(void)
{
	Database   *database = relay.database;
	dlist_mutable_iter iter;
	bool		stale = false;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	dlist_foreach_modify(iter, &database->subscriptions)
	{
		Subscription *subscription = dlist_container(Subscription, node,
													 iter.cur);

		/* nobody can become its reader: a doomed one is visible to nobody */
		if (subscription->reader.pid != 0)
			continue;
		stale |= subscription->stale && subscription->num_changing == 0;
		if (subscription->doomed)
			registry_drop_subscription(database, subscription);
	}
	LWLockRelease(database->lock);
	return stale;
}

/*
 * Bring subscriptions in line with the table if it may have changed, and write
 * there what it does not say yet.  The caller listens to what was bound.  Must
 * not be in a transaction.  Returns false if it has to be called again later.
 */
bool
relay_load_subscriptions(void)
{
	Database   *database = relay.database;
	uint64		reload = pg_atomic_read_u64(&database->requests.reload);

	if (!drop_doomed() && reload == relay.reloaded &&
		pg_atomic_read_u32(&database->relay.loaded) != 0)
		return relay_adopt();
	if (!load_table())
		return false;
	relay.reloaded = reload;
	pg_atomic_write_u32(&database->relay.loaded, 1);
	(void) drop_doomed();
	return relay_adopt();
}

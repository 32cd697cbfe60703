/*-------------------------------------------------------------------------
 *
 * load_channels.c
 *	  The table of channels that were added to subscriptions or dropped from
 *	  them, as the relay reads it.
 *
 * What the table has is explained in read/subscription_channels.c.  It is read
 * together with that of subscriptions, in one transaction and before what both
 * say is applied; see load_subscriptions.c.  In between, its rows are in a hash,
 * by subscription and channel, and what they say of a subscription is merged
 * into the channels that its own row has.
 *
 * Like the other table, this one is only looked at if it is the extension's own,
 * and it is read as its owner.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/table.h"
#include "executor/spi.h"
#include "read/read.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"

static RelayDurable *const durable = &relay.durable;

/* Fill in the key of a row. */
static void
added_key(AddedKey *key, int64 subscription, const char *channel)
{
	memset(key, 0, sizeof(AddedKey));
	key->subscription = subscription;
	strlcpy(key->channel, channel, NAMEDATALEN);
}

/*
 * Lock the table's indexes, as planning a query on it does, but without
 * waiting.  Returns false if somebody has one locked, as REINDEX has.  The
 * table must be locked.
 */
bool
relay_lock_indexes(Oid table)
{
	Relation	rel = table_open(table, NoLock);
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		locked = true;

	foreach(lc, indexes)
		locked = locked &&
		ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock);
	list_free(indexes);
	table_close(rel, NoLock);
	return locked;
}

/*
 * Lock the table for reading, if it is there, without waiting.  Returns false
 * if somebody has it or an index of it locked.  In a transaction.
 */
bool
relay_lock_channels(void)
{
	Oid			table = subscription_channels_find();

	if (!OidIsValid(table))
		return true;
	if (!ConditionalLockRelationOid(table, AccessShareLock))
		return false;
	return subscription_channels_find() != table ||
		relay_lock_indexes(table);
}

/* Put a tuple of the query into the hash; it is the number-th. */
static void
enter_row(HeapTuple tuple, TupleDesc desc, uint64 number)
{
	bool		isnull;
	bool		version_null;
	AddedKey	key;
	AddedChannel *entry;
	char	   *channel =
	TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &isnull));

	/* what is too long would be taken for another channel */
	if (!pgpubsub_check_channel_name(channel, WARNING))
		return;
	added_key(&key, DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull)),
			  channel);
	entry = hash_search(durable->added, &key, HASH_ENTER, NULL);
	entry->number = number;
	entry->dropped = DatumGetBool(SPI_getbinval(tuple, desc, 3, &isnull));
	entry->since = (uint64) DatumGetInt64(SPI_getbinval(tuple, desc, 4,
														&isnull));
	entry->version = (uint64) DatumGetInt64(SPI_getbinval(tuple, desc, 5,
														  &version_null));
	entry->placed = !isnull && !version_null;
}

/*
 * Read the table, which is locked, into durable->added, in the current memory
 * context; that is NULL if it is not there, or empty.  In a transaction with a
 * snapshot.
 */
void
relay_read_channels(void)
{
	HASHCTL		ctl = {.keysize = sizeof(AddedKey),.entrysize = sizeof(AddedChannel)};
	Oid			table = subscription_channels_find();
	OwnRelationUser before;
	int			result;

	durable->added = NULL;
	if (!OidIsValid(table))
		return;
	ctl.hcxt = CurrentMemoryContext;
	SPI_connect();
	own_relation_become_owner(table, &before);
	result = SPI_execute("SELECT subscription, channel, dropped, since, version"
						 " FROM pgpubsub.subscription_channel"
						 " ORDER BY since NULLS FIRST, channel", true, 0);
	own_relation_become_user(&before);
	if (result == SPI_OK_SELECT && SPI_processed > 0)
	{
		durable->added = hash_create("pgpubsub added channels",
									 (long) Min(SPI_processed, 100000), &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		for (uint64 i = 0; i < SPI_processed; i++)
			enter_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, i);
	}
	SPI_finish();
}

/*
 * Forget what was read.
 */
void
relay_forget_channels(void)
{
	durable->added = NULL;
}

/*
 * What the table has of the subscription with that id and the channel; NULL if
 * nothing.
 */
AddedChannel *
relay_find_added(int64 id, const char *channel)
{
	AddedKey	key;

	if (durable->added == NULL || id == 0)
		return NULL;
	added_key(&key, id, channel);
	return hash_search(durable->added, &key, HASH_FIND, NULL);
}

/* Order of rows. */
static int
compare_added(const void *a, const void *b)
{
	uint64		left = (*(AddedChannel *const *) a)->number;
	uint64		right = (*(AddedChannel *const *) b)->number;

	return left < right ? -1 : left > right;
}

/* The channels that were added to the subscription, in order. */
static AddedChannel **
list_added(int64 id, int *count)
{
	HASH_SEQ_STATUS status;
	AddedChannel *entry;
	AddedChannel **list =
	palloc(hash_get_num_entries(durable->added) * sizeof(AddedChannel *));

	*count = 0;
	hash_seq_init(&status, durable->added);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->key.subscription == id && !entry->dropped)
			list[(*count)++] = entry;
	}
	qsort(list, *count, sizeof(AddedChannel *), compare_added);
	return list;
}

/*
 * The channels of the subscription with that id, whose own row has count names:
 * those of them of which the table has nothing, and those that were added.
 * *count becomes their number.  In the current memory context.
 */
char	  **
relay_merge_channels(int64 id, char **names, int *count)
{
	AddedChannel **added;
	char	  **merged;
	int			nadded;
	int			result = 0;

	if (durable->added == NULL || id == 0)
		return names;
	added = list_added(id, &nadded);
	merged = palloc(Max(*count + nadded, 1) * sizeof(char *));
	for (int i = 0; i < *count; i++)
	{
		if (relay_find_added(id, names[i]) == NULL)
			merged[result++] = names[i];
	}
	for (int i = 0; i < nadded; i++)
		merged[result++] = pstrdup(added[i]->key.channel);
	*count = result;
	return merged;
}

/*-------------------------------------------------------------------------
 *
 * subscription_channels.c
 *	  Writing the table of the channels that were added and dropped.
 *
 * 1. The row of a subscription in pgpubsub.subscription has the channels that
 *	  subscribe() was last given, all in one value, and to write that costs by
 *	  all of them.  What add_channels() and drop_channels() do to it since is in
 *	  the table pgpubsub.subscription_channel, one row for each name: the
 *	  subscription has those of its row's channels that have no row here, and
 *	  those whose row here is not of a channel that is dropped.  The next
 *	  subscribe() that changes something removes the rows.
 *
 * 2. The column listed says that the subscription's row has the name too.  Such
 *	  a row stays when the channel is dropped, or added again; any other goes
 *	  when its channel is dropped.  So the table has no more rows than a
 *	  subscription has, or has had listed.  Which of the two it is, is known
 *	  without looking at the list: a name that the subscription has, and that
 *	  has no row here, is listed.
 *
 * 3. A channel that was added begins where the log was then.  That is in the
 *	  row, since its seq may be above the subscription's position, which only who
 *	  reads that may write.  It counts until a position is written that knows the
 *	  channel: one with a higher version than the row has.  Where a row does not
 *	  come from here, as with pg_restore, a trigger takes both away.
 *
 * 4. A subscription is known here by its id, so that one that is made later
 *	  under the same name does not get the rows.
 *
 * What is said of writing the other table, in subscription_table.c, holds here.
 * No statement uses ON CONFLICT: what that inserts cannot be kept from logical
 * decoding.  It needs none, for who writes has the lock on the subscription's
 * name.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"

/* What the table has of a name. */
typedef enum RowKind
{
	ROWS_NONE,
	ROWS_LISTED,				/* a row that says so */
	ROWS_NOT_LISTED				/* one that does not */
} RowKind;

#define ROW_KINDS	(ROWS_NOT_LISTED + 1)

/* The names of which the table has the same. */
typedef struct NameSet
{
	Datum		names;			/* a text[] */
	int64		count;
} NameSet;

/* Make an array of the names. */
static Datum
names_array(char **names, int count)
{
	Datum	   *elements = palloc(Max(count, 1) * sizeof(Datum));

	for (int i = 0; i < count; i++)
		elements[i] = CStringGetTextDatum(names[i]);
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * Oid of the extension's table, as far as this transaction can see it;
 * InvalidOid if it is not there, as in version 1.0.
 */
Oid
subscription_channels_find(void)
{
	return own_relation_find("subscription_channel", RELKIND_RELATION);
}

/* Oid of the extension's table.  Raises 42P01 if it is not there. */
static Oid
find_table(void)
{
	Oid			table = subscription_channels_find();

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table pgpubsub.subscription_channel does not exist"),
				 errdetail("The schema \"%s\" must have the extension's own table, and belong to the table's owner or to a superuser.",
						   PGPUBSUB_SCHEMA),
				 errhint("Undo what was done to them, or create the extension again.")));
	return table;
}

/*
 * What the query, whose parameter is the subscription's name, finds as its id;
 * *isnull tells that it finds none.
 */
static Datum
read_id(const char *sql, const char *name, bool *isnull, KeptStatement *kept)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {CStringGetDatum(name)};
	int64		id = 0;

	SPI_connect();
	subscription_table_read_kept(sql, lengthof(types), types, values, false,
								 kept);
	*isnull = SPI_processed == 0;
	if (!*isnull)
		id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1, isnull));
	SPI_finish();
	return Int64GetDatum(id);
}

/*
 * The subscription's id, as its row says, which is locked so that it stays.
 * Raises 40001 or 55000, see subscription_table_row_missing(), if the row is not
 * there.
 */
static Datum
lock_row(const char *name)
{
	static KeptStatement kept = {0};
	bool		isnull;
	Datum		id = read_id("SELECT id FROM pgpubsub.subscription"
							 " WHERE name OPERATOR(pg_catalog.=) $1"
							 " FOR KEY SHARE", name, &isnull, &kept);

	if (isnull)
		subscription_table_row_missing(name);
	return id;
}

/* Note a group of rows, which the query has found, in its set. */
static void
note_rows(HeapTuple tuple, TupleDesc desc, NameSet *sets, HTAB *found)
{
	bool		isnull;
	bool		listed = DatumGetBool(SPI_getbinval(tuple, desc, 1, &isnull));
	NameSet    *set = &sets[listed ? ROWS_LISTED : ROWS_NOT_LISTED];
	Datum	   *elements;
	int			count;

	set->names = datumCopy(SPI_getbinval(tuple, desc, 2, &isnull), false, -1);
	deconstruct_array(DatumGetArrayTypeP(set->names), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		(void) hash_search(found, TextDatumGetCString(elements[i]),
						   HASH_ENTER, NULL);
	set->count = count;
}

/*
 * Tell of the channels what the table has of them under that id: the names of
 * each kind are in its set, in the current memory context.
 */
static void
find_rows(Datum id, char **channels, int count, NameSet *sets)
{
	static KeptStatement kept = {.plan_anew = true};
	Oid			types[] = {INT8OID, TEXTARRAYOID};
	Datum		values[] = {id, names_array(channels, count)};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	HASHCTL		ctl = {.keysize = NAMEDATALEN,.entrysize = NAMEDATALEN};
	HTAB	   *found = hash_create("pgpubsub channel names", count, &ctl,
									HASH_ELEM | HASH_STRINGS);
	char	  **others = palloc(count * sizeof(char *));
	int			nothers = 0;

	SPI_connect();
	subscription_table_read_kept("SELECT listed, pg_catalog.array_agg(channel)"
								 " FROM pgpubsub.subscription_channel"
								 " WHERE subscription OPERATOR(pg_catalog.=) $1"
								 " AND channel OPERATOR(pg_catalog.=) ANY ($2)"
								 " GROUP BY listed",
								 lengthof(types), types, values, false, &kept);
	old = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
		note_rows(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, sets, found);
	MemoryContextSwitchTo(old);
	SPI_finish();

	for (int i = 0; i < count; i++)
	{
		if (hash_search(found, channels[i], HASH_FIND, NULL) == NULL)
			others[nothers++] = channels[i];
	}
	hash_destroy(found);
	sets[ROWS_NONE].names = names_array(others, nothers);
	sets[ROWS_NONE].count = nothers;
}

/*
 * Run the statement on the rows of the names, unless there are none.  Its
 * parameters are the subscription's id, the names, and two seqs if since is not
 * 0.  Raises 40001 if this transaction's snapshot does not show a row that is in
 * the way.
 */
static void
write_rows(const char *sql, int expected, Datum id, const NameSet *set,
		   uint64 since, uint64 version, KeptStatement *kept)
{
	Oid			types[] = {INT8OID, TEXTARRAYOID, INT8OID, INT8OID};
	Datum		values[] = {id, set->names, Int64GetDatum((int64) since),
	Int64GetDatum((int64) version)};

	if (set->count == 0)
		return;
	PG_TRY();
	{
		(void) subscription_table_write(find_table(), sql,
										since != 0 ? 4 : 2, types, values,
										expected, false, kept);
	}
	PG_CATCH();
	{
		if (!IsolationUsesXactSnapshot() ||
			geterrcode() != ERRCODE_UNIQUE_VIOLATION)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access to the channels of a subscription"),
				 errdetail("They were changed after this transaction took its snapshot."),
				 errhint("Try the transaction again.")));
	}
	PG_END_TRY();
}

/*
 * Write that the subscription has these channels too, which it had not.  since
 * is the seq up to which all of the log is before them, and version that of the
 * subscription's last position that may not know them.  Raises 40001 or 55000 if
 * the subscription's row is not there.
 */
void
subscription_channels_add(const char *name, char **channels, int count,
						  uint64 since, uint64 version)
{
	static KeptStatement insert = {0};
	Datum		id = lock_row(name);
	NameSet		sets[ROW_KINDS] = {0};

	if (count == 0)
		return;
	find_rows(id, channels, count, sets);
	write_rows("INSERT INTO pgpubsub.subscription_channel"
			   " (subscription, channel, since, version)"
			   " SELECT $1, n, $3, $4 FROM pg_catalog.unnest($2) AS n",
			   SPI_OK_INSERT, id, &sets[ROWS_NONE], since, version, &insert);

	/* one that is not listed is there only if the table was written by hand */
	for (int kind = ROWS_LISTED; kind <= ROWS_NOT_LISTED; kind++)
		write_rows("UPDATE pgpubsub.subscription_channel"
				   " SET dropped = false, since = $3, version = $4"
				   " WHERE subscription OPERATOR(pg_catalog.=) $1"
				   " AND channel OPERATOR(pg_catalog.=) ANY ($2)",
				   SPI_OK_UPDATE, id, &sets[kind], since, version, NULL);
}

/*
 * Write that the subscription has these channels no more, which it had.  Raises
 * 40001 or 55000 if the subscription's row is not there.
 */
void
subscription_channels_drop(const char *name, char **channels, int count)
{
	static KeptStatement insert = {0};
	static KeptStatement delete = {.plan_anew = true};
	Datum		id = lock_row(name);
	NameSet		sets[ROW_KINDS] = {0};

	if (count == 0)
		return;
	find_rows(id, channels, count, sets);
	write_rows("INSERT INTO pgpubsub.subscription_channel"
			   " (subscription, channel, listed, dropped)"
			   " SELECT $1, n, true, true FROM pg_catalog.unnest($2) AS n",
			   SPI_OK_INSERT, id, &sets[ROWS_NONE], 0, 0, &insert);
	write_rows("UPDATE pgpubsub.subscription_channel"
			   " SET dropped = true, since = NULL, version = NULL"
			   " WHERE subscription OPERATOR(pg_catalog.=) $1"
			   " AND channel OPERATOR(pg_catalog.=) ANY ($2)",
			   SPI_OK_UPDATE, id, &sets[ROWS_LISTED], 0, 0, NULL);
	write_rows("DELETE FROM pgpubsub.subscription_channel"
			   " WHERE subscription OPERATOR(pg_catalog.=) $1"
			   " AND channel OPERATOR(pg_catalog.=) ANY ($2)",
			   SPI_OK_DELETE, id, &sets[ROWS_NOT_LISTED], 0, 0, &delete);
}

/*
 * The id by which the table may know the subscription; 0 if it has no row that
 * this transaction sees, or if there is no such table.
 */
int64
subscription_channels_id(const char *name)
{
	bool		isnull = true;
	Datum		id = 0;

	if (OidIsValid(subscription_channels_find()))
		id = read_id("SELECT id FROM pgpubsub.subscription"
					 " WHERE name OPERATOR(pg_catalog.=) $1", name, &isnull,
					 NULL);
	return isnull ? 0 : DatumGetInt64(id);
}

/*
 * The row of the subscription with that id has all its channels, or is gone:
 * remove what there is beside it.
 */
void
subscription_channels_clear(int64 id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(id)};

	if (id != 0)
		(void) subscription_table_write(find_table(),
										"DELETE FROM pgpubsub.subscription_channel"
										" WHERE subscription OPERATOR(pg_catalog.=) $1",
										lengthof(types), types, values,
										SPI_OK_DELETE, false, NULL);
}

/* Remove what the table has of subscriptions that have no row any more. */
void
subscription_channels_forget(void)
{
	Oid			table = subscription_channels_find();

	if (OidIsValid(table))
		(void) subscription_table_write(table,
										"DELETE FROM pgpubsub.subscription_channel AS c"
										" WHERE NOT EXISTS"
										" (SELECT FROM pgpubsub.subscription AS s"
										" WHERE s.id OPERATOR(pg_catalog.=) c.subscription)",
										0, NULL, NULL, SPI_OK_DELETE, false, NULL);
}

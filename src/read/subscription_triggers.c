/*-------------------------------------------------------------------------
 *
 * subscription_triggers.c
 *	  What becomes of the table of subscriptions, of the table of channels that
 *	  were added to these, and of the table of durable channels, when others
 *	  write them.
 *
 * The triggers let pass what pgpubsub itself writes.  Apart from that, for the
 * first two tables:
 *
 * 1. When somebody writes the table by hand, the relay reads it again.
 *
 * 2.  Rows that pg_restore brings were made in another database, which may go
 *	  on.  So each row says where it was made, and one from elsewhere holds
 *	  nobody's queue until it is polled here.
 *
 * 3. A publication FOR ALL TABLES has the table in it, as an extension cannot
 *	  keep it out.  What pgpubsub writes is not decoded, see undecoded_write.c.
 *	  What a subscriber's workers would write there all the same, the initial
 *	  copy and rows that were written by hand, a trigger discards.  It is
 *	  enabled ALWAYS, for other triggers do not fire in those workers.  A
 *	  TRUNCATE cannot be discarded: the rows are kept aside before it and put
 *	  back after it.
 *
 * 4. A subscriber without the extension has no such table: CREATE SUBSCRIPTION
 *	  fails there, and rows written by hand stop it.  A WARNING says so, when
 *	  the publication or the extension is created.
 *
 * 5. The table of durable channels is read again by all sessions and the relay,
 *	  whoever has written it.  What logical replication would write there is
 *	  discarded too, but for a TRUNCATE.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* The two tables that these triggers are on. */
typedef enum TableKind
{
	TABLE_OF_SUBSCRIPTIONS,
	TABLE_OF_CHANNELS,			/* that were added or dropped */
	TABLE_UNKNOWN
} TableKind;

/* The rows that are to outlive a TRUNCATE, in TopTransactionContext. */
static List *kept_rows[TABLE_UNKNOWN] = {NIL, NIL};

PG_FUNCTION_INFO_V1(pgpubsub_channel_written);
PG_FUNCTION_INFO_V1(pgpubsub_subscription_changed);
PG_FUNCTION_INFO_V1(pgpubsub_subscription_inserted);
PG_FUNCTION_INFO_V1(pgpubsub_subscription_replicated);

/* Which of the tables the function was called for, as a trigger. */
static TableKind
trigger_table(FunctionCallInfo fcinfo)
{
	Oid			table;

	if (!CALLED_AS_TRIGGER(fcinfo))
		return TABLE_UNKNOWN;
	table = RelationGetRelid(((TriggerData *) fcinfo->context)->tg_relation);
	return table == subscription_table_oid() ? TABLE_OF_SUBSCRIPTIONS :
		table == subscription_channels_find() ? TABLE_OF_CHANNELS :
		TABLE_UNKNOWN;
}

/*
 * pgpubsub.subscription_changed() RETURNS trigger, per statement: has the relay
 * read the tables again when what somebody has written there is committed.  What
 * is left of subscriptions that were deleted goes with them.
 */
Datum
pgpubsub_subscription_changed(PG_FUNCTION_ARGS)
{
	TableKind	kind = trigger_table(fcinfo);
	TriggerEvent event;

	if (kind == TABLE_UNKNOWN)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("pgpubsub.subscription_changed() was not called as the trigger of its table"),
				 errhint("It is the trigger of table pgpubsub.subscription.")));
	if (subscription_table_writing())
		return PointerGetDatum(NULL);
	subscription_table_written();
	event = ((TriggerData *) fcinfo->context)->tg_event;
	if (kind == TABLE_OF_SUBSCRIPTIONS &&
		(TRIGGER_FIRED_BY_DELETE(event) || TRIGGER_FIRED_BY_TRUNCATE(event)))
		subscription_channels_forget();
	return PointerGetDatum(NULL);
}

/*
 * A row of the table of channels that were added comes from elsewhere: where a
 * channel begins is known only there.
 */
static HeapTuple
without_beginning(HeapTuple tuple, TupleDesc desc)
{
	int			columns[] = {SPI_fnumber(desc, "since"),
	SPI_fnumber(desc, "version")};
	Datum		values[] = {0, 0};
	bool		nulls[] = {true, true};

	if (columns[0] <= 0 || columns[1] <= 0)
		return tuple;
	return heap_modify_tuple_by_cols(tuple, desc, lengthof(columns), columns,
									 values, nulls);
}

/*
 * pgpubsub.subscription_inserted() RETURNS trigger, per row: sets the column
 * made_in.  A row without a value there is written by hand, and so made here.
 * A row with one comes from pg_restore, and so from elsewhere; it gets 0,
 * because its database might by chance have the oid that this one has.  In the
 * table of channels that were added it clears since and version.
 */
Datum
pgpubsub_subscription_inserted(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TableKind	kind = trigger_table(fcinfo);
	HeapTuple	tuple;
	TupleDesc	desc;
	int			column;
	Datum		made_in;
	bool		isnull;

	if (kind == TABLE_UNKNOWN ||
		!TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		!TRIGGER_FIRED_BY_INSERT(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("pgpubsub.subscription_inserted() was not called as the trigger of its table"),
				 errhint("It is a trigger of table pgpubsub.subscription.")));
	tuple = data->tg_trigtuple;
	desc = RelationGetDescr(data->tg_relation);
	if (kind == TABLE_OF_CHANNELS)
		return PointerGetDatum(subscription_table_writing() ? tuple :
							   without_beginning(tuple, desc));
	column = SPI_fnumber(desc, "made_in");
	if (subscription_table_writing() || column <= 0)
		return PointerGetDatum(tuple);

	(void) heap_getattr(tuple, column, desc, &isnull);
	made_in = ObjectIdGetDatum(isnull ? MyDatabaseId : InvalidOid);
	isnull = false;
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, 1, &column,
													 &made_in, &isnull));
}

/* Keep the table's rows aside, before a TRUNCATE. */
static void
keep_rows(TableKind kind)
{
	MemoryContext old;

	SPI_connect();
	subscription_table_read(kind == TABLE_OF_SUBSCRIPTIONS ?
							"SELECT s FROM pgpubsub.subscription AS s" :
							"SELECT c FROM pgpubsub.subscription_channel AS c",
							0, NULL, NULL, false);
	old = MemoryContextSwitchTo(TopTransactionContext);
	kept_rows[kind] = NIL;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		Datum		row = SPI_getbinval(SPI_tuptable->vals[i],
										SPI_tuptable->tupdesc, 1, &isnull);

		kept_rows[kind] = lappend(kept_rows[kind],
								  DatumGetPointer(datumCopy(row, false, -1)));
	}
	MemoryContextSwitchTo(old);
	SPI_finish();
}

/* Put the rows back that were kept aside. */
static void
put_rows_back(TableKind kind, Relation table)
{
	ListCell   *cell;

	foreach(cell, kept_rows[kind])
		subscription_table_put_back(RelationGetRelid(table),
									table->rd_rel->reltype,
									PointerGetDatum(lfirst(cell)));
	kept_rows[kind] = NIL;
}

/*
 * pgpubsub.subscription_replicated() RETURNS trigger, per row and for TRUNCATE
 * per statement: discards what logical replication would do to the table.
 */
Datum
pgpubsub_subscription_replicated(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool		discards = IsLogicalWorker() && !subscription_table_writing();
	TableKind	kind = trigger_table(fcinfo);

	if (kind == TABLE_UNKNOWN)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("pgpubsub.subscription_replicated() was not called as the trigger of its table"),
				 errhint("It is the trigger of table pgpubsub.subscription.")));
	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
	{
		if (discards && TRIGGER_FIRED_BEFORE(trigger->tg_event))
			return PointerGetDatum(NULL);
		return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
							   trigger->tg_newtuple : trigger->tg_trigtuple);
	}
	if (discards && TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		if (TRIGGER_FIRED_BEFORE(trigger->tg_event))
			keep_rows(kind);
		else
			put_rows_back(kind, trigger->tg_relation);
	}
	return PointerGetDatum(NULL);
}

/*
 * pgpubsub.channel_written() RETURNS trigger, per statement: has all sessions
 * and the relay read the table of durable channels again, this session at once,
 * the others when that is committed.  Before a row: discards what logical
 * replication would do to it.
 */
Datum
pgpubsub_channel_written(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		RelationGetRelid(trigger->tg_relation) !=
		own_relation_find("channel", RELKIND_RELATION))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("pgpubsub.channel_written() was not called as the trigger of its table"),
				 errhint("It is the trigger of table pgpubsub.channel, in a schema that belongs to the table's owner or to a superuser.")));
	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
	{
		if (IsLogicalWorker() && !set_durable_writing())
			return PointerGetDatum(NULL);
		return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
							   trigger->tg_newtuple : trigger->tg_trigtuple);
	}
	CacheInvalidateRelcache(trigger->tg_relation);
	table_written("channel");
	return PointerGetDatum(NULL);
}

/*
 * Warn if the table of subscriptions is in the publication; with NULL, if it is
 * in any.
 */
void
replication_warn(const char *publication)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {publication ? CStringGetTextDatum(publication) : 0};
	int			result;

	SPI_connect();

	/* not read-only: with a snapshot that sees what was just done */
	result = SPI_execute_with_args("SELECT p.pubname"
								   " FROM pg_catalog.pg_publication_tables AS p"
								   " WHERE p.schemaname OPERATOR(pg_catalog.=) 'pgpubsub'::pg_catalog.name"
								   " AND p.tablename OPERATOR(pg_catalog.=) 'subscription'::pg_catalog.name"
								   " AND ($1 IS NULL OR p.pubname::pg_catalog.text OPERATOR(pg_catalog.=) $1)"
								   " LIMIT 1",
								   lengthof(types), types, values,
								   publication ? " " : "n", false, 1);
	if (result == SPI_OK_SELECT && SPI_processed > 0)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("publication \"%s\" has table pgpubsub.subscription in it",
						SPI_getvalue(SPI_tuptable->vals[0],
									 SPI_tuptable->tupdesc, 1)),
				 errdetail("A subscriber of it that lacks this table fails at CREATE SUBSCRIPTION, and stops at rows that are written to the table by hand."),
				 errhint("Create extension pgpubsub on its subscribers, too, where what is replicated to this table is discarded, or have the publication name its tables or schemas.")));
	SPI_finish();
}

/*-------------------------------------------------------------------------
 *
 * set_durable.c
 *	  Making a channel durable: writing the table pgpubsub.channel.
 *
 * 1. What is to be written follows from the rules that durable_channels.c has.
 *	  If that is nothing, the table is not locked: programs that attach their
 *	  tables when they start do not wait for one another.
 *
 * 2. Otherwise the table is locked against other writers until the transaction
 *	  ends, and the rules are asked again.  They show the newest rows, so that
 *	  a row which this transaction's snapshot is too old to show is noticed.
 *
 * 3. Like the table of subscriptions, it is written by SPI, as its owner, for
 *	  callers have no privilege on it; and in a way that logical decoding does
 *	  not see, for it is in each publication FOR ALL TABLES.  The table's
 *	  trigger has the sessions and the relay read it again.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "registry/registry.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* The most years that an interval can have, but for those without end. */
#define INTERVAL_MAX_YEARS	178000000

/* What is to be done to the row of the name or pattern. */
typedef enum RowChange
{
	ROW_STAYS,
	ROW_INSERT,
	ROW_UPDATE,
	ROW_DELETE
} RowChange;

/* The row as it is to be. */
typedef struct Row
{
	const char *name;
	bool		durable;
	Interval	retain;
} Row;

PG_FUNCTION_INFO_V1(pgpubsub_set_durable);

/* This file is writing the table. */
static bool writing_table = false;

/* Is it pgpubsub itself that writes the table just now in this session? */
bool
set_durable_writing(void)
{
	return writing_table;
}

/* Raise 22023 if retain is negative, or has no end.  (15 and 16 have no such.) */
static void
check_retain(Interval *retain)
{
	Interval	least = {0};
	Interval	most = {.month = INTERVAL_MAX_YEARS * MONTHS_PER_YEAR};

	if (DatumGetBool(DirectFunctionCall2(interval_lt, IntervalPGetDatum(retain),
										 IntervalPGetDatum(&least))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retain cannot be negative"),
				 errhint("Give an interval of 0 or more.")));
	if (DatumGetBool(DirectFunctionCall2(interval_gt, IntervalPGetDatum(retain),
										 IntervalPGetDatum(&most))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retain is too long"),
				 errdetail("It is infinite, or longer than %d years.",
						   INTERVAL_MAX_YEARS),
				 errhint("Give how long events are to be kept, for instance '1 day'.")));
}

/* Are the intervals written alike? */
static bool
same_interval(const Interval *a, const Interval *b)
{
	return a->month == b->month && a->day == b->day && a->time == b->time;
}

/*
 * What has to be done to the table for that?  Sets *row to the row as it is to
 * be.  With retain NULL, a channel that is durable stays as it is.
 */
static RowChange
plan_change(const char *channel, bool durable, const Interval *retain, Row *row)
{
	Row			stored = {.durable = false};
	bool		exists = durable_rules_find(channel, &stored.durable,
											&stored.retain);

	memset(row, 0, sizeof(Row));
	row->name = channel;
	row->durable = durable;
	if (durable)
	{
		if (retain == NULL && (exists ? stored.durable :
							   durable_rules_match_pattern(channel)))
			return ROW_STAYS;
		if (retain != NULL)
			row->retain = *retain;
	}
	else if (registry_is_pattern(channel) ||
			 !durable_rules_match_pattern(channel))
		return exists ? ROW_DELETE : ROW_STAYS;

	if (!exists)
		return ROW_INSERT;
	return stored.durable == row->durable &&
		(!durable || same_interval(&stored.retain, &row->retain)) ?
		ROW_STAYS : ROW_UPDATE;
}

/* Oid of the table.  Raises 55000 if it is not there. */
static Oid
table_oid(void)
{
	Oid			table = own_relation_find("channel", RELKIND_RELATION);

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table pgpubsub.channel does not exist"),
				 errdetail("Version 1.0 of the extension has none; later ones need it as they have made it, in a schema \"%s\" that belongs to the table's owner or to a superuser.",
						   PGPUBSUB_SCHEMA),
				 errhint("Run ALTER EXTENSION pgpubsub UPDATE; or undo what was done to the table or its schema.")));
	return table;
}

/*
 * Open the table, locked against other writers until the transaction ends.
 * Raises 55000 if it is not there.
 */
static Relation
open_table(void)
{
	for (;;)
	{
		Oid			table = table_oid();
		Relation	relation = try_table_open(table, ShareRowExclusiveLock);

		/* another table may have the name when we have the lock */
		if (relation != NULL && table_oid() == table)
			return relation;
		if (relation != NULL)
			table_close(relation, ShareRowExclusiveLock);
	}
}

/*
 * Raise an error, as the statement has not written the row: 40001 if this
 * transaction's snapshot is too old to show it, else 55000.
 */
static void
row_not_written(const char *name)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access to channel \"%s\"", name),
				 errdetail("Whether it is durable was changed after this transaction took its snapshot."),
				 errhint("Try the transaction again.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not write table pgpubsub.channel"),
			 errdetail("A trigger or a rule on it has kept the row of channel \"%s\" from being written.",
					   name),
			 errhint("Drop what was added to the table.")));
}

/* Run the statement that makes the change, as the current user. */
static void
execute_change(RowChange change, Row *row)
{
	static const struct
	{
		const char *sql;
		int			nargs;
		int			result;
	}			statements[] = {
		[ROW_INSERT] = {"INSERT INTO pgpubsub.channel (channel, durable, retain)"
		" VALUES ($1, $2, $3)", 3, SPI_OK_INSERT},
		[ROW_UPDATE] = {"UPDATE pgpubsub.channel SET durable = $2, retain = $3"
			" WHERE channel OPERATOR(pg_catalog.=) $1", 3,
		SPI_OK_UPDATE},
		[ROW_DELETE] = {"DELETE FROM pgpubsub.channel"
			" WHERE channel OPERATOR(pg_catalog.=) $1", 1,
		SPI_OK_DELETE}
	};
	Oid			types[] = {TEXTOID, BOOLOID, INTERVALOID};
	Datum		values[] = {CStringGetTextDatum(row->name),
		BoolGetDatum(row->durable),
	IntervalPGetDatum(&row->retain)};

	SPI_connect();
	if (SPI_execute_with_args(statements[change].sql, statements[change].nargs,
							  types, values, NULL, false,
							  0) != statements[change].result ||
		SPI_processed != 1)
		row_not_written(row->name);
	SPI_finish();
}

/* Make the change, as the table's owner.  The table is locked. */
static void
write_row(Relation table, RowChange change, Row *row)
{
	bool		undecoded;
	bool		nested = writing_table; /* in a trigger on the table */
	OwnRelationUser before;

	own_relation_become_owner(RelationGetRelid(table), &before);
	writing_table = true;
	undecoded = undecoded_begin(table);
	PG_TRY();
	{
		execute_change(change, row);
	}
	PG_FINALLY();
	{
		if (undecoded)
			undecoded_end();
		writing_table = nested;
		own_relation_become_user(&before);
	}
	PG_END_TRY();
}

/*
 * Make the channel, or all that match the pattern, durable or not, from this
 * transaction's commit on.  retain says for how long events are kept at least;
 * with NULL it stays as it is if the channel is durable already.  Returns
 * whether this changes anything.  Checks no privilege.  The errors are in the
 * comment on the SQL function set_durable().
 */
bool
set_durable(const char *channel, bool durable, Interval *retain)
{
	Relation	table;
	RowChange	change;
	Row			row;

	(void) pgpubsub_check_channel_name(channel, ERROR);
	if (retain != NULL)
		check_retain(retain);
	(void) table_oid();
	if (plan_change(channel, durable, retain, &row) == ROW_STAYS)
		return false;

	PreventCommandIfReadOnly("pgpubsub.set_durable()");
	table = open_table();
	change = plan_change(channel, durable, retain, &row);
	if (change != ROW_STAYS)
		write_row(table, change, &row);
	table_close(table, NoLock);
	return change != ROW_STAYS;
}

/* May the user call set_durable()? */
static bool
may_set_durable(void)
{
	Oid			types[] = {TEXTOID, BOOLOID, INTERVALOID};
	Oid			function = LookupFuncName(list_make2(makeString(PGPUBSUB_SCHEMA),
													 makeString("set_durable")),
										  lengthof(types), types, true);

	return OidIsValid(function) &&
		PGPUBSUB_FUNCTION_ACLCHECK(function, GetUserId()) == ACLCHECK_OK;
}

/*
 * For attach(): make the channel durable or not.  Raises 42501 if a channel is
 * not to be durable any more, on which others may rely, and the user may not
 * call set_durable(); else what set_durable() raises.
 */
void
set_durable_attached(const char *channel, bool durable)
{
	Row			row;

	if (!durable && plan_change(channel, false, NULL, &row) != ROW_STAYS &&
		!may_set_durable())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to make channel \"%s\" not durable",
						channel),
				 errdetail("Others may rely on its events being kept."),
				 errhint("Attach without the argument durable, or have somebody grant you EXECUTE on pgpubsub.set_durable().")));
	(void) set_durable(channel, durable, NULL);
}

/*
 * pgpubsub.set_durable(channel text, durable boolean, retain interval)
 * RETURNS boolean
 */
Datum
pgpubsub_set_durable(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"channel", "durable", "retain"};

	for (int i = 0; i < (int) lengthof(names); i++)
		check_not_null(fcinfo, i, names[i]);
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute pgpubsub.set_durable() on a standby"),
				 errhint("Connect to the primary server; its channels are durable on the standby too.")));
	PreventCommandIfReadOnly("pgpubsub.set_durable()");
	PG_RETURN_BOOL(set_durable(text_to_cstring(PG_GETARG_TEXT_PP(0)),
							   PG_GETARG_BOOL(1), PG_GETARG_INTERVAL_P(2)));
}

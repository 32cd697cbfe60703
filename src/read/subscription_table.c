/*-------------------------------------------------------------------------
 *
 * subscription_table.c
 *	  Writing the table of subscriptions.  For the table beside it, see
 *	  subscription_channels.c.
 *
 * The table pgpubsub.subscription says which subscriptions come back after a
 * restart, and lets pg_dump keep them.  It is written by SPI, as the table's
 * owner, because a subscriber needs no privilege on it; the subscriber is
 * recorded as the subscription's owner.  Logical decoding does not see what is
 * written here, see undecoded_write.c.
 *
 * A statement trigger has the relay read the table again.  It asks
 * subscription_table_writing() first: what is written here, whoever calls has
 * done, or will do, to shared memory too.
 *
 * A subscription belongs to a role, but pg_shdepend has no place for that: its
 * entries name objects of core's classes, which DROP ROLE and DROP OWNED then
 * describe and drop.  So a hook calls this file for DROP OWNED and REASSIGN
 * OWNED; DROP ROLE takes its subscriptions with it, see load_subscriptions.c.
 * As with core's objects, a role to which an open transaction gives one is
 * locked.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

/* This file is writing the table. */
static bool writing_table = false;

/* Is it pgpubsub itself that writes the table just now in this session? */
bool
subscription_table_writing(void)
{
	return writing_table;
}

/*
 * Raise XX000 if SPI's result is not the expected one, which only a table that
 * somebody has altered explains.
 */
static void
check_spi(int result, int expected)
{
	if (result != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read or write table pgpubsub.subscription"),
				 errdetail("SPI said: %s.", SPI_result_code_string(result))));
}

/*
 * Oid of the extension's table, as far as this transaction can see it;
 * InvalidOid if it is not there.
 */
Oid
subscription_table_find(void)
{
	return own_relation_find("subscription", RELKIND_RELATION);
}

/*
 * Warn if the extension's schema belongs to a role that could have the current
 * user, who creates it, run its code.
 */
void
subscription_table_check_schema(void)
{
	Oid			schema = get_namespace_oid(PGPUBSUB_SCHEMA, true);

	if (OidIsValid(schema) &&
		own_relation_schema_endangers(schema, GetUserId()))
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"%s\" belongs to a role that is no superuser",
						PGPUBSUB_SCHEMA),
				 errdetail("Its owner can put anything in the place of the extension's objects, which superusers run.  There are no subscriptions while that is so."),
				 errhint("Give the schema to a superuser with ALTER SCHEMA ... OWNER TO.")));
}

/* Oid of the extension's table.  Raises 42P01 if it is not there. */
Oid
subscription_table_oid(void)
{
	Oid			table = subscription_table_find();

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table pgpubsub.subscription does not exist"),
				 errdetail("The schema \"%s\" must have the extension's own table, and belong to the table's owner or to a superuser.",
						   PGPUBSUB_SCHEMA),
				 errhint("Undo what was done to them, give the schema to a superuser, or create the extension again.")));
	return table;
}

/*
 * Lock the table, so that the extension stays until this transaction ends.
 * Returns the table's oid.  Raises 42P01 if it is not there.
 */
Oid
subscription_table_lock(void)
{
	Oid			table;

	/* another table may have the name when we have the lock */
	for (;;)
	{
		table = subscription_table_oid();
		LockRelationOid(table, RowExclusiveLock);
		if (subscription_table_find() == table)
			return table;
		UnlockRelationOid(table, RowExclusiveLock);
	}
}

/*
 * Run the statement, in SPI; if kept is not NULL, its first call keeps there what
 * it has prepared.  That is planned anew each time if the best plan depends on
 * how large the table is.
 */
static int
execute(const char *sql, int nargs, Oid *types, Datum *values, bool read_only,
		KeptStatement *kept)
{
	if (kept == NULL)
		return SPI_execute_with_args(sql, nargs, types, values, NULL,
									 read_only, 0);
	if (kept->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types,
											  kept->plan_anew ?
											  CURSOR_OPT_CUSTOM_PLAN : 0);

		if (plan == NULL)
			return SPI_result;
		(void) SPI_keepplan(plan);
		kept->plan = plan;
	}
	return SPI_execute_plan(kept->plan, values, NULL, read_only, 0);
}

/*
 * Run the query, which only reads or locks the table, as the table's owner.
 * The caller is connected to SPI and finds the result there.
 */
void
subscription_table_read(const char *sql, int nargs, Oid *types, Datum *values,
						bool read_only)
{
	subscription_table_read_kept(sql, nargs, types, values, read_only, NULL);
}

/* The same, for a query that is run often: what is prepared is kept. */
void
subscription_table_read_kept(const char *sql, int nargs, Oid *types,
							 Datum *values, bool read_only,
							 KeptStatement *kept)
{
	OwnRelationUser before;

	own_relation_become_owner(subscription_table_oid(), &before);
	PG_TRY();
	{
		check_spi(execute(sql, nargs, types, values, read_only, kept),
				  SPI_OK_SELECT);
	}
	PG_FINALLY();
	{
		own_relation_become_user(&before);
	}
	PG_END_TRY();
}

/*
 * Does the query, which has one parameter, find a row of the table?  It is not
 * read-only, so it has a snapshot that is newer than the caller's.
 */
static bool
finds_row(const char *sql, Oid type, Datum value)
{
	bool		found;

	SPI_connect();
	subscription_table_read(sql, 1, &type, &value, false);
	found = SPI_processed > 0;
	SPI_finish();
	return found;
}

/* Can this transaction see a row of the table for the subscription? */
bool
subscription_table_has(const char *name)
{
	return OidIsValid(subscription_table_find()) &&
		finds_row("SELECT FROM pgpubsub.subscription"
				  " WHERE name OPERATOR(pg_catalog.=) $1",
				  NAMEOID, CStringGetDatum(name));
}

/*
 * Run the statement on the table, one of the two, as its owner.  The caller
 * changes shared memory.  With at_once, constraints that are deferred to the end
 * of the transaction are checked now.  What is prepared is kept, if kept is not
 * NULL.  Returns how many rows the statement has written.
 */
uint64
subscription_table_write(Oid table_oid, const char *sql, int nargs, Oid *types,
						 Datum *values, int expected, bool at_once,
						 KeptStatement *kept)
{
	volatile uint64 processed = 0;
	Relation	table = table_open(table_oid, RowExclusiveLock);
	bool		undecoded;
	bool		nested = writing_table; /* in a trigger on the table */
	OwnRelationUser before;

	own_relation_become_owner(table_oid, &before);
	writing_table = true;
	undecoded = undecoded_begin(table);
	PG_TRY();
	{
		SPI_connect();
		check_spi(execute(sql, nargs, types, values, false, kept), expected);
		processed = SPI_processed;
		if (at_once)
			check_spi(SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0),
					  SPI_OK_UTILITY);
		SPI_finish();
	}
	PG_FINALLY();
	{
		if (undecoded)
			undecoded_end();
		writing_table = nested;
		own_relation_become_user(&before);
	}
	PG_END_TRY();
	table_close(table, NoLock);
	return processed;
}

/* Run the statement on the table of subscriptions, as that function does. */
static uint64
write_table(const char *sql, int nargs, Oid *types, Datum *values,
			int expected, bool at_once)
{
	return subscription_table_write(subscription_table_oid(), sql, nargs, types,
									values, expected, at_once, NULL);
}

/*
 * Does the table say in which database a subscription was made?  That of
 * version 1.0 does not.  The caller has locked the table.
 */
bool
subscription_table_knows_origin(void)
{
	return get_attnum(subscription_table_oid(), "made_in") != InvalidAttrNumber;
}

/*
 * Does the table give subscriptions an id, for their positions in the log?
 * That of version 1.0 does not.  The caller has locked the table.
 */
bool
subscription_table_has_ids(void)
{
	return get_attnum(subscription_table_oid(), "id") != InvalidAttrNumber;
}

/*
 * Insert the new subscription of the current user into the table; id is what it
 * is known by in the log.  That role cannot be dropped until this transaction
 * ends; raises 42704 if it already is.
 */
void
subscription_table_insert(const char *name, ArrayType *channels,
						  const char *on_full, TimestampTz created_at,
						  int64 id)
{
	Oid			types[] = {NAMEOID, REGROLEOID, TEXTARRAYOID, TEXTOID,
	TIMESTAMPTZOID, OIDOID, INT8OID};
	Datum		values[] = {CStringGetDatum(name),
		ObjectIdGetDatum(GetUserId()),
		PointerGetDatum(channels),
		CStringGetTextDatum(on_full),
		TimestampTzGetDatum(created_at),
		ObjectIdGetDatum(MyDatabaseId),
	Int64GetDatum(id)};
	bool		origin = subscription_table_knows_origin();
	bool		ids = subscription_table_has_ids();

	shdepLockAndCheckObject(AuthIdRelationId, GetUserId());
	write_table(ids ?
				"INSERT INTO pgpubsub.subscription"
				" (name, owner, channels, on_full, created_at, made_in, id)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7)" :
				origin ?
				"INSERT INTO pgpubsub.subscription"
				" (name, owner, channels, on_full, created_at, made_in)"
				" VALUES ($1, $2, $3, $4, $5, $6)" :
				"INSERT INTO pgpubsub.subscription"
				" (name, owner, channels, on_full, created_at)"
				" VALUES ($1, $2, $3, $4, $5)",
				ids ? 7 : origin ? 6 : 5, types, values, SPI_OK_INSERT, false);
}

/*
 * Insert a row that was in the table, one of the two, before; row_type is the
 * table's.
 */
void
subscription_table_put_back(Oid table, Oid row_type, Datum row)
{
	subscription_table_write(table, table == subscription_table_oid() ?
							 "INSERT INTO pgpubsub.subscription SELECT ($1).*" :
							 "INSERT INTO pgpubsub.subscription_channel SELECT ($1).*",
							 1, &row_type, &row, SPI_OK_INSERT, false, NULL);
}

/*
 * Raise the error for a subscription whose row is missing.  That is 40001 if
 * this transaction keeps its snapshot, which may be too old to show the row;
 * else 55000, because somebody deletes the row by hand, or this transaction has
 * dropped the extension and created it again.
 */
void
subscription_table_row_missing(const char *name)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access to subscription \"%s\"",
						name),
				 errdetail("It was created after this transaction took its snapshot."),
				 errhint("Try the transaction again.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("subscription \"%s\" is going away", name),
			 errdetail("Its row in table pgpubsub.subscription was deleted."),
			 errhint("If this transaction has deleted it, or created the extension again, commit first; else try again.")));
}

/*
 * Raise 40001 or 55000, see subscription_table_row_missing(), unless the table
 * has the subscription's row.
 */
void
subscription_table_expect(const char *name)
{
	if (!subscription_table_has(name))
		subscription_table_row_missing(name);
}

/*
 * Run the statement on the row of the subscription whose name is its first
 * parameter.  Returns whether it has written the row.
 *
 * If it finds no row though the table has one, it is run again: where logical
 * decoding is on, an update by another transaction (REASSIGN OWNED, or the
 * relay) deletes the row that we have waited for and inserts another.  But not
 * for ever, as a trigger may keep the row from being written.
 */
static bool
write_row(const char *name, const char *sql, int nargs, Oid *types,
		  Datum *values, int expected, bool at_once)
{
	for (int tries = 0; tries < 10; tries++)
	{
		if (write_table(sql, nargs, types, values, expected, at_once) > 0)
			return true;
		if (IsolationUsesXactSnapshot() || !subscription_table_has(name))
			break;
	}
	return false;
}

/*
 * Update the changed subscription in the table.  Raises 40001 or 55000, see
 * subscription_table_row_missing(), if its row is not there.
 */
void
subscription_table_update(const char *name, ArrayType *channels,
						  const char *on_full)
{
	Oid			types[] = {NAMEOID, TEXTARRAYOID, TEXTOID};
	Datum		values[] = {CStringGetDatum(name),
		PointerGetDatum(channels),
	CStringGetTextDatum(on_full)};

	if (!write_row(name, "UPDATE pgpubsub.subscription"
				   " SET channels = $2, on_full = $3"
				   " WHERE name OPERATOR(pg_catalog.=) $1",
				   lengthof(types), types, values, SPI_OK_UPDATE, false))
		subscription_table_row_missing(name);
}

/*
 * Write into the table that the subscription, which was made in another
 * database, belongs to this one.  Returns false, without waiting, if somebody
 * has its row locked.  The caller has locked the table.
 */
bool
subscription_table_adopt(const char *name)
{
	Oid			types[] = {NAMEOID, OIDOID};
	Datum		values[] = {CStringGetDatum(name),
	ObjectIdGetDatum(MyDatabaseId)};

	if (!subscription_table_knows_origin())
		return true;
	if (!finds_row("SELECT FROM pgpubsub.subscription"
				   " WHERE name OPERATOR(pg_catalog.=) $1"
				   " FOR NO KEY UPDATE SKIP LOCKED",
				   NAMEOID, CStringGetDatum(name)))
		return !subscription_table_has(name);
	write_table("UPDATE pgpubsub.subscription SET made_in = $2"
				" WHERE name OPERATOR(pg_catalog.=) $1",
				lengthof(types), types, values, SPI_OK_UPDATE, true);
	return true;
}

/*
 * Delete the subscription from the table.  With at_once, this fails now rather
 * than at commit if somebody has made the table referenced.  A row that is
 * missing raises 40001 if this transaction's snapshot may be too old to show
 * it.
 */
void
subscription_table_delete(const char *name, bool at_once)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {CStringGetDatum(name)};

	int64		id = subscription_channels_id(name);

	if (!write_row(name, "DELETE FROM pgpubsub.subscription"
				   " WHERE name OPERATOR(pg_catalog.=) $1",
				   lengthof(types), types, values, SPI_OK_DELETE, at_once) &&
		IsolationUsesXactSnapshot())
		subscription_table_row_missing(name);
	subscription_channels_clear(id);
}

/*
 * Delete a subscription that shared memory does not have from the table, if
 * the current user may drop it.  Returns whether there was one: then the relay
 * has to read the table again.
 */
bool
subscription_table_delete_unread(const char *name)
{
	Oid			types[] = {NAMEOID, OIDOID};
	Datum		values[] = {CStringGetDatum(name),
	ObjectIdGetDatum(GetUserId())};

	if (!write_row(name, "DELETE FROM pgpubsub.subscription"
				   " WHERE name OPERATOR(pg_catalog.=) $1"
				   " AND pg_catalog.pg_has_role($2, owner::pg_catalog.oid, 'USAGE')",
				   lengthof(types), types, values, SPI_OK_DELETE, false))
		return false;
	subscription_channels_forget();
	return true;
}

/* The oids in the list, as a value of type oid[]. */
static Datum
oid_array(List *oids)
{
	Datum	   *elements = palloc(list_length(oids) * sizeof(Datum));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, oids)
		elements[count++] = ObjectIdGetDatum(lfirst_oid(cell));
	return PointerGetDatum(construct_array(elements, count, OIDOID,
										   sizeof(Oid), true,
										   TYPALIGN_INT));
}

/*
 * Run the statement that leaves no row of the owners, whose oid[] is its first
 * parameter.  If rows are left, it is run again, for the reasons and within the
 * limit that write_row() has.  Returns whether it has written any.
 */
static bool
write_rows_of(const char *sql, int nargs, Oid *types, Datum *values,
			  int expected)
{
	uint64		written = 0;
	int			tries = 0;

	do
	{
		written += write_table(sql, nargs, types, values, expected, false);
	} while (++tries < 10 &&
			 finds_row("SELECT FROM pgpubsub.subscription"
					   " WHERE owner::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1)"
					   " LIMIT 1",
					   OIDARRAYOID, values[0]));
	return written > 0;
}

/*
 * DROP OWNED BY the roles: delete their subscriptions from the table, which
 * must be there.  Returns whether there were any: then the relay has to read
 * the table again.
 */
bool
subscription_table_drop_owned(List *roles)
{
	Oid			types[] = {OIDARRAYOID};
	Datum		values[] = {oid_array(roles)};

	if (!write_rows_of("DELETE FROM pgpubsub.subscription"
					   " WHERE owner::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1)",
					   lengthof(types), types, values, SPI_OK_DELETE))
		return false;
	subscription_channels_forget();
	return true;
}

/*
 * REASSIGN OWNED BY the roles TO new_owner: give their subscriptions to that
 * role in the table, which must be there.  Returns whether there were any: then
 * the relay has to read the table again.  Raises 42704 if the new owner was
 * dropped meanwhile.
 */
bool
subscription_table_reassign_owned(List *roles, Oid new_owner)
{
	Oid			types[] = {OIDARRAYOID, REGROLEOID};
	Datum		values[] = {oid_array(roles), ObjectIdGetDatum(new_owner)};

	shdepLockAndCheckObject(AuthIdRelationId, new_owner);
	return write_rows_of("UPDATE pgpubsub.subscription SET owner = $2"
						 " WHERE owner::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1)",
						 lengthof(types), types, values, SPI_OK_UPDATE);
}

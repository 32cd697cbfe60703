/*-------------------------------------------------------------------------
 *
 * subscription_table.c
 *	  Writing the table of subscriptions.
 *
 * The table pgpubsub.subscription says which subscriptions come back after a
 * restart, and lets pg_dump keep them.  It is written by SPI, as the table's
 * owner, because a subscriber needs no privilege on it; the caller is
 * recorded as the subscription's owner.  Logical decoding does not see what is
 * written here, see undecoded.c.
 *
 * Its statement trigger would have the relay read it again; while we write it
 * ourselves, shared memory is kept up to date by other means, and the trigger
 * asks subscription_table_writing() first.
 *
 * A subscription belongs to a role, but pg_shdepend has no place for that: its
 * entries name objects of core's classes, which DROP ROLE and DROP OWNED then
 * describe and drop.  So DROP OWNED and REASSIGN OWNED come here, by a hook;
 * DROP ROLE takes its subscriptions with it, see relay_table.c.  As with core's
 * objects, a role to which an open transaction gives one is locked.
 *
 *-------------------------------------------------------------------------
 */
#include "read/subscription_table.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "read/undecoded_write.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* We are writing the table ourselves. */
static bool writing_table = false;

/*
 * True while this backend writes the table, and knows what is to follow.
 */
bool
subscription_table_writing(void)
{
	return writing_table;
}

/* Raise an error if SPI says what only a changed table explains. */
static void
check_spi(int result, int expected)
{
	if (result != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read or write table pgpubsub.subscription"),
				 errdetail("SPI said: %s.", SPI_result_code_string(result))));
}

/* The owner of a relation or schema that a syscache has; InvalidOid: gone. */
static Oid
owner_of(int cache, Oid object)
{
	HeapTuple	tuple = SearchSysCache1(cache, ObjectIdGetDatum(object));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	owner = cache == RELOID ? ((Form_pg_class) GETSTRUCT(tuple))->relowner :
		((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Could the schema's owner have us run code as the role?  Who owns it can put
 * anything in the place of the extension's objects.
 */
static bool
schema_endangers(Oid schema, Oid role)
{
	Oid			owner = owner_of(NAMESPACEOID, schema);

	return owner != role && !superuser_arg(owner);
}

/*
 * Oid of the extension's table, as far as this transaction can see it;
 * InvalidOid if it is not there.  Another relation of that name is not it, nor
 * is anything where the schema belongs to somebody who could swap it.
 */
Oid
subscription_table_find(void)
{
	Oid			schema = get_namespace_oid(PGPUBSUB_SCHEMA, true);
	Oid			table;
	Oid			extension;

	if (!OidIsValid(schema))
		return InvalidOid;
	table = get_relname_relid("subscription", schema);
	if (!OidIsValid(table) || get_rel_relkind(table) != RELKIND_RELATION ||
		schema_endangers(schema, owner_of(RELOID, table)))
		return InvalidOid;
	extension = getExtensionOfObject(RelationRelationId, table);
	if (!OidIsValid(extension) ||
		extension != get_extension_oid(PGPUBSUB_EXTENSION, true))
		return InvalidOid;
	return table;
}

/*
 * Warn if the extension's schema belongs to a role that could have the current
 * user, who creates it, run its code.
 */
void
subscription_table_check_schema(void)
{
	Oid			schema = get_namespace_oid(PGPUBSUB_SCHEMA, true);

	if (OidIsValid(schema) && schema_endangers(schema, GetUserId()))
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"%s\" belongs to a role that is no superuser",
						PGPUBSUB_SCHEMA),
				 errdetail("Its owner can put anything in the place of the extension's objects, which superusers run.  There are no subscriptions while that is so."),
				 errhint("Give the schema to a superuser with ALTER SCHEMA ... OWNER TO.")));
}

/*
 * Oid of the table; raises 42P01 if it is not there.
 */
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
 * Returns its oid; raises 42P01 if it is not there.
 */
Oid
subscription_table_lock(void)
{
	Oid			table;

	/* it may be another when we have the lock */
	for (;;)
	{
		table = subscription_table_oid();
		LockRelationOid(table, RowExclusiveLock);
		if (subscription_table_find() == table)
			return table;
		UnlockRelationOid(table, RowExclusiveLock);
	}
}

/* What user and security context were before become_owner(). */
typedef struct Identity
{
	Oid			user;
	int			sec_context;
} Identity;

/*
 * Be the table's owner, and nothing else, for what is done to it: triggers
 * may be on it that run that role's code.  Policies do not count, as they do
 * not for an owner.  Raises 42P01.
 */
static void
become_owner(Identity *before)
{
	Oid			owner = owner_of(RELOID, subscription_table_oid());

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table pgpubsub.subscription was dropped meanwhile")));
	GetUserIdAndSecContext(&before->user, &before->sec_context);
	SetUserIdAndSecContext(owner,
						   before->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION |
						   SECURITY_NOFORCE_RLS);
}

/*
 * Run the query, which only reads or locks the table, as its owner.  The
 * caller is connected to SPI and finds the result there.  The table's name
 * cannot come to mean another one meanwhile but by its owner or a superuser.
 */
void
subscription_table_read(const char *sql, int nargs, Oid *types, Datum *values,
						bool read_only)
{
	Identity	before;

	become_owner(&before);
	PG_TRY();
	{
		check_spi(SPI_execute_with_args(sql, nargs, types, values, NULL,
										read_only, 0), SPI_OK_SELECT);
	}
	PG_FINALLY();
	{
		SetUserIdAndSecContext(before.user, before.sec_context);
	}
	PG_END_TRY();
}

/*
 * Has the table a row for the subscription that this transaction can see?
 */
bool
subscription_table_has(const char *name)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {CStringGetDatum(name)};
	bool		found;

	if (!OidIsValid(subscription_table_find()))
		return false;
	SPI_connect();

	/* not read-only: with a snapshot that is newer than the caller's */
	subscription_table_read("SELECT FROM pgpubsub.subscription"
							" WHERE name OPERATOR(pg_catalog.=) $1",
							lengthof(types), types, values, false);
	found = SPI_processed > 0;
	SPI_finish();
	return found;
}

/*
 * Run the statement on the table, as its owner, whose triggers may be on it.
 * The caller sees to shared memory.  at_once: check what the owner may have
 * deferred to the end of the transaction now.  Returns how many rows the
 * statement has written.
 */
static uint64
write_table(const char *sql, int nargs, Oid *types, Datum *values,
			int expected, bool at_once)
{
	volatile uint64 processed = 0;
	Relation	table = table_open(subscription_table_oid(), RowExclusiveLock);
	bool		undecoded;
	bool		nested = writing_table; /* in a trigger on the table */
	Identity	before;

	become_owner(&before);
	writing_table = true;
	undecoded = undecoded_begin(table);
	PG_TRY();
	{
		SPI_connect();
		check_spi(SPI_execute_with_args(sql, nargs, types, values, NULL,
										false, 0), expected);
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
		SetUserIdAndSecContext(before.user, before.sec_context);
	}
	PG_END_TRY();
	table_close(table, NoLock);
	return processed;
}

/*
 * Does the table say where subscriptions were made?  Version 1.0's does not.
 * The table is locked.
 */
bool
subscription_table_knows_origin(void)
{
	return get_attnum(subscription_table_oid(), "made_in") != InvalidAttrNumber;
}

/*
 * Write the new subscription of the current user into the table.  Raises
 * 42704 if that role was dropped meanwhile; until this transaction ends it
 * cannot be.
 */
void
subscription_table_insert(const char *name, ArrayType *channels,
						  const char *on_full, TimestampTz created_at)
{
	Oid			types[] = {NAMEOID, REGROLEOID, TEXTARRAYOID, TEXTOID,
	TIMESTAMPTZOID, OIDOID};
	Datum		values[] = {CStringGetDatum(name),
		ObjectIdGetDatum(GetUserId()),
		PointerGetDatum(channels),
		CStringGetTextDatum(on_full),
		TimestampTzGetDatum(created_at),
	ObjectIdGetDatum(MyDatabaseId)};
	bool		origin = subscription_table_knows_origin();

	shdepLockAndCheckObject(AuthIdRelationId, GetUserId());
	write_table(origin ?
				"INSERT INTO pgpubsub.subscription"
				" (name, owner, channels, on_full, created_at, made_in)"
				" VALUES ($1, $2, $3, $4, $5, $6)" :
				"INSERT INTO pgpubsub.subscription"
				" (name, owner, channels, on_full, created_at)"
				" VALUES ($1, $2, $3, $4, $5)",
				origin ? 6 : 5, types, values, SPI_OK_INSERT, false);
}

/*
 * Write a row into the table that was there before, as the table's row type
 * has it.
 */
void
subscription_table_put_back(Oid row_type, Datum row)
{
	write_table("INSERT INTO pgpubsub.subscription SELECT ($1).*",
				1, &row_type, &row, SPI_OK_INSERT, false);
}

/*
 * Raise the error for a row that was to be there and is not: 40001 if this
 * transaction keeps its snapshot, which may be too old to show it, else 55000:
 * somebody deletes it by hand, or has dropped the extension and created it
 * again in this transaction.
 */
static void
row_missing(const char *name)
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
 * Raise an error, as above, unless the table has the subscription's row.
 */
void
subscription_table_expect(const char *name)
{
	if (!subscription_table_has(name))
		row_missing(name);
}

/*
 * Run the statement on the row of the subscription that is its first
 * parameter.  It is run again if it has found none though the table has one:
 * where logical decoding is on, a row that another transaction was changing
 * (REASSIGN OWNED, or the relay) is deleted and another one there when that
 * has committed.  Not for ever, as triggers may keep the row.  Returns whether
 * it has written the row.
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
 * Write the changed subscription into the table.  Raises 40001 or 55000 if its
 * row is not there.
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
		row_missing(name);
}

/*
 * Write that the subscription, which was made in another database, is this
 * one's.  Returns false if somebody has its row locked; it is not waited for.
 * The caller has locked the table.
 */
bool
subscription_table_adopt(const char *name)
{
	Oid			types[] = {NAMEOID, OIDOID};
	Datum		values[] = {CStringGetDatum(name),
	ObjectIdGetDatum(MyDatabaseId)};
	bool		found;

	if (!subscription_table_knows_origin())
		return true;
	SPI_connect();
	subscription_table_read("SELECT FROM pgpubsub.subscription"
							" WHERE name OPERATOR(pg_catalog.=) $1"
							" FOR NO KEY UPDATE SKIP LOCKED",
							1, types, values, false);
	found = SPI_processed > 0;
	SPI_finish();
	if (!found)
		return !subscription_table_has(name);
	write_table("UPDATE pgpubsub.subscription SET made_in = $2"
				" WHERE name OPERATOR(pg_catalog.=) $1",
				lengthof(types), types, values, SPI_OK_UPDATE, true);
	return true;
}

/*
 * Take the subscription out of the table.  at_once: fail now rather than at
 * commit if somebody has made the table referenced.  Raises 40001 if this
 * transaction's snapshot does not show the row; one that somebody has deleted
 * by hand is no matter.
 */
void
subscription_table_delete(const char *name, bool at_once)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {CStringGetDatum(name)};

	if (!write_row(name, "DELETE FROM pgpubsub.subscription"
				   " WHERE name OPERATOR(pg_catalog.=) $1",
				   lengthof(types), types, values, SPI_OK_DELETE, at_once) &&
		IsolationUsesXactSnapshot())
		row_missing(name);
}

/*
 * Take a subscription that the current user may drop out of the table, though
 * the relay does not have it.  Returns whether there was one: then the relay
 * has to read the table again.
 */
bool
subscription_table_delete_unread(const char *name)
{
	Oid			types[] = {NAMEOID, OIDOID};
	Datum		values[] = {CStringGetDatum(name),
	ObjectIdGetDatum(GetUserId())};

	return write_row(name, "DELETE FROM pgpubsub.subscription"
					 " WHERE name OPERATOR(pg_catalog.=) $1"
					 " AND pg_catalog.pg_has_role($2, owner::pg_catalog.oid, 'USAGE')",
					 lengthof(types), types, values, SPI_OK_DELETE, false);
}

/* The oids in the list, as oid[]. */
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

/* Has the table a row of one of the owners, oid[]? */
static bool
has_rows_of(Datum owners)
{
	Oid			types[] = {OIDARRAYOID};
	bool		found;

	SPI_connect();
	subscription_table_read("SELECT FROM pgpubsub.subscription"
							" WHERE owner::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1)"
							" LIMIT 1",
							lengthof(types), types, &owners, false);
	found = SPI_processed > 0;
	SPI_finish();
	return found;
}

/*
 * Run the statement that leaves no row of the owners, whose oid[] is its first
 * parameter.  It is run again if some are left: where logical decoding is on,
 * a row that another transaction was changing is deleted and another one there
 * when that has committed.  Not for ever, as triggers may keep rows.
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
	} while (++tries < 10 && has_rows_of(values[0]));
	return written > 0;
}

/*
 * DROP OWNED BY the roles: take their subscriptions out of the table.  The
 * extension must be there.  Returns whether there were any: then the relay has
 * to read the table again.
 */
bool
subscription_table_drop_owned(List *roles)
{
	Oid			types[] = {OIDARRAYOID};
	Datum		values[] = {oid_array(roles)};

	return write_rows_of("DELETE FROM pgpubsub.subscription"
						 " WHERE owner::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1)",
						 lengthof(types), types, values, SPI_OK_DELETE);
}

/*
 * REASSIGN OWNED BY the roles TO another: make it the owner of their
 * subscriptions.  The extension must be there.  Raises 42704 if the new owner
 * was dropped meanwhile.  Returns as the above.
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

/*-------------------------------------------------------------------------
 *
 * subscription_table.c
 *	  Writing the table of subscriptions.
 *
 * The table pgpubsub.subscription says which subscriptions come back after a
 * restart, and lets pg_dump keep them.  It is written by SPI, as the table's
 * owner, because a subscriber needs no privilege on it; the caller is
 * recorded as the subscription's owner.
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
#include "subscription_table.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
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

/* Raise an error: SPI said so, which nothing but a changed table explains. */
static void
check_spi(int result, int expected)
{
	if (result != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not write table pgpubsub.subscription"),
				 errdetail("SPI said: %s.", SPI_result_code_string(result))));
}

/*
 * Oid of the table; with owner, of its owner too.  Raises 42P01 if it is not
 * there.
 */
Oid
subscription_table_oid(Oid *owner)
{
	Oid			schema = get_namespace_oid(PGPUBSUB_SCHEMA, false);
	Oid			table = get_relname_relid("subscription", schema);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table pgpubsub.subscription does not exist"),
				 errhint("Create the extension again.")));
	if (owner)
		*owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return table;
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
	Oid			owner;
	Oid			user;
	int			sec_context;

	(void) subscription_table_oid(&owner);
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	writing_table = true;
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
		writing_table = false;
		SetUserIdAndSecContext(user, sec_context);
	}
	PG_END_TRY();
	return processed;
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
	TIMESTAMPTZOID};
	Datum		values[] = {CStringGetDatum(name),
		ObjectIdGetDatum(GetUserId()),
		PointerGetDatum(channels),
		CStringGetTextDatum(on_full),
	TimestampTzGetDatum(created_at)};

	shdepLockAndCheckObject(AuthIdRelationId, GetUserId());
	write_table("INSERT INTO pgpubsub.subscription"
				" (name, owner, channels, on_full, created_at)"
				" VALUES ($1, $2, $3, $4, $5)",
				lengthof(types), types, values, SPI_OK_INSERT, false);
}

/*
 * Write the changed subscription into the table.
 */
void
subscription_table_update(const char *name, ArrayType *channels,
						  const char *on_full)
{
	Oid			types[] = {NAMEOID, TEXTARRAYOID, TEXTOID};
	Datum		values[] = {CStringGetDatum(name),
		PointerGetDatum(channels),
	CStringGetTextDatum(on_full)};

	write_table("UPDATE pgpubsub.subscription"
				" SET channels = $2, on_full = $3"
				" WHERE name OPERATOR(pg_catalog.=) $1",
				lengthof(types), types, values, SPI_OK_UPDATE, false);
}

/*
 * Take the subscription out of the table.  at_once: fail now rather than at
 * commit if somebody has made the table referenced.
 */
void
subscription_table_delete(const char *name, bool at_once)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {CStringGetDatum(name)};

	write_table("DELETE FROM pgpubsub.subscription"
				" WHERE name OPERATOR(pg_catalog.=) $1",
				lengthof(types), types, values, SPI_OK_DELETE, at_once);
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

	return write_table("DELETE FROM pgpubsub.subscription"
					   " WHERE name OPERATOR(pg_catalog.=) $1"
					   " AND pg_catalog.pg_has_role($2, owner::pg_catalog.oid, 'USAGE')",
					   lengthof(types), types, values, SPI_OK_DELETE,
					   false) > 0;
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

	return write_table("DELETE FROM pgpubsub.subscription"
					   " WHERE owner::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1)",
					   lengthof(types), types, values, SPI_OK_DELETE,
					   false) > 0;
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
	return write_table("UPDATE pgpubsub.subscription SET owner = $2"
					   " WHERE owner::pg_catalog.oid OPERATOR(pg_catalog.=) ANY ($1)",
					   lengthof(types), types, values, SPI_OK_UPDATE,
					   false) > 0;
}

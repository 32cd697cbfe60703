/*-------------------------------------------------------------------------
 *
 * own_relation.c
 *	  The relations of the extension: finding them, and being their owner.
 *
 * pgpubsub reads and writes relations of its own for roles that have no
 * privilege on them, also in workers, which are superusers.  Whoever owns the
 * schema could put another relation, with code of theirs in it, in the place
 * of one.  So only a relation counts that is a member of the extension, in a
 * schema whose owner the relation's owner has nothing to fear from.
 *
 * What runs code, as a statement by SPI may (triggers, constraints), runs as
 * the relation's owner, in a restricted context.
 *
 *-------------------------------------------------------------------------
 */
#include "log/log.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

/*
 * The owner of the relation (cache is RELOID) or schema (NAMESPACEOID);
 * InvalidOid if there is none any more.
 */
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
 * Could the schema's owner have the role run code?  The owner of a schema can
 * put anything in the place of the extension's objects.
 */
bool
own_relation_schema_endangers(Oid schema, Oid role)
{
	Oid			owner = owner_of(NAMESPACEOID, schema);

	return owner != role && !superuser_arg(owner);
}

/*
 * Oid of the extension's relation of that name and kind, as far as this
 * transaction can see it; InvalidOid if it is not there.  Another relation of
 * that name does not count, and none does if the schema belongs to somebody who
 * could replace it.  Takes no lock on the relation.
 */
Oid
own_relation_find(const char *name, char relkind)
{
	Oid			schema = get_namespace_oid(PGPUBSUB_SCHEMA, true);
	Oid			relation;
	Oid			extension;

	if (!OidIsValid(schema))
		return InvalidOid;
	relation = get_relname_relid(name, schema);
	if (!OidIsValid(relation) || get_rel_relkind(relation) != relkind ||
		own_relation_schema_endangers(schema, owner_of(RELOID, relation)))
		return InvalidOid;
	extension = getExtensionOfObject(RelationRelationId, relation);
	if (!OidIsValid(extension) ||
		extension != get_extension_oid(PGPUBSUB_EXTENSION, true))
		return InvalidOid;
	return relation;
}

/*
 * Become the relation's owner, in a restricted context, for what is done to the
 * relation: triggers on it may run that role's code.  Policies have no effect,
 * as for any owner.  The caller calls own_relation_become_user() afterwards,
 * whatever happens.  Raises 42P01 if the relation is not there.
 */
void
own_relation_become_owner(Oid relation, OwnRelationUser *before)
{
	Oid			owner = owner_of(RELOID, relation);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("a table of extension %s was dropped meanwhile",
						PGPUBSUB_EXTENSION)));
	GetUserIdAndSecContext(&before->user, &before->sec_context);
	SetUserIdAndSecContext(owner,
						   before->sec_context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION |
						   SECURITY_NOFORCE_RLS);
}

/* Become the user again that called own_relation_become_owner(). */
void
own_relation_become_user(const OwnRelationUser *before)
{
	SetUserIdAndSecContext(before->user, before->sec_context);
}

/*-------------------------------------------------------------------------
 *
 * trigger_clones.c
 *	  Triggers that were cloned from a parent table's.
 *
 * PostgreSQL clones a partitioned table's row triggers to its partitions, and
 * pg_trigger.tgparentid says so.  It does not clone triggers to tables that
 * inherit, but TimescaleDB does.  Its hypertables are tables whose children,
 * the chunks, have all the rows, and a row trigger of the hypertable is
 * created again on each chunk, by the text of its definition.  Nothing in the
 * catalog says where such a trigger came from.  So a row trigger of an
 * inheriting table counts as a clone if its parent has a trigger with an equal
 * name, function and arguments that is fired by equal events.
 *
 * Only catalogs are read here, without locks on the tables: what another
 * session changes meanwhile may or may not be seen.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* What a trigger has in common with its clones, and where it is. */
typedef struct TriggerLook
{
	Oid			relation;
	Oid			parent;			/* pg_trigger.tgparentid */
	Oid			function;
	NameData	name;
	int16		type;
	bytea	   *args;
} TriggerLook;

/* Describe the first trigger that the index has for the keys; false if none. */
static bool
look_at(TriggerLook *look, Oid index, int nkeys, ScanKey keys)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(catalog, index, true, NULL, nkeys,
										  keys);
	HeapTuple	tuple = systable_getnext(scan);
	bool		found = HeapTupleIsValid(tuple);

	if (found)
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
		bool		isnull;		/* it never is */
		Datum		args = heap_getattr(tuple, Anum_pg_trigger_tgargs,
										RelationGetDescr(catalog), &isnull);

		look->relation = form->tgrelid;
		look->parent = form->tgparentid;
		look->function = form->tgfoid;
		look->name = form->tgname;
		look->type = form->tgtype;
		look->args = DatumGetByteaPCopy(args);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/* Describe the trigger with that OID; false if there is none. */
static bool
look_at_oid(TriggerLook *look, Oid trigger)
{
	ScanKeyData key;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(trigger));
	return look_at(look, TriggerOidIndexId, 1, &key);
}

/* Describe the table's trigger of that name; false if there is none. */
static bool
look_at_name(TriggerLook *look, Oid relation, const char *name)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relation));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(name));
	return look_at(look, TriggerRelidNameIndexId, 2, keys);
}

/* The OIDs of the tables that a table inherits from; none for a partition. */
static List *
inheritance_parents(Oid relation)
{
	List	   *parents = NIL;
	Relation	catalog;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (get_rel_relispartition(relation))
		return NIL;
	catalog = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(catalog, InheritsRelidSeqnoIndexId, true, NULL,
							  1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		parents = lappend_oid(parents,
							  ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent);
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return parents;
}

/* May one of these triggers, of two tables and of one name, be the clone? */
static bool
alike(const TriggerLook *a, const TriggerLook *b)
{
	Size		size;

	if (!TRIGGER_FOR_ROW(a->type) || a->type != b->type ||
		a->function != b->function)
		return false;
	size = VARSIZE_ANY_EXHDR(a->args);
	return size == VARSIZE_ANY_EXHDR(b->args) &&
		memcmp(VARDATA_ANY(a->args), VARDATA_ANY(b->args), size) == 0;
}

/*
 * Replace *look by the trigger that it was cloned from; false if it is no
 * clone.  Adds the tables on which the answer depends to *tables.
 */
static bool
look_at_original(TriggerLook *look, List **tables)
{
	List	   *parents;
	ListCell   *lc;

	if (OidIsValid(look->parent))
	{
		if (!look_at_oid(look, look->parent))
			return false;
		*tables = lappend_oid(*tables, look->relation);
		return true;
	}
	parents = inheritance_parents(look->relation);
	*tables = list_concat(*tables, parents);
	foreach(lc, parents)
	{
		TriggerLook original;

		if (look_at_name(&original, lfirst_oid(lc), NameStr(look->name)) &&
			alike(look, &original))
		{
			*look = original;
			return true;
		}
	}
	return false;
}

/*
 * The table whose trigger this one was cloned from, through all levels of
 * partitioning or inheritance; its own table if it is no clone.  Sets *tables
 * to the OIDs of the tables on which the answer depends, without its own.
 */
Oid
trigger_clone_root(const Trigger *trigger, Oid relation, List **tables)
{
	TriggerLook look;

	*tables = NIL;
	if (!trigger->tgisclone && inheritance_parents(relation) == NIL)
		return relation;
	if (!look_at_oid(&look, trigger->tgoid))
		return relation;
	while (look_at_original(&look, tables))
		CHECK_FOR_INTERRUPTS();
	return look.relation;
}

/* Add the tables below, at any level, that have a clone of the trigger. */
static List *
add_clones(List *found, const TriggerLook *look)
{
	List	   *children = find_inheritance_children(look->relation, NoLock);
	ListCell   *lc;

	foreach(lc, children)
	{
		TriggerLook clone;

		CHECK_FOR_INTERRUPTS();
		if (list_member_oid(found, lfirst_oid(lc)) ||
			!look_at_name(&clone, lfirst_oid(lc), NameStr(look->name)) ||
			!alike(look, &clone))
			continue;
		found = lappend_oid(found, clone.relation);
		found = add_clones(found, &clone);
	}
	list_free(children);
	return found;
}

/*
 * The tables that inherit from the table, at any level, and have a clone of
 * its trigger of that name: a list of OIDs.  Partitions are not among them.
 */
List *
trigger_clones_on_children(Oid relation, const char *name)
{
	TriggerLook look;

	if (get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE ||
		!has_subclass(relation) || !look_at_name(&look, relation, name))
		return NIL;
	return add_clones(NIL, &look);
}

/* The number of the table's column of that name and of type name, or 0. */
static AttrNumber
name_column(Relation rel, const char *column)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), column);

	return attnum > 0 &&
		TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid == NAMEOID ?
		attnum : InvalidAttrNumber;
}

/* Is the table in TimescaleDB's list of hypertables? */
static bool
listed_as_hypertable(Oid relation)
{
	Oid			schema = get_namespace_oid("_timescaledb_catalog", true);
	Oid			list = OidIsValid(schema) ?
		get_relname_relid("hypertable", schema) : InvalidOid;
	char	   *schema_name = get_namespace_name(get_rel_namespace(relation));
	char	   *table_name = get_rel_name(relation);
	Relation	rel;
	ScanKeyData keys[2];
	AttrNumber	schema_column,
				table_column;
	bool		found = false;

	if (!OidIsValid(list) || get_rel_relkind(list) != RELKIND_RELATION ||
		schema_name == NULL || table_name == NULL ||
		(rel = try_table_open(list, AccessShareLock)) == NULL)
		return false;
	schema_column = name_column(rel, "schema_name");
	table_column = name_column(rel, "table_name");
	if (schema_column && table_column)
	{
		SysScanDesc scan;

		ScanKeyInit(&keys[0], schema_column, BTEqualStrategyNumber, F_NAMEEQ,
					CStringGetDatum(schema_name));
		ScanKeyInit(&keys[1], table_column, BTEqualStrategyNumber, F_NAMEEQ,
					CStringGetDatum(table_name));
		scan = systable_beginscan(rel, InvalidOid, false, NULL, 2, keys);
		found = HeapTupleIsValid(systable_getnext(scan));
		systable_endscan(scan);
	}
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * Has the table the trigger that old versions of TimescaleDB give hypertables?
 */
static bool
has_insert_blocker(Oid relation)
{
	TriggerLook look;
	char	   *schema;

	if (!look_at_name(&look, relation, "ts_insert_blocker"))
		return false;
	schema = get_namespace_name(get_func_namespace(look.function));
	return schema && strncmp(schema, "_timescaledb_", 13) == 0;
}

/* Is the table a hypertable of TimescaleDB?  It may have no chunks yet. */
bool
is_hypertable(Oid relation)
{
	return has_insert_blocker(relation) || listed_as_hypertable(relation);
}

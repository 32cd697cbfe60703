/*-------------------------------------------------------------------------
 *
 * attach.c
 *	  attach() and detach(): the triggers that make a table's changes events.
 *
 * All that attach() leaves behind is ordinary triggers.  attached_triggers.c
 * makes them; this file reads the arguments, checks that they and the table go
 * together, and decides what to create and to drop.
 *
 * 1. An attachment that exists already, exactly as asked for, is left alone.
 *	  That is found out without a lock on the table: programs attach when they
 *	  start, and with a lock they would wait for every writer to the table, and
 *	  writers for them.
 * 2. Privileges are checked before the table is locked, so that nobody can
 *	  lock a table they have no rights on.  The commands check them again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "log/log.h"
#include "publish/publish_internal.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The arguments of attach(), in order. */
enum
{
	ARG_RELATION,
	ARG_CHANNEL,
	ARG_OPERATIONS,
	ARG_COLUMNS,
	ARG_WATCH,
	ARG_CONDITION,
	ARG_OLD_VALUES,
	ARG_LEVEL,
	ARG_FORMAT,
	ARG_PUBLISH_MODE,
	ARG_DURABLE					/* since version 1.1 */
};

static const char *const level_words[] = {"row", "statement"};

PG_FUNCTION_INFO_V1(pgpubsub_attach);
PG_FUNCTION_INFO_V1(pgpubsub_attach_1_1);
PG_FUNCTION_INFO_V1(pgpubsub_detach);

/* Raise 25006 on a standby, for the SQL function of that name. */
static void
check_not_standby(const char *function)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s() on a standby", function),
				 errhint("Connect to the primary server; the standby gets its triggers.")));
}

/* A text argument as a C string; raises 22004 if it is null. */
static char *
text_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	check_not_null(fcinfo, arg, name);
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

/*
 * The elements of an array argument of type text[] or name[], as char *.
 * Raises 22023 if there are none, or one occurs twice, 22004 for a null and
 * 2202E for more than one dimension.
 */
static List *
array_argument(FunctionCallInfo fcinfo, int arg, const char *name,
			   Oid element_type)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(arg);
	bool		is_name = element_type == NAMEOID;
	Datum	   *elements;
	bool	   *nulls;
	int			nelements;
	List	   *list = NIL;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("%s must be a one-dimensional array", name),
				 errhint("Write for instance '{a,b}'.")));
	deconstruct_array(array, element_type, is_name ? NAMEDATALEN : -1, false,
					  is_name ? TYPALIGN_CHAR : TYPALIGN_INT,
					  &elements, &nulls, &nelements);
	if (nelements == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s cannot be empty", name),
				 errhint("Name at least one, or leave the argument out to get its default.")));
	for (int i = 0; i < nelements; i++)
	{
		char	   *element;
		ListCell   *lc;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s cannot contain a null", name),
					 errhint("Leave the null out.")));
		element = is_name ? pstrdup(NameStr(*DatumGetName(elements[i]))) :
			TextDatumGetCString(elements[i]);
		foreach(lc, list)
			if (strcmp((char *) lfirst(lc), element) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" occurs twice in %s",
							element, name),
					 errhint("Name it once.")));
		list = lappend(list, element);
	}
	return list;
}

/* The operations asked for, as TRIGGER_TYPE_ bits; raises 22023. */
static int16
operations_argument(FunctionCallInfo fcinfo)
{
	int16		events = 0;
	ListCell   *lc;

	check_not_null(fcinfo, ARG_OPERATIONS, "operations");
	foreach(lc, array_argument(fcinfo, ARG_OPERATIONS, "operations", TEXTOID))
		events |= attached_operation_events[parse_word("operation", lfirst(lc),
													   attached_operation_names,
													   ATTACHED_OPERATIONS)];
	return events;
}

/*
 * Read all arguments but the relation, without a look at the table.  Raises
 * 22004, 22023, 2202E and 42601.
 */
static void
read_arguments(FunctionCallInfo fcinfo, Attachment *attachment)
{
	TriggerOptions *options = &attachment->options;

	trigger_options_init(options);
	if (!PG_ARGISNULL(ARG_CHANNEL))
		options->channel = text_argument(fcinfo, ARG_CHANNEL, "channel");
	attachment->events = operations_argument(fcinfo);
	if (!PG_ARGISNULL(ARG_COLUMNS))
		options->columns = array_argument(fcinfo, ARG_COLUMNS, "columns",
										  NAMEOID);
	if (!PG_ARGISNULL(ARG_WATCH))
		options->watch = array_argument(fcinfo, ARG_WATCH, "watch", NAMEOID);
	if (!PG_ARGISNULL(ARG_CONDITION))
		attachment->condition =
			condition_parse(text_argument(fcinfo, ARG_CONDITION, "condition"));
	options->old_values =
		parse_old_values(text_argument(fcinfo, ARG_OLD_VALUES, "old_values"));
	attachment->statement =
		parse_word("level", text_argument(fcinfo, ARG_LEVEL, "level"),
				   level_words, lengthof(level_words)) == 1;
	options->format =
		parse_event_format(text_argument(fcinfo, ARG_FORMAT, "format"));
	if (!PG_ARGISNULL(ARG_PUBLISH_MODE))
		options->publish_mode =
			parse_publish_mode(text_argument(fcinfo, ARG_PUBLISH_MODE,
											 "publish_mode"));
}

/* Raise 42P17: the condition names a row that the operation does not have. */
static void
condition_lacks_row(const char *row, const char *operation)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("condition names %s, which %s does not have",
					row, operation),
			 errdetail("A condition applies to all operations of the attachment."),
			 errhint("Give only operations that have %s, in the argument operations; attach the others on another channel.",
					 row)));
}

/* Raise 22023, 0A000 or 42P17 if the arguments do not go together. */
static void
check_combination(const Attachment *attachment)
{
	const Condition *condition = attachment->condition;
	int16		events = attachment->events;

	if (attachment->options.watch != NIL && !(events & TRIGGER_TYPE_UPDATE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("watch needs the operation update"),
				 errdetail("It says which columns an UPDATE must change to be an event."),
				 errhint("Leave watch out, or add update to operations.")));
	if (attachment->statement && (events & ROW_EVENTS) &&
		attachment->options.format == EVENT_DEBEZIUM)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("level statement does not support format debezium"),
				 errdetail("Debezium's envelope has one row; an event for a statement has many."),
				 errhint("Use level row, or format plain or cloudevents.")));
	if (condition == NULL)
		return;
	if (attachment->statement)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("level statement does not support a condition"),
				 errdetail("PostgreSQL evaluates a trigger's condition for each row."),
				 errhint("Use level row, or watch.")));
	if (condition->names_old && (events & TRIGGER_TYPE_INSERT))
		condition_lacks_row("OLD", "INSERT");
	if (condition->names_new && (events & TRIGGER_TYPE_DELETE))
		condition_lacks_row("NEW", "DELETE");
	if (condition->names_old && (events & TRIGGER_TYPE_TRUNCATE))
		condition_lacks_row("OLD", "TRUNCATE");
	if (condition->names_new && (events & TRIGGER_TYPE_TRUNCATE))
		condition_lacks_row("NEW", "TRUNCATE");
}

/* Raise 42P01: there is no relation with this OID. */
static void
relation_missing(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation with OID %u does not exist", relid)));
}

/*
 * Raise 42809 or 0A000 if the relation can have no change triggers, 42P01 if it
 * does not exist.  Needs no lock on it.
 */
static void
check_relation_kind(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class form;

	if (!HeapTupleIsValid(tuple))
		relation_missing(relid);
	form = (Form_pg_class) GETSTRUCT(tuple);
	if (form->relkind != RELKIND_RELATION &&
		form->relkind != RELKIND_PARTITIONED_TABLE &&
		form->relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", NameStr(form->relname)),
				 errdetail_relkind_not_supported(form->relkind),
				 errhint("Only tables, partitioned tables and foreign tables can be attached.")));
	if (IsSystemClass(relid, form))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a system catalog", NameStr(form->relname)),
				 errdetail("System catalogs cannot have triggers.")));
	if (form->relpersistence == RELPERSISTENCE_TEMP &&
		!isTempOrTempToastNamespace(form->relnamespace))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is a temporary table of another session",
						NameStr(form->relname))));
	ReleaseSysCache(tuple);
}

/* Raise 42501 unless the user has TRIGGER on the table. */
static void
check_trigger_privilege(Oid relid)
{
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}

/* Raise 42501 unless the user owns the table. */
static void
check_ownership(Oid relid)
{
	if (!PGPUBSUB_OWNS_TABLE(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER,
					   get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}

/* Open and lock the table; raises 42P01 if it was dropped meanwhile. */
static Relation
open_table(Oid relid, LOCKMODE lock)
{
	Relation	rel = try_table_open(relid, lock);

	if (rel == NULL)
		relation_missing(relid);
	return rel;
}

/* Is the column a virtual generated one, with no value in a trigger's rows? */
static bool
is_virtual(Oid relid, AttrNumber attnum)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
										Int16GetDatum(attnum));
	bool		result = HeapTupleIsValid(tuple) &&
		PGPUBSUB_IS_VIRTUAL((Form_pg_attribute) GETSTRUCT(tuple));

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/* Raise 42703, 42P10 or 0A000 unless events can show the column. */
static void
check_column(Oid relid, const char *argument, const char *name)
{
	AttrNumber	attnum = get_attnum(relid, name);

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, get_rel_name(relid)),
				 errdetail("Argument \"%s\" names it.", argument),
				 errhint("Give names of columns of the table.")));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("column \"%s\" is a system column", name),
				 errdetail("Argument \"%s\" names it; events do not have system columns.",
						   argument),
				 errhint("Give names of ordinary columns of the table.")));
	if (is_virtual(relid, attnum))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" is a virtual generated column", name),
				 errdetail("Argument \"%s\" names it; triggers do not see the values of virtual columns.",
						   argument),
				 errhint("Name the columns that it is computed from.")));
}

/*
 * Raise 0A000 if the rows that a statement changes cannot be collected.  In
 * foreign tables, among them partitions and children of the table, the
 * statement would fail; in the chunks of a TimescaleDB hypertable, no trigger
 * gets them.
 */
static void
check_statement_level(Oid relid)
{
	List	   *tables = find_all_inheritors(relid, NoLock, NULL);
	ListCell   *lc;

	foreach(lc, tables)
	{
		Oid			table = lfirst_oid(lc);

		if (get_rel_relkind(table) != RELKIND_FOREIGN_TABLE)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("level statement does not support foreign tables"),
				 table == relid ?
				 errdetail("Triggers on foreign tables cannot have transition tables.") :
				 errdetail("\"%s\" is one, and a partition or child of \"%s\": statements that write there would fail.",
						   get_rel_name(table), get_rel_name(relid)),
				 errhint("Use level row.")));
	}
	list_free(tables);
	if (is_hypertable(relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("level statement does not support hypertables"),
				 errdetail("\"%s\" is one; its rows are written to its chunks, where a statement's rows cannot be collected.",
						   get_rel_name(relid)),
				 errhint("Use level row.")));
}

/*
 * Raise an error unless the table suits the attachment; if this has no channel,
 * its channel becomes the table's name.  Needs no lock on the table.
 */
static void
check_table(Attachment *attachment)
{
	TriggerOptions *options = &attachment->options;
	Oid			relid = attachment->relid;
	ListCell   *lc;

	if (options->channel == NULL)
		options->channel = get_rel_name(relid);
	if (options->channel == NULL)
		relation_missing(relid);
	check_channel_name(options->channel);
	foreach(lc, options->columns)
		check_column(relid, "columns", lfirst(lc));
	foreach(lc, options->watch)
		check_column(relid, "watch", lfirst(lc));
	if (attachment->statement && (attachment->events & ROW_EVENTS))
		check_statement_level(relid);
}

/*
 * Raise 42710 if a partition has its own trigger for rows and the channel: with
 * the clone of its parent's, each of its rows would be published twice.  Locks
 * the partitions, as the commands on the table are going to, so that the answer
 * stays true.
 */
static void
check_partitions(const Attachment *attachment, LOCKMODE lock)
{
	const char *channel = attachment->options.channel;
	List	   *tables;
	ListCell   *lc;

	if (!ATTACHED_BY_ROW(attachment) ||
		get_rel_relkind(attachment->relid) != RELKIND_PARTITIONED_TABLE)
		return;
	tables = find_all_inheritors(attachment->relid, lock, NULL);
	foreach(lc, tables)
	{
		Oid			table = lfirst_oid(lc);
		ListCell   *lc2;

		if (table == attachment->relid)
			continue;
		foreach(lc2, attached_find(table, channel))
		{
			const AttachedTrigger *trigger = lfirst(lc2);

			if (trigger->cloned || !TRIGGER_FOR_ROW(trigger->type))
				continue;
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("partition \"%s\" is attached to channel \"%s\" by itself",
							get_rel_name(table), channel),
					 errdetail("Attaching \"%s\" attaches its partitions; the rows of this one would be published twice, by its trigger \"%s\" too.",
							   get_rel_name(attachment->relid), trigger->name),
					 errhint("Call pgpubsub.detach(%s, %s) first, or give another channel.",
							 quote_literal_cstr(quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
																		   get_rel_name(table))),
							 quote_literal_cstr(channel))));
		}
	}
	list_free(tables);
}

/*
 * Tell the user if rows of tables that inherit from this one make no events.
 * They do in a hypertable's chunks, and in a table that has a trigger which
 * counts as a clone of this table's (see trigger_clones.c).
 */
static void
notice_children(const Attachment *attachment)
{
	Oid			relid = attachment->relid;
	List	   *covered;
	ListCell   *lc;

	if (!ATTACHED_BY_ROW(attachment) ||
		get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ||
		!has_subclass(relid) || is_hypertable(relid))
		return;
	covered = attached_covered_children(attachment);
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		Oid			table = lfirst_oid(lc);

		if (table == relid || list_member_oid(covered, table))
			continue;
		ereport(NOTICE,
				(errmsg("rows of tables that inherit from \"%s\" make no events",
						get_rel_name(relid)),
				 errdetail("\"%s\" is one.", get_rel_name(table)),
				 errhint("Attach those tables too, or use level statement.")));
		break;
	}
}

/*
 * Does the attachment exist already, exactly as asked for?  Sets *triggers to
 * those that the table has for its channel.
 */
static bool
stands(const Attachment *attachment, List **triggers)
{
	*triggers = attached_find(attachment->relid, attachment->options.channel);
	return *triggers != NIL && attached_stands(attachment, *triggers);
}

/*
 * Raise an error unless the triggers that the table has for the channel may be
 * replaced: 42710 if one is a clone of a parent's, 42501 if the user does not
 * own the table.
 */
static void
check_replaceable(Relation rel, const char *channel, const List *triggers)
{
	if (attached_any_cloned(triggers))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("partition \"%s\" is attached to channel \"%s\" through its parent",
						RelationGetRelationName(rel), channel),
				 errdetail("The parent's trigger was cloned to its partitions."),
				 errhint("Attach the parent again, or this partition on another channel.")));
	check_ownership(RelationGetRelid(rel));
}

/*
 * The lock on the table that it takes to replace these triggers.  If there are
 * any, it must be that of DROP TRIGGER from the beginning.  Were the lock
 * taken for CREATE TRIGGER raised later, there could be a deadlock: a
 * transaction that has read the table and now writes to it would wait for us,
 * and we for it.  A user who may not drop the triggers does not get the
 * stronger lock.
 */
static LOCKMODE
replacing_lock(Oid relid, const List *triggers)
{
	return triggers != NIL && !attached_any_cloned(triggers) &&
		PGPUBSUB_OWNS_TABLE(relid, GetUserId()) ?
		AccessExclusiveLock : ShareRowExclusiveLock;
}

/*
 * Create the attachment's triggers in place of those that the table has for the
 * channel.  triggers are those that it had before the table was locked.
 */
static void
make_stand(Attachment *attachment, bool default_channel, List *triggers)
{
	Oid			relid = attachment->relid;
	LOCKMODE	lock = replacing_lock(relid, triggers);
	Relation	rel = open_table(relid, lock);
	bool		there;

	/* look again: anything may have changed before we had the lock */
	if (default_channel)
		attachment->options.channel = NULL;
	check_table(attachment);
	there = stands(attachment, &triggers);
	if (!there && replacing_lock(relid, triggers) > lock)
	{
		/* somebody else has attached it: begin again with the stronger lock */
		table_close(rel, lock);
		make_stand(attachment, default_channel, triggers);
		return;
	}
	if (!there)
	{
		if (triggers != NIL)
			check_replaceable(rel, attachment->options.channel, triggers);
		check_partitions(attachment, lock);
		attached_replace(attachment, rel, triggers);
	}
	table_close(rel, NoLock);
}

/*
 * pgpubsub.attach(relation, channel, operations, columns, watch, condition,
 *				   old_values, level, format, publish_mode) RETURNS text
 *
 * Creates the triggers, unless they exist, and returns the channel.  The errors
 * are in the comment on the SQL function.  This is attach() of version 1.0.
 */
Datum
pgpubsub_attach(PG_FUNCTION_ARGS)
{
	Attachment	attachment = {0};
	List	   *triggers;

	check_not_standby("pgpubsub.attach");
	check_not_null(fcinfo, ARG_RELATION, "relation");
	attachment.relid = PG_GETARG_OID(ARG_RELATION);
	check_relation_kind(attachment.relid);
	check_trigger_privilege(attachment.relid);
	read_arguments(fcinfo, &attachment);
	check_combination(&attachment);
	check_table(&attachment);

	if (!stands(&attachment, &triggers))
		make_stand(&attachment, PG_ARGISNULL(ARG_CHANNEL), triggers);
	notice_children(&attachment);

	/* from now on patterns match the channel, before its first event */
	publish_channel_known(attachment.options.channel);
	PG_RETURN_TEXT_P(cstring_to_text(attachment.options.channel));
}

/*
 * pgpubsub.attach(relation, channel, operations, columns, watch, condition,
 *				   old_values, level, format, publish_mode, durable)
 * RETURNS text
 *
 * Does the same, and makes the channel durable, or not, if that argument is not
 * null.
 */
Datum
pgpubsub_attach_1_1(PG_FUNCTION_ARGS)
{
	Datum		channel = pgpubsub_attach(fcinfo);

	if (!PG_ARGISNULL(ARG_DURABLE))
		set_durable_attached(TextDatumGetCString(channel),
							 PG_GETARG_BOOL(ARG_DURABLE));
	return channel;
}

/*
 * pgpubsub.detach(relation, channel) RETURNS integer
 *
 * Drops our triggers on the table, those for the channel or all, and returns
 * how many.  Triggers that are clones of a parent's stay; raises 2BP01 if there
 * are no others.  Raises 42501 if the user does not own the table.
 */
Datum
pgpubsub_detach(PG_FUNCTION_ARGS)
{
	char	   *channel = NULL;
	Oid			relid;
	Relation	rel;
	List	   *triggers;
	int			dropped;

	check_not_standby("pgpubsub.detach");
	check_not_null(fcinfo, ARG_RELATION, "relation");
	relid = PG_GETARG_OID(ARG_RELATION);
	if (!PG_ARGISNULL(1))
		channel = text_to_cstring(PG_GETARG_TEXT_PP(1));
	check_relation_kind(relid);
	check_ownership(relid);

	rel = open_table(relid, AccessExclusiveLock);
	triggers = attached_find(relid, channel);
	dropped = attached_drop(rel, triggers);
	if (dropped == 0 && triggers != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("partition \"%s\" is attached through its parent",
						RelationGetRelationName(rel)),
				 errdetail("Its trigger \"%s\" was cloned from the parent's and cannot be dropped alone.",
						   ((AttachedTrigger *) linitial(triggers))->name),
				 errhint("Call pgpubsub.detach() for the parent.")));
	table_close(rel, NoLock);
	PG_RETURN_INT32(dropped);
}

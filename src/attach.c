/*-------------------------------------------------------------------------
 *
 * attach.c
 *	  attach() and detach(): the triggers that make a table's changes events.
 *
 * All that attach() leaves is ordinary triggers, created and dropped by
 * running CREATE TRIGGER and DROP TRIGGER as parse trees: with the caller's
 * rights, and seen by event triggers and ProcessUtility hooks like any other.
 * No name is ever spliced into text.
 *
 * - Level row: one trigger for inserts, updates and deletes.  Level
 *	 statement: one per operation, since transition tables allow no more.
 *	 TRUNCATE always has a statement trigger of its own.
 * - A trigger's name is !pgpubsub_<channel>_<row or the operation>; where that
 *	 is too long, the channel is clipped and followed by a hash of it.  The
 *	 first character is for the order: AFTER triggers of a row fire by their
 *	 names' bytes, and another trigger's change of that row, or a foreign
 *	 key's cascade (RI_ConstraintTrigger_...), makes its events at once.  So
 *	 ours must come before them, or the events would be in the wrong order.
 *	 Nothing that can be seen sorts before it.
 * - Which channel a trigger has is read from its arguments, never from its
 *	 name: a trigger may have been renamed, or made by hand.
 * - Privileges are checked before the table is locked, so that nobody can
 *	 lock a table they have no rights on; the commands check them again.
 *
 *-------------------------------------------------------------------------
 */
#include "pgpubsub.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/catalog.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "condition.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "publish.h"
#include "reader.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "trigger_options.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
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
	ARG_PUBLISH_MODE
};

/* The operations, with their bit in pg_trigger.tgtype. */
static const struct
{
	const char *name;
	int16		event;
}			operations[] =

{
	{"insert", TRIGGER_TYPE_INSERT},
	{"update", TRIGGER_TYPE_UPDATE},
	{"delete", TRIGGER_TYPE_DELETE},
	{"truncate", TRIGGER_TYPE_TRUNCATE}
};

#define NUM_OPERATIONS ((int) lengthof(operations))

/* What the names of the triggers begin with; see the top. */
#define NAME_PREFIX "!pgpubsub_"

#define ROW_EVENTS \
	(TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)

/* What attach() was asked for. */
typedef struct Attachment
{
	Oid			relid;
	int16		events;			/* TRIGGER_TYPE_ bits */
	bool		statement;		/* level */
	Condition  *condition;		/* NULL if there is none */
	TriggerOptions options;
} Attachment;

/* A trigger of ours on a table. */
typedef struct AttachedTrigger
{
	char	   *name;
	const char *channel;
	bool		cloned;			/* from a parent's trigger */
} AttachedTrigger;

PG_FUNCTION_INFO_V1(pgpubsub_attach);
PG_FUNCTION_INFO_V1(pgpubsub_detach);

/* ----------------------------------------------------------------------
 * Arguments
 * ----------------------------------------------------------------------
 */

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

/* The table that an argument names; 22004 if it is null. */
static Oid
relation_argument(FunctionCallInfo fcinfo, int arg)
{
	reader_check_not_null(fcinfo, arg, "relation");
	return PG_GETARG_OID(arg);
}

/* A text argument as C string; 22004 if it is null. */
static char *
text_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	reader_check_not_null(fcinfo, arg, name);
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

/* The operations asked for, as TRIGGER_TYPE_ bits. */
static int16
operations_argument(FunctionCallInfo fcinfo)
{
	int16		events = 0;
	List	   *names;
	ListCell   *lc;

	reader_check_not_null(fcinfo, ARG_OPERATIONS, "operations");
	names = array_argument(fcinfo, ARG_OPERATIONS, "operations", TEXTOID);
	foreach(lc, names)
	{
		const char *name = lfirst(lc);
		int16		event = 0;

		for (int i = 0; i < NUM_OPERATIONS; i++)
			if (strcmp(name, operations[i].name) == 0)
				event = operations[i].event;
		if (event == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized operation: \"%s\"", name),
					 errhint("Give insert, update, delete or truncate.")));
		events |= event;
	}
	return events;
}

/* True for level statement, false for row; 22023 for anything else. */
static bool
level_argument(FunctionCallInfo fcinfo)
{
	char	   *level = text_argument(fcinfo, ARG_LEVEL, "level");

	if (strcmp(level, "statement") == 0)
		return true;
	if (strcmp(level, "row") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized level: \"%s\"", level),
				 errhint("Give row or statement.")));
	return false;
}

/* Read the arguments that need no look at the table, except the relation. */
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
	attachment->statement = level_argument(fcinfo);
	options->format =
		parse_event_format(text_argument(fcinfo, ARG_FORMAT, "format"));
	if (!PG_ARGISNULL(ARG_PUBLISH_MODE))
		options->publish_mode =
			parse_publish_mode(text_argument(fcinfo, ARG_PUBLISH_MODE,
											 "publish_mode"));
}

/* Raise an error for a row that the condition names but an operation lacks. */
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

/* Raise an error if the arguments do not go together. */
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

/* ----------------------------------------------------------------------
 * The table
 * ----------------------------------------------------------------------
 */

/* Raise 42P01 for an OID that is no relation's. */
static void
relation_missing(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("relation with OID %u does not exist", relid)));
}

/*
 * Raise 42809 if the relation can have no change triggers, 42P01 if it does
 * not exist.  Needs no lock.
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

/* Open and lock the table; 42P01 if it was dropped meanwhile. */
static Relation
open_table(Oid relid, LOCKMODE lock)
{
	Relation	rel = try_table_open(relid, lock);

	if (rel == NULL)
		relation_missing(relid);
	return rel;
}

/* Raise an error unless events can show the column. */
static void
check_column(Relation rel, const char *argument, const char *name)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel)),
				 errdetail("Argument \"%s\" names it.", argument),
				 errhint("Give names of columns of the table.")));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("column \"%s\" is a system column", name),
				 errdetail("Argument \"%s\" names it; events do not have system columns.",
						   argument),
				 errhint("Give names of ordinary columns of the table.")));
	if (PGPUBSUB_IS_VIRTUAL(TupleDescAttr(RelationGetDescr(rel), attnum - 1)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" is a virtual generated column", name),
				 errdetail("Argument \"%s\" names it; triggers do not see the values of virtual columns.",
						   argument),
				 errhint("Name the columns that it is computed from.")));
}

/*
 * Raise 0A000 if the table is a foreign one or has such partitions or
 * children: rows that a statement changes there cannot be collected, and the
 * statement would fail.
 */
static void
check_no_foreign(Relation rel)
{
	List	   *tables = find_all_inheritors(RelationGetRelid(rel), NoLock, NULL);
	ListCell   *lc;

	foreach(lc, tables)
	{
		Oid			relid = lfirst_oid(lc);

		if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("level statement does not support foreign tables"),
				 relid == RelationGetRelid(rel) ?
				 errdetail("Triggers on foreign tables cannot have transition tables.") :
				 errdetail("\"%s\" is one, and a partition or child of \"%s\": statements that write there would fail.",
						   get_rel_name(relid), RelationGetRelationName(rel)),
				 errhint("Use level row.")));
	}
	list_free(tables);
}

/* Raise an error unless the table suits the attachment. */
static void
check_table(const Attachment *attachment, Relation rel)
{
	ListCell   *lc;

	foreach(lc, attachment->options.columns)
		check_column(rel, "columns", lfirst(lc));
	foreach(lc, attachment->options.watch)
		check_column(rel, "watch", lfirst(lc));
	if (attachment->statement && (attachment->events & ROW_EVENTS))
		check_no_foreign(rel);
	if (!attachment->statement && (attachment->events & ROW_EVENTS) &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		has_subclass(RelationGetRelid(rel)))
		ereport(NOTICE,
				(errmsg("rows of tables that inherit from \"%s\" make no events",
						RelationGetRelationName(rel)),
				 errhint("Attach those tables too, or use level statement.")));
}

/* ----------------------------------------------------------------------
 * Triggers that are there
 * ----------------------------------------------------------------------
 */

/* The name of our trigger function, as a list of String nodes. */
static List *
notify_change_name(void)
{
	return list_make2(makeString(pstrdup(PGPUBSUB_SCHEMA)),
					  makeString(pstrdup("notify_change")));
}

/*
 * Our triggers on the table, of the channel, or of all if it is NULL: a list
 * of AttachedTrigger.
 */
static List *
find_triggers(Relation rel, const char *channel)
{
	Oid			function = LookupFuncName(notify_change_name(), 0, NULL, false);
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	List	   *found = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationGetRelid(rel)));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1,
							  &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
		AttachedTrigger *trigger;
		char	  **args;
		int			nargs;

		if (form->tgfoid != function)
			continue;
		trigger = palloc(sizeof(AttachedTrigger));
		args = trigger_options_of(catalog, tuple, &nargs);
		trigger->name = pstrdup(NameStr(form->tgname));
		trigger->channel = trigger_options_find(nargs, args, "channel");
		if (trigger->channel == NULL)
			trigger->channel = RelationGetRelationName(rel);
		trigger->cloned = OidIsValid(form->tgparentid);
		if (channel == NULL || strcmp(trigger->channel, channel) == 0)
			found = lappend(found, trigger);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/* Is one of the triggers cloned from a parent's? */
static bool
any_cloned(const List *triggers)
{
	ListCell   *lc;

	foreach(lc, triggers)
		if (((AttachedTrigger *) lfirst(lc))->cloned)
		return true;
	return false;
}

/* ----------------------------------------------------------------------
 * Commands
 * ----------------------------------------------------------------------
 */

/* Run a command, given as its parse tree, as if the caller had typed it. */
static void
run_command(Node *command, const char *source)
{
	PlannedStmt *planned = makeNode(PlannedStmt);

	planned->commandType = CMD_UTILITY;
	planned->utilityStmt = command;
	planned->stmt_location = -1;
	ProcessUtility(planned, source, false, PROCESS_UTILITY_QUERY, NULL, NULL,
				   None_Receiver, NULL);
	CommandCounterIncrement();
}

/* The table's name with its schema, as a list of String nodes. */
static List *
qualified_name(Relation rel)
{
	return list_make2(makeString(get_namespace_name(RelationGetNamespace(rel))),
					  makeString(pstrdup(RelationGetRelationName(rel))));
}

/*
 * Drop those of the triggers that are not cloned; returns how many.  The
 * caller must own the table (42501).
 */
static int
drop_triggers(Relation rel, const List *triggers)
{
	int			dropped = 0;
	ListCell   *lc;

	foreach(lc, triggers)
	{
		const AttachedTrigger *trigger = lfirst(lc);
		DropStmt   *drop;

		if (trigger->cloned)
			continue;
		drop = makeNode(DropStmt);
		drop->removeType = OBJECT_TRIGGER;
		drop->behavior = DROP_RESTRICT;
		drop->objects = list_make1(lappend(qualified_name(rel),
										   makeString(pstrdup(trigger->name))));
		run_command((Node *) drop, "DROP TRIGGER");
		dropped++;
	}
	return dropped;
}

/*
 * The name of the trigger for a channel: !pgpubsub_<channel>_<purpose>, with
 * the channel clipped at a character's end, and a hash of it, if that would
 * be too long.
 */
static char *
trigger_name(const char *channel, const char *purpose)
{
	char	   *name = psprintf(NAME_PREFIX "%s_%s", channel, purpose);
	int			room;
	int			len = strlen(channel);

	if (strlen(name) < NAMEDATALEN)
		return name;
	room = NAMEDATALEN - 1 - (int) (strlen(NAME_PREFIX "_01234567_") +
									strlen(purpose));
	return psprintf(NAME_PREFIX "%.*s_%08x_%s",
					pg_mbcliplen(channel, len, room), channel,
					hash_bytes((const unsigned char *) channel, len),
					purpose);
}

/* Name a transition table. */
static Node *
transition_table(const char *name, bool is_new)
{
	TriggerTransition *table = makeNode(TriggerTransition);

	table->name = pstrdup(name);
	table->isNew = is_new;
	table->isTable = true;
	return (Node *) table;
}

/* Create one trigger, for a row or a statement, for these events. */
static void
create_trigger(const Attachment *attachment, Relation rel,
			   const char *purpose, int16 events, bool for_row)
{
	CreateTrigStmt *create = makeNode(CreateTrigStmt);
	Condition  *condition = attachment->condition;
	List	   *relname = qualified_name(rel);
	ErrorContextCallback callback;

	create->trigname = trigger_name(attachment->options.channel, purpose);
	create->relation = makeRangeVar(strVal(linitial(relname)),
									strVal(lsecond(relname)), -1);
	create->funcname = notify_change_name();
	create->args = trigger_options_arguments(&attachment->options);
	create->row = for_row;
	create->timing = TRIGGER_TYPE_AFTER;
	create->events = events;
	if (!for_row && (events & (TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)))
		create->transitionRels = lappend(create->transitionRels,
										 transition_table("old_rows", false));
	if (!for_row && (events & (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE)))
		create->transitionRels = lappend(create->transitionRels,
										 transition_table("new_rows", true));
	if (condition == NULL)
	{
		run_command((Node *) create, "CREATE TRIGGER");
		return;
	}

	/* errors in the condition point into its text */
	create->whenClause = copyObject(condition->expression);
	callback.callback = condition_error_context;
	callback.arg = condition;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	run_command((Node *) create, condition->text);
	error_context_stack = callback.previous;
}

/* Create the triggers of an attachment. */
static void
create_triggers(const Attachment *attachment, Relation rel)
{
	if (!attachment->statement && (attachment->events & ROW_EVENTS))
		create_trigger(attachment, rel, "row",
					   attachment->events & ROW_EVENTS, true);
	for (int i = 0; i < NUM_OPERATIONS; i++)
	{
		int16		event = operations[i].event;

		if ((attachment->events & event) &&
			(attachment->statement || event == TRIGGER_TYPE_TRUNCATE))
			create_trigger(attachment, rel, operations[i].name, event, false);
	}
}

/*
 * Drop the triggers that the table has for the channel.  They must be its
 * own (42710) and the user its owner (42501).
 */
static void
replace_triggers(Relation rel, const char *channel, const List *triggers)
{
	if (any_cloned(triggers))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("partition \"%s\" is attached to channel \"%s\" through its parent",
						RelationGetRelationName(rel), channel),
				 errdetail("The parent's trigger was cloned to its partitions."),
				 errhint("Attach the parent again, or this partition on another channel.")));
	check_ownership(RelationGetRelid(rel));
	drop_triggers(rel, triggers);
}

/*
 * pgpubsub.attach(relation, channel, operations, columns, watch, condition,
 *				   old_values, level, format, publish_mode) RETURNS text
 *
 * Creates the triggers and returns the channel.  Errors: see the comment on
 * the SQL function.
 */
Datum
pgpubsub_attach(PG_FUNCTION_ARGS)
{
	Attachment	attachment = {0};
	TriggerOptions *options = &attachment.options;
	Relation	rel;
	List	   *existing;

	check_not_standby("pgpubsub.attach");
	attachment.relid = relation_argument(fcinfo, ARG_RELATION);
	check_relation_kind(attachment.relid);
	check_trigger_privilege(attachment.relid);
	read_arguments(fcinfo, &attachment);
	check_combination(&attachment);

	rel = open_table(attachment.relid, ShareRowExclusiveLock);
	if (options->channel == NULL)
		options->channel = pstrdup(RelationGetRelationName(rel));
	check_channel_name(options->channel);
	check_table(&attachment, rel);

	existing = find_triggers(rel, options->channel);
	if (existing != NIL)
		replace_triggers(rel, options->channel, existing);
	create_triggers(&attachment, rel);
	table_close(rel, NoLock);

	/* patterns match it from now on, before its first event */
	publish_channel_known(options->channel);
	PG_RETURN_TEXT_P(cstring_to_text(options->channel));
}

/*
 * pgpubsub.detach(relation, channel) RETURNS integer
 *
 * Drops our triggers on the table, those of the channel or all, and returns
 * how many.  Triggers cloned from a parent's stay; if there are no others,
 * 2BP01.  The user must own the table (42501).
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
	relid = relation_argument(fcinfo, ARG_RELATION);
	if (!PG_ARGISNULL(1))
		channel = text_to_cstring(PG_GETARG_TEXT_PP(1));
	check_relation_kind(relid);
	check_ownership(relid);

	rel = open_table(relid, AccessExclusiveLock);
	triggers = find_triggers(rel, channel);
	dropped = drop_triggers(rel, triggers);
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

/*-------------------------------------------------------------------------
 *
 * attached_triggers.c
 *	  The triggers that make an attachment: finding, creating, dropping them.
 *
 * They are ordinary triggers, created and dropped by running CREATE TRIGGER
 * and DROP TRIGGER as parse trees.  So this happens with the caller's rights,
 * event triggers and ProcessUtility hooks see it, and no name is ever spliced
 * into text.
 *
 * 1. Level row has one trigger for inserts, updates and deletes.  Level
 *	  statement has one trigger per operation, since a trigger with transition
 *	  tables must have one operation.  TRUNCATE always has a trigger of its own,
 *	  a statement trigger.
 * 2.  A trigger's name is !pgpubsub_<channel>_<row or the operation>.  Where
 *	  that is too long, the channel is clipped and followed by a hash of it.
 *	  The exclamation mark makes ours fire first: AFTER triggers of a row fire
 *	  in the order of their names' bytes, and no printable character but the
 *	  space sorts before it.  Another trigger that changes the row again makes
 *	  that change's events at once; if it fired before ours, the events would
 *	  be in the wrong order.
 * 3. trigger_clones.c says what counts as a trigger's clone on an inheriting
 *	  table.  Clones are dropped with the original and created again with its
 *	  successor, unless whoever made them does so.
 * 4. A trigger's channel is read from its arguments, never from its name: a
 *	  trigger may have been renamed, or made by hand.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

const char *const attached_operation_names[ATTACHED_OPERATIONS] =
{"insert", "update", "delete", "truncate"};
const int16 attached_operation_events[ATTACHED_OPERATIONS] =
{TRIGGER_TYPE_INSERT, TRIGGER_TYPE_UPDATE, TRIGGER_TYPE_DELETE,
TRIGGER_TYPE_TRUNCATE};

/* What the triggers' names begin with. */
#define NAME_PREFIX "!pgpubsub_"

/* The names of the transition tables. */
#define OLD_TABLE "old_rows"
#define NEW_TABLE "new_rows"

/* One of the triggers that an attachment has once it is created. */
typedef struct TriggerPlan
{
	char	   *name;
	int16		events;			/* TRIGGER_TYPE_ bits */
	bool		for_row;
	bool		old_table;
	bool		new_table;
} TriggerPlan;

/* The most plans of an attachment: one for rows, and one per operation. */
#define PLANS_MAX (1 + ATTACHED_OPERATIONS)

/* The name of the channel's trigger for rows, or for an operation. */
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

/* Fill in the plans of an attachment's triggers; returns their number. */
static int
plan_triggers(const Attachment *attachment, TriggerPlan *plans)
{
	const char *channel = attachment->options.channel;
	int			nplans = 0;

	memset(plans, 0, PLANS_MAX * sizeof(TriggerPlan));
	if (ATTACHED_BY_ROW(attachment))
	{
		TriggerPlan *plan = &plans[nplans++];

		plan->name = trigger_name(channel, "row");
		plan->events = attachment->events & ROW_EVENTS;
		plan->for_row = true;
	}
	for (int i = 0; i < ATTACHED_OPERATIONS; i++)
	{
		int16		event = attached_operation_events[i];
		TriggerPlan *plan;

		if (!(attachment->events & event) ||
			(!attachment->statement && event != TRIGGER_TYPE_TRUNCATE))
			continue;
		plan = &plans[nplans++];
		plan->name = trigger_name(channel, attached_operation_names[i]);
		plan->events = event;
		plan->old_table = (event & (TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE)) != 0;
		plan->new_table = (event & (TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE)) != 0;
	}
	return nplans;
}

/* The name of our trigger function, as a list of String nodes. */
static List *
notify_change_name(void)
{
	return list_make2(makeString(pstrdup(PGPUBSUB_SCHEMA)),
					  makeString(pstrdup("notify_change")));
}

/* A column of pg_trigger, of type text or name, as a C string, or NULL. */
static char *
trigger_text(Relation catalog, HeapTuple tuple, AttrNumber column,
			 bool is_name)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, RelationGetDescr(catalog),
									 &isnull);

	if (isnull)
		return NULL;
	return is_name ? pstrdup(NameStr(*DatumGetName(value))) :
		TextDatumGetCString(value);
}

/* Describe the trigger that a tuple of pg_trigger stands for. */
static AttachedTrigger *
read_trigger(Relation catalog, HeapTuple tuple)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
	AttachedTrigger *trigger = palloc(sizeof(AttachedTrigger));

	trigger->name = pstrdup(NameStr(form->tgname));
	trigger->args = trigger_options_of(catalog, tuple, &trigger->nargs);
	trigger->channel = trigger_options_find(trigger->nargs, trigger->args,
											"channel");
	if (trigger->channel == NULL)
		trigger->channel = get_rel_name(form->tgrelid);
	trigger->type = form->tgtype;
	trigger->cloned = OidIsValid(form->tgparentid);
	trigger->special = OidIsValid(form->tgconstraint) || form->tgdeferrable ||
		form->tgattr.dim1 > 0;
	trigger->old_table = trigger_text(catalog, tuple,
									  Anum_pg_trigger_tgoldtable, true);
	trigger->new_table = trigger_text(catalog, tuple,
									  Anum_pg_trigger_tgnewtable, true);
	trigger->condition = trigger_text(catalog, tuple, Anum_pg_trigger_tgqual,
									  false);
	return trigger;
}

/*
 * The triggers on the table that call notify_change(), for the channel or, if
 * it is NULL, for any: a list of AttachedTrigger.  Needs no lock on the table.
 */
List *
attached_find(Oid relid, const char *channel)
{
	Oid			function = LookupFuncName(notify_change_name(), 0, NULL, false);
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	List	   *found = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1,
							  &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		AttachedTrigger *trigger;

		if (((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid != function)
			continue;
		trigger = read_trigger(catalog, tuple);
		if (channel == NULL ||
			(trigger->channel && strcmp(trigger->channel, channel) == 0))
			found = lappend(found, trigger);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/* Is one of the triggers a clone of a partitioned parent's? */
bool
attached_any_cloned(const List *triggers)
{
	ListCell   *lc;

	foreach(lc, triggers)
		if (((AttachedTrigger *) lfirst(lc))->cloned)
		return true;
	return false;
}

/* Is the transition table of that name there if wanted, and else none? */
static bool
table_as_planned(const char *table, bool wanted, const char *name)
{
	return wanted ? table && strcmp(table, name) == 0 : table == NULL;
}

/*
 * Is the trigger what the plan and the arguments say?  Conditions are not
 * compared here.
 */
static bool
as_planned(const AttachedTrigger *trigger, const TriggerPlan *plan,
		   const List *args)
{
	int16		type = plan->events |
		(plan->for_row ? TRIGGER_TYPE_ROW : TRIGGER_TYPE_STATEMENT);

	if (strcmp(trigger->name, plan->name) != 0 || trigger->type != type ||
		trigger->cloned || trigger->special ||
		trigger->nargs != list_length(args) ||
		!table_as_planned(trigger->old_table, plan->old_table, OLD_TABLE) ||
		!table_as_planned(trigger->new_table, plan->new_table, NEW_TABLE))
		return false;
	for (int i = 0; i < trigger->nargs; i++)
		if (strcmp(trigger->args[i], strVal(list_nth(args, i))) != 0)
			return false;
	return true;
}

/*
 * Do all the triggers have the attachment's condition?  The analyzed
 * expressions are compared, not their texts.
 */
static bool
conditions_stand(const Attachment *attachment, const List *triggers)
{
	Node	   *condition = NULL;
	ListCell   *lc;

	if (attachment->condition)
	{
		Relation	rel = try_table_open(attachment->relid, AccessShareLock);

		if (rel == NULL)
			return false;
		condition = condition_analyze(attachment->condition, rel);
		table_close(rel, AccessShareLock);
	}
	foreach(lc, triggers)
	{
		const AttachedTrigger *trigger = lfirst(lc);
		Node	   *stands = trigger->condition ?
			stringToNode(trigger->condition) : NULL;

		if (!equal(stands, condition))
			return false;
	}
	return true;
}

/*
 * Are the triggers, which are all that the table has for the channel, exactly
 * what the attachment would create?  Whether they are enabled does not matter.
 * Locks the table, with AccessShareLock, only while it analyzes a condition,
 * and raises what condition_analyze() does.
 */
bool
attached_stands(const Attachment *attachment, const List *triggers)
{
	TriggerPlan plans[PLANS_MAX];
	int			nplans = plan_triggers(attachment, plans);
	List	   *args = trigger_options_arguments(&attachment->options);

	if (list_length(triggers) != nplans)
		return false;
	for (int i = 0; i < nplans; i++)
	{
		ListCell   *lc;
		bool		found = false;

		foreach(lc, triggers)
			if (as_planned(lfirst(lc), &plans[i], args))
			found = true;
		if (!found)
			return false;
	}
	return conditions_stand(attachment, triggers);
}

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

/* Run DROP TRIGGER. */
static void
drop_trigger(Relation rel, const char *name)
{
	DropStmt   *drop = makeNode(DropStmt);

	drop->removeType = OBJECT_TRIGGER;
	drop->behavior = DROP_RESTRICT;
	drop->objects = list_make1(lappend(qualified_name(rel),
									   makeString(pstrdup(name))));
	run_command((Node *) drop, "DROP TRIGGER");
}

/* A clone of a trigger, on a table that inherits. */
typedef struct Clone
{
	Oid			relid;
	const char *name;
} Clone;

/* The clones of the table's triggers on tables that inherit: list of Clone. */
static List *
find_clones(Oid relid, const List *triggers)
{
	List	   *clones = NIL;
	ListCell   *lc,
			   *lc2;

	foreach(lc, triggers)
	{
		const AttachedTrigger *trigger = lfirst(lc);

		foreach(lc2, trigger_clones_on_children(relid, trigger->name))
		{
			Clone	   *clone = palloc(sizeof(Clone));

			clone->relid = lfirst_oid(lc2);
			clone->name = trigger->name;
			clones = lappend(clones, clone);
		}
	}
	return clones;
}

/* Is the clone, or another trigger of its name, still there? */
static bool
clone_is_there(const Clone *clone)
{
	return OidIsValid(get_trigger_oid(clone->relid, clone->name, true));
}

/*
 * Drop the clones that are still there; TimescaleDB drops those of a hypertable
 * itself.  A clone on a table of another owner stays, and the user is told.
 */
static void
drop_clones(const List *clones)
{
	ListCell   *lc;

	foreach(lc, clones)
	{
		const Clone *clone = lfirst(lc);
		Relation	rel;

		if (!clone_is_there(clone))
			continue;
		if (!PGPUBSUB_OWNS_TABLE(clone->relid, GetUserId()))
		{
			ereport(NOTICE,
					(errmsg("trigger \"%s\" stays on \"%s\", which inherits but has another owner",
							clone->name, get_rel_name(clone->relid)),
					 errhint("Its owner can detach it.")));
			continue;
		}
		rel = try_table_open(clone->relid, AccessExclusiveLock);
		if (rel == NULL)
			continue;
		if (clone_is_there(clone))
			drop_trigger(rel, clone->name);
		table_close(rel, NoLock);
	}
}

/*
 * Drop the table's triggers, and their clones on tables that inherit.  Triggers
 * that are clones of a partitioned parent's stay.  Returns how many of the
 * table's were dropped.  The caller has the table locked.  Raises 42501 if the
 * user does not own it.
 */
int
attached_drop(Relation rel, const List *triggers)
{
	List	   *clones = find_clones(RelationGetRelid(rel), triggers);
	int			dropped = 0;
	ListCell   *lc;

	foreach(lc, triggers)
	{
		const AttachedTrigger *trigger = lfirst(lc);

		if (trigger->cloned)
			continue;
		drop_trigger(rel, trigger->name);
		dropped++;
	}
	drop_clones(clones);
	return dropped;
}

/* The node that names a transition table in CREATE TRIGGER. */
static Node *
transition_table(const char *name, bool is_new)
{
	TriggerTransition *table = makeNode(TriggerTransition);

	table->name = pstrdup(name);
	table->isNew = is_new;
	table->isTable = true;
	return (Node *) table;
}

/*
 * Create one of the attachment's triggers on rel; raises what CREATE TRIGGER
 * does.
 */
static void
create_trigger(const Attachment *attachment, Relation rel,
			   const TriggerPlan *plan)
{
	CreateTrigStmt *create = makeNode(CreateTrigStmt);
	Condition  *condition = attachment->condition;
	List	   *relname = qualified_name(rel);
	ErrorContextCallback callback = {error_context_stack,
	condition_error_context, condition};

	create->trigname = plan->name;
	create->relation = makeRangeVar(strVal(linitial(relname)),
									strVal(lsecond(relname)), -1);
	create->funcname = notify_change_name();
	create->args = trigger_options_arguments(&attachment->options);
	create->row = plan->for_row;
	create->timing = TRIGGER_TYPE_AFTER;
	create->events = plan->events;
	if (plan->old_table)
		create->transitionRels = lappend(create->transitionRels,
										 transition_table(OLD_TABLE, false));
	if (plan->new_table)
		create->transitionRels = lappend(create->transitionRels,
										 transition_table(NEW_TABLE, true));
	if (condition == NULL)
	{
		run_command((Node *) create, "CREATE TRIGGER");
		return;
	}

	/* errors in the condition point into its text */
	create->whenClause = copyObject(condition->expression);
	error_context_stack = &callback;
	run_command((Node *) create, condition->text);
	error_context_stack = callback.previous;
}

/*
 * The tables that inherit from the attached one, at any level, and have a
 * clone of its trigger for rows: a list of OIDs.
 */
List *
attached_covered_children(const Attachment *attachment)
{
	return trigger_clones_on_children(attachment->relid,
									  trigger_name(attachment->options.channel,
												   "row"));
}

/*
 * Replace the triggers, which are all that the table has for the channel, by
 * those of the attachment.  A table that inherits and had a clone gets a clone
 * of the new trigger for rows, if there is one and the table does not have it
 * yet.  The caller has the table locked.  Raises what attached_drop() and
 * CREATE TRIGGER do, and 0A000 for a condition that a dump would not keep.
 */
void
attached_replace(const Attachment *attachment, Relation rel,
				 const List *triggers)
{
	TriggerPlan plans[PLANS_MAX];
	int			nplans = plan_triggers(attachment, plans);
	List	   *clones = find_clones(RelationGetRelid(rel), triggers);
	ListCell   *lc;

	attached_drop(rel, triggers);
	if (attachment->condition)
		(void) condition_analyze(attachment->condition, rel);
	for (int i = 0; i < nplans; i++)
		create_trigger(attachment, rel, &plans[i]);
	if (!ATTACHED_BY_ROW(attachment))
		return;
	foreach(lc, clones)
	{
		const Clone *clone = lfirst(lc);
		Relation	child;

		/* the clone of another owner stayed as it was */
		if (clone_is_there(clone))
			continue;
		child = try_table_open(clone->relid, ShareRowExclusiveLock);
		if (child == NULL)
			continue;
		if (!OidIsValid(get_trigger_oid(clone->relid, plans[0].name, true)))
			create_trigger(attachment, child, &plans[0]);
		table_close(child, NoLock);
	}
}

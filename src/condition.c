/*-------------------------------------------------------------------------
 *
 * condition.c
 *	  The condition of a trigger, given as text.
 *
 * The text is parsed by core's parser as one expression, and its parse tree
 * becomes the WHEN of a CREATE TRIGGER.  It is never pasted into a command,
 * so no text can end the expression and begin something else.  What it means
 * is found out here as CREATE TRIGGER does, to compare it with the condition
 * of a trigger that is there.
 *
 *-------------------------------------------------------------------------
 */
#include "condition.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"

/*
 * Error context callback, arg a Condition: shows where in the condition's
 * text the parser stumbled, as PL/pgSQL does for its expressions.
 */
void
condition_error_context(void *arg)
{
	const Condition *condition = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(condition->text);
	}
}

/* Note in the Condition whether the tree names OLD or NEW. */
static bool
find_row_names(Node *node, void *context)
{
	Condition  *condition = context;

	if (node == NULL)
		return false;
	if (IsA(node, ColumnRef))
	{
		Node	   *first = linitial(((ColumnRef *) node)->fields);

		if (IsA(first, String))
		{
			if (strcmp(strVal(first), "old") == 0)
				condition->names_old = true;
			else if (strcmp(strVal(first), "new") == 0)
				condition->names_new = true;
		}
		return false;
	}
	return raw_expression_tree_walker(node, find_row_names, context);
}

/* The one expression that the statement consists of; NULL if it is more. */
static Node *
single_expression(const SelectStmt *select)
{
	const ResTarget *target;

	if (list_length(select->targetList) != 1 || select->distinctClause ||
		select->intoClause || select->fromClause || select->whereClause ||
		select->groupClause || select->havingClause || select->windowClause ||
		select->valuesLists || select->sortClause || select->limitOffset ||
		select->limitCount || select->lockingClause || select->withClause ||
		select->op != SETOP_NONE)
		return NULL;
	target = linitial_node(ResTarget, select->targetList);
	if (target->name || target->indirection)
		return NULL;

	/* a bare * stands in a list of results only; parse analysis relies on it */
	if (IsA(target->val, ColumnRef) &&
		IsA(linitial(((ColumnRef *) target->val)->fields), A_Star))
		return NULL;
	return target->val;
}

/*
 * Parse the text.  Raises 42601 if it is not one expression.
 */
Condition *
condition_parse(const char *text)
{
	Condition  *condition = palloc0(sizeof(Condition));
	ErrorContextCallback callback;
	RawStmt    *parsed;

	condition->text = text;
	callback.callback = condition_error_context;
	callback.arg = condition;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	parsed = linitial_node(RawStmt,
						   raw_parser(text, RAW_PARSE_PLPGSQL_EXPR));
	error_context_stack = callback.previous;

	if (IsA(parsed->stmt, SelectStmt))
		condition->expression =
			single_expression((SelectStmt *) parsed->stmt);
	if (condition->expression == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("condition is not one expression"),
				 errdetail("The condition is \"%s\".", text),
				 errhint("Give a boolean expression over NEW and OLD, as in CREATE TRIGGER ... WHEN.")));
	(void) find_row_names(condition->expression, condition);
	return condition;
}

/* Let the expression name the table's row as old or new. */
static void
add_row(ParseState *state, Relation rel, const char *name)
{
	ParseNamespaceItem *item =
		addRangeTableEntryForRelation(state, rel, AccessShareLock,
									  makeAlias(name, NIL), false, false);

	addNSItemToQuery(state, item, false, true, true);
}

/*
 * The condition as CREATE TRIGGER on the table would store it, with the names
 * in it looked up now.  The caller has the table locked.  Raises what CREATE
 * TRIGGER raises for an expression that makes no sense.
 */
Node *
condition_analyze(const Condition *condition, Relation rel)
{
	ParseState *state = make_parsestate(NULL);
	ErrorContextCallback callback;
	Node	   *analyzed;

	callback.callback = condition_error_context;
	callback.arg = (void *) condition;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	state->p_sourcetext = condition->text;
	add_row(state, rel, "old");
	add_row(state, rel, "new");
	analyzed = transformWhereClause(state, copyObject(condition->expression),
									EXPR_KIND_TRIGGER_WHEN, "WHEN");
	assign_expr_collations(state, analyzed);
	error_context_stack = callback.previous;
	free_parsestate(state);
	return analyzed;
}

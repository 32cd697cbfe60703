/*-------------------------------------------------------------------------
 *
 * trigger_condition.c
 *	  The condition of a trigger, given as text.
 *
 * 1. Core's parser parses the text as one expression, and the parse tree
 *	  becomes the WHEN of a CREATE TRIGGER.  The text is never pasted into a
 *	  command, so it cannot end the expression and begin something else.
 *
 * 2. The expression is also analyzed here, as CREATE TRIGGER does it, for two
 *	  reasons: to compare it with the condition of a trigger that exists, and
 *	  to make sure that pg_dump and restore do not change its meaning.
 *
 * 3. pg_dump writes what pg_get_triggerdef() says under an empty search path,
 *	  and restore reads it under an empty search path.  An operator that is not
 *	  in pg_catalog is written with its schema, OPERATOR(public.=), but some
 *	  expressions have no place for that: they name no operator (IS DISTINCT
 *	  FROM, NULLIF, CASE x WHEN y), or one for several pairs of values (rows).
 *	  Restored, such an expression is an error, or uses another operator: that
 *	  of text instead of citext's, for instance.  So where one of these uses an
 *	  operator that is not in pg_catalog, IS DISTINCT FROM is rewritten with
 *	  that operator, and the others are refused.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "access/htup_details.h"
#include "catalog/pg_namespace_d.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type_d.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* How the error message calls comparisons like (a, b) < (c, d). */
#define ROWS "A comparison of rows"

/* A use of an operator whose schema a dump would leave out. */
typedef struct LostOperator
{
	Node	   *node;			/* the expression that uses it */
	const char *construct;		/* its name in SQL, for the error message */
	Oid			operator;
} LostOperator;

/*
 * Error context callback, arg a Condition: has the error's position point into
 * the condition's text, as PL/pgSQL does for its expressions.
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

/* Tree walker, context a Condition: set whether the tree names OLD or NEW. */
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

/* The expression that is all of the statement; NULL if there is more in it. */
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

	/* parse analysis expects a bare * only in a list of results */
	if (IsA(target->val, ColumnRef) &&
		IsA(linitial(((ColumnRef *) target->val)->fields), A_Star))
		return NULL;
	return target->val;
}

/* Parse the text of a condition.  Raises 42601 if it is not one expression. */
Condition *
condition_parse(const char *text)
{
	Condition  *condition = palloc0(sizeof(Condition));
	ErrorContextCallback callback = {error_context_stack,
	condition_error_context, condition};
	RawStmt    *parsed;

	condition->text = text;
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

/* The OID of an operator's schema. */
static Oid
operator_schema(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Oid			schema = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		schema = ((Form_pg_operator) GETSTRUCT(tuple))->oprnamespace;
		ReleaseSysCache(tuple);
	}
	return schema;
}

/*
 * Are both operands rows, written as ROW(..) or (..)?  The parser makes one
 * comparison of that only within another row; elsewhere it compares their
 * fields, pair by pair.
 */
static bool
compares_rows(const List *operands)
{
	ListCell   *lc;

	foreach(lc, operands)
		if (!IsA(lfirst(lc), RowExpr) ||
			((RowExpr *) lfirst(lc))->row_typeid != RECORDOID)
		return false;
	return list_length(operands) == 2;
}

/* Add a use of an operator to the list of lost ones. */
static void
add_lost(List **lost, void *node, const char *construct, Oid operator)
{
	LostOperator *use = palloc(sizeof(LostOperator));

	use->node = node;
	use->construct = construct;
	use->operator = operator;
	*lost = lappend(*lost, use);
}

/*
 * Add the operator of a comparison to the list, unless restore finds it without
 * its schema.
 */
static void
check_operator(List **lost, void *node, const char *construct, Oid operator,
			   const List *operands)
{
	if (operator_schema(operator) != PG_CATALOG_NAMESPACE ||
		compares_rows(operands))
		add_lost(lost, node, construct, operator);
}

/*
 * A comparison of rows is written with its first operator, and that one's
 * schema.  Add an operator to the list unless all are in this schema.
 */
static void
check_row_operators(List **lost, RowCompareExpr *compare)
{
	Oid			first = linitial_oid(compare->opnos);
	Oid			schema = operator_schema(first);
	ListCell   *lc;

	foreach(lc, compare->opnos)
	{
		if (operator_schema(lfirst_oid(lc)) == schema)
			continue;
		add_lost(lost, compare, ROWS,
				 schema == PG_CATALOG_NAMESPACE ? lfirst_oid(lc) : first);
		return;
	}
}

/*
 * Add the operators of CASE x WHEN y, which are equalities in the tree.  One
 * whose result is no plain boolean is within a coercion.
 */
static void
check_case(List **lost, CaseExpr *expression)
{
	ListCell   *lc;

	foreach(lc, expression->args)
	{
		Node	   *test = (Node *) lfirst_node(CaseWhen, lc)->expr;
		OpExpr	   *equal = (OpExpr *) strip_implicit_coercions(test);

		if (expression->arg && IsA(equal, OpExpr))
			check_operator(lost, expression, "CASE", equal->opno, NIL);
	}
}

/* Tree walker, context a list of LostOperator: add those of the tree. */
static bool
find_lost_operators(Node *node, void *context)
{
	List	  **lost = context;
	OpExpr	   *comparison = (OpExpr *) node;

	if (node == NULL)
		return false;
	if (IsA(node, DistinctExpr))
		check_operator(lost, node, "IS DISTINCT FROM", comparison->opno,
					   comparison->args);
	else if (IsA(node, NullIfExpr))
		check_operator(lost, node, "NULLIF", comparison->opno, NIL);
	else if (IsA(node, OpExpr) && compares_rows(comparison->args))
		add_lost(lost, node, ROWS, comparison->opno);
	else if (IsA(node, RowCompareExpr))
		check_row_operators(lost, (RowCompareExpr *) node);
	else if (IsA(node, CaseExpr))
		check_case(lost, (CaseExpr *) node);
	return expression_tree_walker(node, find_lost_operators, context);
}

/* Raise 0A000 for a use of an operator that would be lost. */
static void
refuse_operator(ParseState *state, const LostOperator *use)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("condition would not survive pg_dump"),
			 errdetail("%s uses the operator %s, whose schema PostgreSQL does not write there: the trigger could not be restored, or would mean something else.",
					   use->construct,
					   format_operator_qualified(use->operator)),
			 errhint("Write comparisons with their operators, as NEW.a OPERATOR(%s.=) OLD.a, and nulls as IS NULL; or name the columns in watch.",
					 quote_identifier(get_namespace_name(operator_schema(use->operator)))),
			 parser_errposition(state, exprLocation(use->node))));
}

/* A constant true or false, as a raw parse tree. */
static Node *
boolean_constant(bool value, int location)
{
	A_Const    *constant = makeNode(A_Const);

	constant->val.boolval.type = T_Boolean;
	constant->val.boolval.boolval = value;
	constant->location = location;
	return (Node *) constant;
}

/* IS NULL, or IS NOT NULL, of a copy of the expression. */
static Node *
null_test(const Node *arg, NullTestType type, int location)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = copyObject((Expr *) arg);
	test->nulltesttype = type;
	test->location = location;
	return (Node *) test;
}

/* IS NULL, or IS NOT NULL, of both operands of the expression. */
static Node *
both(const A_Expr *distinct, NullTestType type)
{
	return (Node *) makeBoolExpr(AND_EXPR,
								 list_make2(null_test(distinct->lexpr, type,
													  distinct->location),
											null_test(distinct->rexpr, type,
													  distinct->location)),
								 distinct->location);
}

/*
 * Turn the expression into "test = value".  This overwrites the node, because
 * what points to it in the tree is not known here.
 */
static void
make_equal(A_Expr *expression, Node *test, bool value)
{
	expression->kind = AEXPR_OP;
	expression->name = list_make2(makeString(pstrdup("pg_catalog")),
								  makeString(pstrdup("=")));
	expression->lexpr = test;
	expression->rexpr = boolean_constant(value, expression->location);
}

/*
 * Turn "a IS [NOT] DISTINCT FROM b" into
 *
 *	(CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN a OPERATOR(schema.=) b
 *		  ELSE a IS NULL AND b IS NULL END) = false [true]
 */
static void
write_with_operator(A_Expr *distinct, Oid operator)
{
	int			location = distinct->location;
	List	   *name = list_make2(makeString(get_namespace_name(operator_schema(operator))),
								  makeString(get_opname(operator)));
	CaseWhen   *when = makeNode(CaseWhen);
	CaseExpr   *equal = makeNode(CaseExpr);

	when->expr = (Expr *) both(distinct, IS_NOT_NULL);
	when->result = (Expr *) makeA_Expr(AEXPR_OP, name,
									   copyObject(distinct->lexpr),
									   copyObject(distinct->rexpr),
									   location);
	when->location = location;
	equal->args = list_make1(when);
	equal->defresult = (Expr *) both(distinct, IS_NULL);
	equal->location = location;
	make_equal(distinct, (Node *) equal,
			   distinct->kind == AEXPR_NOT_DISTINCT);
}

/* Does a field of a row stand for several fields, as new.* does? */
static bool
is_star(const Node *field)
{
	if (IsA(field, ColumnRef))
		return IsA(llast(((const ColumnRef *) field)->fields), A_Star);
	if (IsA(field, A_Indirection))
		return IsA(llast(((const A_Indirection *) field)->indirection), A_Star);
	return false;
}

/*
 * Turn "(a, b) IS [NOT] DISTINCT FROM (c, d)" into
 *
 *	(a IS DISTINCT FROM c OR b IS DISTINCT FROM d) = true [false]
 *
 * Each comparison gets the location of its left field.  Returns false, and does
 * nothing, if it cannot be seen which fields are compared.
 */
static bool
write_by_fields(A_Expr *distinct)
{
	List	   *left = ((RowExpr *) distinct->lexpr)->args;
	List	   *right = ((RowExpr *) distinct->rexpr)->args;
	List	   *pairs = NIL;
	ListCell   *lc,
			   *lc2;

	if (list_length(left) != list_length(right))
		return false;
	forboth(lc, left, lc2, right)
	{
		if (is_star(lfirst(lc)) || is_star(lfirst(lc2)))
			return false;
		pairs = lappend(pairs, makeSimpleA_Expr(AEXPR_DISTINCT, "=",
												lfirst(lc), lfirst(lc2),
												exprLocation(lfirst(lc))));
	}
	make_equal(distinct,
			   (Node *) makeBoolExpr(OR_EXPR, pairs, distinct->location),
			   distinct->kind == AEXPR_DISTINCT);
	return true;
}

/* Can the use be written with its operator, without changing its meaning? */
static bool
can_be_written(const LostOperator *use)
{
	DistinctExpr *distinct = (DistinctExpr *) use->node;

	/* a volatile function that stands twice in the tree is called twice */
	if (!IsA(distinct, DistinctExpr) ||
		contain_volatile_functions((Node *) distinct->args))
		return false;

	/* these are written by their fields */
	if (compares_rows(distinct->args))
		return true;

	/* IS NULL looks at a row's fields, but IS DISTINCT FROM at the row */
	return !type_is_rowtype(exprType(linitial(distinct->args))) &&
		!type_is_rowtype(exprType(lsecond(distinct->args)));
}

/* What write_operators() is to do, and whether it did anything. */
typedef struct WriteOperators
{
	const List *lost;			/* of LostOperator */
	bool		changed;
} WriteOperators;

/*
 * Tree walker over the raw parse tree, context a WriteOperators: write the
 * uses of lost operators with these operators, where that is possible.  The
 * uses are nodes of the analyzed tree; a node of the raw tree is found by its
 * location in the text, which both have.
 */
static bool
write_operators(Node *node, void *context)
{
	WriteOperators *write = context;
	A_Expr	   *distinct = (A_Expr *) node;
	ListCell   *lc;

	if (node == NULL)
		return false;
	(void) raw_expression_tree_walker(node, write_operators, context);
	if (!IsA(node, A_Expr) || (distinct->kind != AEXPR_DISTINCT &&
							   distinct->kind != AEXPR_NOT_DISTINCT))
		return false;
	foreach(lc, write->lost)
	{
		const LostOperator *use = lfirst(lc);

		if (!can_be_written(use) ||
			((DistinctExpr *) use->node)->location != distinct->location)
			continue;
		if (!IsA(distinct->lexpr, RowExpr) || !IsA(distinct->rexpr, RowExpr))
			write_with_operator(distinct, use->operator);
		else if (!write_by_fields(distinct))
			continue;
		write->changed = true;
		break;
	}
	return false;
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
 * The expression as CREATE TRIGGER would store it.  Sets *lost to the uses of
 * operators whose schema a dump would leave out.
 */
static Node *
transform(ParseState *state, const Condition *condition, List **lost)
{
	Node	   *analyzed =
	transformWhereClause(state, copyObject(condition->expression),
						 EXPR_KIND_TRIGGER_WHEN, "WHEN");

	assign_expr_collations(state, analyzed);
	*lost = NIL;
	(void) find_lost_operators(analyzed, lost);
	return analyzed;
}

/*
 * The condition as CREATE TRIGGER on the table would store it, with the names
 * in it looked up now.  Also rewrites condition->expression so that a dump
 * keeps its meaning.  The caller has the table locked.  Raises 0A000 if it
 * cannot be rewritten so, and what CREATE TRIGGER raises for a wrong
 * expression.
 */
Node *
condition_analyze(Condition *condition, Relation rel)
{
	ParseState *state = make_parsestate(NULL);
	ErrorContextCallback callback = {error_context_stack,
	condition_error_context, condition};
	Node	   *analyzed;
	WriteOperators write;
	List	   *lost;

	error_context_stack = &callback;
	state->p_sourcetext = condition->text;
	add_row(state, rel, "old");
	add_row(state, rel, "new");
	analyzed = transform(state, condition, &lost);
	while (lost != NIL)
	{
		/* one round turns rows into pairs of fields, the next writes those */
		write.lost = lost;
		write.changed = false;
		(void) write_operators(condition->expression, &write);
		if (!write.changed)
			refuse_operator(state, linitial(lost));
		analyzed = transform(state, condition, &lost);
	}
	error_context_stack = callback.previous;
	free_parsestate(state);
	return analyzed;
}

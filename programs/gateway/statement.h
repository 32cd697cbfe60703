/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  The statements that are understood.
 *
 * statement_parse() makes a list of a query's text.  A statement that is none
 * of these is in the list as STATEMENT_REFUSED, and fails when it is its turn,
 * as a statement does that the server cannot run.  Text that is no SQL, or an
 * understood statement with a mistake in it, fails as a whole.  So does one that takes
 * more memory than it may.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_STATEMENT_H
#define GATEWAY_STATEMENT_H

#include "gateway/lexer.h"

typedef enum StatementKind
{
	STATEMENT_LISTEN,			/* name */
	STATEMENT_UNLISTEN,			/* name, or all */
	STATEMENT_NOTIFY,			/* name, value */
	STATEMENT_SELECT,			/* items */
	STATEMENT_BEGIN,			/* value: isolation level, or NULL; read_only */
	STATEMENT_START,			/* the same, but START TRANSACTION */
	STATEMENT_COMMIT,			/* chain */
	STATEMENT_ROLLBACK,			/* chain */
	STATEMENT_SAVEPOINT,		/* name */
	STATEMENT_RELEASE,			/* name */
	STATEMENT_ROLLBACK_TO,		/* name */
	STATEMENT_SET,				/* name, value (NULL: default), local */
	STATEMENT_SET_TRANSACTION,	/* as BEGIN; local: of this transaction */
	STATEMENT_RESET,			/* name, or all */
	STATEMENT_SHOW,				/* name */
	STATEMENT_DISCARD,			/* all, or only what a session has not */
	STATEMENT_CLOSE,			/* name, or all */
	STATEMENT_DEALLOCATE,		/* name, or all */
	STATEMENT_REFUSED			/* name: its first word */
} StatementKind;

/* What a SELECT returns. */
typedef enum ItemKind
{
	ITEM_INTEGER,				/* first */
	ITEM_STRING,				/* first */
	ITEM_NOTIFY,				/* pg_notify(first, second) */
	ITEM_BACKEND_PID,
	ITEM_VERSION,
	ITEM_SCHEMA,
	ITEM_DATABASE,
	ITEM_USER,
	ITEM_UNLOCK_ALL				/* pg_advisory_unlock_all() */
} ItemKind;

/* A literal, NULL or a parameter. */
typedef struct Argument
{
	const char *text;			/* NULL: NULL, or a parameter */
	int			parameter;		/* from 1; 0: none */
} Argument;

typedef struct Item
{
	ItemKind	kind;
	const char *column;
	Argument	first;
	Argument	second;
} Item;

typedef struct Statement
{
	struct Statement *next;
	StatementKind kind;
	const char *name;
	const char *value;
	const char *read_only;		/* "on", "off", or NULL: not said */
	bool		all;
	bool		local;
	bool		chain;
	Item	   *items;
	int			item_count;
} Statement;

/* A name that was too long. */
typedef struct Truncation
{
	struct Truncation *next;
	const char *full;
	const char *name;
} Truncation;

typedef struct StatementList
{
	Arena		arena;			/* where all of it is */
	Statement  *first;
	int			count;
	int			parameter_count;	/* the highest $n */
	Truncation *truncations;

	/* Of a text that failed: */
	const char *sqlstate;
	const char *message;
	const char *hint;			/* or NULL */
	int			position;		/* in characters, from 1; 0: none */
} StatementList;

extern bool statement_parse(StatementList *list, const char *text,
							size_t length, bool standard_strings, size_t most);
extern void statement_list_free(StatementList *list);

#endif

/*-------------------------------------------------------------------------
 *
 * statement_select.c
 *	  SELECT: the few of them with which drivers notify, and ask whether a connection
 *	  lives.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/parser.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* The most that a SELECT may return: beyond that it is not understood. */
#define MAX_ITEMS 64

/* A literal, NULL or a parameter, perhaps in parentheses or cast to text. */
static bool
take_argument(Parser *parser, Argument *argument)
{
	int			open = 0;

	while (parser_take_symbol(parser, '('))
		open++;
	if (parser->token.kind == TOKEN_PARAMETER)
	{
		argument->parameter = parser->token.number;
		if (argument->parameter < 1)
			return false;
		if (argument->parameter > parser->list->parameter_count)
			parser->list->parameter_count = argument->parameter;
		parser_advance(parser);
	}
	else if (!parser_take_string(parser, &argument->text) &&
			 !parser_take_word(parser, "null"))
		return false;
	for (;;)
	{
		if (parser->token.kind == TOKEN_CAST)
		{
			parser_advance(parser);
			if (!parser_take_word(parser, "text") && !parser_take_word(parser, "varchar") &&
				!parser_take_word(parser, "unknown"))
				return false;
		}
		else if (open > 0 && parser_take_symbol(parser, ')'))
			open--;
		else
			return open == 0;
	}
}

/* Take a call's parentheses without arguments. */
static bool
take_no_arguments(Parser *parser)
{
	return parser_take_symbol(parser, '(') && parser_take_symbol(parser, ')');
}

/* Take a function call, or a value that is written as a name. */
static bool
take_call(Parser *parser, Item *item)
{
	static const struct
	{
		const char *name;
		ItemKind	kind;
		bool		bare;		/* may be without parentheses */
		bool		call;		/* may have them */
	}			known[] = {
		{"pg_notify", ITEM_NOTIFY, false, true},
		{"pg_backend_pid", ITEM_BACKEND_PID, false, true},
		{"version", ITEM_VERSION, false, true},
		{"current_schema", ITEM_SCHEMA, true, true},
		{"current_database", ITEM_DATABASE, false, true},
		{"current_catalog", ITEM_DATABASE, true, false},
		{"current_user", ITEM_USER, true, false},
		{"session_user", ITEM_USER, true, false},
		{"user", ITEM_USER, true, false},
		{"pg_advisory_unlock_all", ITEM_UNLOCK_ALL, false, true},
	};

	if (parser_take_word(parser, "pg_catalog") && !parser_take_symbol(parser, '.'))
		return false;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		if (!parser_take_word(parser, known[i].name))
			continue;
		item->kind = known[i].kind;
		item->column = known[i].name;

		if (item->kind == ITEM_NOTIFY)
			return parser_take_symbol(parser, '(') &&
				take_argument(parser, &item->first) &&
				parser_take_symbol(parser, ',') &&
				take_argument(parser, &item->second) &&
				parser_take_symbol(parser, ')');
		if (known[i].call && parser_at_symbol(parser, '('))
			return take_no_arguments(parser);
		return known[i].bare;
	}
	return false;
}

/* Take one of what a SELECT returns. */
static bool
take_item(Parser *parser, Item *item)
{
	item->column = "?column?";
	if (parser->token.kind == TOKEN_NUMBER)
	{
		char	   *end;
		long		value;

		errno = 0;
		value = strtol(parser->token.text, &end, 10);
		if (*end != '\0' || errno != 0 || value > INT_MAX)
			return false;
		item->kind = ITEM_INTEGER;
		item->first.text = parser->token.text;
		parser_advance(parser);
	}
	else if (parser_take_string(parser, &item->first.text))
		item->kind = ITEM_STRING;
	else if (!take_call(parser, item))
		return false;

	/* A name behind it is the column's, unless it is a word that goes on. */
	if (parser_take_word(parser, "as"))
		return parser_take_name(parser, &item->column);
	if (parser->token.kind == TOKEN_NAME && parser->token.quoted)
		return parser_take_name(parser, &item->column);
	return true;
}

/* SELECT: what was not understood of it is refused. */
bool
parse_select(Parser *parser, Statement *statement)
{
	Item		items[MAX_ITEMS] = {0};
	int			count = 0;
	bool		good = true;

	if (!parser_at_end(parser))
	{
		do
		{
			good = count < MAX_ITEMS && take_item(parser, &items[count]);
			count++;
		} while (good && parser_take_symbol(parser, ','));
	}
	if (!good || !parser_at_end(parser))
	{
		parser_refuse(parser, statement, "SELECT");
		return true;
	}
	statement->kind = STATEMENT_SELECT;
	statement->item_count = count;
	if (count > 0)
	{
		statement->items = arena_get(&parser->list->arena,
									 count * sizeof(Item));
		memcpy(statement->items, items, count * sizeof(Item));
	}
	return true;
}

/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  See statement.h.
 *
 * A recursive descent with one token of look-ahead.  Each statement's function
 * returns false if the token at which it stands does not belong there; that is
 * a syntax error, as the first word has told what the statement is.  Only a
 * SELECT can be anything, so that one which is not understood is refused, and
 * so are SET ROLE and its like.  Of what is refused nothing is kept but its name.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/statement.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

/* The longest name of a setting, with its parts, in bytes. */
#define MAX_SETTING_NAME 255

typedef struct Parser
{
	StatementList *list;
	Lexer		lexer;
	Token		token;			/* not taken yet */
	size_t		most;			/* bytes that the list may take */
	bool		full;			/* it would take more: there are no tokens */

	/* Where the statement begins that is being parsed: */
	ArenaMark	mark;
	Truncation *truncations;
} Parser;

/* Go on to the next token. */
static void
advance(Parser *parser)
{
	lexer_next(&parser->lexer, &parser->token);
	if (parser->list->arena.bytes <= parser->most)
		return;
	parser->full = true;
	parser->token.kind = TOKEN_BROKEN;
}

/* Is the next token this word, which is in lower case? */
static bool
is_word(const Parser *parser, const char *word)
{
	return parser->token.kind == TOKEN_NAME && !parser->token.quoted &&
		strcmp(parser->token.text, word) == 0;
}

/* Take the word, if it is next. */
static bool
take_word(Parser *parser, const char *word)
{
	if (!is_word(parser, word))
		return false;
	advance(parser);
	return true;
}

static bool
is_symbol(const Parser *parser, char symbol)
{
	return parser->token.kind == TOKEN_SYMBOL && parser->token.symbol == symbol;
}

/* Take the character, if it is next. */
static bool
take_symbol(Parser *parser, char symbol)
{
	if (!is_symbol(parser, symbol))
		return false;
	advance(parser);
	return true;
}

/* Is the next token behind the statement? */
static bool
at_end(const Parser *parser)
{
	return parser->token.kind == TOKEN_END || is_symbol(parser, ';');
}

/*
 * Take a name, cut to the length that names have, into *name.  What was cut is
 * noted in the list.
 */
static bool
take_name(Parser *parser, const char **name)
{
	const Token *token = &parser->token;
	size_t		length;

	if (token->kind != TOKEN_NAME)
		return false;
	*name = token->text;
	length = utf8_clip(token->text, token->length, NAME_BYTES);
	if (length < token->length)
	{
		Arena	   *arena = &parser->list->arena;
		Truncation *truncation = arena_get(arena, sizeof(Truncation));

		*name = arena_copy(arena, token->text, length);
		truncation->full = token->text;
		truncation->name = *name;
		truncation->next = parser->list->truncations;
		parser->list->truncations = truncation;
	}
	advance(parser);
	return true;
}

/* Take a string into *value. */
static bool
take_string(Parser *parser, const char **value)
{
	if (parser->token.kind != TOKEN_STRING)
		return false;
	*value = parser->token.text;
	advance(parser);
	return true;
}

/*
 * Take transaction modes, perhaps none; the isolation level, if one is said, is
 * the statement's value.
 */
static bool
take_modes(Parser *parser, Statement *statement)
{
	while (!at_end(parser))
	{
		if (take_word(parser, "isolation"))
		{
			if (!take_word(parser, "level"))
				return false;
			if (take_word(parser, "serializable"))
				statement->value = "serializable";
			else if (take_word(parser, "repeatable"))
			{
				statement->value = "repeatable read";
				if (!take_word(parser, "read"))
					return false;
			}
			else if (take_word(parser, "read"))
			{
				if (take_word(parser, "committed"))
					statement->value = "read committed";
				else if (take_word(parser, "uncommitted"))
					statement->value = "read uncommitted";
				else
					return false;
			}
			else
				return false;
		}
		else if (take_word(parser, "read"))
		{
			if (take_word(parser, "only"))
				statement->read_only = "on";
			else if (take_word(parser, "write"))
				statement->read_only = "off";
			else
				return false;
		}
		else
		{
			(void) take_word(parser, "not");
			if (!take_word(parser, "deferrable"))
				return false;
		}
		if (take_symbol(parser, ',') && at_end(parser))
			return false;
	}
	return true;
}

/* WORK or TRANSACTION, which say nothing. */
static void
take_noise(Parser *parser)
{
	if (!take_word(parser, "work"))
		(void) take_word(parser, "transaction");
}

/* AND [NO] CHAIN, if it is there. */
static bool
take_chain(Parser *parser, Statement *statement)
{
	bool		no;

	if (!take_word(parser, "and"))
		return true;
	no = take_word(parser, "no");
	statement->chain = !no;
	return take_word(parser, "chain");
}

/*
 * The rest of the statement is not understood, whatever it is, and so nothing of it is:
 * what its tokens have taken is freed.
 */
static void
refuse(Parser *parser, Statement *statement, const char *name)
{
	Arena	   *arena = &parser->list->arena;
	char		copy[NAME_BYTES + 1];
	ArenaMark	mark;

	snprintf(copy, sizeof(copy), "%s", name);
	arena_rewind(arena, parser->mark);
	parser->list->truncations = parser->truncations;
	memset(statement, 0, sizeof(*statement));
	statement->kind = STATEMENT_REFUSED;
	statement->name = arena_copy(arena, copy, strlen(copy));
	mark = arena_mark(arena);
	while (!at_end(parser) && parser->token.kind != TOKEN_BROKEN)
	{
		advance(parser);
		arena_rewind(arena, mark);
	}
}

/* A literal, NULL or a parameter, perhaps in parentheses or cast to text. */
static bool
take_argument(Parser *parser, Argument *argument)
{
	int			open = 0;

	while (take_symbol(parser, '('))
		open++;
	if (parser->token.kind == TOKEN_PARAMETER)
	{
		argument->parameter = parser->token.number;
		if (argument->parameter < 1)
			return false;
		if (argument->parameter > parser->list->parameter_count)
			parser->list->parameter_count = argument->parameter;
		advance(parser);
	}
	else if (!take_string(parser, &argument->text) &&
			 !take_word(parser, "null"))
		return false;
	for (;;)
	{
		if (parser->token.kind == TOKEN_CAST)
		{
			advance(parser);
			if (!take_word(parser, "text") && !take_word(parser, "varchar") &&
				!take_word(parser, "unknown"))
				return false;
		}
		else if (open > 0 && take_symbol(parser, ')'))
			open--;
		else
			return open == 0;
	}
}

/* Take a call's parentheses without arguments. */
static bool
take_no_arguments(Parser *parser)
{
	return take_symbol(parser, '(') && take_symbol(parser, ')');
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

	if (take_word(parser, "pg_catalog") && !take_symbol(parser, '.'))
		return false;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		if (!take_word(parser, known[i].name))
			continue;
		item->kind = known[i].kind;
		item->column = known[i].name;

		if (item->kind == ITEM_NOTIFY)
			return take_symbol(parser, '(') &&
				take_argument(parser, &item->first) &&
				take_symbol(parser, ',') &&
				take_argument(parser, &item->second) &&
				take_symbol(parser, ')');
		if (known[i].call && is_symbol(parser, '('))
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
		advance(parser);
	}
	else if (take_string(parser, &item->first.text))
		item->kind = ITEM_STRING;
	else if (!take_call(parser, item))
		return false;

	/* A name behind it is the column's, unless it is a word that goes on. */
	if (take_word(parser, "as"))
		return take_name(parser, &item->column);
	if (parser->token.kind == TOKEN_NAME && parser->token.quoted)
		return take_name(parser, &item->column);
	return true;
}

/* The most that a SELECT may return: beyond that it is not understood. */
#define MAX_ITEMS 64

/* SELECT: what was not understood of it is refused. */
static bool
parse_select(Parser *parser, Statement *statement)
{
	Item		items[MAX_ITEMS] = {0};
	int			count = 0;
	bool		good = true;

	if (!at_end(parser))
	{
		do
		{
			good = count < MAX_ITEMS && take_item(parser, &items[count]);
			count++;
		} while (good && take_symbol(parser, ','));
	}
	if (!good || !at_end(parser))
	{
		refuse(parser, statement, "SELECT");
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

static bool
parse_notify(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_NOTIFY;
	statement->value = "";
	if (!take_name(parser, &statement->name))
		return false;
	return !take_symbol(parser, ',') || take_string(parser, &statement->value);
}

static bool
parse_listen(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_LISTEN;
	return take_name(parser, &statement->name);
}

static bool
parse_unlisten(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_UNLISTEN;
	statement->all = take_symbol(parser, '*');
	return statement->all || take_name(parser, &statement->name);
}

static bool
parse_begin(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_BEGIN;
	take_noise(parser);
	return take_modes(parser, statement);
}

static bool
parse_start(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_START;
	return take_word(parser, "transaction") &&
		take_modes(parser, statement);
}

static bool
parse_commit(Parser *parser, Statement *statement)
{
	if (is_word(parser, "prepared"))
	{
		refuse(parser, statement, "COMMIT PREPARED");
		return true;
	}
	statement->kind = STATEMENT_COMMIT;
	take_noise(parser);
	return take_chain(parser, statement);
}

static bool
parse_rollback(Parser *parser, Statement *statement)
{
	if (is_word(parser, "prepared"))
	{
		refuse(parser, statement, "ROLLBACK PREPARED");
		return true;
	}
	take_noise(parser);
	if (take_word(parser, "to"))
	{
		statement->kind = STATEMENT_ROLLBACK_TO;
		(void) take_word(parser, "savepoint");
		return take_name(parser, &statement->name);
	}
	statement->kind = STATEMENT_ROLLBACK;
	return take_chain(parser, statement);
}

static bool
parse_savepoint(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_SAVEPOINT;
	return take_name(parser, &statement->name);
}

static bool
parse_release(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_RELEASE;
	(void) take_word(parser, "savepoint");
	return take_name(parser, &statement->name);
}

/* Take a setting's name, which may have parts. */
static bool
take_setting(Parser *parser, const char **name)
{
	char		parts[MAX_SETTING_NAME + 1];
	const char *part;
	size_t		length = 0;

	do
	{
		if (!take_name(parser, &part) || length + strlen(part) > MAX_SETTING_NAME)
			return false;
		length += snprintf(parts + length, sizeof(parts) - length, "%s", part);
		if (is_symbol(parser, '.') && length < MAX_SETTING_NAME)
			parts[length++] = '.';
	} while (take_symbol(parser, '.'));
	*name = arena_copy(&parser->list->arena, parts, length);
	return true;
}

/* Take a setting's new value, perhaps a list, which is written with commas. */
static bool
take_values(Parser *parser, Statement *statement)
{
	Bytes		value = {0};
	bool		good;

	if (take_word(parser, "default"))
		return true;
	for (;;)
	{
		bool		minus = take_symbol(parser, '-');

		good = parser->token.kind == TOKEN_NUMBER ||
			(!minus && (parser->token.kind == TOKEN_STRING ||
						parser->token.kind == TOKEN_NAME));
		if (!good)
			break;
		if (minus)
			bytes_append_byte(&value, '-');
		bytes_append(&value, parser->token.text, parser->token.length);
		advance(parser);
		if (!take_symbol(parser, ','))
			break;
		bytes_append(&value, ", ", 2);
	}
	if (good)
		statement->value = value.data == NULL ? "" :
			arena_copy(&parser->list->arena, value.data + value.begin,
					   bytes_length(&value));
	bytes_free(&value);
	return good;
}

/* The names of SET, RESET and SHOW that are several words. */
static bool
take_special_setting(Parser *parser, Statement *statement)
{
	if (take_word(parser, "time"))
	{
		statement->name = "timezone";
		return take_word(parser, "zone");
	}
	return take_setting(parser, &statement->name);
}

static bool
parse_set(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_SET;
	if (take_word(parser, "local"))
		statement->local = true;
	else if (take_word(parser, "session"))
	{
		if (take_word(parser, "characteristics"))
		{
			statement->kind = STATEMENT_SET_TRANSACTION;
			return take_word(parser, "as") &&
				take_word(parser, "transaction") && !at_end(parser) &&
				take_modes(parser, statement);
		}
		if (is_word(parser, "authorization"))
		{
			refuse(parser, statement, "SET SESSION AUTHORIZATION");
			return true;
		}
	}
	if (take_word(parser, "transaction"))
	{
		statement->kind = STATEMENT_SET_TRANSACTION;
		statement->local = true;
		if (is_word(parser, "snapshot"))
		{
			refuse(parser, statement, "SET TRANSACTION SNAPSHOT");
			return true;
		}
		return !at_end(parser) && take_modes(parser, statement);
	}
	if (is_word(parser, "role") || is_word(parser, "constraints"))
	{
		refuse(parser, statement,
			   is_word(parser, "role") ? "SET ROLE" : "SET CONSTRAINTS");
		return true;
	}
	if (take_word(parser, "names"))
	{
		statement->name = "client_encoding";
		return at_end(parser) || take_values(parser, statement);
	}
	if (is_word(parser, "time"))
	{
		if (!take_special_setting(parser, statement))
			return false;
		return take_word(parser, "local") || take_values(parser, statement);
	}
	if (!take_setting(parser, &statement->name))
		return false;
	return (take_word(parser, "to") || take_symbol(parser, '=')) &&
		take_values(parser, statement);
}

static bool
parse_reset(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_RESET;
	if (take_word(parser, "all"))
	{
		statement->all = true;
		return true;
	}
	if (take_word(parser, "session"))
	{
		statement->name = "session_authorization";
		return take_word(parser, "authorization");
	}
	return take_special_setting(parser, statement);
}

static bool
parse_show(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_SHOW;
	if (is_word(parser, "all"))
	{
		refuse(parser, statement, "SHOW ALL");
		return true;
	}
	if (take_word(parser, "transaction"))
	{
		statement->name = "transaction_isolation";
		return take_word(parser, "isolation") && take_word(parser, "level");
	}
	return take_special_setting(parser, statement);
}

static bool
parse_discard(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_DISCARD;
	if (take_word(parser, "all"))
	{
		statement->all = true;
		statement->name = "DISCARD ALL";
	}
	else if (take_word(parser, "plans"))
		statement->name = "DISCARD PLANS";
	else if (take_word(parser, "sequences"))
		statement->name = "DISCARD SEQUENCES";
	else if (take_word(parser, "temp") || take_word(parser, "temporary"))
		statement->name = "DISCARD TEMP";
	else
		return false;
	return true;
}

/* CLOSE and DEALLOCATE: ALL, or a name. */
static bool
parse_all_or_name(Parser *parser, Statement *statement, StatementKind kind)
{
	statement->kind = kind;
	if (take_word(parser, "all"))
	{
		statement->all = true;
		return true;
	}
	return take_name(parser, &statement->name);
}

static bool
parse_close(Parser *parser, Statement *statement)
{
	return parse_all_or_name(parser, statement, STATEMENT_CLOSE);
}

static bool
parse_deallocate(Parser *parser, Statement *statement)
{
	(void) take_word(parser, "prepare");
	return parse_all_or_name(parser, statement, STATEMENT_DEALLOCATE);
}

static const struct
{
	const char *word;
	bool		(*parse) (Parser *parser, Statement *statement);
}			statements[] = {
	{"listen", parse_listen},
	{"unlisten", parse_unlisten},
	{"notify", parse_notify},
	{"select", parse_select},
	{"begin", parse_begin},
	{"start", parse_start},
	{"commit", parse_commit},
	{"end", parse_commit},
	{"rollback", parse_rollback},
	{"abort", parse_rollback},
	{"savepoint", parse_savepoint},
	{"release", parse_release},
	{"set", parse_set},
	{"reset", parse_reset},
	{"show", parse_show},
	{"discard", parse_discard},
	{"close", parse_close},
	{"deallocate", parse_deallocate},
};

/* The first word of a statement that is not understood, in capitals. */
static const char *
capitals(Parser *parser)
{
	const Token *token = &parser->token;
	char	   *word;

	if (token->kind != TOKEN_NAME || token->quoted)
		return "this statement";
	word = arena_copy(&parser->list->arena, token->text,
					  utf8_clip(token->text, token->length, NAME_BYTES));
	for (char *at = word; *at != '\0'; at++)
	{
		if (*at >= 'a' && *at <= 'z')
			*at -= 'a' - 'A';
	}
	return word;
}

/* The number of the character at that offset, from 1. */
static int
character_number(const char *text, size_t offset)
{
	int			number = 1;

	for (size_t i = 0; i < offset; i++)
	{
		if (((unsigned char) text[i] & 0xC0) != 0x80)
			number++;
	}
	return number;
}

/* The text fails at the token at which the parser stands. */
static void
fail(Parser *parser)
{
	StatementList *list = parser->list;
	const Token *token = &parser->token;
	const char *text = parser->lexer.text;
	size_t		begin = token->begin;
	size_t		end = token->end;
	const char *what = "syntax error";
	char	   *message;
	size_t		size;

	if (parser->full)
	{
		list->sqlstate = "53400";
		list->message = "the session keeps too much in memory";
		list->hint = "The gateway's limit is max-session.";
		return;
	}
	list->sqlstate = "42601";
	if (token->kind == TOKEN_BROKEN)
	{
		list->sqlstate = parser->lexer.sqlstate;
		what = parser->lexer.message;
	}
	if (token->kind == TOKEN_END)
		list->message = "syntax error at end of input";
	else
	{
		size = end - begin + strlen(what) + 32;
		message = arena_get(&list->arena, size);
		snprintf(message, size, "%s at or near \"%.*s\"", what,
				 (int) (end - begin), text + begin);
		list->message = message;
	}
	list->position = character_number(text, begin);
}

/* Parse the statement at which the parser stands. */
static bool
parse_one(Parser *parser, Statement *statement)
{
	for (size_t i = 0; i < sizeof(statements) / sizeof(statements[0]); i++)
	{
		if (!is_word(parser, statements[i].word))
			continue;
		advance(parser);
		return statements[i].parse(parser, statement) && at_end(parser);
	}
	if (parser->token.kind != TOKEN_BROKEN)
		refuse(parser, statement, capitals(parser));
	return at_end(parser);
}

/*
 * Make a list of the statements in the text, none for an empty one.  False if that is
 * no SQL, or the list takes many more than most bytes, and then the list says why.  Either way the list is to be
 * freed; it refers to nothing outside of itself.
 */
bool
statement_parse(StatementList *list, const char *text, size_t length,
				bool standard_strings, size_t most)
{
	Parser		parser = {0};
	Statement **link = &list->first;

	memset(list, 0, sizeof(*list));
	parser.list = list;
	parser.most = most;
	parser.lexer.text = text;
	parser.lexer.length = length;
	parser.lexer.standard_strings = standard_strings;
	parser.lexer.arena = &list->arena;
	advance(&parser);
	for (;;)
	{
		Statement  *statement;

		while (take_symbol(&parser, ';'))
			;
		if (parser.token.kind == TOKEN_END)
			return true;
		statement = arena_get(&list->arena, sizeof(Statement));
		parser.mark = arena_mark(&list->arena);
		parser.truncations = list->truncations;
		if (!parse_one(&parser, statement))
		{
			fail(&parser);
			return false;
		}
		*link = statement;
		link = &statement->next;
		list->count++;
	}
}

/* Free all of the list. */
void
statement_list_free(StatementList *list)
{
	arena_free(&list->arena);
	memset(list, 0, sizeof(*list));
}

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
#include "gateway/parser.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

/* The longest name of a setting, with its parts, in bytes. */
#define MAX_SETTING_NAME 255

/*
 * Take transaction modes, perhaps none; the isolation level, if one is said, is
 * the statement's value.
 */
static bool
take_modes(Parser *parser, Statement *statement)
{
	while (!parser_at_end(parser))
	{
		if (parser_take_word(parser, "isolation"))
		{
			if (!parser_take_word(parser, "level"))
				return false;
			if (parser_take_word(parser, "serializable"))
				statement->value = "serializable";
			else if (parser_take_word(parser, "repeatable"))
			{
				statement->value = "repeatable read";
				if (!parser_take_word(parser, "read"))
					return false;
			}
			else if (parser_take_word(parser, "read"))
			{
				if (parser_take_word(parser, "committed"))
					statement->value = "read committed";
				else if (parser_take_word(parser, "uncommitted"))
					statement->value = "read uncommitted";
				else
					return false;
			}
			else
				return false;
		}
		else if (parser_take_word(parser, "read"))
		{
			if (parser_take_word(parser, "only"))
				statement->read_only = "on";
			else if (parser_take_word(parser, "write"))
				statement->read_only = "off";
			else
				return false;
		}
		else
		{
			(void) parser_take_word(parser, "not");
			if (!parser_take_word(parser, "deferrable"))
				return false;
		}
		if (parser_take_symbol(parser, ',') && parser_at_end(parser))
			return false;
	}
	return true;
}

/* WORK or TRANSACTION, which say nothing. */
static void
take_noise(Parser *parser)
{
	if (!parser_take_word(parser, "work"))
		(void) parser_take_word(parser, "transaction");
}

/* AND [NO] CHAIN, if it is there. */
static bool
take_chain(Parser *parser, Statement *statement)
{
	bool		no;

	if (!parser_take_word(parser, "and"))
		return true;
	no = parser_take_word(parser, "no");
	statement->chain = !no;
	return parser_take_word(parser, "chain");
}

/* NOTIFY: a channel, and perhaps a payload. */
static bool
parse_notify(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_NOTIFY;
	statement->value = "";
	if (!parser_take_name(parser, &statement->name))
		return false;
	return !parser_take_symbol(parser, ',') || parser_take_string(parser, &statement->value);
}

/* LISTEN: a channel. */
static bool
parse_listen(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_LISTEN;
	return parser_take_name(parser, &statement->name);
}

/* UNLISTEN: a channel, or all. */
static bool
parse_unlisten(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_UNLISTEN;
	statement->all = parser_take_symbol(parser, '*');
	return statement->all || parser_take_name(parser, &statement->name);
}

/* BEGIN, perhaps with modes. */
static bool
parse_begin(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_BEGIN;
	take_noise(parser);
	return take_modes(parser, statement);
}

/* START TRANSACTION, perhaps with modes. */
static bool
parse_start(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_START;
	return parser_take_word(parser, "transaction") &&
		take_modes(parser, statement);
}

/* COMMIT and END, perhaps AND CHAIN. */
static bool
parse_commit(Parser *parser, Statement *statement)
{
	if (parser_at_word(parser, "prepared"))
	{
		parser_refuse(parser, statement, "COMMIT PREPARED");
		return true;
	}
	statement->kind = STATEMENT_COMMIT;
	take_noise(parser);
	return take_chain(parser, statement);
}

/* ROLLBACK and ABORT, perhaps to a savepoint, or AND CHAIN. */
static bool
parse_rollback(Parser *parser, Statement *statement)
{
	if (parser_at_word(parser, "prepared"))
	{
		parser_refuse(parser, statement, "ROLLBACK PREPARED");
		return true;
	}
	take_noise(parser);
	if (parser_take_word(parser, "to"))
	{
		statement->kind = STATEMENT_ROLLBACK_TO;
		(void) parser_take_word(parser, "savepoint");
		return parser_take_name(parser, &statement->name);
	}
	statement->kind = STATEMENT_ROLLBACK;
	return take_chain(parser, statement);
}

/* SAVEPOINT: a name. */
static bool
parse_savepoint(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_SAVEPOINT;
	return parser_take_name(parser, &statement->name);
}

/* RELEASE: a savepoint. */
static bool
parse_release(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_RELEASE;
	(void) parser_take_word(parser, "savepoint");
	return parser_take_name(parser, &statement->name);
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
		if (!parser_take_name(parser, &part) || length + strlen(part) > MAX_SETTING_NAME)
			return false;
		length += snprintf(parts + length, sizeof(parts) - length, "%s", part);
		if (parser_at_symbol(parser, '.') && length < MAX_SETTING_NAME)
			parts[length++] = '.';
	} while (parser_take_symbol(parser, '.'));
	*name = arena_copy(&parser->list->arena, parts, length);
	return true;
}

/* Take a setting's new value, perhaps a list, which is written with commas. */
static bool
take_values(Parser *parser, Statement *statement)
{
	Bytes		value = {0};
	bool		good;

	if (parser_take_word(parser, "default"))
		return true;
	for (;;)
	{
		bool		minus = parser_take_symbol(parser, '-');

		good = parser->token.kind == TOKEN_NUMBER ||
			(!minus && (parser->token.kind == TOKEN_STRING ||
						parser->token.kind == TOKEN_NAME));
		if (!good)
			break;
		if (minus)
			bytes_append_byte(&value, '-');
		bytes_append(&value, parser->token.text, parser->token.length);
		parser_advance(parser);
		if (!parser_take_symbol(parser, ','))
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
	if (parser_take_word(parser, "time"))
	{
		statement->name = "timezone";
		return parser_take_word(parser, "zone");
	}
	return take_setting(parser, &statement->name);
}

/* SET: a setting, or the modes of a transaction or of the session. */
static bool
parse_set(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_SET;
	if (parser_take_word(parser, "local"))
		statement->local = true;
	else if (parser_take_word(parser, "session"))
	{
		if (parser_take_word(parser, "characteristics"))
		{
			statement->kind = STATEMENT_SET_TRANSACTION;
			return parser_take_word(parser, "as") &&
				parser_take_word(parser, "transaction") && !parser_at_end(parser) &&
				take_modes(parser, statement);
		}
		if (parser_at_word(parser, "authorization"))
		{
			parser_refuse(parser, statement, "SET SESSION AUTHORIZATION");
			return true;
		}
	}
	if (parser_take_word(parser, "transaction"))
	{
		statement->kind = STATEMENT_SET_TRANSACTION;
		statement->local = true;
		if (parser_at_word(parser, "snapshot"))
		{
			parser_refuse(parser, statement, "SET TRANSACTION SNAPSHOT");
			return true;
		}
		return !parser_at_end(parser) && take_modes(parser, statement);
	}
	if (parser_at_word(parser, "role") || parser_at_word(parser, "constraints"))
	{
		parser_refuse(parser, statement,
					  parser_at_word(parser, "role") ? "SET ROLE" : "SET CONSTRAINTS");
		return true;
	}
	if (parser_take_word(parser, "names"))
	{
		statement->name = "client_encoding";
		return parser_at_end(parser) || take_values(parser, statement);
	}
	if (parser_at_word(parser, "time"))
	{
		if (!take_special_setting(parser, statement))
			return false;
		return parser_take_word(parser, "local") || take_values(parser, statement);
	}
	if (!take_setting(parser, &statement->name))
		return false;
	return (parser_take_word(parser, "to") || parser_take_symbol(parser, '=')) &&
		take_values(parser, statement);
}

/* RESET: a setting, or all. */
static bool
parse_reset(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_RESET;
	if (parser_take_word(parser, "all"))
	{
		statement->all = true;
		return true;
	}
	if (parser_take_word(parser, "session"))
	{
		statement->name = "session_authorization";
		return parser_take_word(parser, "authorization");
	}
	return take_special_setting(parser, statement);
}

/* SHOW: a setting. */
static bool
parse_show(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_SHOW;
	if (parser_at_word(parser, "all"))
	{
		parser_refuse(parser, statement, "SHOW ALL");
		return true;
	}
	if (parser_take_word(parser, "transaction"))
	{
		statement->name = "transaction_isolation";
		return parser_take_word(parser, "isolation") && parser_take_word(parser, "level");
	}
	return take_special_setting(parser, statement);
}

/* DISCARD: what. */
static bool
parse_discard(Parser *parser, Statement *statement)
{
	statement->kind = STATEMENT_DISCARD;
	if (parser_take_word(parser, "all"))
	{
		statement->all = true;
		statement->name = "DISCARD ALL";
	}
	else if (parser_take_word(parser, "plans"))
		statement->name = "DISCARD PLANS";
	else if (parser_take_word(parser, "sequences"))
		statement->name = "DISCARD SEQUENCES";
	else if (parser_take_word(parser, "temp") || parser_take_word(parser, "temporary"))
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
	if (parser_take_word(parser, "all"))
	{
		statement->all = true;
		return true;
	}
	return parser_take_name(parser, &statement->name);
}

/* CLOSE: a portal, or all. */
static bool
parse_close(Parser *parser, Statement *statement)
{
	return parse_all_or_name(parser, statement, STATEMENT_CLOSE);
}

/* DEALLOCATE: a prepared statement, or all. */
static bool
parse_deallocate(Parser *parser, Statement *statement)
{
	(void) parser_take_word(parser, "prepare");
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
		if (!parser_at_word(parser, statements[i].word))
			continue;
		parser_advance(parser);
		return statements[i].parse(parser, statement) && parser_at_end(parser);
	}
	if (parser->token.kind != TOKEN_BROKEN)
		parser_refuse(parser, statement, capitals(parser));
	return parser_at_end(parser);
}

/*
 * Make a list of the statements in the text, none for an empty one.  False if that is
 * no SQL, or the list takes more than most bytes, and then the list says why.  Either
 * way the list is to be freed; it refers to nothing outside of itself.
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
	parser_advance(&parser);
	for (;;)
	{
		Statement  *statement;

		while (parser_take_symbol(&parser, ';'))
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

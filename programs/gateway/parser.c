/*-------------------------------------------------------------------------
 *
 * parser.c
 *	  See parser.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/parser.h"

#include <stdio.h>
#include <string.h>

/* Go on to the next token. */
void
parser_advance(Parser *parser)
{
	lexer_next(&parser->lexer, &parser->token);
	if (parser->list->arena.bytes <= parser->most)
		return;
	parser->full = true;
	parser->token.kind = TOKEN_BROKEN;
}

/* Is the next token this word, which is in lower case? */
bool
parser_at_word(const Parser *parser, const char *word)
{
	return parser->token.kind == TOKEN_NAME && !parser->token.quoted &&
		strcmp(parser->token.text, word) == 0;
}

/* Take the word, if it is next. */
bool
parser_take_word(Parser *parser, const char *word)
{
	if (!parser_at_word(parser, word))
		return false;
	parser_advance(parser);
	return true;
}

/* Is the next token this character? */
bool
parser_at_symbol(const Parser *parser, char symbol)
{
	return parser->token.kind == TOKEN_SYMBOL && parser->token.symbol == symbol;
}

/* Take the character, if it is next. */
bool
parser_take_symbol(Parser *parser, char symbol)
{
	if (!parser_at_symbol(parser, symbol))
		return false;
	parser_advance(parser);
	return true;
}

/* Is the next token behind the statement? */
bool
parser_at_end(const Parser *parser)
{
	return parser->token.kind == TOKEN_END || parser_at_symbol(parser, ';');
}

/*
 * Take a name, cut to the length that names have, into *name.  What was cut is
 * noted in the list.
 */
bool
parser_take_name(Parser *parser, const char **name)
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
	parser_advance(parser);
	return true;
}

/* Take a string into *value. */
bool
parser_take_string(Parser *parser, const char **value)
{
	if (parser->token.kind != TOKEN_STRING)
		return false;
	*value = parser->token.text;
	parser_advance(parser);
	return true;
}

/*
 * The rest of the statement is not understood, whatever it is, and so nothing of it is:
 * what its tokens have taken is freed.
 */
void
parser_refuse(Parser *parser, Statement *statement, const char *name)
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
	while (!parser_at_end(parser) && parser->token.kind != TOKEN_BROKEN)
	{
		parser_advance(parser);
		arena_rewind(arena, mark);
	}
}

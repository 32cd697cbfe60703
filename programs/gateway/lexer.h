/*-------------------------------------------------------------------------
 *
 * lexer.h
 *	  SQL text as tokens, by PostgreSQL's rules.
 *
 * The text is UTF-8, or in an encoding none of whose characters hold an ASCII
 * byte but ASCII's own.  It needs no zero byte at its end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LEXER_H
#define GATEWAY_LEXER_H

#include <stdbool.h>
#include <stddef.h>

#include "common/memory.h"

/* The longest name, in bytes. */
#define NAME_BYTES 63

typedef enum TokenKind
{
	TOKEN_END,
	TOKEN_NAME,
	TOKEN_STRING,
	TOKEN_NUMBER,
	TOKEN_PARAMETER,			/* $1; number is set */
	TOKEN_CAST,					/* :: */
	TOKEN_SYMBOL,				/* any other character; symbol is set */
	TOKEN_FOREIGN,				/* legal, but nothing that is understood */
	TOKEN_BROKEN				/* no SQL; lexer's message tells why */
} TokenKind;

typedef struct Token
{
	TokenKind	kind;
	size_t		begin;			/* offsets in the text */
	size_t		end;
	const char *text;			/* a name folded, a string's value */
	size_t		length;			/* of text */
	bool		quoted;			/* a name in double quotes */
	char symbol;
	int			number;
} Token;

typedef struct Lexer
{
	const char *text;
	size_t		length;
	size_t		at;
	bool		standard_strings;	/* '\' is nothing special in '...' */
	Arena	   *arena;			/* where values go */
	const char *message;		/* set with TOKEN_BROKEN */
	const char *sqlstate;
	const char *hint;			/* or NULL */
	bool		message_is_whole;	/* it does not say near what */
} Lexer;

extern void lexer_next(Lexer *lexer, Token *token);
extern size_t utf8_character(const char *text, size_t length);
extern size_t utf8_invalid(const char *text, size_t length);
extern size_t utf8_clip(const char *text, size_t length, size_t limit);

#endif

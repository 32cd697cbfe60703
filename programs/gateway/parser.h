/*-------------------------------------------------------------------------
 *
 * parser.h
 *	  The tokens of a text, for statement.c and statement_select.c, which make
 *	  statements of them.
 *
 * A function that takes something returns whether that was next; if it was not, the
 * parser stands where it stood.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_PARSER_H
#define GATEWAY_PARSER_H

#include "gateway/statement.h"

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

/* parser.c */
extern void parser_advance(Parser *parser);
extern bool parser_at_word(const Parser *parser, const char *word);
extern bool parser_take_word(Parser *parser, const char *word);
extern bool parser_at_symbol(const Parser *parser, char symbol);
extern bool parser_take_symbol(Parser *parser, char symbol);
extern bool parser_at_end(const Parser *parser);
extern bool parser_take_name(Parser *parser, const char **name);
extern bool parser_take_string(Parser *parser, const char **value);
extern void parser_refuse(Parser *parser, Statement *statement, const char *name);

/* statement_select.c */
extern bool parse_select(Parser *parser, Statement *statement);

#endif

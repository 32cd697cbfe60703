/*-------------------------------------------------------------------------
 *
 * lexer.c
 *	  See lexer.h.
 *
 * The rules are those of PostgreSQL's scan.l: names are folded to lower case
 * unless quoted, comments nest, '' in a string is a quote, strings that are
 * apart by a line break are one, E'' has escapes, and $tag$ quotes.  Bit
 * strings, and strings and names with U&, are legal there and are no part of
 * what is understood here: they become TOKEN_FOREIGN.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/lexer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"

/* Where a string's value is put together, before it goes to the arena. */
static Bytes scratch;

/* Is it white space? */
static bool
is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Is it a digit? */
static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* May a name begin with it? */
static bool
is_name_start(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
		(unsigned char) c >= 0x80;
}

/* May a name have it behind its first letter? */
static bool
is_name(char c)
{
	return is_name_start(c) || is_digit(c) || c == '$';
}

/* The byte at that distance from where the lexer is; zero behind the end. */
static char
peek(const Lexer *lexer, size_t distance)
{
	if (lexer->length - lexer->at <= distance)
		return '\0';
	return lexer->text[lexer->at + distance];
}

/*
 * How many bytes the UTF-8 character at text takes; 0 if it is none, or not
 * whole.  length is not 0.
 */
size_t
utf8_character(const char *text, size_t length)
{
	const unsigned char *raw = (const unsigned char *) text;
	size_t		size;

	if (raw[0] < 0x80)
		return 1;
	if (raw[0] >= 0xC2 && raw[0] <= 0xDF)
		size = 2;
	else if (raw[0] >= 0xE0 && raw[0] <= 0xEF)
		size = 3;
	else if (raw[0] >= 0xF0 && raw[0] <= 0xF4)
		size = 4;
	else
		return 0;
	if (length < size)
		return 0;
	for (size_t i = 1; i < size; i++)
	{
		if ((raw[i] & 0xC0) != 0x80)
			return 0;
	}

	/* Forms that are too long, surrogates, and what is above U+10FFFF. */
	if ((raw[0] == 0xE0 && raw[1] < 0xA0) || (raw[0] == 0xED && raw[1] > 0x9F) ||
		(raw[0] == 0xF0 && raw[1] < 0x90) || (raw[0] == 0xF4 && raw[1] > 0x8F))
		return 0;
	return size;
}

/* The offset of the first byte that is no UTF-8; length if all is. */
size_t
utf8_invalid(const char *text, size_t length)
{
	size_t		at = 0;

	while (at < length)
	{
		size_t		size = utf8_character(text + at, length - at);

		if (size == 0)
			break;
		at += size;
	}
	return at;
}

/* How many bytes of the text are whole characters within limit bytes. */
size_t
utf8_clip(const char *text, size_t length, size_t limit)
{
	if (length <= limit)
		return length;
	while (limit > 0 && ((unsigned char) text[limit] & 0xC0) == 0x80)
		limit--;
	return limit;
}

/* The text from here on is no SQL. */
static void
broken(Lexer *lexer, Token *token, const char *sqlstate, const char *message)
{
	token->kind = TOKEN_BROKEN;
	token->end = lexer->at;
	lexer->at = lexer->length;
	lexer->message = message;
	lexer->sqlstate = sqlstate;
}

/*
 * Go behind white space and comments; false if a comment does not end, at whose
 * beginning the lexer is then.  Sets
 * *newline, which may be NULL, if there was a line break among them.
 */
static bool
skip_space(Lexer *lexer, bool *newline)
{
	for (;;)
	{
		char		c = peek(lexer, 0);

		if (lexer->at < lexer->length && is_space(c))
		{
			if (newline != NULL && (c == '\n' || c == '\r'))
				*newline = true;
			lexer->at++;
		}
		else if (c == '-' && peek(lexer, 1) == '-')
		{
			while (lexer->at < lexer->length && peek(lexer, 0) != '\n' &&
				   peek(lexer, 0) != '\r')
				lexer->at++;
		}
		else if (c == '/' && peek(lexer, 1) == '*')
		{
			size_t		begin = lexer->at;
			int			depth = 0;

			do
			{
				if (lexer->at >= lexer->length)
				{
					lexer->at = begin;
					return false;
				}
				if (peek(lexer, 0) == '/' && peek(lexer, 1) == '*')
				{
					depth++;
					lexer->at += 2;
				}
				else if (peek(lexer, 0) == '*' && peek(lexer, 1) == '/')
				{
					depth--;
					lexer->at += 2;
				}
				else
					lexer->at++;
			} while (depth > 0);
		}
		else
			return true;
	}
}

/* Append the code point to what is at out, as UTF-8; returns its new end. */
static char *
put_utf8(char *out, uint32_t code)
{
	if (code < 0x80)
		*out++ = code;
	else if (code < 0x800)
	{
		*out++ = 0xC0 | code >> 6;
		*out++ = 0x80 | (code & 0x3F);
	}
	else if (code < 0x10000)
	{
		*out++ = 0xE0 | code >> 12;
		*out++ = 0x80 | (code >> 6 & 0x3F);
		*out++ = 0x80 | (code & 0x3F);
	}
	else
	{
		*out++ = 0xF0 | code >> 18;
		*out++ = 0x80 | (code >> 12 & 0x3F);
		*out++ = 0x80 | (code >> 6 & 0x3F);
		*out++ = 0x80 | (code & 0x3F);
	}
	return out;
}

/* Read up to max digits of that base; their value, and how many there were. */
static uint32_t
read_digits(Lexer *lexer, int base, int max, int *count)
{
	uint32_t	value = 0;

	for (*count = 0; *count < max; (*count)++)
	{
		char		c = peek(lexer, 0);
		int			digit;

		if (is_digit(c))
			digit = c - '0';
		else if (c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			digit = c - 'A' + 10;
		else
			break;
		if (digit >= base)
			break;
		value = value * base + digit;
		lexer->at++;
	}
	return value;
}

/*
 * Read what follows a backslash in a string, and append it to out, which has
 * room.  Returns the new end, or NULL if it is no escape.
 */
static char *
read_escape(Lexer *lexer, char *out)
{
	char		c = peek(lexer, 0);
	uint32_t	value;
	int			count;

	if (c >= '0' && c <= '7')
	{
		value = read_digits(lexer, 8, 3, &count);
		*out = value & 0xFF;
		return *out == '\0' ? NULL : out + 1;
	}
	lexer->at++;
	switch (c)
	{
		case 'b':
			c = '\b';
			break;
		case 'f':
			c = '\f';
			break;
		case 'n':
			c = '\n';
			break;
		case 'r':
			c = '\r';
			break;
		case 't':
			c = '\t';
			break;
		case 'x':
			value = read_digits(lexer, 16, 2, &count);
			if (count == 0)
				break;
			*out = value;
			return value == 0 ? NULL : out + 1;
		case 'u':
		case 'U':
			value = read_digits(lexer, 16, c == 'u' ? 4 : 8, &count);
			if (count != (c == 'u' ? 4 : 8) || value == 0 ||
				value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
				return NULL;
			return put_utf8(out, value);
	}
	*out = c;
	return out + 1;
}

/* Room for a value that has at most as many bytes as the rest of the text. */
static char *
scratch_for(const Lexer *lexer)
{
	scratch.begin = scratch.end = 0;
	return bytes_reserve(&scratch, lexer->length - lexer->at + 1);
}

/* Read a string whose opening quote is next. */
static void
read_string(Lexer *lexer, Token *token, bool escapes)
{
	char	   *value = scratch_for(lexer);
	char	   *out = value;

	token->kind = TOKEN_STRING;
	lexer->at++;
	for (;;)
	{
		char		c = peek(lexer, 0);

		if (lexer->at >= lexer->length)
		{
			broken(lexer, token, "42601", "unterminated quoted string");
			return;
		}
		lexer->at++;
		if (c == '\'' && peek(lexer, 0) == '\'')
		{
			*out++ = '\'';
			lexer->at++;
		}
		else if (c == '\'')
		{
			Lexer		ahead = *lexer;
			bool		newline = false;

			/* 'a' and on another line 'b' are one string. */
			if (!skip_space(&ahead, &newline) || !newline ||
				peek(&ahead, 0) != '\'')
				break;
			lexer->at = ahead.at + 1;
		}
		else if (c == '\\' && escapes)
		{
			if (lexer->at < lexer->length)
				out = read_escape(lexer, out);
			if (out == NULL)
			{
				broken(lexer, token, "22025", "invalid escape in string");
				return;
			}
		}
		else
			*out++ = c;
	}
	token->length = out - value;
	token->text = arena_copy(lexer->arena, value, token->length);
}

/*
 * Read a $tag$ string, if one begins here, else return false and read nothing.
 */
static bool
read_dollar_string(Lexer *lexer, Token *token)
{
	size_t		tag = 1;
	const char *begin;

	if (is_name_start(peek(lexer, tag)))
	{
		while (is_name(peek(lexer, tag)) && peek(lexer, tag) != '$')
			tag++;
	}
	if (peek(lexer, tag) != '$')
		return false;
	tag++;
	begin = lexer->text + lexer->at;
	lexer->at += tag;
	while (lexer->length - lexer->at >= tag)
	{
		if (memcmp(lexer->text + lexer->at, begin, tag) == 0)
		{
			token->kind = TOKEN_STRING;
			token->length = lexer->text + lexer->at - begin - tag;
			token->text = arena_copy(lexer->arena, begin + tag, token->length);
			lexer->at += tag;
			return true;
		}
		lexer->at++;
	}
	lexer->at = lexer->length;
	broken(lexer, token, "42601", "unterminated dollar-quoted string");
	return true;
}

/* Read a name in double quotes. */
static void
read_quoted_name(Lexer *lexer, Token *token)
{
	char	   *value = scratch_for(lexer);
	char	   *out = value;

	token->kind = TOKEN_NAME;
	token->quoted = true;
	lexer->at++;
	for (;;)
	{
		char		c = peek(lexer, 0);

		if (lexer->at >= lexer->length)
		{
			broken(lexer, token, "42601", "unterminated quoted identifier");
			return;
		}
		lexer->at++;
		if (c == '"')
		{
			if (peek(lexer, 0) != '"')
				break;
			lexer->at++;
		}
		*out++ = c;
	}
	token->length = out - value;
	token->text = arena_copy(lexer->arena, value, token->length);
	if (token->length == 0)
		broken(lexer, token, "42601", "zero-length delimited identifier");
}

/* Read a name, and fold its ASCII letters. */
static void
read_name(Lexer *lexer, Token *token)
{
	size_t		length = 0;
	char	   *value;

	while (is_name(peek(lexer, length)))
		length++;
	value = arena_copy(lexer->arena, lexer->text + lexer->at, length);
	for (size_t i = 0; i < length; i++)
	{
		if (value[i] >= 'A' && value[i] <= 'Z')
			value[i] += 'a' - 'A';
	}
	token->kind = TOKEN_NAME;
	token->text = value;
	token->length = length;
	lexer->at += length;
}

/* Read a number: digits, perhaps with a fraction and an exponent. */
static void
read_number(Lexer *lexer, Token *token)
{
	size_t		begin = lexer->at;

	while (is_digit(peek(lexer, 0)) || peek(lexer, 0) == '.')
		lexer->at++;
	if ((peek(lexer, 0) == 'e' || peek(lexer, 0) == 'E') &&
		(is_digit(peek(lexer, 1)) ||
		 ((peek(lexer, 1) == '-' || peek(lexer, 1) == '+') &&
		  is_digit(peek(lexer, 2)))))
	{
		lexer->at += 2;
		while (is_digit(peek(lexer, 0)))
			lexer->at++;
	}
	token->kind = TOKEN_NUMBER;
	token->length = lexer->at - begin;
	token->text = arena_copy(lexer->arena, lexer->text + begin, token->length);
}

/* Read $ and a number. */
static void
read_parameter(Lexer *lexer, Token *token)
{
	int			count;
	size_t		begin = ++lexer->at;

	token->kind = TOKEN_PARAMETER;
	token->number = read_digits(lexer, 10, 6, &count);
	if (is_digit(peek(lexer, 0)) || lexer->at == begin)
		token->kind = TOKEN_FOREIGN;
}

/* Does a string or a name with a prefix begin here that is not understood? */
static bool
is_foreign_literal(const Lexer *lexer)
{
	char		c = peek(lexer, 0) | 0x20;
	char		next = peek(lexer, 1);

	if (c == 'u' && next == '&')
		return peek(lexer, 2) == '\'' || peek(lexer, 2) == '"';
	return (c == 'b' || c == 'x') && next == '\'';
}

/* The next token of the text; TOKEN_END comes again and again. */
void
lexer_next(Lexer *lexer, Token *token)
{
	char		c;

	memset(token, 0, sizeof(*token));
	token->text = "";
	token->begin = lexer->at;
	if (!skip_space(lexer, NULL))
	{
		token->begin = lexer->at;
		lexer->at = lexer->length;
		broken(lexer, token, "42601", "unterminated /* comment");
		return;
	}
	token->begin = lexer->at;
	c = peek(lexer, 0);
	if (lexer->at >= lexer->length)
		token->kind = TOKEN_END;
	else if (is_foreign_literal(lexer))
	{
		/* What it is called is read as a string or a name behind it. */
		token->kind = TOKEN_FOREIGN;
		lexer->at += (c | 0x20) == 'u' ? 2 : 1;
	}
	else if (c == '\'')
		read_string(lexer, token, !lexer->standard_strings);
	else if ((c == 'e' || c == 'E' || c == 'n' || c == 'N') &&
			 peek(lexer, 1) == '\'')
	{
		lexer->at++;
		read_string(lexer, token, (c | 0x20) == 'e' ||
					!lexer->standard_strings);
	}
	else if (c == '"')
		read_quoted_name(lexer, token);
	else if (is_name_start(c))
		read_name(lexer, token);
	else if (is_digit(c) || (c == '.' && is_digit(peek(lexer, 1))))
		read_number(lexer, token);
	else if (c == '$' && is_digit(peek(lexer, 1)))
		read_parameter(lexer, token);
	else if (c == '$' && read_dollar_string(lexer, token))
		;
	else if (c == ':' && peek(lexer, 1) == ':')
	{
		token->kind = TOKEN_CAST;
		lexer->at += 2;
	}
	else
	{
		token->kind = TOKEN_SYMBOL;
		token->symbol = c;
		lexer->at++;
	}
	if (token->kind != TOKEN_BROKEN)
		token->end = lexer->at;
}

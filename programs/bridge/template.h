/*-------------------------------------------------------------------------
 *
 * template.h
 *	  Where a message goes: a text with names in braces, such as
 *	  "db.{table}.{op}".
 *
 * "{{" and "}}" stand for a brace.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_TEMPLATE_H
#define BRIDGE_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bytes.h"

typedef enum TemplateName
{
	TEMPLATE_CHANNEL,
	TEMPLATE_SCHEMA,
	TEMPLATE_TABLE,
	TEMPLATE_OP,
	TEMPLATE_KEY,
	TEMPLATE_NAMES
} TemplateName;

typedef struct TemplatePart
{
	TemplateName name;			/* TEMPLATE_NAMES: the text */
	char	   *text;
} TemplatePart;

typedef struct Template
{
	TemplatePart *parts;
	int			count;
} Template;

extern bool template_parse(Template *template, const char *text, char *error,
						   size_t error_size);
extern void template_expand(const Template *template,
							const char *const *values, Bytes *result);
extern void template_free(Template *template);

#endif

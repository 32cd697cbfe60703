/*-------------------------------------------------------------------------
 *
 * template.c
 *	  See template.h.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

static const char *const names[TEMPLATE_NAMES] =
{"channel", "schema", "table", "op", "key"};

/* Add a part: the name, or the text if that is TEMPLATE_NAMES. */
static void
add_part(Template *template, TemplateName name, const char *text, size_t length)
{
	TemplatePart *part;

	if (name == TEMPLATE_NAMES && length == 0)
		return;
	template->parts = memory_resize(template->parts,
									(template->count + 1) * sizeof(TemplatePart));
	part = &template->parts[template->count++];
	part->name = name;
	part->text = name == TEMPLATE_NAMES ? memory_copy_bytes(text, length) : NULL;
}

/* Which name is it?  TEMPLATE_NAMES: none. */
static TemplateName
find_name(const char *text, size_t length)
{
	TemplateName name = 0;

	while (name < TEMPLATE_NAMES && !(strlen(names[name]) == length &&
									  memcmp(names[name], text, length) == 0))
		name++;
	return name;
}

/*
 * Make a template, which was zeroed, of the text.  False, with the error written,
 * if a name is none or a brace is alone; the template is to be freed all the same.
 */
bool
template_parse(Template *template, const char *text, char *error, size_t error_size)
{
	const char *at = text;

	while (*at != '\0')
	{
		size_t		length = strcspn(at, "{}");
		TemplateName name;

		add_part(template, TEMPLATE_NAMES, at, length);
		at += length;
		if (*at == '\0')
			break;
		if (at[1] == at[0])
		{
			add_part(template, TEMPLATE_NAMES, at, 1);
			at += 2;
			continue;
		}
		length = *at == '{' ? strcspn(at + 1, "{}") : 0;
		if (*at == '}' || at[1 + length] != '}')
		{
			snprintf(error, error_size, "a brace stands alone in template \"%s\"", text);
			return false;
		}
		name = find_name(at + 1, length);
		if (name == TEMPLATE_NAMES)
		{
			snprintf(error, error_size, "unknown name \"{%.*s}\" in template \"%s\"; there are {channel}, {schema}, {table}, {op} and {key}",
					 (int) length, at + 1, text);
			return false;
		}
		add_part(template, name, NULL, 0);
		at += length + 2;
	}
	return true;
}

/* Append what the template is with these values, and a zero byte. */
void
template_expand(const Template *template, const char *const *values, Bytes *result)
{
	for (int i = 0; i < template->count; i++)
	{
		const TemplatePart *part = &template->parts[i];
		const char *text = part->name == TEMPLATE_NAMES ? part->text : values[part->name];

		bytes_append(result, text, strlen(text));
	}
	bytes_append_byte(result, '\0');
}

/* Free what template_parse() has made. */
void
template_free(Template *template)
{
	for (int i = 0; i < template->count; i++)
		free(template->parts[i].text);
	free(template->parts);
	memset(template, 0, sizeof(*template));
}

/*-------------------------------------------------------------------------
 *
 * options.c
 *	  See options.h.
 *
 *-------------------------------------------------------------------------
 */
#include "common/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/* The option of that name, or NULL. */
static Option *
find_option(Option *options, int count, const char *name, size_t length)
{
	for (int i = 0; i < count; i++)
	{
		if (strlen(options[i].name) == length &&
			strncmp(options[i].name, name, length) == 0)
			return &options[i];
	}
	return NULL;
}

/* Give the option that value; false, with an error, if it is none for it. */
static bool
set_option(Option *option, const char *value, char *error, int error_size)
{
	int64_t		number;
	char	   *end;

	switch (option->kind)
	{
		case OPTION_TEXT:
			free(*(char **) option->target);
			*(char **) option->target = memory_copy_string(value);
			return true;
		case OPTION_NUMBER:
			errno = 0;
			number = strtoll(value, &end, 10);
			if (errno != 0 || end == value || *end != '\0' ||
				number < option->least || number > option->most)
			{
				snprintf(error, error_size,
						 "option %s takes a number from %" PRId64 " to %" PRId64
						 ", not \"%s\"", option->name, option->least,
						 option->most, value);
				return false;
			}
			*(int64_t *) option->target = number;
			return true;
		case OPTION_FLAG:
			if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
			{
				snprintf(error, error_size, "option %s is on or off, not \"%s\"",
						 option->name, value);
				return false;
			}
			*(bool *) option->target = strcmp(value, "on") == 0;
			return true;
	}
	return false;
}

/*
 * Read the options of a command line: "--name value", "--name=value", and
 * "--name" for a flag.  False, with an error, for anything else.
 */
bool
options_read_arguments(Option *options, int count, int argc, char **argv,
					   char *error, int error_size)
{
	for (int i = 1; i < argc; i++)
	{
		const char *name = argv[i] + 2;
		size_t		length;
		const char *value;
		Option	   *option;

		if (strncmp(argv[i], "--", 2) != 0)
		{
			snprintf(error, error_size, "unexpected argument \"%s\"", argv[i]);
			return false;
		}
		length = strcspn(name, "=");
		option = find_option(options, count, name, length);
		if (option == NULL)
		{
			snprintf(error, error_size, "unknown option \"%s\"", argv[i]);
			return false;
		}
		if (name[length] == '=')
			value = name + length + 1;
		else if (option->kind == OPTION_FLAG)
			value = "on";
		else if (i + 1 < argc)
			value = argv[++i];
		else
		{
			snprintf(error, error_size, "option %s needs a value", option->name);
			return false;
		}
		if (!set_option(option, value, error, error_size))
			return false;
		option->given = true;
	}
	return true;
}

/* Cut white space off both ends of the string, in place. */
static char *
trim(char *string)
{
	size_t		length;

	while (isspace((unsigned char) *string))
		string++;
	length = strlen(string);
	while (length > 0 && isspace((unsigned char) string[length - 1]))
		string[--length] = '\0';
	return string;
}

/*
 * Read the options of a file; those that were given on the command line stay.
 * False, with an error that names the line, if something is wrong with it.
 */
bool
options_read_file(Option *options, int count, const char *path, char *error,
				  int error_size)
{
	FILE	   *file = fopen(path, "r");
	char		line[4096];
	char		problem[512];
	bool		good = true;

	if (file == NULL)
	{
		snprintf(error, error_size, "could not open file \"%s\": %s", path,
				 strerror(errno));
		return false;
	}
	for (int number = 1; good && fgets(line, sizeof(line), file) != NULL; number++)
	{
		char	   *name = trim(line);
		char	   *equals = strchr(name, '=');
		Option	   *option;

		if (*name == '\0' || *name == '#')
			continue;
		if (equals == NULL)
		{
			snprintf(error, error_size, "%s, line %d: expected name = value",
					 path, number);
			good = false;
			break;
		}
		*equals = '\0';
		name = trim(name);
		option = find_option(options, count, name, strlen(name));
		if (option == NULL)
		{
			snprintf(error, error_size, "%s, line %d: unknown option \"%s\"",
					 path, number, name);
			good = false;
		}
		else if (!option->given &&
				 !set_option(option, trim(equals + 1), problem, sizeof(problem)))
		{
			snprintf(error, error_size, "%s, line %d: %s", path, number, problem);
			good = false;
		}
	}
	fclose(file);
	return good;
}

/* Print what the options mean, with the defaults of those that have one. */
void
options_print(const Option *options, int count)
{
	for (int i = 0; i < count; i++)
	{
		const Option *option = &options[i];
		char		name[64];

		snprintf(name, sizeof(name), "--%s%s%s", option->name,
				 option->value_name != NULL ? " " : "",
				 option->value_name != NULL ? option->value_name : "");
		printf("  %-26s %s", name, option->help);
		if (option->kind == OPTION_NUMBER && *(int64_t *) option->target != 0)
			printf(" (%" PRId64 ")", *(int64_t *) option->target);
		printf("\n");
	}
}

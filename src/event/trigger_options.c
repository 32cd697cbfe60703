/*-------------------------------------------------------------------------
 *
 * trigger_options.c
 *	  The options of a change trigger, which attach() writes as the trigger's
 *	  arguments and notify_change() reads.
 *
 * Each argument is 'name=value'.  Options are kept there, and not in a table,
 * so that pg_dump carries them and \d shows them:
 *
 *	channel=text		any text of 1 to 63 bytes
 *	columns=a,"B c"		a list of names, quoted as SQL quotes them
 *	watch=a,"B c"		another
 *	old_values=none | key | changed | full
 *	format=plain | debezium | cloudevents
 *	publish_mode=transactional | async
 *
 * An option that is not given has the default that it has in attach(), and
 * attach() does not write an option that has its default.  The arguments of a
 * trigger that somebody made by hand are checked as those of attach() are.
 *
 *-------------------------------------------------------------------------
 */
#include "event/change_event.h"

#include "access/htup_details.h"
#include "catalog/pg_trigger.h"
#include "lib/stringinfo.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/varlena.h"

/* The words of each option; a word's index is its value in the enum. */
static const char *const old_values_words[] = {"none", "key", "changed", "full"};
static const char *const format_words[] = {"plain", "debezium", "cloudevents"};
static const char *const publish_mode_words[] = {"transactional", "async"};

/*
 * The index of value among the words that the option knows.  Raises 22023, with
 * the words in the hint, if it is none of them.
 */
int
parse_word(const char *option, const char *value,
		   const char *const *words, int nwords)
{
	StringInfoData list;

	for (int i = 0; i < nwords; i++)
		if (strcmp(value, words[i]) == 0)
			return i;

	initStringInfo(&list);
	for (int i = 0; i < nwords; i++)
		appendStringInfo(&list, "%s%s", i == 0 ? "" :
						 i == nwords - 1 ? " or " : ", ", words[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized %s: \"%s\"", option, value),
			 errhint("Give %s.", list.data)));
}

/* The value of option old_values; raises 22023. */
OldValues
parse_old_values(const char *value)
{
	return parse_word("old_values", value, old_values_words,
					  lengthof(old_values_words));
}

/* The value of option format; raises 22023. */
EventFormat
parse_event_format(const char *value)
{
	return parse_word("format", value, format_words, lengthof(format_words));
}

/* The value of option publish_mode, a PublishMode; raises 22023. */
int
parse_publish_mode(const char *value)
{
	return parse_word("publish_mode", value, publish_mode_words,
					  lengthof(publish_mode_words));
}

/*
 * Raise an error unless a trigger may publish on a channel of this name:
 * 22023 if the name is empty, too long or contains the wildcard, 42939 if it
 * is reserved.
 */
void
check_channel_name(const char *name)
{
	(void) pgpubsub_check_channel_name(name, ERROR);
	if (strchr(name, PGPUBSUB_WILDCARD) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("channel name \"%s\" contains \"%c\"",
						name, PGPUBSUB_WILDCARD),
				 errdetail("In a subscription that character stands for any run of characters, so no subscription could name this channel alone."),
				 errhint("Give a name without it.")));
}

/* Parse a list of column names; raises 22023 if it is malformed or empty. */
static List *
parse_name_list(const char *option, const char *value)
{
	List	   *names;

	if (!SplitIdentifierString(pstrdup(value), ',', &names) || names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list of columns: \"%s\"", value),
				 errdetail("It is the value of the trigger argument \"%s\".",
						   option),
				 errhint("Give column names with commas between them, quoted as in SQL.")));
	return names;
}

/* Set every option to its default. */
void
trigger_options_init(TriggerOptions *options)
{
	memset(options, 0, sizeof(TriggerOptions));
	options->old_values = OLD_VALUES_CHANGED;
	options->format = EVENT_PLAIN;
	options->publish_mode = PUBLISH_MODE_SETTING;
}

/* Where the value begins if the argument is "name=value", else NULL. */
static const char *
argument_value(const char *arg, const char *name)
{
	size_t		len = strlen(name);

	return strncmp(arg, name, len) == 0 && arg[len] == '=' ?
		arg + len + 1 : NULL;
}

/* Set the option that one argument gives; raises 22023 or 42939. */
static void
parse_argument(TriggerOptions *options, const char *arg)
{
	const char *value;

	if ((value = argument_value(arg, "channel")) != NULL)
	{
		check_channel_name(value);
		options->channel = pstrdup(value);
	}
	else if ((value = argument_value(arg, "columns")) != NULL)
		options->columns = parse_name_list("columns", value);
	else if ((value = argument_value(arg, "watch")) != NULL)
		options->watch = parse_name_list("watch", value);
	else if ((value = argument_value(arg, "old_values")) != NULL)
		options->old_values = parse_old_values(value);
	else if ((value = argument_value(arg, "format")) != NULL)
		options->format = parse_event_format(value);
	else if ((value = argument_value(arg, "publish_mode")) != NULL)
		options->publish_mode = parse_publish_mode(value);
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown argument of a pgpubsub trigger: \"%s\"", arg),
				 errhint("Arguments are 'name=value'; the names are channel, columns, watch, old_values, format and publish_mode.")));
}

/*
 * Read the arguments of a trigger.  What *options points to is allocated in the
 * current context.  Raises 22023 or 42939 for an argument that makes no sense.
 */
void
trigger_options_parse(TriggerOptions *options, int nargs, char **args)
{
	trigger_options_init(options);
	for (int i = 0; i < nargs; i++)
		parse_argument(options, args[i]);
}

/* The value of the argument of that name, NULL if it is not given. */
const char *
trigger_options_find(int nargs, char **args, const char *name)
{
	const char *value = NULL;

	/* the last one counts, as it does in trigger_options_parse() */
	while (nargs > 0 && value == NULL)
		value = argument_value(args[--nargs], name);
	return value;
}

/*
 * The name, quoted if SQL needs that.  The session's quote_all_identifiers does
 * not matter, because the result is compared to what other sessions wrote.
 */
const char *
quote_if_needed(const char *name)
{
	bool		quote_all = quote_all_identifiers;
	const char *quoted;

	quote_all_identifiers = false;
	quoted = quote_identifier(name);
	quote_all_identifiers = quote_all;
	return quoted;
}

/* Append "option=value" to a list of arguments. */
static List *
add_argument(List *args, const char *option, const char *value)
{
	return lappend(args, makeString(psprintf("%s=%s", option, value)));
}

/* Append "option=a,b" to a list of arguments, unless there are no names. */
static List *
add_name_list(List *args, const char *option, const List *names)
{
	StringInfoData value;
	ListCell   *lc;

	if (names == NIL)
		return args;
	initStringInfo(&value);
	foreach(lc, names)
		appendStringInfo(&value, "%s%s", lc == list_head(names) ? "" : ",",
						 quote_if_needed(lfirst(lc)));
	return add_argument(args, option, value.data);
}

/* What trigger_options_parse() reads these options from: String nodes. */
List *
trigger_options_arguments(const TriggerOptions *options)
{
	List	   *args = NIL;

	if (options->channel)
		args = add_argument(args, "channel", options->channel);
	args = add_name_list(args, "columns", options->columns);
	args = add_name_list(args, "watch", options->watch);
	if (options->old_values != OLD_VALUES_CHANGED)
		args = add_argument(args, "old_values",
							old_values_words[options->old_values]);
	if (options->format != EVENT_PLAIN)
		args = add_argument(args, "format", format_words[options->format]);
	if (options->publish_mode != PUBLISH_MODE_SETTING)
		args = add_argument(args, "publish_mode",
							publish_mode_words[options->publish_mode]);
	return args;
}

/*
 * Split pg_trigger.tgargs into its *nargs strings, which end with zero bytes.
 */
char	  **
trigger_options_split(bytea *arguments, int *nargs)
{
	char	   *next = VARDATA_ANY(arguments);
	char	   *end = next + VARSIZE_ANY_EXHDR(arguments);
	char	  **args = palloc((VARSIZE_ANY_EXHDR(arguments) + 1) *
							  sizeof(char *));

	*nargs = 0;
	while (next < end)
	{
		Size		len = strnlen(next, end - next);

		args[(*nargs)++] = pnstrdup(next, len);
		next += len + 1;
	}
	return args;
}

/* The arguments of a trigger, from its tuple in the catalog pg_trigger. */
char	  **
trigger_options_of(Relation catalog, HeapTuple tuple, int *nargs)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, Anum_pg_trigger_tgargs,
									 RelationGetDescr(catalog), &isnull);

	*nargs = 0;
	return isnull ? NULL :
		trigger_options_split(DatumGetByteaPP(value), nargs);
}

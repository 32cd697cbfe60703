/*-------------------------------------------------------------------------
 *
 * attachments_view.c
 *	  What the view attachments shows of a trigger: its options and condition.
 *
 * Anybody may call these functions, with any arguments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "event/change_event.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/varlena.h"

PG_FUNCTION_INFO_V1(pgpubsub_trigger_options);
PG_FUNCTION_INFO_V1(pgpubsub_trigger_condition);

/*
 * Append a list of column names as a JSON array; false if value is malformed.
 */
static bool
append_name_array(StringInfo buf, const char *value)
{
	List	   *names;
	ListCell   *lc;

	if (!SplitIdentifierString(pstrdup(value), ',', &names))
		return false;
	appendStringInfoChar(buf, '[');
	foreach(lc, names)
	{
		const char *name = lfirst(lc);

		if (lc != list_head(names))
			appendStringInfoChar(buf, ',');
		json_append_string(buf, name, strlen(name));
	}
	appendStringInfoChar(buf, ']');
	return true;
}

/*
 * Append one trigger argument as a member of a JSON object; nothing if it is
 * not valid text, which jsonb_in() would refuse.
 */
static void
append_argument(StringInfo buf, const char *arg)
{
	const char *equals = strchr(arg, '=');
	Size		name_len = equals ? (Size) (equals - arg) : strlen(arg);
	bool		is_list = strncmp(arg, "columns=", 8) == 0 ||
		strncmp(arg, "watch=", 6) == 0;

	if (!pg_verifymbstr(arg, (int) strlen(arg), true))
		return;
	if (buf->len > 1)
		appendStringInfoChar(buf, ',');
	json_append_string(buf, arg, name_len);
	appendStringInfoChar(buf, ':');
	if (equals == NULL)
		appendStringInfoString(buf, "null");
	else if (!is_list || !append_name_array(buf, equals + 1))
		json_append_string(buf, equals + 1, strlen(equals + 1));
}

/*
 * pgpubsub.trigger_options(arguments bytea) RETURNS jsonb
 *
 * The arguments of a change trigger (pg_trigger.tgargs) as an object.  Raises
 * no error for arguments that make no sense: the view must show those too.
 */
Datum
pgpubsub_trigger_options(PG_FUNCTION_ARGS)
{
	StringInfoData buf;
	char	  **args;
	int			nargs;

	args = trigger_options_split(PG_GETARG_BYTEA_PP(0), &nargs);
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < nargs; i++)
		append_argument(&buf, args[i]);
	appendStringInfoChar(&buf, '}');
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

/* The closing quote of the quoted text that begins at p. */
static const char *
skip_quoted(const char *p)
{
	const char *end = strchr(p + 1, *p);

	/* a doubled quote within ends one such text and begins another */
	return end ? end : p + strlen(p) - 1;
}

/* What follows the first occurrence of text outside quotes; NULL if none. */
static const char *
find_unquoted(const char *p, const char *text)
{
	for (; *p; p++)
	{
		if (strncmp(p, text, strlen(text)) == 0)
			return p + strlen(text);
		if (*p == '"' || *p == '\'')
			p = skip_quoted(p);
	}
	return NULL;
}

/* The parenthesis that closes the one just before p, or the end. */
static const char *
find_closing(const char *p)
{
	int			depth = 1;

	for (; *p; p++)
	{
		if (*p == '"' || *p == '\'')
			p = skip_quoted(p);
		else if (*p == '(')
			depth++;
		else if (*p == ')' && --depth == 0)
			break;
	}
	return p;
}

/*
 * pgpubsub.trigger_condition(trigger oid) RETURNS text
 *
 * The trigger's condition as SQL; NULL if it has none, or does not exist.  It
 * is cut out of what pg_get_triggerdef() says, because core exports no
 * function that writes an expression over OLD and NEW.  Names in the
 * definition are quoted if they contain spaces or parentheses, so that they
 * are not mistaken for the WHEN or for the end of the condition.
 */
Datum
pgpubsub_trigger_condition(PG_FUNCTION_ARGS)
{
	LOCAL_FCINFO(call, 2);
	const char *begin;
	char	   *definition;
	Datum		result;

	InitFunctionCallInfoData(*call, NULL, 2, InvalidOid, NULL, NULL);
	call->args[0].value = PG_GETARG_DATUM(0);
	call->args[0].isnull = false;
	call->args[1].value = BoolGetDatum(true);	/* pretty */
	call->args[1].isnull = false;
	result = pg_get_triggerdef_ext(call);
	if (call->isnull)
		PG_RETURN_NULL();
	definition = TextDatumGetCString(result);
	begin = find_unquoted(definition, " FOR EACH ROW WHEN (");
	if (begin == NULL)
		begin = find_unquoted(definition, " FOR EACH STATEMENT WHEN (");
	if (begin == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(begin,
											  find_closing(begin) - begin));
}

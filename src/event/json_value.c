/*-------------------------------------------------------------------------
 *
 * json_value.c
 *	  One value of a table's column as JSON text.
 *
 * Values must come out exactly as row_to_json() writes them.  Servers before
 * 17 do not export the function that writes one value, and all servers look up
 * the type's functions for each value.  So this file decides once per type,
 * as json_categorize_type() does, and then writes values without look-ups:
 *
 * 1. Numbers, booleans, dates, texts and json are written here.
 * 2. Arrays and composites go through array_to_json() and row_to_json(), which
 *	  find all they need in the value itself.
 * 3. Types of users that have a cast to json go through the cast function, and
 *	  any other type through its output function, quoted.
 *
 * A domain is written as its base type.  The caller drops a JsonType when
 * pg_type, pg_proc or pg_cast change, or one of the relations in row_types:
 * what it has looked up may be wrong then.
 *
 * A timestamptz is written in UTC.  The texts of some other types depend on
 * settings of the session.  For a type with follows_session, the caller writes
 * within event_settings_run(), which gives these settings fixed values.
 *
 *-------------------------------------------------------------------------
 */
#include "event/event_internal.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varbit.h"

/*
 * The last timestamptz that was written, and its text.  Most rows of one
 * transaction have the value of now() there, and breaking it down takes long.
 */
typedef struct KeptTime
{
	TimestampTz value;
	int			len;			/* bytes of text; 0: none yet */
	char		text[MAXDATELEN + 3];	/* quoted */
} KeptTime;

/* Bytes of an array before its elements, without the bitmap of nulls. */
#define ARRAY_HEADER_MAX	ARR_OVERHEAD_NONULLS(MAXDIM)

/* Look up the output function of typid; what that allocates is in context. */
static void
use_output_function(JsonType *type, Oid typid, MemoryContext context)
{
	Oid			function;
	bool		is_varlena;

	getTypeOutputInfo(typid, &function, &is_varlena);
	fmgr_info_cxt(function, &type->function, context);
}

/*
 * The type's cast function to json; InvalidOid if it has none.  Only users'
 * types are asked for one, as row_to_json() does.
 */
static Oid
find_json_cast(Oid typid)
{
	Oid			cast;

	return typid >= FirstNormalObjectId &&
		find_coercion_pathway(JSONOID, typid, COERCION_EXPLICIT,
							  &cast) == COERCION_PATH_FUNC ? cast : InvalidOid;
}

/* May the function run SQL?  One in C without SET clauses is trusted not to. */
static bool
may_run_sql(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	bool		result = true;

	if (!HeapTupleIsValid(tuple))
		return result;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (form->prolang == INTERNALlanguageId || form->prolang == ClanguageId)
		result = form->prosecdef ||
			!heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL);
	ReleaseSysCache(tuple);
	return result;
}

/* May the text of a type that is no array and no row depend on settings? */
static bool
text_follows_session(Oid typid, Oid output)
{
	switch (typid)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case DATEOID:
		case TIMESTAMPOID:
		case JSONOID:
		case JSONBOID:
		case UUIDOID:
			return false;
		default:
			return output != F_TEXTOUT && output != F_VARCHAROUT &&
				output != F_BPCHAROUT && output != F_ENUM_OUT;
	}
}

static void note_traits(JsonType *type, Oid typid);

/*
 * Do what note_traits() does for each column of a row type, and remember the
 * row type's relation: it may get other columns at any time.
 */
static void
note_row_traits(JsonType *type, Oid typid)
{
	Oid			relation = get_typ_typrelid(typid);
	TupleDesc	tupdesc;

	if (!OidIsValid(relation))
	{
		/* what a record has in it is known with its value only */
		type->follows_session = type->runs_sql = true;
		return;
	}
	if (list_member_oid(type->row_types, relation))
		return;
	type->row_types = lappend_oid(type->row_types, relation);
	tupdesc = lookup_rowtype_tupdesc(typid, -1);
	for (int i = 0; i < tupdesc->natts; i++)
		if (!TupleDescAttr(tupdesc, i)->attisdropped)
			note_traits(type, TupleDescAttr(tupdesc, i)->atttypid);
	ReleaseTupleDesc(tupdesc);
}

/*
 * Set type->follows_session if the text of typid may depend on the session's
 * settings, and type->runs_sql if SQL may run when it is written.
 */
static void
note_traits(JsonType *type, Oid typid)
{
	Oid			element;
	Oid			function;
	bool		is_varlena;

	check_stack_depth();
	typid = getBaseType(typid);
	element = get_element_type(typid);
	if (OidIsValid(element))
	{
		note_traits(type, element);
		return;
	}
	if (type_is_rowtype(typid))
	{
		note_row_traits(type, typid);
		return;
	}
	function = find_json_cast(typid);
	if (OidIsValid(function))
		type->follows_session = true;
	else
	{
		getTypeOutputInfo(typid, &function, &is_varlena);
		type->follows_session |= text_follows_session(typid, function);
	}
	if (typid >= FirstNormalObjectId && may_run_sql(function))
		type->follows_session = type->runs_sql = true;
}

/* Decide for a type that has no kind of its own. */
static void
json_type_init_other(JsonType *type, Oid typid, MemoryContext context)
{
	Oid			cast;

	if (OidIsValid(get_element_type(typid)) || typid == ANYARRAYOID ||
		typid == ANYCOMPATIBLEARRAYOID || typid == RECORDARRAYOID)
	{
		type->kind = JSON_KIND_ARRAY;
		type->size_tells = typid == TEXTARRAYOID ||
			typid == VARCHARARRAYOID || typid == BPCHARARRAYOID ||
			typid == BYTEAARRAYOID;
		type->runs_user_code = true;	/* its elements may */
	}
	else if (type_is_rowtype(typid))
	{
		type->kind = JSON_KIND_COMPOSITE;
		type->runs_user_code = true;
	}
	else if (OidIsValid(cast = find_json_cast(typid)))
	{
		type->kind = JSON_KIND_CAST;
		fmgr_info_cxt(cast, &type->function, context);
	}
	else
	{
		type->kind = JSON_KIND_OTHER;
		use_output_function(type, typid, context);
		/* citext, for one, is text under another name */
		type->size_tells = typid == BYTEAOID || typid == BITOID ||
			typid == VARBITOID || type->function.fn_addr == textout;
	}
}

/*
 * Decide how values of the type are written.  What *type points to is allocated
 * in context, which must live as long as *type.  Raises what catalog look-ups
 * raise.
 */
void
json_type_init(JsonType *type, Oid typid, MemoryContext context)
{
	MemoryContext caller;

	memset(type, 0, sizeof(JsonType));
	type->base = typid = getBaseType(typid);
	type->runs_user_code = typid >= FirstNormalObjectId;
	caller = MemoryContextSwitchTo(context);
	note_traits(type, typid);
	MemoryContextSwitchTo(caller);

	switch (typid)
	{
		case BOOLOID:
			type->kind = JSON_KIND_BOOL;
			break;
		case INT2OID:
			type->kind = JSON_KIND_INT2;
			break;
		case INT4OID:
			type->kind = JSON_KIND_INT4;
			break;
		case INT8OID:
			type->kind = JSON_KIND_INT8;
			break;
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			type->kind = JSON_KIND_NUMBER;
			use_output_function(type, typid, context);
			break;
		case DATEOID:
		case TIMESTAMPOID:
			type->kind = JSON_KIND_DATETIME;
			break;
		case TIMESTAMPTZOID:
			type->kind = JSON_KIND_TIMESTAMPTZ;
			type->follows_session = false;
			type->kept = MemoryContextAllocZero(context, sizeof(KeptTime));
			break;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			type->kind = JSON_KIND_TEXT;
			type->size_tells = true;
			break;
		case JSONOID:
			type->kind = JSON_KIND_JSON;
			type->size_tells = true;
			break;
		case JSONBOID:
			type->kind = JSON_KIND_JSONB;
			type->size_tells = true;
			use_output_function(type, typid, context);
			break;
		default:
			json_type_init_other(type, typid, context);
			break;
	}
}

/*
 * The least number of bytes that json_append_value() will append, as far as the
 * size of the value tells; else 0.  The value is neither fetched nor
 * decompressed for this, so that no text of hundreds of megabytes is made only
 * to be found too long; beyond 1 GB it could not even be made.
 */
Size
json_least_length(const JsonType *type, Datum value)
{
	Size		size;

	/* short values are not worth a look; a toast pointer also looks short */
	if (!type->size_tells ||
		(VARATT_IS_SHORT(DatumGetPointer(value)) &&
		 !VARATT_IS_EXTERNAL(DatumGetPointer(value))))
		return 0;
	size = toast_raw_datum_size(value) - VARHDRSZ;
	switch (type->base)
	{
		case JSONOID:
			return size;
		case JSONBOID:
			/* at worst a number, "1, ", which takes 4 bytes and 8 */
			return size / 4 - Min(size / 4, 4);
		case TEXTARRAYOID:
		case VARCHARARRAYOID:
		case BPCHARARRAYOID:
		case BYTEAARRAYOID:
			/* at worst "", with a comma, which takes 4 bytes and padding */
			return size / 2 - Min(size / 2, ARRAY_HEADER_MAX / 2);
		case BYTEAOID:
			return 2 * size + 5;	/* "\\x.." */
		case BITOID:
		case VARBITOID:
			/* a digit for each bit, of which the last byte has one or more */
			if (size <= VARBITHDRSZ)
				return 2;
			return (size - VARBITHDRSZ - 1) * BITS_PER_BYTE + 3;
		default:
			return size + 2;
	}
}

/* Append one character that cannot stand for itself in a JSON string. */
static void
append_escaped_char(StringInfo buf, unsigned char c)
{
	static const char letters['\\' + 1] = {
		['\b'] = 'b',['\f'] = 'f',['\n'] = 'n',['\r'] = 'r',['\t'] = 't',
		['"'] = '"',['\\'] = '\\'
	};
	const char	escape[2] = {'\\', letters[c]};

	if (letters[c])
		appendBinaryStringInfo(buf, escape, 2);
	else
		appendStringInfo(buf, "\\u%04x", (int) c);
}

/*
 * Append len bytes of text in the database encoding as a JSON string, with
 * its quotes, exactly as escape_json() does.  Runs of ordinary characters are
 * copied at once.  Bytes can be looked at one by one, since server encodings
 * have no bytes below 0x80 within a multibyte character.  Raises 54000 when the
 * buffer would exceed 1 GB.
 */
void
json_append_string(StringInfo buf, const char *str, Size len)
{
	const char *end = str + len;
	const char *run = str;

	enlargeStringInfo(buf, (int) len + 2);
	appendStringInfoCharMacro(buf, '"');
	for (; str < end; str++)
	{
		unsigned char c = (unsigned char) *str;

		if (likely(c >= ' ' && c != '"' && c != '\\'))
			continue;
		appendBinaryStringInfo(buf, run, str - run);
		append_escaped_char(buf, c);
		run = str + 1;
	}
	appendBinaryStringInfo(buf, run, end - run);
	appendStringInfoCharMacro(buf, '"');
}

/* Append an unsigned number in decimal digits. */
void
json_append_uint64(StringInfo buf, uint64 number)
{
	char		digits[32];

	appendBinaryStringInfo(buf, digits, pg_ulltoa_n(number, digits));
}

/* Append a signed number in decimal digits. */
static void
append_int64(StringInfo buf, int64 number)
{
	char		digits[MAXINT8LEN + 1];

	appendBinaryStringInfo(buf, digits, pg_lltoa(number, digits));
}

/*
 * Write a date or time as ISO 8601, in UTC and quoted, into text, which has
 * room for MAXDATELEN + 3 bytes.  Returns the text's length.
 */
static int
encode_datetime(char *text, Datum value, Oid typid)
{
	const int	utc = 0;
	int			len;

	text[0] = '"';
	JsonEncodeDateTime(text + 1, value, typid, &utc);
	len = strlen(text);
	text[len++] = '"';
	return len;
}

/* Append a date or a timestamp without time zone. */
static void
append_datetime(StringInfo buf, Datum value, Oid typid)
{
	char		text[MAXDATELEN + 3];

	appendBinaryStringInfo(buf, text, encode_datetime(text, value, typid));
}

/* Append a timestamptz: the kept text if the last one had this value. */
static void
append_timestamptz(StringInfo buf, KeptTime *kept, Datum value)
{
	if (kept->len == 0 || kept->value != DatumGetTimestampTz(value))
	{
		/* if encoding fails, the text is not to be used */
		kept->len = 0;
		kept->value = DatumGetTimestampTz(value);
		kept->len = encode_datetime(kept->text, value, TIMESTAMPTZOID);
	}
	appendBinaryStringInfo(buf, kept->text, kept->len);
}

/* Append the output of a numeric or float: quoted if NaN or an infinity. */
static void
append_number(StringInfo buf, JsonType *type, Datum value)
{
	char	   *number = OutputFunctionCall(&type->function, value);

	if (isdigit((unsigned char) number[0]) ||
		(number[0] == '-' && isdigit((unsigned char) number[1])))
		appendStringInfoString(buf, number);
	else
		json_append_string(buf, number, strlen(number));
}

/* Append text: as a JSON string if quote, else unchanged, as it is JSON. */
static void
append_text(StringInfo buf, Datum value, bool quote)
{
	text	   *txt = DatumGetTextPP(value);

	if (quote)
		json_append_string(buf, VARDATA_ANY(txt), VARSIZE_ANY_EXHDR(txt));
	else
		appendBinaryStringInfo(buf, VARDATA_ANY(txt), VARSIZE_ANY_EXHDR(txt));
}

/*
 * Append a value, which is not null, as JSON.  Scratch memory is left in the
 * current context, which the caller resets.  Raises what the type's functions
 * raise, and 54000 for text beyond 1 GB.
 */
void
json_append_value(StringInfo buf, JsonType *type, Datum value)
{
	char	   *text;

	switch (type->kind)
	{
		case JSON_KIND_BOOL:
			if (DatumGetBool(value))
				appendBinaryStringInfo(buf, "true", 4);
			else
				appendBinaryStringInfo(buf, "false", 5);
			break;
		case JSON_KIND_INT2:
			append_int64(buf, DatumGetInt16(value));
			break;
		case JSON_KIND_INT4:
			append_int64(buf, DatumGetInt32(value));
			break;
		case JSON_KIND_INT8:
			append_int64(buf, DatumGetInt64(value));
			break;
		case JSON_KIND_NUMBER:
			append_number(buf, type, value);
			break;
		case JSON_KIND_DATETIME:
			append_datetime(buf, value, type->base);
			break;
		case JSON_KIND_TIMESTAMPTZ:
			append_timestamptz(buf, type->kept, value);
			break;
		case JSON_KIND_TEXT:
			append_text(buf, value, true);
			break;
		case JSON_KIND_JSON:
			append_text(buf, value, false);
			break;
		case JSON_KIND_JSONB:
			appendStringInfoString(buf,
								   OutputFunctionCall(&type->function, value));
			break;
		case JSON_KIND_ARRAY:
			append_text(buf, DirectFunctionCall1(array_to_json, value), false);
			break;
		case JSON_KIND_COMPOSITE:
			append_text(buf, DirectFunctionCall1(row_to_json, value), false);
			break;
		case JSON_KIND_CAST:
			append_text(buf, FunctionCall1(&type->function, value), false);
			break;
		case JSON_KIND_OTHER:
			text = OutputFunctionCall(&type->function, value);
			json_append_string(buf, text, strlen(text));
			break;
	}
}

/*-------------------------------------------------------------------------
 *
 * view_rows.c
 *	  A row of a view, and the names in it.
 *
 * Shared memory has the names of all databases' channels and subscriptions,
 * each in the encoding of its own database.  In another one they may be no text
 * at all, on which the whole query fails.  So each character is converted,
 * directly or by way of UTF8, and one that cannot be, or of which nobody knows
 * what it is, as in SQL_ASCII, is shown as "?".
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

/* Room for one character in any encoding, however it is converted. */
#define CHARACTER_ROOM	(MAX_CONVERSION_GROWTH * MAX_MULTIBYTE_CHAR_LEN + 1)

/* Stands for a character that cannot be shown. */
#define SUBSTITUTE		"?"

/* Set the row's next column. */
void
view_add(ViewRow *row, Datum value)
{
	row->nulls[row->column] = false;
	row->values[row->column++] = value;
}

/* Set the row's next column to a number. */
void
view_add_int64(ViewRow *row, uint64 value)
{
	view_add(row, Int64GetDatum((int64) value));
}

/* Set the row's next column to the value if it is present, else to null. */
void
view_add_if(ViewRow *row, bool present, Datum value)
{
	row->nulls[row->column] = !present;
	row->values[row->column++] = value;
}

/*
 * Set the row's next column to a name in that encoding, cut if in this
 * database's encoding it is longer than a name can be.
 */
void
view_add_name(ViewRow *row, const char *name, int encoding)
{
	const char *shown = shown_name(name, encoding);
	Name		result = palloc0(sizeof(NameData));

	memcpy(NameStr(*result), shown,
		   pg_mbcliplen(shown, (int) strlen(shown), NAMEDATALEN - 1));
	view_add(row, NameGetDatum(result));
}

/* Add the row to the SQL function's result, and begin the next one. */
void
view_put(FunctionCallInfo fcinfo, ViewRow *row)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(result->setResult, result->setDesc, row->values,
						 row->nulls);
	row->column = 0;
}

/* The next database, copied into the view; or NULL.  Takes the control lock. */
Database *
view_next_database(DatabaseView *view)
{
	while (pgpubsub_preloaded() && view->next < pgpubsub_max_databases)
	{
		Database   *database = &pgpubsub_control->databases[view->next++];

		LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
		view->oid = database->dropping ? InvalidOid : database->oid;
		view->relay_pid = database->relay.pid;
		view->relay_starts = database->relay.starts;
		LWLockRelease(pgpubsub_control->lock);
		if (OidIsValid(view->oid))
			return database;
	}
	return NULL;
}

/*
 * The encoding of names that come from the database: SHOWN_AS_IS if it is this
 * session's database, PG_SQL_ASCII if it is gone.  To be called in a
 * transaction.
 */
int
shown_name_encoding(Oid database)
{
	HeapTuple	tuple;
	int			encoding;

	if (database == MyDatabaseId)
		return SHOWN_AS_IS;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (!HeapTupleIsValid(tuple))
		return PG_SQL_ASCII;
	encoding = ((Form_pg_database) GETSTRUCT(tuple))->encoding;
	ReleaseSysCache(tuple);
	return encoding;
}

/*
 * Convert one character of len bytes to dest, which has CHARACTER_ROOM bytes,
 * and terminate it.  Returns false if it cannot be converted.
 */
static bool
convert_between(int from, int to, const char *character, int len, char *dest)
{
	Oid			function;

	if (from == to)
	{
		memcpy(dest, character, len);
		dest[len] = '\0';
		return true;
	}
	if (from == PG_SQL_ASCII || to == PG_SQL_ASCII)
		return false;
	function = FindDefaultConversionProc(from, to);
	return OidIsValid(function) &&
		pg_do_encoding_conversion_buf(function, from, to,
									  (unsigned char *) unconstify(char *, character),
									  len, (unsigned char *) dest,
									  CHARACTER_ROOM, true) == len;
}

/*
 * Convert one character of len bytes to this database's encoding, as
 * convert_between() does; by way of UTF8 if there is no other.
 */
static bool
convert_character(int from, const char *character, int len, char *dest)
{
	char		utf8[CHARACTER_ROOM];
	int			to = GetDatabaseEncoding();

	if (convert_between(from, to, character, len, dest))
		return true;
	return from != PG_UTF8 && to != PG_UTF8 &&
		convert_between(from, PG_UTF8, character, len, utf8) &&
		convert_between(PG_UTF8, to, utf8, (int) strlen(utf8), dest);
}

/* Has the name only characters that are the same in all encodings? */
static bool
is_ascii(const char *name)
{
	while (*name && !IS_HIGHBIT_SET(*name))
		name++;
	return *name == '\0';
}

/*
 * The name, which is in that encoding, as it can be shown in this database: the
 * name itself, or a copy in the current memory context.  Raises no error,
 * whatever bytes the name has.  To be called in a transaction, without an
 * LWLock, as catalogs are looked at.
 */
const char *
shown_name(const char *name, int encoding)
{
	char	   *result;
	char	   *end;

	if (encoding == SHOWN_AS_IS || is_ascii(name))
		return name;
	end = result = palloc(strlen(name) * CHARACTER_ROOM);
	while (*name)
	{
		int			len = IS_HIGHBIT_SET(*name) && encoding != PG_SQL_ASCII ?
			pg_encoding_verifymbchar(encoding, name, (int) strlen(name)) : 1;

		if (!IS_HIGHBIT_SET(*name) && len == 1)
		{
			*end++ = *name++;
			continue;
		}

		/* a byte that begins no character is replaced by itself */
		if (len < 1 || encoding == PG_SQL_ASCII ||
			!convert_character(encoding, name, len, end))
			strcpy(end, SUBSTITUTE);
		end += strlen(end);
		name += Max(len, 1);
	}
	*end = '\0';
	return result;
}

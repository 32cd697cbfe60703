/*-------------------------------------------------------------------------
 *
 * change_event.c
 *	  Rows of a table as JSON: what events say of them.
 *
 * A ChangeShape is made once per trigger and table: it has the columns with
 * their names as JSON and their types' functions, and the table's key.  From
 * then on a row is written without a look-up in any catalog, straight from
 * the slot's values, into the caller's buffer.  change_event_format.c puts
 * the envelope around it.
 *
 * 1. A row is written as row_to_json() writes it, but without the columns
 *	  that the trigger leaves out.
 * 2. Virtual generated columns (18) are left out, because the tuples that a
 *	  trigger gets do not have their values.  Stored ones are written.
 * 3. The key is the primary key, also a deferrable one, else the replica
 *	  identity index.  Key columns are shown in the index's order, whether or
 *	  not the trigger's columns include them.  An UPDATE that changes the key
 *	  shows the old key too, whatever else is shown of the old row.
 * 4. A column changed if its bytes did, after detoasting: 1.0 to 1.00 is a
 *	  change, though the two are equal.
 * 5. Text that gets longer than max_payload is left unfinished, and the
 *	  shape's too_large is set.  Who begins to write resets too_large.
 * 6. While a value is compared or written, shape->reading is its column, so
 *	  that change_error_context() can name it in an error that a type's
 *	  function raises.
 *
 * The caller must have deformed the rows (slot_getallattrs).  Scratch memory
 * is left in the current context, which the caller resets.
 *
 *-------------------------------------------------------------------------
 */
#include "event/event_internal.h"

#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "utils/datum.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* Is name in the list of char *? */
static bool
name_in_list(const List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp((const char *) lfirst(lc), name) == 0)
		return true;
	return false;
}

/* The table's primary key index, else its replica identity index, or none. */
static Oid
find_key_index(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	Oid			primary = InvalidOid;
	Oid			identity = InvalidOid;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID,
											ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisprimary)
			primary = index->indexrelid;
		else if (index->indisreplident &&
				 rel->rd_rel->relreplident == REPLICA_IDENTITY_INDEX)
			identity = index->indexrelid;
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	return OidIsValid(primary) ? primary : identity;
}

/* Find the shape's column for an attribute; -1 if it is not shown. */
static int
find_column(const ChangeShape *shape, AttrNumber attnum)
{
	for (int i = 0; i < shape->ncolumns; i++)
		if (shape->columns[i].index == attnum - 1)
			return i;
	return -1;
}

/* Set which columns the key has, none if the table has no key. */
static void
set_key(ChangeShape *shape, Relation rel)
{
	Oid			indexoid = find_key_index(rel);
	HeapTuple	tuple;
	Form_pg_index index;

	shape->nkeys = 0;
	if (!OidIsValid(indexoid))
		return;
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(indexoid));
	if (!HeapTupleIsValid(tuple))
		return;
	index = (Form_pg_index) GETSTRUCT(tuple);
	shape->keys = palloc(index->indnkeyatts * sizeof(int));
	for (int i = 0; i < index->indnkeyatts; i++)
	{
		int			column = find_column(shape, index->indkey.values[i]);

		if (column < 0)
			continue;
		shape->keys[shape->nkeys++] = column;
		shape->columns[column].in_key = true;
	}
	ReleaseSysCache(tuple);
}

/* Fill in a column of the shape; raises what looking up its type does. */
static void
set_column(ChangeColumn *column, Form_pg_attribute att,
		   const TriggerOptions *options)
{
	const char *name = NameStr(att->attname);
	StringInfoData label;

	column->name = pstrdup(name);
	column->index = att->attnum - 1;
	column->len = att->attlen;
	column->byval = att->attbyval;
	column->carried = options->columns == NIL ||
		name_in_list(options->columns, name);
	column->watched = name_in_list(options->watch, name);

	initStringInfo(&label);
	appendStringInfoChar(&label, ',');
	json_append_string(&label, name, strlen(name));
	appendStringInfoChar(&label, ':');
	column->label = label.data;
	column->label_len = label.len;
	json_type_init(&column->type, att->atttypid, CurrentMemoryContext);
}

/* Fill in the shape's columns from those of the table. */
static void
set_columns(ChangeShape *shape, TupleDesc tupdesc,
			const TriggerOptions *options)
{
	int			most = Max(tupdesc->natts, 1);

	shape->columns = palloc0(most * sizeof(ChangeColumn));
	shape->changed = palloc0(most * sizeof(bool));
	shape->type_hashes = palloc(most * sizeof(uint32));
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(tupdesc, i);
		ChangeColumn *column = &shape->columns[shape->ncolumns];

		if (att->attisdropped || PGPUBSUB_IS_VIRTUAL(att))
			continue;
		set_column(column, att, options);
		shape->runs_user_code |= column->type.runs_user_code;

		/* if no watched column is left, every UPDATE is an event */
		shape->watching |= column->watched;
		shape->type_hashes[shape->ncolumns++] =
			GetSysCacheHashValue1(TYPEOID, ObjectIdGetDatum(column->type.base));
	}
}

/* Sum up what the types of the columns need that are ever written. */
static void
set_traits(ChangeShape *shape)
{
	for (int i = 0; i < shape->ncolumns; i++)
	{
		const ChangeColumn *column = &shape->columns[i];

		if (!column->carried && !column->in_key)
			continue;
		shape->follows_session |= column->type.follows_session;
		shape->runs_sql |= column->type.runs_sql;
		shape->row_types = list_concat_unique_oid(shape->row_types,
												  column->type.row_types);
	}
}

/* Warn of names in the option's list that are no column of the table. */
static void
warn_unknown_columns(const List *names, const char *option,
					 const ChangeShape *shape, Relation rel)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = (const char *) lfirst(lc);
		bool		found = false;

		for (int i = 0; i < shape->ncolumns && !found; i++)
			found = strcmp(shape->columns[i].name, name) == 0;
		if (!found)
			ereport(WARNING,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table \"%s\" has no column \"%s\", which the option \"%s\" of its trigger names",
							RelationGetRelationName(rel), name, option),
					 errdetail("Events on channel \"%s\" leave it out of account.",
							   shape->channel),
					 errhint("Call pgpubsub.attach() again with the columns that the table has now.")));
	}
}

/*
 * Make the shape of a trigger's events on rel, in the current context.  The
 * caller has rel open and locked, and resets the context to free the shape.
 * Only warns of columns in the options that the table does not have: they may
 * have been renamed, and a write to the table must not fail for that.
 */
ChangeShape *
change_shape_create(Relation rel, const ChangeNames *names,
					const TriggerOptions *options)
{
	ChangeShape *shape = palloc0(sizeof(ChangeShape));

	shape->channel = pstrdup(names->channel);
	shape->schema = pstrdup(names->schema);
	shape->table = pstrdup(names->table);
	shape->partition = names->partition ? pstrdup(names->partition) : NULL;
	shape->old_values = options->old_values;
	shape->format = options->format;
	set_columns(shape, RelationGetDescr(rel), options);
	set_key(shape, rel);
	set_traits(shape);
	change_shape_format(shape, names);
	warn_unknown_columns(options->columns, "columns", shape, rel);
	warn_unknown_columns(options->watch, "watch", shape, rel);
	return shape;
}

/*
 * Are two values of the column the same bytes, once detoasted?  Two compressed
 * or out-of-line values whose stored forms are equal are not detoasted.
 */
static bool
same_value(const ChangeColumn *column, Datum a, Datum b)
{
	if (column->byval && column->len == sizeof(Datum))
		return a == b;
	if (column->len == -1)
	{
		Size		size = VARSIZE_ANY(DatumGetPointer(a));

		if (size == VARSIZE_ANY(DatumGetPointer(b)) &&
			memcmp(DatumGetPointer(a), DatumGetPointer(b), size) == 0)
			return true;
		/* two values that are neither compressed nor out of line differ */
		if (!VARATT_IS_EXTENDED(DatumGetPointer(a)) &&
			!VARATT_IS_EXTENDED(DatumGetPointer(b)))
			return false;
	}
	return datum_image_eq(a, b, column->byval, column->len);
}

/* Is the column null in both rows, or not null and the same bytes? */
static bool
same_column(const ChangeColumn *column, TupleTableSlot *a, TupleTableSlot *b)
{
	int			index = column->index;

	if (a->tts_isnull[index] || b->tts_isnull[index])
		return a->tts_isnull[index] == b->tts_isnull[index];
	return same_value(column, a->tts_values[index], b->tts_values[index]);
}

/*
 * Set, in the shape, which columns differ between the two rows of an UPDATE,
 * and whether the key does.  Returns false if the trigger watches columns and
 * none of them changed.  Raises what fetching a toasted value raises.
 */
bool
change_compare_rows(ChangeShape *shape, TupleTableSlot *old_row,
					TupleTableSlot *new_row)
{
	bool		wanted = !shape->watching;

	shape->key_changed = false;
	for (int i = 0; i < shape->ncolumns; i++)
	{
		const ChangeColumn *column = &shape->columns[i];
		bool		differs;

		if (!column->carried && !column->watched && !column->in_key)
			continue;
		shape->reading = column;
		differs = !same_column(column, old_row, new_row);
		shape->changed[i] = differs;
		shape->key_changed |= differs && column->in_key;
		wanted |= differs && column->watched;
	}
	shape->reading = NULL;
	return wanted;
}

/*
 * Append the label of a column and its value.  If the column is the first of
 * an object, the label's comma becomes the brace.  Sets shape->too_large if the
 * text gets longer than max_payload; does nothing once that is set.  Raises
 * what the type's functions raise.
 */
static void
append_column(StringInfo buf, ChangeShape *shape, ChangeColumn *column,
			  TupleTableSlot *row, bool first)
{
	int			start = buf->len;
	Datum		value = row->tts_values[column->index];

	if (shape->too_large)
		return;
	appendBinaryStringInfo(buf, column->label, column->label_len);
	if (first)
		buf->data[start] = '{';
	if (row->tts_isnull[column->index])
	{
		appendBinaryStringInfo(buf, "null", 4);
		return;
	}

	shape->reading = column;
	if (buf->len + json_least_length(&column->type, value) >
		shape->max_payload)
		shape->too_large = true;
	else
	{
		json_append_value(buf, &column->type, value);
		if (column->type.runs_sql)
			event_settings_renew();
	}
	shape->reading = NULL;
	if ((Size) buf->len > shape->max_payload)
		shape->too_large = true;
}

/* Which columns an object has, one or more of these. */
#define COLUMNS_CARRIED		0x01
#define COLUMNS_CHANGED		0x02	/* carried ones that changed */
#define COLUMNS_KEY			0x04

/* Append the row's columns that the set has, in the table's order. */
static void
append_object(StringInfo buf, ChangeShape *shape, TupleTableSlot *row,
			  int set)
{
	bool		first = true;

	for (int i = 0; i < shape->ncolumns; i++)
	{
		ChangeColumn *column = &shape->columns[i];
		int			carried = shape->changed[i] ?
			COLUMNS_CARRIED | COLUMNS_CHANGED : COLUMNS_CARRIED;

		if (!(column->carried && (set & carried)) &&
			!(column->in_key && (set & COLUMNS_KEY)))
			continue;
		append_column(buf, shape, column, row, first);
		first = false;
	}
	if (first)
		appendStringInfoChar(buf, '{');
	appendStringInfoChar(buf, '}');
}

/* Append the row's key, an object; the table must have a key. */
void
change_append_key(StringInfo buf, ChangeShape *shape, TupleTableSlot *row)
{
	for (int i = 0; i < shape->nkeys; i++)
		append_column(buf, shape, &shape->columns[shape->keys[i]], row,
					  i == 0);
	appendStringInfoChar(buf, '}');
}

/* Append the columns that the event shows of a new row, an object. */
void
change_append_new(StringInfo buf, ChangeShape *shape, TupleTableSlot *row)
{
	append_object(buf, shape, row, COLUMNS_CARRIED);
}

/* Does the event show anything of an old row?  row may be NULL. */
static bool
has_old(const ChangeShape *shape, TupleTableSlot *row)
{
	return row && shape->old_values != OLD_VALUES_NONE &&
		(shape->old_values != OLD_VALUES_KEY || shape->nkeys > 0);
}

/*
 * Is this an UPDATE that changed the key?  Either row may be NULL; if neither
 * is, change_compare_rows() must have been called with them.
 */
static bool
moved_key(const ChangeShape *shape, TupleTableSlot *old_row,
		  TupleTableSlot *new_row)
{
	return old_row && new_row && shape->key_changed;
}

/*
 * Append what the event shows of an old row, for which has_old() must hold.
 * Without a new row, all columns count as changed.
 */
static void
append_old(StringInfo buf, ChangeShape *shape, TupleTableSlot *old_row,
		   TupleTableSlot *new_row)
{
	if (shape->old_values == OLD_VALUES_KEY)
		change_append_key(buf, shape, old_row);
	else if (shape->old_values == OLD_VALUES_CHANGED && new_row)
		append_object(buf, shape, old_row, COLUMNS_CHANGED);
	else
		append_object(buf, shape, old_row, COLUMNS_CARRIED);
}

/*
 * Append "key" and, if the UPDATE changed the key, "old_key", each with a comma
 * before it.  Appends nothing if the table has no key, or there is no row.
 */
void
change_append_keys(StringInfo buf, ChangeShape *shape,
				   TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	TupleTableSlot *keyed = new_row ? new_row : old_row;

	if (shape->nkeys == 0 || keyed == NULL)
		return;
	appendBinaryStringInfo(buf, ",\"key\":", 7);
	change_append_key(buf, shape, keyed);
	if (moved_key(shape, old_row, new_row))
	{
		appendBinaryStringInfo(buf, ",\"old_key\":", 11);
		change_append_key(buf, shape, old_row);
	}
}

/*
 * Append the value of "before" in Debezium's envelope: what the event shows of
 * the old row, with its key if the UPDATE changed the key, or null.
 */
void
change_append_before(StringInfo buf, ChangeShape *shape,
					 TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	if (!moved_key(shape, old_row, new_row))
	{
		if (has_old(shape, old_row))
			append_old(buf, shape, old_row, new_row);
		else
			appendBinaryStringInfo(buf, "null", 4);
	}
	else if (shape->old_values == OLD_VALUES_CHANGED)
		append_object(buf, shape, old_row, COLUMNS_CHANGED | COLUMNS_KEY);
	else if (shape->old_values == OLD_VALUES_FULL)
		append_object(buf, shape, old_row, COLUMNS_CARRIED | COLUMNS_KEY);
	else
		change_append_key(buf, shape, old_row);
}

/* Append the names of the shown columns that changed, a JSON array. */
static void
append_changed(StringInfo buf, const ChangeShape *shape)
{
	char		opening = '[';

	for (int i = 0; i < shape->ncolumns; i++)
	{
		const ChangeColumn *column = &shape->columns[i];

		if (!column->carried || !shape->changed[i])
			continue;
		appendStringInfoChar(buf, opening);
		/* the label without its comma and colon */
		appendBinaryStringInfo(buf, column->label + 1, column->label_len - 2);
		opening = ',';
	}
	if (opening == '[')
		appendStringInfoChar(buf, '[');
	appendStringInfoChar(buf, ']');
}

/*
 * Append "key", "old_key", "new", "old" and "changed", as far as the operation
 * has them, each with a comma before it.  An UPDATE of which one row is not
 * known (NULL) has the other row whole, and no "changed".  If neither row is
 * NULL, change_compare_rows() must have been called with them.
 */
void
change_append_row(StringInfo buf, ChangeShape *shape,
				  TupleTableSlot *old_row, TupleTableSlot *new_row)
{
	change_append_keys(buf, shape, old_row, new_row);
	if (new_row)
	{
		appendBinaryStringInfo(buf, ",\"new\":", 7);
		change_append_new(buf, shape, new_row);
	}
	if (has_old(shape, old_row))
	{
		appendBinaryStringInfo(buf, ",\"old\":", 7);
		append_old(buf, shape, old_row, new_row);
	}
	if (old_row && new_row)
	{
		appendBinaryStringInfo(buf, ",\"changed\":", 11);
		append_changed(buf, shape);
	}
}

/*
 * Error context callback, arg a ChangeErrorContext: names the column whose
 * value is being compared or written, if there is one.
 */
void
change_error_context(void *arg)
{
	const ChangeErrorContext *context = arg;
	const ChangeShape *shape = context->shape;

	if (shape->reading == NULL)
		return;
	if (shape->partition)
		errcontext("change event of trigger \"%s\" on table \"%s.%s\", partition \"%s\", column \"%s\"",
				   context->trigger, shape->schema, shape->table,
				   shape->partition, shape->reading->name);
	else
		errcontext("change event of trigger \"%s\" on table \"%s.%s\", column \"%s\"",
				   context->trigger, shape->schema, shape->table,
				   shape->reading->name);
}

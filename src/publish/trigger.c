/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  notify_change(): a change of a row, or of a statement's rows, becomes an
 *	  event.
 *
 * The first call for a trigger parses its arguments and looks up its table.
 * The result, a TriggerState, is kept for the session.  Later calls cost one
 * hash look-up and no catalog access.  The rules:
 *
 * 1. A state belongs to a trigger's OID and its table's.  Invalidation
 *	  callbacks, which may run at any catalog access, only mark it invalid, and
 *	  the next call rebuilds it.  They look into a state only while it is valid:
 *	  an invalid one may be half built.
 * 2. Writing a value of a user's type may run any SQL, also SQL that fires the
 *	  trigger again.  A state that is being written from is "busy".  It is not
 *	  rebuilt, and a nested call makes a state for itself alone.  A state stops
 *	  being busy also when an error leaves the function.
 * 3. A trigger may have been cloned from a parent table's: PostgreSQL does so
 *	  for partitions, and trigger_clones.c knows who else does.  Its events name
 *	  the attached table, the one at the top of that line of clones.
 *
 * All that a state points to lives in the state's own memory context.  What a
 * call leaves behind is in the executor's context for the call, which is reset
 * for each row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "publish/publish_internal.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* So many states are added before invalid ones are removed. */
#define STALE_STATES_MAX 32

typedef struct TriggerKey
{
	Oid			trigger;
	Oid			relation;
} TriggerKey;

/* What this session knows of a trigger. */
typedef struct TriggerState
{
	TriggerKey	key;			/* hash key; must be first */
	bool		valid;
	bool		busy;			/* an event is being written; rule 2 */
	MemoryContext context;		/* NULL before the first build */
	List	   *ancestors;		/* OIDs of the tables looked at for rule 3 */
	ChangeShape *shape;
	PublishChannel channel;
	ChangeText	text;			/* the last event */
} TriggerState;

/* What this session knows of all triggers. */
typedef struct TriggerStates
{
	HTAB	   *table;			/* NULL before the first call */
	uint64		changes;		/* calls of the callbacks below; see
								 * rebuild_state() */
	int			purge_at;		/* invalid ones are removed when so many
								 * states are there */
} TriggerStates;

static TriggerStates states = {NULL, 0, STALE_STATES_MAX};

PG_FUNCTION_INFO_V1(pgpubsub_notify_change);

/* A table changed, or any table may have (InvalidOid). */
static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	TriggerState *state;

	states.changes++;
	hash_seq_init(&seq, states.table);
	while ((state = hash_seq_search(&seq)) != NULL)
		if (relid == InvalidOid || relid == state->key.relation ||
			(state->valid &&
			 (list_member_oid(state->ancestors, relid) ||
			  list_member_oid(state->shape->row_types, relid))))
			state->valid = false;
}

/*
 * The type with that hash value changed, or any type may have (0); or a
 * function or a cast did, which matters to users' types only.
 */
static void
type_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS seq;
	TriggerState *state;

	states.changes++;
	hash_seq_init(&seq, states.table);
	while ((state = hash_seq_search(&seq)) != NULL)
	{
		if (!state->valid)
			continue;
		if (cacheid != TYPEOID)
		{
			state->valid = !state->shape->runs_user_code;
			continue;
		}
		for (int i = 0; i < state->shape->ncolumns; i++)
			if (state->shape->type_hashes[i] == hashvalue)
				state->valid = false;
		if (hashvalue == 0)
			state->valid = false;
	}
}

/* A schema changed; perhaps it was renamed. */
static void
schema_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	relation_changed(arg, InvalidOid);
}

/* Make the table of states and register the callbacks that mark them. */
static void
create_trigger_states(void)
{
	HASHCTL		info;

	info.keysize = sizeof(TriggerKey);
	info.entrysize = sizeof(TriggerState);
	states.table = hash_create("pgpubsub triggers", 16, &info,
							   HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, type_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, type_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, type_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
}

/* Find the names that events on rel carry; attached is the attached table. */
static void
find_names(ChangeNames *names, Relation rel, Oid attached)
{
	Oid			namespace = get_rel_namespace(attached);

	names->schema = get_namespace_name(namespace);
	names->table = get_rel_name(attached);
	names->partition = NULL;
	if (names->schema == NULL || names->table == NULL)
	{
		/* it was just dropped: then rel's names are all there is */
		names->schema = get_namespace_name(RelationGetNamespace(rel));
		names->table = RelationGetRelationName(rel);
		return;
	}
	if (attached == RelationGetRelid(rel))
		return;
	if (namespace == RelationGetNamespace(rel))
		names->partition = RelationGetRelationName(rel);
	else
		names->partition =
			psprintf("%s.%s",
					 quote_if_needed(get_namespace_name(RelationGetNamespace(rel))),
					 quote_if_needed(RelationGetRelationName(rel)));
}

/* Raise 0A000 for a format that the trigger's level does not support. */
static void
check_level(const TriggerOptions *options, const Trigger *trigger)
{
	if (TRIGGER_FOR_ROW(trigger->tgtype) ||
		TRIGGER_FOR_TRUNCATE(trigger->tgtype))
		return;
	if (options->format == EVENT_DEBEZIUM)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a statement trigger cannot make events in format debezium"),
				 errdetail("Debezium's envelope has one row; an event for a statement has many."),
				 errhint("Use level row, or format plain or cloudevents.")));
}

/*
 * Fill in a state, in the current memory context.  Raises 22023, 42939 or 0A000
 * for the trigger's arguments.
 */
static void
fill_state(TriggerState *state, TriggerData *trigdata)
{
	Trigger    *trigger = trigdata->tg_trigger;
	Relation	rel = trigdata->tg_relation;
	TriggerOptions options;
	ChangeNames names;
	Oid			attached = trigger_clone_root(trigger, RelationGetRelid(rel),
											  &state->ancestors);

	trigger_options_parse(&options, trigger->tgnargs, trigger->tgargs);
	check_level(&options, trigger);
	find_names(&names, rel, attached);
	names.channel = options.channel ? options.channel : names.table;
	names.statement = !TRIGGER_FOR_ROW(trigger->tgtype);
	check_channel_name(names.channel);

	state->shape = change_shape_create(rel, &names, &options);
	publish_channel_init(&state->channel, names.channel);
	state->channel.mode = options.publish_mode;
	initStringInfo(&state->text.text);
	initStringInfo(&state->text.short_text);
}

/* Remove the invalid states: most are of triggers that were dropped. */
static void
remove_stale_states(void)
{
	HASH_SEQ_STATUS seq;
	TriggerState *state;

	hash_seq_init(&seq, states.table);
	while ((state = hash_seq_search(&seq)) != NULL)
	{
		if (state->valid || state->busy)
			continue;
		if (state->context)
			MemoryContextDelete(state->context);
		hash_search(states.table, &state->key, HASH_REMOVE, NULL);
	}
}

/* Find the trigger's state, or make one that is not valid yet. */
static TriggerState *
find_state(const TriggerKey *key)
{
	TriggerState *state;
	bool		found;

	state = hash_search(states.table, key, HASH_FIND, NULL);
	if (state)
		return state;
	if (hash_get_num_entries(states.table) >= states.purge_at)
	{
		remove_stale_states();
		states.purge_at = hash_get_num_entries(states.table) +
			STALE_STATES_MAX;
	}
	state = hash_search(states.table, key, HASH_ENTER, &found);
	state->valid = state->busy = false;
	state->context = NULL;
	return state;
}

/*
 * Build a state anew.  It stays invalid if an error is raised, or if a callback
 * was called while it was being built: it may be outdated already, and the next
 * call builds it again.
 */
static void
rebuild_state(TriggerState *state, TriggerData *trigdata)
{
	uint64		before = states.changes;
	MemoryContext caller;

	if (state->context == NULL)
		state->context = AllocSetContextCreate(CacheMemoryContext,
											   "pgpubsub trigger",
											   ALLOCSET_SMALL_SIZES);
	else
		MemoryContextReset(state->context);

	caller = MemoryContextSwitchTo(state->context);
	fill_state(state, trigdata);
	MemoryContextSwitchTo(caller);
	state->valid = (before == states.changes);
}

/*
 * The state for this call: the trigger's own, which is built if it is not
 * valid, or one for this call alone if the trigger's own is busy.
 */
static TriggerState *
get_state(TriggerData *trigdata)
{
	const TriggerKey key = {trigdata->tg_trigger->tgoid,
	RelationGetRelid(trigdata->tg_relation)};
	TriggerState *state;

	if (states.table == NULL)
		create_trigger_states();
	state = find_state(&key);
	if (state->busy)
	{
		state = palloc0(sizeof(TriggerState));
		state->key = key;
		fill_state(state, trigdata);
	}
	else if (!state->valid)
		rebuild_state(state, trigdata);
	return state;
}

/* Give the event its identity, write and publish it. */
static void
publish_change(TriggerState *state, ChangeEvent *event)
{
	ChangeText *text = &state->text;

	change_event_identify(event, publish_next_event_number());
	change_event_compose(event, text);
	publish_event(&state->channel, event->id, text->text.data,
				  text->text.len, text->native);
	if (text->truncated)
		publish_count_truncated(&state->channel);
}

/* Publish the change of one row, unless the trigger does not watch it. */
static void
publish_row(TriggerState *state, ChangeEvent *event, TriggerData *trigdata)
{
	slot_getallattrs(trigdata->tg_trigslot);
	if (event->op == CHANGE_INSERT)
		event->new_row = trigdata->tg_trigslot;
	else
		event->old_row = trigdata->tg_trigslot;
	if (event->op == CHANGE_UPDATE)
	{
		event->new_row = trigdata->tg_newslot;
		slot_getallattrs(event->new_row);
		if (!change_compare_rows(event->shape, event->old_row, event->new_row))
			return;
	}
	publish_change(state, event);
}

/* Publish the rows of one statement; raises 55000 without transition tables. */
static void
publish_statement(TriggerState *state, ChangeEvent *event,
				  TriggerData *trigdata)
{
	const Trigger *trigger = trigdata->tg_trigger;
	StatementRows *rows;

	if ((event->op != CHANGE_INSERT && trigger->tgoldtable == NULL) ||
		(event->op != CHANGE_DELETE && trigger->tgnewtable == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trigger \"%s\" has no transition tables",
						trigger->tgname),
				 errdetail("A statement trigger needs OLD TABLE for UPDATE and DELETE, NEW TABLE for INSERT and UPDATE."),
				 errhint("Add them with REFERENCING, or let pgpubsub.attach() create the trigger.")));
	rows = statement_rows_open(event, RelationGetDescr(trigdata->tg_relation),
							   trigdata->tg_oldtable, trigdata->tg_newtable);
	while (statement_rows_next(rows))
		publish_change(state, event);
	statement_rows_close(rows);
}

/* Publish the change that the trigger was fired for. */
static void
publish_trigger_event(TriggerState *state, TriggerData *trigdata)
{
	ChangeEvent event;
	ChangeErrorContext context = {trigdata->tg_trigger->tgname, state->shape};
	ErrorContextCallback callback = {error_context_stack, change_error_context,
	&context};

	memset(&event, 0, sizeof(event));
	event.shape = state->shape;
	event.shape->reading = NULL;	/* an error may have left it */
	event.op = TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) ? CHANGE_INSERT :
		TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? CHANGE_UPDATE :
		TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) ? CHANGE_DELETE :
		CHANGE_TRUNCATE;
	event.shape->max_payload = publish_max_payload();
	error_context_stack = &callback;
	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		publish_row(state, &event, trigdata);
	else if (event.op == CHANGE_TRUNCATE)
		publish_change(state, &event);
	else
		publish_statement(state, &event, trigdata);
	error_context_stack = callback.previous;
}

/* Do what publish_trigger_event() does while the state is busy: rule 2. */
static void
publish_guarded(TriggerState *state, TriggerData *trigdata)
{
	state->busy = true;
	PG_TRY();
	{
		publish_trigger_event(state, trigdata);
	}
	PG_CATCH();
	{
		/* a user's function may have left its FmgrInfo's cache half filled */
		state->valid = false;
		state->busy = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	state->busy = false;
}

/* The trigger's data; raises 39P01 if this is no call of an AFTER trigger. */
static TriggerData *
check_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function pgpubsub.notify_change() can only be called as a trigger"),
				 errhint("Let pgpubsub.attach() create the trigger.")));
	if (!TRIGGER_FIRED_AFTER(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must be an AFTER trigger",
						trigdata->tg_trigger->tgname),
				 errdetail("Only then is it certain what becomes of the row."),
				 errhint("Create it with AFTER, or let pgpubsub.attach() create it.")));
	return trigdata;
}

/*
 * pgpubsub.notify_change() RETURNS trigger
 *
 * Publishes an event for the row, or for the statement's rows, unless
 * pgpubsub.muted is on.  The trigger's arguments are described in
 * trigger_options.c.  Raises 39P01 when it is not called as an AFTER trigger,
 * 22023, 42939 or 0A000 for its arguments, 55000 without transition tables, and
 * what publish_event() raises.
 */
Datum
pgpubsub_notify_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = check_call(fcinfo);
	TriggerState *state;

	if (pgpubsub_muted)
		return PointerGetDatum(NULL);

	state = get_state(trigdata);
	if (state->shape->runs_user_code)
		publish_guarded(state, trigdata);
	else
		publish_trigger_event(state, trigdata);
	return PointerGetDatum(NULL);
}

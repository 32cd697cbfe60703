/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  notify_change(): a change of a row, or of a statement's rows, becomes an
 *	  event.
 *
 * The first call for a trigger parses its arguments and looks up its table;
 * the result, a TriggerState, is kept for the session.  Later calls cost one
 * hash look-up and no catalog access.  The rules:
 *
 * 1. A state belongs to a trigger's OID and its table's.  Invalidation
 *	  callbacks mark it stale; only the next call rebuilds it.  Only a state
 *	  that is valid may be looked into by a callback.
 * 2. A user's type may run any SQL when it is written, also SQL that fires
 *	  the same trigger.  A state that is being written from is "busy": it is
 *	  not rebuilt, and a nested call makes a state of its own for the while.
 *	  Busy is reset also when an error leaves the function.
 * 3. A trigger that was cloned from a parent's, by partitioning or by what
 *	  trigger_clones.c tells, reports the table at the top of that line of
 *	  clones: the one that was attached.
 *
 * Everything of a state lives in its own memory context.  What a call leaves
 * behind is in the executor's context for it, which is reset per row.
 *
 *-------------------------------------------------------------------------
 */
#include "base/pgpubsub.h"

#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "event/change_event.h"
#include "event/event_settings.h"
#include "event/statement_rows.h"
#include "event/trigger_options.h"
#include "fmgr.h"
#include "publish/publish.h"
#include "publish/trigger_clones.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* A buffer that grew beyond this, in bytes, is not kept for the next event. */
#define KEPT_BUFFER_SIZE (64 * 1024)

/* Dropped triggers' states are removed once there are this many. */
#define STALE_STATES_MAX 32

typedef struct TriggerKey
{
	Oid			trigger;
	Oid			relation;
} TriggerKey;

/* What a session knows of a trigger. */
typedef struct TriggerState
{
	TriggerKey	key;			/* hash key; must be first */
	bool		valid;
	bool		busy;			/* an event is being written; rule 2 */
	MemoryContext context;		/* NULL before the first build */
	List	   *ancestors;		/* tables that it was found by */
	ChangeShape *shape;
	uint32	   *type_hashes;	/* of the columns' types in the syscache */
	PublishChannel channel;
	StringInfoData text;		/* the event */
	StringInfoData short_text;	/* what native listeners get instead */
} TriggerState;

static HTAB *trigger_states = NULL;

/* How often a callback below was called; see rebuild_state(). */
static uint64 num_changes = 0;

PG_FUNCTION_INFO_V1(pgpubsub_notify_change);

/* ----------------------------------------------------------------------
 * Invalidation.  Callbacks only mark; they may run at any catalog access.
 * ----------------------------------------------------------------------
 */

/* A table changed, or all may have (InvalidOid). */
static void
relation_changed(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	TriggerState *state;

	num_changes++;
	hash_seq_init(&seq, trigger_states);
	while ((state = hash_seq_search(&seq)) != NULL)
		if (relid == InvalidOid || relid == state->key.relation ||
			(state->valid &&
			 (list_member_oid(state->ancestors, relid) ||
			  list_member_oid(state->shape->row_types, relid))))
			state->valid = false;
}

/* A type changed. */
static void
type_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS seq;
	TriggerState *state;

	num_changes++;
	hash_seq_init(&seq, trigger_states);
	while ((state = hash_seq_search(&seq)) != NULL)
	{
		if (hashvalue == 0)
			state->valid = false;
		for (int i = 0; state->valid && i < state->shape->ncolumns; i++)
			if (state->type_hashes[i] == hashvalue)
				state->valid = false;
	}
}

/* A function or a cast changed: only users' types depend on it. */
static void
function_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS seq;
	TriggerState *state;

	num_changes++;
	hash_seq_init(&seq, trigger_states);
	while ((state = hash_seq_search(&seq)) != NULL)
		if (state->valid && state->shape->runs_user_code)
			state->valid = false;
}

/* A schema changed, its name perhaps. */
static void
schema_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	relation_changed(arg, InvalidOid);
}

/* Make the table of states and have its entries marked from now on. */
static void
create_trigger_states(void)
{
	HASHCTL		info;

	info.keysize = sizeof(TriggerKey);
	info.entrysize = sizeof(TriggerState);
	trigger_states = hash_create("pgpubsub triggers", 16, &info,
								 HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, type_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, function_changed,
								  (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
}

/* ----------------------------------------------------------------------
 * Building a state
 * ----------------------------------------------------------------------
 */

/* Find the names that events on this table carry. */
static void
find_names(ChangeNames *names, Relation rel, Oid attached)
{
	Oid			namespace = get_rel_namespace(attached);

	names->schema = get_namespace_name(namespace);
	names->table = get_rel_name(attached);
	names->partition = NULL;
	if (names->schema == NULL || names->table == NULL)
	{
		/* dropped under us: then the leaf is all there is */
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

/* Raise 0A000 for options that the trigger's level does not have. */
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
 * Fill in a state, in the current memory context.  Raises what the trigger's
 * arguments deserve.
 */
static void
fill_state(TriggerState *state, TriggerData *trigdata)
{
	Trigger    *trigger = trigdata->tg_trigger;
	Relation	rel = trigdata->tg_relation;
	TriggerOptions options;
	ChangeNames names;
	Oid			attached;

	attached = trigger_clone_root(trigger, RelationGetRelid(rel),
								  &state->ancestors);
	trigger_options_parse(&options, trigger->tgnargs, trigger->tgargs);
	check_level(&options, trigger);
	find_names(&names, rel, attached);
	names.channel = options.channel ? options.channel : names.table;
	names.statement = !TRIGGER_FOR_ROW(trigger->tgtype);
	check_channel_name(names.channel);

	state->shape = change_shape_create(rel, &names, &options);
	state->type_hashes = palloc(Max(state->shape->ncolumns, 1) *
								sizeof(uint32));
	for (int i = 0; i < state->shape->ncolumns; i++)
		state->type_hashes[i] =
			GetSysCacheHashValue1(TYPEOID,
								  ObjectIdGetDatum(state->shape->columns[i].type.base));
	publish_channel_init(&state->channel, names.channel);
	state->channel.mode = options.publish_mode;
	initStringInfo(&state->text);
	initStringInfo(&state->short_text);
}

/* Remove the states of dropped and altered triggers. */
static void
remove_stale_states(void)
{
	HASH_SEQ_STATUS seq;
	TriggerState *state;

	hash_seq_init(&seq, trigger_states);
	while ((state = hash_seq_search(&seq)) != NULL)
	{
		if (state->valid || state->busy)
			continue;
		if (state->context)
			MemoryContextDelete(state->context);
		hash_search(trigger_states, &state->key, HASH_REMOVE, NULL);
	}
}

/* Find the trigger's entry, or make one that is not valid. */
static TriggerState *
find_state(const TriggerKey *key)
{
	static int	kept = STALE_STATES_MAX;
	TriggerState *state;
	bool		found;

	state = hash_search(trigger_states, key, HASH_FIND, NULL);
	if (state)
		return state;

	/* now and then, before there is one more */
	if (hash_get_num_entries(trigger_states) >= kept)
	{
		remove_stale_states();
		kept = hash_get_num_entries(trigger_states) + STALE_STATES_MAX;
	}
	state = hash_search(trigger_states, key, HASH_ENTER, &found);
	state->valid = state->busy = false;
	state->context = NULL;
	return state;
}

/*
 * Build a state anew.  It is left invalid by an error, and when anything
 * changed while it was being built: then the next call builds it again.
 */
static void
rebuild_state(TriggerState *state, TriggerData *trigdata)
{
	uint64		before = num_changes;
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
	state->valid = (before == num_changes);
}

/*
 * The state for this call: the trigger's own, built if need be, or one for
 * this call alone if that is busy.
 */
static TriggerState *
get_state(TriggerData *trigdata)
{
	TriggerKey	key;
	TriggerState *state;

	key.trigger = trigdata->tg_trigger->tgoid;
	key.relation = RelationGetRelid(trigdata->tg_relation);
	if (trigger_states == NULL)
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

/* ----------------------------------------------------------------------
 * Events
 * ----------------------------------------------------------------------
 */

/* Empty a buffer for the next event; give back what a large one took. */
static void
empty_buffer(StringInfo buf)
{
	if (buf->maxlen > KEPT_BUFFER_SIZE)
	{
		MemoryContext context = GetMemoryChunkContext(buf->data);
		MemoryContext caller = MemoryContextSwitchTo(context);

		pfree(buf->data);
		initStringInfo(buf);
		MemoryContextSwitchTo(caller);
	}
	else
		resetStringInfo(buf);
}

/* An event that is being written. */
typedef struct Writing
{
	TriggerState *state;
	ChangeEvent *event;
	const char *native;			/* what native listeners get, if another */
	bool		truncated;		/* it is too large for max_payload */
} Writing;

/*
 * Write the event without its body; without its key, too, if it exceeds
 * max_payload or so many bytes with it.
 */
static void
write_short_event(StringInfo buf, ChangeEvent *event, int max)
{
	empty_buffer(buf);
	if (change_event_write(buf, event, CHANGE_SHORT) && buf->len <= max)
		return;
	empty_buffer(buf);
	(void) change_event_write(buf, event, CHANGE_SHORTEST);
}

/*
 * Write the event, as much of it as can be published, and what native
 * listeners get instead if it is too long for them.  arg is a Writing.
 */
static void
write_event(void *arg)
{
	Writing    *writing = arg;
	TriggerState *state = writing->state;
	ChangeEvent *event = writing->event;

	empty_buffer(&state->text);
	writing->truncated = !change_event_write(&state->text, event,
											 CHANGE_WHOLE);
	if (writing->truncated)
		write_short_event(&state->text, event, INT_MAX);
	else if (event->short_rows)
		resetStringInfo(event->short_rows); /* it was not too large */
	if (state->text.len <= PGPUBSUB_NATIVE_MAX)
		return;
	write_short_event(&state->short_text, event, PGPUBSUB_NATIVE_MAX);
	writing->native = state->short_text.data;
}

/* Give the event its identity, write and publish it. */
static void
publish_change(ChangeEvent *event, void *arg)
{
	TriggerState *state = arg;
	Writing		writing = {state, event, NULL, false};

	change_event_identify(event, publish_next_event_number());
	/* a statement's rows are text already */
	if (event->shape->follows_session && event->rows == NULL)
		event_settings_run(event->shape->runs_sql, write_event, &writing);
	else
		write_event(&writing);
	publish_event(&state->channel, event->id, state->text.data,
				  state->text.len, writing.native);
	if (writing.truncated)
		publish_count_truncated(&state->channel);
}

/* The operation that fired the trigger. */
static ChangeOp
fired_by(const TriggerData *trigdata)
{
	if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		return CHANGE_INSERT;
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		return CHANGE_UPDATE;
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		return CHANGE_DELETE;
	return CHANGE_TRUNCATE;
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
	publish_change(event, state);
}

/* Publish the rows of one statement; 55000 without their tables. */
static void
publish_statement(TriggerState *state, ChangeEvent *event,
				  TriggerData *trigdata)
{
	const Trigger *trigger = trigdata->tg_trigger;

	if ((event->op != CHANGE_INSERT && trigger->tgoldtable == NULL) ||
		(event->op != CHANGE_DELETE && trigger->tgnewtable == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trigger \"%s\" has no transition tables",
						trigger->tgname),
				 errdetail("A statement trigger needs OLD TABLE for UPDATE and DELETE, NEW TABLE for INSERT and UPDATE."),
				 errhint("Add them with REFERENCING, or let pgpubsub.attach() create the trigger.")));
	transition_emit(event, RelationGetDescr(trigdata->tg_relation),
					trigdata->tg_oldtable, trigdata->tg_newtable,
					publish_change, state);
}

/* What an error's context says. */
typedef struct EventContext
{
	const char *trigger;
	const ChangeShape *shape;
} EventContext;

/* Name the column whose value is at hand, if an error is raised just then. */
static void
add_event_context(void *arg)
{
	const EventContext *context = arg;
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

/* Publish what the trigger was fired for. */
static void
publish_trigger_event(TriggerState *state, TriggerData *trigdata)
{
	ChangeEvent event;
	EventContext context = {trigdata->tg_trigger->tgname, state->shape};
	ErrorContextCallback callback = {error_context_stack, add_event_context,
	&context};

	memset(&event, 0, sizeof(event));
	event.shape = state->shape;
	event.shape->reading = NULL;	/* an error may have left it */
	event.op = fired_by(trigdata);
	event.shape->max_payload = publish_max_payload();
	error_context_stack = &callback;
	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		publish_row(state, &event, trigdata);
	else if (event.op == CHANGE_TRUNCATE)
		publish_change(&event, state);
	else
		publish_statement(state, &event, trigdata);
	error_context_stack = callback.previous;
}

/* The same where a user's type may run SQL while it is written. */
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
		/* the user's function may have left anything in its cache */
		state->valid = false;
		state->busy = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	state->busy = false;
}

/* The trigger's data; 39P01 if the call is not that of an AFTER trigger. */
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
 * pgpubsub.muted is on.  The arguments of the trigger are described in
 * trigger_options.c.  Raises 39P01 when it is not called as an AFTER trigger,
 * 22023 or 42939 for its arguments, 55000 without transition tables, and what
 * publishing raises.
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

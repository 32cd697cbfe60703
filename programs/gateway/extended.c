/*-------------------------------------------------------------------------
 *
 * extended.c
 *	  Prepared statements and portals.
 *
 * A statement is prepared once and bound many times; a portal keeps the values
 * that it was bound with, and the statement, even if that is closed.  Every
 * statement here returns one row at most, so a portal is at its beginning or at
 * its end.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/limits.h"

#define TYPE_NAME 19
#define TYPE_TEXT 25
#define TYPE_UNKNOWN 705
#define TYPE_VARCHAR 1043

typedef struct Prepared
{
	HashNode	node;
	int			references;		/* the table's, and one for each portal */
	size_t		bytes;			/* that it takes */
	char	   *name;
	StatementList list;			/* one statement, or none */
	int			type_count;
	uint32_t	types[PARSE_MAX_TYPES];
} Prepared;

typedef struct Portal
{
	HashNode	node;
	char	   *name;
	Prepared   *prepared;
	Arena		arena;			/* the values */
	BindValue  *values;
	int			value_count;
	uint16_t   *formats;
	int			format_count;
	bool		ran;
	size_t		bytes;			/* that it takes */
} Portal;

typedef struct Extended
{
	HashTable	prepared;
	HashTable	portals;
	size_t		bytes;			/* of all these, and of statements that only
								 * portals still have */
} Extended;

/* What the extended protocol has, made at its first use. */
static Extended *
extended_of(Session *session)
{
	if (session->extended == NULL)
		session->extended = memory_get_zeroed(sizeof(Extended));
	return session->extended;
}

/* Fail; all messages up to Sync are passed over then. */
static void
fail(Session *session, const Report *report)
{
	(void) session_fail(session, report);
	session->skip_to_sync = true;
}

/* Fail with a message that names something. */
static void
fail_naming(Session *session, const char *sqlstate, const char *what,
			const char *name, const char *problem)
{
	char		message[256];
	Report		report = {
		.sqlstate = sqlstate,
		.message = message,
	};

	snprintf(message, sizeof(message), "%s \"%.*s\" %s", what,
			 (int) utf8_clip(name, strlen(name), NAME_BYTES), name, problem);
	fail(session, &report);
}

/* A message whose fields are not as they must be ends the connection. */
static void
broken(Session *session)
{
	static const Report report = {
		.sqlstate = "08P01",
		.message = "invalid message format",
	};

	client_end(session->client, &report, "ended: it has broken the protocol");
}

/* The prepared statement of that name, or NULL. */
static Prepared *
find_prepared(Extended *extended, const char *name)
{
	HashNode   *node = hash_first(&extended->prepared, hash_string(name));

	for (; node != NULL; node = hash_next(node))
	{
		Prepared   *prepared = hash_container(Prepared, node, node);

		if (strcmp(prepared->name, name) == 0)
			return prepared;
	}
	return NULL;
}

/* The portal of that name, or NULL. */
static Portal *
find_portal(Extended *extended, const char *name)
{
	HashNode   *node = hash_first(&extended->portals, hash_string(name));

	for (; node != NULL; node = hash_next(node))
	{
		Portal	   *portal = hash_container(Portal, node, node);

		if (strcmp(portal->name, name) == 0)
			return portal;
	}
	return NULL;
}

/* Give a reference up. */
static void
release_prepared(Extended *extended, Prepared *prepared)
{
	if (--prepared->references > 0)
		return;
	extended->bytes -= prepared->bytes;
	statement_list_free(&prepared->list);
	free(prepared->name);
	free(prepared);
}

/* Forget the prepared statement; portals that were bound to it stay. */
static void
drop_prepared(Extended *extended, Prepared *prepared)
{
	hash_remove(&extended->prepared, &prepared->node);
	release_prepared(extended, prepared);
}

/* Forget the portal, and its statement if nothing else has that. */
static void
drop_portal(Extended *extended, Portal *portal)
{
	hash_remove(&extended->portals, &portal->node);
	release_prepared(extended, portal->prepared);
	extended->bytes -= portal->bytes;
	arena_free(&portal->arena);
	free(portal->name);
	free(portal);
}

/* Drop all portals, as at the end of a transaction. */
void
extended_drop_portals(Session *session)
{
	Extended   *extended = session->extended;

	if (extended == NULL)
		return;
	for (size_t i = 0; i < extended->portals.size; i++)
	{
		while (extended->portals.heads[i] != NULL)
			drop_portal(extended, hash_container(Portal, node,
												 extended->portals.heads[i]));
	}
}

/*
 * Forget the prepared statement, or all if name is NULL; false if there is none
 * of that name.
 */
bool
extended_deallocate(Session *session, const char *name)
{
	Extended   *extended = extended_of(session);
	Prepared   *prepared;

	if (name != NULL)
	{
		prepared = find_prepared(extended, name);
		if (prepared != NULL)
			drop_prepared(extended, prepared);
		return prepared != NULL;
	}
	for (size_t i = 0; i < extended->prepared.size; i++)
	{
		while (extended->prepared.heads[i] != NULL)
			drop_prepared(extended, hash_container(Prepared, node,
												   extended->prepared.heads[i]));
	}
	return true;
}

/* Free all, at the session's end. */
void
extended_free(Session *session)
{
	if (session->extended == NULL)
		return;
	extended_drop_portals(session);
	(void) extended_deallocate(session, NULL);
	hash_free(&session->extended->portals);
	hash_free(&session->extended->prepared);
	free(session->extended);
	session->extended = NULL;
}

/* What statements and portals take of memory. */
size_t
extended_bytes(const Session *session)
{
	return session->extended == NULL ? 0 : session->extended->bytes;
}

/* Is the session's share of statements and portals used up? */
static bool
is_full(Session *session)
{
	static const Report full = {
		.sqlstate = "53400",
		.message = "too many prepared statements and portals",
		.hint = "The gateway's limit is max-statements.",
	};
	const Extended *extended = session->extended;

	if (extended->prepared.count + extended->portals.count < (size_t) limits.max_statements)
		return false;
	fail(session, &full);
	return true;
}

/*
 * May the session keep so many bytes more, under that name?  If not, the batch fails.
 * What has no name is soon replaced: a little of that there is always room for.
 */
static bool
has_room(Session *session, const char *name, size_t bytes)
{
	if ((*name == '\0' && bytes <= SESSION_SPARE) || session_has_room(session, bytes))
		return true;
	session->skip_to_sync = true;
	return false;
}

/* What a prepared statement takes of memory. */
static size_t
prepared_bytes(const Prepared *prepared)
{
	return sizeof(Prepared) + strlen(prepared->name) + prepared->list.arena.bytes;
}

/*
 * Decide what types the statement's parameters have: those that were said, and
 * text for the others.  All are arguments of pg_notify(text, text).
 */
static bool
set_types(Session *session, Prepared *prepared, const Parse *parse)
{
	static const Report no_function = {
		.sqlstate = "42883",
		.message = "function pg_notify does not exist for these types of parameters",
		.hint = "Its parameters are text.",
	};
	static const Report too_many = {
		.sqlstate = "54000",
		.message = "too many parameters",
	};

	prepared->type_count = parse->type_count;
	if (prepared->list.parameter_count > prepared->type_count)
		prepared->type_count = prepared->list.parameter_count;
	if (prepared->type_count > BIND_MAX_VALUES)
	{
		fail(session, &too_many);
		return false;
	}
	for (int i = 0; i < prepared->type_count; i++)
	{
		uint32_t	type = i < parse->type_count ? parse->types[i] : 0;

		if (type == 0 || type == TYPE_UNKNOWN)
			type = TYPE_TEXT;
		if (i < prepared->list.parameter_count && type != TYPE_TEXT &&
			type != TYPE_VARCHAR && type != TYPE_NAME)
		{
			fail(session, &no_function);
			return false;
		}
		prepared->types[i] = type;
	}
	return true;
}

/* Parse. */
static void
prepare(Session *session, const Packet *packet)
{
	static const Report several = {
		.sqlstate = "42601",
		.message = "cannot insert multiple commands into a prepared statement",
	};
	Extended   *extended = extended_of(session);
	Prepared   *prepared;
	Parse		parse;

	if (!parse_decode(packet, &parse))
	{
		broken(session);
		return;
	}
	prepared = find_prepared(extended, parse.name);
	if (prepared != NULL)
	{
		if (*parse.name != '\0')
		{
			fail_naming(session, "42P05", "prepared statement", parse.name, "already exists");
			return;
		}
		drop_prepared(extended, prepared);
	}
	if (is_full(session))
		return;
	prepared = memory_get_zeroed(sizeof(Prepared));
	prepared->references = 1;
	prepared->name = memory_copy_string(parse.name);
	if (!session_parse(session, &prepared->list, parse.query))
		session->skip_to_sync = true;
	else if (prepared->list.count > 1)
		fail(session, &several);
	else if (set_types(session, prepared, &parse) &&
			 has_room(session, parse.name, prepared_bytes(prepared)))
	{
		prepared->bytes = prepared_bytes(prepared);
		extended->bytes += prepared->bytes;
		hash_insert(&extended->prepared, &prepared->node, hash_string(prepared->name));
		reply_plain(&session->client->out, '1');
		return;
	}
	release_prepared(extended, prepared);
}

/* Copy what was bound to the portal. */
static void
keep_values(Portal *portal, const Bind *bind)
{
	portal->value_count = bind->value_count;
	portal->values = arena_get(&portal->arena, bind->value_count * sizeof(BindValue));
	for (int i = 0; i < bind->value_count; i++)
	{
		portal->values[i] = bind->values[i];
		if (bind->values[i].value != NULL)
			portal->values[i].value = arena_copy(&portal->arena, bind->values[i].value,
												 bind->values[i].length);
	}
	portal->format_count = bind->format_count;
	portal->formats = arena_get(&portal->arena, bind->format_count * sizeof(uint16_t));
	for (int i = 0; i < bind->format_count; i++)
		portal->formats[i] = bind->formats[i];
}

/* How many columns the statement returns. */
static int
column_count(const Statement *statement)
{
	if (statement == NULL || !statement_returns_row(statement))
		return 0;
	return statement->kind == STATEMENT_SHOW ? 1 : statement->item_count;
}

/* Can what Bind has be bound to the statement?  If not, the client is told. */
static bool
values_fit(Session *session, const Prepared *prepared, const Bind *bind)
{
	char		message[200];
	Report		report = {
		.sqlstate = "08P01",
		.message = message,
	};

	if (bind->value_count != prepared->type_count)
	{
		snprintf(message, sizeof(message),
				 "bind message supplies %d parameters, but prepared statement \"%.*s\" requires %d",
				 bind->value_count, (int) utf8_clip(prepared->name, strlen(prepared->name), NAME_BYTES),
				 prepared->name, prepared->type_count);
		fail(session, &report);
		return false;
	}
	if (bind->format_count > 1 && bind->format_count != column_count(prepared->list.first))
	{
		snprintf(message, sizeof(message),
				 "bind message has %d result formats but query has %d columns",
				 bind->format_count, column_count(prepared->list.first));
		fail(session, &report);
		return false;
	}
	for (int i = 0; i < bind->value_count; i++)
	{
		if (bind->values[i].value != NULL &&
			!session_check_text(session, bind->values[i].value, bind->values[i].length))
		{
			session->skip_to_sync = true;
			return false;
		}
	}
	return true;
}

/* Bind. */
static void
bind_portal(Session *session, const Packet *packet)
{
	Extended   *extended = extended_of(session);
	Prepared   *prepared;
	Portal	   *portal;
	Bind		bind;

	if (!bind_decode(packet, &bind))
	{
		broken(session);
		return;
	}
	prepared = find_prepared(extended, bind.statement);
	if (prepared == NULL)
	{
		fail_naming(session, "26000", "prepared statement", bind.statement, "does not exist");
		return;
	}
	if (!values_fit(session, prepared, &bind))
		return;
	portal = find_portal(extended, bind.portal);
	if (portal != NULL)
	{
		if (*bind.portal != '\0')
		{
			fail_naming(session, "42P03", "cursor", bind.portal, "already exists");
			return;
		}
		drop_portal(extended, portal);
	}
	if (is_full(session) || !has_room(session, bind.portal, packet->length))
		return;
	portal = memory_get_zeroed(sizeof(Portal));
	portal->name = memory_copy_string(bind.portal);
	portal->prepared = prepared;
	prepared->references++;
	keep_values(portal, &bind);
	portal->bytes = sizeof(Portal) + strlen(portal->name) + portal->arena.bytes;
	extended->bytes += portal->bytes;
	hash_insert(&extended->portals, &portal->node, hash_string(portal->name));
	reply_plain(&session->client->out, '2');
}

/* Read the kind and the name of Describe or Close; false if they are none. */
static bool
read_target(const Packet *packet, char *kind, const char **name)
{
	PacketReader reader;

	packet_read(&reader, packet);
	*kind = packet_byte(&reader);
	*name = packet_string(&reader);
	return packet_at_end(&reader) && (*kind == 'S' || *kind == 'P');
}

/* Describe. */
static void
describe(Session *session, const Packet *packet)
{
	Extended   *extended = extended_of(session);
	Prepared   *prepared;
	Execution	execution = {0};
	const char *name;
	char		kind;

	if (!read_target(packet, &kind, &name))
	{
		broken(session);
		return;
	}
	if (kind == 'S')
	{
		prepared = find_prepared(extended, name);
		if (prepared == NULL)
		{
			fail_naming(session, "26000", "prepared statement", name, "does not exist");
			return;
		}
		reply_parameter_types(&session->client->out, prepared->types, prepared->type_count);
	}
	else
	{
		Portal	   *portal = find_portal(extended, name);

		if (portal == NULL)
		{
			fail_naming(session, "34000", "portal", name, "does not exist");
			return;
		}
		prepared = portal->prepared;
		execution.formats = portal->formats;
		execution.format_count = portal->format_count;
	}
	if (prepared->list.first == NULL)
		reply_plain(&session->client->out, 'n');
	else
		execute_describe(session, prepared->list.first, &execution);
}

/* Close. */
static void
close_target(Session *session, const Packet *packet)
{
	Extended   *extended = extended_of(session);
	const char *name;
	char		kind;

	if (!read_target(packet, &kind, &name))
	{
		broken(session);
		return;
	}
	if (kind == 'S')
		(void) extended_deallocate(session, name);
	else
	{
		Portal	   *portal = find_portal(extended, name);

		if (portal != NULL)
			drop_portal(extended, portal);
	}
	reply_plain(&session->client->out, '3');
}

/* The statement of a portal commits, which may have to wait. */
static void
commit_execution(Session *session)
{
	switch (session_commit(session, AFTER_EXECUTE))
	{
		case COMMIT_DONE:
			reply_complete(&session->client->out, session->tag);
			break;
		case COMMIT_FAILED:
			session->skip_to_sync = true;
			break;
		case COMMIT_WAITS:
			break;
	}
}

/*
 * Execute.  A client that asks for at most one row is told that there may be
 * more, as by the server, which does not look.
 */
static void
execute(Session *session, const Packet *packet)
{
	Extended   *extended = extended_of(session);
	Queue	   *out = &session->client->out;
	Execution	execution = {0};
	const Statement *statement;
	Portal	   *portal;
	PacketReader reader;
	const char *name;
	uint32_t	max_rows;
	bool		returns_row;

	packet_read(&reader, packet);
	name = packet_string(&reader);
	max_rows = packet_int32(&reader);
	if (!packet_at_end(&reader))
	{
		broken(session);
		return;
	}
	portal = find_portal(extended, name);
	if (portal == NULL)
	{
		fail_naming(session, "34000", "portal", name, "does not exist");
		return;
	}
	statement = portal->prepared->list.first;
	if (statement == NULL)
	{
		reply_plain(out, 'I');
		return;
	}
	returns_row = statement_returns_row(statement);
	if (portal->ran)
	{
		if (returns_row)
			reply_complete(out, "SELECT 0");
		else
			fail_naming(session, "55000", "portal", name, "cannot be run");
		return;
	}
	portal->ran = true;
	execution.values = portal->values;
	execution.value_count = portal->value_count;
	execution.formats = portal->formats;
	execution.format_count = portal->format_count;
	switch (execute_statement(session, statement, &execution))
	{
		case OUTCOME_FAILED:
			session->skip_to_sync = true;
			return;
		case OUTCOME_COMMIT:
			commit_execution(session);
			return;
		case OUTCOME_DONE:
			break;
	}
	if (returns_row && max_rows == 1)
		reply_plain(out, 's');
	else
		reply_complete(out, session->tag);
}

/* A COMMIT that had to wait has ended; the client knows of an error. */
void
extended_after_commit(Session *session, bool good)
{
	if (good)
		reply_complete(&session->client->out, session->tag);
	else
		session->skip_to_sync = true;
}

/* A message of the extended protocol. */
void
extended_message(Session *session, const Packet *packet)
{
	switch (packet->type)
	{
		case 'P':
			prepare(session, packet);
			break;
		case 'B':
			bind_portal(session, packet);
			break;
		case 'D':
			describe(session, packet);
			break;
		case 'E':
			execute(session, packet);
			break;
		case 'C':
			close_target(session, packet);
			break;
	}
}

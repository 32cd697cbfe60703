/*-------------------------------------------------------------------------
 *
 * execute.c
 *	  One statement.
 *
 * A statement's results go into the client's queue; its tag is left in the
 * session, for whoever knows when CommandComplete is due.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/execute_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/log.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/stream.h"
#include "gateway/upstream.h"

#define TYPE_NAME 19
#define TYPE_INT4 23
#define TYPE_TEXT 25
#define TYPE_VOID 2278

/* The longest payload that NOTIFY takes, in bytes. */
#define PAYLOAD_BYTES 7999

/* The longest text that an error quotes. */
#define QUOTE_BYTES 200

/* The channel on which the extension's own frames travel. */
#define RESERVED_CHANNEL "pgpubsub"

/* Fail with a message that names something. */
Outcome
execute_fail(Session *session, const char *sqlstate, const char *format,
			 const char *name, const char *hint)
{
	char		message[QUOTE_BYTES + 200];
	char		quoted[QUOTE_BYTES + 1];
	Report		report = {
		.sqlstate = sqlstate,
		.message = message,
		.hint = hint,
	};

	snprintf(quoted, sizeof(quoted), "%.*s",
			 (int) utf8_clip(name, strlen(name), QUOTE_BYTES), name);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(message, sizeof(message), format, quoted);
#pragma GCC diagnostic pop
	return session_fail(session, &report);
}

/* Warn the client. */
static void
warn(Session *session, const char *sqlstate, const char *message)
{
	Report		report = {
		.severity = "WARNING",
		.sqlstate = sqlstate,
		.message = message,
	};

	reply_notice(&session->client->out, &report);
}

/* LISTEN, UNLISTEN. */
static Outcome
execute_listen(Session *session, const Statement *statement)
{
	Transaction *transaction = session_transaction(session);

	if (statement->kind == STATEMENT_UNLISTEN)
	{
		transaction_add(transaction, statement->all ? ACTION_UNLISTEN_ALL :
						ACTION_UNLISTEN, statement->name, NULL);
		return OUTCOME_DONE;
	}
	if (strchr(statement->name, '*') != NULL ||
		strcmp(statement->name, RESERVED_CHANNEL) == 0 ||
		strcmp(statement->name, subscription_name()) == 0)
		return execute_fail(session, "0A000", "cannot listen to channel \"%s\" here",
							statement->name,
							"A name with \"*\" is a pattern to pgpubsub, and the names \"pgpubsub\" and the gateway's own are reserved.");
	if (session->client->member_count + transaction->listen_count >= limits.max_channels)
		return execute_fail(session, "53400", "too many channels: cannot listen to \"%s\"",
							statement->name,
							"The gateway's limit is max-channels.");
	transaction_add(transaction, ACTION_LISTEN, statement->name, NULL);
	return OUTCOME_DONE;
}

/* NOTIFY and pg_notify(). */
static Outcome
notify(Session *session, const char *channel, const char *payload)
{
	static const Report empty = {
		.sqlstate = "22023",
		.message = "channel name cannot be empty",
	};
	static const Report long_channel = {
		.sqlstate = "22023",
		.message = "channel name too long",
	};
	static const Report long_payload = {
		.sqlstate = "22023",
		.message = "payload string too long",
	};
	static const Report full = {
		.sqlstate = "54000",
		.message = "the transaction notifies too much",
		.hint = "The gateway's limit is max-transaction.",
	};
	Transaction *transaction;

	/* A string with escapes may have become anything. */
	if (!session_check_text(session, channel, strlen(channel)) ||
		!session_check_text(session, payload, strlen(payload)))
		return OUTCOME_FAILED;
	if (*channel == '\0')
		return session_fail(session, &empty);
	if (strlen(channel) > NAME_BYTES)
		return session_fail(session, &long_channel);
	if (strlen(payload) > PAYLOAD_BYTES)
		return session_fail(session, &long_payload);
	if (strcmp(channel, RESERVED_CHANNEL) == 0 || strcmp(channel, subscription_name()) == 0)
		return execute_fail(session, "0A000", "channel \"%s\" is reserved", channel, NULL);
	transaction = session_transaction(session);
	if (transaction_bytes(transaction) > (size_t) limits.max_transaction)
		return session_fail(session, &full);
	transaction_add(transaction, ACTION_NOTIFY, channel, payload);
	return OUTCOME_DONE;
}

/*
 * An argument's value as a string that the caller frees; "" for NULL.
 */
static char *
argument_value(const Argument *argument, const Execution *execution)
{
	const char *text = argument->text;
	size_t		length;

	if (argument->parameter > 0 && argument->parameter <= execution->value_count)
	{
		const BindValue *value = &execution->values[argument->parameter - 1];

		text = value->value;
		length = value->length;
	}
	else
		length = text == NULL ? 0 : strlen(text);
	if (text == NULL)
		return memory_copy_string("");
	return memory_copy_bytes(text, length);
}

/* Call pg_notify(). */
static Outcome
call_notify(Session *session, const Item *item, const Execution *execution)
{
	char	   *channel = argument_value(&item->first, execution);
	char	   *payload = argument_value(&item->second, execution);
	Outcome		outcome = notify(session, channel, payload);

	free(channel);
	free(payload);
	return outcome;
}

/* The type of what an item returns. */
static uint32_t
item_type(const Item *item)
{
	switch (item->kind)
	{
		case ITEM_INTEGER:
		case ITEM_BACKEND_PID:
			return TYPE_INT4;
		case ITEM_STRING:
		case ITEM_VERSION:
			return TYPE_TEXT;
		case ITEM_SCHEMA:
		case ITEM_DATABASE:
		case ITEM_USER:
			return TYPE_NAME;
		case ITEM_NOTIFY:
		case ITEM_UNLOCK_ALL:
			break;
	}
	return TYPE_VOID;
}

/* Is the number-th result wanted in binary form? */
static bool
is_binary(const Execution *execution, int number)
{
	if (execution->format_count == 0)
		return false;
	return execution->formats[execution->format_count == 1 ? 0 : number] == 1;
}

/* Does the statement return a row?  Each that does returns one. */
bool
statement_returns_row(const Statement *statement)
{
	return statement->kind == STATEMENT_SELECT ||
		statement->kind == STATEMENT_SHOW;
}

/* Tell the client what the columns of the statement are, or that it has none. */
void
execute_describe(Session *session, const Statement *statement,
				 const Execution *execution)
{
	ReplyColumn columns[BIND_MAX_FORMATS] = {0};
	int			count = 0;

	if (!statement_returns_row(statement))
	{
		reply_plain(&session->client->out, 'n');
		return;
	}
	if (statement->kind == STATEMENT_SHOW)
	{
		columns[0].name = settings_spelling(session->settings.effective, statement->name);
		columns[0].type = TYPE_TEXT;
		columns[0].type_size = -1;
		columns[0].binary = is_binary(execution, 0);
		count = 1;
	}
	for (int i = 0; i < statement->item_count; i++)
	{
		uint32_t	type = item_type(&statement->items[i]);

		columns[i].name = statement->items[i].column;
		columns[i].type = type;
		columns[i].type_size = type == TYPE_TEXT ? -1 : type == TYPE_NAME ? 64 : 4;
		columns[i].binary = is_binary(execution, i);
		count++;
	}
	reply_columns(&session->client->out, columns, count);
}

/* SELECT: run its functions, and then return the row. */
static Outcome
execute_select(Session *session, const Statement *statement,
			   const Execution *execution)
{
	ReplyValue	values[BIND_MAX_FORMATS];
	char		numbers[BIND_MAX_FORMATS][16];

	if (execution->describe)
		execute_describe(session, statement, execution);
	for (int i = 0; i < statement->item_count; i++)
	{
		const Item *item = &statement->items[i];
		const char *text = "";

		switch (item->kind)
		{
			case ITEM_INTEGER:
			case ITEM_BACKEND_PID:
				{
					uint32_t	number = item->kind == ITEM_INTEGER ?
						(uint32_t) strtol(item->first.text, NULL, 10) :
						session->client->pid;

					values[i].data = numbers[i];
					if (is_binary(execution, i))
					{
						for (int j = 0; j < 4; j++)
							numbers[i][j] = number >> (24 - 8 * j) & 0xFF;
						values[i].length = 4;
					}
					else
						values[i].length = snprintf(numbers[i], sizeof(numbers[i]),
													"%u", number);
					continue;
				}
			case ITEM_NOTIFY:
				if (call_notify(session, item, execution) != OUTCOME_DONE)
					return OUTCOME_FAILED;
				break;
			case ITEM_STRING:
				text = item->first.text;
				if (!session_check_text(session, text, strlen(text)))
					return OUTCOME_FAILED;
				break;
			case ITEM_VERSION:
				text = upstream_version();
				break;
			case ITEM_SCHEMA:
				text = upstream_schema();
				break;
			case ITEM_DATABASE:
				text = upstream_database();
				break;
			case ITEM_USER:
				text = session->client->role->name;
				break;
			case ITEM_UNLOCK_ALL:
				break;
		}
		values[i].data = text;
		values[i].length = text == NULL ? 0 : strlen(text);
	}
	reply_values(&session->client->out, values, statement->item_count);
	return OUTCOME_DONE;
}

/* BEGIN, START TRANSACTION. */
static void
execute_begin(Session *session, const Statement *statement)
{
	Transaction *transaction = session_transaction(session);

	if (transaction->block)
		warn(session, "25001", "there is already a transaction in progress");
	transaction->block = true;
	execute_modes(transaction, statement);
}

/*
 * COMMIT, ROLLBACK.  A transaction that has failed is rolled back by either,
 * and says so.
 */
static Outcome
execute_end(Session *session, const Statement *statement)
{
	Transaction *transaction = session->transaction;
	bool		block = transaction != NULL && transaction->block;

	if (!block && statement->chain)
		return execute_fail(session, "25P01", "%s can only be used in transaction blocks",
							statement->kind == STATEMENT_COMMIT ? "COMMIT AND CHAIN" :
							"ROLLBACK AND CHAIN", NULL);
	if (!block)
		warn(session, "25P01", "there is no transaction in progress");
	session->chain = statement->chain;
	if (statement->kind == STATEMENT_COMMIT &&
		!(transaction != NULL && transaction->failed))
		return OUTCOME_COMMIT;
	strcpy(session->tag, "ROLLBACK");
	session_forget_transaction(session, true);
	return OUTCOME_DONE;
}

/* SAVEPOINT, RELEASE, ROLLBACK TO. */
static Outcome
execute_savepoint(Session *session, const Statement *statement)
{
	static const Report full = {
		.sqlstate = "54000",
		.message = "the transaction has too many savepoints",
		.hint = "The gateway's limit is max-transaction.",
	};
	Transaction *transaction = session->transaction;
	bool		found = true;

	if (transaction == NULL || !transaction->block)
		return execute_fail(session, "25P01", "%s can only be used in transaction blocks",
							statement->kind == STATEMENT_SAVEPOINT ? "SAVEPOINT" :
							statement->kind == STATEMENT_RELEASE ? "RELEASE SAVEPOINT" :
							"ROLLBACK TO SAVEPOINT", NULL);
	if (statement->kind == STATEMENT_SAVEPOINT)
	{
		if (transaction_bytes(transaction) > (size_t) limits.max_transaction)
			return session_fail(session, &full);
		transaction_savepoint(transaction, statement->name, &session->settings);
	}
	else if (statement->kind == STATEMENT_RELEASE)
		found = transaction_release(transaction, statement->name);
	else
		found = transaction_rollback_to(transaction, statement->name, &session->settings);
	if (!found)
		return execute_fail(session, "3B001", "savepoint \"%s\" does not exist",
							statement->name, NULL);
	return OUTCOME_DONE;
}

/* DISCARD. */
static Outcome
execute_discard(Session *session, const Statement *statement)
{
	static const Report in_block = {
		.sqlstate = "25001",
		.message = "DISCARD ALL cannot run inside a transaction block",
	};

	if (!statement->all)
		return OUTCOME_DONE;
	if (session->transaction != NULL || (session->in_query && session->query.count > 1))
		return session_fail(session, &in_block);
	(void) extended_deallocate(session, NULL);
	execute_reset_all(session);
	transaction_add(session_transaction(session), ACTION_UNLISTEN_ALL, NULL, NULL);
	return OUTCOME_DONE;
}

/* The tags of those statements that have one of their own. */
static const char *
plain_tag(const Statement *statement)
{
	switch (statement->kind)
	{
		case STATEMENT_LISTEN:
			return "LISTEN";
		case STATEMENT_UNLISTEN:
			return "UNLISTEN";
		case STATEMENT_NOTIFY:
			return "NOTIFY";
		case STATEMENT_SELECT:
			return "SELECT 1";
		case STATEMENT_BEGIN:
			return "BEGIN";
		case STATEMENT_START:
			return "START TRANSACTION";
		case STATEMENT_COMMIT:
			return "COMMIT";
		case STATEMENT_ROLLBACK:
		case STATEMENT_ROLLBACK_TO:
			return "ROLLBACK";
		case STATEMENT_SAVEPOINT:
			return "SAVEPOINT";
		case STATEMENT_RELEASE:
			return "RELEASE";
		case STATEMENT_SET:
		case STATEMENT_SET_TRANSACTION:
			return "SET";
		case STATEMENT_RESET:
			return "RESET";
		case STATEMENT_SHOW:
			return "SHOW";
		case STATEMENT_DISCARD:
			return statement->name;
		case STATEMENT_CLOSE:
			return statement->all ? "CLOSE CURSOR ALL" : "CLOSE CURSOR";
		case STATEMENT_DEALLOCATE:
			return statement->all ? "DEALLOCATE ALL" : "DEALLOCATE";
		case STATEMENT_REFUSED:
			break;
	}
	return "";
}

/* Run the statement; OUTCOME_COMMIT leaves the commit to the caller. */
static Outcome
run(Session *session, const Statement *statement, const Execution *execution)
{
	switch (statement->kind)
	{
		case STATEMENT_LISTEN:
		case STATEMENT_UNLISTEN:
			return execute_listen(session, statement);
		case STATEMENT_NOTIFY:
			return notify(session, statement->name, statement->value);
		case STATEMENT_SELECT:
			return execute_select(session, statement, execution);
		case STATEMENT_SHOW:
			return execute_show(session, statement, execution);
		case STATEMENT_BEGIN:
		case STATEMENT_START:
			execute_begin(session, statement);
			return OUTCOME_DONE;
		case STATEMENT_COMMIT:
		case STATEMENT_ROLLBACK:
			return execute_end(session, statement);
		case STATEMENT_SAVEPOINT:
		case STATEMENT_RELEASE:
		case STATEMENT_ROLLBACK_TO:
			return execute_savepoint(session, statement);
		case STATEMENT_SET:
			return execute_set(session, statement);
		case STATEMENT_SET_TRANSACTION:
			execute_set_transaction(session, statement);
			return OUTCOME_DONE;
		case STATEMENT_RESET:
			if (statement->all)
				execute_reset_all(session);
			else
				execute_reset(session, statement->name);
			return OUTCOME_DONE;
		case STATEMENT_DISCARD:
			return execute_discard(session, statement);
		case STATEMENT_CLOSE:
			if (statement->all)
				return OUTCOME_DONE;
			return execute_fail(session, "34000", "cursor \"%s\" does not exist",
								statement->name, NULL);
		case STATEMENT_DEALLOCATE:
			if (extended_deallocate(session, statement->all ? NULL : statement->name))
				return OUTCOME_DONE;
			return execute_fail(session, "26000",
								"prepared statement \"%s\" does not exist",
								statement->name, NULL);
		case STATEMENT_REFUSED:
			break;
	}
	return execute_fail(session, "0A000", "%s is not possible here", statement->name,
						"This port is for LISTEN, UNLISTEN, NOTIFY and SELECT pg_notify(...); for all else connect to the server itself.");
}

/* Does the session keep more when the statement was run? */
static bool
is_kept(const Statement *statement)
{
	switch (statement->kind)
	{
		case STATEMENT_LISTEN:
		case STATEMENT_UNLISTEN:
		case STATEMENT_NOTIFY:
		case STATEMENT_SELECT:
		case STATEMENT_SAVEPOINT:
		case STATEMENT_SET:
		case STATEMENT_SET_TRANSACTION:
			return true;
		default:
			return false;
	}
}

/*
 * Run one statement.  In a transaction that has failed, only its end and going
 * back to a savepoint are possible.
 */
Outcome
execute_statement(Session *session, const Statement *statement,
				  const Execution *execution)
{
	static const Report failed = {
		.sqlstate = "25P02",
		.message = "current transaction is aborted, commands ignored until end of transaction block",
	};

	if (session->transaction != NULL && session->transaction->failed &&
		statement->kind != STATEMENT_COMMIT && statement->kind != STATEMENT_ROLLBACK &&
		statement->kind != STATEMENT_ROLLBACK_TO)
		return session_fail(session, &failed);
	if (is_kept(statement) && !session_has_room(session, 0))
		return OUTCOME_FAILED;
	snprintf(session->tag, sizeof(session->tag), "%s", plain_tag(statement));
	return run(session, statement, execution);
}

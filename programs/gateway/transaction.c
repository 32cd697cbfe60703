/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  See transaction.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/transaction.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The isolation level that a transaction begins with. */
const char *
settings_isolation(const Settings *settings)
{
	static const char *const levels[] = {"serializable", "repeatable read",
	"read uncommitted"};
	const char *value = settings_value(settings, "default_transaction_isolation");

	for (size_t i = 0; value != NULL && i < sizeof(levels) / sizeof(levels[0]); i++)
	{
		if (strcasecmp(value, levels[i]) == 0)
			return levels[i];
	}
	return "read committed";
}

/* Does a transaction begin as one that is READ ONLY: "on" or "off". */
const char *
settings_read_only(const Settings *settings)
{
	const char *value = settings_value(settings, "default_transaction_read_only");

	return value != NULL && (strcasecmp(value, "on") == 0 ||
							 strcasecmp(value, "true") == 0 ||
							 strcasecmp(value, "yes") == 0 ||
							 strcmp(value, "1") == 0) ? "on" : "off";
}

/* Have a reference to both in *to. */
void
settings_pair_hold(SettingsPair *to, const SettingsPair *from)
{
	to->session = settings_hold(from->session);
	to->effective = settings_hold(from->effective);
}

/* Give both references up. */
void
settings_pair_release(SettingsPair *pair)
{
	settings_release(pair->session);
	settings_release(pair->effective);
	pair->session = pair->effective = NULL;
}

/* What the settings take of memory that are not in the other pair, too. */
size_t
settings_pair_bytes(const SettingsPair *pair, const SettingsPair *known)
{
	size_t		bytes = 0;

	if (pair->session != known->session && pair->session != known->effective)
		bytes += settings_bytes(pair->session);
	if (pair->effective != pair->session && pair->effective != known->effective &&
		pair->effective != known->session)
		bytes += settings_bytes(pair->effective);
	return bytes;
}

/* A transaction, in which the settings are those when it begins. */
Transaction *
transaction_new(const SettingsPair *settings)
{
	Transaction *transaction = memory_get_zeroed(sizeof(Transaction));

	settings_pair_hold(&transaction->before, settings);
	transaction->isolation = settings_isolation(settings->effective);
	transaction->read_only = settings_read_only(settings->effective);
	return transaction;
}

/* Drop the savepoints from that number on. */
static void
drop_savepoints(Transaction *transaction, int from)
{
	while (transaction->savepoint_count > from)
	{
		Savepoint  *savepoint = &transaction->savepoints[--transaction->savepoint_count];

		free(savepoint->name);
		transaction->savepoint_bytes -= savepoint->bytes;
		settings_pair_release(&savepoint->settings);
	}
}

/* Forget the transaction, which may be NULL. */
void
transaction_free(Transaction *transaction)
{
	if (transaction == NULL)
		return;
	drop_savepoints(transaction, 0);
	settings_pair_release(&transaction->before);
	arena_free(&transaction->arena);
	free(transaction->actions);
	free(transaction->savepoints);
	free(transaction);
}

/* What the transaction takes of memory. */
size_t
transaction_bytes(const Transaction *transaction)
{
	return transaction->arena.bytes +
		transaction->action_room * sizeof(Action) +
		transaction->savepoint_room * (sizeof(Savepoint) + 64) +
		transaction->savepoint_bytes;
}

/* Add an action; its strings, which may be NULL, are copied. */
void
transaction_add(Transaction *transaction, ActionKind kind, const char *channel,
				const char *payload)
{
	Action	   *action;

	if (transaction->action_count == transaction->action_room)
	{
		transaction->action_room = transaction->action_room > 0 ?
			transaction->action_room * 2 : 4;
		transaction->actions = memory_resize(transaction->actions,
											 transaction->action_room * sizeof(Action));
	}
	action = &transaction->actions[transaction->action_count++];
	action->kind = kind;
	action->channel = channel == NULL ? NULL :
		arena_copy(&transaction->arena, channel, strlen(channel));
	action->payload = payload == NULL ? NULL :
		arena_copy(&transaction->arena, payload, strlen(payload));
	if (kind == ACTION_LISTEN)
		transaction->listen_count++;
}

/* Set a savepoint of that name; an older one of the same name is hidden by it. */
void
transaction_savepoint(Transaction *transaction, const char *name,
					  const SettingsPair *settings)
{
	const SettingsPair *known = &transaction->before;
	Savepoint  *savepoint;

	if (transaction->savepoint_count == transaction->savepoint_room)
	{
		transaction->savepoint_room = transaction->savepoint_room > 0 ?
			transaction->savepoint_room * 2 : 4;
		transaction->savepoints = memory_resize(transaction->savepoints,
												transaction->savepoint_room * sizeof(Savepoint));
	}
	if (transaction->savepoint_count > 0)
		known = &transaction->savepoints[transaction->savepoint_count - 1].settings;
	savepoint = &transaction->savepoints[transaction->savepoint_count++];
	savepoint->bytes = settings_pair_bytes(settings, known);
	transaction->savepoint_bytes += savepoint->bytes;
	savepoint->name = memory_copy_string(name);
	savepoint->action_count = transaction->action_count;
	settings_pair_hold(&savepoint->settings, settings);
}

/* The number of the newest savepoint of that name; -1 if there is none. */
static int
find_savepoint(const Transaction *transaction, const char *name)
{
	int			number = transaction->savepoint_count - 1;

	while (number >= 0 &&
		   strcmp(transaction->savepoints[number].name, name) != 0)
		number--;
	return number;
}

/* Forget the savepoint and those since; false if there is none of that name. */
bool
transaction_release(Transaction *transaction, const char *name)
{
	int			number = find_savepoint(transaction, name);

	if (number < 0)
		return false;
	drop_savepoints(transaction, number);
	return true;
}

/*
 * Go back to the savepoint, which stays; *settings are set to those of then.
 * False if there is none of that name.
 */
bool
transaction_rollback_to(Transaction *transaction, const char *name,
						SettingsPair *settings)
{
	int			number = find_savepoint(transaction, name);
	Savepoint  *savepoint;

	if (number < 0)
		return false;
	drop_savepoints(transaction, number + 1);
	savepoint = &transaction->savepoints[number];
	while (transaction->action_count > savepoint->action_count)
	{
		transaction->action_count--;
		if (transaction->actions[transaction->action_count].kind == ACTION_LISTEN)
			transaction->listen_count--;
	}
	settings_pair_release(settings);
	settings_pair_hold(settings, &savepoint->settings);
	transaction->failed = false;
	return true;
}

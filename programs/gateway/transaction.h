/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  What a transaction is to do at its commit.
 *
 * LISTEN, UNLISTEN and NOTIFY do nothing by themselves: each adds an action,
 * and the commit does them (commit.c).  A rollback forgets them, one to a
 * savepoint those since then.  Settings go back likewise.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_TRANSACTION_H
#define GATEWAY_TRANSACTION_H

#include <stdbool.h>

#include "common/memory.h"
#include "gateway/settings.h"

typedef enum ActionKind
{
	ACTION_LISTEN,
	ACTION_UNLISTEN,
	ACTION_UNLISTEN_ALL,
	ACTION_NOTIFY
} ActionKind;

typedef struct Action
{
	ActionKind	kind;
	const char *channel;
	const char *payload;
} Action;

/* What a session's SETs have made; each holds a reference. */
typedef struct SettingsPair
{
	Settings   *session;		/* what stays after the transaction */
	Settings   *effective;		/* with SET LOCAL */
} SettingsPair;

typedef struct Savepoint
{
	char	   *name;
	int			action_count;
	SettingsPair settings;
	size_t		bytes;			/* of the settings that no earlier one has */
} Savepoint;

typedef struct Transaction
{
	bool		block;			/* BEGIN was said */
	bool		failed;
	Arena		arena;			/* names and payloads of actions */
	Action	   *actions;
	int			action_count;
	int			action_room;
	int			listen_count;	/* LISTENs among them */
	Savepoint  *savepoints;
	int			savepoint_count;
	int			savepoint_room;
	size_t		savepoint_bytes;	/* of their settings */
	SettingsPair before;
	const char *isolation;		/* both are constants */
	const char *read_only;
} Transaction;

extern const char *settings_isolation(const Settings *settings);
extern const char *settings_read_only(const Settings *settings);
extern void settings_pair_hold(SettingsPair *to, const SettingsPair *from);
extern void settings_pair_release(SettingsPair *pair);
extern size_t settings_pair_bytes(const SettingsPair *pair,
								  const SettingsPair *known);

extern Transaction *transaction_new(const SettingsPair *settings);
extern void transaction_free(Transaction *transaction);
extern size_t transaction_bytes(const Transaction *transaction);
extern void transaction_add(Transaction *transaction, ActionKind kind,
							const char *channel, const char *payload);
extern void transaction_savepoint(Transaction *transaction, const char *name,
								  const SettingsPair *settings);
extern bool transaction_release(Transaction *transaction, const char *name);
extern bool transaction_rollback_to(Transaction *transaction, const char *name,
									SettingsPair *settings);

#endif

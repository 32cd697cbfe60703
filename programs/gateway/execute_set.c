/*-------------------------------------------------------------------------
 *
 * execute_set.c
 *	  SET, RESET, SHOW, and the modes of transactions.
 *
 * What is set is only kept, as nothing here depends on it but how strings are written;
 * what the server would not let be set, or has another meaning here, is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/execute_internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What a session may SET. */
#define MAX_SETTINGS 200
#define MAX_SETTING_BYTES 1024

/* Give the session's settings another value; NULL: that of the login. */
static void
change_settings(Session *session, const char *name, const char *value,
				bool local)
{
	const Settings *server = session->client->server_settings;
	SettingsPair *pair = &session->settings;

	/* What a transaction does is undone with it. */
	(void) session_transaction(session);
	if (value == NULL)
		value = settings_value(server, name);
	if (value == NULL)
	{
		pair->effective = settings_without(pair->effective, name);
		if (!local)
			pair->session = settings_without(pair->session, name);
		return;
	}
	pair->effective = settings_with(pair->effective, name, value, false);
	if (!local)
		pair->session = settings_with(pair->session, name, value, false);
}

/* Is that a name of UTF8, as PostgreSQL compares them? */
static bool
is_utf8_name(const char *name)
{
	char		plain[16];
	size_t		length = 0;

	for (; *name != '\0'; name++)
	{
		if (!strchr("-_ '\"", *name) && length < sizeof(plain) - 1)
			plain[length++] = *name;
	}
	plain[length] = '\0';
	return strcasecmp(plain, "utf8") == 0 || strcasecmp(plain, "unicode") == 0;
}

/* The value of a boolean setting as the server shows it, or NULL. */
static const char *
boolean_value(const char *value)
{
	static const char *const on[] = {"on", "true", "yes", "1", "t", "y"};
	static const char *const off[] = {"off", "false", "no", "0", "f", "n"};

	for (size_t i = 0; i < sizeof(on) / sizeof(on[0]); i++)
	{
		if (strcasecmp(value, on[i]) == 0)
			return "on";
		if (strcasecmp(value, off[i]) == 0)
			return "off";
	}
	return NULL;
}

/* SET. */
Outcome
execute_set(Session *session, const Statement *statement)
{
	static const char *const fixed[] = {"server_version", "server_encoding",
		"is_superuser", "session_authorization", "integer_datetimes",
	"in_hot_standby", "server_version_num", "role"};
	const char *name = statement->name;
	const char *value = statement->value;

	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
	{
		if (strcasecmp(name, fixed[i]) == 0)
			return execute_fail(session, "55P02", "parameter \"%s\" cannot be changed",
								fixed[i], NULL);
	}
	if (value != NULL && strcasecmp(name, "client_encoding") == 0)
	{
		if (!is_utf8_name(value))
			return execute_fail(session, "22023",
								"invalid value for parameter \"client_encoding\": \"%s\"",
								value, "Only UTF8 is possible here.");
		value = "UTF8";
	}
	if (value != NULL && strcasecmp(name, "standard_conforming_strings") == 0)
	{
		const char *boolean = boolean_value(value);

		if (boolean == NULL)
			return execute_fail(session, "22023",
								"parameter \"standard_conforming_strings\" requires a Boolean value, not \"%s\"",
								value, NULL);
		value = boolean;
	}
	if (value != NULL && !session_check_text(session, value, strlen(value)))
		return OUTCOME_FAILED;
	if (strlen(name) > 2 * NAME_BYTES ||
		(value != NULL && strlen(value) > MAX_SETTING_BYTES) ||
		settings_count(session->settings.effective) >= MAX_SETTINGS)
		return execute_fail(session, "54000", "too many settings, or too long a value for \"%s\"",
							name, NULL);
	change_settings(session, name, value, statement->local);
	return OUTCOME_DONE;
}

/* Give the setting the value that it had at the login. */
void
execute_reset(Session *session, const char *name)
{
	change_settings(session, name, NULL, false);
}

/* All settings as at the login. */
void
execute_reset_all(Session *session)
{
	Settings   *server = session->client->server_settings;

	(void) session_transaction(session);
	settings_pair_release(&session->settings);
	session->settings.session = settings_hold(server);
	session->settings.effective = settings_hold(server);
}

/* Give the transaction those modes that the statement says. */
void
execute_modes(Transaction *transaction, const Statement *statement)
{
	if (statement->value != NULL)
		transaction->isolation = statement->value;
	if (statement->read_only != NULL)
		transaction->read_only = statement->read_only;
}

/* SET TRANSACTION, or the modes of all transactions to come. */
void
execute_set_transaction(Session *session, const Statement *statement)
{
	if (statement->local)
	{
		if (session->transaction != NULL)
			execute_modes(session->transaction, statement);
		return;
	}
	if (statement->value != NULL)
		change_settings(session, "default_transaction_isolation", statement->value, false);
	if (statement->read_only != NULL)
		change_settings(session, "default_transaction_read_only", statement->read_only, false);
}

/* SHOW. */
Outcome
execute_show(Session *session, const Statement *statement,
			 const Execution *execution)
{
	const char *value = settings_value(session->settings.effective, statement->name);
	ReplyValue	row;

	if (strcmp(statement->name, "transaction_isolation") == 0)
		value = session->transaction != NULL ? session->transaction->isolation :
			settings_isolation(session->settings.effective);
	else if (strcmp(statement->name, "transaction_read_only") == 0)
		value = session->transaction != NULL ? session->transaction->read_only :
			settings_read_only(session->settings.effective);
	if (value == NULL)
		return execute_fail(session, "0A000", "the value of \"%s\" is not known here",
							statement->name,
							"This port is for LISTEN and NOTIFY: it knows what the server reports, and what the session has set.");
	if (execution->describe)
		execute_describe(session, statement, execution);
	row.data = value;
	row.length = strlen(value);
	reply_values(&session->client->out, &row, 1);
	return OUTCOME_DONE;
}

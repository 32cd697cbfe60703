/*-------------------------------------------------------------------------
 *
 * session.c
 *	  See session.h.
 *
 * A simple query is a list of statements, which is run from where it stands
 * until it ends or a commit has to wait.  The session then goes on in
 * session_commit_ended(), from the loop.  Nothing of the client's input is
 * taken meanwhile.
 *
 * Statements outside of a block belong to one transaction: all of a simple
 * query, and all of the extended protocol up to Sync.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/upstream.h"

static void run_query(Session *session);

/* Begin the session of a client that has logged in. */
void
session_begin(Client *client)
{
	Session    *session = memory_get_zeroed(sizeof(Session));

	session->client = client;
	session->settings.session = settings_hold(client->server_settings);
	session->settings.effective = settings_hold(client->server_settings);
	session->told = settings_hold(client->server_settings);
	client->session = session;
}

/* End the client's session, if it has one. */
void
session_drop(Client *client)
{
	Session    *session = client->session;

	if (session == NULL)
		return;
	commit_abandon(session);
	client_forget_echoes(client);
	client->session = NULL;
	transaction_free(session->transaction);
	statement_list_free(&session->query);
	extended_free(session);
	settings_pair_release(&session->settings);
	settings_release(session->told);
	free(session);
}

/* What ReadyForQuery says. */
char
session_status(const Session *session)
{
	if (session->transaction == NULL || !session->transaction->block)
		return 'I';
	return session->transaction->failed ? 'E' : 'T';
}

/* May the client be given notifications now? */
bool
session_is_idle(const Client *client)
{
	const Session *session = client->session;

	return client->state == CLIENT_READY && !session->in_query &&
		!session->in_batch && session_status(session) == 'I';
}

/* The session's transaction, which is begun if there is none. */
Transaction *
session_transaction(Session *session)
{
	if (session->transaction == NULL)
		session->transaction = transaction_new(&session->settings);
	return session->transaction;
}

/* Forget the transaction, if there is one; settings stay, or go back. */
void
session_forget_transaction(Session *session, bool rollback)
{
	Transaction *transaction = session->transaction;

	if (transaction != NULL && rollback)
	{
		settings_pair_release(&session->settings);
		settings_pair_hold(&session->settings, &transaction->before);
	}
	else if (transaction != NULL)
	{
		/* What SET LOCAL has set ends here. */
		settings_release(session->settings.effective);
		session->settings.effective = settings_hold(session->settings.session);
	}
	session->transaction = NULL;
	transaction_free(transaction);
	extended_drop_portals(session);
	if (session->chain)
		session_transaction(session)->block = true;
	session->chain = false;
}

/*
 * Tell the client of an error.  A block has failed then, and what was no block
 * is undone.
 */
Outcome
session_fail(Session *session, const Report *report)
{
	reply_report(&session->client->out, report);
	session->chain = false;
	if (session->transaction != NULL && session->transaction->block)
		session->transaction->failed = true;
	else
		session_forget_transaction(session, true);
	return OUTCOME_FAILED;
}

/*
 * What the session keeps in memory, in bytes: all that its client can make it keep,
 * but for channels, input and output, which have limits of their own.
 */
static size_t
session_bytes(const Session *session)
{
	static const SettingsPair none;
	size_t		bytes = session->query.arena.bytes + extended_bytes(session) +
		settings_pair_bytes(&session->settings, &none);

	if (session->told != session->settings.session &&
		session->told != session->settings.effective)
		bytes += settings_bytes(session->told);
	if (session->transaction != NULL)
		bytes += transaction_bytes(session->transaction) +
			settings_pair_bytes(&session->transaction->before, &session->settings);
	return bytes;
}

/* May the session keep so many bytes more?  If not, the client is told. */
bool
session_has_room(Session *session, size_t bytes)
{
	static const Report full = {
		.sqlstate = "53400",
		.message = "the session keeps too much in memory",
		.hint = "The gateway's limit is max-session.",
	};

	if (session_bytes(session) + bytes <= (size_t) limits.max_session)
		return true;
	(void) session_fail(session, &full);
	return false;
}

/* Tell the client of settings that it does not know. */
static void
tell_settings(Session *session)
{
	const Settings *now = session->settings.effective;
	const char *name;
	const char *value;
	bool		reported;

	if (session->told == now)
		return;
	for (int i = 0; settings_entry(now, i, &name, &value, &reported); i++)
	{
		const char *old = settings_value(session->told, name);

		if (reported && (old == NULL || strcmp(old, value) != 0))
			reply_parameter(&session->client->out, name, value);
	}
	settings_release(session->told);
	session->told = settings_hold(session->settings.effective);
}

/* ReadyForQuery, and before it what waited for that. */
void
session_ready(Session *session)
{
	Client	   *client = session->client;

	session->in_query = false;
	session->in_batch = false;
	session->skip_to_sync = false;
	if (session_status(session) == 'I')
		queue_move(&client->out, &client->held);
	tell_settings(session);
	reply_ready(&client->out, session_status(session));
	client_touch(client);
}

/* Cut a name for a message. */
static int
quoted_length(const char *name)
{
	return (int) utf8_clip(name, strlen(name), 200);
}

/*
 * Is the text one of the session's encoding?  If not, the client is told.  Like
 * the server, name the bytes of the character that is none.
 */
bool
session_check_text(Session *session, const char *text, size_t length)
{
	const unsigned char *raw = (const unsigned char *) text;
	const char *zero = memchr(text, '\0', length);
	size_t		bad = zero == NULL ? length : (size_t) (zero - text);
	size_t		invalid = upstream_is_utf8() ? utf8_invalid(text, bad) : bad;
	size_t		named = 1;
	char		message[100];
	Report		report = {
		.sqlstate = "22021",
		.message = message,
	};
	int			used;

	if (invalid < bad)
	{
		bad = invalid;
		named = raw[bad] < 0xC0 ? 1 : raw[bad] < 0xE0 ? 2 : raw[bad] < 0xF0 ? 3 :
			raw[bad] < 0xF8 ? 4 : 1;
	}
	if (bad == length)
		return true;
	used = snprintf(message, sizeof(message), "invalid byte sequence for encoding \"%s\":",
					upstream_is_utf8() ? "UTF8" : "SQL_ASCII");
	for (size_t i = bad; i < length && i < bad + named; i++)
		used += snprintf(message + used, sizeof(message) - used, " 0x%02x", raw[i]);
	(void) session_fail(session, &report);
	return false;
}

/*
 * Parse the text, and tell the client what there is to say about it.  False if
 * it is no SQL; then the list is empty.
 */
bool
session_parse(Session *session, StatementList *list, const char *text)
{
	size_t		length = strlen(text);
	const char *strings = settings_value(session->settings.effective,
										 "standard_conforming_strings");
	size_t		used = session_bytes(session) + SESSION_SPARE;
	size_t		room = used < (size_t) limits.max_session ?
		(size_t) limits.max_session - used : 0;
	char		message[512];
	Report		report = {0};

	if (!session_check_text(session, text, length))
		return false;
	if (!statement_parse(list, text, length,
						 strings == NULL || strcmp(strings, "off") != 0,
						 room + SESSION_SPARE))
	{
		report.sqlstate = list->sqlstate;
		report.message = list->message;
		report.hint = list->hint;
		report.position = list->position;
		(void) session_fail(session, &report);
		statement_list_free(list);
		return false;
	}
	for (const Truncation *cut = list->truncations; cut != NULL; cut = cut->next)
	{
		snprintf(message, sizeof(message),
				 "identifier \"%.*s\" will be truncated to \"%s\"",
				 quoted_length(cut->full), cut->full, cut->name);
		report.sqlstate = "42622";
		report.message = message;
		reply_notice(&session->client->out, &report);
	}
	return true;
}

/*
 * Commit the transaction.  If that has to wait, session_commit_ended() goes on
 * as after says.  Otherwise the caller does; it is no deeper in the stack then,
 * however many commits a query has.
 */
CommitOutcome
session_commit(Session *session, AfterCommit after)
{
	session->after = after;
	session->starting = true;
	session->outcome = COMMIT_WAITS;
	if (commit_start(session))
	{
		session_forget_transaction(session, false);
		session->outcome = COMMIT_DONE;
	}
	session->starting = false;
	if (session->outcome != COMMIT_WAITS)
		session->after = AFTER_NOTHING;
	return session->outcome;
}

/* The query has ended: what is left of it is not run. */
static void
end_query(Session *session)
{
	statement_list_free(&session->query);
	session->next = NULL;
	session_ready(session);
}

/* Does the query go on after the commit?  If that has failed, it ends. */
static bool
goes_on(Session *session, CommitOutcome outcome)
{
	if (outcome == COMMIT_FAILED)
		end_query(session);
	return outcome == COMMIT_DONE;
}

/* Run the query from where it stands. */
static void
run_query(Session *session)
{
	static const Execution execution = {.describe = true};
	Client	   *client = session->client;

	while (session->next != NULL)
	{
		const Statement *statement = session->next;
		bool		last = statement->next == NULL;
		bool		block;

		switch (execute_statement(session, statement, &execution))
		{
			case OUTCOME_FAILED:
				end_query(session);
				return;
			case OUTCOME_COMMIT:
				session->next = statement->next;
				if (!goes_on(session, session_commit(session, AFTER_STATEMENT)))
					return;
				reply_complete(&client->out, session->tag);
				continue;
			case OUTCOME_DONE:
				break;
		}
		session->next = statement->next;
		block = session->transaction != NULL && session->transaction->block;
		if (last && !block && session->transaction != NULL)
		{
			/* The last statement is complete once all are committed. */
			if (!goes_on(session, session_commit(session, AFTER_QUERY)))
				return;
		}
		reply_complete(&client->out, session->tag);
	}
	if (session->transaction != NULL && !session->transaction->block)
		session_forget_transaction(session, false);
	end_query(session);
}

/* A simple query. */
static void
begin_query(Session *session, const Packet *packet)
{
	static const Report broken = {
		.sqlstate = "08P01",
		.message = "invalid message format",
	};
	Client	   *client = session->client;
	PacketReader reader;
	const char *text;

	packet_read(&reader, packet);
	text = packet_string(&reader);
	if (!packet_at_end(&reader))
	{
		client_end(client, &broken, "ended: it has broken the protocol");
		return;
	}
	session->in_query = true;
	if (!session_parse(session, &session->query, text))
	{
		end_query(session);
		return;
	}
	session->next = session->query.first;
	if (session->next == NULL)
		reply_plain(&client->out, 'I');
	run_query(session);
}

/*
 * The commit that the session waited for has ended, with an error if report is
 * not NULL.
 */
void
session_commit_ended(Session *session, const Report *report)
{
	Client	   *client = session->client;
	AfterCommit after = session->after;

	client_deadline(client, 0);
	client_set_state(client, CLIENT_READY);
	if (report != NULL)
	{
		/* A commit that fails ends the block, too. */
		reply_report(&client->out, report);
		session->chain = false;
		session_forget_transaction(session, true);
	}
	else
		session_forget_transaction(session, false);
	if (session->starting)
	{
		session->outcome = report != NULL ? COMMIT_FAILED : COMMIT_DONE;
		return;
	}
	session->after = AFTER_NOTHING;
	switch (after)
	{
		case AFTER_STATEMENT:
		case AFTER_QUERY:
			if (report != NULL)
			{
				end_query(session);
				break;
			}
			reply_complete(&client->out, session->tag);
			run_query(session);
			break;
		case AFTER_EXECUTE:
			extended_after_commit(session, report == NULL);
			break;
		case AFTER_SYNC:
			session_ready(session);
			break;
		case AFTER_NOTHING:
			break;
	}
	client_touch(client);
	client_input(client);
}

/* The client's message; it may have ended, or be waiting, afterwards. */
void
session_message(Client *client, const Packet *packet)
{
	static const Report no_function = {
		.sqlstate = "0A000",
		.message = "function calls by message are not possible here",
	};
	static const Report no_password = {
		.sqlstate = "08P01",
		.message = "unexpected password message",
	};
	Session    *session = client->session;

	switch (packet->type)
	{
		case 'Q':
			session->skip_to_sync = false;
			begin_query(session, packet);
			break;
		case 'P':
		case 'B':
		case 'D':
		case 'E':
		case 'C':
			session->in_batch = true;
			if (!session->skip_to_sync)
				extended_message(session, packet);
			break;
		case 'H':
			client_touch(client);
			break;
		case 'S':
			if (session->transaction != NULL && !session->transaction->block &&
				session_commit(session, AFTER_SYNC) == COMMIT_WAITS)
				return;
			if (session->transaction == NULL)
				extended_drop_portals(session);
			session_ready(session);
			break;
		case 'X':
			client_end(client, NULL, "closed: it has ended the session");
			break;
		case 'F':
			(void) session_fail(session, &no_function);
			session_ready(session);
			break;
		case 'c':
		case 'd':
		case 'f':
			/* What is left of a COPY that was refused. */
			break;
		default:
			client_end(client, &no_password, "ended: it has broken the protocol");
			break;
	}
}

/* The client asks to cancel what it waits for. */
void
session_cancel(Client *client)
{
	static const Report report = {
		.sqlstate = "57014",
		.message = "canceling statement due to user request",
	};

	if (client->session != NULL)
		(void) commit_cancel(client->session, &report);
}

/* The client has waited for the server long enough. */
void
session_timed_out(Client *client)
{
	if (client->session != NULL)
		commit_timed_out(client->session);
}

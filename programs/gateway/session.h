/*-------------------------------------------------------------------------
 *
 * session.h
 *	  What a client does once it has logged in.
 *
 * session.c takes messages and runs simple queries, extended.c the extended
 * protocol, execute.c one statement, commit.c a transaction's end, which may
 * wait for the server.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_SESSION_H
#define GATEWAY_SESSION_H

#include <stdbool.h>

#include "gateway/client.h"
#include "gateway/packet.h"
#include "gateway/statement.h"
#include "gateway/transaction.h"

/* Bytes that a session may have beyond its limit, to say that it gives up what it has. */
#define SESSION_SPARE (64 * 1024)

/* What goes on when a commit has ended that had to wait. */
typedef enum AfterCommit
{
	AFTER_NOTHING,				/* no commit waits */
	AFTER_STATEMENT,			/* COMMIT in a simple query: the next
								 * statement */
	AFTER_QUERY,				/* the end of a simple query */
	AFTER_EXECUTE,				/* COMMIT in the extended protocol */
	AFTER_SYNC
} AfterCommit;

/* How a statement, or a commit, has come out. */
typedef enum Outcome
{
	OUTCOME_DONE,
	OUTCOME_FAILED,				/* the client has been told */
	OUTCOME_COMMIT				/* the transaction is to be committed */
} Outcome;

/* How a commit has come out, as far as that is known at once. */
typedef enum CommitOutcome
{
	COMMIT_DONE,
	COMMIT_FAILED,				/* the client has been told */
	COMMIT_WAITS				/* session_commit_ended() will say */
} CommitOutcome;

struct Commit;
struct Extended;

typedef struct Session
{
	Client	   *client;
	SettingsPair settings;
	Settings   *told;			/* what the client knows of them */
	Transaction *transaction;	/* a block, or one with actions; or NULL */

	StatementList query;		/* the simple query that is being run */
	Statement  *next;			/* of it */
	bool		in_query;
	bool		in_batch;		/* extended messages since the last Sync */
	bool		skip_to_sync;
	struct Extended *extended;	/* prepared statements and portals, or NULL */

	struct Commit *commit;		/* what waits, or NULL */
	AfterCommit after;
	bool		starting;		/* in session_commit() */
	CommitOutcome outcome;		/* set while starting */
	bool		chain;			/* COMMIT AND CHAIN */
	char		tag[64];		/* of the statement that was run last */
} Session;

/* What a statement is run with. */
typedef struct Execution
{
	const BindValue *values;	/* of parameters */
	int			value_count;
	const uint16_t *formats;	/* of results: none, one for all, one for each */
	int			format_count;
	bool		describe;		/* say what the columns are */
} Execution;

extern void session_begin(Client *client);
extern void session_drop(Client *client);
extern void session_message(Client *client, const Packet *packet);
extern bool session_is_idle(const Client *client);
extern void session_cancel(Client *client);
extern void session_timed_out(Client *client);

/* session.c, for the others */
extern Outcome session_fail(Session *session, const Report *report);
extern bool session_check_text(Session *session, const char *text,
							   size_t length);
extern bool session_parse(Session *session, StatementList *list,
						  const char *text);
extern char session_status(const Session *session);
extern bool session_has_room(Session *session, size_t bytes);
extern void session_ready(Session *session);
extern void session_forget_transaction(Session *session, bool rollback);
extern CommitOutcome session_commit(Session *session, AfterCommit after);
extern Transaction *session_transaction(Session *session);

/* execute.c */
extern Outcome execute_statement(Session *session, const Statement *statement,
								 const Execution *execution);
extern void execute_describe(Session *session, const Statement *statement,
							 const Execution *execution);
extern bool statement_returns_row(const Statement *statement);

/* extended.c */
extern void extended_message(Session *session, const Packet *packet);
extern void extended_after_commit(Session *session, bool good);
extern void extended_drop_portals(Session *session);
extern bool extended_deallocate(Session *session, const char *name);
extern size_t extended_bytes(const Session *session);
extern void extended_free(Session *session);

/* commit.c */
extern bool commit_start(Session *session);
extern void commit_abandon(Session *session);
extern bool commit_leaves(const Client *client, const char *channel);
extern bool commit_cancel(Session *session, const Report *report);
extern void commit_echo(Client *client);
extern void commit_timed_out(Session *session);

/* session.c, for commit.c */
extern void session_commit_ended(Session *session, const Report *report);

#endif

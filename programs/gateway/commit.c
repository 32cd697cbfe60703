/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  What a transaction does at its end.
 *
 * A commit goes through these steps, and may wait in each of them:
 *
 * 1. Each channel that the client will listen to gets a pin.  Those that it leaves are
 *	  marked, and leave their room to these.  Where the server's subscription does
 *	  not have the channel yet, the commit waits until it has: a LISTEN that is
 *	  confirmed is effective.
 *
 * 2. The commit waits for a mark in the stream of events (marks.c), and then the
 *	  client becomes a member of these channels: so it gets nothing from before.
 *	  That is before anything is notified, so that a transaction that listens
 *	  and notifies hears itself.  A mark that does not come soon, as the queue is
 *	  full, is not waited for: the client may get older events, but misses none.
 *
 * 3. The notifications go to the server, in one transaction of the gateway's
 *	  session for commands, and the commit waits for the end of that.
 *
 * 4. If the client listens to a channel that it has notified, its own event is
 *	  to come before ReadyForQuery.  It comes through the subscription, on
 *	  another connection than the confirmation, so the commit waits for it.
 *
 * 5. The client leaves the channels that it listens to no more.
 *
 * Up to step 3 a commit can fail, and then steps 1 and 2 are undone.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/session.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/marks.h"
#include "gateway/quota.h"
#include "gateway/stream.h"

/* How long to wait for a mark, in seconds. */
#define MARK_SECONDS 2

typedef enum CommitStep
{
	COMMIT_CHANNELS,
	COMMIT_MARK,
	COMMIT_NOTIFY,
	COMMIT_ECHO
} CommitStep;

typedef struct Commit
{
	CommitStep	step;
	Session    *session;
	ChannelWait *waits;			/* one for each channel to listen to */
	bool	   *joined;			/* this commit has made the client a member */
	int			join_count;		/* of waits; the last one is not to be joined */
	int			wait_count;
	int			waiting;		/* waits whose channel is not effective */
	MarkWait	mark;
	HashTable	last;			/* Names: what the transaction does last with
								 * a channel */
	struct Name *names;			/* the same, in the order of the actions */
	Arena		arena;			/* of these */
	bool		leaves_others;	/* it leaves all others */
	bool		leaves_any;		/* members are marked so */
	Notices    *notices;		/* what is with the server, in COMMIT_NOTIFY */
} Commit;

/* Why a transaction that notifies cannot be handed to the server. */
static const Report full = {
	.sqlstate = "53400",
	.message = "too many transactions wait for the server",
	.hint = "The gateway's limits are max-commits, max-role-commits and commit-memory.",
};

/* A name in a table. */
typedef struct Name
{
	HashNode	node;
	const char *first;
	const char *second;
	bool		leaves;			/* an UNLISTEN's */
	struct Name *next;			/* that was put into the table before */
} Name;

/* The name in the table, or NULL; second may be NULL. */
static Name *
find_name(const HashTable *table, uint64_t hash, const char *first, const char *second)
{
	for (HashNode *node = hash_first(table, hash); node != NULL; node = hash_next(node))
	{
		Name	   *name = hash_container(Name, node, node);

		if (strcmp(name->first, first) == 0 &&
			(second == NULL || strcmp(name->second, second) == 0))
			return name;
	}
	return NULL;
}

/*
 * Put the pair of strings, of which the second may be NULL, into the table,
 * with memory of the arena; NULL if it is there.
 */
static Name *
remember(HashTable *table, Arena *arena, const char *first, const char *second)
{
	uint64_t	hash = hash_string(first) ^
		(second == NULL ? 0 : hash_string(second) * 31);
	Name	   *name = find_name(table, hash, first, second);

	if (name != NULL)
		return NULL;
	name = arena_get(arena, sizeof(Name));
	name->first = first;
	name->second = second;
	name->leaves = false;
	name->next = NULL;
	hash_insert(table, &name->node, hash);
	return name;
}

/* Find out what the transaction does last with each channel that it names. */
static void
read_actions(Commit *commit, const Transaction *transaction)
{
	for (int i = transaction->action_count - 1; i >= 0; i--)
	{
		const Action *action = &transaction->actions[i];
		Name	   *name;

		commit->leaves_others = action->kind == ACTION_UNLISTEN_ALL;
		if (commit->leaves_others)
			break;
		if (action->kind == ACTION_NOTIFY ||
			(name = remember(&commit->last, &commit->arena, action->channel, NULL)) == NULL)
			continue;
		name->leaves = action->kind == ACTION_UNLISTEN;
		name->next = commit->names;
		commit->names = name;
	}
}

/*
 * Mark those channels of the client's that it leaves, and set *left to what that gives;
 * returns how many these are.
 */
static int
mark_leaving(Commit *commit, QuotaLeft *left)
{
	const Client *client = commit->session->client;
	int			count = 0;

	for (const Name *name = commit->names; name != NULL && !commit->leaves_others; name = name->next)
	{
		Channel    *channel = name->leaves ? channel_find(name->first) : NULL;
		Member	   *member = channel == NULL ? NULL : member_find(client, channel);

		if (member == NULL)
			continue;
		member_leaves(member, true);
		quota_left(member->use, left);
		count++;
	}
	for (ListNode *node = client->members.next;
		 commit->leaves_others && node != &client->members; node = node->next)
	{
		Member	   *member = list_container(Member, link, node);

		if (!commit_leaves(client, member->channel->name))
			continue;
		member_leaves(member, true);
		quota_left(member->use, left);
		count++;
	}
	commit->leaves_any = count > 0;
	return count;
}

/* The members that are marked stay: the commit has not succeeded. */
static void
unmark_leaving(const Commit *commit)
{
	const Client *client = commit->session->client;

	if (!commit->leaves_any)
		return;
	for (ListNode *node = client->members.next; node != &client->members; node = node->next)
		member_leaves(list_container(Member, link, node), false);
}

/* Is the client a member of the channel of that name? */
static bool
is_member(const Client *client, const char *name)
{
	const Channel *channel = channel_find(name);

	return channel != NULL && member_find(client, channel) != NULL;
}

/*
 * The channels that the client will listen to by the transaction, with a pin on
 * each: those of its LISTENs after which no UNLISTEN names them.  The last is the
 * gateway's own channel, on which marks come.  NULL, or why there is no pin to be had.
 */
static const Report *
pin_channels(Commit *commit, const Transaction *transaction)
{
	static const Report too_many = {
		.sqlstate = "53400",
		.message = "too many channels",
		.hint = "The gateway's limit is max-channels.",
	};
	const Client *client = commit->session->client;
	QuotaLeft	left = {0};
	int64_t		count;

	commit->waits = memory_get_zeroed((transaction->listen_count + 1) * sizeof(ChannelWait));
	commit->joined = memory_get_zeroed(transaction->listen_count * sizeof(bool));
	read_actions(commit, transaction);
	count = client->member_count - mark_leaving(commit, &left);
	for (const Name *name = commit->names; name != NULL; name = name->next)
	{
		const Report *why;

		if (name->leaves)
			continue;
		if (!is_member(client, name->first) && ++count > limits.max_channels)
			return &too_many;
		why = channel_wait_pin(&commit->waits[commit->wait_count], client, name->first, &left);
		if (why != NULL)
			return why;
		commit->wait_count++;
	}
	commit->join_count = commit->wait_count;
	if (commit->join_count > 0)
		channel_wait_pin_own(&commit->waits[commit->wait_count++]);
	return NULL;
}

/* Forget the commit: its pins and what it waits for. */
static void
commit_free(Commit *commit)
{
	for (int i = 0; i < commit->wait_count; i++)
		channel_wait_unpin(&commit->waits[i]);
	unmark_leaving(commit);
	hash_free(&commit->last);
	arena_free(&commit->arena);
	mark_wait_end(&commit->mark);
	if (commit->notices != NULL)
		commands_forget(commit->notices);
	commit->session->commit = NULL;
	free(commit->waits);
	free(commit->joined);
	free(commit);
}

/* The commit has failed: undo what it has done, and tell the session. */
static void
commit_fail(Commit *commit, const Report *report)
{
	Session    *session = commit->session;

	for (int i = 0; i < commit->join_count; i++)
	{
		Member	   *member;

		if (!commit->joined[i])
			continue;
		member = member_find(session->client, commit->waits[i].channel);
		if (member != NULL)
			member_remove(member);
	}
	commit_free(commit);
	session_commit_ended(session, report);
}

/* Leave the channels that the client listens to no more. */
static void
leave_channels(Client *client, const Transaction *transaction,
			   const Commit *commit)
{
	HashTable	listening = {0};
	Arena		arena = {0};
	bool		all = false;

	for (int i = 0; i < commit->join_count; i++)
		(void) remember(&listening, &arena, commit->waits[i].channel->name, NULL);
	for (int i = 0; i < transaction->action_count; i++)
	{
		const Action *action = &transaction->actions[i];

		if (action->kind == ACTION_UNLISTEN_ALL)
			all = true;
		else if (action->kind == ACTION_UNLISTEN &&
				 remember(&listening, &arena, action->channel, NULL) != NULL)
		{
			Channel    *channel = channel_find(action->channel);
			Member	   *member = channel == NULL ? NULL :
				member_find(client, channel);

			if (member != NULL)
				member_remove(member);
		}
	}
	if (all)
	{
		ListNode   *next;

		for (ListNode *node = client->members.next; node != &client->members; node = next)
		{
			Member	   *member = list_container(Member, link, node);

			next = node->next;
			if (remember(&listening, &arena, member->channel->name, NULL) != NULL)
				member_remove(member);
		}
	}
	hash_free(&listening);
	arena_free(&arena);
}

/* All is done. */
static void
commit_finish(Commit *commit)
{
	Session    *session = commit->session;

	leave_channels(session->client, session->transaction, commit);
	commit_free(commit);
	session_commit_ended(session, NULL);
}

/* The server has committed what was notified, or not. */
static void
commit_notified(void *context, const Report *report)
{
	Commit	   *commit = context;
	Client	   *client = commit->session->client;

	commit->notices = NULL;
	if (report != NULL)
	{
		commit_fail(commit, report);
		return;
	}
	commit->step = COMMIT_ECHO;
	if (client_waits_for_echo(client))
		client_deadline(client, COMMIT_ECHO_SECONDS);
	else
		commit_finish(commit);
}

/*
 * Hand what the transaction notifies to the server, each notification once.
 * False if there is nothing.
 */
static bool
send_notices(Commit *commit, const Transaction *transaction)
{
	HashTable	seen = {0};
	Arena		arena = {0};
	Notices    *notices = NULL;

	for (int i = 0; i < transaction->action_count; i++)
	{
		const Action *action = &transaction->actions[i];

		if (action->kind != ACTION_NOTIFY ||
			remember(&seen, &arena, action->channel, action->payload) == NULL)
			continue;
		if (notices == NULL)
			notices = commands_begin(commit->session->client, commit_notified, commit);
		commands_add(notices, action->channel, action->payload);
	}
	hash_free(&seen);
	arena_free(&arena);
	if (notices == NULL)
		return false;
	commit->notices = notices;
	commands_send(notices);
	return true;
}

/* Does the session's transaction notify something for which there is no room now? */
static bool
has_no_room(const Session *session)
{
	const Transaction *transaction = session->transaction;

	if (!commands_are_full(client_owner(session->client)))
		return false;
	for (int i = 0; i < transaction->action_count; i++)
	{
		if (transaction->actions[i].kind == ACTION_NOTIFY)
			return true;
	}
	return false;
}

/*
 * All channels are effective: join them, and go on.  Others may have taken the room for
 * what is notified, while this one waited.
 */
static void
commit_join(Commit *commit)
{
	Session    *session = commit->session;
	Client	   *client = session->client;

	if (has_no_room(session))
	{
		commit_fail(commit, &full);
		return;
	}
	for (int i = 0; i < commit->join_count; i++)
	{
		if (member_find(client, commit->waits[i].channel) != NULL)
			continue;
		member_add(client, &commit->waits[i]);
		commit->joined[i] = true;
	}
	commit->step = COMMIT_NOTIFY;
	mark_wait_end(&commit->mark);
	client_deadline(client, limits.server_timeout);
	if (!send_notices(commit, session->transaction))
		commit_finish(commit);
}

/* The mark has come for which the client's commit waits. */
static void
commit_marked(MarkWait *wait, int64_t seq)
{
	(void) seq;
	commit_join(wait->client->session->commit);
}

/* All channels are effective: wait for a mark, if the client is to join any. */
static void
commit_wait_for_mark(Commit *commit)
{
	Client	   *client = commit->session->client;

	for (int i = 0; i < commit->join_count; i++)
	{
		if (member_find(client, commit->waits[i].channel) != NULL)
			continue;
		commit->step = COMMIT_MARK;
		client_deadline(client, MARK_SECONDS);
		mark_wait(&commit->mark, client, commit_marked);
		return;
	}
	commit_join(commit);
}

/* A channel has become effective; or cannot, and the report says why. */
static void
commit_channel_ready(ChannelWait *wait, const Report *report)
{
	Commit	   *commit = wait->client->session->commit;

	if (report != NULL)
		commit_fail(commit, report);
	else if (--commit->waiting == 0)
		commit_wait_for_mark(commit);
}

/* The last event has come back for which the client's commit waited. */
void
commit_echo(Client *client)
{
	Commit	   *commit = client->session == NULL ? NULL : client->session->commit;

	if (commit != NULL && commit->step == COMMIT_ECHO)
		commit_finish(commit);
}

/*
 * Begin to commit the session's transaction.  True if that is done already, as
 * nothing was to be waited for; else session_commit_ended() will be called.
 */
bool
commit_start(Session *session)
{
	Transaction *transaction = session->transaction;
	const Report *why;
	Commit	   *commit;

	if (transaction == NULL || transaction->action_count == 0)
		return true;
	commit = memory_get_zeroed(sizeof(Commit));
	commit->session = session;
	session->commit = commit;
	list_init(&commit->mark.link);
	why = pin_channels(commit, transaction);
	for (int i = 0; i < commit->wait_count; i++)
	{
		ChannelWait *wait = &commit->waits[i];

		if (why != NULL || wait->channel->state == CHANNEL_EFFECTIVE)
			continue;
		channel_wait(wait->channel, wait, session->client, commit_channel_ready);
		commit->waiting++;
	}
	client_deadline(session->client, limits.server_timeout);
	client_set_state(session->client, CLIENT_WAITING);
	if (why == NULL && has_no_room(session))
		why = &full;
	if (why != NULL)
		commit_fail(commit, why);
	else if (commit->waiting == 0)
		commit_wait_for_mark(commit);
	return false;
}

/* The client goes; what the server was asked to do, it does. */
void
commit_abandon(Session *session)
{
	if (session->commit != NULL)
		commit_free(session->commit);
}

/*
 * End the wait with that error, if that can still be: false once the server was
 * asked to commit.  A wait for the own event ends without an error.
 */
bool
commit_cancel(Session *session, const Report *report)
{
	Commit	   *commit = session->commit;

	if (commit == NULL)
		return false;
	switch (commit->step)
	{
		case COMMIT_CHANNELS:
		case COMMIT_MARK:
			commit_fail(commit, report);
			return true;
		case COMMIT_NOTIFY:
			if (!commands_withdraw(commit->notices))
				return false;
			commit->notices = NULL;
			commit_fail(commit, report);
			return true;
		case COMMIT_ECHO:
			client_forget_echoes(session->client);
			commit_finish(commit);
			return true;
	}
	return false;
}

/*
 * The client has waited long enough, for whatever it is.  What is with the server is
 * waited for further: its answer comes, or the connection is given up that brings no
 * answers at all.
 */
void
commit_timed_out(Session *session)
{
	static const Report away = {
		.sqlstate = "57P03",
		.message = "the server cannot be reached",
		.hint = "Try again.",
	};
	Commit	   *commit = session->commit;

	if (commit != NULL && commit->step == COMMIT_MARK)
		commit_join(commit);
	else if (!commit_cancel(session, &away))
		client_deadline(session->client, limits.server_timeout);
}

/*
 * Will the client, by what it commits, listen to the channel no more?  Then it
 * does not get what the same transaction has notified.
 */
bool
commit_leaves(const Client *client, const char *channel)
{
	const Commit *commit = client->session == NULL ? NULL : client->session->commit;
	const Name *name;

	if (commit == NULL)
		return false;
	name = find_name(&commit->last, hash_string(channel), channel, NULL);
	return name != NULL ? name->leaves : commit->leaves_others;
}

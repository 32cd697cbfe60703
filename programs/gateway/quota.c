/*-------------------------------------------------------------------------
 *
 * quota.c
 *	  See quota.h.
 *
 * 1. The server has room for a number of channels in each database, which all
 *	  subscriptions share.  So the gateway's clients have together
 *	  limits.max_total_channels of them at most, and those of one role
 *	  limits.max_role_channels.  Where these are 0, they are parts of what the
 *	  server has.
 *
 * 2. Clients with a token are one account for each subject, and those without one
 *	  are all one.
 *
 * 3. A channel counts for an account once, however many of its clients listen to it;
 *	  while any does, there is a ChannelUse with a pin for each.
 *
 * 4. A channel that nobody listens to stays in the subscription for a while, but not
 *	  where its room is needed.
 *
 * 5. A transaction may leave some channels and listen to others instead.  Those that it
 *	  leaves are its client's until it has succeeded, and count for all others until
 *	  then: it may fail.  For itself they do not, unless somebody else has them, too; but
 *	  no more than a part of the limit, by which the sum may so be above that for a
 *	  while.  Who wants a channel that is being left has it only where there is room for
 *	  it and for what is to come instead.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/quota.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/client.h"
#include "gateway/limits.h"
#include "gateway/stream.h"

/* A role, or a token's subject, that listens to something. */
typedef struct Account
{
	HashNode	node;			/* by name */
	int64_t		channels;		/* distinct ones */
	bool		is_token;
	char		name[];
} Account;

static HashTable accounts;
static HashTable uses;
static int64_t server_channels = 1024;

/* The server's pgpubsub.max_channels; 0: it does not say. */
void
quota_learn(int64_t count)
{
	if (count > 0)
		server_channels = count;
}

/* How many distinct channels all clients may listen to. */
static int64_t
total_limit(void)
{
	return limits.max_total_channels > 0 ? limits.max_total_channels :
		server_channels - (server_channels + 7) / 8;
}

/* And those of one account. */
static int64_t
account_limit(void)
{
	return limits.max_role_channels > 0 ? limits.max_role_channels :
		server_channels / 2;
}

/* The client's account, which is there while it has a use; else it is made. */
static Account *
find_account(const Client *client)
{
	Owner		owner = client_owner(client);
	uint64_t	hash = hash_string(owner.name) ^ owner.is_token;
	Account    *account;

	for (HashNode *node = hash_first(&accounts, hash); node != NULL; node = hash_next(node))
	{
		account = hash_container(Account, node, node);
		if (account->is_token == owner.is_token && strcmp(account->name, owner.name) == 0)
			return account;
	}
	account = memory_get_zeroed(sizeof(Account) + strlen(owner.name) + 1);
	strcpy(account->name, owner.name);
	account->is_token = owner.is_token;
	hash_insert(&accounts, &account->node, hash);
	return account;
}

/* Forget the account, if it listens to nothing. */
static void
forget_account(Account *account)
{
	if (account->channels > 0)
		return;
	hash_remove(&accounts, &account->node);
	free(account);
}

/* The hash by which the account's use of the channel is found. */
static uint64_t
use_hash(const Account *account, const Channel *channel)
{
	const void *pair[2] = {account, channel};

	return hash_bytes(pair, sizeof(pair));
}

/* The account's use of the channel, or NULL. */
static ChannelUse *
find_use(const Account *account, const Channel *channel)
{
	HashNode   *node = hash_first(&uses, use_hash(account, channel));

	for (; node != NULL; node = hash_next(node))
	{
		ChannelUse *use = hash_container(ChannelUse, node, node);

		if (use->account == account && use->channel == channel)
			return use;
	}
	return NULL;
}

/* Why nothing more can be listened to: that limit is reached. */
static const Report *
too_many(const char *whose, const char *limit, int64_t count)
{
	static char message[120];
	static char detail[120];
	static char hint[200];
	static const Report report = {
		.sqlstate = "53400",
		.message = message,
		.detail = detail,
		.hint = hint,
	};

	snprintf(message, sizeof(message), "too many channels of %s (%s)", whose, limit);
	snprintf(detail, sizeof(detail), "At most %lld distinct channels can be listened to.",
			 (long long) count);
	snprintf(hint, sizeof(hint),
			 "Listen to fewer, or raise the gateway's %s, and pgpubsub.max_channels of the server.",
			 limit);
	return &report;
}

/* How many channels there are but for the gateway's own. */
static int64_t
clients_channels(void)
{
	return (int64_t) channels_count() - (channel_find(subscription_name()) != NULL);
}

/* Do all who have pinned it leave? */
static bool
use_leaves(const ChannelUse *use)
{
	return use->leaving == use->count;
}

/* How many of those that are left do not count. */
static int64_t
part_of(int64_t left, int64_t limit)
{
	int64_t		most = limit / 8 + 1;

	return left < most ? left : most;
}

/*
 * May the account have the channel, of which it has the use, or none (NULL), and which is
 * there, or not (NULL)?  NULL, or why not.
 */
static const Report *
check(const Account *account, const ChannelUse *use, const Channel *channel,
	  const QuotaLeft *left)
{
	int64_t		limit = account_limit();
	int64_t		count = account->channels - (use != NULL);

	if (count - part_of(left->uses, limit) >= limit)
		return too_many(account->is_token ? "this token's subject" : "this role",
						"max-role-channels", limit);
	if (channel != NULL && !channel_leaves(channel))
		return NULL;
	limit = total_limit();
	do
		count = clients_channels() - (channel != NULL);
	while (count >= limit && channels_make_room());
	if (count - part_of(left->channels, limit) >= limit)
		return too_many("all clients of the gateway", "max-total-channels", limit);
	return NULL;
}

/* The client's use is left: add that to left, if nobody else has what it is of. */
void
quota_left(const ChannelUse *use, QuotaLeft *left)
{
	left->uses += use->count == 1;
	left->channels += use->channel->pins == 1;
}

/*
 * Pin the channel of that name for the client, until quota_release(); NULL, with *why
 * set to a report that lasts until the next call, if a limit is reached.  left is what
 * goes if the pin stays, or NULL.
 */
ChannelUse *
quota_take(const Client *client, const char *name, const QuotaLeft *left,
		   const Report **why)
{
	static const QuotaLeft nothing;
	Account    *account = find_account(client);
	Channel    *channel = channel_find(name);
	ChannelUse *use = channel == NULL ? NULL : find_use(account, channel);

	*why = NULL;
	if (use == NULL || use_leaves(use))
		*why = check(account, use, channel, left != NULL ? left : &nothing);
	if (*why != NULL)
	{
		forget_account(account);
		return NULL;
	}
	if (use != NULL)
	{
		quota_hold(use);
		return use;
	}
	use = memory_get_zeroed(sizeof(ChannelUse));
	use->account = account;
	use->channel = channel_pin(name);
	use->count = 1;
	account->channels++;
	hash_insert(&uses, &use->node, use_hash(account, use->channel));
	return use;
}

/* One pin more of the same. */
void
quota_hold(ChannelUse *use)
{
	use->count++;
	(void) channel_pin(use->channel->name);
}

/* One pin more goes when a commit ends, or does not after all. */
void
quota_leaves(ChannelUse *use, bool leaves)
{
	use->leaving += leaves ? 1 : -1;
	channel_pin_leaves(use->channel, leaves);
}

/* One less. */
void
quota_release(ChannelUse *use)
{
	Channel    *channel = use->channel;

	use->count--;
	if (use->count == 0)
	{
		hash_remove(&uses, &use->node);
		use->account->channels--;
		forget_account(use->account);
		free(use);
	}
	channel_unpin(channel);
}

/*
 * Have the wait pin the channel of that name for the client, see quota_take(); NULL, or why
 * that cannot be.
 */
const Report *
channel_wait_pin(ChannelWait *wait, const Client *client, const char *name,
				 const QuotaLeft *left)
{
	const Report *why = NULL;

	list_init(&wait->link);
	wait->use = quota_take(client, name, left, &why);
	wait->channel = wait->use == NULL ? NULL : wait->use->channel;
	return why;
}

/* Have the wait pin the gateway's own channel. */
void
channel_wait_pin_own(ChannelWait *wait)
{
	list_init(&wait->link);
	wait->use = NULL;
	wait->channel = channel_pin(subscription_name());
}

/* It waits no more, and has no pin. */
void
channel_wait_unpin(ChannelWait *wait)
{
	channel_wait_end(wait);
	if (wait->use != NULL)
		quota_release(wait->use);
	else
		channel_unpin(wait->channel);
}

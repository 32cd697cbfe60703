/*-------------------------------------------------------------------------
 *
 * quota.h
 *	  How many distinct channels a role's clients may listen to, and all clients.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_QUOTA_H
#define GATEWAY_QUOTA_H

#include <stdint.h>

#include "common/hash.h"
#include "gateway/channels.h"

struct Account;

/* A channel that a role's clients listen to, or are about to: it has that many pins. */
typedef struct ChannelUse
{
	HashNode	node;			/* by account and channel */
	struct Account *account;
	Channel    *channel;
	int			count;
	int			leaving;		/* pins that go when a commit ends */
} ChannelUse;

/*
 * Distinct channels that a transaction leaves, and that nobody else has: of the client's
 * account, and of all clients.
 */
typedef struct QuotaLeft
{
	int64_t		uses;
	int64_t		channels;
} QuotaLeft;

extern void quota_learn(int64_t server_channels);
extern void quota_left(const ChannelUse *use, QuotaLeft *left);
extern ChannelUse *quota_take(const struct Client *client, const char *name,
							  const QuotaLeft *left, const Report **why);
extern void quota_hold(ChannelUse *use);
extern void quota_release(ChannelUse *use);
extern void quota_leaves(ChannelUse *use, bool leaves);

extern const Report *channel_wait_pin(ChannelWait *wait, const struct Client *client,
									  const char *name, const QuotaLeft *left);
extern void channel_wait_pin_own(ChannelWait *wait);
extern void channel_wait_unpin(ChannelWait *wait);

#endif

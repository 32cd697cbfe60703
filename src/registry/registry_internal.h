/*-------------------------------------------------------------------------
 *
 * registry_internal.h
 *	  What the files of the registry share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_REGISTRY_INTERNAL_H
#define PGPUBSUB_REGISTRY_INTERNAL_H

#include "registry/registry.h"

#include "utils/hsearch.h"

typedef struct ChannelKey
{
	char		name[NAMEDATALEN];
	bool		is_pattern;
} ChannelKey;

typedef struct ChannelEntry
{
	ChannelKey	key;
	int			slot;
} ChannelEntry;

typedef struct SubscriptionKey
{
	Oid			database;
	char		name[NAMEDATALEN];
} SubscriptionKey;

typedef struct SubscriptionEntry
{
	SubscriptionKey key;
	int			slot;
} SubscriptionEntry;

/* Names of channels, one hash per database; guarded by its lock. */
extern HTAB **registry_channel_hashes;

/* Names of subscriptions; guarded by the subscription lock. */
extern HTAB *registry_subscription_hash;

/* Buckets of each database's hash of bindings; a power of two. */
extern int	registry_num_buckets(void);

extern void registry_forget_channels(Database *database);

#endif							/* PGPUBSUB_REGISTRY_INTERNAL_H */

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

/* shmem.c */
extern int	registry_num_buckets(void);
extern void registry_init_stats(SubscriptionStats *stats);
extern void registry_forget_log(Database *database);
extern void registry_reset_log_counts(Database *database);

/* Put the channel at the end of one of the lists of ChannelTable. */
static inline void
move_channel(Channel *channel, dlist_head *list)
{
	dlist_delete(&channel->node);
	dlist_push_tail(list, &channel->node);
}

/* Have the relay look at the channel when it handles the next request. */
static inline void
note_changed(Channel *channel)
{
	if (channel->changed)
		return;
	channel->changed = true;
	dlist_push_tail(&channel->database->table.changed_channels,
					&channel->changed_node);
}

/* channel_table.c */
extern void registry_forget_channels(Database *database);

/* subscriptions.c; database->lock held, exclusive to bind */
extern Binding *registry_find_binding(Subscription *subscription,
									  int channel);
extern Binding *registry_bind(Database *database, Subscription *subscription,
							  int channel, uint32 flags);

/* waiting_readers.c; database->lock held, exclusive to expel */
extern void registry_wake_waiting(Database *database,
								  Subscription *subscription);
extern void registry_await_binding(Database *database, Binding *binding);
extern void registry_expel_waiting(Database *database,
								   Subscription *subscription);
extern void registry_expel_binding(Database *database, Binding *binding);

#endif							/* PGPUBSUB_REGISTRY_INTERNAL_H */

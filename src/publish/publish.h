/*-------------------------------------------------------------------------
 *
 * publish.h
 *	  Publishing an event in the current transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_PUBLISH_H
#define PGPUBSUB_PUBLISH_H

#include "base/pgpubsub.h"

/*
 * A publisher's cached knowledge of one channel: where its slot in shared
 * memory is.  Zero-initialize it but for the name, keep it as long as you
 * like (per trigger, say) and pass the same one each time: that makes the
 * usual event cost no look-up.
 */
typedef struct PublishChannel
{
	char		name[NAMEDATALEN];
	struct Database *database;
	uint32		database_generation;
	uint32		channel_generation;
	int			slot;
	bool		resolved;
	int			mode;			/* PublishMode, or PUBLISH_MODE_SETTING */
	uint32		version;		/* of the channel table that had no room */
} PublishChannel;

extern void publish_channel_init(PublishChannel *channel, const char *name);
extern void publish_event(PublishChannel *channel, const char *id,
						  const char *payload, Size len,
						  const char *native_payload);
extern void publish_count_truncated(PublishChannel *channel);
extern uint64 publish_next_event_number(void);
extern Size publish_payload_limit(void);
extern Size publish_max_payload(void);
extern bool publish_channel_reserved(const char *name);
extern void publish_channel_known(const char *name);

/* for transaction.c */
extern void publish_pre_commit(void);
extern void publish_pre_prepare(void);
extern void publish_at_end(bool commit);
extern void publish_at_subcommit(int level);
extern void publish_at_subabort(int level);

#endif							/* PGPUBSUB_PUBLISH_H */

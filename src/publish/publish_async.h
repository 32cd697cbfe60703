/*-------------------------------------------------------------------------
 *
 * publish_async.h
 *	  Events that go through the staging queue.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_PUBLISH_ASYNC_H
#define PGPUBSUB_PUBLISH_ASYNC_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

/* Publishes an event as a NOTIFY of this transaction. */
typedef void (*PublishNow) (const char *channel, const char *id,
							const char *payload, Size len,
							const char *native);

extern bool async_add(Database *database, const char *channel,
					  const char *id, const char *payload, Size len,
					  const char *native);
extern void async_pre_commit(PublishNow publish_now);
extern bool async_any(void);
extern void async_at_end(bool commit);
extern void async_at_subcommit(int level);
extern void async_at_subabort(int level);

#endif							/* PGPUBSUB_PUBLISH_ASYNC_H */

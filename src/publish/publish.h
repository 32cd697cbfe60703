/*-------------------------------------------------------------------------
 *
 * publish.h
 *	  Publishing: what this room offers to the others.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_PUBLISH_H
#define PGPUBSUB_PUBLISH_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

/* for the relay: the longest payload, and the turn to append to the ring */
extern Size publish_payload_limit(void);
extern void commit_append_count(Database *database, int pid);
extern void commit_append_give_turn(Database *database);
extern void commit_append_take_turn(Database *database);

/* for transaction.c */
extern void publish_pre_commit(void);
extern void publish_pre_prepare(void);
extern void publish_at_end(bool commit);
extern void publish_at_subcommit(int level);
extern void publish_at_subabort(int level);

#endif							/* PGPUBSUB_PUBLISH_H */

/*-------------------------------------------------------------------------
 *
 * commit_append.h
 *	  Appending to the ring at commit, without the relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_COMMIT_APPEND_H
#define PGPUBSUB_COMMIT_APPEND_H

#include "registry/registry.h"

extern bool commit_append(Database *database, uint32 generation,
						  StagedTransaction *place);
extern void commit_append_count(Database *database, int pid);
extern void commit_append_give_turn(Database *database);
extern void commit_append_take_turn(Database *database);

#endif							/* PGPUBSUB_COMMIT_APPEND_H */

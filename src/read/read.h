/*-------------------------------------------------------------------------
 *
 * read.h
 *	  Subscriptions: what the relay, the server's hooks and the ends of
 *	  transactions need of this room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_READ_H
#define PGPUBSUB_READ_H

#include "base/pgpubsub.h"

#include "nodes/pg_list.h"

/* for transaction.c, which says when each is called */
extern void read_pre_commit(void);
extern void read_pre_prepare(void);
extern void read_at_commit(void);
extern void read_at_abort(void);
extern void read_at_subcommit(int level);
extern void read_at_subabort(int level);

/* subscription_changes.c */
extern void subscription_table_written(void);
extern void discard_temporary_subscriptions(void);

/* subscription_table.c */
extern Oid	subscription_table_find(void);
extern void subscription_table_check_schema(void);
extern void subscription_table_read(const char *sql, int nargs, Oid *types,
									Datum *values, bool read_only);
extern bool subscription_table_knows_origin(void);
extern bool subscription_table_has_ids(void);
extern bool subscription_table_adopt(const char *name);
extern void subscription_table_delete(const char *name, bool at_once);
extern bool subscription_table_drop_owned(List *roles);
extern bool subscription_table_reassign_owned(List *roles, Oid new_owner);

/* subscription_channels.c */
extern Oid	subscription_channels_find(void);

/* subscription_triggers.c */
extern void replication_warn(const char *publication);

#endif							/* PGPUBSUB_READ_H */

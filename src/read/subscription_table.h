/*-------------------------------------------------------------------------
 *
 * subscription_table.h
 *	  Writing the table of subscriptions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_SUBSCRIPTION_TABLE_H
#define PGPUBSUB_SUBSCRIPTION_TABLE_H

#include "base/pgpubsub.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/array.h"

extern Oid	subscription_table_find(void);
extern Oid	subscription_table_oid(void);
extern void subscription_table_check_schema(void);
extern Oid	subscription_table_lock(void);
extern void subscription_table_read(const char *sql, int nargs, Oid *types,
									Datum *values, bool read_only);
extern bool subscription_table_has(const char *name);
extern void subscription_table_expect(const char *name);
extern bool subscription_table_writing(void);
extern void subscription_table_insert(const char *name, ArrayType *channels,
									  const char *on_full,
									  TimestampTz created_at);
extern void subscription_table_put_back(Oid row_type, Datum row);
extern void subscription_table_update(const char *name, ArrayType *channels,
									  const char *on_full);
extern void subscription_table_delete(const char *name, bool at_once);
extern bool subscription_table_knows_origin(void);
extern bool subscription_table_adopt(const char *name);
extern bool subscription_table_delete_unread(const char *name);
extern bool subscription_table_drop_owned(List *roles);
extern bool subscription_table_reassign_owned(List *roles, Oid new_owner);

#endif							/* PGPUBSUB_SUBSCRIPTION_TABLE_H */

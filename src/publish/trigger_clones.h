/*-------------------------------------------------------------------------
 *
 * trigger_clones.h
 *	  Triggers that were cloned from a parent table's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_TRIGGER_CLONES_H
#define PGPUBSUB_TRIGGER_CLONES_H

#include "base/compat.h"

#include "nodes/pg_list.h"
#include "utils/reltrigger.h"

extern Oid	trigger_clone_root(const Trigger *trigger, Oid relation,
							   List **tables);
extern List *trigger_clones_on_children(Oid relation, const char *name);
extern bool is_hypertable(Oid relation);

#endif							/* PGPUBSUB_TRIGGER_CLONES_H */

/*-------------------------------------------------------------------------
 *
 * trigger_condition.h
 *	  The condition of a trigger, given as text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_TRIGGER_CONDITION_H
#define PGPUBSUB_TRIGGER_CONDITION_H

#include "base/compat.h"

#include "nodes/nodes.h"
#include "utils/relcache.h"

typedef struct Condition
{
	const char *text;
	Node	   *expression;		/* raw parse tree */
	bool		names_old;
	bool		names_new;
} Condition;

extern Condition *condition_parse(const char *text);
extern Node *condition_analyze(Condition *condition, Relation rel);
extern void condition_error_context(void *arg);

#endif							/* PGPUBSUB_TRIGGER_CONDITION_H */

/*-------------------------------------------------------------------------
 *
 * channel_lists.h
 *	  Binding a subscription to a list of channel names and patterns.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_CHANNEL_LISTS_H
#define PGPUBSUB_CHANNEL_LISTS_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

#include "utils/array.h"

typedef enum BindResult
{
	BIND_DONE,
	BIND_NO_SUBSCRIPTION,		/* the pool of subscriptions is empty */
	BIND_NO_CHANNEL,			/* the table of channels is full */
	BIND_NO_BINDING				/* the pool of bindings is empty */
} BindResult;

/* A binding as a change of its subscription has found it. */
typedef struct FoundBinding
{
	int			slot;			/* its channel's */
	Binding    *binding;		/* NULL: there was none */
	uint32		flags;
} FoundBinding;

/* What a change that is not committed has found. */
typedef struct FoundBindings
{
	FoundBinding *bindings;		/* room for what the change may touch */
	int			count;
	bool		all;			/* all that there were; else those to the
								 * channels that the change names */
} FoundBindings;

/*
 * database->lock held, exclusive to change bindings; but for the first and
 * last
 */
extern char **bindings_parse(ArrayType *array, int elevel, int *count);
extern BindResult bindings_add(Database *database, Subscription *subscription,
							   char **names, int count, uint32 flag,
							   FoundBindings *found);
extern void bindings_find_named(Database *database,
								Subscription *subscription,
								char **names, int count, bool *has);
extern int	bindings_drop(Database *database, Subscription *subscription,
						  char **names, int count, FoundBindings *found,
						  bool *dropped);
extern void bindings_mark_dropped(Database *database,
								  Subscription *subscription,
								  char **names, int count);
extern bool bindings_same(Database *database, Subscription *subscription,
						  char **names, int count);
extern void bindings_find_slots(Database *database, char **names, int count,
								int *slots);
extern void bindings_order(Database *database, Subscription *subscription,
						   const int *slots, int count);
extern void binding_place_now(Database *database, Binding *binding);
extern void bindings_place_now(Database *database,
							   Subscription *subscription);
extern void bindings_place_found(Database *database,
								 Subscription *subscription,
								 const FoundBindings *found);
extern void bindings_find_all(Subscription *subscription,
							  FoundBindings *found);
extern void bindings_commit(Database *database, Subscription *subscription,
							const FoundBindings *found);
extern void bindings_undo(Database *database, Subscription *subscription,
						  const FoundBindings *found);
extern bool bindings_any_pattern(char **names, int count);
extern void bindings_report(BindResult result, int elevel);

#endif							/* PGPUBSUB_CHANNEL_LISTS_H */

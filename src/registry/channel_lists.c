/*-------------------------------------------------------------------------
 *
 * channel_lists.c
 *	  Binding a subscription to a list of channel names and patterns.
 *
 * A list is what subscribe() was given, whose changes are marked until they
 * are committed, or what the relay has found in the table.  A name has 1 to 63
 * bytes; a wildcard makes it a pattern.  A name binds to its channel; a
 * pattern binds to itself, so that new channels find it, and to every known
 * channel that it matches.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/channel_lists.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "registry/registry_internal.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"

/* Report what is wrong with the array; true if nothing is. */
static bool
check_array(ArrayType *array, int elevel)
{
	if (ARR_NDIM(array) > 1)
		ereport(elevel,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("channels must be a one-dimensional array"),
				 errhint("Write for instance '{orders,audit_*}'.")));
	else if (ARR_NDIM(array) == 0)
		ereport(elevel,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("channels cannot be empty"),
				 errhint("Name at least one channel, for instance '{orders}', or '{*}' for all.")));
	else if (array_contains_nulls(array))
		ereport(elevel,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("channel name cannot be null"),
				 errhint("Give names of 1 to %d bytes.",
						 PGPUBSUB_CHANNEL_MAX)));
	else
		return true;
	return false;
}

/*
 * The names in a text array, without repetitions, in the current memory
 * context.  What is wrong with it is reported at elevel, and the result then
 * NULL.
 */
char	  **
bindings_parse(ArrayType *array, int elevel, int *count)
{
	Datum	   *elements;
	char	  **names;
	int			nelements;
	HASHCTL		ctl = {0};
	HTAB	   *seen;

	*count = 0;
	if (!check_array(array, elevel))
		return NULL;
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  NULL, &nelements);
	if (nelements > pgpubsub_max_channels)
	{
		bindings_report(BIND_NO_CHANNEL, elevel);
		return NULL;
	}
	names = palloc(nelements * sizeof(char *));
	ctl.keysize = ctl.entrysize = NAMEDATALEN;
	ctl.hcxt = CurrentMemoryContext;
	seen = hash_create("pgpubsub channel names", nelements, &ctl,
					   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	for (int i = 0; i < nelements; i++)
	{
		char	   *name = TextDatumGetCString(elements[i]);
		bool		repeated;

		CHECK_FOR_INTERRUPTS();
		if (!pgpubsub_check_channel_name(name, elevel))
		{
			hash_destroy(seen);
			return NULL;
		}
		(void) hash_search(seen, name, HASH_ENTER, &repeated);
		if (!repeated)
			names[(*count)++] = name;
	}
	hash_destroy(seen);
	return names;
}

/* Bind to the channel, or have the binding stay if there is one. */
static BindResult
bind_channel(Database *database, Subscription *subscription, int channel,
			 uint32 flags)
{
	Binding    *binding = registry_find_binding(subscription, channel);

	if (binding == NULL)
		return registry_bind(database, subscription, channel, flags) ?
			BIND_DONE : BIND_NO_BINDING;
	binding->flags |= flags & (BINDING_BY_NAME | BINDING_BY_PATTERN);
	binding->flags &= ~BINDING_DROPPED;
	return BIND_DONE;
}

/* Is the channel known: named by a subscription, or used by a publisher? */
static bool
is_known(Channel *channel)
{
	return channel->in_use && !channel->is_pattern &&
		(pg_atomic_read_u32(&channel->nbindings) > 0 ||
		 pg_atomic_read_u32(&channel->used) != 0);
}

/* Bind to all known channels that the pattern matches. */
static BindResult
bind_known(Database *database, Subscription *subscription,
		   const char *pattern, uint32 flag)
{
	BindResult	result = BIND_DONE;

	for (int i = 0; i < pgpubsub_max_channels && result == BIND_DONE; i++)
	{
		Channel    *channel = &database->channels[i];

		if (is_known(channel) &&
			registry_pattern_matches(pattern, channel->name))
			result = bind_channel(database, subscription, i,
								  BINDING_BY_PATTERN | flag);
	}
	return result;
}

/*
 * Bind the subscription to all the names; bindings that it gets have no
 * position yet, and flag (BINDING_ADDED or 0).  What was done before a failure
 * stays.
 */
BindResult
bindings_add(Database *database, Subscription *subscription, char **names,
			 int count, uint32 flag)
{
	BindResult	result = BIND_DONE;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	for (int i = 0; i < count && result == BIND_DONE; i++)
	{
		bool		is_pattern = registry_is_pattern(names[i]);
		int			channel = registry_make_channel(database, names[i],
													is_pattern);

		if (channel < 0)
			return BIND_NO_CHANNEL;
		result = bind_channel(database, subscription, channel,
							  BINDING_BY_NAME | flag);
		if (result == BIND_DONE && is_pattern)
			result = bind_known(database, subscription, names[i], flag);
	}
	return result;
}

/*
 * The subscription's binding to the channel, or pattern, of that name; or
 * NULL.
 */
static Binding *
find_named(Database *database, Subscription *subscription, const char *name)
{
	int			channel = registry_find_channel(database, name,
												registry_is_pattern(name));

	return channel < 0 ? NULL : registry_find_binding(subscription, channel);
}

/* Does one of the subscription's patterns that are named match the channel? */
static bool
named_pattern_matches(Database *database, Subscription *subscription,
					  Binding *binding)
{
	Channel    *channel = &database->channels[binding->channel];

	if (channel->is_pattern)
		return false;
	foreach_dlist(Binding, pattern, pattern_node, &subscription->patterns)
	{
		if ((pattern->flags & BINDING_BY_NAME) &&
			registry_pattern_matches(database->channels[pattern->channel].name,
									 channel->name))
			return true;
	}
	return false;
}

/*
 * Set the flags of the subscription's bindings to what the names make of them:
 * by name, by pattern, or to be dropped.
 */
void
bindings_mark_dropped(Database *database, Subscription *subscription,
					  char **names, int count)
{
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
		binding->flags &= BINDING_ADDED;
	for (int i = 0; i < count; i++)
	{
		Binding    *binding = find_named(database, subscription, names[i]);

		if (binding != NULL)
			binding->flags |= BINDING_BY_NAME;
	}
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		if (named_pattern_matches(database, subscription, binding))
			binding->flags |= BINDING_BY_PATTERN;
		if (!(binding->flags & (BINDING_BY_NAME | BINDING_BY_PATTERN)))
			binding->flags |= BINDING_DROPPED;
	}
	subscription->bindings_version++;
}

/* True if the names are just those that the subscription has. */
bool
bindings_same(Database *database, Subscription *subscription, char **names,
			  int count)
{
	int			named = 0;

	Assert(LWLockHeldByMe(database->lock));
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
		named += (binding->flags & BINDING_BY_NAME) != 0;
	if (named != count)
		return false;
	for (int i = 0; i < count; i++)
	{
		Binding    *binding = find_named(database, subscription, names[i]);

		if (binding == NULL || !(binding->flags & BINDING_BY_NAME))
			return false;
	}
	return true;
}

/* The slots of the channels, or patterns, of these names; -1 for none. */
void
bindings_find_slots(Database *database, char **names, int count, int *slots)
{
	Assert(LWLockHeldByMe(database->lock));
	for (int i = 0; i < count; i++)
		slots[i] = registry_find_channel(database, names[i],
										 registry_is_pattern(names[i]));
}

/*
 * Bring the subscription's bindings to these slots into their order, in which
 * the views show them.  A slot without a binding is passed over.
 */
void
bindings_order(Database *database, Subscription *subscription,
			   const int *slots, int count)
{
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	for (int i = 0; i < count; i++)
	{
		Binding    *binding = registry_find_binding(subscription, slots[i]);

		if (binding == NULL)
			continue;
		dlist_delete(&binding->subscription_node);
		dlist_push_tail(&subscription->bindings, &binding->subscription_node);
	}
}

/* Give the binding a position behind the last event received. */
void
binding_place_now(Database *database, Binding *binding)
{
	Channel    *channel = &database->channels[binding->channel];
	uint64		received = pg_atomic_read_u64(&channel->received);
	uint64		number;
	uint64		logged;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	ring_counts(database->ring, binding->channel, &number, &logged);
	registry_set_position(binding, received,
						  ring_newest_position(database->ring,
											   binding->channel, received),
						  logged, ring_newest_seq(database->ring));
}

/* Give bindings without a position one behind the last event received. */
void
bindings_place_now(Database *database, Subscription *subscription)
{
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		if (pg_atomic_read_u64(&binding->number) == BINDING_UNPLACED)
			binding_place_now(database, binding);
	}
}

/* Report at elevel what was full, if anything.  No LWLock may be held. */
void
bindings_report(BindResult result, int elevel)
{
	const char *what = "subscriptions";
	const char *setting = "pgpubsub.max_subscriptions";
	int			value = pgpubsub_max_subscriptions;

	if (result == BIND_DONE)
		return;
	if (result == BIND_NO_BINDING)
		what = "channels of subscriptions";
	else if (result == BIND_NO_CHANNEL)
	{
		what = "channels";
		setting = "pgpubsub.max_channels";
		value = pgpubsub_max_channels;
	}
	ereport(elevel,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("too many %s", what),
			 errdetail("%s is %d.", setting, value),
			 errhint("Raise %s and restart the server, or drop subscriptions that nobody reads.",
					 setting)));
}

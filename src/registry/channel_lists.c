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
 * A change of some names notes how the bindings to these were before, so that
 * its commit or rollback costs by those names; if a pattern is among them, it
 * notes all bindings of the subscription.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/channel_lists.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "registry/holders.h"
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

/* Note how the subscription's binding to the channel is, or that it has none. */
static void
note_found(Subscription *subscription, int channel, FoundBindings *found)
{
	FoundBinding *noted = &found->bindings[found->count++];

	noted->slot = channel;
	noted->binding = registry_find_binding(subscription, channel);
	noted->flags = noted->binding ? noted->binding->flags : 0;
}

/*
 * Bind the subscription to all the names; bindings that it gets have no
 * position yet, and flag (BINDING_ADDED or 0).  What was done before a failure
 * stays.  How the bindings to the names were before is noted in found, unless
 * that is NULL or has them all already.
 */
BindResult
bindings_add(Database *database, Subscription *subscription, char **names,
			 int count, uint32 flag, FoundBindings *found)
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
		if (found != NULL && !found->all)
			note_found(subscription, channel, found);
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

/* Which of the names are just now among those that the subscription has. */
void
bindings_find_named(Database *database, Subscription *subscription,
					char **names, int count, bool *has)
{
	Assert(LWLockHeldByMe(database->lock));
	for (int i = 0; i < count; i++)
	{
		Binding    *binding = find_named(database, subscription, names[i]);

		has[i] = binding != NULL && (binding->flags & BINDING_BY_NAME);
	}
}

/* Have the binding go, unless a pattern that is left matches its channel. */
static void
drop_unless_matched(Database *database, Subscription *subscription,
					Binding *binding)
{
	if (named_pattern_matches(database, subscription, binding))
		binding->flags |= BINDING_BY_PATTERN;
	else
		binding->flags |= BINDING_DROPPED;
}

/*
 * Mark what the names alone bind the subscription to as dropped.  Returns how
 * many of the names it had; dropped tells of each whether it did.  How the
 * bindings were before is noted in found; it must have all of them already if
 * there is a pattern among the names.
 */
int
bindings_drop(Database *database, Subscription *subscription, char **names,
			  int count, FoundBindings *found, bool *dropped)
{
	int			result = 0;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	Assert(found->all || !bindings_any_pattern(names, count));
	bindings_find_named(database, subscription, names, count, dropped);
	for (int i = 0; i < count; i++)
	{
		Binding    *binding;

		if (!dropped[i])
			continue;
		binding = find_named(database, subscription, names[i]);
		if (!found->all)
			note_found(subscription, binding->channel, found);
		binding->flags &= ~BINDING_BY_NAME;
		result++;
	}
	if (found->all)
	{
		foreach_dlist(Binding, binding, subscription_node,
					  &subscription->bindings)
		{
			if (!(binding->flags & BINDING_BY_NAME))
				drop_unless_matched(database, subscription, binding);
		}
		return result;
	}
	for (int i = 0; i < found->count; i++)
		drop_unless_matched(database, subscription,
							found->bindings[i].binding);
	return result;
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

/*
 * Give the binding a position behind the last event received.  Positions in the
 * log that were written before do not know of it.
 */
void
binding_place_now(Database *database, Binding *binding)
{
	Channel    *channel = &database->channels[binding->channel];
	uint64		seq = ring_newest_seq(database->ring);
	uint64		received;
	uint64		number;
	uint64		logged;

	/*
	 * In this order: an event that is appended meanwhile is read from the
	 * log, if it is there.  In the other it would count as consumed in the
	 * log and as pending in the ring, and be passed over.
	 */
	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	ring_counts(database->ring, binding->channel, &number, &logged);
	received = pg_atomic_read_u64(&channel->received);
	binding->known_from =
		pg_atomic_read_u64(&binding->subscription->position_version) + 1;
	registry_set_position(binding, received,
						  ring_newest_position(database->ring,
											   binding->channel, received),
						  logged, seq);
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

/* Give those of the bindings a position that have none, as above. */
void
bindings_place_found(Database *database, Subscription *subscription,
					 const FoundBindings *found)
{
	if (found->all)
		bindings_place_now(database, subscription);
	for (int i = 0; i < found->count && !found->all; i++)
	{
		Binding    *binding = registry_find_binding(subscription,
													found->bindings[i].slot);

		if (pg_atomic_read_u64(&binding->number) == BINDING_UNPLACED)
			binding_place_now(database, binding);
	}
}

/*
 * Note all bindings of the subscription as they are.  There is room for all of
 * them.
 */
void
bindings_find_all(Subscription *subscription, FoundBindings *found)
{
	found->all = true;
	foreach_dlist(Binding, binding, subscription_node, &subscription->bindings)
	{
		FoundBinding *noted = &found->bindings[found->count++];

		noted->slot = binding->channel;
		noted->binding = binding;
		noted->flags = binding->flags;
	}
}

/* The change of the binding stands; NULL if the binding is gone already. */
static void
commit_binding(Database *database, Binding *binding)
{
	if (binding == NULL)
		return;
	if (binding->flags & BINDING_DROPPED)
		registry_unbind(database, binding);
	else if (binding->flags & BINDING_ADDED)
	{
		registry_binding_committed(database, binding);
		hold_start_binding(database, binding);
	}
}

/*
 * A change is committed: the bindings that it has marked as dropped go, and
 * those that it has added are there for everybody.  Another change of the same
 * transaction may have done that before.
 */
void
bindings_commit(Database *database, Subscription *subscription,
				const FoundBindings *found)
{
	dlist_mutable_iter iter;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	for (int i = 0; i < found->count && !found->all; i++)
		commit_binding(database,
					   registry_find_binding(subscription,
											 found->bindings[i].slot));
	if (!found->all)
		return;
	dlist_foreach_modify(iter, &subscription->bindings)
		commit_binding(database, dlist_container(Binding, subscription_node,
												 iter.cur));
}

/* The change of the binding is undone; NULL if it never came to one. */
static void
undo_binding(Database *database, Binding *binding)
{
	if (binding == NULL)
		return;
	if (binding->flags & BINDING_MARKED)
		binding->flags &= ~BINDING_MARKED;
	else if (binding->flags & BINDING_ADDED)
		registry_unbind(database, binding);
	else
		binding->flags &= ~BINDING_DROPPED; /* a pattern's, made meanwhile */
}

/*
 * A change is rolled back: the bindings that it added go, the others are as it
 * has found them.
 */
void
bindings_undo(Database *database, Subscription *subscription,
			  const FoundBindings *found)
{
	dlist_mutable_iter iter;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));

	/* they are there: while the change is open nobody removes any */
	for (int i = 0; i < found->count; i++)
	{
		const FoundBinding *noted = &found->bindings[i];

		if (noted->binding != NULL)
			noted->binding->flags = noted->flags | BINDING_MARKED;
	}
	for (int i = 0; i < found->count && !found->all; i++)
		undo_binding(database,
					 registry_find_binding(subscription,
										   found->bindings[i].slot));
	if (!found->all)
		return;
	dlist_foreach_modify(iter, &subscription->bindings)
		undo_binding(database, dlist_container(Binding, subscription_node,
											   iter.cur));
	registry_prune(database, subscription);
}

/* Is there a pattern among the names? */
bool
bindings_any_pattern(char **names, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (registry_is_pattern(names[i]))
			return true;
	}
	return false;
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

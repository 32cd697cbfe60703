/*-------------------------------------------------------------------------
 *
 * apply_rules.c
 *	  Which channels in shared memory are durable.
 *
 * Writers go by the rules themselves.  What is in shared memory says who holds
 * the ring, who is told of a gap, and how long the log keeps events.  The relay
 * brings it in line with the rules when these, or the channels known, have
 * changed.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "miscadmin.h"
#include "storage/proc.h"
#include "registry/holders.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* How long to wait for a lock on the rules or the log, in ms. */
#define LOCK_WAIT_MS	100

/* What has failed is tried again after so long. */
#define RETRY_MS		500

/* A channel, and what the rules say of it. */
typedef struct ChannelRule
{
	int			slot;
	bool		in_use;
	bool		is_pattern;
	bool		durable;
	int64		retain;			/* us */
	char		name[NAMEDATALEN];
} ChannelRule;

static RelayDurable *const durable = &relay.durable;

/*
 * Copy the channels, all or those that have changed; returns how many slots
 * that are.
 */
static ChannelRule *
copy_channels(bool all, int *count)
{
	Database   *database = relay.database;
	ChannelRule *rules;

	*count = all ? pgpubsub_max_channels : durable->changed.count;
	rules = palloc0(Max(*count, 1) * sizeof(ChannelRule));
	LWLockAcquire(database->lock, LW_SHARED);
	for (int i = 0; i < *count; i++)
	{
		int			slot = all ? i : durable->changed.slots[i];

		rules[i].slot = slot;
		rules[i].in_use = database->channels[slot].in_use;
		rules[i].is_pattern = database->channels[slot].is_pattern;
		strlcpy(rules[i].name, database->channels[slot].name, NAMEDATALEN);
	}
	LWLockRelease(database->lock);
	return rules;
}

/* An interval in us; months have 30 days here. */
static int64
interval_us(const Interval *interval)
{
	double		us = (double) interval->time +
		((double) interval->month * DAYS_PER_MONTH + interval->day) *
		(double) USECS_PER_DAY;

	return us >= (double) (PG_INT64_MAX / 2) ? PG_INT64_MAX / 2 : (int64) us;
}

/* What the rules say of the channel; in a transaction. */
static void
look_up(ChannelRule *rule)
{
	Interval   *retain;

	rule->durable = rule->is_pattern ? durable_rules_cover(rule->name) :
		durable_rules_match(rule->name);
	if (!rule->durable || rule->is_pattern)
		return;
	retain = durable_rules_retain(rule->name);
	if (retain)
		rule->retain = interval_us(retain);
}

/*
 * Write what the rules say into the slot.  Bindings of a channel that is not
 * durable any more hold the ring again.  database->lock is held, exclusive.
 */
static void
apply(const ChannelRule *rule)
{
	Database   *database = relay.database;
	Channel    *channel = &database->channels[rule->slot];
	bool		was_durable = channel->durable;

	if (!rule->in_use || !channel->in_use ||
		channel->is_pattern != rule->is_pattern ||
		strcmp(channel->name, rule->name) != 0)
		return;
	channel->durable = rule->durable;
	channel->retain = rule->retain;
	if (!was_durable || rule->durable)
		return;
	foreach_dlist(Binding, binding, channel_node, &channel->bindings)
		hold_start(database, binding->subscription);
}

/* Are the rules to be applied to all channels, as they have changed? */
static bool
are_new(uint64 rules)
{
	return !durable->rules_applied || durable->rules_version != rules;
}

/*
 * May the log have something of the channel?  One that is not durable any more
 * may have left something there.
 */
static bool
may_be_logged(const ChannelRule *rule)
{
	if (!rule->in_use || rule->is_pattern)
		return false;
	return rule->durable ||
		(pg_atomic_read_u32(&relay.database->log.active) != 0 &&
		 (durable->channels == NULL ||
		  hash_search(durable->channels, rule->name, HASH_FIND, NULL) != NULL));
}

/*
 * Do what relay_apply_rules() does.  Raises 55000 if the table of rules is not
 * as it should be.
 */
static void
apply_rules(void)
{
	Database   *database = relay.database;
	MemoryContext old = CurrentMemoryContext;
	ChannelRule *rules;
	int			count;
	uint64		version;
	bool		any;

	relay_take_changed();
	relay_begin("reading which channels are durable");
	LockTimeout = LOCK_WAIT_MS;
	version = durable_rules_version();
	if (!are_new(version) && durable->changed.count == 0)
	{
		LockTimeout = 0;
		relay_end();
		MemoryContextSwitchTo(old);
		return;
	}
	rules = copy_channels(are_new(version), &count);
	any = durable_rules_any();
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (rules[i].in_use && any)
			look_up(&rules[i]);
		if (may_be_logged(&rules[i]))
			note_count_channel(rules[i].slot);
	}
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	for (int i = 0; i < count; i++)
		apply(&rules[i]);
	LWLockRelease(database->lock);
	if (any)
		pg_atomic_write_u32(&database->log.active, 1);
	LockTimeout = 0;
	relay_end();
	MemoryContextSwitchTo(old);
	durable->rules_version = version;
	durable->rules_applied = true;
	for (int i = 0; i < durable->changed.count; i++)
		durable->changed.has[durable->changed.slots[i]] = false;
	durable->changed.count = 0;
}

/*
 * Bring shared memory in line with the rules, if these or the channels may have
 * changed.  Not in a transaction.  What fails is logged.
 */
void
relay_apply_rules(void)
{
	MemoryContext old = CurrentMemoryContext;

	durable->rules_at = 0;
	PG_TRY();
	{
		apply_rules();
	}
	PG_CATCH();
	{
		relay_durable_error("read which channels are durable",
							&durable->logged_at,
							"Channels stay as they were.");
		durable->rules_at =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
}

/*
 * Do that again, if it has failed and it is time.
 */
void
relay_apply_rules_again(void)
{
	if (durable->rules_at != 0 && GetCurrentTimestamp() >= durable->rules_at)
		relay_apply_rules();
}

/*-------------------------------------------------------------------------
 *
 * stat_views.c
 *	  What the views read, and stat_reset().
 *
 * Each channel and subscription is copied under its database's lock, shared,
 * so that it stays; its numbers go on moving.  What is pending and what was
 * lost is computed from numbers read in an order that makes neither negative.
 * How long the lock is held does not depend on how many events there are.
 * Catalogs are not looked at meanwhile.
 *
 * The functions of version 1.0's script have fewer columns than the rows here:
 * the last ones, which were added since, are left off.
 *
 * stat_reset() zeroes counters that others only add to, atomically.  One that
 * its writer writes as a whole it leaves, and notes the value, which the views
 * subtract from then on.
 *
 *-------------------------------------------------------------------------
 */
#include "read/read_internal.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(pgpubsub_queue_stats);
PG_FUNCTION_INFO_V1(pgpubsub_channel_stats);
PG_FUNCTION_INFO_V1(pgpubsub_subscription_stats);
PG_FUNCTION_INFO_V1(pgpubsub_stat_reset);

/* The name of a relay's state; asked_for: the first was asked for just now. */
static const char *
relay_state_name(uint32 state, bool asked_for)
{
	static const char *const names[] = {
		[RELAY_STOPPED] = "stopped",
		[RELAY_STARTING] = "starting",
		[RELAY_LISTENING] = "listening",
		[RELAY_FULL] = "full"
	};

	return names[state == RELAY_STOPPED && asked_for ? RELAY_STARTING : state];
}

/* What the control lock guards of a database; all zero before the first one. */
typedef struct DatabaseView
{
	int			next;			/* index of the slot that is looked at next */
	Oid			oid;
	int			relay_pid;
	uint32		relay_starts;
} DatabaseView;

/* The next database, copied into the view; or NULL.  Takes the control lock. */
static Database *
next_database(DatabaseView *view)
{
	while (pgpubsub_preloaded() && view->next < pgpubsub_max_databases)
	{
		Database   *database = &pgpubsub_control->databases[view->next++];

		LWLockAcquire(pgpubsub_control->lock, LW_SHARED);
		view->oid = database->dropping ? InvalidOid : database->oid;
		view->relay_pid = database->relay.pid;
		view->relay_starts = database->relay.starts;
		LWLockRelease(pgpubsub_control->lock);
		if (OidIsValid(view->oid))
			return database;
	}
	return NULL;
}

/* How long the relay has waited for room, this time included; in ms. */
static uint64
full_ms(Database *database)
{
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&database->full.since);
	uint64		ms = pg_atomic_read_u64(&database->full.ms);

	if (since != 0)
		ms += TimestampDifferenceMilliseconds(since, GetCurrentTimestamp());
	return ms;
}

/* The row of stat_queue for the database. */
static void
put_queue(FunctionCallInfo fcinfo, Database *database, DatabaseView *view,
		  Datum notify_usage)
{
	ViewRow		row = {.column = 0};
	RingState	ring;
	uint64		published = pg_atomic_read_u64(&database->stats.published);
	uint64		bytes = pg_atomic_read_u64(&database->stats.published_bytes);
	uint64		peak = pg_atomic_read_u64(&database->stats.peak_used);
	uint64		published_base;
	uint64		bytes_base;
	TimestampTz stats_reset;

	ring_state(database->ring, &ring);
	LWLockAcquire(database->lock, LW_SHARED);
	published_base = database->stats.published_base;
	bytes_base = database->stats.published_bytes_base;
	stats_reset = database->stats.reset_at;
	LWLockRelease(database->lock);

	view_add(&row, ObjectIdGetDatum(view->oid));
	view_add_if(&row, view->relay_pid != 0, Int32GetDatum(view->relay_pid));
	view_add(&row, CStringGetTextDatum(relay_state_name(pg_atomic_read_u32(&database->relay.state),
														view->relay_starts == 0 &&
														pg_atomic_read_u32(&database->relay.unavailable) == 0)));
	view_add_int64(&row, ring.size);
	view_add_int64(&row, ring.used);
	view_add_int64(&row, Max(peak, ring.used));
	view_add_int64(&row, ring.messages);
	view_add_if(&row, ring.messages > 0,
				Int64GetDatum((int64) ring.oldest.seq));
	view_add_int64(&row, ring.newest_seq);
	view_add_if(&row, ring.messages > 0,
				TimestampTzGetDatum(ring.oldest.time));
	view_add_int64(&row, Max(published, published_base) - published_base);
	view_add_int64(&row, Max(bytes, bytes_base) - bytes_base);
	view_add_int64(&row, pg_atomic_read_u64(&database->full.count));
	view_add_int64(&row, full_ms(database));
	view_add_int64(&row, pg_atomic_read_u64(&database->full.evictions));
	view_add_int64(&row, pg_atomic_read_u64(&database->relay.bad_frames));
	view_add_int64(&row, (uint64) pgpubsub_staging_size * 1024);
	view_add_int64(&row, staging_used(database->staging));
	view_add(&row, notify_usage);
	view_add_int64(&row, view->relay_starts > 0 ? view->relay_starts - 1 : 0);
	view_add(&row, TimestampTzGetDatum(stats_reset));
	view_add_int64(&row, pg_atomic_read_u64(&database->stats.truncated));
	view_put(fcinfo, &row);
}

/* pgpubsub.queue_stats() RETURNS SETOF record: the rows of stat_queue */
Datum
pgpubsub_queue_stats(PG_FUNCTION_ARGS)
{
	Datum		notify_usage = DirectFunctionCall1(pg_notification_queue_usage,
												   (Datum) 0);
	Database   *database;
	DatabaseView view = {0};

	InitMaterializedSRF(fcinfo, 0);
	while ((database = next_database(&view)) != NULL)
		put_queue(fcinfo, database, &view, notify_usage);
	return (Datum) 0;
}

/*
 * Log, for the tests, how many events this session has passed over to find the
 * first one pending, which must be none; and how many bindings and channels to
 * find others, which must be few.
 */
static void
report_passed_over(void)
{
	ereport(DEBUG1,
			(errmsg_internal("pgpubsub has passed over %llu events in this session",
							 (unsigned long long) ring_passed_over)));
	ereport(DEBUG2,
			(errmsg_internal("pgpubsub has passed over %llu bindings and channels in this session",
							 (unsigned long long) registry_passed_over)));
}

/* A channel, as it is shown. */
typedef struct ChannelView
{
	char		name[NAMEDATALEN];
	uint32		subscriptions;
	RingChannelState ring;
	uint64		published;
	uint64		published_bytes;
	uint64		delivered;
	uint64		lost;
	uint64		truncated;
} ChannelView;

/* Leave out what the ring has of the channel that had the slot before. */
static void
without_predecessor(Channel *channel, RingChannelState *ring)
{
	if (ring->newest_number == channel->base_number)
		memset(ring, 0, sizeof(RingChannelState));
	else
		ring->messages = Min(ring->messages,
							 ring->newest_number - channel->base_number);
}

/*
 * How many events subscriptions have lost of the channel and were not told of.
 */
static uint64
untold_losses(Channel *channel)
{
	Backlog		backlog = {0};
	dlist_iter	iter;

	dlist_foreach(iter, &channel->bindings)
		hold_add_backlog(channel->database,
						 dlist_container(Binding, channel_node, iter.cur),
						 &backlog);
	return backlog.lost;
}

/* Copy the slot's channel; false if it has none.  Takes the database's lock. */
static bool
view_channel(Database *database, int slot, ChannelView *view)
{
	Channel    *channel = &database->channels[slot];
	uint64		untold;

	LWLockAcquire(database->lock, LW_SHARED);
	if (!channel->in_use || channel->is_pattern)
	{
		LWLockRelease(database->lock);
		return false;
	}
	untold = untold_losses(channel);
	strlcpy(view->name, channel->name, NAMEDATALEN);
	view->subscriptions = pg_atomic_read_u32(&channel->nbindings);
	ring_channel_state(database->ring, slot, &view->ring);
	view->published = view->ring.newest_number - channel->published_base;
	view->published_bytes = view->ring.bytes - channel->published_bytes_base;
	without_predecessor(channel, &view->ring);
	view->delivered = pg_atomic_read_u64(&channel->delivered);
	view->lost = pg_atomic_read_u64(&channel->lost) + untold;
	view->truncated = pg_atomic_read_u64(&channel->truncated);
	LWLockRelease(database->lock);
	return true;
}

/* The row of stat_channels for the channel. */
static void
put_channel(FunctionCallInfo fcinfo, Oid oid, int encoding, ChannelView *view)
{
	ViewRow		row = {.column = 0};
	bool		any = view->ring.newest_number > 0;

	view_add(&row, ObjectIdGetDatum(oid));
	view_add(&row, CStringGetTextDatum(shown_name(view->name, encoding)));
	view_add(&row, Int32GetDatum((int32) view->subscriptions));
	view_add_int64(&row, view->ring.messages);
	view_add_if(&row, any, Int64GetDatum((int64) view->ring.newest_seq));
	view_add_int64(&row, view->published);
	view_add_int64(&row, view->published_bytes);
	view_add_int64(&row, view->delivered);
	view_add_int64(&row, view->lost);
	view_add_if(&row, any, TimestampTzGetDatum(view->ring.last_time));
	view_add_int64(&row, view->truncated);
	view_put(fcinfo, &row);
}

/* pgpubsub.channel_stats() RETURNS SETOF record: the rows of stat_channels */
Datum
pgpubsub_channel_stats(PG_FUNCTION_ARGS)
{
	Database   *database;
	DatabaseView view = {0};

	InitMaterializedSRF(fcinfo, 0);
	while ((database = next_database(&view)) != NULL)
	{
		int			encoding = shown_name_encoding(view.oid);

		for (int slot = 0; slot < pgpubsub_max_channels; slot++)
		{
			ChannelView channel;

			CHECK_FOR_INTERRUPTS();
			if (view_channel(database, slot, &channel))
				put_channel(fcinfo, view.oid, encoding, &channel);
		}
	}
	report_passed_over();
	return (Datum) 0;
}

/* A subscription, as it is shown. */
typedef struct SubscriptionView
{
	char		name[NAMEDATALEN];
	Oid			owner;
	OnFull		on_full;
	NameData   *channels;		/* room for max_channels names */
	int			nchannels;
	int			max_channels;
	int			reader_pid;
	bool		waiting;
	bool		evicted;
	bool		holding;
	uint64		seq;
	Backlog		backlog;
	uint64		delivered;
	uint64		delivered_bytes;
	uint64		lost;
	uint64		polls;
	uint64		empty_polls;
	TimestampTz created_at;
	TimestampTz last_poll_at;
} SubscriptionView;

/* Copy what the subscription's mutex guards, and its atomic counters. */
static void
view_counters(Subscription *subscription, SubscriptionView *view)
{
	SpinLockAcquire(&subscription->reader.mutex);
	view->reader_pid = subscription->reader.pid;
	view->waiting = subscription->reader.waiting;
	SpinLockRelease(&subscription->reader.mutex);
	view->seq = pg_atomic_read_u64(&subscription->seq);
	view->delivered = pg_atomic_read_u64(&subscription->stats.delivered);
	view->delivered_bytes = pg_atomic_read_u64(&subscription->stats.delivered_bytes);
	view->lost = pg_atomic_read_u64(&subscription->stats.lost);
	view->polls = pg_atomic_read_u64(&subscription->stats.polls);
	view->empty_polls = pg_atomic_read_u64(&subscription->stats.empty_polls);
	view->last_poll_at =
		(TimestampTz) pg_atomic_read_u64(&subscription->stats.last_poll_at);
}

/* Copy what the bindings say; the channels' names as far as there is room. */
static void
view_bindings(Database *database, Subscription *subscription,
			  SubscriptionView *view)
{
	dlist_iter	iter;

	view->nchannels = 0;
	memset(&view->backlog, 0, sizeof(Backlog));
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		if ((binding->flags & BINDING_BY_NAME) &&
			!(binding->flags & BINDING_DROPPED))
		{
			if (view->nchannels < view->max_channels)
				namestrcpy(&view->channels[view->nchannels],
						   database->channels[binding->channel].name);
			view->nchannels++;
		}
		hold_add_backlog(database, binding, &view->backlog);
	}
}

/*
 * Does the slot have a subscription of the database?  Without the database's
 * lock, whoever asks asks again with it.
 */
static bool
is_of(Database *database, Subscription *subscription)
{
	return subscription->state != SUBSCRIPTION_FREE &&
		subscription->database == database->index;
}

/*
 * Copy the subscription, if this session may know of it; else returns false.
 * Not all channels are copied if nchannels is above max_channels then.  Takes
 * the database's lock.
 */
static bool
view_subscription(Database *database, Subscription *subscription,
				  SubscriptionView *view)
{
	bool		visible;

	LWLockAcquire(database->lock, LW_SHARED);
	visible = subscription->database == database->index &&
		reader_visible(subscription);
	if (visible)
	{
		strlcpy(view->name, subscription->name, NAMEDATALEN);
		view->owner = subscription->owner;
		view->on_full = subscription->on_full;
		view->created_at = subscription->created_at;
		view->evicted = subscription->evicted ||
			(subscription->foreign && subscription->on_full != ON_FULL_DROP);
		view->holding = subscription->holding;
		view_counters(subscription, view);
		if (view->reader_pid == 0)
		{
			/* a session in CALL wait() does not claim it */
			view->reader_pid = registry_waiting_pid(database, subscription);
			view->waiting = view->reader_pid != 0;
		}
		view_bindings(database, subscription, view);
	}
	LWLockRelease(database->lock);
	return visible;
}

/* The state of the subscription, as stat_subscriptions shows it. */
static const char *
subscription_state_name(SubscriptionView *view)
{
	if (view->evicted)
		return "evicted";
	if (view->holding)
		return "holding";
	if (view->reader_pid == 0)
		return "idle";
	return view->waiting ? "waiting" : "reading";
}

/* The row of stat_subscriptions for the subscription. */
static void
put_subscription(FunctionCallInfo fcinfo, Oid oid, int encoding,
				 SubscriptionView *view)
{
	const char *name = shown_name(view->name, encoding);
	NameData	short_name;
	ViewRow		row = {.column = 0};
	Datum	   *names = palloc(view->nchannels * sizeof(Datum));
	ArrayType  *channels;

	for (int i = 0; i < view->nchannels; i++)
		names[i] = CStringGetTextDatum(shown_name(NameStr(view->channels[i]),
												  encoding));
	channels = construct_array(names, view->nchannels, TEXTOID, -1, false,
							   TYPALIGN_INT);

	view_add(&row, ObjectIdGetDatum(oid));
	/* in this database's encoding it may be longer than a name can be */
	memset(&short_name, 0, sizeof(short_name));
	memcpy(NameStr(short_name), name,
		   pg_mbcliplen(name, (int) strlen(name), NAMEDATALEN - 1));
	view_add(&row, NameGetDatum(&short_name));
	view_add(&row, ObjectIdGetDatum(view->owner));
	view_add(&row, PointerGetDatum(channels));
	view_add(&row, CStringGetTextDatum(on_full_names[view->on_full]));
	view_add(&row, CStringGetTextDatum(subscription_state_name(view)));
	view_add_if(&row, view->reader_pid != 0, Int32GetDatum(view->reader_pid));
	view_add_if(&row, view->seq > 0, Int64GetDatum((int64) view->seq));
	view_add_int64(&row, view->backlog.pending);
	view_add_int64(&row, view->backlog.bytes);
	view_add_if(&row, view->backlog.pending > 0,
				TimestampTzGetDatum(view->backlog.oldest_at));
	view_add_int64(&row, view->delivered);
	view_add_int64(&row, view->delivered_bytes);
	view_add_int64(&row, view->lost + view->backlog.lost);
	view_add_int64(&row, view->polls);
	view_add_int64(&row, view->empty_polls);
	view_add(&row, TimestampTzGetDatum(view->created_at));
	view_add_if(&row, view->last_poll_at != 0,
				TimestampTzGetDatum(view->last_poll_at));
	view_put(fcinfo, &row);
}

/* The rows of stat_subscriptions for the database: all, or the user's own. */
static void
put_subscriptions(FunctionCallInfo fcinfo, Database *database, Oid oid,
				  bool see_all)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pgpubsub statistics",
												  ALLOCSET_DEFAULT_SIZES);
	SubscriptionView view = {.max_channels = 16};
	int			encoding = shown_name_encoding(oid);

	view.channels = palloc(view.max_channels * sizeof(NameData));
	for (int i = 0; i < pgpubsub_max_subscriptions; i++)
	{
		Subscription *subscription = &pgpubsub_control->subscriptions[i];
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!is_of(database, subscription) ||
			!view_subscription(database, subscription, &view))
			continue;
		if (view.nchannels > view.max_channels)
		{
			view.max_channels = 2 * view.nchannels;
			view.channels = repalloc(view.channels,
									 view.max_channels * sizeof(NameData));
			i--;
			continue;
		}
		old = MemoryContextSwitchTo(context);
		if (see_all || has_privs_of_role(GetUserId(), view.owner))
			put_subscription(fcinfo, oid, encoding, &view);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	pfree(view.channels);
}

/* pgpubsub.subscription_stats() RETURNS SETOF record: for stat_subscriptions */
Datum
pgpubsub_subscription_stats(PG_FUNCTION_ARGS)
{
	bool		see_all = has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
	Database   *database;
	DatabaseView view = {0};

	InitMaterializedSRF(fcinfo, 0);
	while ((database = next_database(&view)) != NULL)
		put_subscriptions(fcinfo, database, view.oid, see_all);
	report_passed_over();
	return (Datum) 0;
}

/* Zero the counters of a subscription of the database, whose lock it takes. */
static void
reset_subscription(Database *database, Subscription *subscription)
{
	dlist_iter	iter;
	Backlog		backlog = {0};

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (is_of(database, subscription))
	{
		dlist_foreach(iter, &subscription->bindings)
			hold_add_backlog(database,
							 dlist_container(Binding, subscription_node,
											 iter.cur), &backlog);
		pg_atomic_write_u64(&subscription->stats.delivered, 0);
		pg_atomic_write_u64(&subscription->stats.delivered_bytes, 0);
		pg_atomic_write_u64(&subscription->stats.polls, 0);
		pg_atomic_write_u64(&subscription->stats.empty_polls, 0);

		/* losses that no gap row has told yet are counted when one does */
		pg_atomic_write_u64(&subscription->stats.lost, -backlog.lost);
	}
	LWLockRelease(database->lock);
}

/* Zero the slot's channel's counters, if any.  Takes the database's lock. */
static void
reset_channel(Database *database, int slot)
{
	Channel    *channel = &database->channels[slot];
	RingChannelState state;

	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	if (channel->in_use)
	{
		pg_atomic_write_u64(&channel->lost, -untold_losses(channel));
		ring_channel_state(database->ring, slot, &state);
		channel->published_base = state.newest_number;
		channel->published_bytes_base = state.bytes;
		pg_atomic_write_u64(&channel->delivered, 0);
		pg_atomic_write_u64(&channel->truncated, 0);
	}
	LWLockRelease(database->lock);
}

/* pgpubsub.stat_reset() RETURNS void */
Datum
pgpubsub_stat_reset(PG_FUNCTION_ARGS)
{
	Database   *database = reader_database("pgpubsub.stat_reset");

	for (int i = 0; i < pgpubsub_max_subscriptions; i++)
	{
		if (is_of(database, &pgpubsub_control->subscriptions[i]))
			reset_subscription(database, &pgpubsub_control->subscriptions[i]);
	}
	for (int slot = 0; slot < pgpubsub_max_channels; slot++)
	{
		if (database->channels[slot].in_use)
			reset_channel(database, slot);
	}
	report_passed_over();
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	registry_reset_counts(database);
	LWLockRelease(database->lock);
	PG_RETURN_VOID();
}

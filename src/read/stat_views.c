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
 * What a subscription of this session's database has not had, and the ring has
 * not, is counted in the log, without a lock; see stat_log.c.
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

/* So many microseconds, in milliseconds. */
static Datum
ms_datum(uint64 us)
{
	return Float8GetDatum((double) us / 1000.0);
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
	uint64		appended = pg_atomic_read_u64(&database->stats.appending.count);
	uint64		appended_us = pg_atomic_read_u64(&database->stats.appending.us);
	uint64		published_base;
	uint64		bytes_base;
	uint64		appended_base;
	uint64		appended_us_base;
	TimestampTz stats_reset;

	ring_state(database->ring, &ring);
	LWLockAcquire(database->lock, LW_SHARED);
	published_base = database->stats.published_base;
	bytes_base = database->stats.published_bytes_base;
	appended_base = database->stats.appending_base;
	appended_us_base = database->stats.appending_us_base;
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
	view_add_int64(&row, pg_atomic_read_u64(&database->stats.delivered));
	view_add_int64(&row, pg_atomic_read_u64(&database->stats.delivered_bytes));
	view_add_int64(&row, pg_atomic_read_u64(&database->stats.lost));
	view_add_int64(&row, Max(appended, appended_base) - appended_base);
	view_add(&row, ms_datum(Max(appended_us, appended_us_base) - appended_us_base));
	view_add_int64(&row, pg_atomic_read_u64(&database->stats.reading.count));
	view_add(&row, ms_datum(pg_atomic_read_u64(&database->stats.reading.us)));
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
	while ((database = view_next_database(&view)) != NULL)
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
	bool		durable;		/* as the relay knows it */
	int64		retain;
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
	view->durable = channel->durable;
	view->retain = channel->retain;
	LWLockRelease(database->lock);
	return true;
}

/* The row of stat_channels for the channel. */
static void
put_channel(FunctionCallInfo fcinfo, Oid oid, int encoding, bool by_rules,
			ChannelView *view)
{
	ViewRow		row = {.column = 0};
	bool		any = view->ring.newest_number > 0;
	Interval   *retain = stat_log_retain(view->name, view->durable,
										 view->retain, by_rules);

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
	view_add(&row, BoolGetDatum(retain != NULL));
	view_add_if(&row, retain != NULL, IntervalPGetDatum(retain));
	view_put(fcinfo, &row);
}

/* pgpubsub.channel_stats() RETURNS SETOF record: the rows of stat_channels */
Datum
pgpubsub_channel_stats(PG_FUNCTION_ARGS)
{
	Database   *database;
	DatabaseView view = {0};

	InitMaterializedSRF(fcinfo, 0);
	while ((database = view_next_database(&view)) != NULL)
	{
		int			encoding = shown_name_encoding(view.oid);
		bool		by_rules = view.oid == MyDatabaseId &&
			stat_log_try_rules();

		for (int slot = 0; slot < pgpubsub_max_channels; slot++)
		{
			ChannelView channel;

			CHECK_FOR_INTERRUPTS();
			if (view_channel(database, slot, &channel))
				put_channel(fcinfo, view.oid, encoding, by_rules,
							&channel);
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
	NameData   *channels;		/* room for max_channels names, too */
	int			nchannels;
	int			max_channels;
	int			reader_pid;
	bool		waiting;
	bool		evicted;
	bool		holding;
	uint64		seq;
	Backlog		backlog;		/* but for those in logged */
	bool		ask_log;		/* the log is this session's database's */
	LoggedChannel *logged;		/* room for max_channels */
	int			nlogged;
	uint64		newest_seq;		/* when these were looked at */
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

/* Add what the binding has not consumed; if the log is to be asked, note it. */
static void
view_backlog(Database *database, Binding *binding, SubscriptionView *view)
{
	LoggedChannel logged = {.ring = {0}};

	if (view->ask_log)
	{
		hold_add_backlog(database, binding, &logged.ring);
		if (logged.ring.in_log)
		{
			view->backlog.lost += logged.ring.lost;
			strlcpy(logged.name, database->channels[binding->channel].name,
					NAMEDATALEN);
			logged.seq = pg_atomic_read_u64(&binding->seq);
			if (view->nlogged < view->max_channels)
				view->logged[view->nlogged] = logged;
			view->nlogged++;
			return;
		}
	}
	hold_add_backlog(database, binding, &view->backlog);
}

/*
 * Copy what the bindings say; the channels' names, and those of which the log
 * is to be asked, as far as there is room.
 */
static void
view_bindings(Database *database, Subscription *subscription,
			  SubscriptionView *view)
{
	dlist_iter	iter;

	view->nchannels = view->nlogged = 0;
	view->newest_seq = ring_newest_seq(database->ring);
	memset(&view->backlog, 0, sizeof(Backlog));
	dlist_foreach(iter, &subscription->bindings)
	{
		Binding    *binding = dlist_container(Binding, subscription_node,
											  iter.cur);

		/* what another session is adding is not there yet */
		if (!binding_readable(binding) && !(binding->flags & BINDING_DROPPED))
			continue;
		if ((binding->flags & BINDING_BY_NAME) &&
			!(binding->flags & BINDING_DROPPED))
		{
			if (view->nchannels < view->max_channels)
				namestrcpy(&view->channels[view->nchannels],
						   database->channels[binding->channel].name);
			view->nchannels++;
		}
		view_backlog(database, binding, view);
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
	ViewRow		row = {.column = 0};
	Datum	   *names = palloc(view->nchannels * sizeof(Datum));
	ArrayType  *channels;

	for (int i = 0; i < view->nchannels; i++)
		names[i] = CStringGetTextDatum(shown_name(NameStr(view->channels[i]),
												  encoding));
	channels = construct_array(names, view->nchannels, TEXTOID, -1, false,
							   TYPALIGN_INT);

	view_add(&row, ObjectIdGetDatum(oid));
	view_add_name(&row, view->name, encoding);
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
	view_add(&row, BoolGetDatum(view->backlog.next_in_log));
	view_add_if(&row, view->backlog.pending > 0,
				Float8GetDatum((double) Max(GetCurrentTimestamp() - view->backlog.oldest_at, 0) /
							   USECS_PER_SEC));
	view_put(fcinfo, &row);
}

/* Make room for so many channels.  What the view has of them is lost. */
static void
make_room(SubscriptionView *view, int max_channels)
{
	if (view->channels)
	{
		pfree(view->channels);
		pfree(view->logged);
	}
	view->max_channels = max_channels;
	view->channels = palloc(max_channels * sizeof(NameData));
	view->logged = palloc(max_channels * sizeof(LoggedChannel));
}

/*
 * Copy the subscription, all of it; false if it is none of the database that
 * the user may see.
 */
static bool
view_all_of(Database *database, Subscription *subscription, bool see_all,
			SubscriptionView *view)
{
	for (;;)
	{
		int			count;

		CHECK_FOR_INTERRUPTS();
		if (!is_of(database, subscription) ||
			!view_subscription(database, subscription, view) ||
			!(see_all || has_privs_of_role(GetUserId(), view->owner)))
			return false;
		count = Max(view->nchannels, view->nlogged);
		if (count <= view->max_channels)
			return true;
		make_room(view, 2 * count);
	}
}

/* The rows of stat_subscriptions for the database: all, or the user's own. */
static void
put_subscriptions(FunctionCallInfo fcinfo, Database *database, Oid oid,
				  bool see_all)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "pgpubsub statistics",
												  ALLOCSET_DEFAULT_SIZES);
	SubscriptionView view = {.ask_log = oid == MyDatabaseId};
	int			encoding = shown_name_encoding(oid);

	make_room(&view, 16);
	for (int i = 0; i < pgpubsub_max_subscriptions; i++)
	{
		MemoryContext old;

		if (!view_all_of(database, &pgpubsub_control->subscriptions[i],
						 see_all, &view))
			continue;
		old = MemoryContextSwitchTo(context);
		stat_log_add_backlog(database, view.logged, view.nlogged,
							 view.newest_seq, &view.backlog);
		put_subscription(fcinfo, oid, encoding, &view);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	pfree(view.channels);
	pfree(view.logged);
}

/* pgpubsub.subscription_stats() RETURNS SETOF record: for stat_subscriptions */
Datum
pgpubsub_subscription_stats(PG_FUNCTION_ARGS)
{
	bool		see_all = has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
	Database   *database;
	DatabaseView view = {0};

	InitMaterializedSRF(fcinfo, 0);
	while ((database = view_next_database(&view)) != NULL)
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

/*-------------------------------------------------------------------------
 *
 * publish.c
 *	  Publishing an event in the current transaction.
 *
 * 1. A transactional event is a NOTIFY of this transaction: core queues it at
 *	  commit, forgets it at rollback and folds identical ones.  Async events
 *	  go through the staging queue; see publish_async.c.
 *
 * 2. The first event of a transaction on a channel makes the channel known in
 *	  shared memory and counts the transaction among the channel's publishers
 *	  until the transaction ends.  So a pattern that is subscribed while the
 *	  transaction is open finds the channel, and its slot is not reused.
 *
 * 3. The relay may not listen yet to a channel that was just made known and is
 *	  bound because a pattern matches it.  Its events are sent as frames too,
 *	  to which the relay always listens.  An event that is too long for a NOTIFY
 *	  is sent as frames even if nobody reads its channel: somebody may before it
 *	  is committed.  Its native notification follows in the same transaction.
 *
 * 4. While the relay waits for room in the ring, a writer to a channel that
 *	  somebody reads waits too, at its next event.
 *
 * Without shared memory (not preloaded, or no slot for this database) only the
 * NOTIFY of 1 is left.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "access/xlog.h"
#include "base/nesting.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "log/log.h"
#include "miscadmin.h"
#include "queue/frame.h"
#include "registry/holders.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* The channels that this transaction has published on. */
typedef struct UsedChannels
{
	/* in TopTransactionContext; all zero between transactions */
	Channel   **slots;
	int			count;
	int			allocated;

	/* for each channel of the database: which transaction used it last */
	Database   *database;		/* NULL: there are no marks yet */
	uint32	   *marks;
	uint32		transaction;	/* this one; those that publish are numbered */
} UsedChannels;

static UsedChannels used = {.transaction = 1};

/*
 * What publish() remembers of channels, by a hash of the name: a call has no
 * place of its own to keep it.
 */
#define NAMED_CHANNELS	16
static PublishChannel named_channels[NAMED_CHANNELS];

/* The number of this top transaction's last numbered event; 0: none yet. */
static uint64 last_event_number = 0;

/*
 * The lowest nesting level at which this transaction has sent notifications; 0:
 * it has sent none.  See base/nesting.h.
 */
static int	notified_level = 0;

PG_FUNCTION_INFO_V1(pgpubsub_publish);
PG_FUNCTION_INFO_V1(pgpubsub_publish_jsonb);

/*
 * Let go of the channels that the transaction has published on.  Takes no
 * lock and cannot fail.
 */
static void
forget_used_channels(void)
{
	for (int i = 0; i < used.count; i++)
		registry_leave_channel(used.slots[i]);

	/* when the numbers start again at 1, old marks must not count */
	if (used.count > 0 && ++used.transaction == 0)
	{
		memset(used.marks, 0, pgpubsub_max_channels * sizeof(uint32));
		used.transaction = 1;
	}
	used.slots = NULL;
	used.count = used.allocated = 0;
}

/* The number of the next event in this top transaction, from 1. */
uint64
publish_next_event_number(void)
{
	return ++last_event_number;
}

/* The longest payload, in bytes, that the queues take from any session. */
Size
publish_payload_limit(void)
{
	Size		queues = (Size) Min(pgpubsub_queue_size,
									pgpubsub_staging_size) * 1024;

	return Min(queues / 4, PGPUBSUB_PAYLOAD_MAX);
}

/* The longest payload that this session can publish now, in bytes. */
Size
publish_max_payload(void)
{
	Size		max = pgpubsub_max_payload;

	return pgpubsub_preloaded() ? Min(max, publish_payload_limit()) : max;
}

/* Initialize *channel for a channel name of 1 to PGPUBSUB_CHANNEL_MAX bytes. */
void
publish_channel_init(PublishChannel *channel, const char *name)
{
	memset(channel, 0, sizeof(PublishChannel));
	strlcpy(channel->name, name, NAMEDATALEN);
	channel->mode = PUBLISH_MODE_SETTING;
}

/*
 * What is remembered of the channel of that name, for a caller that keeps
 * nothing.  That the channel table was full is not remembered.
 */
static PublishChannel *
named_channel(const char *name)
{
	uint32		hash = hash_bytes((const unsigned char *) name,
								  (int) strlen(name));
	PublishChannel *channel = &named_channels[hash % NAMED_CHANNELS];

	if (strcmp(channel->name, name) != 0)
		publish_channel_init(channel, name);
	channel->version = 0;
	return channel;
}

/* Is the remembered slot still the channel's? */
static bool
channel_current(Database *database, PublishChannel *channel)
{
	return channel->resolved && channel->database == database &&
		channel->database_generation ==
		pg_atomic_read_u32(&database->generation) &&
		channel->channel_generation ==
		pg_atomic_read_u32(&database->channels[channel->slot].generation);
}

/*
 * Is the slot still this database's, as when registry_my_database() found it?
 * The caller holds the database's lock, so the slot is not freed meanwhile.
 */
static bool
is_mine(Database *database)
{
	Assert(LWLockHeldByMe(database->lock));
	return pg_atomic_read_u32(&database->generation) ==
		registry_my_generation();
}

/*
 * There is no room for the channel: have subscriptions with a pattern that
 * matches it show a gap, and warn.
 */
static void
channel_table_full(Database *database, PublishChannel *channel)
{
	static uint32 warned_version = 0;
	uint32		version = 0;
	bool		missed = false;

	LWLockAcquire(database->lock, LW_SHARED);
	if (is_mine(database))
	{
		missed = registry_gap_for_matching(database, channel->name);
		version = pg_atomic_read_u32(&database->table.version);
	}
	LWLockRelease(database->lock);
	channel->version = version;

	/* once per backend and change of the table is enough */
	if (missed && warned_version != version + 1)
	{
		warned_version = version + 1;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no room for channel \"%s\"", channel->name),
				 errdetail("Subscriptions with a pattern that matches it miss its events."),
				 errhint("Raise pgpubsub.max_channels or pgpubsub.max_subscriptions and restart the server.")));
	}
}

/*
 * Find the channel's slot, or make one; -1 if there is no room or the
 * database's slot was freed.  Sets *bound to whether somebody reads the
 * channel.  The caller holds the database's lock, exclusive.
 */
static int
make_channel(Database *database, const char *name, bool *bound)
{
	int			slot = is_mine(database) ?
		registry_make_channel(database, name, false) : -1;

	Assert(LWLockHeldByMeInMode(database->lock, LW_EXCLUSIVE));
	*bound = slot >= 0 &&
		pg_atomic_read_u32(&database->channels[slot].nbindings) > 0;
	return slot;
}

/*
 * Find or make the channel's slot, count this transaction among its publishers,
 * and remember the slot.  Returns false if there is no room.  Counting and
 * reading the slot's generation both happen under the lock: otherwise the slot
 * could be reused for another channel in between, and be remembered for ours.
 */
static bool
resolve_channel(Database *database, PublishChannel *channel)
{
	int			slot;
	bool		bound = false;

	LWLockAcquire(database->lock, LW_SHARED);
	slot = is_mine(database) ?
		registry_find_channel(database, channel->name, false) : -1;
	if (slot < 0 && !registry_channels_full(database))
	{
		LWLockRelease(database->lock);
		LWLockAcquire(database->lock, LW_EXCLUSIVE);
		slot = make_channel(database, channel->name, &bound);
	}
	if (slot >= 0)
	{
		pg_atomic_write_u32(&database->channels[slot].used, 1);
		pg_atomic_fetch_add_u32(&database->channels[slot].publishers, 1);
		channel->slot = slot;
		channel->database = database;
		channel->database_generation =
			pg_atomic_read_u32(&database->generation);
		channel->channel_generation =
			pg_atomic_read_u32(&database->channels[slot].generation);
	}
	LWLockRelease(database->lock);

	channel->resolved = (slot >= 0);
	if (bound)
		registry_request(database);
	return channel->resolved;
}

/* Is this channel among those that the transaction has published on? */
static bool
channel_used(Database *database, PublishChannel *channel)
{
	return database == used.database &&
		used.marks[channel->slot] == used.transaction;
}

/*
 * Make room to note one more used channel of the database, before it is counted
 * anywhere: this may raise out of memory.
 */
static void
reserve_used_channel(Database *database)
{
	Size		marks_size = pgpubsub_max_channels * sizeof(uint32);
	int			larger = Max(8, 2 * used.allocated);

	if (used.marks == NULL)
		used.marks = MemoryContextAllocZero(TopMemoryContext, marks_size);
	if (used.database != database)
	{
		/* one that was used before this is noted twice, which does no harm */
		memset(used.marks, 0, marks_size);
		used.database = database;
	}
	if (used.count < used.allocated)
		return;
	used.slots = used.slots ?
		repalloc(used.slots, larger * sizeof(Channel *)) :
		MemoryContextAlloc(TopTransactionContext, larger * sizeof(Channel *));
	used.allocated = larger;
}

/*
 * Note that the transaction was counted among the channel's publishers; if it
 * had been counted before, it is counted once less.
 */
static void
note_used_channel(Database *database, PublishChannel *channel)
{
	Channel    *slot = &database->channels[channel->slot];

	if (channel_used(database, channel))
		registry_leave_channel(slot);
	else
	{
		used.marks[channel->slot] = used.transaction;
		used.slots[used.count++] = slot;
	}
}

/*
 * Make sure that the channel is known and counts this transaction among its
 * publishers.  Returns false if there is no room for the channel.
 */
static bool
use_channel(Database *database, PublishChannel *channel)
{
	if (channel_current(database, channel))
	{
		if (channel_used(database, channel))
			return true;

		/*
		 * Count first, then look again whether the slot is the channel's: it
		 * may have been reused since the first look.  Who reuses it changes
		 * the generation before it looks for publishers, so either it sees us
		 * or we see the new generation, and never publish in a foreign slot.
		 */
		reserve_used_channel(database);
		pg_atomic_fetch_add_u32(&database->channels[channel->slot].publishers,
								1);
		if (channel_current(database, channel))
		{
			note_used_channel(database, channel);
			return true;
		}
		registry_leave_channel(&database->channels[channel->slot]);
		channel->resolved = false;
	}

	if (channel->version != 0 &&
		channel->version == pg_atomic_read_u32(&database->table.version) &&
		pg_atomic_read_u32(&database->table.npatterns) == 0)
		return false;
	reserve_used_channel(database);
	if (!resolve_channel(database, channel))
	{
		channel_table_full(database, channel);
		return false;
	}
	note_used_channel(database, channel);
	return true;
}

/*
 * Does any subscription read the channel?  use_channel() must have said true.
 */
static bool
is_bound(Database *database, PublishChannel *channel)
{
	return pg_atomic_read_u32(&database->channels[channel->slot].nbindings) > 0;
}

/* Does the relay not listen yet to the channel, for which is_bound() holds? */
static bool
not_heard_yet(Database *database, PublishChannel *channel)
{
	Channel    *slot = &database->channels[channel->slot];

	return pg_atomic_read_u32(&slot->listening) == 0 &&
		pg_atomic_read_u32(&database->relay.state) != RELAY_STOPPED;
}

/* Send one frame of an event, for frame_split(). */
static void
notify_frame(const char *text, void *arg)
{
	Async_Notify(PGPUBSUB_FRAME_CHANNEL, text);
}

/*
 * Make an id, of at most FRAME_ID_MAX bytes, from channel and payload.  With
 * it, two identical calls of publish() in one transaction make identical
 * frames, which core folds.
 */
static void
make_content_id(char *id, const char *channel, const char *payload, Size len)
{
	uint32		seed = frame_crc(channel, strlen(channel)) + 1;

	snprintf(id, FRAME_ID_MAX + 1, "%016llx%016llx",
			 (unsigned long long)
			 hash_bytes_extended((const unsigned char *) payload, (int) len, 0),
			 (unsigned long long)
			 hash_bytes_extended((const unsigned char *) payload, (int) len,
								 seed));
}

/*
 * Send the event as a NOTIFY of this transaction, after its frames if framed.
 * The other arguments are as for publish_event().
 */
void
publish_notify(const char *channel, bool framed, const char *id,
			   const char *payload, Size len, const char *native_payload)
{
	char		content_id[FRAME_ID_MAX + 1];

	nesting_note(&notified_level);
	if (native_payload == NULL)
		native_payload = payload;
	if (framed && id[0] == '\0')
	{
		make_content_id(content_id, channel, payload, len);
		id = content_id;
	}
	if (framed)
		frame_split(id, channel, payload, len,
					frame_crc(native_payload, strlen(native_payload)),
					notify_frame, NULL);
	Async_Notify(channel, native_payload);
}

/* Publish an event that was to be staged, before commit. */
static void
publish_unstaged(const StagedEvent *event)
{
	Database   *database = registry_my_database(false);
	PublishChannel *channel = named_channel(staged_event_channel(event));
	const char *native = staged_event_native(event);
	bool		framed = database && native;

	if (database && use_channel(database, channel) &&
		is_bound(database, channel))
		framed |= not_heard_yet(database, channel);
	publish_notify(channel->name, framed, staged_event_id(event),
				   staged_event_payload(event), event->payload_len, native);
}

/* Are the channel's events to be kept in the log? */
static bool
is_durable(PublishChannel *channel)
{
	uint64		version = durable_rules_version();

	if (channel->rules_version != version)
	{
		channel->durable = durable_rules_match(channel->name);
		channel->rules_version = version;
	}
	return channel->durable;
}

/*
 * Publish an event on the channel in this transaction.
 *
 * id is unique, has at most FRAME_ID_MAX bytes and no space; or it is empty,
 * and where one is needed it is made from the content.  payload has len bytes,
 * at most the greater of publish_max_payload() and PGPUBSUB_NATIVE_MAX, and is
 * terminated.  native_payload is what native listeners get if payload is longer
 * than PGPUBSUB_NATIVE_MAX, else NULL.
 *
 * In transactional mode this waits while the ring is full, and raises 53400 if
 * it stays full; in async mode publish_pre_commit() does so.
 */
void
publish_event(PublishChannel *channel, const char *id, const char *payload,
			  Size len, const char *native_payload)
{
	Database   *database = registry_my_database(true);
	int			mode = channel->mode == PUBLISH_MODE_SETTING ?
		pgpubsub_publish_mode : channel->mode;
	bool		framed = database && native_payload;
	bool		known;

	Assert(native_payload || len <= PGPUBSUB_NATIVE_MAX);
	known = database && use_channel(database, channel);
	if (is_durable(channel))
	{
		durable_add(channel->name, id, payload, len, native_payload);
		return;
	}
	if (database && mode == PUBLISH_ASYNC &&
		async_add(database, channel->name, id, payload, len, native_payload))
		return;
	if (known && is_bound(database, channel))
	{
		/* the full ring may wait for what this transaction is to commit */
		if (pg_atomic_read_u32(&database->relay.state) == RELAY_FULL &&
			!transaction_may_be_awaited())
			(void) room_wait(database, channel->name);
		framed |= not_heard_yet(database, channel);
	}
	publish_notify(channel->name, framed, id, payload, len, native_payload);
}

/*
 * Count an event that was just published on the channel without its body,
 * because it was too large.  It stays counted if the transaction rolls back.
 */
void
publish_count_truncated(PublishChannel *channel)
{
	Database   *database = registry_my_database(false);

	if (database == NULL)
		return;
	pg_atomic_fetch_add_u64(&database->stats.truncated, 1);
	if (channel_current(database, channel))
		pg_atomic_fetch_add_u64(&database->channels[channel->slot].truncated,
								1);
}

/*
 * Make the channel known, so that patterns match it before its first event.
 * Does nothing if there is no room for it.
 */
void
publish_channel_known(const char *name)
{
	Database   *database = registry_my_database(true);
	bool		bound;
	int			slot;

	if (database == NULL)
		return;
	LWLockAcquire(database->lock, LW_EXCLUSIVE);
	slot = make_channel(database, name, &bound);
	if (slot >= 0)
		pg_atomic_write_u32(&database->channels[slot].used, 1);
	LWLockRelease(database->lock);
	if (bound)
		registry_request(database);
}

/*
 * Publish the payload on the channel that the SQL function's first argument
 * names.  Raises 22004, 22023, 25006, 42939 and 54000 for the arguments, and
 * what publish_event() raises.
 */
static void
publish_payload(FunctionCallInfo fcinfo, const char *payload)
{
	char	   *name;
	Size		len = strlen(payload);
	Size		max = publish_max_payload();
	char	   *native = NULL;
	char		id[FRAME_ID_MAX + 1];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("channel name cannot be null"),
				 errhint("Give a name of 1 to %d bytes.",
						 PGPUBSUB_CHANNEL_MAX)));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute pgpubsub.publish() on a standby"),
				 errdetail("A standby has no NOTIFY and so no relay."),
				 errhint("Connect to the primary server.")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	(void) pgpubsub_check_channel_name(name, ERROR);
	if (len > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("payload is too large"),
				 errdetail("The payload for channel \"%s\" has %zu bytes; at most %zu can be published.",
						   name, len, max),
				 errhint("Publish a reference to the data, or have pgpubsub.max_payload, pgpubsub.queue_size and pgpubsub.staging_size raised.")));

	if (len > PGPUBSUB_NATIVE_MAX)
	{
		make_content_id(id, name, payload, len);
		native = psprintf("{\"truncated\":true,\"bytes\":%zu,\"id\":\"%s\"}",
						  len, id);
	}
	/* without an id, async mode cannot and does not fold identical calls */
	publish_event(named_channel(name), "", payload, len, native);
}

/*
 * pgpubsub.publish(channel text, payload text) RETURNS void
 * pgpubsub.publish(channel text, payload json) RETURNS void
 */
Datum
pgpubsub_publish(PG_FUNCTION_ARGS)
{
	publish_payload(fcinfo, PG_ARGISNULL(1) ? "" :
					text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

/* pgpubsub.publish(channel text, payload jsonb) RETURNS void */
Datum
pgpubsub_publish_jsonb(PG_FUNCTION_ARGS)
{
	const char *payload = "";

	if (!PG_ARGISNULL(1))
	{
		Jsonb	   *value = PG_GETARG_JSONB_P(1);

		payload = JsonbToCString(NULL, &value->root, (int) VARSIZE(value));
	}
	publish_payload(fcinfo, payload);
	PG_RETURN_VOID();
}

/*
 * Before commit: have the events of async mode staged, and publish those that
 * cannot be.  May wait, and raises 53400.
 */
void
publish_pre_commit(void)
{
	StagedEvent *event;

	durable_pre_commit();
	async_pre_commit();
	while ((event = async_next_unstaged()) != NULL)
		publish_unstaged(event);
}

/*
 * Before PREPARE TRANSACTION: raise 0A000 if the transaction has published,
 * because its events cannot wait for COMMIT PREPARED.  Core refuses
 * notifications too, but later, and speaks of NOTIFY, which the user did not
 * write.
 */
void
publish_pre_prepare(void)
{
	if (notified_level == 0 && !async_any() && !durable_any())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot PREPARE a transaction that has published events"),
			 errdetail("Events, like NOTIFY, cannot wait for COMMIT PREPARED."),
			 errhint("Set pgpubsub.muted before the transaction or for the role (ALTER ROLE ... SET), drop or disable the triggers that publish, or use COMMIT.")));
}

/* The transaction has ended.  Cannot fail. */
void
publish_at_end(bool commit)
{
	durable_at_end(commit);
	async_at_end(commit);
	forget_used_channels();
	room_at_end();
	last_event_number = 0;
	notified_level = 0;
}

/* The subtransaction of that level has committed.  Cannot fail. */
void
publish_at_subcommit(int level)
{
	durable_at_subcommit(level);
	async_at_subcommit(level);
	nesting_subcommit(&notified_level, level);
}

/* The subtransaction of that level was rolled back.  Cannot fail. */
void
publish_at_subabort(int level)
{
	durable_at_subabort(level);
	async_at_subabort(level);
	(void) nesting_subabort(&notified_level, level);
}

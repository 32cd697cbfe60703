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
 *	  shared memory and counts the transaction among its publishers, until it
 *	  ends.  So a pattern that is subscribed while the transaction is open
 *	  finds the channel, and its slot is not reused.
 *
 * 3. The relay may not listen to a channel yet although it is bound: it was
 *	  just made known, and a pattern matches.  Such an event is sent as frames
 *	  too, and so is one that is too long for a NOTIFY, even on a channel that
 *	  nobody reads: that may change before it is committed.  The native
 *	  notification follows its frames in the same transaction.
 *
 * 4. While the relay waits for room in the queue, a writer to a channel that
 *	  somebody reads waits too, at its next event.
 *
 * Without shared memory (not preloaded, a database left out by the settings)
 * all this comes down to NOTIFY.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish.h"

#include "access/xlog.h"
#include "base/nesting.h"
#include "commands/async.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "publish/publish_async.h"
#include "publish/wait_for_room.h"
#include "queue/frame.h"
#include "registry/holders.h"
#include "registry/registry.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/*
 * The channels that this transaction has published on, in
 * TopTransactionContext; gone when it ends.
 */
static Channel **used_channels = NULL;
static int	num_used = 0;
static int	max_used = 0;

/*
 * Is a channel among them?  For each channel of this database: the
 * transaction, as numbered here from 1, that has published on it last.
 */
static Database *marked_database = NULL;
static uint32 *marks = NULL;
static uint32 transaction_number = 1;

/* Channels of publish(), by a hash of the name: it has no place of its own. */
#define NAMED_CHANNELS	16
static PublishChannel named_channels[NAMED_CHANNELS];

/* Events that this top transaction has numbered. */
static uint64 event_number = 0;

/*
 * The outermost level of subtransactions at which there are notifications of
 * this transaction; 0: there are none.
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
	for (int i = 0; i < num_used; i++)
		registry_leave_channel(used_channels[i]);

	/* when the numbers start again, old marks must not come true */
	if (num_used > 0 && ++transaction_number == 0)
	{
		memset(marks, 0, pgpubsub_max_channels * sizeof(uint32));
		transaction_number = 1;
	}
	used_channels = NULL;
	num_used = max_used = 0;
}

/*
 * The number of the next event in this top transaction, from 1.
 */
uint64
publish_next_event_number(void)
{
	return ++event_number;
}

/*
 * The longest payload that the queues take, in bytes, whatever max_payload
 * says, which each session may have set otherwise; shared memory must be there.
 */
Size
publish_payload_limit(void)
{
	Size		queues = (Size) Min(pgpubsub_queue_size,
									pgpubsub_staging_size) * 1024;

	return Min(queues / 4, PGPUBSUB_PAYLOAD_MAX);
}

/*
 * The longest payload that can be published now, in bytes.
 */
Size
publish_max_payload(void)
{
	Size		max = pgpubsub_max_payload;

	return pgpubsub_preloaded() ? Min(max, publish_payload_limit()) : max;
}

/*
 * True for the name of the channel that frames travel on.
 */
bool
publish_channel_reserved(const char *name)
{
	return strcmp(name, PGPUBSUB_FRAME_CHANNEL) == 0;
}

/*
 * Start to cache what is known of the channel; name has 1 to
 * PGPUBSUB_CHANNEL_MAX bytes.
 */
void
publish_channel_init(PublishChannel *channel, const char *name)
{
	memset(channel, 0, sizeof(PublishChannel));
	strlcpy(channel->name, name, NAMEDATALEN);
	channel->mode = PUBLISH_MODE_SETTING;
}

/*
 * What is cached of the channel of that name, where the caller keeps nothing.
 * A full table is looked at anew each time.
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

/* True if the cached slot is still the channel's. */
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
 * Is the slot still this database's, in which we have found it?  The
 * database's lock must be held: it is not freed meanwhile.
 */
static bool
is_mine(Database *database)
{
	Assert(LWLockHeldByMe(database->lock));
	return pg_atomic_read_u32(&database->generation) ==
		registry_my_generation();
}

/* Tell patterns that match, and the log, that the channel table is full. */
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
 * The channel's slot, which is made if there is none; -1 if there is no room
 * or the database's slot was freed.  *bound: somebody reads the channel.  The
 * database's lock must be held, exclusive.
 */
static int
make_channel(Database *database, const char *name, bool *bound)
{
	int			slot = is_mine(database) ?
		registry_make_channel(database, name, false) : -1;

	*bound = slot >= 0 &&
		pg_atomic_read_u32(&database->channels[slot].nbindings) > 0;
	return slot;
}

/*
 * Find or make the channel's slot.  Returns false if there is no room.  The
 * slot's generation is read, and the publisher counted, under the lock, so
 * that it cannot be reused in between.
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
	return database == marked_database &&
		marks[channel->slot] == transaction_number;
}

/*
 * Make room to note one more used channel of the database; may raise out of
 * memory.
 */
static void
reserve_used_channel(Database *database)
{
	Size		marks_size = pgpubsub_max_channels * sizeof(uint32);
	int			larger = Max(8, 2 * max_used);

	if (marks == NULL)
		marks = MemoryContextAllocZero(TopMemoryContext, marks_size);
	if (marked_database != database)
	{
		/* one that was used before this is noted twice, which is no harm */
		memset(marks, 0, marks_size);
		marked_database = database;
	}
	if (num_used < max_used)
		return;
	if (used_channels == NULL)
		used_channels = MemoryContextAlloc(TopTransactionContext,
										   larger * sizeof(Channel *));
	else
		used_channels = repalloc(used_channels, larger * sizeof(Channel *));
	max_used = larger;
}

/*
 * Note that the transaction counts among the channel's publishers; once is
 * enough.
 */
static void
note_used_channel(Database *database, PublishChannel *channel)
{
	Channel    *slot = &database->channels[channel->slot];

	if (channel_used(database, channel))
		registry_leave_channel(slot);
	else
	{
		marks[channel->slot] = transaction_number;
		used_channels[num_used++] = slot;
	}
}

/*
 * Make sure that the channel is known and counts this transaction among its
 * publishers.  Returns false if there is no room for it.
 */
static bool
use_channel(Database *database, PublishChannel *channel)
{
	if (channel_current(database, channel))
	{
		if (channel_used(database, channel))
			return true;

		/* it may be reused before we are counted */
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

/* Does any subscription read the channel, which is used? */
static bool
is_bound(Database *database, PublishChannel *channel)
{
	return pg_atomic_read_u32(&database->channels[channel->slot].nbindings) > 0;
}

/*
 * True if the relay does not listen yet to the channel, which somebody reads.
 */
static bool
not_heard_yet(Database *database, PublishChannel *channel)
{
	Channel    *slot = &database->channels[channel->slot];

	return pg_atomic_read_u32(&slot->listening) == 0 &&
		pg_atomic_read_u32(&database->relay.state) != RELAY_STOPPED;
}

/* Send one frame of an event. */
static void
notify_frame(const char *text, void *arg)
{
	Async_Notify(PGPUBSUB_FRAME_CHANNEL, text);
}

/*
 * Make an id, of at most FRAME_ID_MAX bytes, from channel and payload, so that
 * core folds two identical calls of publish() in one transaction also where
 * they travel as frames.
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
 * The arguments are as for publish_event(), where an empty id stands for one
 * made from the content.
 */
static void
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

/* Publish at once what was to be staged, before commit. */
static void
publish_unstaged(const char *name, const char *id, const char *payload,
				 Size len, const char *native_payload)
{
	Database   *database = registry_my_database(false);
	PublishChannel *channel = named_channel(name);
	bool		framed = database && native_payload;

	if (database && use_channel(database, channel) &&
		is_bound(database, channel))
		framed |= not_heard_yet(database, channel);
	publish_notify(name, framed, id, payload, len, native_payload);
}

/*
 * Publish an event on the channel in this transaction.  id: unique, at most
 * FRAME_ID_MAX bytes, no space in it; or empty, see publish_notify().
 * payload: len bytes, terminated, at most publish_max_payload(), or
 * PGPUBSUB_NATIVE_MAX if that is less.
 * native_payload: what native listeners get if payload is longer than
 * PGPUBSUB_NATIVE_MAX, else NULL.  Transactional mode waits while the queue is
 * full, and raises 53400 if it stays full because of a subscription that is
 * never evicted; async mode does so before commit.
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
	if (database && mode == PUBLISH_ASYNC &&
		async_add(database, channel->name, id, payload, len, native_payload))
		return;
	if (known && is_bound(database, channel))
	{
		/* a session that has something to commit may be what is waited for */
		if (pg_atomic_read_u32(&database->relay.state) == RELAY_FULL &&
			!transaction_may_be_awaited)
			(void) room_wait(database, channel->name);
		framed |= not_heard_yet(database, channel);
	}
	publish_notify(channel->name, framed, id, payload, len, native_payload);
}

/*
 * Count an event that was published on the channel just now without its body,
 * for it was too large; also if the transaction then rolls back.
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
 * Does nothing if there is no room.
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

/* Raise an error if a payload of this many bytes cannot be published. */
static void
check_payload(const char *channel, Size len)
{
	Size		max = publish_max_payload();

	if (len > max)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("payload is too large"),
				 errdetail("The payload for channel \"%s\" has %zu bytes; at most %zu can be published.",
						   channel, len, max),
				 errhint("Publish a reference to the data, or have pgpubsub.max_payload, pgpubsub.queue_size and pgpubsub.staging_size raised.")));
}

/*
 * Publish the payload on the channel that the SQL function's first argument
 * names; raises what publish() raises.
 *
 * Short text has an id only where it travels as a frame: see publish_notify().
 */
static void
publish_payload(FunctionCallInfo fcinfo, const char *payload)
{
	char	   *name;
	Size		len = strlen(payload);
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
	check_payload(name, len);

	if (len > PGPUBSUB_NATIVE_MAX)
	{
		make_content_id(id, name, payload, len);
		native = psprintf("{\"truncated\":true,\"bytes\":%zu,\"id\":\"%s\"}",
						  len, id);
	}
	/* two calls alike are two events in async mode: it has no id of its own */
	publish_event(named_channel(name), "", payload, len, native);
}

/*
 * pgpubsub.publish(channel text, payload text) RETURNS void
 *
 * With payload json too, which is text that was checked.
 */
Datum
pgpubsub_publish(PG_FUNCTION_ARGS)
{
	publish_payload(fcinfo, PG_ARGISNULL(1) ? "" :
					text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

/*
 * pgpubsub.publish(channel text, payload jsonb) RETURNS void
 */
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
 * Life of a transaction
 */

/*
 * Before commit: have the events of async mode staged, or publish them; see
 * async_pre_commit().
 */
void
publish_pre_commit(void)
{
	async_pre_commit(publish_unstaged);
}

/*
 * PREPARE TRANSACTION: raise 0A000 if the transaction has published, for its
 * events cannot wait for COMMIT PREPARED.  Core refuses notifications too, but
 * later, and with a hint at NOTIFY, which the user has not written.
 */
void
publish_pre_prepare(void)
{
	if (notified_level == 0 && !async_any())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot PREPARE a transaction that has published events"),
			 errdetail("Events, like NOTIFY, cannot wait for COMMIT PREPARED."),
			 errhint("Set pgpubsub.muted before the transaction or for the role (ALTER ROLE ... SET), drop or disable the triggers that publish, or use COMMIT.")));
}

/*
 * The transaction has ended.  Cannot fail.
 */
void
publish_at_end(bool commit)
{
	async_at_end(commit);
	forget_used_channels();
	room_at_end();
	event_number = 0;
	notified_level = 0;
}

/*
 * The subtransaction of that level has committed.  Cannot fail.
 */
void
publish_at_subcommit(int level)
{
	async_at_subcommit(level);
	nesting_subcommit(&notified_level, level);
}

/*
 * The subtransaction of that level was rolled back.  Cannot fail.
 */
void
publish_at_subabort(int level)
{
	async_at_subabort(level);
	(void) nesting_subabort(&notified_level, level);
}

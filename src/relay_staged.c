/*-------------------------------------------------------------------------
 *
 * relay_staged.c
 *	  From the staging queue to NOTIFY and back.
 *
 * 1. A batch is one transaction of the relay that NOTIFYs staged events in
 *	  their order.  It ends before an event that core would fold with one of
 *	  it, and before one on a channel that the relay should listen to and does
 *	  not yet.  Its commit moves the mark notified.
 *
 * 2. Right after that the relay reads core's queue, in which its own
 *	  notifications come back among others, so that subscriptions have the
 *	  order that native listeners see.  They are recognized by the relay's
 *	  pid, channel and payload, and get the pid of their writer.
 *
 * 3. Events on channels that nobody reads need no frames and do not come
 *	  back.  They leave a marker in the inbox, so that the mark appended gets
 *	  over them in order.  Who reads what is decided when an event is sent:
 *	  who comes later has its request handled after the batch.
 *
 * 4. A batch that fails (core's queue may be full) is rolled back, and what it
 *	  had taken is taken back; it is tried again later.  The relay goes on.
 *
 * 5. A new relay puts what was notified and is not in the ring into its inbox
 *	  without notifying it again, and goes on behind that.
 *
 *-------------------------------------------------------------------------
 */
#include "relay_staged.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "publish.h"
#include "relay_pace.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* What a batch has at most. */
#define BATCH_EVENTS	1000
#define BATCH_BYTES		(1024 * 1024)

/* After a failure, the next try comes after so long. */
#define RETRY_MS		250

/* A failure is logged at most so often. */
#define LOG_EVERY_MS	5000

/* Hashes of a batch's events, to find out repetitions. */
typedef struct SeenEntry
{
	uint64		hash;
	char		status;
} SeenEntry;

#define SH_PREFIX		seen
#define SH_ELEMENT_TYPE	SeenEntry
#define SH_KEY_TYPE		uint64
#define SH_KEY			hash
#define SH_HASH_KEY(tb, key)	((uint32) (key))
#define SH_EQUAL(tb, a, b)		((a) == (b))
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* An event that was sent. */
typedef struct Sent
{
	const StagedEvent *event;
	uint64		number;
	int			pid;
	int			slot;			/* -1: it does not come back */
} Sent;

/* The transaction whose events are being taken. */
typedef struct Taking
{
	StagedView	view;			/* transaction NULL: none */
	const StagedEvent *event;	/* the next one */
	uint32		done;			/* events before it */
} Taking;

static Database *database = NULL;
static Staging *staging = NULL;
static Inbox *inbox = NULL;
static FindChannel find_channel = NULL;

static Taking taking;
static StagedTake take_result = TAKE_NOTHING;
static bool batch_full = false; /* the last batch ended at its limit */
static uint64 last_pos = 0;		/* of the transaction last taken */
static uint64 pass_end = 0;		/* places there were when the pass began */

/* Transactions that this batch has taken anew, to take them back. */
static StagedView *taken = NULL;
static int	num_taken = 0;

static Sent *sent = NULL;
static int	num_sent = 0;
static int	num_returned = 0;
static seen_hash * seen = NULL;

static TimestampTz retry_at = 0;

/* Put a staged event into the inbox, or its marker if nobody reads it. */
static void
put_in_inbox(const Sent *item)
{
	bool		put;

	if (item->slot < 0)
		put = inbox_put(inbox, -1, 0, item->number, "", 0);
	else
		put = inbox_put(inbox, item->slot, item->pid, item->number,
						staged_event_payload(item->event),
						item->event->payload_len);
	if (put && item->slot >= 0)
		pg_atomic_fetch_add_u64(&database->channels[item->slot].received, 1);
	else if (!put)
		database->relay_lost_events = true;
}

/* Events of the view that were notified and are not in the ring. */
static void
recover_view(StagedView *view)
{
	uint64		notified = staging_notified(staging);
	uint64		appended = staging_appended(staging);
	const StagedEvent *event = view->events;

	for (uint32 i = 0; i < view->nevents; i++)
	{
		uint64		number = view->first + i;

		if (number > notified)
		{
			taking.view = *view;
			taking.event = event;
			taking.done = i;
			return;
		}
		if (number > appended)
		{
			bool		listening;
			Sent		item = {.event = event,.number = number,.pid = view->pid};

			item.slot = find_channel(staged_event_channel(event), &listening);
			if (view->generation != pg_atomic_read_u32(&database->generation))
				item.slot = -1;
			put_in_inbox(&item);
		}
		event = staged_event_next(event);
	}
}

/* The batch's transaction commits: move the mark. */
static void
batch_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && num_sent > 0)
		staging_set_notified(staging, sent[num_sent - 1].number);
}

/*
 * Set up, after the relay listens; go on where the last relay was.
 */
void
relay_staged_init(Database *my_database, Inbox *my_inbox, FindChannel find)
{
	StagedView *views;
	int			nviews;

	database = my_database;
	staging = database->staging;
	inbox = my_inbox;
	find_channel = find;
	sent = MemoryContextAlloc(TopMemoryContext, BATCH_EVENTS * sizeof(Sent));
	taken = MemoryContextAlloc(TopMemoryContext,
							   BATCH_EVENTS * sizeof(StagedView));
	seen = seen_create(TopMemoryContext, BATCH_EVENTS, NULL);
	RegisterXactCallback(batch_xact_callback, NULL);
	staging_recover(staging, &views, &nviews);
	for (int i = 0; i < nviews; i++)
		recover_view(&views[i]);
	pfree(views);
}

/* The next event to send, NULL if there is none; stays the next. */
static const StagedEvent *
peek_event(void)
{
	if (taking.view.transaction != NULL && taking.done < taking.view.nevents)
		return taking.event;
	take_result = staging_take(staging, &taking.view);
	if (take_result != TAKE_FOUND)
	{
		memset(&taking, 0, sizeof(taking));
		return NULL;
	}
	staging_number(staging, &taking.view);
	taken[num_taken++] = taking.view;
	last_pos = taking.view.pos;
	taking.event = taking.view.events;
	taking.done = 0;
	return taking.event;
}

/* The event was sent, or is not to be. */
static void
advance_event(void)
{
	taking.event = staged_event_next(taking.event);
	taking.done++;
}

/* What native listeners get. */
static const char *
native_payload(const StagedEvent *event)
{
	const char *native = staged_event_native(event);

	return native ? native : staged_event_payload(event);
}

/* Is there the same channel and payload in this batch already? */
static bool
repeats(const StagedEvent *event)
{
	const char *channel = staged_event_channel(event);
	const char *payload = native_payload(event);
	bool		found;
	uint64		hash;

	hash = hash_bytes_extended((const unsigned char *) channel,
							   event->channel_len, 0);
	hash = hash_bytes_extended((const unsigned char *) payload,
							   (int) strlen(payload), hash);
	(void) seen_insert(seen, hash, &found);
	return found;
}

/*
 * Send as many events as a batch has.  Returns true if the relay has to
 * listen to a channel first.
 */
static bool
send_events(void)
{
	const StagedEvent *event;
	Size		bytes = 0;

	while (num_sent < BATCH_EVENTS && bytes < BATCH_BYTES &&
		   (event = peek_event()) != NULL)
	{
		const char *native = staged_event_native(event);
		Sent	   *item = &sent[num_sent];
		bool		listening = true;

		item->event = event;
		item->number = taking.view.first + taking.done;
		item->pid = taking.view.pid;
		item->slot = -1;
		if (taking.view.generation ==
			pg_atomic_read_u32(&database->generation))
		{
			item->slot = find_channel(staged_event_channel(event), &listening);
			if (item->slot >= 0 && !listening)
				return true;
			if (repeats(event))
				return false;
			publish_notify(staged_event_channel(event),
						   item->slot >= 0 && native, staged_event_id(event),
						   staged_event_payload(event), event->payload_len,
						   native);
		}
		relay_pace_event(item->pid);
		bytes += event->length;
		num_sent++;
		advance_event();
	}
	batch_full = num_sent == BATCH_EVENTS || bytes >= BATCH_BYTES;
	return false;
}

/* The batch failed: say so, roll back, and take its events back. */
static void
fail_batch(Taking *before)
{
	static TimestampTz last_log = 0;
	ErrorData  *error;
	TimestampTz now = GetCurrentTimestamp();

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(MessageContext);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(MessageContext);

	while (num_taken > 0)
		staging_take_back(staging, &taken[--num_taken]);
	taking = *before;
	last_pos = 0;
	num_sent = 0;
	retry_at = TimestampTzPlusMilliseconds(now, RETRY_MS);
	pg_atomic_write_u32(&database->notify_failing, 1);
	if (TimestampDifferenceExceeds(last_log, now, LOG_EVERY_MS))
	{
		last_log = now;
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("pgpubsub relay could not notify staged events: %s",
						error->message),
				 errdetail_internal("They stay in the staging queue, and are tried again.")));
	}
	FreeErrorData(error);
}

/*
 * After a batch has failed: core moves the tail of its queue only when
 * somebody sends, which a full queue forbids, or asks for its use.  So ask, or
 * the queue would stay full when whoever held it has let go.
 */
static void
advance_core_queue(void)
{
	if (pg_atomic_read_u32(&database->notify_failing) != 0)
		(void) DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0);
}

/*
 * Send a batch in a transaction of its own.  Returns false if it failed, and
 * then has gone back to what was being taken before it; *listen_first as
 * send_events().
 */
static bool
send_batch(Taking *before, bool *listen_first)
{
	volatile bool done = false;
	volatile bool listen = false;

	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "notifying staged events");
	PG_TRY();
	{
		StartTransactionCommand();
		advance_core_queue();
		listen = send_events();
		CommitTransactionCommand();
		done = true;
	}
	PG_CATCH();
	{
		fail_batch(before);
	}
	PG_END_TRY();
	pgstat_report_activity(STATE_IDLE, NULL);
	*listen_first = listen;
	return done;
}

/*
 * A notification of the relay's own has come back: len bytes.  Returns
 * whether it is of a staged event; it is in the inbox then.  Raises nothing.
 */
bool
relay_staged_receive(const char *channel, const char *payload, Size len)
{
	for (int i = num_returned; i < num_sent; i++)
	{
		Sent	   *item = &sent[i];

		if (item->slot < 0 || item->event->payload_len != len ||
			strcmp(staged_event_channel(item->event), channel) != 0 ||
			memcmp(staged_event_payload(item->event), payload, len) != 0)
			continue;

		/* those before it have not come back, or do not */
		while (num_returned <= i)
			put_in_inbox(&sent[num_returned++]);
		return true;
	}
	return false;
}

/* All of the batch that comes back has; the rest goes to the inbox too. */
static void
finish_batch(void)
{
	while (num_returned < num_sent)
		put_in_inbox(&sent[num_returned++]);
	num_sent = num_returned = num_taken = 0;
	pg_atomic_write_u32(&database->notify_failing, 0);
}

/* End the pass if all places that there were when it began are done with. */
static void
check_pass(bool nothing_left)
{
	if (pass_end != 0 && (nothing_left || last_pos >= pass_end))
	{
		staging_end_pass(staging);
		pass_end = 0;
	}
}

/*
 * Notify a batch of staged events, and have them in the inbox.  read is
 * called to read what comes back.
 */
StagedResult
relay_staged_batch(ReadNotifications read)
{
	bool		listen_first = false;
	Taking		before;

	take_result = TAKE_NOTHING;
	batch_full = false;
	staging_free(staging);
	if (taking.view.transaction == NULL && staging_idle(staging) &&
		pass_end == 0)
		return STAGED_NOTHING;
	if (retry_at != 0 && GetCurrentTimestamp() < retry_at)
		return STAGED_NOTHING;
	retry_at = 0;
	if (pass_end == 0)
	{
		pass_end = staging_begin_pass(staging);
		last_pos = 0;
	}

	num_sent = num_returned = num_taken = 0;
	seen_reset(seen);
	before = taking;
	if (peek_event() == NULL)
	{
		check_pass(take_result == TAKE_NOTHING);
		return STAGED_NOTHING;
	}
	if (!send_batch(&before, &listen_first))
		return STAGED_NOTHING;
	if (num_sent > 0)
		read();
	finish_batch();
	check_pass(false);
	return listen_first ? STAGED_LISTEN_FIRST : STAGED_BATCH;
}

/*
 * Was a committed transaction left because of one that is just about to take
 * shape or to be marked?
 */
bool
relay_staged_soon(void)
{
	return take_result == TAKE_SOON;
}

/*
 * Is more staged than the last batch took, or so much that writers may come
 * to wait?
 */
bool
relay_staged_backlog(void)
{
	return batch_full || staging_used(staging) > staging_size(staging) / 2;
}

/*
 * How long the relay may sleep before a batch is to be tried again, in ms;
 * -1: until it is woken.
 */
long
relay_staged_timeout(void)
{
	TimestampTz now;

	/* nobody tells when it is no longer in the way */
	if (take_result == TAKE_SOON)
		return 1;
	if (retry_at == 0)
		return -1;
	now = GetCurrentTimestamp();
	return retry_at > now ? TimestampDifferenceMilliseconds(now, retry_at) + 1 : 0;
}

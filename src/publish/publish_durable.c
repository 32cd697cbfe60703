/*-------------------------------------------------------------------------
 *
 * publish_durable.c
 *	  Events of durable channels, which go through the log.
 *
 * 1. Until commit, events wait in the backend's memory; see pending_events.c.
 *
 * 2. Before commit, the transaction writes them to the log, in its own name:
 *	  they are there if, and only if, it commits, whatever becomes of the
 *	  server.  Then it takes a place in the log's staging queue, so that the
 *	  relay knows at once, and in which order.  A place is taken after the
 *	  rows are written: it keeps those behind it from being freed, and many
 *	  rows take their time.
 *
 * 3. Few events are copied to the place, so that the relay need not read the
 *	  log.  Where they are many, or the queue fills up, the place says only
 *	  where they are.
 *
 * 4. The end of the transaction marks the place, which cannot fail.  If the
 *	  server ends in between, the relay finds rows without a note.
 *
 * 5. Where there is no shared memory for the database, the events are in the
 *	  log all the same, for a relay that comes one day, and native listeners
 *	  get them by NOTIFY.  A relay that begins waits until such transactions
 *	  have ended: it would hear the NOTIFY, too, and what comes later by the
 *	  staging queue would be noted before.
 *
 *-------------------------------------------------------------------------
 */
#include "publish/publish_internal.h"

#include "access/xact.h"
#include "base/debug.h"
#include "log/log.h"
#include "miscadmin.h"
#include "registry/holders.h"
#include "utils/memutils.h"

/* More events, or bytes, than these are not copied to the place. */
#define MOST_COPIED_EVENTS	1000
#define MOST_COPIED_BYTES	((Size) 256 * 1024)

/* So often a test may stop who writes many. */
#define DEBUG_EVENTS		1000

/* A place that this transaction has; it marks it at its end. */
typedef struct OwnPlace
{
	StagedTransaction *place;
	struct OwnPlace *next;
} OwnPlace;

/* The durable events of this transaction. */
typedef struct DurableTransaction
{
	PendingEvents events;

	/* from its first batch before commit on */
	Database   *database;		/* NULL: it has no shared memory */
	uint32		generation;
	OwnPlace   *places;
	bool		in_queue;		/* it stands in the queue for room */
	bool		settled;		/* later events are written at once */
	bool		wrote;			/* it has a segment of the log locked */
	bool		unplaced;		/* some are in the log without a place */
} DurableTransaction;

/* All zero between transactions. */
static DurableTransaction durable;

/*
 * Find the database's slot.  NULL if there is none, or nobody is to take events
 * out of its staging queue.
 */
static Database *
find_database(void)
{
	Database   *database = registry_my_database(true);

	if (database == NULL)
		return NULL;
	durable.generation = registry_my_generation();
	if (pg_atomic_read_u32(&database->relay.unavailable) == RELAY_LEFT_OUT)
	{
		/* a relay that comes later is to wait, and to look for the rows */
		pg_atomic_write_u32(&database->log.recovered, LOG_NOT_RECOVERED);
		return NULL;
	}
	return database;
}

/*
 * Events of this transaction, which has committed, are in the log without a
 * place: if there is a relay, or will be one, it is to look for them.  Cannot
 * fail.
 */
static void
have_rows_found(void)
{
	Database   *database = registry_my_database(false);

	if (database == NULL)
		return;
	pg_memory_barrier();
	pg_atomic_write_u32(&database->log.recovered, LOG_NOT_RECOVERED);
	registry_wake(&database->relay.procno);
}

/* Are the events to be copied to the place? */
static bool
shall_copy(void)
{
	Staging    *staging;

	if (durable.database == NULL)
		return false;
	staging = durable.database->log.staging;
	return durable.events.end.nevents <= MOST_COPIED_EVENTS &&
		durable.events.end.bytes <= MOST_COPIED_BYTES &&
		durable.events.end.bytes <= staging_max_transaction(staging) / 8 &&
		staging_used(staging) < staging_size(staging) / 4;
}

/* What the log is to have of the event. */
static void
fill_entry(StagedEvent *event, LogEntry *entry)
{
	entry->channel = staged_event_channel(event);
	entry->id = staged_event_id(event);
	entry->payload = staged_event_payload(event);
	entry->payload_len = event->payload_len;
	entry->native = staged_event_native(event);
}

/* Write the events, and note in each where its row is. */
static void
write_kept(LogWriter *writer)
{
	Chunk	   *chunk = NULL;
	Size		pos = 0;
	StagedEvent *event;

	while ((event = pending_next(&durable.events, &chunk, &pos)) != NULL)
	{
		LogEntry	entry;

		fill_entry(event, &entry);
		event->segment = (uint8) log_writer_segment(writer);
		log_writer_add(writer, &entry, &event->place);
	}
	log_writer_flush(writer);
}

/*
 * Write the events, and free them; without shared memory, NOTIFY them.  In
 * *reference, if not NULL, is then where the rows are.
 */
static void
write_and_free(LogWriter *writer, LogReference *reference)
{
	StagedEvent *event;
	uint32		count = 0;

	while ((event = pending_shift(&durable.events)) != NULL)
	{
		LogEntry	entry;

		fill_entry(event, &entry);
		log_writer_add(writer, &entry, NULL);
		if (durable.database == NULL)
			publish_notify(entry.channel, false, entry.id,
						   entry.native ? entry.native : entry.payload,
						   entry.native ? strlen(entry.native) : entry.payload_len,
						   NULL);
		if (++count % DEBUG_EVENTS == 0)
			DEBUG_POINT("durable_bulk");
	}
	log_writer_flush(writer);
	if (reference)
		log_writer_range(writer, reference);
}

/* Leave the queue for room, if this transaction stands in it.  Cannot fail. */
static void
leave_queue(void)
{
	if (durable.in_queue)
		staging_leave_queue(durable.database->log.staging);
	durable.in_queue = false;
}

/*
 * Take a place for so many bytes, waiting for it if need be.  The relay does
 * not wait for any reader to free places, so this session may wait whatever it
 * has consumed.  Nor does it wait for the segment that this session has locked:
 * it needs that only to empty it, and then does without.  (Somebody who alters
 * the segment's relation waits for this session, and has the relay fail to read
 * there what is staged as a reference, again and again.  That ends with this
 * wait, after publish_timeout.)  Raises 53400; in a worker of logical
 * replication, returns NULL.
 */
static StagedTransaction *
take_place(Size bytes, uint32 nevents)
{
	Staging    *staging = durable.database->log.staging;
	StagedTransaction *place = staging_reserve(staging, bytes, nevents,
											   durable.generation,
											   GetCurrentTimestamp());
	TimestampTz start;

	if (place)
		return place;
	staging_queue_up(staging, bytes);
	durable.in_queue = true;
	start = room_begin_staging(staging);
	for (;;)
	{
		place = staging_reserve_queued(staging, nevents, durable.generation,
									   GetCurrentTimestamp());
		if (place)
		{
			durable.in_queue = false;
			break;
		}
		if (!room_sleep_staging(durable.database, staging, start, 1000))
			break;
	}
	room_end_wait(start);
	leave_queue();
	return place;
}

/* Make room to remember one more place, before it is taken. */
static OwnPlace *
make_own_place(void)
{
	return MemoryContextAllocZero(TopTransactionContext, sizeof(OwnPlace));
}

/* The transaction has the place from now on. */
static void
own_place(OwnPlace *own, StagedTransaction *place)
{
	staging_set_xid(place, GetTopTransactionId());
	own->place = place;
	own->next = durable.places;
	durable.places = own;
}

/* Forget the events, which are in the log. */
static void
drop_events(void)
{
	while (pending_shift(&durable.events) != NULL)
		 /* it is freed */ ;
	memset(&durable.events, 0, sizeof(PendingEvents));
}

/* Take a place with a copy of the events, whose rows are written. */
static void
stage_copy(void)
{
	OwnPlace   *own = make_own_place();
	StagedTransaction *place = take_place(durable.events.end.bytes,
										  durable.events.end.nevents);

	if (place == NULL)
	{
		durable.unplaced = true;
		return;
	}
	own_place(own, place);
	pending_copy(&durable.events, staging_data(place));
}

/* Take a place that says where the rows are. */
static void
stage_reference(int segment, const LogReference *reference)
{
	OwnPlace   *own = make_own_place();
	StagedTransaction *place = take_place(staged_reference_length(sizeof(LogReference)),
										  1);
	StagedEvent *event;

	if (place == NULL)
	{
		durable.unplaced = true;
		return;
	}
	own_place(own, place);
	event = (StagedEvent *) staging_data(place);
	memcpy(staged_reference_write(event, sizeof(LogReference)), reference,
		   sizeof(LogReference));
	event->segment = (uint8) segment;
}

/*
 * Begin to write to the log, with room for it.  Who has consumed events, or
 * written to the log already, which locks a segment of it, may be waited for by
 * the relay, and so does not wait for room.  Raises 53400, 55000.
 */
static LogWriter *
begin_to_write(void)
{
	Database   *database = durable.database;
	EventsEnd  *events = &durable.events.end;
	bool		over = database == NULL || durable.wrote ||
		transaction_may_be_awaited();
	int			segment;
	LogWriter  *writer;

	while ((writer = log_writer_begin(database, database == NULL, events->nevents,
									  events->bytes, over, &segment)) == NULL)
		over = !room_wait_log(database, segment);
	durable.wrote = true;
	return writer;
}

/*
 * Write the events to the log, and take a place.  May wait.  Raises 53400 for
 * want of room, 55000 if the log is not as it should be, and what inserting
 * does.
 */
static void
write_and_stage(void)
{
	LogWriter  *writer;
	LogReference reference;
	bool		copied;
	int			segment;

	/* where there is a place already, there is shared memory */
	if (durable.places == NULL)
		durable.database = find_database();
	if (durable.database == NULL)
	{
		/* look again when a relay that comes has to wait */
		log_lock_unplaced(RowExclusiveLock);
		durable.database = find_database();

		/* its relay is not to wait for who may wait for it */
		if (durable.database)
			log_unlock_unplaced(RowExclusiveLock);
	}
	durable.unplaced |= durable.database == NULL;
	copied = shall_copy();
	writer = begin_to_write();
	segment = log_writer_segment(writer);
	if (copied)
		write_kept(writer);
	else
		write_and_free(writer, &reference);
	log_writer_end(writer);
	DEBUG_POINT("durable_rows_written");

	/*
	 * Now that a segment is locked, nobody drops the extension.  Somebody may
	 * have done so since the slot was found, and created it anew: the slot is
	 * another one then, or another database's, and the relay that there is
	 * would never look at the place.
	 */
	if (durable.database &&
		pg_atomic_read_u32(&durable.database->generation) != durable.generation)
		durable.unplaced = true;
	else if (durable.database)
	{
		if (copied)
			stage_copy();
		else
			stage_reference(segment, &reference);
		registry_prepare_to_wake();
	}
	drop_events();
	DEBUG_POINT("durable_place_taken");
}

/*
 * Add an event of a durable channel; the arguments are those of
 * publish_event().  Raises 25006 in a read-only transaction, 53200, and after
 * durable_pre_commit() what that does.
 */
void
durable_add(const char *channel, const char *id, const char *payload, Size len,
			const char *native)
{
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot publish on durable channel \"%s\" in a read-only transaction",
						channel),
				 errdetail("Its events are written to a log."),
				 errhint("Publish in a transaction that may write.")));
	if (durable.settled && GetCurrentTransactionNestLevel() > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot publish on durable channel \"%s\" in a subtransaction of a transaction that is committing",
						channel),
				 errdetail("Its events would be in the log whatever becomes of the subtransaction."),
				 errhint("Publish outside of the subtransaction.")));
	pending_add(&durable.events, channel, id, payload, len, native);
	if (durable.settled)
		write_and_stage();
}

/*
 * Before commit: write the events to the log.  May wait, and raises what
 * write_and_stage() does.
 */
void
durable_pre_commit(void)
{
	if (durable.events.end.nevents > 0)
		write_and_stage();
	durable.settled = true;
}

/* Has this transaction durable events? */
bool
durable_any(void)
{
	return durable.events.end.nevents > 0 || durable.places != NULL;
}

/* The top transaction has ended.  Cannot fail. */
void
durable_at_end(bool commit)
{
	leave_queue();
	if (durable.places)
	{
		DEBUG_POINT("durable_committed");
		for (OwnPlace *own = durable.places; own; own = own->next)
			staging_mark(own->place, commit);
		registry_wake(&durable.database->relay.procno);
	}
	if (durable.unplaced && commit)
		have_rows_found();
	memset(&durable, 0, sizeof(durable));
}

/* The subtransaction of that level has committed.  Cannot fail. */
void
durable_at_subcommit(int level)
{
	pending_at_subcommit(&durable.events, level);
}

/* The subtransaction of that level was rolled back.  Cannot fail. */
void
durable_at_subabort(int level)
{
	pending_at_subabort(&durable.events, level);
}

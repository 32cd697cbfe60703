/*-------------------------------------------------------------------------
 *
 * receive.c
 *	  What core delivers to the relay.
 *
 * 1. The relay LISTENs, in its own backend.  Core delivers notifications to
 *	  the frontend, of which the relay has none: so PqCommMethods points at
 *	  functions of this file, and receive_message() gets each
 *	  NotificationResponse that core would send.
 *
 * 2. Core calls receive_message() inside a transaction that holds a snapshot,
 *	  and where any error is FATAL.  So it raises nothing and waits for nothing
 *	  but short LWLocks: it puts together frames, finds the channel, copies the
 *	  event into the inbox, and does nothing else.  When core has committed that
 *	  transaction, append.c moves the inbox into the ring.
 *
 * 3. An event that is too long for NOTIFY, or on a channel that the relay may
 *	  not listen to yet, comes in frames on the reserved channel.  What native
 *	  listeners get of it, its twin, follows on the event's own channel.  If the
 *	  relay listens to that channel too it gets both, and drops the twin.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/relay_internal.h"

#include "access/xact.h"
#include "commands/async.h"
#include "libpq/libpq.h"
#include "libpq/pqcomm.h"
#include "port/pg_bswap.h"
#include "publish/publish.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/memdebug.h"
#include "utils/memutils.h"

static RelayReceive *const receive = &relay.receive;

/*
 * Put an event into the inbox.  The channel's slot must not be reused before
 * the event is counted as received, which this function does.
 */
static void
receive_event(int slot, int pid, const char *payload, Size len)
{
	relay_pace_event(pid);
	if (inbox_put(receive->inbox, slot, pid, relay_staged_taken(),
				  payload, len))
		pg_atomic_fetch_add_u64(&relay.database->channels[slot].received, 1);
	else
		relay.database->relay.lost_events = true;
}

/* Take a notification on the reserved channel: one frame of an event. */
static void
receive_frame(int pid, const char *text, Size len)
{
	FrameAssembly *assembly = &receive->assembly;
	Twin	   *twin = &receive->twin;
	uint64		bad = assembly->bad;
	FrameResult result = frame_accept(assembly, pid, text, len,
									  publish_payload_limit());
	int			slot;

	if (assembly->bad != bad)
		pg_atomic_fetch_add_u64(&relay.database->relay.bad_frames,
								(int64) (assembly->bad - bad));
	twin->expected = false;
	if (result != FRAME_COMPLETE)
		return;

	slot = relay_pin_bound_channel(assembly->channel);
	if (slot >= 0)
	{
		receive_event(slot, pid, assembly->data, assembly->len);
		registry_leave_channel(&relay.database->channels[slot]);
	}

	twin->expected = true;
	twin->overdue = false;
	twin->pid = pid;
	twin->crc = assembly->native_crc;
	strlcpy(twin->channel, assembly->channel, NAMEDATALEN);
	frame_drop(assembly);
}

/* Was the event delivered already, from its frames?  Expects no twin then. */
static bool
is_twin(int pid, const char *channel, const char *payload, Size len)
{
	Twin	   *twin = &receive->twin;
	bool		result = twin->expected && twin->pid == pid &&
		strcmp(twin->channel, channel) == 0 &&
		twin->crc == frame_crc(payload, len);

	twin->expected = false;
	return result;
}

/*
 * Take a notification on a channel that the relay listens to.  One that the
 * relay has sent itself is of a staged event, which came another way.
 */
static void
receive_native(int pid, const char *channel, const char *payload, Size len)
{
	int			slot = relay_listen_receive(channel);

	if (receive->assembly.active)
	{
		/* the frames of an event come one after the other */
		frame_drop(&receive->assembly);
		pg_atomic_fetch_add_u64(&relay.database->relay.bad_frames, 1);
	}
	if (receive->twin.expected && is_twin(pid, channel, payload, len))
		return;
	if (slot >= 0 && pid != MyProcPid)
		receive_event(slot, pid, payload, len);
}

/*
 * Core sends a message to the frontend.  NotificationResponse is an int32 in
 * network order, the channel and the payload, each terminated.  All other
 * messages (NOTICEs, ERRORs) are in the server log, and end here.
 */
static int
receive_message(char msgtype, const char *s, size_t len)
{
	uint32		pid;
	const char *channel;
	const char *payload;
	Size		channel_len;

	if (msgtype != 'A' || relay.database == NULL || len < sizeof(pid) + 2)
		return 0;

	/* memcheck takes what others have put into core's queue for our padding */
	VALGRIND_MAKE_MEM_DEFINED(s, len);
	memcpy(&pid, s, sizeof(pid));
	pid = pg_ntoh32(pid);
	channel = s + sizeof(pid);
	channel_len = strnlen(channel, len - sizeof(pid));
	payload = channel + channel_len + 1;
	if (payload >= s + len || channel_len > PGPUBSUB_CHANNEL_MAX)
		return 0;

	len = strnlen(payload, s + len - payload);
	if (strcmp(channel, PGPUBSUB_FRAME_CHANNEL) == 0)
		receive_frame((int) pid, payload, len);
	else
		receive_native((int) pid, channel, payload, len);
	return 0;
}

/* Core has nothing to reset, to flush, or to wait for. */
static void
receive_comm_reset(void)
{
}

static int
receive_flush(void)
{
	return 0;
}

static bool
receive_is_send_pending(void)
{
	return false;
}

/* Core sends a message, as for receive_message(), and takes no result. */
static void
receive_noblock(char msgtype, const char *s, size_t len)
{
	(void) receive_message(msgtype, s, len);
}

static const PQcommMethods receive_methods = {
	.comm_reset = receive_comm_reset,
	.flush = receive_flush,
	.flush_if_writable = receive_flush,
	.is_send_pending = receive_is_send_pending,
	.putmessage = receive_message,
	.putmessage_noblock = receive_noblock
};

/*
 * Make the inbox, and have what core sends to a frontend from now on.  May
 * raise an error, as inbox_create() does.
 */
void
relay_receive_init(void)
{
	receive->inbox =
		inbox_create(AllocSetContextCreate(TopMemoryContext,
										   "pgpubsub inbox",
										   ALLOCSET_DEFAULT_SIZES));
	receive->assembly.context = TopMemoryContext;
	whereToSendOutput = DestRemote;
	FrontendProtocol = PG_PROTOCOL_LATEST;
	PqCommMethods = &receive_methods;
}

/*
 * Have core read its queue if it has signalled the relay, or if forced.  An
 * event that was lost for want of memory opens a gap in all subscriptions.
 * Must not be in a transaction.
 */
void
relay_receive(bool force)
{
	Database   *database = relay.database;

	if (force)
		notifyInterruptPending = true;
	if (!notifyInterruptPending)
		return;
	inbox_reserve(receive->inbox);
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "reading notifications");
	ProcessNotifyInterrupt(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (database->relay.lost_events)
	{
		database->relay.lost_events = false;
		relay_tell_gaps();
		ereport(LOG,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("pgpubsub relay has lost events for want of memory")));
		registry_wake_waiters(database);
	}
}

/*
 * Have core read all of its queue, and remember how many of the async
 * transactions that could not be staged are read with that.
 */
void
relay_receive_all(void)
{
	uint64		ended = pg_atomic_read_u64(&relay.database->unstaged.ended);

	/*
	 * A writer puts its transaction into core's queue and then counts it in
	 * ended.  If we read core's queue first, it could do both in between, and
	 * we would note a transaction as read that we have not seen.
	 */
	pg_memory_barrier();
	relay_receive(true);
	pg_atomic_write_u64(&relay.database->unstaged.read, ended);
}

/*
 * What is listened to has changed, and is not announced yet: read the twin that
 * is still to come, or stop expecting it.
 *
 * Core's read may have ended between a frame and its twin, although their
 * transaction is committed: a read goes as far as the queue went when it began,
 * and a transaction's entries get there a page at a time.  If we listen to the
 * twin's channel by now, the next read begins with the twin; if not, the twin
 * never comes.  What could be mistaken for it, an equal text sent by that
 * session without a frame, is not sent before the channel is announced.
 */
void
relay_receive_twin(void)
{
	Twin	   *twin = &receive->twin;

	twin->overdue = true;
	if (twin->expected)
		relay_receive(true);

	/* that read may have ended just behind another frame */
	if (twin->overdue)
		twin->expected = false;
}

/*-------------------------------------------------------------------------
 *
 * session.c
 *	  What a client can say once it has logged in, under libFuzzer: see scripts/fuzz.
 *
 * An input is the client's messages.  Where its session waits for the server, the next
 * byte of the input says what that does: it adds channels or cannot, commits what is
 * notified or not, brings events, answers nothing until the time is over; or
 * the client asks for a cancel, or goes.  What is not answered at the end goes well.
 *
 * Sessions, statements, transactions and channels are the gateway's own; its socket,
 * the loop and the server are played here.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/marks.h"
#include "gateway/quota.h"
#include "gateway/session.h"
#include "gateway/stream.h"
#include "gateway/upstream.h"

#define SERVER_PID 17
#define CLIENT_PID 5000000

/* Bytes of answers that may wait for the client before it is closed. */
#define MAX_OUT (8 * 1024 * 1024)

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct Notices
{
	char	   *channel;		/* of the last one */
	char	   *payload;
	bool		sent;
	NoticesDone done;
	void	   *context;
};

Gateway		gateway;
Limits		limits;

static Client client;
static Role *role;
static bool ended;				/* the client is closed */
static bool wants_channels;		/* the server is to be asked for some */
static bool is_full;			/* nothing can be notified */
static MarkWait *mark;
static Notices *notices;
static int64_t seq;

/* Fail if it does not hold. */
static void
must(bool condition)
{
	if (!condition)
		abort();
}

/* ---- the gateway's other files, as a session sees them ---- */

void
client_set_state(Client *of, ClientState state)
{
	of->state = state;
}

void
client_touch(Client *of)
{
	(void) of;
}

void
client_deadline(Client *of, int64_t seconds)
{
	(void) of;
	(void) seconds;
}

void
client_input(Client *of)
{
	(void) of;
}

void
client_end(Client *of, const Report *report, const char *reason)
{
	(void) report;
	(void) reason;
	session_drop(of);
	members_remove_all(of);
	of->state = CLIENT_CLOSING;
	ended = true;
}

void
client_deliver(Client *of, Piece *piece)
{
	queue_add_piece(session_is_idle(of) ? &of->out : &of->held, piece);
}

Owner
client_owner(const Client *of)
{
	Owner		owner = {false, of->role->name};

	return owner;
}

bool
commands_are_full(Owner owner)
{
	must(strcmp(owner.name, role->name) == 0);
	return is_full;
}

static void
free_notices(Notices *of)
{
	if (notices == of)
		notices = NULL;
	free(of->channel);
	free(of->payload);
	free(of);
}

Notices *
commands_begin(Client *of, NoticesDone done, void *context)
{
	must(of == &client && notices == NULL);
	notices = memory_get_zeroed(sizeof(Notices));
	notices->done = done;
	notices->context = context;
	return notices;
}

void
commands_add(Notices *of, const char *channel, const char *payload)
{
	must(strlen(channel) <= 63 && strlen(channel) > 0 && strlen(payload) < 8000);
	must(utf8_invalid(channel, strlen(channel)) == strlen(channel));
	must(utf8_invalid(payload, strlen(payload)) == strlen(payload));
	free(of->channel);
	free(of->payload);
	of->channel = memory_copy_string(channel);
	of->payload = memory_copy_string(payload);
}

void
commands_send(Notices *of)
{
	must(of->channel != NULL);
	of->sent = true;
	channel_expect_echo(of->channel, of->payload, SERVER_PID, &client);
}

void
commands_forget(Notices *of)
{
	free_notices(of);
}

bool
commands_withdraw(Notices *of)
{
	bool		can = seq % 2 == 0;

	if (can)
		free_notices(of);
	return can;
}

void
mark_wait(MarkWait *wait, Client *of, MarkReached reached)
{
	must(mark == NULL);
	wait->client = of;
	wait->reached = reached;
	mark = wait;
}

void
mark_wait_end(MarkWait *wait)
{
	if (mark == wait)
		mark = NULL;
}

void
upstream_channels_changed(void)
{
	wants_channels = true;
}

const char *
upstream_database(void)
{
	return "database";
}

const char *
upstream_version(void)
{
	return "PostgreSQL";
}

const char *
upstream_schema(void)
{
	return "public";
}

bool
upstream_is_utf8(void)
{
	return true;
}

const char *
subscription_name(void)
{
	return "itself";
}

/* There are no clients over HTTP here. */
uint64_t
history_add_event(int64_t of, const char *name, const char *payload)
{
	(void) of;
	(void) name;
	(void) payload;
	abort();
}

void
events_deliver(Client *of, uint64_t number)
{
	(void) of;
	(void) number;
	abort();
}

void
events_forget(void)
{
	abort();
}

bool
name_matches(const char *pattern, const char *name)
{
	(void) pattern;
	(void) name;
	abort();
}

/* ---- the server ---- */

static const Report refused = {
	.sqlstate = "58000",
	.message = "the server has failed",
};

/* The server adds the channels that are wanted, or says why not; false: there are none. */
static bool
answer_channels(const Report *report)
{
	int			count = 0;
	char	  **dropped;
	const char **names;

	wants_channels = false;
	dropped = channels_take_dropped(&count);
	for (int i = 0; dropped != NULL && i < count; i++)
		free(dropped[i]);
	free(dropped);
	names = channels_take_wanted(&count);
	if (names == NULL)
		return false;
	free(names);
	channels_added(report);
	return true;
}

/* The server has committed what was notified, or not. */
static void
answer_notices(const Report *report)
{
	NoticesDone done = notices->done;
	void	   *context = notices->context;
	char	   *channel = notices->channel;
	char	   *payload = notices->payload;

	notices->channel = notices->payload = NULL;
	free_notices(notices);
	done(context, report);
	if (report == NULL)
		channels_event(++seq, channel, payload, SERVER_PID);
	free(channel);
	free(payload);
}

/* Whatever the session waits for goes well. */
static void
answer_well(void)
{
	if (answer_channels(NULL))
		return;
	if (mark != NULL)
		mark->reached(mark, ++seq);
	else if (notices != NULL && notices->sent)
		answer_notices(NULL);
	else
		session_timed_out(&client);
}

/* The session waits, and that happens. */
static void
happen(uint8_t what)
{
	seq++;
	switch (what % 8)
	{
		case 0:
			if (!answer_channels(&refused))
				answer_well();
			break;
		case 1:
			if (notices != NULL && notices->sent)
				answer_notices(&refused);
			else
				answer_well();
			break;
		case 2:
			session_cancel(&client);
			break;
		case 3:
			session_timed_out(&client);
			break;
		case 4:
			client_end(&client, NULL, "it goes");
			break;
		case 5:
			channels_event(seq, "a", "from elsewhere", SERVER_PID + 1);
			channels_gap();
			break;
		case 6:
			is_full = !is_full;
			answer_well();
			break;
		default:
			answer_well();
			break;
	}
}

/* ---- one input ---- */

/* The limits are small, so that they are reached. */
static void
begin(void)
{
	if (role == NULL)
	{
		role = memory_get_zeroed(sizeof(Role) + 8);
		strcpy(role->name, "role");
		uv_loop_init(&gateway.loop);
		channels_init();
		limits.max_channels = 4;
		limits.max_role_channels = 5;
		limits.max_total_channels = 5;
		limits.max_statements = 4;
		limits.max_session = 256 * 1024;
		limits.max_transaction = 64 * 1024;
		limits.client_buffer = 1024 * 1024;
		limits.server_timeout = 30;
	}
	memset(&client, 0, sizeof(client));
	list_init(&client.link);
	list_init(&client.dirty);
	list_init(&client.timed);
	list_init(&client.members);
	list_init(&client.echoes);
	client.state = CLIENT_READY;
	client.pid = CLIENT_PID;
	client.role = role;
	client.server_settings = settings_with(settings_empty(), "client_encoding", "UTF8", true);
	ended = is_full = false;
	session_begin(&client);
}

static void
finish(void)
{
	if (!ended)
		client_end(&client, NULL, "the input ends");
	must(client.session == NULL && notices == NULL && mark == NULL);
	must(client.member_count == 0 && list_is_empty(&client.members));
	queue_free(&client.out);
	queue_free(&client.held);
	settings_release(client.server_settings);
	client.server_settings = NULL;

	/* No channel stays, nor what is counted of them. */
	(void) answer_channels(NULL);
	while (channels_make_room())
		;
	(void) answer_channels(NULL);
	must(channels_count() == (channel_find(subscription_name()) != NULL));
}

/* Take one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t		at = 0;

	begin();
	while (!ended && at < size)
	{
		char	   *bytes;
		Packet		packet;
		PacketResult result;

		if (client.state == CLIENT_WAITING)
		{
			happen(data[at++]);
			continue;
		}
		bytes = memory_copy_bytes((const char *) data + at, size - at);
		result = packet_parse(bytes, size - at, 100000, &packet);
		if (result == PACKET_MESSAGE)
		{
			at += packet.total;
			session_message(&client, &packet);
		}
		free(bytes);
		if (result != PACKET_MESSAGE)
			break;
		if (client.out.bytes > MAX_OUT)
			client_end(&client, NULL, "too slow");
	}
	for (int i = 0; !ended && client.state == CLIENT_WAITING; i++)
	{
		must(i < 100000);
		answer_well();
	}
	finish();
	return 0;
}

/*-------------------------------------------------------------------------
 *
 * http_behind.c
 *	  What a stream of events gets, and when: at once, from the history, or a gap.
 *
 * 1. cursor is the number of the first entry of the history that the client has
 *	  not got.  A client that has room gets each event as it comes.  One that has
 *	  not is behind, and gets on from the history once it has taken what waits.
 *
 * 2. What goes from the history before a client that is behind has got it is
 *	  counted.  The client gets a gap event with that number, and goes on.
 *
 * 3. Whether a stream wants an entry is a look at each of its patterns.  There are
 *	  at most TURN_LOOKS of these in a turn of the loop, for all streams together;
 *	  then the others are served, and it goes on in the next turn: streams in turn.
 *
 * 4. So what is too much in the history goes when every stream that is behind has
 *	  come past it.  If that takes so long that FORGET_AHEAD bytes more have come,
 *	  those streams are told that nobody knows how many they have lost.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/http_events_internal.h"

#include <inttypes.h>
#include <stdio.h>

#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "gateway/stream.h"

/* Looks at an entry, or of a pattern at one, in a turn of the loop: some milliseconds. */
#define TURN_LOOKS 20000

/* Bytes by which the history may be too large until all have come past. */
#define FORGET_AHEAD (16 * 1024 * 1024)

static ListNode behind;
static ListNode next_turn;
static int64_t looks_left;		/* in this turn */
static uv_check_t turn_handle;
static uv_idle_t more_handle;	/* active: the loop does not sleep */

/* An idle handle that is active keeps the loop from sleeping; that is all. */
static void
do_nothing(uv_idle_t *handle)
{
	(void) handle;
}

/* Put a gap of so many events, -1: unknown, of which there are at most so many. */
void
event_stream_send_gap(EventStream *stream, int64_t seq, int64_t lost, int64_t at_most)
{
	char		number[24] = "null";
	char		most[48] = "";
	char		text[200];
	int			length;

	if (lost >= 0)
		snprintf(number, sizeof(number), "%" PRId64, lost);
	else if (at_most >= 0)
		snprintf(most, sizeof(most), ",\"at_most\":%" PRId64, at_most);
	length = snprintf(text, sizeof(text),
					  "event: gap\ndata: {\"lost\":%s%s}\nid: %" PRId64 "\n\n",
					  number, most, seq);
	event_stream_note_sending(stream);
	queue_add_bytes(&stream->client->out, text, length);
	client_touch(stream->client);
	gateway.counters.stream_gaps++;
}

/*
 * The subscription has lost so many events, -1: nobody knows.  They may be any of
 * the gateway's channels: only if the stream has all of these is the number its own.
 */
static void
send_upstream_gap(EventStream *stream, int64_t seq, int64_t lost)
{
	Channel    *own = channel_find(subscription_name());
	size_t		all = channels_count() - (own == NULL ? 0 : 1);
	bool		exact = lost >= 0 && (size_t) stream->client->member_count == all;

	event_stream_send_gap(stream, seq, exact ? lost : -1, lost);
}

/* Is the client a member of the channel, by its name or a pattern? */
static bool
wants(const EventStream *stream, const char *name)
{
	Channel    *channel = channel_find(name);

	looks_left -= 1 + stream->pattern_count;
	if (channel != NULL && member_find(stream->client, channel) != NULL)
		return true;
	for (int i = 0; i < stream->pattern_count; i++)
	{
		if (name_matches(stream->patterns[i]->name, name))
			return true;
	}
	return false;
}

/* May so many bytes more wait for the client? */
static bool
has_room(const Client *client, size_t length, int64_t limit)
{
	return client->out.bytes == 0 || client->out.bytes + length <= (size_t) limit;
}

/* Put the entry into the stream's queue. */
static void
send_entry(EventStream *stream, const Entry *entry)
{
	event_stream_note_sending(stream);
	queue_add_piece(&stream->client->out, entry->piece);
	gateway.counters.deliveries++;
	client_touch(stream->client);
}

/* The stream goes on in the next turn of the loop, which does not sleep before. */
static void
go_on_next_turn(EventStream *stream)
{
	list_remove(&stream->turn_link);
	list_append(&next_turn, &stream->turn_link);
	uv_idle_start(&more_handle, do_nothing);
}

/*
 * Give a stream that is behind what there is room for, as far as this turn goes.  If it
 * has all then, it is behind no more.
 */
static void
catch_up(EventStream *stream)
{
	Client	   *client = stream->client;

	list_remove(&stream->turn_link);
	if (stream->lost_seq != 0)
	{
		event_stream_send_gap(stream, stream->lost_seq, stream->lost, -1);
		stream->lost = stream->lost_seq = 0;
	}
	for (; stream->cursor < history_end(); stream->cursor++)
	{
		const Entry *entry = history_entry(stream->cursor);

		if (looks_left <= 0)
		{
			go_on_next_turn(stream);
			return;
		}
		if (entry->channel == NULL)
			send_upstream_gap(stream, entry->seq, entry->lost);
		else if (wants(stream, entry->channel))
		{
			if (!has_room(client, entry->piece->length, limits.client_buffer / 2))
				return;
			send_entry(stream, entry);
		}
	}
	list_remove(&stream->behind_link);
}

/*
 * The entries before the number upto go: what the stream, which is behind, wants of
 * them it has lost.  False if there are more than can be looked at in this turn.
 */
static bool
lose_to(EventStream *stream, uint64_t upto)
{
	for (; stream->cursor < upto; stream->cursor++)
	{
		const Entry *entry = history_entry(stream->cursor);

		if (looks_left <= 0)
			return false;
		if (entry->channel != NULL && !wants(stream, entry->channel))
			continue;
		if (stream->lost >= 0)
			stream->lost = entry->channel == NULL ? -1 : stream->lost + 1;
		stream->lost_seq = entry->seq;
		gateway.counters.stream_lost++;
	}
	return true;
}

/* As lose_to(), of which some is left to do, without knowing how many these are. */
static void
lose_unknown(EventStream *stream, uint64_t upto)
{
	stream->cursor = upto;
	stream->lost = -1;
	stream->lost_seq = history_entry(upto - 1)->seq;
	gateway.counters.stream_lost++;
}

/* Does the history have more than can be waited for? */
static bool
has_far_too_much(void)
{
	return history_bytes() > limits.history + FORGET_AHEAD;
}

/*
 * Let go of what the history has too much of, once all that are behind have come past
 * it; false if that takes another turn.
 */
static bool
forget(void)
{
	uint64_t	upto = history_excess();

	if (upto == 0)
		return true;
	for (ListNode *node = behind.next; node != &behind; node = node->next)
	{
		EventStream *stream = list_container(EventStream, behind_link, node);

		if (lose_to(stream, upto))
			continue;
		if (!has_far_too_much())
			return false;
		lose_unknown(stream, upto);
	}
	history_forget(upto);
	return true;
}

/* An event was added to the history: let go of others at once if there are far too many. */
void
events_forget(void)
{
	if (has_far_too_much())
		(void) forget();
}

/* Have streams go on whose turn it is. */
static void
catch_up_some(void)
{
	while (looks_left > 0 && !list_is_empty(&next_turn))
		catch_up(list_container(EventStream, turn_link, next_turn.next));
}

/*
 * In each turn of the loop, once it has taken what has come.  Half of the looks are for
 * the streams that go on, lest they lose what they could have got.
 */
static void
turn(uv_check_t *handle)
{
	(void) handle;
	uv_idle_stop(&more_handle);
	looks_left = TURN_LOOKS / 2;
	catch_up_some();
	looks_left += TURN_LOOKS / 2;
	if (!forget())
		uv_idle_start(&more_handle, do_nothing);
	catch_up_some();
	if (!list_is_empty(&next_turn))
		uv_idle_start(&more_handle, do_nothing);
}

/* The entry of that number is an event of a channel of the client's. */
void
events_deliver(Client *client, uint64_t number)
{
	EventStream *stream = client->http->stream;
	const Entry *entry = history_entry(number);

	/* (it may be of a channel and of a pattern) */
	if (!list_is_empty(&stream->behind_link) || stream->cursor > number)
		return;
	stream->cursor = number;
	if (has_room(client, entry->piece->length, limits.client_buffer))
	{
		send_entry(stream, entry);
		stream->cursor++;
		return;
	}
	gateway.counters.too_slow++;
	list_append(&behind, &stream->behind_link);
}

/*
 * The gateway's stream has lost so many events, -1: nobody knows, before the one
 * behind seq; see history_add_gap().
 */
void
events_gap(int64_t seq, int64_t lost, bool whole)
{
	uint64_t	number = history_add_gap(seq, lost, whole);
	ListNode   *last = event_streams.previous;
	ListNode   *next;

	if (list_is_empty(&event_streams))
		return;

	/* each goes to the end of the list */
	for (ListNode *node = event_streams.next;; node = next)
	{
		EventStream *stream = list_container(EventStream, link, node);
		bool		is_last = node == last;

		next = node->next;
		if (stream->live && list_is_empty(&stream->behind_link))
		{
			stream->cursor = number + 1;
			send_upstream_gap(stream, seq, lost);
		}
		if (is_last)
			break;
	}
}

/* The stream, which is live, goes on from its cursor. */
void
behind_begin(EventStream *stream)
{
	list_append(&behind, &stream->behind_link);
	catch_up(stream);
}

/* The stream ends. */
void
behind_end(EventStream *stream)
{
	list_remove(&stream->behind_link);
	list_remove(&stream->turn_link);
}

/* Some of what waited was sent to the client. */
void
events_sent(Client *client)
{
	EventStream *stream = client->http->stream;

	stream->progress_at = gateway_now();
	if (client->out.bytes > (size_t) limits.client_buffer / 4)
		return;
	if (!list_is_empty(&stream->turn_link))
		return;
	if (!list_is_empty(&stream->behind_link))
		catch_up(stream);
	else if (stream->resume != NULL && stream->begun)
		resume_go_on(stream->resume);
}

/* To be called once, when the loop stands. */
void
behind_init(void)
{
	list_init(&behind);
	list_init(&next_turn);
	looks_left = TURN_LOOKS;
	uv_idle_init(&gateway.loop, &more_handle);
	uv_check_init(&gateway.loop, &turn_handle);
	uv_check_start(&turn_handle, turn);
}

/*-------------------------------------------------------------------------
 *
 * http_events.c
 *	  GET /events: a stream of Server-Sent Events.
 *
 * 1. A stream begins as a LISTEN does (commit.c): its channels get a pin, and
 *	  have to be effective; then a mark has to come, behind which nothing of them is
 *	  missing in the history, which each channel notes; then the client becomes a
 *	  member.
 *
 * 2. From then on http_behind.c gives it what comes, and what has come.
 *
 * 3. A client with a Last-Event-ID begins behind: from there, if the history reaches
 *	  so far.  If not, what is missing comes through a subscription of its own
 *	  (resume.c) until the history does.
 *
 * 4. No event comes twice, as the cursor, or the seq in the subscription, only
 *	  goes on; none is left out without a gap event.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/http_events_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/lexer.h"
#include "gateway/limits.h"
#include "gateway/quota.h"
#include "gateway/stream.h"

/* How long to wait for a mark where it matters little, in seconds. */
#define MARK_SECONDS 2

#define NAME_BYTES 63

/* Looks of a channel's name at an entry that a number may cost. */
#define RESUME_LOOKS 20000

/* Between two looks at the streams to which nothing was sent, in ms. */
#define BEAT_TICK 1000

ListNode	event_streams;
static uv_timer_t beat_timer;

/* Something is about to be put into the stream's queue. */
void
event_stream_note_sending(EventStream *stream)
{
	stream->sent_at = gateway_now();
	if (stream->client->out.bytes == 0)
		stream->progress_at = stream->sent_at;
	list_remove(&stream->link);
	list_append(&event_streams, &stream->link);
}

/* Release the pins of channels, which its memberships have instead. */
static void
end_waits(EventStream *stream)
{
	mark_wait_end(&stream->mark);
	for (int i = 0; i < stream->wait_count; i++)
		channel_wait_unpin(&stream->waits[i]);
	free(stream->waits);
	stream->waits = NULL;
	stream->wait_count = 0;
}

/* The client goes, or its request was refused. */
void
events_drop(Client *client)
{
	EventStream *stream = client->http->stream;

	if (stream == NULL)
		return;
	client->http->stream = NULL;
	if (stream->resume != NULL)
		resume_drop(stream->resume);
	end_waits(stream);
	behind_end(stream);
	list_remove(&stream->link);
	free(stream->patterns);
	free(stream);
}

/* Refuse the request for a stream, or end the stream. */
static void
refuse(Client *client, int status, const char *message)
{
	if (client->http->stream != NULL && client->http->stream->begun)
	{
		client_end(client, NULL, "ended: its stream cannot go on");
		return;
	}
	events_drop(client);
	http_reply_error(client, status, message);
}

/* The answer's head, and then events until the end. */
static void
begin_stream(EventStream *stream)
{
	Client	   *client = stream->client;
	Http	   *http = client->http;
	int64_t		ends = http->has_claims ? http->claims.expires - (int64_t) time(NULL) : 0;

	if (stream->begun)
		return;
	stream->begun = true;
	http->phase = HTTP_STREAM;
	http->keep_alive = false;
	http_reply_stream(client);
	event_stream_note_sending(stream);
	http_forget_head(http);
	client_deadline(client, 0);
	if (http->has_claims)
		client_deadline(client, ends > 0 ? ends : 1);
	client_set_state(client, CLIENT_READY);
}

/* The client becomes a member of its channels, and has all before the cursor. */
static void
join(EventStream *stream, uint64_t cursor)
{
	Client	   *client = stream->client;

	stream->patterns = memory_get(stream->join_count * sizeof(Channel *));
	stream->pattern_count = 0;
	for (int i = 0; i < stream->join_count; i++)
	{
		Channel    *channel = stream->waits[i].channel;

		member_add(client, &stream->waits[i]);
		if (channel->is_pattern)
			stream->patterns[stream->pattern_count++] = channel;
	}
	end_waits(stream);
	stream->live = true;
	stream->cursor = cursor;
	begin_stream(stream);
	behind_begin(stream);
}

/* Does the history have all of the stream's channels that came behind the seq? */
static bool
history_has(const EventStream *stream, int64_t seq)
{
	if (!history_reaches(seq))
		return false;
	for (int i = 0; i < stream->join_count; i++)
	{
		const Channel *channel = stream->waits[i].channel;

		if (channel->state != CHANNEL_EFFECTIVE || channel->since > seq)
			return false;
	}
	return true;
}

/* What the client has missed is to come from the server. */
static void
begin_resume(EventStream *stream)
{
	const char **names = memory_get(stream->join_count * sizeof(char *));
	const char **doubtful = memory_get(stream->join_count * sizeof(char *));
	int			doubtful_count = 0;

	for (int i = 0; i < stream->join_count; i++)
	{
		names[i] = stream->waits[i].channel->name;
		if (stream->waits[i].channel->since > stream->last_id)
			doubtful[doubtful_count++] = names[i];
	}
	client_deadline(stream->client, limits.server_timeout);
	stream->resume = resume_begin(stream->client, names, stream->join_count,
								  doubtful, doubtful_count, stream->last_id,
								  stream_last_seq());
	free(names);
	free(doubtful);
}

/* The mark has come: the gateway's stream has all that comes behind seq. */
static void
mark_reached(MarkWait *wait, int64_t seq)
{
	EventStream *stream = wait->client->http->stream;

	for (int i = 0; i < stream->join_count; i++)
	{
		Channel    *channel = stream->waits[i].channel;

		if (channel->since > seq)
			channel->since = seq;
	}
	if (!stream->resumes)
		join(stream, history_end());
	else if (stream->last_id > seq)
		refuse(stream->client, 400, "the Last-Event-ID was not given out yet");
	else if (history_has(stream, stream->last_id))
		join(stream, history_after(stream->last_id));
	else
		begin_resume(stream);
}

/* All channels are effective: wait for a mark. */
static void
wait_for_mark(EventStream *stream)
{
	client_deadline(stream->client, stream->resumes ? limits.server_timeout : MARK_SECONDS);
	mark_wait(&stream->mark, stream->client, mark_reached);
}

/* A channel has become effective; or cannot, and the report says why. */
static void
channel_ready(ChannelWait *wait, const Report *report)
{
	Client	   *client = wait->client;
	EventStream *stream = client->http->stream;

	if (report != NULL)
		refuse(client, http_status_of(report), report->message);
	else if (--stream->waiting == 0)
		wait_for_mark(stream);
}

/* An event that the client has missed; or a gap, whose channel is NULL. */
void
events_resumed(Client *client, int64_t seq, const char *channel, const char *payload,
			   int64_t lost)
{
	EventStream *stream = client->http->stream;
	Piece	   *piece;

	if (channel == NULL)
	{
		event_stream_send_gap(stream, seq, lost, -1);
		return;
	}
	piece = event_piece_make(seq, channel, payload);
	event_stream_note_sending(stream);
	queue_add_piece(&client->out, piece);
	piece_release(piece);
	gateway.counters.deliveries++;
	gateway.counters.resumed++;
	client_touch(client);
}

/*
 * The server has a subscription for what the client has missed.  uncertain: it may
 * never have had some of that.
 */
void
events_resume_begins(Client *client, bool uncertain)
{
	EventStream *stream = client->http->stream;

	if (stream->begun)
		return;
	begin_stream(stream);
	if (uncertain)
		event_stream_send_gap(stream, stream->last_id, -1, -1);
}

/* Is an event of the channel one that the stream, which is not live yet, waits for? */
static bool
waits_for(const EventStream *stream, const char *name)
{
	for (int i = 0; i < stream->join_count; i++)
	{
		const Channel *channel = stream->waits[i].channel;

		if (channel->is_pattern ? name_matches(channel->name, name) :
			strcmp(channel->name, name) == 0)
			return true;
	}
	return false;
}

/*
 * How many events for the client does the history have behind seq, up to the seq upto?
 * -1: it does not have all, or too many to be looked at now.
 */
int64_t
events_resume_behind(const Client *client, int64_t seq, int64_t upto)
{
	const EventStream *stream = client->http->stream;
	int64_t		looks = RESUME_LOOKS;
	int64_t		count = 0;

	if (!history_has(stream, seq) || stream_last_seq() < upto)
		return -1;
	for (uint64_t number = history_after(seq); number < history_end(); number++)
	{
		const Entry *entry = history_entry(number);

		if (entry->seq > upto)
			break;
		looks -= stream->join_count;
		if (entry->channel == NULL || looks < 0)
			return -1;
		if (waits_for(stream, entry->channel))
			count++;
	}
	return count;
}

/* May more of what the client has missed be read? */
bool
events_resume_may_go_on(const Client *client)
{
	return client->out.bytes <= (size_t) limits.client_buffer / 2;
}

/*
 * The client has all that it has missed up to the seq.  True if the history has the
 * rest; else *target is where to read on to.
 */
bool
events_resume_reached(Client *client, int64_t seq, int64_t *target)
{
	EventStream *stream = client->http->stream;

	if (!history_has(stream, seq))
	{
		*target = stream_last_seq();
		return false;
	}
	stream->resume = NULL;
	join(stream, history_after(seq));
	return true;
}

/* What the client has missed cannot be had now. */
void
events_resume_failed(Client *client, const Report *report)
{
	client->http->stream->resume = NULL;
	refuse(client, http_status_of(report), report->message);
}

/* The stream has waited long enough, or its token has expired. */
void
events_timed_out(Client *client)
{
	EventStream *stream = client->http->stream;

	if (stream->begun)
		client_end(client, NULL, "ended: its token has expired");
	else if (stream->waiting == 0 && !stream->resumes)
		join(stream, history_end());
	else
		refuse(client, 503, "the server cannot be reached");
}

/* Is the name none that can be subscribed to?  Then why. */
static const char *
name_is_wrong(const char *name)
{
	size_t		length = strlen(name);

	if (length == 0 || length > NAME_BYTES)
		return "channel names have 1 to 63 bytes";
	if (utf8_invalid(name, length) != length)
		return "channel names are UTF-8";
	if (strcmp(name, "pgpubsub") == 0 || strcmp(name, subscription_name()) == 0)
		return "this channel name is reserved";
	return NULL;
}

/* Is the channel of that name among those of the stream? */
static bool
has_channel(const EventStream *stream, const char *name)
{
	const Channel *channel = channel_find(name);

	for (int i = 0; i < stream->wait_count; i++)
	{
		if (stream->waits[i].channel == channel)
			return true;
	}
	return false;
}

/* Room for one more channel of the stream, before any of these is waited for. */
static ChannelWait *
new_wait(EventStream *stream)
{
	stream->waits = memory_resize(stream->waits,
								  (stream->wait_count + 1) * sizeof(ChannelWait));

	/* none is in a list yet, and all may have moved */
	for (int i = 0; i < stream->wait_count; i++)
		list_init(&stream->waits[i].link);
	return &stream->waits[stream->wait_count];
}

/* Add a channel to those of the stream; NULL, or why that cannot be. */
static const Report *
add_channel(EventStream *stream, const char *name)
{
	const Report *why;

	if (has_channel(stream, name))
		return NULL;
	why = channel_wait_pin(new_wait(stream), stream->client, name, NULL);
	if (why == NULL)
		stream->wait_count++;
	return why;
}

/*
 * Take one channel that the request asks for; the status with which it is refused, or 0.
 */
static int
take_channel(EventStream *stream, const char *name, const char **why)
{
	static char too_many[80];
	const Report *report;

	*why = name_is_wrong(name);
	if (*why != NULL)
		return 400;
	*why = "the token does not let you read this channel";
	if (!http_may_read(stream->client, name))
		return 403;
	*why = "too many channels (max-channels)";
	if (stream->wait_count >= limits.max_channels)
		return 400;
	snprintf(too_many, sizeof(too_many), "too many patterns: at most %lld (max-patterns)",
			 (long long) limits.max_patterns);
	*why = too_many;
	if (strchr(name, '*') != NULL && ++stream->pattern_count > limits.max_patterns)
		return 400;
	report = add_channel(stream, name);
	if (report == NULL)
		return 0;
	*why = report->message;
	return http_status_of(report);
}

/* A seq; false if it is none. */
static bool
read_id(const char *text, size_t length, int64_t *id)
{
	if (length == 0 || length > 18)
		return false;
	*id = 0;
	for (size_t i = 0; i < length; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return false;
		*id = *id * 10 + (text[i] - '0');
	}
	return true;
}

/* Take what the request asks for; the status with which it is refused, or 0. */
static int
take_request(EventStream *stream, const char **why)
{
	static const char bad_id[] = "the Last-Event-ID is none that was given out";
	const HttpRequest *request = &stream->client->http->request;
	HttpText	query = request->query;
	char		name[20];
	char		value[200];
	bool		bad = false;
	int			status;

	while (http_query_next(&query, name, sizeof(name), value, sizeof(value), &bad))
	{
		if (strcmp(name, "channel") == 0)
		{
			status = take_channel(stream, value, why);
			if (status != 0)
				return status;
		}
		else if (strcmp(name, "lastEventId") == 0 && request->last_event_id.length == 0)
		{
			*why = bad_id;
			if (!read_id(value, strlen(value), &stream->last_id))
				return 400;
			stream->resumes = true;
		}
	}
	*why = bad ? "the query is malformed" : "at least one channel is needed: ?channel=";
	if (bad || stream->wait_count == 0)
		return 400;
	*why = bad_id;
	if (request->last_event_id.at != NULL && request->last_event_id.length > 0)
	{
		if (!read_id(request->last_event_id.at, request->last_event_id.length,
					 &stream->last_id))
			return 400;
		stream->resumes = true;
	}
	return 0;
}

/* GET /events, from somebody who is known. */
void
events_request(Client *client)
{
	EventStream *stream = memory_get_zeroed(sizeof(EventStream));
	const char *why;
	int			status;

	stream->client = client;
	list_init(&stream->link);
	list_init(&stream->behind_link);
	list_init(&stream->turn_link);
	list_init(&stream->mark.link);
	client->http->stream = stream;
	status = take_request(stream, &why);
	if (status != 0)
	{
		refuse(client, status, why);
		return;
	}
	stream->join_count = stream->wait_count;
	if (stream->resumes && stream->last_id <= stream_last_seq() &&
		history_has(stream, stream->last_id))
	{
		join(stream, history_after(stream->last_id));
		return;
	}
	channel_wait_pin_own(new_wait(stream));
	stream->wait_count++;
	client_deadline(client, limits.server_timeout);
	client_set_state(client, CLIENT_WAITING);
	for (int i = 0; i < stream->wait_count; i++)
	{
		ChannelWait *wait = &stream->waits[i];

		if (wait->channel->state == CHANNEL_EFFECTIVE)
			continue;
		channel_wait(wait->channel, wait, client, channel_ready);
		stream->waiting++;
	}
	if (stream->waiting == 0)
		wait_for_mark(stream);
}

/*
 * Say something to those to whom nothing was sent for a while, so that no proxy
 * takes the connection for dead; and end those who take nothing.
 */
static void
beat(uv_timer_t *timer)
{
	uint64_t	now = gateway_now();

	(void) timer;
	while (!list_is_empty(&event_streams))
	{
		EventStream *stream = list_container(EventStream, link, event_streams.next);
		Client	   *client = stream->client;

		if (stream->sent_at + limits.http_heartbeat * 1000 > now)
			return;
		if (client->out.bytes > 0 &&
			stream->progress_at + limits.http_write_timeout * 1000 <= now)
		{
			client_close(client, "closed: it takes nothing (http-write-timeout)");
			continue;
		}
		event_stream_note_sending(stream);
		if (client->out.bytes == 0)
		{
			queue_add_bytes(&client->out, ":\n\n", 3);
			client_touch(client);
		}
	}
}

/* To be called once, when the loop stands. */
void
events_init(void)
{
	list_init(&event_streams);
	behind_init();
	uv_timer_init(&gateway.loop, &beat_timer);
	uv_timer_start(&beat_timer, beat, BEAT_TICK, BEAT_TICK);
}

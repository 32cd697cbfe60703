/*-------------------------------------------------------------------------
 *
 * channels.c
 *	  See channels.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/channels.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "common/memory.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/history.h"
#include "gateway/http.h"
#include "gateway/quota.h"
#include "gateway/session.h"
#include "gateway/stream.h"
#include "gateway/upstream.h"

/* How long a channel stays in the subscription that nobody listens to, in ms. */
#define UNUSED_MS 10000

/*
 * So many of those are dropped at a time, and then others after so many ms: the
 * stream cannot read while the server drops some, which takes about 30 us for each.
 */
#define UNUSED_AT_ONCE 100
#define UNUSED_PAUSE_MS 20

/* Echoes that a channel keeps; older ones will not come. */
#define MAX_ECHOES 10000

static HashTable channels;
static HashTable members;
static ListNode patterns;
static int	pattern_count;
static ListNode unpinned;		/* the one that lost its pin first, first */
static bool wanted;				/* there may be some to be added */
static char **dropped;			/* the names of those to be dropped */
static int	dropped_count;
static int	dropped_room;
static uv_timer_t unused_timer;

static void look_at_unused(uv_timer_t *timer);

/* To be called once, when the loop stands. */
void
channels_init(void)
{
	list_init(&unpinned);
	list_init(&patterns);
	uv_timer_init(&gateway.loop, &unused_timer);
}

/* The channel of that name, or NULL. */
Channel *
channel_find(const char *name)
{
	HashNode   *node = hash_first(&channels, hash_string(name));

	for (; node != NULL; node = hash_next(node))
	{
		Channel    *channel = hash_container(Channel, node, node);

		if (strcmp(channel->name, name) == 0)
			return channel;
	}
	return NULL;
}

/* The channel of that name, which stays until channel_unpin(). */
Channel *
channel_pin(const char *name)
{
	Channel    *channel = channel_find(name);

	if (channel == NULL)
	{
		channel = memory_get_zeroed(sizeof(Channel) + strlen(name) + 1);
		strcpy(channel->name, name);
		list_init(&channel->link);
		list_init(&channel->waits);
		list_init(&channel->echoes);
		list_init(&channel->pattern);
		channel->since = INT64_MAX;
		channel->is_pattern = strchr(name, '*') != NULL;
		if (channel->is_pattern)
		{
			list_append(&patterns, &channel->pattern);
			pattern_count++;
		}
		channel->state = CHANNEL_WANTED;
		hash_insert(&channels, &channel->node, hash_string(name));
	}
	if (channel->state == CHANNEL_WANTED)
	{
		wanted = true;
		upstream_channels_changed();
	}
	list_remove(&channel->link);
	channel->pins++;
	return channel;
}

/* Do all who have pinned the channel leave it, if their commits succeed? */
bool
channel_leaves(const Channel *channel)
{
	return channel->pins > 0 && channel->leaving == channel->pins;
}

/* One more of its pins goes when a commit ends, or does not after all. */
void
channel_pin_leaves(Channel *channel, bool leaves)
{
	channel->leaving += leaves ? 1 : -1;
}

/* Forget the event that was to come. */
static void
drop_echo(Echo *echo)
{
	echo->channel->echo_count--;
	list_remove(&echo->link);
	list_remove(&echo->of_client);
	free(echo);
}

/* Forget the channel, which has no pin. */
static void
channel_free(Channel *channel)
{
	ListNode   *node;

	while ((node = list_take_first(&channel->echoes)) != NULL)
		drop_echo(list_container(Echo, link, node));
	list_remove(&channel->link);
	list_remove(&channel->pattern);
	pattern_count -= channel->is_pattern;
	hash_remove(&channels, &channel->node);
	free(channel->members);
	free(channel);
}

/* The channel has a pin less. */
void
channel_unpin(Channel *channel)
{
	channel->pins--;
	if (channel->pins > 0)
		return;
	channel->unpinned_at = gateway_now();
	if (channel->state == CHANNEL_WANTED)
		channel_free(channel);
	else
	{
		list_append(&unpinned, &channel->link);
		if (!uv_is_active((uv_handle_t *) &unused_timer))
			uv_timer_start(&unused_timer, look_at_unused, UNUSED_MS, 0);
	}
}

/* Add the name, whose memory is given up, to those to be dropped. */
static void
add_dropped(char *name)
{
	if (dropped_count == dropped_room)
	{
		dropped_room = dropped_room > 0 ? dropped_room * 2 : 16;
		dropped = memory_resize(dropped, dropped_room * sizeof(char *));
	}
	dropped[dropped_count++] = name;
}

/* The subscription is to lose the channel of that name, whose memory is given up. */
static void
drop_name(char *name)
{
	add_dropped(name);
	upstream_channels_changed();
}

/* Take those out of the subscription that nobody has wanted for a while. */
static void
look_at_unused(uv_timer_t *timer)
{
	while (!list_is_empty(&unpinned))
	{
		Channel    *channel = list_container(Channel, link, unpinned.next);

		if (dropped_count >= UNUSED_AT_ONCE)
		{
			uv_timer_start(timer, look_at_unused, UNUSED_PAUSE_MS, 0);
			break;
		}
		if (channel->unpinned_at + UNUSED_MS > gateway_now() ||
			channel->state == CHANNEL_ADDING)
		{
			uv_timer_start(timer, look_at_unused, UNUSED_MS / 4, 0);
			break;
		}
		drop_name(memory_copy_string(channel->name));
		channel_free(channel);
	}
}

/*
 * Take a channel out of the subscription at once that no client wants any more; false
 * if there is none.
 */
bool
channels_make_room(void)
{
	for (ListNode *node = unpinned.next; node != &unpinned; node = node->next)
	{
		Channel    *channel = list_container(Channel, link, node);

		if (channel->state == CHANNEL_ADDING ||
			strcmp(channel->name, subscription_name()) == 0)
			continue;
		drop_name(memory_copy_string(channel->name));
		channel_free(channel);
		return true;
	}
	return false;
}

/* The client waits until the channel is effective; then ready is called. */
void
channel_wait(Channel *channel, ChannelWait *wait, Client *client, ChannelReady ready)
{
	wait->channel = channel;
	wait->ready = ready;
	wait->client = client;
	list_append(&channel->waits, &wait->link);
}

/* It waits no more; it may not have. */
void
channel_wait_end(ChannelWait *wait)
{
	list_remove(&wait->link);
}

/* How many channels there are, with those that nobody wants any more. */
size_t
channels_count(void)
{
	return channels.count;
}

/* How many of these are patterns: each is compared with each event's channel. */
int
channels_pattern_count(void)
{
	return pattern_count;
}

/*
 * The names of the channels in that state, in memory that the caller frees, with room
 * for one more; the names are the channels' own.
 */
static const char **
names_in(ChannelState state, bool alone, int *count)
{
	const char **names = memory_get((channels.count + 1) * sizeof(char *));

	*count = 0;
	for (size_t i = 0; i < channels.size; i++)
	{
		for (HashNode *node = channels.heads[i]; node != NULL; node = node->next)
		{
			Channel    *channel = hash_container(Channel, node, node);

			if (channel->state == state && channel->alone == alone)
				names[(*count)++] = channel->name;
		}
	}
	return names;
}

/*
 * The names of the effective channels, which the subscription is to have and no
 * others; if there are none, that name alone, which is the gateway's own channel.
 * As channels_take_wanted() otherwise.
 */
const char **
channels_to_subscribe(const char *own, int *count)
{
	const char **names = names_in(CHANNEL_EFFECTIVE, false, count);
	Channel    *channel;

	while (dropped_count > 0)
		free(dropped[--dropped_count]);
	if (*count > 0)
		return names;
	channel = channel_pin(own);
	channel->state = CHANNEL_ADDING;
	names[(*count)++] = channel->name;
	channel_unpin(channel);
	return names;
}

/*
 * The names of channels that are to be added, in memory that the caller frees; the
 * names are the channels' own.  NULL: there are none.  All at once, and then one at a
 * time those that the server has refused so.  The server's answer goes to
 * channels_added(), or channels_want_again() if there is none.
 */
const char **
channels_take_wanted(int *count)
{
	const char **names;
	const char **lone;
	int			lone_count;

	if (!wanted)
		return NULL;
	lone = names_in(CHANNEL_WANTED, true, &lone_count);
	names = names_in(CHANNEL_WANTED, false, count);
	if (*count == 0 && lone_count > 0)
	{
		names[0] = lone[0];
		*count = 1;
		lone_count--;
	}
	wanted = lone_count > 0;
	free(lone);
	for (int i = 0; i < *count; i++)
		channel_find(names[i])->state = CHANNEL_ADDING;
	if (*count > 0)
		return names;
	free(names);
	return NULL;
}

/*
 * The names that are to be dropped, all to be freed; NULL: none.  One that is
 * wanted again stays.
 */
char	  **
channels_take_dropped(int *count)
{
	char	  **names = dropped;
	int			kept = 0;

	for (int i = 0; i < dropped_count; i++)
	{
		if (channel_find(names[i]) != NULL)
			free(names[i]);
		else
			names[kept++] = names[i];
	}
	dropped_count = 0;
	if (kept == 0)
		return NULL;
	dropped = NULL;
	dropped_room = 0;
	*count = kept;
	return names;
}

/*
 * They were not dropped, and are when the server is asked the next time; the names and
 * the array are given up.
 */
void
channels_drop_again(char **names, int count)
{
	for (int i = 0; i < count; i++)
		add_dropped(names[i]);
	free(names);
}

/* All channels that the server was asked to add, and their waits, in lists. */
static void
take_adding(ListNode *waits, ChannelState state)
{
	list_init(waits);
	for (size_t i = 0; i < channels.size; i++)
	{
		for (HashNode *node = channels.heads[i]; node != NULL; node = node->next)
		{
			Channel    *channel = hash_container(Channel, node, node);

			if (channel->state != CHANNEL_ADDING)
				continue;
			channel->state = state;
			channel->alone = false;
			while (!list_is_empty(&channel->waits))
			{
				ListNode   *wait = channel->waits.next;

				list_remove(wait);
				list_append(waits, wait);
			}
		}
	}
}

/*
 * If the server was asked to add several channels, have it asked again for each alone,
 * as one that it does not take must not keep out the others; false if it was one.
 */
static bool
try_alone(void)
{
	int			count;
	const char **names = names_in(CHANNEL_ADDING, false, &count);

	for (int i = 0; i < count && count > 1; i++)
	{
		Channel    *channel = channel_find(names[i]);

		channel->state = CHANNEL_WANTED;
		channel->alone = true;
		wanted = true;
	}
	free(names);
	return count > 1;
}

/*
 * The server has added those channels that it was asked to, or could not, as
 * the report says.  Who has waited for them is told.
 */
void
channels_added(const Report *report)
{
	ListNode	waits;

	if (report == NULL || !try_alone())
	{
		take_adding(&waits, report == NULL ? CHANNEL_EFFECTIVE : CHANNEL_WANTED);
		while (!list_is_empty(&waits))
		{
			ChannelWait *wait = list_container(ChannelWait, link, waits.next);

			list_remove(&wait->link);
			wait->ready(wait, report);
		}
	}
	if (wanted || dropped_count > 0)
		upstream_channels_changed();
}

/* The server has not answered, and is to be asked again; who waits, waits on. */
void
channels_want_again(void)
{
	for (size_t i = 0; i < channels.size; i++)
	{
		for (HashNode *node = channels.heads[i]; node != NULL; node = node->next)
		{
			Channel    *channel = hash_container(Channel, node, node);

			if (channel->state == CHANNEL_ADDING)
				channel->state = CHANNEL_WANTED;
		}
	}
	wanted = true;
	upstream_channels_changed();
}

/* The hash by which a client's membership is found. */
static uint64_t
member_hash(const Client *client, const Channel *channel)
{
	const void *pair[2] = {client, channel};

	return hash_bytes(pair, sizeof(pair));
}

/* The client as a member of the channel, or NULL. */
Member *
member_find(const Client *client, const Channel *channel)
{
	HashNode   *node = hash_first(&members, member_hash(client, channel));

	for (; node != NULL; node = hash_next(node))
	{
		Member	   *member = hash_container(Member, node, node);

		if (member->client == client && member->channel == channel)
			return member;
	}
	return NULL;
}

/* Make the client, whose wait this is, a member of the channel, which it is not. */
void
member_add(Client *client, const ChannelWait *wait)
{
	Channel    *channel = wait->channel;
	Member	   *member = memory_get_zeroed(sizeof(Member));

	if (channel->member_count == channel->member_room)
	{
		channel->member_room = channel->member_room > 0 ? channel->member_room * 2 : 1;
		channel->members = memory_resize(channel->members,
										 channel->member_room * sizeof(Member *));
	}
	member->client = client;
	member->channel = channel;
	member->number = channel->member_count;
	channel->members[channel->member_count++] = member;
	member->use = wait->use;
	quota_hold(wait->use);
	list_append(&client->members, &member->link);
	client->member_count++;
	hash_insert(&members, &member->node, member_hash(client, channel));
}

/* The client will be a member no more if its commit succeeds, or will be nevertheless. */
void
member_leaves(Member *member, bool leaves)
{
	if (member->leaving == leaves)
		return;
	member->leaving = leaves;
	quota_leaves(member->use, leaves);
}

/* The client is a member no more. */
void
member_remove(Member *member)
{
	Channel    *channel = member->channel;
	ChannelUse *use = member->use;
	Member	   *last = channel->members[--channel->member_count];

	member_leaves(member, false);
	channel->members[member->number] = last;
	last->number = member->number;
	list_remove(&member->link);
	member->client->member_count--;
	hash_remove(&members, &member->node);
	free(member);
	quota_release(use);
}

/* The client leaves all its channels. */
void
members_remove_all(Client *client)
{
	ListNode   *node;

	while ((node = list_take_first(&client->members)) != NULL)
		member_remove(list_container(Member, link, node));
}

/*
 * A session of the server's with that pid is about to notify for the client; if
 * somebody listens, the event will come back, and is to have the client's pid.
 */
void
channel_expect_echo(const char *name, const char *payload, int server_pid,
					Client *client)
{
	Channel    *channel = channel_find(name);
	Echo	   *echo;

	if (channel == NULL || channel->member_count == 0)
		return;
	if (channel->echo_count >= MAX_ECHOES)
		drop_echo(list_container(Echo, link, channel->echoes.next));
	echo = memory_get_zeroed(sizeof(Echo));
	list_init(&echo->of_client);
	echo->channel = channel;
	channel->echo_count++;
	echo->hash = hash_string(payload);
	echo->pid = client->pid;
	echo->server_pid = server_pid;
	echo->leaves = commit_leaves(client, name);
	if (!echo->leaves && member_find(client, channel) != NULL)
	{
		echo->client = client;
		list_append(&client->echoes, &echo->of_client);
	}
	list_append(&channel->echoes, &echo->link);
}

/* Is an event of the client's own to come that it should see? */
bool
client_waits_for_echo(const Client *client)
{
	return !list_is_empty(&client->echoes);
}

/* The client waits for its own events no more. */
void
client_forget_echoes(Client *client)
{
	while (!list_is_empty(&client->echoes))
	{
		Echo	   *echo = list_container(Echo, of_client, client->echoes.next);

		echo->client = NULL;
		list_remove(&echo->of_client);
	}
}

/*
 * The echo that this event is, or NULL.  Events of one session come in the order
 * of its commits, so those before it will not come any more.
 */
static Echo *
take_echo(Channel *channel, const char *payload, int server_pid)
{
	uint64_t	hash;
	ListNode   *node = channel->echoes.next;

	if (node == &channel->echoes)
		return NULL;
	hash = hash_string(payload);
	for (; node != &channel->echoes; node = node->next)
	{
		Echo	   *echo = list_container(Echo, link, node);

		if (echo->hash != hash || echo->server_pid != server_pid)
			continue;
		while (channel->echoes.next != node)
			drop_echo(list_container(Echo, link, list_take_first(&channel->echoes)));
		return echo;
	}
	return NULL;
}

/* Give the notification to all members who speak PostgreSQL's protocol. */
static void
notify_members(Channel *channel, const char *payload, int server_pid, const Echo *echo)
{
	Piece	   *piece = notification_make(echo != NULL ? echo->pid : (uint32_t) server_pid,
										  channel->name, payload);

	/*
	 * A member that goes is replaced by one behind it, which has had its
	 * turn.
	 */
	for (uint32_t i = channel->member_count; i-- > 0;)
	{
		Client	   *client = channel->members[i]->client;

		if (client->http != NULL ||
			(echo != NULL && echo->leaves && client->pid == echo->pid))
			continue;
		client_deliver(client, piece);
	}
	piece_release(piece);
}

/* Give the entry of the history to all members who have come over HTTP. */
static void
stream_to_members(Channel *channel, uint64_t number)
{
	for (uint32_t i = channel->member_count; i-- > 0;)
	{
		Client	   *client = channel->members[i]->client;

		if (client->http != NULL)
			events_deliver(client, number);
	}
}

/* Give the event to all members over HTTP, of its channel and of patterns. */
static void
stream_event(int64_t seq, Channel *channel, const char *name, const char *payload)
{
	uint64_t	number = history_add_event(seq, name, payload);

	if (channel != NULL)
		stream_to_members(channel, number);
	for (ListNode *node = patterns.next; node != &patterns; node = node->next)
	{
		Channel    *pattern = list_container(Channel, pattern, node);

		if (name_matches(pattern->name, name))
			stream_to_members(pattern, number);
	}
	events_forget();
}

/* An event has come: give it to all members of its channel. */
void
channels_event(int64_t seq, const char *name, const char *payload, int server_pid)
{
	Channel    *channel = channel_find(name);
	Client	   *client = NULL;
	Echo	   *echo;

	gateway.counters.events++;
	if (gateway.options.http != NULL)
		stream_event(seq, channel, name, payload);
	if (channel == NULL || channel->member_count == 0)
		return;
	echo = take_echo(channel, payload, server_pid);
	notify_members(channel, payload, server_pid, echo);
	if (echo != NULL)
	{
		client = echo->client;
		drop_echo(echo);
	}
	if (client != NULL && list_is_empty(&client->echoes))
		commit_echo(client);
}

/*
 * Events are missing, and nobody knows of which channels.  The protocol has no
 * word for that: whoever listens is told by the end of the connection.
 */
void
channels_gap(void)
{
	for (size_t i = 0; i < channels.size; i++)
	{
		for (HashNode *node = channels.heads[i]; node != NULL; node = node->next)
		{
			Channel    *channel = hash_container(Channel, node, node);

			ListNode   *echo;

			while ((echo = list_take_first(&channel->echoes)) != NULL)
				drop_echo(list_container(Echo, link, echo));
		}
	}
}

/*-------------------------------------------------------------------------
 *
 * channels.h
 *	  Which channels clients listen to, and who does.
 *
 * A Channel exists while somebody has a pin on it: a client that listens to it
 * (a Member), or one that is about to.  It is effective once the server's
 * subscription has it, and stays in that for a while when the last pin has
 * gone, as clients come back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_CHANNELS_H
#define GATEWAY_CHANNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/hash.h"
#include "common/list.h"
#include "gateway/queue.h"
#include "gateway/reply.h"

struct Client;

typedef enum ChannelState
{
	CHANNEL_WANTED,				/* to be added to the subscription */
	CHANNEL_ADDING,				/* the server was asked to */
	CHANNEL_EFFECTIVE			/* the subscription has it */
} ChannelState;

struct Member;

typedef struct Channel
{
	HashNode	node;			/* by name */
	ListNode	link;			/* of those without a pin */
	ListNode	waits;			/* ChannelWaits */
	ListNode	pattern;		/* of patterns, if it is one */
	ListNode	echoes;			/* Echoes, in the order of their commits */
	int			echo_count;
	ChannelState state;
	bool		alone;			/* the server has refused it together with
								 * others: it is added by itself */
	bool		is_pattern;		/* '*' in the name is any run of characters */
	int64_t		since;			/* the history has its events behind this seq;
								 * INT64_MAX: unknown */
	int			pins;
	int			leaving;		/* pins that go when a commit ends */
	uint64_t	unpinned_at;	/* ms; when the last pin went */
	struct Member **members;
	uint32_t	member_count;
	uint32_t	member_room;
	char		name[];
} Channel;

/* A client that listens to a channel. */
typedef struct Member
{
	HashNode	node;			/* by client and channel */
	ListNode	link;			/* of the client */
	struct Client *client;
	Channel    *channel;
	struct ChannelUse *use;		/* its pin */
	bool		leaving;		/* by the client's commit, if that succeeds */
	uint32_t	number;			/* in the channel's members */
} Member;

struct ChannelWait;

/* The channel is effective, or cannot become so, as the report says. */
typedef void (*ChannelReady) (struct ChannelWait *wait, const Report *report);

/* A client that waits until a channel is effective. */
typedef struct ChannelWait
{
	ListNode	link;
	struct Client *client;
	Channel    *channel;
	struct ChannelUse *use;		/* its pin; NULL: the pin is no client's */
	ChannelReady ready;
} ChannelWait;

/*
 * A notification that was sent to the server for a client, and whose event is
 * to come back.
 */
typedef struct Echo
{
	ListNode	link;
	Channel    *channel;
	ListNode	of_client;		/* the client that waits for it, if one does */
	uint64_t	hash;			/* of the payload */
	uint32_t	pid;			/* the client's */
	int			server_pid;		/* of the session that notified */
	bool		leaves;			/* the client does not get it */
	struct Client *client;		/* NULL: nobody waits for it */
} Echo;

/* How long to wait for a client's own event, in seconds. */
#define COMMIT_ECHO_SECONDS 2

extern void channels_init(void);
extern Channel *channel_pin(const char *name);
extern void channel_unpin(Channel *channel);
extern void channel_pin_leaves(Channel *channel, bool leaves);
extern bool channel_leaves(const Channel *channel);
extern Channel *channel_find(const char *name);

extern void channel_wait(Channel *channel, ChannelWait *wait,
						 struct Client *client, ChannelReady ready);
extern void channel_wait_end(ChannelWait *wait);

extern Member *member_find(const struct Client *client,
						   const Channel *channel);
extern void member_add(struct Client *client, const ChannelWait *wait);
extern void member_remove(Member *member);
extern void member_leaves(Member *member, bool leaves);
extern void members_remove_all(struct Client *client);

extern void channel_expect_echo(const char *name, const char *payload,
								int server_pid, struct Client *client);
extern bool client_waits_for_echo(const struct Client *client);
extern void client_forget_echoes(struct Client *client);
extern void channels_event(int64_t seq, const char *name, const char *payload,
						   int server_pid);
extern void channels_gap(void);

extern size_t channels_count(void);
extern int	channels_pattern_count(void);
extern bool channels_make_room(void);
extern const char **channels_to_subscribe(const char *own, int *count);
extern const char **channels_take_wanted(int *count);
extern char **channels_take_dropped(int *count);
extern void channels_drop_again(char **names, int count);
extern void channels_added(const Report *report);
extern void channels_want_again(void);

#endif

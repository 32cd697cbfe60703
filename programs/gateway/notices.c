/*-------------------------------------------------------------------------
 *
 * notices.c
 *	  What clients notify, from when it is made until commands.c is done with it.
 *
 * It waits for its turn, as many of these may wait for long: each role gets its own in
 * turn.  Together they have bounds, in number and in bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/commands_internal.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/client.h"
#include "gateway/limits.h"

static Turns waiting_notices;	/* by their owners: to be sent with
								 * pg_notify() */
static Turns waiting_publications;	/* and with publish() */
static bool publishes_next;		/* it is the turn of these */
static int	waiting_count;		/* of all that there are, sent or not */
static size_t waiting_bytes;	/* of these */

/* How many transactions of clients wait. */
int64_t
commands_waiting(void)
{
	return waiting_count;
}

/* Those of clients that wait for their turn as the notices do. */
static Turns *
turns_for(const Notices *notices)
{
	return notices->publishes ? &waiting_publications : &waiting_notices;
}

/*
 * Is there no room for another transaction of that owner, a role or whatever else
 * one's own turn is given to?
 */
bool
commands_are_full(const char *owner)
{
	return waiting_count >= limits.max_commits ||
		waiting_bytes >= (size_t) limits.commit_memory ||
		turns_of(&waiting_notices, owner) + turns_of(&waiting_publications, owner) >=
		limits.max_role_commits;
}

/* What that owner's transaction is to notify. */
static Notices *
make_notices(const char *owner, NoticesDone done, void *context)
{
	Notices    *notices = memory_get_zeroed(sizeof(Notices));

	notices->unit.kind = UNIT_NOTICES;
	list_init(&notices->unit.link);
	notices->owner = memory_copy_string(owner);
	notices->end = &notices->first;
	notices->done = done;
	notices->context = context;
	waiting_count++;
	return notices;
}

/*
 * What the client's transaction is to notify; done tells how that went.  The client
 * has a role.
 */
Notices *
commands_begin(Client *client, NoticesDone done, void *context)
{
	Notices    *notices = make_notices(client->role->name, done, context);

	notices->client = client;
	return notices;
}

/*
 * What a client over HTTP publishes, whose turn is the owner's: as commands_begin(),
 * but with pgpubsub.publish(), which logs what is for a durable channel and takes long
 * payloads, and without an echo.
 */
Notices *
commands_publish(const char *owner, NoticesDone done, void *context)
{
	Notices    *notices = make_notices(owner, done, context);

	notices->publishes = true;
	return notices;
}

/* One more. */
void
commands_add(Notices *notices, const char *channel, const char *payload)
{
	size_t		before = notices->arena.bytes;
	Notice	   *notice = arena_get(&notices->arena, sizeof(Notice));

	notice->channel = arena_copy(&notices->arena, channel, strlen(channel));
	notice->payload = arena_copy(&notices->arena, payload, strlen(payload));
	waiting_bytes += notices->arena.bytes - before;
	*notices->end = notice;
	notices->end = &notice->next;
}

/* They wait for their turn from now on. */
void
notices_wait(Notices *notices)
{
	turns_add(turns_for(notices), &notices->turn, notices->owner);
}

/*
 * Those whose turn it is, which wait no more; of those that call publish() only if these
 * may be sent.  NULL if there are none.
 */
Notices *
notices_take(bool may_publish)
{
	Turn	   *turn = NULL;

	if (may_publish && publishes_next)
		turn = turns_take(&waiting_publications);
	if (turn == NULL)
		turn = turns_take(&waiting_notices);
	if (turn == NULL && may_publish)
		turn = turns_take(&waiting_publications);
	if (turn == NULL)
		return NULL;
	publishes_next = !publishes_next;
	return list_container(Notices, turn, turn);
}

/* Forget what they have, whether they wait or not; the unit is the caller's to free. */
void
notices_drop(Notices *notices)
{
	turns_remove(turns_for(notices), &notices->turn);
	waiting_bytes -= notices->arena.bytes;
	arena_free(&notices->arena);
	free(notices->owner);
	waiting_count--;
}

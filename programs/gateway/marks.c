/*-------------------------------------------------------------------------
 *
 * marks.c
 *	  See marks.h.
 *
 * On the server, LISTEN gives what commits afterwards, and nothing from before.
 * The gateway's stream lags behind the commits, so a client that became a member
 * of a channel at once would get events from before its LISTEN, of a channel that
 * others listen to already.
 *
 * So the gateway notifies itself: on the channel that has its subscription's name,
 * with the mark's number.  Notifications come in the order of commits; when
 * the mark's event comes, what comes behind it was committed later.  All who wait
 * when the loop's turn ends share a mark.
 *
 * Anybody who may notify on the server can do so on that channel, and listen to it.  So
 * the payload has a code that is made from the number with a secret: who has seen
 * those of earlier marks cannot make the next one come early.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/marks.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <uv.h>

#include "common/log.h"
#include "gateway/commands.h"
#include "gateway/gateway.h"
#include "gateway/history.h"

/* Bytes of the code in a mark's payload. */
#define CODE_BYTES 16

static ListNode waits;			/* by their numbers; those without are last */
static uint64_t last_number;
static unsigned char secret[32];
static uv_prepare_t send_handle;

/* To be called once, when the loop stands. */
void
marks_init(void)
{
	list_init(&waits);
	if (getrandom(secret, sizeof(secret), 0) != sizeof(secret))
		log_fatal("could not get random bytes");
	uv_prepare_init(&gateway.loop, &send_handle);
}

/* Before the loop sleeps: have a mark sent for all who wait for one. */
static void
send_mark(uv_prepare_t *handle)
{
	uv_prepare_stop(handle);
	commands_mark();
}

/* The client waits for the next mark; then reached is called. */
void
mark_wait(MarkWait *wait, struct Client *client, MarkReached reached)
{
	wait->reached = reached;
	wait->client = client;
	wait->number = 0;
	list_append(&waits, &wait->link);
	uv_prepare_start(&send_handle, send_mark);
}

/* It waits no more; it may not have. */
void
mark_wait_end(MarkWait *wait)
{
	list_remove(&wait->link);
}

/*
 * The number of a mark that is about to be sent; false if nobody waits for one.
 */
bool
marks_take(uint64_t *number)
{
	bool		any = false;

	for (ListNode *node = waits.previous; node != &waits; node = node->previous)
	{
		MarkWait   *wait = list_container(MarkWait, link, node);

		if (wait->number != 0)
			break;
		wait->number = last_number + 1;
		any = true;
	}
	if (any)
		*number = ++last_number;
	return any;
}

/* The text by which the mark is known. */
void
mark_payload(uint64_t number, char *payload, int size)
{
	unsigned char code[EVP_MAX_MD_SIZE];
	int			at = 0;

	if (HMAC(EVP_sha256(), secret, sizeof(secret), (const unsigned char *) &number,
			 sizeof(number), code, NULL) == NULL)
		log_fatal("OpenSSL cannot compute an HMAC");
	for (int i = 0; i < CODE_BYTES; i++)
		at += snprintf(payload + at, size - at, "%02x", code[i]);
	snprintf(payload + at, size - at, " %" PRIu64, number);
}

/* An event on the gateway's own channel: who has waited for that mark? */
void
marks_event(int64_t seq, const char *payload)
{
	char		expected[64];
	uint64_t	number;
	const char *space = strchr(payload, ' ');

	if (space == NULL || sscanf(space, " %" SCNu64, &number) != 1)
		return;
	mark_payload(number, expected, sizeof(expected));
	if (strcmp(expected, payload) != 0)
		return;
	history_mark(seq);
	while (!list_is_empty(&waits))
	{
		MarkWait   *wait = list_container(MarkWait, link, waits.next);

		if (wait->number == 0 || wait->number > number)
			break;
		list_remove(&wait->link);
		wait->reached(wait, seq);
	}
}

/* Marks may have been lost: all who wait need a new one. */
void
marks_send_again(void)
{
	for (ListNode *node = waits.next; node != &waits; node = node->next)
		list_container(MarkWait, link, node)->number = 0;
	if (!list_is_empty(&waits))
		uv_prepare_start(&send_handle, send_mark);
}

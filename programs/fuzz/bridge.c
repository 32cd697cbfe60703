/*-------------------------------------------------------------------------
 *
 * bridge.c
 *	  The bridge's parsers under libFuzzer: a payload, a template, and a URL, with
 *	  zero bytes between.  What they promise is checked: a message has the payload as
 *	  it was, and an address and an id that are strings.
 *
 *-------------------------------------------------------------------------
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bridge/event.h"
#include "bridge/json.h"
#include "bridge/url.h"
#include "common/memory.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As with NATS: no spaces. */
static bool
allowed(unsigned char c)
{
	return c > ' ';
}

/* The bytes up to the next zero byte or the end, as a string to be freed. */
static char *
next_part(const uint8_t **data, size_t *size, size_t *length)
{
	const uint8_t *zero = *size > 0 ? memchr(*data, 0, *size) : NULL;
	char	   *part;

	*length = zero != NULL ? (size_t) (zero - *data) : *size;
	part = memory_copy_bytes((const char *) *data, *length);
	*data += *length + (zero != NULL);
	*size -= *length + (zero != NULL);
	return part;
}

/* Make a message of the payload, with that template. */
static void
try_event(const char *payload, size_t length, const Template *template)
{
	EventSetting setting = {"1-2", "s", "_", template, allowed};
	char	   *exact = malloc(length > 0 ? length : 1);
	Message    *message;

	if (length > 0)
		memcpy(exact, payload, length);
	message = event_message(&setting, 1, 0, "channel", exact, length);
	if (message->payload_length != length || memcmp(message->payload, exact, length) != 0 ||
		message->id[0] == '\0' || (message->op[0] != '\0' && !json_is_valid(exact, length)))
		abort();
	message_free(message);
	free(exact);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char		error[300];
	size_t		payload_length;
	size_t		length;
	char	   *payload = next_part(&data, &size, &payload_length);
	char	   *text = next_part(&data, &size, &length);
	char	   *url_text = next_part(&data, &size, &length);
	Template	template = {0};
	Url			url = {0};

	if (template_parse(&template, text, error, sizeof(error)))
		try_event(payload, payload_length, &template);
	template_free(&template);
	(void) url_parse(&url, url_text, error, sizeof(error));
	url_free(&url);
	url_hide_password(url_text);
	free(payload);
	free(text);
	free(url_text);
	return 0;
}

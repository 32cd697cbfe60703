/*-------------------------------------------------------------------------
 *
 * gateway.c
 *	  The parsers of the gateway under libFuzzer: see scripts/fuzz.
 *
 * An input is what a client sends: a startup packet, and messages behind it, each
 * of which is decoded in every way, and whose text, if it is a query, is parsed.
 * The bytes are in memory of their own at every step, so that the sanitizer sees
 * one that is read behind them.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "gateway/packet.h"
#include "gateway/statement.h"

#define MAX_LENGTH 10000

int			LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fail if it does not hold. */
static void
must(bool condition)
{
	if (!condition)
		abort();
}

/* Parse the text both ways, and look whether the list is as it says. */
static void
parse_text(const char *text, size_t length)
{
	for (int standard = 0; standard < 2; standard++)
	{
		StatementList list;
		int			count = 0;

		if (!statement_parse(&list, text, length, standard == 1, SIZE_MAX))
			must(list.message != NULL && list.sqlstate != NULL);
		else
		{
			for (const Statement *at = list.first; at != NULL; at = at->next)
			{
				must(at->kind <= STATEMENT_REFUSED);
				must(at->item_count == 0 || at->items != NULL);
				count++;
			}
			must(count == list.count);
		}
		for (const Truncation *cut = list.truncations; cut != NULL; cut = cut->next)
			must(strlen(cut->name) <= NAME_BYTES);

		/* A text takes memory in proportion. */
		must(list.arena.bytes <= 2000 + 600 * length);
		statement_list_free(&list);
	}
	must(utf8_invalid(text, length) <= length);
	must(utf8_clip(text, length, NAME_BYTES) <= length);
}

/* Decode the packet in every way. */
static void
decode(const Packet *packet)
{
	static Bind bind;
	static Parse parse;
	Startup		startup;
	PacketReader reader;
	const char *name;
	const char *value;

	startup_decode(packet, &startup);
	while (startup.kind == STARTUP_LOGIN &&
		   startup_next(&startup.parameters, &name, &value))
		must(strlen(name) + strlen(value) < packet->length);
	if (bind_decode(packet, &bind))
	{
		must(bind.value_count <= BIND_MAX_VALUES);
		for (int i = 0; i < bind.value_count; i++)
			must(bind.values[i].value == NULL ||
				 bind.values[i].value + bind.values[i].length <=
				 packet->body + packet->length);
	}
	if (parse_decode(packet, &parse))
		parse_text(parse.query, strlen(parse.query));
	packet_read(&reader, packet);
	name = packet_string(&reader);
	if (!reader.bad)
		parse_text(name, strlen(name));
}

/* Take one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	bool		startup = true;
	size_t		at = 0;

	while (at < size)
	{
		size_t		length = size - at;
		char	   *bytes = malloc(length);
		Packet		packet;
		PacketResult result;

		must(bytes != NULL);
		memcpy(bytes, data + at, length);
		result = startup ? startup_parse(bytes, length, MAX_LENGTH, &packet) :
			packet_parse(bytes, length, MAX_LENGTH, &packet);
		if (result == PACKET_MESSAGE)
		{
			must(packet.total <= length && packet.total > 0);
			decode(&packet);
			at += packet.total;
		}
		free(bytes);
		if (result != PACKET_MESSAGE)
			break;
		startup = false;
	}

	/* The input as SQL, too. */
	if (size > 0)
	{
		char	   *text = malloc(size);

		must(text != NULL);
		memcpy(text, data, size);
		parse_text(text, size);
		free(text);
	}
	return 0;
}

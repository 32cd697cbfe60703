/*-------------------------------------------------------------------------
 *
 * packet_test.c
 *	  The packet parser: what it finds, and what it says of every truncation
 *	  and of every other value of every byte.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/packet.h"

#include "common/bytes.h"
#include "test/check.h"

#define MAX_LENGTH 10000

/* A packet with that type, none if it is zero, and a body. */
static void
make_packet(Bytes *packet, char type, const void *body, size_t length)
{
	memset(packet, 0, sizeof(*packet));
	if (type != '\0')
		bytes_append_byte(packet, type);
	bytes_append_int32(packet, length + 4);
	bytes_append(packet, body, length);
}

/* Decode all that the packet may be. */
static void
decode(const Packet *packet)
{
	Startup		startup;
	PacketReader reader;
	static Bind bind;
	static Parse parse;
	const char *name;
	const char *value;

	startup_decode(packet, &startup);
	if (startup.kind == STARTUP_LOGIN)
	{
		while (startup_next(&startup.parameters, &name, &value))
			CHECK(strlen(name) + strlen(value) < packet->length);
	}
	if (bind_decode(packet, &bind))
	{
		for (int i = 0; i < bind.value_count; i++)
			CHECK(bind.values[i].value == NULL ||
				  (bind.values[i].value >= packet->body &&
				   bind.values[i].value + bind.values[i].length <=
				   packet->body + packet->length));
	}
	(void) parse_decode(packet, &parse);
	packet_read(&reader, packet);
	while (!reader.bad && !packet_at_end(&reader))
		(void) packet_string(&reader);
}

/* Parse the bytes, which are in memory of their own, and decode what is found. */
static PacketResult
parse(const char *bytes, size_t length, bool startup, Packet *packet)
{
	char	   *copy = exact_copy(bytes, length);
	PacketResult result = startup ?
		startup_parse(copy, length, MAX_LENGTH, packet) :
		packet_parse(copy, length, MAX_LENGTH, packet);

	if (result == PACKET_MESSAGE)
	{
		CHECK(packet->total <= length);
		decode(packet);
	}
	free(copy);
	return result;
}

/* Every truncation wants more; every changed byte is survived. */
static void
torture(const Bytes *packet, bool startup)
{
	Packet		found;
	char	   *changed = exact_copy(packet->data, packet->end);

	CHECK(parse(packet->data, packet->end, startup, &found) == PACKET_MESSAGE);
	CHECK(found.total == packet->end);
	for (size_t length = 0; length < packet->end; length++)
		CHECK(parse(packet->data, length, startup, &found) == PACKET_MORE);
	for (size_t at = 0; at < packet->end; at++)
	{
		for (int value = 0; value < 256; value++)
		{
			changed[at] = (char) value;
			(void) parse(changed, packet->end, startup, &found);
		}
		changed[at] = packet->data[at];
	}
	free(changed);
}

/* A body that ends before its last field does is no Bind and no Parse. */
static void
cut_bodies(char type, const Bytes *body, bool (*decodes) (const Packet *packet))
{
	for (size_t length = 0; length <= body->end; length++)
	{
		char	   *copy = exact_copy(body->data, length);
		Packet		packet = {.type = type,.body = copy,.length = length};

		CHECK(decodes(&packet) == (length == body->end));
		free(copy);
	}
}

static bool
decodes_bind(const Packet *packet)
{
	static Bind bind;

	return bind_decode(packet, &bind);
}

static bool
decodes_parse(const Packet *packet)
{
	static Parse parse_fields;

	return parse_decode(packet, &parse_fields);
}

static void
test_bind(void)
{
	Bytes		body = {0};
	Bytes		packet;
	Packet		found = {0};
	static Bind bind;

	bytes_append_string(&body, "portal");
	bytes_append_string(&body, "statement");
	bytes_append_int16(&body, 1);
	bytes_append_int16(&body, 1);
	bytes_append_int16(&body, 2);
	bytes_append_int32(&body, UINT32_MAX);
	bytes_append_int32(&body, 3);
	bytes_append(&body, "a\0b", 3);
	bytes_append_int16(&body, 1);
	bytes_append_int16(&body, 0);
	found.body = body.data;
	found.length = body.end;
	CHECK(bind_decode(&found, &bind));
	CHECK(strcmp(bind.portal, "portal") == 0);
	CHECK(strcmp(bind.statement, "statement") == 0);
	CHECK(bind.value_count == 2);
	CHECK(bind.values[0].value == NULL && bind.values[0].binary);
	CHECK(bind.values[1].length == 3 &&
		  memcmp(bind.values[1].value, "a\0b", 3) == 0);
	CHECK(bind.format_count == 1 && bind.formats[0] == 0);
	cut_bodies('B', &body, decodes_bind);
	make_packet(&packet, 'B', body.data, body.end);
	torture(&packet, false);
	bytes_free(&packet);
	bytes_free(&body);
}

static void
test_parse(void)
{
	Bytes		body = {0};
	Bytes		packet;

	bytes_append_string(&body, "name");
	bytes_append_string(&body, "SELECT pg_notify($1, $2)");
	bytes_append_int16(&body, 2);
	bytes_append_int32(&body, 25);
	bytes_append_int32(&body, 0);
	cut_bodies('P', &body, decodes_parse);
	make_packet(&packet, 'P', body.data, body.end);
	torture(&packet, false);
	bytes_free(&packet);
	bytes_free(&body);
}

static void
test_startup(void)
{
	static const char body[] = "\0\3\0\0user\0me\0database\0db\0";
	Bytes		packet;
	Packet		found;
	Startup		startup;
	const char *name;
	const char *value;

	make_packet(&packet, '\0', body, sizeof(body));
	torture(&packet, true);
	CHECK(startup_parse(packet.data, packet.end, MAX_LENGTH, &found) == PACKET_MESSAGE);
	startup_decode(&found, &startup);
	CHECK(startup.kind == STARTUP_LOGIN && startup.major == 3 && startup.minor == 0);
	CHECK(startup_next(&startup.parameters, &name, &value));
	CHECK(strcmp(name, "user") == 0 && strcmp(value, "me") == 0);
	CHECK(startup_next(&startup.parameters, &name, &value));
	CHECK(strcmp(name, "database") == 0 && strcmp(value, "db") == 0);
	CHECK(!startup_next(&startup.parameters, &name, &value));
	CHECK(!startup.parameters.bad);
	bytes_free(&packet);

	/* Something behind the terminator, and no terminator. */
	make_packet(&packet, '\0', body, sizeof(body) + 0);
	bytes_append_byte(&packet, 'x');
	packet.data[3]++;
	CHECK(startup_parse(packet.data, packet.end, MAX_LENGTH, &found) == PACKET_MESSAGE);
	startup_decode(&found, &startup);
	while (startup_next(&startup.parameters, &name, &value))
		;
	CHECK(startup.parameters.bad);
	bytes_free(&packet);
	make_packet(&packet, '\0', "\4\322\26\57", 4);
	CHECK(startup_parse(packet.data, packet.end, MAX_LENGTH, &found) == PACKET_MESSAGE);
	startup_decode(&found, &startup);
	CHECK(startup.kind == STARTUP_TLS);
	bytes_free(&packet);
	make_packet(&packet, '\0', "\4\322\26\56\0\0\0\7\0\0\1\0", 12);
	torture(&packet, true);
	CHECK(startup_parse(packet.data, packet.end, MAX_LENGTH, &found) == PACKET_MESSAGE);
	startup_decode(&found, &startup);
	CHECK(startup.kind == STARTUP_CANCEL && startup.pid == 7 && startup.key == 256);
	bytes_free(&packet);
}

/* Lengths that cannot be, known from the head alone. */
static void
test_lengths(void)
{
	static const uint32_t wrong[] = {0, 3, MAX_LENGTH + 5, INT32_MAX,
	(uint32_t) INT32_MAX + 1, UINT32_MAX};
	Packet		found;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
	{
		Bytes		head = {0};

		bytes_append_byte(&head, 'Q');
		bytes_append_int32(&head, wrong[i]);
		CHECK(parse(head.data, head.end, false, &found) == PACKET_BROKEN);
		CHECK(parse(head.data + 1, head.end - 1, true, &found) == PACKET_BROKEN);
		bytes_free(&head);
	}

	/* A startup packet has a code at least. */
	CHECK(parse("\0\0\0\7", 4, true, &found) == PACKET_BROKEN);
	CHECK(parse("\0\0\0\4", 4, true, &found) == PACKET_BROKEN);

	/* A type that is none is known from the first byte. */
	CHECK(parse("\0", 1, false, &found) == PACKET_BROKEN);
	CHECK(parse("G", 1, false, &found) == PACKET_BROKEN);
	CHECK(parse("Z", 1, false, &found) == PACKET_BROKEN);
	CHECK(parse("S\0\0\0\4X\0\0\0\4", 10, false, &found) == PACKET_MESSAGE);
	CHECK(found.type == 'S' && found.length == 0 && found.total == 5);
}

int
main(void)
{
	test_lengths();
	test_startup();
	test_parse();
	test_bind();
	return checks_done("packet_test");
}

/*-------------------------------------------------------------------------
 *
 * packet.c
 *	  See packet.h.
 *
 * A packet is a type byte, four bytes of length that count themselves and the
 * body, and the body.  A connection's first packets, which ask for TLS, a login
 * or a cancellation, have no type byte.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/packet.h"

#include <string.h>

#define CANCEL_CODE ((1234 << 16) | 5678)
#define TLS_CODE ((1234 << 16) | 5679)
#define GSS_CODE ((1234 << 16) | 5680)

/* The types that a client may send once it has logged in, and its password. */
static const char client_types[] = "QPBDECHSXFdcfp";

/* Four bytes, the most significant one first. */
static uint32_t
read_int32(const char *bytes)
{
	const unsigned char *raw = (const unsigned char *) bytes;

	return (uint32_t) raw[0] << 24 | (uint32_t) raw[1] << 16 |
		(uint32_t) raw[2] << 8 | raw[3];
}

/*
 * Where the packet ends whose length stands at bytes + skip; the body may have
 * max_length bytes.
 */
static PacketResult
measure(const char *bytes, size_t count, size_t skip, size_t max_length,
		Packet *packet)
{
	uint32_t	length;

	if (count < skip + 4)
		return PACKET_MORE;
	length = read_int32(bytes + skip);
	if (length < 4 || length - 4 > max_length)
		return PACKET_BROKEN;
	packet->body = bytes + skip + 4;
	packet->length = length - 4;
	packet->total = skip + length;
	return count < packet->total ? PACKET_MORE : PACKET_MESSAGE;
}

/*
 * Do count bytes begin with a whole packet of a client that has passed the
 * startup?  It is broken if its type is none or its body would be longer than
 * max_length; that is known before the body has come.  The packet is set for
 * PACKET_MESSAGE alone, and points into the bytes.
 */
PacketResult
packet_parse(const char *bytes, size_t count, size_t max_length, Packet *packet)
{
	if (count < 1)
		return PACKET_MORE;
	if (bytes[0] == '\0' || strchr(client_types, bytes[0]) == NULL)
		return PACKET_BROKEN;
	packet->type = bytes[0];
	return measure(bytes, count, 1, max_length, packet);
}

/* As packet_parse(), for what a server sends: any type that is a letter. */
PacketResult
backend_packet_parse(const char *bytes, size_t count, size_t max_length,
					 Packet *packet)
{
	if (count < 1)
		return PACKET_MORE;
	if (!((bytes[0] >= 'A' && bytes[0] <= 'Z') ||
		  (bytes[0] >= 'a' && bytes[0] <= 'z') ||
		  (bytes[0] >= '0' && bytes[0] <= '9')))
		return PACKET_BROKEN;
	packet->type = bytes[0];
	return measure(bytes, count, 1, max_length, packet);
}

/* As packet_parse(), for a packet without a type byte. */
PacketResult
startup_parse(const char *bytes, size_t count, size_t max_length,
			  Packet *packet)
{
	PacketResult result = measure(bytes, count, 0, max_length, packet);

	packet->type = '\0';

	/* Each has a code of four bytes. */
	if (result != PACKET_BROKEN && count >= 4 && packet->length < 4)
		return PACKET_BROKEN;
	return result;
}

/* Begin to read the packet's body. */
void
packet_read(PacketReader *reader, const Packet *packet)
{
	reader->at = packet->body;
	reader->end = packet->body + packet->length;
	reader->bad = false;
}

/* The next length bytes; the reader is bad, and NULL comes, if there are fewer. */
const char *
packet_bytes(PacketReader *reader, size_t length)
{
	const char *bytes = reader->at;

	if (reader->bad || (size_t) (reader->end - reader->at) < length)
	{
		reader->bad = true;
		return NULL;
	}
	reader->at += length;
	return bytes;
}

/* The next byte, or zero. */
char
packet_byte(PacketReader *reader)
{
	const char *bytes = packet_bytes(reader, 1);

	return bytes == NULL ? '\0' : bytes[0];
}

/* The next two bytes as a number, or zero. */
uint16_t
packet_int16(PacketReader *reader)
{
	const unsigned char *raw = (const unsigned char *) packet_bytes(reader, 2);

	return raw == NULL ? 0 : raw[0] << 8 | raw[1];
}

/* The next four bytes as a number, or zero. */
uint32_t
packet_int32(PacketReader *reader)
{
	const char *bytes = packet_bytes(reader, 4);

	return bytes == NULL ? 0 : read_int32(bytes);
}

/* The next string, in place; "" if none ends within the packet. */
const char *
packet_string(PacketReader *reader)
{
	const char *string = reader->at;
	const char *zero;

	if (reader->bad || reader->at == reader->end)
	{
		reader->bad = true;
		return "";
	}
	zero = memchr(string, '\0', reader->end - reader->at);
	if (zero == NULL)
	{
		reader->bad = true;
		return "";
	}
	reader->at = zero + 1;
	return string;
}

/* Was all read, and was all of it there? */
bool
packet_at_end(const PacketReader *reader)
{
	return !reader->bad && reader->at == reader->end;
}

/*
 * What a startup packet asks for.  The parameters of a login were not looked
 * at; startup_next() reads them.
 */
void
startup_decode(const Packet *packet, Startup *startup)
{
	PacketReader reader;
	uint32_t	code;

	memset(startup, 0, sizeof(*startup));
	packet_read(&reader, packet);
	code = packet_int32(&reader);
	startup->kind = STARTUP_BROKEN;
	if (reader.bad)
		return;
	if (code == CANCEL_CODE)
	{
		startup->pid = packet_int32(&reader);
		startup->key = packet_int32(&reader);
		if (packet_at_end(&reader))
			startup->kind = STARTUP_CANCEL;
	}
	else if (code == TLS_CODE || code == GSS_CODE)
	{
		if (packet_at_end(&reader))
			startup->kind = code == TLS_CODE ? STARTUP_TLS : STARTUP_GSS;
	}
	else
	{
		startup->kind = STARTUP_LOGIN;
		startup->major = code >> 16;
		startup->minor = code & 0xFFFF;
		startup->parameters = reader;
	}
}

/*
 * The next parameter of a login.  False at their end, which is an empty name
 * as the packet's last byte; parameters->bad then tells whether that was there.
 */
bool
startup_next(PacketReader *parameters, const char **name, const char **value)
{
	*name = packet_string(parameters);
	if (parameters->bad)
		return false;
	if (**name == '\0')
	{
		if (!packet_at_end(parameters))
			parameters->bad = true;
		return false;
	}
	*value = packet_string(parameters);
	return !parameters->bad;
}

/* The formats in reader; -1 if there are more than max, else their number. */
static int
read_formats(PacketReader *reader, uint16_t *formats, int max)
{
	int			count = packet_int16(reader);

	if (count > max)
		return -1;
	for (int i = 0; i < count; i++)
	{
		formats[i] = packet_int16(reader);
		if (formats[i] > 1)
			reader->bad = true;
	}
	return count;
}

/*
 * The fields of a Bind message; false if it is none.  More values than
 * BIND_MAX_VALUES are none either: nothing that is understood has so many.
 */
bool
bind_decode(const Packet *packet, Bind *bind)
{
	PacketReader reader;
	uint16_t	formats[BIND_MAX_FORMATS];
	int			format_count;

	memset(bind, 0, sizeof(*bind));
	packet_read(&reader, packet);
	bind->portal = packet_string(&reader);
	bind->statement = packet_string(&reader);
	format_count = read_formats(&reader, formats, BIND_MAX_FORMATS);
	bind->value_count = packet_int16(&reader);
	if (format_count < 0 || bind->value_count > BIND_MAX_VALUES)
		return false;

	/* One format is that of all values; asyncpg sends one for no values. */
	if (format_count > 1 && format_count != bind->value_count)
		return false;
	for (int i = 0; i < bind->value_count; i++)
	{
		BindValue  *value = &bind->values[i];
		uint32_t	length = packet_int32(&reader);

		if (format_count > 0)
			value->binary = formats[format_count == 1 ? 0 : i] == 1;
		if (length == UINT32_MAX)
			continue;
		value->value = packet_bytes(&reader, length);
		value->length = length;
	}
	bind->format_count = read_formats(&reader, bind->formats,
									  BIND_MAX_FORMATS);
	return bind->format_count >= 0 && packet_at_end(&reader);
}

/* The fields of a Parse message; false if it is none. */
bool
parse_decode(const Packet *packet, Parse *parse)
{
	PacketReader reader;

	memset(parse, 0, sizeof(*parse));
	packet_read(&reader, packet);
	parse->name = packet_string(&reader);
	parse->query = packet_string(&reader);
	parse->type_count = packet_int16(&reader);
	if (parse->type_count > PARSE_MAX_TYPES)
		return false;
	for (int i = 0; i < parse->type_count; i++)
		parse->types[i] = packet_int32(&reader);
	return packet_at_end(&reader);
}

/*-------------------------------------------------------------------------
 *
 * packet.h
 *	  PostgreSQL's protocol as bytes: where a packet ends, and what is in it.
 *
 * Nothing here knows a socket, allocates memory or keeps a state: whoever has
 * bytes asks packet_parse() or startup_parse() whether they begin with a whole
 * packet, and reads its fields through a PacketReader.  A reader never goes past
 * the packet; once a field was not there, it stays bad, and all further fields
 * are empty.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_PACKET_H
#define GATEWAY_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum PacketResult
{
	PACKET_MORE,				/* no whole packet yet */
	PACKET_MESSAGE,				/* there is one */
	PACKET_BROKEN				/* there can never be one */
} PacketResult;

typedef struct Packet
{
	char		type;			/* '\0' of a startup packet */
	const char *body;
	size_t		length;			/* of the body */
	size_t		total;			/* bytes that the packet takes */
} Packet;

typedef struct PacketReader
{
	const char *at;
	const char *end;
	bool		bad;
} PacketReader;

/* What the first packet of a connection asks for. */
typedef enum StartupKind
{
	STARTUP_LOGIN,
	STARTUP_CANCEL,
	STARTUP_TLS,
	STARTUP_GSS,
	STARTUP_BROKEN
} StartupKind;

typedef struct Startup
{
	StartupKind kind;
	uint16_t	major;			/* of the protocol, for a login */
	uint16_t	minor;
	PacketReader parameters;	/* pairs of strings, for a login */
	uint32_t	pid;			/* for a cancel request */
	uint32_t	key;
} Startup;

/* A parameter of Bind; value is NULL for NULL. */
typedef struct BindValue
{
	const char *value;
	size_t		length;
	bool		binary;
} BindValue;

#define BIND_MAX_VALUES 64
#define BIND_MAX_FORMATS 64

typedef struct Bind
{
	const char *portal;
	const char *statement;
	int			value_count;
	BindValue	values[BIND_MAX_VALUES];
	int			format_count;	/* of the results */
	uint16_t	formats[BIND_MAX_FORMATS];
} Bind;

#define PARSE_MAX_TYPES 64

typedef struct Parse
{
	const char *name;
	const char *query;
	int			type_count;
	uint32_t	types[PARSE_MAX_TYPES];
} Parse;

extern PacketResult packet_parse(const char *bytes, size_t count,
								 size_t max_length, Packet *packet);
extern PacketResult startup_parse(const char *bytes, size_t count,
								  size_t max_length, Packet *packet);
extern PacketResult backend_packet_parse(const char *bytes, size_t count,
										 size_t max_length, Packet *packet);

extern void packet_read(PacketReader *reader, const Packet *packet);
extern uint16_t packet_int16(PacketReader *reader);
extern uint32_t packet_int32(PacketReader *reader);
extern char packet_byte(PacketReader *reader);
extern const char *packet_string(PacketReader *reader);
extern const char *packet_bytes(PacketReader *reader, size_t length);
extern bool packet_at_end(const PacketReader *reader);

extern void startup_decode(const Packet *packet, Startup *startup);
extern bool startup_next(PacketReader *parameters, const char **name,
						 const char **value);
extern bool bind_decode(const Packet *packet, Bind *bind);
extern bool parse_decode(const Packet *packet, Parse *parse);

#endif

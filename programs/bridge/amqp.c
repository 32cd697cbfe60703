/*-------------------------------------------------------------------------
 *
 * amqp.c
 *	  RabbitMQ and others that speak AMQP 0-9-1, through librabbitmq.
 *
 * 1. One channel, with confirms.  The broker numbers what is published on it from 1
 *	  on, and so does this file: positions[tag modulo their number] is the outbox's
 *	  position of a delivery tag.  Between untold and next_tag are the tags that the
 *	  broker has not told of.  basic.ack and basic.nack may come in any order, and
 *	  with "multiple" speak of all up to theirs.
 *
 * 2. The library has no help for confirms, so frames are read one by one.  A
 *	  message that cannot be routed comes back as basic.return, a header and a
 *	  body, before its ack; it has no tag, but the headers that it was sent with:
 *	  seq and type tell which one it is.  Nothing that the broker sends is believed
 *	  beyond that.
 *
 * 3. connection.blocked (the broker is out of memory or disk) has the sink send
 *	  nothing, for the library would wait in send.
 *
 * 4. A message above the broker's max_message_size has the channel closed with
 *	  406, which does not say which one it was: see sink_blamed().
 *
 * Heartbeats are sent and checked within the library's calls, of which there is one
 * a second at least.
 *
 *-------------------------------------------------------------------------
 */
/* (librabbitmq has moved its headers since Debian 12, and warns of the old places) */
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/framing.h>
#include <rabbitmq-c/ssl_socket.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#endif
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "bridge/bridge.h"
#include "bridge/sink.h"
#include "common/memory.h"

#define CHANNEL 1

/* Seconds: to connect, for an answer, between heartbeats. */
#define CONNECT_SECONDS 10
#define ANSWER_SECONDS 10
#define HEARTBEAT_SECONDS 10

#define FRAME_MAX 131072

/* The longest routing key or name, in bytes: one byte holds its length. */
#define SHORT_STRING 255

/* The longest header, in bytes: all of them are in one frame. */
#define HEADER_SIZE 1000

/* What is known of a tag that was used. */
typedef struct Sent
{
	uint64_t	position;
	int64_t		seq;
	bool		is_gap;
	bool		told;			/* the broker has answered */
	bool		returned;		/* it could not be routed */
	char		why[100];
} Sent;

typedef struct Amqp
{
	amqp_connection_state_t connection;
	int			fd;
	bool		works;			/* it is there, and nothing has failed */
	uint64_t	next_tag;
	uint64_t	untold;			/* the lowest tag of which nothing was told */
	Sent	   *sent;			/* by tag modulo their number */
	uint64_t	room;			/* their number: a power of two */
	uint64_t	body_left;		/* bytes of a returned message to be read */
	bool		header_due;		/* basic.return has come, and no header yet */
	char		return_why[100];
} Amqp;

static Amqp amqp;

/* Are the options good for this kind of broker? */
static bool
amqp_configure(const char **address, char *error, size_t size)
{
	const Options *o = &bridge.options;

	if (o->exchange != NULL && strlen(o->exchange) > SHORT_STRING)
		snprintf(error, size, "option exchange takes at most %d bytes", SHORT_STRING);
	else if (o->routing_key != NULL && strchr(o->routing_key, '{') == NULL &&
			 strlen(o->routing_key) > SHORT_STRING)
		snprintf(error, size, "option routing-key takes at most %d bytes", SHORT_STRING);
	else if (o->dead_letter != NULL && strlen(o->dead_letter) > SHORT_STRING)
		snprintf(error, size, "option dead-letter takes at most %d bytes", SHORT_STRING);
	else
	{
		*address = o->routing_key != NULL ? o->routing_key : "{channel}";
		return true;
	}
	return false;
}

/* A routing key may have any byte. */
static bool
amqp_allowed(unsigned char c)
{
	return c != '\0';
}

/* The exchange's name; the default one has none. */
static const char *
exchange_name(void)
{
	return bridge.options.exchange != NULL ? bridge.options.exchange : "";
}

/* Write what a close method says. */
static void
describe_close(const char *what, int code, amqp_bytes_t text, char *error)
{
	snprintf(error, SINK_ERROR_SIZE, "the broker has closed the %s: %d %.*s", what, code,
			 (int) (text.len < 250 ? text.len : 250), (const char *) text.bytes);
}

/* Is the last call's reply good?  If not, the error is written. */
static bool
reply_is_good(const char *what, amqp_rpc_reply_t reply, char *error)
{
	const amqp_connection_close_t *connection_close;
	const amqp_channel_close_t *channel_close;

	switch (reply.reply_type)
	{
		case AMQP_RESPONSE_NORMAL:
			return true;
		case AMQP_RESPONSE_LIBRARY_EXCEPTION:
			snprintf(error, SINK_ERROR_SIZE, "%s: %s", what, amqp_error_string2(reply.library_error));
			return false;
		case AMQP_RESPONSE_SERVER_EXCEPTION:
			if (reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD)
			{
				connection_close = reply.reply.decoded;
				describe_close("connection", connection_close->reply_code,
							   connection_close->reply_text, error);
				return false;
			}
			if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD)
			{
				channel_close = reply.reply.decoded;
				describe_close("channel", channel_close->reply_code,
							   channel_close->reply_text, error);
				return false;
			}
			break;
		default:
			break;
	}
	snprintf(error, SINK_ERROR_SIZE, "%s: the broker has not answered", what);
	return false;
}

/* Make the socket, with TLS if that is wanted; NULL, with the error, if not. */
static amqp_socket_t *
make_socket(char *error)
{
	const Options *o = &bridge.options;
	amqp_socket_t *made;

	if (!o->tls)
		return amqp_tcp_socket_new(amqp.connection);
	made = amqp_ssl_socket_new(amqp.connection);
	if (made == NULL)
		return NULL;
	amqp_ssl_socket_set_verify_peer(made, 1);
	amqp_ssl_socket_set_verify_hostname(made, 1);
	if (amqp_ssl_socket_set_cacert(made, o->tls_ca != NULL ? o->tls_ca :
								   "/etc/ssl/certs/ca-certificates.crt") != AMQP_STATUS_OK)
	{
		snprintf(error, SINK_ERROR_SIZE, "could not read the authorities' certificates (--tls-ca)");
		return NULL;
	}
	if (o->tls_cert != NULL &&
		amqp_ssl_socket_set_key(made, o->tls_cert, o->tls_key) != AMQP_STATUS_OK)
	{
		snprintf(error, SINK_ERROR_SIZE, "could not read the files of --tls-cert and --tls-key");
		return NULL;
	}
	return made;
}

/* Open the socket to the next of the URL's hosts. */
static bool
open_socket(char *error)
{
	const UrlHost *host = sink_next_host();
	int			port = host->port != 0 ? host->port : bridge.options.tls ? 5671 : 5672;
	struct timeval limit = {.tv_sec = CONNECT_SECONDS};
	amqp_socket_t *made = make_socket(error);
	int			status;

	if (made == NULL)
		return false;
	status = amqp_socket_open_noblock(made, host->name, port, &limit);
	if (status == AMQP_STATUS_OK)
		return true;
	snprintf(error, SINK_ERROR_SIZE, "%s port %d: %s%s", host->name, port,
			 amqp_error_string2(status),
			 status == AMQP_STATUS_SSL_HOSTNAME_VERIFY_FAILED ? "; the certificate is for another name" :
			 status == AMQP_STATUS_SSL_PEER_VERIFY_FAILED ||
			 status == AMQP_STATUS_SSL_CONNECTION_FAILED ? "; see --tls-ca" : "");
	return false;
}

/* Log in; the broker is told to say when it blocks, and whose connection it is. */
static bool
log_in(char *error)
{
	const Url  *url = &bridge.options.url;
	char		name[100];
	amqp_table_entry_t capability = {
		.key = amqp_cstring_bytes("connection.blocked"),
		.value = {.kind = AMQP_FIELD_KIND_BOOLEAN,.value.boolean = 1}
	};
	amqp_table_entry_t properties[2] = {
		{.key = amqp_cstring_bytes("capabilities"),
		.value = {.kind = AMQP_FIELD_KIND_TABLE,.value.table = {1, &capability}}},
		{.key = amqp_cstring_bytes("connection_name"),
		.value = {.kind = AMQP_FIELD_KIND_UTF8}}
	};
	amqp_table_t table = {2, properties};
	struct timeval limit = {.tv_sec = ANSWER_SECONDS};

	snprintf(name, sizeof(name), "pgpubsub-bridge %s", bridge.options.subscription);
	properties[1].value.value.bytes = amqp_cstring_bytes(name);
	amqp_set_handshake_timeout(amqp.connection, &limit);
	amqp_set_rpc_timeout(amqp.connection, &limit);
	return reply_is_good("login",
						 amqp_login_with_properties(amqp.connection,
													url->path[0] != '\0' ? url->path : "/",
													0, FRAME_MAX, HEARTBEAT_SECONDS, &table,
													AMQP_SASL_METHOD_PLAIN,
													url->user != NULL ? url->user : "guest",
													url->password != NULL ? url->password : "guest"),
						 error);
}

/* Open the channel, with confirms, and see whether the exchange is there. */
static bool
open_channel(char *error)
{
	amqp_channel_open(amqp.connection, CHANNEL);
	if (!reply_is_good("channel", amqp_get_rpc_reply(amqp.connection), error))
		return false;
	amqp_confirm_select(amqp.connection, CHANNEL);
	if (!reply_is_good("confirms", amqp_get_rpc_reply(amqp.connection), error))
		return false;
	if (exchange_name()[0] == '\0')
		return true;
	amqp_exchange_declare(amqp.connection, CHANNEL, amqp_cstring_bytes(exchange_name()),
						  amqp_empty_bytes, 1, 0, 0, 0, amqp_empty_table);
	return reply_is_good("exchange", amqp_get_rpc_reply(amqp.connection), error);
}

/* Connect. */
static bool
amqp_connect(char *error)
{
	amqp.connection = amqp_new_connection();
	if (amqp.connection == NULL)
	{
		snprintf(error, SINK_ERROR_SIZE, "out of memory");
		return false;
	}
	if (amqp.sent == NULL)
	{
		amqp.room = 16;
		while (amqp.room < (uint64_t) bridge.options.window * 2)
			amqp.room *= 2;
		amqp.sent = memory_get_zeroed(amqp.room * sizeof(Sent));
	}
	amqp.next_tag = amqp.untold = 1;
	amqp.body_left = 0;
	amqp.header_due = false;
	if (!open_socket(error) || !log_in(error) || !open_channel(error))
		return false;
	amqp.fd = amqp_get_sockfd(amqp.connection);
	amqp.works = true;
	return true;
}

/*
 * Would a message get there?  An exchange other than the default one does not tell
 * which routing keys it knows.
 */
static bool
amqp_exists(const char *address, bool dead, char *error)
{
	if (!dead && exchange_name()[0] != '\0')
		return true;
	amqp_queue_declare(amqp.connection, CHANNEL, amqp_cstring_bytes(address), 1, 0, 0, 0,
					   amqp_empty_table);
	return reply_is_good("queue", amqp_get_rpc_reply(amqp.connection), error);
}

/*
 * Close the connection.  The broker is told, as it logs a warning else, unless the
 * connection has failed.
 */
static void
amqp_close(void)
{
	struct timeval limit = {.tv_sec = 1};

	if (amqp.connection == NULL)
		return;
	if (amqp.works)
	{
		amqp_set_rpc_timeout(amqp.connection, &limit);
		(void) amqp_connection_close(amqp.connection, AMQP_REPLY_SUCCESS);
	}
	amqp.works = false;
	amqp_destroy_connection(amqp.connection);
	amqp.connection = NULL;
}

/* A header that is a string, whose end is cut off if it is too long. */
static amqp_table_entry_t
text_header(const char *name, const char *value)
{
	amqp_table_entry_t header = {.key = amqp_cstring_bytes(name)};
	size_t		length = strnlen(value, HEADER_SIZE + 1);

	/* (not in the midst of a character) */
	if (length > HEADER_SIZE)
	{
		length = HEADER_SIZE;
		while (length > 0 && ((unsigned char) value[length] & 0xC0) == 0x80)
			length--;
	}
	header.value.kind = AMQP_FIELD_KIND_UTF8;
	header.value.value.bytes.len = length;
	header.value.value.bytes.bytes = (void *) value;
	return header;
}

/* Write the headers; how many they are. */
static int
make_headers(const Message *message, amqp_table_entry_t *headers)
{
	int			count = 0;

	headers[count].key = amqp_cstring_bytes("seq");
	headers[count].value.kind = AMQP_FIELD_KIND_I64;
	headers[count++].value.value.i64 = message->seq;
	headers[count++] = text_header("id", message->id);
	if (message->is_gap && message->lost >= 0)
	{
		headers[count].key = amqp_cstring_bytes("lost");
		headers[count].value.kind = AMQP_FIELD_KIND_I64;
		headers[count++].value.value.i64 = message->lost;
	}
	if (message->channel[0] != '\0')
		headers[count++] = text_header("channel", message->channel);
	if (message->op[0] != '\0')
		headers[count++] = text_header("op", message->op);
	if (message->dead)
	{
		headers[count++] = text_header("reason", message->reason);
		headers[count++] = text_header("routing-key", message->address);
	}
	return count;
}

/*
 * A place for the next tag.  There are more tags between untold and next_tag than the
 * window has where the broker tells of a later one first.
 */
static Sent *
next_sent(void)
{
	if (amqp.next_tag - amqp.untold >= amqp.room)
	{
		Sent	   *wider = memory_get_zeroed(amqp.room * 2 * sizeof(Sent));

		for (uint64_t tag = amqp.untold; tag < amqp.next_tag; tag++)
			wider[tag & (amqp.room * 2 - 1)] = amqp.sent[tag & (amqp.room - 1)];
		free(amqp.sent);
		amqp.sent = wider;
		amqp.room *= 2;
	}
	return memset(&amqp.sent[amqp.next_tag++ & (amqp.room - 1)], 0, sizeof(Sent));
}

/* Publish a message, and note its tag. */
static bool
amqp_publish(const Message *message, uint64_t position, char *error)
{
	const char *address = sink_address(message);
	amqp_table_entry_t headers[8];
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_APP_ID_FLAG |
		AMQP_BASIC_HEADERS_FLAG,
		.content_type = amqp_cstring_bytes(message->content_type),
		.delivery_mode = 2,
		.message_id = amqp_cstring_bytes(message->id),
		.type = amqp_cstring_bytes(message->type),
		.app_id = amqp_cstring_bytes("pgpubsub-bridge")
	};
	amqp_bytes_t body = {message->payload_length, (void *) message->payload};
	Sent	   *sent;
	int			status;

	if (strlen(address) > SHORT_STRING)
	{
		sink_unroutable(position, "the routing key is longer than 255 bytes");
		return true;
	}
	properties.headers.entries = headers;
	properties.headers.num_entries = make_headers(message, headers);
	if (message->relayed_at != 0)
	{
		properties._flags |= AMQP_BASIC_TIMESTAMP_FLAG;
		properties.timestamp = (uint64_t) message->relayed_at / 1000000;
	}
	sent = next_sent();
	sent->position = position;
	sent->seq = message->seq;
	sent->is_gap = message->is_gap;
	status = amqp_basic_publish(amqp.connection, CHANNEL,
								amqp_cstring_bytes(message->dead ? "" : exchange_name()),
								amqp_cstring_bytes(address), 1, 0, &properties,
								body);
	if (status == AMQP_STATUS_OK)
		return true;
	snprintf(error, SINK_ERROR_SIZE, "publishing: %s", amqp_error_string2(status));
	amqp.works = false;
	return false;
}

/* Nothing is kept back. */
static bool
amqp_flush(char *error)
{
	(void) error;
	return true;
}

/* The broker has told of one tag. */
static void
told(uint64_t tag, bool good)
{
	Sent	   *sent = &amqp.sent[tag & (amqp.room - 1)];

	if (sent->told)
		return;
	sent->told = true;
	if (sent->returned)
		sink_unroutable(sent->position, sent->why);
	else if (good)
		sink_confirmed(sent->position);
	else
		sink_refused(sent->position, "the queue is full, or the broker has failed (basic.nack)");
}

/* The broker has told of a tag, or with multiple of all up to that. */
static void
take_confirm(uint64_t tag, bool multiple, bool good)
{
	if (tag < amqp.untold || tag >= amqp.next_tag)
		return;
	for (uint64_t i = multiple ? amqp.untold : tag; i <= tag; i++)
		told(i, good);
	while (amqp.untold < amqp.next_tag && amqp.sent[amqp.untold & (amqp.room - 1)].told)
		amqp.untold++;
}

/* The header of a message that came back: which one is it? */
static void
take_returned(const amqp_basic_properties_t *properties)
{
	bool		is_gap = (properties->_flags & AMQP_BASIC_TYPE_FLAG) != 0 &&
		properties->type.len == strlen("pgpubsub.gap") &&
		memcmp(properties->type.bytes, "pgpubsub.gap", properties->type.len) == 0;

	if (!(properties->_flags & AMQP_BASIC_HEADERS_FLAG))
		return;
	for (int i = 0; i < properties->headers.num_entries; i++)
	{
		const amqp_table_entry_t *header = &properties->headers.entries[i];

		if (header->key.len != 3 || memcmp(header->key.bytes, "seq", 3) != 0 ||
			header->value.kind != AMQP_FIELD_KIND_I64)
			continue;
		for (uint64_t tag = amqp.untold; tag < amqp.next_tag; tag++)
		{
			Sent	   *sent = &amqp.sent[tag & (amqp.room - 1)];

			if (sent->seq == header->value.value.i64 && sent->is_gap == is_gap && !sent->told)
			{
				sent->returned = true;
				memcpy(sent->why, amqp.return_why, sizeof(sent->why));
			}
		}
	}
}

/* A method on the channel; false if that is closed. */
static bool
take_method(const amqp_method_t *method, char *error)
{
	const amqp_basic_ack_t *ack = method->decoded;
	const amqp_basic_nack_t *nack = method->decoded;
	const amqp_basic_return_t *back = method->decoded;
	const amqp_channel_close_t *close = method->decoded;

	switch (method->id)
	{
		case AMQP_BASIC_ACK_METHOD:
			take_confirm(ack->delivery_tag, ack->multiple, true);
			return true;
		case AMQP_BASIC_NACK_METHOD:
			take_confirm(nack->delivery_tag, nack->multiple, false);
			return true;
		case AMQP_BASIC_RETURN_METHOD:
			amqp.header_due = true;
			snprintf(amqp.return_why, sizeof(amqp.return_why), "%d %.*s", back->reply_code,
					 (int) (back->reply_text.len < 80 ? back->reply_text.len : 80),
					 (const char *) back->reply_text.bytes);
			return true;
		case AMQP_CHANNEL_CLOSE_METHOD:
			describe_close("channel", close->reply_code, close->reply_text, error);
			if (close->reply_code == AMQP_PRECONDITION_FAILED)
				sink_blamed(error);
			return false;
		default:
			return true;
	}
}

/* A method on the connection; false if that is closed. */
static bool
take_connection_method(const amqp_method_t *method, char *error)
{
	const amqp_connection_close_t *close = method->decoded;
	const amqp_connection_blocked_t *blocked = method->decoded;
	char		reason[200];

	switch (method->id)
	{
		case AMQP_CONNECTION_CLOSE_METHOD:
			describe_close("connection", close->reply_code, close->reply_text, error);
			return false;
		case AMQP_CONNECTION_BLOCKED_METHOD:
			snprintf(reason, sizeof(reason), "%.*s",
					 (int) (blocked->reason.len < 180 ? blocked->reason.len : 180),
					 (const char *) blocked->reason.bytes);
			sink_blocked(true, reason);
			return true;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			sink_blocked(false, NULL);
			return true;
		default:
			return true;
	}
}

/* A frame has come; false if the connection is of no use then. */
static bool
take_frame(const amqp_frame_t *frame, char *error)
{
	switch (frame->frame_type)
	{
		case AMQP_FRAME_METHOD:
			return frame->channel == 0 ?
				take_connection_method(&frame->payload.method, error) :
				take_method(&frame->payload.method, error);
		case AMQP_FRAME_HEADER:
			if (!amqp.header_due)
				return true;
			amqp.header_due = false;
			amqp.body_left = frame->payload.properties.body_size;
			if (frame->payload.properties.class_id == AMQP_BASIC_CLASS)
				take_returned(frame->payload.properties.decoded);
			return true;
		case AMQP_FRAME_BODY:
			amqp.body_left -= frame->payload.body_fragment.len < amqp.body_left ?
				frame->payload.body_fragment.len : amqp.body_left;
			return true;
		default:
			return true;
	}
}

/* Take the frames that have come, and wait for some if there are none. */
static bool
amqp_wait(int timeout, char *error)
{
	struct timeval none = {0};
	bool		some = false;

	while (true)
	{
		amqp_frame_t frame;
		int			status = amqp_simple_wait_frame_noblock(amqp.connection, &frame, &none);

		if (status == AMQP_STATUS_OK)
		{
			some = true;
			if (!take_frame(&frame, error))
			{
				amqp.works = false;
				return false;
			}
			amqp_maybe_release_buffers(amqp.connection);
			continue;
		}
		if (status != AMQP_STATUS_TIMEOUT)
		{
			snprintf(error, SINK_ERROR_SIZE, "%s", amqp_error_string2(status));
			amqp.works = false;
			return false;
		}
		if (some)
			return true;
		some = true;
		sink_poll(amqp.fd, timeout);
	}
}

const SinkKind amqp_sink = {
	.name = "AMQP",
	.schemes = {"amqp", "amqps"},
	.configure = amqp_configure,
	.allowed = amqp_allowed,
	.connect = amqp_connect,
	.exists = amqp_exists,
	.publish = amqp_publish,
	.flush = amqp_flush,
	.wait = amqp_wait,
	.disconnect = amqp_close
};

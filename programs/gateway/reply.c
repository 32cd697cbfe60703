/*-------------------------------------------------------------------------
 *
 * reply.c
 *	  See reply.h.
 *
 * Each message is composed in one buffer that all share, and then copied to
 * the queue whole.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/reply.h"

#include <stdio.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"

static Bytes message;

/* Begin a message of that type. */
static void
begin(char type)
{
	message.begin = message.end = 0;
	bytes_append_byte(&message, type);
	bytes_append_int32(&message, 0);
}

/* Set the length of the message, and put it into the queue. */
static void
finish(Queue *queue)
{
	uint32_t	length = message.end - 1;

	for (int i = 0; i < 4; i++)
		message.data[1 + i] = length >> (24 - 8 * i) & 0xFF;
	queue_add_bytes(queue, message.data, message.end);
}

/* A message without a body. */
void
reply_plain(Queue *queue, char type)
{
	begin(type);
	finish(queue);
}

/* A message with that body. */
void
reply_raw(Queue *queue, char type, const void *body, size_t length)
{
	begin(type);
	bytes_append(&message, body, length);
	finish(queue);
}

/* A field of an error, unless the value is NULL. */
static void
add_field(char code, const char *value)
{
	if (value == NULL)
		return;
	bytes_append_byte(&message, code);
	bytes_append_string(&message, value);
}

/* The fields of an error or a notice. */
static void
add_report(const Report *report, const char *severity)
{
	char		position[16];

	add_field('S', severity);
	add_field('V', severity);
	add_field('C', report->sqlstate);
	add_field('M', report->message);
	add_field('D', report->detail);
	add_field('H', report->hint);
	if (report->position > 0)
	{
		snprintf(position, sizeof(position), "%d", report->position);
		add_field('P', position);
	}
	bytes_append_byte(&message, '\0');
}

/* ErrorResponse. */
void
reply_report(Queue *queue, const Report *report)
{
	begin('E');
	add_report(report, report->severity != NULL ? report->severity : "ERROR");
	finish(queue);
}

/* NoticeResponse. */
void
reply_notice(Queue *queue, const Report *report)
{
	begin('N');
	add_report(report, report->severity != NULL ? report->severity : "NOTICE");
	finish(queue);
}

/* ParameterStatus. */
void
reply_parameter(Queue *queue, const char *name, const char *value)
{
	begin('S');
	bytes_append_string(&message, name);
	bytes_append_string(&message, value);
	finish(queue);
}

/* BackendKeyData. */
void
reply_key(Queue *queue, uint32_t pid, uint32_t key)
{
	begin('K');
	bytes_append_int32(&message, pid);
	bytes_append_int32(&message, key);
	finish(queue);
}

/* NegotiateProtocolVersion: 3.0, and none of these options. */
void
reply_negotiate(Queue *queue, const char *const *options, int count)
{
	begin('v');
	bytes_append_int32(&message, 0);
	bytes_append_int32(&message, count);
	for (int i = 0; i < count; i++)
		bytes_append_string(&message, options[i]);
	finish(queue);
}

/* ReadyForQuery; status is I, T or E. */
void
reply_ready(Queue *queue, char status)
{
	begin('Z');
	bytes_append_byte(&message, status);
	finish(queue);
}

/* CommandComplete. */
void
reply_complete(Queue *queue, const char *tag)
{
	begin('C');
	bytes_append_string(&message, tag);
	finish(queue);
}

/* RowDescription. */
void
reply_columns(Queue *queue, const ReplyColumn *columns, int count)
{
	begin('T');
	bytes_append_int16(&message, count);
	for (int i = 0; i < count; i++)
	{
		bytes_append_string(&message, columns[i].name);
		bytes_append_int32(&message, 0);
		bytes_append_int16(&message, 0);
		bytes_append_int32(&message, columns[i].type);
		bytes_append_int16(&message, (uint16_t) columns[i].type_size);
		bytes_append_int32(&message, UINT32_MAX);
		bytes_append_int16(&message, columns[i].binary ? 1 : 0);
	}
	finish(queue);
}

/* DataRow. */
void
reply_values(Queue *queue, const ReplyValue *values, int count)
{
	begin('D');
	bytes_append_int16(&message, count);
	for (int i = 0; i < count; i++)
	{
		if (values[i].data == NULL)
		{
			bytes_append_int32(&message, UINT32_MAX);
			continue;
		}
		bytes_append_int32(&message, values[i].length);
		bytes_append(&message, values[i].data, values[i].length);
	}
	finish(queue);
}

/* ParameterDescription. */
void
reply_parameter_types(Queue *queue, const uint32_t *types, int count)
{
	begin('t');
	bytes_append_int16(&message, count);
	for (int i = 0; i < count; i++)
		bytes_append_int32(&message, types[i]);
	finish(queue);
}

/* NotificationResponse, as a piece that many clients share. */
Piece *
notification_make(uint32_t pid, const char *channel, const char *payload)
{
	size_t		channel_size = strlen(channel) + 1;
	size_t		payload_size = strlen(payload) + 1;
	size_t		length = 8 + channel_size + payload_size;
	Piece	   *piece = piece_make(1 + length);
	char	   *at = piece->data;

	*at++ = 'A';
	for (int i = 0; i < 4; i++)
		*at++ = length >> (24 - 8 * i) & 0xFF;
	for (int i = 0; i < 4; i++)
		*at++ = pid >> (24 - 8 * i) & 0xFF;
	memcpy(at, channel, channel_size);
	memcpy(at + channel_size, payload, payload_size);
	return piece;
}

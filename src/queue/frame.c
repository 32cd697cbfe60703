/*-------------------------------------------------------------------------
 *
 * frame.c
 *	  Events that a single NOTIFY cannot carry, in parts.
 *
 * A frame is the text of one notification on the reserved channel:
 *
 *		id SP part SP parts SP crc SP channel-length SP channel data
 *
 * part counts from 1; crc, eight hexadecimal digits, is the CRC-32C of the
 * payload of the native notification that the event is delivered in place of;
 * the channel's length is in bytes, so its name may contain anything.  The
 * data of all parts is the payload, split between characters: each part is
 * valid text.
 *
 * Any role can NOTIFY on the reserved channel, so what arrives is hostile.
 * The parts of one event arrive one after the other, from one process.
 * Anything but the next part that is expected ends the assembly.  Its size
 * is bounded, and memory is taken as data arrives, not as parts claims.
 *
 *-------------------------------------------------------------------------
 */
#include "queue/frame.h"

#include "mb/pg_wchar.h"
#include "port/pg_crc32c.h"

/* What surrounds id and channel in a header, at most. */
#define HEADER_FIXED	(1 + 10 + 1 + 10 + 1 + 8 + 1 + 2 + 1)

/* A frame taken apart; the pointers point into its text. */
typedef struct Frame
{
	const char *id;
	Size		id_len;
	uint32		part;
	uint32		parts;
	uint32		crc;
	const char *channel;
	Size		channel_len;
	const char *data;
	Size		data_len;
} Frame;

/* The check sum by which a native notification is recognized. */
uint32
frame_crc(const char *payload, Size len)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, payload, len);
	FIN_CRC32C(crc);
	return (uint32) crc;
}

/*
 * Bytes of payload that go into the next part: whole characters.  To walk
 * through them is slow, so that is not done in encodings that show where one
 * begins.
 */
static Size
part_length(const char *payload, Size len, Size room)
{
	if (len <= room || pg_database_encoding_max_length() == 1)
		return Min(len, room);
	if (GetDatabaseEncoding() != PG_UTF8)
		return pg_mbcliplen(payload, (int) len, (int) room);

	/* bytes that continue a character are 10xxxxxx, three at most */
	for (int back = 0; back <= 3; back++)
	{
		if (((unsigned char) payload[room - back] & 0xC0) != 0x80)
			return room - back;
	}
	return room;
}

/*
 * Split the event into frames and emit them in order.  id has at most
 * FRAME_ID_MAX bytes and no space; payload is text in the database's
 * encoding of at most 2^31 - 1 bytes.  Raises what emit raises.
 */
void
frame_split(const char *id, const char *channel, const char *payload,
			Size len, uint32 native_crc, FrameEmit emit, void *arg)
{
	Size		channel_len = strlen(channel);
	Size		room = PGPUBSUB_NATIVE_MAX - HEADER_FIXED - strlen(id) -
		channel_len;
	uint32		parts = 0;
	Size		done = 0;
	char		text[PGPUBSUB_NATIVE_MAX + 1];

	do
	{
		done += part_length(payload + done, len - done, room);
		parts++;
	} while (done < len);

	done = 0;
	for (uint32 part = 1; part <= parts; part++)
	{
		Size		data_len = part_length(payload + done, len - done, room);
		int			header_len;

		header_len = snprintf(text, sizeof(text), "%s %u %u %08x %u %s",
							  id, part, parts, native_crc,
							  (unsigned int) channel_len, channel);
		memcpy(text + header_len, payload + done, data_len);
		text[header_len + data_len] = '\0';
		done += data_len;
		emit(text, arg);
	}
}

/* Parse a field of digits in the base, ended by one space. */
static bool
parse_number(const char **p, const char *end, uint32 base, int max_digits,
			 uint32 *result)
{
	uint64		value = 0;
	int			digits = 0;

	for (; *p < end && **p != ' '; (*p)++)
	{
		char		c = **p;
		uint32		digit;

		if (c >= '0' && c <= '9')
			digit = c - '0';
		else if (base == 16 && c >= 'a' && c <= 'f')
			digit = c - 'a' + 10;
		else
			return false;
		if (++digits > max_digits)
			return false;
		value = value * base + digit;
	}
	if (digits == 0 || *p == end || value > PG_UINT32_MAX)
		return false;
	(*p)++;
	*result = (uint32) value;
	return true;
}

/* Take a frame apart; false if it is malformed. */
static bool
parse_frame(const char *text, Size len, Frame *frame)
{
	const char *p = text;
	const char *end = text + len;
	uint32		channel_len;

	frame->id = p;
	while (p < end && *p != ' ')
		p++;
	frame->id_len = p - frame->id;
	if (p == end || frame->id_len == 0 || frame->id_len > FRAME_ID_MAX)
		return false;
	p++;

	if (!parse_number(&p, end, 10, 10, &frame->part) ||
		!parse_number(&p, end, 10, 10, &frame->parts) ||
		!parse_number(&p, end, 16, 8, &frame->crc) ||
		!parse_number(&p, end, 10, 2, &channel_len))
		return false;
	if (frame->part == 0 || frame->part > frame->parts ||
		channel_len == 0 || channel_len > PGPUBSUB_CHANNEL_MAX ||
		channel_len > (Size) (end - p))
		return false;
	frame->channel = p;
	frame->channel_len = channel_len;
	frame->data = p + channel_len;
	frame->data_len = end - frame->data;

	/* an event on the reserved channel would be a frame in a frame */
	return !(channel_len == strlen(PGPUBSUB_FRAME_CHANNEL) &&
			 memcmp(frame->channel, PGPUBSUB_FRAME_CHANNEL,
					channel_len) == 0);
}

/* True if the frame is the next part of what is being put together. */
static bool
continues(const FrameAssembly *assembly, int pid, const Frame *frame)
{
	return assembly->active &&
		assembly->pid == pid &&
		assembly->next_part == frame->part &&
		assembly->parts == frame->parts &&
		assembly->native_crc == frame->crc &&
		strlen(assembly->id) == frame->id_len &&
		memcmp(assembly->id, frame->id, frame->id_len) == 0 &&
		strlen(assembly->channel) == frame->channel_len &&
		memcmp(assembly->channel, frame->channel, frame->channel_len) == 0;
}

/* Start to put together the event whose first part this is. */
static void
begin(FrameAssembly *assembly, int pid, const Frame *frame)
{
	assembly->active = true;
	assembly->pid = pid;
	assembly->next_part = 1;
	assembly->parts = frame->parts;
	assembly->native_crc = frame->crc;
	memcpy(assembly->id, frame->id, frame->id_len);
	assembly->id[frame->id_len] = '\0';
	memcpy(assembly->channel, frame->channel, frame->channel_len);
	assembly->channel[frame->channel_len] = '\0';
	assembly->len = 0;
}

/* Append data; false if there is no memory for it. */
static bool
append(FrameAssembly *assembly, const char *data, Size len)
{
	if (assembly->len + len + 1 > assembly->allocated)
	{
		Size		allocated = Max(2 * assembly->allocated, 16384);
		char	   *larger;

		allocated = Max(allocated, assembly->len + len + 1);
		larger = MemoryContextAllocExtended(assembly->context, allocated,
											MCXT_ALLOC_HUGE |
											MCXT_ALLOC_NO_OOM);
		if (larger == NULL)
			return false;
		if (assembly->data)
		{
			memcpy(larger, assembly->data, assembly->len);
			pfree(assembly->data);
		}
		assembly->data = larger;
		assembly->allocated = allocated;
	}
	memcpy(assembly->data + assembly->len, data, len);
	assembly->len += len;
	assembly->data[assembly->len] = '\0';
	return true;
}

/*
 * Take in a notification from the reserved channel, sent by pid: len bytes,
 * not terminated.  max_len bounds the event's payload, in bytes.  What is
 * dropped, be it this frame or the event that it should have continued, is
 * counted in assembly->bad.  Raises nothing: want of memory drops it too.
 */
FrameResult
frame_accept(FrameAssembly *assembly, int pid, const char *text, Size len,
			 Size max_len)
{
	Frame		frame;

	if (!parse_frame(text, len, &frame))
	{
		frame_drop(assembly);
		assembly->bad++;
		return FRAME_BAD;
	}
	if (assembly->active && !continues(assembly, pid, &frame))
	{
		frame_drop(assembly);
		assembly->bad++;
	}
	if (!assembly->active && frame.part == 1)
		begin(assembly, pid, &frame);
	if (!assembly->active || assembly->len + frame.data_len > max_len ||
		!append(assembly, frame.data, frame.data_len))
	{
		frame_drop(assembly);
		assembly->bad++;
		return FRAME_BAD;
	}

	if (assembly->next_part++ < assembly->parts)
		return FRAME_PART;
	assembly->active = false;
	return FRAME_COMPLETE;
}

/*
 * Forget what is being put together.  Keeps the memory for the next one,
 * unless it is large.
 */
void
frame_drop(FrameAssembly *assembly)
{
	assembly->active = false;
	assembly->len = 0;
	if (assembly->data && assembly->allocated > 1024 * 1024)
	{
		pfree(assembly->data);
		assembly->data = NULL;
		assembly->allocated = 0;
	}
}

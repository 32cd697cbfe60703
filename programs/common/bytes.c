/*-------------------------------------------------------------------------
 *
 * bytes.c
 *	  See bytes.h.
 *
 *-------------------------------------------------------------------------
 */
#include "common/bytes.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/*
 * Make room for size more bytes, and return where they are to be written.  The
 * caller then adds to end what it has written there.
 */
char *
bytes_reserve(Bytes *bytes, size_t size)
{
	if (bytes->room - bytes->end < size)
	{
		size_t		length = bytes_length(bytes);

		if (bytes->begin > 0)
		{
			memmove(bytes->data, bytes->data + bytes->begin, length);
			memset(bytes->data + length, 0, bytes->begin);
		}
		bytes->begin = 0;
		bytes->end = length;
		if (bytes->room - length < size)
		{
			size_t		room = bytes->room > 0 ? bytes->room * 2 : 256;
			char	   *data;

			while (room - length < size)
				room *= 2;
			data = memory_get(room);
			if (length > 0)
				memcpy(data, bytes->data, length);
			memory_wipe(bytes->data, bytes->room);
			bytes->data = data;
			bytes->room = room;
		}
	}
	return bytes->data + bytes->end;
}

/* Append length bytes. */
void
bytes_append(Bytes *bytes, const void *data, size_t length)
{
	if (length == 0)
		return;
	memcpy(bytes_reserve(bytes, length), data, length);
	bytes->end += length;
}

/* Append a string with its zero byte. */
void
bytes_append_string(Bytes *bytes, const char *string)
{
	bytes_append(bytes, string, strlen(string) + 1);
}

/* Append one byte. */
void
bytes_append_byte(Bytes *bytes, char byte)
{
	bytes_append(bytes, &byte, 1);
}

/* Append two bytes, the more significant one first. */
void
bytes_append_int16(Bytes *bytes, uint16_t value)
{
	unsigned char raw[2] = {value >> 8, value & 0xFF};

	bytes_append(bytes, raw, sizeof(raw));
}

/* Append four bytes, the most significant one first. */
void
bytes_append_int32(Bytes *bytes, uint32_t value)
{
	unsigned char raw[4] = {value >> 24, value >> 16 & 0xFF, value >> 8 & 0xFF,
	value & 0xFF};

	bytes_append(bytes, raw, sizeof(raw));
}

/* Drop length bytes at the front; memory goes with the last of them. */
void
bytes_consume(Bytes *bytes, size_t length)
{
	if (bytes->begin + length >= bytes->end)
	{
		bytes_free(bytes);
		return;
	}
	memset(bytes->data + bytes->begin, 0, length);
	bytes->begin += length;
}

/* Drop all, and the memory. */
void
bytes_free(Bytes *bytes)
{
	memory_wipe(bytes->data, bytes->room);
	memset(bytes, 0, sizeof(*bytes));
}

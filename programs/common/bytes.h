/*-------------------------------------------------------------------------
 *
 * bytes.h
 *	  A string of bytes that grows at its end and is consumed at its front.
 *
 * The bytes from data + begin to data + end are in use.  A zeroed struct is an
 * empty one, and has no memory.  What it has had is overwritten when it is consumed, or
 * its memory freed, as that may have been a password.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_BYTES_H
#define COMMON_BYTES_H

#include <stddef.h>
#include <stdint.h>

typedef struct Bytes
{
	char	   *data;
	size_t		begin;
	size_t		end;
	size_t		room;
} Bytes;

static inline size_t
bytes_length(const Bytes *bytes)
{
	return bytes->end - bytes->begin;
}

extern char *bytes_reserve(Bytes *bytes, size_t size);
extern void bytes_append(Bytes *bytes, const void *data, size_t length);
extern void bytes_append_string(Bytes *bytes, const char *string);
extern void bytes_append_byte(Bytes *bytes, char byte);
extern void bytes_append_int16(Bytes *bytes, uint16_t value);
extern void bytes_append_int32(Bytes *bytes, uint32_t value);
extern void bytes_consume(Bytes *bytes, size_t length);
extern void bytes_free(Bytes *bytes);

#endif

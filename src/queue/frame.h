/*-------------------------------------------------------------------------
 *
 * frame.h
 *	  Events that a single NOTIFY cannot carry, in parts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_FRAME_H
#define PGPUBSUB_FRAME_H

#include "base/pgpubsub.h"

/* The longest id of an event, in bytes. */
#define FRAME_ID_MAX	63

/* Called for each part, in order, with the text to NOTIFY. */
typedef void (*FrameEmit) (const char *text, void *arg);

/*
 * An event being put together; its size is bounded by max_len.  Start with
 * zeroes and a context that lives as long.
 */
typedef struct FrameAssembly
{
	MemoryContext context;
	bool		active;			/* waiting for part next_part */
	int			pid;
	uint32		next_part;
	uint32		parts;
	uint32		native_crc;		/* of the native notification's payload */
	char		id[FRAME_ID_MAX + 1];
	char		channel[NAMEDATALEN];
	char	   *data;
	Size		len;
	Size		allocated;
	uint64		bad;			/* frames and unfinished events dropped */
} FrameAssembly;

typedef enum FrameResult
{
	FRAME_BAD,					/* dropped */
	FRAME_PART,					/* more to come */
	FRAME_COMPLETE				/* channel, data, len, native_crc are valid */
} FrameResult;

extern uint32 frame_crc(const char *payload, Size len);
extern void frame_split(const char *id, const char *channel,
						const char *payload, Size len, uint32 native_crc,
						FrameEmit emit, void *arg);
extern FrameResult frame_accept(FrameAssembly *assembly, int pid,
								const char *text, Size len, Size max_len);
extern void frame_drop(FrameAssembly *assembly);

#endif							/* PGPUBSUB_FRAME_H */

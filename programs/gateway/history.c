/*-------------------------------------------------------------------------
 *
 * history.c
 *	  See history.h.
 *
 * 1. The entries are an endless array of which a ring keeps those from first to
 *	  end; their seqs never fall.
 *
 * 2. What a client asks for that has seen all up to a seq can be told from here
 *	  alone if nothing of its channels can be missing behind that seq: it is not
 *	  below `whole`, which is the seq of the last entry that went, or of the last
 *	  gap.  Since when a channel's events are here at all, the channel knows.
 *
 * 3. After the subscription was made anew nobody knows what is missing, until a
 *	  mark comes (marks.c): all behind it is here.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/history.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "gateway/limits.h"

/* What an entry takes beside its piece and its channel's name, in bytes. */
#define ENTRY_BYTES (sizeof(Entry) + sizeof(Piece) + 32)

typedef struct History
{
	Entry	   *entries;		/* a ring of room */
	uint64_t	first;			/* numbers */
	uint64_t	end;			/* of the next one */
	uint64_t	room;			/* a power of two */
	int64_t		bytes;
	int64_t		whole;			/* see 2.; INT64_MAX: see 3. */
} History;

static History history = {.first = 1,.end = 1,.whole = INT64_MAX};

/* Where the entry of that number is kept. */
static Entry *
slot(uint64_t number)
{
	return &history.entries[number & (history.room - 1)];
}

/* What the entry counts for, in bytes. */
static int64_t
entry_bytes(const Entry *entry)
{
	return ENTRY_BYTES + (entry->piece == NULL ? 0 : entry->piece->length) +
		(entry->channel == NULL ? 0 : strlen(entry->channel));
}

/* Put an entry at the end; its memory is the history's from now on. */
static uint64_t
add(const Entry *entry)
{
	if (history.end - history.first == history.room)
	{
		uint64_t	room = history.room > 0 ? history.room * 2 : 64;
		Entry	   *entries = memory_get(room * sizeof(Entry));

		for (uint64_t i = history.first; i < history.end; i++)
			entries[i & (room - 1)] = *slot(i);
		free(history.entries);
		history.entries = entries;
		history.room = room;
	}
	*slot(history.end) = *entry;
	history.bytes += entry_bytes(entry);
	return history.end++;
}

/* Add a string without its end. */
static void
add_text(Bytes *text, const char *string)
{
	bytes_append(text, string, strlen(string));
}

/*
 * The event's type is its channel's name, so that decodeURIComponent() gives the
 * name: what ends a line is encoded, and so is the first letter of what an
 * EventSource, or the gateway, uses as a type of its own.
 */
static void
add_type(Bytes *text, const char *channel)
{
	static const char *const taken[] = {"gap", "error", "open"};
	char		code[4];
	bool		encode = false;

	for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
	{
		if (strcmp(channel, taken[i]) == 0)
			encode = true;
	}
	add_text(text, "event: ");
	for (const char *at = channel; *at != '\0'; at++)
	{
		if (*at == '%' || *at == '\r' || *at == '\n' || (encode && at == channel))
		{
			snprintf(code, sizeof(code), "%%%02X", (unsigned char) *at);
			add_text(text, code);
		}
		else
			bytes_append_byte(text, *at);
	}
	add_text(text, "\n");
}

/* The payload, a field for each of its lines, which end with CR, LF, or both. */
static void
add_data(Bytes *text, const char *payload)
{
	for (;;)
	{
		size_t		length = strcspn(payload, "\r\n");

		add_text(text, "data: ");
		bytes_append(text, payload, length);
		add_text(text, "\n");
		payload += length;
		if (*payload == '\0')
			return;
		payload += payload[0] == '\r' && payload[1] == '\n' ? 2 : 1;
	}
}

/* An event as it is sent, with one reference. */
Piece *
event_piece_make(int64_t seq, const char *channel, const char *payload)
{
	Bytes		text = {0};
	Piece	   *piece;
	char		id[40];

	add_type(&text, channel);
	add_data(&text, payload);
	snprintf(id, sizeof(id), "id: %" PRId64 "\n\n", seq);
	add_text(&text, id);
	piece = piece_make(bytes_length(&text));
	memcpy(piece->data, text.data + text.begin, bytes_length(&text));
	bytes_free(&text);
	return piece;
}

/* Add an event; returns its number. */
uint64_t
history_add_event(int64_t seq, const char *channel, const char *payload)
{
	Entry		entry = {.seq = seq};

	entry.channel = memory_copy_string(channel);
	entry.piece = event_piece_make(seq, channel, payload);
	return add(&entry);
}

/*
 * Add a gap of so many events, -1 if nobody knows.  whole: all behind the seq is
 * there; else that is so behind the next mark only.
 */
uint64_t
history_add_gap(int64_t seq, int64_t lost, bool whole)
{
	Entry		entry = {.seq = seq,.lost = lost};

	history.whole = whole ? seq : INT64_MAX;
	return add(&entry);
}

/* The number of the first entry that may stay, so that those fit; 0: all may. */
uint64_t
history_excess(void)
{
	int64_t		bytes = history.bytes;
	uint64_t	number = history.first;

	if (bytes <= limits.history)
		return 0;
	while (bytes > limits.history && number < history.end)
		bytes -= entry_bytes(slot(number++));
	return number;
}

/* Let the entries before that number go. */
void
history_forget(uint64_t upto)
{
	for (; history.first < upto; history.first++)
	{
		Entry	   *entry = slot(history.first);

		if (history.whole < entry->seq)
			history.whole = entry->seq;
		history.bytes -= entry_bytes(entry);
		if (entry->piece != NULL)
			piece_release(entry->piece);
		free(entry->channel);
	}
}

/* The entry of that number, which is there. */
const Entry *
history_entry(uint64_t number)
{
	return slot(number);
}

/* The number of the next entry. */
uint64_t
history_end(void)
{
	return history.end;
}

/* The number of the first entry with a higher seq, or that of the next one. */
uint64_t
history_after(int64_t seq)
{
	uint64_t	low = history.first;
	uint64_t	high = history.end;

	while (low < high)
	{
		uint64_t	middle = low + (high - low) / 2;

		if (slot(middle)->seq > seq)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Is all here that came behind the seq on channels that were subscribed to? */
bool
history_reaches(int64_t seq)
{
	return seq >= history.whole;
}

/* A mark has come: all that comes behind it will be here. */
void
history_mark(int64_t seq)
{
	if (history.whole == INT64_MAX)
		history.whole = seq;
}

/* What it takes, in bytes. */
int64_t
history_bytes(void)
{
	return history.bytes;
}

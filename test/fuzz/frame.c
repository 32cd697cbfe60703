/*-------------------------------------------------------------------------
 *
 * frame.c
 *	  A libFuzzer harness for src/frame.c; scripts/fuzz builds and runs it.
 *
 * An input is a script of steps, read byte by byte; when it has ended, zeroes
 * are read.  The first byte chooses one of two tests:
 *
 * 1. One event: text in some encoding is split, and its parts are put
 *	  together.  Each part fits into a NOTIFY and is valid text, no part but
 *	  the last has much room left, and what comes out is what went in.  With
 *	  a limit of one byte less, nothing comes out.
 *
 * 2. Many notifications, honest ones and forged ones, from several processes,
 *	  with other notifications in between, a limit that changes, and memory
 *	  that cannot be had now and then.  After each of them, a plain model that
 *	  looks back at all that was sent says what must have come of it: an event
 *	  is complete if, and only if, its parts were the last notifications, in
 *	  order, from one process, with one header, within the limit; and nothing
 *	  else is ever held.
 *
 * Only frame.h's interface is used.  Each frame lies at the end of a piece of
 * memory of its own, so that the sanitizer sees a byte read beyond it.  What
 * src/frame.c needs of the server stands below; encodings and CRC come from
 * the server's static libraries.
 *
 *-------------------------------------------------------------------------
 */
#include "queue/frame.h"

#include <stdlib.h>

#include "mb/pg_wchar.h"

/* The longest text of test 1, and the limits that test 2 takes, in bytes. */
#define MAX_TEXT		100000
#define MAX_LIMIT		40000

/* Notifications of one input, at most. */
#define MAX_SENT		200

/* No part but the last is shorter, header included. */
#define MIN_FULL_PART	7900

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			failed(#condition, __LINE__); \
	} while (0)

extern int	LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
extern int	LLVMFuzzerInitialize(int *argc, char ***argv);

/* Say what does not hold, and have libFuzzer keep the input. */
static void
failed(const char *condition, int line)
{
	/* the server's headers have fprintf() be one of their own */
#undef fprintf
	fprintf(stderr, "test/fuzz/frame.c:%d: does not hold: %s\n", line,
			condition);
	abort();
}

/* ----------------------------------------------------------------------
 * What src/frame.c needs of the server
 * ----------------------------------------------------------------------
 */

static int	encoding = PG_UTF8;

/* Allocations that succeed before one fails; negative: none fails. */
static int	allocations_left = -1;
static bool allocation_failed = false;

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	CHECK(flags & MCXT_ALLOC_NO_OOM);
	if (allocations_left == 0)
	{
		allocation_failed = true;
		return NULL;
	}
	if (allocations_left > 0)
		allocations_left--;
	return malloc(size);
}

void
pfree(void *pointer)
{
	CHECK(pointer != NULL);
	free(pointer);
}

int
GetDatabaseEncoding(void)
{
	return encoding;
}

int
pg_database_encoding_max_length(void)
{
	return pg_encoding_max_length(encoding);
}

int
pg_mblen(const char *text)
{
	return pg_encoding_mblen(encoding, text);
}

int
pg_encoding_mbcliplen(int enc, const char *text, int len, int limit)
{
	int			clip = 0;

	while (clip < len && text[clip])
	{
		int			next = clip + pg_encoding_mblen(enc, text + clip);

		if (next > limit || next > len)
			break;
		clip = next;
	}
	return clip;
}

int
pg_mbcliplen(const char *text, int len, int limit)
{
	return pg_encoding_mbcliplen(encoding, text, len, limit);
}

/* ----------------------------------------------------------------------
 * The input
 * ----------------------------------------------------------------------
 */

typedef struct Input
{
	const uint8_t *next;
	const uint8_t *end;
} Input;

static int
next_byte(Input *input)
{
	return input->next < input->end ? *input->next++ : 0;
}

static int
next_short(Input *input)
{
	int			high = next_byte(input);

	return high << 8 | next_byte(input);
}

static uint32
next_word(Input *input)
{
	uint32		high = next_short(input);

	return high << 16 | (uint32) next_short(input);
}

/* A byte that is not zero: no notification has one in it. */
static char
next_char(Input *input)
{
	int			byte = next_byte(input);

	return (char) (byte == 0 ? 1 : byte);
}

/*
 * Read len bytes and make them text in the encoding: what is not valid, and
 * what no text has, becomes a dot.  text has room for len + 1 bytes.
 */
static void
next_text(Input *input, char *text, int len)
{
	int			at = 0;

	for (int i = 0; i < len; i++)
		text[i] = next_byte(input);
	text[len] = '\0';
	while (at < len)
	{
		int			valid = text[at] == '\0' ? -1 :
			pg_encoding_verifymbchar(encoding, text + at, len - at);

		if (valid < 1)
		{
			text[at] = '.';
			valid = 1;
		}
		at += valid;
	}
}

/* Choose the encoding of texts. */
static void
next_encoding(Input *input)
{
	static const int encodings[] =
	{PG_UTF8, PG_SQL_ASCII, PG_LATIN1, PG_EUC_JP, PG_EUC_TW, PG_MULE_INTERNAL};

	encoding = encodings[next_byte(input) % lengthof(encodings)];
}

/* ----------------------------------------------------------------------
 * An event, and the parts that frame_split() makes of it
 * ----------------------------------------------------------------------
 */

typedef struct Part
{
	char	   *text;
	Size		len;
} Part;

typedef struct Event
{
	char		id[FRAME_ID_MAX + 1];
	char		channel[PGPUBSUB_CHANNEL_MAX + 1];
	char	   *payload;
	Size		len;
	uint32		crc;
	Part	   *parts;
	int			nparts;
} Event;

/* An id of the event; it has no space. */
static void
next_id(Input *input, char *id)
{
	next_text(input, id, 1 + next_byte(input) % FRAME_ID_MAX);
	for (char *p = id; *p; p++)
		if (*p == ' ')
			*p = '_';
}

/* A name of a channel, which is not the reserved one. */
static void
next_channel(Input *input, char *channel)
{
	next_text(input, channel, 1 + next_byte(input) % PGPUBSUB_CHANNEL_MAX);
	if (strcmp(channel, PGPUBSUB_FRAME_CHANNEL) == 0)
		channel[0] = 'P';
}

/*
 * A payload of up to max bytes: pieces of the input, each repeated, so that
 * a short input makes a long text.
 */
static void
next_payload(Input *input, Event *event, Size max)
{
	char		piece[256];

	event->payload = malloc(max + 1);
	event->len = 0;
	while (event->len < max)
	{
		int			len = next_byte(input);
		int			times = next_short(input);

		if (len == 0)
			break;
		next_text(input, piece, len);
		for (int i = 0; i <= times && event->len + len <= max; i++)
		{
			memcpy(event->payload + event->len, piece, len);
			event->len += len;
		}
		if (input->next >= input->end)
			break;
	}

	/* no byte of it, nor the one behind it, is anybody else's */
	event->payload = realloc(event->payload, event->len + 1);
	event->payload[event->len] = '\0';
}

/* Take over one part: a FrameEmit. */
static void
keep_part(const char *text, void *arg)
{
	Event	   *event = arg;
	Part	   *part;

	event->parts = realloc(event->parts, (event->nparts + 1) * sizeof(Part));
	part = &event->parts[event->nparts++];
	part->len = strlen(text);
	part->text = malloc(part->len);
	memcpy(part->text, text, part->len);
}

/* Split the event, and check its parts. */
static void
split_event(Event *event)
{
	event->parts = NULL;
	event->nparts = 0;
	frame_split(event->id, event->channel, event->payload, event->len,
				event->crc, keep_part, event);
	CHECK(event->nparts > 0);
	for (int i = 0; i < event->nparts; i++)
	{
		const Part *part = &event->parts[i];

		CHECK(part->len > 0);
		CHECK(part->len <= PGPUBSUB_NATIVE_MAX);
		CHECK(i == event->nparts - 1 || part->len >= MIN_FULL_PART);
		CHECK(pg_encoding_verifymbstr(encoding, part->text,
									  (int) part->len) == (int) part->len);
	}
}

static void
free_event(Event *event)
{
	for (int i = 0; i < event->nparts; i++)
		free(event->parts[i].text);
	free(event->parts);
	free(event->payload);
}

/* Nothing is left of an assembly. */
static void
free_assembly(FrameAssembly *assembly)
{
	allocations_left = -1;
	frame_drop(assembly);
	free(assembly->data);
}

/* What holds for an assembly at any time. */
static void
check_assembly(const FrameAssembly *assembly, Size max_len)
{
	CHECK(!assembly->active || assembly->len <= max_len);
	CHECK(assembly->len < assembly->allocated || assembly->len == 0);
	CHECK(assembly->allocated <= 2 * Max(max_len + 1, 16384));
	CHECK((assembly->data == NULL) == (assembly->allocated == 0));
}

/* Test 1. */
static void
test_event(Input *input)
{
	FrameAssembly assembly = {0};
	Event		event;
	uint64		bad = 0;

	next_encoding(input);
	next_id(input, event.id);
	next_channel(input, event.channel);
	event.crc = next_word(input);
	next_payload(input, &event, MAX_TEXT);
	split_event(&event);

	for (int i = 0; i < event.nparts; i++)
	{
		FrameResult result = frame_accept(&assembly, 1, event.parts[i].text,
										  event.parts[i].len, event.len);

		check_assembly(&assembly, event.len);
		CHECK(result == (i < event.nparts - 1 ? FRAME_PART : FRAME_COMPLETE));
	}
	CHECK(assembly.bad == 0);
	CHECK(assembly.len == event.len);
	CHECK(memcmp(assembly.data, event.payload, event.len) == 0);
	CHECK(assembly.native_crc == event.crc);
	CHECK(strcmp(assembly.channel, event.channel) == 0);
	CHECK(strcmp(assembly.id, event.id) == 0);
	frame_drop(&assembly);

	/* a limit that it exceeds */
	for (int i = 0; event.len > 0 && i < event.nparts; i++)
	{
		CHECK(frame_accept(&assembly, 1, event.parts[i].text,
						   event.parts[i].len,
						   event.len - 1) != FRAME_COMPLETE);
		check_assembly(&assembly, event.len - 1);
		CHECK(assembly.bad >= bad);
		bad = assembly.bad;
	}
	CHECK(event.len == 0 || bad > 0);
	free_assembly(&assembly);
	free_event(&event);
}

/* ----------------------------------------------------------------------
 * Test 2: what was sent, and what must have come of it
 * ----------------------------------------------------------------------
 */

/* A notification, or something that ends what is being put together. */
typedef struct Sent
{
	char	   *text;			/* len bytes; NULL: no frame */
	Size		len;
	int			pid;
	Size		limit;
	bool		no_memory;		/* and it was dropped for that */

	/* of a frame that is well-formed */
	bool		good;
	uint32		part;
	uint32		parts;
	Size		header;			/* bytes before the data */
	Size		id_len;
} Sent;

/*
 * A number of up to max digits and the space behind it, at text + *at.  As
 * the format says, and not as src/frame.c reads it.
 */
static bool
read_number(const Sent *sent, Size *at, const char *alphabet, size_t max,
			unsigned long long *value)
{
	char		digits[16];
	size_t		n = 0;

	while (*at + n < sent->len && n < max && sent->text[*at + n] &&
		   strchr(alphabet, sent->text[*at + n]))
		n++;
	if (n == 0 || *at + n >= sent->len || sent->text[*at + n] != ' ')
		return false;
	memcpy(digits, sent->text + *at, n);
	digits[n] = '\0';
	*value = strtoull(digits, NULL, alphabet[10] ? 16 : 10);
	*at += n + 1;
	return *value <= PG_UINT32_MAX;
}

/* Is it a frame as the format says, and what does it say of itself? */
static bool
read_frame(Sent *sent)
{
	const char *space = memchr(sent->text, ' ', sent->len);
	unsigned long long part,
				parts,
				crc,
				channel_len;
	Size		at;

	if (space == NULL || space == sent->text ||
		space - sent->text > FRAME_ID_MAX)
		return false;
	sent->id_len = space - sent->text;
	at = sent->id_len + 1;
	if (!read_number(sent, &at, "0123456789", 10, &part))
		return false;
	if (!read_number(sent, &at, "0123456789", 10, &parts) ||
		!read_number(sent, &at, "0123456789abcdef", 8, &crc) ||
		!read_number(sent, &at, "0123456789", 2, &channel_len))
		return false;
	sent->part = (uint32) part;
	sent->parts = (uint32) parts;
	sent->header = at + channel_len;
	return part >= 1 && part <= parts &&
		channel_len >= 1 && channel_len <= PGPUBSUB_CHANNEL_MAX &&
		sent->header <= sent->len &&
		!(channel_len == strlen(PGPUBSUB_FRAME_CHANNEL) &&
		  memcmp(sent->text + at, PGPUBSUB_FRAME_CHANNEL, channel_len) == 0);
}

/* The fields of a header that all parts of an event share. */
static void
shared_fields(const Sent *sent, unsigned long long *parts,
			  unsigned long long *crc, const char **channel, Size *channel_len)
{
	unsigned long long value;
	Size		at = sent->id_len + 1;

	CHECK(read_number(sent, &at, "0123456789", 10, &value));
	CHECK(read_number(sent, &at, "0123456789", 10, parts));
	CHECK(read_number(sent, &at, "0123456789abcdef", 8, crc));
	CHECK(read_number(sent, &at, "0123456789", 2, &value));
	*channel = sent->text + at;
	*channel_len = (Size) value;
}

/* Are they parts of one event? */
static bool
same_event(const Sent *a, const Sent *b)
{
	unsigned long long parts_a,
				parts_b,
				crc_a,
				crc_b;
	const char *channel_a,
			   *channel_b;
	Size		len_a,
				len_b;

	shared_fields(a, &parts_a, &crc_a, &channel_a, &len_a);
	shared_fields(b, &parts_b, &crc_b, &channel_b, &len_b);
	return a->pid == b->pid && a->id_len == b->id_len &&
		memcmp(a->text, b->text, a->id_len) == 0 &&
		parts_a == parts_b && crc_a == crc_b &&
		len_a == len_b && memcmp(channel_a, channel_b, len_a) == 0;
}

/*
 * How many notifications before the last one, inclusive, are the first parts
 * of one event: 0 if the last one is none, or continues nothing.  *len is
 * what data they have.
 */
static uint32
parts_held(const Sent *sent, int nsent, Size *len)
{
	const Sent *last = &sent[nsent - 1];

	*len = 0;
	if (!last->good || last->part > (uint32) nsent)
		return 0;
	for (uint32 i = 0; i < last->part; i++)
	{
		const Sent *part = &sent[nsent - last->part + i];

		if (!part->good || part->no_memory || part->part != i + 1 ||
			!same_event(part, last))
			return 0;
		*len += part->len - part->header;
		if (*len > part->limit)
			return 0;
	}
	return last->part;
}

/* Send a notification, and look at what came of it. */
static void
notify(FrameAssembly *assembly, Sent *sent, int *nsent, const char *text,
	   Size len, int pid, Size limit)
{
	Sent	   *last = &sent[(*nsent)++];
	uint64		bad = assembly->bad;
	bool		was_active = assembly->active;
	FrameResult result;
	uint64		expected_bad;
	uint32		held;
	Size		held_len;

	memset(last, 0, sizeof(Sent));
	last->text = malloc(len > 0 ? len : 1);
	memcpy(last->text, text, len);
	last->len = len;
	last->pid = pid;
	last->limit = limit;
	last->good = read_frame(last);

	allocation_failed = false;
	result = frame_accept(assembly, pid, last->text, len, limit);
	last->no_memory = allocation_failed;

	held = parts_held(sent, *nsent, &held_len);
	check_assembly(assembly, limit);
	CHECK(result == (held == 0 ? FRAME_BAD :
					 held < last->parts ? FRAME_PART : FRAME_COMPLETE));
	CHECK(assembly->active == (result == FRAME_PART));

	/* counted: a bad frame, and an event that was not ended */
	expected_bad = result == FRAME_BAD ? 1 : 0;
	if (was_active && last->good &&
		!(last->part == last[-1].part + 1 && same_event(last, &last[-1])))
		expected_bad++;
	CHECK(assembly->bad - bad == expected_bad);
	if (held == 0)
		return;

	CHECK(assembly->len == held_len);
	for (uint32 i = 0, at = 0; i < held; i++)
	{
		const Sent *part = &sent[*nsent - held + i];

		CHECK(memcmp(assembly->data + at, part->text + part->header,
					 part->len - part->header) == 0);
		at += part->len - part->header;
	}
	if (result == FRAME_COMPLETE)
	{
		unsigned long long parts,
					crc;
		const char *channel;
		Size		channel_len;

		shared_fields(last, &parts, &crc, &channel, &channel_len);
		CHECK(assembly->native_crc == crc);
		CHECK(strlen(assembly->channel) == channel_len);
		CHECK(memcmp(assembly->channel, channel, channel_len) == 0);
		CHECK(strlen(assembly->id) == last->id_len);
		CHECK(memcmp(assembly->id, last->text, last->id_len) == 0);
		CHECK(assembly->data[assembly->len] == '\0');
	}
}

/* A number, often one at which something ends. */
static unsigned long long
next_number(Input *input)
{
	static const unsigned long long borders[] =
	{0, 1, 2, 3, 0x7fffffff, PG_UINT32_MAX, 0x100000000, 0x100000001,
	9999999999, 10000000000};
	int			which = next_byte(input);

	if (which < 128)
		return borders[which % lengthof(borders)];
	return which < 192 ? (unsigned long long) next_byte(input) :
		(unsigned long long) next_word(input);
}

/* A header of the input's choosing; most of its fields are plausible. */
static Size
forge_frame(Input *input, char *text, Size size)
{
	static const char longest[] =
	"iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii";
	const char *const ids[] = {"a", "743-1", "", "a b", longest, longest + 1};
	const char *const channels[] =
	{"c", PGPUBSUB_FRAME_CHANNEL, "with space", longest, longest + 1};
	const char *id = ids[next_byte(input) % lengthof(ids)];
	const char *channel = channels[next_byte(input) % lengthof(channels)];
	int			how = next_byte(input);
	unsigned long long part = next_number(input);
	unsigned long long parts = next_number(input);
	Size		channel_len = how & 1 ? (Size) next_byte(input) :
		strlen(channel);
	Size		len = how & 2 ? next_short(input) : next_byte(input);
	int			header;

	StaticAssertStmt(sizeof(longest) == FRAME_ID_MAX + 2,
					 "longest is too long by one byte");
	header = snprintf(text, size, how & 4 ? "%s %08llu %010llu %x %02zu %s" :
					  "%s %llu %llu %08x %zu %s", id, part, parts,
					  how & 8 ? next_word(input) : 0, channel_len, channel);
	len %= size - header;
	memset(text + header, 'd', len);
	return header + len;
}

/* Change, drop or add some bytes of a frame, most of them in its header. */
static Size
damage_frame(Input *input, char *text, Size len, Size size)
{
	for (int n = next_byte(input) % 4; n >= 0; n--)
	{
		int			how = next_byte(input);
		Size		at = (how & 1 ? next_short(input) :
						  next_byte(input) % 64) % (len + 1);

		if ((how & 6) == 0 && len > 0)
			len = at;
		else if ((how & 6) == 2 && at < len)
		{
			memmove(text + at, text + at + 1, len - at - 1);
			len--;
		}
		else if ((how & 6) == 4 && len < size)
		{
			memmove(text + at + 1, text + at, len - at);
			text[at] = next_char(input);
			len++;
		}
		else if (at < len)
			text[at] = next_char(input);
	}
	return len;
}

/* Test 2. */
static void
test_notifications(Input *input)
{
	FrameAssembly assembly = {0};
	Event		events[5];
	int			next_part[lengthof(events)] = {0};
	Sent	   *sent = malloc(MAX_SENT * sizeof(Sent));
	char		text[PGPUBSUB_NATIVE_MAX + 1];
	int			nsent = 0;
	Size		limit = MAX_LIMIT;

	next_encoding(input);
	for (int i = 0; i < (int) lengthof(events); i++)
	{
		/* they differ in one field from the first, or in their length */
		strcpy(events[i].id, i == 3 ? "743-11" : "743-1");
		strcpy(events[i].channel, i == 2 ? "order" : "orders");
		events[i].crc = i == 1 ? 1 : 0;
		next_payload(input, &events[i], MAX_LIMIT);
		split_event(&events[i]);
	}
	while (input->next < input->end && nsent < MAX_SENT)
	{
		int			step = next_byte(input);
		int			pid = 1 + (step >> 6 & 1);
		int			which = ((step >> 4 & 3) | (step >> 5 & 4)) %
			(int) lengthof(events);
		Event	   *event = &events[which];
		Part	   *part = &event->parts[next_part[which] % event->nparts];
		Size		len = part->len;

		memcpy(text, part->text, len);
		switch (step & 15)
		{
			default:			/* the next part of an event */
				next_part[which]++;
				break;
			case 7:				/* one that is not the next */
				next_part[which] = next_byte(input);
				continue;
			case 8:
				next_part[which] = 0;
				continue;
			case 9:
				len = damage_frame(input, text, len, PGPUBSUB_NATIVE_MAX);
				next_part[which]++;
				break;
			case 10:
				len = forge_frame(input, text, sizeof(text));
				break;
			case 11:			/* anything */
				len = next_short(input) % sizeof(text);
				len = Min(len, (Size) (input->end - input->next));
				for (Size i = 0; i < len; i++)
					text[i] = next_char(input);
				break;
			case 12:			/* a native notification */
				frame_drop(&assembly);
				CHECK(!assembly.active);
				check_assembly(&assembly, limit);
				memset(&sent[nsent++], 0, sizeof(Sent));
				continue;
			case 13:			/* the setting changes */
				limit = next_short(input) % MAX_LIMIT;
				frame_drop(&assembly);
				memset(&sent[nsent++], 0, sizeof(Sent));
				free(assembly.data);
				assembly.data = NULL;
				assembly.allocated = 0;
				continue;
			case 14:
				allocations_left = next_byte(input) % 3;
				continue;
			case 15:
				allocations_left = -1;
				continue;
		}
		notify(&assembly, sent, &nsent, text, len, pid, limit);
	}

	/* whatever went before: an event that is sent is received */
	allocations_left = -1;
	if (nsent + events[0].nparts <= MAX_SENT && limit >= events[0].len)
	{
		for (int i = 0; i < events[0].nparts; i++)
			notify(&assembly, sent, &nsent, events[0].parts[i].text,
				   events[0].parts[i].len, 3, limit);
		CHECK(assembly.len == events[0].len && !assembly.active);
	}

	free_assembly(&assembly);
	for (int i = 0; i < nsent; i++)
		free(sent[i].text);
	free(sent);
	for (int i = 0; i < (int) lengthof(events); i++)
		free_event(&events[i]);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	Input		input = {data, data + size};

	allocations_left = -1;
	if (next_byte(&input) % 2 == 0)
		test_event(&input);
	else
		test_notifications(&input);
	return 0;
}

/* ----------------------------------------------------------------------
 * Inputs to start from
 * ----------------------------------------------------------------------
 */

/* Write a notification as a step of test 2. */
static void
write_step(const char *text, void *arg)
{
	size_t		len = strlen(text);
	unsigned char head[3] = {11, (unsigned char) (len >> 8),
	(unsigned char) len};

	if (fwrite(head, sizeof(head), 1, arg) != 1 ||
		fwrite(text, len, 1, arg) != 1)
		abort();
}

/* Create a file for an input. */
static FILE *
open_seed(const char *directory, int number)
{
	char		path[1024];
	FILE	   *file;

	snprintf(path, sizeof(path), "%s/frames%d", directory, number);
	file = fopen(path, "wb");
	if (file == NULL)
		abort();
	return file;
}

/*
 * Write frames that frame_split() made to files in the directory that
 * FRAME_SEEDS names, as inputs to start from: one per length of payload, and
 * one where the parts of events that are much alike are mixed.
 */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const int lengths[] = {0, 10, 7900, 7999, 8000, 16000};
	static const unsigned char no_events[17] = {1};

	/* the first part of an event, then the second one of another */
	static const unsigned char mixed[] =
	{0x08, 0x00, 0x17, 1, 0x10, 0x08, 0x00, 0x27, 1, 0x20, 0x08, 0x00, 0x37, 1,
	0x30, 0x08, 0x00, 0x87, 1, 0x80, 0x08, 0x00, 0x07, 1, 0x40, 0x08, 0x00, 0x00};
	const char *directory = getenv("FRAME_SEEDS");
	char	   *payload = calloc(16001, 1);

	for (int i = 0; directory && i < (int) lengthof(lengths); i++)
	{
		FILE	   *out = open_seed(directory, lengths[i]);

		if (fwrite(no_events, sizeof(no_events), 1, out) != 1)
			abort();
		memset(payload, i % 2 ? 'x' : 0xc3, lengths[i]);
		for (int j = 1; i % 2 == 0 && j < lengths[i]; j += 2)
			payload[j] = (char) 0xa9;
		frame_split("743-1", "orders", payload, lengths[i],
					frame_crc("{}", 2), write_step, out);
		fclose(out);
	}
	if (directory)
	{
		FILE	   *out = open_seed(directory, -1);

		fputc(1, out);
		fputc(0, out);
		for (int i = 0; i < 5; i++)
		{
			/* two parts, the last event three */
			fputc(200, out);
			fputc(0, out);
			fputc(i < 4 ? 60 : 100, out);
			fwrite(payload, 200, 1, out);
			fwrite("\0\0", 3, 1, out);
		}
		fwrite(mixed, sizeof(mixed), 1, out);
		if (fclose(out) != 0)
			abort();
	}
	free(payload);
	return 0;
}

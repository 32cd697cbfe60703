/*-------------------------------------------------------------------------
 *
 * steps.c
 *	  The weakly ordered machine of steps.h.
 *
 * All state is the process's own; a process inherits none by fork() because
 * the parent drains its buffer first.
 *
 *-------------------------------------------------------------------------
 */
#include "harness.h"
#include "steps.h"

#ifndef STRESS_STEPS

void
steps_weak_reads(const void *from, const void *to)
{
}

void
steps_shared_memory(const void *from, const void *to)
{
}

/* Let others see all that this process has written. */
void
steps_drain(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

#else

#undef memcpy

/* A write that the others do not see yet. */
typedef struct Pending
{
	char	   *address;
	size_t		len;
	char	   *bytes;			/* malloced, if longer than value */
	uint64		value;
} Pending;

#define MAX_PENDING 32

static Pending pending[MAX_PENDING];
static int	npending = 0;

/* Words that were read, and a value that they may still be read with. */
typedef struct Seen
{
	const volatile uint64 *address;
	uint64		value;
} Seen;

#define MAX_SEEN 64

static Seen seen[MAX_SEEN];

static const char *weak_from;
static const char *weak_to;
static const char *shared_from;
static const char *shared_to;

/* The words whose reads may be old; others that were may be unmapped by now. */
void
steps_weak_reads(const void *from, const void *to)
{
	weak_from = from;
	weak_to = to;
	memset(seen, 0, sizeof(seen));
}

/* Copies into this memory may be late. */
void
steps_shared_memory(const void *from, const void *to)
{
	shared_from = from;
	shared_to = to;
}

/* Write the i-th pending entry to memory. */
static void
write_out(int i)
{
	Pending    *entry = &pending[i];

	if (entry->bytes)
	{
		stress_copy_in_pieces(entry->address, entry->bytes, entry->len);
		free(entry->bytes);
	}
	else if (entry->len == sizeof(uint64))
		__atomic_store_n((uint64 *) entry->address, entry->value,
						 __ATOMIC_SEQ_CST);
	else
		__atomic_store_n((uint32 *) entry->address, (uint32) entry->value,
						 __ATOMIC_SEQ_CST);
	npending--;
	memmove(entry, entry + 1, (npending - i) * sizeof(Pending));
}

/* Write out any entry that no older one of the same bytes precedes. */
static void
write_out_any(void)
{
	int			i = stress_random(npending);

	for (int j = 0; j < i; j++)
	{
		if (pending[j].address < pending[i].address + pending[i].len &&
			pending[i].address < pending[j].address + pending[j].len)
		{
			i = j;
			j = -1;
		}
	}
	write_out(i);
}

/* A step: others may go on, and see something of what was written. */
static void
step(void)
{
	stress_pause();
	if (npending > 0 && stress_random(4) == 0)
		write_out_any();
}

static void
write_out_all(void)
{
	while (npending > 0)
	{
		stress_pause();
		write_out_any();
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static Seen *
seen_entry(const volatile void *address)
{
	return &seen[((uintptr_t) address / sizeof(uint64)) % MAX_SEEN];
}

/* The process's own newest write to the word, if it is pending. */
static bool
read_own(const volatile void *address, size_t len, uint64 *value)
{
	for (int i = npending - 1; i >= 0; i--)
	{
		if (pending[i].address == (const char *) address &&
			pending[i].len == len && !pending[i].bytes)
		{
			*value = pending[i].value;
			return true;
		}
	}
	return false;
}

/* What was read before must not be read as older than it is now. */
static void
forget_old_values(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (int i = 0; i < MAX_SEEN; i++)
	{
		if (seen[i].address &&
			!read_own(seen[i].address, sizeof(uint64), &seen[i].value))
			seen[i].value = __atomic_load_n(seen[i].address,
											__ATOMIC_SEQ_CST);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void
add_pending(void *address, size_t len, uint64 value, char *bytes)
{
	if (npending == MAX_PENDING)
		write_out_any();
	pending[npending].address = address;
	pending[npending].len = len;
	pending[npending].value = value;
	pending[npending].bytes = bytes;
	npending++;
}

uint64
step_read(const volatile uint64 *address)
{
	Seen	   *entry = seen_entry(address);
	uint64		value;

	step();
	if (read_own(address, sizeof(uint64), &value))
		return value;
	if ((const char *) address < weak_from || (const char *) address >= weak_to)
		return __atomic_load_n(address, __ATOMIC_SEQ_CST);
	if (entry->address != address || stress_random(2) == 0)
	{
		entry->value = __atomic_load_n(address, __ATOMIC_SEQ_CST);
		entry->address = address;
	}
	return entry->value;
}

uint32
step_read_u32(const volatile uint32 *address)
{
	uint64		value;

	step();
	if (read_own(address, sizeof(uint32), &value))
		return (uint32) value;
	return __atomic_load_n(address, __ATOMIC_SEQ_CST);
}

void
step_write(volatile uint64 *address, uint64 value)
{
	Seen	   *entry = seen_entry(address);

	step();
	if (entry->address == address)
		entry->value = value;
	add_pending((void *) address, sizeof(uint64), value, NULL);
	step();
}

void
step_write_u32(volatile uint32 *address, uint32 value)
{
	step();
	add_pending((void *) address, sizeof(uint32), value, NULL);
	step();
}

bool
step_exchange(volatile uint64 *address, uint64 *expected, uint64 value)
{
	bool		done;

	step_barrier();
	done = __atomic_compare_exchange_n(address, expected, value, false,
									   __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	step_barrier();
	return done;
}

void
step_copy(void *dst, const void *src, size_t len)
{
	char	   *bytes;

	step();
	if ((char *) dst < shared_from || (char *) dst >= shared_to || len == 0)
	{
		stress_copy_in_pieces(dst, src, len);
		return;
	}
	bytes = malloc(len);
	if (bytes == NULL)
		stress_fail("out of memory");
	memcpy(bytes, src, len);
	add_pending(dst, len, 0, bytes);
	step();
}

void
step_write_barrier(void)
{
	write_out_all();
	stress_pause();
}

void
step_read_barrier(void)
{
	stress_pause();
	forget_old_values();
}

void
step_barrier(void)
{
	write_out_all();
	forget_old_values();
	stress_pause();
}

/* Let others see all that this process has written. */
void
steps_drain(void)
{
	step_barrier();
}

#endif							/* STRESS_STEPS */

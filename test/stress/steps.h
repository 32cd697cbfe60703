/*-------------------------------------------------------------------------
 *
 * steps.h
 *	  Make every step of a lock-free protocol a place where others go first.
 *
 * Included before the source under test is, it replaces what that source
 * synchronizes with: atomic reads and writes, barriers, spinlocks, memcpy.
 * Without STRESS_STEPS nothing is replaced, and the source is what the server
 * has.  With it, two things happen at each step:
 *
 * 1. The process may yield, sleep or spin.
 *
 * 2. Memory is weakly ordered, whatever the machine's is.  An atomic write,
 *	  or a copy into shared memory, goes to a buffer of the process; entries
 *	  leave it in any order, but two for the same bytes in theirs.  A write
 *	  barrier empties the buffer.  An atomic read of what was read before may
 *	  give any value that it has had since the last read barrier, but never an
 *	  older one than the process has seen.  Only words of the range given to
 *	  steps_weak_reads() are read so: other reads are of addresses that were
 *	  just read themselves, and every machine that PostgreSQL runs on orders
 *	  those.  Plain writes are seen by others at once, plain reads see the
 *	  newest; both are allowed by a weak machine, too.
 *
 * So a barrier that is missing is missed here, even on a machine that does
 * not need it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef STRESS_STEPS_H
#define STRESS_STEPS_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/spin.h"

/* What the weak machine does; see steps.c. */
extern void steps_weak_reads(const void *from, const void *to);
extern void steps_shared_memory(const void *from, const void *to);
extern void steps_drain(void);

#ifdef STRESS_STEPS

extern uint64 step_read(const volatile uint64 *address);
extern uint32 step_read_u32(const volatile uint32 *address);
extern void step_write(volatile uint64 *address, uint64 value);
extern void step_write_u32(volatile uint32 *address, uint32 value);
extern bool step_exchange(volatile uint64 *address, uint64 *expected,
						  uint64 value);
extern void step_copy(void *dst, const void *src, size_t len);
extern void step_write_barrier(void);
extern void step_read_barrier(void);
extern void step_barrier(void);

#undef pg_write_barrier
#undef pg_read_barrier
#undef pg_memory_barrier
#undef SpinLockAcquire
#undef SpinLockRelease

#define pg_write_barrier() step_write_barrier()
#define pg_read_barrier() step_read_barrier()
#define pg_memory_barrier() step_barrier()
#define pg_atomic_read_u64(p) step_read(&(p)->value)
#define pg_atomic_write_u64(p, v) step_write(&(p)->value, v)
#define pg_atomic_init_u64(p, v) step_write(&(p)->value, v)
#define pg_atomic_read_u32(p) step_read_u32(&(p)->value)
#define pg_atomic_write_u32(p, v) step_write_u32(&(p)->value, v)
#define pg_atomic_init_u32(p, v) step_write_u32(&(p)->value, v)
#define pg_atomic_compare_exchange_u64(p, e, v) \
	step_exchange(&(p)->value, e, v)
#define SpinLockAcquire(lock) do { S_LOCK(lock); step_barrier(); } while (0)
#define SpinLockRelease(lock) do { step_barrier(); S_UNLOCK(lock); } while (0)
#define memcpy(dst, src, len) step_copy(dst, src, len)

#endif							/* STRESS_STEPS */

/* The source's own assertions, reported as the harness does. */
#undef Assert
#define Assert(condition) \
	do { \
		if (!(condition)) \
			stress_fail("assertion failed: %s", #condition); \
	} while (0)

extern void stress_fail(const char *fmt,...) pg_attribute_printf(1, 2);

#endif							/* STRESS_STEPS_H */

/*-------------------------------------------------------------------------
 *
 * harness.h
 *	  Processes over one shared mapping, for the stress tests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef STRESS_HARNESS_H
#define STRESS_HARNESS_H

#include "postgres.h"

#include "steps.h"

/* What a child process runs; it returns when it is done. */
typedef void (*StressMain) (int index);

/* Did what is to be tested happen? */
typedef bool (*StressCheck) (void);

/* A lock between the processes of a test: orders like an LWLock. */
typedef struct StressLock
{
	int			taken;
} StressLock;

extern uint64 stress_random(uint64 below);
extern uint64 stress_hash(uint64 a, uint64 b);
extern void stress_pause(void);
extern void stress_yield(void);
extern void stress_sleep(int microseconds);
extern double stress_now(void);
extern bool stress_goes_on(double deadline, StressCheck covered);
extern void stress_copy_in_pieces(void *dst, const void *src, size_t len);

extern void *stress_map(size_t size);
extern void stress_unmap(void *space, size_t size);
extern void stress_lock(StressLock *lock);
extern void stress_unlock(StressLock *lock);

/* counters that others read; not part of what is tested */
extern uint64 stress_get(uint64 *word);
extern void stress_set(uint64 *word, uint64 value);
extern void stress_add(uint64 *word, uint64 value);

extern void stress_init(int argc, char **argv, double *seconds);
extern bool stress_run(const char *name, StressMain *mains, int nmains,
					   double seconds, StressCheck covered);
extern int	stress_summary(void);

#endif							/* STRESS_HARNESS_H */

/*-------------------------------------------------------------------------
 *
 * harness.c
 *	  Processes over one shared mapping, for the stress tests; and what the
 *	  sources under test need of the server.
 *
 *-------------------------------------------------------------------------
 */
#include "harness.h"

#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "storage/condition_variable.h"
#include "storage/s_lock.h"
#include "storage/shmem.h"

#undef memcpy

/* What a test may take beyond its time: to happen at all, and to end. */
#define MORE_SECONDS 30
#define END_SECONDS 30

static uint64 random_state = 1;
static uint64 seed = 1;
static const char *test_name = "";
static int	passed = 0;
static int	failed = 0;

/* Report what is wrong, and end this process. */
void
stress_fail(const char *fmt,...)
{
	char		text[1024];
	va_list		args;

	va_start(args, fmt);
	(void) vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	fprintf(stderr, "%s, process %d: %s\n", test_name, (int) getpid(), text);
	_exit(1);
}

/* A number below the given one, which is above 0; xorshift. */
uint64
stress_random(uint64 below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (random_state >> 11) % below;
}

/* Mix two numbers into one that shows a difference in any of their bits. */
uint64
stress_hash(uint64 a, uint64 b)
{
	uint64		h = a * UINT64CONST(0x9E3779B97F4A7C15) + b;

	h ^= h >> 32;
	h *= UINT64CONST(0xD6E8FEB86659FD93);
	h ^= h >> 29;
	h *= UINT64CONST(0xD6E8FEB86659FD93);
	return h ^ (h >> 32);
}

void
stress_sleep(int microseconds)
{
	struct timespec t = {.tv_nsec = (long) microseconds * 1000};

	(void) nanosleep(&t, NULL);
}

void
stress_yield(void)
{
	(void) sched_yield();
}

/* Now and then let others go on. */
void
stress_pause(void)
{
	uint64		dice = stress_random(2048);

	if (dice == 0)
		stress_sleep(1);
	else if (dice < 32)
		stress_yield();
	else if (dice < 160)
	{
		for (volatile int i = 0; i < 200; i++)
			;
	}
}

/* Seconds, from some time on. */
double
stress_now(void)
{
	struct timespec t;

	(void) clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/*
 * Is a process to go on?  To the deadline, and on a slow machine beyond it,
 * until what is to be tested has happened.
 */
bool
stress_goes_on(double deadline, StressCheck covered)
{
	double		now = stress_now();

	return now < deadline || (now < deadline + MORE_SECONDS && !covered());
}

/* Copy, with pauses between. */
void
stress_copy_in_pieces(void *dst, const void *src, size_t len)
{
	size_t		done = 0;

	while (done < len)
	{
		size_t		piece = 1 + stress_random(len - done);

		memcpy((char *) dst + done, (const char *) src + done, piece);
		done += piece;
		stress_pause();
	}
}

/* Memory that the children share. */
void *
stress_map(size_t size)
{
	void	   *space = mmap(NULL, size, PROT_READ | PROT_WRITE,
							 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (space == MAP_FAILED)
		stress_fail("mmap: %s", strerror(errno));
	return space;
}

void
stress_unmap(void *space, size_t size)
{
	(void) munmap(space, size);
}

void
stress_lock(StressLock *lock)
{
	while (__atomic_exchange_n(&lock->taken, 1, __ATOMIC_SEQ_CST) != 0)
		stress_yield();
	steps_drain();
}

void
stress_unlock(StressLock *lock)
{
	steps_drain();
	__atomic_store_n(&lock->taken, 0, __ATOMIC_SEQ_CST);
}

uint64
stress_get(uint64 *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

void
stress_set(uint64 *word, uint64 value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

void
stress_add(uint64 *word, uint64 value)
{
	(void) __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
}

/* Arguments: SECONDS that all tests take together, and a SEED. */
void
stress_init(int argc, char **argv, double *seconds)
{
	*seconds = argc > 1 ? atof(argv[1]) : 10;
	seed = argc > 2 ? strtoull(argv[2], NULL, 10) : (uint64) time(NULL);
	printf("# %s, seed %llu%s\n", argv[0], (unsigned long long) seed,
#ifdef STRESS_STEPS
		   ", weakly ordered memory"
#else
		   ""
#endif
		);
}

/* End the children that are left. */
static void
kill_children(pid_t *pids, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (pids[i] == 0)
			continue;
		(void) kill(pids[i], SIGKILL);
		(void) waitpid(pids[i], NULL, 0);
		pids[i] = 0;
	}
}

/* Reap a child that has ended; its exit code, -1 if none has. */
static int
reap(pid_t *pids, int count)
{
	int			status;
	pid_t		pid = waitpid(-1, &status, WNOHANG);

	if (pid <= 0)
		return -1;
	for (int i = 0; i < count; i++)
	{
		if (pids[i] == pid)
			pids[i] = 0;
	}
	if (WIFSIGNALED(status))
	{
		fprintf(stderr, "%s, process %d: ended by signal %d\n", test_name,
				(int) pid, WTERMSIG(status));
		return 1;
	}
	return WEXITSTATUS(status);
}

/*
 * Run each function in a process of its own, until all have returned; they
 * have failed if one fails, or if they take much more than that many seconds,
 * the time that they were to end after.  covered then tells whether what is to
 * be tested has happened at all.  Returns whether all went well, and counts
 * that as one test.
 */
bool
stress_run(const char *name, StressMain *mains, int nmains, double seconds,
		   StressCheck covered)
{
	pid_t	   *pids = calloc(nmains, sizeof(pid_t));
	double		limit = seconds + MORE_SECONDS + END_SECONDS;
	double		end = stress_now() + limit;
	int			left = nmains;
	bool		good = pids != NULL;

	test_name = name;
	(void) fflush(NULL);
	for (int i = 0; good && i < nmains; i++)
	{
		pids[i] = fork();
		if (pids[i] == 0)
		{
			random_state = stress_hash(seed, i + 1) | 1;
			mains[i] (i);
			steps_drain();
			_exit(0);
		}
		good = pids[i] > 0;
	}
	while (good && left > 0)
	{
		int			code = reap(pids, nmains);

		if (code >= 0)
			left--;
		if (code > 0)
			good = false;
		else if (code < 0 && stress_now() > end)
		{
			fprintf(stderr, "%s: not done after %.0f s\n", name, limit);
			good = false;
		}
		else if (code < 0)
			stress_sleep(1000);
	}
	if (pids)
		kill_children(pids, nmains);
	free(pids);
	if (good && !covered())
	{
		fprintf(stderr, "%s: too little happened\n", name);
		good = false;
	}
	seed = stress_hash(seed, 0);
	if (good)
		passed++;
	else
		failed++;
	printf("%s %s\n", good ? "ok    " : "FAILED", name);
	return good;
}

/* The exit code. */
int
stress_summary(void)
{
	printf("%d passed, %d failed\n", passed, failed);
	return failed == 0 && passed > 0 ? 0 : 1;
}

/*
 * What the server has
 */

Size
add_size(Size a, Size b)
{
	return a + b;
}

Size
mul_size(Size a, Size b)
{
	return a * b;
}

int
s_lock(volatile slock_t *lock, const char *file, int line, const char *func)
{
	while (TAS_SPIN(lock))
		stress_yield();
	return 0;
}

void
ConditionVariableInit(ConditionVariable *cv)
{
}

void
ConditionVariableBroadcast(ConditionVariable *cv)
{
}

void *
palloc(Size size)
{
	void	   *result = malloc(size);

	if (result == NULL)
		stress_fail("out of memory");
	return result;
}

void *
repalloc(void *pointer, Size size)
{
	void	   *result = realloc(pointer, size);

	if (result == NULL)
		stress_fail("out of memory");
	return result;
}

void *
repalloc_huge(void *pointer, Size size)
{
	return repalloc(pointer, size);
}

void
pfree(void *pointer)
{
	free(pointer);
}

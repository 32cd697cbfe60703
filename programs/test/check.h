/*-------------------------------------------------------------------------
 *
 * check.h
 *	  What the unit tests share: checks that go on after a failure, and memory
 *	  of exactly the size that is said, so that the sanitizer sees every byte
 *	  that is read behind it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef TEST_CHECK_H
#define TEST_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int	checks;
static int	failures;

/* Count a check, and say where one fails. */
static inline void
check_at(bool good, const char *what, const char *file, int line)
{
	checks++;
	if (good)
		return;
	failures++;
	printf("%s:%d: failed: %s\n", file, line, what);
}

#define CHECK(condition) check_at((condition), #condition, __FILE__, __LINE__)

/* A copy of the bytes in memory of its own, to be freed. */
static inline char *
exact_copy(const char *bytes, size_t length)
{
	char	   *copy = malloc(length > 0 ? length : 1);

	if (copy == NULL)
		abort();
	if (length > 0)
		memcpy(copy, bytes, length);
	return copy;
}

/* Say how it went; what main() returns. */
static inline int
checks_done(const char *name)
{
	printf("%s: %d checks, %d failed\n", name, checks, failures);
	return failures == 0 ? 0 : 1;
}

#endif

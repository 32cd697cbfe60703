/*-------------------------------------------------------------------------
 *
 * log.c
 *	  See log.h.
 *
 * A line holds the time in UTC with milliseconds, the level and the message.
 * What peers chose (names, messages) may hold anything: control characters are
 * written as '?', so that nobody can forge a line.
 *
 *-------------------------------------------------------------------------
 */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

LogLevel	log_threshold = LOG_LEVEL_INFO;

static const char *program_name = "";
static const char *const level_names[] = {"debug", "info", "warning", "error"};

/* The name that begins each message; it must stay. */
void
log_set_program(const char *name)
{
	program_name = name;
}

/* The longest message, with its zero byte; what does not fit is cut off. */
#define MESSAGE_SIZE 1024

/* Write one line. */
static void
write_line(LogLevel level, char *message)
{
	char		when[32];
	struct timespec now;
	struct tm	utc;

	for (char *at = message; *at != '\0'; at++)
	{
		if ((unsigned char) *at < ' ' || *at == 0x7F)
			*at = '?';
	}
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &utc);
	fprintf(stderr, "%s.%03ld UTC %s: %s: %s\n", when, now.tv_nsec / 1000000,
			program_name, level_names[level], message);
}

/* Write a line of that level, if lines of that level are wanted. */
void
log_line(LogLevel level, const char *format,...)
{
	char		message[MESSAGE_SIZE];
	va_list		arguments;

	if (level < log_threshold)
		return;
	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	write_line(level, message);
}

/* Write a line, and exit with status 1. */
void
log_fatal(const char *format,...)
{
	char		message[MESSAGE_SIZE];
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(message, sizeof(message), format, arguments);
	va_end(arguments);
	write_line(LOG_LEVEL_ERROR, message);
	exit(1);
}

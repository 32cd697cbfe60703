/*-------------------------------------------------------------------------
 *
 * log.h
 *	  One line to stderr for each thing that happens to the program.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

typedef enum LogLevel
{
	LOG_LEVEL_DEBUG,
	LOG_LEVEL_INFO,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_ERROR
} LogLevel;

extern LogLevel log_threshold;

extern void log_set_program(const char *name);
extern void log_line(LogLevel level, const char *format,...)
			__attribute__((format(printf, 2, 3)));
extern void log_fatal(const char *format,...)
			__attribute__((format(printf, 1, 2), noreturn));

#endif

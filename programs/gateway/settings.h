/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  What a session has set, and what the server said at its login.
 *
 * A Settings never changes: setting a value makes another one.  So a savepoint
 * keeps a reference, and thousands of clients that logged in alike share one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_SETTINGS_H
#define GATEWAY_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Settings Settings;

extern Settings *settings_empty(void);
extern Settings *settings_hold(Settings *settings);
extern void settings_release(Settings *settings);
extern Settings *settings_with(Settings *old, const char *name,
							   const char *value, bool reported);
extern Settings *settings_without(Settings *old, const char *name);
extern Settings *settings_shared(Settings *settings);
extern const char *settings_value(const Settings *settings, const char *name);
extern const char *settings_spelling(const Settings *settings,
									 const char *name);
extern bool settings_entry(const Settings *settings, int number,
						   const char **name, const char **value,
						   bool *reported);
extern int	settings_count(const Settings *settings);
extern size_t settings_bytes(const Settings *settings);

#endif

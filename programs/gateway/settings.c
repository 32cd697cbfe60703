/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  See settings.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/settings.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/hash.h"
#include "common/memory.h"

/* What a text takes beside its characters, in bytes. */
#define TEXT_BYTES 24

typedef struct Entry
{
	bool		reported;		/* the client is told when it changes */
	char	   *name;
	char	   *value;
} Entry;

struct Settings
{
	HashNode	node;			/* in shared, if is_shared */
	bool		is_shared;
	uint32_t	references;
	size_t		bytes;			/* that it takes */
	int			count;
	Entry		entries[];
};

/* Those that logins share. */
static HashTable shared;

/* Settings for count entries, which the caller fills, with one reference. */
static Settings *
make(int count)
{
	Settings   *settings = memory_get_zeroed(sizeof(Settings) +
											 count * sizeof(Entry));

	settings->references = 1;
	settings->bytes = sizeof(Settings) + count * sizeof(Entry);
	settings->count = count;
	return settings;
}

/* Give the entry, which has none, a copy of that name, or of that value. */
static void
copy_text(Settings *settings, char **text, const char *from)
{
	*text = memory_copy_string(from);
	settings->bytes += strlen(from) + TEXT_BYTES;
}

/* Settings without any, with one reference. */
Settings *
settings_empty(void)
{
	return make(0);
}

/* One reference more. */
Settings *
settings_hold(Settings *settings)
{
	settings->references++;
	return settings;
}

/* Give a reference up; settings may be NULL. */
void
settings_release(Settings *settings)
{
	if (settings == NULL || --settings->references > 0)
		return;
	if (settings->is_shared)
		hash_remove(&shared, &settings->node);
	for (int i = 0; i < settings->count; i++)
	{
		free(settings->entries[i].name);
		free(settings->entries[i].value);
	}
	free(settings);
}

/* The number of the entry of that name, in any case of letters; -1 if none. */
static int
find(const Settings *settings, const char *name)
{
	for (int i = 0; i < settings->count; i++)
	{
		if (strcasecmp(settings->entries[i].name, name) == 0)
			return i;
	}
	return -1;
}

/*
 * Settings as the old ones, but with that value; the reference to the old ones
 * is given up.  A setting that stands keeps its spelling, and stays reported if
 * it was.
 */
Settings *
settings_with(Settings *old, const char *name, const char *value,
			  bool reported)
{
	int			number = find(old, name);
	Settings   *settings = make(old->count + (number < 0 ? 1 : 0));

	for (int i = 0; i < old->count; i++)
	{
		Entry	   *entry = &settings->entries[i];

		entry->reported = old->entries[i].reported;
		copy_text(settings, &entry->name, old->entries[i].name);
		if (i != number)
			copy_text(settings, &entry->value, old->entries[i].value);
	}
	if (number < 0)
	{
		number = old->count;
		copy_text(settings, &settings->entries[number].name, name);
		settings->entries[number].reported = reported;
	}
	copy_text(settings, &settings->entries[number].value, value);
	settings_release(old);
	return settings;
}

/*
 * Settings as the old ones, but without that one; the reference to the old ones
 * is given up.
 */
Settings *
settings_without(Settings *old, const char *name)
{
	int			number = find(old, name);
	Settings   *settings;
	int			count = 0;

	if (number < 0)
		return old;
	settings = make(old->count - 1);
	for (int i = 0; i < old->count; i++)
	{
		Entry	   *entry = &settings->entries[count];

		if (i == number)
			continue;
		entry->reported = old->entries[i].reported;
		copy_text(settings, &entry->name, old->entries[i].name);
		copy_text(settings, &entry->value, old->entries[i].value);
		count++;
	}
	settings_release(old);
	return settings;
}

/* Are both the same, in the same order? */
static bool
equal(const Settings *one, const Settings *other)
{
	if (one->count != other->count)
		return false;
	for (int i = 0; i < one->count; i++)
	{
		if (one->entries[i].reported != other->entries[i].reported ||
			strcmp(one->entries[i].name, other->entries[i].name) != 0 ||
			strcmp(one->entries[i].value, other->entries[i].value) != 0)
			return false;
	}
	return true;
}

/*
 * The same settings in the place that equal ones share; the reference to these
 * is given up for one to those.
 */
Settings *
settings_shared(Settings *settings)
{
	uint64_t	hash = 0;
	HashNode   *node;

	for (int i = 0; i < settings->count; i++)
		hash = hash * 31 + hash_string(settings->entries[i].value);
	for (node = hash_first(&shared, hash); node != NULL; node = hash_next(node))
	{
		Settings   *other = hash_container(Settings, node, node);

		if (equal(settings, other))
		{
			settings_hold(other);
			settings_release(settings);
			return other;
		}
	}
	hash_insert(&shared, &settings->node, hash);
	settings->is_shared = true;
	return settings;
}

/* The setting's value, or NULL if it is not known. */
const char *
settings_value(const Settings *settings, const char *name)
{
	int			number = find(settings, name);

	return number < 0 ? NULL : settings->entries[number].value;
}

/* The setting's name as the server spells it, or as it is. */
const char *
settings_spelling(const Settings *settings, const char *name)
{
	int			number = find(settings, name);

	return number < 0 ? name : settings->entries[number].name;
}

/* The entry of that number; false behind the last. */
bool
settings_entry(const Settings *settings, int number, const char **name,
			   const char **value, bool *reported)
{
	if (number >= settings->count)
		return false;
	*name = settings->entries[number].name;
	*value = settings->entries[number].value;
	*reported = settings->entries[number].reported;
	return true;
}

/* How many there are. */
int
settings_count(const Settings *settings)
{
	return settings->count;
}

/* What they take of memory; nothing of their own if logins share them. */
size_t
settings_bytes(const Settings *settings)
{
	return settings->is_shared ? 0 : settings->bytes;
}

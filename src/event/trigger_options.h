/*-------------------------------------------------------------------------
 *
 * trigger_options.h
 *	  The options of a change trigger, as attach() and notify_change() share
 *	  them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_TRIGGER_OPTIONS_H
#define PGPUBSUB_TRIGGER_OPTIONS_H

#include "base/pgpubsub.h"

#include "access/htup.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

/* What of the old row an UPDATE or DELETE carries. */
typedef enum OldValues
{
	OLD_VALUES_NONE,
	OLD_VALUES_KEY,
	OLD_VALUES_CHANGED,
	OLD_VALUES_FULL
} OldValues;

typedef enum EventFormat
{
	EVENT_PLAIN,
	EVENT_DEBEZIUM,
	EVENT_CLOUDEVENTS
} EventFormat;

typedef struct TriggerOptions
{
	char	   *channel;		/* NULL: the attached table's name */
	List	   *columns;		/* of char *; NIL: all */
	List	   *watch;			/* of char *; NIL: every UPDATE is an event */
	OldValues	old_values;
	EventFormat format;
	int			publish_mode;	/* a PublishMode, or PUBLISH_MODE_SETTING */
} TriggerOptions;

extern void trigger_options_init(TriggerOptions *options);
extern void trigger_options_parse(TriggerOptions *options, int nargs,
								  char **args);
extern List *trigger_options_arguments(const TriggerOptions *options);
extern const char *trigger_options_find(int nargs, char **args,
										const char *name);

extern char **trigger_options_split(bytea *arguments, int *nargs);
extern char **trigger_options_of(Relation catalog, HeapTuple tuple, int *nargs);

extern const char *quote_if_needed(const char *name);
extern void check_channel_name(const char *name);
extern OldValues parse_old_values(const char *value);
extern EventFormat parse_event_format(const char *value);
extern int	parse_publish_mode(const char *value);

#endif							/* PGPUBSUB_TRIGGER_OPTIONS_H */

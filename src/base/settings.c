/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  Settings, wait events, and the check of channel names.
 *
 * A session that loads the library by itself can only publish, as plain
 * NOTIFY.  A server that preloads it (shared_preload_libraries) has shared
 * memory, a launcher and relays as well.  Settings that make no sense without
 * shared memory are defined only then.
 *
 *-------------------------------------------------------------------------
 */
#include "base/pgpubsub.h"

#include <limits.h>

#include "mb/pg_wchar.h"
#include "utils/guc.h"
#include "utils/varlena.h"

int			pgpubsub_queue_size = 16 * 1024;
int			pgpubsub_staging_size = 4 * 1024;
int			pgpubsub_max_databases = 4;
int			pgpubsub_max_subscriptions = 1024;
int			pgpubsub_max_channels = 1024;
char	   *pgpubsub_databases = NULL;
int			pgpubsub_publish_mode = PUBLISH_TRANSACTIONAL;
int			pgpubsub_publish_timeout = 5000;
int			pgpubsub_evict_timeout = 1000;
int			pgpubsub_log_size = 1024 * 1024;
int			pgpubsub_max_payload = 1024 * 1024;
int			pgpubsub_max_poll_wait = 60 * 1000;
bool		pgpubsub_muted = false;
char	   *pgpubsub_node_name = NULL;

static const struct config_enum_entry publish_modes[] = {
	{"transactional", PUBLISH_TRANSACTIONAL, false},
	{"async", PUBLISH_ASYNC, false},
	{NULL, 0, false}
};

/* Names of the wait events, in the order of PgpubsubWait. */
static const char *const wait_names[PGPUBSUB_NUM_WAITS] = {
	"PgpubsubLauncherMain",
	"PgpubsubRelayMain",
	"PgpubsubRelayExit",
	"PgpubsubPoll",
	"PgpubsubReader",
	"PgpubsubSubscribe",
	"PgpubsubQueueFull"
};

/*
 * The wait event to report in a wait.
 */
uint32
pgpubsub_wait_event(PgpubsubWait wait)
{
	static uint32 events[PGPUBSUB_NUM_WAITS];

	if (events[wait] == 0)
		events[wait] = PGPUBSUB_NEW_WAIT_EVENT(wait_names[wait]);
	return events[wait];
}

/* pgpubsub.databases: a list of names, or *. */
static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names = NIL;
	bool		valid = SplitGUCList(copy, ',', &names);

	list_free(names);
	pfree(copy);
	if (!valid)
		GUC_check_errdetail("Write database names separated by commas, or *.");
	return valid;
}

/* pgpubsub.node_name: not too long, since each event carries it. */
static bool
check_node_name(char **newval, void **extra, GucSource source)
{
	if (strlen(*newval) > PGPUBSUB_NODE_NAME_MAX)
	{
		GUC_check_errdetail("It has %zu bytes; at most %d are possible.",
							strlen(*newval), PGPUBSUB_NODE_NAME_MAX);
		return false;
	}
	return true;
}

/*
 * Define the settings that sessions without shared memory have too.
 */
void
settings_define_session(void)
{
	DefineCustomEnumVariable("pgpubsub.publish_mode",
							 "Sets how triggers and publish() publish where they do not say it themselves.",
							 NULL, &pgpubsub_publish_mode, PUBLISH_TRANSACTIONAL, publish_modes,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.publish_timeout",
							"Sets how long a transaction waits on a full queue, all its waits together.",
							"Also how long subscribe() waits for the relay.",
							&pgpubsub_publish_timeout, 5000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.evict_timeout",
							"Sets how long subscriptions with on_full => 'evict' may hold a full queue.",
							NULL, &pgpubsub_evict_timeout, 1000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.log_size",
							"Sets the size of the log of durable channels, for each database.",
							"It is in tables of the database, and grows beyond that only where an event would be lost that is being read.",
							&pgpubsub_log_size, 1024 * 1024, 8 * 1024, MAX_KILOBYTES,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.max_payload",
							"Sets the longest payload that can be published.",
							"A quarter of pgpubsub.queue_size and of pgpubsub.staging_size bound it too.",
							&pgpubsub_max_payload, 1024 * 1024, 1024, PGPUBSUB_PAYLOAD_MAX,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.max_poll_wait",
							"Sets how long poll() and wait wait at most, whatever their timeout.",
							NULL, &pgpubsub_max_poll_wait, 60 * 1000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("pgpubsub.muted",
							 "Has this session's triggers emit nothing.",
							 "For bulk loads and migrations.",
							 &pgpubsub_muted, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("pgpubsub.node_name",
							   "Sets the name that every change event carries as \"node\", if any.",
							   NULL, &pgpubsub_node_name, "",
							   PGC_SIGHUP, 0, check_node_name, NULL, NULL);
}

/*
 * Define the settings that size shared memory, or mean something only with it.
 */
void
settings_define_server(void)
{
	DefineCustomIntVariable("pgpubsub.queue_size",
							"Sets the size of the queue of each database.",
							NULL, &pgpubsub_queue_size, 16 * 1024, 64, MAX_KILOBYTES,
							PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.staging_size",
							"Sets the size of the staging queue of each database, for async publishing.",
							NULL, &pgpubsub_staging_size, 4 * 1024, 64, MAX_KILOBYTES,
							PGC_POSTMASTER, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.max_databases",
							"Sets the number of databases that can have a relay.",
							NULL, &pgpubsub_max_databases, 4, 1, 1000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.max_subscriptions",
							"Sets the number of subscriptions in all databases.",
							NULL, &pgpubsub_max_subscriptions, 1024, 1, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("pgpubsub.max_channels",
							"Sets the number of channels and patterns that can be known in each database.",
							NULL, &pgpubsub_max_channels, 1024, 8, 1000000,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("pgpubsub.databases",
							   "Lists the databases that get a relay, where the extension is installed.",
							   "Names separated by commas; * stands for all.",
							   &pgpubsub_databases, "*",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_databases, NULL, NULL);
}

/*
 * Report at elevel what is wrong with the name of a channel, if anything is:
 * 22023 if it is empty or too long, 42939 if it is reserved.  Returns true if
 * nothing is.
 */
bool
pgpubsub_check_channel_name(const char *name, int elevel)
{
	Size		len = strlen(name);

	if (len == 0)
		ereport(elevel,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("channel name cannot be empty"),
				 errhint("Give a name of 1 to %d bytes.",
						 PGPUBSUB_CHANNEL_MAX)));
	else if (len > PGPUBSUB_CHANNEL_MAX)
		ereport(elevel,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("channel name is too long"),
				 errdetail("\"%.*s...\" has %zu bytes.",
						   pg_mbcliplen(name, (int) len, PGPUBSUB_CHANNEL_MAX),
						   name, len),
				 errhint("Give a name of 1 to %d bytes.",
						 PGPUBSUB_CHANNEL_MAX)));
	else if (strcmp(name, PGPUBSUB_FRAME_CHANNEL) == 0)
		ereport(elevel,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("channel name \"%s\" is reserved", name),
				 errdetail("It carries pgpubsub's own frames."),
				 errhint("Give another name.")));
	else
		return true;
	return false;
}

/*
 * Raise 22004 if the SQL function's argument of that name is null.
 */
void
check_not_null(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s cannot be null", name),
				 errhint("Give a value, or leave the argument out if it has a default.")));
}

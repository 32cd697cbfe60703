/*-------------------------------------------------------------------------
 *
 * event_settings.c
 *	  The settings under which events are written, whatever the session's.
 *
 * The text of some types follows TimeZone, DateStyle, IntervalStyle,
 * bytea_output and extra_float_digits.  An event must not: two sessions would
 * name one row by different keys.  So these settings have fixed values while
 * the values of such types are written.
 *
 * 1. Where nothing but output functions in C runs, the variables behind the
 *	  settings are set and put back.  That costs no more than it says, and
 *	  nobody sees it: no SQL runs meanwhile.
 * 2. Where SQL may run (a cast to json in PL/pgSQL, say), it may look at the
 *	  settings, set them itself, and fail after it has.  Core would then
 *	  take our values for the session's and bring them back at the end of
 *	  the transaction.  There they are set as a function with SET clauses
 *	  sets them, which costs a microsecond or two; all of them, also those
 *	  that the session has already, and once more after each value that has
 *	  set others: what it sets must not show in the values after it.
 *
 * What else a type's text follows is left alone: lc_monetary (money),
 * search_path and quote_all_identifiers (regclass and its like).
 *
 *-------------------------------------------------------------------------
 */
#include "event/event_settings.h"

#include "miscadmin.h"
#include "pgtime.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"

/* The values behind the settings. */
typedef struct SettingValues
{
	pg_tz	   *time_zone;
	int			date_style;
	int			date_order;
	int			interval_style;
	int			bytea_output;
	int			extra_float_digits;
} SettingValues;

/*
 * The zone of events: UTC, or core's built-in GMT, which is written alike,
 * where the server has no files of time zones.
 */
static pg_tz *event_zone = NULL;
static const char *event_zone_name = "UTC";

/* Look the zone up, once per session. */
static void
find_event_zone(void)
{
	event_zone = pg_tzset("UTC");
	if (event_zone == NULL)
	{
		event_zone_name = "GMT";
		event_zone = pg_tzset("GMT");
	}
}

/* Does the session have the values of events already? */
static bool
settings_hold(void)
{
	if (unlikely(event_zone == NULL))
		find_event_zone();
	return session_timezone == event_zone &&
		DateStyle == USE_ISO_DATES && DateOrder == DATEORDER_MDY &&
		IntervalStyle == INTSTYLE_POSTGRES &&
		bytea_output == BYTEA_OUTPUT_HEX && extra_float_digits == 1;
}

/* Give all settings the values of events. */
static void
set_on_stack(GucAction action)
{
	const char *const settings[][2] = {
		{"TimeZone", event_zone_name},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"bytea_output", "hex"},
		{"extra_float_digits", "1"}
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, action, true, 0, false);
}

/*
 * Work with the settings set as a function's SET clauses set them.  After an
 * error the abort of the transaction or subtransaction puts them back.
 */
static void
run_on_stack(void (*work) (void *arg), void *arg)
{
	int			level = NewGUCNestLevel();

	set_on_stack(GUC_ACTION_SAVE);
	work(arg);
	AtEOXact_GUC(true, level);
}

/*
 * Set once more what SQL that ran for a value has set.  Only to be called
 * within event_settings_run() with runs_sql.  A SET of that SQL's, without
 * LOCAL, still counts when the work is done.
 */
void
event_settings_renew(void)
{
	if (!settings_hold())
		set_on_stack(GUC_ACTION_LOCAL);
}

/* Set the variables behind the settings. */
static void
set_values(const SettingValues *values)
{
	session_timezone = values->time_zone;
	DateStyle = values->date_style;
	DateOrder = values->date_order;
	IntervalStyle = values->interval_style;
	bytea_output = values->bytea_output;
	extra_float_digits = values->extra_float_digits;
}

/* Work with the variables set to what events want, and put them back. */
static void
run_with_values(void (*work) (void *arg), void *arg)
{
	const SettingValues session = {session_timezone, DateStyle, DateOrder,
	IntervalStyle, bytea_output, extra_float_digits};
	const SettingValues of_events = {event_zone, USE_ISO_DATES, DATEORDER_MDY,
	INTSTYLE_POSTGRES, BYTEA_OUTPUT_HEX, 1};

	set_values(&of_events);
	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		set_values(&session);
		PG_RE_THROW();
	}
	PG_END_TRY();
	set_values(&session);
}

/*
 * Call work(arg) while the settings have the values of events.  runs_sql: it
 * may run SQL.  Raises what work() raises.
 */
void
event_settings_run(bool runs_sql, void (*work) (void *arg), void *arg)
{
	bool		hold = settings_hold();

	if (runs_sql)
		run_on_stack(work, arg);
	else if (hold)
		work(arg);
	else
		run_with_values(work, arg);
}

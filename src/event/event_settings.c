/*-------------------------------------------------------------------------
 *
 * event_settings.c
 *	  The settings under which events are written, whatever the session's.
 *
 * The text of some types depends on TimeZone, DateStyle, IntervalStyle,
 * bytea_output and extra_float_digits.  Events must not depend on them, or two
 * sessions would name one row by different keys.  So these settings have fixed
 * values while values of such types are written.
 *
 * 1. Where nothing but output functions in C runs, the variables behind the
 *	  settings are set and put back afterwards.  Nobody notices, because no
 *	  SQL runs in between.
 * 2. Where SQL may run (a cast to json in PL/pgSQL, for instance), that SQL
 *	  may read the settings, set them itself, and fail afterwards.  If the
 *	  variables had just been overwritten, core would save the values of
 *	  events as the session's own and restore them at the end of the
 *	  transaction.  So the settings are set as a function with SET clauses
 *	  sets them, which costs a microsecond or two.  All are set, also those
 *	  that have the right value already; and they are set again after a value
 *	  whose SQL has changed one, so that the next values do not show it.
 *
 * Other settings that types' texts depend on are left alone: lc_monetary (for
 * money), search_path and quote_all_identifiers (for regclass and the like).
 *
 *-------------------------------------------------------------------------
 */
#include "event/event_internal.h"

#include "miscadmin.h"
#include "pgtime.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"

/* The variables behind the settings. */
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
 * The time zone of events: UTC or, where the server has no files of time zones,
 * core's built-in GMT, in which times are written alike.
 */
static pg_tz *event_zone = NULL;
static const char *event_zone_name = "UTC";

/*
 * Do the settings have the values of events now?  Must be asked before these
 * are set: the first call of the session looks their time zone up.
 */
static bool
settings_hold(void)
{
	if (unlikely(event_zone == NULL))
		event_zone = pg_tzset("UTC");
	if (unlikely(event_zone == NULL))
	{
		event_zone_name = "GMT";
		event_zone = pg_tzset(event_zone_name);
	}
	return session_timezone == event_zone &&
		DateStyle == USE_ISO_DATES && DateOrder == DATEORDER_MDY &&
		IntervalStyle == INTSTYLE_POSTGRES &&
		bytea_output == BYTEA_OUTPUT_HEX && extra_float_digits == 1;
}

/* Give all settings the values of events, as SET or SET LOCAL does. */
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
 * Call work(arg) with the settings set as a function's SET clauses set them.
 * After an error the abort of the transaction or subtransaction restores them.
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
 * Set again what SQL that ran for a value may have changed.  Must be called
 * within event_settings_run() with runs_sql.  A SET without LOCAL in that SQL
 * has its effect on the session when the work is done.
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

/* Call work(arg) with the variables overwritten, and put them back. */
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
 * Call work(arg) while the settings have the values of events.  runs_sql says
 * that work may run SQL.  Raises what work raises.  This takes a function so
 * that only the third way of doing it needs a PG_TRY block.
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

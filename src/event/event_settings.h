/*-------------------------------------------------------------------------
 *
 * event_settings.h
 *	  The settings under which events are written, whatever the session's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_EVENT_SETTINGS_H
#define PGPUBSUB_EVENT_SETTINGS_H

#include "base/compat.h"

extern void event_settings_run(bool runs_sql, void (*work) (void *arg),
							   void *arg);
extern void event_settings_renew(void);

#endif							/* PGPUBSUB_EVENT_SETTINGS_H */

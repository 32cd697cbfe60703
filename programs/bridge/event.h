/*-------------------------------------------------------------------------
 *
 * event.h
 *	  From an event of the server to a message for the broker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_EVENT_H
#define BRIDGE_EVENT_H

#include "bridge/outbox.h"
#include "bridge/template.h"

/* What does not change from event to event. */
typedef struct EventSetting
{
	const char *origin;			/* of ids: system identifier and database */
	const char *subscription;
	const char *placeholder;
	const Template *address;
	bool		(*allowed) (unsigned char c);
} EventSetting;

extern Message *event_message(const EventSetting *setting, int64_t seq,
							  int64_t relayed_at, const char *channel,
							  const char *payload, size_t length);
extern Message *event_gap(const EventSetting *setting, int64_t seq,
						  int64_t lost);

#endif

/*-------------------------------------------------------------------------
 *
 * wait_for_room.h
 *	  A writer's waits for room, all together bounded by publish_timeout.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PGPUBSUB_WAIT_FOR_ROOM_H
#define PGPUBSUB_WAIT_FOR_ROOM_H

#include "base/pgpubsub.h"
#include "registry/registry.h"

extern bool room_wait(Database *database, const char *channel);
extern TimestampTz room_begin_staging(Database *database);
extern bool room_sleep_staging(Database *database, TimestampTz start,
							   long at_most);
extern void room_end_staging(TimestampTz start);
extern void room_at_end(void);

#endif							/* PGPUBSUB_WAIT_FOR_ROOM_H */

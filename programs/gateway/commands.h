/*-------------------------------------------------------------------------
 *
 * commands.h
 *	  The connection on which the server is told what to do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_COMMANDS_H
#define GATEWAY_COMMANDS_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "gateway/reply.h"
#include "gateway/turns.h"

struct Client;

/* What one transaction of a client notifies. */
typedef struct Notices Notices;

/* What the two views say, of this database; NULL: could not be read. */
typedef struct Stats
{
	const PGresult *channels;
	const PGresult *subscriptions;
} Stats;

/* metrics.c: they have come. */
extern void metrics_stats(const Stats *stats);

/* page.c: what the page shows has come, or could not be had; see commands_page(). */
extern const char **page_roles(int *count);
extern void page_answered(const PGresult *monitors, const PGresult *stats,
						  const Report *why);

/* The server has committed, or not, as the report says. */
typedef void (*NoticesDone) (void *context, const Report *report);

extern void commands_start(void);
extern void commands_stop(void (*stopped) (void));
extern void commands_channels(void);
extern uint64_t commands_drops(void);
extern void commands_mark(void);
extern void commands_check_roles(void);
extern int64_t commands_waiting(void);
extern bool commands_are_full(Owner owner);
extern bool commands_stats(void);
extern bool commands_page(void);

extern Notices *commands_begin(struct Client *client, NoticesDone done,
							   void *context);
extern Notices *commands_publish(Owner owner, NoticesDone done,
								 void *context);
extern void commands_add(Notices *notices, const char *channel,
						 const char *payload);
extern void commands_send(Notices *notices);
extern void commands_forget(Notices *notices);
extern bool commands_withdraw(Notices *notices);

#endif

/*-------------------------------------------------------------------------
 *
 * commands_internal.h
 *	  A unit of commands, for commands.c, which has the connection,
 *	  commands_sql.c, which knows what a unit says there, and notices.c, which
 *	  knows whose turn it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_COMMANDS_INTERNAL_H
#define GATEWAY_COMMANDS_INTERNAL_H

#include "common/list.h"
#include "common/memory.h"
#include "gateway/commands.h"
#include "gateway/turns.h"

typedef enum UnitKind
{
	UNIT_NOTICES,
	UNIT_ADD,
	UNIT_DROP,
	UNIT_MARK,
	UNIT_ROLES,
	UNIT_CHANNEL_STATS,
	UNIT_SUBSCRIPTION_STATS,	/* follows the other one at once */
	UNIT_MONITORS,
	UNIT_PAGE,					/* follows UNIT_MONITORS at once */
	UNIT_UNSUBSCRIBE
} UnitKind;

typedef struct Notice
{
	struct Notice *next;
	const char *channel;
	const char *payload;
} Notice;

typedef struct Unit
{
	ListNode	link;			/* in queue or sent */
	UnitKind	kind;
	bool		was_sent;
	PGresult   *error;
	PGresult   *rows;			/* of the kinds that ask for some */
	char	  **names;			/* of UNIT_DROP, once it was sent */
	int			name_count;
} Unit;

struct Notices
{
	Unit		unit;			/* the first member */
	Turn		turn;			/* while it waits to be sent */
	char	   *owner;			/* whose turn that is */
	Arena		arena;
	Notice	   *first;
	Notice	  **end;
	struct Client *client;		/* NULL: it has gone, or has no echo */
	bool		publishes;		/* with publish(), not pg_notify() */
	NoticesDone done;
	void	   *context;
};

/* notices.c */
extern void notices_wait(Notices *notices);
extern Notices *notices_take(bool may_publish);
extern void notices_drop(Notices *notices);

/* commands_sql.c */
extern bool unit_send(PGconn *conn, Unit *unit);

#endif

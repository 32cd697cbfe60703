/*-------------------------------------------------------------------------
 *
 * source_internal.h
 *	  What the files of the server's side share: source.c, and source_setup.c for
 *	  what is done before the first event is looked at.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_SOURCE_INTERNAL_H
#define BRIDGE_SOURCE_INTERNAL_H

#include "bridge/event.h"
#include "bridge/outbox.h"
#include "bridge/source.h"
#include "common/server.h"

/* How long the server sleeps when there is nothing, and may be late by. */
#define WAIT_SECONDS 10
#define ANSWER_SECONDS 15

/* How long to leave a lock or a reader alone, in ms; some of it is random. */
#define TURN_MS 500

/* Between two looks while messages are not confirmed, in ms. */
#define LOOK_PAUSE_MS 2

/* It is longer by a ms for so many rows that the look would show again. */
#define LOOK_PAUSE_ROWS 50

/* Events of the first look, whose size nobody knows yet; later ones have more. */
#define FIRST_LOOK 1000

/* The sink hears of so many new rows of a look at a time. */
#define WAKE_ROWS 200

/* How long an acknowledgement may wait for the next look, in ms. */
#define ACK_MS 1000

/* So long after an acknowledgement, in ms, a crash may have undone it. */
#define ACK_AGAIN_MS 5000

/* So many sleeps in the server that were over within so many ms are too many. */
#define VAIN_WAITS 10
#define VAIN_MS 10

/* Of a name in application_name, in bytes with the zero byte. */
#define APPLICATION_SIZE 64

typedef enum SourceStep
{
	STEP_NONE,					/* no query is under way */
	STEP_SETUP,
	STEP_PROBE,					/* may the subscription be read? */
	STEP_LOCK,
	STEP_KIND,					/* is it a lasting subscription? */
	STEP_LOOK,
	STEP_ACK,
	STEP_NAME,					/* application_name alone */
	STEP_WAIT
} SourceStep;

typedef struct Source
{
	Server		server;
	EventSetting setting;
	char	   *origin;
	SourceState state;
	SourceStep	step;
	uv_async_t	wake;			/* the sink has something to tell */
	uv_timer_t	turn;			/* the next try, or look */
	bool		looked_once;	/* the subscription is there and may be read */
	bool		may_ask;		/* what kind of subscription it is */
	bool		standby_told;
	bool		in_use_told;
	bool		retry;			/* 55006: the look is tried again later */
	bool		more;			/* the last look has left something behind */
	bool		nothing;		/* the last look had nothing new */
	bool		cut;			/* rows of this look had no room */
	int			look_size;		/* events that a look is to bring anew */
	int			asked;			/* rows that this look may have */
	int			rows;			/* that it had */
	int			taken;			/* of these, new ones */
	OutboxState before;			/* the outbox when it began */
	bool		ack_pending;
	int64_t		ack_seq;
	uint64_t	ack_since;		/* ms */
	bool		ack_under_way;
	uint64_t	acked_at;		/* ms; when it was sent last; 0: never */
	uint64_t	wait_at;		/* ms; the last sleep in the server began */
	int			vain_waits;		/* that ended at once, with nothing to see */
	bool		drained;		/* what the broker has confirmed is
								 * acknowledged */
	char		application[APPLICATION_SIZE];
	uint64_t	application_at; /* ms */
} Source;

extern Source source;

/* source.c */
extern char *source_quote(const char *text);
extern void source_send(SourceStep step, const char *query, int64_t seconds);

/* source_setup.c */
extern void source_connected(Server *server);
extern void source_try_lock(void);
extern bool source_setup_step(SourceStep step);
extern bool source_setup_result(const PGresult *result);
extern bool source_error(const PGresult *result);

#endif

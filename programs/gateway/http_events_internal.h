/*-------------------------------------------------------------------------
 *
 * http_events_internal.h
 *	  A stream of events, for http_events.c, which begins and ends it, and
 *	  http_behind.c, which gives it its events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_HTTP_EVENTS_INTERNAL_H
#define GATEWAY_HTTP_EVENTS_INTERNAL_H

#include "gateway/channels.h"
#include "gateway/history.h"
#include "gateway/http.h"
#include "gateway/marks.h"
#include "gateway/resume.h"

typedef struct EventStream
{
	ListNode	link;			/* of live streams: who was sent to last is
								 * last */
	ListNode	behind_link;	/* of those behind */
	ListNode	turn_link;		/* of those that go on in the loop's next turn */
	Client	   *client;
	ChannelWait *waits;			/* one for each channel, until it is live */
	int			join_count;		/* of waits; the last one is the gateway's own */
	int			wait_count;
	int			waiting;		/* waits whose channel is not effective */
	MarkWait	mark;
	bool		resumes;		/* from last_id */
	int64_t		last_id;
	Resume	   *resume;			/* or NULL */
	bool		begun;			/* the answer's head was sent */
	bool		live;			/* the client is a member of its channels */
	Channel   **patterns;		/* among these, which have their names' pins */
	int			pattern_count;
	uint64_t	cursor;
	int64_t		lost;			/* since then, of the history; -1: unknown */
	int64_t		lost_seq;		/* of the last of these; 0: none were lost */
	uint64_t	sent_at;		/* ms; when something was put into its queue */
	uint64_t	progress_at;	/* ms; when the client has taken something */
} EventStream;

/* http_events.c */
extern ListNode event_streams;
extern void event_stream_note_sending(EventStream *stream);

/* http_behind.c */
extern void behind_init(void);
extern void behind_begin(EventStream *stream);
extern void behind_end(EventStream *stream);
extern void event_stream_send_gap(EventStream *stream, int64_t seq, int64_t lost,
								  int64_t at_most);

#endif

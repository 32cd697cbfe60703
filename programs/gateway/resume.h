/*-------------------------------------------------------------------------
 *
 * resume.h
 *	  Events that a client has missed and that the history has no more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_RESUME_H
#define GATEWAY_RESUME_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/client.h"

typedef struct Resume Resume;

extern Resume *resume_begin(Client *client, const char *const *channels, int count,
							const char *const *doubtful, int doubtful_count,
							int64_t from, int64_t target);
extern void resume_go_on(Resume *resume);
extern void resume_drop(Resume *resume);
extern void resume_stop(void);

/* http_events.c: what comes of it */
extern void events_resumed(Client *client, int64_t seq, const char *channel,
						   const char *payload, int64_t lost);
extern int64_t events_resume_behind(const Client *client, int64_t seq, int64_t upto);
extern void events_resume_begins(Client *client, bool uncertain);
extern bool events_resume_reached(Client *client, int64_t seq, int64_t *target);
extern bool events_resume_may_go_on(const Client *client);
extern void events_resume_failed(Client *client, const Report *report);

#endif

/*-------------------------------------------------------------------------
 *
 * stream.h
 *	  The connection on which events come.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_STREAM_H
#define GATEWAY_STREAM_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

extern void stream_start(void);
extern void stream_stop(void);
extern bool stream_is_up(void);
extern int64_t stream_last_seq(void);
extern const char *subscription_name(void);
extern char *array_literal(const char *const *names, int count);

/* upstream.c: the stream stands, and this is what the server is like. */
extern const char *upstream_learn(PGconn *conn, const char *version,
								  const char *schema, const char *encoding);

#endif

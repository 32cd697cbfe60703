/*-------------------------------------------------------------------------
 *
 * redis_tls.h
 *	  TLS for a connection to Redis, as hiredis 0.14 knows none.
 *
 * hiredis makes the socket, writes commands into its buffer and reads answers out
 * of its reader; what is between these and the socket goes through here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_REDIS_TLS_H
#define BRIDGE_REDIS_TLS_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>

extern bool redis_tls_start(redisContext *context, const char *host,
							char *error, size_t size);
extern bool redis_tls_write(redisContext *context, char *error, size_t size);
extern bool redis_tls_read(redisContext *context, char *error, size_t size);
extern void redis_tls_end(void);

#endif

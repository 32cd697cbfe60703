/*-------------------------------------------------------------------------
 *
 * upstream.h
 *	  The server, as the clients' side sees it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_UPSTREAM_H
#define GATEWAY_UPSTREAM_H

#include <stdbool.h>
#include <sys/socket.h>

struct Server;

extern void upstream_start(void);
extern void upstream_connect(struct Server *server);
extern void upstream_reconfigure(void);
extern void upstream_stop(void (*stopped) (void));
extern void upstream_channels_changed(void);

extern bool upstream_address(struct sockaddr_storage *address,
							 socklen_t *size);
extern const char *upstream_database(void);
extern const char *upstream_version(void);
extern const char *upstream_schema(void);
extern bool upstream_is_utf8(void);

#endif

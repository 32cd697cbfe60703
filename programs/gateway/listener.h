/*-------------------------------------------------------------------------
 *
 * listener.h
 *	  The sockets to which clients connect.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LISTENER_H
#define GATEWAY_LISTENER_H

#include <stddef.h>

extern void listeners_open(void);
extern void listeners_start(void);
extern void listeners_close(void);
extern void listeners_describe(char *text, size_t size);

#endif

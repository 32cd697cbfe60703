/*-------------------------------------------------------------------------
 *
 * transport.h
 *	  A socket's bytes, in clear or with TLS.
 *
 * transport_receive() and transport_send() behave as recv() and sendmsg() do
 * for a socket that does not block.  With TLS they go on with the handshake
 * first, until it is done.  What they wait for is not always what they are named
 * after: while waits_to_write is set, transport_receive() is to be called again
 * when the socket can be written to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_TRANSPORT_H
#define GATEWAY_TRANSPORT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef struct Transport
{
	int			fd;
	SSL		   *ssl;			/* NULL: in clear */
	bool		handshaking;
	bool		direct;			/* TLS from the first byte, which needs ALPN */
	bool		waits_to_write; /* what receives has something to send first */
	char	   *unsent;			/* taken by transport_send(), NULL: nothing */
	size_t		unsent_length;
} Transport;

extern bool transport_begin_tls(Transport *transport, SSL * ssl, bool direct);
extern ssize_t transport_receive(Transport *transport, void *buffer, size_t size);
extern ssize_t transport_send(Transport *transport, const struct iovec *parts, int count);
extern const char *transport_error(void);
extern void transport_free(Transport *transport);

#endif

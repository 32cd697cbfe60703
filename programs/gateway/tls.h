/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  What TLS needs: the gateway's certificate, and whom it believes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_TLS_H
#define GATEWAY_TLS_H

#include <libpq-fe.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

extern bool tls_load(const char *certificate, const char *key, char *error, size_t size);
extern void tls_unload(void);
extern bool tls_is_on(void);
extern SSL * tls_for_client(bool http);
extern bool tls_learn_server(PGconn *conn, char *error, size_t size);
extern bool tls_to_server(void);
extern SSL * tls_for_server(void);
extern bool tls_same_certificate(PGconn *conn);

#endif

/*-------------------------------------------------------------------------
 *
 * redis_tls.c
 *	  See redis_tls.h.
 *
 * The socket blocks, with a time limit that the system keeps (SO_RCVTIMEO,
 * SO_SNDTIMEO), so each function here ends within that.  redis_tls_read() is called
 * when the socket is readable, and takes all that OpenSSL has decrypted then: what
 * would be left in there makes no socket readable.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/redis_tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <hiredis/sds.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "bridge/bridge.h"

/* Bytes that are read at a time. */
#define READ_SIZE 16384

static SSL_CTX * context_of_tls;
static SSL * ssl;

/* Write what OpenSSL says is wrong, or the system; false. */
static bool
describe(const char *what, int result, char *error, size_t size)
{
	long		verified = ssl != NULL ? SSL_get_verify_result(ssl) : X509_V_OK;
	int			number = errno;
	int			kind = ssl != NULL ? SSL_get_error(ssl, result) : SSL_ERROR_SSL;
	char		text[200] = "the connection is closed";

	if (verified != X509_V_OK)
		snprintf(text, sizeof(text), "%s; see --tls-ca", X509_verify_cert_error_string(verified));
	else if (ERR_peek_error() != 0)
		ERR_error_string_n(ERR_peek_error(), text, sizeof(text));
	else if (kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE)
		snprintf(text, sizeof(text), "it does not answer");
	else if (kind == SSL_ERROR_SYSCALL && number != 0)
		snprintf(text, sizeof(text), "%s", strerror(number));
	ERR_clear_error();
	snprintf(error, size, "%s: %s", what, text);
	return false;
}

/* Make what all connections share: whom to believe, and the own certificate. */
static bool
make_context(char *error, size_t size)
{
	const Options *o = &bridge.options;

	if (context_of_tls != NULL)
		return true;
	ERR_clear_error();
	context_of_tls = SSL_CTX_new(TLS_client_method());
	if (context_of_tls == NULL)
		return describe("TLS", 0, error, size);
	SSL_CTX_set_verify(context_of_tls, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_min_proto_version(context_of_tls, TLS1_2_VERSION);
	if ((o->tls_ca != NULL ?
		 SSL_CTX_load_verify_locations(context_of_tls, o->tls_ca, NULL) :
		 SSL_CTX_set_default_verify_paths(context_of_tls)) != 1)
		(void) describe("could not read the authorities' certificates (--tls-ca)", 0, error, size);
	else if (o->tls_cert != NULL &&
			 (SSL_CTX_use_certificate_chain_file(context_of_tls, o->tls_cert) != 1 ||
			  SSL_CTX_use_PrivateKey_file(context_of_tls, o->tls_key, SSL_FILETYPE_PEM) != 1))
		(void) describe("could not read the files of --tls-cert and --tls-key", 0, error, size);
	else
		return true;
	SSL_CTX_free(context_of_tls);
	context_of_tls = NULL;
	return false;
}

/* Have the certificate checked for the host, which is a name or an address. */
static bool
expect_host(const char *host)
{
	unsigned char address[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
	return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

/* Speak TLS from now on, if that is who should be there. */
bool
redis_tls_start(redisContext *context, const char *host, char *error, size_t size)
{
	int			result;

	if (!make_context(error, size))
		return false;
	ERR_clear_error();
	ssl = SSL_new(context_of_tls);
	if (ssl == NULL || SSL_set_fd(ssl, context->fd) != 1 || !expect_host(host))
		return describe("TLS", 0, error, size);
	result = SSL_connect(ssl);
	return result == 1 || describe("TLS", result, error, size);
}

/* Send all that hiredis has in its buffer. */
bool
redis_tls_write(redisContext *context, char *error, size_t size)
{
	size_t		length = sdslen(context->obuf);
	size_t		written;
	int			result;

	if (length == 0)
		return true;
	ERR_clear_error();
	result = SSL_write_ex(ssl, context->obuf, length, &written);
	if (result != 1)
		return describe("sending", result, error, size);
	sdsfree(context->obuf);
	context->obuf = sdsempty();
	return true;
}

/* Give hiredis' reader what has come. */
bool
redis_tls_read(redisContext *context, char *error, size_t size)
{
	char		bytes[READ_SIZE];
	size_t		length;
	int			result;

	do
	{
		ERR_clear_error();
		result = SSL_read_ex(ssl, bytes, sizeof(bytes), &length);
		if (result != 1)
			return describe("reading", result, error, size);
		if (redisReaderFeed(context->reader, bytes, length) != REDIS_OK)
		{
			snprintf(error, size, "%s", context->reader->errstr);
			return false;
		}
	} while (SSL_pending(ssl) > 0);
	return true;
}

/* The connection ends. */
void
redis_tls_end(void)
{
	SSL_free(ssl);
	ssl = NULL;
}

/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  See tls.h.
 *
 * 1. Clients get the certificate of the options tls-cert and tls-key.  They are
 *	  read again at SIGHUP; connections that there are keep the old one.
 *
 * 2. The login's leg goes to the server with TLS if the connection of the events
 *	  does, and believes whom that believes: sslmode, sslrootcert, sslcrl and
 *	  sslcrldir are taken from it, and read when it comes about.  It has no certificate of its own, or any client would log in by that.
 *
 * 3. No sessions are resumed and nothing is compressed, as in the server.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"

/* The protocol's name for direct TLS, as it is on the wire. */
static const unsigned char http_name[] = "\010http/1.1";
static const unsigned char protocol_name[] = "\012postgresql";

static SSL_CTX * client_context;
static SSL_CTX * server_context;
static char *server_host;		/* to be found in its certificate, or NULL */
static char *server_sni;		/* the name to ask for, or NULL */

/* Write OpenSSL's last error behind what could not be done. */
static void
describe(char *error, size_t size, const char *what, const char *file)
{
	const char *reason = ERR_reason_error_string(ERR_get_error());

	snprintf(error, size, "could not %s \"%s\": %s", what, file,
			 reason == NULL ? "unknown error" : reason);
}

/*
 * Only its owner may read the key; root's may be read by a group, too, as in the
 * server.
 */
static bool
key_is_private(const char *key, char *error, size_t size)
{
	struct stat status;
	mode_t		others;

	if (stat(key, &status) != 0)
	{
		snprintf(error, size, "could not find TLS key \"%s\": %s", key, strerror(errno));
		return false;
	}
	others = status.st_uid == 0 ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;
	if (!S_ISREG(status.st_mode) || (status.st_mode & others) != 0)
	{
		snprintf(error, size, "TLS key \"%s\" can be read by others: its mode must be 0600, or 0640 if it is root's", key);
		return false;
	}
	return true;
}

/* Of the protocols that the client names, take the one that is spoken here. */
static int
choose_protocol(SSL * ssl, const unsigned char **chosen, unsigned char *length,
				const unsigned char *named, unsigned int named_length, void *arg)
{
	const unsigned char *spoken = SSL_get_app_data(ssl);

	(void) arg;
	if (SSL_select_next_proto((unsigned char **) chosen, length, spoken,
							  spoken[0] + 1, named, named_length) ==
		OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_OK;
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* What both kinds of contexts have in common. */
static SSL_CTX *
make_context(const SSL_METHOD * method)
{
	SSL_CTX    *context = SSL_CTX_new(method);

	if (context == NULL)
		return NULL;
	SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
	SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
						SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
						SSL_OP_CLEANSE_PLAINTEXT);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return context;
}

/*
 * Read the certificate for clients and its key.  False, with the error written, if
 * that cannot be; what was read before stays then.
 */
bool
tls_load(const char *certificate, const char *key, char *error, size_t size)
{
	SSL_CTX    *context;

	if (!key_is_private(key, error, size))
		return false;
	ERR_clear_error();
	context = make_context(TLS_server_method());
	if (context == NULL)
	{
		describe(error, size, "use TLS for", certificate);
		return false;
	}
	SSL_CTX_set_num_tickets(context, 0);
	SSL_CTX_set_alpn_select_cb(context, choose_protocol, NULL);
	if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1)
		describe(error, size, "load TLS certificate", certificate);
	else if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1 ||
			 SSL_CTX_check_private_key(context) != 1)
		describe(error, size, "load TLS key", key);
	else
	{
		SSL_CTX_free(client_context);
		client_context = context;
		return true;
	}
	SSL_CTX_free(context);
	return false;
}

/* Have no certificate for clients any more. */
void
tls_unload(void)
{
	SSL_CTX_free(client_context);
	client_context = NULL;
}

/* Can clients have TLS? */
bool
tls_is_on(void)
{
	return client_context != NULL;
}

/*
 * For a client that connects, over HTTP or with PostgreSQL's protocol; NULL if there
 * is no memory.
 */
SSL *
tls_for_client(bool http)
{
	SSL		   *ssl = SSL_new(client_context);

	if (ssl != NULL)
	{
		SSL_set_app_data(ssl, (char *) (http ? http_name : protocol_name));
		SSL_set_accept_state(ssl);
	}
	return ssl;
}

/* The connection's parameter; NULL if it has none.  To be freed. */
static char *
parameter(PGconn *conn, const char *name)
{
	PQconninfoOption *options = PQconninfo(conn);
	char	   *value = NULL;

	for (PQconninfoOption * option = options; option != NULL && option->keyword != NULL; option++)
	{
		if (strcmp(option->keyword, name) == 0 && option->val != NULL && *option->val != '\0')
			value = memory_copy_string(option->val);
	}
	PQconninfoFree(options);
	return value;
}

/* Where libpq looks for that file if nothing is said; NULL if it is not there. */
static char *
default_file(const char *name)
{
	const char *home = getenv("HOME");
	char		path[4096];

	if (home == NULL || snprintf(path, sizeof(path), "%s/.postgresql/%s", home, name) >=
		(int) sizeof(path) || access(path, R_OK) != 0)
		return NULL;
	return memory_copy_string(path);
}

/*
 * Have the context refuse certificates that are revoked, as the connection does.  libpq
 * passes over lists that it cannot read; here only one that nobody has named.
 */
static bool
set_revoked(SSL_CTX * context, PGconn *conn, char *error, size_t size)
{
	X509_STORE *store = SSL_CTX_get_cert_store(context);
	char	   *file = parameter(conn, "sslcrl");
	char	   *directory = parameter(conn, "sslcrldir");
	bool		named = file != NULL || directory != NULL;
	bool		ok = true;

	if (!named)
		file = default_file("root.crl");
	if (file != NULL || directory != NULL)
		ok = X509_STORE_load_locations(store, file, directory) == 1 &&
			X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK |
								 X509_V_FLAG_CRL_CHECK_ALL) == 1;
	if (!ok)
		describe(error, size, "load revoked certificates from",
				 file != NULL ? file : directory);
	if (!ok && !named)
		log_line(LOG_LEVEL_WARNING, "%s", error);
	free(file);
	free(directory);
	return ok || !named;
}

/* Have the context believe what the connection believes. */
static bool
set_roots(SSL_CTX * context, PGconn *conn, const char *mode, const char *roots,
		  char *error, size_t size)
{
	bool		verify = strncmp(mode, "verify-", 7) == 0;
	bool		ok;

	if (roots != NULL && strcmp(roots, "system") == 0)
		ok = SSL_CTX_set_default_verify_paths(context) == 1;
	else if (roots != NULL && (verify || access(roots, F_OK) == 0))
		ok = SSL_CTX_load_verify_locations(context, roots, NULL) == 1;
	else if (!verify)
		return true;
	else
	{
		snprintf(error, size, "there is no file of certificates to believe, and sslmode is %s", mode);
		return false;
	}
	if (!ok)
	{
		describe(error, size, "load certificates from", roots);
		return false;
	}
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	return set_revoked(context, conn, error, size);
}

/* Forget how logins go to the server. */
static void
forget_server(void)
{
	SSL_CTX_free(server_context);
	free(server_host);
	free(server_sni);
	server_context = NULL;
	server_host = server_sni = NULL;
}

/*
 * The connection to the server stands: whether logins are to go there with TLS,
 * and whom they believe.  False, with the error written, if they cannot; then it stays as
 * it was, and may be tried again.
 */
bool
tls_learn_server(PGconn *conn, char *error, size_t size)
{
	SSL_CTX    *context;
	char	   *mode;
	char	   *roots;
	bool		ok;

	if (!PQsslInUse(conn))
	{
		forget_server();
		return true;
	}
	mode = parameter(conn, "sslmode");
	roots = parameter(conn, "sslrootcert");
	if (roots == NULL)
		roots = default_file("root.crt");
	ERR_clear_error();
	context = make_context(TLS_client_method());
	if (context == NULL)
	{
		snprintf(error, size, "logins cannot be passed through with TLS");
		ok = false;
	}
	else
		ok = set_roots(context, conn, mode == NULL ? "prefer" : mode, roots, error, size);
	if (ok)
	{
		forget_server();
		server_context = context;
	}
	else
		SSL_CTX_free(context);
	if (ok && ((mode != NULL && strcmp(mode, "verify-full") == 0) ||
			   (roots != NULL && strcmp(roots, "system") == 0)))
		server_host = memory_copy_string(PQhost(conn));
	if (ok && *PQhost(conn) != '/' && *PQhost(conn) != '@')
		server_sni = memory_copy_string(PQhost(conn));
	free(mode);
	free(roots);
	return ok;
}

/* Is the name an address? */
static bool
is_address(const char *name)
{
	unsigned char bytes[16];

	return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

/* Do logins go to the server with TLS? */
bool
tls_to_server(void)
{
	return server_context != NULL;
}

/* For a login's leg; NULL if there is no memory. */
SSL *
tls_for_server(void)
{
	SSL		   *ssl = server_context == NULL ? NULL : SSL_new(server_context);
	bool		ok = ssl != NULL;

	if (ok)
		SSL_set_connect_state(ssl);
	if (ok && server_sni != NULL && !is_address(server_sni))
		ok = SSL_set_tlsext_host_name(ssl, server_sni) == 1;
	if (ok && server_host != NULL)
		ok = is_address(server_host) ?
			X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), server_host) == 1 :
			SSL_set1_host(ssl, server_host) == 1;
	if (ok)
		return ssl;
	SSL_free(ssl);
	return NULL;
}

/*
 * Do clients see the certificate that the server has?  Else a client that binds its
 * password to the channel, as libpq does if it can, cannot log in.
 */
bool
tls_same_certificate(PGconn *conn)
{
	SSL		   *ssl = PQsslStruct(conn, "OpenSSL");
	X509	   *theirs = ssl == NULL ? NULL : SSL_get1_peer_certificate(ssl);
	X509	   *ours = client_context == NULL ? NULL : SSL_CTX_get0_certificate(client_context);
	bool		same = theirs != NULL && ours != NULL && X509_cmp(theirs, ours) == 0;

	X509_free(theirs);
	return same;
}

/*-------------------------------------------------------------------------
 *
 * transport.c
 *	  See transport.h.
 *
 * 1. OpenSSL wants to be called again with the same bytes where the socket took
 *	  not all of a record.  A queue may be cut meanwhile, so these are kept here
 *	  and count as sent.
 *
 * 2. It reads one record at a time, and the buffer of who receives holds more
 *	  than a record: nothing stays within OpenSSL that the socket does not tell of.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/transport.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/memory.h"

/* Bytes that go into a record. */
#define RECORD_BYTES (16 * 1024)

/* The reason of the last failure, where errno is EPROTO. */
static char last_error[200];

/* Why OpenSSL could not do something. */
const char *
transport_error(void)
{
	return last_error;
}

/*
 * Have TLS from now on; ssl is the transport's, and knows whether it accepts or
 * connects.  With direct, no TLS was asked for before, and the other side has to
 * name the protocol.  False if that cannot be.
 */
bool
transport_begin_tls(Transport *transport, SSL * ssl, bool direct)
{
	if (ssl == NULL || SSL_set_fd(ssl, transport->fd) != 1)
	{
		SSL_free(ssl);
		return false;
	}
	transport->ssl = ssl;
	transport->handshaking = true;
	transport->direct = direct;
	return true;
}

/* What OpenSSL's result means, as errno; returns -1, or 0 for an orderly end. */
static int
fail(Transport *transport, int result)
{
	int			saved = errno;
	unsigned long error;
	const char *reason;

	switch (SSL_get_error(transport->ssl, result))
	{
		case SSL_ERROR_WANT_READ:
			errno = EAGAIN;
			return -1;
		case SSL_ERROR_WANT_WRITE:
			transport->waits_to_write = true;
			errno = EAGAIN;
			return -1;
		case SSL_ERROR_ZERO_RETURN:
			return 0;
		case SSL_ERROR_SYSCALL:
			errno = saved != 0 ? saved : ECONNRESET;
			snprintf(last_error, sizeof(last_error), "%s", strerror(errno));
			return -1;
		default:
			break;
	}
	error = ERR_get_error();
	reason = ERR_reason_error_string(error);
	snprintf(last_error, sizeof(last_error), "%s", reason == NULL ? "unknown error" : reason);
	errno = EPROTO;
	return -1;
}

/* Go on with the handshake: 1 if it is done, else as fail() does. */
static int
shake_hands(Transport *transport)
{
	const unsigned char *protocol;
	unsigned int length;
	int			result;

	ERR_clear_error();
	errno = 0;
	result = SSL_do_handshake(transport->ssl);
	if (result != 1)
	{
		result = fail(transport, result);
		return result == 0 ? -1 : result;
	}
	transport->handshaking = false;
	if (!transport->direct)
		return 1;
	SSL_get0_alpn_selected(transport->ssl, &protocol, &length);
	if (length > 0)
		return 1;
	snprintf(last_error, sizeof(last_error), "the client names no protocol (ALPN)");
	errno = EPROTO;
	return -1;
}

/* Receive at most so many bytes; as recv(). */
ssize_t
transport_receive(Transport *transport, void *buffer, size_t size)
{
	size_t		count;
	int			result;

	transport->waits_to_write = false;
	if (transport->ssl == NULL)
		return recv(transport->fd, buffer, size, 0);
	if (transport->handshaking)
	{
		result = shake_hands(transport);
		if (result != 1)
			return result;
	}
	ERR_clear_error();
	errno = 0;
	result = SSL_read_ex(transport->ssl, buffer, size, &count);
	return result == 1 ? (ssize_t) count : fail(transport, result);
}

/* Send what was taken before; false if some of it is left. */
static bool
send_unsent(Transport *transport)
{
	size_t		sent;
	int			result;

	if (transport->unsent == NULL)
		return true;
	ERR_clear_error();
	errno = 0;
	result = SSL_write_ex(transport->ssl, transport->unsent, transport->unsent_length, &sent);
	if (result != 1)
	{
		(void) fail(transport, result);
		return false;
	}
	if (sent < transport->unsent_length)
	{
		memmove(transport->unsent, transport->unsent + sent, transport->unsent_length - sent);
		transport->unsent_length -= sent;
		explicit_bzero(transport->unsent + transport->unsent_length, sent);
		errno = EAGAIN;
		return false;
	}
	memory_wipe(transport->unsent, transport->unsent_length);
	transport->unsent = NULL;
	transport->unsent_length = 0;
	return true;
}

/* Copy what fits into a record; returns its length. */
static size_t
gather(const struct iovec *parts, int count, char *record)
{
	size_t		length = 0;

	for (int i = 0; i < count && length < RECORD_BYTES; i++)
	{
		size_t		part = parts[i].iov_len;

		if (part > RECORD_BYTES - length)
			part = RECORD_BYTES - length;
		memcpy(record + length, parts[i].iov_base, part);
		length += part;
	}
	return length;
}

/* Send a record, or keep what is left of it; returns how many bytes that were, or -1. */
static ssize_t
send_record(Transport *transport, const char *record, size_t length)
{
	size_t		sent;
	int			result;

	ERR_clear_error();
	errno = 0;
	result = SSL_write_ex(transport->ssl, record, length, &sent);
	if (result == 1)
		return sent;
	(void) fail(transport, result);
	if (errno != EAGAIN)
		return -1;

	/* a part of the record may be out: all of it has to follow */
	transport->waits_to_write = false;
	transport->unsent = memory_copy_bytes(record, length);
	transport->unsent_length = length;
	return length;
}

/*
 * Send the parts, or the first bytes of them; as sendmsg().  Without parts, what is
 * left of earlier ones: 0 if that is done.
 */
ssize_t
transport_send(Transport *transport, const struct iovec *parts, int count)
{
	static char record[RECORD_BYTES];
	struct msghdr message = {0};
	size_t		length;
	ssize_t		result;
	int			error;

	if (transport->ssl == NULL)
	{
		message.msg_iov = (struct iovec *) parts;
		message.msg_iovlen = count;
		return sendmsg(transport->fd, &message, MSG_NOSIGNAL);
	}
	if (transport->handshaking)
	{
		result = shake_hands(transport);
		if (result != 1)
			return result;
	}
	if (!send_unsent(transport))
		return -1;
	length = gather(parts, count, record);
	if (length == 0)
		return 0;
	result = send_record(transport, record, length);
	error = errno;
	explicit_bzero(record, length);
	errno = error;
	return result;
}

/* The end; the socket is who opened it's. */
void
transport_free(Transport *transport)
{
	if (transport->ssl != NULL && !transport->handshaking)
	{
		ERR_clear_error();
		(void) SSL_shutdown(transport->ssl);
	}
	SSL_free(transport->ssl);
	memory_wipe(transport->unsent, transport->unsent_length);
	transport->ssl = NULL;
	transport->unsent = NULL;
}

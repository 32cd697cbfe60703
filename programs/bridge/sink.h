/*-------------------------------------------------------------------------
 *
 * sink.h
 *	  The broker's side: what a kind of broker does, and what it is told.
 *
 * The sink has a thread of its own, as brokers' libraries wait as they like.  All
 * functions of a SinkKind are called there, one at a time, and all sink_...()
 * functions below from there, but for those that say otherwise.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_SINK_H
#define BRIDGE_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bridge/outbox.h"

/* How long an error's text may be, with its zero byte. */
#define SINK_ERROR_SIZE 400

typedef struct SinkKind
{
	const char *name;
	const char *schemes[3];		/* the second one is with TLS */

	/*
	 * Do the options fit?  Called by the main thread before all else.  Sets
	 * the template's text; false, with the error written, if something is
	 * wrong.
	 */
	bool		(*configure) (const char **address, char *error, size_t size);

	/*
	 * May a value that fills the template have that byte?  '_' takes its
	 * place.
	 */
	bool		(*allowed) (unsigned char c);

	/* Connect, within some 10 s, and see whether what is named is there. */
	bool		(*connect) (char *error);

	/*
	 * Send the message, or put it into a buffer until flush().  false: the
	 * connection is lost.  What becomes of it is told by wait() or at once.
	 */
	bool		(*publish) (const Message *message, uint64_t position, char *error);

	/*
	 * For --check: would a message that goes to that address get there, or to
	 * the dead-letter place of that name?  There is a connection.
	 */
	bool		(*exists) (const char *address, bool dead, char *error);

	/* May publish() be called now?  NULL: always. */
	bool		(*ready) (void);

	/* Send what publish() has put into a buffer. */
	bool		(*flush) (char *error);

	/*
	 * Take what the broker has said, and if that is nothing, wait for it for
	 * at most so many ms, or until sink_wake_fd() is readable.  false: the
	 * connection is lost.
	 */
	bool		(*wait) (int timeout, char *error);

	/* Close the connection, whatever its state; all that it has sent is void. */
	void		(*disconnect) (void);

	int			most_sent;		/* the greatest window; 0: any */
	bool		reconnects;		/* it finds its broker again by itself */
	bool		in_turns;		/* nothing is sent while something is not
								 * confirmed */
} SinkKind;

typedef enum SinkState
{
	SINK_CONNECTING,
	SINK_UP,
	SINK_BLOCKED,				/* the broker takes nothing for now */
	SINK_REFUSED,				/* a message is to be tried again later */
	SINK_AWAY,					/* until the next try */
	SINK_STOPPED				/* for good */
} SinkState;

/* For the main thread. */
extern const SinkKind *sink_kind(const char *scheme);
extern void sink_start(void);
extern void sink_wake(void);
extern void sink_drain(void);
extern void sink_stop(void);
extern SinkState sink_state(void);
extern const char *sink_state_name(SinkState state);

/* For a kind of broker. */
struct UrlHost;

extern const struct UrlHost *sink_next_host(void);
extern int	sink_wake_fd(void);
extern bool sink_poll(int fd, int timeout);
extern void sink_confirmed(uint64_t position);
extern void sink_refused(uint64_t position, const char *reason);
extern void sink_unroutable(uint64_t position, const char *reason);
extern void sink_suspected(uint64_t position, const char *reason);
extern void sink_blamed(const char *reason);
extern void sink_blocked(bool blocked, const char *reason);
extern void sink_trouble(const char *reason, bool away);
extern void sink_back(void);
extern const char *sink_address(const Message *message);

#endif

/*-------------------------------------------------------------------------
 *
 * client.h
 *	  What the benchmark's client programs share.
 *
 * They connect as the environment says (PGHOST, PGDATABASE, PGOPTIONS ...).
 * Anything unexpected ends the program with a message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <libpq-fe.h>

/* poll() for a prepared statement: subscription, max_messages, timeout. */
#define POLL_STATEMENT	"poll"

/* Taking from an outbox or from PgQ, for a prepared statement: max_messages. */
#define TAKE_STATEMENT	"take"

/* Who takes from these and finds nothing looks again after so long. */
#define TAKE_AGAIN_MS	10

extern void client_die(const char *format, ...)
			__attribute__((format(printf, 1, 2), noreturn));
extern long client_number(const char *text, const char *what);
extern int64_t client_now_ns(void);
extern int64_t client_cpu_ns(pid_t pid);
extern PGconn *client_connect(const char *application);
extern PGresult *client_query(PGconn *conn, const char *sql,
							  int nparams, const char *const *params);
extern void client_execute(PGconn *conn, const char *sql);
extern void client_listen(PGconn *conn, const char *channel);
extern void client_prepare_poll(PGconn *conn, bool consume);
extern void client_subscribe(PGconn *conn, const char *subscription,
							 const char *channel, const char *start_at,
							 bool lasting);
extern bool client_takes(const char *kind);
extern void client_prepare_take(PGconn *conn, const char *kind,
								const char *queue);
extern void client_send_take(PGconn *conn, const char *max_messages);
extern void client_send_poll(PGconn *conn, const char *subscription,
							 const char *max_messages, const char *timeout);
extern bool client_poll_result(PGconn *conn, PGresult **result);
extern int	client_count_rows(const PGresult *result, long *lost);

#endif							/* BENCH_CLIENT_H */

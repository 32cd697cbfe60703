/*-------------------------------------------------------------------------
 *
 * limits.c
 *	  See limits.h.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/limits.h"

#define MB (1024 * 1024)

Limits		limits = {
	.client_buffer = MB,
	.max_clients = 15000,
	.max_message = MB,
	.max_startup = 10000,
	.max_channels = 10000,
	.max_statements = 1000,
	.max_transaction = 8 * MB,
	.max_commits = 10000,
	.max_logins = 8,
	.failed_logins = 100,
	.login_queue = 5000,
	.login_timeout = 60,
	.server_timeout = 30,
	.closing_timeout = 5,
	.session_check = 30,
	.history = 16 * MB,
	.max_resumes = 32,
	.http_head = 8 * 1024,
	.http_body = MB,
	.http_head_timeout = 10,
	.http_idle = 60,
	.http_heartbeat = 15,
	.http_write_timeout = 120,
	.drain_timeout = 10,
};

const LimitInfo limit_table[] = {
	{"client-buffer", &limits.client_buffer, 16 * 1024, INT64_C(1) << 31,
	"bytes that wait for a client before it is too slow"},
	{"max-clients", &limits.max_clients, 1, 1000000,
	"connections of clients"},
	{"max-message", &limits.max_message, 16 * 1024, 64 * MB,
	"bytes of one message of a client"},
	{"max-startup", &limits.max_startup, 1024, 65536,
	"bytes of a startup packet or a password"},
	{"max-channels", &limits.max_channels, 1, 1000000,
	"channels that one client listens to"},
	{"max-statements", &limits.max_statements, 1, 100000,
	"prepared statements and portals of one client"},
	{"max-transaction", &limits.max_transaction, 64 * 1024, 1024 * MB,
	"bytes of what one transaction notifies"},
	{"max-commits", &limits.max_commits, 1, 1000000,
	"transactions that wait for the server"},
	{"max-logins", &limits.max_logins, 1, 1000,
	"logins that the server has at a time"},
	{"failed-logins", &limits.failed_logins, 1, 1000000,
	"logins from one address, but for the Unix socket, that may fail in a minute; more are not tried"},
	{"login-queue", &limits.login_queue, 0, 1000000,
	"logins that wait for their turn"},
	{"login-timeout", &limits.login_timeout, 1, 3600,
	"seconds that a login may take"},
	{"server-timeout", &limits.server_timeout, 1, 3600,
	"seconds that a client waits for a server that is away"},
	{"closing-timeout", &limits.closing_timeout, 1, 60,
	"seconds to take the last message before the connection ends"},
	{"max-session-age", &limits.max_session_age, 0, INT64_C(1) << 31,
	"seconds after which a session ends, as its password may be another one; 0: never"},
	{"session-check", &limits.session_check, 1, 3600,
	"seconds between two looks whether roles may still connect"},
	{"history", &limits.history, 0, INT64_C(1) << 40,
	"bytes of the last events that are kept for HTTP clients that are behind"},
	{"max-resumes", &limits.max_resumes, 1, 1000,
	"subscriptions at a time that read what HTTP clients have missed"},
	{"http-head", &limits.http_head, 1024, 64 * 1024,
	"bytes of the head of an HTTP request"},
	{"http-body", &limits.http_body, 1024, 64 * MB,
	"bytes of the body of an HTTP request"},
	{"http-head-timeout", &limits.http_head_timeout, 1, 600,
	"seconds that the head, or the body, of an HTTP request may take"},
	{"http-idle", &limits.http_idle, 1, 86400,
	"seconds between two requests of an HTTP connection"},
	{"http-heartbeat", &limits.http_heartbeat, 1, 3600,
	"seconds until a comment is sent on a stream that has no events"},
	{"http-write-timeout", &limits.http_write_timeout, 1, 86400,
	"seconds until a stream ends whose client takes nothing"},
	{"drain-timeout", &limits.drain_timeout, 1, 600,
	"seconds from SIGTERM until the program ends anyway"},
};

const int	limit_count = sizeof(limit_table) / sizeof(limit_table[0]);

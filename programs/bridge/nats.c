/*-------------------------------------------------------------------------
 *
 * nats.c
 *	  NATS JetStream, through cnats.
 *
 * 1. Messages are published asynchronously.  The library calls ack_came() for each
 *	  one, in threads of its own: it puts down the outcome, and wait() takes it in
 *	  the sink's thread.  A position travels as the message's pointer in a table, as
 *	  the library hands the message back.
 *
 * 2. Nats-Msg-Id is the message's key: the system identifier, the database, the event's
 *	  id and a sum of its payload.  The stream drops what has an id that it has seen
 *	  within its window (two minutes unless it says otherwise).  Servers may have
 *	  events with the same id, and payloads may be made up.
 *
 * 3. If a message is refused, those behind it must not come before it.  So each one
 *	  says which id the stream's last message has to have: that of the one before.
 *	  That holds as long as nobody else publishes there; the first refusal for that
 *	  reason while nothing else was refused shows that somebody does, and the bridge
 *	  goes on without; then only a window of 1 keeps the order over refusals.  A
 *	  connection is begun without, for one message.  With more than one subject the
 *	  messages may go to different streams, and that is not done.
 *
 * 4. The library's own reconnecting is off: the sink does it.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <nats/nats.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge/bridge.h"
#include "bridge/json.h"
#include "bridge/sink.h"
#include "common/bytes.h"
#include "common/hash.h"
#include "common/log.h"
#include "common/memory.h"

#define CONNECT_MS 10000

/*
 * The longest subject.  It has to find room in one line of the protocol, of which a
 * server takes 4096 bytes, and closes the connection of who sends more.
 */
#define SUBJECT_SIZE 1000

/* JetStream's error numbers: the last id is another one; the message is too long. */
#define WRONG_LAST_ID 10070
#define MESSAGE_TOO_LARGE 10054

/* A message that is under way. */
typedef struct Pending
{
	HashNode	node;			/* by msg */
	natsMsg    *msg;
	uint64_t	position;
} Pending;

/* What has become of one. */
typedef struct Outcome
{
	natsMsg    *msg;			/* ours, to be destroyed */
	natsStatus	status;
	int			code;			/* JetStream's */
	char		text[120];
} Outcome;

typedef struct Nats
{
	natsConnection *connection;
	jsCtx	   *js;
	uintptr_t	generation;		/* of the connection */
	HashTable	pending;
	bool		chained;		/* each message names the one before */
	bool		chain_begun;
	bool		chain_broken;	/* something was refused: wait for the rest */
	char		last_id[200];

	/* belongs to the lock */
	pthread_mutex_t lock;
	Outcome    *outcomes;
	int			outcome_count;
	int			outcome_room;
	bool		closed;
	char		closed_why[200];
} Nats;

static Nats nats = {.lock = PTHREAD_MUTEX_INITIALIZER,.chained = true};

/* May a value that fills the subject have that byte? */
static bool
nats_allowed(unsigned char c)
{
	return c > ' ' && c != 0x7F && c != '*' && c != '>';
}

/* Is it a subject to which can be published: tokens with dots between? */
static bool
is_subject(const char *text)
{
	if (*text == '\0' || *text == '.' || strstr(text, "..") != NULL ||
		text[strlen(text) - 1] == '.')
		return false;
	for (; *text != '\0'; text++)
	{
		if (!nats_allowed((unsigned char) *text))
			return false;
	}
	return true;
}

/* Are the options good for this kind of broker? */
static bool
nats_configure(const char **address, char *error, size_t size)
{
	const Options *o = &bridge.options;

	*address = o->subject != NULL ? o->subject : "{channel}";
	if (strpbrk(*address, " *>\t") != NULL)
		snprintf(error, size, "option subject takes no spaces and no wildcards, as \"%s\" has", *address);
	else if (strchr(*address, '{') == NULL && !is_subject(*address))
		snprintf(error, size, "option subject takes tokens with dots between, not \"%s\"", *address);
	else if (o->dead_letter != NULL && !is_subject(o->dead_letter))
		snprintf(error, size, "option dead-letter takes a subject, not \"%s\"", o->dead_letter);
	else
	{
		nats.chained = strchr(*address, '{') == NULL && o->dead_letter == NULL;
		return true;
	}
	return false;
}

/* The broker has answered, or not in time: in a thread of the library's. */
static void
ack_came(jsCtx *js, natsMsg *msg, jsPubAck *ack, jsPubAckErr *failed, void *closure)
{
	Outcome    *outcome;
	bool		first;

	(void) js;
	(void) ack;
	(void) closure;
	pthread_mutex_lock(&nats.lock);
	if (nats.outcome_count == nats.outcome_room)
	{
		nats.outcome_room = nats.outcome_room > 0 ? nats.outcome_room * 2 : 64;
		nats.outcomes = memory_resize(nats.outcomes, nats.outcome_room * sizeof(Outcome));
	}
	first = nats.outcome_count == 0;
	outcome = &nats.outcomes[nats.outcome_count++];
	memset(outcome, 0, sizeof(*outcome));
	outcome->msg = msg;
	if (failed != NULL)
	{
		outcome->status = failed->Err != NATS_OK ? failed->Err : NATS_ERR;
		outcome->code = (int) failed->ErrCode;
		snprintf(outcome->text, sizeof(outcome->text), "%s",
				 failed->ErrText != NULL ? failed->ErrText : natsStatus_GetText(outcome->status));
	}
	pthread_mutex_unlock(&nats.lock);
	/* (wait() takes all that there are) */
	if (first)
		sink_wake();
}

/* The connection is lost: in a thread of the library's. */
static void
connection_closed(natsConnection *connection, void *closure)
{
	const char *why = NULL;

	(void) natsConnection_GetLastError(connection, &why);
	pthread_mutex_lock(&nats.lock);
	nats.closed |= (uintptr_t) closure == nats.generation;
	snprintf(nats.closed_why, sizeof(nats.closed_why), "%s",
			 why != NULL && *why != '\0' ? why : "the connection is closed");
	pthread_mutex_unlock(&nats.lock);
	sink_wake();
}

/*
 * The server has said that something is wrong: in a thread of the library's.  To
 * publish where one may not has no other answer, so it ends the connection.
 */
static void
server_complains(natsConnection *connection, natsSubscription * subscription,
				 natsStatus status, void *closure)
{
	(void) subscription;
	if (status == NATS_NOT_PERMITTED)
		connection_closed(connection, closure);
}

/* Give the options TLS, as the bridge's say. */
static natsStatus
set_tls(natsOptions *options, const UrlHost *host)
{
	const Options *o = &bridge.options;
	natsStatus	status = natsOptions_SetSecure(options, true);

	if (status == NATS_OK)
		status = natsOptions_LoadCATrustedCertificates(options, o->tls_ca != NULL ? o->tls_ca :
													   "/etc/ssl/certs/ca-certificates.crt");
	if (status == NATS_OK && o->tls_cert != NULL)
		status = natsOptions_LoadCertificatesChain(options, o->tls_cert, o->tls_key);
	if (status == NATS_OK)
		status = natsOptions_SetExpectedHostname(options, host->name);
	return status;
}

/* Give the options the server. */
static natsStatus
set_server(natsOptions *options, const UrlHost *host)
{
	char		text[400];
	bool		ipv6 = strchr(host->name, ':') != NULL;

	snprintf(text, sizeof(text), "nats://%s%s%s:%d", ipv6 ? "[" : "", host->name,
			 ipv6 ? "]" : "", host->port != 0 ? host->port : 4222);
	return natsOptions_SetURL(options, text);
}

/* The options of a connection, to be destroyed; NULL, with the error, if there are none. */
static natsOptions *
make_options(const UrlHost *host, char *error)
{
	const Options *o = &bridge.options;
	natsOptions *options = NULL;
	char		name[100];
	natsStatus	status = natsOptions_Create(&options);

	snprintf(name, sizeof(name), "pgpubsub-bridge %s", o->subscription);
	if (status == NATS_OK)
		status = set_server(options, host);
	if (status == NATS_OK)
		status = natsOptions_SetName(options, name);
	if (status == NATS_OK)
		status = natsOptions_SetTimeout(options, CONNECT_MS);
	if (status == NATS_OK)
		status = natsOptions_SetAllowReconnect(options, false);
	if (status == NATS_OK)
		status = natsOptions_SetPingInterval(options, 5000);
	if (status == NATS_OK)
		status = natsOptions_SetMaxPingsOut(options, 2);
	if (status == NATS_OK)
		status = natsOptions_SetClosedCB(options, connection_closed, (void *) nats.generation);
	if (status == NATS_OK)
		status = natsOptions_SetErrorHandler(options, server_complains, (void *) nats.generation);
	if (status == NATS_OK && o->url.user != NULL && o->url.password == NULL)
		status = natsOptions_SetToken(options, o->url.user);
	else if (status == NATS_OK && o->url.user != NULL)
		status = natsOptions_SetUserInfo(options, o->url.user, o->url.password);
	if (status == NATS_OK && o->tls)
		status = set_tls(options, host);
	if (status == NATS_OK)
		return options;
	snprintf(error, SINK_ERROR_SIZE, "options: %s", natsStatus_GetText(status));
	natsOptions_Destroy(options);
	return NULL;
}

/* Is there JetStream? */
static bool
check_stream(char *error)
{
	jsErrCode	code = 0;
	jsAccountInfo *account = NULL;
	natsStatus	status = js_GetAccountInfo(&account, nats.js, NULL, &code);

	jsAccountInfo_Destroy(account);
	if (status == NATS_OK)
		return true;
	snprintf(error, SINK_ERROR_SIZE, "JetStream does not answer: %s%s",
			 natsStatus_GetText(status), code == 10039 ? " (it is not enabled for this account)" : "");
	return false;
}

/* Is there a stream that takes the subject? */
static bool
nats_exists(const char *address, bool dead, char *error)
{
	static const char *const names[] = {"streams"};
	JsonValue	streams;
	Bytes		request = {0};
	natsMsg    *reply = NULL;
	natsStatus	status;
	bool		good;

	(void) dead;
	bytes_append(&request, "{\"subject\":", 11);
	json_append_quoted(&request, address);
	bytes_append_byte(&request, '}');
	status = natsConnection_Request(&reply, nats.connection, "$JS.API.STREAM.NAMES",
									request.data, (int) request.end, CONNECT_MS);
	bytes_free(&request);
	if (status != NATS_OK)
	{
		snprintf(error, SINK_ERROR_SIZE, "JetStream does not tell its streams: %s",
				 natsStatus_GetText(status));
		return false;
	}
	good = json_members(natsMsg_GetData(reply), (size_t) natsMsg_GetDataLength(reply),
						names, &streams, 1) && streams.start != NULL &&
		*streams.start == '[' && streams.length > 2;
	natsMsg_Destroy(reply);
	if (!good)
		snprintf(error, SINK_ERROR_SIZE, "no stream takes this subject");
	return good;
}

/* Connect. */
static bool
nats_connect(char *error)
{
	const UrlHost *host = sink_next_host();
	natsOptions *options;
	jsOptions	js_options;
	natsStatus	status;

	pthread_mutex_lock(&nats.lock);
	nats.generation++;
	nats.closed = false;
	pthread_mutex_unlock(&nats.lock);
	options = make_options(host, error);
	if (options == NULL)
		return false;
	nats.chain_begun = nats.chain_broken = false;
	status = natsConnection_Connect(&nats.connection, options);
	natsOptions_Destroy(options);
	if (status != NATS_OK)
	{
		const char *why = nats_GetLastError(NULL);

		snprintf(error, SINK_ERROR_SIZE, "%s: %s%s%s", host->name,
				 natsStatus_GetText(status), why != NULL ? ": " : "", why != NULL ? why : "");
		return false;
	}
	jsOptions_Init(&js_options);
	js_options.Wait = CONNECT_MS;
	js_options.PublishAsync.MaxPending = bridge.options.window + 1;
	js_options.PublishAsync.AckHandler = ack_came;
	status = natsConnection_JetStream(&nats.js, nats.connection, &js_options);
	if (status == NATS_OK)
		return check_stream(error);
	snprintf(error, SINK_ERROR_SIZE, "JetStream: %s", natsStatus_GetText(status));
	return false;
}

/* Forget all that is under way. */
static void
forget_pending(void)
{
	for (size_t i = 0; i < nats.pending.size; i++)
	{
		while (nats.pending.heads[i] != NULL)
		{
			Pending    *pending = hash_container(Pending, node, nats.pending.heads[i]);

			hash_remove(&nats.pending, &pending->node);
			free(pending);
		}
	}
	hash_free(&nats.pending);
}

/* Close the connection. */
static void
nats_disconnect(void)
{
	jsCtx_Destroy(nats.js);
	nats.js = NULL;
	natsConnection_Destroy(nats.connection);
	nats.connection = NULL;
	pthread_mutex_lock(&nats.lock);
	for (int i = 0; i < nats.outcome_count; i++)
		natsMsg_Destroy(nats.outcomes[i].msg);
	nats.outcome_count = 0;
	pthread_mutex_unlock(&nats.lock);
	forget_pending();
}

/* Set a header; a channel may have any byte, and a line break would end the header. */
static natsStatus
set_header(natsMsg *msg, const char *name, const char *value)
{
	char		text[300];

	snprintf(text, sizeof(text), "%s", value);
	for (char *at = text; *at != '\0'; at++)
	{
		if ((unsigned char) *at < ' ' || *at == 0x7F)
			*at = '?';
	}
	return natsMsgHeader_Set(msg, name, text);
}

/* Give the message its headers. */
static natsStatus
set_headers(natsMsg *msg, const Message *message)
{
	char		number[32];
	natsStatus	status;

	snprintf(number, sizeof(number), "%" PRId64, message->seq);
	status = set_header(msg, "seq", number);
	if (status == NATS_OK)
		status = set_header(msg, "id", message->id);
	if (status == NATS_OK)
		status = set_header(msg, "type", message->type);
	if (status == NATS_OK)
		status = set_header(msg, "content-type", message->content_type);
	if (status == NATS_OK && message->channel[0] != '\0')
		status = set_header(msg, "channel", message->channel);
	if (status == NATS_OK && message->op[0] != '\0')
		status = set_header(msg, "op", message->op);
	if (status == NATS_OK && message->is_gap)
	{
		snprintf(number, sizeof(number), "%" PRId64, message->lost);
		status = set_header(msg, "lost", number);
	}
	if (status == NATS_OK && message->dead)
		status = set_header(msg, "reason", message->reason);
	if (status == NATS_OK && message->dead)
		status = set_header(msg, "subject", message->address);
	return status;
}

/* The hash of a message's pointer. */
static uint64_t
hash_of(const natsMsg *msg)
{
	uintptr_t	number = (uintptr_t) msg;

	return hash_bytes(&number, sizeof(number));
}

/* Hand the message to the library, which owns it then. */
static natsStatus
send_msg(natsMsg *msg, const Message *message, uint64_t position)
{
	Pending    *pending = memory_get_zeroed(sizeof(Pending));
	jsPubOptions options;
	char		id[sizeof(nats.last_id)];
	natsMsg    *given = msg;
	natsStatus	status;

	jsPubOptions_Init(&options);
	snprintf(id, sizeof(id), "%s%s", message->dead ? "dead-" : "", message->key);
	options.MsgId = id;
	if (nats.chained && nats.chain_begun)
		options.ExpectLastMsgId = nats.last_id;
	pending->msg = msg;
	pending->position = position;
	hash_insert(&nats.pending, &pending->node, hash_of(msg));
	status = js_PublishMsgAsync(nats.js, &given, &options);
	if (status == NATS_OK)
	{
		strcpy(nats.last_id, id);
		nats.chain_begun = true;
		return status;
	}
	hash_remove(&nats.pending, &pending->node);
	free(pending);
	natsMsg_Destroy(given);
	return status;
}

/* What is behind a message that was refused has to fail before anything is sent. */
static bool
nats_ready(void)
{
	return !nats.chain_broken;
}

/* Publish a message. */
static bool
nats_publish(const Message *message, uint64_t position, char *error)
{
	const char *subject = sink_address(message);
	natsMsg    *msg = NULL;
	natsStatus	status;

	if (!is_subject(subject))
	{
		sink_unroutable(position, "that is no subject");
		return true;
	}
	if (strlen(subject) > SUBJECT_SIZE)
	{
		sink_unroutable(position, "the subject is longer than 1000 bytes");
		return true;
	}
	if (message->payload_length > (size_t) natsConnection_GetMaxPayload(nats.connection))
	{
		sink_unroutable(position, "the message is longer than the broker's max_payload");
		return true;
	}
	status = natsMsg_Create(&msg, subject, NULL, message->payload, (int) message->payload_length);
	if (status == NATS_OK)
		status = set_headers(msg, message);
	if (status == NATS_OK)
		status = send_msg(msg, message, position);
	else
		natsMsg_Destroy(msg);
	if (status == NATS_OK)
		return true;
	if (status == NATS_MAX_PAYLOAD)
	{
		sink_unroutable(position, "the message is longer with its headers than the broker's max_payload");
		return true;
	}
	snprintf(error, SINK_ERROR_SIZE, "publishing: %s", natsStatus_GetText(status));
	return false;
}

/* Have the library send what it has put into its buffer. */
static bool
nats_flush(char *error)
{
	(void) error;
	return true;
}

/* The position of a message that is under way no more; false: it is none of these. */
static bool
take_pending(const natsMsg *msg, uint64_t *position)
{
	for (HashNode *node = hash_first(&nats.pending, hash_of(msg)); node != NULL; node = hash_next(node))
	{
		Pending    *pending = hash_container(Pending, node, node);

		if (pending->msg == msg)
		{
			*position = pending->position;
			hash_remove(&nats.pending, node);
			free(pending);
			return true;
		}
	}
	return false;
}

/*
 * A message has failed because the one before it is not the stream's last.  If that
 * was refused, this was to be; if nothing was, somebody else publishes there.
 */
static void
chain_failed(uint64_t position)
{
	if (nats.chained && !nats.chain_broken)
	{
		log_line(LOG_LEVEL_WARNING, "somebody else publishes to the stream: over refusals, only --window 1 keeps the order");
		nats.chained = false;
	}
	/* (those that still fail have to go before what comes behind them) */
	nats.chain_broken = true;
	outbox_requeue(position);
}

/* What has become of one message. */
static void
take_outcome(const Outcome *outcome)
{
	uint64_t	position;
	bool		known = take_pending(outcome->msg, &position);

	natsMsg_Destroy(outcome->msg);
	if (!known)
		return;
	if (outcome->status == NATS_OK)
		sink_confirmed(position);
	else if (outcome->code == WRONG_LAST_ID)
		chain_failed(position);
	else
	{
		nats.chain_broken |= nats.chained;
		if (outcome->status == NATS_NO_RESPONDERS)
			sink_unroutable(position, "no stream takes this subject");
		else if (outcome->code == MESSAGE_TOO_LARGE)
			sink_unroutable(position, outcome->text);
		else
			sink_refused(position, outcome->text);
	}
}

/* Take what has become of messages, or wait for something to. */
static bool
nats_wait(int timeout, char *error)
{
	Outcome    *outcomes;
	int			count;
	bool		closed;

	pthread_mutex_lock(&nats.lock);
	outcomes = nats.outcomes;
	count = nats.outcome_count;
	nats.outcomes = NULL;
	nats.outcome_count = nats.outcome_room = 0;
	closed = nats.closed;
	if (closed)
		snprintf(error, SINK_ERROR_SIZE, "%s", nats.closed_why);
	pthread_mutex_unlock(&nats.lock);
	for (int i = 0; i < count; i++)
		take_outcome(&outcomes[i]);
	free(outcomes);
	if (nats.pending.count == 0 && nats.chain_broken)
		nats.chain_broken = nats.chain_begun = false;
	if (count == 0 && !closed)
		sink_poll(-1, timeout);
	return !closed;
}

const SinkKind nats_sink = {
	.name = "NATS",
	.schemes = {"nats", "tls"},
	.configure = nats_configure,
	.allowed = nats_allowed,
	.connect = nats_connect,
	.exists = nats_exists,
	.ready = nats_ready,
	.publish = nats_publish,
	.flush = nats_flush,
	.wait = nats_wait,
	.disconnect = nats_disconnect
};

/*-------------------------------------------------------------------------
 *
 * redis.c
 *	  Redis streams, through hiredis.
 *
 * 1. An event's entry has the id SEQ-0, a gap's SEQ-1, so that a stream cannot have
 *	  an event twice, and consumers see how far they are.
 *
 * 2. If the entry of one event cannot be added and that of the next one is, the
 *	  first one never can be: ids only grow.  So what publish() is given goes as one
 *	  transaction, MULTI to EXEC.  No memory, no disk, no permission have all of it
 *	  refused.  What an entry meets by itself, a key of another type, all entries of
 *	  that stream meet.  The next transaction is not sent before this one has
 *	  answered.
 *
 * 3. "The ID specified in XADD is equal or smaller" may mean that the entry is
 *	  there, sent before a connection was lost: so it is looked for, and only if it
 *	  is found, that counts as added.  If it is not, the stream has had a later entry
 *	  from somebody else, and the event cannot be delivered.
 *
 * hiredis 0.14 knows no TLS: redis_tls.c does that.  The streams of one transaction
 * must be in one node: no cluster.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/time.h>

#include "bridge/bridge.h"
#include "bridge/redis_tls.h"
#include "bridge/sink.h"
#include "common/bytes.h"
#include "common/log.h"
#include "common/memory.h"

#define CONNECT_SECONDS 10

/* Messages of one transaction, which both sides hold in memory. */
#define MOST_MESSAGES 1000

/* Words of XADD, with all fields. */
#define MOST_WORDS 20

/* What the transaction is at. */
typedef enum RedisStep
{
	STEP_FILL,					/* messages are put into it */
	STEP_ANSWERS,				/* it is sent: an answer for each command,
								 * then EXEC's */
	STEP_SEARCH					/* entries that may be there are looked for */
} RedisStep;

/* What has become of a message in the transaction. */
typedef enum RedisFate
{
	FATE_UNKNOWN,
	FATE_ADDED,
	FATE_SMALLER,				/* its id is not greater than the stream's
								 * last one */
	FATE_REFUSED
} RedisFate;

typedef struct Entry
{
	uint64_t	position;
	const Message *message;
	RedisFate	fate;
	char		why[120];
} Entry;

typedef struct Redis
{
	redisContext *context;
	bool		tls;
	RedisStep	step;
	int			count;			/* of the entries */
	int			answers;		/* that have come: of MULTI first */
	bool		aborted;		/* one of them was an error */
	int			searched;		/* the entry whose search answers next */
	Entry		entries[MOST_MESSAGES];
} Redis;

static Redis redis;

/* Are the options good for this kind of broker? */
static bool
redis_configure(const char **address, char *error, size_t size)
{
	const Options *o = &bridge.options;

	if (strspn(o->url.path, "0123456789") != strlen(o->url.path))
		snprintf(error, size, "a redis:// URL ends in a database's number, not in \"%s\"", o->url.path);
	else
	{
		*address = o->stream != NULL ? o->stream : "{channel}";
		return true;
	}
	return false;
}

/* A key may have any byte. */
static bool
redis_allowed(unsigned char c)
{
	return c != '\0';
}

/* Write what the context says is wrong. */
static void
describe(char *error)
{
	snprintf(error, SINK_ERROR_SIZE, "%s", redis.context == NULL ? "out of memory" :
			 redis.context->err == REDIS_ERR_IO && errno == EAGAIN ? "it does not answer" :
			 redis.context->errstr[0] != '\0' ? redis.context->errstr : "the connection is closed");
}

/* Send what is in the library's buffer. */
static bool
send_buffer(char *error)
{
	int			done = 0;

	if (redis.tls)
		return redis_tls_write(redis.context, error, SINK_ERROR_SIZE);
	while (!done)
	{
		if (redisBufferWrite(redis.context, &done) != REDIS_OK)
		{
			describe(error);
			return false;
		}
	}
	return true;
}

/* Give the library what has come, or wait for something to come. */
static bool
receive(char *error)
{
	if (redis.tls)
		return redis_tls_read(redis.context, error, SINK_ERROR_SIZE);
	if (redisBufferRead(redis.context) == REDIS_OK)
		return true;
	describe(error);
	return false;
}

/* The next answer of those that have come; NULL if it is not there yet. */
static bool
next_answer(redisReply **reply, char *error)
{
	void	   *found = NULL;

	if (redisGetReplyFromReader(redis.context, &found) != REDIS_OK)
	{
		describe(error);
		return false;
	}
	*reply = found;
	return true;
}

/*
 * Run a command whose answer is to be no error, within the time of a connection.
 * NULL, with the error written, if it is one.
 */
static redisReply *
command(char *error, int argc, const char **argv)
{
	redisReply *reply = NULL;

	redisAppendCommandArgv(redis.context, argc, argv, NULL);
	if (!send_buffer(error))
		return NULL;
	while (reply == NULL)
	{
		if (!next_answer(&reply, error) || (reply == NULL && !receive(error)))
			return NULL;
	}
	if (reply->type == REDIS_REPLY_ERROR)
	{
		snprintf(error, SINK_ERROR_SIZE, "%s: %s", argv[0], reply->str);
		freeReplyObject(reply);
		reply = NULL;
	}
	return reply;
}

/* Run a command, and forget what it answers. */
static bool
simple_command(char *error, int argc, const char **argv)
{
	redisReply *reply = command(error, argc, argv);

	if (reply == NULL)
		return false;
	freeReplyObject(reply);
	return true;
}

/* Log in, and choose the database. */
static bool
log_in(char *error)
{
	const Url  *url = &bridge.options.url;
	const char *with_user[] = {"AUTH", url->user, url->password};
	const char *without[] = {"AUTH", url->password};
	const char *choose[] = {"SELECT", url->path};

	if (url->password != NULL && !(url->user != NULL && url->user[0] != '\0' ?
								   simple_command(error, 3, with_user) :
								   simple_command(error, 2, without)))
		return false;
	return url->path[0] == '\0' || simple_command(error, 2, choose);
}

/* Does it take commands?  It may want a password that it has not got. */
static bool
ping(char *error)
{
	const char *words[] = {"PING"};

	return simple_command(error, 1, words);
}

/* Connect. */
static bool
redis_connect(char *error)
{
	const UrlHost *host = sink_next_host();
	struct timeval limit = {.tv_sec = CONNECT_SECONDS};
	int			port = host->port != 0 ? host->port : 6379;

	redis.step = STEP_FILL;
	redis.count = 0;
	redis.context = redisConnectWithTimeout(host->name, port, limit);
	if (redis.context == NULL || redis.context->err != 0)
	{
		char		why[SINK_ERROR_SIZE];

		describe(why);
		snprintf(error, SINK_ERROR_SIZE, "%.80s port %d: %.300s", host->name, port, why);
		return false;
	}
	redisSetTimeout(redis.context, limit);
	redisEnableKeepAlive(redis.context);
	redis.tls = bridge.options.tls;
	if (redis.tls)
	{
		char		why[SINK_ERROR_SIZE];

		if (!redis_tls_start(redis.context, host->name, why, sizeof(why)))
		{
			snprintf(error, SINK_ERROR_SIZE, "%.80s port %d: %.300s", host->name, port, why);
			return false;
		}
	}
	return log_in(error) && ping(error);
}

/* Is there a stream of that name, or nothing yet? */
static bool
redis_exists(const char *address, bool dead, char *error)
{
	const char *words[] = {"TYPE", address};
	redisReply *reply = command(error, 2, words);
	bool		good;

	(void) dead;
	if (reply == NULL)
		return false;
	good = reply->type == REDIS_REPLY_STATUS &&
		(strcmp(reply->str, "stream") == 0 || strcmp(reply->str, "none") == 0);
	if (!good)
		snprintf(error, SINK_ERROR_SIZE, "there is a key of that name that is no stream");
	freeReplyObject(reply);
	return good;
}

/* Close the connection. */
static void
redis_disconnect(void)
{
	redis_tls_end();
	if (redis.context != NULL)
		redisFree(redis.context);
	redis.context = NULL;
	redis.count = 0;
	redis.step = STEP_FILL;
}

/* Write the entry's id. */
static void
write_id(const Message *message, char *id, size_t size)
{
	snprintf(id, size, "%" PRId64 "-%d", message->seq, message->is_gap);
}

/* Add a field, if its value is not empty or it is the payload. */
static int
add_field(const char **words, size_t *lengths, int count, const char *field,
		  const char *value, size_t length)
{
	words[count] = field;
	lengths[count] = strlen(field);
	words[count + 1] = value;
	lengths[count + 1] = length;
	return count + 2;
}

/* Put the command that adds the message into the library's buffer. */
static void
append_entry(const Message *message)
{
	const char *words[MOST_WORDS];
	size_t		lengths[MOST_WORDS];
	char		id[40];
	char		lost[24] = "";
	const char *fields[][2] = {
		{"type", message->type}, {"id", message->id}, {"channel", message->channel},
		{"op", message->op}, {"content-type", message->content_type}, {"lost", lost},
		{"reason", message->dead ? message->reason : ""},
		{"stream", message->dead ? message->address : ""}
	};
	int			count = 3;

	write_id(message, id, sizeof(id));
	if (message->is_gap)
		snprintf(lost, sizeof(lost), "%" PRId64, message->lost);
	words[0] = "XADD";
	words[1] = sink_address(message);
	words[2] = id;
	for (int i = 0; i < count; i++)
		lengths[i] = strlen(words[i]);
	count = add_field(words, lengths, count, "payload", message->payload, message->payload_length);
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
	{
		if (fields[i][1][0] != '\0')
			count = add_field(words, lengths, count, fields[i][0], fields[i][1], strlen(fields[i][1]));
	}
	redisAppendCommandArgv(redis.context, count, words, lengths);
}

/* Take a message for the transaction, which flush() sends. */
static bool
redis_publish(const Message *message, uint64_t position, char *error)
{
	Entry	   *entry = &redis.entries[redis.count++];

	(void) error;
	if (redis.count == 1)
		redisAppendCommand(redis.context, "MULTI");
	entry->position = position;
	entry->message = message;
	entry->fate = FATE_UNKNOWN;
	append_entry(message);
	return true;
}

/* Send the transaction, if there is something in it. */
static bool
redis_flush(char *error)
{
	if (redis.count == 0 || redis.step != STEP_FILL)
		return true;
	redisAppendCommand(redis.context, "EXEC");
	redis.step = STEP_ANSWERS;
	redis.answers = 0;
	redis.aborted = false;
	return send_buffer(error);
}

/* May the same message be taken later, after that error? */
static bool
is_passing(const char *error)
{
	static const char *const errors[] =
	{"OOM", "MISCONF", "READONLY", "LOADING", "BUSY", "MASTERDOWN", "NOREPLICAS", "NOPERM", "CLUSTERDOWN"};

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
	{
		if (strncmp(error, errors[i], strlen(errors[i])) == 0)
			return true;
	}
	return false;
}

/* An entry has met an error. */
static void
note_error(Entry *entry, const char *error)
{
	entry->fate = strstr(error, "equal or smaller") != NULL ? FATE_SMALLER : FATE_REFUSED;
	snprintf(entry->why, sizeof(entry->why), "%s", error);
}

/*
 * All is known: tell the sink.  What was not tried is to be sent again.  The last one
 * first where something is put back, so that the sink goes on at the first of them.
 */
static void
tell(void)
{
	int			count = redis.count;

	redis.count = 0;
	redis.step = STEP_FILL;
	for (int i = count - 1; i >= 0; i--)
	{
		if (redis.entries[i].fate == FATE_UNKNOWN)
			outbox_requeue(redis.entries[i].position);
	}
	for (int i = 0; i < count; i++)
	{
		const Entry *entry = &redis.entries[i];

		if (entry->fate == FATE_ADDED)
			sink_confirmed(entry->position);
		else if (entry->fate != FATE_UNKNOWN && is_passing(entry->why))
			sink_refused(entry->position, entry->why);
		else if (entry->fate != FATE_UNKNOWN)
			sink_unroutable(entry->position, entry->why);
	}
}

/* The next entry from there on that may be in its stream already. */
static int
next_search(int from)
{
	while (from < redis.count && redis.entries[from].fate != FATE_SMALLER)
		from++;
	return from;
}

/* EXEC has answered: look for the entries that may be there, or tell. */
static bool
conclude(char *error)
{
	redis.searched = next_search(0);
	if (redis.searched == redis.count)
	{
		tell();
		return true;
	}
	for (int i = redis.searched; i < redis.count; i = next_search(i + 1))
	{
		char		id[40];

		write_id(redis.entries[i].message, id, sizeof(id));
		redisAppendCommand(redis.context, "XRANGE %s %s %s",
						   sink_address(redis.entries[i].message), id, id);
	}
	redis.step = STEP_SEARCH;
	return send_buffer(error);
}

/* EXEC's answer: one for each entry, or an error for all of them. */
static bool
take_exec(const redisReply *reply, char *error)
{
	if (reply->type == REDIS_REPLY_ERROR && (redis.aborted || is_passing(reply->str)))
	{
		if (!redis.aborted)
			note_error(&redis.entries[0], reply->str);
		return conclude(error);
	}
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != (size_t) redis.count)
	{
		snprintf(error, SINK_ERROR_SIZE, "EXEC has answered something else%s%s",
				 reply->type == REDIS_REPLY_ERROR ? ": " : "",
				 reply->type == REDIS_REPLY_ERROR ? reply->str : "");
		return false;
	}
	for (int i = 0; i < redis.count; i++)
	{
		const redisReply *answer = reply->element[i];

		if (answer->type == REDIS_REPLY_STRING)
			redis.entries[i].fate = FATE_ADDED;
		else if (answer->type == REDIS_REPLY_ERROR)
			note_error(&redis.entries[i], answer->str);
	}
	return conclude(error);
}

/* An answer has come; false if the connection is of no use then. */
static bool
take_answer(const redisReply *reply, char *error)
{
	int			number = redis.answers++;

	if (reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "ERR Protocol error", 18) == 0)
	{
		snprintf(error, SINK_ERROR_SIZE, "%s", reply->str);
		sink_blamed(error);
		return false;
	}
	if (redis.step == STEP_ANSWERS && number == redis.count + 1)
		return take_exec(reply, error);
	if (redis.step == STEP_ANSWERS)
	{
		/* of MULTI, or of a command that is put into the queue */
		if (reply->type == REDIS_REPLY_ERROR && number > 0)
		{
			if (!redis.aborted)
				note_error(&redis.entries[number - 1], reply->str);
			redis.aborted = true;
		}
		return true;
	}
	if (redis.step == STEP_SEARCH && redis.searched < redis.count)
	{
		if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 1)
			redis.entries[redis.searched].fate = FATE_ADDED;
		redis.searched = next_search(redis.searched + 1);
		if (redis.searched == redis.count)
			tell();
		return true;
	}
	snprintf(error, SINK_ERROR_SIZE, "the broker says something without being asked");
	return false;
}

/* Take the answers that have come, or wait for some. */
static bool
redis_wait(int timeout, char *error)
{
	bool		good = true;

	if (!sink_poll(redis.context->fd, timeout))
		return true;
	if (!receive(error))
		return false;
	while (good)
	{
		redisReply *reply;

		if (!next_answer(&reply, error))
			return false;
		if (reply == NULL)
			return true;
		good = take_answer(reply, error);
		freeReplyObject(reply);
	}
	return false;
}

const SinkKind redis_sink = {
	.name = "Redis",
	.schemes = {"redis", "rediss"},
	.configure = redis_configure,
	.allowed = redis_allowed,
	.connect = redis_connect,
	.exists = redis_exists,
	.publish = redis_publish,
	.flush = redis_flush,
	.wait = redis_wait,
	.disconnect = redis_disconnect,
	.most_sent = MOST_MESSAGES,
	.in_turns = true
};

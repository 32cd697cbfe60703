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
 *	  script, which ends at the first entry that fails and returns how many came
 *	  before, and the next script is not sent before that has answered.
 *
 * 3. "The ID specified in XADD is equal or smaller" may mean that the entry is
 *	  there, sent before a connection was lost: so the script looks for it, and
 *	  only if it is found, that counts as added.  If it is not, the stream has had a
 *	  later entry from somebody else, and the event cannot be delivered.
 *
 * hiredis 0.14 knows no TLS.  The streams of one script must be in one node: no
 * cluster.
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
#include "bridge/sink.h"
#include "common/bytes.h"
#include "common/log.h"
#include "common/memory.h"

#define CONNECT_SECONDS 10

/* Messages of one script: its arguments are held in memory on both sides. */
#define SCRIPT_MESSAGES 1000

/* Arguments of the script for each message: see below. */
#define ARGUMENTS 9

/*
 * KEYS are the streams, one for each message.  Of each message, ARGV has its id, then
 * the values of the fields that follow; those that are empty are left out, but for
 * the payload.  Returns how many entries were added, and the error, if there was one,
 * that the next one has met.
 */
static const char script[] =
"local names = {'payload','type','id','channel','op','content-type','lost','reason'}\n"
"for i, key in ipairs(KEYS) do\n"
"  local base = (i - 1) * 9\n"
"  local command = {'XADD', key, ARGV[base + 1]}\n"
"  for j, name in ipairs(names) do\n"
"    local value = ARGV[base + 1 + j]\n"
"    if j == 1 or value ~= '' then\n"
"      command[#command + 1] = name\n"
"      command[#command + 1] = value\n"
"    end\n"
"  end\n"
"  local answer = redis.pcall(unpack(command))\n"
"  if type(answer) == 'table' and answer.err then\n"
"    local found = {}\n"
"    if string.find(answer.err, 'equal or smaller', 1, true) then\n"
"      found = redis.pcall('XRANGE', key, ARGV[base + 1], ARGV[base + 1])\n"
"    end\n"
"    if found.err or #found == 0 then return {i - 1, answer.err} end\n"
"  end\n"
"end\n"
"return {#KEYS}\n";

typedef struct Redis
{
	redisContext *context;
	char	   *sha;			/* the script's name */
	int			count;			/* messages of the script that is written */
	bool		under_way;		/* it is sent, and has not answered */
	uint64_t	positions[SCRIPT_MESSAGES];
	const Message *messages[SCRIPT_MESSAGES];
} Redis;

static Redis redis;

/* Are the options good for this kind of broker? */
static bool
redis_configure(const char **address, char *error, size_t size)
{
	const Options *o = &bridge.options;

	if (o->tls || o->tls_ca != NULL || o->tls_cert != NULL)
		snprintf(error, size, "TLS to Redis is not possible with hiredis 0.14; let stunnel or a local proxy do it");
	else if (strspn(o->url.path, "0123456789") != strlen(o->url.path))
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

/*
 * Run a command whose answer is to be no error, within the time of a connection.
 * NULL, with the error written, if it is one.
 */
static redisReply *
command(char *error, int argc, const char **argv)
{
	redisReply *reply = redisCommandArgv(redis.context, argc, argv, NULL);

	if (reply == NULL)
		describe(error);
	else if (reply->type == REDIS_REPLY_ERROR)
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

/* Give the server the script. */
static bool
load_script(char *error)
{
	const char *load[] = {"SCRIPT", "LOAD", script};
	redisReply *reply = command(error, 3, load);

	if (reply == NULL)
		return false;
	free(redis.sha);
	redis.sha = memory_copy_string(reply->type == REDIS_REPLY_STRING ? reply->str : "");
	freeReplyObject(reply);
	return true;
}

/* Connect. */
static bool
redis_connect(char *error)
{
	const UrlHost *host = sink_next_host();
	struct timeval limit = {.tv_sec = CONNECT_SECONDS};
	int			port = host->port != 0 ? host->port : 6379;

	redis.count = 0;
	redis.under_way = false;
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
	return log_in(error) && load_script(error);
}

/* Close the connection. */
static void
redis_disconnect(void)
{
	if (redis.context != NULL)
		redisFree(redis.context);
	redis.context = NULL;
	redis.count = 0;
	redis.under_way = false;
}

/* Take a message for the script, which flush() sends. */
static bool
redis_publish(const Message *message, uint64_t position, char *error)
{
	(void) error;
	redis.positions[redis.count] = position;
	redis.messages[redis.count++] = message;
	return true;
}

/* Write a message's arguments; numbers is where its numbers are written. */
static void
fill_arguments(const Message *message, const char **argv, size_t *lengths,
			   char numbers[2][40])
{
	snprintf(numbers[0], 40, "%" PRId64 "-%d", message->seq, message->is_gap);
	numbers[1][0] = '\0';
	if (message->is_gap)
		snprintf(numbers[1], 40, "%" PRId64, message->lost);
	argv[0] = numbers[0];
	argv[1] = message->payload;
	argv[2] = message->type;
	argv[3] = message->id;
	argv[4] = message->channel;
	argv[5] = message->op;
	argv[6] = message->content_type;
	argv[7] = numbers[1];
	argv[8] = message->dead ? message->reason : "";
	for (int i = 0; i < ARGUMENTS; i++)
		lengths[i] = i == 1 ? message->payload_length : strlen(argv[i]);
}

/* Write the script's call into the context's buffer. */
static void
write_call(void)
{
	int			argc = 3 + redis.count * (1 + ARGUMENTS);
	const char **argv = memory_get(argc * sizeof(char *));
	size_t	   *lengths = memory_get(argc * sizeof(size_t));
	char		(*numbers)[2][40] = memory_get(redis.count * sizeof(*numbers));
	char		key_count[20];
	const char **at = argv + 3 + redis.count;

	snprintf(key_count, sizeof(key_count), "%d", redis.count);
	argv[0] = "EVALSHA";
	argv[1] = redis.sha;
	argv[2] = key_count;
	for (int i = 0; i < redis.count; i++)
		argv[3 + i] = sink_address(redis.messages[i]);
	for (int i = 0; i < 3 + redis.count; i++)
		lengths[i] = strlen(argv[i]);
	for (int i = 0; i < redis.count; i++)
	{
		fill_arguments(redis.messages[i], at, lengths + (at - argv), numbers[i]);
		at += ARGUMENTS;
	}
	redisAppendCommandArgv(redis.context, argc, argv, lengths);
	free(argv);
	free(lengths);
	free(numbers);
}

/* Send the script, if there is something in it. */
static bool
redis_flush(char *error)
{
	int			done = 0;

	if (redis.count == 0 || redis.under_way)
		return true;
	write_call();
	redis.under_way = true;
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

/*
 * The script has answered that so many entries were added, and what the next one has
 * met, or NULL: all that stand behind that one were not tried.
 */
static void
take_outcome(int added, const char *why)
{
	int			count = redis.count;

	redis.count = 0;
	redis.under_way = false;
	for (int i = count - 1; i > added; i--)
		outbox_requeue(redis.positions[i]);
	for (int i = 0; i < added && i < count; i++)
		sink_confirmed(redis.positions[i]);
	if (added >= count)
		return;
	if (is_passing(why))
		sink_refused(redis.positions[added], why);
	else
		sink_unroutable(redis.positions[added], why);
}

/* The script's answer; false if the connection is of no use then. */
static bool
take_reply(const redisReply *reply, char *error)
{
	const char *why = NULL;

	if (reply->type == REDIS_REPLY_ERROR)
	{
		/* the script was not run, or could not go on */
		if (strncmp(reply->str, "NOSCRIPT", 8) != 0 && is_passing(reply->str))
		{
			take_outcome(0, reply->str);
			return true;
		}
		snprintf(error, SINK_ERROR_SIZE, "%s", reply->str);
		if (strncmp(reply->str, "ERR Protocol error", 18) == 0)
			sink_blamed(error);
		return false;
	}
	if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 1 ||
		reply->element[0]->type != REDIS_REPLY_INTEGER ||
		reply->element[0]->integer < 0 || reply->element[0]->integer > redis.count)
	{
		snprintf(error, SINK_ERROR_SIZE, "the script has answered something else");
		return false;
	}
	if (reply->elements > 1 && reply->element[1]->type == REDIS_REPLY_STRING)
		why = reply->element[1]->str;
	if (why == NULL && reply->element[0]->integer < redis.count)
	{
		snprintf(error, SINK_ERROR_SIZE, "the script has not said why it ended");
		return false;
	}
	take_outcome((int) reply->element[0]->integer, why);
	return true;
}

/* Take the script's answer, if it comes in time. */
static bool
redis_wait(int timeout, char *error)
{
	void	   *reply = NULL;
	bool		good;

	if (!sink_poll(redis.context->fd, timeout))
		return true;
	if (redisBufferRead(redis.context) != REDIS_OK ||
		redisGetReplyFromReader(redis.context, &reply) != REDIS_OK)
	{
		describe(error);
		return false;
	}
	if (reply == NULL)
		return true;
	if (!redis.under_way)
	{
		snprintf(error, SINK_ERROR_SIZE, "the broker says something without being asked");
		good = false;
	}
	else
		good = take_reply(reply, error);
	freeReplyObject(reply);
	return good;
}

const SinkKind redis_sink = {
	.name = "Redis",
	.schemes = {"redis", "rediss"},
	.configure = redis_configure,
	.allowed = redis_allowed,
	.connect = redis_connect,
	.publish = redis_publish,
	.flush = redis_flush,
	.wait = redis_wait,
	.disconnect = redis_disconnect,
	.most_sent = SCRIPT_MESSAGES,
	.in_turns = true
};

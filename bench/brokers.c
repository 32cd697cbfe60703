/*-------------------------------------------------------------------------
 *
 * brokers.c
 *	  What the bridge is measured beside: a bare publisher to each broker, with the
 *	  same library, confirms and window, and messages with as many headers; a consumer; and the listener that people
 *	  write, which publishes without confirms.
 *
 *		brokers publish KIND WHERE NAME COUNT RATE BYTES WINDOW
 *		brokers consume KIND WHERE NAME COUNT
 *		brokers listen amqp WHERE NAME COUNT
 *		brokers declare KIND WHERE NAME COUNT	(make the queue or the stream)
 *
 * KIND is amqp, nats, kafka or redis; WHERE a port of loopback, or Kafka's hosts;
 * NAME a queue, subject (of a stream), topic or stream.  RATE is a second, or 0: as
 * fast as they are confirmed.  A payload begins with the time at which it was sent, as
 * publisher.c has it.  Prints:
 *
 *		publish: events=N seconds=S
 *		consume: events=N seconds=S p50=US p99=US max=US
 *		listen: events=N seconds=S
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE

#include "client.h"

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <hiredis/hiredis.h>
#include <librdkafka/rdkafka.h>
#include <nats/nats.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A consumer gives up after so long without a message, in ms. */
#define SILENCE_MS 60000

typedef struct Kind
{
	const char *name;
	void		(*connect) (void);
	void		(*publish) (const char *payload, long bytes);

	/* Take confirms: all that have come; one at least if wait. */
	void		(*confirms) (bool wait);

	/* Consume until there are count events: take() for each. */
	void		(*consume) (void);
} Kind;

static const char *where;
static const char *name;
static long count;
static long window;
static long sent;
static long confirmed;
static long taken;
static int64_t first_ns;
static int64_t *latencies;

/* The time of day, which two processes share, in nanoseconds. */
static int64_t
time_of_day(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

/* An id of the next message, as long as the bridge's. */
static const char *
make_id(void)
{
	static char id[64];

	snprintf(id, sizeof(id), "%lld-16384-%016ld", (long long) first_ns, sent);
	return id;
}

/* A message has come to the consumer. */
static void
take(const char *payload, size_t length)
{
	char		number[24] = "";

	if (taken == 0)
		first_ns = client_now_ns();
	memcpy(number, payload, length < 19 ? length : 19);
	if (taken < count)
		latencies[taken++] = time_of_day() - strtoll(number, NULL, 10);
}

/* ------------------------------------------------------------------------ */

static amqp_connection_state_t amqp;

/* Connect to RabbitMQ, and have the queue, with confirms. */
static void
amqp_start(void)
{
	amqp_socket_t *socket;

	amqp = amqp_new_connection();
	socket = amqp_tcp_socket_new(amqp);
	if (amqp_socket_open(socket, "127.0.0.1", atoi(where)) != AMQP_STATUS_OK ||
		amqp_login(amqp, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type !=
		AMQP_RESPONSE_NORMAL)
		client_die("no connection to RabbitMQ");
	amqp_channel_open(amqp, 1);
	amqp_queue_declare(amqp, 1, amqp_cstring_bytes(name), 0, 1, 0, 0, amqp_empty_table);
	amqp_confirm_select(amqp, 1);
	if (amqp_get_rpc_reply(amqp).reply_type != AMQP_RESPONSE_NORMAL)
		client_die("no channel of RabbitMQ");
}

/* Publish one message; persistent and mandatory. */
static void
amqp_send(const char *payload, long bytes)
{
	const char *id = make_id();
	amqp_table_entry_t headers[3] = {
		{.key = amqp_cstring_bytes("seq"), .value = {.kind = AMQP_FIELD_KIND_I64, .value.i64 = sent}},
		{.key = amqp_cstring_bytes("id"),
		.value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(id)}},
		{.key = amqp_cstring_bytes("channel"),
		.value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(name)}}
	};
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_HEADERS_FLAG,
		.delivery_mode = 2, .content_type = amqp_cstring_bytes("text/plain; charset=utf-8"),
		.message_id = amqp_cstring_bytes(id), .type = amqp_cstring_bytes("pgpubsub.event"),
		.headers = {3, headers}
	};

	if (amqp_basic_publish(amqp, 1, amqp_empty_bytes, amqp_cstring_bytes(name), 1, 0, &properties,
						   (amqp_bytes_t) {bytes, (void *) payload}) != AMQP_STATUS_OK)
		client_die("could not publish to RabbitMQ");
}

/* Read frames; basic.ack counts. */
static void
amqp_confirms(bool wait)
{
	static const struct timeval none;

	while (true)
	{
		amqp_frame_t frame;
		int			status = amqp_simple_wait_frame_noblock(amqp, &frame, wait ? NULL : &none);

		if (status == AMQP_STATUS_TIMEOUT)
			return;
		if (status != AMQP_STATUS_OK)
			client_die("RabbitMQ: %s", amqp_error_string2(status));
		if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD)
		{
			const amqp_basic_ack_t *ack = frame.payload.method.decoded;

			/* (they come in order where one queue has all) */
			confirmed = ack->multiple || (long) ack->delivery_tag > confirmed ?
				(long) ack->delivery_tag : confirmed;
			wait = false;
		}
		amqp_maybe_release_buffers(amqp);
	}
}

/* Consume, and acknowledge each hundred. */
static void
amqp_take(void)
{
	struct timeval silence = {.tv_sec = SILENCE_MS / 1000};

	amqp_basic_qos(amqp, 1, 0, 1000, 0);
	amqp_basic_consume(amqp, 1, amqp_cstring_bytes(name), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
	while (taken < count)
	{
		amqp_envelope_t envelope;

		amqp_maybe_release_buffers(amqp);
		if (amqp_consume_message(amqp, &envelope, &silence, 0).reply_type != AMQP_RESPONSE_NORMAL)
			return;
		take(envelope.message.body.bytes, envelope.message.body.len);
		if (taken % 100 == 0 || taken == count)
			amqp_basic_ack(amqp, 1, envelope.delivery_tag, 1);
		amqp_destroy_envelope(&envelope);
	}
}

/* ------------------------------------------------------------------------ */

static natsConnection *nats;
static jsCtx *jet;
static pthread_mutex_t nats_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t nats_came = PTHREAD_COND_INITIALIZER;
static long nats_acks;

/* An acknowledgement of the stream, in a thread of the library's. */
static void
nats_acked(jsCtx *js, natsMsg *msg, jsPubAck *ack, jsPubAckErr *failed, void *closure)
{
	(void) js;
	(void) ack;
	(void) closure;
	if (failed != NULL)
		client_die("NATS has refused a message");
	natsMsg_Destroy(msg);
	pthread_mutex_lock(&nats_lock);
	nats_acks++;
	pthread_cond_signal(&nats_came);
	pthread_mutex_unlock(&nats_lock);
}

/* Connect to NATS, and have the stream, whose subject has its name. */
static void
nats_start(void)
{
	char		url[60];
	jsOptions	options;
	jsStreamConfig stream;
	const char *subjects[] = {name};

	snprintf(url, sizeof(url), "nats://127.0.0.1:%s", where);
	jsOptions_Init(&options);
	options.PublishAsync.MaxPending = window + 1;
	options.PublishAsync.AckHandler = nats_acked;
	if (natsConnection_ConnectTo(&nats, url) != NATS_OK ||
		natsConnection_JetStream(&jet, nats, &options) != NATS_OK)
		client_die("no connection to NATS");
	jsStreamConfig_Init(&stream);
	stream.Name = name;
	stream.Subjects = subjects;
	stream.SubjectsLen = 1;
	stream.Storage = js_FileStorage;
	(void) js_AddStream(NULL, jet, &stream, NULL, NULL);
}

/* Publish one message, whose acknowledgement comes later. */
static void
nats_send(const char *payload, long bytes)
{
	const char *id = make_id();
	jsPubOptions options;
	natsMsg    *msg;

	jsPubOptions_Init(&options);
	options.MsgId = id;
	natsMsg_Create(&msg, name, NULL, payload, (int) bytes);
	natsMsgHeader_Set(msg, "seq", id);
	natsMsgHeader_Set(msg, "id", id);
	natsMsgHeader_Set(msg, "type", "pgpubsub.event");
	natsMsgHeader_Set(msg, "content-type", "text/plain; charset=utf-8");
	natsMsgHeader_Set(msg, "channel", name);
	if (js_PublishMsgAsync(jet, &msg, &options) != NATS_OK)
		client_die("could not publish to NATS");
}

/* Count what was acknowledged. */
static void
nats_confirms(bool wait)
{
	pthread_mutex_lock(&nats_lock);
	while (wait && nats_acks == confirmed)
		pthread_cond_wait(&nats_came, &nats_lock);
	confirmed = nats_acks;
	pthread_mutex_unlock(&nats_lock);
}

/* Consume what is published to the subject, as it is published. */
static void
nats_take(void)
{
	natsSubscription *subscription;

	if (natsConnection_SubscribeSync(&subscription, nats, name) != NATS_OK)
		client_die("could not subscribe to NATS");
	(void) natsSubscription_SetPendingLimits(subscription, -1, -1);
	natsConnection_Flush(nats);
	while (taken < count)
	{
		natsMsg    *msg;

		if (natsSubscription_NextMsg(&msg, subscription, SILENCE_MS) != NATS_OK)
			return;
		take(natsMsg_GetData(msg), (size_t) natsMsg_GetDataLength(msg));
		natsMsg_Destroy(msg);
	}
}

/* ------------------------------------------------------------------------ */

static rd_kafka_t *kafka;

/* A message was delivered. */
static void
kafka_delivered(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque)
{
	(void) producer;
	(void) opaque;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		client_die("Kafka has refused a message: %s", rd_kafka_err2str(message->err));
	confirmed++;
}

/* A client of Kafka of that type. */
static void
kafka_client(rd_kafka_type_t type)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		error[300];

	rd_kafka_conf_set(conf, "bootstrap.servers", where, error, sizeof(error));
	if (type == RD_KAFKA_CONSUMER)
	{
		rd_kafka_conf_set(conf, "group.id", "bench", error, sizeof(error));
		rd_kafka_conf_set(conf, "fetch.wait.max.ms", "1", error, sizeof(error));
		rd_kafka_conf_set(conf, "fetch.error.backoff.ms", "1", error, sizeof(error));
	}
	else
	{
		rd_kafka_conf_set(conf, "enable.idempotence", "true", error, sizeof(error));
		rd_kafka_conf_set(conf, "linger.ms", "0", error, sizeof(error));
		rd_kafka_conf_set(conf, "socket.nagle.disable", "true", error, sizeof(error));
		rd_kafka_conf_set_dr_msg_cb(conf, kafka_delivered);
	}
	kafka = rd_kafka_new(type, conf, error, sizeof(error));
	if (kafka == NULL)
		client_die("Kafka: %s", error);
}

/* Make a producer. */
static void
kafka_start(void)
{
	kafka_client(RD_KAFKA_PRODUCER);
}

/* Give the producer one message. */
static void
kafka_send(const char *payload, long bytes)
{
	const char *id = make_id();
	rd_kafka_headers_t *headers = rd_kafka_headers_new(5);

	rd_kafka_header_add(headers, "seq", -1, id, -1);
	rd_kafka_header_add(headers, "id", -1, id, -1);
	rd_kafka_header_add(headers, "type", -1, "pgpubsub.event", -1);
	rd_kafka_header_add(headers, "content-type", -1, "text/plain; charset=utf-8", -1);
	rd_kafka_header_add(headers, "channel", -1, name, -1);
	if (rd_kafka_producev(kafka, RD_KAFKA_V_TOPIC(name), RD_KAFKA_V_KEY(name, strlen(name)),
						  RD_KAFKA_V_HEADERS(headers),
						  RD_KAFKA_V_VALUE((void *) payload, (size_t) bytes),
						  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		client_die("could not publish to Kafka");
}

/* Have kafka_delivered() called for what was delivered. */
static void
kafka_confirms(bool wait)
{
	rd_kafka_poll(kafka, wait ? 1000 : 0);
}

/* Consume all partitions, from the beginning on. */
static void
kafka_take(void)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);

	rd_kafka_destroy(kafka);
	kafka_client(RD_KAFKA_CONSUMER);
	rd_kafka_poll_set_consumer(kafka);
	for (int i = 0; i < 4; i++)
		rd_kafka_topic_partition_list_add(list, name, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_assign(kafka, list);
	while (taken < count)
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(kafka, SILENCE_MS);

		if (message == NULL)
			return;
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
			take(message->payload, message->len);
		rd_kafka_message_destroy(message);
	}
}

/* ------------------------------------------------------------------------ */

static redisContext *redis;

/* Connect to Redis. */
static void
redis_start(void)
{
	redis = redisConnect("127.0.0.1", atoi(where));
	if (redis == NULL || redis->err != 0)
		client_die("no connection to Redis");
}

/* Put the command that adds one entry into the library's buffer. */
static void
redis_send(const char *payload, long bytes)
{
	redisAppendCommand(redis, "XADD %s * payload %b type pgpubsub.event id %s channel %s content-type text/plain",
					   name, payload, (size_t) bytes, make_id(), name);
}

/* Send the buffer, and take answers. */
static void
redis_confirms(bool wait)
{
	void	   *reply;

	/* (what is sent is answered in order) */
	while (confirmed < sent && (wait || redis->reader->pos < redis->reader->len))
	{
		if (redisGetReply(redis, &reply) != REDIS_OK ||
			((redisReply *) reply)->type == REDIS_REPLY_ERROR)
			client_die("Redis has refused an entry");
		freeReplyObject(reply);
		confirmed++;
		wait = false;
	}
}

/* Read the stream from its beginning on. */
static void
redis_take(void)
{
	char		last[64] = "0";

	while (taken < count)
	{
		redisReply *reply = redisCommand(redis, "XREAD COUNT 1000 BLOCK %d STREAMS %s %s",
										 SILENCE_MS, name, last);
		redisReply *entries;

		if (reply == NULL || reply->type != REDIS_REPLY_ARRAY)
			return;
		entries = reply->element[0]->element[1];
		for (size_t i = 0; i < entries->elements; i++)
		{
			redisReply *entry = entries->element[i];

			snprintf(last, sizeof(last), "%s", entry->element[0]->str);
			take(entry->element[1]->element[1]->str, entry->element[1]->element[1]->len);
		}
		freeReplyObject(reply);
	}
}

/* ------------------------------------------------------------------------ */

static const Kind kinds[] = {
	{"amqp", amqp_start, amqp_send, amqp_confirms, amqp_take},
	{"nats", nats_start, nats_send, nats_confirms, nats_take},
	{"kafka", kafka_start, kafka_send, kafka_confirms, kafka_take},
	{"redis", redis_start, redis_send, redis_confirms, redis_take},
};

/* The kind of that name. */
static const Kind *
find_kind(const char *text)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
	{
		if (strcmp(kinds[i].name, text) == 0)
			return &kinds[i];
	}
	client_die("unknown kind: %s", text);
}

/* Publish; see the heading. */
static void
publish(const Kind *kind, long rate, long bytes)
{
	char	   *payload = malloc(bytes + 32);
	int64_t		started = client_now_ns();

	memset(payload, '.', bytes + 32);
	first_ns = started;
	while (sent < count)
	{
		int64_t		then = rate == 0 ? 0 : started + sent * INT64_C(1000000000) / rate;

		while (rate != 0 && client_now_ns() < then)
		{
			struct timespec pause = {.tv_nsec = then - client_now_ns()};

			/* (a rate is low here: the pause is a ms or so) */
			nanosleep(&pause, NULL);
		}
		while (sent - confirmed >= window)
			kind->confirms(true);
		snprintf(payload, 32, "%019lld %ld", (long long) time_of_day(), sent);
		payload[strlen(payload)] = '.';
		kind->publish(payload, bytes);
		sent++;
		if (rate != 0 || sent % 64 == 0)
			kind->confirms(rate != 0);
	}
	while (confirmed < count)
		kind->confirms(true);
	printf("publish: events=%ld seconds=%.3f\n", count, (double) (client_now_ns() - started) / 1e9);
}

/* Order of two numbers. */
static int
compare(const void *one, const void *other)
{
	int64_t		a = *(const int64_t *) one;
	int64_t		b = *(const int64_t *) other;

	return (a > b) - (a < b);
}

/* Consume; see the heading. */
static void
consume(const Kind *kind)
{
	latencies = calloc(count, sizeof(int64_t));
	printf("consume: ready\n");
	fflush(stdout);
	kind->consume();
	if (taken == 0)
		client_die("nothing has come");
	qsort(latencies, taken, sizeof(int64_t), compare);
	printf("consume: events=%ld seconds=%.3f p50=%lld p99=%lld max=%lld\n", taken,
		   (double) (client_now_ns() - first_ns) / 1e9,
		   (long long) latencies[taken / 2] / 1000, (long long) latencies[taken * 99 / 100] / 1000,
		   (long long) latencies[taken - 1] / 1000);
}

/*
 * The service that people write: LISTEN, and publish what comes, without confirms.  It
 * loses what the broker has not taken when it dies, and what comes while it is away.
 */
static void
listen_to(const Kind *kind)
{
	PGconn	   *conn = client_connect("bench listener");
	int64_t		started = 0;

	client_listen(conn, name);
	printf("listen: ready\n");
	fflush(stdout);
	while (sent < count)
	{
		struct pollfd fd = {.fd = PQsocket(conn), .events = POLLIN};
		PGnotify   *event;

		poll(&fd, 1, -1);
		if (!PQconsumeInput(conn))
			client_die("%s", PQerrorMessage(conn));
		while ((event = PQnotifies(conn)) != NULL)
		{
			if (started == 0)
				started = client_now_ns();
			kind->publish(event->extra, (long) strlen(event->extra));
			sent++;
			PQfreemem(event);
		}
	}
	printf("listen: events=%ld seconds=%.3f\n", count, (double) (client_now_ns() - started) / 1e9);
	PQfinish(conn);
}

int
main(int argc, char **argv)
{
	const Kind *kind;

	if (argc < 6)
		client_die("usage: brokers publish|consume|listen KIND WHERE NAME COUNT ...");
	kind = find_kind(argv[2]);
	where = argv[3];
	name = argv[4];
	count = client_number(argv[5], "COUNT");
	window = argc > 8 ? client_number(argv[8], "WINDOW") : 1000;
	kind->connect();
	if (strcmp(argv[1], "publish") == 0 && argc == 9)
		publish(kind, strcmp(argv[6], "0") == 0 ? 0 : client_number(argv[6], "RATE"),
				client_number(argv[7], "BYTES"));
	else if (strcmp(argv[1], "consume") == 0)
		consume(kind);
	else if (strcmp(argv[1], "listen") == 0 && strcmp(kind->name, "amqp") == 0)
		listen_to(kind);
	else if (strcmp(argv[1], "declare") != 0)
		client_die("unknown command: %s", argv[1]);
	return 0;
}

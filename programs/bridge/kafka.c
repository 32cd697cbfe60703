/*-------------------------------------------------------------------------
 *
 * kafka.c
 *	  Kafka, through librdkafka.
 *
 * 1. The producer is idempotent: what it sends again after a lost connection is
 *	  there once, and in order.  That holds as long as the producer lives: a bridge
 *	  that is started again may send again what was not acknowledged.
 *
 * 2. It never gives a message up (message.timeout.ms is 0), and finds its brokers
 *	  again by itself, so the sink takes it for connected from the first answer on.
 *	  A fatal error makes a new producer, from the last acknowledged event on.
 *
 * 3. A message's key is its channel, so that events of a channel are in one
 *	  partition, in order.
 *
 * 4. Deliveries are told by rd_kafka_poll(), in the sink's thread; librdkafka makes
 *	  the sink's own descriptor readable when there are some.
 *
 * 5. The library tells when it has no broker left, and does not tell when it has one
 *	  again: while there is nothing to be delivered, which would show it, it is asked
 *	  once in a while.
 *
 *-------------------------------------------------------------------------
 */
#include <ctype.h>
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge/bridge.h"
#include "bridge/sink.h"
#include "common/bytes.h"
#include "common/log.h"
#include "common/memory.h"

#define CONNECT_MS 10000

/*
 * How long an answer is awaited before the library's errors are looked at, between two
 * looks whether a broker is there again, and for its answer then.
 */
#define ANSWER_MS 500
#define AGAIN_MS 2000
#define PROBE_MS 200

/* The longest name of a topic. */
#define TOPIC_LENGTH 249

typedef struct Kafka
{
	rd_kafka_t *producer;
	bool		full;			/* its queue has no room until something is
								 * delivered */
	bool		failed;			/* a fatal error has come */
	bool		connecting;		/* kafka_connect() waits for an answer */
	bool		refused;		/* meanwhile, an error that stays */
	bool		away;			/* no broker is there */
	uint64_t	probe_at;		/* ms; when to look whether one is */
	char		why[SINK_ERROR_SIZE];
} Kafka;

static Kafka kafka;

/* May a value that fills the topic's name have that byte? */
static bool
kafka_allowed(unsigned char c)
{
	return c < 0x80 && (isalnum(c) || c == '.' || c == '_' || c == '-');
}

/* Is it a topic's name? */
static bool
is_topic(const char *text)
{
	size_t		length = strlen(text);

	if (length < 1 || length > TOPIC_LENGTH || strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
		return false;
	for (; *text != '\0'; text++)
	{
		if (!kafka_allowed((unsigned char) *text))
			return false;
	}
	return true;
}

/* Are the options good for this kind of broker? */
static bool
kafka_configure(const char **address, char *error, size_t size)
{
	const Options *o = &bridge.options;

	if (o->topic != NULL && strchr(o->topic, '{') == NULL && !is_topic(o->topic))
		snprintf(error, size, "option topic takes a topic, not \"%s\": up to %d letters, digits, '.', '_' and '-'",
				 o->topic, TOPIC_LENGTH);
	else if (o->dead_letter != NULL && !is_topic(o->dead_letter))
		snprintf(error, size, "option dead-letter takes a topic, not \"%s\"", o->dead_letter);
	else
	{
		*address = o->topic != NULL ? o->topic : "{channel}";
		return true;
	}
	return false;
}

/* A message was delivered, or can never be. */
static void
delivered(rd_kafka_t *producer, const rd_kafka_message_t *message, void *opaque)
{
	uint64_t	position = (uint64_t) (uintptr_t) message->_private;

	(void) producer;
	(void) opaque;
	kafka.full = false;
	switch (message->err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			kafka.away = false;
			sink_confirmed(position);
			break;
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
			/* (the broker refuses a whole batch because of one) */
			sink_suspected(position, rd_kafka_err2str(message->err));
			break;
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			sink_unroutable(position, rd_kafka_err2str(message->err));
			break;
		default:
			sink_refused(position, rd_kafka_err2str(message->err));
			break;
	}
}

/* The library has something to say of brokers. */
static void
trouble(rd_kafka_t *producer, int code, const char *reason, void *opaque)
{
	(void) opaque;
	if (code == RD_KAFKA_RESP_ERR__FATAL)
	{
		char		text[300];

		(void) rd_kafka_fatal_error(producer, text, sizeof(text));
		kafka.failed = true;
		snprintf(kafka.why, sizeof(kafka.why), "the producer has failed: %s", text);
	}
	else if (kafka.connecting)
	{
		/* (that none is there is what follows from the others) */
		if (code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || kafka.why[0] == '\0')
			snprintf(kafka.why, sizeof(kafka.why), "%s", reason);
		kafka.refused |= code == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
			code == RD_KAFKA_RESP_ERR__SSL || code == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE;
	}
	else
	{
		if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		{
			kafka.away = true;
			kafka.probe_at = bridge_now() + AGAIN_MS;
		}
		sink_trouble(reason, kafka.away);
	}
}

/* The library's log is ours; what is an error there comes to trouble(), too. */
static void
take_log(const rd_kafka_t *producer, int level, const char *facility, const char *text)
{
	(void) producer;
	log_line(level <= 2 ? LOG_LEVEL_WARNING : LOG_LEVEL_DEBUG, "librdkafka: %s: %s", facility, text);
}

/* Set a property; false, with the error written, if it is none. */
static bool
set_property(rd_kafka_conf_t *conf, const char *name, const char *value, char *error)
{
	return rd_kafka_conf_set(conf, name, value, error, SINK_ERROR_SIZE) == RD_KAFKA_CONF_OK;
}

/* Set the properties of --kafka-config: name=value, one on a line. */
static bool
read_properties(rd_kafka_conf_t *conf, char *error)
{
	const char *path = bridge.options.kafka_config;
	FILE	   *file = fopen(path, "r");
	char		line[4096];
	bool		good = true;

	if (file == NULL)
	{
		snprintf(error, SINK_ERROR_SIZE, "could not open file \"%s\"", path);
		return false;
	}
	while (good && fgets(line, sizeof(line), file) != NULL)
	{
		char	   *equals = strchr(line, '=');

		line[strcspn(line, "\r\n")] = '\0';
		if (line[0] == '#' || line[0] == '\0')
			continue;
		if (equals == NULL)
		{
			snprintf(error, SINK_ERROR_SIZE, "file \"%s\" has a line that is not name=value", path);
			good = false;
			break;
		}
		*equals = '\0';
		good = set_property(conf, line, equals + 1, error);
	}
	fclose(file);
	return good;
}

/* Set what the URL and the options for TLS say. */
static bool
set_access(rd_kafka_conf_t *conf, char *error)
{
	const Options *o = &bridge.options;
	const Url  *url = &o->url;
	bool		tls = o->tls;
	Bytes		brokers = {0};
	char		port[8];
	bool		good;

	for (int i = 0; i < url->host_count; i++)
	{
		bool		ipv6 = strchr(url->hosts[i].name, ':') != NULL;

		bytes_append(&brokers, i > 0 ? "," : "", i > 0);
		bytes_append(&brokers, "[", ipv6);
		bytes_append(&brokers, url->hosts[i].name, strlen(url->hosts[i].name));
		bytes_append(&brokers, "]", ipv6);
		snprintf(port, sizeof(port), ":%d", url->hosts[i].port != 0 ? url->hosts[i].port : 9092);
		bytes_append(&brokers, port, strlen(port));
	}
	bytes_append_byte(&brokers, '\0');
	good = set_property(conf, "bootstrap.servers", brokers.data, error);
	bytes_free(&brokers);
	if (good && url->user != NULL)
		good = set_property(conf, "sasl.mechanisms", "PLAIN", error) &&
			set_property(conf, "sasl.username", url->user, error) &&
			set_property(conf, "sasl.password", url->password != NULL ? url->password : "", error);
	if (good && (tls || url->user != NULL))
		good = set_property(conf, "security.protocol", !tls ? "sasl_plaintext" :
							url->user != NULL ? "sasl_ssl" : "ssl", error);
	/* (older versions of the library do not look at the name by themselves) */
	if (good && tls)
		good = set_property(conf, "ssl.endpoint.identification.algorithm", "https", error);
	if (good && o->tls_ca != NULL)
		good = set_property(conf, "ssl.ca.location", o->tls_ca, error);
	if (good && o->tls_cert != NULL)
		good = set_property(conf, "ssl.certificate.location", o->tls_cert, error) &&
			set_property(conf, "ssl.key.location", o->tls_key, error);
	return good;
}

/* The producer's configuration, to be destroyed if no producer gets it; NULL: error. */
static rd_kafka_conf_t *
make_conf(char *error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		name[100];

	snprintf(name, sizeof(name), "pgpubsub-bridge-%s", bridge.options.subscription);
	rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	rd_kafka_conf_set_error_cb(conf, trouble);
	rd_kafka_conf_set_log_cb(conf, take_log);
	if (set_property(conf, "client.id", name, error) && set_access(conf, error) &&
		set_property(conf, "linger.ms", "0", error) &&
		set_property(conf, "socket.nagle.disable", "true", error) &&
		(bridge.options.kafka_config == NULL || read_properties(conf, error)) &&
		set_property(conf, "enable.idempotence", "true", error) &&
		set_property(conf, "message.timeout.ms", "0", error))
		return conf;
	rd_kafka_conf_destroy(conf);
	return NULL;
}

/* Does a broker answer within that time? */
static bool
answers(int timeout, rd_kafka_resp_err_t *status)
{
	const struct rd_kafka_metadata *metadata = NULL;

	*status = rd_kafka_metadata(kafka.producer, 0, NULL, &metadata, timeout);
	if (metadata != NULL)
		rd_kafka_metadata_destroy(metadata);
	return *status == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Wait until a broker answers, or until it is known why none does. */
static bool
wait_for_broker(char *error)
{
	uint64_t	end = bridge_now() + CONNECT_MS;
	rd_kafka_resp_err_t status;

	kafka.connecting = true;
	kafka.refused = false;
	kafka.why[0] = '\0';
	while (!answers(ANSWER_MS, &status))
	{
		rd_kafka_poll(kafka.producer, 0);
		if (!kafka.refused && !kafka.failed && bridge_now() < end)
			continue;
		snprintf(error, SINK_ERROR_SIZE, "%.100s: %.290s", bridge.options.url.hosts[0].name,
				 kafka.why[0] != '\0' ? kafka.why : rd_kafka_err2str(status));
		kafka.connecting = false;
		return false;
	}
	rd_kafka_poll(kafka.producer, 0);
	kafka.connecting = false;
	return true;
}

/* Make a producer, and see whether a broker answers. */
static bool
kafka_connect(char *error)
{
	rd_kafka_conf_t *conf = make_conf(error);
	rd_kafka_queue_t *queue;
	static const uint64_t one = 1;

	if (conf == NULL)
		return false;
	kafka.full = kafka.failed = kafka.away = false;
	kafka.producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, SINK_ERROR_SIZE);
	if (kafka.producer == NULL)
	{
		rd_kafka_conf_destroy(conf);
		return false;
	}
	queue = rd_kafka_queue_get_main(kafka.producer);
	if (sink_wake_fd() >= 0)
		rd_kafka_queue_io_event_enable(queue, sink_wake_fd(), &one, sizeof(one));
	rd_kafka_queue_destroy(queue);
	return wait_for_broker(error);
}

/* Is there such a topic, or would there be when it is used? */
static bool
kafka_exists(const char *address, bool dead, char *error)
{
	rd_kafka_topic_t *topic = rd_kafka_topic_new(kafka.producer, address, NULL);
	const struct rd_kafka_metadata *metadata = NULL;
	rd_kafka_resp_err_t status;

	(void) dead;
	if (topic == NULL)
	{
		snprintf(error, SINK_ERROR_SIZE, "%s", rd_kafka_err2str(rd_kafka_last_error()));
		return false;
	}
	status = rd_kafka_metadata(kafka.producer, 0, topic, &metadata, CONNECT_MS);
	if (status == RD_KAFKA_RESP_ERR_NO_ERROR && metadata->topic_cnt == 1)
		status = metadata->topics[0].err;
	if (metadata != NULL)
		rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(topic);
	/* (it is being made, or has no leader for a moment) */
	if (status == RD_KAFKA_RESP_ERR_NO_ERROR || status == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
		return true;
	snprintf(error, SINK_ERROR_SIZE, "%s", rd_kafka_err2str(status));
	return false;
}

/* End the producer, and forget what it has not sent. */
static void
kafka_disconnect(void)
{
	if (kafka.producer == NULL)
		return;
	rd_kafka_purge(kafka.producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
				   RD_KAFKA_PURGE_F_NON_BLOCKING);
	rd_kafka_destroy(kafka.producer);
	kafka.producer = NULL;
}

/* Add a header, if the value is not empty. */
static void
add_header(rd_kafka_headers_t *headers, const char *name, const char *value)
{
	if (value[0] != '\0')
		rd_kafka_header_add(headers, name, -1, value, -1);
}

/* The headers of a message, to be destroyed unless the library takes them. */
static rd_kafka_headers_t *
make_headers(const Message *message)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(8);
	char		number[32];

	snprintf(number, sizeof(number), "%" PRId64, message->seq);
	add_header(headers, "seq", number);
	add_header(headers, "id", message->id);
	add_header(headers, "type", message->type);
	add_header(headers, "content-type", message->content_type);
	add_header(headers, "channel", message->channel);
	add_header(headers, "op", message->op);
	snprintf(number, sizeof(number), "%" PRId64, message->lost);
	if (message->is_gap)
		add_header(headers, "lost", number);
	if (message->dead)
	{
		add_header(headers, "reason", message->reason);
		add_header(headers, "topic", message->address);
	}
	return headers;
}

/* Has the producer room in its queue? */
static bool
kafka_ready(void)
{
	return !kafka.full;
}

/* Give a message to the producer. */
static bool
kafka_publish(const Message *message, uint64_t position, char *error)
{
	const char *topic = sink_address(message);
	const char *key = message->is_gap ? message->type : message->channel;
	rd_kafka_headers_t *headers;
	rd_kafka_resp_err_t status;

	(void) error;
	if (!is_topic(topic))
	{
		sink_unroutable(position, "that is no topic");
		return true;
	}
	headers = make_headers(message);
	status = rd_kafka_producev(kafka.producer, RD_KAFKA_V_TOPIC(topic),
							   RD_KAFKA_V_KEY(key, strlen(key)),
							   RD_KAFKA_V_VALUE((void *) message->payload, message->payload_length),
							   RD_KAFKA_V_HEADERS(headers),
							   RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							   RD_KAFKA_V_OPAQUE((void *) (uintptr_t) position),
							   RD_KAFKA_V_END);
	if (status == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	rd_kafka_headers_destroy(headers);
	if (status == RD_KAFKA_RESP_ERR__QUEUE_FULL)
	{
		kafka.full = true;
		outbox_requeue(position);
	}
	else if (status == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
			 status == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
			 status == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION)
		sink_unroutable(position, rd_kafka_err2str(status));
	else
		sink_refused(position, rd_kafka_err2str(status));
	return true;
}

/* The library sends by itself. */
static bool
kafka_flush(char *error)
{
	(void) error;
	return true;
}

/* If no broker was there, look whether one is again. */
static void
look_for_broker(void)
{
	rd_kafka_resp_err_t status;

	if (!kafka.away || bridge_now() < kafka.probe_at)
		return;
	if (answers(PROBE_MS, &status))
	{
		kafka.away = false;
		sink_back();
	}
	kafka.probe_at = bridge_now() + AGAIN_MS;
}

/* Take what was delivered, or wait for something to be. */
static bool
kafka_wait(int timeout, char *error)
{
	look_for_broker();
	if (rd_kafka_poll(kafka.producer, 0) == 0)
	{
		sink_poll(-1, timeout);
		rd_kafka_poll(kafka.producer, 0);
	}
	if (kafka.failed)
		snprintf(error, SINK_ERROR_SIZE, "%s", kafka.why);
	return !kafka.failed;
}

const SinkKind kafka_sink = {
	.name = "Kafka",
	.schemes = {"kafka"},
	.configure = kafka_configure,
	.allowed = kafka_allowed,
	.connect = kafka_connect,
	.exists = kafka_exists,
	.ready = kafka_ready,
	.publish = kafka_publish,
	.flush = kafka_flush,
	.wait = kafka_wait,
	.disconnect = kafka_disconnect,
	.reconnects = true
};

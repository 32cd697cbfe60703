/*-------------------------------------------------------------------------
 *
 * kafka_mock.c
 *	  A Kafka for the bridge's tests, as Debian has none: librdkafka's mock cluster,
 *	  and a consumer.  The cluster is memory alone, and keeps the last 5 MB of a
 *	  partition.
 *
 *	  kafka-mock serve BROKERS [FIFO]
 *		serve until SIGTERM; the first line tells where.  Lines of the FIFO have the cluster
 *		refuse: "produce ERROR COUNT", so many of the next requests that produce, or
 *		"topic NAME ERROR", all that is asked of that topic, until ERROR is 0
 *	  kafka-mock consume HOSTS TOPIC COUNT
 *		print so many messages, with 0 all that there are, or with -1 what comes until
 *		SIGTERM: partition, key, seq, id, type, op and payload, with tabs between
 *
 *-------------------------------------------------------------------------
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * librdkafka's mock accepts its connections with this one instead of libc's: a broker
 * sends what it has at once, as real ones do, and does not wait for the peer to
 * acknowledge what came before, which takes up to 40 ms.
 */
__attribute__((visibility("default")))
int
accept(int fd, struct sockaddr *address, socklen_t *length)
{
	int			accepted = accept4(fd, address, length, 0);
	int			on = 1;

	if (accepted >= 0)
		(void) setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return accepted;
}

/* The mock has so many partitions for a topic that it makes. */
#define PARTITIONS 4

/* Say what is wrong, and exit. */
static void
fail(const char *what)
{
	fprintf(stderr, "kafka-mock: %s\n", what);
	exit(1);
}

/* A client of that kind. */
static rd_kafka_t *
make_client(rd_kafka_type_t type, const char *hosts)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		error[300];
	rd_kafka_t *client;

	if (hosts != NULL)
		rd_kafka_conf_set(conf, "bootstrap.servers", hosts, error, sizeof(error));
	rd_kafka_conf_set(conf, "group.id", "test", error, sizeof(error));
	rd_kafka_conf_set(conf, "allow.auto.create.topics", "true", error, sizeof(error));
	rd_kafka_conf_set(conf, "enable.partition.eof", "true", error, sizeof(error));
	rd_kafka_conf_set(conf, "auto.offset.reset", "earliest", error, sizeof(error));
	client = rd_kafka_new(type, conf, error, sizeof(error));
	if (client == NULL)
		fail(error);
	return client;
}

/* Do what a line of the FIFO says. */
static void
refuse(rd_kafka_mock_cluster_t *cluster, const char *line)
{
	rd_kafka_resp_err_t errors[100];
	char		topic[100];
	int			error;
	int			count;

	if (sscanf(line, "produce %d %d", &error, &count) == 2 && count > 0 && count <= 100)
	{
		for (int i = 0; i < count; i++)
			errors[i] = (rd_kafka_resp_err_t) error;
		/* (0 is the number of requests that produce) */
		rd_kafka_mock_push_request_errors_array(cluster, 0, (size_t) count, errors);
	}
	else if (sscanf(line, "topic %99s %d", topic, &error) == 2)
		rd_kafka_mock_topic_set_error(cluster, topic, (rd_kafka_resp_err_t) error);
	else
		fail("a line that says nothing");
	printf("done %s", line);
	fflush(stdout);
}

/* Serve until somebody ends this. */
static void
serve(int brokers, const char *fifo)
{
	char		line[200];
	FILE	   *lines;

	rd_kafka_mock_cluster_t *cluster =
	rd_kafka_mock_cluster_new(make_client(RD_KAFKA_PRODUCER, NULL), brokers);

	if (cluster == NULL)
		fail("no cluster");
	printf("serves %s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	while (fifo == NULL)
		pause();
	/* (to be written, too, so that it does not end) */
	lines = fopen(fifo, "r+");
	if (lines == NULL)
		fail("no such FIFO");
	while (fgets(line, sizeof(line), lines) != NULL)
		refuse(cluster, line);
	fail("the FIFO has ended");
}

/* A header's value, or "-". */
static const char *
header(const rd_kafka_message_t *message, const char *name, size_t *length)
{
	rd_kafka_headers_t *headers;
	const void *value;

	if (rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR &&
		rd_kafka_header_get_last(headers, name, &value, length) == RD_KAFKA_RESP_ERR_NO_ERROR)
		return value;
	*length = 1;
	return "-";
}

/* Print a message. */
static void
show(const rd_kafka_message_t *message)
{
	static const char *const names[] = {"seq", "id", "type", "op"};

	printf("%d\t%.*s", message->partition, (int) message->key_len, (const char *) message->key);
	for (int i = 0; i < 4; i++)
	{
		size_t		length;
		const char *value = header(message, names[i], &length);

		printf("\t%.*s", (int) length, value);
	}
	printf("\t%.*s\n", (int) message->len, (const char *) message->payload);
}

/* Print so many messages of the topic, all with 0, or with -1 for ever. */
static void
consume(const char *hosts, const char *topic, int count)
{
	rd_kafka_t *consumer = make_client(RD_KAFKA_CONSUMER, hosts);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);
	bool		all = count == 0;
	bool		endless = count < 0;
	int			ends = 0;

	rd_kafka_poll_set_consumer(consumer);
	for (int i = 0; i < PARTITIONS; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_assign(consumer, list);
	if (endless)
		setvbuf(stdout, NULL, _IOLBF, 65536);
	while (endless || (all ? ends < PARTITIONS : count > 0))
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 60000);

		if (message == NULL && endless)
			continue;
		if (message == NULL)
			fail("nothing has come for 60 s");
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			show(message);
			count--;
		}
		else if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			ends++;
		rd_kafka_message_destroy(message);
	}
	fflush(stdout);
	_exit(0);
}

int
main(int argc, char **argv)
{
	if ((argc == 3 || argc == 4) && strcmp(argv[1], "serve") == 0)
		serve(atoi(argv[2]), argv[3]);
	else if (argc == 5 && strcmp(argv[1], "consume") == 0)
		consume(argv[2], argv[3], atoi(argv[4]));
	fail("usage: serve BROKERS [FIFO], or consume HOSTS TOPIC COUNT");
}

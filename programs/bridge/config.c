/*-------------------------------------------------------------------------
 *
 * config.c
 *	  The bridge's configuration: its options, from the command line and from the
 *	  file that these name.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge/bridge.h"
#include "bridge/sink.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/options.h"

/* Of options' errors, in bytes. */
#define ERROR_SIZE 1024

static char *config_file;
static bool help;

#define TEXT(name, field, value_name, help) \
	{name, OPTION_TEXT, &bridge.options.field, 0, 0, value_name, help, false}
#define NUMBER(name, field, least, most, help) \
	{name, OPTION_NUMBER, &bridge.options.field, least, most, "N", help, false}

static Option options[] = {
	TEXT("dbname", dbname, "CONNINFO",
		 "the server and the database, in libpq's syntax"),
	TEXT("subscription", subscription, "NAME",
		 "the subscription, which is there and belongs to the role"),
	TEXT("to", to, "URL",
		 "the broker: amqp://, amqps://, nats://, kafka://, redis:// or rediss://"),
	TEXT("exchange", exchange, "NAME",
		 "AMQP: the exchange; without it, the default one, where a routing key is a queue's name"),
	TEXT("routing-key", routing_key, "TEMPLATE",
		 "AMQP: the routing key, of {channel}, {schema}, {table}, {op} and {key} ({channel})"),
	TEXT("subject", subject, "TEMPLATE", "NATS: the subject ({channel})"),
	TEXT("topic", topic, "TEMPLATE", "Kafka: the topic ({channel})"),
	TEXT("stream", stream, "TEMPLATE", "Redis: the stream's key ({channel})"),
	TEXT("placeholder", placeholder, "TEXT",
		 "what a name in the template is if the payload does not have it (_)"),
	TEXT("on-unroutable", on_unroutable, "stop|drop|dead-letter",
		 "what becomes of a message that the broker cannot route or will never take (stop)"),
	TEXT("dead-letter", dead_letter, "NAME",
		 "the queue, subject, topic or stream where those go"),
	TEXT("password-file", password_file, "FILE",
		 "the broker's password is the first line of this file"),
	{"tls", OPTION_FLAG, &bridge.options.tls, 0, 0, NULL,
	"use TLS to the broker, as amqps:// and rediss:// do, and each of the next three options", false},
	TEXT("tls-ca", tls_ca, "FILE",
		 "believe certificates of these authorities (those of the system)"),
	TEXT("tls-cert", tls_cert, "FILE", "the bridge's own certificate"),
	TEXT("tls-key", tls_key, "FILE", "its key"),
	TEXT("kafka-config", kafka_config, "FILE",
		 "Kafka: further properties of librdkafka, as name=value"),
	NUMBER("batch", batch, 1, 100000, "events that are read from the server at a time"),
	NUMBER("window", window, 1, 100000,
		   "messages that are sent and not yet confirmed; 1 keeps the order over refusals, too"),
	NUMBER("buffer", buffer, 1, 4096, "MB of memory for events"),
	NUMBER("confirm-timeout", confirm_timeout, 1, 3600,
		   "seconds until a broker that confirms nothing is taken for lost"),
	NUMBER("drain-timeout", drain_timeout, 0, 3600,
		   "seconds that confirmations may take at the end"),
	TEXT("metrics", metrics, "ADDRESS:PORT", "answer GET /metrics and /healthz there"),
	TEXT("log-level", log_level, "LEVEL", "debug, info, warning or error (info)"),
	{"config", OPTION_TEXT, &config_file, 0, 0, "FILE",
	"read options from this file, as name = value", false},
	{"check", OPTION_FLAG, &bridge.options.check, 0, 0, NULL,
	"look whether all is well, connect to both sides once, and end", false},
	{"help", OPTION_FLAG, &help, 0, 0, NULL, "print this", false},
};

#define OPTION_COUNT ((int) (sizeof(options) / sizeof(options[0])))

/* Print what --help does. */
static void
print_help(void)
{
	printf("pgpubsub-bridge: the events of a subscription into RabbitMQ, NATS JetStream, Kafka or Redis\n\n"
		   "Usage: pgpubsub-bridge --dbname CONNINFO --subscription NAME --to URL [OPTION...]\n\n");
	options_print(options, OPTION_COUNT);
	printf("\nPasswords belong into a service or password file for the server, and into --password-file or\n"
		   "the file of --config for the broker.  SIGTERM ends the program when what it has sent is confirmed.\n");
}

/* The log's level of that name, or -1. */
static int
level_of(const char *name)
{
	static const char *const levels[] = {"debug", "info", "warning", "error"};

	for (int i = 0; name != NULL && i < 4; i++)
	{
		if (strcmp(name, levels[i]) == 0)
			return i;
	}
	return name == NULL ? LOG_LEVEL_INFO : -1;
}

/* What to do with what cannot be routed; false, with the error, if it says nonsense. */
static bool
read_policy(char *error, size_t size)
{
	const char *text = bridge.options.on_unroutable;

	if (text == NULL || strcmp(text, "stop") == 0)
		bridge.options.unroutable = UNROUTABLE_STOP;
	else if (strcmp(text, "drop") == 0)
		bridge.options.unroutable = UNROUTABLE_DROP;
	else if (strcmp(text, "dead-letter") == 0)
		bridge.options.unroutable = UNROUTABLE_DEAD_LETTER;
	else
	{
		snprintf(error, size, "option on-unroutable is stop, drop or dead-letter, not \"%s\"", text);
		return false;
	}
	if ((bridge.options.unroutable == UNROUTABLE_DEAD_LETTER) !=
		(bridge.options.dead_letter != NULL))
	{
		snprintf(error, size, "--on-unroutable dead-letter and --dead-letter need each other");
		return false;
	}
	return true;
}

/* Take the password out of its file; false, with the error written, if it is not there. */
static bool
read_password(char *error, size_t size)
{
	FILE	   *file;
	char		line[1024];

	if (bridge.options.password_file == NULL)
		return true;
	file = fopen(bridge.options.password_file, "r");
	if (file == NULL || fgets(line, sizeof(line), file) == NULL)
	{
		snprintf(error, size, "could not read a password from file \"%s\"",
				 bridge.options.password_file);
		if (file != NULL)
			fclose(file);
		return false;
	}
	fclose(file);
	line[strcspn(line, "\r\n")] = '\0';
	free(bridge.options.url.password);
	bridge.options.url.password = memory_copy_string(line);
	return true;
}

/* Where a message goes is said by one option for each kind of broker. */
static bool
check_address_options(char *error, size_t size)
{
	static const struct
	{
		const char *sink;
		const char *option;
		char	  **value;
	}			places[] = {
		{"AMQP", "exchange", &bridge.options.exchange},
		{"AMQP", "routing-key", &bridge.options.routing_key},
		{"NATS", "subject", &bridge.options.subject},
		{"Kafka", "topic", &bridge.options.topic},
		{"Kafka", "kafka-config", &bridge.options.kafka_config},
		{"Redis", "stream", &bridge.options.stream},
	};

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
	{
		if (*places[i].value != NULL && strcmp(places[i].sink, bridge.options.sink->name) != 0)
		{
			snprintf(error, size, "option %s is for %s, and --to names %s",
					 places[i].option, places[i].sink, bridge.options.sink->name);
			return false;
		}
	}
	return true;
}

/* Read what --to says, and what the kind of broker needs. */
static bool
check_broker(char *error, size_t size)
{
	Options    *o = &bridge.options;
	const char *address = NULL;

	if (!url_parse(&o->url, o->to, error, size))
		return false;
	o->sink = sink_kind(o->url.scheme);
	if (o->sink == NULL)
	{
		snprintf(error, size, "unknown kind of broker \"%s://\", or this program was built without it",
				 o->url.scheme);
		return false;
	}
	if (o->sink->schemes[1] != NULL && strcmp(o->url.scheme, o->sink->schemes[1]) == 0)
		o->tls = true;
	/* (who names these does not want to speak in clear) */
	o->tls |= o->tls_ca != NULL || o->tls_cert != NULL;
	return read_password(error, size) && check_address_options(error, size) &&
		o->sink->configure(&address, error, size) &&
		template_parse(&o->address, address, error, size);
}

/* Do the options fit together?  False, with the error written, if not. */
static bool
check_options(char *error, size_t size)
{
	Options    *o = &bridge.options;

	if (o->dbname == NULL)
		snprintf(error, size, "no server was named: --dbname is needed; see --help");
	else if (o->subscription == NULL)
		snprintf(error, size, "no subscription was named: --subscription is needed; see --help");
	else if (strlen(o->subscription) < 1 || strlen(o->subscription) > 63)
		snprintf(error, size, "option subscription takes 1 to 63 bytes");
	else if (o->to == NULL)
		snprintf(error, size, "no broker was named: --to is needed; see --help");
	else if (level_of(o->log_level) < 0)
		snprintf(error, size, "log-level is debug, info, warning or error, not \"%s\"",
				 o->log_level);
	else if ((o->tls_cert == NULL) != (o->tls_key == NULL))
		snprintf(error, size, "--tls-cert and --tls-key need each other");
	else if (o->metrics != NULL && strrchr(o->metrics, ':') == NULL)
		snprintf(error, size, "option metrics takes ADDRESS:PORT, not \"%s\"", o->metrics);
	else
		return read_policy(error, size) && check_broker(error, size);
	return false;
}

/* Passwords on the command line are for everybody to see: not longer than needed. */
static void
hide_passwords(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
	{
		if (strstr(argv[i], "://") != NULL)
			url_hide_password(argv[i]);
	}
}

/* Read the configuration; the program ends if it is wrong. */
void
config_read(int argc, char **argv)
{
	char		error[ERROR_SIZE];

	bridge.options.batch = 4000;
	bridge.options.window = 1000;
	bridge.options.buffer = 64;
	bridge.options.confirm_timeout = 30;
	bridge.options.drain_timeout = 10;
	if (!options_read_arguments(options, OPTION_COUNT, argc, argv, error, sizeof(error)))
		log_fatal("%s; see --help", error);
	if (help)
	{
		print_help();
		exit(0);
	}
	hide_passwords(argc, argv);
	if (config_file != NULL &&
		!options_read_file(options, OPTION_COUNT, config_file, error, sizeof(error)))
		log_fatal("%s", error);
	if (bridge.options.placeholder == NULL)
		bridge.options.placeholder = memory_copy_string("_");
	if (!check_options(error, sizeof(error)))
		log_fatal("%s", error);
	log_threshold = (LogLevel) level_of(bridge.options.log_level);
}

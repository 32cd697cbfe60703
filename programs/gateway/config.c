/*-------------------------------------------------------------------------
 *
 * config.c
 *	  The gateway's configuration: its options, from the command line and from the
 *	  file that these name.
 *
 * At SIGHUP the file is read again, into a copy that takes the place of what there
 * was if nothing is wrong with it.  Where clients and the server are does not change
 * while the program runs.  The files of the certificate are read again, too, for
 * they are renewed in place.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "common/options.h"
#include "gateway/address.h"
#include "gateway/gateway.h"
#include "gateway/jwt.h"
#include "gateway/limits.h"
#include "gateway/tls.h"
#include "gateway/upstream.h"

/* Sockets and files beside the clients'. */
#define OTHER_FILES 200

typedef struct Config
{
	Options		options;
	Limits		limits;
	char	   *file;
	bool		help;
} Config;

static Limits default_limits;
static int	saved_argc;
static char **saved_argv;

#define OPTION(name, kind, field, value_name, help) \
	{name, kind, &config->field, 0, 0, value_name, help, false}

/*
 * All options, whose values go to config, those of the limits behind *named
 * others; to be freed.
 */
static Option *
make_options(Config *config, int *named, int *count)
{
	const Option table[] = {
		OPTION("dbname", OPTION_TEXT, options.dbname, "CONNINFO",
			   "the server and the database, in libpq's syntax"),
		OPTION("listen", OPTION_TEXT, options.listen, "ADDRESS:PORT",
			   "accept clients there"),
		OPTION("socket-dir", OPTION_TEXT, options.socket_dir, "DIR",
			   "accept clients at a Unix socket there"),
		{"port", OPTION_NUMBER, &config->options.port, 1, 65535, "N",
		"the number in that socket's name", false},
		OPTION("http", OPTION_TEXT, options.http, "ADDRESS:PORT",
			   "accept HTTP clients there: events, publishing, metrics"),
		OPTION("jwt-key", OPTION_TEXT, options.jwt_key, "FILE",
			   "believe HTTP clients' tokens: a public RSA key in PEM (RS256), or a secret (HS256)"),
		OPTION("jwt-audience", OPTION_TEXT, options.jwt_audience, "NAME",
			   "refuse tokens that are not for this audience"),
		OPTION("jwt-issuer", OPTION_TEXT, options.jwt_issuer, "NAME",
			   "refuse tokens of other issuers"),
		OPTION("cors-origin", OPTION_TEXT, options.cors_origin, "ORIGIN,...",
			   "let pages of these origins, as https://example.org, read and publish"),
		OPTION("metrics-login", OPTION_FLAG, options.metrics_login, NULL,
			   "ask for a password for /metrics even of who comes from this machine"),
		OPTION("name", OPTION_TEXT, options.name, "NAME",
			   "of this gateway and its subscription (gateway-HOST-PORT)"),
		OPTION("tls-cert", OPTION_TEXT, options.tls_certificate, "FILE",
			   "the certificate that clients see, with its chain"),
		OPTION("tls-key", OPTION_TEXT, options.tls_key, "FILE",
			   "its key, which only its owner may read"),
		OPTION("require-tls", OPTION_FLAG, options.require_tls, NULL,
			   "refuse clients without TLS, but for those at the Unix socket"),
		OPTION("allow", OPTION_TEXT, options.allow, "CIDR,...",
			   "refuse clients from other networks than these"),
		OPTION("ask-password", OPTION_FLAG, options.ask_password, NULL,
			   "ask clients with TLS for their password, and log in with it: for clients that bind it to the channel"),
		OPTION("allow-unproven-login", OPTION_FLAG, options.allow_unproven_login, NULL,
			   "let in whom the server lets in without a password"),
		OPTION("log-level", OPTION_TEXT, options.log_level, "LEVEL",
			   "debug, info, warning or error (info)"),
		OPTION("config", OPTION_TEXT, file, "FILE",
			   "read options from this file, as name = value"),
		OPTION("help", OPTION_FLAG, help, NULL, "print this"),
	};
	Option	   *options;

	*named = (int) (sizeof(table) / sizeof(table[0]));
	*count = *named + limit_count;
	options = memory_get_zeroed(*count * sizeof(Option));
	memcpy(options, table, sizeof(table));
	for (int i = 0; i < limit_count; i++)
	{
		Option	   *option = &options[*named + i];

		option->name = limit_table[i].option;
		option->kind = OPTION_NUMBER;
		option->target = (char *) &config->limits +
			((char *) limit_table[i].value - (char *) &limits);
		option->least = limit_table[i].least;
		option->most = limit_table[i].most;
		option->value_name = "N";
		option->help = limit_table[i].help;
	}
	return options;
}

/* Print what --help does. */
static void
print_help(const Option *options, int named, int count)
{
	printf("pgpubsub-gateway: LISTEN and NOTIFY for many clients over two connections\n\n"
		   "Usage: pgpubsub-gateway --dbname CONNINFO (--listen ADDRESS:PORT | --socket-dir DIR --port N | --http ADDRESS:PORT) [OPTION...]\n\n");
	options_print(options, named);
	printf("\nLimits:\n");
	options_print(options + named, count - named);
	printf("\nA password belongs into a service or password file, not into CONNINFO.\n"
		   "SIGHUP has the file of --config, and the certificate, read again; SIGTERM ends the program\n"
		   "when its clients are idle.\n");
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

/* A name that is the same whenever this gateway is started. */
static char *
make_name(const Options *options)
{
	char		host[40] = "";
	char		name[64];
	const char *address = options->listen != NULL ? options->listen :
		options->socket_dir != NULL ? NULL : options->http;
	const char *port = address == NULL ? NULL : strrchr(address, ':');

	gethostname(host, sizeof(host) - 1);
	if (port != NULL)
		snprintf(name, sizeof(name), "gateway-%s-%s", host, port + 1);
	else
		snprintf(name, sizeof(name), "gateway-%s-%d", host, (int) options->port);
	return memory_copy_string(name);
}

/* Do the options fit together?  False, with the error written, if not. */
static bool
check_options(Options *options, char *error, size_t size)
{
	if (options->dbname == NULL)
		snprintf(error, size, "no server was named: --dbname is needed; see --help");
	else if (options->listen == NULL && options->socket_dir == NULL && options->http == NULL)
		snprintf(error, size, "nowhere to listen: --listen or --socket-dir is needed, or --http; see --help");
	else if (options->socket_dir != NULL && options->port == 0)
		snprintf(error, size, "--socket-dir needs --port");
	else if (strlen(options->name) < 1 || strlen(options->name) > 63)
		snprintf(error, size, "option name takes 1 to 63 bytes");
	else if (strcmp(options->name, "pgpubsub") == 0 || strchr(options->name, '*') != NULL)
		snprintf(error, size, "the name \"%s\" is reserved", options->name);
	else if (level_of(options->log_level) < 0)
		snprintf(error, size, "log-level is debug, info, warning or error, not \"%s\"",
				 options->log_level);
	else if ((options->tls_certificate == NULL) != (options->tls_key == NULL))
		snprintf(error, size, "--tls-cert and --tls-key need each other");
	else if (options->require_tls && options->tls_certificate == NULL)
		snprintf(error, size, "--require-tls needs --tls-cert and --tls-key");
	else if (options->allow != NULL &&
			 (options->allowed = addresses_read(options->allow, error, size)) == NULL)
		return false;
	else if (options->jwt_key != NULL &&
			 (options->jwt = jwt_key_load(options->jwt_key, options->jwt_audience,
										  options->jwt_issuer, error, size)) == NULL)
		return false;
	else
		return true;
	return false;
}

/* Free what was read. */
static void
free_config(Config *config)
{
	memory_wipe_string(config->options.dbname);
	free(config->options.listen);
	free(config->options.socket_dir);
	free(config->options.name);
	free(config->options.tls_certificate);
	free(config->options.tls_key);
	free(config->options.allow);
	free(config->options.log_level);
	free(config->options.http);
	free(config->options.jwt_key);
	free(config->options.jwt_audience);
	free(config->options.jwt_issuer);
	free(config->options.cors_origin);
	jwt_key_free(config->options.jwt);
	addresses_free(config->options.allowed);
	free(config->file);
}

/*
 * Read the options of the command line, and of the file; False, with the error
 * written, if something is wrong.
 */
static bool
read_config(Config *config, char *error, int size)
{
	int			named;
	int			count;
	Option	   *options;
	bool		good;

	memset(config, 0, sizeof(Config));
	config->limits = default_limits;
	options = make_options(config, &named, &count);
	good = options_read_arguments(options, count, saved_argc, saved_argv, error, size);
	if (!good)
		snprintf(error + strlen(error), size - strlen(error), "; see --help");
	if (good && config->help)
	{
		print_help(options, named, count);
		exit(0);
	}
	good = good && (config->file == NULL ||
					options_read_file(options, count, config->file, error, size));
	free(options);
	if (good && config->options.name == NULL)
		config->options.name = make_name(&config->options);
	return good && check_options(&config->options, error, size) &&
		(config->options.tls_key == NULL ||
		 tls_load(config->options.tls_certificate, config->options.tls_key, error, size));
}

/* Have as many files as may be; say so if those are too few. */
static void
raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void) setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < (rlim_t) limits.max_clients + OTHER_FILES)
	{
		limits.max_clients = (int64_t) limit.rlim_cur - OTHER_FILES;
		if (limits.max_clients < 1)
			log_fatal("the limit of open files, %llu, is too low",
					  (unsigned long long) limit.rlim_cur);
		log_line(LOG_LEVEL_WARNING,
				 "max-clients is %lld only, as at most %llu files may be open",
				 (long long) limits.max_clients, (unsigned long long) limit.rlim_cur);
	}
}

/* What was read holds from now on. */
static void
apply(const Config *config)
{
	limits = config->limits;
	gateway.options = config->options;
	log_threshold = (LogLevel) level_of(config->options.log_level);
	if (config->options.tls_certificate == NULL)
		tls_unload();
	raise_file_limit();
}

/* Read the configuration for the first time; the program ends if it is wrong. */
void
config_read(int argc, char **argv)
{
	Config		config;
	char		error[1024];

	saved_argc = argc;
	saved_argv = argv;
	default_limits = limits;
	if (!read_config(&config, error, sizeof(error)))
		log_fatal("%s", error);
	free(config.file);
	apply(&config);
}

/* Are both the same, or both missing? */
static bool
same_text(const char *one, const char *other)
{
	return one == NULL || other == NULL ? one == other : strcmp(one, other) == 0;
}

/* An option that does not change while the program runs: the old value stays. */
static void
keep(char **new_value, char **old_value, const char *name)
{
	char	   *given = *new_value;

	if (!same_text(given, *old_value))
		log_line(LOG_LEVEL_WARNING, "option %s is another one only after a restart", name);
	*new_value = *old_value;
	*old_value = given;
}

/* SIGHUP: read it again.  If it is wrong, it stays as it was. */
void
config_read_again(void)
{
	Config		config;
	Config		old = {.options = gateway.options};
	char		error[1024];

	if (!read_config(&config, error, sizeof(error)))
	{
		log_line(LOG_LEVEL_ERROR, "the configuration stays as it was: %s", error);
		free_config(&config);
		return;
	}
	keep(&config.options.dbname, &old.options.dbname, "dbname");
	keep(&config.options.listen, &old.options.listen, "listen");
	keep(&config.options.http, &old.options.http, "http");
	keep(&config.options.socket_dir, &old.options.socket_dir, "socket-dir");
	keep(&config.options.name, &old.options.name, "name");
	if (config.options.port != old.options.port)
		log_line(LOG_LEVEL_WARNING, "option port is another one only after a restart");
	config.options.port = old.options.port;
	free(config.file);
	apply(&config);
	upstream_reconfigure();
	free_config(&old);
	log_line(LOG_LEVEL_INFO, "the configuration was read again");
}

/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Whether the server lets a role in with a password that has come over HTTP, or
 *	  that a client was asked for.
 *
 * 1. It is a login like others (login.c), on a leg of its own to the server from
 *	  which the events come; but what the server asks is answered here.  It counts
 *	  only if the server has asked for the password.
 *
 * 2. With SCRAM the server says how much is to be computed, and means what the role
 *	  has set: anything up to two thousand million rounds.  More than
 *	  limits.max_scram_iterations is refused.  The rest is done in the threads of
 *	  libuv's pool, some milliseconds at a time, so that logins share these, none
 *	  has one for long, and a client that has gone costs nothing more.  As many
 *	  compute at a time as there are logins, limits.max_logins, for as long as a
 *	  login may take, limits.login_timeout.
 *
 * 3. A thread has the exchange alone, and knows no login.  The login's end only
 *	  forgets it; the loop frees it once the thread has let go.
 *
 *-------------------------------------------------------------------------
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/limits.h"
#include "gateway/login_internal.h"
#include "gateway/scram.h"
#include "gateway/upstream.h"

/* Rounds that a thread does before another login has its turn: some milliseconds. */
#define PART_ITERATIONS 10000

#define MD5_HEX 32

/* An exchange that a thread has, or is about to have. */
typedef struct ScramWork
{
	uv_work_t	work;
	Scram	   *scram;
	Login	   *login;			/* NULL: it has ended */
	bool		done;			/* all rounds */
} ScramWork;

struct Probe
{
	char	   *password;
	Scram	   *scram;			/* NULL: none, or work has it */
	ScramWork  *work;			/* or NULL */
	bool		verified;		/* the server has shown that it knows us, or
								 * did not have to */
};

static bool compute(Login *login);

/* The packet with which the login begins; it holds nothing of the password. */
static void
add_startup(Login *login)
{
	const char *const parameters[] = {"user", login->user, "database", upstream_database(),
	"application_name", "pgpubsub-gateway login", "client_encoding", "UTF8", ""};
	Bytes		body = {0};

	bytes_append_int32(&body, 3 << 16);
	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++)
		bytes_append_string(&body, parameters[i]);
	bytes_append_int32(&login->to_server, (uint32_t) bytes_length(&body) + 4);
	bytes_append(&login->to_server, body.data + body.begin, bytes_length(&body));
	bytes_free(&body);
}

/* What answers the server with that password. */
Probe *
probe_make(const char *password)
{
	Probe	   *probe = memory_get_zeroed(sizeof(Probe));

	probe->password = memory_copy_string(password);
	probe->verified = true;
	return probe;
}

/*
 * A client over HTTP is to be let in with that name and password, which are in one
 * piece of memory that begins with the name, and is given up.  http_logged_in() is
 * called, or the client is refused.
 */
void
login_probe(Client *client, char *user, char *password)
{
	Login	   *login;

	if (login_may_begin(client, user))
	{
		login = login_make(client);
		login->user = login_role_name(user);
		login->probe = probe_make(password);
		add_startup(login);
		client_deadline(client, limits.login_timeout);
		login_queue_up(login);
	}
	explicit_bzero(password, strlen(password));
	free(user);
}

/* The login that has the probe ends, which may be NULL. */
void
probe_free(Probe *probe)
{
	if (probe == NULL)
		return;
	if (probe->work != NULL)
	{
		/* no matter whether that comes too late */
		probe->work->login = NULL;
		(void) uv_cancel((uv_req_t *) & probe->work->work);
	}
	scram_free(probe->scram);
	memory_wipe_string(probe->password);
	free(probe);
}

/* Send the server a message of that many bytes as the client's answer. */
static void
answer(Login *login, const char *bytes, size_t length)
{
	bytes_append_byte(&login->to_server, 'p');
	bytes_append_int32(&login->to_server, (uint32_t) length + 4);
	bytes_append(&login->to_server, bytes, length);
	login->answered = true;
	leg_poll(login);
}

/* The server has said what is no part of the exchange; returns false. */
static bool
broken(Login *login)
{
	login_server_away(login->client, "It has answered what is no part of a login.");
	return false;
}

/* In a thread: some rounds. */
static void
work_part(uv_work_t *work)
{
	ScramWork  *scram_work = work->data;

	scram_work->done = scram_compute(scram_work->scram, PART_ITERATIONS);
}

/* In the loop: a thread has done its part, or was not needed any more. */
static void
part_done(uv_work_t *work, int status)
{
	ScramWork  *scram_work = work->data;
	Login	   *login = scram_work->login;
	Scram	   *scram = scram_work->scram;
	bool		done = scram_work->done;

	(void) status;
	free(scram_work);
	if (login == NULL)
	{
		scram_free(scram);
		return;
	}
	login->probe->work = NULL;
	login->probe->scram = scram;
	if (!done)
		(void) compute(login);
	else
	{
		const char *message = scram_final_message(scram);

		answer(login, message, strlen(message));
	}
}

/* Have a thread do the next part; false if the login has ended. */
static bool
compute(Login *login)
{
	Probe	   *probe = login->probe;
	ScramWork  *work = memory_get_zeroed(sizeof(ScramWork));

	work->work.data = work;
	work->scram = probe->scram;
	work->login = login;
	if (uv_queue_work(&gateway.loop, &work->work, work_part, part_done) != 0)
	{
		free(work);
		login_server_away(login->client, NULL);
		return false;
	}
	probe->scram = NULL;
	probe->work = work;
	return true;
}

/* The server tells its mechanisms; false if the login has ended. */
static bool
take_mechanisms(Login *login, PacketReader *reader)
{
	static const char ours[] = "SCRAM-SHA-256";
	const char *name;
	const char *first;
	Bytes		body = {0};

	while ((name = packet_string(reader)) != NULL && !reader->bad && *name != '\0' &&
		   strcmp(name, ours) != 0)
		continue;
	if (name == NULL || reader->bad || login->probe->scram != NULL ||
		login->probe->work != NULL)
		return broken(login);
	if (*name == '\0')
	{
		login_refuse_method(login->client, LOGIN_AUTH_SASL);
		return false;
	}
	login->probe->scram = scram_begin("", login->probe->password, NULL);
	login->probe->verified = false;
	first = scram_first_message(login->probe->scram);
	bytes_append_string(&body, ours);
	bytes_append_int32(&body, (uint32_t) strlen(first));
	bytes_append(&body, first, strlen(first));
	answer(login, body.data + body.begin, bytes_length(&body));
	bytes_free(&body);
	return true;
}

/* The server's challenge has come; false if the login has ended. */
static bool
take_challenge(Login *login, const char *text, size_t length)
{
	Scram	   *scram = login->probe->scram;
	char		message[200];
	Report		report = {
		.sqlstate = "53400",
		.message = message,
		.hint = "Set the role's password again with less scram_iterations.",
	};

	if (scram == NULL || !scram_challenge(scram, text, length))
		return broken(login);
	if (scram_iterations(scram) <= limits.max_scram_iterations)
		return compute(login);
	snprintf(message, sizeof(message),
			 "the role's password has %lld iterations, and at most %lld are computed here (max-scram-iterations)",
			 (long long) scram_iterations(scram), (long long) limits.max_scram_iterations);
	login_refuse(login->client, &report);
	return false;
}

/* Write the MD5 of some bytes, followed by others, in hexadecimal. */
static bool
md5_hex(const char *one, size_t one_length, const char *other, size_t other_length,
		char *hex)
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned int length = 0;
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool		good = context != NULL &&
		EVP_DigestInit_ex(context, EVP_md5(), NULL) == 1 &&
		EVP_DigestUpdate(context, one, one_length) == 1 &&
		EVP_DigestUpdate(context, other, other_length) == 1 &&
		EVP_DigestFinal_ex(context, hash, &length) == 1;

	EVP_MD_CTX_free(context);
	for (unsigned int i = 0; good && i < length; i++)
		snprintf(hex + i * 2, 3, "%02x", hash[i]);
	return good && length * 2 == MD5_HEX;
}

/* The server asks for an MD5 with that salt; false if the login has ended. */
static bool
answer_md5(Login *login, const char *salt)
{
	const char *password = login->probe->password;
	char		hex[MD5_HEX + 1];
	char		text[sizeof("md5") + MD5_HEX] = "md5";
	bool		good;

	good = md5_hex(password, strlen(password), login->user, strlen(login->user), hex) &&
		md5_hex(hex, MD5_HEX, salt, 4, text + strlen("md5"));
	if (good)
		answer(login, text, strlen(text) + 1);
	else
		login_refuse_method(login->client, LOGIN_AUTH_MD5);
	explicit_bzero(hex, sizeof(hex));
	explicit_bzero(text, sizeof(text));
	return good;
}

/* An authentication request has come; false if the login has ended. */
static bool
take_request(Login *login, PacketReader *reader)
{
	Probe	   *probe = login->probe;
	uint32_t	method = packet_int32(reader);
	const char *rest = reader->at;
	size_t		length = reader->bad ? 0 : reader->end - reader->at;

	if (reader->bad || login->authenticated)
		return broken(login);
	login->challenged |= method != LOGIN_AUTH_OK;
	switch (method)
	{
		case LOGIN_AUTH_OK:
			login->authenticated = probe->verified;
			return probe->verified || broken(login);
		case LOGIN_AUTH_PASSWORD:
			answer(login, probe->password, strlen(probe->password) + 1);
			return true;
		case LOGIN_AUTH_MD5:
			return length == 4 ? answer_md5(login, rest) : broken(login);
		case LOGIN_AUTH_SASL:
			return take_mechanisms(login, reader);
		case LOGIN_AUTH_SASL_CONTINUE:
			return take_challenge(login, rest, length);
		case LOGIN_AUTH_SASL_FINAL:
			probe->verified = probe->scram != NULL &&
				scram_verify(probe->scram, rest, length);
			return probe->verified || broken(login);
		default:
			login_refuse_method(login->client, method);
			return false;
	}
}

/* The server has an error: why does it not let the role in?  Returns false. */
static bool
refused(Login *login, PacketReader *reader)
{
	static const Report report = {
		.sqlstate = "28P01",
		.message = "the server refuses this name and password",
	};
	Client	   *client = login->client;
	const char *state = "";
	char		field;

	while ((field = packet_byte(reader)) != '\0' && !reader->bad)
	{
		const char *value = packet_string(reader);

		if (field == 'C' && value != NULL && !reader->bad)
			state = value;
	}
	/* no room, no memory, starting up: that is not this role's doing */
	if (strncmp(state, "53", 2) == 0 || strncmp(state, "57", 2) == 0)
	{
		login_server_away(client, NULL);
		return false;
	}
	if (login->answered && !login->authenticated)
		login_has_failed(login);
	login_refuse(client, &report);
	return false;
}

/* The server has let the role in; returns false, as the login has ended. */
static bool
let_in(Login *login)
{
	Client	   *client = login->client;

	if (!login->authenticated)
		return broken(login);
	if (!login_may_be_let_in(login))
		return false;
	client->role = role_hold(login->user);
	client->logged_in_at = gateway_now();
	login_drop(client);
	gateway.counters.logins++;
	http_logged_in(client);
	return false;
}

/*
 * A message of the server, of a client that is not over HTTP an authentication request;
 * false if the login has ended.
 */
bool
probe_message(Login *login, const Packet *packet)
{
	PacketReader reader;

	packet_read(&reader, packet);
	switch (packet->type)
	{
		case 'R':
			return take_request(login, &reader);
		case 'E':
			return refused(login, &reader);
		case 'Z':
			return let_in(login);
		case 'S':
		case 'K':
		case 'N':
			return true;
		default:
			return broken(login);
	}
}

/*-------------------------------------------------------------------------
 *
 * http_login.c
 *	  Who asks over HTTP, and what they may.
 *
 * 1. A name with a password (Basic) is a role's of the server, which checks it
 *	  (login.c, probe.c).  The role may do what it may through PostgreSQL's protocol:
 *	  read all channels, and notify.  What a connection has proven once holds for
 *	  its later requests with the same words.
 *
 * 2. A token (JWT) says itself what may be read and published.  It comes as Bearer,
 *	  or in the cookie pgpubsub_token, for a browser's EventSource sends no
 *	  headers of the page's.
 *
 * 3. A browser sends passwords and cookies along whatever page asks.  So the
 *	  page's origin has to be this gateway's own, or one of --cors-origin, where
 *	  something is published or a cookie tells who asks.
 *
 *-------------------------------------------------------------------------
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/log.h"
#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/http.h"
#include "gateway/lexer.h"
#include "gateway/login.h"

static const char cookie_name[] = "pgpubsub_token";

/* Behind the scheme's name in the header, what it says; at is NULL if it is another. */
static HttpText
behind_scheme(HttpText header, const char *scheme)
{
	size_t		length = strlen(scheme);
	HttpText	rest = {NULL, 0};

	if (header.at == NULL || header.length <= length ||
		strncasecmp(header.at, scheme, length) != 0 || header.at[length] != ' ')
		return rest;
	rest.at = header.at + length;
	rest.length = header.length - length;
	while (rest.length > 0 && *rest.at == ' ')
	{
		rest.at++;
		rest.length--;
	}
	return rest;
}

/* The token in the cookies; at is NULL if there is none. */
static HttpText
cookie_token(HttpText cookies)
{
	HttpText	token = {NULL, 0};
	size_t		at = 0;
	size_t		name = sizeof(cookie_name) - 1;

	while (at < cookies.length)
	{
		const char *start = cookies.at + at;
		const char *end = memchr(start, ';', cookies.length - at);
		size_t		length = end == NULL ? cookies.length - at : (size_t) (end - start);

		at += length + 1;
		while (length > 0 && *start == ' ')
		{
			start++;
			length--;
		}
		if (length > name && memcmp(start, cookie_name, name) == 0 && start[name] == '=')
		{
			token.at = start + name + 1;
			token.length = length - name - 1;
			return token;
		}
	}
	return token;
}

/* Take a token; false if the request was refused, which ends the connection. */
static bool
take_token(Client *client, HttpText token)
{
	Http	   *http = client->http;
	char		name[160];
	const char *why;

	if (gateway.options.jwt == NULL)
		why = "tokens are not taken here (jwt-key)";
	else if (jwt_verify(gateway.options.jwt, token.at, token.length, (int64_t) time(NULL),
						&http->claims, &why))
	{
		http->has_claims = true;
		http->proven = true;
		return true;
	}
	gateway.counters.failed_logins++;
	client_name(client, name, sizeof(name));
	log_line(LOG_LEVEL_INFO, "%s: token refused: %s", name, why);
	http->keep_alive = false;
	http_reply_error(client, 401, why);
	return false;
}

/* Decode the name and the password; NULL if they are none.  To be freed. */
static char *
decode_basic(HttpText text, char **password)
{
	char	   *decoded;
	char	   *colon;
	int			length;

	if (text.length == 0 || text.length % 4 != 0 || text.length > 8000)
		return NULL;
	decoded = memory_get_zeroed(text.length + 4);
	length = EVP_DecodeBlock((unsigned char *) decoded, (const unsigned char *) text.at,
							 (int) text.length);
	for (size_t i = text.length; length > 0 && i > 0 && text.at[i - 1] == '='; i--)
		length--;
	if (length <= 0 || strlen(decoded) != (size_t) length ||
		(colon = strchr(decoded, ':')) == NULL || colon == decoded || colon[1] == '\0' ||
		utf8_invalid(decoded, length) != (size_t) length)
	{
		memory_wipe(decoded, text.length + 4);
		return NULL;
	}
	*colon = '\0';
	*password = colon + 1;
	return decoded;
}

/* Take a name and a password; false if the request waits, or was refused. */
static bool
take_basic(Client *client, HttpText text)
{
	Http	   *http = client->http;
	unsigned char proof[SHA256_DIGEST_LENGTH];
	char	   *password;
	char	   *user;

	SHA256((const unsigned char *) text.at, text.length, proof);
	if (client->role != NULL)
	{
		if (CRYPTO_memcmp(proof, http->proof, sizeof(proof)) == 0)
			return true;
		http->keep_alive = false;
		http_reply_error(client, 403, "this connection is somebody else's");
		return false;
	}
	user = decode_basic(text, &password);
	if (user == NULL)
	{
		http_reply_error(client, 401, "the name and password are malformed, or one is empty");
		return false;
	}
	memcpy(http->proof, proof, sizeof(proof));
	login_probe(client, user, password);
	return false;
}

/*
 * Who asks?  True if that is known, and the request may go on.  False if it was
 * answered with an error, or http_route() will be called once the server has said.
 */
bool
http_authorize(Client *client)
{
	const HttpRequest *request = &client->http->request;
	HttpText	basic = behind_scheme(request->authorization, "Basic");
	HttpText	bearer = behind_scheme(request->authorization, "Bearer");
	HttpText	cookie = cookie_token(request->cookie);
	bool		by_cookie = request->authorization.at == NULL && cookie.at != NULL;

	if ((by_cookie || request->method == HTTP_POST) && !http_origin_may(client))
	{
		http_reply_error(client, 403, "pages of this origin may not ask here (cors-origin)");
		return false;
	}
	if (by_cookie && request->method == HTTP_POST && request->origin.at == NULL)
	{
		http_reply_error(client, 403, "with a cookie, an Origin is needed to publish");
		return false;
	}
	if (basic.at != NULL)
		return take_basic(client, basic);
	if (bearer.at != NULL)
		return take_token(client, bearer);
	if (by_cookie)
		return take_token(client, cookie);
	http_reply_error(client, 401, "who are you?");
	return false;
}

/* The server has let the role in whose name and password the request has. */
void
http_logged_in(Client *client)
{
	client_deadline(client, 0);
	http_route(client);
}

/* Does the name match, where '*' in the pattern is any run of characters? */
bool
name_matches(const char *pattern, const char *name)
{
	const char *star = NULL;
	const char *from = NULL;

	while (*name != '\0')
	{
		if (*pattern == '*')
		{
			star = pattern++;
			from = name;
		}
		else if (*pattern == *name)
		{
			pattern++;
			name++;
		}
		else if (star != NULL)
		{
			pattern = star + 1;
			name = ++from;
		}
		else
			return false;
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

/* Is it among those that the token claims?  '*' in name is a letter like others. */
static bool
is_claimed(char **patterns, int count, const char *name)
{
	for (int i = 0; i < count; i++)
	{
		if (name_matches(patterns[i], name))
			return true;
	}
	return false;
}

/* May whoever asks read the channel, or all of the pattern? */
bool
http_may_read(const Client *client, const char *channel)
{
	const Http *http = client->http;

	return !http->has_claims ||
		is_claimed(http->claims.channels, http->claims.channel_count, channel);
}

/* May whoever asks publish on the channel? */
bool
http_may_publish(const Client *client, const char *channel)
{
	const Http *http = client->http;

	return !http->has_claims ||
		is_claimed(http->claims.publish, http->claims.publish_count, channel);
}

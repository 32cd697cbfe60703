/*-------------------------------------------------------------------------
 *
 * url.c
 *	  See url.h.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/* The value of a hexadecimal digit, or -1. */
static int
digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		return (c | 0x20) - 'a' + 10;
	return -1;
}

/*
 * A copy of the bytes in which %41 is the byte with that number, to be freed; NULL
 * if a percent sign is followed by something else, or by 00.
 */
static char *
decode(const char *text, size_t length)
{
	char	   *copy = memory_get(length + 1);
	char	   *to = copy;

	for (size_t i = 0; i < length; i++)
	{
		if (text[i] == '%')
		{
			int			high = length - i > 2 ? digit_value(text[i + 1]) : -1;
			int			low = length - i > 2 ? digit_value(text[i + 2]) : -1;

			if (high >= 0 && low >= 0 && high + low > 0)
			{
				*to++ = (char) (high * 16 + low);
				i += 2;
				continue;
			}
			free(copy);
			return NULL;
		}
		*to++ = text[i];
	}
	*to = '\0';
	return copy;
}

/* Read "HOST:PORT", "HOST", "[ADDRESS]:PORT" or "[ADDRESS]" into the next host. */
static bool
read_host(Url *url, const char *text, size_t length)
{
	UrlHost    *host;
	const char *name = text;
	const char *end = text + length;
	const char *colon;
	size_t		name_length;
	char	   *after;
	long		port = 0;

	if (length > 0 && *text == '[')
	{
		const char *close = memchr(text, ']', length);

		if (close == NULL)
			return false;
		name = text + 1;
		name_length = close - name;
		colon = close + 1;
	}
	else
	{
		colon = memchr(text, ':', length);
		if (colon == NULL)
			colon = end;
		name_length = colon - text;
	}
	if (name_length == 0 || (colon < end && *colon != ':'))
		return false;
	if (colon < end)
	{
		port = strtol(colon + 1, &after, 10);
		if (after != end || after == colon + 1 || port < 1 || port > 65535)
			return false;
	}
	url->hosts = memory_resize(url->hosts, (url->host_count + 1) * sizeof(UrlHost));
	host = &url->hosts[url->host_count++];
	host->name = memory_copy_bytes(name, name_length);
	host->port = (int) port;
	return true;
}

/* Read "USER" or "USER:PASSWORD". */
static bool
read_user(Url *url, const char *text, size_t length)
{
	const char *colon = memchr(text, ':', length);
	size_t		user_length = colon != NULL ? (size_t) (colon - text) : length;

	url->user = decode(text, user_length);
	if (colon != NULL)
		url->password = decode(colon + 1, length - user_length - 1);
	return url->user != NULL && (colon == NULL || url->password != NULL);
}

/* Read the hosts, which commas part. */
static bool
read_hosts(Url *url, const char *text, size_t length)
{
	const char *end = text + length;

	while (true)
	{
		const char *comma = memchr(text, ',', end - text);
		const char *stop = comma != NULL ? comma : end;

		if (!read_host(url, text, stop - text))
			return false;
		if (comma == NULL)
			return true;
		text = comma + 1;
	}
}

/*
 * Read the text into a zeroed url, which is to be freed all the same if it is
 * none: then false, with the error written, which does not show the password.
 */
bool
url_parse(Url *url, const char *text, char *error, size_t error_size)
{
	const char *colon = strstr(text, "://");
	const char *rest;
	const char *slash;
	const char *at = NULL;
	bool		good = colon != NULL && colon > text;

	if (!good)
	{
		snprintf(error, error_size, "--to takes SCHEME://HOST[:PORT][/PATH], as amqp://localhost");
		return false;
	}
	url->scheme = memory_copy_bytes(text, colon - text);
	rest = colon + 3;
	slash = rest + strcspn(rest, "/");
	for (const char *scan = rest; scan < slash; scan++)
	{
		if (*scan == '@')
			at = scan;
	}
	if (at != NULL)
	{
		good = read_user(url, rest, at - rest);
		rest = at + 1;
	}
	good = good && read_hosts(url, rest, slash - rest);
	url->path = *slash == '/' ? decode(slash + 1, strlen(slash + 1)) : memory_copy_string("");
	if (!good || url->path == NULL)
	{
		snprintf(error, error_size, "--to has no valid user, host, port or path behind \"%s://\"; special characters are written as %%2F",
				 url->scheme);
		return false;
	}
	return true;
}

/* Overwrite the password in the text of a url, as the command line has it. */
void
url_hide_password(char *text)
{
	char	   *colon = strstr(text, "://");
	char	   *end;
	char	   *at = NULL;

	if (colon == NULL)
		return;
	colon += 3;
	end = colon + strcspn(colon, "/");
	for (char *scan = colon; scan < end; scan++)
	{
		if (*scan == '@')
			at = scan;
	}
	colon = at != NULL ? memchr(colon, ':', at - colon) : NULL;
	if (colon != NULL)
		memset(colon + 1, 'x', at - colon - 1);
}

/* Free what url_parse() has made, and forget it. */
void
url_free(Url *url)
{
	for (int i = 0; i < url->host_count; i++)
		free(url->hosts[i].name);
	free(url->hosts);
	free(url->scheme);
	free(url->user);
	free(url->password);
	free(url->path);
	memset(url, 0, sizeof(*url));
}

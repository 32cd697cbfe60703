/*-------------------------------------------------------------------------
 *
 * url.h
 *	  Where the broker is: SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,...][/PATH].
 *
 *-------------------------------------------------------------------------
 */
#ifndef BRIDGE_URL_H
#define BRIDGE_URL_H

#include <stdbool.h>
#include <stddef.h>

typedef struct UrlHost
{
	char	   *name;			/* an IPv6 address without its brackets */
	int			port;			/* 0: the broker's own */
} UrlHost;

typedef struct Url
{
	char	   *scheme;
	char	   *user;			/* NULL: none */
	char	   *password;		/* NULL: none */
	UrlHost    *hosts;			/* one at least */
	int			host_count;
	char	   *path;			/* without its slash; "" if there is none */
} Url;

extern bool url_parse(Url *url, const char *text, char *error,
					  size_t error_size);
extern void url_hide_password(char *text);
extern void url_free(Url *url);

#endif

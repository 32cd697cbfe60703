/*-------------------------------------------------------------------------
 *
 * jwt.h
 *	  Tokens that say who may read and publish what, signed by somebody whose key
 *	  the gateway was given.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_JWT_H
#define GATEWAY_JWT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct JwtKey JwtKey;

/* What a token says; channels may have patterns, as in pgpubsub.subscribe(). */
typedef struct JwtClaims
{
	int64_t		expires;		/* seconds since 1970 */
	char	   *subject;		/* or NULL */
	char	  **channels;		/* that may be read */
	int			channel_count;
	char	  **publish;		/* that may be published on */
	int			publish_count;
	bool		monitor;		/* the page may be looked at */
} JwtClaims;

extern JwtKey *jwt_key_load(const char *file, const char *audience,
							const char *issuer, char *error, size_t size);
extern void jwt_key_free(JwtKey *key);
extern bool jwt_verify(const JwtKey *key, const char *token, size_t length,
					   int64_t now, JwtClaims *claims, const char **why);
extern void jwt_claims_free(JwtClaims *claims);

#endif

/*-------------------------------------------------------------------------
 *
 * jwt.c
 *	  See jwt.h.
 *
 * 1. The algorithm is the key's, not the token's: RS256 for a public key in PEM,
 *	  HS256 for anything else.  A token that names another one, or none, is refused
 *	  before anything of it is believed; else a public key, which everybody may
 *	  have, could serve as a shared secret.
 *
 * 2. A token without an end is refused, and one without channels may read none.  One
 *	  that is for an audience is refused by whoever does not know to be that (RFC 7519,
 *	  4.1.3).
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/jwt.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/* A shared secret has as many bytes as the hash at least (RFC 7518, 3.2). */
#define LEAST_SECRET 32

#define LEAST_RSA_BITS 2048

/* The longest key file, and the longest token. */
#define MAX_KEY 16384
#define MAX_TOKEN 8192

/* Digits of a signature of SHA-256. */
#define HASH_BYTES 32

struct JwtKey
{
	EVP_PKEY   *public_key;		/* of RS256; NULL: HS256 */
	unsigned char *secret;
	size_t		secret_length;
	char	   *audience;		/* to be among the token's, or NULL */
	char	   *issuer;			/* to be the token's, or NULL */
};

/* Free the key, which may be NULL. */
void
jwt_key_free(JwtKey *key)
{
	if (key == NULL)
		return;
	EVP_PKEY_free(key->public_key);
	if (key->secret != NULL)
		OPENSSL_cleanse(key->secret, key->secret_length);
	free(key->secret);
	free(key->audience);
	free(key->issuer);
	free(key);
}

/* Take the bytes of the file as a public key in PEM; false if it is a wrong one. */
static bool
take_public_key(JwtKey *key, const char *bytes, size_t length, const char *file,
				char *error, size_t size)
{
	BIO		   *bio = BIO_new_mem_buf(bytes, (int) length);

	ERR_clear_error();
	key->public_key = bio == NULL ? NULL : PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL);
	BIO_free(bio);
	if (key->public_key != NULL && EVP_PKEY_is_a(key->public_key, "RSA") &&
		EVP_PKEY_get_bits(key->public_key) >= LEAST_RSA_BITS)
		return true;
	snprintf(error, size, "JWT key \"%s\" is no public RSA key of %d bits or more",
			 file, LEAST_RSA_BITS);
	return false;
}

/* Take the bytes of the file, without the end of a line, as a shared secret. */
static bool
take_secret(JwtKey *key, const char *bytes, size_t length, const char *file,
			char *error, size_t size)
{
	while (length > 0 && (bytes[length - 1] == '\n' || bytes[length - 1] == '\r'))
		length--;
	if (length < LEAST_SECRET)
	{
		snprintf(error, size, "JWT key \"%s\" is too short: a shared secret has %d bytes at least",
				 file, LEAST_SECRET);
		return false;
	}
	key->secret = memory_get(length);
	memcpy(key->secret, bytes, length);
	key->secret_length = length;
	return true;
}

/*
 * Read a key from a file: a public key, or a shared secret.  The audience and the
 * issuer that tokens have to name may be NULL.  NULL, with the error written, if that
 * cannot be.
 */
JwtKey *
jwt_key_load(const char *file, const char *audience, const char *issuer,
			 char *error, size_t size)
{
	static const char pem[] = "-----BEGIN ";
	JwtKey	   *key;
	char	   *bytes;
	size_t		length;
	FILE	   *stream = fopen(file, "r");
	bool		good;

	if (stream == NULL)
	{
		snprintf(error, size, "could not open JWT key \"%s\": %s", file, strerror(errno));
		return NULL;
	}
	key = memory_get_zeroed(sizeof(JwtKey));
	bytes = memory_get(MAX_KEY);
	(void) setvbuf(stream, NULL, _IONBF, 0);
	length = fread(bytes, 1, MAX_KEY, stream);
	fclose(stream);
	if (length == MAX_KEY)
	{
		snprintf(error, size, "JWT key \"%s\" is too long", file);
		good = false;
	}
	else if (length >= sizeof(pem) && memcmp(bytes, pem, sizeof(pem) - 1) == 0)
		good = take_public_key(key, bytes, length, file, error, size);
	else
		good = take_secret(key, bytes, length, file, error, size);
	OPENSSL_cleanse(bytes, length);
	free(bytes);
	if (!good)
	{
		jwt_key_free(key);
		return NULL;
	}
	key->audience = audience == NULL ? NULL : memory_copy_string(audience);
	key->issuer = issuer == NULL ? NULL : memory_copy_string(issuer);
	return key;
}

/* The six bits that the character stands for, or -1. */
static int
base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '-')
		return 62;
	return c == '_' ? 63 : -1;
}

/* Decode base64url without padding; -1 if it is none, else the number of bytes. */
static int
decode_base64(const char *text, size_t length, unsigned char *bytes)
{
	uint32_t	bits = 0;
	int			held = 0;
	int			count = 0;

	if (length % 4 == 1)
		return -1;
	for (size_t i = 0; i < length; i++)
	{
		int			value = base64_value(text[i]);

		if (value < 0)
			return -1;
		bits = bits << 6 | (uint32_t) value;
		held += 6;
		if (held >= 8)
		{
			held -= 8;
			bytes[count++] = bits >> held & 0xFF;
		}
	}

	/* what is left over has to be nothing, or several texts were the same */
	return (bits & ((1U << held) - 1)) == 0 ? count : -1;
}

/* An object in base64url; NULL if it is none, or names a field twice. */
static json_t *
decode_object(const char *text, size_t length)
{
	unsigned char bytes[MAX_TOKEN];
	int			count = decode_base64(text, length, bytes);
	json_t	   *object;

	if (count < 0)
		return NULL;
	object = json_loadb((char *) bytes, count, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(object))
		return object;
	json_decref(object);
	return NULL;
}

/* Is the header that of the key's algorithm? */
static bool
header_fits(const JwtKey *key, const char *text, size_t length)
{
	json_t	   *header = decode_object(text, length);
	const char *algorithm = json_string_value(json_object_get(header, "alg"));
	bool		fits = algorithm != NULL &&
		strcmp(algorithm, key->public_key != NULL ? "RS256" : "HS256") == 0 &&
		json_object_get(header, "crit") == NULL;

	json_decref(header);
	return fits;
}

/* Is that the signature of the text? */
static bool
signature_fits(const JwtKey *key, const char *text, size_t length,
			   const unsigned char *signature, int count)
{
	unsigned char hash[EVP_MAX_MD_SIZE];
	unsigned int hash_length;
	EVP_MD_CTX *context;
	bool		fits;

	if (key->public_key == NULL)
		return count == HASH_BYTES &&
			HMAC(EVP_sha256(), key->secret, (int) key->secret_length,
				 (const unsigned char *) text, length, hash, &hash_length) != NULL &&
			CRYPTO_memcmp(hash, signature, HASH_BYTES) == 0;
	context = EVP_MD_CTX_new();
	fits = context != NULL &&
		EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key->public_key) == 1 &&
		EVP_DigestVerify(context, signature, count, (const unsigned char *) text, length) == 1;
	EVP_MD_CTX_free(context);
	ERR_clear_error();
	return fits;
}

/* A claim that is a time; false if it is there and is none. */
static bool
take_time(json_t * claims, const char *name, double *time)
{
	json_t	   *value = json_object_get(claims, name);

	*time = 0;
	if (value == NULL)
		return true;
	if (!json_is_number(value))
		return false;
	*time = json_number_value(value);
	return *time >= 0 && *time < 1e15;
}

/* Does the claim, a string or several, name that? */
static bool
names(json_t * claim, const char *wanted)
{
	size_t		i;
	json_t	   *item;

	if (json_is_string(claim))
		return strcmp(json_string_value(claim), wanted) == 0;
	json_array_foreach(claim, i, item)
	{
		if (json_is_string(item) && strcmp(json_string_value(item), wanted) == 0)
			return true;
	}
	return false;
}

/* Copy a claim that is an array of strings; false if it is there and is none. */
static bool
take_strings(json_t * claim, char ***strings, int *count)
{
	size_t		i;
	json_t	   *item;

	if (claim == NULL)
		return true;
	if (!json_is_array(claim))
		return false;
	*strings = memory_get_zeroed((json_array_size(claim) + 1) * sizeof(char *));
	json_array_foreach(claim, i, item)
	{
		if (!json_is_string(item))
			return false;
		(*strings)[(*count)++] = memory_copy_string(json_string_value(item));
	}
	return true;
}

/* Take what the token claims; NULL, or why it is refused. */
static const char *
take_claims(const JwtKey *key, json_t * object, int64_t now, JwtClaims *claims)
{
	const char *subject = json_string_value(json_object_get(object, "sub"));
	double		expires;
	double		begins;

	if (!take_time(object, "exp", &expires) || !take_time(object, "nbf", &begins))
		return "a time in the token is none";
	if (json_object_get(object, "exp") == NULL)
		return "the token has no end (exp)";
	if ((double) now >= expires)
		return "the token has expired";
	if ((double) now < begins)
		return "the token is not valid yet";
	if (key->audience == NULL && json_object_get(object, "aud") != NULL)
		return "the token is for an audience (aud), and the gateway has no name for that (jwt-audience)";
	if (key->audience != NULL && !names(json_object_get(object, "aud"), key->audience))
		return "the token is for somebody else (aud)";
	if (key->issuer != NULL && !names(json_object_get(object, "iss"), key->issuer))
		return "the token is of somebody else (iss)";
	if (!take_strings(json_object_get(object, "channels"), &claims->channels,
					  &claims->channel_count) ||
		!take_strings(json_object_get(object, "publish"), &claims->publish,
					  &claims->publish_count))
		return "channels and publish have to be arrays of strings";
	claims->monitor = json_is_true(json_object_get(object, "monitor"));
	claims->expires = (int64_t) expires;
	claims->subject = subject == NULL ? NULL : memory_copy_string(subject);
	return NULL;
}

/*
 * Is the token good now, in seconds since 1970?  Then *claims is set, to be freed
 * with jwt_claims_free(); else *why says why not.
 */
bool
jwt_verify(const JwtKey *key, const char *token, size_t length, int64_t now,
		   JwtClaims *claims, const char **why)
{
	const char *end = token + length;
	const char *first = memchr(token, '.', length);
	const char *second = first == NULL ? NULL : memchr(first + 1, '.', end - first - 1);
	unsigned char signature[MAX_TOKEN];
	json_t	   *object;
	int			count;

	memset(claims, 0, sizeof(*claims));
	*why = "the token is malformed";
	if (length > MAX_TOKEN || second == NULL)
		return false;
	if (!header_fits(key, token, first - token))
	{
		*why = "the token is not signed in the way of the key";
		return false;
	}
	count = decode_base64(second + 1, end - second - 1, signature);
	if (count < 0 || !signature_fits(key, token, second - token, signature, count))
	{
		*why = "the token's signature is wrong";
		return false;
	}
	object = decode_object(first + 1, second - first - 1);
	if (object == NULL)
		return false;
	*why = take_claims(key, object, now, claims);
	json_decref(object);
	if (*why == NULL)
		return true;
	jwt_claims_free(claims);
	return false;
}

/* Free what the claims have. */
void
jwt_claims_free(JwtClaims *claims)
{
	for (int i = 0; i < claims->channel_count; i++)
		free(claims->channels[i]);
	for (int i = 0; i < claims->publish_count; i++)
		free(claims->publish[i]);
	free(claims->channels);
	free(claims->publish);
	free(claims->subject);
	memset(claims, 0, sizeof(*claims));
}

/*-------------------------------------------------------------------------
 *
 * scram.c
 *	  See scram.h.
 *
 * 1. The client says a nonce, the server adds its own to that, a salt, and a number
 *	  of iterations.  The salted password is as many rounds of HMAC; from it and
 *	  from all that was said come the client's proof, and the server's signature,
 *	  which nobody can make who does not know the role's verifier.
 *
 * 2. The number of iterations is the role's own: it may be two thousand million.
 *	  So the rounds are done in parts, and the caller may give up between two.
 *
 * 3. Passwords are compared in the form that SASLprep gives them.  As in the
 *	  server, one to which that cannot be done is taken as it is.
 *
 * 4. The channel is not bound: that the server's certificate is good, tls.c sees.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/scram.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stringprep.h>

#include "common/log.h"
#include "common/memory.h"

#define KEY_BYTES SHA256_DIGEST_LENGTH

/* Bytes of our nonce, before they are written in base64. */
#define NONCE_BYTES 18

/* The longest salt and challenge that are taken, in bytes. */
#define MAX_SALT 1024
#define MAX_CHALLENGE 4096

/* How the first message begins: no binding of the channel, no other name. */
#define HEADER "n,,"
#define HEADER_BASE64 "biws"

struct Scram
{
	char	   *password;		/* after SASLprep */
	char	   *first;			/* messages, with their ends */
	char	   *challenge;		/* the server's */
	char	   *final;
	const char *nonce;			/* in challenge, and its length */
	size_t		nonce_length;
	size_t		own_nonce_length;
	unsigned char salt[MAX_SALT + 4];
	size_t		salt_length;
	int64_t		iterations;
	int64_t		done;			/* of these */
	EVP_MAC_CTX *mac;			/* keyed with the password */
	unsigned char round[KEY_BYTES]; /* the last one's */
	unsigned char salted[KEY_BYTES];	/* all rounds so far */
	unsigned char signature[KEY_BYTES]; /* that the server has to show */
};

/* Is the text ASCII? */
static bool
is_ascii(const char *text)
{
	while (*text != '\0' && (unsigned char) *text < 0x80)
		text++;
	return *text == '\0';
}

/*
 * The password as SASLprep has it, to be freed; as it is where that cannot be done, and
 * where it is ASCII, which SASLprep leaves as it is.  (Then libidn does not see it,
 * which does not overwrite what it frees.)
 */
static char *
prepare(const char *password)
{
	char	   *prepared = NULL;
	char	   *copy;

	if (is_ascii(password) ||
		stringprep_profile(password, &prepared, "SASLprep",
						   STRINGPREP_NO_UNASSIGNED) != STRINGPREP_OK)
		return memory_copy_string(password);
	copy = memory_copy_string(*prepared != '\0' ? prepared : password);
	OPENSSL_cleanse(prepared, strlen(prepared));
	free(prepared);
	return copy;
}

/*
 * An exchange for the role of that name, which may be empty, as the server takes that
 * of the startup packet.  nonce: NULL, but for tests.
 */
Scram *
scram_begin(const char *name, const char *password, const char *nonce)
{
	Scram	   *scram = memory_get_zeroed(sizeof(Scram));
	unsigned char bytes[NONCE_BYTES];
	char		text[NONCE_BYTES * 2];
	size_t		size;

	if (nonce == NULL)
	{
		if (RAND_bytes(bytes, sizeof(bytes)) != 1)
			log_fatal("could not get random bytes");
		EVP_EncodeBlock((unsigned char *) text, bytes, sizeof(bytes));
		nonce = text;
	}
	scram->password = prepare(password);
	scram->own_nonce_length = strlen(nonce);
	size = strlen(name) + strlen(nonce) + sizeof(HEADER) + sizeof("n=,r=");
	scram->first = memory_get_zeroed(size);
	snprintf(scram->first, size, HEADER "n=%s,r=%s", name, nonce);
	return scram;
}

/* Forget the exchange, which may be NULL, and the password. */
void
scram_free(Scram *scram)
{
	if (scram == NULL)
		return;
	EVP_MAC_CTX_free(scram->mac);
	OPENSSL_cleanse(scram->password, strlen(scram->password));
	free(scram->password);
	free(scram->first);
	free(scram->challenge);
	free(scram->final);
	OPENSSL_cleanse(scram, sizeof(*scram));
	free(scram);
}

/* What is to be said first. */
const char *
scram_first_message(const Scram *scram)
{
	return scram->first;
}

/* Take the attribute of that letter at *at, up to a comma or the end; NULL: none. */
static const char *
take_attribute(const char **at, char letter, size_t *length)
{
	const char *value = *at + 2;

	if ((*at)[0] != letter || (*at)[1] != '=')
		return NULL;
	*length = strcspn(value, ",");
	*at = value + *length;
	if (**at == ',')
		(*at)++;
	return *length > 0 ? value : NULL;
}

/* Decode base64, which has no white space, into at most room bytes; -1: it is none. */
static int
decode(const char *text, size_t length, unsigned char *bytes, size_t room)
{
	int			count;

	if (length == 0 || length % 4 != 0 || length / 4 * 3 > room)
		return -1;
	for (size_t i = 0; i < length; i++)
	{
		if (strchr("+/=", text[i]) == NULL &&
			!(text[i] >= '0' && text[i] <= '9') &&
			!(text[i] >= 'A' && text[i] <= 'Z') && !(text[i] >= 'a' && text[i] <= 'z'))
			return -1;
	}
	count = EVP_DecodeBlock(bytes, (const unsigned char *) text, (int) length);
	for (size_t i = length; count > 0 && i > 0 && text[i - 1] == '='; i--)
		count--;
	return count;
}

/* Key the rounds with the password; false if OpenSSL cannot. */
static bool
key_rounds(Scram *scram)
{
	char		digest[] = "SHA256";
	OSSL_PARAM	params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};
	EVP_MAC    *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);

	scram->mac = hmac == NULL ? NULL : EVP_MAC_CTX_new(hmac);
	EVP_MAC_free(hmac);
	return scram->mac != NULL &&
		EVP_MAC_init(scram->mac, (const unsigned char *) scram->password,
					 strlen(scram->password), params) == 1;
}

/* Take the server's challenge; false if it is none that can be answered. */
bool
scram_challenge(Scram *scram, const char *text, size_t length)
{
	const char *own = scram->first + strlen(scram->first) - scram->own_nonce_length;
	const char *at;
	const char *salt;
	const char *iterations;
	size_t		salt_length;
	size_t		digits;
	int			count;

	if (scram->challenge != NULL || length > MAX_CHALLENGE || memchr(text, 0, length) != NULL)
		return false;
	at = scram->challenge = memory_copy_bytes(text, length);
	scram->nonce = take_attribute(&at, 'r', &scram->nonce_length);
	salt = take_attribute(&at, 's', &salt_length);
	iterations = take_attribute(&at, 'i', &digits);
	if (scram->nonce == NULL || salt == NULL || iterations == NULL || *at != '\0' ||
		scram->nonce_length <= scram->own_nonce_length ||
		memcmp(scram->nonce, own, scram->own_nonce_length) != 0 ||
		digits > 10 || strspn(iterations, "0123456789") != digits)
		return false;
	scram->iterations = strtoll(iterations, NULL, 10);
	count = decode(salt, salt_length, scram->salt, MAX_SALT);
	if (count <= 0 || scram->iterations < 1)
		return false;
	memcpy(scram->salt + count, "\0\0\0\1", 4);
	scram->salt_length = count + 4;
	return key_rounds(scram);
}

/* How many rounds the server asks for. */
int64_t
scram_iterations(const Scram *scram)
{
	return scram->iterations;
}

/*
 * Do at most so many rounds more; true once all are done.  Touches nothing but the
 * exchange, which nobody else may use meanwhile.
 */
bool
scram_compute(Scram *scram, int64_t iterations)
{
	const unsigned char *from = scram->done == 0 ? scram->salt : scram->round;
	size_t		length = scram->done == 0 ? scram->salt_length : KEY_BYTES;

	for (; iterations > 0 && scram->done < scram->iterations; iterations--)
	{
		if (EVP_MAC_init(scram->mac, NULL, 0, NULL) != 1 ||
			EVP_MAC_update(scram->mac, from, length) != 1 ||
			EVP_MAC_final(scram->mac, scram->round, NULL, KEY_BYTES) != 1)
			log_fatal("OpenSSL cannot compute an HMAC");
		for (int i = 0; i < KEY_BYTES; i++)
			scram->salted[i] ^= scram->round[i];
		scram->done++;
		from = scram->round;
		length = KEY_BYTES;
	}
	return scram->done == scram->iterations;
}

/* The HMAC of the text with the key. */
static void
sign(const unsigned char *key, const char *text, unsigned char *signature)
{
	if (HMAC(EVP_sha256(), key, KEY_BYTES, (const unsigned char *) text, strlen(text),
			 signature, NULL) == NULL)
		log_fatal("OpenSSL cannot compute an HMAC");
}

/* What answers the challenge, once all rounds are done; it lives as the exchange does. */
const char *
scram_final_message(Scram *scram)
{
	const char *bare = scram->first + strlen(HEADER);
	size_t		size = strlen(bare) + strlen(scram->challenge) + scram->nonce_length + 200;
	char	   *said = memory_get_zeroed(size);
	char	   *end;
	unsigned char key[KEY_BYTES];
	unsigned char stored[KEY_BYTES];
	unsigned char proof[KEY_BYTES];

	snprintf(said, size, "%s,%s,", bare, scram->challenge);
	end = said + strlen(said);
	snprintf(end, size - (end - said), "c=" HEADER_BASE64 ",r=%.*s",
			 (int) scram->nonce_length, scram->nonce);
	sign(scram->salted, "Server Key", key);
	sign(key, said, scram->signature);
	sign(scram->salted, "Client Key", key);
	SHA256(key, sizeof(key), stored);
	sign(stored, said, proof);
	for (int i = 0; i < KEY_BYTES; i++)
		proof[i] ^= key[i];
	free(scram->final);
	scram->final = memory_get_zeroed(strlen(end) + sizeof(",p=") + KEY_BYTES * 2);
	sprintf(scram->final, "%s,p=", end);
	EVP_EncodeBlock((unsigned char *) scram->final + strlen(scram->final), proof, sizeof(proof));
	OPENSSL_cleanse(key, sizeof(key));
	free(said);
	return scram->final;
}

/* Has the server shown in its last message that it knows the verifier, too? */
bool
scram_verify(const Scram *scram, const char *text, size_t length)
{
	unsigned char signature[KEY_BYTES + 2];

	return scram->final != NULL && length > 2 && memcmp(text, "v=", 2) == 0 &&
		decode(text + 2, length - 2, signature, sizeof(signature)) == KEY_BYTES &&
		CRYPTO_memcmp(signature, scram->signature, KEY_BYTES) == 0;
}

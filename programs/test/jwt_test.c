/*-------------------------------------------------------------------------
 *
 * jwt_test.c
 *	  Tokens: which are taken, and which are refused, and why.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/jwt.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <unistd.h>

#include "test/check.h"

#define NOW 1000000

static const char secret[] = "0123456789abcdef0123456789abcdef";
static EVP_PKEY * private_key;
static char secret_file[] = "/tmp/jwt_test_secret_XXXXXX";
static char public_file[] = "/tmp/jwt_test_public_XXXXXX";
static char public_text[4096];

/* Append the bytes to the string, as base64url. */
static void
append_base64(char *to, const unsigned char *bytes, size_t length)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	uint32_t	bits = 0;
	int			held = 0;

	to += strlen(to);
	for (size_t i = 0; i < length; i++)
	{
		bits = bits << 8 | bytes[i];
		held += 8;
		while (held >= 6)
		{
			held -= 6;
			*to++ = digits[bits >> held & 63];
		}
	}
	if (held > 0)
		*to++ = digits[bits << (6 - held) & 63];
	*to = '\0';
}

/* Make a token, signed with RS256, or with HS256 and that secret. */
static void
make_token(char *token, const char *header, const char *claims, const char *key)
{
	unsigned char signature[512];
	size_t		length = sizeof(signature);
	unsigned int hash_length;

	*token = '\0';
	append_base64(token, (const unsigned char *) header, strlen(header));
	strcat(token, ".");
	append_base64(token, (const unsigned char *) claims, strlen(claims));
	if (key != NULL)
	{
		HMAC(EVP_sha256(), key, (int) strlen(key), (unsigned char *) token, strlen(token),
			 signature, &hash_length);
		length = hash_length;
	}
	else
	{
		EVP_MD_CTX *context = EVP_MD_CTX_new();

		EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, private_key);
		EVP_DigestSign(context, signature, &length, (unsigned char *) token, strlen(token));
		EVP_MD_CTX_free(context);
	}
	strcat(token, ".");
	append_base64(token, signature, length);
}

/* Why the key refuses the token; "" if it does not. */
static const char *
refused(const JwtKey *key, const char *token)
{
	char	   *copy = exact_copy(token, strlen(token));
	JwtClaims	claims;
	const char *why;

	if (jwt_verify(key, copy, strlen(token), NOW, &claims, &why))
	{
		jwt_claims_free(&claims);
		why = "";
	}
	free(copy);
	return why;
}

static const char *
refused_claims(const JwtKey *key, const char *claims)
{
	char		token[8192];

	make_token(token, "{\"alg\":\"HS256\",\"typ\":\"JWT\"}", claims, secret);
	return refused(key, token);
}

#define IS(what, expected) CHECK(strcmp((what), (expected)) == 0)

static void
test_claims(const JwtKey *key)
{
	char		token[8192];
	JwtClaims	claims;
	const char *why;

	make_token(token, "{\"alg\":\"HS256\"}",
			   "{\"exp\":1000001,\"sub\":\"me\",\"channels\":[\"a\",\"b*\"],\"publish\":[\"c\"]}", secret);
	CHECK(jwt_verify(key, token, strlen(token), NOW, &claims, &why));
	CHECK(claims.expires == NOW + 1 && strcmp(claims.subject, "me") == 0);
	CHECK(claims.channel_count == 2 && strcmp(claims.channels[1], "b*") == 0);
	CHECK(claims.publish_count == 1 && strcmp(claims.publish[0], "c") == 0);
	CHECK(!claims.monitor);
	jwt_claims_free(&claims);

	make_token(token, "{\"alg\":\"HS256\"}", "{\"exp\":1000001,\"monitor\":true}", secret);
	CHECK(jwt_verify(key, token, strlen(token), NOW, &claims, &why));
	CHECK(claims.monitor);
	jwt_claims_free(&claims);

	IS(refused_claims(key, "{\"exp\":1000001}"), "");
	IS(refused_claims(key, "{\"exp\":1000000.5,\"nbf\":1000000}"), "");
	IS(refused_claims(key, "{\"exp\":1000000}"), "the token has expired");
	IS(refused_claims(key, "{}"), "the token has no end (exp)");
	IS(refused_claims(key, "{\"exp\":\"1000001\"}"), "a time in the token is none");
	IS(refused_claims(key, "{\"exp\":1e300}"), "a time in the token is none");
	IS(refused_claims(key, "{\"exp\":-1}"), "a time in the token is none");
	IS(refused_claims(key, "{\"exp\":null}"), "a time in the token is none");
	IS(refused_claims(key, "{\"exp\":1000001,\"nbf\":1000001}"), "the token is not valid yet");
	IS(refused_claims(key, "{\"exp\":1000001,\"channels\":\"a\"}"), "channels and publish have to be arrays of strings");
	IS(refused_claims(key, "{\"exp\":1000001,\"channels\":[\"a\",1]}"), "channels and publish have to be arrays of strings");
	IS(refused_claims(key, "{\"exp\":1,\"exp\":1000001}"), "the token is malformed");
	IS(refused_claims(key, "[]"), "the token is malformed");
	IS(refused_claims(key, "{\"exp\":1000001,\"channels\":[\"a\\u0000b\"]}"), "the token is malformed");
}

static void
test_signatures(const JwtKey *shared, const JwtKey *public_key)
{
	static const char claims[] = "{\"exp\":1000001,\"channels\":[\"a\"]}";
	static const char wrong_way[] = "the token is not signed in the way of the key";
	char		token[8192];
	char		changed[8192];
	size_t		length;

	make_token(token, "{\"alg\":\"RS256\"}", claims, NULL);
	IS(refused(public_key, token), "");
	IS(refused(shared, token), wrong_way);
	make_token(token, "{\"alg\":\"HS256\"}", claims, secret);
	IS(refused(shared, token), "");
	IS(refused(public_key, token), wrong_way);

	/* the public key as a secret */
	make_token(token, "{\"alg\":\"HS256\"}", claims, public_text);
	IS(refused(public_key, token), wrong_way);
	make_token(token, "{\"alg\":\"RS256\"}", claims, public_text);
	IS(refused(public_key, token), "the token's signature is wrong");
	make_token(token, "{\"alg\":\"HS256\"}", claims, "another secret of thirty-two bytes");
	IS(refused(shared, token), "the token's signature is wrong");

	make_token(token, "{\"alg\":\"none\"}", claims, secret);
	IS(refused(shared, token), wrong_way);
	*strrchr(token, '.') = '\0';
	strcat(token, ".");
	IS(refused(shared, token), wrong_way);
	make_token(token, "{\"alg\":\"hs256\"}", claims, secret);
	IS(refused(shared, token), wrong_way);
	make_token(token, "{\"alg\":[\"HS256\"]}", claims, secret);
	IS(refused(shared, token), wrong_way);
	make_token(token, "{\"alg\":\"HS256\",\"crit\":[\"exp\"]}", claims, secret);
	IS(refused(shared, token), wrong_way);
	make_token(token, "{}", claims, secret);
	IS(refused(shared, token), wrong_way);

	/* every other value of every character, and every truncation */
	make_token(token, "{\"alg\":\"HS256\"}", claims, secret);
	length = strlen(token);
	for (size_t i = 0; i < length; i++)
	{
		for (int c = 1; c < 256; c++)
		{
			strcpy(changed, token);
			changed[i] = (char) c;
			if (changed[i] != token[i])
				CHECK(*refused(shared, changed) != '\0');
		}
		strcpy(changed, token);
		changed[i] = '\0';
		CHECK(*refused(shared, changed) != '\0');
	}
	strcpy(changed, token);
	strcat(changed, ".");
	CHECK(*refused(shared, changed) != '\0');
	strcpy(changed, token);
	strcat(changed, "=");
	CHECK(*refused(shared, changed) != '\0');
}

static void
test_audience(void)
{
	static const char nameless[] =
	"the token is for an audience (aud), and the gateway has no name for that (jwt-audience)";
	char		error[500];
	JwtKey	   *key = jwt_key_load(secret_file, "here", "them", error, sizeof(error));

	IS(refused_claims(key, "{\"exp\":1000001}"), "the token is for somebody else (aud)");
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":\"there\",\"iss\":\"them\"}"), "the token is for somebody else (aud)");
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":\"here\"}"), "the token is of somebody else (iss)");
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":\"here\",\"iss\":\"us\"}"), "the token is of somebody else (iss)");
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":\"here\",\"iss\":\"them\"}"), "");
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":[1,\"here\"],\"iss\":\"them\"}"), "");
	jwt_key_free(key);

	key = jwt_key_load(secret_file, NULL, NULL, error, sizeof(error));
	IS(refused_claims(key, "{\"exp\":1000001}"), "");
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":\"here\"}"), nameless);
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":[]}"), nameless);
	IS(refused_claims(key, "{\"exp\":1000001,\"aud\":null}"), nameless);
	jwt_key_free(key);
}

/* Write the file, whose name is a template. */
static void
write_file(char *name, const char *text)
{
	int			fd = mkstemp(name);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t) strlen(text))
		abort();
	close(fd);
}

static void
test_keys(void)
{
	char		error[500];
	char		name[] = "/tmp/jwt_test_short_XXXXXX";

	CHECK(jwt_key_load("/nonexistent", NULL, NULL, error, sizeof(error)) == NULL);
	CHECK(strstr(error, "could not open JWT key") != NULL);
	write_file(name, "short\n");
	CHECK(jwt_key_load(name, NULL, NULL, error, sizeof(error)) == NULL);
	CHECK(strstr(error, "too short") != NULL);
	unlink(name);
	strcpy(name, "/tmp/jwt_test_short_XXXXXX");
	write_file(name, "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n");
	CHECK(jwt_key_load(name, NULL, NULL, error, sizeof(error)) == NULL);
	CHECK(strstr(error, "no public RSA key") != NULL);
	unlink(name);
}

int
main(void)
{
	char		error[500];
	BIO		   *bio = BIO_new(BIO_s_mem());
	JwtKey	   *shared;
	JwtKey	   *public_key;

	private_key = EVP_RSA_gen(2048);
	PEM_write_bio_PUBKEY(bio, private_key);
	public_text[BIO_read(bio, public_text, sizeof(public_text) - 1)] = '\0';
	BIO_free(bio);
	write_file(secret_file, secret);
	write_file(public_file, public_text);
	shared = jwt_key_load(secret_file, NULL, NULL, error, sizeof(error));
	public_key = jwt_key_load(public_file, NULL, NULL, error, sizeof(error));
	CHECK(shared != NULL && public_key != NULL);
	if (shared != NULL && public_key != NULL)
	{
		test_claims(shared);
		test_signatures(shared, public_key);
	}
	test_audience();
	test_keys();
	jwt_key_free(shared);
	jwt_key_free(public_key);
	EVP_PKEY_free(private_key);
	unlink(secret_file);
	unlink(public_file);
	return checks_done("jwt");
}

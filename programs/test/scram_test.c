/*-------------------------------------------------------------------------
 *
 * scram_test.c
 *	  SCRAM-SHA-256: the example of RFC 7677, and challenges that are none.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/scram.h"

#include "test/check.h"

#define NONCE "rOprNGfwEbeRWgbNEkqO"
#define SERVER_NONCE NONCE "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
#define SALT "W22ZaJ0SNY7soEsUEjb6gQ=="

/* Take the challenge; the exchange, or NULL if it is refused. */
static Scram *
challenged(const char *password, const char *text)
{
	Scram	   *scram = scram_begin("user", password, NONCE);
	char	   *copy = exact_copy(text, strlen(text));
	bool		good = scram_challenge(scram, copy, strlen(text));

	free(copy);
	if (good)
		return scram;
	scram_free(scram);
	return NULL;
}

/* Is the challenge refused? */
static bool
refused(const char *text)
{
	Scram	   *scram = challenged("pencil", text);
	bool		is_refused = scram == NULL;

	scram_free(scram);
	return is_refused;
}

/* The proof for the password, in parts of that many rounds. */
static bool
proof_is(const char *password, int64_t part, const char *expected)
{
	Scram	   *scram = challenged(password, "r=" SERVER_NONCE ",s=" SALT ",i=4096");
	char		message[200];
	bool		same;

	while (!scram_compute(scram, part))
		continue;
	snprintf(message, sizeof(message), "c=biws,r=%s,p=%s", SERVER_NONCE, expected);
	same = strcmp(scram_final_message(scram), message) == 0;
	scram_free(scram);
	return same;
}

/* The example: all messages, and the server's signature. */
static void
test_example(void)
{
	static const char good[] = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
	static const char proof[] = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
	Scram	   *scram = challenged("pencil", "r=" SERVER_NONCE ",s=" SALT ",i=4096");

	CHECK(scram != NULL);
	CHECK(strcmp(scram_first_message(scram), "n,,n=user,r=" NONCE) == 0);
	CHECK(scram_iterations(scram) == 4096);
	CHECK(!scram_verify(scram, good, strlen(good)));
	CHECK(!scram_compute(scram, 4095));
	CHECK(scram_compute(scram, 1));
	(void) scram_final_message(scram);
	CHECK(scram_verify(scram, good, strlen(good)));
	CHECK(!scram_verify(scram, good, strlen(good) - 1));
	CHECK(!scram_verify(scram, "v=", 2));
	CHECK(!scram_verify(scram, "e=other-error", 13));
	CHECK(!scram_verify(scram, "v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", strlen(good)));
	scram_free(scram);
	CHECK(proof_is("pencil", 1, proof));
	CHECK(proof_is("pencil", 1000000, proof));
	CHECK(!proof_is("Pencil", 1000, proof));
}

/* Passwords are the same if SASLprep says so. */
static void
test_passwords(void)
{
	static const char *const same[][2] = {{"I\xC2\xADX", "IX"}, {"\xC2\xAA", "a"}, {"\xE2\x85\xA8", "IX"},
	{"a\xC2\xA0" "b", "a b"}, {"e\xCC\x81", "\xC3\xA9"}};

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
	{
		Scram	   *one = challenged(same[i][0], "r=" SERVER_NONCE ",s=" SALT ",i=1");
		Scram	   *other = challenged(same[i][1], "r=" SERVER_NONCE ",s=" SALT ",i=1");

		CHECK(scram_compute(one, 1) && scram_compute(other, 1));
		CHECK(strcmp(scram_final_message(one), scram_final_message(other)) == 0);
		scram_free(one);
		scram_free(other);
	}
	/* what SASLprep forbids is taken as it is */
	scram_free(challenged("\x01", "r=" SERVER_NONCE ",s=" SALT ",i=1"));
	scram_free(challenged("\xFF\xFE", "r=" SERVER_NONCE ",s=" SALT ",i=1"));
}

int
main(void)
{
	test_example();
	test_passwords();
	CHECK(refused(""));
	CHECK(refused("r=" NONCE ",s=" SALT ",i=4096"));
	CHECK(refused("r=another,s=" SALT ",i=4096"));
	CHECK(refused("r=" SERVER_NONCE ",s=" SALT));
	CHECK(refused("r=" SERVER_NONCE ",s=" SALT ",i="));
	CHECK(refused("r=" SERVER_NONCE ",s=" SALT ",i=0"));
	CHECK(refused("r=" SERVER_NONCE ",s=" SALT ",i=-1"));
	CHECK(refused("r=" SERVER_NONCE ",s=" SALT ",i=12345678901"));
	CHECK(refused("r=" SERVER_NONCE ",s=" SALT ",i=1,x=1"));
	CHECK(refused("r=" SERVER_NONCE ",s=W22,i=1"));
	CHECK(refused("r=" SERVER_NONCE ",s====,i=1"));
	CHECK(refused("m=x,r=" SERVER_NONCE ",s=" SALT ",i=1"));
	scram_free(challenged("pencil", "r=" SERVER_NONCE ",s=" SALT ",i=2147483647"));
	return checks_done("scram");
}

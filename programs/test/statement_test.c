/*-------------------------------------------------------------------------
 *
 * statement_test.c
 *	  The statements: what is understood, what is refused, what is an error,
 *	  and that every truncation of every text is survived.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/statement.h"

#include <stdint.h>

#include "test/check.h"

/* Every prefix of the text, in memory of its own. */
static void
truncate_text(const char *text)
{
	for (size_t length = 0; length <= strlen(text); length++)
	{
		char	   *copy = exact_copy(text, length);
		StatementList list;

		if (!statement_parse(&list, copy, length, true, SIZE_MAX))
			CHECK(list.message != NULL && list.sqlstate != NULL);
		statement_list_free(&list);
		(void) statement_parse(&list, copy, length, false, SIZE_MAX);
		statement_list_free(&list);
		free(copy);
	}
}

/* One statement of that kind, with that name and value, each NULL for any. */
static void
understood(const char *text, StatementKind kind, const char *name,
		   const char *value)
{
	StatementList list;
	bool		good = statement_parse(&list, text, strlen(text), true, SIZE_MAX) &&
		list.count == 1 && list.first->kind == kind;

	if (good && name != NULL)
		good = list.first->name != NULL && strcmp(list.first->name, name) == 0;
	if (good && value != NULL)
		good = list.first->value != NULL && strcmp(list.first->value, value) == 0;
	if (!good)
		printf("not as it must be: %s\n", text);
	CHECK(good);
	statement_list_free(&list);
	truncate_text(text);
}

/* No SQL; the message must have that in it. */
static void
fails(const char *text, const char *message, int position)
{
	StatementList list;
	bool		good = !statement_parse(&list, text, strlen(text), true, SIZE_MAX) &&
		strstr(list.message, message) != NULL &&
		(position == 0 || list.position == position);

	if (!good)
		printf("not as it must be: %s: %s at %d\n", text,
			   list.message != NULL ? list.message : "no error", list.position);
	CHECK(good);
	statement_list_free(&list);
	truncate_text(text);
}

/* So many statements. */
static void
counts(const char *text, int count)
{
	StatementList list;

	CHECK(statement_parse(&list, text, strlen(text), true, SIZE_MAX));
	CHECK(list.count == count);
	statement_list_free(&list);
	truncate_text(text);
}

static void
test_names(void)
{
	static const char long_name[] =
	"LISTEN a23456789_123456789_123456789_123456789_123456789_123456789_123\303\266";
	StatementList list;

	understood("listen Foo", STATEMENT_LISTEN, "foo", NULL);
	understood("LISTEN \"Foo \"\"Bar\"\"\"", STATEMENT_LISTEN, "Foo \"Bar\"", NULL);
	understood("LISTEN f\303\266\303\266$1", STATEMENT_LISTEN, "f\303\266\303\266$1", NULL);
	understood("/* a /* b */ c */ LISTEN -- d\n x;", STATEMENT_LISTEN, "x", NULL);
	CHECK(statement_parse(&list, long_name, strlen(long_name), true, SIZE_MAX));
	CHECK(list.truncations != NULL && list.truncations->next == NULL);
	CHECK(strlen(list.first->name) == 63);
	statement_list_free(&list);

	/* 62 bytes and a character of two: the character goes whole. */
	CHECK(utf8_clip("a\303\266", 3, 2) == 1);
	CHECK(utf8_clip("a\303\266", 3, 3) == 3);
}

/* What the transaction modes say about READ ONLY. */
static void
test_modes(void)
{
	static const struct
	{
		const char *text;
		const char *read_only;
	}			cases[] = {
		{"BEGIN", NULL},
		{"BEGIN READ ONLY", "on"},
		{"START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE", "off"},
		{"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "on"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		StatementList list;

		CHECK(statement_parse(&list, cases[i].text, strlen(cases[i].text), true, SIZE_MAX));
		CHECK((list.first->read_only == NULL) == (cases[i].read_only == NULL));
		CHECK(cases[i].read_only == NULL ||
			  strcmp(list.first->read_only, cases[i].read_only) == 0);
		statement_list_free(&list);
	}
}

static void
test_statements(void)
{
	understood("NOTIFY x", STATEMENT_NOTIFY, "x", "");
	understood("NOTIFY x, 'it''s'", STATEMENT_NOTIFY, "x", "it's");
	understood("NOTIFY x, 'a\\n'", STATEMENT_NOTIFY, "x", "a\\n");
	understood("NOTIFY x, E'a\\n\\x41\\101\\u00f6\\''", STATEMENT_NOTIFY, "x", "a\nAA\303\266'");
	understood("NOTIFY x, $$a'b$$", STATEMENT_NOTIFY, "x", "a'b");
	understood("NOTIFY x, $t$a$$b$t$", STATEMENT_NOTIFY, "x", "a$$b");
	understood("NOTIFY x, 'a' -- c\n 'b'", STATEMENT_NOTIFY, "x", "ab");
	understood("UNLISTEN x", STATEMENT_UNLISTEN, "x", NULL);
	understood("UNLISTEN *", STATEMENT_UNLISTEN, NULL, NULL);
	understood("BEGIN", STATEMENT_BEGIN, NULL, NULL);
	understood("begin transaction isolation level repeatable read, read only, not deferrable",
			   STATEMENT_BEGIN, NULL, "repeatable read");
	understood("BEGIN READ ONLY", STATEMENT_BEGIN, NULL, NULL);
	understood("START TRANSACTION READ WRITE", STATEMENT_START, NULL, NULL);
	understood("COMMIT WORK AND NO CHAIN", STATEMENT_COMMIT, NULL, NULL);
	understood("END", STATEMENT_COMMIT, NULL, NULL);
	understood("ABORT", STATEMENT_ROLLBACK, NULL, NULL);
	understood("ROLLBACK TRANSACTION TO SAVEPOINT s", STATEMENT_ROLLBACK_TO, "s", NULL);
	understood("SAVEPOINT s", STATEMENT_SAVEPOINT, "s", NULL);
	understood("RELEASE s", STATEMENT_RELEASE, "s", NULL);
	understood("SET client_encoding TO 'LATIN1'", STATEMENT_SET, "client_encoding", "LATIN1");
	understood("SET extra_float_digits = 3", STATEMENT_SET, "extra_float_digits", "3");
	understood("SET SESSION x.y = -1.5", STATEMENT_SET, "x.y", "-1.5");
	understood("SET LOCAL search_path TO a, \"B\"", STATEMENT_SET, "search_path", "a, B");
	understood("SET DateStyle TO DEFAULT", STATEMENT_SET, "datestyle", NULL);
	understood("SET x = ''", STATEMENT_SET, "x", "");
	understood("SET TIME ZONE 'UTC'", STATEMENT_SET, "timezone", "UTC");
	understood("SET NAMES 'UTF8'", STATEMENT_SET, "client_encoding", "UTF8");
	understood("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
			   STATEMENT_SET_TRANSACTION, NULL, NULL);
	understood("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
			   STATEMENT_SET_TRANSACTION, NULL, "serializable");
	understood("RESET ALL", STATEMENT_RESET, NULL, NULL);
	understood("SHOW TRANSACTION ISOLATION LEVEL", STATEMENT_SHOW, "transaction_isolation", NULL);
	understood("SHOW server_version", STATEMENT_SHOW, "server_version", NULL);
	understood("DISCARD ALL", STATEMENT_DISCARD, "DISCARD ALL", NULL);
	understood("CLOSE ALL", STATEMENT_CLOSE, NULL, NULL);
	understood("DEALLOCATE PREPARE \"P\"", STATEMENT_DEALLOCATE, "P", NULL);
	understood("SELECT", STATEMENT_SELECT, NULL, NULL);
	understood("select 1 as \"One\", 'x', pg_catalog.pg_backend_pid() pid",
			   STATEMENT_REFUSED, "SELECT", NULL);
	understood("select 1 as \"One\", 'x', pg_catalog.pg_backend_pid() as pid",
			   STATEMENT_SELECT, NULL, NULL);
	understood("SELECT pg_notify(('foo'),($1::text)), version(), current_schema",
			   STATEMENT_SELECT, NULL, NULL);
}

static void
test_refused(void)
{
	understood("SELECT * FROM t", STATEMENT_REFUSED, "SELECT", NULL);
	understood("SELECT pg_notify('a', 'b') FROM generate_series(1, 2)",
			   STATEMENT_REFUSED, "SELECT", NULL);
	understood("SELECT U&'a'", STATEMENT_REFUSED, "SELECT", NULL);
	understood("SELECT 99999999999", STATEMENT_REFUSED, "SELECT", NULL);
	understood("insert into t values (';', $$;$$, \";\")", STATEMENT_REFUSED, "INSERT", NULL);
	understood("SET ROLE x", STATEMENT_REFUSED, "SET ROLE", NULL);
	understood("(SELECT 1)", STATEMENT_REFUSED, "this statement", NULL);
	understood("PREPARE TRANSACTION 'x'", STATEMENT_REFUSED, "PREPARE", NULL);
	counts("", 0);
	counts(" ; -- nothing\n;/**/", 0);
	counts("LISTEN a; LISTEN b;; SELECT 1", 3);
}

static void
test_errors(void)
{
	fails("LISTEN", "syntax error at end of input", 7);
	fails("LISTEN 'x'", "at or near \"'x'\"", 8);
	fails("LISTEN a b", "at or near \"b\"", 10);
	fails("LISTEN \303\266 b", "at or near \"b\"", 10);
	fails("NOTIFY x 'y'", "at or near \"'y'\"", 0);
	fails("NOTIFY x, y", "at or near \"y\"", 0);
	fails("NOTIFY x, 'y", "unterminated quoted string", 11);
	fails("NOTIFY x, $a$y", "unterminated dollar-quoted string", 11);
	fails("NOTIFY x, E'\\u12'", "invalid escape", 0);
	fails("LISTEN \"x", "unterminated quoted identifier", 0);
	fails("LISTEN \"\"", "zero-length", 0);
	fails("SELECT 1 /* x", "unterminated /* comment", 0);
	fails("BEGIN ISOLATION", "end of input", 0);
	fails("BEGIN READ ONLY,", "end of input", 0);
	fails("SET x", "end of input", 0);
	fails("SET x = -'1'", "at or near", 0);
	fails("UNLISTEN", "end of input", 0);
}

/* A text of many strings takes memory in proportion. */
static void
test_memory(void)
{
	size_t		length = 400000;
	char	   *text = malloc(length);
	StatementList list;

	if (text == NULL)
		abort();
	memset(text, ' ', length);
	text[0] = 'x';
	for (size_t at = 10; at + 4 < length; at += 4)
	{
		text[at] = text[at + 1] = '\'';
		text[at + 2] = ',';
	}
	CHECK(statement_parse(&list, text, length, true, SIZE_MAX));
	CHECK(list.arena.bytes < 20 * length);
	statement_list_free(&list);
	free(text);
}

static void
test_utf8(void)
{
	static const char *const bad[] = {"\200", "\300\200", "\340\200\200",
	"\355\240\200", "\364\220\200\200", "\303", "a\377", "\360\200\200\200"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(utf8_invalid(bad[i], strlen(bad[i])) < strlen(bad[i]));
	CHECK(utf8_invalid("a\303\266\342\202\254\360\237\230\200", 10) == 10);
}

/* Of a statement that is refused only its name is kept, whatever it is. */
static void
test_refused_keeps_nothing(void)
{
	static const char *const begins[] = {"FOO", "SELECT 'x', pg_notify('a', 'b'),", "SET ROLE", "WITH"};
	char	   *text = malloc(400000);

	for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++)
	{
		StatementList list;
		size_t		length = sprintf(text, "LISTEN a; %s", begins[i]);

		while (length < 300000)
			length += sprintf(text + length, " name \"Quoted%zu\" 'string' $t$x$t$", length);
		length += sprintf(text + length, "; NOTIFY b, 'c'");
		CHECK(statement_parse(&list, text, length, true, 100000));
		CHECK(list.count == 3 && list.arena.bytes < 2000 && list.truncations == NULL);
		CHECK(list.first->kind == STATEMENT_LISTEN && strcmp(list.first->name, "a") == 0);
		CHECK(list.first->next->kind == STATEMENT_REFUSED);
		CHECK(strncmp(list.first->next->name, begins[i], strlen(list.first->next->name)) == 0);
		CHECK(list.first->next->next->kind == STATEMENT_NOTIFY &&
			  strcmp(list.first->next->next->value, "c") == 0);
		statement_list_free(&list);
	}
	free(text);
}

/* A list takes no more memory than it may, in one statement or in many. */
static void
test_bound(void)
{
	char	   *text = malloc(400000);
	StatementList list;
	size_t		length = 0;

	while (length < 300000)
		length += sprintf(text + length, "BEGIN;");
	CHECK(statement_parse(&list, text, length, true, SIZE_MAX));
	statement_list_free(&list);
	CHECK(!statement_parse(&list, text, length, true, 100000));
	CHECK(strcmp(list.sqlstate, "53400") == 0 && list.hint != NULL && list.arena.bytes < 110000);
	statement_list_free(&list);

	length = sprintf(text, "SET a");
	while (length < 300000)
		length += sprintf(text + length, ".a");
	CHECK(!statement_parse(&list, text, length, true, 10000000));
	CHECK(list.arena.bytes < 100000);
	statement_list_free(&list);
	CHECK(statement_parse(&list, "SET a.b.c TO 'x'", 16, true, SIZE_MAX));
	CHECK(strcmp(list.first->name, "a.b.c") == 0);
	statement_list_free(&list);
	free(text);
}

int
main(void)
{
	test_names();
	test_modes();
	test_statements();
	test_refused();
	test_errors();
	test_memory();
	test_utf8();
	test_refused_keeps_nothing();
	test_bound();
	return checks_done("statement_test");
}

/*-------------------------------------------------------------------------
 *
 * bridge_test.c
 *	  Unit tests of what the bridge reads: JSON, templates, URLs, and events.
 *
 *-------------------------------------------------------------------------
 */
#include "bridge/event.h"
#include "bridge/json.h"
#include "bridge/template.h"
#include "bridge/url.h"
#include "test/check.h"

/* Is the text valid JSON, in memory of its own? */
static bool
valid(const char *text)
{
	char	   *copy = exact_copy(text, strlen(text));
	bool		good = json_is_valid(copy, strlen(text));

	free(copy);
	return good;
}

/* What is JSON, and what is not. */
static void
test_validity(void)
{
	static const char *const good[] = {
		"{}", "[]", " [ 1 , 2 ] ", "\"\"", "0", "-0", "1.5e+10", "1E2", "true", "false", "null",
		"{\"a\":{\"b\":[1,{}]}}", "\"\\u00e4\\n\\\"\"", "12345678901234567890123",
		"{\"a\":1,\"a\":2}"
	};
	static const char *const bad[] = {
		"", " ", "{", "}", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "01", "1.", ".5", "-", "1e",
		"tru", "nulll", "\"", "\"\\x\"", "\"\\u12\"", "\"\\", "[1 2]", "{} {}", "\"\t\"", "'a'",
		"{\"a\":1,}", "NaN", "\"\\u00g0\""
	};
	char		deep[1000];

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		CHECK(valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(!valid(bad[i]));
	memset(deep, '[', 500);
	memset(deep + 500, ']', 500);
	CHECK(!json_is_valid(deep, 1000));
	CHECK(json_is_valid(deep + 400, 200));
}

/* Does the value say that? */
static bool
says(JsonValue value, const char *text)
{
	Bytes		bytes = {0};
	bool		same;

	json_append_text(&bytes, value);
	same = bytes_length(&bytes) == strlen(text) &&
		memcmp(bytes.data, text, strlen(text)) == 0;
	bytes_free(&bytes);
	return same;
}

/* Members of an object, and what strings say. */
static void
test_members(void)
{
	static const char *const names[] = {"a", "b", "c"};
	static const char text[] =
	" {\"a\" : \"x\\u0041\\ud83d\\ude00\\n\\/\", \"b\":{\"a\":1}, \"a2\":0, \"b\":[\"a\",2] } ";
	JsonValue	values[3];

	CHECK(json_members(text, strlen(text), names, values, 3));
	CHECK(says(values[0], "xA\xF0\x9F\x98\x80\n/"));
	CHECK(says(values[1], "[\"a\",2]"));
	CHECK(values[2].start == NULL);
	CHECK(!json_members("[1]", 3, names, values, 3));
	CHECK(!json_members("{} x", 4, names, values, 3));
	CHECK(json_members("{\"a\":\"\\ud800\\u0000\"}", 20, names, values, 3));
	CHECK(says(values[0], "??"));
}

/* Templates, good and bad. */
static void
test_templates(void)
{
	static const char *const values[] = {"chan", "sch", "tab", "INSERT", "7"};
	Template	template = {0};
	Bytes		result = {0};
	char		error[300] = "";

	CHECK(template_parse(&template, "db.{schema}.{table}{{x}}.{op}{key}-{channel}", error, sizeof(error)));
	template_expand(&template, values, &result);
	CHECK(strcmp(result.data, "db.sch.tab{x}.INSERT7-chan") == 0);
	bytes_free(&result);
	template_free(&template);
	CHECK(!template_parse(&template, "{channel}.{tabel}", error, sizeof(error)));
	CHECK(strstr(error, "unknown name \"{tabel}\"") != NULL);
	template_free(&template);
	CHECK(!template_parse(&template, "a{channel", error, sizeof(error)));
	CHECK(strstr(error, "a brace stands alone") != NULL);
	template_free(&template);
	CHECK(!template_parse(&template, "a}", error, sizeof(error)));
	template_free(&template);
	CHECK(!template_parse(&template, "{", error, sizeof(error)));
	template_free(&template);
	CHECK(template_parse(&template, "", error, sizeof(error)));
	template_free(&template);
}

/* Does the text make a URL? */
static bool
reads(Url *url, const char *text)
{
	char		error[300];

	url_free(url);
	return url_parse(url, text, error, sizeof(error));
}

/* URLs, good and bad. */
static void
test_urls(void)
{
	Url			url = {0};
	char		shown[] = "amqp://me:se@cret@host/x";

	CHECK(reads(&url, "amqp://host"));
	CHECK(url.user == NULL && url.hosts[0].port == 0 && strcmp(url.path, "") == 0);
	CHECK(reads(&url, "amqps://us%40er:p%3Aw@h1:5671,[::1]:99,h3/%2fv"));
	CHECK(strcmp(url.user, "us@er") == 0 && strcmp(url.password, "p:w") == 0);
	CHECK(url.host_count == 3 && strcmp(url.hosts[1].name, "::1") == 0 && url.hosts[1].port == 99);
	CHECK(strcmp(url.path, "/v") == 0);
	CHECK(reads(&url, "redis://:pw@h/3"));
	CHECK(strcmp(url.user, "") == 0 && strcmp(url.password, "pw") == 0);
	CHECK(!reads(&url, "host"));
	CHECK(!reads(&url, "://host"));
	CHECK(!reads(&url, "amqp://"));
	CHECK(!reads(&url, "amqp://host:0"));
	CHECK(!reads(&url, "amqp://host:70000"));
	CHECK(!reads(&url, "amqp://host:5x"));
	CHECK(!reads(&url, "amqp://host,"));
	CHECK(!reads(&url, "amqp://[::1"));
	CHECK(!reads(&url, "amqp://[::1]x"));
	CHECK(!reads(&url, "amqp://a%4@host"));
	CHECK(!reads(&url, "amqp://a%zz@host"));
	CHECK(!reads(&url, "amqp://host/%00"));
	CHECK(reads(&url, "amqp://host/%41"));
	CHECK(strcmp(url.path, "A") == 0);
	url_free(&url);
	url_hide_password(shown);
	CHECK(strcmp(shown, "amqp://me:xxxxxxx@host/x") == 0);
}

/* Every byte may be in an address, but for a space. */
static bool
no_space(unsigned char c)
{
	return c != ' ';
}

/* The message of a payload on channel "news". */
static Message *
message_of(const EventSetting *setting, const char *payload)
{
	char	   *copy = exact_copy(payload, strlen(payload));
	Message    *message = event_message(setting, 42, 0, "news", copy, strlen(payload));

	free(copy);
	return message;
}

/* Check what becomes of a payload: its id, op, address and content type. */
static void
check_event(const EventSetting *setting, const char *payload, const char *id, const char *op,
			const char *address, const char *content_type)
{
	Message    *message = message_of(setting, payload);

	CHECK(strcmp(message->id, id) == 0);
	CHECK(strcmp(message->op, op) == 0);
	CHECK(strcmp(message->address, address) == 0);
	CHECK(strcmp(message->content_type, content_type) == 0);
	CHECK(strcmp(message->channel, "news") == 0);
	CHECK(message->payload_length == strlen(payload));
	CHECK(memcmp(message->payload, payload, message->payload_length) == 0);
	message_free(message);
}

/* Events of each format, and what looks like one and is not. */
static void
test_events(void)
{
	static const char json[] = "application/json";
	static const char cloud[] = "application/cloudevents+json";
	Template	template = {0};
	EventSetting setting = {"sys-db", "s", "_", &template, no_space};
	char		error[300];
	Message    *gap;

	CHECK(template_parse(&template, "{channel}/{schema}/{table}/{op}/{key}", error, sizeof(error)));
	check_event(&setting, "{\"id\":\"12-3\",\"op\":\"UPDATE\",\"schema\":\"public\",\"table\":\"my t\",\"key\":{\"a\":1,\"b\":\"x\\\"\"},\"txid\":12}",
				"12-3", "UPDATE", "news/public/my_t/UPDATE/1,x\"", json);
	check_event(&setting, "{\"id\":\"12-3\",\"op\":\"DELETE\",\"schema\":\"public\",\"table\":\"t\",\"txid\":12}",
				"12-3", "DELETE", "news/public/t/DELETE/_", json);
	check_event(&setting, "{\"id\":\"1-2\",\"key\":{\"i\":5},\"before\":null,\"after\":{\"i\":5},\"source\":{\"db\":\"d\",\"schema\":\"s\",\"table\":\"t\",\"txId\":1},\"op\":\"c\",\"ts_ms\":1}",
				"1-2", "INSERT", "news/s/t/INSERT/5", json);
	check_event(&setting, "{\"specversion\":\"1.0\",\"id\":\"1-2\",\"source\":\"/d/s/t\",\"type\":\"pgpubsub.row.insert\",\"data\":{\"id\":\"1-2\",\"op\":\"INSERT\",\"schema\":\"s\",\"table\":\"t\",\"txid\":1}}",
				"1-2", "INSERT", "news/s/t/INSERT/_", cloud);
	check_event(&setting, "{\"specversion\":\"1.0\",\"id\":\"7\",\"source\":\"x\",\"type\":\"mine\"}",
				"sys-db-42", "", "news/_/_/_/_", cloud);
	check_event(&setting, "{\"id\":\"12-3\",\"op\":\"x\"}", "sys-db-42", "", "news/_/_/_/_", json);
	check_event(&setting, "{\"id\":\"12-3-4\",\"op\":\"UPDATE\",\"schema\":\"p\",\"table\":\"t\",\"txid\":1}",
				"sys-db-42", "", "news/_/_/_/_", json);
	check_event(&setting, "{\"id\":\"123456789012345678901-1\",\"op\":\"UPDATE\",\"schema\":\"p\",\"table\":\"t\",\"txid\":1}",
				"sys-db-42", "", "news/_/_/_/_", json);
	check_event(&setting, "{\"id\":\"12-3\",\"op\":\"COPY\",\"schema\":\"p\",\"table\":\"t\",\"txid\":1}",
				"sys-db-42", "", "news/_/_/_/_", json);
	check_event(&setting, "[1]", "sys-db-42", "", "news/_/_/_/_", json);
	check_event(&setting, "no json", "sys-db-42", "", "news/_/_/_/_", "text/plain; charset=utf-8");
	check_event(&setting, "", "sys-db-42", "", "news/_/_/_/_", "text/plain; charset=utf-8");
	gap = event_gap(&setting, 9, -1);
	CHECK(strcmp(gap->payload, "{\"type\":\"pgpubsub.gap\",\"seq\":9,\"lost\":null,\"subscription\":\"s\"}") == 0);
	CHECK(strcmp(gap->address, "pgpubsub.gap/_/_/_/_") == 0 && strcmp(gap->id, "sys-db-9-gap") == 0);
	message_free(gap);
	gap = event_gap(&setting, 9, 3);
	CHECK(strstr(gap->payload, "\"lost\":3,") != NULL);
	message_free(gap);
	template_free(&template);
}

int
main(void)
{
	test_validity();
	test_members();
	test_templates();
	test_urls();
	test_events();
	return checks_done("bridge");
}

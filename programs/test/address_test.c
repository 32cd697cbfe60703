/*-------------------------------------------------------------------------
 *
 * address_test.c
 *	  Whose failed logins count together.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/address.h"

#include "gateway/gateway.h"
#include "gateway/limits.h"
#include "test/check.h"

Gateway		gateway;

/* So many logins as the role from the host fail. */
static void
fail(const char *host, const char *role, int times)
{
	for (int i = 0; i < times; i++)
		address_has_failed(host, role);
}

/* Addresses of IPv4 are apart, and so are roles. */
static void
test_roles(void)
{
	fail("192.0.2.1", "alice", 2);
	CHECK(address_may_log_in("192.0.2.1", "alice"));
	fail("192.0.2.1", "alice", 1);
	CHECK(!address_may_log_in("192.0.2.1", "alice"));
	CHECK(address_may_log_in("192.0.2.1", "bob"));
	CHECK(address_may_log_in("192.0.2.2", "alice"));
}

/* The same address of IPv4 in the form of IPv6 is no other one. */
static void
test_mapped(void)
{
	CHECK(!address_may_log_in("[::ffff:192.0.2.1]", "alice"));
	CHECK(address_may_log_in("[::ffff:192.0.2.2]", "alice"));
}

/* All addresses of IPv6 whose first 64 bits are the same count together. */
static void
test_network(void)
{
	fail("[2001:db8:0:1::1]", "alice", 1);
	fail("[2001:db8:0:1:ffff::2]", "alice", 1);
	fail("[2001:db8:0:1:8000:1:2:3]", "alice", 1);
	CHECK(!address_may_log_in("[2001:db8:0:1::9]", "alice"));
	CHECK(address_may_log_in("[2001:db8:0:2::1]", "alice"));
	CHECK(address_may_log_in("[2001:db8:0:1::1]", "bob"));
}

/* After a minute it begins anew, and many do not fill the memory. */
static void
test_forgotten(void)
{
	char		host[40];

	gateway.loop.time += 60001;
	CHECK(address_may_log_in("192.0.2.1", "alice"));
	for (int i = 0; i < 30000; i++)
	{
		snprintf(host, sizeof(host), "10.0.%d.%d", i / 256, i % 256);
		fail(host, "alice", 3);
	}
	CHECK(!address_may_log_in(host, "alice"));
	CHECK(address_may_log_in("10.0.0.0", "alice"));
}

int
main(void)
{
	limits.failed_logins = 3;
	test_roles();
	test_mapped();
	test_network();
	test_forgotten();

	/* what is remembered would be a leak to the sanitizer */
	gateway.loop.time += 120000;
	CHECK(address_may_log_in("192.0.2.1", "alice"));
	return checks_done("address_test");
}

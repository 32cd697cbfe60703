/*-------------------------------------------------------------------------
 *
 * address.c
 *	  See address.h.
 *
 * 1. The server sees the gateway's address, whoever logs in: what pg_hba.conf says
 *	  of addresses has to be said here.
 *
 * 2. Who guesses passwords is slowed down: after some failures within a minute no
 *	  login as the role from the network is tried until that minute is over.  A network
 *	  is an address of IPv4, or all of IPv6 with the same 64 bits, of which one host may
 *	  have as many as it likes.  The role is part of it, as a proxy may stand before
 *	  many: one that guesses does not lock out the others.  So many are remembered that
 *	  these may not fill the memory; with more, the oldest are forgotten.
 *
 *-------------------------------------------------------------------------
 */
#include "gateway/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/hash.h"
#include "common/list.h"
#include "common/memory.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"

/* A network; addresses of IPv4 are mapped into those of IPv6. */
typedef struct Network
{
	unsigned char bytes[16];
	int			bits;
} Network;

struct AddressList
{
	int			count;
	Network		networks[];
};

/* Failures are counted for so long, in ms. */
#define WINDOW_MS 60000

#define MAX_REMEMBERED 10000

/* What a network and a role are remembered by, in bytes. */
#define KEY_BYTES 128

/* Logins as a role that have failed from a network. */
typedef struct Failures
{
	HashNode	node;
	ListNode	link;			/* the oldest first */
	uint64_t	since;
	int64_t		count;
	char		key[KEY_BYTES];
} Failures;

static HashTable failures;
static ListNode failures_by_age;

/* Write an address of IPv4 as one of IPv6. */
static void
map_address(const void *four, unsigned char *bytes)
{
	memset(bytes, 0, 10);
	bytes[10] = bytes[11] = 0xFF;
	memcpy(bytes + 12, four, 4);
}

/* Read ADDRESS or ADDRESS/BITS; false if it is neither. */
static bool
read_network(const char *text, size_t length, Network *network)
{
	char		copy[64];
	char	   *slash;
	char	   *end;
	unsigned char four[4];
	long		bits = -1;

	if (length >= sizeof(copy))
		return false;
	memcpy(copy, text, length);
	copy[length] = '\0';
	slash = strchr(copy, '/');
	if (slash != NULL)
	{
		*slash = '\0';
		bits = strtol(slash + 1, &end, 10);
		if (slash[1] < '0' || slash[1] > '9' || *end != '\0')
			return false;
	}
	if (inet_pton(AF_INET, copy, four) == 1)
	{
		map_address(four, network->bytes);
		network->bits = bits < 0 ? 128 : (int) bits + 96;
		return bits <= 32;
	}
	network->bits = bits < 0 ? 128 : (int) bits;
	return bits <= 128 && inet_pton(AF_INET6, copy, network->bytes) == 1;
}

/*
 * Read a list of networks, with commas or spaces between them; NULL, with the
 * error written, if it is none.
 */
AddressList *
addresses_read(const char *text, char *error, size_t size)
{
	static const char between[] = ", \t";
	AddressList *list = memory_get(sizeof(AddressList) +
								   (strlen(text) / 2 + 1) * sizeof(Network));

	list->count = 0;
	for (text += strspn(text, between); *text != '\0'; text += strspn(text, between))
	{
		size_t		length = strcspn(text, between);

		if (!read_network(text, length, &list->networks[list->count++]))
		{
			snprintf(error, size, "option allow takes networks as 192.0.2.0/24 or 2001:db8::/32, not \"%.*s\"",
					 (int) length, text);
			free(list);
			return NULL;
		}
		text += length;
	}
	return list;
}

/* Free the list, which may be NULL. */
void
addresses_free(AddressList *list)
{
	free(list);
}

/* Is it in the network? */
static bool
is_in(const Network *network, const unsigned char *bytes)
{
	int			whole = network->bits / 8;
	int			rest = network->bits % 8;

	if (memcmp(network->bytes, bytes, whole) != 0)
		return false;
	return rest == 0 ||
		((network->bytes[whole] ^ bytes[whole]) & (0xFF << (8 - rest) & 0xFF)) == 0;
}

/* Is the address in one of the networks?  One that is not of the Internet is. */
bool
address_is_in(const AddressList *list, const struct sockaddr *address)
{
	unsigned char bytes[16];

	if (address->sa_family == AF_INET)
		map_address(&((const struct sockaddr_in *) address)->sin_addr, bytes);
	else if (address->sa_family == AF_INET6)
		memcpy(bytes, &((const struct sockaddr_in6 *) address)->sin6_addr, sizeof(bytes));
	else
		return true;
	for (int i = 0; i < list->count; i++)
	{
		if (is_in(&list->networks[i], bytes))
			return true;
	}
	return false;
}

/* Write what logins as the role from the host are remembered by. */
static void
write_key(const char *host, const char *role, char *key)
{
	unsigned char bytes[16];
	unsigned char mapped[16];
	char		network[INET6_ADDRSTRLEN];
	char		plain[64];

	snprintf(plain, sizeof(plain), "%s", *host == '[' ? host + 1 : host);
	plain[strcspn(plain, "]")] = '\0';
	snprintf(network, sizeof(network), "%.*s", INET6_ADDRSTRLEN - 1, plain);
	if (inet_pton(AF_INET6, plain, bytes) == 1)
	{
		map_address(bytes + 12, mapped);
		if (memcmp(bytes, mapped, sizeof(bytes)) == 0)
			inet_ntop(AF_INET, bytes + 12, network, sizeof(network));
		else
		{
			memset(bytes + 8, 0, 8);
			inet_ntop(AF_INET6, bytes, network, sizeof(network));
		}
	}
	snprintf(key, KEY_BYTES, "%s %.63s", network, role);
}

/* What is known by that key; NULL if nothing has failed for a minute. */
static Failures *
find_failures(const char *key)
{
	uint64_t	now = gateway_now();
	HashNode   *node;

	if (failures_by_age.next == NULL)
		list_init(&failures_by_age);
	while (!list_is_empty(&failures_by_age))
	{
		Failures   *oldest = list_container(Failures, link, failures_by_age.next);

		if (oldest->since + WINDOW_MS > now && failures.count <= MAX_REMEMBERED)
			break;
		list_remove(&oldest->link);
		hash_remove(&failures, &oldest->node);
		free(oldest);
	}
	for (node = hash_first(&failures, hash_string(key)); node != NULL; node = hash_next(node))
	{
		Failures   *found = hash_container(Failures, node, node);

		if (strcmp(found->key, key) == 0)
			return found;
	}
	return NULL;
}

/* May somebody from there try to log in as the role now? */
bool
address_may_log_in(const char *host, const char *role)
{
	char		key[KEY_BYTES];
	Failures   *found;

	write_key(host, role, key);
	found = find_failures(key);
	return found == NULL || found->count < limits.failed_logins;
}

/* A login as the role from there has failed. */
void
address_has_failed(const char *host, const char *role)
{
	char		key[KEY_BYTES];
	Failures   *found;

	write_key(host, role, key);
	found = find_failures(key);
	if (found == NULL)
	{
		found = memory_get_zeroed(sizeof(Failures));
		memcpy(found->key, key, sizeof(found->key));
		found->since = gateway_now();
		hash_insert(&failures, &found->node, hash_string(key));
		list_append(&failures_by_age, &found->link);
	}
	found->count++;
}

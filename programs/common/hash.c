/*-------------------------------------------------------------------------
 *
 * hash.c
 *	  See hash.h.
 *
 *-------------------------------------------------------------------------
 */
#include "common/hash.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

static uint64_t seed_value = UINT64_C(0x9E3779B97F4A7C15);

/* Key all hashes with this; to be called before the first. */
void
hash_seed(uint64_t seed)
{
	seed_value ^= seed;
}

/* Mix the bits of a number, as MurmurHash3 does at its end. */
static uint64_t
mix(uint64_t value)
{
	value ^= value >> 33;
	value *= UINT64_C(0xFF51AFD7ED558CCD);
	value ^= value >> 33;
	value *= UINT64_C(0xC4CEB9FE1A85EC53);
	value ^= value >> 33;
	return value;
}

/* The hash of length bytes. */
uint64_t
hash_bytes(const void *bytes, size_t length)
{
	const unsigned char *at = bytes;
	uint64_t	hash = mix(seed_value ^ length);

	while (length > 0)
	{
		uint64_t	word = 0;
		size_t		take = length < 8 ? length : 8;

		memcpy(&word, at, take);
		hash = mix(hash ^ word) + seed_value;
		at += take;
		length -= take;
	}
	return mix(hash);
}

/* The hash of a string, without its zero byte. */
uint64_t
hash_string(const char *string)
{
	return hash_bytes(string, strlen(string));
}

/* The node, or the next, from here on with that hash; NULL if none is. */
static HashNode *
same_hash(HashNode *node, uint64_t hash)
{
	while (node != NULL && node->hash != hash)
		node = node->next;
	return node;
}

/* The first node with that hash, or NULL. */
HashNode *
hash_first(const HashTable *table, uint64_t hash)
{
	if (table->size == 0)
		return NULL;
	return same_hash(table->heads[hash & (table->size - 1)], hash);
}

/* The next node with the same hash, or NULL. */
HashNode *
hash_next(const HashNode *node)
{
	return same_hash(node->next, node->hash);
}

/* Twice as many lists, or the first ones. */
static void
grow(HashTable *table)
{
	size_t		size = table->size > 0 ? table->size * 2 : 16;
	HashNode  **heads = memory_get_zeroed(size * sizeof(HashNode *));

	for (size_t i = 0; i < table->size; i++)
	{
		HashNode   *node = table->heads[i];

		while (node != NULL)
		{
			HashNode   *next = node->next;
			HashNode  **head = &heads[node->hash & (size - 1)];

			node->next = *head;
			*head = node;
			node = next;
		}
	}
	free(table->heads);
	table->heads = heads;
	table->size = size;
}

/* Insert the node, which is in no table. */
void
hash_insert(HashTable *table, HashNode *node, uint64_t hash)
{
	HashNode  **head;

	if (table->count >= table->size)
		grow(table);
	head = &table->heads[hash & (table->size - 1)];
	node->hash = hash;
	node->next = *head;
	*head = node;
	table->count++;
}

/* Remove the node, which is in the table. */
void
hash_remove(HashTable *table, HashNode *node)
{
	HashNode  **link = &table->heads[node->hash & (table->size - 1)];

	while (*link != node)
		link = &(*link)->next;
	*link = node->next;
	node->next = NULL;
	table->count--;
}

/* Free the table's own memory; its nodes stay as they are. */
void
hash_free(HashTable *table)
{
	free(table->heads);
	memset(table, 0, sizeof(*table));
}

/*-------------------------------------------------------------------------
 *
 * hash.h
 *	  A hash table of structs that carry their own link.
 *
 * A struct that is to be found has a HashNode in it, and the table knows no
 * more than that: whoever looks for one walks the nodes with the same hash and
 * compares.  Hashes are keyed with a random number, as peers choose the names.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_HASH_H
#define COMMON_HASH_H

#include <stddef.h>
#include <stdint.h>

typedef struct HashNode
{
	struct HashNode *next;
	uint64_t	hash;
} HashNode;

typedef struct HashTable
{
	HashNode  **heads;
	size_t		size;			/* of heads: a power of two, or 0 */
	size_t		count;
} HashTable;

/* The struct of that type in which the node is that member. */
#define hash_container(type, member, node) \
	((type *) ((char *) (node) - offsetof(type, member)))

extern void hash_seed(uint64_t seed);
extern uint64_t hash_bytes(const void *bytes, size_t length);
extern uint64_t hash_string(const char *string);
extern HashNode *hash_first(const HashTable *table, uint64_t hash);
extern HashNode *hash_next(const HashNode *node);
extern void hash_insert(HashTable *table, HashNode *node, uint64_t hash);
extern void hash_remove(HashTable *table, HashNode *node);
extern void hash_free(HashTable *table);

#endif

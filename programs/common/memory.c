/*-------------------------------------------------------------------------
 *
 * memory.c
 *	  See memory.h.
 *
 *-------------------------------------------------------------------------
 */
#include "common/memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BLOCK_SIZE 480
#define ARENA_ALIGN(size) (((size) + 15) & ~(size_t) 15)

struct ArenaBlock
{
	ArenaBlock *next;
	size_t		used;
	size_t		room;
				_Alignas(16) char data[];
};

/* Say that there is no memory, and exit with status 1. */
static void
out_of_memory(void)
{
	fputs("out of memory\n", stderr);
	exit(1);
}

/* Allocate size bytes, never NULL; the program ends if there are none. */
void *
memory_get(size_t size)
{
	void	   *memory = malloc(size > 0 ? size : 1);

	if (memory == NULL)
		out_of_memory();
	return memory;
}

/* Allocate size bytes that are zero. */
void *
memory_get_zeroed(size_t size)
{
	void	   *memory = calloc(1, size > 0 ? size : 1);

	if (memory == NULL)
		out_of_memory();
	return memory;
}

/* Give memory, which may be NULL, another size; it may move. */
void *
memory_resize(void *memory, size_t size)
{
	void	   *moved = realloc(memory, size > 0 ? size : 1);

	if (moved == NULL)
		out_of_memory();
	return moved;
}

/* A copy of a string, to be freed with free(). */
char *
memory_copy_string(const char *string)
{
	return memory_copy_bytes(string, strlen(string));
}

/* A copy of length bytes with a zero byte behind, to be freed with free(). */
char *
memory_copy_bytes(const char *bytes, size_t length)
{
	char	   *copy = memory_get(length + 1);

	if (length > 0)
		memcpy(copy, bytes, length);
	copy[length] = '\0';
	return copy;
}

/* Overwrite memory of that length, which may be NULL, and free it: it may be a secret. */
void
memory_wipe(char *memory, size_t length)
{
	if (memory != NULL)
		explicit_bzero(memory, length);
	free(memory);
}

/* Overwrite a string, which may be NULL, and free it. */
void
memory_wipe_string(char *string)
{
	memory_wipe(string, string == NULL ? 0 : strlen(string));
}

/* Allocate size zeroed bytes that go with the arena. */
void *
arena_get(Arena *arena, size_t size)
{
	ArenaBlock *block = arena->blocks;
	void	   *memory;

	size = ARENA_ALIGN(size);
	if (block == NULL || block->room - block->used < size)
	{
		size_t		room = size > ARENA_BLOCK_SIZE ? size : ARENA_BLOCK_SIZE;

		block = memory_get_zeroed(sizeof(ArenaBlock) + room);
		block->room = room;
		block->next = arena->blocks;
		arena->blocks = block;
		arena->bytes += sizeof(ArenaBlock) + room;
	}
	memory = block->data + block->used;
	block->used += size;
	return memory;
}

/* A copy of length bytes with a zero byte behind, which goes with the arena. */
char *
arena_copy(Arena *arena, const char *bytes, size_t length)
{
	char	   *copy = arena_get(arena, length + 1);

	if (length > 0)
		memcpy(copy, bytes, length);
	return copy;
}

/* Free the arena's newest block. */
static void
drop_block(Arena *arena)
{
	ArenaBlock *block = arena->blocks;

	arena->blocks = block->next;
	arena->bytes -= sizeof(ArenaBlock) + block->room;
	free(block);
}

/* Free all that was allocated from the arena, which is empty then. */
void
arena_free(Arena *arena)
{
	while (arena->blocks != NULL)
		drop_block(arena);
}

/* How far the arena is filled now. */
ArenaMark
arena_mark(const Arena *arena)
{
	ArenaMark	mark = {arena->blocks, 0};

	if (mark.block != NULL)
		mark.used = mark.block->used;
	return mark;
}

/* Free all that was allocated from the arena since the mark, which is not behind a rewind. */
void
arena_rewind(Arena *arena, ArenaMark mark)
{
	ArenaBlock *block = mark.block;

	while (arena->blocks != block)
		drop_block(arena);
	if (block == NULL)
		return;
	memset(block->data + mark.used, 0, block->used - mark.used);
	block->used = mark.used;
}

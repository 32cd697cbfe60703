/*-------------------------------------------------------------------------
 *
 * memory.h
 *	  Memory that is there, or the program ends.
 *
 * What a peer can make a program allocate is bounded before it gets here, so
 * a failure means that the machine has no memory left.  The program then says
 * so and exits; its supervisor starts it again, and its peers reconnect.
 *
 * An arena is memory that is freed together: what was made of one text lives
 * and goes with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_MEMORY_H
#define COMMON_MEMORY_H

#include <stddef.h>

typedef struct ArenaBlock ArenaBlock;

typedef struct Arena
{
	ArenaBlock *blocks;
	size_t		bytes;			/* allocated from the system */
} Arena;

/* How far an arena was filled. */
typedef struct ArenaMark
{
	ArenaBlock *block;
	size_t		used;
} ArenaMark;

extern void *memory_get(size_t size);
extern void *memory_get_zeroed(size_t size);
extern void *memory_resize(void *memory, size_t size);
extern char *memory_copy_string(const char *string);
extern char *memory_copy_bytes(const char *bytes, size_t length);
extern void memory_wipe(char *memory, size_t length);
extern void memory_wipe_string(char *string);

extern void *arena_get(Arena *arena, size_t size);
extern char *arena_copy(Arena *arena, const char *bytes, size_t length);
extern void arena_free(Arena *arena);
extern ArenaMark arena_mark(const Arena *arena);
extern void arena_rewind(Arena *arena, ArenaMark mark);

#endif

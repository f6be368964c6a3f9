#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

struct tally_arena_block {
    tally_arena_block *next;
    size_t size;
    size_t used;
    max_align_t bytes[];
};

enum { BLOCK_SIZE = 16 * 1024 };

void tally_arena_init(tally_arena *arena) {
    arena->first = NULL;
    arena->used = 0;
}

void *tally_arena_take(tally_arena *arena, size_t size) {
    const size_t unit = sizeof(max_align_t);
    size = (size + unit - 1) / unit * unit;
    tally_arena_block *block = arena->first;
    if (block == NULL || block->size - block->used < size) {
        size_t room = size > BLOCK_SIZE ? size : BLOCK_SIZE;
        block = malloc(sizeof *block + room);
        if (block == NULL) return NULL;
        block->next = arena->first;
        block->size = room;
        block->used = 0;
        arena->first = block;
    }
    void *result = (char *)block->bytes + block->used;
    block->used += size;
    arena->used += size;
    return result;
}

char *tally_arena_copy(tally_arena *arena, const char *text, size_t length) {
    char *copy = tally_arena_take(arena, length + 1);
    if (copy == NULL) return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

void tally_arena_free(tally_arena *arena) {
    tally_arena_block *block = arena->first;
    while (block != NULL) {
        tally_arena_block *next = block->next;
        free(block);
        block = next;
    }
    tally_arena_init(arena);
}

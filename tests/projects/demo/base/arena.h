/* Memory that is given back all at once. */
#ifndef TALLY_BASE_ARENA_H
#define TALLY_BASE_ARENA_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
typedef struct tally_arena_block tally_arena_block;
typedef struct tally_arena { tally_arena_block *first; size_t used; } tally_arena;
void tally_arena_init(tally_arena *arena);
void *tally_arena_take(tally_arena *arena, size_t size);
char *tally_arena_copy(tally_arena *arena, const char *text, size_t length);
void tally_arena_free(tally_arena *arena);
#ifdef __cplusplus
}
#endif
#endif

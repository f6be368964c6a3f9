#include "base/hash.h"

uint32_t tally_hash(uint32_t start, const void *bytes, size_t length) {
    const unsigned char *at = bytes;
    uint32_t hash = start;
    for (size_t i = 0; i < length; i++) {
        hash ^= at[i];
        hash *= 16777619u;
    }
    return hash;
}

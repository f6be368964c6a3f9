/* FNV-1a. */
#ifndef TALLY_BASE_HASH_H
#define TALLY_BASE_HASH_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#define TALLY_HASH_START 2166136261u
uint32_t tally_hash(uint32_t start, const void *bytes, size_t length);
#ifdef __cplusplus
}
#endif
#endif

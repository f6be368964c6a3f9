/* UTF-8, decoded strictly. */
#ifndef TALLY_BASE_UTF8_H
#define TALLY_BASE_UTF8_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
/* The length of the first character in bytes, 0 when it is malformed; the character in *point. */
size_t tally_utf8_decode(const char *text, size_t length, uint32_t *point);
/* Writes at most four bytes and returns how many. */
size_t tally_utf8_encode(uint32_t point, char *out);
/* Characters in a text; malformed bytes count as one each. */
size_t tally_utf8_count(const char *text, size_t length);
#ifdef __cplusplus
}
#endif
#endif

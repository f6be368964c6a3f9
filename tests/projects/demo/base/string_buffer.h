/* Text that grows. */
#ifndef TALLY_BASE_STRING_BUFFER_H
#define TALLY_BASE_STRING_BUFFER_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
typedef struct tally_string_buffer { char *text; size_t length, room; } tally_string_buffer;
void tally_string_buffer_init(tally_string_buffer *buffer);
int tally_string_buffer_add(tally_string_buffer *buffer, const char *text, size_t length);
int tally_string_buffer_format(tally_string_buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void tally_string_buffer_free(tally_string_buffer *buffer);
#ifdef __cplusplus
}
#endif
#endif

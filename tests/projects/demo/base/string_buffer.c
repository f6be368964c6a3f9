#include "base/string_buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tally_string_buffer_init(tally_string_buffer *buffer) {
    buffer->text = NULL;
    buffer->length = buffer->room = 0;
}

int tally_string_buffer_add(tally_string_buffer *buffer, const char *text, size_t length) {
    if (buffer->room - buffer->length <= length) {
        size_t room = (buffer->room + length + 16) * 2;
        char *larger = realloc(buffer->text, room);
        if (larger == NULL) return -1;
        buffer->text = larger;
        buffer->room = room;
    }
    memcpy(buffer->text + buffer->length, text, length);
    buffer->length += length;
    buffer->text[buffer->length] = '\0';
    return 0;
}

int tally_string_buffer_format(tally_string_buffer *buffer, const char *format, ...) {
    char small[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(small, sizeof small, format, arguments);
    va_end(arguments);
    if (length < 0) return -1;
    if ((size_t)length < sizeof small) return tally_string_buffer_add(buffer, small, (size_t)length);
    char *large = malloc((size_t)length + 1);
    if (large == NULL) return -1;
    va_start(arguments, format);
    vsnprintf(large, (size_t)length + 1, format, arguments);
    va_end(arguments);
    int result = tally_string_buffer_add(buffer, large, (size_t)length);
    free(large);
    return result;
}

void tally_string_buffer_free(tally_string_buffer *buffer) {
    free(buffer->text);
    tally_string_buffer_init(buffer);
}

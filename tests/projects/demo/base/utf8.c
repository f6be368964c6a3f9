#include "base/utf8.h"

size_t tally_utf8_decode(const char *text, size_t length, uint32_t *point) {
    const unsigned char *bytes = (const unsigned char *)text;
    if (length == 0) return 0;
    if (bytes[0] < 0x80) {
        *point = bytes[0];
        return 1;
    }
    size_t size = bytes[0] >= 0xf0 ? 4 : bytes[0] >= 0xe0 ? 3 : bytes[0] >= 0xc2 ? 2 : 0;
    if (size == 0 || size > length || bytes[0] > 0xf4) return 0;
    uint32_t value = bytes[0] & (0xffu >> (size + 1));
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (bytes[i] & 0x3fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < least[size] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return 0;
    *point = value;
    return size;
}

size_t tally_utf8_encode(uint32_t point, char *out) {
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    size_t size = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (point & 0x3f));
        point >>= 6;
    }
    out[0] = (char)((0xf00u >> size & 0xf0u) | point);
    return size;
}

size_t tally_utf8_count(const char *text, size_t length) {
    size_t count = 0;
    while (length > 0) {
        uint32_t point;
        size_t size = tally_utf8_decode(text, length, &point);
        if (size == 0) size = 1;
        text += size;
        length -= size;
        count++;
    }
    return count;
}

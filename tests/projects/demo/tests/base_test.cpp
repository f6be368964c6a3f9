#include <cstring>

#include "base/arena.h"
#include "base/hash.h"
#include "base/string_buffer.h"
#include "base/utf8.h"
#include "tests/check.h"

TEST(arena_keeps_what_it_gave) {
    tally_arena arena;
    tally_arena_init(&arena);
    std::vector<const char*> copies;
    for (int i = 0; i < 5000; i++) {
        const std::string text = std::to_string(i);
        copies.push_back(tally_arena_copy(&arena, text.data(), text.size()));
    }
    for (int i = 0; i < 5000; i++) CHECK_EQUAL(std::string(copies[static_cast<std::size_t>(i)]), std::to_string(i));
    tally_arena_free(&arena);
    CHECK_EQUAL(arena.used, 0u);
}

TEST(hash_is_fnv) {
    CHECK_EQUAL(tally_hash(TALLY_HASH_START, "", 0), 0x811c9dc5u);
    CHECK_EQUAL(tally_hash(TALLY_HASH_START, "foobar", 6), 0xbf9cf968u);
}

TEST(string_buffer_grows) {
    tally_string_buffer buffer;
    tally_string_buffer_init(&buffer);
    for (int i = 0; i < 300; i++) tally_string_buffer_format(&buffer, "%03d%s", i, ",");
    CHECK_EQUAL(buffer.length, 1200u);
    CHECK_EQUAL(std::strlen(buffer.text), 1200u);
    tally_string_buffer_format(&buffer, "%600s", "x");
    CHECK_EQUAL(buffer.length, 1800u);
    tally_string_buffer_free(&buffer);
}

TEST(utf8_round_trip) {
    for (const std::uint32_t point : {0x24u, 0xa2u, 0x20acu, 0x10348u}) {
        char bytes[4];
        const std::size_t size = tally_utf8_encode(point, bytes);
        std::uint32_t decoded = 0;
        CHECK_EQUAL(tally_utf8_decode(bytes, size, &decoded), size);
        CHECK_EQUAL(decoded, point);
    }
    std::uint32_t point = 0;
    CHECK_EQUAL(tally_utf8_decode("\xc0\x80", 2, &point), 0u);
    CHECK_EQUAL(tally_utf8_decode("\xed\xa0\x80", 3, &point), 0u);
    CHECK_EQUAL(tally_utf8_count("a\xc3\xbc\xff", 4), 3u);
}

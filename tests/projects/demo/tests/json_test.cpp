#include "tests/check.h"
#include "text/json_value.h"
#include "text/number.h"

using namespace tally;

TEST(json_round_trip) {
    const std::string text = R"({"a":[1,2.5,-3e+100,true,null],"b":{"c":"x\ny \"z\""},"d":[]})";
    CHECK_EQUAL(write_json(parse_json(text)), text);
    CHECK_EQUAL(parse_json(write_json(parse_json(text), 2)) == parse_json(text), true);
}

TEST(json_paths) {
    const Json json = parse_json(R"({"a":[{"b":7}]})");
    CHECK_EQUAL(write_json(json.at("a.0.b")), "7");
    CHECK_EQUAL(write_json(json.at("a.1.b")), "null");
}

TEST(json_escapes) { CHECK_EQUAL(std::get<std::string>(parse_json(R"("\u00fc\ud83d\ude00")").held), "ü😀"); }

TEST(json_errors) {
    for (const char* text : {"", "[1,", "{\"a\"}", "[1] 2", "\"", "tru", "+", "[1 2]"}) {
        CHECK_EQUAL(check::thrown([&] { parse_json(text); }).substr(0, 5), "JSON:");
    }
    CHECK_EQUAL(check::thrown([] { parse_json(std::string(100000, '[')); }), "JSON: too deep at byte 201");
}

TEST(numbers) {
    CHECK_EQUAL(format_number(3), "3");
    CHECK_EQUAL(format_number(0.1), "0.1");
    CHECK_EQUAL(format_number(1.0 / 3), "0.3333333333333333");
    CHECK_EQUAL(parse_number("1x").has_value(), false);
    CHECK_EQUAL(*parse_number("2.5e3"), 2500.0);
}

// A JSON document in memory.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tally {

class Json {
public:
    using List = std::vector<Json>;
    using Map = std::map<std::string, Json>;
    std::variant<std::nullptr_t, bool, double, std::string, List, Map> held = nullptr;

    Json() = default;
    Json(bool value) : held(value) {}
    Json(double value) : held(value) {}
    Json(std::string value) : held(std::move(value)) {}
    Json(const char* value) : held(std::string(value)) {}
    Json(List value) : held(std::move(value)) {}
    Json(Map value) : held(std::move(value)) {}

    // The member at a path of names and positions, "a.0.b"; null where there is none.
    const Json& at(std::string_view path) const;
    bool operator==(const Json& other) const { return held == other.held; }
};

// Throws std::runtime_error, which says where.
Json parse_json(std::string_view text);
// `indent` 0 means one line.
std::string write_json(const Json& value, int indent = 0);

}  // namespace tally

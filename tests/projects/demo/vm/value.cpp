#include "vm/value.h"

#include <algorithm>
#include <sstream>

#include "base/hash.h"
#include "text/json_value.h"
#include "text/number.h"

namespace tally {

bool Value::is_true() const {
    if (const bool* truth = std::get_if<bool>(&held)) return *truth;
    return !std::holds_alternative<std::nullptr_t>(held);
}

bool Value::operator==(const Value& other) const {
    if (const Text *a = as<Text>(), *b = other.as<Text>(); a && b) return a->value == b->value;
    if (const List *a = as<List>(), *b = other.as<List>(); a && b) return a->items == b->items;
    if (const Map *a = as<Map>(), *b = other.as<Map>(); a && b) {
        return a->members.size() == b->members.size() &&
               std::all_of(a->members.begin(), a->members.end(), [b](const auto& member) {
                   const auto found = b->members.find(member.first);
                   return found != b->members.end() && found->second == member.second;
               });
    }
    return held == other.held;
}

std::uint32_t Value::hash() const {
    if (const Text* text = as<Text>()) return tally_hash(TALLY_HASH_START, text->value.data(), text->value.size());
    if (const double* value = number()) return tally_hash(TALLY_HASH_START ^ 1, value, sizeof *value);
    if (const List* list = as<List>()) {
        std::uint32_t result = TALLY_HASH_START ^ 2;
        for (const auto& item : list->items) {
            const auto part = item.hash();
            result = tally_hash(result, &part, sizeof part);
        }
        return result;
    }
    return static_cast<std::uint32_t>(held.index()) * 31u + (is_true() ? 1u : 0u);
}

std::string Value::text(bool quoted) const {
    if (const double* value = number()) return format_number(*value);
    if (const bool* truth = std::get_if<bool>(&held)) return *truth ? "true" : "false";
    if (const Text* text = as<Text>()) return quoted ? write_json(Json(text->value)) : text->value;
    std::ostringstream out;
    if (const List* list = as<List>()) {
        out << '[';
        for (std::size_t i = 0; i < list->items.size(); i++) out << (i > 0 ? ", " : "") << list->items[i].text(true);
        out << ']';
    } else if (const Map* map = as<Map>()) {
        out << '{';
        for (std::size_t i = 0; i < map->order.size(); i++) {
            const Value& key = map->order[i];
            out << (i > 0 ? ", " : "") << key.text(true) << ": " << map->members.at(key).text(true);
        }
        out << '}';
    } else if (const auto* function = as<FunctionObject>()) {
        out << "<fn " << function->name << '>';
    } else if (const auto* native = as<NativeObject>()) {
        out << "<built-in " << native->name << '>';
    } else {
        out << "nothing";
    }
    return out.str();
}

const char* Value::type_name() const {
    if (number()) return "a number";
    if (std::holds_alternative<bool>(held)) return "a truth";
    if (std::holds_alternative<std::nullptr_t>(held)) return "nothing";
    return as<Text>() ? "a text" : as<List>() ? "a list" : as<Map>() ? "a map" : "a function";
}

}  // namespace tally

#include <cmath>
#include <stdexcept>

#include "text/json_value.h"
#include "vm/machine.h"

namespace tally {
namespace {

double number_of(const Value& value) {
    if (const double* number = value.number()) return *number;
    throw std::invalid_argument(std::string("expected a number, got ") + value.type_name());
}

Value from_json(Machine& machine, const Json& json) {
    if (const auto* truth = std::get_if<bool>(&json.held)) return Value(*truth);
    if (const auto* number = std::get_if<double>(&json.held)) return Value(*number);
    if (const auto* text = std::get_if<std::string>(&json.held)) return machine.text(*text);
    if (const auto* items = std::get_if<Json::List>(&json.held)) {
        List list;
        for (const auto& item : *items) list.items.push_back(from_json(machine, item));
        return Value(machine.heap().make(std::move(list)));
    }
    if (const auto* members = std::get_if<Json::Map>(&json.held)) {
        Map map;
        for (const auto& [name, value] : *members) {
            const Value key = machine.text(name);
            map.members.emplace(key, from_json(machine, value));
            map.order.push_back(key);
        }
        return Value(machine.heap().make(std::move(map)));
    }
    return Value();
}

Json to_json(const Value& value, int depth = 0) {
    if (depth > 100) throw std::invalid_argument("nested too deeply for JSON");
    if (const double* number = value.number()) return Json(*number);
    if (const bool* truth = std::get_if<bool>(&value.held)) return Json(*truth);
    if (const auto* text = value.as<Text>()) return Json(text->value);
    if (const auto* list = value.as<List>()) {
        Json::List items;
        for (const auto& item : list->items) items.push_back(to_json(item, depth + 1));
        return Json(std::move(items));
    }
    if (const auto* map = value.as<Map>()) {
        Json::Map members;
        for (const auto& [key, member] : map->members) members[key.text()] = to_json(member, depth + 1);
        return Json(std::move(members));
    }
    return Json();
}

}  // namespace

void define_builtins(Machine& machine) {
    machine.define("print", -1, [](Machine& machine, const std::vector<Value>& arguments) {
        std::string line;
        for (const auto& argument : arguments) line += (line.empty() ? "" : " ") + argument.text();
        machine.print(line + "\n");
        return Value();
    });
    using Function = double (*)(double);
    static constexpr std::pair<const char*, Function> functions[] = {
        {"floor", [](double x) { return std::floor(x); }}, {"ceil", [](double x) { return std::ceil(x); }},
        {"sqrt", [](double x) { return std::sqrt(x); }},   {"abs", [](double x) { return std::fabs(x); }},
        {"exp", [](double x) { return std::exp(x); }},     {"log", [](double x) { return std::log(x); }},
    };
    for (const auto& [name, function] : functions) {
        machine.define(name, 1, [function = function](Machine&, const std::vector<Value>& arguments) {
            return Value(function(number_of(arguments[0])));
        });
    }
    machine.define("type", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        return machine.text(arguments[0].type_name());
    });
    machine.define("hash", 1, [](Machine&, const std::vector<Value>& arguments) {
        return Value(static_cast<double>(arguments[0].hash()));
    });
    machine.define("from_json", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        const auto* text = arguments[0].as<Text>();
        if (!text) throw std::invalid_argument("expected a text");
        return from_json(machine, parse_json(text->value));
    });
    machine.define("to_json", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        return machine.text(write_json(to_json(arguments[0])));
    });
}

}  // namespace tally

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "base/utf8.h"
#include "vm/machine.h"

namespace tally {
namespace {

List& list_of(const Value& value) {
    if (List* list = value.as<List>()) return *list;
    throw std::invalid_argument(std::string("expected a list, got ") + value.type_name());
}

Value make_list(Machine& machine, std::vector<Value> items) { return Value(machine.heap().make(List{std::move(items)})); }

bool comes_before(const Value& a, const Value& b) {
    if (const double *x = a.number(), *y = b.number(); x && y) return *x < *y;
    return a.text() < b.text();
}

// While the program's own functions run, anything may be collected that is not pinned: the result, and a copy of
// the items, since the list itself may change meanwhile.
Value map_over(Machine& machine, const std::vector<Value>& arguments) {
    const Value copy = machine.pin(make_list(machine, list_of(arguments[0]).items));
    const std::vector<Value>& items = list_of(copy).items;
    const Value result = machine.pin(make_list(machine, {}));
    for (const auto& item : items) {
        const Value mapped = machine.call(arguments[1], {item});
        list_of(result).items.push_back(mapped);
    }
    return result;
}

Value filter(Machine& machine, const std::vector<Value>& arguments) {
    const Value copy = machine.pin(make_list(machine, list_of(arguments[0]).items));
    const std::vector<Value>& items = list_of(copy).items;
    std::vector<Value> kept;
    for (const auto& item : items) {
        if (machine.call(arguments[1], {item}).is_true()) kept.push_back(item);
    }
    return make_list(machine, std::move(kept));
}

Value fold(Machine& machine, const std::vector<Value>& arguments) {
    const Value copy = machine.pin(make_list(machine, list_of(arguments[0]).items));
    const std::vector<Value>& items = list_of(copy).items;
    Value result = arguments[1];
    for (const auto& item : items) result = machine.call(arguments[2], {result, item});
    return result;
}

}  // namespace

void define_list_builtins(Machine& machine) {
    machine.define("length", 1, [](Machine&, const std::vector<Value>& arguments) {
        if (const Text* text = arguments[0].as<Text>()) {
            return Value(static_cast<double>(tally_utf8_count(text->value.data(), text->value.size())));
        }
        if (const Map* map = arguments[0].as<Map>()) return Value(static_cast<double>(map->order.size()));
        return Value(static_cast<double>(list_of(arguments[0]).items.size()));
    });
    // What `for` goes over: a list itself, or the keys of a map.
    machine.define("items", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        if (const Map* map = arguments[0].as<Map>()) return make_list(machine, map->order);
        list_of(arguments[0]);
        return arguments[0];
    });
    machine.define("push", 2, [](Machine&, const std::vector<Value>& arguments) {
        list_of(arguments[0]).items.push_back(arguments[1]);
        return arguments[0];
    });
    machine.define("range", 2, [](Machine& machine, const std::vector<Value>& arguments) {
        const double *from = arguments[0].number(), *to = arguments[1].number();
        if (!from || !to || *to - *from > 1e7) throw std::invalid_argument("range wants two numbers, not too far apart");
        std::vector<Value> items;
        for (double at = *from; at < *to; at++) items.emplace_back(at);
        return make_list(machine, std::move(items));
    });
    machine.define("sort", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        auto items = list_of(arguments[0]).items;
        std::stable_sort(items.begin(), items.end(), comes_before);
        return make_list(machine, std::move(items));
    });
    machine.define("reverse", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        auto items = list_of(arguments[0]).items;
        std::reverse(items.begin(), items.end());
        return make_list(machine, std::move(items));
    });
    machine.define("sum", 1, [](Machine&, const std::vector<Value>& arguments) {
        const auto& items = list_of(arguments[0]).items;
        return Value(std::accumulate(items.begin(), items.end(), 0.0, [](double sum, const Value& item) {
            const double* number = item.number();
            if (!number) throw std::invalid_argument("sum wants numbers");
            return sum + *number;
        }));
    });
    machine.define("map", 2, map_over);
    machine.define("filter", 2, filter);
    machine.define("fold", 3, fold);
}

}  // namespace tally

#include <algorithm>
#include <cctype>
#include <regex>
#include <stdexcept>

#include "text/number.h"
#include "text/table.h"
#include "vm/machine.h"

namespace tally {
namespace {

const std::string& text_of(const Value& value) {
    if (const Text* text = value.as<Text>()) return text->value;
    throw std::invalid_argument(std::string("expected a text, got ") + value.type_name());
}

Value split(Machine& machine, const std::vector<Value>& arguments) {
    const std::string &text = text_of(arguments[0]), &separator = text_of(arguments[1]);
    if (separator.empty()) throw std::invalid_argument("split wants a separator");
    List parts;
    std::size_t start = 0;
    for (;;) {
        const auto end = text.find(separator, start);
        parts.items.push_back(machine.text(text.substr(start, end - start)));
        if (end == std::string::npos) break;
        start = end + separator.size();
    }
    return Value(machine.heap().make(std::move(parts)));
}

Value join(Machine& machine, const std::vector<Value>& arguments) {
    const List* list = arguments[0].as<List>();
    if (!list) throw std::invalid_argument("join wants a list");
    std::string result;
    for (std::size_t i = 0; i < list->items.size(); i++) {
        if (i > 0) result += text_of(arguments[1]);
        result += list->items[i].text();
    }
    return machine.text(std::move(result));
}

Value matches(Machine& machine, const std::vector<Value>& arguments) {
    const std::string& text = text_of(arguments[0]);
    const std::regex pattern(text_of(arguments[1]));
    List found;
    for (auto at = std::sregex_iterator(text.begin(), text.end(), pattern); at != std::sregex_iterator(); ++at) {
        found.items.push_back(machine.text(at->str()));
    }
    return Value(machine.heap().make(std::move(found)));
}

// table(titles, rows): rows are lists.
Value table(Machine& machine, const std::vector<Value>& arguments) {
    const auto cells = [](const Value& value) {
        const List* list = value.as<List>();
        if (!list) throw std::invalid_argument("table wants lists");
        std::vector<std::string> result;
        for (const auto& item : list->items) result.push_back(item.text());
        return result;
    };
    Table result(cells(arguments[0]));
    const List* rows = arguments[1].as<List>();
    if (!rows) throw std::invalid_argument("table wants a list of rows");
    for (const auto& row : rows->items) result.add(cells(row));
    return machine.text(result.text());
}

}  // namespace

void define_text_builtins(Machine& machine) {
    machine.define("split", 2, split);
    machine.define("join", 2, join);
    machine.define("matches", 2, matches);
    machine.define("table", 2, table);
    machine.define("upper", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        std::string text = text_of(arguments[0]);
        std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
        return machine.text(std::move(text));
    });
    machine.define("text", 1, [](Machine& machine, const std::vector<Value>& arguments) {
        return machine.text(arguments[0].text());
    });
    machine.define("number", 1, [](Machine&, const std::vector<Value>& arguments) {
        const auto number = parse_number(text_of(arguments[0]));
        return number ? Value(*number) : Value();
    });
}

}  // namespace tally

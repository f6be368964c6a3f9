#include "text/json_value.h"

#include <algorithm>
#include <cctype>

namespace tally {

static const Json& member(const Json& value, std::string_view name) {
    static const Json nothing;
    if (const auto* map = std::get_if<Json::Map>(&value.held)) {
        const auto found = map->find(std::string(name));
        return found == map->end() ? nothing : found->second;
    }
    if (const auto* list = std::get_if<Json::List>(&value.held)) {
        const bool digits = !name.empty() && name.size() < 9 &&
                            std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c); });
        const std::size_t index = digits ? std::stoul(std::string(name)) : list->size();
        return index < list->size() ? (*list)[index] : nothing;
    }
    return nothing;
}

const Json& Json::at(std::string_view path) const {
    const Json* here = this;
    while (!path.empty()) {
        const auto dot = path.find('.');
        here = &member(*here, path.substr(0, dot));
        path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    }
    return *here;
}

}  // namespace tally

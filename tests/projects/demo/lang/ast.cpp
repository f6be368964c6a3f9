#include "lang/ast.h"

namespace tally {

std::size_t count_nodes(Node& node) {
    std::size_t count = 1;
    for_each_child(node, [&](NodePtr& child) { count += count_nodes(*child); });
    return count;
}

}  // namespace tally

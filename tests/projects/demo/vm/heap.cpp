#include "vm/heap.h"

#include <algorithm>
#include <utility>

namespace tally {

Heap::~Heap() {
    while (first_) delete std::exchange(first_, first_->next);
}

void Heap::mark(const Value& value) {
    Object* const* object = std::get_if<Object*>(&value.held);
    if (!object || (*object)->marked) return;
    (*object)->marked = true;
    // Not recursive: a list of lists of lists must not overflow the stack.
    grey_.push_back(*object);
}

void Heap::mark_children(Object& object) {
    if (auto* list = std::get_if<List>(&object.held)) {
        for (const auto& item : list->items) mark(item);
    } else if (auto* map = std::get_if<Map>(&object.held)) {
        for (const auto& [key, value] : map->members) mark(key), mark(value);
    } else if (auto* function = std::get_if<FunctionObject>(&object.held)) {
        for (const auto& constant : function->chunk.constants) mark(constant);
    }
}

void Heap::collect(const std::function<void(Heap&)>& roots) {
    roots(*this);
    while (!grey_.empty()) {
        Object* object = grey_.back();
        grey_.pop_back();
        mark_children(*object);
    }
    Object** link = &first_;
    while (*link) {
        if ((*link)->marked) {
            (*link)->marked = false;
            link = &(*link)->next;
        } else {
            Object* dead = *link;
            *link = dead->next;
            delete dead;
            live_--;
        }
    }
    next_ = std::max<std::size_t>(256, live_ * 2);
    collections_++;
}

}  // namespace tally

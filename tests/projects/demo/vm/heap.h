// Objects, and which of them are still needed: mark and sweep.
#pragma once
#include <functional>

#include "vm/value.h"

namespace tally {

class Heap {
public:
    Heap() = default;
    Heap(const Heap&) = delete;
    Heap& operator=(const Heap&) = delete;
    ~Heap();

    template <class T> Object* make(T held) {
        auto* object = new Object{std::move(held), first_, false};
        first_ = object;
        live_++;
        return object;
    }

    // Every object that `roots` does not mark, directly or not, goes. To be called where all values are in sight.
    void collect(const std::function<void(Heap&)>& roots);
    void mark(const Value& value);
    bool is_due() const { return live_ >= next_; }
    std::size_t live() const { return live_; }
    std::size_t collections() const { return collections_; }

private:
    Object* first_ = nullptr;
    std::size_t live_ = 0;
    std::size_t next_ = 256;
    std::size_t collections_ = 0;
    std::vector<Object*> grey_;

    void mark_children(Object& object);
};

}  // namespace tally

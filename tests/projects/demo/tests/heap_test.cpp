#include "tests/check.h"
#include "vm/heap.h"

using namespace tally;

TEST(heap_keeps_what_is_reached) {
    Heap heap;
    Object* inner = heap.make(Text{"inner"});
    Object* outer = heap.make(List{{Value(inner)}});
    heap.make(Text{"garbage"});
    heap.collect([&](Heap& heap) { heap.mark(Value(outer)); });
    CHECK_EQUAL(heap.live(), 2u);
    CHECK_EQUAL(Value(outer).text(), "[\"inner\"]");
    heap.collect([](Heap&) {});
    CHECK_EQUAL(heap.live(), 0u);
}

TEST(heap_collects_cycles_and_long_chains) {
    Heap heap;
    Object* chain = heap.make(List{});
    std::get<List>(chain->held).items.emplace_back(chain);
    for (int i = 0; i < 100000; i++) chain = heap.make(List{{Value(chain)}});
    heap.collect([&](Heap& heap) { heap.mark(Value(chain)); });
    CHECK_EQUAL(heap.live(), 100001u);
    heap.collect([](Heap&) {});
    CHECK_EQUAL(heap.live(), 0u);
}

#include "tests/check.h"
#include "text/table.h"

TEST(table_aligns) {
    tally::Table table({"name", "count"});
    table.add({"züge", "10"});
    table.add({"a", "9"});
    table.sort_by(1);
    CHECK_EQUAL(table.text(), "name  count\n----  -----\na         9\nzüge     10\n");
}

TEST(table_refuses_ragged_rows) {
    tally::Table table({"a"});
    CHECK_EQUAL(check::thrown([&] { table.add({"1", "2"}); }), "a row has another number of cells");
}

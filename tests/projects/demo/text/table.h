// Text in columns.
#pragma once
#include <string>
#include <vector>

namespace tally {

class Table {
public:
    explicit Table(std::vector<std::string> titles);
    void add(std::vector<std::string> cells);
    // Sorts the rows by one column, as numbers where both cells are numbers.
    void sort_by(std::size_t column);
    // Columns of numbers are aligned to the right.
    std::string text() const;

private:
    std::vector<std::string> titles_;
    std::vector<std::vector<std::string>> rows_;
};

}  // namespace tally

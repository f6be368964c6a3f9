#include "text/table.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "base/utf8.h"
#include "text/number.h"

namespace tally {

static std::size_t width_of(const std::string& text) { return tally_utf8_count(text.data(), text.size()); }

Table::Table(std::vector<std::string> titles) : titles_(std::move(titles)) {}

void Table::add(std::vector<std::string> cells) {
    if (cells.size() != titles_.size()) throw std::invalid_argument("a row has another number of cells");
    rows_.push_back(std::move(cells));
}

void Table::sort_by(std::size_t column) {
    std::stable_sort(rows_.begin(), rows_.end(), [column](const auto& a, const auto& b) {
        const auto x = parse_number(a.at(column)), y = parse_number(b.at(column));
        return x && y ? *x < *y : a.at(column) < b.at(column);
    });
}

std::string Table::text() const {
    std::vector<std::size_t> widths;
    std::vector<bool> numbers;
    for (std::size_t column = 0; column < titles_.size(); column++) {
        std::size_t width = width_of(titles_[column]);
        for (const auto& row : rows_) width = std::max(width, width_of(row[column]));
        widths.push_back(width);
        numbers.push_back(!rows_.empty() && std::all_of(rows_.begin(), rows_.end(), [column](const auto& row) {
            return parse_number(row[column]).has_value();
        }));
    }
    std::ostringstream out;
    const auto put = [&](const std::vector<std::string>& cells) {
        for (std::size_t column = 0; column < cells.size(); column++) {
            const std::string blanks(widths[column] - width_of(cells[column]), ' ');
            if (column > 0) out << "  ";
            const bool last = column + 1 == cells.size();
            out << (numbers[column] ? blanks + cells[column] : cells[column] + (last ? "" : blanks));
        }
        out << '\n';
    };
    put(titles_);
    std::vector<std::string> lines;
    for (const auto width : widths) lines.emplace_back(width, '-');
    put(lines);
    for (const auto& row : rows_) put(row);
    return out.str();
}

}  // namespace tally

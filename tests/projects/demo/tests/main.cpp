#include "tests/check.h"

std::vector<check::Case>& check::cases() {
    static std::vector<Case> all;
    return all;
}

int main() {
    int failed = 0;
    for (const auto& one : check::cases()) {
        try {
            one.run();
        } catch (const std::exception& error) {
            std::cerr << one.name << ": " << error.what() << '\n';
            failed++;
        }
    }
    std::cout << check::cases().size() - static_cast<std::size_t>(failed) << " of " << check::cases().size() << " passed\n";
    return failed == 0 ? 0 : 1;
}

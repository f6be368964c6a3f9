// The smallest test framework that says what differed.
#pragma once
#include <functional>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace check {

struct Case {
    std::string name;
    std::function<void()> run;
};

std::vector<Case>& cases();

struct Register {
    Register(const char* name, std::function<void()> run) { cases().push_back({name, std::move(run)}); }
};

template <class A, class B>
void equal(const A& actual, const B& expected, const char* file, int line) {
    if (actual == expected) return;
    std::ostringstream out;
    out << file << ':' << line << ": expected " << expected << ", got " << actual;
    throw std::runtime_error(out.str());
}

// The message of what `run` throws; empty if nothing.
template <class Run>
std::string thrown(Run run) {
    try {
        run();
    } catch (const std::exception& error) {
        return error.what();
    }
    return {};
}

}  // namespace check

#define CHECK_EQUAL(actual, expected) check::equal(actual, expected, __FILE__, __LINE__)
#define TEST(name)                                        \
    static void name();                                   \
    static check::Register register_##name(#name, &name); \
    static void name()

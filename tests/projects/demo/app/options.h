// What the command line asks for.
#pragma once
#include <string>

struct Options {
    enum class Action { run, report, ast, disassemble, help };
    Action action = Action::run;
    std::string file;
};

// Throws std::invalid_argument.
Options parse_options(int argc, const char* const* argv);
extern const char* const usage;

#include "app/options.h"

#include <map>
#include <stdexcept>
#include <string_view>

const char* const usage =
    "usage: tally [--report | --ast | --disassemble] FILE\n"
    "  --report       run, then say how much work it was\n"
    "  --ast          print the tree\n"
    "  --disassemble  print the bytecode\n";

Options parse_options(int argc, const char* const* argv) {
    static const std::map<std::string_view, Options::Action> actions{
        {"--report", Options::Action::report},
        {"--ast", Options::Action::ast},
        {"--disassemble", Options::Action::disassemble},
        {"--help", Options::Action::help},
    };
    Options options;
    for (int i = 1; i < argc; i++) {
        const std::string_view word = argv[i];
        if (const auto found = actions.find(word); found != actions.end()) {
            options.action = found->second;
        } else if (word.substr(0, 1) == "-" || !options.file.empty()) {
            throw std::invalid_argument("unexpected " + std::string(word));
        } else {
            options.file = word;
        }
    }
    if (options.file.empty() && options.action != Options::Action::help) throw std::invalid_argument("no file is named");
    return options;
}

// Runs a program from a file.
#include <fstream>
#include <iostream>
#include <sstream>

#include "app/options.h"
#include "base/hash.h"
#include "lang/diagnostics.h"
#include "lang/parser.h"
#include "vm/compiler.h"
#include "vm/machine.h"

static std::string read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) throw std::runtime_error("failed to read " + file);
    return text.str();
}

static void run(const std::string& source, bool report) {
    tally::Machine machine;
    const tally::Value result = machine.run(source);
    const std::string& output = machine.output();
    std::cout << output;
    if (!report) {
        if (result.text() != "nothing") std::cout << result.text() << '\n';
        return;
    }
    std::cout << "steps " << machine.steps() << ", collections " << machine.heap().collections() << ", checksum "
              << tally_hash(TALLY_HASH_START, output.data(), output.size()) << '\n';
}

int main(int argc, char** argv) {
    Options options;
    try {
        options = parse_options(argc, argv);
    } catch (const std::invalid_argument& error) {
        std::cerr << "tally: " << error.what() << '\n' << usage;
        return 2;
    }
    std::string source;
    try {
        if (options.action == Options::Action::help) {
            std::cout << usage;
            return 0;
        }
        source = read(options.file);
        if (options.action == Options::Action::ast) {
            std::cout << tally::print_ast(*tally::parse(source)) << '\n';
        } else if (options.action == Options::Action::disassemble) {
            tally::Heap heap;
            const tally::Value program(tally::compile(*tally::parse(source), heap));
            std::cout << tally::disassemble(program.as<tally::FunctionObject>()->chunk, options.file);
        } else {
            run(source, options.action == Options::Action::report);
        }
        return 0;
    } catch (const tally::SourceError& error) {
        std::cerr << tally::render(error, source, options.file);
    } catch (const std::exception& error) {
        std::cerr << "tally: " << error.what() << '\n';
    }
    return 1;
}

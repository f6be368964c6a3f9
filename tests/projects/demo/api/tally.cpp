#include "tally.h"

#include <exception>
#include <new>
#include <string>

#include "lang/diagnostics.h"
#include "vm/machine.h"

struct tally_machine {
    tally::Machine machine;
    std::string result;
    std::string error;
};

extern "C" {

tally_machine* tally_new(void) { return new (std::nothrow) tally_machine(); }

const char* tally_run(tally_machine* machine, const char* source) {
    try {
        machine->result = machine->machine.run(source).text();
        return machine->result.c_str();
    } catch (const tally::SourceError& error) {
        machine->error = tally::render(error, source, "input");
    } catch (const std::exception& error) {
        machine->error = error.what();
    }
    return nullptr;
}

const char* tally_error(const tally_machine* machine) { return machine->error.c_str(); }

void tally_free(tally_machine* machine) { delete machine; }

}

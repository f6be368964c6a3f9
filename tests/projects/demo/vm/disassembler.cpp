#include <iomanip>
#include <sstream>

#include "vm/chunk.h"
#include "vm/value.h"

namespace tally {

std::string disassemble(const Chunk& chunk, const std::string& name) {
    std::ostringstream out;
    out << name << ":\n";
    for (std::size_t at = 0; at < chunk.code.size();) {
        const auto opcode = static_cast<Opcode>(chunk.code[at]);
        const auto& row = row_of(opcode);
        out << std::setw(5) << at << "  " << std::left << std::setw(14) << row.name << std::right;
        if (row.operands == 1) out << static_cast<int>(chunk.code[at + 1]);
        if (row.operands == 2) out << chunk.two_at(at + 1);
        if (opcode == Opcode::constant) out << "  " << chunk.constants[chunk.two_at(at + 1)].text(true);
        out << '\n';
        at += 1 + static_cast<std::size_t>(row.operands);
    }
    for (const auto& constant : chunk.constants) {
        if (const auto* function = constant.as<FunctionObject>()) out << disassemble(function->chunk, function->name);
    }
    return out.str();
}

}  // namespace tally

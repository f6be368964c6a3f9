// A piece of bytecode.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lang/token.h"
#include "opcodes.h"

namespace tally {

struct Value;

struct Chunk {
    std::vector<std::uint8_t> code;
    std::vector<Position> positions;  // one a byte
    std::vector<Value> constants;

    void put(Opcode opcode, Position position) { put_byte(static_cast<std::uint8_t>(opcode), position); }
    void put_byte(std::uint8_t byte, Position position);
    void put_two(std::size_t number, Position position);
    std::size_t two_at(std::size_t offset) const { return static_cast<std::size_t>(code[offset]) << 8 | code[offset + 1]; }
    // Throws SourceError when the distance does not fit.
    void set_two(std::size_t offset, std::size_t number, Position position);
};

// One line an instruction; functions among the constants follow.
std::string disassemble(const Chunk& chunk, const std::string& name);

}  // namespace tally

#include "vm/chunk.h"

#include "lang/diagnostics.h"
#include "vm/value.h"

namespace tally {

void Chunk::put_byte(std::uint8_t byte, Position position) {
    code.push_back(byte);
    positions.push_back(position);
}

void Chunk::put_two(std::size_t number, Position position) {
    const std::size_t offset = code.size();
    put_byte(0, position);
    put_byte(0, position);
    set_two(offset, number, position);
}

void Chunk::set_two(std::size_t offset, std::size_t number, Position position) {
    if (number > 0xffff) throw SourceError("too much for one function", position);
    code[offset] = static_cast<std::uint8_t>(number >> 8);
    code[offset + 1] = static_cast<std::uint8_t>(number & 0xff);
}

}  // namespace tally

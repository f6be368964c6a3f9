// What a running program computes with.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "vm/chunk.h"

namespace tally {

class Machine;
struct Object;

struct Value {
    std::variant<std::nullptr_t, bool, double, Object*> held = nullptr;

    Value() = default;
    Value(bool value) : held(value) {}
    Value(double value) : held(value) {}
    Value(Object* value) : held(value) {}

    bool is_true() const;
    const double* number() const { return std::get_if<double>(&held); }
    template <class T> T* as() const;
    // Texts, lists and maps by content.
    bool operator==(const Value& other) const;
    std::uint32_t hash() const;
    // As `print` shows it; texts are quoted inside of lists and maps.
    std::string text(bool quoted = false) const;
    const char* type_name() const;
};

struct ValueHash {
    std::size_t operator()(const Value& value) const { return value.hash(); }
};

using Native = std::function<Value(Machine&, const std::vector<Value>&)>;

struct Text { std::string value; };
struct List { std::vector<Value> items; };
struct Map { std::unordered_map<Value, Value, ValueHash> members; std::vector<Value> order; };
struct FunctionObject { std::string name; int arity = 0; Chunk chunk; };
struct NativeObject { std::string name; int arity = 0; Native call; };

struct Object {
    std::variant<Text, List, Map, FunctionObject, NativeObject> held;
    Object* next = nullptr;
    bool marked = false;
};

template <class T> T* Value::as() const {
    Object* const* object = std::get_if<Object*>(&held);
    return object ? std::get_if<T>(&(*object)->held) : nullptr;
}

}  // namespace tally

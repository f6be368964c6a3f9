#include "lang/parser.h"

#include "lang/diagnostics.h"
#include "lang/lexer.h"

namespace tally {
namespace {

constexpr int deepest = 250;

class Parser {
public:
    explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    NodePtr program() {
        Block block;
        const Position start = here().position;
        while (here().kind != TokenKind::end) block.statements.push_back(statement());
        return make_node(std::move(block), start);
    }

private:
    std::vector<Token> tokens_;
    std::size_t at_ = 0;
    int depth_ = 0;

    struct Deeper {
        explicit Deeper(Parser& parser) : parser(parser) {
            if (++parser.depth_ > deepest) throw SourceError("nested too deeply", parser.here().position);
        }
        ~Deeper() { parser.depth_--; }
        Parser& parser;
    };

    const Token& here() const { return tokens_[at_]; }

    bool accept(TokenKind kind) {
        if (here().kind != kind) return false;
        at_++;
        return true;
    }

    Token expect(TokenKind kind) {
        if (here().kind != kind) {
            throw SourceError("expected " + std::string(name_of(kind)) + ", found " + std::string(name_of(here().kind)),
                              here().position);
        }
        return tokens_[at_++];
    }

    NodePtr statement() {
        const Deeper deeper(*this);
        const Position start = here().position;
        if (accept(TokenKind::word_let)) {
            const Token name = expect(TokenKind::name);
            expect(TokenKind::assign);
            NodePtr value = expression();
            expect(TokenKind::semicolon);
            return make_node(Let{name.text, std::move(value)}, start);
        }
        if (accept(TokenKind::word_fn)) return function(start);
        if (accept(TokenKind::word_if)) return conditional(start);
        if (accept(TokenKind::word_while)) {
            NodePtr condition = expression();
            return make_node(While{std::move(condition), block()}, start);
        }
        if (accept(TokenKind::word_for)) {
            const Token name = expect(TokenKind::name);
            expect(TokenKind::word_in);
            NodePtr list = expression();
            return make_node(For{name.text, std::move(list), block()}, start);
        }
        if (accept(TokenKind::word_return)) {
            NodePtr value = here().kind == TokenKind::semicolon ? nullptr : expression();
            expect(TokenKind::semicolon);
            return make_node(Return{std::move(value)}, start);
        }
        if (here().kind == TokenKind::left_brace) return block();
        NodePtr value = expression();
        // The last expression of a program may stand without its semicolon: it is the program's result.
        if (here().kind != TokenKind::end) expect(TokenKind::semicolon);
        return make_node(ExpressionStatement{std::move(value)}, start);
    }

    NodePtr block() {
        const Position start = expect(TokenKind::left_brace).position;
        Block block;
        while (here().kind != TokenKind::right_brace) {
            if (here().kind == TokenKind::end) expect(TokenKind::right_brace);
            block.statements.push_back(statement());
        }
        at_++;
        return make_node(std::move(block), start);
    }

    NodePtr function(Position start) {
        Function function;
        function.name = expect(TokenKind::name).text;
        expect(TokenKind::left_paren);
        if (!accept(TokenKind::right_paren)) {
            do {
                function.parameters.push_back(expect(TokenKind::name).text);
            } while (accept(TokenKind::comma));
            expect(TokenKind::right_paren);
        }
        function.body = block();
        return make_node(std::move(function), start);
    }

    NodePtr conditional(Position start) {
        const Deeper deeper(*this);
        NodePtr condition = expression();
        NodePtr then = block();
        NodePtr otherwise;
        if (accept(TokenKind::word_else)) {
            const Position at = here().position;
            otherwise = accept(TokenKind::word_if) ? conditional(at) : block();
        }
        return make_node(If{std::move(condition), std::move(then), std::move(otherwise)}, start);
    }

    NodePtr expression() {
        const Deeper deeper(*this);
        const Position start = here().position;
        NodePtr target = disjunction();
        if (!accept(TokenKind::assign)) return target;
        NodePtr value = expression();
        if (auto* name = std::get_if<Name>(&target->held)) return make_node(Assign{name->name, std::move(value)}, start);
        if (auto* index = std::get_if<Index>(&target->held)) {
            return make_node(AssignIndex{std::move(index->target), std::move(index->index), std::move(value)}, start);
        }
        throw SourceError("this cannot be assigned to", start);
    }

    NodePtr disjunction() {
        NodePtr left = conjunction();
        while (here().kind == TokenKind::word_or) {
            const Position at = tokens_[at_++].position;
            NodePtr right = conjunction();
            left = make_node(Logical{false, std::move(left), std::move(right)}, at);
        }
        return left;
    }

    NodePtr conjunction() {
        NodePtr left = binary(0);
        while (here().kind == TokenKind::word_and) {
            const Position at = tokens_[at_++].position;
            NodePtr right = binary(0);
            left = make_node(Logical{true, std::move(left), std::move(right)}, at);
        }
        return left;
    }

    static int strength(TokenKind kind) {
        switch (kind) {
            case TokenKind::equal: case TokenKind::not_equal: return 1;
            case TokenKind::less: case TokenKind::less_equal:
            case TokenKind::greater: case TokenKind::greater_equal: return 2;
            case TokenKind::plus: case TokenKind::minus: return 3;
            case TokenKind::star: case TokenKind::slash: case TokenKind::percent: return 4;
            default: return 0;
        }
    }

    NodePtr binary(int weakest) {
        NodePtr left = unary();
        while (strength(here().kind) > weakest) {
            const Token sign = tokens_[at_++];
            NodePtr right = binary(strength(sign.kind));
            left = make_node(Binary{sign.kind, std::move(left), std::move(right)}, sign.position);
        }
        return left;
    }

    NodePtr unary() {
        const Deeper deeper(*this);
        const Token sign = here();
        if (accept(TokenKind::minus) || accept(TokenKind::bang)) return make_node(Unary{sign.kind, unary()}, sign.position);
        return postfix();
    }

    Nodes items(TokenKind closing) {
        Nodes result;
        if (accept(closing)) return result;
        do {
            result.push_back(expression());
        } while (accept(TokenKind::comma));
        expect(closing);
        return result;
    }

    NodePtr postfix() {
        NodePtr result = primary();
        for (;;) {
            const Position at = here().position;
            if (accept(TokenKind::left_paren)) {
                result = make_node(Call{std::move(result), items(TokenKind::right_paren)}, at);
            } else if (accept(TokenKind::left_bracket)) {
                NodePtr index = expression();
                expect(TokenKind::right_bracket);
                result = make_node(Index{std::move(result), std::move(index)}, at);
            } else {
                return result;
            }
        }
    }

    NodePtr primary() {
        const Token token = tokens_[at_];
        if (token.kind != TokenKind::end) at_++;
        switch (token.kind) {
            case TokenKind::number: return make_node(Literal{token.number}, token.position);
            case TokenKind::text: return make_node(Literal{token.text}, token.position);
            case TokenKind::word_true: return make_node(Literal{true}, token.position);
            case TokenKind::word_false: return make_node(Literal{false}, token.position);
            case TokenKind::word_nothing: return make_node(Literal{nullptr}, token.position);
            case TokenKind::name: return make_node(Name{token.text}, token.position);
            case TokenKind::left_bracket: return make_node(ListLiteral{items(TokenKind::right_bracket)}, token.position);
            case TokenKind::left_brace: return map(token.position);
            case TokenKind::left_paren: {
                NodePtr inner = expression();
                expect(TokenKind::right_paren);
                return inner;
            }
            default:
                throw SourceError("expected an expression, found " + std::string(name_of(token.kind)), token.position);
        }
    }

    NodePtr map(Position start) {
        MapLiteral map;
        if (!accept(TokenKind::right_brace)) {
            do {
                NodePtr key = expression();
                expect(TokenKind::colon);
                map.members.emplace_back(std::move(key), expression());
            } while (accept(TokenKind::comma));
            expect(TokenKind::right_brace);
        }
        return make_node(std::move(map), start);
    }
};

}  // namespace

NodePtr parse(std::string_view source) { return Parser(lex(source)).program(); }

}  // namespace tally

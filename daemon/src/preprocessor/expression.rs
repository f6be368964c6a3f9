//! The value of an `#if` expression (C17 6.10.1, C++17 19.1).
//! Knows nothing of macros: its tokens come expanded.

use crate::preprocessor::Language;
use crate::preprocessor::ScanError;
use crate::preprocessor::expand::Expansion;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::token::Kind;
use crate::preprocessor::token::Token;

/// How deep parentheses, unary operators and `?:` may nest; each level is a recursion.
const DEEPEST: u32 = 200;

/// A number of type `intmax_t` or `uintmax_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Value {
    bits: u64,
    unsigned: bool,
}

impl Value {
    fn signed(value: i64) -> Value {
        Value { bits: value.cast_unsigned(), unsigned: false }
    }

    fn of(truth: bool) -> Value {
        Value::signed(i64::from(truth))
    }

    fn is_true(self) -> bool {
        self.bits != 0
    }

    fn as_signed(self) -> i64 {
        self.bits.cast_signed()
    }
}

/// Whether the expression is true.
pub(super) fn evaluate(expansion: Expansion<'_, '_>) -> Result<bool, ScanError> {
    Ok(value(expansion)?.is_true())
}

fn value(expansion: Expansion<'_, '_>) -> Result<Value, ScanError> {
    let mut parser = Parser { expansion, peeked: None, depth: 0 };
    let value = parser.expression()?;
    match parser.peek()? {
        None => Ok(value),
        Some(token) => Err(syntax(format!("`{}` after the expression", token.text.display()))),
    }
}

struct Parser<'r, 'a> {
    expansion: Expansion<'r, 'a>,
    /// The next token, once it was looked at (None inside: the end).
    peeked: Option<Option<Token>>,
    depth: u32,
}

fn syntax(what: impl Into<String>) -> ScanError {
    ScanError::not_sure("#if expression", what)
}

impl Parser<'_, '_> {
    fn peek(&mut self) -> Result<Option<Token>, ScanError> {
        match self.peeked {
            Some(token) => Ok(token),
            None => {
                let token = self.expansion.next()?;
                self.peeked = Some(token);
                Ok(token)
            }
        }
    }

    fn next(&mut self) -> Result<Option<Token>, ScanError> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.expansion.next(),
        }
    }

    /// The operator that comes next; C++ has words for some.
    fn peek_operator(&mut self) -> Result<Option<Symbol>, ScanError> {
        let Some(token) = self.peek()? else { return Ok(None) };
        Ok(match token.kind {
            Kind::Punctuator => Some(token.text),
            Kind::Identifier => Some(self.word_operator(token.text).unwrap_or(token.text)),
            _ => Some(token.text),
        })
    }

    fn word_operator(&self, word: Symbol) -> Option<Symbol> {
        let unit = self.expansion.replay.unit;
        if !unit.language.is_cxx() || unit.lexing.no_operator_names {
            return None;
        }
        Some(match word {
            Symbol::WORD_AND => Symbol::AND_AND,
            Symbol::WORD_OR => Symbol::OR_OR,
            Symbol::WORD_NOT => Symbol::NOT,
            Symbol::WORD_BITAND => Symbol::AND,
            Symbol::WORD_BITOR => Symbol::OR,
            Symbol::WORD_XOR => Symbol::XOR,
            Symbol::WORD_COMPL => Symbol::COMPLEMENT,
            Symbol::WORD_NOT_EQ => Symbol::NOT_EQUAL,
            _ => return None,
        })
    }

    /// Runs `parse` one level deeper.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, ScanError>) -> Result<T, ScanError> {
        if self.depth == DEEPEST {
            return Err(syntax("nested too deeply"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Runs `parse` on an operand whose value does not count unless `evaluated`.
    fn operand(
        &mut self,
        evaluated: bool,
        parse: impl FnOnce(&mut Self) -> Result<Value, ScanError>,
    ) -> Result<Value, ScanError> {
        let skip = u32::from(!evaluated);
        self.expansion.unevaluated += skip;
        let value = parse(self);
        self.expansion.unevaluated -= skip;
        value
    }

    fn expression(&mut self) -> Result<Value, ScanError> {
        let mut value = self.conditional()?;
        // Both compilers accept a comma, some with a warning.
        while self.peek_operator()? == Some(Symbol::COMMA) {
            self.next()?;
            value = self.conditional()?;
        }
        Ok(value)
    }

    fn conditional(&mut self) -> Result<Value, ScanError> {
        let condition = self.binary(1)?;
        if self.peek_operator()? != Some(Symbol::QUESTION) {
            return Ok(condition);
        }
        self.next()?;
        let yes = self.operand(condition.is_true(), |parser| parser.deeper(Self::expression))?;
        if self.peek_operator()? != Some(Symbol::COLON) {
            return Err(syntax("`?` without `:`"));
        }
        self.next()?;
        let no = self.operand(!condition.is_true(), |parser| parser.deeper(Self::conditional))?;
        // C17 6.5.15 p5: the usual arithmetic conversions apply to both.
        let chosen = if condition.is_true() { yes } else { no };
        Ok(Value { bits: chosen.bits, unsigned: yes.unsigned || no.unsigned })
    }

    /// Binary operators of at least `lowest` precedence; all associate to the left.
    fn binary(&mut self, lowest: u32) -> Result<Value, ScanError> {
        let mut left = self.unary()?;
        while let Some(operator) = self.peek_operator()?
            && let Some(precedence) = precedence(operator)
            && precedence >= lowest
        {
            self.next()?;
            left = match operator {
                Symbol::AND_AND => {
                    let right = self.operand(left.is_true(), |parser| parser.binary(precedence + 1))?;
                    Value::of(left.is_true() && right.is_true())
                }
                Symbol::OR_OR => {
                    let right = self.operand(!left.is_true(), |parser| parser.binary(precedence + 1))?;
                    Value::of(left.is_true() || right.is_true())
                }
                _ => {
                    let right = self.binary(precedence + 1)?;
                    self.apply(operator, left, right)?
                }
            };
        }
        Ok(left)
    }

    fn apply(&self, operator: Symbol, left: Value, right: Value) -> Result<Value, ScanError> {
        // C17 6.3.1.8: if one is unsigned, both are.
        let unsigned = left.unsigned || right.unsigned;
        let arithmetic = |bits| Ok(Value { bits, unsigned });
        let (a, b) = (left.bits, right.bits);
        let less =
            |a: Value, b: Value| if unsigned { a.bits < b.bits } else { a.as_signed() < b.as_signed() };
        match operator {
            Symbol::PLUS => arithmetic(a.wrapping_add(b)),
            Symbol::MINUS => arithmetic(a.wrapping_sub(b)),
            Symbol::STAR => arithmetic(a.wrapping_mul(b)),
            Symbol::AND => arithmetic(a & b),
            Symbol::OR => arithmetic(a | b),
            Symbol::XOR => arithmetic(a ^ b),
            Symbol::EQUAL => Ok(Value::of(a == b)),
            Symbol::NOT_EQUAL => Ok(Value::of(a != b)),
            Symbol::LESS => Ok(Value::of(less(left, right))),
            Symbol::GREATER => Ok(Value::of(less(right, left))),
            Symbol::LESS_EQUAL => Ok(Value::of(!less(right, left))),
            Symbol::GREATER_EQUAL => Ok(Value::of(!less(left, right))),
            Symbol::SHIFT_LEFT | Symbol::SHIFT_RIGHT => self.shift(operator, left, right),
            Symbol::SLASH | Symbol::PERCENT => {
                if b == 0 {
                    if self.expansion.unevaluated > 0 {
                        return arithmetic(0);
                    }
                    return Err(syntax("division by zero"));
                }
                let quotient = operator == Symbol::SLASH;
                arithmetic(match (unsigned, quotient) {
                    (true, true) => a / b,
                    (true, false) => a % b,
                    (false, true) => left.as_signed().wrapping_div(right.as_signed()).cast_unsigned(),
                    (false, false) => left.as_signed().wrapping_rem(right.as_signed()).cast_unsigned(),
                })
            }
            _ => Err(syntax(format!("operator `{}`", operator.display()))),
        }
    }

    /// The result has the type of the left operand (C17 6.5.7 p3).
    fn shift(&self, operator: Symbol, left: Value, right: Value) -> Result<Value, ScanError> {
        let count = match u32::try_from(right.bits) {
            Ok(count) if count < 64 => count,
            _ if self.expansion.unevaluated > 0 => 0,
            // Undefined (C17 6.5.7 p3), and the compilers differ.
            _ => return Err(syntax("shift by 64 or more, or by less than zero")),
        };
        let bits = match (operator == Symbol::SHIFT_LEFT, left.unsigned) {
            (true, _) => left.bits << count,
            (false, true) => left.bits >> count,
            (false, false) => (left.as_signed() >> count).cast_unsigned(),
        };
        Ok(Value { bits, unsigned: left.unsigned })
    }

    fn unary(&mut self) -> Result<Value, ScanError> {
        let Some(token) = self.next()? else { return Err(syntax("operand missing")) };
        match token.kind {
            Kind::Number => number(token.text),
            Kind::Character => self.character(token.text),
            Kind::Identifier => match self.word_operator(token.text) {
                Some(operator) => self.unary_operator(operator),
                None => self.identifier(token),
            },
            Kind::Punctuator => self.unary_operator(token.text),
            _ => Err(syntax(format!("`{}`", token.text.display()))),
        }
    }

    fn unary_operator(&mut self, operator: Symbol) -> Result<Value, ScanError> {
        if operator == Symbol::OPEN {
            let value = self.deeper(Self::expression)?;
            return match self.next()? {
                Some(close) if close.is(Symbol::CLOSE) => Ok(value),
                _ => Err(syntax("`(` without `)`")),
            };
        }
        if !matches!(operator, Symbol::PLUS | Symbol::MINUS | Symbol::NOT | Symbol::COMPLEMENT) {
            return Err(syntax(format!("`{}`", operator.display())));
        }
        let value = self.deeper(Self::unary)?;
        Ok(match operator {
            Symbol::MINUS => Value { bits: value.bits.wrapping_neg(), ..value },
            Symbol::COMPLEMENT => Value { bits: !value.bits, ..value },
            Symbol::NOT => Value::of(!value.is_true()),
            _ => value,
        })
    }

    fn identifier(&mut self, token: Token) -> Result<Value, ScanError> {
        match token.text {
            Symbol::DEFINED => self.defined(),
            Symbol::TRUE | Symbol::FALSE => {
                let replay = &mut *self.expansion.replay;
                replay.looked_elsewhere();
                let truth = match replay.unit.language {
                    Language::Cxx | Language::ObjectiveCxx => token.text == Symbol::TRUE,
                    // C23 made them keywords; compilers that implement drafts of it differ.
                    Language::C | Language::ObjectiveC
                        if token.text == Symbol::TRUE && replay.is_after_c17() =>
                    {
                        replay.ask("true".to_owned(), 1) != 0
                    }
                    _ => false,
                };
                Ok(Value::of(truth))
            }
            // C17 6.10.1 p4: what is left of identifiers is 0.
            _ => Ok(Value::of(false)),
        }
    }

    /// The operand of `defined` is not expanded.
    fn defined(&mut self) -> Result<Value, ScanError> {
        let malformed = || syntax("malformed `defined`");
        let token = self.expansion.next_unexpanded()?.ok_or_else(malformed)?;
        let parenthesised = token.is(Symbol::OPEN);
        let name =
            if parenthesised { self.expansion.next_unexpanded()?.ok_or_else(malformed)? } else { token };
        if name.kind != Kind::Identifier {
            return Err(malformed());
        }
        if parenthesised && !self.expansion.next_unexpanded()?.is_some_and(|close| close.is(Symbol::CLOSE)) {
            return Err(malformed());
        }
        Ok(Value::of(self.expansion.replay.is_defined(name.text)))
    }

    /// C17 6.4.4.4, for ASCII: what other characters are worth depends on the execution character set.
    fn character(&mut self, text: Symbol) -> Result<Value, ScanError> {
        let malformed = || syntax(format!("character constant {}", text.display()));
        let text = text.text();
        let quote = text.iter().position(|&byte| byte == b'\'').ok_or_else(malformed)?;
        let (prefix, quoted) = text.split_at(quote);
        let mut rest =
            quoted.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'")).ok_or_else(malformed)?;
        let mut characters = Vec::new();
        while !rest.is_empty() {
            let (value, after) = character_value(rest).ok_or_else(malformed)?;
            characters.push(value);
            rest = after;
        }
        let mut defined = |name| self.expansion.replay.macro_of(name).is_some();
        match (prefix, &characters[..]) {
            (b"", &[value]) if value <= 0x7f => Ok(Value::signed(i64::from(value))),
            (b"", &[value]) if value <= 0xff => {
                // GCC and Clang: a `char`, so negative where that is signed.
                let sign = if defined(Symbol::CHAR_UNSIGNED) { 0 } else { 0x100 };
                Ok(Value::signed(i64::from(value) - sign))
            }
            // Both put the first character into the highest byte.
            (b"", values @ [_, _] | values @ [_, _, _] | values @ [_, _, _, _])
                if values.iter().all(|&value| value <= 0x7f) =>
            {
                Ok(Value::signed(values.iter().fold(0, |sum, &value| sum << 8 | i64::from(value))))
            }
            (b"L", &[value]) if value <= 0x7f && !defined(Symbol::WCHAR_UNSIGNED) => {
                Ok(Value::signed(i64::from(value)))
            }
            (b"u" | b"U", &[value]) if value <= 0x7f => Ok(Value { bits: u64::from(value), unsigned: true }),
            // Whether `char8_t` is signed depends on the standard: only its comparison with a negative shows it.
            (b"u8", &[value]) if value <= 0x7f => Ok(Value::signed(i64::from(value))),
            _ => Err(malformed()),
        }
    }
}

fn precedence(operator: Symbol) -> Option<u32> {
    Some(match operator {
        Symbol::OR_OR => 1,
        Symbol::AND_AND => 2,
        Symbol::OR => 3,
        Symbol::XOR => 4,
        Symbol::AND => 5,
        Symbol::EQUAL | Symbol::NOT_EQUAL => 6,
        Symbol::LESS | Symbol::GREATER | Symbol::LESS_EQUAL | Symbol::GREATER_EQUAL => 7,
        Symbol::SHIFT_LEFT | Symbol::SHIFT_RIGHT => 8,
        Symbol::PLUS | Symbol::MINUS => 9,
        Symbol::STAR | Symbol::SLASH | Symbol::PERCENT => 10,
        _ => return None,
    })
}

/// An integer constant (C17 6.4.4.1, C23's `0b` and separators, C++23's `z`).
fn number(symbol: Symbol) -> Result<Value, ScanError> {
    let malformed = || syntax(format!("number {}", symbol.display()));
    let text: Vec<u8> = symbol.text().iter().copied().filter(|&byte| byte != b'\'').collect();
    let (base, digits) = match &text[..] {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', b'b' | b'B', rest @ ..] => (2, rest),
        [b'0', ..] => (8, &text[..]),
        _ => (10, &text[..]),
    };
    let length = digits.iter().take_while(|&&byte| char::from(byte).is_digit(base)).count();
    let (digits, suffix) = digits.split_at(length);
    if digits.is_empty() {
        return Err(malformed());
    }
    let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
    // What does not fit 64 bits is cut by some compilers and refused by others.
    let bits = u64::from_str_radix(digits, base).map_err(|_| malformed())?;
    let unsigned = match &suffix.to_ascii_lowercase()[..] {
        b"" | b"l" | b"z" => false,
        b"ll" if suffix == b"ll" || suffix == b"LL" => false,
        b"u" | b"ul" | b"lu" | b"uz" | b"zu" => true,
        b"ull" | b"llu" if suffix.windows(2).any(|pair| pair == b"ll" || pair == b"LL") => true,
        _ => return Err(malformed()),
    };
    // Both compilers take a decimal constant beyond `intmax_t` as unsigned, with a warning.
    Ok(Value { bits, unsigned: unsigned || bits > i64::MAX.cast_unsigned() })
}

/// The first character of `text`, and what follows it.
fn character_value(text: &[u8]) -> Option<(u32, &[u8])> {
    let (&first, rest) = text.split_first()?;
    if first != b'\\' {
        return (first < 0x80).then_some((u32::from(first), rest));
    }
    let (&escape, rest) = rest.split_first()?;
    let simple = |value| Some((value, rest));
    match escape {
        b'n' => simple(10),
        b't' => simple(9),
        b'r' => simple(13),
        b'a' => simple(7),
        b'b' => simple(8),
        b'f' => simple(12),
        b'v' => simple(11),
        // GNU.
        b'e' | b'E' => simple(27),
        b'\\' | b'\'' | b'"' | b'?' => simple(u32::from(escape)),
        b'0'..=b'7' => {
            let text = &text[1..];
            let length = text.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            digits(text, length, 8)
        }
        b'x' => {
            let length = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            digits(rest, length, 16)
        }
        _ => None,
    }
}

fn digits(text: &[u8], length: usize, base: u32) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at(length);
    let value = u32::from_str_radix(std::str::from_utf8(digits).ok()?, base).ok()?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use lang_c::ast;
    use lang_c::driver::Config;
    use lang_c::driver::parse_preprocessed;

    use super::*;
    use crate::preprocessor::MemorySources;
    use crate::preprocessor::replay::Replay;
    use crate::preprocessor::tests::Random;
    use crate::preprocessor::tests::unit;
    use crate::preprocessor::token::HeaderNames;
    use crate::preprocessor::token::lex_line;

    fn ours(language: Language, text: &str) -> Result<Value, ScanError> {
        let unit = unit(language);
        let sources = MemorySources::default();
        let mut replay = Replay::new(&unit, &sources);
        let mut tokens = Vec::new();
        lex_line(text.as_bytes(), replay.dialect, HeaderNames::AfterHasInclude, &mut tokens);
        value(Expansion::new(&mut replay, &tokens))
    }

    #[test]
    fn values() {
        let i = |value| Value { bits: i64::cast_unsigned(value), unsigned: false };
        let u = |bits| Value { bits, unsigned: true };
        for (text, expected) in [
            ("1 + 2 * 3", i(7)),
            ("-1 / 2", i(0)),
            ("-7 % 3", i(-1)),
            ("-1 > 0u", i(1)),
            ("1 ? -1 : 0u", u(u64::MAX)),
            ("0 ? 1 / 0 : 5", i(5)),
            ("0 && 1 / 0", i(0)),
            ("1 || 1 % 0", i(1)),
            ("~0u", u(u64::MAX)),
            ("0xffffffffffffffff", u(u64::MAX)),
            ("9223372036854775807 + 1 < 0", i(1)),
            ("18446744073709551615", u(u64::MAX)),
            ("-9223372036854775807 - 1 == (-9223372036854775807 - 1) / -1", i(1)),
            ("1 - 2 - 3", i(-4)),
            ("1 << 2 + 1", i(8)),
            ("'a' == 97 && '\\n' == 10 && '\\x41' == 'A' && '\\101' == 65", i(1)),
            ("'\\377' < 0", i(1)),
            ("'ab'", i(0x6162)),
            ("L'a' == u'a'", i(1)),
            ("0b101", i(5)),
            ("1 ? 2 : 3 ? 4 : 5", i(2)),
            ("(2, 3)", i(3)),
            ("anything", i(0)),
            ("!!7", i(1)),
            ("201703L >= 201402L", i(1)),
        ] {
            assert_eq!(ours(Language::C, text).unwrap(), expected, "{text}");
        }
        assert_eq!(ours(Language::Cxx, "1'000 and not false bitor 2").unwrap(), i(1));
    }

    #[test]
    fn what_compilers_reject_is_not_sure() {
        for text in [
            "",
            "1 +",
            "(1",
            "1)",
            "1 2",
            "1 / 0",
            "1.0",
            "1e5",
            "1_km",
            "0x",
            "09",
            "\"a\"",
            "''",
            "'abcde'",
            "defined",
            "defined(",
            "defined(A",
            "defined 1",
            "a(1)",
            "1 ? 2",
            "1 << 64",
            "1 >> -1",
            "= 1",
            "#cpu(x)",
            "99999999999999999999",
            "1lL",
            "a = 1",
            "'\\xfff'",
            "u8'\u{e4}'",
            "@",
        ] {
            let error = ours(Language::C, text).unwrap_err();
            assert!(matches!(error, ScanError::NotSure(_)), "{text}: {error}");
        }
    }

    #[test]
    fn deep_nesting_ends() {
        for text in ["(", "!", "-", "~ ", "1?", "1?1:", "1+(", "1&&!("] {
            let error = ours(Language::C, &text.repeat(100_000)).unwrap_err();
            assert!(matches!(error, ScanError::NotSure(_)), "{text}");
        }
        let flat = vec!["1"; 100_000].join(" + ");
        assert_eq!(ours(Language::C, &flat).unwrap().bits, 100_000);
    }

    /// C integer arithmetic again, independently: exact in 128 bits, then cut to 64.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Exact {
        number: i128,
        unsigned: bool,
    }

    fn cut(number: i128, unsigned: bool) -> Exact {
        let modulus = 1i128 << 64;
        let mut number = number.rem_euclid(modulus);
        if !unsigned && number >= modulus / 2 {
            number -= modulus;
        }
        Exact { number, unsigned }
    }

    /// None: undefined, or refused.
    fn exact(node: &ast::Expression) -> Option<Exact> {
        use ast::BinaryOperator as B;
        match node {
            ast::Expression::Identifier(_) => Some(cut(0, false)),
            ast::Expression::Constant(constant) => match &constant.node {
                ast::Constant::Integer(integer) => {
                    let base = match integer.base {
                        ast::IntegerBase::Decimal => 10,
                        ast::IntegerBase::Octal => 8,
                        ast::IntegerBase::Hexadecimal => 16,
                        ast::IntegerBase::Binary => 2,
                    };
                    let number = i128::from_str_radix(&integer.number, base).ok()?;
                    Some(cut(number, integer.suffix.unsigned || number >= 1 << 63))
                }
                ast::Constant::Character(text) => Some(cut(i128::from(text.as_bytes()[1]), false)),
                ast::Constant::Float(_) => None,
            },
            ast::Expression::UnaryOperator(unary) => {
                let value = exact(&unary.node.operand.node)?;
                Some(match unary.node.operator.node {
                    ast::UnaryOperator::Plus => value,
                    ast::UnaryOperator::Minus => cut(-value.number, value.unsigned),
                    ast::UnaryOperator::Complement => cut(-value.number - 1, value.unsigned),
                    ast::UnaryOperator::Negate => cut(i128::from(value.number == 0), false),
                    _ => return None,
                })
            }
            ast::Expression::Conditional(conditional) => {
                let condition = exact(&conditional.node.condition.node)?;
                let (chosen, other) = if condition.number != 0 {
                    (&conditional.node.then_expression.node, &conditional.node.else_expression.node)
                } else {
                    (&conditional.node.else_expression.node, &conditional.node.then_expression.node)
                };
                let chosen = exact(chosen)?;
                Some(cut(chosen.number, chosen.unsigned || is_unsigned(other)))
            }
            ast::Expression::BinaryOperator(binary) => {
                let left = exact(&binary.node.lhs.node)?;
                match binary.node.operator.node {
                    B::LogicalAnd if left.number == 0 => return Some(cut(0, false)),
                    B::LogicalOr if left.number != 0 => return Some(cut(1, false)),
                    _ => {}
                }
                let right = exact(&binary.node.rhs.node)?;
                let unsigned = left.unsigned || right.unsigned;
                let (a, b) = (cut(left.number, unsigned).number, cut(right.number, unsigned).number);
                let truth = |truth: bool| Some(cut(i128::from(truth), false));
                let arithmetic = |number: i128| Some(cut(number, unsigned));
                match binary.node.operator.node {
                    B::Multiply => arithmetic(a.wrapping_mul(b)),
                    B::Divide => arithmetic(a.checked_div(b)?),
                    B::Modulo => arithmetic(a.checked_rem(b)?),
                    B::Plus => arithmetic(a + b),
                    B::Minus => arithmetic(a - b),
                    B::BitwiseAnd => arithmetic(a & b),
                    B::BitwiseOr => arithmetic(a | b),
                    B::BitwiseXor => arithmetic(a ^ b),
                    B::Less => truth(a < b),
                    B::Greater => truth(a > b),
                    B::LessOrEqual => truth(a <= b),
                    B::GreaterOrEqual => truth(a >= b),
                    B::Equals => truth(a == b),
                    B::NotEquals => truth(a != b),
                    B::LogicalAnd | B::LogicalOr => truth(right.number != 0),
                    B::ShiftLeft | B::ShiftRight if !(0..64).contains(&right.number) => None,
                    B::ShiftLeft => Some(cut(
                        (left.number.rem_euclid(1 << 64) << right.number) % (1 << 64),
                        left.unsigned,
                    )),
                    B::ShiftRight => Some(cut(left.number >> right.number, left.unsigned)),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The expression as lang-c reads it.
    fn parse(text: &str) -> ast::Expression {
        let source = format!("int x = {text};");
        let mut unit = parse_preprocessed(&Config::with_gcc(), source).unwrap().unit;
        let ast::ExternalDeclaration::Declaration(declaration) = unit.0.remove(0).node else {
            panic!("{text}")
        };
        let initializer = declaration.node.declarators[0].node.initializer.clone().unwrap().node;
        let ast::Initializer::Expression(expression) = initializer else { panic!("{text}") };
        expression.node
    }

    /// The type of an operand that is not evaluated.
    fn is_unsigned(node: &ast::Expression) -> bool {
        use ast::BinaryOperator as B;
        match node {
            ast::Expression::UnaryOperator(unary) => {
                unary.node.operator.node != ast::UnaryOperator::Negate
                    && is_unsigned(&unary.node.operand.node)
            }
            ast::Expression::Conditional(conditional) => {
                is_unsigned(&conditional.node.then_expression.node)
                    || is_unsigned(&conditional.node.else_expression.node)
            }
            ast::Expression::BinaryOperator(binary) => match binary.node.operator.node {
                B::ShiftLeft | B::ShiftRight => is_unsigned(&binary.node.lhs.node),
                B::Multiply
                | B::Divide
                | B::Modulo
                | B::Plus
                | B::Minus
                | B::BitwiseAnd
                | B::BitwiseOr
                | B::BitwiseXor => is_unsigned(&binary.node.lhs.node) || is_unsigned(&binary.node.rhs.node),
                _ => false,
            },
            constant => exact(constant).is_some_and(|value| value.unsigned),
        }
    }

    const OPERATORS: &[&str] =
        &["*", "/", "%", "+", "-", "<<", ">>", "<", ">", "<=", ">=", "==", "!=", "&", "^", "|", "&&", "||"];
    const OPERANDS: &[&str] = &[
        "0",
        "1",
        "2",
        "3",
        "7",
        "0u",
        "1u",
        "63",
        "64",
        "0x7fffffffffffffff",
        "0xffffffffffffffff",
        "010",
        "0b11",
        "9223372036854775807",
        "5UL",
        "6ll",
        "'a'",
        "'0'",
        "name",
        "201703L",
        "4294967296",
    ];

    fn generate(random: &mut Random, depth: u32, out: &mut String) {
        match if depth == 0 { 0 } else { random.below(10) } {
            0 | 1 => out.push_str(random.pick(OPERANDS)),
            2 | 3 => {
                out.push_str(random.pick(&["- ", "+ ", "~", "!"]));
                generate(random, depth - 1, out);
            }
            4 | 5 => {
                out.push('(');
                generate(random, depth - 1, out);
                out.push(')');
            }
            6 => {
                out.push('(');
                generate(random, depth - 1, out);
                out.push_str(" ? ");
                generate(random, depth - 1, out);
                out.push_str(" : ");
                generate(random, depth - 1, out);
                out.push(')');
            }
            _ => {
                generate(random, depth - 1, out);
                out.push(' ');
                out.push_str(random.pick(OPERATORS));
                out.push(' ');
                generate(random, depth - 1, out);
            }
        }
    }

    #[test]
    fn agrees_with_lang_c() {
        let mut random = Random::new(7);
        let (mut defined, mut undefined) = (0, 0);
        for _ in 0..20_000 {
            let mut text = String::new();
            generate(&mut random, 5, &mut text);
            match (exact(&parse(&text)), ours(Language::C, &text)) {
                (Some(exact), Ok(value)) => {
                    let number =
                        if value.unsigned { i128::from(value.bits) } else { value.as_signed().into() };
                    assert_eq!(exact, Exact { number, unsigned: value.unsigned }, "{text}");
                    defined += 1;
                }
                (None, Err(ScanError::NotSure(_))) => undefined += 1,
                (exact, value) => panic!("{text}: {exact:?} {value:?}"),
            }
        }
        assert!(defined > 5_000 && undefined > 100, "{defined} {undefined}");
    }
}

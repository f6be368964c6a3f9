//! Preprocessing tokens, and the lexing of one logical line into them.
//! Knows nothing of comments, splices or trigraphs: the line comes without them.

use crate::preprocessor::Dialect;
use crate::preprocessor::symbol::Symbol;

/// What a token is (C17 6.4, "preprocessing-token").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Identifier,
    Number,
    Character,
    String,
    /// `<…>` directly after `#include` or `__has_include(`; the text is without the brackets.
    HeaderName,
    Punctuator,
    /// Any other single character, an unpaired quote with the rest of its line included.
    Other,
    /// In a macro body: the parameter whose index is `text.number()`.
    Parameter,
}

/// One token, eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) text: Symbol,
}

impl Token {
    /// White space stands before it.
    pub(super) const SPACE: u8 = 1;
    /// In a macro body: `##` follows.
    pub(super) const PASTE: u8 = 2;
    /// In a macro body: `#` precedes this parameter.
    pub(super) const STRINGIFY: u8 = 4;
    /// An identifier that was met inside its own expansion (C17 6.10.3.4 p2): never expanded again.
    pub(super) const PAINTED: u8 = 8;

    pub(super) fn number(text: Symbol) -> Token {
        Token { kind: Kind::Number, flags: 0, text }
    }

    pub(super) fn is(self, text: Symbol) -> bool {
        self.kind == Kind::Punctuator && self.text == text
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The token's spelling, appended to `out`.
    pub(super) fn spell(self, out: &mut Vec<u8>) {
        match self.kind {
            Kind::HeaderName => {
                out.push(b'<');
                out.extend_from_slice(self.text.text());
                out.push(b'>');
            }
            _ => out.extend_from_slice(self.text.text()),
        }
    }
}

/// Whether `byte` can be part of an identifier. `$` is one in GNU C; bytes of UTF-8 sequences are taken as such.
pub(super) fn is_identifier_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Whether a string after `word` is a raw one, where the language has them (C++17 5.13.5).
pub(super) fn is_raw_prefix(word: &[u8]) -> bool {
    matches!(word, b"R" | b"LR" | b"uR" | b"UR" | b"u8R")
}

/// Where `<` opens a header name rather than being an operator.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderNames {
    Nowhere,
    /// `#include`: at the first token.
    First,
    /// `#if`: after `__has_include(` and its kin.
    AfterHasInclude,
}

/// Appends the tokens of `line` to `tokens`.
pub(super) fn lex_line(line: &[u8], dialect: Dialect, header_names: HeaderNames, tokens: &mut Vec<Token>) {
    let first = tokens.len();
    let mut at = 0;
    let mut space = 0;
    // Once no `>` is left, a line of nothing but `__has_include(<` is not searched again and again.
    let mut unclosed = false;
    while let Some(&byte) = line.get(at) {
        if is_blank(byte) {
            space = Token::SPACE;
            at += 1;
            continue;
        }
        let opens_header_name = byte == b'<'
            && !unclosed
            && match header_names {
                HeaderNames::Nowhere => false,
                HeaderNames::First => tokens.len() == first,
                HeaderNames::AfterHasInclude => follows_has_include(&tokens[first..]),
            };
        let closing = if opens_header_name { memchr::memchr(b'>', &line[at..]) } else { None };
        unclosed |= opens_header_name && closing.is_none();
        let (kind, text, end) = match closing {
            Some(length) => (Kind::HeaderName, Symbol::of(&line[at + 1..at + length]), at + length + 1),
            None => lex_token(line, at, dialect),
        };
        tokens.push(Token { kind, flags: space, text });
        space = 0;
        at = end;
    }
}

fn follows_has_include(tokens: &[Token]) -> bool {
    let [.., operator, open] = tokens else { return false };
    open.is(Symbol::OPEN)
        && [Symbol::HAS_INCLUDE, Symbol::HAS_INCLUDE_NEXT, Symbol::HAS_EMBED].contains(&operator.text)
}

/// White space within a line. A carriage return counts: GCC drops it before a newline and skips it elsewhere.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c | 0)
}

/// The token at `at`: kind, text and end. Always at least one byte long.
pub(super) fn lex_token(line: &[u8], at: usize, dialect: Dialect) -> (Kind, Symbol, usize) {
    let rest = &line[at..];
    let byte = rest[0];
    if byte.is_ascii_digit() || (byte == b'.' && rest.get(1).is_some_and(u8::is_ascii_digit)) {
        let length = number_length(rest, dialect);
        return (Kind::Number, Symbol::of(&rest[..length]), at + length);
    }
    if is_identifier_byte(byte) || byte == b'\\' && matches!(rest.get(1), Some(b'u' | b'U')) {
        let length = identifier_length(rest);
        let word = &rest[..length];
        if let Some(&quote @ (b'"' | b'\'')) = rest.get(length)
            && is_literal_prefix(word, quote, dialect)
        {
            return literal(line, at, length, dialect);
        }
        return (Kind::Identifier, Symbol::of(word), at + length);
    }
    if byte == b'"' || byte == b'\'' {
        return literal(line, at, 0, dialect);
    }
    let length = punctuator_length(rest, dialect);
    let (kind, text) = match &rest[..length] {
        b"%:" => (Kind::Punctuator, Symbol::HASH),
        b"%:%:" => (Kind::Punctuator, Symbol::HASH_HASH),
        b"@" | b"`" | b"\\" => (Kind::Other, Symbol::of(&rest[..length])),
        text => (Kind::Punctuator, Symbol::of(text)),
    };
    (kind, text, at + length)
}

fn identifier_length(rest: &[u8]) -> usize {
    let mut length = 0;
    while let Some(&byte) = rest.get(length) {
        // A universal character name may be part of an identifier.
        let is_universal = byte == b'\\' && matches!(rest.get(length + 1), Some(b'u' | b'U'));
        if !is_identifier_byte(byte) && !is_universal {
            break;
        }
        length += if is_universal { 2 } else { 1 };
    }
    length.min(rest.len())
}

/// C17 6.4.8, with C++14's digit separators.
fn number_length(rest: &[u8], dialect: Dialect) -> usize {
    let mut length = 1;
    while let Some(&byte) = rest.get(length) {
        let separator = byte == b'\''
            && dialect.digit_separators
            && rest.get(length + 1).is_some_and(|&next| next.is_ascii_alphanumeric() || next == b'_');
        let sign = matches!(byte, b'+' | b'-') && matches!(rest[length - 1], b'e' | b'E' | b'p' | b'P');
        if !(is_identifier_byte(byte) || byte == b'.' || separator || sign) {
            break;
        }
        length += 1;
    }
    length
}

/// Whether `word` before `quote` is part of a literal.
pub(super) fn is_literal_prefix(word: &[u8], quote: u8, dialect: Dialect) -> bool {
    match word {
        b"L" | b"u" | b"U" | b"u8" => word == b"L" || dialect.unicode_literals,
        b"R" | b"LR" | b"uR" | b"UR" | b"u8R" => quote == b'"' && dialect.raw_strings,
        _ => false,
    }
}

/// The literal at `at` whose prefix has `prefix` bytes.
fn literal(line: &[u8], at: usize, prefix: usize, dialect: Dialect) -> (Kind, Symbol, usize) {
    let quote_at = at + prefix;
    let quote = line[quote_at];
    let raw = dialect.raw_strings && line[at..quote_at].ends_with(b"R");
    let end = match raw_string(line, quote_at) {
        RawString::Closed(end) if raw => Some(end),
        RawString::Open if raw => None,
        _ => quoted_end(line, quote_at),
    };
    match end {
        Some(end) => {
            let kind = if quote == b'"' { Kind::String } else { Kind::Character };
            (kind, Symbol::of(&line[at..end]), end)
        }
        // GCC and Clang both take the rest of the line as part of the unpaired quote.
        None => (Kind::Other, Symbol::of(&line[at..]), line.len()),
    }
}

/// The end of the quoted literal that opens at `at`, if it closes on this line.
fn quoted_end(line: &[u8], at: usize) -> Option<usize> {
    let quote = line[at];
    let mut at = at + 1;
    loop {
        match *line.get(at)? {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// What stands at a quote after `R`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RawString {
    /// A raw string that ends before this position.
    Closed(usize),
    /// A raw string without end.
    Open,
    /// No raw string: what follows the quote is no delimiter.
    None,
}

/// The raw string whose quote is at `at` (C++17 5.13.5).
pub(super) fn raw_string(text: &[u8], at: usize) -> RawString {
    let rest = &text[at + 1..];
    let Some(length) = rest.iter().take(17).position(|&byte| byte == b'(') else { return RawString::None };
    let delimiter = &rest[..length];
    if delimiter.iter().any(|byte| matches!(byte, b' ' | b')' | b'\\' | b'\t' | 0x0b | 0x0c | b'\n' | b'"')) {
        return RawString::None;
    }
    let mut closing = Vec::with_capacity(length + 2);
    closing.push(b')');
    closing.extend_from_slice(delimiter);
    closing.push(b'"');
    let body = at + 1 + length + 1;
    match memchr::memmem::find(&text[body..], &closing) {
        Some(length) => RawString::Closed(body + length + closing.len()),
        None => RawString::Open,
    }
}

/// The longest punctuator at the start of `rest`; one for any other byte.
fn punctuator_length(rest: &[u8], dialect: Dialect) -> usize {
    const LONG: &[&[u8]] = &[
        b"<=>", b"<<=", b">>=", b"...", b"->*", b"##", b"<=", b">=", b"==", b"!=", b"<<", b">>", b"&&",
        b"||", b"++", b"--", b"->", b"::", b"+=", b"-=", b"*=", b"/=", b"%=", b"&=", b"|=", b"^=", b".*",
    ];
    if dialect.digraphs && rest[0] == b'%' {
        for digraph in [&b"%:%:"[..], b"%:"] {
            if rest.starts_with(digraph) {
                return digraph.len();
            }
        }
    }
    let Some(punctuator) = LONG.iter().find(|punctuator| rest.starts_with(punctuator)) else { return 1 };
    let is_cxx_only = matches!(*punctuator, b"<=>" | b"->*" | b".*" | b"::");
    match (is_cxx_only && !dialect.cxx, *punctuator) {
        (true, b"<=>" | b"->*") => 2,
        (true, _) => 1,
        (false, punctuator) => punctuator.len(),
    }
}

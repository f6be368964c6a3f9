//! Finds in a line what the assembler will read besides: `.incbin` and `.include`, in assembler text and in the
//! string literals of C.
//! Knows nothing of where the files are looked for.

use crate::preprocessor::Dialect;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::token::is_blank;
use crate::preprocessor::token::is_identifier_byte;
use crate::preprocessor::token::is_raw_prefix;

/// A file that a statement of the assembler reads (GNU as manual, "Incbin" and "Include").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AssemblerRead {
    /// `.incbin "name"`: its bytes.
    Binary(Symbol),
    /// `.include "name"`: assembler text, which may read further files.
    Include(Symbol),
    /// There is such a statement, but its operand is made elsewhere.
    Unclear,
}

const WORDS: [&[u8]; 2] = [b".incbin", b".include"];

/// The positions of `.incbin` and, where `includes`, `.include`, in any case, as the assembler takes them.
pub(super) fn positions(text: &[u8], includes: bool) -> Vec<usize> {
    let mut positions = Vec::new();
    for start in [&b".inc"[..], b".INC", b".Inc"] {
        positions.extend(memchr::memmem::find_iter(text, start));
    }
    positions.retain(|&at| word_at(text, at).is_some_and(|(word, _)| includes || word == WORDS[0]));
    positions.sort_unstable();
    positions
}

/// The word that stands at `at`, and its end. In C source, what comes before may be half of an escape sequence.
fn word_at(text: &[u8], at: usize) -> Option<(&'static [u8], usize)> {
    WORDS.into_iter().find_map(|word| {
        let end = at + word.len();
        let fits = text.get(at..end).is_some_and(|part| part.eq_ignore_ascii_case(word));
        (fits && !text.get(end).copied().is_some_and(is_identifier_byte)).then_some((word, end))
    })
}

/// Whether the name goes on before `at`: `x.incbin` is a member, `data.incbin` a file's name.
fn continues_name(text: &[u8], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| is_identifier_byte(text[before]))
}

/// What `line`, a logical line without comments and splices, makes the assembler read.
pub(super) fn reads(line: &[u8], dialect: Dialect, includes: bool) -> Vec<AssemblerRead> {
    let mut reads = Vec::new();
    if dialect.assembler {
        statements(line, includes, Around::Code, &mut reads);
        return reads;
    }
    let mut at = 0;
    while let Some(&byte) = line.get(at) {
        match byte {
            b'"' => at = literal(line, at, dialect, includes, &mut reads),
            b'\'' if continues_name(line, at) => at += 1,
            b'\'' => at = end_of_literal(line, at),
            b'.' if !continues_name(line, at) => {
                // Outside of a literal it can only get into one by `#` in a macro.
                let after = word_at(line, at)
                    .filter(|(word, _)| includes || *word == WORDS[0])
                    .and_then(|(_, end)| line[end..].iter().find(|&&byte| !is_blank(byte)));
                if after.is_some_and(|&byte| byte == b'"' || byte == b'#' || is_identifier_byte(byte)) {
                    reads.push(AssemblerRead::Unclear);
                }
                at += 1;
            }
            _ => at += 1,
        }
    }
    reads
}

/// Reads the string literal at `at`; the position after it.
fn literal(
    line: &[u8],
    at: usize,
    dialect: Dialect,
    includes: bool,
    reads: &mut Vec<AssemblerRead>,
) -> usize {
    let before = &line[..at];
    let length = before.iter().rev().take_while(|&&byte| is_identifier_byte(byte)).count();
    let is_raw = dialect.raw_strings && is_raw_prefix(&before[before.len() - length..]);
    let (content, end) = if is_raw {
        let Some((content, length)) = raw_content(&line[at + 1..]) else {
            // Unterminated: looking for the end of each that follows would take too long.
            reads.push(AssemblerRead::Unclear);
            return line.len();
        };
        (content.to_vec(), at + 1 + length)
    } else {
        let end = end_of_literal(line, at);
        (unescaped(&line[at + 1..end]), end)
    };
    // A literal beside it, or a macro that is one, goes on with the statement.
    let next = line[end..].iter().find(|&&byte| !is_blank(byte));
    let continues = next.is_none_or(|byte| !b",;:)]}=!?&|<>+-*.".contains(byte));
    let around = if continues { Around::Continued } else { Around::Ended };
    statements(&content, includes, around, reads);
    end
}

/// The content of a raw string whose quote has been read, and its length with the quote at its end.
fn raw_content(text: &[u8]) -> Option<(&[u8], usize)> {
    let open = text.iter().take(17).position(|&byte| byte == b'(')?;
    let end = [b")", &text[..open], b"\""].concat();
    let length = memchr::memmem::find(&text[open + 1..], &end)?;
    Some((&text[open + 1..open + 1 + length], open + 1 + length + end.len()))
}

/// The position after the literal that opens at `at`, or the end of the line.
fn end_of_literal(line: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&byte) = line.get(end) {
        end += 1;
        if byte == b'\\' {
            end += 1;
        } else if byte == line[at] {
            break;
        }
    }
    end.min(line.len())
}

/// What the rest of a literal, with the quote at its end, means (C17 6.4.4.4). A numeric escape stays as it is:
/// no operand with a backslash is taken for a name.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.strip_suffix(b"\"").unwrap_or(text).iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, if byte == b'\\' { bytes.next() } else { None }) {
            (_, Some(b'n')) => out.push(b'\n'),
            (_, Some(b't')) => out.push(b'\t'),
            (_, Some(plain @ (b'"' | b'\''))) => out.push(plain),
            (_, Some(other)) => out.extend([b'\\', other]),
            (_, None) => out.push(byte),
        }
    }
    out
}

/// What assembler text stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Around {
    /// The source itself: macros are still to be expanded.
    Code,
    /// A literal after which more text may come.
    Continued,
    /// A literal that is whole.
    Ended,
}

/// Collects what the assembler text reads.
fn statements(text: &[u8], includes: bool, around: Around, reads: &mut Vec<AssemblerRead>) {
    for at in positions(text, includes) {
        let Some((word, end)) = word_at(text, at).filter(|_| !continues_name(text, at)) else { continue };
        let rest = &text[end..];
        let blanks = rest.iter().take_while(|&&byte| is_blank(byte)).count();
        let rest = &rest[blanks..];
        match rest.first() {
            Some(b'"') => {
                let name = rest[1..].iter().position(|&byte| byte == b'"').map(|length| &rest[1..=length]);
                // Operands of `asm`, arguments of the assembler's macros, escapes.
                let is_plain = |name: &&[u8]| {
                    !name.is_empty() && !name.iter().any(|byte| b"\\%{|}&\n".contains(byte) || *byte == 0)
                };
                reads.push(match name.filter(is_plain) {
                    Some(name) if word == WORDS[0] => AssemblerRead::Binary(Symbol::of(name)),
                    Some(name) => AssemblerRead::Include(Symbol::of(name)),
                    None => AssemblerRead::Unclear,
                });
            }
            None if around == Around::Ended => {}
            // The assembler wants a quote: a statement that ends here is one that it rejects.
            Some(b'\n' | b';' | b',' | b'.' | b')' | b'\'' | b'=' | b':') => {}
            // In a literal, words after it are prose.
            Some(byte) if around != Around::Code && byte.is_ascii_alphanumeric() => {}
            _ => reads.push(AssemblerRead::Unclear),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(assembler: bool, line: &str, expected: &[&str]) {
        let dialect = Dialect { assembler, raw_strings: true, ..Dialect::default() };
        let found: Vec<String> = reads(line.as_bytes(), dialect, true)
            .into_iter()
            .map(|read| match read {
                AssemblerRead::Binary(name) => name.display(),
                AssemblerRead::Include(name) => format!("include {}", name.display()),
                AssemblerRead::Unclear => "?".to_owned(),
            })
            .collect();
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn literals_of_c() {
        check(false, r#"asm(".incbin \"a b.bin\", 1\n\t.INCBIN\t\"c\"");"#, &["a b.bin", "c"]);
        check(false, r#"asm(".include \"a.s\"");"#, &["include a.s"]);
        check(false, r#"asm(R"(.incbin "a")");"#, &["a"]);
        check(false, r#"asm(R"x(.incbin "a" )" )x" ".incbin \"b\"");"#, &["a", "b"]);
        check(false, r#"f('"', ".incbin \"a\"");"#, &["a"]);
        check(false, r#"asm(".incbin \"" FILE "\"");"#, &["?"]);
        check(false, r#"asm(".incbin " "\"a\"");"#, &["?"]);
        check(false, r#"asm(".incbin" FILE);"#, &["?"]);
        check(false, r#"asm(".incbin %0" : : "i"(x));"#, &["?"]);
        check(false, r#"asm(".incbin \"\x41\"");"#, &["?"]);
        check(false, r#"asm(".incbin \"%s\"");"#, &["?"]);
        check(false, r#"asm(".incbin \"a"#, &["?"]);
        check(false, r#"asm(STRING(.incbin "a"));"#, &["?"]);
        // No operand can follow.
        check(false, r#"{ ".incbin", incbin }, { ".include" };"#, &[]);
        check(false, r#"error("no .include here"); puts("a.incbin");"#, &[]);
        check(false, "x.incbin = y->z.incbin; s = { .incbin = 3 };", &[]);
        check(false, "unpaired ' .incbin", &[]);
        check(false, r#"".incbin\"#, &["?"]);
    }

    #[test]
    fn assembler_text() {
        check(true, r#"x: .incbin "a.bin",4; .include "b.s""#, &["a.bin", "include b.s"]);
        check(true, r#"  .incbin FILE"#, &["?"]);
        check(true, r#"  .incbin "\name""#, &["?"]);
        check(true, r#"  .incbin"#, &["?"]);
        check(true, r#"  .incbins "a""#, &[]);
        check(true, r#"  mov $'a, %al; .IncBin "a""#, &["a"]);
    }
}

//! Walks over a file's bytes, past comments and literals, and stops at each directive (C17 5.1.1.2, phases 1 to 3).
//! Knows nothing of what a directive means.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::preprocessor::Dialect;
use crate::preprocessor::assembly;
use crate::preprocessor::assembly::AssemblerRead;
use crate::preprocessor::source_file::Facts;
use crate::preprocessor::symbol::Symbol;
use crate::preprocessor::token::RawString;
use crate::preprocessor::token::is_blank;
use crate::preprocessor::token::is_identifier_byte;
use crate::preprocessor::token::is_raw_prefix;
use crate::preprocessor::token::raw_string;

/// What the skimmer stops at.
pub(super) enum Part {
    Directive(Line),
    /// A line of code by which the assembler reads files.
    Assembly(Vec<AssemblerRead>),
    /// A line that declares or imports a module where the language has modules (C++20 15.4, 15.5).
    Module,
}

/// One directive as a logical line.
pub(super) struct Line {
    /// What follows the `#`: comments are one blank each, splices are gone.
    pub(super) text: Vec<u8>,
    /// Physical number of the line with the `#`, from 1.
    pub(super) number: u32,
    /// It extends over several physical lines.
    pub(super) spliced: bool,
    /// A line that is no directive stands before it, since the directive before.
    pub(super) code_before: bool,
    /// What the assembler reads where the macro that is defined here is used.
    pub(super) reads: Vec<AssemblerRead>,
}

pub(super) struct Skimmer<'t> {
    text: &'t [u8],
    dialect: Dialect,
    at: usize,
    line: u32,
    /// No word or number that is still being read begins before this position.
    word_start: usize,
    code: bool,
    facts: Facts,
    /// Some of [`Finders::words`] stand in it.
    has_words: bool,
    /// Comments and literals in order, if the file has words that only count outside of them.
    blanks: Option<Vec<Blank>>,
    /// Where the assembler's words stand that were not yet passed, the first one last.
    assembler_words: Vec<usize>,
    /// `.include` counts, too.
    includes: bool,
    spare: Vec<u8>,
}

struct Blank {
    start: usize,
    end: usize,
    comment: bool,
}

const TIME_WORDS: &[&[u8]] = &[b"__DATE__", b"__TIME__", b"__TIMESTAMP__"];

/// The bit that stands for `__TIMESTAMP__`.
pub(super) const TIMESTAMP_WORD: u8 = 1 << 2;

/// The bit of [`Facts::time_words`] that stands for `name`; 0 if it is none of them.
pub(super) fn time_word(name: Symbol) -> u8 {
    TIME_WORDS.iter().position(|word| *word == name.text()).map_or(0, |bit| 1 << bit)
}

/// Directives of the assembler that read files; it knows them in any case, these are the usual two.
const ASSEMBLER_WORDS: &[&[u8]] = &[b".incbin", b".include", b".INCBIN", b".INCLUDE"];
/// Pragmas that change macros, so that `_Pragma` hides a directive in a line of code.
const PRAGMA_WORDS: &[&[u8]] = &[b"push_macro", b"pop_macro"];

/// Words that need a closer look, wherever they stand; most files have none of them.
struct Finders {
    assembler: [Finder<'static>; 3],
    asm: Finder<'static>,
    /// Of `__DATE__`, `__TIME__`, `__TIMESTAMP__`, `push_macro`, `pop_macro` and `_Pragma`.
    words: [Finder<'static>; 4],
    /// The ends of words for the time, which `##` may have cut off.
    ends: [Finder<'static>; 2],
}

static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    assembler: [".inc", ".INC", ".Inc"].map(Finder::new),
    asm: Finder::new("asm"),
    words: ["__DATE", "__TIME", "_macro", "_Pragma"].map(Finder::new),
    ends: ["E__", "P__"].map(Finder::new),
});

fn mentions(text: &[u8], words: &[Finder<'_>]) -> bool {
    words.iter().any(|word| word.find(text).is_some())
}

/// Bytes at which skimming over code has to look closer.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    special[b'\n' as usize] = true;
    special[b'\\' as usize] = true;
    special[b'/' as usize] = true;
    special[b'"' as usize] = true;
    special[b'\'' as usize] = true;
    special[b'?' as usize] = true;
    special
};

impl<'t> Skimmer<'t> {
    pub(super) fn new(text: &'t [u8], dialect: Dialect) -> Skimmer<'t> {
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        let mut facts = Facts::default();
        if text.starts_with(b"\xFF\xFE") || text.starts_with(b"\xFE\xFF") {
            facts.not_sure = Some("encoding");
        }
        facts.lone_carriage_return = memchr::memchr_iter(b'\r', text)
            .any(|at| !matches!(text.get(at + 1), Some(b'\n' | b'\r') | None));
        let finders = &*FINDERS;
        let mut includes = dialect.assembler;
        let mut assembler_words = Vec::new();
        if mentions(text, &finders.assembler) {
            includes |= finders.asm.find(text).is_some();
            assembler_words = assembly::positions(text, includes);
            assembler_words.reverse();
        }
        let has_words = mentions(text, &finders.words);
        let look_closer = !assembler_words.is_empty() || has_words;
        Skimmer {
            text,
            dialect,
            at: 0,
            line: 1,
            word_start: 0,
            code: false,
            facts,
            has_words,
            blanks: look_closer.then(Vec::new),
            assembler_words,
            includes,
            spare: Vec::new(),
        }
    }

    /// Takes a line's buffer back.
    pub(super) fn recycle(&mut self, text: Vec<u8>) {
        self.spare = text;
    }

    /// The next part that matters, if there is one.
    pub(super) fn next_part(&mut self) -> Option<Part> {
        loop {
            self.skip_blanks();
            let rest = &self.text[self.at..];
            let introducer = match *rest.first()? {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    continue;
                }
                b'#' if rest.get(1) != Some(&b'#') => 1,
                b'%' if self.dialect.digraphs && rest.starts_with(b"%:") && !rest.starts_with(b"%:%:") => 2,
                b'?' if self.dialect.trigraphs
                    && rest.starts_with(b"??=")
                    && !rest.starts_with(b"??=??=") =>
                {
                    3
                }
                _ => 0,
            };
            if introducer > 0 {
                self.at += introducer;
                let code_before = std::mem::take(&mut self.code);
                let number = self.line;
                let start = self.at;
                let (text, spliced) = self.directive_text();
                let reads = match self.has_assembler_word(start) && text.starts_with(b"define") {
                    true => assembly::reads(&text, self.dialect, self.includes),
                    false => Vec::new(),
                };
                return Some(Part::Directive(Line { text, number, spliced, code_before, reads }));
            }
            self.code = true;
            let start = self.at;
            let is_module = self.is_module_line();
            self.skim_line();
            if is_module {
                return Some(Part::Module);
            }
            if self.has_assembler_word(start) {
                let reads = assembly::reads(&self.code_text(start), self.dialect, self.includes);
                if !reads.is_empty() {
                    return Some(Part::Assembly(reads));
                }
            }
        }
    }

    /// Whether one of the assembler's words stands between `start` and the current position, comments apart.
    fn has_assembler_word(&mut self, start: usize) -> bool {
        let mut found = false;
        while let Some(at) = self.assembler_words.pop_if(|word| *word < self.at) {
            found |= at >= start && !self.blank_at(at).is_some_and(|blank| blank.comment);
        }
        found
    }

    /// The comment or literal at `at`, if those of this file are noted.
    fn blank_at(&self, at: usize) -> Option<&Blank> {
        let blanks = self.blanks.as_deref()?;
        let index = blanks.partition_point(|blank| blank.end <= at);
        blanks.get(index).filter(|blank| blank.start <= at)
    }

    /// The code from `start` to the current position: a blank for each comment, no splices.
    fn code_text(&self, start: usize) -> Vec<u8> {
        let blanks = self.blanks.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(self.at - start);
        let mut at = start;
        let first = blanks.partition_point(|blank| blank.start < start);
        for comment in blanks[first..].iter().filter(|blank| blank.comment) {
            copy_without_splices(&self.text[at..comment.start], &mut out);
            out.push(b' ');
            at = comment.end;
        }
        copy_without_splices(&self.text[at..self.at], &mut out);
        out
    }

    /// The facts of the whole file, and whether code follows the last directive.
    pub(super) fn finish(mut self) -> (Facts, bool) {
        self.look_closer();
        self.look_for_parts_of_time_words();
        (self.facts, self.code)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    /// The length of the line splice at `at`, if there is one. GCC and Clang allow blanks after the backslash.
    fn splice(&self, at: usize) -> Option<usize> {
        let mut end = match self.text[at..] {
            [b'\\', ..] => at + 1,
            [b'?', b'?', b'/', ..] if self.dialect.trigraphs => at + 3,
            _ => return None,
        };
        while self.byte(end).is_some_and(is_blank) {
            end += 1;
        }
        (self.byte(end) == Some(b'\n')).then_some(end + 1 - at)
    }

    /// The position after any splices at `at`; counts their lines.
    fn after_splices(&mut self, mut at: usize) -> usize {
        while at < self.text.len()
            && let Some(length) = self.splice(at)
        {
            at += length;
            self.line += 1;
        }
        at
    }

    /// Skips white space, splices and comments, but not a newline.
    fn skip_blanks(&mut self) {
        while let Some(byte) = self.byte(self.at) {
            if is_blank(byte) {
                self.at += 1;
            } else if let Some(length) = self.splice(self.at) {
                self.at += length;
                self.line += 1;
            } else if byte != b'/' || !self.skip_comment() {
                return;
            }
        }
    }

    /// Skips the comment at the current position, if there is one. A line comment's newline stays.
    fn skip_comment(&mut self) -> bool {
        let start = self.at;
        let line = self.line;
        let second = self.after_splices(start + 1);
        match self.byte(second) {
            Some(b'*') => self.skip_block_comment(second + 1),
            Some(b'/') if self.dialect.line_comments => self.skip_line_comment(second + 1),
            _ => {
                self.line = line;
                return false;
            }
        }
        self.note_blank(start, true);
        true
    }

    fn skip_block_comment(&mut self, start: usize) {
        let mut at = start;
        let end = loop {
            let Some(length) = memchr::memchr(b'/', &self.text[at..]) else {
                self.facts.not_sure.get_or_insert("unterminated comment");
                break self.text.len();
            };
            at += length + 1;
            if self.star_before(start, at - 1) {
                break at;
            }
        };
        let lines = memchr::memchr_iter(b'\n', &self.text[start..end]).count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.at = end;
    }

    /// Whether the last character before `at`, splices apart, is a `*`.
    fn star_before(&self, start: usize, mut at: usize) -> bool {
        loop {
            match at.checked_sub(1).filter(|&before| before >= start).map(|before| self.text[before]) {
                Some(b'*') => return true,
                Some(b'\n') => {
                    let mut back = at - 1;
                    while back > start && is_blank(self.text[back - 1]) {
                        back -= 1;
                    }
                    let splice = if self.text[start..back].ends_with(b"\\") {
                        back - 1
                    } else if self.dialect.trigraphs && self.text[start..back].ends_with(b"??/") {
                        back - 3
                    } else {
                        return false;
                    };
                    at = splice;
                }
                _ => return false,
            }
        }
    }

    fn skip_line_comment(&mut self, mut at: usize) {
        loop {
            let Some(length) = memchr::memchr(b'\n', &self.text[at..]) else {
                self.at = self.text.len();
                return;
            };
            let newline = at + length;
            let mut back = newline;
            while back > at && is_blank(self.text[back - 1]) {
                back -= 1;
            }
            let before = &self.text[at..back];
            if !(before.ends_with(b"\\") || self.dialect.trigraphs && before.ends_with(b"??/")) {
                self.at = newline;
                return;
            }
            self.line += 1;
            at = newline + 1;
        }
    }

    fn note_blank(&mut self, start: usize, comment: bool) {
        if let Some(blanks) = &mut self.blanks {
            blanks.push(Blank { start, end: self.at, comment });
        }
    }

    /// Skips the rest of a logical line of code, its newline included.
    fn skim_line(&mut self) {
        self.word_start = self.at;
        while let Some(length) = self.text[self.at..].iter().position(|&byte| SPECIAL[usize::from(byte)]) {
            self.at += length;
            match self.text[self.at] {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    return;
                }
                b'/' => {
                    if !self.skip_comment() {
                        self.at += 1;
                    }
                }
                b'\'' if self.is_digit_separator() => self.skip_rest_of_number(),
                quote @ (b'"' | b'\'') => {
                    let opens = self.at;
                    if !(quote == b'"' && self.skip_raw_string()) {
                        self.skip_literal(quote, true);
                    }
                    self.word_start = self.at;
                    self.note_blank(opens, false);
                }
                _ => match self.splice(self.at) {
                    Some(length) => {
                        self.at += length;
                        self.line += 1;
                    }
                    None => self.at += 1,
                },
            }
        }
        self.at = self.text.len();
    }

    /// The identifier (or the number, with its dots) that ends at the current position.
    fn word_before(&self, also_dots: bool) -> &[u8] {
        let is_part = |&byte: &u8| is_identifier_byte(byte) || also_dots && byte == b'.';
        let before = self.text.get(self.word_start..self.at).unwrap_or_default();
        let length = before.iter().rev().take_while(|byte| is_part(byte)).count();
        &before[before.len() - length..]
    }

    fn is_separator_here(&self) -> bool {
        self.byte(self.at) == Some(b'\'')
            && self.byte(self.at + 1).is_some_and(|next| next.is_ascii_alphanumeric() || next == b'_')
    }

    /// Whether the apostrophe at the current position stands inside a number, as in `1'000`.
    fn is_digit_separator(&self) -> bool {
        self.dialect.digit_separators
            && self.is_separator_here()
            && self.word_before(true).iter().find(|&&byte| byte != b'.').is_some_and(u8::is_ascii_digit)
    }

    /// From a digit separator to the end of its number, so that no part of it is looked at again.
    fn skip_rest_of_number(&mut self) {
        while self.is_separator_here() {
            self.at += 1;
            while self.byte(self.at).is_some_and(|byte| is_identifier_byte(byte) || byte == b'.') {
                self.at += 1;
            }
        }
        self.word_start = self.at;
    }

    /// Skips the raw string whose quote is at the current position, if it is one.
    fn skip_raw_string(&mut self) -> bool {
        if !self.dialect.raw_strings || !is_raw_prefix(self.word_before(false)) {
            return false;
        }
        let end = match raw_string(self.text, self.at) {
            RawString::Closed(end) => end,
            RawString::Open => {
                self.facts.not_sure.get_or_insert("unterminated raw string");
                self.text.len()
            }
            RawString::None => return false,
        };
        let lines = memchr::memchr_iter(b'\n', &self.text[self.at..end]).count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.at = end;
        true
    }

    /// Skips the literal that opens at the current position; an unpaired quote reaches to the end of the line.
    fn skip_literal(&mut self, quote: u8, escapes: bool) {
        self.at += 1;
        while let Some(byte) = self.byte(self.at) {
            match byte {
                b'\n' => return,
                b'\\' | b'?' => {
                    if let Some(length) = self.splice(self.at) {
                        self.at += length;
                        self.line += 1;
                        continue;
                    }
                    self.at += 1;
                    let escaped = byte == b'\\' && escapes;
                    if escaped {
                        self.at = self.after_splices(self.at);
                        // An escaped quote does not close; a newline ends the line all the same.
                        if self.byte(self.at).is_some_and(|next| next != b'\n') {
                            self.at += 1;
                        }
                    }
                }
                _ => {
                    self.at += 1;
                    if byte == quote {
                        return;
                    }
                }
            }
        }
    }

    /// The directive's text up to its newline (which is skipped), and whether it extends over several lines.
    fn directive_text(&mut self) -> (Vec<u8>, bool) {
        let mut out = std::mem::take(&mut self.spare);
        out.clear();
        let first_line = self.line;
        self.word_start = self.at;
        let end =
            memchr::memchr(b'\n', &self.text[self.at..]).map_or(self.text.len(), |length| self.at + length);
        let line = &self.text[self.at..end];
        if !line.iter().any(|&byte| SPECIAL[usize::from(byte)]) {
            out.extend_from_slice(line);
            self.at = end;
        } else {
            while let Some(byte) = self.byte(self.at)
                && byte != b'\n'
            {
                self.directive_byte(byte, &mut out);
            }
        }
        let spliced = self.line != first_line;
        if self.at < self.text.len() {
            self.at += 1;
            self.line += 1;
        }
        (out, spliced)
    }

    /// Copies what stands at the current position of a directive.
    fn directive_byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            b'/' if self.skip_comment() => {
                if !out.is_empty() {
                    out.push(b' ');
                }
            }
            b'\\' | b'?' => {
                if let Some(length) = self.splice(self.at) {
                    self.at += length;
                    self.line += 1;
                } else if let Some(replacement) = self.trigraph() {
                    self.at += 3;
                    out.push(replacement);
                } else {
                    self.at += 1;
                    out.push(byte);
                }
            }
            b'\'' if self.is_digit_separator() => {
                let start = self.at;
                self.skip_rest_of_number();
                out.extend_from_slice(&self.text[start..self.at]);
            }
            b'"' | b'\'' => {
                let start = self.at;
                let line = self.line;
                let escapes = !names_header(out);
                let raw = byte == b'"' && escapes && self.skip_raw_string();
                if raw && self.line > line {
                    // GCC ends the line here, Clang the string.
                    self.facts.not_sure.get_or_insert("raw string over several lines of a directive");
                }
                if !raw {
                    self.skip_literal(byte, escapes);
                }
                self.word_start = self.at;
                self.note_blank(start, false);
                copy_without_splices(&self.text[start..self.at], out);
            }
            b'<' if names_header(out) => {
                let rest = &self.text[self.at..];
                let end = rest.iter().position(|&byte| byte == b'>' || byte == b'\n').unwrap_or(rest.len());
                // Without a bracket that closes it is an operator.
                let end = if rest.get(end) == Some(&b'>') { end } else { 1 };
                copy_without_splices(&rest[..end], out);
                self.at += end;
            }
            _ => {
                // Blanks at the start would be looked at again and again.
                if !(out.is_empty() && is_blank(byte)) {
                    out.push(byte);
                }
                self.at += 1;
            }
        }
    }

    /// C17 5.2.1.1.
    fn trigraph(&self) -> Option<u8> {
        match self.text[self.at..] {
            [b'?', b'?', third, ..] if self.dialect.trigraphs => Some(match third {
                b'=' => b'#',
                b'/' => b'\\',
                b'\'' => b'^',
                b'(' => b'[',
                b')' => b']',
                b'!' => b'|',
                b'<' => b'{',
                b'>' => b'}',
                b'-' => b'~',
                _ => return None,
            }),
            _ => None,
        }
    }

    /// Whether the current line begins like a module declaration or an import.
    fn is_module_line(&self) -> bool {
        let rest = &self.text[self.at..];
        if !matches!(rest[0], b'i' | b'm' | b'e') {
            return false;
        }
        let line = &rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())];
        let mut words = line.trim_ascii();
        if let Some(exported) = after_word(words, b"export") {
            words = exported;
        }
        let after = after_word(words, b"import").or_else(|| after_word(words, b"module"));
        // `import = 3;`, `import::f()` and `module(x)` are ordinary code.
        after.is_some_and(|after| match after {
            [b':', b':', ..] => false,
            [first, ..] => is_identifier_byte(*first) || matches!(first, b'<' | b'"' | b':' | b';'),
            [] => true,
        })
    }

    /// Looks whether words that matter stand outside comments and literals.
    fn look_closer(&mut self) {
        if self.blanks.is_none() {
            self.look_through_splices();
            return;
        }
        let in_code = |at: usize| self.blank_at(at).is_none();
        let in_comment = |at: usize| self.blank_at(at).is_some_and(|blank| blank.comment);
        let text = self.text;
        let hits = |word: &'static [u8]| {
            memchr::memmem::find_iter(text, word).filter(move |&at| {
                let before = at.checked_sub(1).map(|before| text[before]);
                let after = text.get(at + word.len()).copied();
                !before.is_some_and(is_identifier_byte) && !after.is_some_and(is_identifier_byte)
            })
        };
        let mut time_words = 0;
        for (bit, word) in TIME_WORDS.iter().enumerate() {
            time_words |= u8::from(hits(word).any(in_code)) << bit;
        }
        let is_plain_pragma = |at: usize| text[..at].trim_ascii_end().ends_with(b"pragma");
        let hides_pragma = PRAGMA_WORDS.iter().any(|word| {
            memchr::memmem::find_iter(text, word).any(|at| !in_comment(at) && !is_plain_pragma(at))
        });
        let hides_once = memchr::memmem::find_iter(text, b"_Pragma").any(|at| {
            let operand = text[at + 7..].trim_ascii_start().strip_prefix(b"(").map(<[u8]>::trim_ascii_start);
            in_code(at) && operand.is_some_and(|operand| operand.starts_with(b"\"once\""))
        });
        self.facts.time_words |= time_words;
        if hides_pragma || hides_once {
            self.facts.not_sure.get_or_insert("_Pragma");
        }
        self.look_through_splices();
    }

    /// `__DA ## TE__`: the second part as a word of its own, which is rare enough to count wherever it stands; the
    /// first part where all but underscores belong to it and the file pastes.
    fn look_for_parts_of_time_words(&mut self) {
        if !self.has_words && !mentions(self.text, &FINDERS.ends) {
            return;
        }
        let text = self.text;
        let pastes = memchr::memmem::find(text, b"##").is_some();
        let parts: [(&[u8], bool); 4] =
            [(b"E__", true), (b"P__", true), (b"__DATE", pastes), (b"__TIME", pastes)];
        for (part, _) in parts.into_iter().filter(|(_, counts)| *counts) {
            for at in memchr::memmem::find_iter(text, part) {
                let is_part = |byte: &&u8| is_identifier_byte(**byte);
                // No part is longer than that.
                let start = at - text[..at].iter().rev().take(16).take_while(is_part).count();
                let word = &text[start..at + text[at..].iter().take(16).take_while(is_part).count()];
                for (bit, whole) in TIME_WORDS.iter().enumerate() {
                    let is_end = whole.ends_with(word);
                    let is_start = pastes && whole.starts_with(word) && word.len() + 2 >= whole.len();
                    self.facts.time_words |=
                        u8::from(word.len() < whole.len() && (is_end || is_start)) << bit;
                }
            }
        }
    }

    /// A word can be cut by a line splice. Files that have such a splice are rare, words cut by it rarer: what
    /// only shows without the splices counts wherever it stands.
    fn look_through_splices(&mut self) {
        let cuts_word = memchr::memmem::find_iter(self.text, b"\\").any(|at| {
            let after = self.splice(at).and_then(|length| self.byte(at + length));
            after.is_some_and(is_identifier_byte)
                && at > 0
                && (is_identifier_byte(self.text[at - 1]) || self.text[at - 1] == b'.')
        });
        if !cuts_word {
            return;
        }
        let mut joined = Vec::with_capacity(self.text.len());
        copy_without_splices(self.text, &mut joined);
        let count = |text: &[u8], word: &[u8]| memchr::memmem::find_iter(text, word).count();
        let shows = |word: &&[u8]| count(&joined, word) > count(self.text, word);
        for (bit, word) in TIME_WORDS.iter().enumerate() {
            self.facts.time_words |= u8::from(shows(word)) << bit;
        }
        if ASSEMBLER_WORDS.iter().any(shows) || PRAGMA_WORDS.iter().any(shows) || shows(&&b"_Pragma"[..]) {
            self.facts.not_sure.get_or_insert("word cut by a line splice");
        }
    }
}

/// What follows `word` at the start of `line`, blanks skipped.
fn after_word<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let after = line.strip_prefix(word)?;
    (!after.first().is_some_and(|&byte| is_identifier_byte(byte))).then(|| after.trim_ascii_start())
}

/// Whether a header name can follow the directive's text so far: there, `//` and `/*` are no comments.
fn names_header(out: &[u8]) -> bool {
    let text = out.trim_ascii();
    if matches!(text, b"include" | b"include_next" | b"import" | b"embed") {
        return true;
    }
    let Some(operator) = text.strip_suffix(b"(") else { return false };
    let operator = operator.trim_ascii_end();
    [&b"__has_include"[..], b"__has_include_next", b"__has_embed"].iter().any(|name| operator.ends_with(name))
}

fn copy_without_splices(text: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(length) = memchr::memchr(b'\\', &text[at..]) {
        let backslash = at + length;
        out.extend_from_slice(&text[at..backslash]);
        let mut end = backslash + 1;
        while text.get(end).copied().is_some_and(is_blank) {
            end += 1;
        }
        at = if text.get(end) == Some(&b'\n') {
            end + 1
        } else {
            out.push(b'\\');
            backslash + 1
        };
    }
    out.extend_from_slice(&text[at..]);
}

//! The commands in a text for the shell, and the texts of scripts.
//! Knows nothing of what the commands do. It does not expand anything: it is only to see which programs are named.

use std::io::Read;
use std::path::Path;

/// Longer scripts are not read.
const MOST_SCRIPT: u64 = 1 << 20;

/// One command of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Its words, quotes removed, assignments before it left out.
    pub(super) words: Vec<Vec<u8>>,
    /// Whether its first word is what it says, and nothing is expanded in it.
    pub(super) is_clear: bool,
}

impl Command {
    /// Whether it changes the directory of those after it.
    pub(super) fn is_cd(&self) -> bool {
        self.words.first().is_some_and(|word| word == b"cd")
    }

    /// Whether a word has a path upwards in it.
    pub(super) fn leads_up(&self) -> bool {
        self.words.iter().any(|word| word.windows(2).any(|pair| pair == b".."))
    }
}

/// Words that stand where a command would begin, and begin none (POSIX, Shell Command Language, 2.4).
const KEYWORDS: &[&[u8]] =
    &[b"if", b"then", b"else", b"elif", b"fi", b"while", b"until", b"do", b"done", b"!", b"{", b"}", b"time"];

/// Those whose commands are not found so simply.
const NOT_FOLLOWED: &[&[u8]] = &[b"case", b"for", b"select", b"function", b"coproc"];

/// All commands in `text`, those in substitutions included, in any order. None: it is not understood.
pub(super) fn commands(text: &[u8]) -> Option<Vec<Command>> {
    let mut scanner = Scanner { rest: text, found: Vec::new(), depth: 0, closing: None };
    scanner.list(None)?;
    Some(scanner.found)
}

/// The text of a script that names its interpreter; none: it is another kind of program, or cannot be read.
pub(super) fn text_of_script(path: &Path) -> Option<Vec<u8>> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut start = [0; 2];
    file.read_exact(&mut start).ok()?;
    (&start == b"#!").then(|| text(path)).flatten()
}

/// The text in a file, unless it is very long.
pub(super) fn text(path: &Path) -> Option<Vec<u8>> {
    let metadata = std::fs::metadata(path).ok()?;
    (metadata.is_file() && metadata.len() <= MOST_SCRIPT).then(|| std::fs::read(path).ok()).flatten()
}

/// The program that the first line of a script names.
pub(super) fn interpreter(text: &[u8]) -> Option<String> {
    let line = text.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    line.split_whitespace().next().map(str::to_owned)
}

/// A word that is being read.
#[derive(Default)]
struct Word {
    text: Vec<u8>,
    is_quoted: bool,
    is_expanded: bool,
}

impl Word {
    fn is_assignment(&self) -> bool {
        let Some(at) = self.text.iter().position(|&byte| byte == b'=') else { return false };
        let name = &self.text[..at];
        name.first().is_some_and(|byte| !byte.is_ascii_digit())
            && name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }
}

struct Scanner<'a> {
    rest: &'a [u8],
    found: Vec<Command>,
    depth: usize,
    /// What ends the list that is being read.
    closing: Option<u8>,
}

/// Substitutions inside of each other: deeper, nobody looks.
const MOST_DEPTH: usize = 16;

impl Scanner<'_> {
    /// Reads commands up to `closing`, or to the end.
    fn list(&mut self, closing: Option<u8>) -> Option<()> {
        let around = std::mem::replace(&mut self.closing, closing);
        self.depth += 1;
        let read = if self.depth > MOST_DEPTH { None } else { self.list_inside(closing) };
        self.depth -= 1;
        self.closing = around;
        read
    }

    fn list_inside(&mut self, closing: Option<u8>) -> Option<()> {
        let mut words: Vec<Word> = Vec::new();
        loop {
            let Some((&byte, rest)) = self.rest.split_first() else {
                self.end(&mut words)?;
                return closing.is_none().then_some(());
            };
            match byte {
                byte if Some(byte) == closing => {
                    self.rest = rest;
                    self.end(&mut words)?;
                    return Some(());
                }
                b' ' | b'\t' => self.rest = rest,
                b'#' => {
                    let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                    self.rest = &rest[end..];
                }
                b'\n' | b';' | b'|' | b'(' | b')' => {
                    self.rest = rest;
                    self.end(&mut words)?;
                }
                // `>&2` and `&>file` are no ends, but what is behind them is no command either.
                b'&' => {
                    self.rest = rest;
                    self.end(&mut words)?;
                }
                b'<' | b'>' => {
                    if rest.starts_with(b"<") || rest.starts_with(b"(") {
                        return None;
                    }
                    let operators = |byte: &u8| matches!(byte, b'>' | b'&' | b'|' | b' ' | b'\t');
                    let end = rest.iter().position(|byte| !operators(byte)).unwrap_or(rest.len());
                    self.rest = &rest[end..];
                    // The number of a descriptor before it.
                    words.pop_if(|word| !word.text.is_empty() && word.text.iter().all(u8::is_ascii_digit));
                    self.word()?;
                }
                _ => {
                    let word = self.word()?;
                    words.push(word);
                }
            }
        }
    }

    /// One command is read.
    fn end(&mut self, words: &mut Vec<Word>) -> Option<()> {
        let mut words = std::mem::take(words).into_iter().peekable();
        while words.next_if(|word| word.is_assignment() || is_keyword(word)).is_some() {}
        let Some(first) = words.peek() else { return Some(()) };
        if !first.is_quoted && NOT_FOLLOWED.contains(&first.text.as_slice()) {
            return None;
        }
        let is_clear = !first.is_expanded;
        let words = words.map(|word| word.text).collect();
        self.found.push(Command { words, is_clear });
        Some(())
    }

    /// Reads one word; where it has a substitution, the commands in that as well.
    fn word(&mut self) -> Option<Word> {
        let mut word = Word::default();
        loop {
            let Some((&byte, rest)) = self.rest.split_first() else { return Some(word) };
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'|' | b'&' | b'(' | b')' | b'<' | b'>' => return Some(word),
                b'\'' => {
                    let end = rest.iter().position(|&byte| byte == b'\'')?;
                    word.text.extend_from_slice(&rest[..end]);
                    word.is_quoted = true;
                    self.rest = &rest[end + 1..];
                }
                b'"' => {
                    self.rest = rest;
                    word.is_quoted = true;
                    self.double_quoted(&mut word)?;
                }
                b'\\' => {
                    let (&escaped, rest) = rest.split_first()?;
                    if escaped != b'\n' {
                        word.text.push(escaped);
                        word.is_quoted = true;
                    }
                    self.rest = rest;
                }
                // The end of the substitution that this is in.
                b'`' if self.closing == Some(b'`') => return Some(word),
                b'$' | b'`' => self.expansion(&mut word)?,
                b'*' | b'?' | b'[' | b'~' => {
                    word.is_expanded |= byte != b'[' || !word.text.is_empty();
                    word.text.push(byte);
                    self.rest = rest;
                }
                byte => {
                    word.text.push(byte);
                    self.rest = rest;
                }
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word) -> Option<()> {
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            match byte {
                b'"' => {
                    self.rest = rest;
                    return Some(());
                }
                b'\\' => {
                    let (&escaped, rest) = rest.split_first()?;
                    if !matches!(escaped, b'$' | b'`' | b'"' | b'\\' | b'\n') {
                        word.text.push(b'\\');
                    }
                    word.text.push(escaped);
                    self.rest = rest;
                }
                b'$' | b'`' => self.expansion(word)?,
                byte => {
                    word.text.push(byte);
                    self.rest = rest;
                }
            }
        }
    }

    /// What `$` and `` ` `` begin. The text stays as it stands.
    fn expansion(&mut self, word: &mut Word) -> Option<()> {
        word.is_expanded = true;
        if let Some(rest) = self.rest.strip_prefix(b"`") {
            self.rest = rest;
            return self.list(Some(b'`'));
        }
        // Arithmetic has no commands; but it may have substitutions.
        if self.rest.starts_with(b"$((") {
            return None;
        }
        if let Some(rest) = self.rest.strip_prefix(b"$(") {
            self.rest = rest;
            return self.list(Some(b')'));
        }
        if let Some(rest) = self.rest.strip_prefix(b"${") {
            let end = rest.iter().position(|&byte| byte == b'}')?;
            // `${A:-$(b)}`
            if rest[..end].iter().any(|byte| matches!(byte, b'$' | b'`' | b'"' | b'\'' | b'\\')) {
                return None;
            }
            word.text.extend_from_slice(&self.rest[..end + 3]);
            self.rest = &rest[end + 1..];
            return Some(());
        }
        word.text.push(b'$');
        self.rest = &self.rest[1..];
        Some(())
    }
}

fn is_keyword(word: &Word) -> bool {
    !word.is_quoted && KEYWORDS.contains(&word.text.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_texts() {
        for (text, expected) in [
            ("a b", "a b"),
            ("a && b || c; d & e | f", "a; b; c; d; e; f"),
            ("A=1 B= a 'b c' \"d\\\"e\"", "a b c d\"e"),
            ("if a; then b; else c; fi", "a; b; c"),
            ("a > out 2>&1 < in b", "a b"),
            ("(cd x && a) # b", "cd x; a"),
            ("echo $(a \"$(b c)\" d) `e`", "b c; a  d; e; echo  "),
            ("\"$X\" a", "?$X a"),
            ("a $(b `c` d) e", "c; b  d; a  e"),
            ("${X}y a", "?${X}y a"),
            ("a\\\nb; 'if' c", "ab; if c"),
            ("! a", "a"),
        ] {
            let found = commands(text.as_bytes()).unwrap();
            let found = found.iter().map(|Command { words, is_clear }| {
                let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
                format!("{}{}", if *is_clear { "" } else { "?" }, words.join(" "))
            });
            assert_eq!(found.collect::<Vec<_>>().join("; "), expected, "{text}");
        }
        for text in [
            "case x in y) z;; esac",
            "for a in b; do c; done",
            "a <<E\nE\n",
            "a 'b",
            "a $(b",
            "a \\",
            "echo $((1))",
        ] {
            assert_eq!(commands(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn interpreters_of_scripts() {
        for (text, expected) in [
            ("#!/bin/sh -e\n", Some("/bin/sh")),
            ("#! /usr/bin/env python3", Some("/usr/bin/env")),
            ("#!\n", None),
            ("x", None),
        ] {
            assert_eq!(interpreter(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    /// What is understood, a shell understands as well, and finds the same program names first.
    #[test]
    fn what_is_understood_is_what_a_shell_does() {
        let pieces = [
            "a",
            "b c",
            ";",
            " ",
            "\n",
            "&&",
            "|",
            "(",
            ")",
            "'",
            "\"",
            "$(",
            "`",
            "\\",
            ">x",
            "2>&1",
            "#",
            "$X",
            "${X}",
            "A=1",
            "if ",
            "; then ",
            "; fi",
            "! ",
            "{ ",
            "; }",
            "&",
            "'q r'",
            "\"s $(t)\"",
        ];
        let mut random = 11_u32;
        let mut understood = 0;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..1 + random % 9 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(pieces[(random >> 16) as usize % pieces.len()]);
            }
            let Some(found) = commands(text.as_bytes()) else { continue };
            assert!(found.iter().all(|command| !command.words.is_empty()), "{text}");
            // A name that the shell makes up keeps a command here.
            let is_clear = found.iter().all(|command| command.is_clear);
            if understood < 200 && is_clear && !text.contains(['`', '&', '|', '>']) && is_accepted(&text) {
                understood += 1;
                let names: Vec<_> =
                    found.iter().map(|command| String::from_utf8_lossy(&command.words[0])).collect();
                for name in started(&text) {
                    assert!(names.iter().any(|known| *known == name), "{text:?} starts {name}: {names:?}");
                }
            }
        }
        assert!(understood > 100, "{understood}");
    }

    /// Whether a shell takes the text.
    fn is_accepted(text: &str) -> bool {
        #[expect(clippy::disallowed_methods, reason = "the test itself asks the shell")]
        let mut shell = std::process::Command::new("sh");
        shell.args(["-n", "-c", text]).current_dir("/").stderr(std::process::Stdio::null());
        shell.status().unwrap().success()
    }

    /// The names that a shell looks for when it runs the text, where there are no programs.
    fn started(text: &str) -> Vec<String> {
        #[expect(clippy::disallowed_methods, reason = "the test itself asks the shell")]
        let mut shell = std::process::Command::new("/bin/sh");
        let output =
            shell.args(["-c", text]).env_clear().env("PATH", "/nowhere").current_dir("/").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let names = errors.lines().filter_map(|line| line.strip_suffix(": not found")?.rsplit(": ").next());
        names.map(str::to_owned).collect()
    }
}

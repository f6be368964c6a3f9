//! Reads the Makefile-syntax depfiles that compilers and linkers write, and gives the files in them other names.
//! Knows nothing of where the paths come from or whether they exist.
//!
//! Escaping is what GCC's `mkdeps.cc` (`munge`) and Clang's `DependencyFile.cpp` (`PrintFilename`) write: a `$`
//! is doubled, `#` and blanks get a backslash, and backslashes right before a blank are doubled, all others not.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::preprocessor::Family;

/// What a depfile says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Depfile {
    /// What is made: usually the object.
    pub targets: Vec<PathBuf>,
    /// What it is made from, in the file's order, the source first.
    pub prerequisites: Vec<PathBuf>,
}

/// Why bytes are not a depfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DepfileError {
    /// There is no rule at all.
    #[error("parse depfile: it is empty")]
    Empty,
    /// A line has names, but no colon after them.
    #[error("parse depfile: a rule has no colon")]
    NoColon,
}

/// Reads the bytes of a depfile. Rules without prerequisites, which `-MP` adds, are passed over.
///
/// # Errors
/// See [`DepfileError`].
pub fn parse(bytes: &[u8]) -> Result<Depfile, DepfileError> {
    let mut depfile = Depfile::default();
    let mut rest = bytes;
    let mut rules = 0;
    while !rest.is_empty() {
        let rule = Rule::read(&mut rest)?;
        let is_first = rules == 0;
        rules += usize::from(!rule.targets.is_empty());
        if is_first || !rule.prerequisites.is_empty() {
            depfile.targets.extend(rule.targets);
            depfile.prerequisites.extend(rule.prerequisites);
        }
    }
    if rules == 0 { Err(DepfileError::Empty) } else { Ok(depfile) }
}

/// One line of a Makefile, with its continuation lines.
#[derive(Default)]
struct Rule {
    targets: Vec<PathBuf>,
    prerequisites: Vec<PathBuf>,
}

impl Rule {
    /// Takes one logical line off `rest`.
    fn read(rest: &mut &[u8]) -> Result<Rule, DepfileError> {
        let mut rule = Rule::default();
        let mut has_colon = false;
        let mut word = Vec::new();
        loop {
            let ends = match next(rest, &mut word, !has_colon) {
                Token::Character => continue,
                Token::Blank => false,
                Token::Colon => {
                    rule.targets.extend(take(&mut word));
                    has_colon = true;
                    continue;
                }
                Token::End => true,
            };
            if let Some(name) = take(&mut word) {
                if has_colon { rule.prerequisites.push(name) } else { rule.targets.push(name) }
            }
            if ends {
                return if has_colon || rule.targets.is_empty() {
                    Ok(rule)
                } else {
                    Err(DepfileError::NoColon)
                };
            }
        }
    }
}

enum Token {
    /// Bytes were added to the word.
    Character,
    /// The word ends.
    Blank,
    /// The targets end.
    Colon,
    /// The rule ends.
    End,
}

/// Takes the next unit off `rest`. `in_targets`: a colon before a blank ends the targets.
fn next(rest: &mut &[u8], word: &mut Vec<u8>, in_targets: bool) -> Token {
    let Some((&byte, tail)) = rest.split_first() else { return Token::End };
    let ends_word = |tail: &[u8]| match tail {
        [] | [b' ' | b'\t' | b'\r' | b'\n', ..] => true,
        _ => tail.starts_with(b"\\\n") || tail.starts_with(b"\\\r\n"),
    };
    match byte {
        b'\n' => {
            *rest = tail;
            Token::End
        }
        b' ' | b'\t' | b'\r' => {
            *rest = tail;
            Token::Blank
        }
        b':' if in_targets && ends_word(tail) => {
            *rest = tail;
            Token::Colon
        }
        b'\\' => backslashes(rest, word),
        b'$' => {
            *rest = tail.strip_prefix(b"$").unwrap_or(tail);
            word.push(b'$');
            Token::Character
        }
        _ => {
            *rest = tail;
            word.push(byte);
            Token::Character
        }
    }
}

/// A run of backslashes: what follows it decides what it means.
fn backslashes(rest: &mut &[u8], word: &mut Vec<u8>) -> Token {
    let count = rest.iter().take_while(|&&byte| byte == b'\\').count();
    let tail = &rest[count..];
    let newline = match tail {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    };
    let (literal, escaped, consumed, token) = match tail.first() {
        _ if newline > 0 => (count - 1, None, newline, Token::Blank),
        // 2N+1 backslashes and a blank are N backslashes and a blank that belongs to the name.
        Some(&blank @ (b' ' | b'\t')) if count % 2 == 1 => (count / 2, Some(blank), 1, Token::Character),
        Some(b' ' | b'\t') => (count / 2, None, 1, Token::Blank),
        Some(&hash @ b'#') => (count - 1, Some(hash), 1, Token::Character),
        _ => (count, None, 0, Token::Character),
    };
    word.extend(std::iter::repeat_n(b'\\', literal));
    word.extend(escaped);
    *rest = &tail[consumed..];
    token
}

/// Who has written a depfile, which decides where its lines are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A compiler, by the length of its lines: GCC's `mkdeps.cc` (`make_write_name`, 72 columns), Clang's
    /// `DependencyFile.cpp` (`outputDependencyFile`, 75 columns).
    Compiler(Family),
    /// A linker, whatever their length: ld/ldfile.c (`ldfile_print_dependencies`), lld/ELF/Driver.cpp
    /// (`writeDependencyFile`), mold's `main.cc`.
    Linker,
}

/// The depfile with every name in it replaced by what `rename` makes of it as it stands there, escaped; its lines are broken
/// where `writer` breaks lines of the new names.
pub fn renamed(bytes: &[u8], writer: Writer, rename: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    match writer {
        Writer::Compiler(family) => renamed_lines(bytes, family, rename),
        Writer::Linker => renamed_words(bytes, rename),
    }
}

/// Nothing but the names is another, each of which stands between blanks. GNU ld escapes none, so of a name with a blank the
/// part after it is a word of its own: it is no name of a directory.
fn renamed_words(bytes: &[u8], rename: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut renamed = Vec::with_capacity(bytes.len());
    for piece in bytes.split_inclusive(u8::is_ascii_whitespace) {
        // A colon behind a target stays where it is: names change at their beginnings.
        let name = piece.trim_ascii_end();
        renamed.extend(rename(name));
        renamed.extend_from_slice(&piece[name.len()..]);
    }
    renamed
}

fn renamed_lines(bytes: &[u8], family: Family, rename: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut renamed = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut line = Line { family, text: &mut renamed, column: 0, in_targets: true };
        loop {
            let (token, ends) = next_name(&mut rest);
            if !token.is_empty() {
                line.write(token, rename);
            }
            if ends {
                break;
            }
        }
        if bytes[..bytes.len() - rest.len()].ends_with(b"\n") {
            renamed.push(b'\n');
        }
    }
    renamed
}

/// Takes the next name off `rest`, escaped as it is, with the colon after it; whether the line ends there, whose end is
/// taken, too.
fn next_name<'a>(rest: &mut &'a [u8]) -> (&'a [u8], bool) {
    let whole = *rest;
    let mut word = Vec::new();
    loop {
        let taken = whole.len() - rest.len();
        match next(rest, &mut word, false) {
            Token::Character | Token::Colon => {}
            Token::Blank => return (&whole[..taken], false),
            Token::End => return (&whole[..taken], true),
        }
    }
}

/// A line that is written.
struct Line<'a> {
    family: Family,
    text: &'a mut Vec<u8>,
    column: usize,
    in_targets: bool,
}

impl Line<'_> {
    fn write(&mut self, token: &[u8], rename: &dyn Fn(&[u8]) -> Vec<u8>) {
        let ends_targets = self.in_targets && token.ends_with(b":");
        let name = rename(if ends_targets { &token[..token.len() - 1] } else { token });
        // Clang does not count what it escapes.
        let width = match self.family {
            Family::Clang if !self.in_targets => unescaped_len(&name),
            _ => name.len(),
        };
        if self.column > 0 {
            let (breaks, indented) = match (self.family, self.in_targets) {
                (Family::Gcc, _) => (self.column + width > 72, 0),
                (Family::Clang, true) => (self.column + width + 2 > 75, 1),
                (Family::Clang, false) => (self.column + width + 1 + 2 > 75, 2),
            };
            if breaks {
                self.text.extend_from_slice(b" \\\n");
                // The second blank after a break stands before the name.
                if self.family == Family::Clang {
                    self.text.push(b' ');
                }
                self.column = indented;
            }
            self.text.push(b' ');
            self.column += 1;
        }
        self.text.extend_from_slice(&name);
        self.column += width;
        if ends_targets {
            self.text.push(b':');
            self.column += 1;
            self.in_targets = false;
        }
    }
}

fn unescaped_len(name: &[u8]) -> usize {
    let (mut rest, mut word) = (name, Vec::new());
    while !matches!(next(&mut rest, &mut word, false), Token::End) {}
    word.len()
}

fn take(word: &mut Vec<u8>) -> Option<PathBuf> {
    let bytes = std::mem::take(word);
    (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relocation::Relocation;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn check(bytes: &[u8], targets: &[&[u8]], prerequisites: &[&[u8]]) {
        let paths = |names: &[&[u8]]| names.iter().map(|name| OsStr::from_bytes(name).into()).collect();
        let expected = Depfile { targets: paths(targets), prerequisites: paths(prerequisites) };
        assert_eq!(parse(bytes), Ok(expected), "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn escapes() {
        check(b"a.o: a.c b.h\n", &[b"a.o"], &[b"a.c", b"b.h"]);
        check(b"a.o b.o : a.c \\\n b.h\\\r\n c.h", &[b"a.o", b"b.o"], &[b"a.c", b"b.h", b"c.h"]);
        check(b"a.o:\\\n a.c\n", &[b"a.o"], &[b"a.c"]);
        check(b"a.o: x\\ y.h $$z.h \\#q.h a\\b.h\n", &[b"a.o"], &[b"x y.h", b"$z.h", b"#q.h", b"a\\b.h"]);
        check(b"a.o: x\\\\\\ y x\\\\ y x\\\\#y\n", &[b"a.o"], &[b"x\\ y", b"x\\", b"y", b"x\\#y"]);
        check(b"a.o: a.c b.h\nb.h:\n\nc.h:\n", &[b"a.o"], &[b"a.c", b"b.h"]);
        check(b"a.o: a.c\na.o: b.h\n", &[b"a.o", b"a.o"], &[b"a.c", b"b.h"]);
        check(b"a:b.o: c:d.h \xff\xfe.h\n", &[b"a:b.o"], &[b"c:d.h", b"\xff\xfe.h"]);
        check(b"\n\na.o:\n", &[b"a.o"], &[]);
    }

    #[test]
    fn what_is_no_depfile() {
        assert_eq!(parse(b""), Err(DepfileError::Empty));
        assert_eq!(parse(b" \\\n\n"), Err(DepfileError::Empty));
        assert_eq!(parse(b"a.o a.c\n"), Err(DepfileError::NoColon));
        assert_eq!(parse(&[b'\\'; 1000]), Err(DepfileError::NoColon));
    }

    /// Every name that can stand in an `#include` comes back from the compilers' own depfiles.
    #[test]
    fn names_survive_the_compilers() {
        let names: [&[u8]; 10] = [
            b"plain.h",
            b"two words.h",
            b"$dollar$$.h",
            b"#hash#.h",
            b"back\\slash.h",
            b"b\\ s.h",
            b"b\\\\ s.h",
            b"h\\#.h",
            b"co:lon.h",
            b"\xe4\xff.h",
        ];
        let space = tempfile::tempdir().unwrap();
        let mut source = Vec::new();
        for name in names {
            std::fs::write(space.path().join(OsStr::from_bytes(name)), "").unwrap();
            source.extend_from_slice(b"#include \"");
            source.extend_from_slice(name);
            source.extend_from_slice(b"\"\n");
        }
        std::fs::write(space.path().join("main.c"), source).unwrap();
        crate::prerequisites::tests::require_compilers();
        for compiler in ["/usr/bin/gcc", "/usr/bin/clang"] {
            #[expect(clippy::disallowed_methods, reason = "the test itself starts the compiler")]
            let output = std::process::Command::new(compiler)
                .args(["-MM", "-MP", "main.c"])
                .current_dir(space.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let depfile = parse(&output.stdout).unwrap();
            assert_eq!(depfile.targets, [PathBuf::from("main.o")], "{compiler}");
            let mut expected = vec![PathBuf::from("main.c")];
            expected.extend(names.iter().map(|name| match compiler {
                // Clang writes every backslash as a slash (`llvm::sys::path::native`): such a name is lost, and
                // an audit by this depfile fails, which is safe.
                "/usr/bin/clang" => {
                    let slashes = |&byte: &u8| if byte == b'\\' { b'/' } else { byte };
                    OsString::from_vec(name.iter().map(slashes).collect()).into()
                }
                _ => PathBuf::from(OsStr::from_bytes(name)),
            }));
            assert_eq!(depfile.prerequisites, expected, "{compiler}");
        }
    }

    #[test]
    fn a_linkers_lines_stay_what_they_are() {
        let relocation = Relocation::new(&["/w/src".into()]).unwrap();
        for (here, there) in [
            ("a: \\\n  /w/src/b.o \\\n  c.o\n\n/w/src/b.o:\n", "a: \\\n  T/b.o \\\n  c.o\n\nT/b.o:\n"),
            ("/w/src/a: b.o /w/src/c\\ d.o\n", "T/a: b.o T/c\\ d.o\n"),
            ("/w/src2/a: /opt/w/src/b\n", "/w/src2/a: /opt/w/src/b\n"),
        ] {
            let there = there.replace('T', "/farcc-workspace/0");
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            let moved = renamed(here.as_bytes(), Writer::Linker, &|name| relocation.name_there(name));
            assert_eq!(text(moved), there);
            let back = renamed(there.as_bytes(), Writer::Linker, &|name| relocation.name_here(name));
            assert_eq!(text(back), here);
        }
    }

    /// What a compiler writes in one directory, renamed, is what it writes in the other.
    #[test]
    fn renamed_lines_break_where_the_compiler_breaks_them() {
        crate::prerequisites::tests::require_compilers();
        let space = tempfile::tempdir().unwrap();
        let space = space.path().canonicalize().unwrap();
        // One more character each: every place in a line where a name can end.
        let places: Vec<PathBuf> = (1..40).map(|length| space.join("d".repeat(length))).collect();
        let names =
            ["a.h", "two words.h", "$x.h", "#y.h", "some/longer/name/of/a/header.h", "b.h", "c/d.h", "e.h"];
        let source: String = names.iter().map(|name| format!("#include \"{name}\"\n")).collect();
        for place in &places {
            for name in names {
                std::fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
                std::fs::write(place.join(name), "").unwrap();
            }
            std::fs::write(place.join("main.c"), &source).unwrap();
        }
        for (compiler, family) in [("/usr/bin/gcc", Family::Gcc), ("/usr/bin/clang", Family::Clang)] {
            let written: Vec<Vec<u8>> = places
                .iter()
                .map(|place| {
                    #[expect(clippy::disallowed_methods, reason = "the test itself starts the compiler")]
                    let output = std::process::Command::new(compiler)
                        .args(["-M", "-MP", "-MT", "first.o", "-MT", "a/long/second/target.o", "-MT"])
                        .arg(place.join("third.o"))
                        .args(["-MT", "fourth/target/of/the/unit.o", "-include", "stdint.h"])
                        .arg(place.join("main.c"))
                        .output()
                        .unwrap();
                    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                    output.stdout
                })
                .collect();
            for (from, to) in (0..places.len()).zip((0..places.len()).rev()) {
                let relocation = |place: &PathBuf| Relocation::new(std::slice::from_ref(place)).unwrap();
                let (from_here, to_here) = (relocation(&places[from]), relocation(&places[to]));
                let there =
                    renamed(&written[from], Writer::Compiler(family), &|name| from_here.name_there(name));
                let text = String::from_utf8_lossy;
                assert!(from_here.named_here(&there).is_none(), "{}", text(&there));
                let here = renamed(&there, Writer::Compiler(family), &|name| to_here.name_here(name));
                assert_eq!(text(&here), text(&written[to]), "{compiler} {from} {to}");
            }
        }
        for garbage in [&b""[..], b"\\", b":", b"a b\n", b"\n\n", b" : \\\n", b"a.o: b.c"] {
            let same = renamed(garbage, Writer::Compiler(Family::Gcc), &|name| name.to_vec());
            assert!(same.len() <= garbage.len(), "{garbage:?}");
            assert_eq!(renamed(garbage, Writer::Linker, &|name| name.to_vec()), garbage);
        }
    }
}

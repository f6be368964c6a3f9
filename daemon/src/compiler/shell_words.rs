//! The words of one line of shell, where nothing is expanded in it but what the script's own name says.
//! Knows nothing of what the words do.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// A text, quotes removed.
    Text {
        /// The text.
        text: Vec<u8>,
        /// How many bytes at its beginning were neither quoted nor expanded.
        bare: usize,
    },
    /// All arguments of the script: `"$@"`.
    Arguments,
}

/// Ways to write all arguments. The second is for shells older than POSIX, which made one empty word of none; with `:+` it
/// would be another, which is empty where the first argument is.
const ARGUMENTS: &[&[u8]] = &[b"\"$@\"", b"${1+\"$@\"}"];

/// Ways to write the directory of the script, and whether the name in it is quoted.
const DIRNAMES: &[(&[u8], bool)] =
    &[(b"$(dirname \"$0\")", true), (b"$(dirname -- \"$0\")", true), (b"$(dirname $0)", false)];
const PREFIXES: &[&[u8]] = &[b"${0%/*}"];

/// The words of `line`, in a script that was called as `name`.
///
/// # Errors
/// The first word that is not understood, as it stands there.
pub(super) fn words(line: &[u8], name: &Path) -> Result<Vec<Word>, String> {
    let mut reader = Reader { rest: line, name };
    let mut words = Vec::new();
    loop {
        reader.rest = trim_blanks(reader.rest);
        if reader.rest.is_empty() {
            return Ok(words);
        }
        let word = reader.rest;
        let read = reader.word().ok_or_else(|| {
            let end = word.iter().position(is_blank).unwrap_or(word.len());
            String::from_utf8_lossy(&word[..end]).into_owned()
        });
        words.push(read?);
    }
}

/// Whether the shell takes `text` for the name of a variable.
pub(super) fn is_name(text: &[u8]) -> bool {
    text.first().is_some_and(|byte| !byte.is_ascii_digit())
        && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether the byte stands between words. A carriage return does not.
pub(super) fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The text without blanks at its ends.
pub(super) fn trim_blanks(text: &[u8]) -> &[u8] {
    let Some(start) = text.iter().position(|byte| !is_blank(byte)) else { return &[] };
    let end = text.iter().rposition(|byte| !is_blank(byte)).unwrap_or(start);
    text.get(start..=end).unwrap_or_default()
}

/// Bytes that mean themselves in every shell, wherever in a word they stand.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-./=:,+@%".contains(&byte)
}

/// Bytes that mean themselves between quotes. What is beyond ASCII depends on the locale.
fn is_quotable(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

struct Reader<'a> {
    rest: &'a [u8],
    name: &'a Path,
}

impl Reader<'_> {
    fn take(&mut self, what: &[u8]) -> bool {
        let found = self.rest.strip_prefix(what);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn is_at_end_of_word(&self) -> bool {
        self.rest.first().is_none_or(is_blank)
    }

    /// Reads one word; None if it is not understood.
    fn word(&mut self) -> Option<Word> {
        if ARGUMENTS.iter().any(|arguments| self.take(arguments)) {
            return self.is_at_end_of_word().then_some(Word::Arguments);
        }
        let mut text = Vec::new();
        let mut bare = None;
        while !self.is_at_end_of_word() {
            let (&byte, rest) = self.rest.split_first()?;
            if is_plain(byte) {
                text.push(byte);
                self.rest = rest;
                continue;
            }
            bare.get_or_insert(text.len());
            match byte {
                b'\'' => {
                    let end = rest.iter().position(|&byte| byte == b'\'')?;
                    let quoted =
                        rest.get(..end).filter(|quoted| quoted.iter().all(|&byte| is_quotable(byte)))?;
                    text.extend_from_slice(quoted);
                    self.rest = rest.get(end + 1..)?;
                }
                b'"' => {
                    self.rest = rest;
                    self.double_quoted(&mut text)?;
                }
                b'$' => {
                    // Between quotes it would be one word whatever is in it.
                    let directory = self.directory()?;
                    text.extend(
                        directory
                            .into_iter()
                            .map(|byte| is_plain(byte).then_some(byte))
                            .collect::<Option<Vec<_>>>()?,
                    );
                }
                _ => return None,
            }
        }
        let bare = bare.unwrap_or(text.len());
        Some(Word::Text { text, bare })
    }

    /// Reads on to the closing quote.
    fn double_quoted(&mut self, text: &mut Vec<u8>) -> Option<()> {
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            match byte {
                b'"' => {
                    self.rest = rest;
                    return Some(());
                }
                b'$' => text.extend(self.directory()?),
                // `!` would be an expansion only in a shell that somebody types at.
                b'\\' | b'`' => return None,
                byte if is_quotable(byte) => {
                    text.push(byte);
                    self.rest = rest;
                }
                _ => return None,
            }
        }
    }

    /// Reads an expansion that gives the directory of the script.
    fn directory(&mut self) -> Option<Vec<u8>> {
        let name = self.name.as_os_str().as_bytes();
        if let Some((_, is_quoted)) = DIRNAMES.iter().find(|(way, _)| self.take(way)) {
            let is_safe =
                if *is_quoted { !name.starts_with(b"-") } else { name.iter().all(|&byte| is_plain(byte)) };
            return is_safe.then(|| dirname(name));
        }
        PREFIXES.iter().any(|way| self.take(way)).then(|| {
            // Without a slash nothing matches, and nothing is cut off.
            let end = name.iter().rposition(|&byte| byte == b'/').unwrap_or(name.len());
            name[..end].to_vec()
        })
    }
}

/// dirname(1), without the newline at its end, of which a shell takes all.
fn dirname(name: &[u8]) -> Vec<u8> {
    let is_slash = |&byte: &u8| byte == b'/';
    let without_slashes =
        |path: &[u8]| path.iter().rposition(|byte| !is_slash(byte)).map(|last| path[..=last].to_vec());
    let Some(name) = without_slashes(name) else {
        return if name.is_empty() { b".".to_vec() } else { b"/".to_vec() };
    };
    let Some(slash) = name.iter().rposition(is_slash) else { return b".".to_vec() };
    let mut directory = without_slashes(&name[..slash]).unwrap_or_else(|| b"/".to_vec());
    while directory.ends_with(b"\n") {
        directory.pop();
    }
    directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_those_that_dirname_prints() {
        for name in [
            "/usr/bin/gcc",
            "gcc",
            "./gcc",
            "a/b",
            "/gcc",
            "//gcc",
            "a//gcc",
            "a/./gcc",
            "../gcc",
            "a b/c",
            "/",
        ] {
            let sh = "dirname \"$0\"; printf '%s\\n' \"${0%/*}\"";
            #[expect(clippy::disallowed_methods, reason = "the test itself asks the shell")]
            let output = std::process::Command::new("sh").args(["-c", sh, name]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let ours = words(b"\"$(dirname \"$0\")\" \"${0%/*}\"", Path::new(name)).unwrap();
            let ours = ours.into_iter().map(|word| match word {
                Word::Text { text, .. } => String::from_utf8(text).unwrap() + "\n",
                Word::Arguments => panic!(),
            });
            assert_eq!(ours.collect::<String>(), text, "{name}");
        }
    }

    #[test]
    fn a_directory_that_would_be_split_is_refused() {
        let read = |word: &str, name: &str| words(word.as_bytes(), Path::new(name)).is_ok();
        assert!(read("$(dirname \"$0\")/gcc", "/a/b") && !read("$(dirname \"$0\")/gcc", "/a b/c"));
        assert!(read("\"$(dirname \"$0\")/gcc\"", "/a b/c") && !read("\"$(dirname $0)/gcc\"", "/a b/c"));
        assert!(!read("${0%/*}/gcc", "/a*/c") && read("\"${0%/*}/gcc\"", "/a*/c"));
    }

    /// Whatever is understood, the shell splits in the same way.
    #[test]
    fn words_are_those_of_the_shell() {
        let pieces: [&[u8]; 17] = [
            b"a",
            b"-DX=1",
            b"'",
            b"\"",
            b" ",
            b"\t",
            b"$",
            b"\\",
            b"`",
            b"\"$@\"",
            b"${0%/*}",
            b"#",
            b"~",
            b"*",
            b";",
            b"'a b'",
            b"\"c  d\"",
        ];
        let mut random = 7_u32;
        let mut understood = 0;
        for _ in 0..3000 {
            let mut line = Vec::new();
            for _ in 0..1 + random % 6 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                line.extend_from_slice(pieces[(random >> 16) as usize % pieces.len()]);
            }
            let Ok(ours) = words(&line, Path::new("/x/y")) else { continue };
            // Few of them need a shell each.
            understood += 1;
            if understood > 200 {
                break;
            }
            let mut expected = Vec::new();
            for word in ours {
                match word {
                    Word::Text { text, .. } => expected.extend(text),
                    Word::Arguments => expected.extend(b"one\0two words"),
                }
                expected.push(0);
            }
            let script = [b"printf '%s\\0' ", &line[..]].concat();
            let script = std::ffi::OsStr::from_bytes(&script);
            #[expect(clippy::disallowed_methods, reason = "the test itself asks the shell")]
            let mut shell = std::process::Command::new("sh");
            shell.arg("-c").arg(script).args(["/x/y", "one", "two words"]).current_dir("/");
            let found = shell.output().unwrap().stdout;
            // Of nothing printf makes one empty word.
            let expected = if expected.is_empty() { vec![0] } else { expected };
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(&line));
        }
        assert!(understood > 100, "{understood}");
    }
}

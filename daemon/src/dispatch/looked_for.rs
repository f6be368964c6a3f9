//! Files whose mere existence a source asks for by `__has_include`, and those that an overlay puts elsewhere: no compiler
//! lists them.
//! Knows nothing of conditions: it takes every mention for a question, and every place where a file may be for the one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use memchr::memmem;

/// Where includes are looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// Directories, absolute.
    pub(super) directories: Vec<PathBuf>,
    /// Directories of frameworks, absolute.
    pub(super) frameworks: Vec<PathBuf>,
}

/// The word that asks; the same followed by `_next` asks of later directories only.
const WORD: &[u8] = b"__has_include";

impl Places {
    /// Every existing file that the text of `file` may ask for. None: it asks for one that is not named outright.
    pub(super) fn looked_for(&self, text: &[u8], file: &Path) -> Option<Vec<PathBuf>> {
        let mut found = Vec::new();
        for at in memmem::find_iter(text, WORD) {
            let (before, after) = (&text[..at], &text[at + WORD.len()..]);
            let after = after.strip_prefix(b"_next").unwrap_or(after);
            match question(before, after)? {
                Question::None => {}
                Question::Name(name) => found.extend(self.candidates(name, file)),
            }
        }
        found.sort();
        found.dedup();
        found.retain(|path| path.is_file());
        Some(found)
    }

    fn candidates(&self, name: &Path, file: &Path) -> Vec<PathBuf> {
        let beside = file.parent().into_iter().chain(self.directories.iter().map(PathBuf::as_path));
        let mut candidates: Vec<_> = beside.map(|directory| directory.join(name)).collect();
        let mut components = name.components();
        if let Some(first) = components.next() {
            let mut framework = first.as_os_str().to_owned();
            framework.push(".framework");
            for directory in &self.frameworks {
                let headers = ["Headers", "PrivateHeaders"].into_iter();
                candidates.extend(
                    headers.map(|kind| directory.join(&framework).join(kind).join(components.as_path())),
                );
            }
        }
        candidates
    }
}

enum Question<'a> {
    /// The word is only mentioned.
    None,
    Name(&'a Path),
}

/// What stands around the word. None: not understood.
fn question<'a>(before: &[u8], after: &'a [u8]) -> Option<Question<'a>> {
    let after = trim_blanks(after);
    let Some(operand) = after.strip_prefix(b"(") else {
        let before = before.trim_ascii_end();
        let before = before.strip_suffix(b"(").unwrap_or(before).trim_ascii_end();
        let asks_for_word = [&b"defined"[..], b"ifdef", b"ifndef"].iter().any(|word| before.ends_with(word));
        let is_comment = after.starts_with(b"*/") || before.ends_with(b"//");
        return (asks_for_word || is_comment).then_some(Question::None);
    };
    let operand = trim_blanks(operand);
    let (&open, name) = operand.split_first()?;
    let close = match open {
        b'<' => b'>',
        b'"' => b'"',
        _ => return None,
    };
    let name = &name[..name.iter().position(|&byte| byte == close)?];
    let is_plain = !name.is_empty() && !name.iter().any(|byte| b"\\\r\n".contains(byte));
    is_plain.then(|| Question::Name(Path::new(OsStr::from_bytes(name))))
}

fn trim_blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|&byte| byte != b' ' && byte != b'\t').unwrap_or(text.len());
    &text[end..]
}

/// The key by which an overlay names a file that is seen elsewhere.
const EXTERNAL: &[u8] = b"external-contents";

/// All files that the overlay `text` names, relative to `cwd` or to the overlay's own `directory`: which of the two, a key
/// of it says, and that both are taken costs nothing. None: it names them in a way that is not understood, or a directory.
pub(super) fn overlaid(text: &[u8], cwd: &Path, directory: &Path) -> Option<Vec<PathBuf>> {
    let mut found = Vec::new();
    // What is escaped may be any name, of a key as well; and an alias stands for a text that is elsewhere.
    if text.iter().any(|byte| b"\\*&!".contains(byte)) {
        return None;
    }
    for at in memmem::find_iter(text, EXTERNAL) {
        let after = text[at + EXTERNAL.len()..].trim_ascii_start();
        let after = after.strip_prefix(b"\"").or(after.strip_prefix(b"'")).unwrap_or(after);
        let value = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (&first, rest) = value.split_first()?;
        let name = match first {
            b'"' | b'\'' => &rest[..rest.iter().position(|&byte| byte == first)?],
            // A plain text ends in ways that depend on where it stands.
            _ => return None,
        };
        if name.is_empty() || name.contains(&b'\n') {
            return None;
        }
        let name = Path::new(OsStr::from_bytes(name));
        for path in [cwd.join(name), directory.join(name)] {
            if path.is_dir() {
                return None;
            }
            found.extend(Some(path).filter(|path| path.is_file()));
        }
    }
    found.sort();
    found.dedup();
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_found_wherever_they_stand() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path();
        for path in ["a/x.h", "b/x.h", "here/y.h", "f/T.framework/Headers/t.h"] {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), "").unwrap();
        }
        let places =
            Places { directories: vec![root.join("a"), root.join("b")], frameworks: vec![root.join("f")] };
        let found = |text: &str| {
            let found = places.looked_for(text.as_bytes(), &root.join("here/file.h"))?;
            let name = |path: PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            Some(found.into_iter().map(name).collect::<Vec<_>>().join(" "))
        };
        for (text, expected) in [
            ("int x;", Some("")),
            ("#if __has_include(<x.h>)\n", Some("a/x.h b/x.h")),
            ("#if __has_include_next ( <x.h> )\n", Some("a/x.h b/x.h")),
            ("#if __has_include(\"y.h\") || __has_include(<none.h>)\n", Some("here/y.h")),
            ("#if __has_include(<T/t.h>)\n", Some("f/T.framework/Headers/t.h")),
            ("#if defined(__has_include) && defined __has_include_next\n#ifdef __has_include\n", Some("")),
            ("#endif /* __has_include_next */\n#endif // __has_include\n", Some("")),
            ("#if __has_include(X)\n", None),
            ("#define HAS __has_include\n", None),
            ("#define HAS(x) __has_include(x)\n", None),
            ("#if __has_include(\\\n<x.h>)\n", None),
            ("#if __has_include/**/(<x.h>)\n", None),
            ("#if __has_include(<x.h\n", None),
            ("__has_include(", None),
            ("__has_include", None),
        ] {
            assert_eq!(found(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn overlays_name_their_files_plainly_or_not_at_all() {
        let space = tempfile::tempdir().unwrap();
        let root = space.path();
        std::fs::create_dir_all(root.join("sub")).unwrap();
        for file in ["a.h", "sub/a.h", "b.h"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let found = |text: &str| Some(overlaid(text.as_bytes(), root, &root.join("sub"))?.len());
        for (text, expected) in [
            ("{ \"version\": 0, \"roots\": [] }", Some(0)),
            ("\"external-contents\": \"a.h\"", Some(2)),
            ("'external-contents' : 'b.h', \"external-contents\":\n  \"none.h\"", Some(1)),
            ("external-contents: \"b.h\"", Some(1)),
            ("external-contents: b.h", None),
            ("external-contents: *b", None),
            ("\"external-\\x63ontents\": \"b.h\"", None),
            ("\"external-contents\": \"sub\"", None),
            ("\"external-contents\": \"b.h", None),
            ("external-contents", None),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }
}

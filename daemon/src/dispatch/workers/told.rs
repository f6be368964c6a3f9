//! What a worker told of its files: the lines of a report (see `shim/worker`).
//! Knows nothing of who needs the files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use crate::digest::Digest;

/// A worker's answer about one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The SHA-256 of its content.
    File([u8; 32]),
    Missing,
    /// It is no file, or cannot be read.
    Other,
    /// A symlink in a directory: where it leads was not asked.
    Link,
    /// A directory of which all is known that lies below it, but for what lies behind symlinks.
    Listed,
}

/// One line of a report (see `shim/worker`): kind, digest, path. None: no such line.
pub(super) fn read_line(line: &str) -> Option<(PathBuf, Found)> {
    let mut words = line.splitn(3, ' ');
    let (kind, digest, path) = (words.next()?, words.next()?, words.next()?);
    let found = match kind {
        "file" => Found::File(Digest::from_hex(digest, 0).ok()?.hash().try_into().ok()?),
        "link" => Found::Link,
        "listed" => Found::Listed,
        "missing" => Found::Missing,
        "other" | "error" => Found::Other,
        _ => return None,
    };
    Some((unescaped(path)?, found))
}

fn unescaped(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'n' => b'\n',
            b'x' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(OsString::from_vec(bytes).into())
}

/// A line of our own, for a path that a report does not tell of. Those that are asked for are UTF-8.
pub(super) fn line(path: &Path, found: Found) -> String {
    let kind = if found == Found::Listed { "listed" } else { "other" };
    let path = path.display().to_string().replace('\\', "\\\\").replace('\n', "\\n");
    format!("{kind} - {path}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_report() {
        let path = |line: &str| read_line(line).map(|(path, _)| path);
        for bad in
            ["", "file", "file x /usr/a", "odd - /usr/a", "file - /usr/a", "missing -", "missing - a\\"]
        {
            assert_eq!(path(bad), None, "{bad}");
        }
        let odd = OsString::from_vec(b"/a b\nc\\d\xff".to_vec());
        assert_eq!(path("missing - /a b\\nc\\\\d\\xff"), Some(odd.into()));
        let ours = Path::new("/a \\b\nc");
        assert_eq!(
            read_line(line(ours, Found::Listed).trim_end_matches('\n')),
            Some((ours.into(), Found::Listed))
        );
    }
}

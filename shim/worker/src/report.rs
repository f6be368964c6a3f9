//! Tells what files of a worker hold, by their digests, so that they can be compared with others'.
//! Knows nothing of what they are compared with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest as _;
use sha2::Sha256;

use crate::Failure;

/// How much of a file is in memory at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// One line for each of `paths` and for each file below those that are directories, sorted by path: the kind, the SHA-256
/// in hexadecimal (`-` where there is none), and the path, in which a line feed is `\n` and a backslash `\\`. The kinds are
/// `file`, `link` (the digest is of its target's name), `missing`, `other`, and `error` for what cannot be read.
///
/// Symlinks below a directory are told as what they are; one that is asked about itself is followed, as a compiler would.
///
/// # Errors
/// None as yet: what is wrong with a path is its answer.
pub(crate) fn report(paths: impl Iterator<Item = OsString>) -> Result<String, Failure> {
    let mut found = BTreeMap::new();
    for path in paths.map(PathBuf::from) {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => walk(path, &mut found),
            Ok(metadata) if metadata.is_file() => drop(found.insert(path.clone(), of_file(&path))),
            Ok(_) => drop(found.insert(path, ("other", None))),
            Err(error) if is_absent(&error) => drop(found.insert(path, ("missing", None))),
            Err(_) => drop(found.insert(path, ("error", None))),
        }
    }
    let mut text = String::new();
    for (path, (kind, digest)) in found {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{kind} {} {}", digest.as_deref().unwrap_or("-"), escaped(&path));
    }
    Ok(text)
}

type Answer = (&'static str, Option<String>);

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// All below a directory. No symlink is followed, so it ends.
fn walk(top: PathBuf, found: &mut BTreeMap<PathBuf, Answer>) {
    let mut pending = vec![top];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            found.insert(directory, ("error", None));
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(path),
                Ok(kind) if kind.is_symlink() => {
                    let target =
                        path.read_link().map(|target| hex(&Sha256::digest(target.as_os_str().as_bytes())));
                    found.insert(path, target.map_or(("error", None), |target| ("link", Some(target))));
                }
                Ok(kind) if kind.is_file() => drop(found.insert(path.clone(), of_file(&path))),
                Ok(_) => drop(found.insert(path, ("other", None))),
                Err(_) => drop(found.insert(path, ("error", None))),
            }
        }
    }
}

fn of_file(path: &Path) -> Answer {
    match digest(path) {
        Ok(digest) => ("file", Some(digest)),
        Err(_) => ("error", None),
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(read) => hasher.update(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The path on one line; bytes that are no UTF-8 become `\xNN`.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

//! The program that is sent to workers, as an input of the actions that name it.
//! Knows nothing of actions; what it does stands in its own sources, `shim/worker`.

use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::digest::Digest;

/// The program, statically linked, for this machine's architecture: so it is for its workers.
pub const PROGRAM: &[u8] = include_bytes!(env!("FARCC_WORKER"));

/// What it is called in input trees.
pub const NAME: &str = "farcc-worker";

/// The status with which it ends when it could not do what it was asked.
const CANNOT: i32 = 121;

/// What its messages begin with then.
const PREFIX: &str = "farcc-worker: failed to ";

/// The digest of [`PROGRAM`].
pub fn digest() -> Digest {
    static DIGEST: OnceLock<Digest> = OnceLock::new();
    *DIGEST.get_or_init(|| Digest::of(PROGRAM))
}

/// The program as a file in `directory`, which is made where it is not there.
///
/// # Errors
/// When it cannot be written.
pub fn lay(directory: &Path) -> io::Result<PathBuf> {
    let path = directory.join(format!("{NAME}-{}", &digest().hex()[..16]));
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == PROGRAM.len() as u64) {
        return Ok(path);
    }
    std::fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut file, PROGRAM)?;
    file.persist(&path)?;
    Ok(path)
}

/// Why the program itself failed, if it is that of which a command tells by its status and its standard error: not the
/// command that it was to start.
pub fn failure(exit_code: i32, stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    let why = text.lines().next_back()?.strip_prefix(PREFIX)?.to_owned();
    (exit_code == CANNOT).then_some(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_laid_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = lay(&directory.path().join("state")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), PROGRAM);
        std::fs::write(&path, "cut").unwrap();
        assert_eq!(lay(&directory.path().join("state")).unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), PROGRAM);
    }

    #[test]
    fn only_its_own_status_and_words_are_a_failure_of_its_own() {
        let why = b"warning: x\nfarcc-worker: failed to enter a mount namespace: no\n";
        assert_eq!(failure(121, why).as_deref(), Some("enter a mount namespace: no"));
        assert_eq!(failure(1, why), None);
        assert_eq!(failure(121, b"a.c:1: error\n"), None);
        assert_eq!(failure(121, b""), None);
    }
}

//! A note, kept for a while, of something that went wrong: so that each of a build's thousands of launchers need
//! not find out for itself and wait for it.
//! Knows nothing of what went wrong.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// A file that says what happened; how long ago is its mtime.
#[derive(Debug, Clone)]
pub struct Memo {
    /// The file.
    pub path: PathBuf,
    /// How long it is believed.
    pub lifetime: Duration,
}

impl Memo {
    /// Notes that `what` has just happened. Where nothing can be written, nothing is remembered.
    pub fn note(&self, what: &str) {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        if let Ok(mut file) = options.open(&self.path) {
            let _ = file.write_all(what.as_bytes());
        }
    }

    /// What happened, if that is not long ago.
    pub fn recall(&self) -> Option<String> {
        let noted = std::fs::metadata(&self.path).ok()?.modified().ok()?;
        // A time in the future is that of a clock which has been set since.
        if noted.elapsed().ok()? >= self.lifetime {
            return None;
        }
        self.last()
    }

    /// What happened last, however long ago, and has not been forgotten.
    pub fn last(&self) -> Option<String> {
        std::fs::read_to_string(&self.path).ok()
    }

    /// It is no longer so.
    pub fn forget(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noted_recalled_forgotten_expired() {
        let directory = tempfile::tempdir().unwrap();
        let memo = Memo { path: directory.path().join("memo"), lifetime: Duration::from_secs(60) };
        assert_eq!(memo.recall(), None);
        memo.note("a long text");
        memo.note("text");
        assert_eq!(memo.recall().as_deref(), Some("text"));
        assert_eq!(Memo { lifetime: Duration::ZERO, ..memo.clone() }.recall(), None);
        assert_eq!(memo.last().as_deref(), Some("text"));
        memo.forget();
        assert_eq!(memo.recall(), None);
    }
}

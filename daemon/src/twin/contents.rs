//! Content that a command has written, on its way into the mirror.
//! Knows nothing of why it goes there.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::digest::Digest;
use crate::mirror::Contents;
use crate::mirror::TreePath;
use crate::twin::Commit;
use crate::twin::Upper;

/// Content that a command has written, which is renamed to where it belongs.
pub struct FromCommand<'a> {
    /// By root.
    pub uppers: &'a [Upper],
    /// By root: what is put into place.
    pub commits: &'a [Commit],
    /// By root: the directories of the mirror.
    pub mirror: &'a [PathBuf],
}

impl Contents for FromCommand<'_> {
    fn stage(
        &self,
        root: u32,
        path: &TreePath,
        _digest: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool> {
        let root = usize::try_from(root).unwrap_or(usize::MAX);
        let known = self.uppers.get(root).zip(self.commits.get(root)).zip(self.mirror.get(root));
        let Some(((upper, commit), mirror)) = known else { return Ok(false) };
        let done = match commit.moved.get(path) {
            Some(from) => {
                let from = mirror.join(from.as_path());
                rustix::fs::linkat(rustix::fs::CWD, from, directory, name, AtFlags::empty())
            }
            None => {
                forget_marks(upper.directory.as_fd(), path);
                rustix::fs::renameat(upper.directory.as_fd(), path.as_path(), directory, name)
            }
        };
        match done {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Takes away what overlayfs has noted down at a file: it is none of an overlay any more.
fn forget_marks(upper: BorrowedFd<'_>, path: &TreePath) {
    let file = Path::new("/proc/self/fd").join(upper.as_raw_fd().to_string()).join(path.as_path());
    for mark in ["trusted.overlay.origin", "user.overlay.origin"] {
        // Most have none.
        let _ = rustix::fs::lremovexattr(&file, mark);
    }
}

//! Many files that are looked at at one moment: those of one directory from there, which takes half as long as from the root.
//! Knows nothing of what is in them, and remembers nothing beyond the moment.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use foldhash::fast::RandomState;
use rustix::fs::Mode;
use rustix::fs::OFlags;

use crate::files::Fingerprint;

/// From so many files on, it takes less time to open their directory and look at them from there.
pub(super) const MANY_SIBLINGS: usize = 12;

/// How many directories may be open at a time: of several scans at once, all count.
const MOST_OPEN: usize = 16;

/// The directories of the files that were looked at. Short-lived: a directory that is renamed meanwhile is still the one
/// that it was.
#[derive(Default)]
pub struct Siblings {
    directories: HashMap<Box<[u8]>, Directory, RandomState>,
    open: usize,
}

#[derive(Default)]
struct Directory {
    asked: usize,
    file: Option<OwnedFd>,
}

impl Siblings {
    /// What `stat` says of the file that `path` (absolute) leads to.
    ///
    /// # Errors
    /// Whatever `stat` answers.
    pub(super) fn fingerprint(&mut self, path: &Path) -> io::Result<Fingerprint> {
        let (parent, name) = split(path);
        let Some(directory) = self.directories.get_mut(parent.as_bytes()) else {
            self.directories.insert(parent.as_bytes().into(), Directory { asked: 1, file: None });
            return Fingerprint::of(path);
        };
        directory.asked += 1;
        if directory.asked == MANY_SIBLINGS && self.open < MOST_OPEN {
            directory.file = open_directory(parent).ok();
            self.open += usize::from(directory.file.is_some());
        }
        match &directory.file {
            Some(file) => Fingerprint::below(file, name),
            None => Fingerprint::of(path),
        }
    }
}

/// Opens a directory to look at files in it.
///
/// # Errors
/// Whatever `open` answers.
pub(super) fn open_directory(path: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The directory of a file, and its name there; both as they are written, `..` and `//` kept.
pub(super) fn split(path: &Path) -> (&OsStr, &OsStr) {
    let bytes = path.as_os_str().as_bytes();
    let slash = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    (OsStr::from_bytes(&bytes[..slash]), OsStr::from_bytes(&bytes[slash..]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn each_file_is_seen_as_from_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join("real").join(name);
        std::fs::create_dir(directory.path().join("real")).unwrap();
        symlink("real", directory.path().join("link")).unwrap();
        for number in 0..2 * MANY_SIBLINGS {
            std::fs::write(path(&format!("{number}.h")), "x".repeat(number)).unwrap();
        }
        symlink("3.h", path("3s.h")).unwrap();
        let mut siblings = Siblings::default();
        for round in 0..2 {
            for number in 0..2 * MANY_SIBLINGS {
                for way in ["real", "link", "real/../real"] {
                    let path = directory.path().join(way).join(format!("{number}.h"));
                    let found = siblings.fingerprint(&path).unwrap();
                    assert_eq!(found, Fingerprint::of(&path).unwrap(), "{round} {}", path.display());
                }
            }
            assert_eq!(siblings.open, 3);
        }
        let link = siblings.fingerprint(&path("3s.h")).unwrap();
        assert_eq!(link, Fingerprint::of(&path("3.h")).unwrap());
        assert!(siblings.fingerprint(&path("none.h")).is_err());
        // What happens to a file is seen.
        std::fs::write(path("5.h"), "another text").unwrap();
        assert_eq!(siblings.fingerprint(&path("5.h")).unwrap().size_bytes(), 12);
    }
}

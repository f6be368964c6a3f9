//! A file that is known, and is opened only as what it is known as.
//! Knows nothing of its content.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;

use crate::files::Fingerprint;
use crate::mirror::TreePath;

/// Where a file was when its tree was last looked at, and what its `stat` was. By now it may be anything: a symlink to what is
/// nobody's business, or a FIFO for which nobody would ever write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFile {
    pub(super) root: PathBuf,
    pub(super) path: TreePath,
    pub(super) fingerprint: Fingerprint,
}

impl KnownFile {
    /// Where it is in its tree.
    pub fn in_tree(&self) -> &TreePath {
        &self.path
    }

    /// Where it was.
    pub fn path(&self) -> PathBuf {
        self.path.below(&self.root)
    }

    /// Opens it for reading, if it is still what it was. No symlink is followed on the way below the root.
    ///
    /// # Errors
    /// When it is another by now, or cannot be read.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.root, flags, Mode::empty())?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = rustix::fs::openat2(&root, self.path.as_path(), flags, Mode::empty(), resolve)?;
        if !Fingerprint::of_open(&open)?.is_as_written(&self.fingerprint) {
            return Err(io::Error::other("it is another by now"));
        }
        Ok(File::from(open))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    /// What is read of `d/known`, in which `content` is, when `act` has been done in the root; beside the root is a file
    /// `d/known` with as many bytes.
    fn check(act: impl Fn(&Path)) -> Option<String> {
        let space = tempfile::tempdir().unwrap();
        let root = space.path().join("root");
        for (at, text) in [(&root, "content"), (&space.path().to_owned(), "foreign")] {
            fs::create_dir_all(at.join("d")).unwrap();
            fs::write(at.join("d/known"), text).unwrap();
        }
        let path = TreePath::parse(b"d/known").unwrap();
        let known = KnownFile { fingerprint: Fingerprint::of(&path.below(&root)).unwrap(), path, root };
        act(&known.root);
        let mut text = String::new();
        known.open().ok()?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn what_is_another_by_now_is_not_opened() {
        assert_eq!(check(|_| ()).as_deref(), Some("content"));
        // One more name makes it no other file.
        let named = check(|root| fs::hard_link(root.join("d/known"), root.join("other")).unwrap());
        assert_eq!(named.as_deref(), Some("content"));
        let replace = |with: fn(&Path)| {
            check(|root| {
                fs::remove_file(root.join("d/known")).unwrap();
                with(&root.join("d/known"));
            })
        };
        assert_eq!(replace(|_| ()), None);
        assert_eq!(replace(|at| symlink("../../d/known", at).unwrap()), None);
        assert_eq!(replace(|at| fs::write(at, "another").unwrap()), None);
        let fifo = |at: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        };
        assert_eq!(replace(fifo), None);
        let by_link = |root: &Path| {
            fs::remove_dir_all(root.join("d")).unwrap();
            symlink("../d", root.join("d")).unwrap();
        };
        assert_eq!(check(by_link), None);
    }
}

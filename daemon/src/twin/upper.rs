//! What the upper directory of an overlay says of what was done in it.
//! Knows nothing of the mirror below: whether a file that was copied up has changed is not said here.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::Dir;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::files::Fingerprint;
use crate::mirror::TreePath;

/// The longest path that a directory's mark can have in it, in bytes.
const LONGEST_MARK_BYTES: usize = 4096;

/// More than any path has.
const DEEPEST: usize = 2048;

/// Something that was made, written or removed in an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpperEntry {
    /// Where, below the overlay's root.
    pub path: TreePath,
    /// What is there.
    pub node: UpperNode,
}

/// What a path in an upper directory is (Linux, Documentation/filesystems/overlayfs.rst).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpperNode {
    /// A whiteout: what the mirror has there was removed or renamed.
    Gone,
    /// A directory: made, or there because something in it was changed.
    Directory {
        /// Of the upper one.
        fingerprint: Fingerprint,
        /// Whether nothing shows that the mirror has in a directory of that name. The kernel marks directories so that it
        /// has just made, even if there was nothing to hide.
        is_opaque: bool,
        /// The path in the mirror that it had before it was renamed, with all that is there in it.
        moved_from: Option<TreePath>,
    },
    /// A file: made, or copied up to be changed.
    File {
        /// Of the upper one.
        fingerprint: Fingerprint,
        /// Whether there was one before, as the kernel notes down when it copies.
        is_copied_up: bool,
    },
    /// A symlink that was made.
    Link {
        /// What is in it.
        target: OsString,
    },
    /// A socket, a pipe, a device.
    Special,
}

/// All that is in an upper directory, directories before what is in them. Nobody works in the overlay any more. What overlayfs
/// has noted down is in extended attributes of that `group`, `trusted` or `user`.
///
/// # Errors
/// Whatever cannot be read.
pub(super) fn entries(upper: &OwnedFd, group: &'static str) -> io::Result<Vec<UpperEntry>> {
    let mut all = Vec::new();
    walk(upper, group, &TreePath::root(), &TreePath::root(), 0, &mut all)?;
    all.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(all)
}

/// `origin`: the path in the mirror of what shows through the directory at `path`.
fn walk(
    directory: &OwnedFd,
    group: &'static str,
    path: &TreePath,
    origin: &TreePath,
    depth: usize,
    all: &mut Vec<UpperEntry>,
) -> io::Result<()> {
    if depth == DEEPEST {
        return Err(io::Error::other(format!("{path} is nested too deeply")));
    }
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        let at = path.join(name);
        let fingerprint = Fingerprint::of_entry(directory, name)?;
        let marks = Marks { directory, group, name };
        let node = if fingerprint.is_directory() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let open = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            let is_opaque = marks.get("opaque")?.is_some_and(|mark| mark == b"y");
            let moved_from = marks.get("redirect")?.map(|mark| redirected(&mark, origin)).transpose()?;
            let below = moved_from.clone().unwrap_or_else(|| origin.join(name));
            walk(&open, group, &at, &below, depth + 1, all)?;
            UpperNode::Directory { fingerprint, is_opaque, moved_from }
        } else if fingerprint.is_regular() {
            UpperNode::File { fingerprint, is_copied_up: marks.get("origin")?.is_some() }
        } else if fingerprint.is_symlink() {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            UpperNode::Link { target: OsString::from_vec(target.into_bytes()) }
        } else if is_whiteout(directory, name)? {
            UpperNode::Gone
        } else {
            UpperNode::Special
        };
        all.push(UpperEntry { path: at, node });
    }
    Ok(())
}

/// A character device of the numbers 0 and 0.
fn is_whiteout(directory: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let stat = rustix::fs::statat(directory, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_char_device();
    Ok(is_device && stat.st_rdev == 0)
}

/// What the mark of a renamed directory says: a name in the directory that it came from, or a path from the root.
fn redirected(mark: &[u8], parent: &TreePath) -> io::Result<TreePath> {
    let path = match mark.strip_prefix(b"/") {
        Some(path) => TreePath::parse(path),
        None => TreePath::parse(mark).map(|name| parent.join(name.name())),
    };
    path.map_err(io::Error::other)
}

/// The extended attributes by which overlayfs notes down what it has done.
struct Marks<'a> {
    directory: &'a OwnedFd,
    /// Who can write them: `trusted` or `user`.
    group: &'static str,
    name: &'a OsStr,
}

impl Marks<'_> {
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        // There is no call that takes a directory's descriptor and a name.
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).join(self.name);
        let mut value = vec![0; LONGEST_MARK_BYTES];
        match rustix::fs::lgetxattr(&path, format!("{}.overlay.{name}", self.group), &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

//! Names of what lies below a tree's root, as they come from another machine.
//! Pure bytes: nothing here looks at the file system.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

/// `PATH_MAX` of Linux, in bytes.
const LONGEST_BYTES: usize = 4096;

/// `NAME_MAX` of Linux, in bytes.
const LONGEST_NAME_BYTES: usize = 255;

/// A path below a root: names with `/` between them, none of them empty, `.` or `..`; any bytes but NUL. The root itself is
/// empty. In their order, a directory stands before what is in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Box<[u8]>);

/// Bytes that are no [`TreePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{:?} is no path below a root", OsStr::from_bytes(.0))]
pub struct InvalidPath(pub Vec<u8>);

impl TreePath {
    /// The root.
    pub fn root() -> TreePath {
        TreePath::default()
    }

    /// Reads what another machine has sent.
    ///
    /// # Errors
    /// When it leads out of the root, is longer than a file system allows, or has another spelling.
    pub fn parse(bytes: &[u8]) -> Result<TreePath, InvalidPath> {
        let is_name = |name: &[u8]| {
            !matches!(name, b"" | b"." | b"..") && name.len() <= LONGEST_NAME_BYTES && !name.contains(&0)
        };
        let is_path = bytes.len() < LONGEST_BYTES && bytes.split(|&byte| byte == b'/').all(is_name);
        if bytes.is_empty() || is_path {
            Ok(TreePath(bytes.into()))
        } else {
            Err(InvalidPath(bytes.to_vec()))
        }
    }

    /// What is called `name` in this directory: a name that the file system has given.
    pub fn join(&self, name: &OsStr) -> TreePath {
        let separator: &[u8] = if self.0.is_empty() { b"" } else { b"/" };
        TreePath([&self.0, separator, name.as_bytes()].concat().into())
    }

    /// The directory that it is in; None for the root.
    pub fn parent(&self) -> Option<TreePath> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memrchr(b'/', &self.0).unwrap_or(0);
        Some(TreePath(self.0[..end].into()))
    }

    /// Its name in its directory; empty for the root.
    pub fn name(&self) -> &OsStr {
        let start = memchr::memrchr(b'/', &self.0).map_or(0, |at| at + 1);
        OsStr::from_bytes(&self.0[start..])
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Relative to the root; `.` for the root itself.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(if self.0.is_empty() { b"." } else { &self.0 }))
    }

    /// The whole path, in the tree at `tree`.
    pub fn below(&self, tree: &Path) -> PathBuf {
        if self.0.is_empty() { tree.to_owned() } else { tree.join(self.as_path()) }
    }

    /// Whether it is `directory` or lies in it.
    pub fn is_in(&self, directory: &TreePath) -> bool {
        self.0
            .strip_prefix(&*directory.0)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || directory.0.is_empty())
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_path().display())
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_is_no_path() {
        let long_name = "x".repeat(256);
        let long = "x/".repeat(2048) + "x";
        for bad in [
            "/", "/etc", "a/", "a//b", ".", "..", "../x", "a/../b", "a/./b", "a/..", "a\0b", &long_name,
            &long,
        ] {
            assert!(TreePath::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        for good in [b"".as_slice(), b"a", b"a/b", b"...", b"a\nb/ c", b"\xff/\xfe", b".hidden/..x"] {
            assert_eq!(TreePath::parse(good).unwrap().as_bytes(), good);
        }
    }

    #[test]
    fn parts() {
        let path = TreePath::root().join("a".as_ref()).join("b.c".as_ref());
        assert_eq!(path, TreePath::parse(b"a/b.c").unwrap());
        assert_eq!(path.name(), "b.c");
        let parents: Vec<_> = std::iter::successors(Some(path.clone()), TreePath::parent).collect();
        assert_eq!(parents, [path.clone(), TreePath::parse(b"a").unwrap(), TreePath::root()]);
        assert!(parents.iter().all(|parent| path.is_in(parent)));
        assert!(!TreePath::parse(b"ab").unwrap().is_in(&TreePath::parse(b"a").unwrap()));
    }
}

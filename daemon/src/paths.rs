//! Paths as commands write them and as a cluster needs them.
//! Pure text: nothing here looks at the file system.

use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

/// Top-level directories that belong to the machine's image, the worker's as well as this one's: compilers,
/// their libraries and the system headers. Files below them are never sent; their digests are in the key.
pub const SYSTEM_DIRECTORIES: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/proc",
    "/sys",
    "/dev",
];

/// Whether `path` (absolute) lies in a directory of [`SYSTEM_DIRECTORIES`].
pub fn is_system(path: &Path) -> bool {
    SYSTEM_DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

/// Whether something in the directory `path` (absolute) lies in a directory of [`SYSTEM_DIRECTORIES`], or is one.
pub fn is_above_system(path: &Path) -> bool {
    is_system(path) || SYSTEM_DIRECTORIES.iter().any(|directory| Path::new(directory).starts_with(path))
}

/// Whether `path` is one of the directories, or lies in one.
pub fn is_below_any(path: &Path, directories: &[impl AsRef<Path>]) -> bool {
    directories.iter().any(|directory| path.starts_with(directory))
}

/// `path` as seen from `cwd`, without resolving `.`, `..` or symlinks: what the kernel would open.
pub fn absolute(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path)
}

/// `path` without `.`, and with every `name/..` removed. Only right where no component is a symlink.
pub fn lexically_normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match normal.components().next_back() {
                Some(Component::Normal(_)) => {
                    normal.pop();
                }
                // The parent of the root is the root.
                Some(Component::RootDir) => {}
                _ => normal.push(".."),
            },
            _ => normal.push(component),
        }
    }
    normal
}

/// The relative path that leads from directory `from` to `to`; both absolute and physical (without symlinks,
/// `.` and `..`).
pub fn relative(from: &Path, to: &Path) -> PathBuf {
    let mut from_rest = from.components().peekable();
    let mut to_rest = to.components().peekable();
    while from_rest.peek().is_some() && from_rest.peek() == to_rest.peek() {
        from_rest.next();
        to_rest.next();
    }
    let mut relative: PathBuf = from_rest.map(|_| Component::ParentDir).collect();
    relative.extend(to_rest);
    relative
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms() {
        for (path, expected) in
            [("/a/./b//c", "/a/b/c"), ("/a/b/../c", "/a/c"), ("/../a", "/a"), ("../a/..", ".."), ("a/..", "")]
        {
            assert_eq!(lexically_normal(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn relative_paths() {
        for (from, to, expected) in [
            ("/a/b", "/a/b/c.o", "c.o"),
            ("/a/b", "/a/c/d.o", "../c/d.o"),
            ("/", "/x", "x"),
            ("/a", "/a", ""),
        ] {
            assert_eq!(relative(Path::new(from), Path::new(to)), Path::new(expected), "{from} {to}");
        }
    }

    #[test]
    fn system_directories_match_whole_components() {
        assert!(is_system(Path::new("/usr/include/stdio.h")));
        assert!(!is_system(Path::new("/usrlocal/a.h")));
        assert!(!is_system(Path::new("/home/u/usr/a.h")));
        for (path, is_above) in
            [("/", true), ("/etc", true), ("/usr/x", true), ("/etc/alt", false), ("/home", false)]
        {
            assert_eq!(is_above_system(Path::new(path)), is_above, "{path}");
        }
    }
}

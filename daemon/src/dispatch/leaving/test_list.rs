//! Whether the tests of a build directory are launched one by one, as CMake's `TEST_LAUNCHER` has them.
//! Knows nothing of what they do.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::dispatch::leaving::script;

/// The file in which CMake lists the tests of a directory, and the directories below that have some.
const LIST: &str = "CTestTestfile.cmake";

/// More lists are not read.
const MOST_LISTS: usize = 1000;

/// Whether a test that `ctest` with these arguments finds in `cwd` begins with our launcher.
pub(super) fn are_launched(arguments: &[Vec<u8>], cwd: &Path) -> bool {
    let mut open = vec![directory(arguments, cwd)];
    let mut read = 0;
    while let Some(directory) = open.pop() {
        let Some(list) = script::text(&directory.join(LIST)) else { continue };
        read += 1;
        if read > MOST_LISTS {
            return false;
        }
        let list = String::from_utf8_lossy(&list);
        if list.lines().any(|line| line.starts_with("add_test(") && line.contains("/farcc\"")) {
            return true;
        }
        let below = list.lines().filter_map(|line| line.strip_prefix("subdirs(")?.strip_suffix(')'));
        open.extend(below.map(|name| directory.join(name.trim_matches('"'))));
    }
    false
}

fn directory(arguments: &[Vec<u8>], cwd: &Path) -> PathBuf {
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let joined = word.strip_prefix(b"--test-dir=");
        let named = if word == b"--test-dir" { words.next().map(Vec::as_slice) } else { joined };
        if let Some(named) = named {
            return cwd.join(OsStr::from_bytes(named));
        }
    }
    cwd.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_those_below() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(top.join(path)).unwrap();
            std::fs::write(top.join(path).join(LIST), text).unwrap();
        };
        let launched = |words: &[&str]| {
            let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            are_launched(&words, top)
        };
        assert!(!launched(&[]));
        write("build", "# a list\nadd_test(a \"/ws/gen\")\nsubdirs(\"below\")\n");
        write("build/below", "add_test(b \"/ws/farcc/gen\")\n");
        assert!(!launched(&["--test-dir", "build"]));
        write("build/below", "add_test([=[b]=] \"/usr/bin/farcc\" \"/ws/gen\")\n");
        assert!(
            launched(&["-j8", "--test-dir", "build"]) && launched(&["--test-dir=build"]) && !launched(&[])
        );
    }
}

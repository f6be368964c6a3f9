//! Servers that other people wrote, as clusters on this machine that cannot see the client's files.
//! Knows nothing of farcc.
//!
//! Each is fetched and built once, at the version that `tests/cluster/` pins, see [`program`]; each runs in its own
//! namespaces, see [`process`].

pub mod bazel_remote;
pub mod buildbarn;
pub mod buildbox;
pub mod certificates;
pub mod process;
pub mod program;

use std::path::Path;
use std::path::PathBuf;

/// The regular files below `directory`; none where it is not there.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

//! Trees on one disk that are looked at, changed and kept equal.

mod installing;
mod looking;
mod two_trees;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tempfile::TempDir;

use super::snapshot::Scope;
use super::*;
use crate::digest::Digest;

/// Everything has settled.
fn long_after() -> SystemTime {
    SystemTime::now() + Duration::from_secs(60)
}

/// The content of all files that a test has made.
#[derive(Default)]
struct Bytes(HashMap<Digest, Vec<u8>>);

impl Contents for Bytes {
    fn stage(
        &self,
        _: u32,
        _: &TreePath,
        digest: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool> {
        let Some(bytes) = self.0.get(digest) else { return Ok(false) };
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        File::create_new(path)?.write_all(bytes).map(|()| true)
    }
}

impl Bytes {
    fn take(&mut self, root: &Path) {
        for seen in seen(root).into_values() {
            if let Seen::File(bytes, _) = seen {
                self.0.insert(Digest::of(&bytes), bytes);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Directory(u32),
    File(Vec<u8>, u32),
    Link(OsString),
}

fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mode = metadata.mode() & 0o777;
            let what = if metadata.is_dir() {
                left.push(path.clone());
                Seen::Directory(mode)
            } else if metadata.file_type().is_fifo() {
                continue;
            } else if metadata.is_symlink() {
                Seen::Link(path.read_link().unwrap().into())
            } else {
                Seen::File(std::fs::read(&path).unwrap(), mode)
            };
            all.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    all
}

fn tree() -> (TempDir, PathBuf) {
    let space = tempfile::tempdir().unwrap();
    let root = space.path().canonicalize().unwrap().join("tree");
    std::fs::create_dir(&root).unwrap();
    (space, root)
}

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A workspace with one root.
fn workspace(root: &Path) -> Snapshot {
    workspace_by(root, SystemTime::now)
}

fn workspace_by(root: &Path, clock: fn() -> SystemTime) -> Snapshot {
    let roots: Arc<[PathBuf]> = [root.to_owned()].into();
    Snapshot::with_clock(root.to_owned(), Scope::Workspace { roots, root: 0 }, clock)
}

/// Looks at a tree of which everything can be sent.
fn look(snapshot: &mut Snapshot) -> Vec<Change> {
    let looked = snapshot.look().unwrap();
    assert_eq!(looked.unsent, []);
    looked.changes
}

/// Installs changes where somebody works.
fn install_one(snapshot: &mut Snapshot, changes: &[Change], contents: &Bytes) -> Result<(), InstallError> {
    let changes: Vec<_> =
        changes.iter().map(|change| RootedChange { root: 0, change: change.clone() }).collect();
    install(std::slice::from_mut(snapshot), &changes, contents, Manner::Workspace { seen_at: None })
}

/// `w` written, `m` other permissions, `-` gone, `d` directory, `l` symlink.
fn described(changes: &[Change]) -> Vec<String> {
    let letter = |change: &Change| match (&change.now, change.written) {
        (None, _) => '-',
        (Some(Node::File { .. }), Some(_)) => 'w',
        (Some(Node::File { .. }), None) => 'm',
        (Some(Node::Directory { .. }), _) => 'd',
        (Some(Node::Link { .. }), _) => 'l',
    };
    changes.iter().map(|change| format!("{} {}", letter(change), change.path)).collect()
}

fn make_fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// When each file was written.
fn times(root: &Path) -> BTreeMap<PathBuf, i128> {
    let modified = |path: &Path| {
        let metadata = root.join(path).symlink_metadata().unwrap();
        i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
    };
    let files = seen(root).into_iter().filter(|(_, seen)| matches!(seen, Seen::File(..)));
    files.map(|(path, _)| (path.clone(), modified(&path))).collect()
}

fn file(path: &str, content: &str) -> Change {
    let now = Some(Node::File { digest: Digest::of(content.as_bytes()), mode: 0o644 });
    Change { path: TreePath::parse(path.as_bytes()).unwrap(), now, written: Some(1) }
}

fn contents(of: &[&str]) -> Bytes {
    Bytes(of.iter().map(|text| (Digest::of(text.as_bytes()), text.as_bytes().to_vec())).collect())
}

/// A tree in which everything counts, with files made whole beside it.
fn whole(root: PathBuf) -> Snapshot {
    let staging = root.parent().unwrap().to_owned();
    Snapshot::whole(root, staging)
}

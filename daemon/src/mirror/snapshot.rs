//! What is known of a tree.
//! Knows nothing of how it is found out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Node;
use crate::mirror::TreePath;
use crate::mirror::rules::Rules;

/// A tree as it was when it was last looked at.
pub struct Snapshot {
    pub(super) root: PathBuf,
    /// Empty where nobody has looked yet.
    pub(super) directories: BTreeMap<TreePath, Directory>,
    pub(super) clock: fn() -> SystemTime,
}

/// A directory as it was.
pub(super) struct Directory {
    pub(super) fingerprint: Fingerprint,
    /// Whether its names are known as long as its `stat` is as it was.
    pub(super) is_settled: bool,
    pub(super) rules: Arc<Rules>,
    /// In the order of their names.
    pub(super) entries: Vec<(OsString, Entry)>,
}

/// What a name in a directory was.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    /// What is in it stands in an entry of its own.
    Directory,
    File {
        fingerprint: Fingerprint,
        /// Whether the content is known as long as the `stat` is as it was.
        is_settled: bool,
        digest: Digest,
    },
    Link {
        fingerprint: Fingerprint,
        target: OsString,
    },
}

/// What was put into place.
pub(super) enum Installed {
    /// Nothing is there any more.
    Nothing,
    /// A directory; what is in it has calls of its own.
    Directory(Fingerprint),
    /// A file with this content.
    File(Fingerprint, Digest),
    /// A symlink with this target.
    Link(Fingerprint, OsString),
}

impl Snapshot {
    /// Nothing is known yet of the tree at `root` (absolute).
    pub fn new(root: PathBuf) -> Snapshot {
        Snapshot::with_clock(root, SystemTime::now)
    }

    /// The same with a clock of its own, so that tests can make it coarse.
    pub fn with_clock(root: PathBuf, clock: fn() -> SystemTime) -> Snapshot {
        Snapshot { root, directories: BTreeMap::new(), clock }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is at `path`, as far as it is known.
    pub fn node(&self, path: &TreePath) -> Option<Node> {
        if let Some(directory) = self.directories.get(path) {
            return Some(Node::Directory { mode: directory.fingerprint.permissions() });
        }
        match self.entry(path)? {
            Entry::Directory => None,
            Entry::File { fingerprint, digest, .. } => {
                Some(Node::File { digest: *digest, mode: fingerprint.permissions() })
            }
            Entry::Link { target, .. } => Some(Node::Link { target: target.clone() }),
        }
    }

    /// The directory `path`, if it is one, and all that are known in it.
    pub(super) fn directories_in(&self, path: &TreePath) -> impl Iterator<Item = (&TreePath, &Directory)> {
        // Those that begin with the same bytes stand together.
        let from = self.directories.range(path.clone()..);
        let begin_so = from.take_while(|(known, _)| known.as_bytes().starts_with(path.as_bytes()));
        begin_so.filter(|(known, _)| known.is_in(path))
    }

    /// What is known of the name at `path`.
    pub(super) fn entry(&self, path: &TreePath) -> Option<&Entry> {
        let directory = self.directories.get(&path.parent()?)?;
        let at = directory.position(path.name()).ok()?;
        Some(&directory.entries[at].1)
    }

    /// Takes for known what was put into place here, so that it is no change the next time.
    pub(super) fn installed(&mut self, path: &TreePath, what: Installed) {
        let Some(parent) = path.parent() else { return };
        let entry = match what {
            Installed::Nothing => {
                let inside: Vec<_> = self.directories_in(path).map(|(known, _)| known.clone()).collect();
                for known in inside {
                    self.directories.remove(&known);
                }
                None
            }
            Installed::Directory(fingerprint) => {
                let rules = self.directories.get(&parent).map(|above| Arc::clone(&above.rules));
                let directory = self.directories.entry(path.clone()).or_insert_with(|| Directory {
                    fingerprint,
                    is_settled: false,
                    rules: rules.unwrap_or_default(),
                    entries: Vec::new(),
                });
                (directory.fingerprint, directory.is_settled) = (fingerprint, false);
                Some(Entry::Directory)
            }
            Installed::File(fingerprint, digest) => {
                let is_settled = fingerprint.is_settled((self.clock)());
                Some(Entry::File { fingerprint, is_settled, digest })
            }
            Installed::Link(fingerprint, target) => Some(Entry::Link { fingerprint, target }),
        };
        // Its names are read again in any case: it has another `stat`.
        let Some(directory) = self.directories.get_mut(&parent) else { return };
        match (directory.position(path.name()), entry) {
            (Ok(at), Some(entry)) => directory.entries[at].1 = entry,
            (Ok(at), None) => drop(directory.entries.remove(at)),
            (Err(at), Some(entry)) => directory.entries.insert(at, (path.name().to_owned(), entry)),
            (Err(_), None) => {}
        }
    }

    /// Whether what is at `path` below the open directory `root` is what is known to be there.
    pub(super) fn is_as_known(&self, root: &OwnedFd, path: &TreePath) -> bool {
        let now = Fingerprint::of_entry(root, path.as_path().as_os_str()).ok();
        match (self.node(path), now) {
            (None, None) => true,
            (Some(Node::Directory { .. }), Some(now)) => now.is_directory(),
            (Some(Node::File { .. } | Node::Link { .. }), Some(now)) => match self.entry(path) {
                // To remove or rename one of a file's names changes the time of its last change.
                Some(Entry::File { fingerprint, .. } | Entry::Link { fingerprint, .. }) => {
                    fingerprint.is_as_written(&now)
                }
                Some(Entry::Directory) | None => false,
            },
            (None | Some(_), _) => false,
        }
    }

    /// All that is known to be in the directory `path`, in order.
    pub(super) fn inside(&self, path: &TreePath) -> Vec<TreePath> {
        let mut inside: Vec<_> = self
            .directories_in(path)
            .flat_map(|(known, directory)| directory.entries.iter().map(|(name, _)| known.join(name)))
            .collect();
        inside.sort();
        inside
    }

    /// How many files, directories and symlinks there are.
    pub fn len(&self) -> usize {
        self.directories.values().map(|directory| directory.entries.len()).sum()
    }

    /// Whether nothing is there, or nobody has looked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Directory {
    fn position(&self, name: &OsStr) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| known.as_os_str().cmp(name))
    }
}

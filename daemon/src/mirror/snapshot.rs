//! What is known of a tree.
//! Knows nothing of how it is found out.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Change;
use crate::mirror::KnownFile;
use crate::mirror::Node;
use crate::mirror::TreePath;
use crate::mirror::leads_inside;
use crate::mirror::rules::Rules;
use crate::mirror::stamps;
use crate::mirror::watch::Watch;
use crate::mirror::watch::Watcher;

/// A tree as it was when it was last looked at.
pub struct Snapshot {
    pub(super) root: PathBuf,
    pub(super) scope: Scope,
    /// Empty where nobody has looked yet.
    pub(super) directories: BTreeMap<TreePath, Directory>,
    /// Those that are here only, since there is something in them of which the other side, which has removed them, knows nothing.
    pub(super) kept: BTreeSet<TreePath>,
    /// None: whatever happens has to be looked for.
    pub(super) watcher: Option<Watcher>,
    pub(super) clock: fn() -> SystemTime,
}

/// What of a tree is heeded.
pub(super) enum Scope {
    /// Nothing that rules leave out, and no symlink that leads out of the workspace.
    Workspace { roots: Arc<[PathBuf]>, root: u32 },
    /// Everything. What is not whole yet is in this directory, where nobody sees it.
    Whole { staging: PathBuf },
}

impl Scope {
    /// Whether a symlink may be known.
    pub(super) fn admits(&self, path: &TreePath, target: &OsStr) -> bool {
        match self {
            Scope::Workspace { roots, root } => leads_inside(roots, *root, path, target),
            Scope::Whole { .. } => true,
        }
    }
}

/// Something that is there and cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Where.
    pub path: TreePath,
    /// Why not.
    pub why: WhyUnsent,
}

/// Why something cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhyUnsent {
    /// It cannot be read, or if it is a directory, its names or its rules cannot.
    #[error("it cannot be read: {0}")]
    Unreadable(Errno),
    /// It is a symlink that leads out of the workspace.
    #[error("it leads to {}, outside of the workspace", Path::new(.0).display())]
    LeadsOut(OsString),
    /// It is a directory in more directories than anybody needs.
    #[error("it is nested too deeply; name it in a .farccignore")]
    TooDeep,
    /// It changes faster than it can be read.
    #[error("it changes all the time; name it in a .farccignore if nobody else needs it")]
    Restless,
}

/// A directory as it was.
#[derive(Clone)]
pub(super) struct Directory {
    pub(super) fingerprint: Fingerprint,
    /// Whether its names are known as long as its `stat` is as it was.
    pub(super) is_settled: bool,
    pub(super) watch: Option<Watch>,
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
        watch: Option<Watch>,
        digest: Digest,
    },
    Link {
        fingerprint: Fingerprint,
        target: OsString,
    },
    /// It is not sent.
    Unsent {
        /// None: it cannot be had.
        fingerprint: Option<Fingerprint>,
        /// Whether nothing but a change of its `stat` can change that.
        is_settled: bool,
        why: WhyUnsent,
    },
}

/// What was put into place.
pub(super) enum Installed {
    /// Nothing is there any more.
    Nothing,
    /// A directory; what is in it has calls of its own.
    Directory(Fingerprint),
    /// A file with this content.
    File {
        fingerprint: Fingerprint,
        /// Whether whatever is written to it later shows in its `stat`.
        is_settled: bool,
        digest: Digest,
    },
    /// A symlink with this target.
    Link(Fingerprint, OsString),
}

impl Snapshot {
    /// Nothing is known yet of the tree at `path` (absolute), where users work. It is the one at position `root` of a
    /// workspace's `roots` (absolute, to which no symlink leads): there may symlinks lead.
    pub fn new(path: PathBuf, roots: Arc<[PathBuf]>, root: u32) -> Snapshot {
        Snapshot::with_clock(path, Scope::Workspace { roots, root }, SystemTime::now)
    }

    /// Nothing is known yet of the tree at `path` (absolute), in which everything counts: no rules, no symlinks that lead
    /// out. Files that are to be put into it are made whole in `staging`, a directory on the same file system.
    pub fn whole(path: PathBuf, staging: PathBuf) -> Snapshot {
        Snapshot::with_clock(path, Scope::Whole { staging }, SystemTime::now)
    }

    /// Where files are made whole, if that is not beside their places.
    pub(super) fn staging(&self) -> Option<&Path> {
        match &self.scope {
            Scope::Workspace { .. } => None,
            Scope::Whole { staging } => Some(staging),
        }
    }

    /// The same with a clock of its own, so that tests can make it coarse.
    pub(super) fn with_clock(root: PathBuf, scope: Scope, clock: fn() -> SystemTime) -> Snapshot {
        let (directories, kept) = (BTreeMap::new(), BTreeSet::new());
        Snapshot { root, scope, directories, kept, watcher: None, clock }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The present moment by the clock of the file system, in nanoseconds since 1970: what is written there from now on gets no
    /// earlier time. None: that is not known.
    pub fn present(&self) -> Option<i128> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.root, flags, Mode::empty()).ok()?;
        stamps::present(&root).map(|(_, moment)| moment)
    }

    /// What is at `path`, as far as it is known.
    pub fn node(&self, path: &TreePath) -> Option<Node> {
        if let Some(directory) = self.directories.get(path) {
            return Some(Node::Directory { mode: directory.fingerprint.permissions() });
        }
        self.entry(path)?.node()
    }

    /// When what is at `path` was last written, in nanoseconds since 1970; None: nothing is known to be there.
    pub fn modified_nanos(&self, path: &TreePath) -> Option<i128> {
        if let Some(directory) = self.directories.get(path) {
            return Some(directory.fingerprint.modified_nanos());
        }
        self.entry(path)?.modified_nanos()
    }

    /// All that is known below `path`, with the time when it was last written in nanoseconds since 1970; directories before
    /// what is in them.
    pub fn entries_in(&self, path: &TreePath) -> impl Iterator<Item = (TreePath, Node, i128)> {
        self.directories_in(path).flat_map(move |(above, directory)| {
            directory.entries.iter().filter_map(move |(name, entry)| {
                let at = above.join(name);
                let (node, modified) = match entry {
                    Entry::Directory => (self.node(&at)?, self.modified_nanos(&at)?),
                    Entry::File { .. } | Entry::Link { .. } | Entry::Unsent { .. } => {
                        (entry.node()?, entry.modified_nanos()?)
                    }
                };
                Some((at, node, modified))
            })
        })
    }

    /// All that is known, as a first look would tell it.
    pub fn all(&self) -> Vec<Change> {
        let root = TreePath::root();
        let top = self.node(&root).map(|node| (root.clone(), node, 0));
        let entries = top.into_iter().chain(self.entries_in(&root));
        let change = |(path, node, modified)| {
            let written = matches!(node, Node::File { .. }).then_some(modified);
            Change { path, now: Some(node), written }
        };
        let mut changes: Vec<_> = entries.map(change).collect();
        changes.sort_by(|one, other| one.path.cmp(&other.path));
        changes
    }

    /// For each of `digests`, a file that has that content, if any has.
    pub fn find(&self, digests: &[Digest]) -> HashMap<Digest, KnownFile> {
        let mut wanted: HashSet<Digest> = digests.iter().copied().collect();
        let mut found = HashMap::new();
        for (above, directory) in &self.directories {
            for (name, entry) in &directory.entries {
                if let Entry::File { digest, fingerprint, .. } = entry
                    && wanted.remove(digest)
                {
                    let (root, path, fingerprint) = (self.root.clone(), above.join(name), *fingerprint);
                    found.insert(*digest, KnownFile { root, path, fingerprint });
                }
            }
        }
        found
    }

    /// All that is there and is not sent.
    pub fn unsent(&self) -> impl Iterator<Item = Unsent> {
        self.directories.iter().flat_map(|(above, directory)| {
            directory.entries.iter().filter_map(|(name, entry)| match entry {
                Entry::Unsent { why, .. } => Some(Unsent { path: above.join(name), why: why.clone() }),
                Entry::Directory | Entry::File { .. } | Entry::Link { .. } => None,
            })
        })
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
                    self.kept.remove(&known);
                }
                None
            }
            Installed::Directory(fingerprint) => {
                self.kept.remove(path);
                let rules = self.directories.get(&parent).map(|above| Arc::clone(&above.rules));
                let directory = self.directories.entry(path.clone()).or_insert_with(|| Directory {
                    fingerprint,
                    is_settled: false,
                    watch: None,
                    rules: rules.unwrap_or_default(),
                    entries: Vec::new(),
                });
                (directory.fingerprint, directory.is_settled) = (fingerprint, false);
                Some(Entry::Directory)
            }
            Installed::File { fingerprint, is_settled, digest } => {
                Some(Entry::File { fingerprint, is_settled, watch: None, digest })
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

    /// Takes for known that the other side has no directory at `path`, and this one keeps it.
    pub(super) fn stays(&mut self, path: &TreePath) {
        if let Some(directory) = self.directories.get_mut(path) {
            directory.is_settled = false;
            self.kept.insert(path.clone());
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
                Some(Entry::Directory | Entry::Unsent { .. }) | None => false,
            },
            (None | Some(_), _) => false,
        }
    }

    /// All that is known to be in the directory `path`, in order.
    pub(super) fn inside(&self, path: &TreePath) -> Vec<TreePath> {
        let mut inside: Vec<_> = self.entries_in(path).map(|(known, ..)| known).collect();
        inside.sort();
        inside
    }

    /// How many files, directories and symlinks there are.
    pub fn len(&self) -> usize {
        let entries = self.directories.values().flat_map(|directory| &directory.entries);
        entries.filter(|(_, entry)| !matches!(entry, Entry::Unsent { .. })).count()
    }

    /// How many bytes the files have together; one with several names counts for each.
    pub fn size_bytes(&self) -> u64 {
        let entries = self.directories.values().flat_map(|directory| &directory.entries);
        let sizes = entries.map(|(_, entry)| match entry {
            Entry::File { digest, .. } => digest.size_bytes(),
            Entry::Directory | Entry::Link { .. } | Entry::Unsent { .. } => 0,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// Whether nobody has looked yet.
    pub(super) fn is_new(&self) -> bool {
        self.directories.is_empty()
    }

    /// Whether nothing is there, or nobody has looked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    /// What it is, unless that is a directory, which has an entry of its own, or is not known.
    fn node(&self) -> Option<Node> {
        match self {
            Entry::File { fingerprint, digest, .. } => {
                Some(Node::File { digest: *digest, mode: fingerprint.permissions() })
            }
            Entry::Link { target, .. } => Some(Node::Link { target: target.clone() }),
            Entry::Directory | Entry::Unsent { .. } => None,
        }
    }

    fn modified_nanos(&self) -> Option<i128> {
        match self {
            Entry::File { fingerprint, .. } | Entry::Link { fingerprint, .. } => {
                Some(fingerprint.modified_nanos())
            }
            Entry::Directory | Entry::Unsent { .. } => None,
        }
    }
}

impl Directory {
    /// Takes in what some of its names are, in order; None: nothing any more.
    pub(super) fn put(&mut self, entries: Vec<(OsString, Option<Entry>)>) {
        let is_known = |name: &OsStr| entries.binary_search_by(|(new, _)| new.as_os_str().cmp(name)).is_err();
        self.entries.retain(|(name, _)| is_known(name));
        // Its names have changed since they were read.
        self.is_settled &= entries.iter().all(|(_, entry)| entry.is_some());
        self.entries.extend(entries.into_iter().filter_map(|(name, entry)| Some((name, entry?))));
        self.entries.sort_by(|(one, _), (two, _)| one.cmp(two));
    }

    fn position(&self, name: &OsStr) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| known.as_os_str().cmp(name))
    }
}

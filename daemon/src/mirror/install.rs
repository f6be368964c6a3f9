//! Puts what has changed in another machine's tree into place here.
//! Knows nothing of how the changes came.
//!
//! The other machine may be hostile: no path leads out of the root, and no symlink is followed on the way to one. What somebody
//! here has changed since the snapshot is a conflict, unless it is what the other side has made of it, too: that is looked for
//! before anything is done, and once more when each name is taken away or given to another file. Where nobody but the caller
//! changes anything, there are no conflicts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Change;
use crate::mirror::Node;
use crate::mirror::RootedChange;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::look::errno;
use crate::mirror::look::is_gone;
use crate::mirror::put;
use crate::mirror::snapshot::Installed;
use crate::mirror::stamps;
use crate::mirror::stamps::Span;

/// How the names of files begin that are not in their places yet.
pub(super) const TEMPORARY: &str = ".farcc-tmp-";

/// Where the content of files comes from.
pub trait Contents {
    /// Makes a new regular file `name` in `directory` that has the content with this digest and is to come to `path` in the root
    /// at position `root`: written, cloned, linked or renamed there. `false` when the content is not to be had.
    ///
    /// # Errors
    /// When it cannot be read or written.
    fn stage(
        &self,
        root: u32,
        path: &TreePath,
        digest: &Digest,
        directory: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<bool>;
}

/// How changes are put into place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Where somebody works: what was changed here since the snapshot is a conflict. Files that were written get times from this
    /// machine's clock, in the order in which they were written; all others keep theirs.
    Workspace {
        /// When it was looked at what the other side has made these changes of ([`Snapshot::present`]). The times follow at once,
        /// so that what was written here since is younger, and Make takes nothing for new that was made of what was there before.
        /// None: they are later than all that is there.
        seen_at: Option<i128>,
    },
    /// Where nobody but the caller changes anything: whatever is in the way goes. Times as in a workspace.
    Mirror,
    /// As in a mirror, but the files were written here: they keep their times, and those that were staged as names of one file
    /// stay so.
    Commit,
}

/// Why changes were not put into place, or not all.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Both sides have changed this. If it was changed while others were put into place, those are.
    #[error("{} was changed here as well as there: remove or rename it, and do it again", .0.display())]
    Conflict(PathBuf),
    /// There is no such root. Nothing was put into place.
    #[error("there is no root {0}")]
    NoRoot(u32),
    /// The changes make no tree: this path is in no directory, or there twice. Nothing was put into place.
    #[error("{} cannot be put into place: the changes make no tree", .0.display())]
    NoTree(PathBuf),
    /// It is to keep a content that it does not have here. Nothing was put into place.
    #[error("{} has other content here than there", .0.display())]
    Unknown(PathBuf),
    /// A symlink that leads out of the workspace. Nothing was put into place.
    #[error("{} is a symlink to {}, outside of the workspace", path.display(), Path::new(target).display())]
    Outside {
        /// Where it is.
        path: PathBuf,
        /// What is in it.
        target: OsString,
    },
    /// The content of this file is not to be had. Nothing was put into place.
    #[error("the content of {} is not to be had", .0.display())]
    Gone(PathBuf),
    /// A system call failed; what came before is in place.
    #[error("write {}: {error}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl Manner {
    pub(super) fn is_workspace(self) -> bool {
        matches!(self, Manner::Workspace { .. })
    }
}

impl InstallError {
    /// Whether there was no room on the disk, or no more than the user may have.
    pub fn is_full(&self) -> bool {
        match self {
            InstallError::Failed { error, .. } => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Puts `changes` into place in the trees of the snapshots, each a workspace's root at its position, which then know them. There
/// is one order of writing over all of them.
///
/// Everything is checked, and all content is written to disk beside its place, before the first name changes.
///
/// # Errors
/// [`InstallError`]; only with [`InstallError::Failed`] and [`InstallError::Conflict`] may some of the changes be in place.
pub fn install(
    trees: &mut [Snapshot],
    changes: &[RootedChange],
    contents: &dyn Contents,
    manner: Manner,
) -> Result<(), InstallError> {
    let mut parts = parts(trees, changes, manner)?;
    for part in &mut parts {
        for change in part.changes() {
            part.check(change)?;
        }
    }
    let mut staged = Vec::new();
    let made = parts.iter().try_for_each(|part| part.stage(contents, &mut staged));
    let done = made.and_then(|()| put(&mut parts, &mut staged));
    for Staged { part, temporary, .. } in &staged {
        // What is in its place has another name by now.
        if let Ok(directory) = parts[*part].staged_in(temporary) {
            let _ = rustix::fs::unlinkat(&directory, temporary.name(), AtFlags::empty());
        }
    }
    done
}

/// The trees in which something changes, with the changes by path, which each has once; the root stays a directory.
fn parts<'a>(
    trees: &'a mut [Snapshot],
    changes: &'a [RootedChange],
    manner: Manner,
) -> Result<Vec<Part<'a>>, InstallError> {
    let mut ordered: BTreeMap<u32, BTreeMap<&TreePath, &Change>> = BTreeMap::new();
    let tree = |root: u32| usize::try_from(root).ok().and_then(|root| trees.get(root));
    for RootedChange { root, change } in changes {
        let tree = tree(*root).ok_or(InstallError::NoRoot(*root))?;
        let is_root = change.path.as_bytes().is_empty();
        let may_be = !is_root || matches!(change.now, Some(Node::Directory { .. }));
        if ordered.entry(*root).or_default().insert(&change.path, change).is_some() || !may_be {
            return Err(InstallError::NoTree(change.path.below(tree.root())));
        }
    }
    let mut parts = Vec::new();
    for (root, snapshot) in (0_u32..).zip(trees) {
        let Some(changes) = ordered.remove(&root) else { continue };
        let path = snapshot.root().to_owned();
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|error| InstallError::Failed { path: path.to_owned(), error: error.into() })
        };
        let (open, staging) = (open(&path)?, snapshot.staging().map(open).transpose()?);
        parts.push(Part { at: parts.len(), root, path, open, staging, snapshot, changes, manner });
    }
    Ok(parts)
}

/// Changes the names.
fn put(parts: &mut [Part<'_>], staged: &mut [Staged]) -> Result<(), InstallError> {
    // The order of writing.
    staged.sort_by_key(|file| file.written);
    let count = staged.chunk_by(|one, two| one.written == two.written).count();
    let seen_at = match parts.first().map(|part| part.manner) {
        None | Some(Manner::Commit) => None,
        Some(Manner::Mirror) => Some(None),
        Some(Manner::Workspace { seen_at }) => Some(seen_at),
    };
    let span = match seen_at.filter(|_| count > 0) {
        Some(seen_at) => Some(ticks(parts, seen_at, count)?),
        None => None,
    };
    for part in parts.iter_mut() {
        part.put_all_but_files()?;
    }
    for (rank, files) in staged.chunk_by(|one, two| one.written == two.written).enumerate() {
        for file in files {
            parts[file.part].put_file(file, span.map(|span| span.stamp(rank, count)))?;
        }
    }
    Ok(())
}

/// Two moments by the clocks of all trees, with room for `count` stamps between them; the first one is `seen_at`, if that is known.
fn ticks(parts: &[Part<'_>], seen_at: Option<i128>, count: usize) -> Result<Span, InstallError> {
    let tick = |part: &Part<'_>, last| {
        stamps::tick(part.snapshot.staging().unwrap_or(&part.path), last)
            .map_err(|error| part.failed(&TreePath::root(), error))
    };
    let (mut first, mut second) = (0, i128::MAX);
    for part in parts {
        first = first.max(tick(part, 0)?);
    }
    // A clock that was set back meanwhile knows no such moment.
    let seen_at = seen_at.filter(|moment| *moment <= first);
    first = seen_at.unwrap_or(first);
    for part in parts {
        second = second.min(tick(part, first + i128::try_from(count).unwrap_or(i128::MAX / 2))?);
    }
    let span = Span { first, second };
    Ok(if seen_at.is_some() { span.beginning(count) } else { span })
}

/// A file whose content is there, under another name.
pub(super) struct Staged {
    /// The position of its tree among those in which something changes.
    part: usize,
    pub(super) path: TreePath,
    pub(super) temporary: TreePath,
    pub(super) digest: Digest,
    written: i128,
}

/// A tree in which something changes.
pub(super) struct Part<'a> {
    /// Its position among them.
    at: usize,
    /// The position of its root in the workspace.
    root: u32,
    path: PathBuf,
    pub(super) open: OwnedFd,
    /// Where files are made whole; None: beside their places.
    staging: Option<OwnedFd>,
    pub(super) snapshot: &'a mut Snapshot,
    changes: BTreeMap<&'a TreePath, &'a Change>,
    pub(super) manner: Manner,
}

impl<'a> Part<'a> {
    /// What changes, directories before what is in them.
    pub(super) fn changes(&self) -> Vec<&'a Change> {
        self.changes.values().copied().collect()
    }

    pub(super) fn full(&self, path: &TreePath) -> PathBuf {
        path.below(&self.path)
    }

    pub(super) fn failed(&self, path: &TreePath, error: impl Into<io::Error>) -> InstallError {
        InstallError::Failed { path: self.full(path), error: error.into() }
    }

    /// Opens a directory to which no symlink leads.
    pub(super) fn directory(&self, path: &TreePath) -> Result<OwnedFd, InstallError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = rustix::fs::openat2(&self.open, path.as_path(), flags, Mode::empty(), resolve);
        open.map_err(|error| self.failed(path, error))
    }

    /// Opens the directory that `path` is in.
    pub(super) fn parent(&self, path: &TreePath) -> Result<OwnedFd, InstallError> {
        self.directory(&path.parent().unwrap_or_default())
    }

    /// Whether what is here is what the snapshot says, and what is to come may be there.
    fn check(&mut self, change: &Change) -> Result<(), InstallError> {
        let path = &change.path;
        match &change.now {
            Some(Node::Link { target })
                if self.manner.is_workspace() && !self.snapshot.scope.admits(path, target) =>
            {
                return Err(InstallError::Outside { path: self.full(path), target: target.clone() });
            }
            Some(Node::File { digest, .. }) if change.written.is_none() => match self.snapshot.node(path) {
                Some(Node::File { digest: known, .. }) if known == *digest => {}
                _ => return Err(InstallError::Unknown(self.full(path))),
            },
            _ => {}
        }
        if change.now.is_some() && !self.makes_tree(path) {
            return Err(InstallError::NoTree(self.full(path)));
        }
        match self.manner {
            Manner::Workspace { .. } => {
                self.check_above(change)?;
                self.check_conflicts(change)
            }
            Manner::Mirror | Manner::Commit => Ok(()),
        }
    }

    /// Whether something may come to `path`: it will be in a directory.
    fn makes_tree(&self, path: &TreePath) -> bool {
        let Some(parent) = path.parent() else { return true };
        let is_directory = |node: &Node| matches!(node, Node::Directory { .. });
        let is_there = match self.changes.get(&parent) {
            Some(change) => change.now.as_ref().is_some_and(is_directory),
            None => self.snapshot.node(&parent).as_ref().is_some_and(is_directory),
        };
        let is_gone = |above: &TreePath| {
            self.changes.get(above).is_some_and(|change| !change.now.as_ref().is_some_and(is_directory))
        };
        let is_removed = std::iter::successors(Some(parent), TreePath::parent).any(|above| is_gone(&above));
        is_there && !is_removed && !path.name().as_bytes().starts_with(TEMPORARY.as_bytes())
    }

    /// Whether nobody has removed here what something is to come into.
    fn check_above(&self, change: &Change) -> Result<(), InstallError> {
        if change.now.is_none() {
            return Ok(());
        }
        let mut above = std::iter::successors(change.path.parent(), TreePath::parent);
        let Some(above) = above.find(|above| !self.changes.contains_key(above)) else { return Ok(()) };
        match self.directory(&above) {
            Err(InstallError::Failed { error, .. }) if is_gone(errno(&error)) => {
                Err(InstallError::Conflict(self.full(&above)))
            }
            opened => opened.map(drop),
        }
    }

    /// Whether nobody has changed here what is changed there as well, unless to the same.
    fn check_conflicts(&mut self, change: &Change) -> Result<(), InstallError> {
        let path = &change.path;
        if !self.snapshot.is_as_known(&self.open, path) {
            let there = self.there(&change.now, path).map_err(|error| self.failed(path, error))?;
            let there = there.ok_or_else(|| InstallError::Conflict(self.full(path)))?;
            // The other side knows it, so that it is no change of this one.
            self.snapshot.installed(path, there);
        }
        let is_directory = |node: &Option<Node>| matches!(node, Some(Node::Directory { .. }));
        if !is_directory(&self.snapshot.node(path)) || is_directory(&change.now) {
            return Ok(());
        }
        for inside in self.snapshot.inside(path) {
            if !self.snapshot.is_as_known(&self.open, &inside) && !self.is_nothing(&inside) {
                return Err(InstallError::Conflict(self.full(&inside)));
            }
        }
        match &change.now {
            None => Ok(()),
            // What is only here would be lost.
            Some(_) => match self.unknown_in(path).map_err(|error| self.failed(path, error))? {
                Some(unknown) => Err(InstallError::Conflict(self.full(&unknown))),
                None => Ok(()),
            },
        }
    }

    fn is_nothing(&self, path: &TreePath) -> bool {
        let there = Fingerprint::of_entry(&self.open, path.as_path().as_os_str());
        there.is_err_and(|error| is_gone(errno(&error)))
    }

    /// What is at `path`, if that is `wanted`.
    fn there(&self, wanted: &Option<Node>, path: &TreePath) -> io::Result<Option<Installed>> {
        if self.is_nothing(path) {
            return Ok(wanted.is_none().then_some(Installed::Nothing));
        }
        let name = path.as_path().as_os_str();
        let fingerprint = Fingerprint::of_entry(&self.open, name)?;
        Ok(match wanted {
            Some(Node::Directory { .. }) if fingerprint.is_directory() => {
                Some(Installed::Directory(fingerprint))
            }
            Some(Node::Link { target }) if fingerprint.is_symlink() => {
                let there = rustix::fs::readlinkat(&self.open, name, Vec::new())?;
                (there.as_bytes() == target.as_bytes()).then(|| Installed::Link(fingerprint, target.clone()))
            }
            Some(Node::File { digest, mode })
                if fingerprint.is_regular()
                    && fingerprint.permissions() == mode & 0o777
                    && fingerprint.size_bytes() == digest.size_bytes() =>
            {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let open = rustix::fs::openat2(&self.open, name, flags, Mode::empty(), resolve)?;
                let mut file = File::from(open);
                let is_same =
                    Digest::of_reader(&mut file)? == *digest && Fingerprint::of_open(&file)? == fingerprint;
                is_same.then_some(Installed::File { fingerprint, is_settled: false, digest: *digest })
            }
            None | Some(_) => None,
        })
    }

    /// Something in the directory `path` that is not known, if there is any.
    fn unknown_in(&self, path: &TreePath) -> io::Result<Option<TreePath>> {
        let mut left = vec![path.clone()];
        while let Some(directory) = left.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let open = rustix::fs::openat2(&self.open, directory.as_path(), flags, Mode::empty(), resolve)?;
            for entry in Dir::new(open)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                let inside = directory.join(name);
                match self.snapshot.node(&inside) {
                    _ if matches!(name.as_bytes(), b"." | b"..") => {}
                    Some(Node::Directory { .. }) => left.push(inside),
                    Some(Node::File { .. } | Node::Link { .. }) => {}
                    None => return Ok(Some(inside)),
                }
            }
        }
        Ok(None)
    }

    /// Has the content of all files put beside where they go, or as near as there are directories.
    fn stage(&self, contents: &dyn Contents, staged: &mut Vec<Staged>) -> Result<(), InstallError> {
        for (&path, change) in &self.changes {
            let (Some(Node::File { digest, mode }), Some(written)) = (&change.now, change.written) else {
                continue;
            };
            let is_directory =
                |above: &TreePath| matches!(self.snapshot.node(above), Some(Node::Directory { .. }));
            let near = std::iter::successors(path.parent(), TreePath::parent).find(is_directory);
            let name = temporary_name();
            let near = near.filter(|_| self.staging.is_none());
            let temporary = near.unwrap_or_default().join(&name);
            let directory = self.staged_in(&temporary)?;
            staged.push(Staged { part: self.at, path: path.clone(), temporary, digest: *digest, written });
            let is_there = contents.stage(self.root, path, digest, directory.as_fd(), &name);
            if !is_there.map_err(|error| self.failed(path, error))? {
                return Err(InstallError::Gone(self.full(path)));
            }
            self.own(&directory, &name, *mode).map_err(|error| self.failed(path, error))?;
        }
        Ok(())
    }

    /// The directory in which a file is made whole.
    pub(super) fn staged_in(&self, temporary: &TreePath) -> Result<OwnedFd, InstallError> {
        match &self.staging {
            Some(staging) => staging.try_clone().map_err(|error| self.failed(temporary, error)),
            None => self.parent(temporary),
        }
    }

    /// Sets the permissions of a file that was staged.
    fn own(&self, directory: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<()> {
        // Not to read from it: it may be that nobody may.
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let metadata = File::from(open.try_clone()?).metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("what was staged is no regular file"));
        }
        if metadata.nlink() > 1 && self.manner != Manner::Commit {
            // Permissions and times would be those of its other names, too.
            return put::copy(directory, name, name, mode).map(drop);
        }
        if metadata.mode() & 0o7777 != mode & 0o777 {
            rustix::fs::chmod(format!("/proc/self/fd/{}", open.as_raw_fd()), permissions(mode))?;
        }
        Ok(())
    }
}

/// A name that nothing has.
pub(super) fn temporary_name() -> OsString {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // Random: a process with the same number may have been killed here.
    static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    format!("{TEMPORARY}{:016x}-{}", *RUN, COUNTER.fetch_add(1, Ordering::Relaxed)).into()
}

pub(super) fn set_time(directory: &OwnedFd, name: &OsStr, stamp: i128) -> rustix::io::Result<()> {
    let seconds = i64::try_from(stamp.div_euclid(1_000_000_000)).unwrap_or_default();
    let nanos = i64::try_from(stamp.rem_euclid(1_000_000_000)).unwrap_or_default();
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Permission bits alone: no set-user-ID and its kin.
pub(super) fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

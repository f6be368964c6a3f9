//! Puts what has changed in another machine's tree into place here.
//! Knows nothing of how the changes came.
//!
//! The other machine may be hostile: no path leads out of the root, and no symlink is followed on the way to one. What somebody
//! here has changed since the snapshot is a conflict, which is looked for before anything is done, and once more right before
//! each name is taken away or given to another file; what is written between that look and the rename is lost. Where nobody but
//! the caller changes anything, there are no conflicts.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::fs::Metadata;
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
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::io::Errno;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Change;
use crate::mirror::Node;
use crate::mirror::RootedChange;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::snapshot::Installed;
use crate::mirror::stamps;

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
    /// machine's clock, in the order in which they were written and later than all that is there; all others keep theirs.
    Workspace,
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
    for part in &parts {
        for change in part.changes.values() {
            part.check(change)?;
        }
    }
    let mut staged = Vec::new();
    let made = parts.iter().try_for_each(|part| part.stage(contents, &mut staged));
    let done = made.and_then(|()| put(&mut parts, &mut staged));
    for Staged { part, temporary, .. } in &staged {
        // What is in its place has another name by now.
        if let Ok(directory) = parts[*part].directory(&temporary.parent().unwrap_or_default()) {
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
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| InstallError::Failed { path: path.clone(), error: error.into() })?;
        parts.push(Part { at: parts.len(), root, path, open, snapshot, changes, manner });
    }
    Ok(parts)
}

/// Changes the names.
fn put(parts: &mut [Part<'_>], staged: &mut [Staged]) -> Result<(), InstallError> {
    let is_stamped = parts.iter().any(|part| part.manner != Manner::Commit) && !staged.is_empty();
    let span = if is_stamped { Some(ticks(parts)?) } else { None };
    for part in parts.iter_mut() {
        part.put_all_but_files()?;
    }
    // The order of writing.
    staged.sort_by_key(|file| file.written);
    let count = staged.chunk_by(|one, two| one.written == two.written).count();
    for (rank, files) in staged.chunk_by(|one, two| one.written == two.written).enumerate() {
        for file in files {
            let stamp = span.map(|(first, second)| stamps::stamp(rank, count, first, second));
            parts[file.part].put_file(file, stamp)?;
        }
    }
    Ok(())
}

/// Two moments by the clocks of all trees: whatever was written there by now is no younger than the first, whatever will be is no
/// older than the second.
fn ticks(parts: &[Part<'_>]) -> Result<(i128, i128), InstallError> {
    let tick = |part: &Part<'_>, last| {
        stamps::tick(&part.path, last).map_err(|error| part.failed(&TreePath::root(), error))
    };
    let (mut first, mut second) = (0, i128::MAX);
    for part in parts {
        first = first.max(tick(part, 0)?);
    }
    for part in parts {
        second = second.min(tick(part, first)?);
    }
    Ok((first, second))
}

/// A file whose content is there, under another name.
struct Staged {
    /// The position of its tree among those in which something changes.
    part: usize,
    path: TreePath,
    temporary: TreePath,
    digest: Digest,
    written: i128,
}

/// A tree in which something changes.
struct Part<'a> {
    /// Its position among them.
    at: usize,
    /// The position of its root in the workspace.
    root: u32,
    path: PathBuf,
    open: OwnedFd,
    snapshot: &'a mut Snapshot,
    changes: BTreeMap<&'a TreePath, &'a Change>,
    manner: Manner,
}

impl Part<'_> {
    fn full(&self, path: &TreePath) -> PathBuf {
        path.below(&self.path)
    }

    fn failed(&self, path: &TreePath, error: impl Into<io::Error>) -> InstallError {
        InstallError::Failed { path: self.full(path), error: error.into() }
    }

    /// Opens a directory to which no symlink leads.
    fn directory(&self, path: &TreePath) -> Result<OwnedFd, InstallError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = rustix::fs::openat2(&self.open, path.as_path(), flags, Mode::empty(), resolve);
        open.map_err(|error| self.failed(path, error))
    }

    /// Opens the directory that `path` is in.
    fn parent(&self, path: &TreePath) -> Result<OwnedFd, InstallError> {
        self.directory(&path.parent().unwrap_or_default())
    }

    /// Whether what is here is what the snapshot says, and what is to come may be there.
    fn check(&self, change: &Change) -> Result<(), InstallError> {
        let (snapshot, changes) = (&*self.snapshot, &self.changes);
        let path = &change.path;
        match &change.now {
            Some(Node::Link { target })
                if self.manner == Manner::Workspace && !snapshot.scope.admits(path, target) =>
            {
                return Err(InstallError::Outside { path: self.full(path), target: target.clone() });
            }
            Some(Node::File { digest, .. }) if change.written.is_none() => match snapshot.node(path) {
                Some(Node::File { digest: known, .. }) if known == *digest => {}
                _ => return Err(InstallError::Unknown(self.full(path))),
            },
            _ => {}
        }
        if let (Some(parent), Some(_)) = (path.parent(), &change.now) {
            let is_directory = |node: &Node| matches!(node, Node::Directory { .. });
            let there = match changes.get(&parent) {
                Some(change) => change.now.as_ref().is_some_and(is_directory),
                None => snapshot.node(&parent).as_ref().is_some_and(is_directory),
            };
            let is_gone = |above: &TreePath| {
                changes.get(above).is_some_and(|change| !change.now.as_ref().is_some_and(is_directory))
            };
            let is_removed =
                std::iter::successors(Some(parent), TreePath::parent).any(|above| is_gone(&above));
            if !there || is_removed || path.name().as_bytes().starts_with(TEMPORARY.as_bytes()) {
                return Err(InstallError::NoTree(self.full(path)));
            }
        }
        if self.manner != Manner::Workspace {
            return Ok(());
        }
        let is_directory = |node: &Option<Node>| matches!(node, Some(Node::Directory { .. }));
        let is_replaced = is_directory(&snapshot.node(path)) && !is_directory(&change.now);
        let inside = if is_replaced { snapshot.inside(path) } else { Vec::new() };
        match [path].into_iter().chain(&inside).find(|path| !snapshot.is_as_known(&self.open, path)) {
            Some(path) => Err(InstallError::Conflict(self.full(path))),
            None => Ok(()),
        }
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
            let temporary = near.unwrap_or_default().join(&name);
            let directory = self.parent(&temporary)?;
            staged.push(Staged { part: self.at, path: path.clone(), temporary, digest: *digest, written });
            let is_there = contents.stage(self.root, path, digest, directory.as_fd(), &name);
            if !is_there.map_err(|error| self.failed(path, error))? {
                return Err(InstallError::Gone(self.full(path)));
            }
            self.own(&directory, &name, *mode).map_err(|error| self.failed(path, error))?;
        }
        Ok(())
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
            return part(directory, name, name, &metadata, mode).map(drop);
        }
        if metadata.mode() & 0o7777 != mode & 0o777 {
            rustix::fs::chmod(format!("/proc/self/fd/{}", open.as_raw_fd()), permissions(mode))?;
        }
        Ok(())
    }

    /// Puts everything into place but the files that were written.
    fn put_all_but_files(&mut self) -> Result<(), InstallError> {
        let changes: Vec<&Change> = self.changes.values().copied().collect();
        // From the leaves on, so that directories are empty.
        for change in changes.iter().rev() {
            self.clear(change)?;
        }
        for Change { path, now, written } in changes {
            match now {
                Some(Node::Directory { mode }) => self.make_directory(path, *mode)?,
                Some(Node::Link { target }) => self.make_link(path, target)?,
                Some(Node::File { digest, mode }) if written.is_none() => {
                    self.set_mode(path, *digest, *mode)?;
                }
                Some(Node::File { .. }) | None => {}
            }
        }
        Ok(())
    }

    /// Removes what is in the way.
    fn clear(&mut self, change: &Change) -> Result<(), InstallError> {
        let path = &change.path;
        let is_directory = match self.manner {
            Manner::Workspace => match self.snapshot.node(path) {
                None => return Ok(()),
                Some(Node::Directory { .. }) => true,
                Some(Node::File { .. } | Node::Link { .. }) => false,
            },
            // What is there, whether it is known or not.
            Manner::Mirror | Manner::Commit => {
                match Fingerprint::of_entry(&self.open, path.as_path().as_os_str()) {
                    Ok(there) => there.is_directory(),
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                    {
                        self.snapshot.installed(path, Installed::Nothing);
                        return Ok(());
                    }
                    Err(error) => return Err(self.failed(path, error)),
                }
            }
        };
        let is_in_the_way = match &change.now {
            None => true,
            Some(Node::Directory { .. }) => !is_directory,
            Some(Node::Link { .. }) => true,
            Some(Node::File { .. }) => is_directory,
        };
        if !is_in_the_way {
            return Ok(());
        }
        if self.manner != Manner::Workspace {
            return self.remove_all(path, is_directory);
        }
        if is_directory {
            for inside in self.snapshot.inside(path).into_iter().rev() {
                self.remove(&inside)?;
            }
        }
        self.remove(path)
    }

    /// Removes what is there, and if it is a directory, all that is in it.
    fn remove_all(&mut self, path: &TreePath, is_directory: bool) -> Result<(), InstallError> {
        let parent = self.parent(path)?;
        let removed = match is_directory {
            true => {
                // No symlink is followed on the way down.
                let directory = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
                std::fs::remove_dir_all(directory.join(path.name()))
            }
            false => rustix::fs::unlinkat(&parent, path.name(), AtFlags::empty()).map_err(io::Error::from),
        };
        removed.map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::Nothing);
        Ok(())
    }

    /// Removes what is known.
    fn remove(&mut self, path: &TreePath) -> Result<(), InstallError> {
        let is_directory = matches!(self.snapshot.node(path), Some(Node::Directory { .. }));
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        if !self.snapshot.is_as_known(&self.open, path) {
            return Err(InstallError::Conflict(self.full(path)));
        }
        let directory = self.parent(path)?;
        match rustix::fs::unlinkat(&directory, path.name(), flags) {
            // There is more in it, of which the other side knows nothing.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(self.failed(path, error)),
        }
        self.snapshot.installed(path, Installed::Nothing);
        Ok(())
    }

    fn make_directory(&mut self, path: &TreePath, mode: u32) -> Result<(), InstallError> {
        if path.as_bytes().is_empty() {
            return Ok(());
        }
        let parent = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, path.name(), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.failed(path, error)),
        }
        // What has the name by now may be a symlink.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = rustix::fs::openat(&parent, path.name(), flags, Mode::empty());
        let open = open.map_err(|error| self.failed(path, error))?;
        rustix::fs::fchmod(&open, permissions(mode | 0o700)).map_err(|error| self.failed(path, error))?;
        let fingerprint = Fingerprint::of_open(&open).map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::Directory(fingerprint));
        Ok(())
    }

    fn make_link(&mut self, path: &TreePath, target: &OsString) -> Result<(), InstallError> {
        let directory = self.parent(path)?;
        rustix::fs::symlinkat(target.as_os_str(), &directory, path.name())
            .map_err(|error| self.failed(path, error))?;
        let fingerprint = Fingerprint::of_entry(&directory, path.name());
        let fingerprint = fingerprint.map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::Link(fingerprint, target.clone()));
        Ok(())
    }

    /// Gives a file other permissions.
    fn set_mode(&mut self, path: &TreePath, digest: Digest, mode: u32) -> Result<(), InstallError> {
        let directory = self.parent(path)?;
        let set = (|| {
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let open = rustix::fs::openat(&directory, path.name(), flags, Mode::empty())?;
            let metadata = File::from(open.try_clone()?).metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            if metadata.nlink() > 1 {
                // Its other names may lie anywhere, and are none of the other side's business.
                return part(&directory, path.name(), &temporary_name(), &metadata, mode);
            }
            rustix::fs::chmod(format!("/proc/self/fd/{}", open.as_raw_fd()), permissions(mode))?;
            Fingerprint::of_open(&open)
        })();
        let fingerprint = set.map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::File(fingerprint, digest));
        Ok(())
    }

    fn put_file(&mut self, staged: &Staged, stamp: Option<i128>) -> Result<(), InstallError> {
        let Staged { path, temporary, digest, .. } = staged;
        let failed = |error: Errno| self.failed(path, error);
        let from = self.parent(temporary)?;
        let to = self.parent(path)?;
        if let Some(stamp) = stamp {
            set_time(&from, temporary.name(), stamp).map_err(failed)?;
        }
        // Somebody may have written to it since the check.
        if self.manner == Manner::Workspace && !self.snapshot.is_as_known(&self.open, path) {
            return Err(InstallError::Conflict(self.full(path)));
        }
        rustix::fs::renameat(&from, temporary.name(), &to, path.name()).map_err(failed)?;
        let fingerprint =
            Fingerprint::of_entry(&to, path.name()).map_err(|error| self.failed(path, error))?;
        self.snapshot.installed(path, Installed::File(fingerprint, *digest));
        Ok(())
    }
}

/// Gives a name a file of its own, with the same content and time as what it has now.
fn part(
    directory: &OwnedFd,
    name: &OsStr,
    temporary: &OsStr,
    metadata: &Metadata,
    mode: u32,
) -> io::Result<Fingerprint> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = rustix::fs::openat(directory, name, flags | OFlags::RDONLY, Mode::empty());
    let mut file = File::from(open?);
    if temporary == name {
        rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
    }
    let create = flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let mut copy = File::from(rustix::fs::openat(directory, temporary, create, Mode::RUSR | Mode::WUSR)?);
    let parted = (|| {
        io::copy(&mut file, &mut copy)?;
        rustix::fs::fchmod(&copy, permissions(mode))?;
        let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        set_time(directory, temporary, modified)?;
        rustix::fs::renameat(directory, temporary, directory, name)?;
        Fingerprint::of_entry(directory, name)
    })();
    if parted.is_err() {
        let _ = rustix::fs::unlinkat(directory, temporary, AtFlags::empty());
    }
    parted
}

/// A name that nothing has.
fn temporary_name() -> OsString {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    // Random: a process with the same number may have been killed here.
    static RUN: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    format!("{TEMPORARY}{:016x}-{}", *RUN, COUNTER.fetch_add(1, Ordering::Relaxed)).into()
}

fn set_time(directory: &OwnedFd, name: &OsStr, stamp: i128) -> rustix::io::Result<()> {
    let seconds = i64::try_from(stamp.div_euclid(1_000_000_000)).unwrap_or_default();
    let nanos = i64::try_from(stamp.rem_euclid(1_000_000_000)).unwrap_or_default();
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Permission bits alone: no set-user-ID and its kin.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

//! Puts what has changed in another machine's tree into place here.
//! Knows nothing of how the changes came.
//!
//! The other machine may be hostile: no path leads out of the root, and no symlink is followed on the way to one. What somebody
//! here has changed since the snapshot is a conflict, which is looked for before anything is done, and once more right before
//! each name is taken away or given to another file; what is written between that look and the rename is lost.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::hash::BuildHasher;
use std::hash::Hasher;
use std::hash::RandomState;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Component;
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
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::snapshot::Installed;
use crate::mirror::stamps;

/// How the names of files begin that are not in their places yet.
pub(super) const TEMPORARY: &str = ".farcc-tmp-";

/// Where the content of files comes from.
pub trait Blobs {
    /// Writes the bytes with this digest into an empty file; `false` when they are not to be had.
    ///
    /// # Errors
    /// When they cannot be read or written.
    fn write(&self, digest: &Digest, file: &mut File) -> io::Result<bool>;
}

/// Why changes were not put into place, or not all.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Both sides have changed this. If it was changed while others were put into place, those are.
    #[error("{} was changed here as well as there: remove or rename it, and do it again", .0.display())]
    Conflict(PathBuf),
    /// The changes make no tree: this path is in no directory, or there twice. Nothing was put into place.
    #[error("{0} cannot be put into place: the changes make no tree")]
    NoTree(TreePath),
    /// It is to keep a content that it does not have here. Nothing was put into place.
    #[error("{0} has other content here than there")]
    Unknown(TreePath),
    /// A symlink that leads out of the tree. Nothing was put into place.
    #[error("{path} is a symlink to {}, outside of the workspace", Path::new(target).display())]
    Outside {
        /// Where it is.
        path: TreePath,
        /// What is in it.
        target: OsString,
    },
    /// The content of this file is not to be had.
    #[error("the content of {0} is not to be had")]
    Gone(TreePath),
    /// A system call failed; what came before is in place.
    #[error("write {}: {error}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// Puts `changes` into place in the tree of `snapshot`, which then knows them. Files that were written get times from this
/// machine's clock, in the order in which they were written and later than all that is there; all others keep theirs.
///
/// Everything is checked, and all content is written to disk beside its place, before the first name changes.
///
/// # Errors
/// [`InstallError`]; only with [`InstallError::Failed`] and [`InstallError::Conflict`] may some of the changes be in place.
pub fn install(snapshot: &mut Snapshot, changes: &[Change], blobs: &dyn Blobs) -> Result<(), InstallError> {
    let root = snapshot.root().to_owned();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(&root, flags, Mode::empty());
    let open = open.map_err(|error| InstallError::Failed { path: root.clone(), error: error.into() })?;
    let tree = Tree { path: root, root: open };
    let changes = in_order(changes)?;
    for change in changes.values() {
        tree.check(snapshot, &changes, change)?;
    }
    let mut staged = Vec::new();
    let made = tree.stage(snapshot, &changes, blobs, &mut staged);
    let done = made.and_then(|()| tree.put(snapshot, &changes, &staged));
    for Staged { temporary, .. } in &staged {
        // What is in its place has another name by now.
        if let Ok(directory) = tree.directory(&temporary.parent().unwrap_or_default()) {
            let _ = rustix::fs::unlinkat(&directory, temporary.name(), AtFlags::empty());
        }
    }
    done
}

/// By path, which each has once; the root stays a directory.
fn in_order(changes: &[Change]) -> Result<BTreeMap<&TreePath, &Change>, InstallError> {
    let mut ordered = BTreeMap::new();
    for change in changes {
        if ordered.insert(&change.path, change).is_some() {
            return Err(InstallError::NoTree(change.path.clone()));
        }
    }
    match ordered.get(&TreePath::root()).map(|change| &change.now) {
        None | Some(Some(Node::Directory { .. })) => Ok(ordered),
        Some(_) => Err(InstallError::NoTree(TreePath::root())),
    }
}

/// A file whose content is there, under another name.
struct Staged {
    path: TreePath,
    temporary: TreePath,
    digest: Digest,
    written: i128,
}

struct Tree {
    path: PathBuf,
    root: OwnedFd,
}

impl Tree {
    fn failed(&self, path: &TreePath, error: impl Into<io::Error>) -> InstallError {
        InstallError::Failed { path: self.path.join(path.as_path()), error: error.into() }
    }

    /// Opens a directory to which no symlink leads.
    fn directory(&self, path: &TreePath) -> Result<OwnedFd, InstallError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open = rustix::fs::openat2(&self.root, path.as_path(), flags, Mode::empty(), resolve);
        open.map_err(|error| self.failed(path, error))
    }

    /// Whether what is here is what the snapshot says, and what is to come may be there.
    fn check(
        &self,
        snapshot: &Snapshot,
        changes: &BTreeMap<&TreePath, &Change>,
        change: &Change,
    ) -> Result<(), InstallError> {
        let path = &change.path;
        match &change.now {
            Some(Node::Link { target }) if !leads_inside(&self.path, path, target) => {
                return Err(InstallError::Outside { path: path.clone(), target: target.clone() });
            }
            Some(Node::File { digest, .. }) if change.written.is_none() => match snapshot.node(path) {
                Some(Node::File { digest: known, .. }) if known == *digest => {}
                _ => return Err(InstallError::Unknown(path.clone())),
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
                return Err(InstallError::NoTree(path.clone()));
            }
        }
        let is_directory = |node: &Option<Node>| matches!(node, Some(Node::Directory { .. }));
        let is_replaced = is_directory(&snapshot.node(path)) && !is_directory(&change.now);
        let inside = if is_replaced { snapshot.inside(path) } else { Vec::new() };
        match [path].into_iter().chain(&inside).find(|path| !snapshot.is_as_known(&self.root, path)) {
            Some(path) => Err(InstallError::Conflict(self.path.join(path.as_path()))),
            None => Ok(()),
        }
    }

    /// Writes the content of all files beside where they go, or as near as there are directories.
    fn stage(
        &self,
        snapshot: &Snapshot,
        changes: &BTreeMap<&TreePath, &Change>,
        blobs: &dyn Blobs,
        staged: &mut Vec<Staged>,
    ) -> Result<(), InstallError> {
        for (&path, change) in changes {
            let (Some(Node::File { digest, mode }), Some(written)) = (&change.now, change.written) else {
                continue;
            };
            let is_directory =
                |above: &TreePath| matches!(snapshot.node(above), Some(Node::Directory { .. }));
            let near = std::iter::successors(path.parent(), TreePath::parent).find(is_directory);
            let name = temporary_name();
            let temporary = near.unwrap_or_default().join(&name);
            let directory = self.directory(&temporary.parent().unwrap_or_default())?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let open = rustix::fs::openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR);
            let mut file = File::from(open.map_err(|error| self.failed(&temporary, error))?);
            staged.push(Staged { path: path.clone(), temporary, digest: *digest, written });
            if !blobs.write(digest, &mut file).map_err(|error| self.failed(path, error))? {
                return Err(InstallError::Gone(path.clone()));
            }
            rustix::fs::fchmod(&file, permissions(*mode)).map_err(|error| self.failed(path, error))?;
        }
        // The order of writing.
        staged.sort_by_key(|file| file.written);
        Ok(())
    }

    /// Changes the names.
    fn put(
        &self,
        snapshot: &mut Snapshot,
        changes: &BTreeMap<&TreePath, &Change>,
        staged: &[Staged],
    ) -> Result<(), InstallError> {
        // Whatever was written here by now is no younger than the first, whatever will be is no older than the second.
        let failed = |error| InstallError::Failed { path: self.path.clone(), error };
        let (first, second) = match staged.is_empty() {
            true => (0, 0),
            false => {
                let first = stamps::tick(&self.path, 0).map_err(failed)?;
                (first, stamps::tick(&self.path, first).map_err(failed)?)
            }
        };
        // From the leaves on, so that directories are empty.
        for (&path, change) in changes.iter().rev() {
            self.clear(snapshot, path, change)?;
        }
        for (&path, change) in changes {
            match &change.now {
                Some(Node::Directory { mode }) => self.make_directory(snapshot, path, *mode)?,
                Some(Node::Link { target }) => self.make_link(snapshot, path, target)?,
                Some(Node::File { digest, mode }) if change.written.is_none() => {
                    self.set_mode(snapshot, path, *digest, *mode)?;
                }
                Some(Node::File { .. }) | None => {}
            }
        }
        let times: HashSet<i128> = staged.iter().map(|file| file.written).collect();
        let count = times.len();
        let (mut rank, mut before) = (0, None);
        for file in staged {
            if before.is_some_and(|before| before != file.written) {
                rank += 1;
            }
            before = Some(file.written);
            self.put_file(snapshot, file, stamps::stamp(rank, count, first, second))?;
        }
        Ok(())
    }

    /// Removes what is in the way.
    fn clear(&self, snapshot: &mut Snapshot, path: &TreePath, change: &Change) -> Result<(), InstallError> {
        let is_directory = match snapshot.node(path) {
            None => return Ok(()),
            Some(Node::Directory { .. }) => true,
            Some(Node::File { .. } | Node::Link { .. }) => false,
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
        if is_directory {
            for inside in snapshot.inside(path).into_iter().rev() {
                self.remove(snapshot, &inside)?;
            }
        }
        self.remove(snapshot, path)
    }

    fn remove(&self, snapshot: &mut Snapshot, path: &TreePath) -> Result<(), InstallError> {
        let is_directory = matches!(snapshot.node(path), Some(Node::Directory { .. }));
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        if !snapshot.is_as_known(&self.root, path) {
            return Err(InstallError::Conflict(self.path.join(path.as_path())));
        }
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        match rustix::fs::unlinkat(&directory, path.name(), flags) {
            // There is more in it, of which the other side knows nothing.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(self.failed(path, error)),
        }
        snapshot.installed(path, Installed::Nothing);
        Ok(())
    }

    fn make_directory(
        &self,
        snapshot: &mut Snapshot,
        path: &TreePath,
        mode: u32,
    ) -> Result<(), InstallError> {
        if path.as_bytes().is_empty() {
            return Ok(());
        }
        let parent = self.directory(&path.parent().unwrap_or_default())?;
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
        snapshot.installed(path, Installed::Directory(fingerprint));
        Ok(())
    }

    fn make_link(
        &self,
        snapshot: &mut Snapshot,
        path: &TreePath,
        target: &OsString,
    ) -> Result<(), InstallError> {
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        rustix::fs::symlinkat(target.as_os_str(), &directory, path.name())
            .map_err(|error| self.failed(path, error))?;
        let fingerprint = Fingerprint::of_entry(&directory, path.name());
        let fingerprint = fingerprint.map_err(|error| self.failed(path, error))?;
        snapshot.installed(path, Installed::Link(fingerprint, target.clone()));
        Ok(())
    }

    fn set_mode(
        &self,
        snapshot: &mut Snapshot,
        path: &TreePath,
        digest: Digest,
        mode: u32,
    ) -> Result<(), InstallError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        let open = rustix::fs::openat(&directory, path.name(), flags, Mode::empty());
        let open = open.map_err(|error| self.failed(path, error))?;
        let metadata = File::from(open.try_clone().map_err(|error| self.failed(path, error))?).metadata();
        if metadata.map_err(|error| self.failed(path, error))?.nlink() > 1 {
            // Its other names may lie anywhere, and are none of the other side's business.
            return self.part(snapshot, path, digest, mode, File::from(open));
        }
        rustix::fs::fchmod(&open, permissions(mode)).map_err(|error| self.failed(path, error))?;
        let fingerprint = Fingerprint::of_open(&open).map_err(|error| self.failed(path, error))?;
        snapshot.installed(path, Installed::File(fingerprint, digest));
        Ok(())
    }

    /// Gives a name a file of its own, with the same content and time.
    fn part(
        &self,
        snapshot: &mut Snapshot,
        path: &TreePath,
        digest: Digest,
        mode: u32,
        mut file: File,
    ) -> Result<(), InstallError> {
        let failed = |error: io::Error| self.failed(path, error);
        let directory = self.directory(&path.parent().unwrap_or_default())?;
        let name = temporary_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = rustix::fs::openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR);
        let mut copy = File::from(open.map_err(|error| failed(error.into()))?);
        let parted = (|| {
            io::copy(&mut file, &mut copy)?;
            rustix::fs::fchmod(&copy, permissions(mode))?;
            set_time(&directory, &name, Fingerprint::of_open(&file)?.modified_nanos())?;
            rustix::fs::renameat(&directory, &name, &directory, path.name())?;
            Fingerprint::of_entry(&directory, path.name())
        })();
        if parted.is_err() {
            let _ = rustix::fs::unlinkat(&directory, &name, AtFlags::empty());
        }
        snapshot.installed(path, Installed::File(parted.map_err(failed)?, digest));
        Ok(())
    }

    fn put_file(&self, snapshot: &mut Snapshot, staged: &Staged, stamp: i128) -> Result<(), InstallError> {
        let Staged { path, temporary, digest, .. } = staged;
        let failed = |error: Errno| self.failed(path, error);
        let from = self.directory(&temporary.parent().unwrap_or_default())?;
        let to = self.directory(&path.parent().unwrap_or_default())?;
        set_time(&from, temporary.name(), stamp).map_err(failed)?;
        // Somebody may have written to it since the check.
        if !snapshot.is_as_known(&self.root, path) {
            return Err(InstallError::Conflict(self.path.join(path.as_path())));
        }
        rustix::fs::renameat(&from, temporary.name(), &to, path.name()).map_err(failed)?;
        let fingerprint =
            Fingerprint::of_entry(&to, path.name()).map_err(|error| self.failed(path, error))?;
        snapshot.installed(path, Installed::File(fingerprint, *digest));
        Ok(())
    }
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

/// Directories of the image, which both machines have, to which a symlink may lead. Not `/proc`, from where ways lead on.
const IMAGE: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives"];

/// Whether a symlink at `path` in the tree at `root` leads to something in the tree or the image. A directory is left, by `..`,
/// only at the beginning, where it is the symlink's own and those above: any other may be a symlink that leads elsewhere.
fn leads_inside(root: &Path, path: &TreePath, target: &OsStr) -> bool {
    if target == "/dev/null" {
        return true;
    }
    let components = Path::new(target).components();
    let down = components.clone().skip_while(|component| *component == Component::ParentDir);
    let ups = components.count() - down.clone().count();
    if down.into_iter().any(|component| component == Component::ParentDir) {
        return false;
    }
    if Path::new(target).is_absolute() {
        let is_image = IMAGE.iter().any(|directory| Path::new(target).starts_with(directory));
        return is_image || Path::new(target).starts_with(root);
    }
    let depth = std::iter::successors(path.parent(), TreePath::parent).count() - 1;
    ups <= depth
}

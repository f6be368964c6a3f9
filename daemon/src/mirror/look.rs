//! What has changed in a tree since it was last looked at.
//! Knows nothing of who wants to know.
//!
//! Every file's `stat` is asked for each time, unless the kernel would have told of whatever happened to it (see
//! [`watch`](crate::mirror::watch)): nothing less tells of all that can (writes through other names, from other machines). A
//! directory that is as it was has the names that it had, so that it need not be read; all else is done only for what has changed.
//! Several threads share the work.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use rustix::fs::AtFlags;
use rustix::fs::Dir;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use crate::files::Fingerprint;
use crate::listings;
use crate::mirror::Change;
use crate::mirror::Node;
use crate::mirror::RULES_FILE;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::Unsent;
use crate::mirror::WhyUnsent;
use crate::mirror::install::TEMPORARY;
use crate::mirror::read::Seen;
use crate::mirror::read::Unread;
use crate::mirror::rules::Rules;
use crate::mirror::snapshot::Directory;
use crate::mirror::snapshot::Entry;
use crate::mirror::snapshot::Scope;
use crate::mirror::watch::Watcher;

/// How many entries of a directory one thread looks at, at a time.
const SHARE: usize = 512;

/// More threads only wait for each other in the kernel.
const MOST_THREADS: usize = 8;

/// What is deeper is left out: a thread's stack holds no more than twice as many.
const DEEPEST: usize = 400;

/// Files that were to be put into place longer ago than this belong to a process that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Why a tree could not be looked at: its root cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("read {}: {error}", path.display())]
pub struct LookError {
    /// The root.
    pub path: PathBuf,
    /// What the system says.
    pub error: Errno,
}

/// What a look has shown.
#[derive(Debug, Default)]
pub struct Looked {
    /// All that has changed since the last look, directories before what is in them; the first time, all that there is.
    pub changes: Vec<Change>,
    /// Whether other rules hold somewhere than before: what the other side has there may be what nobody has told it of, or what it
    /// was not told is gone. [`Snapshot::all`] tells what there is.
    pub is_ruled_anew: bool,
    /// What cannot be sent and was found in this look. What was known of a file before holds until it can be read; all else is
    /// as if it were not there.
    pub unsent: Vec<Unsent>,
}

/// What became of looking at a new directory.
pub(super) enum Scanned {
    There,
    Gone,
    Unsent(WhyUnsent),
}

/// The names in a directory, in order, each with its inode's number.
type Names = Vec<(OsString, u64)>;

/// What a first look at a directory shows.
enum Finding {
    /// The names in it may be others.
    Names(TreePath),
    /// The entry at this position is not what it was, or cannot be told to be.
    Entry(TreePath, usize),
}

impl Snapshot {
    /// Finds out what has changed since the last look. What rules leave out, and what is neither directory, file nor symlink,
    /// is not there.
    ///
    /// # Errors
    /// [`LookError`]: what was known before is known still.
    pub fn look(&mut self) -> Result<Looked, LookError> {
        // Before anything is looked at.
        if self.watcher.as_mut().is_some_and(|watcher| !watcher.hear()) {
            self.watcher = None;
        }
        let started = (self.clock)();
        let failed = |path: &PathBuf, error| LookError { path: path.clone(), error };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.root, flags, Mode::empty());
        let mut look = Look {
            root: root.map_err(|error| failed(&self.root, error))?,
            snapshot: self,
            started,
            tick: OnceLock::new(),
            unread: Vec::new(),
            abandoned: Vec::new(),
            changes: BTreeMap::new(),
            unsent: BTreeMap::new(),
            next: BTreeMap::new(),
            is_ruled_anew: false,
        };
        look.all();
        look.read_all();
        look.remove_abandoned();
        let Look { changes, unsent, next, is_ruled_anew, .. } = look;
        if let Some(WhyUnsent::Unreadable(error)) = unsent.get(&TreePath::root()) {
            return Err(failed(&self.root, *error));
        }
        for (path, directory) in next {
            match directory {
                Some(directory) => self.directories.insert(path, directory),
                None => self.directories.remove(&path),
            };
        }
        if let Some(watcher) = &mut self.watcher {
            watcher.is_up_to_date();
        }
        let unsent = unsent.into_iter().map(|(path, why)| Unsent { path, why });
        let changes = self.with_kept(changes).into_values().collect();
        Ok(Looked { changes, is_ruled_anew, unsent: unsent.collect() })
    }

    /// The changes, and the directories in which they are if only this side has them.
    fn with_kept(&mut self, mut changes: BTreeMap<TreePath, Change>) -> BTreeMap<TreePath, Change> {
        if self.kept.is_empty() {
            return changes;
        }
        let above = |path: &TreePath| std::iter::successors(Some(path.clone()), TreePath::parent);
        let there = changes.values().filter(|change| change.now.is_some());
        let sent: Vec<_> =
            there.flat_map(|change| above(&change.path)).filter(|path| self.kept.contains(path)).collect();
        for path in sent {
            if let Some(now) = self.node(&path) {
                let change = Change { path: path.clone(), now: Some(now), written: None };
                changes.entry(path.clone()).or_insert(change);
            }
            self.kept.remove(&path);
        }
        self.kept.retain(|path| self.directories.contains_key(path));
        changes
    }
}

/// A look that goes on.
pub(super) struct Look<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) root: OwnedFd,
    pub(super) started: SystemTime,
    /// A device, and a moment by its clock.
    pub(super) tick: OnceLock<Option<(u64, i128)>>,
    pub(super) unread: Vec<Unread>,
    /// Files that were never put into place.
    abandoned: Vec<TreePath>,
    changes: BTreeMap<TreePath, Change>,
    pub(super) unsent: BTreeMap<TreePath, WhyUnsent>,
    /// The directories that are to take the place of what was known.
    pub(super) next: BTreeMap<TreePath, Option<Directory>>,
    is_ruled_anew: bool,
}

impl Look<'_> {
    fn all(&mut self) {
        if !self.snapshot.directories.contains_key(&TreePath::root()) {
            if let Scanned::Unsent(why) = self.scan(&TreePath::root()) {
                self.unsent.insert(TreePath::root(), why);
            }
            return;
        }
        let mut entries: BTreeMap<TreePath, Vec<usize>> = BTreeMap::new();
        let mut names = Vec::new();
        for finding in self.findings() {
            match finding {
                Finding::Names(path) => names.push(path),
                Finding::Entry(path, at) if self.snapshot.directories[&path].entries[at].0 == RULES_FILE => {
                    names.push(path);
                }
                Finding::Entry(path, at) => entries.entry(path).or_default().push(at),
            }
        }
        names.sort();
        names.dedup();
        for path in names {
            entries.remove(&path);
            // One of the directories above may be gone, or has been gone through as a whole.
            if self.snapshot.directories.contains_key(&path) && !self.next.contains_key(&path) {
                self.list(&path);
            }
        }
        for (path, positions) in entries {
            if !self.next.contains_key(&path) {
                self.look_again(&path, positions);
            }
        }
    }

    /// Looks at the `stat` of all that is known, but for that of which the kernel would have told.
    fn findings(&self) -> Vec<Finding> {
        let mut shares = Vec::new();
        for (path, directory, is_rooted) in self.rooted() {
            let watcher = self.snapshot.watcher.as_ref().filter(|_| is_rooted);
            let is_quiet = watcher.is_some_and(|watcher| {
                let mut entries = directory.entries.iter();
                !watcher.is_renamed(directory) && entries.all(|(_, entry)| watcher.is_quiet(entry))
            });
            if !is_quiet {
                let starts = (0..directory.entries.len().max(1)).step_by(SHARE);
                shares.extend(starts.map(|start| (path, directory, watcher, start)));
            }
        }
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Vec::new());
        let work = || {
            let mut own = Vec::new();
            while let Some((path, directory, watcher, start)) =
                shares.get(next.fetch_add(1, Ordering::Relaxed))
            {
                self.first_look(path, directory, *watcher, *start, &mut own);
            }
            found.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
        };
        in_threads(shares.len(), work);
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// All known directories, and whether the kernel would have told if their names led elsewhere by now.
    fn rooted(&self) -> Vec<(&TreePath, &Directory, bool)> {
        let all = self.snapshot.directories.iter();
        let Some(watcher) = &self.snapshot.watcher else {
            return all.map(|(path, directory)| (path, directory, false)).collect();
        };
        let is_root_same = self.snapshot.directories.get(&TreePath::root()).is_some_and(|known| {
            Fingerprint::of_open(&self.root).is_ok_and(|now| now.is_same_file(&known.fingerprint))
        });
        let mut uprooted = HashSet::new();
        all.map(|(path, directory)| {
            let is_rooted = is_root_same
                && !watcher.is_mounted_anew()
                && watcher.is_rooted(directory)
                && (uprooted.is_empty() || !path.parent().is_some_and(|above| uprooted.contains(&above)));
            if !is_rooted {
                uprooted.insert(path.clone());
            }
            (path, directory, is_rooted)
        })
        .collect()
    }

    /// Looks at some of a directory's entries, and with the first of them at itself. With a watcher, it is where it was.
    fn first_look(
        &self,
        path: &TreePath,
        directory: &Directory,
        watcher: Option<&Watcher>,
        start: usize,
        found: &mut Vec<Finding>,
    ) {
        let Ok(open) = self.open(path, OFlags::PATH | OFlags::DIRECTORY) else {
            found.push(Finding::Names(path.clone()));
            return;
        };
        if start == 0 {
            let is_same = match watcher {
                Some(watcher) => !watcher.is_renamed(directory),
                None => Fingerprint::of_open(&open).is_ok_and(|now| now == directory.fingerprint),
            };
            if !is_same || !directory.is_settled {
                found.push(Finding::Names(path.clone()));
            }
        }
        let share = directory.entries.iter().enumerate().skip(start).take(SHARE);
        for (at, (name, entry)) in share {
            if watcher.is_some_and(|watcher| watcher.is_quiet(entry)) {
                continue;
            }
            let (known, is_settled) = match entry {
                Entry::Directory => continue,
                Entry::File { fingerprint, is_settled, .. } => (Some(*fingerprint), *is_settled),
                Entry::Link { fingerprint, .. } => (Some(*fingerprint), true),
                Entry::Unsent { fingerprint, is_settled, .. } => (*fingerprint, *is_settled),
            };
            if !is_settled || Fingerprint::of_entry(&open, name).ok() != known {
                found.push(Finding::Entry(path.clone(), at));
            }
        }
    }

    /// Opens what is at `path`, which no symlink leads to.
    pub(super) fn open(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path.as_path(), flags, Mode::empty(), resolve)
    }

    /// Reads the names of a directory that was there before.
    fn list(&mut self, path: &TreePath) {
        let snapshot = self.snapshot;
        let known = &snapshot.directories[path];
        let (mut directory, names) = match self.rules(path).and_then(|rules| self.read(path, rules)) {
            Ok(Some(read)) => read,
            Ok(None) => return self.gone(path),
            Err(error) => {
                self.unsent.insert(path.clone(), WhyUnsent::Unreadable(error));
                self.next.insert(path.clone(), Some(Directory { is_settled: false, ..known.clone() }));
                return;
            }
        };
        if directory.fingerprint.is_same_file(&known.fingerprint) {
            directory.watch = known.watch;
        }
        let is_ruled_anew = !known.rules.is(&directory.rules);
        self.is_ruled_anew |= is_ruled_anew;
        let mode = directory.fingerprint.permissions();
        if mode != known.fingerprint.permissions() {
            self.changed(path, Some(Node::Directory { mode }), None);
        }
        for (name, _) in &known.entries {
            if names.binary_search_by(|(there, _)| there.cmp(name)).is_ok() {
                continue;
            }
            // What is left out from now on is none of the other side's business either.
            self.gone(&path.join(name));
        }
        self.take(path, directory, names);
        if is_ruled_anew {
            let inside = known.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Directory));
            for at in inside.map(|(name, _)| path.join(name)) {
                if snapshot.directories.contains_key(&at) && !self.next.contains_key(&at) {
                    self.list(&at);
                }
            }
        }
    }

    /// Looks at a directory of which nothing is known, and all in it.
    pub(super) fn scan(&mut self, path: &TreePath) -> Scanned {
        if path.as_bytes().iter().filter(|&&byte| byte == b'/').count() > DEEPEST {
            return Scanned::Unsent(WhyUnsent::TooDeep);
        }
        let (directory, names) = match self.rules(path).and_then(|rules| self.read(path, rules)) {
            Ok(Some(read)) => read,
            Ok(None) => return Scanned::Gone,
            Err(error) => return Scanned::Unsent(WhyUnsent::Unreadable(error)),
        };
        let mode = directory.fingerprint.permissions();
        self.changed(path, Some(Node::Directory { mode }), None);
        self.take(path, directory, names);
        Scanned::There
    }

    /// Takes in the entries `names` of a directory, each with its inode's number.
    fn take(&mut self, path: &TreePath, directory: Directory, names: Names) {
        let device = directory.fingerprint.file_id().0;
        // What is below finds its rules here.
        self.next.insert(path.clone(), Some(directory));
        let mut entries = Vec::with_capacity(names.len());
        for (name, inode) in names {
            if let Some(entry) = self.quiet(path, &name, (device, inode)) {
                entries.push((name, entry));
                continue;
            }
            match self.seen(path, &name) {
                Seen::Entry(entry) => entries.push((name, entry)),
                // It is of another kind now, or was removed after its name was read.
                Seen::Nothing => self.gone(&path.join(&name)),
                Seen::Unread(fingerprint) => {
                    self.unread.push(Unread { directory: path.clone(), name, fingerprint });
                }
            }
        }
        if let Some(Some(directory)) = self.next.get_mut(path) {
            directory.entries = entries;
        }
    }

    /// Looks again at some entries of a directory whose names are the same.
    fn look_again(&mut self, path: &TreePath, mut positions: Vec<usize>) {
        positions.sort_unstable();
        let snapshot = self.snapshot;
        let known = &snapshot.directories[path];
        let mut directory = known.clone();
        let mut gone = Vec::new();
        for at in positions {
            let name = known.entries[at].0.clone();
            match self.seen(path, &name) {
                Seen::Entry(entry) => directory.entries[at].1 = entry,
                Seen::Nothing => gone.push((name, None)),
                Seen::Unread(fingerprint) => {
                    self.unread.push(Unread { directory: path.clone(), name, fingerprint });
                }
            }
        }
        for (name, _) in &gone {
            self.gone(&path.join(name));
        }
        directory.put(gone);
        self.next.insert(path.clone(), Some(directory));
    }

    /// A directory's names that rules do not leave out, in order, with their inodes' numbers; None: it is gone.
    fn read(&mut self, path: &TreePath, rules: Arc<Rules>) -> rustix::io::Result<Option<(Directory, Names)>> {
        let open = match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(open) => open,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if *path != TreePath::root() => return Ok(None),
            Err(error) => return Err(error),
        };
        let file = File::from(open);
        let fingerprint = Fingerprint::of_open(&file).map_err(|error| errno(&error))?;
        let is_settled = self.is_settled(&fingerprint) && listings::is_local(&file);
        let is_ruled = !rules.are_none();
        let is_first = self.snapshot.is_new();
        let mut names = Vec::new();
        for entry in Dir::new(OwnedFd::from(file))? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            if name.as_bytes().starts_with(TEMPORARY.as_bytes()) {
                self.abandoned.extend(is_first.then(|| path.join(name)));
                continue;
            }
            let is_left_out = || {
                let at = path.join(name);
                let is_directory = match entry.file_type() {
                    // Not every file system says.
                    FileType::Unknown => Fingerprint::of_entry(&self.root, at.as_path().as_os_str())
                        .is_ok_and(|there| there.is_directory()),
                    known => known.is_dir(),
                };
                rules.leave_out_of(&self.snapshot.root, &at, is_directory)
            };
            if !(is_ruled && is_left_out()) {
                names.push((name.to_owned(), entry.ino()));
            }
        }
        names.sort();
        Ok(Some((Directory { fingerprint, is_settled, watch: None, rules, entries: Vec::new() }, names)))
    }

    /// The rules that hold in a directory.
    fn rules(&self, path: &TreePath) -> rustix::io::Result<Arc<Rules>> {
        let above = path.parent().and_then(|parent| {
            let next = self.next.get(&parent).and_then(Option::as_ref);
            next.or_else(|| self.snapshot.directories.get(&parent)).map(|above| Arc::clone(&above.rules))
        });
        let above = above.unwrap_or_default();
        match self.snapshot.scope {
            Scope::Workspace { .. } => {
                Rules::below(&self.root, &self.snapshot.root, path, &above).map_err(|error| errno(&error))
            }
            Scope::Whole { .. } => Ok(above),
        }
    }

    /// Removes what processes have left that were killed.
    fn remove_abandoned(&self) {
        for path in &self.abandoned {
            let Ok(directory) = self.open(&path.parent().unwrap_or_default(), OFlags::PATH) else { continue };
            let is_old = |there: Fingerprint| {
                let long_ago = self.started.checked_sub(ABANDONED);
                !there.is_directory() && long_ago.is_some_and(|long_ago| there.is_settled(long_ago))
            };
            if Fingerprint::of_entry(&directory, path.name()).is_ok_and(is_old) {
                let _ = rustix::fs::unlinkat(&directory, path.name(), AtFlags::empty());
            }
        }
    }

    pub(super) fn changed(&mut self, path: &TreePath, now: Option<Node>, written: Option<i128>) {
        self.changes.insert(path.clone(), Change { path: path.clone(), now, written });
    }

    /// Something is gone, and all in it: if the other side knows of it.
    pub(super) fn gone(&mut self, path: &TreePath) {
        if !matches!(self.snapshot.entry(path), None | Some(Entry::Unsent { .. })) {
            self.changed(path, None, None);
            self.forget(path);
        }
    }

    /// Nothing is known any more of a directory and all in it.
    fn forget(&mut self, path: &TreePath) {
        let inside = self.snapshot.directories_in(path);
        self.next.extend(inside.map(|(known, _)| (known.clone(), None)));
    }
}

/// Does `work` in as many threads as make sense for that many pieces of it.
pub(super) fn in_threads(pieces: usize, work: impl Fn() + Sync) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..processors.min(MOST_THREADS).min(pieces) {
            scope.spawn(&work);
        }
        work();
    });
}

/// Whether nothing is there, or what leads there is no directory by now.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

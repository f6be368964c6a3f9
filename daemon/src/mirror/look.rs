//! What has changed in a tree since it was last looked at.
//! Knows nothing of who wants to know.
//!
//! Every file's `stat` is asked for each time: nothing less tells of all that can happen to a file (writes through other names,
//! from other machines). A directory that is as it was has the names that it had, so that it need not be
//! read; all else is done only for what has changed. Several threads share the work.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rustix::fs::Dir;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::io::Errno;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::listings;
use crate::mirror::Change;
use crate::mirror::Node;
use crate::mirror::RULES_FILE;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::install::TEMPORARY;
use crate::mirror::rules::Rules;
use crate::mirror::snapshot::Directory;
use crate::mirror::snapshot::Entry;

/// How many entries of a directory one thread looks at, at a time.
const SHARE: usize = 512;

/// More threads only wait for each other in the kernel.
const MOST_THREADS: usize = 8;

/// Deeper trees are refused: a thread's stack holds no more than twice as many.
const DEEPEST: usize = 400;

/// How often a file that changes while it is read is read again.
const TRIES: usize = 3;

/// Why a tree could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Something cannot be read.
    #[error("read {}: {error}", path.display())]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Directories are nested more deeply than anybody needs.
    #[error("read {}: it is nested too deeply; name it in a .farccignore", .0.display())]
    TooDeep(PathBuf),
    /// A file changes faster than it can be read.
    #[error("read {}: it changes all the time; name it in a .farccignore if nobody else needs it", .0.display())]
    Restless(PathBuf),
}

/// What a first look at a directory shows.
enum Finding {
    /// The names in it may be others.
    Names(TreePath),
    /// The entry at this position is not what it was, or cannot be told to be.
    Entry(TreePath, usize),
}

impl Snapshot {
    /// All that has changed since the last look, directories before what is in them; the first time, all that there is. What
    /// rules leave out, and what is neither directory, file nor symlink, is not there.
    ///
    /// # Errors
    /// [`LookError`]: what was known before is known still.
    pub fn look(&mut self) -> Result<Vec<Change>, LookError> {
        let started = (self.clock)();
        let root = self.open_root()?;
        let mut look =
            Look { snapshot: self, root, started, changes: BTreeMap::new(), next: BTreeMap::new() };
        look.all()?;
        let Look { changes, next, .. } = look;
        for (path, directory) in next {
            match directory {
                Some(directory) => self.directories.insert(path, directory),
                None => self.directories.remove(&path),
            };
        }
        Ok(changes.into_values().collect())
    }

    fn open_root(&self) -> Result<OwnedFd, LookError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.root, flags, Mode::empty())
            .map_err(|error| LookError::Unreadable { path: self.root.clone(), error: error.into() })
    }
}

/// A look that goes on.
struct Look<'a> {
    snapshot: &'a Snapshot,
    root: OwnedFd,
    started: SystemTime,
    changes: BTreeMap<TreePath, Change>,
    /// The directories that are to take the place of what was known.
    next: BTreeMap<TreePath, Option<Directory>>,
}

impl Look<'_> {
    fn all(&mut self) -> Result<(), LookError> {
        if !self.snapshot.directories.contains_key(&TreePath::root()) {
            return self.scan(&TreePath::root()).map(|_| ());
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
                self.list(&path)?;
            }
        }
        for (path, positions) in entries {
            if self.next.contains_key(&path) {
                continue;
            }
            self.look_again(&path, &positions)?;
        }
        Ok(())
    }

    /// Looks at the `stat` of all that is known.
    fn findings(&self) -> Vec<Finding> {
        let shares: Vec<(&TreePath, &Directory, usize)> = (self.snapshot.directories.iter())
            .flat_map(|(path, directory)| {
                let starts = (0..directory.entries.len().max(1)).step_by(SHARE);
                starts.map(move |start| (path, directory, start))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Vec::new());
        let work = || {
            let mut own = Vec::new();
            while let Some((path, directory, start)) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.first_look(path, directory, *start, &mut own);
            }
            found.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..processors.min(MOST_THREADS).min(shares.len()) {
                scope.spawn(work);
            }
            work();
        });
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn first_look(&self, path: &TreePath, directory: &Directory, start: usize, found: &mut Vec<Finding>) {
        let Ok(open) = self.open(path, OFlags::PATH | OFlags::DIRECTORY) else {
            found.push(Finding::Names(path.clone()));
            return;
        };
        if start == 0 {
            let is_same = Fingerprint::of_open(&open).is_ok_and(|now| now == directory.fingerprint);
            if !is_same || !directory.is_settled {
                found.push(Finding::Names(path.clone()));
            }
        }
        let share = directory.entries.iter().enumerate().skip(start).take(SHARE);
        for (at, (name, entry)) in share {
            let (known, is_settled) = match entry {
                Entry::Directory => continue,
                Entry::File { fingerprint, is_settled, .. } => (fingerprint, *is_settled),
                Entry::Link { fingerprint, .. } => (fingerprint, true),
            };
            if !is_settled || !Fingerprint::of_entry(&open, name).is_ok_and(|now| now == *known) {
                found.push(Finding::Entry(path.clone(), at));
            }
        }
    }

    /// Opens what is at `path`, which no symlink leads to.
    fn open(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path.as_path(), flags, Mode::empty(), resolve)
    }

    fn unreadable(&self, path: &TreePath, error: impl Into<io::Error>) -> LookError {
        LookError::Unreadable { path: self.snapshot.root.join(path.as_path()), error: error.into() }
    }

    /// Reads the names of a directory that was there before.
    fn list(&mut self, path: &TreePath) -> Result<(), LookError> {
        let snapshot = self.snapshot;
        let known = &snapshot.directories[path];
        let rules = self.rules(path)?;
        let is_ruled_anew = !known.rules.is(&rules);
        let Some((directory, names)) = self.read(path, rules)? else {
            self.gone(path);
            return Ok(());
        };
        let mode = directory.fingerprint.permissions();
        if mode != known.fingerprint.permissions() {
            self.changed(path, Some(Node::Directory { mode }), None);
        }
        for (name, entry) in &known.entries {
            if names.binary_search(name).is_ok() {
                continue;
            }
            let at = path.join(name);
            let is_directory = matches!(entry, Entry::Directory);
            if directory.rules.leave_out(&snapshot.root.join(at.as_path()), is_directory) {
                self.forget(&at);
            } else {
                self.gone(&at);
            }
        }
        self.take(path, directory, names)?;
        if is_ruled_anew {
            let inside = known.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Directory));
            for at in inside.map(|(name, _)| path.join(name)) {
                if snapshot.directories.contains_key(&at) && !self.next.contains_key(&at) {
                    self.list(&at)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at a directory of which nothing is known, and all in it; `false`: it is gone.
    fn scan(&mut self, path: &TreePath) -> Result<bool, LookError> {
        if path.as_bytes().iter().filter(|&&byte| byte == b'/').count() > DEEPEST {
            return Err(LookError::TooDeep(self.snapshot.root.join(path.as_path())));
        }
        let rules = self.rules(path)?;
        let Some((directory, names)) = self.read(path, rules)? else { return Ok(false) };
        let mode = directory.fingerprint.permissions();
        self.changed(path, Some(Node::Directory { mode }), None);
        self.take(path, directory, names)?;
        Ok(true)
    }

    /// Takes in the entries `names` of a directory.
    fn take(&mut self, path: &TreePath, directory: Directory, names: Vec<OsString>) -> Result<(), LookError> {
        // What is below finds its rules here.
        self.next.insert(path.clone(), Some(directory));
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            match self.entry(path, &name)? {
                Some(entry) => entries.push((name, entry)),
                // It is of another kind now, or was removed after its name was read.
                None if self.snapshot.entry(&path.join(&name)).is_some() => self.gone(&path.join(&name)),
                None => {}
            }
        }
        if let Some(Some(directory)) = self.next.get_mut(path) {
            directory.entries = entries;
        }
        Ok(())
    }

    /// Looks again at some entries of a directory whose names are the same.
    fn look_again(&mut self, path: &TreePath, positions: &[usize]) -> Result<(), LookError> {
        let snapshot = self.snapshot;
        let known = &snapshot.directories[path];
        let mut directory = Directory {
            fingerprint: known.fingerprint,
            is_settled: known.is_settled,
            rules: Arc::clone(&known.rules),
            entries: known.entries.clone(),
        };
        let mut gone = Vec::new();
        for &at in positions {
            let name = known.entries[at].0.clone();
            match self.entry(path, &name)? {
                Some(entry) => directory.entries[at].1 = entry,
                None => gone.push(name),
            }
        }
        // Its names have changed in the meantime.
        directory.entries.retain(|(name, _)| !gone.contains(name));
        directory.is_settled &= gone.is_empty();
        for name in gone {
            self.changed(&path.join(&name), None, None);
        }
        self.next.insert(path.clone(), Some(directory));
        Ok(())
    }

    /// A directory's names that rules do not leave out, in order; None: it is gone.
    fn read(
        &self,
        path: &TreePath,
        rules: Arc<Rules>,
    ) -> Result<Option<(Directory, Vec<OsString>)>, LookError> {
        let open = match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(open) => open,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if *path != TreePath::root() => return Ok(None),
            Err(error) => return Err(self.unreadable(path, error)),
        };
        let failed = |error: Errno| self.unreadable(path, error);
        let file = File::from(open);
        let fingerprint = Fingerprint::of_open(&file).map_err(|error| self.unreadable(path, error))?;
        let is_settled = fingerprint.is_settled(self.started) && listings::is_local(&file);
        let whole = self.snapshot.root.join(path.as_path());
        let mut names = Vec::new();
        for entry in Dir::new(OwnedFd::from(file)).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") || name.as_bytes().starts_with(TEMPORARY.as_bytes()) {
                continue;
            }
            let is_left_out =
                name != RULES_FILE && rules.leave_out(&whole.join(name), entry.file_type().is_dir());
            if !is_left_out {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(Some((Directory { fingerprint, is_settled, rules, entries: Vec::new() }, names)))
    }

    /// The rules that hold in a directory.
    fn rules(&self, path: &TreePath) -> Result<Arc<Rules>, LookError> {
        let above = path.parent().and_then(|parent| {
            let next = self.next.get(&parent).and_then(Option::as_ref);
            next.or_else(|| self.snapshot.directories.get(&parent)).map(|above| Arc::clone(&above.rules))
        });
        let above = above.unwrap_or_default();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Ok(open) = self.open(&path.join(OsStr::new(RULES_FILE)), flags) else { return Ok(above) };
        let directory = self.snapshot.root.join(path.as_path());
        Rules::of(&directory, File::from(open), &above)
            .map_err(|error| LookError::Unreadable { path: directory.join(RULES_FILE), error })
    }

    /// What `name` in a directory is now; None: nothing that is heeded. A change is noted down.
    fn entry(&mut self, path: &TreePath, name: &OsStr) -> Result<Option<Entry>, LookError> {
        let at = path.join(name);
        let snapshot = self.snapshot;
        let known = snapshot.entry(&at);
        for _ in 0..TRIES {
            let fingerprint = match Fingerprint::of_entry(&self.root, at.as_path().as_os_str()) {
                Ok(fingerprint) => fingerprint,
                Err(error) if is_gone(&error) => return Ok(None),
                Err(error) => return Err(self.unreadable(&at, error)),
            };
            if fingerprint.is_directory() {
                let is_known = matches!(known, Some(Entry::Directory))
                    && snapshot.directories.contains_key(&at)
                    && !matches!(self.next.get(&at), Some(None));
                let is_there = is_known || self.scan(&at)?;
                return Ok(is_there.then_some(Entry::Directory));
            }
            let entry = match self.read_entry(&at, fingerprint, known)? {
                Some(entry) => entry,
                None if fingerprint.is_regular() || fingerprint.is_symlink() => continue,
                None => return Ok(None),
            };
            if matches!(known, Some(Entry::Directory)) {
                self.gone(&at);
            }
            self.compare(&at, known, &entry);
            return Ok(Some(entry));
        }
        Err(LookError::Restless(self.snapshot.root.join(at.as_path())))
    }

    /// What a file or symlink with that `stat` has in it; None: it is another by now, or neither.
    fn read_entry(
        &self,
        path: &TreePath,
        fingerprint: Fingerprint,
        known: Option<&Entry>,
    ) -> Result<Option<Entry>, LookError> {
        let failed = |error: io::Error| self.unreadable(path, error);
        if fingerprint.is_symlink() {
            return match rustix::fs::readlinkat(&self.root, path.as_path(), Vec::new()) {
                Ok(target) => {
                    let target = OsString::from_vec(target.into_bytes());
                    Ok(Some(Entry::Link { fingerprint, target }))
                }
                Err(Errno::NOENT | Errno::INVAL) => Ok(None),
                Err(error) => Err(failed(error.into())),
            };
        }
        if !fingerprint.is_regular() {
            return Ok(None);
        }
        let is_settled = fingerprint.is_settled(self.started);
        if let Some(Entry::File { fingerprint: before, is_settled: true, digest }) = known
            && *before == fingerprint
        {
            return Ok(Some(Entry::File { fingerprint, is_settled: true, digest: *digest }));
        }
        let mut file = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(open) => File::from(open),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        if Fingerprint::of_open(&file).map_err(failed)? != fingerprint {
            return Ok(None);
        }
        let digest = Digest::of_reader(&mut file).map_err(failed)?;
        let is_same = Fingerprint::of_open(&file).map_err(failed)? == fingerprint;
        Ok(is_same.then_some(Entry::File { fingerprint, is_settled, digest }))
    }

    /// Notes down in what an entry differs from what was known.
    fn compare(&mut self, path: &TreePath, known: Option<&Entry>, now: &Entry) {
        match (known, now) {
            (Some(Entry::Link { target: before, .. }), Entry::Link { target, .. }) if before == target => {}
            (_, Entry::Link { target, .. }) => {
                self.changed(path, Some(Node::Link { target: target.clone() }), None);
            }
            (_, Entry::Directory) => {}
            (_, Entry::File { fingerprint, digest, .. }) => {
                let mode = fingerprint.permissions();
                let is_written = match known {
                    // The inode changes when a file takes another's place, and then its time need not.
                    Some(Entry::File { fingerprint: before, digest: old, .. }) => {
                        old != digest
                            || before.modified_nanos() != fingerprint.modified_nanos()
                            || !before.is_same_file(fingerprint)
                    }
                    _ => true,
                };
                let is_changed = is_written
                    || matches!(known, Some(Entry::File { fingerprint, .. }) if fingerprint.permissions() != mode);
                if is_changed {
                    let written = is_written.then(|| fingerprint.modified_nanos());
                    self.changed(path, Some(Node::File { digest: *digest, mode }), written);
                }
            }
        }
    }

    fn changed(&mut self, path: &TreePath, now: Option<Node>, written: Option<i128>) {
        self.changes.insert(path.clone(), Change { path: path.clone(), now, written });
    }

    /// Something is gone, and all in it.
    fn gone(&mut self, path: &TreePath) {
        self.changed(path, None, None);
        self.forget(path);
    }

    /// Nothing is known any more of a directory and all in it.
    fn forget(&mut self, path: &TreePath) {
        let inside = self.snapshot.directories_in(path);
        self.next.extend(inside.map(|(known, _)| (known.clone(), None)));
    }
}

/// Whether nothing is there, or what leads there is no directory by now.
fn is_gone(error: &io::Error) -> bool {
    let error = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(error, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

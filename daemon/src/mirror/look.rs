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
use crate::mirror::Unsent;
use crate::mirror::WhyUnsent;
use crate::mirror::install::TEMPORARY;
use crate::mirror::rules::Rules;
use crate::mirror::snapshot::Directory;
use crate::mirror::snapshot::Entry;
use crate::mirror::snapshot::Scope;

/// How many entries of a directory one thread looks at, at a time.
const SHARE: usize = 512;

/// More threads only wait for each other in the kernel.
const MOST_THREADS: usize = 8;

/// What is deeper is left out: a thread's stack holds no more than twice as many.
const DEEPEST: usize = 400;

/// How often a file that changes while it is read is read again.
const TRIES: usize = 3;

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
    /// What cannot be sent and was found in this look. What was known of a file before holds until it can be read; all else is
    /// as if it were not there.
    pub unsent: Vec<Unsent>,
}

/// What became of looking at a new directory.
enum Scanned {
    There,
    Gone,
    Unsent(WhyUnsent),
}

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
        let started = (self.clock)();
        let failed = |path: &PathBuf, error| LookError { path: path.clone(), error };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.root, flags, Mode::empty());
        let mut look = Look {
            root: root.map_err(|error| failed(&self.root, error))?,
            snapshot: self,
            started,
            changes: BTreeMap::new(),
            unsent: BTreeMap::new(),
            next: BTreeMap::new(),
        };
        look.all();
        let Look { changes, unsent, next, .. } = look;
        if let Some(WhyUnsent::Unreadable(error)) = unsent.get(&TreePath::root()) {
            return Err(failed(&self.root, *error));
        }
        for (path, directory) in next {
            match directory {
                Some(directory) => self.directories.insert(path, directory),
                None => self.directories.remove(&path),
            };
        }
        let unsent = unsent.into_iter().map(|(path, why)| Unsent { path, why });
        Ok(Looked { changes: changes.into_values().collect(), unsent: unsent.collect() })
    }
}

/// A look that goes on.
struct Look<'a> {
    snapshot: &'a Snapshot,
    root: OwnedFd,
    started: SystemTime,
    changes: BTreeMap<TreePath, Change>,
    unsent: BTreeMap<TreePath, WhyUnsent>,
    /// The directories that are to take the place of what was known.
    next: BTreeMap<TreePath, Option<Directory>>,
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
                self.look_again(&path, &positions);
            }
        }
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
    fn open(&self, path: &TreePath, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        rustix::fs::openat2(&self.root, path.as_path(), flags, Mode::empty(), resolve)
    }

    /// Reads the names of a directory that was there before.
    fn list(&mut self, path: &TreePath) {
        let snapshot = self.snapshot;
        let known = &snapshot.directories[path];
        let (directory, names) = match self.rules(path).and_then(|rules| self.read(path, rules)) {
            Ok(Some(read)) => read,
            Ok(None) => return self.gone(path),
            Err(error) => {
                self.unsent.insert(path.clone(), WhyUnsent::Unreadable(error));
                self.next.insert(path.clone(), Some(Directory { is_settled: false, ..known.clone() }));
                return;
            }
        };
        let is_ruled_anew = !known.rules.is(&directory.rules);
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
            if directory.rules.leave_out_of(&snapshot.root, &at, is_directory) {
                self.forget(&at);
            } else {
                self.gone(&at);
            }
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
    fn scan(&mut self, path: &TreePath) -> Scanned {
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

    /// Takes in the entries `names` of a directory.
    fn take(&mut self, path: &TreePath, directory: Directory, names: Vec<OsString>) {
        // What is below finds its rules here.
        self.next.insert(path.clone(), Some(directory));
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            match self.entry(path, &name) {
                Some(entry) => entries.push((name, entry)),
                // It is of another kind now, or was removed after its name was read.
                None => self.gone(&path.join(&name)),
            }
        }
        if let Some(Some(directory)) = self.next.get_mut(path) {
            directory.entries = entries;
        }
    }

    /// Looks again at some entries of a directory whose names are the same.
    fn look_again(&mut self, path: &TreePath, positions: &[usize]) {
        let snapshot = self.snapshot;
        let known = &snapshot.directories[path];
        let mut directory = known.clone();
        let mut gone = Vec::new();
        for &at in positions {
            let name = known.entries[at].0.clone();
            match self.entry(path, &name) {
                Some(entry) => directory.entries[at].1 = entry,
                None => gone.push(name),
            }
        }
        // Its names have changed in the meantime.
        directory.entries.retain(|(name, _)| !gone.contains(name));
        directory.is_settled &= gone.is_empty();
        for name in gone {
            self.gone(&path.join(&name));
        }
        self.next.insert(path.clone(), Some(directory));
    }

    /// A directory's names that rules do not leave out, in order; None: it is gone.
    fn read(
        &self,
        path: &TreePath,
        rules: Arc<Rules>,
    ) -> rustix::io::Result<Option<(Directory, Vec<OsString>)>> {
        let open = match self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(open) => open,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if *path != TreePath::root() => return Ok(None),
            Err(error) => return Err(error),
        };
        let file = File::from(open);
        let fingerprint = Fingerprint::of_open(&file).map_err(|error| errno(&error))?;
        let is_settled = fingerprint.is_settled(self.started) && listings::is_local(&file);
        let mut names = Vec::new();
        for entry in Dir::new(OwnedFd::from(file))? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if matches!(name.as_bytes(), b"." | b"..") || name.as_bytes().starts_with(TEMPORARY.as_bytes()) {
                continue;
            }
            let is_directory = entry.file_type().is_dir();
            if !rules.leave_out_of(&self.snapshot.root, &path.join(name), is_directory) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(Some((Directory { fingerprint, is_settled, rules, entries: Vec::new() }, names)))
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
            Scope::Whole => Ok(above),
        }
    }

    /// What `name` in a directory is now; None: nothing that is heeded. A change is noted down.
    fn entry(&mut self, path: &TreePath, name: &OsStr) -> Option<Entry> {
        let at = path.join(name);
        let snapshot = self.snapshot;
        let known = snapshot.entry(&at);
        let (mut why, mut last) = (WhyUnsent::Restless, None);
        for _ in 0..TRIES {
            let fingerprint = match Fingerprint::of_entry(&self.root, at.as_path().as_os_str()) {
                Ok(fingerprint) => fingerprint,
                Err(error) if is_gone(errno(&error)) => return None,
                Err(error) => {
                    why = WhyUnsent::Unreadable(errno(&error));
                    break;
                }
            };
            last = Some(fingerprint);
            if fingerprint.is_directory() {
                let is_known = matches!(known, Some(Entry::Directory))
                    && snapshot.directories.contains_key(&at)
                    && !matches!(self.next.get(&at), Some(None));
                match if is_known { Scanned::There } else { self.scan(&at) } {
                    Scanned::There => return Some(Entry::Directory),
                    Scanned::Gone => return None,
                    Scanned::Unsent(reason) => why = reason,
                }
                break;
            }
            match self.read_entry(&at, fingerprint, known) {
                Ok(Some(entry)) => {
                    self.compare(&at, known, &entry);
                    return Some(entry);
                }
                Ok(None) if fingerprint.is_regular() || fingerprint.is_symlink() => {}
                Ok(None) => return None,
                Err(error) => {
                    why = WhyUnsent::Unreadable(error);
                    break;
                }
            }
        }
        Some(self.unreadable(&at, known, last, why))
    }

    /// What takes the place of something that cannot be read.
    fn unreadable(
        &mut self,
        path: &TreePath,
        known: Option<&Entry>,
        fingerprint: Option<Fingerprint>,
        why: WhyUnsent,
    ) -> Entry {
        if let Some(Entry::File { fingerprint: before, digest, .. }) = known
            && fingerprint.is_none_or(|now| now.is_regular())
        {
            self.unsent.insert(path.clone(), why);
            return Entry::File { fingerprint: *before, is_settled: false, digest: *digest };
        }
        let is_settled = matches!(why, WhyUnsent::TooDeep | WhyUnsent::LeadsOut(_));
        let entry = Entry::Unsent { fingerprint, is_settled, why };
        self.compare(path, known, &entry);
        entry
    }

    /// What a file or symlink with that `stat` has in it; None: it is another by now, or neither.
    fn read_entry(
        &self,
        path: &TreePath,
        fingerprint: Fingerprint,
        known: Option<&Entry>,
    ) -> rustix::io::Result<Option<Entry>> {
        let failed = |error: io::Error| errno(&error);
        if fingerprint.is_symlink() {
            return match rustix::fs::readlinkat(&self.root, path.as_path(), Vec::new()) {
                Ok(target) => {
                    let target = OsString::from_vec(target.into_bytes());
                    Ok(Some(match self.snapshot.scope.admits(path, &target) {
                        true => Entry::Link { fingerprint, target },
                        false => Entry::Unsent {
                            fingerprint: Some(fingerprint),
                            is_settled: true,
                            why: WhyUnsent::LeadsOut(target),
                        },
                    }))
                }
                Err(Errno::NOENT | Errno::INVAL) => Ok(None),
                Err(error) => Err(error),
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
            Err(error) => return Err(error),
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
        if matches!(known, Some(Entry::Directory)) || matches!(now, Entry::Unsent { .. }) {
            self.gone(path);
        }
        match (known, now) {
            (Some(Entry::Unsent { why: before, .. }), Entry::Unsent { why, .. }) if before == why => {}
            (_, Entry::Unsent { why, .. }) => drop(self.unsent.insert(path.clone(), why.clone())),
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

    /// Something is gone, and all in it: if the other side knows of it.
    fn gone(&mut self, path: &TreePath) {
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

/// Whether nothing is there, or what leads there is no directory by now.
fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

//! What is in the files and symlinks that a look finds changed.
//! Knows nothing of how they are found.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::digest::Digest;
use crate::files::Fingerprint;
use crate::mirror::Node;
use crate::mirror::TreePath;
use crate::mirror::WhyUnsent;
use crate::mirror::look::Look;
use crate::mirror::look::Scanned;
use crate::mirror::look::errno;
use crate::mirror::look::in_threads;
use crate::mirror::look::is_gone;
use crate::mirror::snapshot::Entry;
use crate::mirror::stamps;
use crate::mirror::writers;

/// How many files one thread reads at a time.
const READ_AT_ONCE: usize = 16;

/// How often a file that changes while it is read is read again.
const TRIES: usize = 3;

/// What a name in a directory is now.
pub(super) enum Seen {
    Entry(Entry),
    /// Nothing that is heeded.
    Nothing,
    /// A file that is to be read.
    Unread(Fingerprint),
}

/// A file that is to be read.
pub(super) struct Unread {
    pub(super) directory: TreePath,
    pub(super) name: OsString,
    pub(super) fingerprint: Fingerprint,
}

impl Look<'_> {
    /// What is known of the file `name` in a directory, if it is the same one and nothing has happened to it. As long as it is
    /// there, no other has its inode's number.
    pub(super) fn quiet(&self, path: &TreePath, name: &OsStr, file_id: (u64, u64)) -> Option<Entry> {
        let watcher = self.snapshot.watcher.as_ref().filter(|watcher| !watcher.is_mounted_anew())?;
        let known = self.snapshot.entry(&path.join(name))?;
        let is_same = matches!(known, Entry::File { fingerprint, .. } if fingerprint.file_id() == file_id);
        (is_same && watcher.is_quiet(known)).then(|| known.clone())
    }

    /// What `name` in a directory is now. A change is noted down.
    pub(super) fn seen(&mut self, path: &TreePath, name: &OsStr) -> Seen {
        let at = path.join(name);
        if let Ok(now) = Fingerprint::of_entry(&self.root, at.as_path().as_os_str())
            && now.is_regular()
        {
            return match self.snapshot.entry(&at) {
                Some(entry @ Entry::File { fingerprint, is_settled: true, .. }) if *fingerprint == now => {
                    Seen::Entry(entry.clone())
                }
                _ => Seen::Unread(now),
            };
        }
        self.entry(&at).map_or(Seen::Nothing, Seen::Entry)
    }

    /// What is at `at` now, and in it; None: nothing that is heeded. A change is noted down.
    fn entry(&mut self, at: &TreePath) -> Option<Entry> {
        let snapshot = self.snapshot;
        let known = snapshot.entry(at);
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
                    && snapshot.directories.contains_key(at)
                    && !matches!(self.next.get(at), Some(None));
                match if is_known { Scanned::There } else { self.scan(at) } {
                    Scanned::There => return Some(Entry::Directory),
                    Scanned::Gone => return None,
                    Scanned::Unsent(reason) => why = reason,
                }
                break;
            }
            match self.read_entry(at, fingerprint, known) {
                Ok(Some(entry)) => {
                    self.compare(at, known, &entry);
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
        Some(self.unreadable(at, known, last, why))
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
            return Entry::File { fingerprint: *before, is_settled: false, watch: None, digest: *digest };
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
        if let Some(entry @ Entry::File { fingerprint: before, is_settled: true, .. }) = known
            && *before == fingerprint
        {
            return Ok(Some(entry.clone()));
        }
        // Before it is read.
        let is_settled = self.is_settled(&fingerprint);
        let mut file = match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(open) => File::from(open),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error),
        };
        if Fingerprint::of_open(&file).map_err(failed)? != fingerprint {
            return Ok(None);
        }
        let is_settled = is_settled && writers::is_told_of(&file, &fingerprint, self.started);
        let digest = Digest::of_reader(&mut file).map_err(failed)?;
        let is_same = Fingerprint::of_open(&file).map_err(failed)? == fingerprint;
        Ok(is_same.then_some(Entry::File { fingerprint, is_settled, watch: None, digest }))
    }

    /// Whether whatever changes from now on gets another time than these, by a clock that moves in ticks.
    pub(super) fn is_settled(&self, fingerprint: &Fingerprint) -> bool {
        let is_before = |(device, now): (u64, i128)| {
            fingerprint.file_id().0 == device && fingerprint.changed_nanos() < now
        };
        let tick = || self.tick.get_or_init(|| stamps::present(&self.root));
        fingerprint.is_settled(self.started) || tick().is_some_and(is_before)
    }

    /// Reads what is to be read, and takes it in.
    pub(super) fn read_all(&mut self) {
        while !self.unread.is_empty() {
            let mut unread = std::mem::take(&mut self.unread);
            unread.sort_by(|one, two| one.directory.cmp(&two.directory));
            let mut read = self.read_in_threads(&unread).into_iter();
            for files in unread.chunk_by(|one, two| one.directory == two.directory) {
                let directory = &files[0].directory;
                let read: Vec<_> = read.by_ref().take(files.len()).collect();
                if !matches!(self.next.get(directory), Some(Some(_))) {
                    // It is gone by now.
                    continue;
                }
                let mut entries = Vec::with_capacity(files.len());
                for (Unread { name, .. }, read) in files.iter().zip(read) {
                    let at = directory.join(name);
                    let entry = match read {
                        Some(Ok(Some(entry))) => {
                            self.compare(&at, self.snapshot.entry(&at), &entry);
                            Some(entry)
                        }
                        // It has changed since: one by one.
                        Some(Ok(None) | Err(_)) | None => self.entry(&at),
                    };
                    if entry.is_none() {
                        self.gone(&at);
                    }
                    entries.push((name.clone(), entry));
                }
                if let Some(Some(next)) = self.next.get_mut(directory) {
                    next.put(entries);
                }
            }
        }
    }

    /// What is in each of these files.
    fn read_in_threads(&self, unread: &[Unread]) -> Vec<Option<rustix::io::Result<Option<Entry>>>> {
        let next = AtomicUsize::new(0);
        let shares: Vec<_> = unread.chunks(READ_AT_ONCE).collect();
        let read: Vec<OnceLock<_>> = unread.iter().map(|_| OnceLock::new()).collect();
        in_threads(shares.len(), || {
            loop {
                let share = next.fetch_add(1, Ordering::Relaxed);
                let Some(files) = shares.get(share) else { break };
                for (file, read) in files.iter().zip(&read[share * READ_AT_ONCE..]) {
                    let at = file.directory.join(&file.name);
                    let _ = read.set(self.read_entry(&at, file.fingerprint, self.snapshot.entry(&at)));
                }
            }
        });
        read.into_iter().map(OnceLock::into_inner).collect()
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
}

//! Has the kernel tell of what happens to files and directories (inotify(7)), so that they need not be looked at.
//! Knows nothing of what is in them.
//!
//! Nothing may happen to a file unheard. Its own watch hears of all that is done to it by any of its names: that it is opened, cut
//! off, renamed, linked or removed, or gets other permissions or times. What it does not hear of are writes to memory that maps
//! the file, and asynchronous ones; but for these, somebody must have opened it for writing. So a file is watched only if nobody
//! has it open for writing (see [`writers`](crate::mirror::writers)) when the watch begins, and the first thing that happens to
//! it, be it only that somebody opens it to read, ends the watch: from then on it is looked at again. It is to be on a file system
//! of this machine alone, and none that takes its files from others. What is mounted over a name is told of by the list of mounts.
//! What goes unheard is only what somebody writes through an overlay whose upper directory the tree lies in.

use std::collections::HashSet;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::ResolveFlags;
use rustix::fs::inotify;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::inotify::WatchFlags;

use crate::files::Fingerprint;
use crate::listings;
use crate::mirror::Snapshot;
use crate::mirror::TreePath;
use crate::mirror::snapshot::Directory;
use crate::mirror::snapshot::Entry;
use crate::mirror::writers;

/// Other programs of the user want some, too.
const SHARE_OF_WATCHES: usize = 4;

/// Events that are read at a time, about.
const EVENT_BYTES: usize = 16 << 10;

/// `OVERLAYFS_SUPER_MAGIC`: it takes its files from other file systems.
const OVERLAY: i64 = 0x794C_7630;

/// What happens to a file: the first thing ends the watch.
const OF_A_FILE: WatchFlags =
    WatchFlags::OPEN.union(WatchFlags::MODIFY).union(WatchFlags::ATTRIB).union(WatchFlags::ONESHOT);

/// What happens to a directory and its names.
const OF_A_DIRECTORY: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Another directory may have the name.
const GONE: ReadFlags = ReadFlags::DELETE.union(ReadFlags::MOVED_FROM).union(ReadFlags::MOVED_TO);

/// The watch of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Watch {
    watcher: u32,
    number: i32,
}

/// What the kernel has told of.
pub(super) struct Watcher {
    /// No other has the same.
    id: u32,
    inotify: OwnedFd,
    mounts: File,
    /// How many more watches there may be.
    left: usize,
    directories: HashSet<i32>,
    /// Of these the kernel tells no more.
    ended: HashSet<i32>,
    /// Directories in which names have changed since they were last read.
    renamed: HashSet<i32>,
    /// Directories below which other directories may be by now.
    uprooted: HashSet<i32>,
    is_mounted_anew: bool,
}

impl Watcher {
    fn new() -> Option<Watcher> {
        static WATCHERS: AtomicU32 = AtomicU32::new(0);
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?;
        Some(Watcher {
            id: WATCHERS.fetch_add(1, Ordering::Relaxed),
            inotify: inotify::init(flags).ok()?,
            mounts: File::open("/proc/self/mountinfo").ok()?,
            left: most.trim().parse::<usize>().ok()? / SHARE_OF_WATCHES,
            directories: HashSet::new(),
            ended: HashSet::new(),
            renamed: HashSet::new(),
            uprooted: HashSet::new(),
            is_mounted_anew: false,
        })
    }

    /// Takes in what has happened by now. `false`: there was too much, and some of it is lost.
    pub(super) fn hear(&mut self) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut mounts = [PollFd::new(&self.mounts, PollFlags::PRI)];
        // A failure tells of nothing, and is none of a list that did not change.
        self.is_mounted_anew |=
            rustix::event::poll(&mut mounts, Some(&at_once)).map_or(true, |told| told > 0);
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = events.next() {
            let (number, flags) = (event.wd(), event.events());
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                return false;
            }
            if !self.directories.contains(&number) {
                self.left += usize::from(self.ended.insert(number));
                continue;
            }
            let is_of_a_name = event.file_name().is_some();
            if flags.contains(ReadFlags::IGNORED) {
                self.ended.insert(number);
            }
            let is_uprooted = match is_of_a_name {
                true => flags.contains(ReadFlags::ISDIR) && flags.intersects(GONE),
                false => !flags.contains(ReadFlags::ATTRIB),
            };
            if is_uprooted {
                self.uprooted.insert(number);
            }
            // Permissions of what is in a directory are told of there.
            if !(is_of_a_name && flags.contains(ReadFlags::ATTRIB)) {
                self.renamed.insert(number);
            }
        }
        true
    }

    /// All that was heard has been looked at.
    pub(super) fn is_up_to_date(&mut self) {
        self.renamed.clear();
        self.uprooted.clear();
        self.is_mounted_anew = false;
    }

    /// Whether everything has to be looked at, since names may lead elsewhere.
    pub(super) fn is_mounted_anew(&self) -> bool {
        self.is_mounted_anew
    }

    /// Whether nothing has happened to this file since it was last looked at.
    pub(super) fn is_quiet(&self, entry: &Entry) -> bool {
        match entry {
            Entry::File { is_settled, watch, .. } => *is_settled && self.lasts(*watch),
            // The directory tells of these.
            Entry::Directory | Entry::Link { .. } => true,
            Entry::Unsent { is_settled, .. } => *is_settled,
        }
    }

    /// Whether the directories in this one are where they were.
    pub(super) fn is_rooted(&self, directory: &Directory) -> bool {
        let is_uprooted = |watch: Watch| self.uprooted.contains(&watch.number);
        directory.is_settled && self.lasts(directory.watch) && !directory.watch.is_some_and(is_uprooted)
    }

    /// Whether the names in a directory may be others by now.
    pub(super) fn is_renamed(&self, directory: &Directory) -> bool {
        directory.watch.is_none_or(|watch| self.renamed.contains(&watch.number))
    }

    fn lasts(&self, watch: Option<Watch>) -> bool {
        watch.is_some_and(|watch| watch.watcher == self.id && !self.ended.contains(&watch.number))
    }

    fn add(&mut self, file: &File, flags: WatchFlags) -> Option<Watch> {
        self.left = self.left.checked_sub(1)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let number = inotify::add_watch(&self.inotify, path, flags).ok()?;
        Some(Watch { watcher: self.id, number })
    }

    /// Watches a directory that is open, if it is as it was.
    fn watch_directory(&mut self, open: &File, directory: &mut Directory) {
        let watch = self.add(open, OF_A_DIRECTORY);
        self.directories.extend(watch.map(|watch| watch.number));
        let is_same = Fingerprint::of_open(open).is_ok_and(|now| now == directory.fingerprint);
        directory.watch = watch.filter(|_| is_same);
    }

    /// Watches a file that is open for reading, if it is as it was and nobody else has it open for writing.
    fn watch_file(&mut self, open: &File, fingerprint: &Fingerprint) -> Option<Watch> {
        let watch = writers::without_writers(open, || self.add(open, OF_A_FILE)).ok()??;
        Fingerprint::of_open(open).is_ok_and(|now| now == *fingerprint).then_some(watch)
    }
}

impl Snapshot {
    /// Has the kernel tell of what happens to up to `most` more files, which looks need not look at from then on; that takes some
    /// microseconds for each. Returns how many it were: none are left, or may be watched, if it is less. To be called now and then
    /// when there is time, since the first that happens to a file ends its watch.
    pub fn watch(&mut self, most: usize) -> usize {
        let Snapshot { root, directories, watcher, .. } = self;
        if !watcher.as_mut().is_some_and(Watcher::hear) {
            *watcher = Watcher::new();
        }
        let Some(watcher) = watcher else { return 0 };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(root) = rustix::fs::open(&*root, flags, Mode::empty()) else { return 0 };
        let mut watched = 0;
        for (path, directory) in directories {
            if watched >= most {
                break;
            }
            let is_unwatched = |entry: &Entry| matches!(entry, Entry::File { is_settled: true, watch, .. } if !watcher.lasts(*watch));
            let is_quiet = watcher.lasts(directory.watch) || !directory.is_settled;
            if is_quiet && !directory.entries.iter().any(|(_, entry)| is_unwatched(entry)) {
                continue;
            }
            let Some(open) = open(&root, path, flags).filter(is_watchable) else { continue };
            if !is_quiet {
                watcher.watch_directory(&open, directory);
            }
            let (device, open) = (directory.fingerprint.file_id().0, OwnedFd::from(open));
            for (name, entry) in &mut directory.entries {
                let Entry::File { fingerprint, is_settled: true, watch, .. } = entry else { continue };
                if watched >= most || watcher.lasts(*watch) || fingerprint.file_id().0 != device {
                    continue;
                }
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Ok(file) = rustix::fs::openat(&open, &**name, flags, Mode::empty()) else { continue };
                *watch = watcher.watch_file(&File::from(file), fingerprint);
                watched += usize::from(watch.is_some());
            }
        }
        watched
    }
}

fn open(root: &OwnedFd, path: &TreePath, flags: OFlags) -> Option<File> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let open = rustix::fs::openat2(root, path.as_path(), flags | OFlags::NOFOLLOW, Mode::empty(), resolve);
    open.ok().map(File::from)
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "its type differs by architecture")]
fn is_watchable(directory: &File) -> bool {
    let is_overlay = rustix::fs::fstatfs(directory).is_ok_and(|system| i64::from(system.f_type) == OVERLAY);
    listings::is_local(directory) && !is_overlay
}

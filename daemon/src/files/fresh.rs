//! Files that this process has put into place a moment ago: the kernel tells whether anybody has written to them since
//! (inotify(7)). As long as their last change lies less than the clock's granularity back, their `stat` would not.
//! Knows nothing of what is in them.
//!
//! Who writes through a mapping of the file is not told of: nobody does so to another's output within that moment.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;

use rustix::fs::inotify;

use crate::files::Version;
use crate::listings;

/// More files than are put into place in a second; each takes some kernel memory, of which each user has a limit.
pub(super) const MOST_WATCHED: usize = 4096;

/// Events that are read at a time, about.
const EVENT_BYTES: usize = 4096;

/// A file to which nobody has written since.
#[derive(Debug)]
pub struct Watch(i32);

/// All files that are fresh.
pub(super) struct Fresh {
    inotify: Option<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: HashMap<OsString, (i32, Version)>,
    /// In the order in which they were put there.
    watches: VecDeque<(i32, OsString)>,
}

impl Fresh {
    pub(super) fn new() -> Fresh {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        // Without it, files are read again.
        Fresh { inotify: inotify::init(flags).ok(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches an open file. None: that cannot be had.
    pub(super) fn watch(&self, file: &File) -> Option<Watch> {
        let inotify = self.inotify.as_ref()?;
        if !listings::is_local(file) || self.state().watches.len() >= MOST_WATCHED {
            return None;
        }
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        inotify::add_watch(inotify, name, inotify::WatchFlags::MODIFY).ok().map(Watch)
    }

    /// The file that is watched is at `path` now.
    pub(super) fn put(&self, path: &Path, version: Version, watch: &Watch) {
        let mut state = self.state();
        state.files.insert(path.as_os_str().to_owned(), (watch.0, version));
        state.watches.push_back((watch.0, path.as_os_str().to_owned()));
    }

    /// What is known of `path`, if nobody has written to it.
    pub(super) fn known(&self, path: &Path) -> Option<Version> {
        let mut state = self.state();
        self.hear(&mut state);
        state.files.get(path.as_os_str()).map(|(_, version)| *version)
    }

    /// Takes out those that have settled by `now`, and to which nobody has written.
    pub(super) fn settled(&self, now: SystemTime) -> Vec<(OsString, Version)> {
        let mut state = self.state();
        self.hear(&mut state);
        let mut settled = Vec::new();
        while let Some((watch, path)) = state.watches.pop_front() {
            match state.files.get(&path) {
                Some((current, version)) if *current == watch => {
                    if !version.fingerprint.is_settled(now) {
                        state.watches.push_front((watch, path));
                        break;
                    }
                    settled.push((path.clone(), *version));
                    state.files.remove(&path);
                }
                // Something else is there by now, or somebody has written to it.
                _ => {}
            }
            self.unwatch(&Watch(watch));
        }
        settled
    }

    /// Ends a watch.
    pub(super) fn unwatch(&self, watch: &Watch) {
        if let Some(inotify) = &self.inotify {
            // A file that was removed is watched no more.
            let _ = inotify::remove_watch(inotify, watch.0);
        }
    }

    /// Forgets those to which somebody has written. Under the lock, since whoever asks next must know what was read here; it
    /// is no file that is read, and nothing is waited for.
    fn hear(&self, state: &mut State) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            match event.events() {
                flags if flags.contains(inotify::ReadFlags::QUEUE_OVERFLOW) => state.files.clear(),
                flags if flags.contains(inotify::ReadFlags::MODIFY) => {
                    state.files.retain(|_, (watch, _)| *watch != event.wd());
                }
                _ => {}
            }
        }
    }
}

//! Modification times for files that another machine has written: later than what it has made them of, in the order of writing, by
//! this machine's clock.
//! Knows nothing of the files' content.
//!
//! A foreign clock must never decide what Make builds again: of the other machine's times only the order counts. The kernel
//! stamps files by a clock that moves in ticks of some milliseconds, and so do these: a stamp from a finer clock would be
//! younger than what a command writes right after it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::UTIME_NOW;

use crate::listings;

/// Longer than any tick.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a file in `directory` would get as its modification time now, in nanoseconds since 1970, once that is later than
/// `last`: at most a tick is waited for.
///
/// # Errors
/// When no file can be made there, or its clock stands still.
pub(super) fn tick(directory: &Path, last: i128) -> io::Result<i128> {
    // Without a name, where that can be had: the directory stays as it is.
    let probe = tempfile::tempfile_in(directory)?;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let now = modified(&probe)?;
        if now > last {
            return Ok(now);
        }
        if std::time::Instant::now() > deadline {
            return Err(io::Error::other("files get times from the future: is the clock wrong?"));
        }
        std::thread::sleep(Duration::from_millis(1));
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        rustix::fs::futimens(&probe, &Timestamps { last_access: now, last_modification: now })?;
    }
}

/// The device of a directory, and the present moment by its clock, in nanoseconds since 1970: whatever is written there from now
/// on gets no earlier time. None where that cannot be had: on network file systems other clocks count.
pub(super) fn present(directory: &OwnedFd) -> Option<(u64, i128)> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let probe = File::from(rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR).ok()?);
    let metadata = probe.metadata().ok().filter(|_| listings::is_local(&probe))?;
    Some((metadata.dev(), i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())))
}

fn modified(file: &File) -> io::Result<i128> {
    let metadata = file.metadata()?;
    Ok(i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()))
}

/// Two moments: whatever was written by now is no younger than the first, whatever will be is no older than the second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) first: i128,
    pub(super) second: i128,
}

impl Span {
    /// As much of it, from its first moment on, as `count` stamps want.
    pub(super) fn beginning(self, count: usize) -> Span {
        let wanted = i128::try_from(count).unwrap_or(i128::MAX / 2_000) * 1_000;
        match self.is_coarse() {
            true => self,
            false => Span { second: self.second.min(self.first + wanted + 1), ..self },
        }
    }

    /// One of the stamps `0..count`, which are in order, later than the first moment and before the second.
    pub(super) fn stamp(&self, at: usize, count: usize) -> Stamp {
        if self.is_coarse() {
            return Stamp { nanos: self.second, is_past: false };
        }
        let (at, count) = (i128::try_from(at).unwrap_or(0), i128::try_from(count.max(1)).unwrap_or(1));
        let last = self.second - 1;
        let span = (last - self.first).min(count * 1_000);
        Stamp { nanos: last - span + (span * (at + 1)).div_euclid(count).max(1), is_past: true }
    }

    /// Whether the file system keeps whole seconds only.
    fn is_coarse(&self) -> bool {
        [self.first, self.second].iter().all(|moment| moment % 1_000_000_000 == 0)
    }
}

/// A modification time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    /// In nanoseconds since 1970.
    pub(super) nanos: i128,
    /// Whether nothing that is written from now on gets the same.
    pub(super) is_past: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_in_order_between_two_moments() {
        for (count, first, second) in [(1, 0, 2), (3, 100, 200), (5, 0, 1_000_000), (4, 10, 15)] {
            let span = Span { first, second };
            let stamps: Vec<_> = (0..count).map(|at| span.stamp(at, count).nanos).collect();
            assert!(stamps.windows(2).all(|two| two[0] < two[1]), "{stamps:?}");
            assert!(stamps[0] > first && stamps[count - 1] == second - 1, "{stamps:?}");
            assert!(span.stamp(0, count).is_past);
        }
        let long = Span { first: 7, second: 9_000_000_000 };
        let stamps: Vec<_> = (0..3).map(|at| long.beginning(3).stamp(at, 3).nanos).collect();
        assert!(
            stamps[0] > 7 && stamps.windows(2).all(|two| two[0] < two[1]) && stamps[2] < 4_000,
            "{stamps:?}"
        );
        let short = Span { first: 7, second: 20 };
        assert_eq!(short.beginning(5).second, 20);
        let whole_seconds = Span { first: 3_000_000_000, second: 4_000_000_000 };
        let stamp = whole_seconds.stamp(1, 3);
        assert!(stamp.nanos == 4_000_000_000 && !stamp.is_past);
        assert_eq!(whole_seconds.beginning(3).second, 4_000_000_000);
    }

    #[test]
    fn a_tick_is_later_than_what_is_there_and_not_later_than_what_comes() {
        let directory = tempfile::tempdir().unwrap();
        let first = tick(directory.path(), 0).unwrap();
        let second = tick(directory.path(), first).unwrap();
        let after = modified(&tempfile::tempfile_in(directory.path()).unwrap()).unwrap();
        assert!(first < second && second <= after);
        let year: i128 = 365 * 86_400 * 1_000_000_000;
        assert!(tick(directory.path(), after + year).is_err());
    }
}

//! Modification times for files that another machine has written: later than all that is here, in the order of writing, by this
//! machine's clock.
//! Knows nothing of the files' content.
//!
//! A foreign clock must never decide what Make builds again: of the other machine's times only the order counts. The kernel
//! stamps files by a clock that moves in ticks of some milliseconds, and so do these: a stamp from a finer clock would be
//! younger than what a command writes right after it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::UTIME_NOW;

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

fn modified(file: &File) -> io::Result<i128> {
    let metadata = file.metadata()?;
    Ok(i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()))
}

/// One of the stamps `0..count` that end at `now` and are all later than `last`, in order.
pub(super) fn stamp(at: usize, count: usize, last: i128, now: i128) -> i128 {
    let (at, count) = (i128::try_from(at).unwrap_or(0), i128::try_from(count.max(1)).unwrap_or(1));
    let span = (now - last).min(count * 1_000);
    now - span + (span * (at + 1)).div_euclid(count).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_in_order_and_end_now() {
        for (count, last, now) in [(1, 0, 1), (3, 100, 200), (5, 0, 1_000_000), (4, 10, 12)] {
            let stamps: Vec<_> = (0..count).map(|at| stamp(at, count, last, now)).collect();
            assert!(stamps.is_sorted() && stamps[0] > last && stamps[count - 1] == now, "{stamps:?}");
        }
        assert!(
            (0..4)
                .map(|at| stamp(at, 4, 0, 1_000_000))
                .collect::<Vec<_>>()
                .windows(2)
                .all(|two| two[0] < two[1])
        );
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

//! Slots: how many compilers run on this machine at a time, whoever started them.
//! Knows nothing of daemons: a slot is a locked file, and the kernel frees it when its holder is gone.
//!
//! Who finds all slots taken sleeps on the lock of one. It wakes up now and then to look at the others, and to
//! see whether the holder is stopped: a build that was suspended by Ctrl-Z keeps its locks, and must not hang
//! every other build of the machine. Each slot whose holder is stopped has a deputy, so that never more than the
//! allowed number run.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::IntoRawFd;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::FdFlags;

use crate::directories::prepare_directory;
use crate::places::open_lock;
use crate::signals::Ticks;

/// How long to sleep on one lock before looking around.
const LOOK_AROUND: Duration = Duration::from_secs(5);
/// How many suspended builds, one after the other, a slot makes up for.
const MAX_DEPUTIES: usize = 8;
/// Descriptors from here on are out of the way of scripts that use numbers.
const HIGH_FD: RawFd = 200;

/// A held slot, free again when the last descriptor of it is closed.
#[derive(Debug)]
pub struct Slot {
    file: File,
}

impl Slot {
    /// Keeps the slot for the program that this process becomes by `exec`, and all that inherits descriptors
    /// from it. The descriptor has a high number.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn keep_across_exec(self) -> io::Result<RawFd> {
        let high = rustix::io::fcntl_dupfd_cloexec(&self.file, HIGH_FD);
        // A low limit of descriptors is no reason to go without a slot.
        let inherited = high.or_else(|_| rustix::io::fcntl_dupfd_cloexec(&self.file, 3))?;
        rustix::io::fcntl_setfd(&inherited, FdFlags::empty())?;
        Ok(inherited.into_raw_fd())
    }
}

/// Takes one of `count` slots below `directory`, which is made if need be; waits for one as long as it takes.
///
/// # Errors
/// When the directory is not ours or a file in it cannot be locked.
pub fn acquire(directory: &Path, count: NonZeroUsize) -> io::Result<Slot> {
    prepare_directory(directory)?;
    let mut ticks = None;
    for chosen in first_choice().. {
        if let Some(slot) = any_free(directory, count, chosen)? {
            return Ok(slot);
        }
        let count = count.get();
        let mut index = chosen % count;
        while index < count * MAX_DEPUTIES && holder_is_stopped(directory, index) {
            index += count;
            if let Some(slot) = lock(directory, index, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(slot);
            }
        }
        if ticks.is_none() {
            ticks = Some(Ticks::every(LOOK_AROUND)?);
        }
        if let Some(slot) = lock(directory, index, FlockOperation::LockExclusive)? {
            return Ok(slot);
        }
    }
    Err(io::ErrorKind::QuotaExceeded.into())
}

/// Takes one of `count` slots below `directory` if one is free now.
///
/// # Errors
/// The same as [`acquire`].
pub fn acquire_free(directory: &Path, count: NonZeroUsize) -> io::Result<Option<Slot>> {
    prepare_directory(directory)?;
    any_free(directory, count, first_choice())
}

/// Launchers that start together have neighbouring numbers, and so spread over the slots.
fn first_choice() -> usize {
    usize::try_from(rustix::process::getpid().as_raw_nonzero().get()).unwrap_or_default()
}

fn any_free(directory: &Path, count: NonZeroUsize, chosen: usize) -> io::Result<Option<Slot>> {
    for index in 0..count.get() {
        let index = (chosen + index) % count;
        if let Some(slot) = lock(directory, index, FlockOperation::NonBlockingLockExclusive)? {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

/// The number of slots: FARCC_EXEC_LOCAL_JOBS if that is a number, else what the daemon last
/// [wrote](set_count) from its configuration, else one for each processor.
pub fn count(directory: &Path, local_jobs: Option<&OsStr>) -> NonZeroUsize {
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.trim().parse().ok();
    local_jobs
        .and_then(|value| number(value.as_bytes()))
        .or_else(|| number(&std::fs::read(directory.join("count")).ok()?))
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}

/// Tells launchers the number of slots, also for the time when there is no daemon.
///
/// # Errors
/// When the directory is not ours or cannot be written.
pub fn set_count(directory: &Path, count: NonZeroUsize) -> io::Result<()> {
    prepare_directory(directory)?;
    let unfinished = directory.join(format!("count.{}", std::process::id()));
    std::fs::write(&unfinished, format!("{count}\n"))?;
    std::fs::rename(unfinished, directory.join("count"))
}

/// Locks one slot; none if it is taken, or if a tick ended the wait.
fn lock(directory: &Path, index: usize, how: FlockOperation) -> io::Result<Option<Slot>> {
    let file = open_lock(&directory.join(index.to_string()))?;
    match rustix::fs::flock(&file, how) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // Only a hint for those who wait: on a full disk the slot works as well.
    let us = format!("{:>10}", std::process::id());
    let _ = file.write_all_at(us.as_bytes(), 0);
    Ok(Some(Slot { file }))
}

/// Whether the process that took a slot is stopped by a signal or a debugger.
fn holder_is_stopped(directory: &Path, index: usize) -> bool {
    let holder = std::fs::read_to_string(directory.join(index.to_string())).unwrap_or_default();
    let Ok(holder) = holder.trim().parse::<u32>() else { return false };
    let stat = std::fs::read(format!("/proc/{holder}/stat")).unwrap_or_default();
    // proc_pid_stat(5): the name is in parentheses and may contain any byte, the state follows the last one.
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'T' | b't'))
}

#[cfg(test)]
mod tests {
    use std::process::Child;
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    fn slots(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn no_more_than_count_and_freed_by_drop() {
        let directory = tempfile::tempdir().unwrap();
        let first = acquire(directory.path(), slots(2)).unwrap();
        let second = acquire(directory.path(), slots(2)).unwrap();
        let free = |index| lock(directory.path(), index, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(free(0).is_none() && free(1).is_none());
        drop(first);
        assert!(free(0).is_some() != free(1).is_some());
        drop(second);
    }

    #[test]
    fn who_takes_only_a_free_one_does_not_wait() {
        let directory = tempfile::tempdir().unwrap();
        let first = acquire_free(directory.path(), slots(2)).unwrap();
        let second = acquire_free(directory.path(), slots(2)).unwrap();
        assert!(first.is_some() && second.is_some());
        let start = Instant::now();
        assert!(acquire_free(directory.path(), slots(2)).unwrap().is_none());
        assert!(start.elapsed() < LOOK_AROUND);
        drop(first);
        assert!(acquire_free(directory.path(), slots(2)).unwrap().is_some());
    }

    #[test]
    fn a_waiter_gets_the_slot_that_is_freed() {
        let directory = tempfile::tempdir().unwrap();
        let held = acquire(directory.path(), slots(1)).unwrap();
        let path = directory.path().to_owned();
        let waiter = std::thread::spawn(move || {
            acquire(&path, slots(1)).unwrap();
            Instant::now()
        });
        std::thread::sleep(Duration::from_millis(100));
        let freed = Instant::now();
        drop(held);
        let got = waiter.join().unwrap();
        assert!(got >= freed, "got a slot that was held");
        assert!(got - freed < LOOK_AROUND, "slept on although the slot was free");
    }

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn state_is_stopped(child: &Child) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") T")
    }

    #[test]
    fn a_suspended_build_does_not_hang_the_others() {
        let directory = tempfile::tempdir().unwrap();
        // `flock(1)` holds the lock as a compiler does after `exec`; the number is what `lock` writes.
        let mut holder = Command::new("sh")
            .args(["-c", "exec 9<>0; flock 9; echo $$ >&9; kill -STOP $$"])
            .current_dir(directory.path())
            .spawn()
            .unwrap();
        wait_until("the holder stops", || state_is_stopped(&holder));
        let start = Instant::now();
        let deputy = acquire(directory.path(), slots(1)).unwrap();
        assert!(start.elapsed() < LOOK_AROUND);
        // The deputy is one slot, not a gap in the limit.
        assert!(lock(directory.path(), 1, FlockOperation::NonBlockingLockExclusive).unwrap().is_none());
        drop(deputy);
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(lock(directory.path(), 0, FlockOperation::NonBlockingLockExclusive).unwrap().is_some());
    }

    #[test]
    fn a_build_that_is_suspended_later_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut holder = Command::new("sh")
            .args(["-c", "exec 9<>0; flock 9; echo $$ >&9; touch held; sleep 0.3; kill -STOP $$"])
            .current_dir(directory.path())
            .spawn()
            .unwrap();
        wait_until("the holder holds", || directory.path().join("held").exists());
        drop(acquire(directory.path(), slots(1)).unwrap());
        assert!(state_is_stopped(&holder));
        holder.kill().unwrap();
        holder.wait().unwrap();
    }

    #[test]
    fn the_count_comes_from_environment_daemon_or_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let machine = std::thread::available_parallelism().unwrap();
        assert_eq!(count(path, None), machine);
        set_count(path, slots(77)).unwrap();
        assert_eq!(count(path, None), slots(77));
        assert_eq!(count(path, Some(OsStr::new("3"))), slots(3));
        for nonsense in ["", "0", "-1", "many"] {
            assert_eq!(count(path, Some(OsStr::new(nonsense))), slots(77), "{nonsense}");
        }
    }

    #[test]
    fn a_planted_symlink_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("0")).unwrap();
        assert!(acquire(directory.path(), slots(1)).is_err());
    }
}

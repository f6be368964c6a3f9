//! Whether anybody may be writing to a file.
//! Knows nothing of what is in it.
//!
//! Who has mapped a file into memory writes to it without a system call, and its `stat` shows that only when a page of it becomes
//! dirty: what is written to the page from then on, until it is on disk, shows nowhere. So nobody may have the file open for
//! writing when it is read, if its content is to be known from then on by its `stat` alone: the kernel gives out a lease to read
//! (fcntl(2)) only then, and counts mappings as well.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::time::SystemTime;

use rustix::io::Errno;

use crate::files::Fingerprint;
use crate::listings;

/// Longer than the kernel keeps a dirty page before it writes it to disk (proc_sys_vm(5), `dirty_expire_centisecs`), and with that
/// tells of the next write to it.
const WRITTEN_BACK: Duration = Duration::from_secs(120);

/// `TMPFS_MAGIC`: what is only in memory is never written to disk.
const TMPFS: i64 = 0x0102_1994;

/// `F_SETSIG`, which the library does not name.
const SET_SIGNAL: libc::c_int = 10;

/// Who may write to a file without opening it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writers {
    /// Nobody.
    None,
    /// Somebody.
    Some,
    /// The kernel does not say: it is another user's file, or its file system has no leases.
    Unknown,
}

/// Who may write to a file that is open for reading alone.
pub(super) fn writers(file: &File) -> Writers {
    without_writers(file, || ()).map_or_else(|writers| writers, |()| Writers::None)
}

/// Does something while nobody may open for writing a file that is open for reading alone; whoever tries waits.
///
/// # Errors
/// Somebody, or nobody knows, may write to it now: nothing is done.
#[expect(unsafe_code, reason = "no crate at hand has this call")]
pub(super) fn without_writers<T>(file: &File, act: impl FnOnce() -> T) -> Result<T, Writers> {
    let fcntl = |command, argument: libc::c_int| {
        // SAFETY: these commands take a number, and touch no memory of this process.
        unsafe { libc::fcntl(file.as_raw_fd(), command, argument) }
    };
    // The kernel tells of who waits by a signal: by one that nobody minds, instead of SIGIO, which ends a process.
    if fcntl(SET_SIGNAL, libc::SIGURG) != 0 {
        return Err(Writers::Unknown);
    }
    if fcntl(libc::F_SETLEASE, libc::F_RDLCK) != 0 {
        return Err(match Errno::from_io_error(&std::io::Error::last_os_error()) {
            // A network file system says so where its server has not left the file to this machine.
            Some(Errno::AGAIN) if listings::is_local(file) => Writers::Some,
            _ => Writers::Unknown,
        });
    }
    let done = act();
    fcntl(libc::F_SETLEASE, libc::F_UNLCK);
    Ok(done)
}

/// Whether a file that is open for reading alone, and that is then read, is known from then on by its `stat`, as far as writers
/// are concerned that have it open.
pub(super) fn is_told_of(file: &File, fingerprint: &Fingerprint, now: SystemTime) -> bool {
    match writers(file) {
        Writers::None => true,
        Writers::Some => false,
        Writers::Unknown => {
            let long_ago = now.checked_sub(WRITTEN_BACK);
            !is_in_memory(file) && long_ago.is_some_and(|long_ago| fingerprint.is_settled(long_ago))
        }
    }
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "its type differs by architecture")]
fn is_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).map_or(true, |system| i64::from(system.f_type) == TMPFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert_eq!(writers(&reader), Writers::Some);
        drop(writer);
        assert_eq!([writers(&reader), writers(&reader)], [Writers::None; 2]);
        // Whoever reads it is no matter, and whoever comes afterwards is not held up.
        let _other = File::open(&path).unwrap();
        assert_eq!(writers(&reader), Writers::None);
        drop(File::options().append(true).open(&path).unwrap());
        assert_eq!(writers(&File::open("/dev/null").unwrap()), Writers::Unknown);
    }

    #[test]
    fn where_the_kernel_does_not_say_the_disk_does() {
        let null = File::open("/dev/null").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let old = Fingerprint::of(directory.path()).unwrap();
        let now = SystemTime::now();
        assert_eq!(writers(&null), Writers::Unknown);
        assert!(!is_told_of(&null, &old, now));
        assert_eq!(is_told_of(&null, &old, now + 2 * WRITTEN_BACK), !is_in_memory(&null));
    }
}

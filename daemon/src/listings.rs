//! What the daemon remembers of directories: the names in them, while their `stat` is as it was.
//! Knows nothing of what is looked for in them, nor of what is in their files.
//!
//! A directory's `stat` changes whenever a name in it appears, vanishes or is replaced, so one `stat` can stand for
//! any number of look-ups that are known to fail. That holds only on file systems that keep the times of their
//! directories here and now, and only for directories that have not been changed just now; of others
//! [`Listings::of`] tells nothing.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::FileType;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use dashmap::DashMap;
use foldhash::HashSet;
use foldhash::HashSetExt;
use foldhash::fast::RandomState;

use crate::files::Fingerprint;

/// File systems that update a directory's times with every change of its names, and whose changes all come through
/// this machine's kernel (statfs(2)): network file systems are not among them.
const LOCAL_FILE_SYSTEMS: &[i64] = &[
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683E, // Btrfs
    0xF2F5_2010, // F2FS
    0xCA45_1A4E, // bcachefs
    0x794C_7630, // overlayfs
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0x7371_7368, // SquashFS
    0xE0F5_E1E2, // EROFS
];

/// Larger directories are not read: looking a few names up is cheaper.
const MOST_NAMES: usize = 1 << 14;

/// When the names take more memory than this, all are forgotten.
const LARGEST_MEMORY_BYTES: usize = 64 << 20;

/// The names in one directory at one moment.
#[derive(Debug)]
pub struct Listing {
    path: PathBuf,
    fingerprint: Fingerprint,
    names: HashSet<Box<[u8]>>,
    links: HashSet<Box<[u8]>>,
    /// Whether the names can be vouched for at all.
    is_reliable: bool,
}

impl Listing {
    /// The directory, as it was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there was an entry `name`, one component, of any kind.
    pub fn has(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }

    /// Whether `name` was a symlink: what it leads to changes without the directory's doing.
    pub fn has_link(&self, name: &[u8]) -> bool {
        self.links.contains(name)
    }

    /// Whether the directory's last change lay so far before `moment` that nothing in it changed since then.
    pub fn is_older_than(&self, moment: SystemTime) -> bool {
        self.fingerprint.is_settled(moment)
    }

    /// Whether the path still leads to the same directory and every name in it is what it was.
    pub fn holds(&self) -> bool {
        Fingerprint::of(&self.path).is_ok_and(|now| now == self.fingerprint)
    }

    fn size_bytes(&self) -> usize {
        let names: usize = self.names.iter().chain(&self.links).map(|name| 48 + name.len()).sum();
        size_of::<Listing>() + self.path.as_os_str().len() + names
    }
}

/// The listings of directories, each read once while it does not change. Shared by all connections.
pub struct Listings {
    known: DashMap<OsString, Arc<Listing>, RandomState>,
    size_bytes: AtomicUsize,
    now: fn() -> SystemTime,
}

impl Default for Listings {
    fn default() -> Listings {
        Listings::with_clock(SystemTime::now)
    }
}

impl Listings {
    /// An empty memory with its own clock, so that tests can make it coarse.
    pub fn with_clock(now: fn() -> SystemTime) -> Listings {
        Listings { known: DashMap::default(), size_bytes: AtomicUsize::new(0), now }
    }

    /// The names in the directory at `path` (absolute); None where they cannot be vouched for: no directory,
    /// changed just now, too large, on a network file system, or one where `A` and `a` are the same name.
    pub fn of(&self, path: &Path) -> Option<Arc<Listing>> {
        let started = (self.now)();
        let fingerprint = Fingerprint::of(path).ok()?;
        if let Some(known) = self.known.get(path.as_os_str())
            && known.fingerprint == fingerprint
        {
            return known.is_reliable.then(|| Arc::clone(&known));
        }
        if !fingerprint.is_directory() || !fingerprint.is_settled(started) {
            return None;
        }
        let listing = Arc::new(read(path, fingerprint).ok()?);
        let size = listing.size_bytes();
        if self.size_bytes.fetch_add(size, Ordering::Relaxed) > LARGEST_MEMORY_BYTES {
            self.known.clear();
            self.size_bytes.store(size, Ordering::Relaxed);
        }
        if let Some(old) = self.known.insert(path.as_os_str().to_owned(), Arc::clone(&listing)) {
            self.size_bytes.fetch_sub(old.size_bytes(), Ordering::Relaxed);
        }
        listing.is_reliable.then_some(listing)
    }

    /// About how much memory the names take, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed)
    }
}

/// Reads a directory whose `stat` has just been taken. That its names cannot be vouched for is remembered, too.
fn read(path: &Path, fingerprint: Fingerprint) -> io::Result<Listing> {
    let mut listing = Listing {
        path: path.to_owned(),
        fingerprint,
        names: HashSet::new(),
        links: HashSet::new(),
        is_reliable: false,
    };
    if !is_of_this_machine(&rustix::fs::statfs(path)?) {
        return Ok(listing);
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name: Box<[u8]> = entry.file_name().as_bytes().into();
        if listing.names.len() == MOST_NAMES {
            listing.names = HashSet::new();
            return Ok(listing);
        }
        // A file system that does not say what an entry is, may not say that it is a link.
        if entry.file_type().as_ref().is_ok_and(FileType::is_symlink) {
            listing.links.insert(name.clone());
        }
        listing.names.insert(name);
    }
    // A change while the names were read may be in them or not.
    listing.is_reliable = tells_cases_apart(path, &listing.names) && Fingerprint::of(path)? == fingerprint;
    Ok(listing)
}

/// Whether all changes of an open file come through this machine's kernel.
pub fn is_local(file: &std::fs::File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|file_system| is_of_this_machine(&file_system))
}

/// Whether a file's times and number of links change with its names, so that another file in its place, or a symlink to the
/// same, is seen by `stat`. An overlay does not touch a file of a lower layer when one of its names goes.
pub fn counts_changes_of_names(path: &Path) -> bool {
    const OVERLAY: i64 = 0x794C_7630;
    rustix::fs::statfs(path)
        .is_ok_and(|file_system| is_of_this_machine(&file_system) && type_of(&file_system) != OVERLAY)
}

fn is_of_this_machine(file_system: &rustix::fs::StatFs) -> bool {
    LOCAL_FILE_SYSTEMS.contains(&type_of(file_system))
}

fn type_of(file_system: &rustix::fs::StatFs) -> i64 {
    #[allow(
        clippy::unnecessary_cast,
        clippy::useless_conversion,
        reason = "its type differs by architecture"
    )]
    i64::from(file_system.f_type)
}

/// Whether a name with its letters' case changed is another name: a directory can be marked otherwise on ext4, F2FS,
/// tmpfs and others. Where no name has letters, it does not matter.
fn tells_cases_apart(path: &Path, names: &HashSet<Box<[u8]>>) -> bool {
    let swap = |byte: &u8| {
        if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
    };
    let with_letters = names.iter().find(|name| name.iter().any(u8::is_ascii_alphabetic));
    let Some(name) = with_letters else { return names.iter().all(|name| name.is_ascii()) };
    let swapped: Vec<u8> = name.iter().map(swap).collect();
    if names.contains(&*swapped) {
        return true;
    }
    let found = std::fs::symlink_metadata(path.join(OsStr::from_bytes(&swapped)));
    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    fn long_after() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn names_are_known_while_the_directory_stays() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.h"), "").unwrap();
        symlink("nowhere", directory.path().join("l.h")).unwrap();
        let listings = Listings::with_clock(long_after);
        let listing = listings.of(directory.path()).unwrap();
        assert!(listing.has(b"a.h") && !listing.has_link(b"a.h") && listing.has_link(b"l.h"));
        assert!(!listing.has(b"b.h") && listing.holds());
        assert!(Arc::ptr_eq(&listing, &listings.of(directory.path()).unwrap()));
        std::fs::write(directory.path().join("b.h"), "").unwrap();
        assert!(!listing.holds());
        assert!(listings.of(directory.path()).unwrap().has(b"b.h"));
        assert!(listings.size_bytes() > 0);
    }

    #[test]
    fn a_directory_of_this_moment_is_not_vouched_for() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.h"), "").unwrap();
        assert!(Listings::default().of(directory.path()).is_none());
    }

    #[test]
    fn another_directory_in_its_place_is_noticed() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for name in ["one", "two"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("a.h"), "").unwrap();
        }
        symlink("one", at("link")).unwrap();
        let listings = Listings::with_clock(long_after);
        let listing = listings.of(&at("link")).unwrap();
        std::fs::remove_file(at("link")).unwrap();
        symlink("two", at("link")).unwrap();
        assert!(!listing.holds());
    }

    #[test]
    fn what_is_no_directory_has_no_names() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.h"), "").unwrap();
        let listings = Listings::with_clock(long_after);
        assert!(listings.of(&directory.path().join("a.h")).is_none());
        assert!(listings.of(&directory.path().join("none")).is_none());
        // Kept by the kernel, not on a disk: its times say nothing.
        assert!(listings.of(Path::new("/proc/self")).is_none());
    }
}

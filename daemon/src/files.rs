//! What the daemon remembers of files on disk: which bytes a path had when its `stat` looked as it does.
//! Knows nothing of what is in a file, nor why it is wanted.

mod fresh;

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use rustix::fs::AtFlags;
use rustix::fs::Stat;

use crate::digest::Digest;

pub use fresh::Watch;

use fresh::Fresh;

/// How coarse a file system's clock may be: a file whose last change lies within this of the moment it was
/// looked at may change again without its `stat` showing it.
pub const CLOCK_GRANULARITY: Duration = Duration::from_secs(1);

/// More files than any build reads; about two hundred bytes each. Beyond, all are forgotten and read again.
const MOST_VERSIONS: usize = 1 << 20;

/// What `stat` says of a file's identity and last change. Equal fingerprints mean equal bytes, if the first
/// one was taken when the file had been [settled](Fingerprint::is_settled).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size_bytes: u64,
    mode: u32,
    modified_nanos: i128,
    changed_nanos: i128,
}

impl Fingerprint {
    /// Of the file that `path` leads to, symlinks followed.
    ///
    /// # Errors
    /// Whatever `stat` answers.
    pub fn of(path: &Path) -> io::Result<Fingerprint> {
        // Not by `std`, which asks for more and takes half as long again.
        Ok(Fingerprint::from_stat(&rustix::fs::stat(path)?))
    }

    /// Of the file that `name` leads to from an open directory, symlinks followed.
    ///
    /// # Errors
    /// Whatever `fstatat` answers.
    pub fn below(directory: &impl AsFd, name: &OsStr) -> io::Result<Fingerprint> {
        Ok(Fingerprint::from_stat(&rustix::fs::statat(directory, name, AtFlags::empty())?))
    }

    /// Of what `name` is in an open directory, which may be a symlink.
    ///
    /// # Errors
    /// Whatever `fstatat` answers.
    pub fn of_entry(directory: &impl AsFd, name: &OsStr) -> io::Result<Fingerprint> {
        Ok(Fingerprint::from_stat(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// Of an open file.
    ///
    /// # Errors
    /// Whatever `fstat` answers.
    pub fn of_open(file: &impl AsFd) -> io::Result<Fingerprint> {
        Ok(Fingerprint::from_stat(&rustix::fs::fstat(file)?))
    }

    #[allow(
        clippy::useless_conversion,
        clippy::cast_lossless,
        reason = "the fields' types differ by architecture"
    )]
    fn from_stat(stat: &Stat) -> Fingerprint {
        let nanos = |seconds: i128, nanos: i128| seconds * 1_000_000_000 + nanos;
        Fingerprint {
            device: u64::from(stat.st_dev),
            inode: u64::from(stat.st_ino),
            size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: u32::from(stat.st_mode),
            modified_nanos: nanos(i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec)),
            changed_nanos: nanos(i128::from(stat.st_ctime), i128::from(stat.st_ctime_nsec)),
        }
    }

    /// Whether the last change lies so far before `now` that a later one would be seen.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i128::try_from(since_epoch.as_nanos()).unwrap_or(i128::MAX);
        let granularity = i128::try_from(CLOCK_GRANULARITY.as_nanos()).unwrap_or(i128::MAX);
        self.modified_nanos.max(self.changed_nanos).saturating_add(granularity) < now
    }

    /// Of a file that exists only in memory: `inode` tells it from others.
    pub fn in_memory(inode: u64, size_bytes: u64) -> Fingerprint {
        Fingerprint { device: 0, inode, size_bytes, mode: 0o100_644, modified_nanos: 0, changed_nanos: 0 }
    }

    /// Device and inode number: equal for two paths that lead to the same file.
    pub fn file_id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Time of the last change of the content, in whole seconds since 1970.
    pub fn modified_seconds(&self) -> i64 {
        i64::try_from(self.modified_nanos.div_euclid(1_000_000_000)).unwrap_or_default()
    }

    /// Time of the last change of the content, in nanoseconds since 1970.
    pub fn modified_nanos(&self) -> i128 {
        self.modified_nanos
    }

    /// Time of the last change of content, permissions or names, in nanoseconds since 1970.
    pub fn changed_nanos(&self) -> i128 {
        self.changed_nanos
    }

    /// Type and permission bits (inode(7), `st_mode`).
    pub fn mode(&self) -> u32 {
        self.mode
    }

    /// Permission bits, as in `chmod`.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Size of the file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether it is the same file with the same content and permissions as `other`, for all that these tell: only its names or
    /// links may have changed in between.
    pub fn is_as_written(&self, other: &Fingerprint) -> bool {
        Fingerprint { changed_nanos: 0, ..*self } == Fingerprint { changed_nanos: 0, ..*other }
    }

    /// Whether both are of one and the same file or directory, whatever happened to it in between.
    pub fn is_same_file(&self, other: &Fingerprint) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    /// Whether it is a symlink itself.
    pub fn is_symlink(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }

    /// Whether its owner may execute it.
    pub fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }
}

/// One version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// What `stat` said when the bytes were read.
    pub fingerprint: Fingerprint,
    /// Digest of the bytes.
    pub digest: Digest,
}

/// A file that a command reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Absolute path, as the command opens it: `..` and symlinks are kept.
    pub path: PathBuf,
    /// What it held when it was looked at.
    pub version: Version,
}

/// The digests of files, each computed once per version. Shared by all connections.
pub struct Files {
    fresh: Fresh,
    // By `OsString`: a `Path` hashes component by component, which takes several times as long.
    versions: DashMap<OsString, Version, RandomState>,
    now: fn() -> SystemTime,
}

impl Default for Files {
    fn default() -> Files {
        Files::with_clock(SystemTime::now)
    }
}

impl Files {
    /// An empty memory with its own clock, so that tests can make it coarse.
    pub fn with_clock(now: fn() -> SystemTime) -> Files {
        Files { fresh: Fresh::new(), versions: DashMap::default(), now }
    }

    /// The current version of the file at `path` (absolute), from memory if its `stat` is unchanged and can be
    /// trusted, else by reading it.
    ///
    /// # Errors
    /// Whatever `stat`, `open` or `read` answers; `InvalidInput` when it is no regular file.
    pub fn version(&self, path: &Path) -> io::Result<Version> {
        let fingerprint = Fingerprint::of(path)?;
        if let Some(version) = self.remembered(path, fingerprint) {
            return Ok(version);
        }
        if let Some(version) = self.fresh.known(path).filter(|version| version.fingerprint == fingerprint) {
            return Ok(version);
        }
        if !fingerprint.is_regular() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut file = File::open(path)?;
        // The descriptor's own stat: the path may lead elsewhere by now.
        let fingerprint = Fingerprint::of_open(&file)?;
        let started = (self.now)();
        let digest = Digest::of_reader(&mut file)?;
        let version = Version { fingerprint, digest };
        self.remember(path, version, started);
        Ok(version)
    }

    /// What is known of `path` if its `stat` is `fingerprint` now.
    pub fn remembered(&self, path: &Path, fingerprint: Fingerprint) -> Option<Version> {
        self.versions
            .get(path.as_os_str())
            .map(|entry| *entry)
            .filter(|version| version.fingerprint == fingerprint)
    }

    /// Watches a file that is about to be put into its place. None: that cannot be had.
    pub fn watch(&self, file: &File) -> Option<Watch> {
        for (path, version) in self.fresh.settled((self.now)()) {
            self.versions.insert(path, version);
        }
        self.fresh.watch(file)
    }

    /// Records that a file with these bytes was put at `path`, watched since before. It is not read again as long as nobody
    /// writes to it.
    pub fn put(&self, path: &Path, digest: Digest, watch: &Watch) {
        match Fingerprint::of(path) {
            Ok(fingerprint) => self.fresh.put(path, Version { fingerprint, digest }, watch),
            Err(_) => self.fresh.unwatch(watch),
        }
    }

    /// Records a version that was read by others. `looked_at`: the moment before its bytes were read. What was
    /// not settled then is forgotten instead: its `stat` proves nothing.
    pub fn remember(&self, path: &Path, version: Version, looked_at: SystemTime) {
        if version.fingerprint.is_settled(looked_at) {
            if self.versions.len() >= MOST_VERSIONS {
                self.versions.clear();
            }
            self.versions.insert(path.as_os_str().to_owned(), version);
        } else {
            self.versions.remove(path.as_os_str());
        }
    }

    /// The present moment of this memory's clock.
    pub fn now(&self) -> SystemTime {
        (self.now)()
    }

    /// The clock itself.
    pub fn clock(&self) -> fn() -> SystemTime {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;

    use super::*;

    fn long_after() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_fresh_file_is_read_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.h");
        std::fs::write(&path, "one").unwrap();
        let files = Files::default();
        assert_eq!(files.version(&path).unwrap().digest, Digest::of(b"one"));
        // Same size, perhaps the same tick of the clock.
        std::fs::write(&path, "two").unwrap();
        assert_eq!(files.version(&path).unwrap().digest, Digest::of(b"two"));
    }

    #[test]
    fn a_settled_file_is_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.h");
        std::fs::write(&path, "one").unwrap();
        let files = Files::with_clock(long_after);
        let version = files.version(&path).unwrap();
        assert_eq!(files.remembered(&path, version.fingerprint), Some(version));
    }

    /// A file that was put at `path` as outputs are: its content, under another name before.
    fn put(files: &Files, path: &Path, content: &str) {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        let watch = files.watch(file.as_file()).unwrap();
        file.persist(path).unwrap();
        // A digest that nothing has: whoever gives it back has not read the file.
        files.put(path, Digest::of(b"put"), &watch);
    }

    #[test]
    fn what_was_put_into_place_is_not_read_until_somebody_writes_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = Files::default();
        let digest = |name: &str| files.version(&at(name)).unwrap().digest;
        put(&files, &at("a.o"), "one");
        put(&files, &at("b.o"), "one");
        assert_eq!((digest("a.o"), digest("b.o")), (Digest::of(b"put"), Digest::of(b"put")));
        // As long, and perhaps within the same tick of the clock.
        std::fs::write(at("a.o"), "two").unwrap();
        assert_eq!((digest("a.o"), digest("b.o")), (Digest::of(b"two"), Digest::of(b"put")));
        // Not for its `stat` alone, which may show it.
        let known = ["a.o", "b.o"].map(|name| files.fresh.known(&at(name)).is_some());
        assert_eq!(known, [false, true]);
        // Another file is there.
        std::fs::write(at("c.o"), "new").unwrap();
        std::fs::rename(at("c.o"), at("b.o")).unwrap();
        assert_eq!(digest("b.o"), Digest::of(b"new"));
        // By another name.
        put(&files, &at("d.o"), "one");
        std::fs::hard_link(at("d.o"), at("e.o")).unwrap();
        put(&files, &at("f.o"), "one");
        std::fs::write(at("e.o"), "two").unwrap();
        assert_eq!((digest("d.o"), digest("f.o")), (Digest::of(b"two"), Digest::of(b"put")));
    }

    #[test]
    fn what_was_put_into_place_is_remembered_when_it_has_settled() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = Files::with_clock(long_after);
        put(&files, &at("a.o"), "one");
        put(&files, &at("b.o"), "one");
        std::fs::write(at("b.o"), "two").unwrap();
        put(&files, &at("c.o"), "one");
        let remembered = |name: &str| files.remembered(&at(name), Fingerprint::of(&at(name)).unwrap());
        assert_eq!(remembered("a.o").unwrap().digest, Digest::of(b"put"));
        assert_eq!((remembered("b.o"), remembered("c.o")), (None, None));
    }

    #[test]
    fn when_too_many_are_watched_there_is_room_again_after_they_have_settled() {
        // So long ago that nothing has settled.
        static SECONDS: AtomicU64 = AtomicU64::new(0);
        let clock = || SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS.load(Ordering::Relaxed));
        let directory = tempfile::tempdir().unwrap();
        let files = Files::with_clock(clock);
        for number in 0..fresh::MOST_WATCHED {
            put(&files, &directory.path().join(number.to_string()), "one");
        }
        let another = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
        assert!(files.watch(another.as_file()).is_none());
        SECONDS.store(u64::from(u32::MAX), Ordering::Relaxed);
        assert!(files.watch(another.as_file()).is_some());
    }

    #[test]
    fn a_directory_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = Files::default().version(directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}

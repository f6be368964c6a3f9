//! Where the scanner gets stripped files from: the disk, through a cache that all units share, or memory.
//! Knows nothing of search paths.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::digest::Digest;
use crate::files::Files;
use crate::files::Fingerprint;
use crate::files::InputFile;
use crate::files::Version;
use crate::listings::Listing;
use crate::listings::Listings;
use crate::paths;
use crate::preprocessor::Dialect;
use crate::preprocessor::SourceFile;
use crate::preprocessor::siblings::Siblings;
use crate::preprocessor::symbol::Symbol;

/// A file that can be included.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file, stripped.
    pub source: Arc<SourceFile>,
    /// Where it was found, and in which version.
    pub file: Arc<InputFile>,
}

/// Looks files up and strips them.
pub trait Sources: Sync {
    /// The file at `path` (absolute), read by the rules of `dialect`; None: there is no file (a directory is
    /// none).
    ///
    /// # Errors
    /// Something is there that cannot be read: no permission, a device, a loop of symlinks.
    fn load(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>>;

    /// The same for what a unit begins with, which hardly another unit reads.
    ///
    /// # Errors
    /// As [`Sources::load`].
    fn load_once(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>> {
        self.load(path, dialect)
    }

    /// The same for one of many files that are looked at together.
    ///
    /// # Errors
    /// As [`Sources::load`].
    fn load_beside(
        &self,
        _others: &mut Siblings,
        path: &Path,
        dialect: Dialect,
    ) -> io::Result<Option<Loaded>> {
        self.load(path, dialect)
    }

    /// The version of the file at `path` (absolute), whose text does not matter: it may be large, and no text at
    /// all. None: there is no file (a directory is none).
    ///
    /// # Errors
    /// As [`Sources::load`].
    fn version(&self, path: &Path) -> io::Result<Option<Version>>;

    /// Whether anything, a directory too, is at `path`.
    fn exists(&self, path: &Path) -> bool;

    /// The names in the directory at `path` (absolute), where they can be vouched for.
    fn listing(&self, path: &Path) -> Option<Arc<Listing>>;
}

/// Files on disk. Each version of a file is read and stripped once, for all units; what a unit begins with each time that it is
/// scanned, and so is a file that changed so lately that its `stat` proves nothing.
pub struct DiskSources {
    files: Arc<Files>,
    listings: Listings,
    // By `OsString`: a `Path` hashes component by component, which takes several times as long.
    by_path: DashMap<OsString, Stripped, RandomState>,
    by_content: DashMap<(Digest, Dialect), Arc<SourceFile>, RandomState>,
    /// About what both take, in bytes.
    size_bytes: AtomicUsize,
    /// Whether a file is looked at again each time, in case that it has changed.
    looks_again: bool,
}

/// One version of a file, in the dialects in which it was read: seldom more than one.
struct Stripped {
    file: Arc<InputFile>,
    sources: Vec<(Dialect, Arc<SourceFile>)>,
}

/// When the stripped files take more memory than this, all are forgotten and the cache fills anew: a large tree
/// takes a tenth of it.
const LARGEST_CACHE_BYTES: usize = 512 << 20;

/// About what a path in the cache takes besides its characters, which are there twice.
const PATH_BYTES: usize = 320;

impl DiskSources {
    /// An empty cache. The digests of files that it reads are recorded in `files`, whose clock counts.
    pub fn new(files: Arc<Files>) -> DiskSources {
        DiskSources {
            listings: Listings::with_clock(files.clock()),
            files,
            by_path: DashMap::default(),
            by_content: DashMap::default(),
            size_bytes: AtomicUsize::new(0),
            looks_again: true,
        }
    }

    /// Looks at each file once, whatever happens to it afterwards: for a process that scans many units as they are at
    /// one moment, and ends.
    pub fn of_one_moment(files: Arc<Files>) -> DiskSources {
        DiskSources { looks_again: false, ..DiskSources::new(files) }
    }

    /// The memory in which the digests are recorded.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// The names in directories.
    pub fn listings(&self) -> &Listings {
        &self.listings
    }

    /// About how much memory the stripped files, the names in them and those in directories take, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes.load(Ordering::Relaxed) + self.listings.size_bytes() + Symbol::size_bytes()
    }

    /// How many versions of files are kept stripped.
    pub fn stripped_files(&self) -> usize {
        self.by_content.len()
    }

    /// What was read at `path`; None where it is known by now to have changed.
    fn remembered(&self, path: &Path, now: Option<Fingerprint>, dialect: Dialect) -> Option<Loaded> {
        let stripped = self.by_path.get(path.as_os_str())?;
        if now.is_some_and(|now| now != stripped.file.version.fingerprint) {
            return None;
        }
        let (_, source) = stripped.sources.iter().find(|(of, _)| *of == dialect)?;
        Some(Loaded { source: Arc::clone(source), file: Arc::clone(&stripped.file) })
    }

    /// `is_kept`: for other units.
    fn read(&self, path: &Path, dialect: Dialect, is_kept: bool) -> io::Result<Option<Loaded>> {
        let looked_at = self.files.now();
        let mut file = File::open(path)?;
        // The descriptor's own stat: the path may lead elsewhere by now.
        let fingerprint = Fingerprint::of_open(&file)?;
        if !fingerprint.is_regular() {
            return Ok(None);
        }
        let size = usize::try_from(fingerprint.size_bytes()).unwrap_or(0);
        let mut text = Vec::with_capacity(size.saturating_add(1));
        file.read_to_end(&mut text)?;
        let digest = Digest::of(&text);
        let version = Version { fingerprint, digest };
        self.files.remember(path, version, looked_at);
        let cached = self.by_content.get(&(digest, dialect)).map(|source| Arc::clone(&source));
        let source = match cached {
            Some(source) => source,
            None if is_kept => self.strip(&text, digest, dialect),
            None => Arc::new(SourceFile::parse(&text, dialect)),
        };
        if !is_kept || !fingerprint.is_settled(looked_at) {
            self.by_path.remove(path.as_os_str());
            return Ok(Some(Loaded { source, file: Arc::new(InputFile { path: path.to_owned(), version }) }));
        }
        Ok(Some(self.remember(path, version, dialect, source)))
    }

    fn strip(&self, text: &[u8], digest: Digest, dialect: Dialect) -> Arc<SourceFile> {
        let source = Arc::new(SourceFile::parse(text, dialect));
        self.make_room(source.size_bytes());
        self.by_content.insert((digest, dialect), Arc::clone(&source));
        source
    }

    /// Keeps what was read under its path.
    fn remember(&self, path: &Path, version: Version, dialect: Dialect, source: Arc<SourceFile>) -> Loaded {
        self.make_room(PATH_BYTES + 2 * path.as_os_str().len());
        let mut entry = self.by_path.entry(path.as_os_str().to_owned()).or_insert_with(|| Stripped {
            file: Arc::new(InputFile { path: path.to_owned(), version }),
            sources: Vec::new(),
        });
        if entry.file.version != version {
            entry.file = Arc::new(InputFile { path: path.to_owned(), version });
            entry.sources.clear();
        }
        if !entry.sources.iter().any(|(of, _)| *of == dialect) {
            entry.sources.push((dialect, Arc::clone(&source)));
        }
        Loaded { source, file: Arc::clone(&entry.file) }
    }

    fn make_room(&self, size: usize) {
        if self.size_bytes.fetch_add(size, Ordering::Relaxed) > LARGEST_CACHE_BYTES {
            self.by_path.clear();
            self.by_content.clear();
            self.size_bytes.store(size, Ordering::Relaxed);
        }
    }
}

/// What `stat` says of the regular file at `path`; None where there is none.
fn stat(path: &Path) -> io::Result<Option<Fingerprint>> {
    regular(Fingerprint::of(path))
}

fn regular(fingerprint: io::Result<Fingerprint>) -> io::Result<Option<Fingerprint>> {
    let fingerprint = match fingerprint {
        Ok(fingerprint) => fingerprint,
        // `a/b` where `a` is a file is as absent as where there is no `a`.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if fingerprint.is_directory() {
        return Ok(None);
    }
    if !fingerprint.is_regular() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(Some(fingerprint))
}

impl Sources for DiskSources {
    fn load(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>> {
        if !self.looks_again
            && let Some(loaded) = self.remembered(path, None, dialect)
        {
            return Ok(Some(loaded));
        }
        let Some(fingerprint) = stat(path)? else { return Ok(None) };
        match self.remembered(path, Some(fingerprint), dialect) {
            Some(loaded) => Ok(Some(loaded)),
            None => self.read(path, dialect, true),
        }
    }

    fn load_once(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>> {
        // It may be what another unit includes.
        let is_known = self.by_path.contains_key(path.as_os_str());
        if is_known || !self.looks_again {
            return self.load(path, dialect);
        }
        match stat(path)? {
            Some(_) => self.read(path, dialect, false),
            None => Ok(None),
        }
    }

    fn load_beside(
        &self,
        others: &mut Siblings,
        path: &Path,
        dialect: Dialect,
    ) -> io::Result<Option<Loaded>> {
        if self.looks_again
            && let Ok(Some(fingerprint)) = regular(others.fingerprint(path))
            && let Some(loaded) = self.remembered(path, Some(fingerprint), dialect)
        {
            return Ok(Some(loaded));
        }
        self.load(path, dialect)
    }

    fn version(&self, path: &Path) -> io::Result<Option<Version>> {
        match stat(path)? {
            Some(_) => self.files.version(path).map(Some),
            None => Ok(None),
        }
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn listing(&self, path: &Path) -> Option<Arc<Listing>> {
        self.listings.of(path)
    }
}

/// Files in memory, for tests. `.` and `..` in paths are resolved as text.
#[derive(Debug, Default)]
pub struct MemorySources {
    files: HashMap<PathBuf, (Vec<u8>, u64)>,
}

impl MemorySources {
    /// A tree of files with absolute paths.
    pub fn new(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> MemorySources {
        let numbered = files.into_iter().zip(1..).map(|((path, text), inode)| (path, (text, inode)));
        MemorySources { files: numbered.collect() }
    }
}

fn version_in_memory(text: &[u8], inode: u64) -> Version {
    let fingerprint = Fingerprint::in_memory(inode, u64::try_from(text.len()).unwrap_or(u64::MAX));
    Version { fingerprint, digest: Digest::of(text) }
}

impl Sources for MemorySources {
    fn load(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>> {
        let found = self.files.get(&paths::lexically_normal(path));
        Ok(found.map(|(text, inode)| {
            let version = version_in_memory(text, *inode);
            let file = Arc::new(InputFile { path: path.to_owned(), version });
            Loaded { source: Arc::new(SourceFile::parse(text, dialect)), file }
        }))
    }

    fn version(&self, path: &Path) -> io::Result<Option<Version>> {
        let found = self.files.get(&paths::lexically_normal(path));
        Ok(found.map(|(text, inode)| version_in_memory(text, *inode)))
    }

    fn exists(&self, path: &Path) -> bool {
        let path = paths::lexically_normal(path);
        self.files.keys().any(|file| file.starts_with(&path))
    }

    fn listing(&self, _path: &Path) -> Option<Arc<Listing>> {
        None
    }
}

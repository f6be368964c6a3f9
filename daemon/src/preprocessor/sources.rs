//! Where the scanner gets stripped files from: the disk, through a cache that all units share, or memory.
//! Knows nothing of search paths.

use std::collections::HashMap;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use dashmap::DashMap;

use crate::digest::Digest;
use crate::files::Files;
use crate::files::Fingerprint;
use crate::files::Version;
use crate::paths;
use crate::preprocessor::Dialect;
use crate::preprocessor::SourceFile;

/// How compilers tell whether two paths lead to the same file, for `#pragma once` and `#import`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of the last change, in seconds since 1970.
    pub modified: i64,
    /// Digest of the content.
    pub digest: Digest,
}

/// A file that can be included.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file, stripped.
    pub source: Arc<SourceFile>,
    /// Which file it is.
    pub identity: Identity,
}

/// Looks files up and strips them.
pub trait Sources: Sync {
    /// The file at `path` (absolute), read by the rules of `dialect`; None: there is no file (a directory is
    /// none).
    ///
    /// # Errors
    /// Something is there that cannot be read: no permission, a device, a loop of symlinks.
    fn load(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>>;

    /// The digest of the file at `path` (absolute), whose text does not matter: it may be large, and no text at
    /// all. None: there is no file (a directory is none).
    ///
    /// # Errors
    /// As [`Sources::load`].
    fn digest(&self, path: &Path) -> io::Result<Option<Digest>>;

    /// Whether anything, a directory too, is at `path`.
    fn exists(&self, path: &Path) -> bool;
}

/// Files on disk. Each version of a file is read and stripped once, for all units; a file that changed so lately
/// that its `stat` proves nothing is read each time.
pub struct DiskSources {
    files: Arc<Files>,
    by_path: DashMap<(PathBuf, Dialect), (Fingerprint, Loaded)>,
    by_content: DashMap<(Digest, Dialect), Arc<SourceFile>>,
    /// About what `by_content` takes, in bytes.
    size_bytes: AtomicUsize,
}

/// When the stripped files take more memory than this, all are forgotten and the cache fills anew: a large tree
/// takes a tenth of it.
const LARGEST_CACHE_BYTES: usize = 512 << 20;

impl DiskSources {
    /// An empty cache. The digests of files that it reads are recorded in `files`.
    pub fn new(files: Arc<Files>) -> DiskSources {
        DiskSources {
            files,
            by_path: DashMap::new(),
            by_content: DashMap::new(),
            size_bytes: AtomicUsize::new(0),
        }
    }

    fn read(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>> {
        let looked_at = self.files.now();
        let mut file = File::open(path)?;
        // The descriptor's own stat: the path may lead elsewhere by now.
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mut text = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.read_to_end(&mut text)?;
        let digest = Digest::of(&text);
        let fingerprint = Fingerprint::from_metadata(&metadata);
        self.files.remember(path, Version { fingerprint, digest }, looked_at);
        let cached = self.by_content.get(&(digest, dialect)).map(|source| Arc::clone(&source));
        let source = match cached {
            Some(source) => source,
            None => self.strip(&text, digest, dialect),
        };
        let loaded = Loaded { source, identity: identity(&metadata, digest) };
        let key = (path.to_owned(), dialect);
        if fingerprint.is_settled(looked_at) {
            self.by_path.insert(key, (fingerprint, loaded.clone()));
        } else {
            self.by_path.remove(&key);
        }
        Ok(Some(loaded))
    }

    fn strip(&self, text: &[u8], digest: Digest, dialect: Dialect) -> Arc<SourceFile> {
        let source = Arc::new(SourceFile::parse(text, dialect));
        let size = source.size_bytes();
        if self.size_bytes.fetch_add(size, Ordering::Relaxed) > LARGEST_CACHE_BYTES {
            self.by_path.clear();
            self.by_content.clear();
            self.size_bytes.store(size, Ordering::Relaxed);
        }
        self.by_content.insert((digest, dialect), Arc::clone(&source));
        source
    }
}

fn identity(metadata: &Metadata, digest: Digest) -> Identity {
    Identity { device: metadata.dev(), inode: metadata.ino(), modified: metadata.mtime(), digest }
}

/// What `stat` says of the regular file at `path`; None where there is none.
fn stat(path: &Path) -> io::Result<Option<Metadata>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        // `a/b` where `a` is a file is as absent as where there is no `a`.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if metadata.is_dir() {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(Some(metadata))
}

impl Sources for DiskSources {
    fn load(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>> {
        let Some(metadata) = stat(path)? else { return Ok(None) };
        let fingerprint = Fingerprint::from_metadata(&metadata);
        if let Some(entry) = self.by_path.get(&(path.to_owned(), dialect))
            && entry.0 == fingerprint
        {
            return Ok(Some(entry.1.clone()));
        }
        self.read(path, dialect)
    }

    fn digest(&self, path: &Path) -> io::Result<Option<Digest>> {
        match stat(path)? {
            Some(_) => self.files.version(path).map(|version| Some(version.digest)),
            None => Ok(None),
        }
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
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

impl Sources for MemorySources {
    fn load(&self, path: &Path, dialect: Dialect) -> io::Result<Option<Loaded>> {
        Ok(self.files.get(&paths::lexically_normal(path)).map(|(text, inode)| Loaded {
            source: Arc::new(SourceFile::parse(text, dialect)),
            identity: Identity { device: 0, inode: *inode, modified: 0, digest: Digest::of(text) },
        }))
    }

    fn digest(&self, path: &Path) -> io::Result<Option<Digest>> {
        Ok(self.files.get(&paths::lexically_normal(path)).map(|(text, _)| Digest::of(text)))
    }

    fn exists(&self, path: &Path) -> bool {
        let path = paths::lexically_normal(path);
        self.files.keys().any(|file| file.starts_with(&path))
    }
}

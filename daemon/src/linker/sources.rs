//! Where the resolver gets files from: the disk, each file read once while it does not change. Shared by all connections.
//! Knows nothing of command lines, nor of search paths.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
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
use crate::linker::LinkError;
use crate::linker::SplitUnit;
use crate::linker::file::Kind;
use crate::linker::file::LinkerFile;
use crate::linker::split_debug;
use crate::listings::Listings;

/// When what is remembered of files takes more memory than this, all is forgotten.
const LARGEST_MEMORY_BYTES: usize = 32 << 20;

/// The files that linkers read, and what is remembered of them.
pub struct Sources {
    files: Arc<Files>,
    listings: Listings,
    known: DashMap<Digest, Arc<LinkerFile>, RandomState>,
    size_bytes: AtomicUsize,
}

impl Sources {
    /// Nothing but the files' digests is remembered yet.
    pub fn new(files: Arc<Files>) -> Sources {
        let listings = Listings::with_clock(files.clock());
        Sources { files, listings, known: DashMap::default(), size_bytes: AtomicUsize::new(0) }
    }

    /// Whether there is a regular file at `path` (absolute), symlinks followed.
    pub(super) fn is_file(&self, path: &Path) -> bool {
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name())
            && let Some(listing) = self.listings.of(directory)
            && !listing.has(name.as_bytes())
        {
            return false;
        }
        Fingerprint::of(path).is_ok_and(|fingerprint| fingerprint.is_regular())
    }

    /// Whether there is anything at `path` (absolute), symlinks followed.
    pub(super) fn exists(path: &Path) -> bool {
        Fingerprint::of(path).is_ok()
    }

    /// Whether there is a directory at `path` (absolute).
    pub(super) fn is_directory(path: &Path) -> bool {
        Fingerprint::of(path).is_ok_and(|fingerprint| fingerprint.is_directory())
    }

    /// The present version of the file at `path` (absolute).
    ///
    /// # Errors
    /// [`LinkError::Missing`] where nothing is there, [`LinkError::Unreadable`] for whatever else.
    pub(super) fn version(&self, path: &Path) -> Result<Arc<InputFile>, LinkError> {
        match self.files.version(path) {
            Ok(version) => Ok(Arc::new(InputFile { path: path.to_owned(), version })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(LinkError::Missing(path.display().to_string()))
            }
            Err(error) => Err(LinkError::Unreadable { path: path.to_owned(), error }),
        }
    }

    /// What that version of a file is.
    ///
    /// # Errors
    /// [`LinkError::Unreadable`], or [`LinkError::NotSure`] if the file has changed since.
    pub(super) fn read(&self, input: &InputFile) -> Result<Arc<LinkerFile>, LinkError> {
        if let Some(known) = self.known.get(&input.version.digest) {
            return Ok(Arc::clone(&known));
        }
        let unreadable = |error| LinkError::Unreadable { path: input.path.clone(), error };
        let read = Sources::read_unchanged(input, |file| LinkerFile::read(file).map_err(unreadable))?;
        let read = Arc::new(read);
        self.remember(input.version.digest, &read);
        Ok(read)
    }

    /// What `read` makes of a file, if that is the version that is asked for.
    fn read_unchanged<T>(
        input: &InputFile,
        read: impl FnOnce(File) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        let unreadable = |error| LinkError::Unreadable { path: input.path.clone(), error };
        let file = File::open(&input.path).map_err(unreadable)?;
        let beside = file.try_clone().map_err(unreadable)?;
        let read = read(file)?;
        if Fingerprint::of_open(&beside).map_err(unreadable)? != input.version.fingerprint {
            return Err(LinkError::NotSure(format!("{} changes while it is read", input.path.display())));
        }
        Ok(read)
    }

    /// The files with debug information that a program names.
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`LinkError::NotSure`] if its debug information is not understood.
    pub fn split_units(input: &InputFile) -> Result<Vec<SplitUnit>, LinkError> {
        let not_sure = |why| LinkError::NotSure(format!("{}: {why}", input.path.display()));
        Sources::read_unchanged(input, |file| split_debug::units(file).map_err(not_sure))
    }

    /// Whether that version of a file has intermediate code, of which the machine's is made when it is linked.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn has_intermediate_code(&self, input: &InputFile) -> Result<bool, LinkError> {
        Ok(self.read(input)?.has_intermediate_code)
    }

    /// Whether that version of a file is an archive, thin or not.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn is_archive(&self, input: &InputFile) -> Result<bool, LinkError> {
        let kind = &self.read(input)?.kind;
        Ok(matches!(kind, Kind::Archive | Kind::ThinArchive(_) | Kind::DamagedThinArchive))
    }

    fn remember(&self, digest: Digest, file: &Arc<LinkerFile>) {
        let size = file.size_bytes() + size_of::<Digest>();
        if self.size_bytes.fetch_add(size, Ordering::Relaxed) > LARGEST_MEMORY_BYTES {
            self.known.clear();
            self.size_bytes.store(size, Ordering::Relaxed);
        }
        if let Some(same) = self.known.insert(digest, Arc::clone(file)) {
            self.size_bytes.fetch_sub(same.size_bytes() + size_of::<Digest>(), Ordering::Relaxed);
        }
    }

    /// The regular files in `directory` (absolute) whose names match `pattern`, in the order of their names.
    ///
    /// # Errors
    /// Whatever `readdir` answers.
    pub(super) fn matching(directory: &Path, pattern: &OsStr) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let name = entry?.file_name();
            // glob(3): a leading dot is matched by a dot only.
            let is_hidden = name.as_bytes().starts_with(b".") && !pattern.as_bytes().starts_with(b".");
            if !is_hidden && matches_pattern(pattern.as_bytes(), name.as_bytes()) {
                found.push(directory.join(name));
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Whether a name matches a pattern of `*` and `?`.
fn matches_pattern(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    // Where to go on after the last star, and with which character: no deeper search is needed than this.
    let mut after_star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match (pattern.get(at), after_star) {
            (Some(b'*'), _) => {
                after_star = Some((at + 1, in_name));
                at += 1;
            }
            (Some(&byte), _) if byte == b'?' || byte == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            (_, Some((star, start))) => {
                after_star = Some((star, start + 1));
                at = star;
                in_name = start + 1;
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("a?c*", "abc", true),
            ("a?c*", "ac", false),
            ("*a*b*", "xaxbx", true),
            ("", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(matches_pattern(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        let many = "*a".repeat(500);
        assert!(!matches_pattern(many.as_bytes(), "a".repeat(499).as_bytes()));
    }

    #[test]
    fn a_file_is_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.ld");
        std::fs::write(&path, "INPUT(a.o)").unwrap();
        let sources = Sources::new(Arc::new(Files::default()));
        assert!(sources.is_file(&path) && !sources.is_file(directory.path()));
        let input = sources.version(&path).unwrap();
        let first = sources.read(&input).unwrap();
        assert!(Arc::ptr_eq(&first, &sources.read(&input).unwrap()));
        assert!(sources.size_bytes.load(Ordering::Relaxed) > 0);
        std::fs::write(&path, "INPUT(b.o) ").unwrap();
        let second = sources.read(&sources.version(&path).unwrap()).unwrap();
        assert_ne!(first, second);
        sources.known.clear();
        assert!(matches!(sources.read(&input), Err(LinkError::NotSure(_))), "other bytes than the version's");
        assert!(matches!(sources.version(&directory.path().join("none")), Err(LinkError::Missing(_))));
        assert!(matches!(sources.version(directory.path()), Err(LinkError::Unreadable { .. })));
    }
}

//! Blobs by digest and action results by action, on disk, shared by all daemons of one user.
//! Knows nothing of who wants them; never locks, and takes any file it meets as possibly damaged or gone.
//!
//! # Layout
//! `cas/ab/<hash>` holds a blob; `results/<namespace>/ab/<hash>-<size>` an action result with its own checksum;
//! `tmp/` what is being written. An entry appears by rename, so it is whole unless the machine lost power, and
//! then its digest or checksum tells: nothing is synced, and a damaged entry is deleted and counts as a miss.
//! The modification time of an entry is the time of its last use.

mod copy;
mod reader;
pub mod result_file;
mod trim;
mod verify;
mod writer;

use std::fs::File;
use std::fs::FileTimes;
use std::fs::Metadata;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use tempfile::NamedTempFile;
use tempfile::TempPath;

use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::digest::Hasher;
use crate::disk;

pub use self::reader::BlobReader;
pub use self::trim::Stats;
pub use self::trim::Trimmed;
pub use self::verify::Verified;
pub use self::writer::BlobWriter;

/// What could not be done with which file of the store.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct StoreError {
    /// A verb: `read`, `create`, …
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl StoreError {
    pub(crate) fn new(operation: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError { operation, path: path.to_owned(), source }
    }

    /// The kind of the cause: `StorageFull`, `PermissionDenied`, …
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// A store. Cheap to clone: all clones share one account of its size.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    namespace: &'static str,
    /// Under which digests new blobs are stored.
    function: DigestFunction,
}

struct Shared {
    directory: PathBuf,
    max_size_bytes: u64,
    /// What the entries take on disk, as far as this process knows; exact after each scan.
    size_bytes: AtomicU64,
    scanned: AtomicBool,
}

/// The namespace of action results that [`Store::open`] gives.
const LOCAL_NAMESPACE: &str = "local";

/// A use is recorded at most this often per entry: the order of eviction need not be finer.
const USE_GRANULARITY: Duration = Duration::from_secs(60);

impl Store {
    /// Opens the store in `directory`, which is made if it is not there. `max_size_bytes`: what
    /// [`trim`](Store::trim) brings it down to.
    ///
    /// # Errors
    /// When the directory cannot be made or cannot be written to.
    pub fn open(directory: &Path, max_size_bytes: u64) -> Result<Store, StoreError> {
        let shared = Shared {
            directory: directory.to_owned(),
            max_size_bytes,
            size_bytes: AtomicU64::new(0),
            scanned: AtomicBool::new(false),
        };
        let store = Store {
            shared: Arc::new(shared),
            namespace: LOCAL_NAMESPACE,
            function: DigestFunction::default(),
        };
        // A first temporary file shows now, not at the first result, that nothing can be written.
        drop(store.temporary_file()?);
        Ok(store)
    }

    /// The same store with another set of action results. `namespace` is one plain file name.
    #[must_use]
    pub fn with_namespace(&self, namespace: &'static str) -> Store {
        Store { namespace, ..self.clone() }
    }

    /// The same store, which stores new blobs under digests of `function`. What is read goes by its own digest's.
    #[must_use]
    pub fn with_function(&self, function: DigestFunction) -> Store {
        Store { function, ..self.clone() }
    }

    /// Whether the blob is there with the right size. Counts as a use of it. The bytes are looked at only when
    /// they are read.
    pub fn contains(&self, digest: &Digest) -> bool {
        if digest.is_empty() {
            return true;
        }
        let path = self.blob_path(digest);
        let Ok(metadata) = path.symlink_metadata() else { return false };
        if !metadata.is_file() || metadata.len() != digest.size_bytes() {
            return false;
        }
        if is_worth_touching(&metadata) {
            // Failing to note a use only makes the blob look older.
            let _ = open_no_follow(&path).map(|file| touch(&file));
        }
        true
    }

    /// Whether the blob is there as it was stored. What is damaged goes, or it would be in the way of what replaces it.
    fn has_sound(&self, digest: &Digest) -> bool {
        let Ok(Some(mut file)) = self.open_sized(digest) else { return false };
        let mut hasher = Hasher::of(digest.function());
        match hasher.read(&mut file).map(|_| hasher.finish()) {
            Ok(found) if found == *digest => true,
            Ok(_) => {
                self.discard(digest);
                false
            }
            Err(_) => false,
        }
    }

    /// The bytes of a blob, verified; `None` when it is not there. A damaged blob is deleted.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(mut file) = self.open_sized(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| self.blob_error("read", digest, error))?;
        if digest.is_of(&bytes) {
            return Ok(Some(bytes));
        }
        self.discard(digest);
        Ok(None)
    }

    /// A reader of a blob from `offset` on, verified as [`BlobReader`] says; `None` when it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be read; `InvalidInput` when `offset` lies behind its end.
    pub fn open_blob(&self, digest: &Digest, offset: u64) -> Result<Option<BlobReader>, StoreError> {
        if offset > digest.size_bytes() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "offset behind the end");
            return Err(self.blob_error("read", digest, error));
        }
        let Some(file) = self.open_sized(digest)? else { return Ok(None) };
        let reader = BlobReader::new(self, *digest, file, offset);
        reader.map_err(|error| self.blob_error("read", digest, error))
    }

    /// Stores `bytes`.
    ///
    /// # Errors
    /// When they cannot be written: no space, no permission.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = self.function.digest(bytes);
        if !self.has_sound(&digest) {
            let mut temporary = self.temporary()?;
            temporary.write_all(bytes).map_err(|error| StoreError::new("write", temporary.path(), error))?;
            self.publish_blob(temporary, &digest)?;
        }
        Ok(digest)
    }

    /// Stores what the regular file at `path` holds; by reflink where the file system can. The digest is that of
    /// the stored bytes, whatever happens to the file meanwhile.
    ///
    /// # Errors
    /// When the file cannot be read (`InvalidInput`: no regular file) or the store not be written to.
    pub fn put_file(&self, path: &Path) -> Result<Digest, StoreError> {
        let open = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path);
        let file = open.map_err(|error| StoreError::new("open", path, error))?;
        self.put_open_file(&file, path)
    }

    /// Stores what a file that is open for reading at its start holds, like [`put_file`](Store::put_file).
    /// `name` is what errors call it.
    ///
    /// # Errors
    /// As [`put_file`](Store::put_file).
    pub fn put_open_file(&self, file: &File, name: &Path) -> Result<Digest, StoreError> {
        let failed = |error| StoreError::new("store", name, error);
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let mut temporary = self.temporary()?;
        let digest = copy::clone_or_copy(file, u64::MAX, temporary.as_file_mut(), self.function);
        let digest = digest.map_err(failed)?;
        if !self.has_sound(&digest) {
            self.publish_blob(temporary, &digest)?;
        }
        Ok(digest)
    }

    /// A writer for a blob that comes in pieces.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter::new(self.clone(), self.temporary()?))
    }

    /// Puts a copy of a blob at `destination` with exactly the permissions `mode`, replacing what is there (a
    /// symlink itself, not what it leads to); `false` when the blob is not in the store. Either the whole
    /// verified file appears or nothing changes. Never a hard link: editing the file in place must not harm the
    /// store.
    ///
    /// # Errors
    /// When the blob cannot be read or the destination's directory not be written to.
    pub fn install(&self, digest: &Digest, destination: &Path, mode: u32) -> Result<bool, StoreError> {
        self.install_whole(digest, destination, mode, &mut |_| {})
    }

    /// The same; `whole` is shown the file when nothing more is written to it, before it is put at its place.
    ///
    /// # Errors
    /// As [`install`](Store::install).
    pub fn install_whole(
        &self,
        digest: &Digest,
        destination: &Path,
        mode: u32,
        whole: &mut dyn FnMut(&File),
    ) -> Result<bool, StoreError> {
        let Some(blob) = self.open_sized(digest)? else { return Ok(false) };
        let failed = |error| StoreError::new("install", destination, error);
        let directory = match destination.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(failed(io::ErrorKind::IsADirectory.into())),
        };
        let builder = tempfile::Builder::new().prefix(".farcc-").rand_bytes(12).tempfile_in(directory);
        let mut temporary = builder.map_err(failed)?;
        if !self.fill(digest, &blob, temporary.as_file_mut()).map_err(failed)? {
            return Ok(false);
        }
        temporary.as_file().set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(failed)?;
        whole(temporary.as_file());
        temporary.persist(destination).map_err(|error| failed(error.error))?;
        Ok(true)
    }

    /// Writes a blob over what is at `destination`, as a compiler does that opens it for writing: a symlink is followed,
    /// the mode and the other names of a file stay. A file that is not there yet, or of which nobody could tell, goes, and appears
    /// whole, with the permissions `mode`, as by [`install`](Store::install). `false` when the blob is not in the store.
    ///
    /// # Errors
    /// When the blob cannot be read or the destination not be written to.
    pub fn overwrite(&self, digest: &Digest, destination: &Path, mode: u32) -> Result<bool, StoreError> {
        let own = rustix::process::geteuid().as_raw();
        let there = std::fs::symlink_metadata(destination).ok();
        let is_plain = there.as_ref().is_none_or(|there| {
            let same_mode = there.mode() & 0o7777 == mode & 0o7777;
            there.is_file() && there.nlink() == 1 && there.uid() == own && same_mode
        });
        if is_plain {
            // The compiler would have truncated it.
            let make_way = &mut |_: &File| {
                if there.is_some() {
                    disk::make_way(destination);
                }
            };
            return self.install_whole(digest, destination, mode, make_way);
        }
        let Some(blob) = self.open_sized(digest)? else { return Ok(false) };
        let failed = |error| StoreError::new("write", destination, error);
        let is_new = !destination.exists();
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(true).custom_flags(NONBLOCK);
        let mut file = open.open(destination).map_err(failed)?;
        if is_new {
            file.set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(failed)?;
        }
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        self.fill(digest, &blob, &mut file).map_err(failed)
    }

    /// Lets a blob follow what is in the file `destination`, which is made with `mode` where it is not there; by one
    /// `write` at the end of the file, so that other processes may do the same. `false` when the blob is not in the store.
    ///
    /// # Errors
    /// When the blob cannot be read or the file not be written to.
    pub fn append(&self, digest: &Digest, destination: &Path, mode: u32) -> Result<bool, StoreError> {
        let Some(bytes) = self.read(digest)? else { return Ok(false) };
        let failed = |error| StoreError::new("append to", destination, error);
        let mut open = OpenOptions::new();
        open.append(true).custom_flags(NONBLOCK);
        let mut file = match open.clone().create_new(true).open(destination) {
            Ok(file) => {
                file.set_permissions(Permissions::from_mode(mode & 0o7777)).map_err(failed)?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                open.open(destination).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        file.write_all(&bytes).map_err(failed)?;
        Ok(true)
    }

    /// Writes a blob into `file` (empty, open for reading and writing), verified; `false` when the blob is not
    /// in the store, and then what the file holds is worth nothing. `name` is what errors call it.
    ///
    /// # Errors
    /// When the blob cannot be read or the file not be written to.
    pub fn export(&self, digest: &Digest, file: &mut File, name: &Path) -> Result<bool, StoreError> {
        let Some(blob) = self.open_sized(digest)? else { return Ok(false) };
        self.fill(digest, &blob, file).map_err(|error| StoreError::new("write", name, error))
    }

    /// The result kept for an action in this namespace; `None` when there is none or it is damaged. The blobs
    /// that it names may be gone.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn action_result(&self, action: &Digest) -> Result<Option<ActionResult>, StoreError> {
        let path = self.result_path(action);
        let failed = |error| StoreError::new("read", &path, error);
        let Some((file, metadata)) = open_regular(&path).map_err(failed)? else { return Ok(None) };
        if metadata.len() > result_file::MAX_SIZE_BYTES {
            return Ok(None);
        }
        // Its size is known: the standard library would ask for it once more.
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default() + 1);
        (&file).take(result_file::MAX_SIZE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        let Some(result) = result_file::decode(&bytes) else {
            // Deleting is a courtesy to the next reader.
            let _ = std::fs::remove_file(&path);
            return Ok(None);
        };
        if is_worth_touching(&metadata) {
            touch(&file);
        }
        Ok(Some(result))
    }

    /// Keeps `result` for an action in this namespace, in place of any earlier one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_action_result(&self, action: &Digest, result: &ActionResult) -> Result<(), StoreError> {
        let mut temporary = self.temporary()?;
        let bytes = result_file::encode(result);
        temporary.write_all(&bytes).map_err(|error| StoreError::new("write", temporary.path(), error))?;
        self.publish(temporary, &self.result_path(action))
    }

    /// Forgets the result of an action in this namespace, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be deleted.
    pub fn remove_action_result(&self, action: &Digest) -> Result<(), StoreError> {
        let path = self.result_path(action);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::new("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    /// The directory that holds the store.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Where a blob is, if it is in the store; its bytes are not verified.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let name = format!("{hex}{}", function_suffix(digest));
        self.shared.directory.join(BLOBS).join(&hex[..2]).join(name)
    }

    fn result_path(&self, action: &Digest) -> PathBuf {
        let hex = action.hex();
        let name = format!("{hex}-{}{}", action.size_bytes(), function_suffix(action));
        self.shared.directory.join(RESULTS).join(self.namespace).join(&hex[..2]).join(name)
    }

    fn blob_error(&self, operation: &'static str, digest: &Digest, error: io::Error) -> StoreError {
        StoreError::new(operation, &self.blob_path(digest), error)
    }

    /// The blob's file if it has the right size; noted as used.
    fn open_sized(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        if digest.is_empty() {
            let empty = File::open("/dev/null");
            return empty.map(Some).map_err(|error| StoreError::new("open", Path::new("/dev/null"), error));
        }
        let path = self.blob_path(digest);
        let opened = open_regular(&path).map_err(|error| StoreError::new("open", &path, error))?;
        let Some((file, metadata)) = opened else { return Ok(None) };
        if metadata.len() != digest.size_bytes() {
            self.discard(digest);
            return Ok(None);
        }
        if is_worth_touching(&metadata) {
            touch(&file);
        }
        Ok(Some(file))
    }

    fn fill(&self, digest: &Digest, blob: &File, to: &mut File) -> io::Result<bool> {
        if copy::clone_or_copy(blob, digest.size_bytes(), to, digest.function())? == *digest {
            return Ok(true);
        }
        self.discard(digest);
        Ok(false)
    }

    /// Deletes a damaged blob. Failing to is harmless: every reader checks again.
    fn discard(&self, digest: &Digest) {
        let path = self.blob_path(digest);
        tracing::warn!("the store's {} is damaged: deleted", path.display());
        let _ = std::fs::remove_file(path);
    }

    /// A file for what is to be kept, as long as there is room for it.
    fn temporary(&self) -> Result<NamedTempFile, StoreError> {
        let directory = &self.shared.directory;
        if disk::is_scarce(directory) {
            let error =
                io::Error::new(io::ErrorKind::StorageFull, "the rest of its file system is for others");
            return Err(StoreError::new("keep more in", directory, error));
        }
        self.temporary_file()
    }

    fn temporary_file(&self) -> Result<NamedTempFile, StoreError> {
        let directory = self.shared.directory.join(TEMPORARY);
        let failed = |error| StoreError::new("create a file in", &directory, error);
        match NamedTempFile::new_in(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_directories(&directory).map_err(failed)?;
                NamedTempFile::new_in(&directory).map_err(failed)
            }
            temporary => temporary.map_err(failed),
        }
    }

    fn publish_blob(&self, temporary: NamedTempFile, digest: &Digest) -> Result<(), StoreError> {
        self.publish(temporary, &self.blob_path(digest))
    }

    /// Makes a finished temporary file the entry `path`. Its directory may not be there yet, or no longer.
    fn publish(&self, temporary: NamedTempFile, path: &Path) -> Result<(), StoreError> {
        let failed = |error| StoreError::new("write", path, error);
        let (file, temporary) = temporary.into_parts();
        file.set_permissions(Permissions::from_mode(0o444)).map_err(failed)?;
        let size_bytes = file.metadata().map_err(failed)?.len();
        // Closed before it can be seen: some file systems report a failed write only here.
        drop(file);
        rename_into(temporary, path).map_err(failed)?;
        self.shared.size_bytes.fetch_add(trim::disk_bytes(size_bytes), Ordering::Relaxed);
        Ok(())
    }
}

const BLOBS: &str = "cas";
const RESULTS: &str = "results";
const TEMPORARY: &str = "tmp";

/// So that opening a named pipe does not wait for its writer; regular files do not care.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();

/// What the names of entries end with whose digests are no SHA-256 digests: such a hash may be as long as another's.
fn function_suffix(digest: &Digest) -> &'static str {
    match digest.function() {
        DigestFunction::Sha256 => "",
        DigestFunction::Blake3 => "-blake3",
        DigestFunction::Sha1 => "-sha1",
    }
}

fn rename_into(temporary: TempPath, path: &Path) -> io::Result<()> {
    let Err(error) = temporary.persist(path) else { return Ok(()) };
    match error.error.kind() {
        io::ErrorKind::NotFound => path.parent().map_or(Ok(()), create_directories)?,
        // No store has made that.
        io::ErrorKind::IsADirectory => std::fs::remove_dir(path)?,
        _ => return Err(error.error),
    }
    error.path.persist(path).map_err(|error| error.error)
}

fn create_directories(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn open_no_follow(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(NONBLOCK | NOFOLLOW).open(path)
}

/// Opens an entry; `None` when it is not there or is no regular file, which no store wrote.
fn open_regular(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    let file = match open_no_follow(path) {
        Ok(file) => file,
        Err(error) => {
            let is_symlink = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
            let is_absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
            return if is_symlink || is_absent { Ok(None) } else { Err(error) };
        }
    };
    let metadata = file.metadata()?;
    Ok(metadata.is_file().then_some((file, metadata)))
}

fn is_worth_touching(metadata: &Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|used| SystemTime::now().duration_since(used).ok());
    // A time in the future is left alone: the clock was set back.
    age.is_some_and(|age| age > USE_GRANULARITY)
}

fn touch(file: &File) {
    // Failing to note a use only makes the entry look older.
    let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests;

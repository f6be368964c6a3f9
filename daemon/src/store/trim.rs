//! How much the store holds, and how it is kept within its bound: least recently used entries go first.
//! Knows nothing of what entries mean: a result may outlive the blobs that it names.

use std::fs::DirEntry;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;

use super::BLOBS;
use super::RESULTS;
use super::Store;
use super::StoreError;
use super::TEMPORARY;
use crate::disk::Room;

/// What the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Number of blobs.
    pub blobs: u64,
    /// Number of action results, of all namespaces.
    pub action_results: u64,
    /// What they take on disk, in bytes, each rounded up to the usual block size.
    pub size_bytes: u64,
}

/// What a trim deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trimmed {
    /// Number of blobs and action results.
    pub entries: u64,
    /// What they took on disk, in bytes.
    pub size_bytes: u64,
}

/// A temporary file that nobody wrote to for so long belongs to a process that is gone.
const ABANDONED_AFTER: Duration = Duration::from_secs(6 * 60 * 60);

/// Disk is given out in blocks of this many bytes nearly everywhere; small entries would else count as nothing.
const BLOCK_BYTES: u64 = 4096;

/// What a file of `size_bytes` takes on disk.
pub(super) fn disk_bytes(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

pub(super) struct Entry {
    pub(super) path: PathBuf,
    size_bytes: u64,
    last_use: SystemTime,
}

impl Store {
    /// Whether a [`trim`](Store::trim) is due: the store may have outgrown its bound, or was never looked at.
    pub fn wants_trim(&self) -> bool {
        let size_bytes = self.shared.size_bytes.load(Ordering::Relaxed);
        !self.shared.scanned.load(Ordering::Relaxed) || size_bytes > self.bound(size_bytes)
    }

    /// How large a store that holds `size_bytes` may be: less than it is to be at most where its file system is nearly
    /// full.
    fn bound(&self, size_bytes: u64) -> u64 {
        let room = Room::of(&self.shared.directory).filter(Room::is_short);
        let lacking = room.map_or(0, |room| room.reserved_bytes - room.free_bytes);
        self.shared.max_size_bytes.min(size_bytes.saturating_sub(lacking).max(1))
    }

    /// Deletes the least recently used entries until the store is a tenth below its bound, if it exceeds the
    /// bound; and what dead processes left half-written. Takes long: one look at every entry. Entries that
    /// vanish meanwhile are somebody else's trim.
    ///
    /// # Errors
    /// When the store's directory cannot be read or an entry cannot be deleted.
    pub fn trim(&self) -> Result<Trimmed, StoreError> {
        self.remove_abandoned();
        let mut entries = Vec::new();
        self.visit(|_, entry| entries.push(entry))?;
        let mut total: u64 = entries.iter().map(|entry| entry.size_bytes).sum();
        let mut trimmed = Trimmed::default();
        let bound = self.bound(total);
        if total > bound {
            entries.sort_unstable_by_key(|entry| entry.last_use);
            for entry in entries {
                if total <= bound - bound / 10 {
                    break;
                }
                match std::fs::remove_file(&entry.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::new("remove", &entry.path, error));
                    }
                    _ => {}
                }
                total -= entry.size_bytes;
                trimmed.entries += 1;
                trimmed.size_bytes += entry.size_bytes;
            }
        }
        self.shared.size_bytes.store(total, Ordering::Relaxed);
        self.shared.scanned.store(true, Ordering::Relaxed);
        Ok(trimmed)
    }

    /// Counts what is there; one look at every entry.
    ///
    /// # Errors
    /// When the store's directory cannot be read.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let mut stats = Stats::default();
        self.visit(|is_blob, entry| {
            *(if is_blob { &mut stats.blobs } else { &mut stats.action_results }) += 1;
            stats.size_bytes += entry.size_bytes;
        })?;
        self.shared.size_bytes.store(stats.size_bytes, Ordering::Relaxed);
        self.shared.scanned.store(true, Ordering::Relaxed);
        Ok(stats)
    }

    /// Deletes all blobs and action results of all namespaces.
    ///
    /// # Errors
    /// When one cannot be deleted.
    pub fn clear(&self) -> Result<(), StoreError> {
        let mut failed = None;
        self.visit(|_, entry| match std::fs::remove_file(&entry.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failed = Some(StoreError::new("remove", &entry.path, error));
            }
            _ => {}
        })?;
        self.shared.size_bytes.store(0, Ordering::Relaxed);
        failed.map_or(Ok(()), Err)
    }

    /// Shows every entry to `visitor`, blobs with `true`. Files that no store wrote are passed over.
    pub(super) fn visit(&self, mut visitor: impl FnMut(bool, Entry)) -> Result<(), StoreError> {
        let blobs = self.shared.directory.join(BLOBS);
        each_in_shards(&blobs, &mut |entry| visitor(true, entry))?;
        each(&self.shared.directory.join(RESULTS), |namespace, metadata| {
            if metadata.is_dir() {
                each_in_shards(&namespace.path(), &mut |entry| visitor(false, entry))?;
            }
            Ok(())
        })
    }

    fn remove_abandoned(&self) {
        let now = SystemTime::now();
        // What cannot be deleted or looked at now can be the next time.
        let _ = each(&self.shared.directory.join(TEMPORARY), |file, metadata| {
            let age = metadata.modified().ok().and_then(|written| now.duration_since(written).ok());
            if metadata.is_file() && age.is_some_and(|age| age > ABANDONED_AFTER) {
                let _ = std::fs::remove_file(file.path());
            }
            Ok(())
        });
    }
}

/// Shows the entries in the two-digit directories below `directory`.
fn each_in_shards(directory: &Path, visitor: &mut dyn FnMut(Entry)) -> Result<(), StoreError> {
    each(directory, |shard, metadata| {
        if !metadata.is_dir() || shard.file_name().len() != 2 {
            return Ok(());
        }
        each(&shard.path(), |file, metadata| {
            if metadata.is_file() && is_entry_name(&file) {
                visitor(Entry {
                    path: file.path(),
                    size_bytes: disk_bytes(metadata.len()),
                    last_use: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
            Ok(())
        })
    })
}

/// A hash in hexadecimal, perhaps with a size behind it, and with the function where that is not SHA-256.
fn is_entry_name(file: &DirEntry) -> bool {
    let name = file.file_name();
    let Some(name) = name.to_str() else { return false };
    let (name, length) = match (name.strip_suffix("-blake3"), name.strip_suffix("-sha1")) {
        (Some(name), _) => (name, 64),
        (None, Some(name)) => (name, 40),
        (None, None) => (name, 64),
    };
    let (hash, size) = name.split_once('-').unwrap_or((name, "0"));
    hash.len() == length
        && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && size.parse::<u64>().is_ok()
}

/// Shows what lies in `directory`; nothing when it is not there. What vanishes meanwhile is passed over.
fn each(
    directory: &Path,
    mut visitor: impl FnMut(DirEntry, Metadata) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::new("read", directory, error);
    let files = match std::fs::read_dir(directory) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for file in files {
        let file = file.map_err(failed)?;
        let Ok(metadata) = file.metadata() else { continue };
        visitor(file, metadata)?;
    }
    Ok(())
}

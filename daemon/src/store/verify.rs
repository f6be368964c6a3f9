//! Looks at all that the store holds, and removes what is damaged. Nobody has to: whatever is read is verified then.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::path::Path;

use super::Store;
use super::StoreError;
use super::result_file;
use crate::digest::DigestFunction;
use crate::digest::Hasher;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Number of blobs and action results that are as they were stored.
    pub sound: u64,
    /// Number of those that were not, and are deleted.
    pub damaged: u64,
    /// Number of those that could not be read.
    pub unreadable: u64,
}

impl Store {
    /// Reads every entry, and deletes those that are damaged. `seen` is told of each. Entries that vanish meanwhile are not counted.
    ///
    /// # Errors
    /// When the store's directory cannot be read.
    pub fn verify(&self, mut seen: impl FnMut()) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        self.visit(|is_blob, entry| {
            seen();
            let is_sound = if is_blob { is_sound_blob(&entry.path) } else { is_sound_result(&entry.path) };
            match is_sound {
                Ok(true) => verified.sound += 1,
                Ok(false) => {
                    tracing::warn!("the store's {} is damaged: deleted", entry.path.display());
                    // Every reader checks again.
                    let _ = std::fs::remove_file(&entry.path);
                    verified.damaged += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => verified.unreadable += 1,
            }
        })?;
        Ok(verified)
    }
}

/// Whether a blob has the hash that is its name.
fn is_sound_blob(path: &Path) -> io::Result<bool> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (hash, function) = match (name.strip_suffix("-blake3"), name.strip_suffix("-sha1")) {
        (Some(hash), _) => (hash, DigestFunction::Blake3),
        (None, Some(hash)) => (hash, DigestFunction::Sha1),
        (None, None) => (&*name, DigestFunction::Sha256),
    };
    let mut hasher = Hasher::of(function);
    hasher.read(&mut File::open(path)?)?;
    Ok(hasher.finish().hex() == hash)
}

fn is_sound_result(path: &Path) -> io::Result<bool> {
    let mut bytes = Vec::new();
    File::open(path)?.take(result_file::MAX_SIZE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(result_file::decode(&bytes).is_some())
}

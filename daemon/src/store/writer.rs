//! A blob on its way into the store, piece by piece.
//! Knows nothing of where the pieces come from.

use std::io;
use std::io::Write;

use tempfile::NamedTempFile;

use super::Store;
use super::StoreError;
use crate::digest::Digest;
use crate::digest::Hasher;

/// Takes a blob's bytes in order. Nothing is in the store before [`commit`](BlobWriter::commit) or
/// [`finish`](BlobWriter::finish); dropping the writer discards what was written.
pub struct BlobWriter {
    store: Store,
    temporary: NamedTempFile,
    hasher: Hasher,
    size_bytes: u64,
}

impl BlobWriter {
    pub(super) fn new(store: Store, temporary: NamedTempFile) -> BlobWriter {
        BlobWriter { hasher: Hasher::of(store.function), store, temporary, size_bytes: 0 }
    }

    /// How many bytes were written so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Stores the blob if it is the one that was expected.
    ///
    /// # Errors
    /// `InvalidData` when the bytes have another digest; else when the store cannot be written to.
    pub fn commit(self, expected: &Digest) -> Result<(), StoreError> {
        let digest = self.hasher.clone().finish();
        if digest != *expected {
            let problem = format!("the bytes have digest {digest}, not {expected}");
            let error = io::Error::new(io::ErrorKind::InvalidData, problem);
            return Err(StoreError::new("store", self.temporary.path(), error));
        }
        self.finish().map(|_| ())
    }

    /// Stores the blob, whatever it is.
    ///
    /// # Errors
    /// When the store cannot be written to.
    pub fn finish(self) -> Result<Digest, StoreError> {
        let digest = self.hasher.finish();
        if !self.store.has_sound(&digest) {
            self.store.publish_blob(self.temporary, &digest)?;
        }
        Ok(digest)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.temporary.as_file_mut().write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.as_file_mut().flush()
    }
}

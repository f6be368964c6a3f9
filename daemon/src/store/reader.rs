//! A blob on its way out of the store, piece by piece.
//! Knows nothing of where the pieces go.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;

use super::Store;
use crate::digest::Digest;
use crate::digest::Hasher;

/// Yields a blob's bytes. What it yields from the start on is hashed as it goes, and the last piece comes only
/// if the whole is right, else `InvalidData`; a start in the middle costs one reading of the whole first.
pub struct BlobReader {
    store: Store,
    digest: Digest,
    file: File,
    remaining_bytes: u64,
    /// `None` once all bytes were verified.
    hasher: Option<Hasher>,
}

impl BlobReader {
    /// `None` when a start in the middle found the blob damaged.
    pub(super) fn new(
        store: &Store,
        digest: Digest,
        mut file: File,
        offset: u64,
    ) -> io::Result<Option<BlobReader>> {
        let mut hasher = Hasher::of(digest.function());
        if offset > 0 {
            hasher.read(&mut file)?;
            if hasher.finish() != digest {
                store.discard(&digest);
                return Ok(None);
            }
            file.seek(SeekFrom::Start(offset))?;
            let (store, remaining_bytes) = (store.clone(), digest.size_bytes() - offset);
            return Ok(Some(BlobReader { store, digest, file, remaining_bytes, hasher: None }));
        }
        let (store, remaining_bytes) = (store.clone(), digest.size_bytes());
        Ok(Some(BlobReader { store, digest, file, remaining_bytes, hasher: Some(hasher) }))
    }

    /// How many bytes are still to come.
    pub fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }

    fn damaged(&self) -> io::Error {
        self.store.discard(&self.digest);
        io::Error::new(io::ErrorKind::InvalidData, format!("the store's blob {} is damaged", self.digest))
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.remaining_bytes).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(self.damaged());
        }
        self.remaining_bytes -= read as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        if self.remaining_bytes == 0
            && let Some(hasher) = self.hasher.take()
            && hasher.finish() != self.digest
        {
            return Err(self.damaged());
        }
        Ok(read)
    }
}

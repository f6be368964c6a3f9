//! One blob on its way in by `ByteStream`, as it is or compressed.
//! Knows nothing of the stream; nothing is stored before the whole is right.

use std::io;
use std::io::Write;

use tonic::Status;

use super::messages::store_status;
use super::resource_name::BlobName;
use super::resource_name::Encoding;
use crate::compression::Decompressor;
use crate::digest::Digest;
use crate::store::BlobWriter;
use crate::store::Store;

pub(super) struct Upload {
    digest: Digest,
    writer: BlobWriter,
    decompressor: Option<Decompressor>,
    received_bytes: u64,
}

impl Upload {
    pub(super) fn new(store: &Store, name: &BlobName) -> Result<Upload, Status> {
        let digest = name.digest;
        let writer = store.with_function(digest.function()).writer().map_err(store_status)?;
        let decompressor = match name.encoding {
            Encoding::Identity => None,
            Encoding::Zstd => {
                Some(Decompressor::new(digest.size_bytes()).map_err(|error| status_of(&error))?)
            }
        };
        Ok(Upload { digest, writer, decompressor, received_bytes: 0 })
    }

    /// How many bytes have come, as they came.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Takes the next piece.
    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), Status> {
        self.received_bytes += piece.len() as u64;
        let written = match &mut self.decompressor {
            Some(decompressor) => decompressor.write(piece, &mut self.writer),
            None if self.received_bytes > self.digest.size_bytes() => {
                return Err(Status::invalid_argument(format!("the upload is longer than {}", self.digest)));
            }
            None => self.writer.write_all(piece),
        };
        written.map_err(|error| status_of(&error))
    }

    /// Puts the blob on disk, if it is the one that was announced, and returns the number of bytes that came: of a
    /// compressed one, those of the compressed stream, which clients compare with what they sent.
    pub(super) fn commit(self) -> Result<u64, Status> {
        if let Some(decompressor) = &self.decompressor {
            decompressor.finish().map_err(|error| status_of(&error))?;
        }
        self.writer.commit(&self.digest).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => Status::invalid_argument(error.source.to_string()),
            _ => store_status(error),
        })?;
        Ok(self.received_bytes)
    }
}

fn status_of(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::InvalidData => Status::invalid_argument(error.to_string()),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Status::resource_exhausted(format!("store an upload: {error}"))
        }
        _ => Status::internal(format!("store an upload: {error}")),
    }
}

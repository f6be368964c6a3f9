//! Brings blobs to the server: asks what is missing, sends small blobs in batches and big ones by stream, each
//! digest once however many callers want it there.
//! Knows nothing of what the blobs are inputs of.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io;
use std::io::Cursor;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;
use futures::stream::FuturesUnordered;
use rustix::fs::OFlags;
use tokio::io::AsyncRead;
use tonic::Code;

use crate::compression::compress;
use crate::digest::Digest;
use crate::reapi::Client;
use crate::reapi::MAX_RECEIVED_MESSAGE;
use crate::reapi::ServerCapabilities;
use crate::reapi::error::Cause;
use crate::reapi::error::Error;
use crate::reapi::presence::Known;
use crate::reapi::proto;
use crate::reapi::proto::batch_update_blobs_request::Request;
use crate::reapi::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use crate::reapi::retry::Tries;
use crate::reapi::retry::retrying;
use crate::reapi::single_flight::Flight;
use crate::reapi::single_flight::Follower;
use crate::reapi::single_flight::Seat;

/// What one blob adds to a batch message beyond its bytes, at most: tags, lengths, 64 digits of hash, size,
/// and in answers a status.
pub(super) const BATCH_OVERHEAD_PER_BLOB: u64 = 128;
/// What a batch message has beyond its blobs, at most, without the instance name.
pub(super) const BATCH_OVERHEAD: u64 = 32;
/// Blobs in one batch at most (Bazel's Go SDK).
pub(super) const BLOBS_PER_BATCH: usize = 4000;
/// What an upload by stream has in memory, about: its pieces on their way through the connection.
const STREAM_BYTES: u64 = 4 << 20;
/// Blobs of a failed batch that are moved one by one at the same time.
pub(super) const SINGLES_AT_ONCE: usize = 8;

/// Bytes to be uploaded, with the digest that they should have.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Under which they are stored.
    pub digest: Digest,
    /// Where they are.
    pub content: Content,
}

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// In a regular file; it is read only if the server lacks it.
    File(Arc<Path>),
}

/// What an upload did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UploadStats {
    /// Blobs that this call sent.
    pub sent_blobs: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Blobs that were there, empty, or sent by another caller.
    pub skipped_blobs: u64,
}

impl Blob {
    /// A blob of bytes in memory.
    pub fn of_bytes(bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        Blob { digest: Digest::of(&bytes), content: Content::Bytes(bytes) }
    }

    /// A blob in a file, whose digest was taken earlier.
    pub fn of_file(digest: Digest, path: impl Into<Arc<Path>>) -> Blob {
        Blob { digest, content: Content::File(path.into()) }
    }

    /// The bytes from the beginning.
    pub(super) async fn open(&self) -> Result<Box<dyn AsyncRead + Send + Unpin>, Error> {
        match &self.content {
            Content::Bytes(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            Content::File(path) => {
                let path = path.clone();
                let opened = tokio::task::spawn_blocking(move || open_regular(&path)).await;
                let file = opened.map_err(io::Error::from).flatten();
                let file = file.map_err(|error| self.mismatch(&error.to_string()))?;
                Ok(Box::new(tokio::fs::File::from_std(file)))
            }
        }
    }

    /// All bytes, once they are known to be those of the digest. Blocks.
    fn read_verified(&self) -> Result<Bytes, Error> {
        let bytes = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::File(path) => {
                let mut bytes = Vec::new();
                // One byte more than expected is enough to see that the file has grown.
                let limit = self.digest.size_bytes().saturating_add(1);
                let read = open_regular(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
                read.map_err(|error| self.mismatch(&error.to_string()))?;
                bytes.into()
            }
        };
        if self.digest.is_of(&bytes) {
            return Ok(bytes);
        }
        Err(self.mismatch("its bytes are no longer those of its digest"))
    }

    /// The error when the bytes of the digest are not to be had.
    pub(super) fn mismatch(&self, why: &str) -> Error {
        match &self.content {
            Content::Bytes(_) => {
                Error::status(Code::InvalidArgument, format!("upload blob {}: {why}", self.digest))
            }
            Content::File(path) => Error::new(
                Code::FailedPrecondition,
                Cause::InputChanged(path.to_path_buf()),
                format!("upload {}: {why}", path.display()),
            ),
        }
    }
}

/// Opens without waiting for the other end of a pipe that took the file's place.
fn open_regular(path: &Path) -> io::Result<std::fs::File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// A blob that this caller must send.
type Duty = (Blob, Flight);

impl Client {
    /// Makes sure that the server has `blobs`. It is asked first; only what it lacks is read and sent. Bytes
    /// that no longer have their digest are never stored under it: they are hashed before the last of them is
    /// sent.
    ///
    /// # Errors
    /// [`Cause::InputChanged`] for a file that changed or cannot be read, `InvalidArgument` for bytes in memory
    /// that have another digest or are larger than the server takes, else as the calls fail.
    pub async fn upload(&self, blobs: Vec<Blob>) -> Result<UploadStats, Error> {
        self.upload_unasked(blobs, 0).await
    }

    /// The same, but what is not known to be there is sent without a question if it is no more than `unasked_bytes`: the
    /// question would take as long as sending it does.
    ///
    /// # Errors
    /// As [`upload`](Client::upload).
    pub async fn upload_unasked(&self, blobs: Vec<Blob>, unasked_bytes: u64) -> Result<UploadStats, Error> {
        let given = blobs.len() as u64;
        let mut stats = UploadStats::default();
        let mut distinct = HashSet::new();
        // Most of them were there for another command.
        let mut waiting = self.shared.presence.without_present(blobs, |blob| &blob.digest, Instant::now());
        waiting.retain(|blob| blob.digest.size_bytes() > 0 && distinct.insert(blob.digest));
        let mut is_asked = waiting.iter().map(|blob| blob.digest.size_bytes()).sum::<u64>() > unasked_bytes;
        while !waiting.is_empty() {
            if std::mem::replace(&mut is_asked, true) {
                let digests: Vec<Digest> = waiting.iter().map(|blob| blob.digest).collect();
                let missing: HashSet<Digest> = self.find_missing(&digests).await?.into_iter().collect();
                waiting.retain(|blob| missing.contains(&blob.digest));
            }
            let (duties, followed) = self.board(waiting);
            for (blob, _) in &duties {
                stats.sent_blobs += 1;
                stats.sent_bytes += blob.digest.size_bytes();
            }
            if !duties.is_empty() {
                self.send(duties).await?;
            }
            // After the own flights have landed: two callers that follow each other must not wait in a circle.
            waiting = Vec::new();
            for (blob, follower) in followed {
                match follower.outcome().await {
                    Some(result) => result?,
                    // The leader was cancelled, or its file changed. Ours may be as it was.
                    None => waiting.push(blob),
                }
            }
        }
        stats.skipped_blobs = given.saturating_sub(stats.sent_blobs);
        Ok(stats)
    }

    /// Divides missing blobs into those that this caller must send and those that another is sending.
    fn board(&self, missing: Vec<Blob>) -> (Vec<Duty>, Vec<(Blob, Follower)>) {
        let (mut duties, mut followed) = (Vec::new(), Vec::new());
        for blob in missing {
            match self.shared.uploads.board(blob.digest) {
                // An upload may have landed since the question was answered.
                Seat::Leader(_) if self.is_known_present(&blob.digest) => {}
                Seat::Leader(flight) => duties.push((blob, flight)),
                Seat::Follower(follower) => followed.push((blob, follower)),
            }
        }
        (duties, followed)
    }

    fn is_known_present(&self, digest: &Digest) -> bool {
        self.shared.presence.known(digest, Instant::now()) == Some(Known::Present)
    }

    /// Sends all; ends with the first error, whereupon followers of what is left see to it themselves.
    async fn send(&self, duties: Vec<Duty>) -> Result<(), Error> {
        let capabilities = self.capabilities().await?;
        let limit = self.batch_capacity(&capabilities);
        let mut batches: Vec<Vec<Duty>> = Vec::new();
        let mut transfers: FuturesUnordered<BoxFuture<'_, Result<(), Error>>> = FuturesUnordered::new();
        let mut room = 0;
        for (blob, flight) in duties {
            let size = blob.digest.size_bytes();
            if let Some(max) = capabilities.max_blob_bytes.filter(|max| size > *max) {
                let message = format!("upload blob {}: the server takes at most {max} bytes", blob.digest);
                return Err(Error::status(Code::InvalidArgument, message));
            }
            let cost = size.saturating_add(BATCH_OVERHEAD_PER_BLOB);
            if cost > limit {
                transfers.push(self.send_stream((blob, flight)).boxed());
                continue;
            }
            match batches.last_mut() {
                Some(batch) if cost <= room && batch.len() < BLOBS_PER_BATCH => {
                    room -= cost;
                    batch.push((blob, flight));
                }
                _ => {
                    room = limit - cost;
                    batches.push(vec![(blob, flight)]);
                }
            }
        }
        transfers.extend(batches.into_iter().map(|batch| self.send_batch(batch).boxed()));
        while let Some(sent) = transfers.next().await {
            sent?;
        }
        Ok(())
    }

    /// Bytes that blobs and their overhead may take in one batch message.
    pub(super) fn batch_capacity(&self, capabilities: &ServerCapabilities) -> u64 {
        let frame = BATCH_OVERHEAD + self.shared.endpoint.instance_name.len() as u64;
        capabilities.max_batch_bytes.saturating_sub(frame)
    }

    async fn send_batch(&self, duties: Vec<Duty>) -> Result<(), Error> {
        let bytes = duties.iter().map(|(blob, _)| blob.digest.size_bytes()).sum();
        let _permit = self.shared.transfers.admit(bytes).await;
        let (blobs, flights): (Vec<Blob>, Vec<Flight>) = duties.into_iter().unzip();
        let packs = self.capabilities().await?.zstd_batches;
        let reading = tokio::task::spawn_blocking(move || {
            let read: Result<Vec<(Digest, Bytes)>, Error> =
                blobs.iter().map(|blob| Ok((blob.digest, blob.read_verified()?))).collect();
            read
        });
        let items = reading.await.map_err(|_| Error::status(Code::Internal, "read inputs".to_owned()))??;
        let answers = retrying(self.shared.cas.retries, || async {
            match self.update_batch(&items, packs).await {
                // Too large for the server, whatever it says of itself: unchanged it never fits.
                Err(error) if is_oversize(&error) => Ok(HashMap::new()),
                answers => answers,
            }
        })
        .await;
        let mut answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                flights.into_iter().for_each(|flight| flight.land(Err(error.clone())));
                return Err(error);
            }
        };
        let parts = items.into_iter().zip(flights).map(|((digest, bytes), flight)| {
            let answer = answers.remove(&digest);
            async move {
                let blob = Blob { digest, content: Content::Bytes(bytes) };
                let result = match answer {
                    Some(Ok(())) => Ok(()),
                    Some(Err(error)) => self.send_singly(&blob, Some(error)).await,
                    None => self.send_singly(&blob, None).await,
                };
                self.landed(digest, flight, result.clone());
                result
            }
        });
        // Every flight lands, also after another one failed: the bytes are at hand.
        let results: Vec<_> = stream::iter(parts).buffer_unordered(SINGLES_AT_ONCE).collect().await;
        results.into_iter().collect()
    }

    /// One batch RPC: how it went with each blob.
    async fn update_batch(
        &self,
        items: &[(Digest, Bytes)],
        packs: bool,
    ) -> Result<HashMap<Digest, Result<(), Error>>, Error> {
        let calls = &self.shared.cas;
        let function = items.first().map(|(digest, _)| digest.function()).unwrap_or_default();
        let update = |wire| {
            let requests = items.iter().map(|(digest, bytes)| {
                let packed = if packs { compress(bytes) } else { None };
                let compressor = match packed {
                    Some(_) => proto::compressor::Value::Zstd,
                    None => proto::compressor::Value::Identity,
                };
                let data = packed.unwrap_or_else(|| bytes.to_vec());
                Request { digest: Some(digest.into()), data, compressor: compressor.into() }
            });
            let mut request = self.attribution.request(proto::BatchUpdateBlobsRequest {
                instance_name: self.shared.endpoint.instance_name.clone(),
                requests: requests.collect(),
                digest_function: function.number(),
            });
            request.set_timeout(calls.timeout);
            let mut cas =
                ContentAddressableStorageClient::new(wire).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
            async move { cas.batch_update_blobs(request).await }
        };
        let answer = calls.unary_once("upload blobs", &update).await?;
        let mut results = HashMap::new();
        for response in answer.responses {
            let Some(digest) = function.read_field(response.digest.as_ref()) else { continue };
            let status = response.status.unwrap_or_default();
            let result = match Code::from_i32(status.code) {
                Code::Ok | Code::AlreadyExists => Ok(()),
                _ => Err(Error::from_rpc(&calls.doing(&format!("upload blob {digest}")), &status)),
            };
            results.insert(digest, result);
        }
        Ok(results)
    }

    async fn send_stream(&self, (blob, flight): Duty) -> Result<(), Error> {
        // It is read piece by piece, and never has more than a few batches' worth in memory.
        let _permit = self.shared.transfers.admit(blob.digest.size_bytes().min(STREAM_BYTES)).await;
        let result = self.send_singly(&blob, None).await;
        if result.as_ref().is_err_and(|error| error.input_changed().is_some()) {
            // A follower's copy of the same bytes may be as it was.
            drop(flight);
            return result;
        }
        self.landed(blob.digest, flight, result.clone());
        result
    }

    /// One blob by a stream of its own, with retries; `failed` is a failure that came before. A stream that
    /// broke may have broken because the server has the blob: proxies turn its early answer into a reset
    /// (tonic #2185), so it is asked in between.
    async fn send_singly(&self, blob: &Blob, mut failed: Option<Error>) -> Result<(), Error> {
        let suspect = self.shared.presence.known(&blob.digest, Instant::now()) == Some(Known::Missing);
        let mut tries = Tries::new(self.shared.cas.retries);
        loop {
            if let Some(error) = failed.take() {
                let Some(pause) = tries.pause_after(&error) else { return Err(error) };
                tracing::debug!(%error, ?pause, "uploading again");
                tokio::time::sleep(pause).await;
                if !suspect && self.ask_server(&[blob.digest]).await.is_ok_and(|missing| missing.is_empty()) {
                    return Ok(());
                }
            }
            match self.write_stream(blob).await {
                Ok(()) => return Ok(()),
                Err(error) => failed = Some(error),
            }
        }
    }

    /// Remembers an upload before its flight ends, so that nobody starts another in between.
    fn landed(&self, digest: Digest, flight: Flight, result: Result<(), Error>) {
        if result.is_ok() {
            self.shared.presence.learn([digest], Known::Present, Instant::now());
        }
        flight.land(result);
    }
}

/// Whether a batch was refused for its size: RESOURCE_EXHAUSTED without a word of when to come back.
pub(super) fn is_oversize(error: &Error) -> bool {
    error.code() == Code::ResourceExhausted && error.retry_after().is_none()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_overhead_of_batches_is_bounded() {
        for size in [1, 127, 128, 70_000, 3_000_000_usize] {
            let data = vec![7; size];
            let digest = Digest::of(&data);
            let request = Request {
                digest: Some(proto::Digest { size_bytes: i64::MAX, ..digest.into() }),
                data,
                compressor: 1,
            };
            let batch = proto::BatchUpdateBlobsRequest {
                instance_name: "main".to_owned(),
                requests: vec![request],
                digest_function: 1,
            };
            let bound = size as u64 + BATCH_OVERHEAD_PER_BLOB + BATCH_OVERHEAD + 4;
            assert!(batch.encoded_len() as u64 <= bound, "{size}");
        }
    }

    #[test]
    fn changed_files_are_not_read_as_their_old_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.h");
        let blob = Blob::of_file(Digest::of(b"one"), path.as_path());
        assert_eq!(blob.read_verified().unwrap_err().input_changed(), Some(path.as_path()));
        for (content, same) in [("one", true), ("two", false), ("onemore", false), ("on", false)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(blob.read_verified().is_ok(), same, "{content}");
        }
    }

    #[test]
    fn a_pipe_in_place_of_a_file_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(Blob::of_file(Digest::of(b"one"), path.as_path()).read_verified().is_err());
        assert!(Blob::of_file(Digest::of(b"one"), directory.path()).read_verified().is_err());
    }
}

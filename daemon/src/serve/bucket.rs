//! Blobs and results as objects of an S3 bucket.
//! Knows nothing of calls, nor of who else uses the bucket; trusts nothing that it finds there.
//!
//! # Layout
//! `PREFIX/cas/FUNCTION/ab/HASH` is a blob, `PREFIX/ac/FUNCTION/ab/HASH-SIZE` an action result with its own checksum.
//! Objects appear whole. What has wrong bytes is deleted, and counts as missing even where it cannot be.
//!
//! # When it cannot be reached
//! A request is tried a few times within seconds; then the call that needs it ends with `UNAVAILABLE` and the advice to
//! come back ([`RETRY_AFTER`]).

use std::collections::HashMap;
use std::io::Read as _;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use object_store::ObjectStore;
use object_store::ObjectStoreExt as _;
use object_store::PutPayload;
use object_store::WriteMultipart;
use object_store::path::Path;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;
use tonic::Code;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt as _;

use super::Counters;
use super::messages::blocking;
use super::messages::store_status;
use crate::digest::Digest;
use crate::reapi::presence::Known;
use crate::reapi::presence::Presence;
use crate::store::Store;
use crate::store::result_file;

/// How long a blob is believed to be in the bucket that was seen there. Rules that delete old objects count in days.
const BELIEVED_FOR: Duration = Duration::from_secs(60 * 60);
/// Of how many blobs that is remembered: some 25 MB.
const BELIEVED_BLOBS: usize = 200_000;
/// When a client should come back while the bucket cannot be reached.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Requests in flight.
const CONCURRENT_REQUESTS: usize = 128;
/// Larger blobs come and go in parts of this size, each in a request of its own with its own time limit.
const PART_BYTES: u64 = 16 << 20;
/// Parts of one blob in flight.
const CONCURRENT_PARTS: usize = 3;

/// A bucket, or a part of one below a prefix.
pub(super) struct Bucket {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    presence: Presence,
    requests: Semaphore,
    turns: Turns,
    counters: Arc<Counters>,
}

impl Bucket {
    pub(super) fn new(objects: Arc<dyn ObjectStore>, prefix: Path, counters: Arc<Counters>) -> Bucket {
        Bucket {
            objects,
            prefix,
            presence: Presence::new(BELIEVED_FOR, BELIEVED_BLOBS),
            requests: Semaphore::new(CONCURRENT_REQUESTS),
            turns: Turns::default(),
            counters,
        }
    }

    fn blob_path(&self, digest: &Digest) -> Path {
        let hex = digest.hex();
        let parts = ["cas", digest.function().name(), &hex[..2], &hex];
        parts.into_iter().fold(self.prefix.clone(), Path::join)
    }

    fn result_path(&self, key: &Digest) -> Path {
        let hex = key.hex();
        let name = format!("{hex}-{}", key.size_bytes());
        let parts = ["ac", key.function().name(), &hex[..2], &name];
        parts.into_iter().fold(self.prefix.clone(), Path::join)
    }

    /// One of the requests in flight, counted.
    async fn request(&self, counter: impl FnOnce(&Counters) -> &AtomicU64) -> Option<SemaphorePermit<'_>> {
        self.counters.add(counter, 1);
        // The semaphore lives as long as the bucket and is never closed.
        self.requests.acquire().await.ok()
    }

    /// Whether the blob was seen in the bucket lately.
    pub(super) fn is_known(&self, digest: &Digest) -> bool {
        digest.is_empty() || self.presence.known(digest, Instant::now()) == Some(Known::Present)
    }

    /// Whether the blob is in the bucket, with the right size as far as can be told from outside.
    pub(super) async fn contains(&self, digest: &Digest) -> Result<bool, Status> {
        match self.presence.known(digest, Instant::now()) {
            Some(Known::Present) => return Ok(true),
            // Its bytes are wrong: whatever the bucket says.
            Some(Known::Missing) => return Ok(false),
            None => {}
        }
        let _request = self.request(|counters| &counters.bucket_questions).await;
        match self.objects.head(&self.blob_path(digest)).await {
            Ok(object) if object.size == digest.size_bytes() => {
                self.learn(digest, Known::Present);
                Ok(true)
            }
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(status_of(&format!("look for blob {digest}"), &error)),
        }
    }

    /// Puts a blob that is on disk into the bucket; `false` when it is not on disk.
    pub(super) async fn put(&self, disk: &Store, digest: &Digest) -> Result<bool, Status> {
        let _turn = self.turns.take(digest).await;
        if self.is_known(digest) {
            return Ok(true);
        }
        let failed = |error| status_of(&format!("store blob {digest}"), &error);
        let (store, blob) = (disk.clone(), *digest);
        if digest.size_bytes() <= PART_BYTES {
            let bytes = blocking(move || store.read(&blob).map_err(store_status)).await?;
            let Some(bytes) = bytes else { return Ok(false) };
            let _request = self.request(|counters| &counters.bucket_writes).await;
            self.objects.put(&self.blob_path(digest), PutPayload::from(bytes)).await.map_err(failed)?;
        } else {
            let reader = blocking(move || store.open_blob(&blob, 0).map_err(store_status)).await?;
            let Some(mut reader) = reader else { return Ok(false) };
            let _request = self.request(|counters| &counters.bucket_writes).await;
            let upload = self.objects.put_multipart(&self.blob_path(digest)).await.map_err(failed)?;
            let part_bytes = usize::try_from(PART_BYTES).unwrap_or(usize::MAX);
            let mut upload = WriteMultipart::new_with_chunk_size(upload, part_bytes);
            loop {
                let read = blocking(move || {
                    let mut part = Vec::new();
                    // The last part comes only if the whole is right.
                    let read = reader.by_ref().take(PART_BYTES).read_to_end(&mut part);
                    read.map_err(|error| Status::data_loss(error.to_string()))?;
                    Ok((reader, part))
                });
                let part = match read.await {
                    Ok((rest, part)) => {
                        reader = rest;
                        part
                    }
                    Err(status) => {
                        // Parts that stay behind are for the bucket's own rules.
                        let _ = upload.abort().await;
                        return Err(status);
                    }
                };
                if part.is_empty() {
                    break;
                }
                upload.wait_for_capacity(CONCURRENT_PARTS).await.map_err(failed)?;
                upload.put(part.into());
            }
            upload.finish().await.map_err(failed)?;
        }
        self.learn(digest, Known::Present);
        Ok(true)
    }

    /// Brings a blob to the disk, verified; `false` when it is not in the bucket.
    pub(super) async fn get(&self, disk: &Store, digest: &Digest) -> Result<bool, Status> {
        let _turn = self.turns.take(digest).await;
        let (store, blob) = (disk.with_function(digest.function()), *digest);
        // Whoever had the turn before may have brought it.
        let there = store.clone();
        if blocking(move || Ok(there.contains(&blob))).await? {
            return Ok(true);
        }
        let _request = self.request(|counters| &counters.bucket_reads).await;
        let failed = |error| status_of(&format!("fetch blob {digest}"), &error);
        let path = self.blob_path(digest);
        let object = match self.objects.get(&path).await {
            Ok(object) => object,
            Err(object_store::Error::NotFound { .. }) => {
                self.presence.forget([digest]);
                return Ok(false);
            }
            Err(error) => return Err(failed(error)),
        };
        if object.meta.size != digest.size_bytes() {
            self.discard(digest).await;
            return Ok(false);
        }
        let mut writer = blocking(move || store.writer().map_err(store_status)).await?;
        if digest.size_bytes() <= PART_BYTES {
            let bytes = object.bytes().await.map_err(failed)?;
            writer = blocking(move || write(writer, &bytes)).await?;
        } else {
            // Each part in a request of its own: none takes as long as the whole would.
            drop(object);
            let mut start = 0;
            while start < digest.size_bytes() {
                let end = digest.size_bytes().min(start + PART_BYTES);
                let bytes = self.objects.get_range(&path, start..end).await.map_err(failed)?;
                writer = blocking(move || write(writer, &bytes)).await?;
                start = end;
            }
        }
        let committed = blocking(move || match writer.commit(&blob) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(false),
            Err(error) => Err(store_status(error)),
        });
        if committed.await? {
            self.learn(digest, Known::Present);
            return Ok(true);
        }
        self.discard(digest).await;
        Ok(false)
    }

    /// The result under `key`; `None` when there is none, or none that can be read.
    pub(super) async fn result(&self, key: &Digest) -> Result<Option<ActionResult>, Status> {
        let _request = self.request(|counters| &counters.bucket_reads).await;
        let failed = |error| status_of(&format!("fetch the result of {key}"), &error);
        let object = match self.objects.get(&self.result_path(key)).await {
            Ok(object) if object.meta.size <= result_file::MAX_SIZE_BYTES => object,
            Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let bytes = object.bytes().await.map_err(failed)?;
        // A damaged one is replaced by the next.
        Ok(result_file::decode(&bytes))
    }

    /// Puts a result under `key`, in place of any earlier one.
    pub(super) async fn put_result(&self, key: &Digest, result: &ActionResult) -> Result<(), Status> {
        let _request = self.request(|counters| &counters.bucket_writes).await;
        let payload = PutPayload::from(result_file::encode(result));
        let put = self.objects.put(&self.result_path(key), payload).await;
        put.map(|_| ()).map_err(|error| status_of(&format!("store the result of {key}"), &error))
    }

    fn learn(&self, digest: &Digest, known: Known) {
        self.presence.learn([*digest], known, Instant::now());
    }

    /// Deletes an object whose bytes are not the blob's.
    async fn discard(&self, digest: &Digest) {
        tracing::warn!("the bucket's object {} is damaged: deleted", self.blob_path(digest));
        // Where deleting is forbidden, the object is at least not believed in.
        self.learn(digest, Known::Missing);
        if let Err(error) = self.objects.delete(&self.blob_path(digest)).await {
            tracing::warn!("failed to delete it: {error}");
        }
    }
}

fn write(mut writer: crate::store::BlobWriter, bytes: &[u8]) -> Result<crate::store::BlobWriter, Status> {
    match writer.write_all(bytes) {
        Ok(()) => Ok(writer),
        Err(error) => Err(Status::internal(format!("store a blob from the bucket: {error}"))),
    }
}

/// What a client is told. It cannot mend what the bucket refuses; what is out of reach may come back.
fn status_of(operation: &str, error: &object_store::Error) -> Status {
    let message = format!("{operation} in the bucket: {error}");
    tracing::warn!("failed to {message}");
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            Status::internal(message)
        }
        _ => Status::with_error_details(
            Code::Unavailable,
            message,
            ErrorDetails::with_retry_info(Some(RETRY_AFTER)),
        ),
    }
}

/// Lets one caller at a time work on a blob, so that a blob that many want is fetched once.
#[derive(Default)]
struct Turns {
    locks: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to work on a blob, until it is dropped.
struct Turn<'a> {
    turns: &'a Turns,
    digest: Digest,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    async fn take(&self, digest: &Digest) -> Turn<'_> {
        let lock = Arc::clone(self.locks().entry(*digest).or_default());
        // Made before the wait: one who gives up waiting leaves as well.
        let mut turn = Turn { turns: self, digest: *digest, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }

    /// Held for moments, and nothing under it can be left half-done by a panic.
    fn locks(&self) -> MutexGuard<'_, HashMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut locks = self.turns.locks();
        self.guard = None;
        if locks.get(&self.digest).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.digest);
        }
    }
}

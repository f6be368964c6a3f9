//! The blobs as clients see them: on disk, and behind the disk, where there is one, in a bucket.
//! Knows nothing of the calls that want them.
//!
//! With a bucket, a blob is stored when it is in the bucket, and not before: uploads are answered only then. (Answers
//! that come earlier would be promises on behalf of a disk that may be lost, and other servers on the same bucket could
//! not keep them.) The disk holds what was used lately. What is only there, because the bucket could not be reached or
//! has lost it, is put into the bucket when somebody asks for it.

use std::collections::HashSet;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::build::bazel::remote::execution::v2::Directory;
use futures::StreamExt as _;
use futures::TryStreamExt as _;
use prost::Message;
use tonic::Status;

use super::bucket::Bucket;
use super::messages::blocking;
use super::messages::digest;
use super::messages::store_status;
use crate::digest::Digest;
use crate::store::BlobReader;
use crate::store::Store;

/// How many blobs of one call are looked for, fetched or stored at the same time.
const CONCURRENT_BLOBS: usize = 64;

/// A tree of more directories than this is a mistake, which the sandbox tells in its own words.
const MAX_TREE_DIRECTORIES: usize = 200_000;

/// Where results are that the bucket was to have and does not have yet.
const OWED: &str = "serve-owed";

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Cas {
    store: Store,
    bucket: Option<Arc<Bucket>>,
}

impl Cas {
    pub(super) fn new(store: Store, bucket: Option<Bucket>) -> Cas {
        Cas { store, bucket: bucket.map(Arc::new) }
    }

    /// The part on disk.
    pub(super) fn disk(&self) -> &Store {
        &self.store
    }

    pub(super) fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_deref()
    }

    /// Those of `digests` that are not stored. Counts as a use of the others.
    pub(super) async fn missing(&self, mut digests: Vec<Digest>) -> Result<Vec<Digest>, Status> {
        if self.bucket.is_none() {
            let store = self.store.clone();
            return blocking(move || {
                digests.retain(|digest| !store.contains(digest));
                Ok(digests)
            })
            .await;
        }
        let mut seen = HashSet::new();
        digests.retain(|digest| seen.insert(*digest));
        self.keep_all(digests, false).await
    }

    /// Whether the blob is stored; after the call it is, if the disk has it.
    pub(super) async fn keep(&self, digest: &Digest) -> Result<bool, Status> {
        let Some(bucket) = &self.bucket else { return self.is_on_disk(digest).await };
        if bucket.is_known(digest) || bucket.contains(digest).await? {
            return Ok(true);
        }
        bucket.put(&self.store, digest).await
    }

    /// As [`keep`](Cas::keep), of a blob that was just written to the disk and is not likely to be stored already.
    pub(super) async fn keep_new(&self, digest: &Digest) -> Result<bool, Status> {
        let Some(bucket) = &self.bucket else { return self.is_on_disk(digest).await };
        if bucket.is_known(digest) {
            return Ok(true);
        }
        bucket.put(&self.store, digest).await
    }

    /// Keeps several new blobs, and returns those that are not on disk.
    pub(super) async fn keep_all_new(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, Status> {
        self.keep_all(digests, true).await
    }

    async fn keep_all(&self, digests: Vec<Digest>, are_new: bool) -> Result<Vec<Digest>, Status> {
        let keeps = digests.into_iter().map(|digest| self.missing_one(digest, are_new));
        let missing: Vec<Option<Digest>> =
            futures::stream::iter(keeps).buffered(CONCURRENT_BLOBS).try_collect().await?;
        Ok(missing.into_iter().flatten().collect())
    }

    async fn missing_one(&self, digest: Digest, is_new: bool) -> Result<Option<Digest>, Status> {
        let is_kept = if is_new { self.keep_new(&digest).await? } else { self.keep(&digest).await? };
        Ok((!is_kept).then_some(digest))
    }

    pub(super) async fn is_on_disk(&self, digest: &Digest) -> Result<bool, Status> {
        let (store, digest) = (self.store.clone(), *digest);
        blocking(move || Ok(store.contains(&digest))).await
    }

    /// Sees to it that the blob is on disk; `false` when it is nowhere.
    pub(super) async fn fetch(&self, digest: &Digest) -> Result<bool, Status> {
        if self.is_on_disk(digest).await? {
            return Ok(true);
        }
        match &self.bucket {
            Some(bucket) => bucket.get(&self.store, digest).await,
            None => Ok(false),
        }
    }

    /// The bytes of a blob, verified; `None` when it is nowhere.
    pub(super) async fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Status> {
        let digest = *digest;
        self.on_disk(&digest, move |store| store.read(&digest).map_err(store_status)).await
    }

    /// A reader of a blob from `offset` on; `None` when it is nowhere.
    pub(super) async fn open(&self, digest: &Digest, offset: u64) -> Result<Option<BlobReader>, Status> {
        let digest = *digest;
        self.on_disk(&digest, move |store| store.open_blob(&digest, offset).map_err(store_status)).await
    }

    /// What `look` finds on disk, if need be after the blob was fetched.
    async fn on_disk<T: Send + 'static>(
        &self,
        digest: &Digest,
        look: impl Fn(&Store) -> Result<Option<T>, Status> + Clone + Send + 'static,
    ) -> Result<Option<T>, Status> {
        let (store, first) = (self.store.clone(), look.clone());
        let found = blocking(move || first(&store)).await?;
        // What was on disk and damaged is gone by now.
        if found.is_some() || self.bucket.is_none() || !self.fetch(digest).await? {
            return Ok(found);
        }
        let store = self.store.clone();
        blocking(move || look(&store)).await
    }

    /// The message in a blob; `None` when the blob is nowhere.
    pub(super) async fn read_message<M: Message + Default>(
        &self,
        digest: &Digest,
    ) -> Result<Option<M>, Status> {
        let Some(bytes) = self.read(digest).await? else { return Ok(None) };
        M::decode(bytes.as_slice()).map(Some).map_err(|error| {
            Status::invalid_argument(format!("blob {digest} is not the message it should be: {error}"))
        })
    }

    /// Sees to it that all of an input tree that can be had is on disk, for those who look only there.
    pub(super) async fn fetch_tree(&self, root: &Digest) -> Result<(), Status> {
        if self.bucket.is_none() {
            return Ok(());
        }
        let function = root.function();
        let mut directories = HashSet::from([*root]);
        let mut files = HashSet::new();
        let mut pending = vec![*root];
        while !pending.is_empty() && directories.len() <= MAX_TREE_DIRECTORIES {
            let reads = std::mem::take(&mut pending);
            let reads = reads.into_iter().map(|digest| self.read_owned(digest));
            let mut reads = futures::stream::iter(reads).buffer_unordered(CONCURRENT_BLOBS);
            while let Some(bytes) = reads.try_next().await? {
                // What is missing or no directory is for the sandbox to tell.
                let Some(directory) = bytes.and_then(|bytes| Directory::decode(bytes.as_slice()).ok()) else {
                    continue;
                };
                let named = |digests: &mut HashSet<Digest>, message| match digest(function, message, "") {
                    Ok(digest) => digests.insert(digest).then_some(digest),
                    Err(_) => None,
                };
                for node in &directory.files {
                    named(&mut files, node.digest.as_ref());
                }
                pending.extend(
                    directory
                        .directories
                        .iter()
                        .filter_map(|node| named(&mut directories, node.digest.as_ref())),
                );
            }
        }
        let fetches = files.into_iter().map(|digest| self.fetch_owned(digest));
        let mut fetches = futures::stream::iter(fetches).buffer_unordered(CONCURRENT_BLOBS);
        while fetches.try_next().await?.is_some() {}
        Ok(())
    }

    async fn read_owned(&self, digest: Digest) -> Result<Option<Vec<u8>>, Status> {
        self.read(&digest).await
    }

    async fn fetch_owned(&self, digest: Digest) -> Result<bool, Status> {
        self.fetch(&digest).await
    }

    /// The result on disk.
    pub(super) async fn disk_result(&self, key: &Digest) -> Result<Option<ActionResult>, Status> {
        let (store, key) = (self.store.clone(), *key);
        blocking(move || store.action_result(&key).map_err(store_status)).await
    }

    /// A result that the bucket was to have and does not have yet.
    pub(super) async fn owed_result(&self, key: &Digest) -> Result<Option<ActionResult>, Status> {
        let (store, key) = (self.store.with_namespace(OWED), *key);
        blocking(move || store.action_result(&key).map_err(store_status)).await
    }

    /// Keeps a result on disk, and as one that the bucket is to have.
    pub(super) async fn owe_result(&self, key: &Digest, result: &ActionResult) -> Result<(), Status> {
        let owed = self.bucket.is_some().then(|| self.store.with_namespace(OWED));
        let (store, key, result) = (self.store.clone(), *key, result.clone());
        blocking(move || {
            for store in owed.iter().chain([&store]) {
                store.put_action_result(&key, &result).map_err(store_status)?;
            }
            Ok(())
        })
        .await
    }

    /// Puts an owed result into the bucket. Its blobs must be stored.
    pub(super) async fn pay_result(&self, key: &Digest, result: &ActionResult) -> Result<(), Status> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        bucket.put_result(key, result).await?;
        let (store, key) = (self.store.with_namespace(OWED), *key);
        blocking(move || store.remove_action_result(&key).map_err(store_status)).await
    }
}

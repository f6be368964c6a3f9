//! The cluster's content-addressable storage, which is next to the twin: what it has need not come from the client.
//! Knows nothing of mirrors.

use std::collections::HashSet;
use std::io;
use std::io::Seek as _;
use std::path::Path;

use crate::digest::Digest;
use crate::reapi;
use crate::reapi::Client;
use crate::store::Store;
use crate::store::StoreError;

/// Larger contents come by a stream, so that they are never in memory.
const LARGE_BYTES: u64 = 4 << 20;

/// Where content is taken from before the client is asked.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    instance_name: String,
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// Those that are in the store now.
    pub digests: HashSet<Digest>,
    /// Their size together, in bytes.
    pub size_bytes: u64,
}

/// Why a content was not taken.
#[derive(Debug, thiserror::Error)]
enum ClusterError {
    #[error("{0}")]
    Cluster(#[from] reapi::Error),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Cluster {
    /// Over that client, which uses that instance.
    pub fn new(client: Client, instance_name: String) -> Cluster {
        Cluster { client, instance_name }
    }

    /// Its address.
    pub fn address(&self) -> &str {
        self.client.address()
    }

    /// The instance that is used there.
    pub fn instance_name(&self) -> &str {
        &self.instance_name
    }

    /// Takes what it has of `digests` into the store. A cluster that is not there has nothing.
    pub async fn take(&self, digests: &[Digest], store: &Store) -> Taken {
        let mut taken = Taken::default();
        if let Err(error) = self.try_to_take(digests, store, &mut taken).await {
            tracing::warn!("the cluster is not asked for content any more: {error}");
        }
        taken
    }

    async fn try_to_take(
        &self,
        digests: &[Digest],
        store: &Store,
        taken: &mut Taken,
    ) -> Result<(), ClusterError> {
        let Some(function) = digests.first().map(Digest::function) else { return Ok(()) };
        if self.client.capabilities().await?.digest_function != function {
            return Ok(());
        }
        let missing = self.client.find_missing(digests).await?;
        let missing: HashSet<Digest> = missing.into_iter().collect();
        let there = digests.iter().copied().filter(|digest| !missing.contains(digest));
        let (large, small): (Vec<Digest>, Vec<Digest>) =
            there.partition(|digest| digest.size_bytes() > LARGE_BYTES);
        let mut batch = Vec::new();
        let mut size_bytes = 0;
        for digest in small {
            size_bytes += digest.size_bytes();
            batch.push(digest);
            if size_bytes > LARGE_BYTES {
                self.take_small(&std::mem::take(&mut batch), store, taken).await?;
                size_bytes = 0;
            }
        }
        self.take_small(&batch, store, taken).await?;
        for digest in large {
            self.take_large(&digest, store).await?;
            taken.note(&digest);
        }
        Ok(())
    }

    async fn take_small(
        &self,
        digests: &[Digest],
        store: &Store,
        taken: &mut Taken,
    ) -> Result<(), ClusterError> {
        for (digest, bytes) in self.client.download_many(digests).await? {
            store.with_function(digest.function()).put(&bytes)?;
            taken.note(&digest);
        }
        Ok(())
    }

    async fn take_large(&self, digest: &Digest, store: &Store) -> Result<(), ClusterError> {
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(store.directory())?);
        self.client.download_to(digest, &mut file).await?;
        let (mut file, store) = (file.into_std().await, store.with_function(digest.function()));
        let put = tokio::task::spawn_blocking(move || {
            file.rewind()?;
            store.put_open_file(&file, Path::new("a download")).map_err(io::Error::other)
        });
        put.await.map_err(io::Error::other)??;
        Ok(())
    }
}

impl Taken {
    fn note(&mut self, digest: &Digest) {
        self.digests.insert(*digest);
        self.size_bytes += digest.size_bytes();
    }
}

//! Brings blobs from the server into memory: small ones in batches, big ones by stream, every one verified.
//! Knows nothing of what they are outputs of.

use std::collections::HashMap;
use std::collections::HashSet;
use std::pin::pin;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::Stream;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream;
use futures::stream::FuturesUnordered;
use tonic::Code;

use crate::compression::decompress;
use crate::digest::Digest;
use crate::reapi::Client;
use crate::reapi::MAX_RECEIVED_MESSAGE;
use crate::reapi::error::Cause;
use crate::reapi::error::Error;
use crate::reapi::proto;
use crate::reapi::proto::content_addressable_storage_client::ContentAddressableStorageClient;
use crate::reapi::retry::Tries;
use crate::reapi::retry::retrying;
use crate::reapi::upload::BATCH_OVERHEAD_PER_BLOB;
use crate::reapi::upload::BLOBS_PER_BATCH;
use crate::reapi::upload::SINGLES_AT_ONCE;
use crate::reapi::upload::is_oversize;

/// The largest blob that is taken into memory, in bytes: a digest in a hostile message may name any size.
const MAX_IN_MEMORY: u64 = 1 << 30;
/// Memory set aside before the first byte has come, at most.
const MAX_RESERVED: usize = 1 << 20;

type Blobs = HashMap<Digest, Bytes>;

impl Client {
    /// One blob, verified.
    ///
    /// # Errors
    /// As [`download_many`](Client::download_many).
    pub async fn download(&self, digest: &Digest) -> Result<Bytes, Error> {
        let mut blobs = self.download_many(std::slice::from_ref(digest)).await?;
        blobs.remove(digest).ok_or_else(|| self.corrupt(digest))
    }

    /// All of `digests`, verified. The empty blob is not asked for.
    ///
    /// # Errors
    /// `NotFound` with those that the server lacks as [missing](Error::missing_digests), [`Cause::Corrupt`]
    /// when other bytes came, `OutOfRange` for a blob over 1 GiB ([`download_to`](Client::download_to) takes
    /// those), else as the calls fail.
    pub async fn download_many(&self, digests: &[Digest]) -> Result<HashMap<Digest, Bytes>, Error> {
        let mut blobs = Blobs::new();
        let (empty, wanted): (HashSet<Digest>, HashSet<Digest>) =
            digests.iter().copied().partition(Digest::is_empty);
        blobs.extend(empty.into_iter().map(|digest| (digest, Bytes::new())));
        if wanted.is_empty() {
            return Ok(blobs);
        }
        let limit = self.batch_capacity(&self.capabilities().await?);
        let mut batches: Vec<Vec<Digest>> = Vec::new();
        let mut transfers: FuturesUnordered<BoxFuture<'_, Result<Blobs, Error>>> = FuturesUnordered::new();
        let mut room = 0;
        for digest in wanted {
            let cost = digest.size_bytes().saturating_add(BATCH_OVERHEAD_PER_BLOB);
            if cost > limit {
                transfers.push(self.receive_stream(digest).boxed());
                continue;
            }
            match batches.last_mut() {
                Some(batch) if cost <= room && batch.len() < BLOBS_PER_BATCH => {
                    room -= cost;
                    batch.push(digest);
                }
                _ => {
                    room = limit - cost;
                    batches.push(vec![digest]);
                }
            }
        }
        transfers.extend(batches.into_iter().map(|batch| self.receive_batch(batch).boxed()));
        blobs.extend(all_of(transfers).await?);
        Ok(blobs)
    }

    async fn receive_batch(&self, digests: Vec<Digest>) -> Result<Blobs, Error> {
        let bytes = digests.iter().map(Digest::size_bytes).sum();
        let _permit = self.shared.transfers.admit(bytes).await;
        let mut answers = retrying(self.shared.cas.retries, || async {
            match self.read_batch(&digests).await {
                // The answer does not fit into one message of the server's or ours: unchanged it never does.
                Err(error) if is_oversize(&error) || error.code() == Code::OutOfRange => Ok(HashMap::new()),
                answers => answers,
            }
        })
        .await?;
        let parts = digests.into_iter().map(|digest| {
            let answer = answers.remove(&digest);
            async move {
                match answer {
                    Some(Ok(bytes)) => Ok(Blobs::from([(digest, bytes)])),
                    Some(Err(error)) => {
                        let pause = Tries::new(self.shared.cas.retries).pause_after(&error);
                        let Some(pause) = pause else { return Err(self.not_downloaded(&digest, error)) };
                        tokio::time::sleep(pause).await;
                        self.receive(digest).await
                    }
                    None => self.receive(digest).await,
                }
            }
        });
        all_of(pin!(stream::iter(parts).buffer_unordered(SINGLES_AT_ONCE))).await
    }

    /// One batch RPC: what came for each blob. Bytes are verified; what was not asked for is left out.
    async fn read_batch(&self, digests: &[Digest]) -> Result<HashMap<Digest, Result<Bytes, Error>>, Error> {
        let calls = &self.shared.cas;
        // Who packs streams may pack what is read, too (REAPI, `acceptable_compressors`); there is no word of its own.
        let zstd = i32::from(proto::compressor::Value::Zstd);
        let acceptable = Vec::from_iter(self.capabilities().await?.zstd_streams.then_some(zstd));
        let function = digests.first().map(Digest::function).unwrap_or_default();
        let read = |wire| {
            let mut request = self.attribution.request(proto::BatchReadBlobsRequest {
                instance_name: self.shared.endpoint.instance_name.clone(),
                digests: digests.iter().map(proto::Digest::from).collect(),
                acceptable_compressors: acceptable.clone(),
                digest_function: function.number(),
            });
            request.set_timeout(calls.timeout);
            let mut cas =
                ContentAddressableStorageClient::new(wire).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
            async move { cas.batch_read_blobs(request).await }
        };
        let answer = calls.unary_once("download blobs", &read).await?;
        let asked: HashSet<&Digest> = digests.iter().collect();
        let mut results = HashMap::new();
        for mut response in answer.responses {
            let digest = function.read_field(response.digest.as_ref());
            let Some(digest) = digest.filter(|digest| asked.contains(digest)) else { continue };
            let status = response.status.unwrap_or_default();
            if response.compressor == zstd {
                response.data = decompress(&response.data, digest.size_bytes()).unwrap_or_default();
            }
            let result = match Code::from_i32(status.code) {
                Code::Ok if digest.is_of(&response.data) => Ok(Bytes::from(response.data)),
                Code::Ok => Err(self.corrupt(&digest)),
                _ => Err(Error::from_rpc(&calls.doing(&format!("download blob {digest}")), &status)),
            };
            results.insert(digest, result);
        }
        Ok(results)
    }

    async fn receive_stream(&self, digest: Digest) -> Result<Blobs, Error> {
        let _permit = self.shared.transfers.admit(digest.size_bytes()).await;
        self.receive(digest).await
    }

    /// One blob by a stream of its own.
    async fn receive(&self, digest: Digest) -> Result<Blobs, Error> {
        if digest.size_bytes() > MAX_IN_MEMORY {
            let message = format!("download blob {digest}: it is too large to be held in memory");
            return Err(Error::status(Code::OutOfRange, message));
        }
        let size = usize::try_from(digest.size_bytes()).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(size.min(MAX_RESERVED));
        self.download_to(&digest, &mut bytes).await?;
        Ok(Blobs::from([(digest, bytes.into())]))
    }
}

/// Gathers what comes. All blobs that are missing are named at once, because the caller has the action run
/// again for them; any other error ends it.
async fn all_of(mut transfers: impl Stream<Item = Result<Blobs, Error>> + Unpin) -> Result<Blobs, Error> {
    let mut blobs = Blobs::new();
    let mut missing: Option<(Vec<Digest>, String)> = None;
    while let Some(received) = transfers.next().await {
        match received {
            Ok(received) => blobs.extend(received),
            Err(error) if !error.missing_digests().is_empty() => {
                let (digests, _) = missing.get_or_insert_with(|| (Vec::new(), error.to_string()));
                digests.extend(error.missing_digests());
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        None => Ok(blobs),
        Some((digests, message)) => Err(Error::new(Code::NotFound, Cause::Missing(digests), message)),
    }
}

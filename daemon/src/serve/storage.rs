//! `ContentAddressableStorage`: blobs in batches, and whole trees.
//! Knows nothing of large blobs, which come by `ByteStream`.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::pin::Pin;

use bazel_remote_apis::build::bazel::remote::execution::v2::BatchReadBlobsRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::BatchReadBlobsResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::BatchUpdateBlobsRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::BatchUpdateBlobsResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest as DigestMessage;
use bazel_remote_apis::build::bazel::remote::execution::v2::Directory;
use bazel_remote_apis::build::bazel::remote::execution::v2::FindMissingBlobsRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::FindMissingBlobsResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::GetChunkMappingRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::GetChunkMappingResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::GetTreeRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::GetTreeResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::RegisterChunkMappingRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::RegisterChunkMappingResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::SpliceBlobRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::SpliceBlobResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::SplitBlobRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::SplitBlobResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::batch_read_blobs_response;
use bazel_remote_apis::build::bazel::remote::execution::v2::batch_update_blobs_request;
use bazel_remote_apis::build::bazel::remote::execution::v2::batch_update_blobs_response;
use bazel_remote_apis::build::bazel::remote::execution::v2::compressor;
use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_server::ContentAddressableStorage;
use futures::Stream;
use futures::StreamExt as _;
use prost::Message;
use tonic::Request;
use tonic::Response;
use tonic::Status;

use super::Served;
use super::capabilities::MAX_BATCH_BYTES;
use super::messages::Spoken;
use super::messages::blocking;
use super::messages::digest;
use super::messages::digest_message;
use super::messages::ok_status;
use super::messages::status_message;
use super::messages::store_status;
use crate::compression::compress;
use crate::compression::decompress;
use crate::digest::Digest;
use crate::store::Store;

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How many blobs of a batch are stored or read at the same time.
const CONCURRENT_BLOBS: usize = 32;
/// What the blobs of one batch may come to when they are decompressed.
const MAX_DECOMPRESSED_BATCH_BYTES: u64 = 64 << 20;
/// A page of `GetTree` when the client asks for no other.
const PAGE_DIRECTORIES: usize = 1000;
/// A page's encoded directories stay below this, so that its message stays below gRPC's usual limit.
const PAGE_BYTES: usize = 2 << 20;
/// A tree larger than this is a mistake or an attack: small directories that name each other many times.
const MAX_TREE_DIRECTORIES: usize = 1_000_000;

#[tonic::async_trait]
impl ContentAddressableStorage for Served {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let request = request.into_inner();
        let spoken = Spoken::of(request.digest_function)?;
        let digests: Result<Vec<Digest>, Status> =
            request.blob_digests.iter().map(|message| spoken.digest(Some(message), "blob_digests")).collect();
        let missing = self.cas.missing(digests?).await?;
        let missing_blob_digests = missing.iter().map(digest_message).collect();
        Ok(Response::new(FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        let spoken = Spoken::of(request.digest_function)?;
        check_batch(request.requests.iter().map(|blob| blob.data.len() as u64).sum())?;
        // The sizes are what compressed blobs may grow to in this process.
        let sizes =
            request.requests.iter().filter_map(|blob| blob.digest.as_ref()?.size_bytes.try_into().ok());
        let total = sizes.fold(0, |total: u64, size: u64| total.saturating_add(size));
        if total > MAX_DECOMPRESSED_BATCH_BYTES {
            return Err(Status::invalid_argument(format!(
                "the batch's blobs have {total} bytes, more than {MAX_DECOMPRESSED_BATCH_BYTES}: large blobs go by ByteStream"
            )));
        }
        let disk = self.cas.disk().clone();
        let on_disk: Vec<(Option<DigestMessage>, Result<Digest, Status>)> = blocking(move || {
            let blobs = request.requests.into_iter();
            Ok(blobs.map(|blob| (blob.digest.clone(), put_on_disk(&disk, spoken, &blob))).collect())
        })
        .await?;
        let kept = on_disk.into_iter().map(async |(digest, put)| {
            let status = match self.keep_of_batch(put).await {
                Ok(()) => ok_status(),
                Err(status) => status_message(&status),
            };
            batch_update_blobs_response::Response { digest, status: Some(status) }
        });
        let responses = futures::stream::iter(kept).buffered(CONCURRENT_BLOBS).collect().await;
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        let spoken = Spoken::of(request.digest_function)?;
        let digests: Result<Vec<Digest>, Status> =
            request.digests.iter().map(|message| spoken.digest(Some(message), "digests")).collect();
        let digests = digests?;
        check_batch(digests.iter().fold(0, |total, digest| digest.size_bytes().saturating_add(total)))?;
        let may_be_zstd = request.acceptable_compressors.contains(&i32::from(compressor::Value::Zstd));
        let reads = digests.into_iter().map(async |digest| self.read_for_batch(&digest, may_be_zstd).await);
        let responses = futures::stream::iter(reads).buffered(CONCURRENT_BLOBS).collect().await;
        Ok(Response::new(BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = ResponseStream<GetTreeResponse>;

    async fn get_tree(
        &self,
        request: Request<GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let request = request.into_inner();
        let pages = self.tree_pages(&request).await?;
        Ok(Response::new(Box::pin(futures::stream::iter(pages.into_iter().map(Ok)))))
    }

    async fn split_blob(
        &self,
        _request: Request<SplitBlobRequest>,
    ) -> Result<Response<SplitBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not split here"))
    }

    type GetChunkMappingStream = ResponseStream<GetChunkMappingResponse>;

    async fn get_chunk_mapping(
        &self,
        _request: Request<GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Status::unimplemented("blobs are not split here"))
    }

    async fn splice_blob(
        &self,
        _request: Request<SpliceBlobRequest>,
    ) -> Result<Response<SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not spliced here"))
    }

    async fn register_chunk_mapping(
        &self,
        _request: Request<tonic::Streaming<RegisterChunkMappingRequest>>,
    ) -> Result<Response<RegisterChunkMappingResponse>, Status> {
        Err(Status::unimplemented("blobs are not spliced here"))
    }
}

impl Served {
    /// Stores what is on disk for good.
    async fn keep_of_batch(&self, put: Result<Digest, Status>) -> Result<(), Status> {
        let digest = put?;
        if !self.cas.keep_new(&digest).await? {
            return Err(Status::internal(format!("blob {digest} was stored and is gone")));
        }
        self.counters.add(|counters| &counters.blobs_uploaded, 1);
        self.counters.add(|counters| &counters.bytes_uploaded, digest.size_bytes());
        Ok(())
    }

    async fn read_for_batch(
        &self,
        digest: &Digest,
        may_be_zstd: bool,
    ) -> batch_read_blobs_response::Response {
        let read = self.cas.read(digest).await;
        let read = read.and_then(|bytes| bytes.ok_or_else(|| Status::not_found(format!("blob {digest}"))));
        let mut compressor = compressor::Value::Identity;
        let (data, status) = match read {
            Ok(bytes) => {
                self.counters.add(|counters| &counters.blobs_read, 1);
                let compressed = if may_be_zstd { compress(&bytes) } else { None };
                if compressed.is_some() {
                    compressor = compressor::Value::Zstd;
                }
                (compressed.unwrap_or(bytes), ok_status())
            }
            Err(status) => (Vec::new(), status_message(&status)),
        };
        batch_read_blobs_response::Response {
            digest: Some(digest_message(digest)),
            data,
            compressor: i32::from(compressor),
            status: Some(status),
        }
    }

    /// The pages of a tree from the one that the request's token names: each directory once, parents before
    /// children. What is missing below the root is left out (REAPI, `GetTree`).
    async fn tree_pages(&self, request: &GetTreeRequest) -> Result<Vec<GetTreeResponse>, Status> {
        let root =
            Spoken::of(request.digest_function)?.digest(request.root_digest.as_ref(), "root_digest")?;
        let skipped = match request.page_token.as_str() {
            "" => 0,
            token => {
                token.parse::<usize>().map_err(|_| Status::invalid_argument("the page token is not ours"))?
            }
        };
        let page_directories = match usize::try_from(request.page_size) {
            Ok(0) => PAGE_DIRECTORIES,
            Ok(size) => size.min(PAGE_DIRECTORIES),
            Err(_) => return Err(Status::invalid_argument("the page size is negative")),
        };
        let directories = self.tree(&root).await?;
        let mut pages = vec![GetTreeResponse::default()];
        let mut page_bytes = 0;
        for (index, directory) in directories.into_iter().enumerate().skip(skipped) {
            let bytes = directory.encoded_len();
            let last = pages.len() - 1;
            let page = &mut pages[last];
            if page.directories.len() == page_directories
                || (page_bytes + bytes > PAGE_BYTES && !page.directories.is_empty())
            {
                page.next_page_token = index.to_string();
                pages.push(GetTreeResponse { directories: vec![directory], ..GetTreeResponse::default() });
                page_bytes = bytes;
            } else {
                page.directories.push(directory);
                page_bytes += bytes;
            }
        }
        Ok(pages)
    }

    async fn tree(&self, root: &Digest) -> Result<Vec<Directory>, Status> {
        let mut seen = HashSet::from([*root]);
        let mut pending = VecDeque::from([*root]);
        let mut directories = Vec::new();
        while let Some(next) = pending.pop_front() {
            let Some(bytes) = self.cas.read(&next).await? else {
                if next == *root {
                    return Err(Status::not_found(format!("directory {next}")));
                }
                continue;
            };
            let directory = Directory::decode(bytes.as_slice())
                .map_err(|error| Status::invalid_argument(format!("blob {next} is no Directory: {error}")))?;
            for child in &directory.directories {
                let child = digest(root.function(), child.digest.as_ref(), &child.name)?;
                if seen.insert(child) {
                    pending.push_back(child);
                }
            }
            directories.push(directory);
            if directories.len() > MAX_TREE_DIRECTORIES {
                return Err(Status::resource_exhausted("the tree is too large"));
            }
        }
        Ok(directories)
    }
}

/// Puts one blob of a batch on disk if it is what it is said to be.
fn put_on_disk(
    disk: &Store,
    spoken: Spoken,
    blob: &batch_update_blobs_request::Request,
) -> Result<Digest, Status> {
    let expected = spoken.digest(blob.digest.as_ref(), "digest")?;
    let decompressed;
    let bytes = match compressor::Value::try_from(blob.compressor) {
        Ok(compressor::Value::Identity) => &blob.data,
        Ok(compressor::Value::Zstd) => {
            decompressed = decompress(&blob.data, expected.size_bytes())
                .map_err(|error| Status::invalid_argument(error.to_string()))?;
            &decompressed
        }
        _ => return Err(Status::invalid_argument("the compressor is not supported")),
    };
    let function = expected.function();
    if !expected.is_of(bytes) {
        let found = function.digest(bytes);
        return Err(Status::invalid_argument(format!("the blob's digest is {found}, not {expected}")));
    }
    disk.with_function(function).put(bytes).map_err(store_status)
}

fn check_batch(total: u64) -> Result<(), Status> {
    if total > MAX_BATCH_BYTES {
        return Err(Status::invalid_argument(format!(
            "the batch has {total} bytes, more than {MAX_BATCH_BYTES}: large blobs go by ByteStream"
        )));
    }
    Ok(())
}

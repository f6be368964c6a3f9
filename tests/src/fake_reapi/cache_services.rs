//! The fake server's Capabilities, ContentAddressableStorage, ByteStream and ActionCache.
//! Knows nothing of executions.

use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
use bazel_remote_apis::build::bazel::remote::execution::v2::action_cache_server::ActionCache;
use bazel_remote_apis::build::bazel::remote::execution::v2::action_cache_server::ActionCacheServer;
use bazel_remote_apis::build::bazel::remote::execution::v2::capabilities_server::Capabilities;
use bazel_remote_apis::build::bazel::remote::execution::v2::capabilities_server::CapabilitiesServer;
use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_server::ContentAddressableStorage;
use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_server::ContentAddressableStorageServer;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_server::ExecutionServer;
use bazel_remote_apis::build::bazel::semver::SemVer;
use bazel_remote_apis::google::bytestream as bs;
use bazel_remote_apis::google::bytestream::byte_stream_server::ByteStream;
use bazel_remote_apis::google::bytestream::byte_stream_server::ByteStreamServer;
use bazel_remote_apis::google::rpc;
use bytes::Bytes;
use farccd::digest::Digest;
use farccd::digest::DigestFunction;
use prost::Message as _;
use tokio_stream::Stream;
use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::transport::server::TcpIncoming;

use super::Rpc;
use super::Shared;
use super::execution_service::Executions;

/// The message limit of a gRPC server that was not told otherwise.
const GRPC_LIMIT: u64 = 4 << 20;
/// Calls that one connection may have in flight, as in many servers and proxies; the others wait.
const STREAMS_PER_CONNECTION: u32 = 100;
/// Bytes in one ReadResponse.
const READ_CHUNK: usize = 64 << 10;

/// Serves until its runtime is gone.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener of this runtime");
    let services = Services(Arc::clone(&shared));
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .add_service(CapabilitiesServer::new(services.clone()))
        .add_service(ContentAddressableStorageServer::new(services.clone()))
        .add_service(ByteStreamServer::new(services.clone()))
        .add_service(ActionCacheServer::new(services))
        .add_service(ExecutionServer::new(Executions(shared)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .expect("the fake server serves");
}

#[derive(Clone)]
struct Services(Arc<Shared>);

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Capabilities for Services {
    async fn get_capabilities(
        &self,
        request: Request<proto::GetCapabilitiesRequest>,
    ) -> Result<Response<proto::ServerCapabilities>, Status> {
        self.0.begin(Rpc::GetCapabilities, &request).await?;
        let options = &self.0.options;
        let functions: Vec<i32> =
            options.digest_functions.iter().map(|function| i32::from(*function)).collect();
        let version = |(major, minor)| Some(SemVer { major, minor, ..SemVer::default() });
        Ok(Response::new(proto::ServerCapabilities {
            cache_capabilities: Some(proto::CacheCapabilities {
                digest_functions: functions.clone(),
                action_cache_update_capabilities: Some(proto::ActionCacheUpdateCapabilities {
                    update_enabled: options.updates_announced,
                }),
                max_batch_total_size_bytes: i64::try_from(options.max_batch_bytes).unwrap_or(i64::MAX),
                max_cas_blob_size_bytes: i64::try_from(options.max_blob_bytes).unwrap_or(i64::MAX),
                ..proto::CacheCapabilities::default()
            }),
            execution_capabilities: Some(proto::ExecutionCapabilities {
                digest_function: functions.first().copied().unwrap_or_default(),
                digest_functions: functions,
                exec_enabled: options.execute.is_some(),
                ..proto::ExecutionCapabilities::default()
            }),
            low_api_version: version(options.versions.0),
            high_api_version: version(options.versions.1),
            ..proto::ServerCapabilities::default()
        }))
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for Services {
    type GetTreeStream = BoxStream<proto::GetTreeResponse>;
    type GetChunkMappingStream = BoxStream<proto::GetChunkMappingResponse>;

    async fn find_missing_blobs(
        &self,
        request: Request<proto::FindMissingBlobsRequest>,
    ) -> Result<Response<proto::FindMissingBlobsResponse>, Status> {
        self.0.begin(Rpc::FindMissingBlobs, &request).await?;
        self.0.check_function(request.get_ref().digest_function)?;
        let mut missing_blob_digests = Vec::new();
        for message in request.into_inner().blob_digests {
            let digest = self.0.digest_of(Some(&message))?;
            let present = self.0.state(|state| {
                state.asked.push(digest);
                state.faults.claimed.contains(&digest) || state.blobs.contains_key(&digest)
            });
            if !present && !digest.is_empty() {
                missing_blob_digests.push(message);
            }
        }
        Ok(Response::new(proto::FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<proto::BatchUpdateBlobsRequest>,
    ) -> Result<Response<proto::BatchUpdateBlobsResponse>, Status> {
        self.0.begin(Rpc::BatchUpdateBlobs, &request).await?;
        self.0.check_function(request.get_ref().digest_function)?;
        let request = request.into_inner();
        self.0.check_batch(request.encoded_len())?;
        let mut responses = Vec::new();
        for item in request.requests {
            let digest = self.0.digest_of(item.digest.as_ref())?;
            let Some(status) = self.0.blob_status(&digest) else { continue };
            let status = match status {
                Code::Ok => self.0.store(&digest, item.data.into()).err().unwrap_or_else(|| Status::ok("")),
                code => Status::new(code, "injected"),
            };
            responses.push(proto::batch_update_blobs_response::Response {
                digest: item.digest,
                status: Some(as_message(&status)),
            });
        }
        Ok(Response::new(proto::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<proto::BatchReadBlobsRequest>,
    ) -> Result<Response<proto::BatchReadBlobsResponse>, Status> {
        self.0.begin(Rpc::BatchReadBlobs, &request).await?;
        self.0.check_function(request.get_ref().digest_function)?;
        let mut responses = Vec::new();
        for message in request.into_inner().digests {
            let digest = self.0.digest_of(Some(&message))?;
            let Some(status) = self.0.blob_status(&digest) else { continue };
            let loaded = match status {
                Code::Ok => self.0.load(&digest),
                code => Err(Status::new(code, "injected")),
            };
            let status = loaded.as_ref().err().cloned().unwrap_or_else(|| Status::ok(""));
            responses.push(proto::batch_read_blobs_response::Response {
                digest: Some(message),
                data: loaded.map(Vec::from).unwrap_or_default(),
                status: Some(as_message(&status)),
                ..proto::batch_read_blobs_response::Response::default()
            });
        }
        let response = proto::BatchReadBlobsResponse { responses };
        self.0.check_batch(response.encoded_len())?;
        Ok(Response::new(response))
    }

    async fn get_tree(
        &self,
        _: Request<proto::GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        Err(Status::unimplemented("GetTree"))
    }

    async fn split_blob(
        &self,
        _: Request<proto::SplitBlobRequest>,
    ) -> Result<Response<proto::SplitBlobResponse>, Status> {
        Err(Status::unimplemented("SplitBlob"))
    }

    async fn get_chunk_mapping(
        &self,
        _: Request<proto::GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Status::unimplemented("GetChunkMapping"))
    }

    async fn splice_blob(
        &self,
        _: Request<proto::SpliceBlobRequest>,
    ) -> Result<Response<proto::SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("SpliceBlob"))
    }

    async fn register_chunk_mapping(
        &self,
        _: Request<Streaming<proto::RegisterChunkMappingRequest>>,
    ) -> Result<Response<proto::RegisterChunkMappingResponse>, Status> {
        Err(Status::unimplemented("RegisterChunkMapping"))
    }
}

#[tonic::async_trait]
impl ByteStream for Services {
    type ReadStream = BoxStream<bs::ReadResponse>;

    async fn read(&self, request: Request<bs::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.0.begin(Rpc::Read, &request).await?;
        let request = request.into_inner();
        let digest = digest_in(&request.resource_name, self.0.function())?;
        let bytes = self.0.load(&digest)?;
        let offset = usize::try_from(request.read_offset).map_err(|_| Status::out_of_range("read_offset"))?;
        if offset > bytes.len() || request.read_limit != 0 {
            return Err(Status::out_of_range("read_offset or read_limit"));
        }
        let breaks = self.0.state(|state| state.faults.broken_reads.get_mut(&digest).and_then(Vec::pop));
        let end = breaks.map_or(bytes.len(), |after| bytes.len().min(offset + after));
        let mut messages: Vec<Result<bs::ReadResponse, Status>> = bytes[offset..end]
            .chunks(READ_CHUNK)
            .map(|chunk| Ok(bs::ReadResponse { data: chunk.to_vec() }))
            .collect();
        if breaks.is_some() {
            messages.push(Err(Status::unavailable("injected")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn write(
        &self,
        request: Request<Streaming<bs::WriteRequest>>,
    ) -> Result<Response<bs::WriteResponse>, Status> {
        self.0.begin(Rpc::Write, &request).await?;
        let mut stream = request.into_inner();
        let mut bytes = Vec::new();
        let mut digest = None;
        while let Some(message) = stream.message().await? {
            let digest = match digest {
                Some(digest) => digest,
                None => *digest.insert(digest_in(&message.resource_name, self.0.function())?),
            };
            if self.0.state(|state| state.faults.early_writes) {
                let committed_size = i64::try_from(digest.size_bytes()).unwrap_or(i64::MAX);
                return Ok(Response::new(bs::WriteResponse { committed_size }));
            }
            if u64::try_from(message.write_offset) != Ok(bytes.len() as u64) {
                return Err(Status::invalid_argument("write_offset is not where the last chunk ended"));
            }
            bytes.extend(message.data);
            if message.finish_write {
                let committed_size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
                self.0.store(&digest, Bytes::from(bytes))?;
                return Ok(Response::new(bs::WriteResponse { committed_size }));
            }
        }
        Err(Status::invalid_argument("the stream ended without finish_write"))
    }

    async fn query_write_status(
        &self,
        _: Request<bs::QueryWriteStatusRequest>,
    ) -> Result<Response<bs::QueryWriteStatusResponse>, Status> {
        // As bb-storage.
        Err(Status::unimplemented("QueryWriteStatus"))
    }
}

#[tonic::async_trait]
impl ActionCache for Services {
    async fn get_action_result(
        &self,
        request: Request<proto::GetActionResultRequest>,
    ) -> Result<Response<proto::ActionResult>, Status> {
        self.0.begin(Rpc::GetActionResult, &request).await?;
        self.0.check_function(request.get_ref().digest_function)?;
        let request = request.into_inner();
        let action = self.0.digest_of(request.action_digest.as_ref())?;
        let result = self.0.state(|state| state.results.get(&action).cloned());
        let mut result = result.ok_or_else(|| Status::not_found(format!("no result of {action}")))?;
        self.0.inline(&mut result, &request.inline_output_files);
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<proto::UpdateActionResultRequest>,
    ) -> Result<Response<proto::ActionResult>, Status> {
        self.0.begin(Rpc::UpdateActionResult, &request).await?;
        self.0.check_function(request.get_ref().digest_function)?;
        if !self.0.options.updates_permitted {
            return Err(Status::permission_denied("this client may not store action results"));
        }
        let request = request.into_inner();
        let action = self.0.digest_of(request.action_digest.as_ref())?;
        let result = request.action_result.unwrap_or_default();
        // As bazel-remote.
        if result == proto::ActionResult::default() {
            return Err(Status::invalid_argument("an empty action result"));
        }
        self.0.state(|state| state.results.insert(action, result.clone()));
        Ok(Response::new(result))
    }
}

impl Shared {
    /// Refuses messages that are larger than was announced, as NativeLink and gRPC itself do.
    fn check_batch(&self, bytes: usize) -> Result<(), Status> {
        let bytes = bytes as u64;
        let limit = match self.options.max_batch_bytes {
            0 => GRPC_LIMIT,
            limit => limit,
        };
        if bytes > limit {
            return Err(Status::resource_exhausted("Received message larger than max"));
        }
        self.state(|state| state.largest_batch = state.largest_batch.max(bytes));
        Ok(())
    }

    /// How the next batch goes for `digest`; `None`: it is left out of the answer.
    fn blob_status(&self, digest: &Digest) -> Option<Code> {
        self.state(|state| {
            if state.faults.left_out.contains(digest) {
                return None;
            }
            let failing = state.faults.failing_blobs.get_mut(digest);
            Some(failing.and_then(Vec::pop).unwrap_or(Code::Ok))
        })
    }

    /// Fills in the contents of those outputs that were asked for inline.
    pub(super) fn inline(&self, result: &mut proto::ActionResult, paths: &[String]) {
        for file in &mut result.output_files {
            if paths.contains(&file.path)
                && let Ok(bytes) = self.digest_of(file.digest.as_ref()).and_then(|digest| self.load(&digest))
            {
                file.contents = bytes.into();
            }
        }
    }
}

/// The digest at the end of a resource name.
fn digest_in(resource_name: &str, function: DigestFunction) -> Result<Digest, Status> {
    let invalid = || Status::invalid_argument(format!("resource name {resource_name:?}"));
    let (_, digest) = resource_name.rsplit_once("blobs/").ok_or_else(invalid)?;
    let digest = digest.strip_prefix(function.path_segment()).ok_or_else(invalid)?;
    let (hash, size) = digest.split_once('/').ok_or_else(invalid)?;
    function.parse(hash, size.parse().map_err(|_| invalid())?).map_err(|_| invalid())
}

/// A status as a message holds it, details included.
pub(super) fn as_message(status: &Status) -> rpc::Status {
    let details = rpc::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
    rpc::Status { code: i32::from(status.code()), message: status.message().to_owned(), details }
}

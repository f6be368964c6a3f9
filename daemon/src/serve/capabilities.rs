//! `Capabilities`: what this server can do.
//! Knows nothing of how it does it.

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionCacheUpdateCapabilities;
use bazel_remote_apis::build::bazel::remote::execution::v2::CacheCapabilities;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecutionCapabilities;
use bazel_remote_apis::build::bazel::remote::execution::v2::GetCapabilitiesRequest;
use bazel_remote_apis::build::bazel::remote::execution::v2::ServerCapabilities;
use bazel_remote_apis::build::bazel::remote::execution::v2::capabilities_server::Capabilities;
use bazel_remote_apis::build::bazel::remote::execution::v2::compressor;
use bazel_remote_apis::build::bazel::remote::execution::v2::symlink_absolute_path_strategy;
use bazel_remote_apis::build::bazel::semver::SemVer;
use tonic::Request;
use tonic::Response;
use tonic::Status;

use super::Served;
use super::messages::size_message;
use crate::digest::DigestFunction;

/// The most that the blobs of one batch may add up to: gRPC's usual limit on a message, less room for digests,
/// statuses and framing.
pub(super) const MAX_BATCH_BYTES: u64 = (4 << 20) - (128 << 10);

#[tonic::async_trait]
impl Capabilities for Served {
    async fn get_capabilities(
        &self,
        _request: Request<GetCapabilitiesRequest>,
    ) -> Result<Response<ServerCapabilities>, Status> {
        let digest_functions: Vec<i32> = DigestFunction::ALL.map(DigestFunction::number).into();
        let zstd = i32::from(compressor::Value::Zstd);
        let version = |minor| Some(SemVer { major: 2, minor, ..SemVer::default() });
        Ok(Response::new(ServerCapabilities {
            cache_capabilities: Some(CacheCapabilities {
                digest_functions: digest_functions.clone(),
                action_cache_update_capabilities: Some(ActionCacheUpdateCapabilities {
                    update_enabled: true,
                }),
                max_batch_total_size_bytes: size_message(MAX_BATCH_BYTES),
                symlink_absolute_path_strategy: i32::from(symlink_absolute_path_strategy::Value::Allowed),
                supported_compressors: vec![zstd],
                supported_batch_update_compressors: vec![zstd],
                max_cas_blob_size_bytes: size_message(self.max_blob_bytes),
                ..CacheCapabilities::default()
            }),
            execution_capabilities: Some(ExecutionCapabilities {
                digest_function: DigestFunction::Sha256.number(),
                exec_enabled: true,
                digest_functions,
                ..ExecutionCapabilities::default()
            }),
            low_api_version: version(0),
            high_api_version: version(12),
            ..ServerCapabilities::default()
        }))
    }
}

//! Between protocol messages and this program's types.
//! Knows nothing of any service.

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest as DigestMessage;
use bazel_remote_apis::build::bazel::remote::execution::v2::digest_function;
use bazel_remote_apis::google::rpc;
use prost::Message;
use tonic::Code;
use tonic::Status;

use super::Served;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::executor::sandbox::Failure;
use crate::store::StoreError;

/// The digest in a request's field `name`.
pub(super) fn digest(message: Option<&DigestMessage>, name: &str) -> Result<Digest, Status> {
    let message = message.ok_or_else(|| Status::invalid_argument(format!("{name} is not set")))?;
    let size_bytes = u64::try_from(message.size_bytes).map_err(|_| {
        Status::invalid_argument(format!("{name}: the size {} is negative", message.size_bytes))
    })?;
    Digest::from_hex(&message.hash, size_bytes)
        .map_err(|error| Status::invalid_argument(format!("{name}: {error}")))
}

pub(super) fn digest_message(digest: &Digest) -> DigestMessage {
    DigestMessage { hash: digest.hex(), size_bytes: size_message(digest.size_bytes()) }
}

/// A size as the protocol has it; those of files always fit.
pub(super) fn size_message(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}

/// Refuses every digest function but SHA-256. Unset means that the hash's length tells (REAPI,
/// `DigestFunction`), and only SHA-256 has that length here.
pub(super) fn check_digest_function(value: i32) -> Result<(), Status> {
    match digest_function::Value::try_from(value) {
        Ok(digest_function::Value::Unknown | digest_function::Value::Sha256) => Ok(()),
        _ => Err(Status::invalid_argument("the digest function is not SHA256")),
    }
}

/// What an action's result is kept under.
pub(super) fn action_key(instance_name: &str, action: &Digest) -> Digest {
    if instance_name.is_empty() {
        return *action;
    }
    let mut hasher = Hasher::new();
    hasher.field(instance_name.as_bytes());
    hasher.field(action.to_string().as_bytes());
    hasher.finish()
}

/// A failure as the status of a call, its details in the form that `grpc-status-details-bin` wants.
pub(super) fn status_of(failure: &Failure) -> Status {
    Status::with_details(failure.code, &failure.message, failure.to_status().encode_to_vec().into())
}

pub(super) fn store_status(error: StoreError) -> Status {
    status_of(&Failure::from(error))
}

/// The status of one blob of several.
pub(super) fn blob_status(status: &Status) -> rpc::Status {
    rpc::Status { code: i32::from(status.code()), message: status.message().to_owned(), details: Vec::new() }
}

pub(super) fn ok_status() -> rpc::Status {
    rpc::Status { code: i32::from(Code::Ok), ..rpc::Status::default() }
}

/// Does work on the disk off the threads that serve connections.
pub(super) async fn blocking<T: Send + 'static>(
    served: &Served,
    work: impl FnOnce(&Served) -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let served = served.clone();
    let done = tokio::task::spawn_blocking(move || work(&served)).await;
    done.unwrap_or_else(|_| Err(Status::internal("the server's own work panicked")))
}

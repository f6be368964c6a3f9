//! Between protocol messages and this program's types.
//! Knows nothing of any service.

use bazel_remote_apis::build::bazel::remote::execution::v2::Digest as DigestMessage;
use bazel_remote_apis::build::bazel::remote::execution::v2::digest_function;
use bazel_remote_apis::google::rpc;
use prost::Message;
use tonic::Code;
use tonic::Status;

use super::resource_name::inferred_function;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::digest::Hasher;
use crate::executor::sandbox::Failure;
use crate::store::StoreError;

/// The digest function that a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Function(DigestFunction),
    /// Not said: the length of each hash tells (REAPI, the field `digest_function` of each request), and among those
    /// here of one length only SHA-256 may be left unsaid.
    Unsaid,
}

impl Spoken {
    /// From a request's field `digest_function`.
    pub(super) fn of(number: i32) -> Result<Spoken, Status> {
        if number == 0 {
            return Ok(Spoken::Unsaid);
        }
        DigestFunction::from_number(number).map(Spoken::Function).ok_or_else(|| {
            let name = digest_function::Value::try_from(number)
                .map_or_else(|_| number.to_string(), |value| value.as_str_name().to_owned());
            Status::invalid_argument(format!("the digest function {name} is not supported"))
        })
    }

    /// The digest in the request's field `name`.
    pub(super) fn digest(self, message: Option<&DigestMessage>, name: &str) -> Result<Digest, Status> {
        let message = message.ok_or_else(|| Status::invalid_argument(format!("{name} is not set")))?;
        let function = match self {
            Spoken::Function(function) => function,
            Spoken::Unsaid => inferred_function(&message.hash),
        };
        digest(function, Some(message), name)
    }
}

/// The digest in the field `name` of a message whose digest function is known from elsewhere.
pub(super) fn digest(
    function: DigestFunction,
    message: Option<&DigestMessage>,
    name: &str,
) -> Result<Digest, Status> {
    let message = message.ok_or_else(|| Status::invalid_argument(format!("{name} is not set")))?;
    function.read(message).map_err(|error| Status::invalid_argument(format!("{name}: {error}")))
}

pub(super) fn digest_message(digest: &Digest) -> DigestMessage {
    DigestMessage::from(digest)
}

/// A size as the protocol has it; those of files always fit.
pub(super) fn size_message(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).unwrap_or(i64::MAX)
}

/// What an action's result is kept under.
pub(super) fn action_key(instance_name: &str, action: &Digest) -> Digest {
    if instance_name.is_empty() {
        return *action;
    }
    let mut hasher = Hasher::new();
    hasher.field(instance_name.as_bytes());
    hasher.field(format!("{}{action}", action.function().path_segment()).as_bytes());
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

/// A status inside a message, with its details.
pub(super) fn status_message(status: &Status) -> rpc::Status {
    rpc::Status::decode(status.details())
        .ok()
        .filter(|message| message.code == i32::from(status.code()))
        .unwrap_or_else(|| blob_status(status))
}

/// Does work on the disk off the threads that serve connections.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Status::internal("the server's own work panicked")))
}

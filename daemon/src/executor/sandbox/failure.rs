//! Why an action has no result, in REAPI's terms.
//! Knows nothing of how it is sent.

use std::io;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::google::protobuf::Any;
use bazel_remote_apis::google::rpc::Status;
use prost::Message;
use tonic::Code;
use tonic_types::pb::PreconditionFailure;
use tonic_types::pb::precondition_failure::Violation;

use crate::digest::Digest;
use crate::store::StoreError;

/// An action that has no (cacheable) result.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What kind of failure, for the client's retry decision.
    pub code: Code,
    /// For people.
    pub message: String,
    /// Blobs that the client has to upload before it tries again.
    pub missing: Vec<Digest>,
    /// What there is of a result: a timed-out command's output.
    pub result: Option<Box<ActionResult>>,
}

impl Failure {
    /// A failure with nothing but a code and a message.
    pub fn new(code: Code, message: String) -> Failure {
        Failure { code, message, missing: Vec::new(), result: None }
    }

    /// The client's mistake.
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(Code::InvalidArgument, message.into())
    }

    /// Blobs that are not in the store: `FAILED_PRECONDITION` (REAPI, `Execution.Execute`).
    pub fn missing(mut digests: Vec<Digest>) -> Failure {
        digests.sort_unstable();
        digests.dedup();
        let message = match digests.as_slice() {
            [only] => format!("blob {only} is not in the store"),
            several => format!("{} blobs are not in the store", several.len()),
        };
        Failure { missing: digests, ..Failure::new(Code::FailedPrecondition, message) }
    }

    /// This machine's mistake.
    pub fn io(operation: &str, error: &io::Error) -> Failure {
        Failure::new(code_of(error.kind()), format!("{operation}: {error}"))
    }

    /// As a message, the missing blobs as violations of type `MISSING`.
    pub fn to_status(&self) -> Status {
        let mut details = Vec::new();
        if !self.missing.is_empty() {
            let violation = |digest: &Digest| Violation {
                r#type: "MISSING".to_owned(),
                subject: format!("blobs/{}{digest}", digest.function().path_segment()),
                description: String::new(),
            };
            let failure = PreconditionFailure { violations: self.missing.iter().map(violation).collect() };
            details.push(Any {
                type_url: "type.googleapis.com/google.rpc.PreconditionFailure".to_owned(),
                value: failure.encode_to_vec(),
            });
        }
        Status { code: i32::from(self.code), message: self.message.clone(), details }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::new(code_of(error.kind()), error.to_string())
    }
}

fn code_of(kind: io::ErrorKind) -> Code {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        // Names too long for this system come from the client's tree.
        io::ErrorKind::InvalidFilename => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

//! Why a call to the cluster failed, in a form that decisions can be made on.
//! Knows nothing of what the caller does about it.

use std::error::Error as StdError;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bazel_remote_apis::google::rpc;
use prost::Message as _;
use tonic::Code;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt as _;
use tonic_types::pb;

use crate::digest::Digest;
use crate::digest::DigestFunction;

/// What a relay says where it finds nobody: the reason and domain of a `google.rpc.ErrorInfo`.
const NOBODY: (&str, &str) = ("CLUSTER_UNREACHABLE", "farcc");
/// How much of a server's own words is kept, in bytes.
const MAX_SERVER_MESSAGE: usize = 1000;

/// A failed call. Decisions match on [`code`](Error::code) and [`cause`](Error::cause), never on the text; the
/// text is a fragment that follows "failed to".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    code: Code,
    message: String,
    cause: Cause,
    retry_after: Option<Duration>,
}

/// What a code alone does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Nothing beyond the code.
    Status,
    /// No connection to the address could be made.
    Unreachable,
    /// The server named what it will not do.
    Violation,
    /// The server lacks these blobs: inputs of an action, or blobs to be downloaded.
    Missing(Vec<Digest>),
    /// The file that was to be uploaded no longer has the bytes of its digest.
    InputChanged(PathBuf),
    /// The server sent other bytes than those of the digest.
    Corrupt(Digest),
    /// The action ran into its own timeout on the worker.
    ActionTimeout,
    /// No worker took the action within the time that the caller allows.
    QueueTimeout,
    /// A file or sink on this machine failed.
    LocalIo,
}

impl Error {
    pub(super) fn new(code: Code, cause: Cause, message: String) -> Error {
        Error { code, message, cause, retry_after: None }
    }

    /// An error that only has a code.
    pub(super) fn status(code: Code, message: String) -> Error {
        Error::new(code, Cause::Status, message)
    }

    /// From the status of a call. `doing` says what was being done, and where.
    pub(super) fn from_status(doing: &str, status: &Status) -> Error {
        let details = pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
        let details = details.iter().map(|any| (any.type_url.as_str(), any.value.as_slice()));
        Error::from_parts(doing, status.code(), status.message(), details)
    }

    /// From a status inside a message: that of one blob of a batch, or of an execution.
    pub(super) fn from_rpc(doing: &str, status: &rpc::Status) -> Error {
        let details = status.details.iter().map(|any| (any.type_url.as_str(), any.value.as_slice()));
        Error::from_parts(doing, Code::from_i32(status.code), &status.message, details)
    }

    fn from_parts<'a>(
        doing: &str,
        code: Code,
        message: &str,
        details: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Error {
        // What failed with OK has failed all the same.
        let code = if code == Code::Ok { Code::Unknown } else { code };
        let mut error = Error::status(code, format!("{doing}: {}: {}", code_name(code), printable(message)));
        for (type_url, value) in details {
            match type_url.rsplit('/').next() {
                Some("google.rpc.RetryInfo") => {
                    let delay = pb::RetryInfo::decode(value).ok().and_then(|retry| retry.retry_delay);
                    error.retry_after = delay.and_then(|delay| Duration::try_from(delay).ok());
                }
                Some("google.rpc.PreconditionFailure") if code == Code::FailedPrecondition => {
                    if let Ok(failure) = pb::PreconditionFailure::decode(value) {
                        error.add_violations(&failure);
                    }
                }
                Some("google.rpc.ErrorInfo") => {
                    let info = pb::ErrorInfo::decode(value).unwrap_or_default();
                    if (info.reason.as_str(), info.domain.as_str()) == NOBODY {
                        error.cause = Cause::Unreachable;
                    }
                }
                _ => {}
            }
        }
        error
    }

    /// REAPI, `ExecuteResponse.status`: missing inputs come as violations of type MISSING with the subject
    /// `blobs/{hash}/{size}`. Anything else among them means that sending blobs again does not help.
    fn add_violations(&mut self, failure: &pb::PreconditionFailure) {
        let missing: Option<Vec<Digest>> = failure
            .violations
            .iter()
            .map(|violation| subject_digest(&violation.subject).filter(|_| violation.r#type == "MISSING"))
            .collect();
        match missing {
            Some(missing) if !missing.is_empty() => self.cause = Cause::Missing(missing),
            _ => {
                if failure.violations.iter().any(|violation| violation.r#type != "MISSING") {
                    self.cause = Cause::Violation;
                }
                for violation in failure.violations.iter().take(5) {
                    let text =
                        format!("{} {} {}", violation.r#type, violation.subject, violation.description);
                    self.message.push_str("; ");
                    self.message.push_str(&printable(&text));
                }
            }
        }
    }

    /// The same for a caller in another process, who makes the same of it by [`from_status`](Error::from_status) as long as
    /// there is nothing to it but that nobody is there.
    pub(super) fn to_status(&self) -> Status {
        let (reason, domain) = NOBODY;
        match self.is_unreachable() {
            true => {
                let details = ErrorDetails::with_error_info(reason, domain, []);
                Status::with_error_details(self.code, &self.message, details)
            }
            false => Status::new(self.code, &self.message),
        }
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the code alone does not say.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// How long the server wants to be left alone before the same call is made again.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The blobs that the server said it lacks; empty if it did not say.
    pub fn missing_digests(&self) -> &[Digest] {
        match &self.cause {
            Cause::Missing(digests) => digests,
            _ => &[],
        }
    }

    /// The same error about an action whose digests are of `function`: not every server names in its subjects a function
    /// that it should name.
    pub(super) fn of_function(mut self, function: DigestFunction) -> Error {
        if let Cause::Missing(digests) = &mut self.cause {
            for digest in digests {
                *digest = function.parse(&digest.hex(), digest.size_bytes()).unwrap_or(*digest);
            }
        }
        self
    }

    /// The input that changed since its digest was taken.
    pub fn input_changed(&self) -> Option<&Path> {
        match &self.cause {
            Cause::InputChanged(path) => Some(path),
            _ => None,
        }
    }

    /// Whether there is nobody at the address.
    pub fn is_unreachable(&self) -> bool {
        self.cause == Cause::Unreachable
    }

    /// Whether an execution may have failed for lack of inputs although the server does not name them:
    /// buildbox-casd answers INTERNAL, and NOT_FOUND when it is the Action itself, BuildGrid FAILED_PRECONDITION
    /// without details. Forget the presence of the whole tree, upload again, and execute once more.
    pub fn may_lack_inputs(&self) -> bool {
        let codes = [Code::Internal, Code::FailedPrecondition, Code::NotFound];
        self.cause == Cause::Status && codes.contains(&self.code)
    }
}

/// `blobs/{hash}/{size}`, perhaps with an instance before and a digest function between.
fn subject_digest(subject: &str) -> Option<Digest> {
    let mut segments = subject.rsplitn(3, '/');
    let (size, hash, before) = (segments.next()?, segments.next()?, segments.next()?);
    if !before.split('/').any(|segment| segment == "blobs") {
        return None;
    }
    let function = match hash.len() {
        40 => DigestFunction::Sha1,
        _ if before.ends_with("/blake3") => DigestFunction::Blake3,
        _ => DigestFunction::Sha256,
    };
    function.parse(hash, size.parse().ok()?).ok()
}

/// The name as the gRPC documents write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What a status says: the server's own words, or, where there was no server to say them, why.
pub fn words(status: &Status) -> String {
    match status.source() {
        Some(source) => printable(&innermost(source)),
        None => printable(status.message()),
    }
}

/// What the operating system or TLS said, without the layers around it.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A server's words on one line, without what could confuse a terminal, and not without end.
pub fn printable(text: &str) -> String {
    let mut line = String::new();
    for character in text.trim().chars() {
        if line.len() >= MAX_SERVER_MESSAGE {
            line.push('…');
            break;
        }
        line.push(if character.is_control() { ' ' } else { character });
    }
    line
}

#[cfg(test)]
mod tests {

    use super::*;

    fn precondition(violations: &[(&str, &str)]) -> Error {
        let mut details = ErrorDetails::new();
        for (kind, subject) in violations {
            details.add_precondition_failure_violation(*kind, *subject, "why");
        }
        Error::from_status("execute", &Status::with_error_details(Code::FailedPrecondition, "no", details))
    }

    #[test]
    fn missing_inputs_are_listed() {
        let digest = Digest::of(b"a");
        for subject in [format!("blobs/{digest}"), format!("main/blobs/sha256/{digest}")] {
            let error = precondition(&[("MISSING", &subject)]);
            assert_eq!(error.missing_digests(), [digest], "{subject}");
            assert!(!error.may_lack_inputs());
        }
    }

    #[test]
    fn missing_inputs_are_those_of_the_action() {
        let blake3 = DigestFunction::Blake3.digest(b"a");
        for subject in [format!("blobs/{blake3}"), format!("x/blobs/blake3/{blake3}")] {
            let error = precondition(&[("MISSING", &subject)]).of_function(DigestFunction::Blake3);
            assert_eq!(error.missing_digests(), [blake3], "{subject}");
        }
        let sha1 = DigestFunction::Sha1.digest(b"a");
        let error = precondition(&[("MISSING", &format!("blobs/{sha1}"))]);
        assert_eq!(error.of_function(DigestFunction::Sha1).missing_digests(), [sha1]);
    }

    #[test]
    fn other_violations_are_told_and_not_repaired() {
        let subject = format!("blobs/{}", Digest::of(b"a"));
        let error = precondition(&[("MISSING", &subject), ("INVALID", "platform")]);
        assert_eq!(error.missing_digests(), []);
        assert!(error.to_string().contains("INVALID platform why"), "{error}");
        assert!(!error.may_lack_inputs());
        // One that cannot be read may well mean inputs.
        assert!(precondition(&[("MISSING", "blobs/x/1")]).may_lack_inputs());
        for subject in ["", "blobs", "blobs/x/1", "/1/2/3", &subject.replace("blobs", "bulbs")] {
            assert_eq!(precondition(&[("MISSING", subject)]).missing_digests(), [], "{subject}");
        }
    }

    #[test]
    fn retry_info_is_read() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(70)));
        let status = Status::with_error_details(Code::Unavailable, "busy", details);
        assert_eq!(Error::from_status("x", &status).retry_after(), Some(Duration::from_millis(70)));
    }

    #[test]
    fn hostile_texts_and_details_are_harmless() {
        let status = Status::with_details(
            Code::FailedPrecondition,
            format!("\x1b[2J\n{}", "é".repeat(10_000)),
            vec![0xff; 100].into(),
        );
        let error = Error::from_status("x", &status);
        assert!(error.to_string().len() < 1100);
        assert!(!error.to_string().contains('\x1b'));
    }
}

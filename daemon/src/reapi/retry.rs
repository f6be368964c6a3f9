//! Whether and when a failed call is made again.
//! Knows nothing of what the call does; it sees codes.

use std::time::Duration;

use tonic::Code;
use uuid::Uuid;

use crate::reapi::error::Cause;
use crate::reapi::error::Error;

/// The first pause; each later one is twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest pause that the client chooses itself (Bazel, `--remote_retry_max_delay`).
const MAX_DELAY: Duration = Duration::from_secs(5);
/// The longest pause that a server may ask for: a command that waits longer is better run locally.
const MAX_SERVER_DELAY: Duration = Duration::from_secs(30);

/// The failed tries of one call.
pub(super) struct Tries {
    allowed: u32,
    failed: u32,
}

impl Tries {
    /// For a call that may be repeated `retries` times.
    pub(super) fn new(retries: u32) -> Tries {
        Tries { allowed: retries, failed: 0 }
    }

    /// Allows so many from now on, with those that there were.
    pub(super) fn allow(&mut self, retries: u32) {
        self.allowed = retries;
    }

    /// Forgets the failures so far, because there was progress since.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }

    /// The pause before the next try, or `None` when `error` is final.
    pub(super) fn pause_after(&mut self, error: &Error) -> Option<Duration> {
        if self.failed >= self.allowed.min(allowed_after(error)) {
            return None;
        }
        self.failed += 1;
        match error.retry_after() {
            Some(delay) => (delay <= MAX_SERVER_DELAY).then_some(delay),
            None => Some(jittered(FIRST_DELAY.saturating_mul(1 << (self.failed - 1).min(16)).min(MAX_DELAY))),
        }
    }
}

/// Repeats `attempt` until it succeeds or its error is final.
pub(super) async fn retrying<T, F, Attempt>(retries: u32, mut attempt: F) -> Result<T, Error>
where
    F: FnMut() -> Attempt,
    Attempt: Future<Output = Result<T, Error>>,
{
    let mut tries = Tries::new(retries);
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Some(pause) = tries.pause_after(&error) else { return Err(error) };
        tracing::debug!(%error, ?pause, "trying again");
        tokio::time::sleep(pause).await;
    }
}

/// How many retries this kind of error is worth at most.
fn allowed_after(error: &Error) -> u32 {
    match error.cause() {
        // Nobody is there: a build must not wait long to learn it, but a server that restarts gets a chance.
        Cause::Unreachable => return 1,
        Cause::Status => {}
        Cause::Violation
        | Cause::Missing(_)
        | Cause::InputChanged(_)
        | Cause::Corrupt(_)
        | Cause::ActionTimeout
        | Cause::QueueTimeout
        | Cause::LocalIo => return 0,
    }
    if error.retry_after().is_some() {
        return u32::MAX;
    }
    match error.code() {
        // The codes that Bazel's Go SDK retries. A broken HTTP/2 stream appears as any of the first three.
        Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted
        | Code::Unavailable
        | Code::ResourceExhausted => u32::MAX,
        // The call has already used its whole time: once more, for a lost packet, not six times.
        Code::DeadlineExceeded => 1,
        _ => 0,
    }
}

/// Between half of `delay` and all of it, so that many callers do not come back in step.
fn jittered(delay: Duration) -> Duration {
    let random = u32::from(Uuid::new_v4().as_bytes()[0]);
    delay / 2 + delay / 2 * random / 255
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tonic_types::ErrorDetails;
    use tonic_types::StatusExt as _;

    use super::*;

    fn retries_of(error: &Error) -> u32 {
        let mut tries = Tries::new(5);
        let mut count = 0;
        while tries.pause_after(error).is_some() {
            count += 1;
        }
        count
    }

    #[test]
    fn codes_decide() {
        for (code, retries) in [
            (Code::Unavailable, 5),
            (Code::Internal, 5),
            (Code::Cancelled, 5),
            (Code::Unknown, 5),
            (Code::Aborted, 5),
            (Code::ResourceExhausted, 5),
            (Code::DeadlineExceeded, 1),
            (Code::NotFound, 0),
            (Code::InvalidArgument, 0),
            (Code::PermissionDenied, 0),
            (Code::FailedPrecondition, 0),
            (Code::Unimplemented, 0),
            (Code::DataLoss, 0),
        ] {
            assert_eq!(retries_of(&Error::status(code, String::new())), retries, "{code:?}");
        }
        assert_eq!(retries_of(&Error::new(Code::Unavailable, Cause::Unreachable, String::new())), 1);
    }

    #[test]
    fn pauses_double_up_to_a_cap() {
        let error = Error::status(Code::Unavailable, String::new());
        let mut tries = Tries::new(100);
        for full in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let pause = tries.pause_after(&error).unwrap();
            let full = Duration::from_millis(full);
            assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
        }
        for _ in 0..80 {
            assert!(tries.pause_after(&error).unwrap() <= MAX_DELAY);
        }
    }

    #[test]
    fn the_server_may_choose_the_pause_within_reason() {
        let asking = |delay| {
            let details = ErrorDetails::with_retry_info(Some(delay));
            Error::from_status("x", &Status::with_error_details(Code::FailedPrecondition, "", details))
        };
        let delay = Duration::from_millis(1234);
        assert_eq!(Tries::new(5).pause_after(&asking(delay)), Some(delay));
        assert_eq!(Tries::new(5).pause_after(&asking(Duration::from_secs(86_400))), None);
        assert_eq!(Tries::new(0).pause_after(&asking(delay)), None);
    }
}

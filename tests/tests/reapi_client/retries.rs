//! Which failures are tried again, when, and how often.
//! Knows nothing of what the calls are for.

use std::time::Duration;
use std::time::Instant;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farccd::digest::Digest;
use tonic::Code;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt as _;

use crate::client;
use crate::client_with_timeout;

#[tokio::test]
async fn passing_failures_are_retried_and_final_ones_are_not() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let action = Digest::of(b"action");
    for (code, calls) in [
        (Code::Unavailable, 3),
        (Code::Internal, 3),
        (Code::Cancelled, 3),
        (Code::Aborted, 3),
        (Code::ResourceExhausted, 3),
        (Code::Unknown, 3),
    ] {
        let before = server.calls(Rpc::GetActionResult);
        server.fail_next(Rpc::GetActionResult, 2, code);
        assert_eq!(client.action_result(&action, &[]).await.unwrap(), None);
        assert_eq!(server.calls(Rpc::GetActionResult) - before, calls, "{code:?}");
    }
    for code in [Code::InvalidArgument, Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented] {
        let before = server.calls(Rpc::GetActionResult);
        server.fail_next(Rpc::GetActionResult, 1, code);
        assert_eq!(client.action_result(&action, &[]).await.unwrap_err().code(), code);
        assert_eq!(server.calls(Rpc::GetActionResult) - before, 1, "{code:?}");
    }
    // In the end it gives up: 1 + 3 retries.
    let before = server.calls(Rpc::GetActionResult);
    server.fail_next(Rpc::GetActionResult, 4, Code::Unavailable);
    let error = client.action_result(&action, &[]).await.unwrap_err();
    assert_eq!((error.code(), error.is_unreachable()), (Code::Unavailable, false));
    assert_eq!(server.calls(Rpc::GetActionResult) - before, 4);
}

#[tokio::test]
async fn the_server_chooses_the_pause() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let busy = |delay| {
        let details = ErrorDetails::with_retry_info(Some(delay));
        Status::with_error_details(Code::Unavailable, "busy", details)
    };
    let started = Instant::now();
    server.fail_next_with(Rpc::GetActionResult, 1, busy(Duration::from_millis(600)));
    client.action_result(&Digest::of(b"a"), &[]).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(600));

    let started = Instant::now();
    server.fail_next_with(Rpc::GetActionResult, 1, busy(Duration::from_secs(3600)));
    client.action_result(&Digest::of(b"a"), &[]).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_slow_call_ends_at_its_deadline() {
    let server = FakeReapi::new().start();
    let client = client_with_timeout(&server, Duration::from_millis(200));
    server.delay(Rpc::GetActionResult, Duration::from_secs(30));
    let started = Instant::now();
    let error = client.action_result(&Digest::of(b"a"), &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(error.to_string().contains("200ms"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(server.calls(Rpc::GetActionResult), 2);
}

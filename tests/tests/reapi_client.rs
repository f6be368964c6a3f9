//! The REAPI client against the fake server, over real gRPC: each promise of `farccd::reapi`, faults included.
//! Knows nothing of compilers.

use std::collections::HashSet;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farccd::digest::Digest;
use farccd::reapi::Blob;
use farccd::reapi::Cause;
use farccd::reapi::Client;
use farccd::reapi::Endpoint;
use farccd::reapi::Error;
use farccd::reapi::ExecuteOptions;
use farccd::reapi::Outcome;
use farccd::reapi::proto;
use prost::Message as _;
use tonic::Code;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt as _;

fn endpoint(server: &FakeReapi) -> Endpoint {
    Endpoint {
        address: server.address(),
        instance_name: "main/fake".to_owned(),
        timeout: Duration::from_secs(20),
        retries: 3,
    }
}

fn client(server: &FakeReapi) -> Client {
    Client::new(endpoint(server)).unwrap()
}

fn client_with_timeout(server: &FakeReapi, timeout: Duration) -> Client {
    Client::new(Endpoint { timeout, ..endpoint(server) }).unwrap()
}

/// `count` blobs that differ, each of `size` bytes.
fn blobs(count: usize, size: usize) -> Vec<Blob> {
    (0..count).map(|number| blob(number, size)).collect()
}

fn blob(number: usize, size: usize) -> Blob {
    let mut bytes = format!("{number:08}").into_bytes();
    bytes.resize(size, b'.');
    Blob::of_bytes(bytes)
}

fn digests(blobs: &[Blob]) -> Vec<Digest> {
    blobs.iter().map(|blob| blob.digest).collect()
}

// Capabilities and connections.

#[tokio::test]
async fn capabilities_are_asked_once_per_connection() {
    let server = FakeReapi::new().max_batch_bytes(65_536).start();
    let client = client(&server);
    let many = (0..20).map(|_| client.capabilities());
    for known in futures_all(many).await {
        assert_eq!(known.unwrap().max_batch_bytes, 65_536);
    }
    assert_eq!(server.calls(Rpc::GetCapabilities), 1);

    let port = server.port();
    drop(server);
    assert!(client.find_missing(&[Digest::of(b"a")]).await.unwrap_err().is_unreachable());
    assert!(client.capabilities().await.unwrap_err().is_unreachable());
    let server = FakeReapi::new().max_batch_bytes(1 << 20).forbid_updates(true).port(port).start();
    assert_eq!(client.capabilities().await.unwrap().max_batch_bytes, 1 << 20);
    assert_eq!(server.calls(Rpc::GetCapabilities), 1);
}

#[tokio::test]
async fn unusable_servers_are_refused_with_the_reason() {
    let blake3 = [proto::digest_function::Value::Blake3];
    for (server, reason) in [
        (FakeReapi::new().digest_functions(&blake3).start(), "SHA256"),
        (FakeReapi::new().versions((2, 13), (2, 20)).start(), "2.13"),
        (FakeReapi::new().versions((1, 0), (1, 9)).start(), "1.9"),
    ] {
        let error = client(&server).capabilities().await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains(&server.address()), "{error}");
    }
}

#[tokio::test]
async fn an_unreachable_server_fails_fast_and_is_named() {
    let port = FakeReapi::new().start().port();
    let address = format!("grpc://127.0.0.1:{port}");
    let client = Client::new(Endpoint {
        address: address.clone(),
        instance_name: String::new(),
        timeout: Duration::from_secs(60),
        retries: 5,
    })
    .unwrap();
    let started = Instant::now();
    let upload = client.upload(blobs(3, 10)).await.unwrap_err();
    let cached = client.action_result(&Digest::of(b"a"), &[]).await.unwrap_err();
    let execute = client.execute(&Digest::of(b"a"), &ExecuteOptions::default()).await.unwrap_err();
    // Also many at once: one dial answers all of them.
    let asked = [Digest::of(b"a")];
    for result in futures_all((0..200).map(|_| client.find_missing(&asked))).await {
        assert!(result.unwrap_err().is_unreachable());
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    for error in [upload, cached, execute] {
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.is_unreachable());
        assert!(error.to_string().contains(&format!("connect to {address}: Connection refused")), "{error}");
    }
}

#[tokio::test]
async fn a_silent_address_costs_one_call_its_time_and_no_more() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Client::new(Endpoint {
        address: format!("grpc://{}", listener.local_addr().unwrap()),
        instance_name: String::new(),
        timeout: Duration::from_millis(300),
        retries: 5,
    })
    .unwrap();
    let started = Instant::now();
    let error = client.action_result(&Digest::of(b"a"), &[]).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    client.upload(blobs(1, 10)).await.unwrap();
    let port = server.port();
    drop(server);
    let server = FakeReapi::new().port(port).start();
    client.upload(blobs(2, 20)).await.unwrap();
    assert_eq!(server.blob_digests().len(), 2);
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_unreachable() {
    let client = Client::new(Endpoint {
        address: "unix:/nonexistent/socket".to_owned(),
        instance_name: String::new(),
        timeout: Duration::from_secs(1),
        retries: 0,
    })
    .unwrap();
    let error = client.capabilities().await.unwrap_err();
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("unix:/nonexistent/socket"), "{error}");
}

#[tokio::test]
async fn calls_say_who_makes_them_and_for_which_action() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let action = Digest::of(b"action");
    client.for_action(&action, "CppCompile", "a.o").upload(blobs(1, 10)).await.unwrap();
    client.action_result(&action, &[]).await.unwrap();
    for rpc in [Rpc::BatchUpdateBlobs, Rpc::GetActionResult] {
        let metadata = server.request_metadata(rpc).pop().unwrap();
        let tool = metadata.tool_details.unwrap();
        assert_eq!((tool.tool_name.as_str(), metadata.action_id), ("farcc", action.hex()));
        assert!(!tool.tool_version.is_empty() && !metadata.tool_invocation_id.is_empty());
    }
    let metadata = server.request_metadata(Rpc::BatchUpdateBlobs).pop().unwrap();
    assert_eq!((metadata.action_mnemonic.as_str(), metadata.target_id.as_str()), ("CppCompile", "a.o"));
}

// Retries.

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

// FindMissing.

#[tokio::test]
async fn known_presence_is_not_asked_again() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let there = server.insert_blob("there");
    let absent = Digest::of(b"absent");
    let asked = [there, Digest::empty(), absent, there];
    assert_eq!(client.find_missing(&asked).await.unwrap(), [absent]);
    assert_eq!(server.asked().len(), 2, "each once, the empty blob never");
    assert_eq!(client.find_missing(&[there, Digest::empty()]).await.unwrap(), []);
    assert_eq!(server.calls(Rpc::FindMissingBlobs), 1);
    // What is missing may have come since.
    assert_eq!(client.find_missing(&asked).await.unwrap(), [absent]);
    assert_eq!(server.asked().len(), 3);
    client.forget(&[there]);
    server.lose_blob(&there);
    assert_eq!(client.find_missing(&[there]).await.unwrap(), [there]);
}

#[tokio::test]
async fn concurrent_questions_are_put_together() {
    let server = FakeReapi::new().start();
    server.delay(Rpc::FindMissingBlobs, Duration::from_millis(50));
    let client = client(&server);
    let common = Digest::of(b"common");
    let lists: Vec<[Digest; 2]> =
        (0..100).map(|number| [common, Digest::of(format!("{number}").as_bytes())]).collect();
    for (list, missing) in lists.iter().zip(futures_all(lists.iter().map(|l| client.find_missing(l))).await) {
        assert_eq!(missing.unwrap(), list);
    }
    assert!(server.calls(Rpc::FindMissingBlobs) <= 3, "{}", server.calls(Rpc::FindMissingBlobs));
    assert_eq!(server.asked().len(), 101);
}

#[tokio::test]
async fn a_cancelled_question_does_not_fail_those_who_joined_it() {
    let server = FakeReapi::new().start();
    server.delay(Rpc::FindMissingBlobs, Duration::from_millis(200));
    let client = client(&server);
    let digest = [Digest::of(b"a")];
    let first = tokio::time::timeout(Duration::from_millis(50), client.find_missing(&digest));
    let second = client.find_missing(&digest);
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_err());
    assert_eq!(second.unwrap(), digest);
    assert_eq!(server.asked(), digest);
}

#[tokio::test]
async fn long_questions_are_divided() {
    let server = FakeReapi::new().start();
    let many: Vec<Digest> = (0..25_000_u32).map(|number| Digest::of(&number.to_le_bytes())).collect();
    assert_eq!(client(&server).find_missing(&many).await.unwrap(), many);
    assert_eq!(server.calls(Rpc::FindMissingBlobs), 3);
}

#[tokio::test]
async fn a_failed_question_is_asked_anew() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let digest = [Digest::of(b"a")];
    server.fail_next(Rpc::FindMissingBlobs, 1, Code::PermissionDenied);
    assert_eq!(client.find_missing(&digest).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(client.find_missing(&digest).await.unwrap(), digest);
}

// Upload.

#[tokio::test]
async fn only_what_is_missing_is_sent() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let there = blob(0, 30);
    server.insert_blob(format!("{:.<30}", "00000000"));
    let mut all = blobs(3, 30);
    all.extend([Blob::of_bytes(""), there, blob(1, 30)]);
    let stats = client.upload(all.clone()).await.unwrap();
    assert_eq!((stats.sent_blobs, stats.sent_bytes, stats.skipped_blobs), (2, 60, 4));
    let calls = server.all_calls();
    assert_eq!(client.upload(all).await.unwrap().sent_blobs, 0);
    assert_eq!(server.all_calls(), calls, "all is known to be there");
}

#[tokio::test]
async fn batches_stay_under_a_small_limit_and_big_blobs_are_streamed() {
    let server = FakeReapi::new().max_batch_bytes(65_536).start();
    let client = client(&server);
    let mut all = blobs(50, 5000);
    all.extend(blobs(300, 9));
    let big = [blob(1000, 65_400), blob(1001, 65_536), blob(1002, 700_000)];
    all.extend(big.clone());
    let stats = client.upload(all.clone()).await.unwrap();
    assert_eq!(stats.sent_blobs, 353);
    assert_eq!(server.blob_digests().len(), 353);
    assert!(all.iter().all(|blob| server.times_stored(&blob.digest) == 1));
    assert!(server.largest_batch() <= 65_536);
    assert_eq!(server.calls(Rpc::Write), 3);
    // 250 000 bytes and 300 small ones: full batches, not one a blob.
    assert!(server.calls(Rpc::BatchUpdateBlobs) <= 6, "{}", server.calls(Rpc::BatchUpdateBlobs));

    // And back, the same way.
    let back = client.download_many(&digests(&all)).await.unwrap();
    assert!(all.iter().all(|blob| Digest::of(&back[&blob.digest]) == blob.digest));
    assert!(server.largest_batch() <= 65_536);
    assert_eq!(server.calls(Rpc::Read), 3);
}

#[tokio::test]
async fn a_server_without_a_limit_still_has_that_of_grpc() {
    let server = FakeReapi::new().start();
    let all = blobs(9, 1_000_000);
    client(&server).upload(all).await.unwrap();
    assert_eq!(server.blob_digests().len(), 9);
    assert_eq!((server.calls(Rpc::BatchUpdateBlobs), server.calls(Rpc::Write)), (3, 0));
}

#[tokio::test]
async fn a_batch_that_is_refused_for_its_size_is_sent_singly() {
    let server = FakeReapi::new().start();
    server.fail_next(Rpc::BatchUpdateBlobs, 1, Code::ResourceExhausted);
    client(&server).upload(blobs(5, 100)).await.unwrap();
    assert_eq!(server.blob_digests().len(), 5);
    assert_eq!((server.calls(Rpc::BatchUpdateBlobs), server.calls(Rpc::Write)), (1, 5));
}

#[tokio::test]
async fn concurrent_uploads_of_a_digest_send_it_once() {
    let server = FakeReapi::new().start();
    server.delay(Rpc::BatchUpdateBlobs, Duration::from_millis(50));
    server.delay(Rpc::Write, Duration::from_millis(50));
    let client = client(&server);
    let (small, big) = (blob(1, 100), blob(2, 5_000_000));
    // Some begin later, when the question is answered and the transfer is under way.
    let uploads = (0..40_u64).map(|number| {
        let (client, blobs) = (client.clone(), vec![small.clone(), big.clone(), blob(10, 50)]);
        async move {
            tokio::time::sleep(Duration::from_millis(number * 3)).await;
            client.upload(blobs).await
        }
    });
    let stats: Vec<_> = futures_all(uploads).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(stats.iter().map(|stats| stats.sent_blobs).sum::<u64>(), 3);
    assert_eq!((server.times_stored(&small.digest), server.times_stored(&big.digest)), (1, 1));
}

#[tokio::test]
async fn when_the_uploading_caller_is_cancelled_another_takes_over() {
    let server = FakeReapi::new().start();
    server.delay(Rpc::BatchUpdateBlobs, Duration::from_millis(300));
    let client = client(&server);
    client.capabilities().await.unwrap();
    let leader = tokio::time::timeout(Duration::from_millis(100), client.upload(blobs(1, 10)));
    let follower = client.upload(blobs(1, 10));
    let (leader, follower) = tokio::join!(leader, follower);
    assert!(leader.is_err());
    assert_eq!(follower.unwrap().sent_blobs, 1);
    assert_eq!(server.blob_digests().len(), 1);
}

#[tokio::test]
async fn a_failed_upload_is_told_to_all_who_wait() {
    let server = FakeReapi::new().start();
    server.delay(Rpc::BatchUpdateBlobs, Duration::from_millis(100));
    server.fail_next(Rpc::BatchUpdateBlobs, 1, Code::PermissionDenied);
    let client = client(&server);
    let results = futures_all((0..10).map(|_| client.upload(blobs(1, 10)))).await;
    assert!(results.iter().all(|result| result.as_ref().unwrap_err().code() == Code::PermissionDenied));
    assert_eq!(server.calls(Rpc::BatchUpdateBlobs), 1);
}

#[tokio::test]
async fn one_blob_of_a_batch_that_failed_is_retried_alone() {
    let server = FakeReapi::new().start();
    let all = blobs(5, 100);
    server.fail_blob_next(all[2].digest, 1, Code::Unavailable);
    server.leave_out(all[3].digest);
    client(&server).upload(all.clone()).await.unwrap();
    assert!(all.iter().all(|blob| server.times_stored(&blob.digest) == 1));
    assert_eq!((server.calls(Rpc::BatchUpdateBlobs), server.calls(Rpc::Write)), (1, 2));

    let refused = blob(100, 100);
    server.fail_blob_next(refused.digest, 1, Code::PermissionDenied);
    let error = client(&server).upload(vec![refused.clone()]).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(error.to_string().contains(&refused.digest.to_string()), "{error}");
}

#[tokio::test]
async fn files_are_uploaded_by_their_digest() {
    let server = FakeReapi::new().start();
    let directory = tempfile::tempdir().unwrap();
    for size in [1, 4999, 3_999_000, 4_000_000, 9_000_000] {
        let (path, content) = (directory.path().join(size.to_string()), vec![b'x'; size]);
        std::fs::write(&path, &content).unwrap();
        let digest = Digest::of(&content);
        client(&server).upload(vec![Blob::of_file(digest, path)]).await.unwrap();
        assert_eq!(server.blob(&digest).unwrap().len(), size);
    }
}

#[tokio::test]
async fn a_changed_file_is_an_error_of_its_own_and_is_not_stored() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let directory = tempfile::tempdir().unwrap();
    for size in [100, 5_000_000] {
        let path = directory.path().join("a.h");
        let scanned = vec![b'x'; size];
        for changed in [vec![b'y'; size], vec![b'x'; size - 1], vec![b'x'; size + 1], Vec::new()] {
            std::fs::write(&path, &changed).unwrap();
            let blob = Blob::of_file(Digest::of(&scanned), &path);
            let error = client.upload(vec![blob.clone()]).await.unwrap_err();
            assert_eq!(error.input_changed(), Some(path.as_path()), "{error}");
            assert_eq!(error.cause(), &Cause::InputChanged(path.clone()));
        }
        std::fs::remove_file(&path).unwrap();
        let error = client.upload(vec![Blob::of_file(Digest::of(&scanned), &path)]).await.unwrap_err();
        assert_eq!(error.input_changed(), Some(path.as_path()), "{error}");
    }
    assert_eq!(server.blob_digests(), []);
    assert_eq!(server.calls(Rpc::BatchUpdateBlobs), 0, "small ones are hashed before anything is sent");
}

#[tokio::test]
async fn another_callers_unchanged_copy_is_uploaded_instead() {
    let server = FakeReapi::new().start();
    server.delay(Rpc::Write, Duration::from_millis(50));
    let client = client(&server);
    let directory = tempfile::tempdir().unwrap();
    let content = vec![b'x'; 5_000_000];
    let (changed, same) = (directory.path().join("changed"), directory.path().join("same"));
    std::fs::write(&changed, vec![b'y'; 5_000_000]).unwrap();
    std::fs::write(&same, &content).unwrap();
    let digest = Digest::of(&content);
    let (first, second) = tokio::join!(
        client.upload(vec![Blob::of_file(digest, &changed)]),
        client.upload(vec![Blob::of_file(digest, &same)]),
    );
    assert_eq!(first.unwrap_err().input_changed(), Some(changed.as_path()));
    assert_eq!(second.unwrap().sent_blobs, 1);
    assert!(server.blob(&digest).is_some());
}

#[tokio::test]
async fn a_broken_stream_is_sent_again_from_the_start() {
    let server = FakeReapi::new().start();
    server.fail_next(Rpc::Write, 2, Code::Unavailable);
    let big = blob(1, 5_000_000);
    client(&server).upload(vec![big.clone()]).await.unwrap();
    assert_eq!((server.calls(Rpc::Write), server.times_stored(&big.digest)), (3, 1));
}

#[tokio::test]
async fn a_broken_stream_is_not_sent_again_when_the_blob_is_there() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let big = blob(1, 5_000_000);
    client.capabilities().await.unwrap();
    assert_eq!(client.find_missing(&[big.digest]).await.unwrap(), [big.digest]);
    server.fail_next(Rpc::Write, 1, Code::Cancelled);
    server.delay(Rpc::Write, Duration::from_millis(200));
    let upload = client.upload(vec![big.clone()]);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.claim_present(big.digest);
    };
    let (stats, ()) = tokio::join!(upload, meanwhile);
    stats.unwrap();
    assert_eq!(server.calls(Rpc::Write), 1);
}

#[tokio::test]
async fn an_early_answer_means_that_the_blob_is_there() {
    let server = FakeReapi::new().start();
    server.answer_writes_early();
    let stats = client(&server).upload(vec![blob(1, 30_000_000)]).await.unwrap();
    assert_eq!((stats.sent_blobs, server.calls(Rpc::Write)), (1, 1));
}

#[tokio::test]
async fn what_is_larger_than_the_server_takes_is_not_sent() {
    let server = FakeReapi::new().max_blob_bytes(1000).start();
    client(&server).upload(vec![blob(1, 1000)]).await.unwrap();
    let error = client(&server).upload(vec![blob(1, 1001)]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.to_string().contains("1000 bytes"), "{error}");
}

#[tokio::test]
async fn bytes_that_do_not_have_their_digest_are_refused() {
    let server = FakeReapi::new().start();
    for size in [10, 5_000_000] {
        let mut wrong = blob(1, size);
        wrong.digest = blob(2, size).digest;
        let error = client(&server).upload(vec![wrong]).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    assert_eq!(server.blob_digests(), []);
}

// Download.

#[tokio::test]
async fn corrupt_downloads_are_errors() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    for bytes in [vec![1; 100], vec![1; 5_000_000]] {
        let digest = server.insert_blob(bytes.clone());
        assert_eq!(client.download(&digest).await.unwrap(), bytes);
        server.corrupt(digest);
        let error = client.download(&digest).await.unwrap_err();
        assert_eq!((error.code(), error.cause()), (Code::DataLoss, &Cause::Corrupt(digest)));
        let mut sink = Vec::new();
        assert_eq!(client.download_to(&digest, &mut sink).await.unwrap_err().cause(), &Cause::Corrupt(digest));
    }
}

#[tokio::test]
async fn all_that_is_lost_is_named_at_once() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let lost = [Digest::of(b"small"), Digest::of(&[7; 5_000_000])];
    let there = server.insert_blob("there");
    // Believed to be there until the download shows otherwise.
    for digest in lost {
        server.claim_present(digest);
    }
    assert_eq!(client.find_missing(&lost).await.unwrap(), []);
    let error = client.download_many(&[lost[0], there, lost[1]]).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.missing_digests().iter().collect::<HashSet<_>>(), lost.iter().collect());
    let asked = server.calls(Rpc::FindMissingBlobs);
    client.find_missing(&lost).await.unwrap();
    assert_eq!(server.calls(Rpc::FindMissingBlobs), asked + 1);
}

#[tokio::test]
async fn the_empty_blob_costs_nothing() {
    let server = FakeReapi::new().start();
    assert_eq!(client(&server).download(&Digest::empty()).await.unwrap(), Bytes::new());
    let mut sink = Vec::new();
    client(&server).download_to(&Digest::empty(), &mut sink).await.unwrap();
    assert!(server.all_calls().is_empty());
}

#[tokio::test]
async fn a_broken_download_is_taken_up_where_it_broke() {
    let server = FakeReapi::new().start();
    let bytes: Vec<u8> = (0..6_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let digest = server.insert_blob(bytes.clone());
    server.break_read_after(digest, 1_000_000);
    server.break_read_after(digest, 2_000_000);
    assert_eq!(client(&server).download(&digest).await.unwrap(), bytes);
    assert_eq!(server.calls(Rpc::Read), 3);
}

#[tokio::test]
async fn one_blob_of_a_batch_that_failed_is_read_alone() {
    let server = FakeReapi::new().start();
    let all: Vec<Digest> = (0..5).map(|number| server.insert_blob(format!("blob {number}"))).collect();
    server.fail_blob_next(all[1], 1, Code::Unavailable);
    server.leave_out(all[2]);
    let blobs = client(&server).download_many(&all).await.unwrap();
    assert_eq!(blobs.len(), 5);
    assert_eq!((server.calls(Rpc::BatchReadBlobs), server.calls(Rpc::Read)), (1, 2));

    server.fail_next(Rpc::BatchReadBlobs, 1, Code::ResourceExhausted);
    assert_eq!(client(&server).download_many(&all).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_digest_of_absurd_size_is_refused_before_memory_is_taken() {
    let server = FakeReapi::new().start();
    let absurd = Digest::from_hex(&Digest::of(b"x").hex(), 1 << 60).unwrap();
    assert_eq!(client(&server).download(&absurd).await.unwrap_err().code(), Code::OutOfRange);
}

// Action cache.

#[tokio::test]
async fn a_hit_is_one_round_trip() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let action = Digest::of(b"action");
    assert_eq!(client.action_result(&action, &[]).await.unwrap(), None);
    let digest = server.insert_blob("object");
    let file = proto::OutputFile {
        path: "a.o".to_owned(),
        digest: Some(digest.into()),
        ..proto::OutputFile::default()
    };
    server.insert_action_result(action, succeed(vec![file]));
    let result = client.action_result(&action, &["a.o".to_owned()]).await.unwrap().unwrap();
    assert_eq!(result.output_files[0].contents, b"object");
    assert_eq!(server.all_calls().into_iter().collect::<Vec<_>>(), [(Rpc::GetActionResult, 2)]);
}

#[tokio::test]
async fn results_are_stored_without_what_is_in_the_cas() {
    let server = FakeReapi::new().start();
    let action = Digest::of(b"action");
    let file = proto::OutputFile {
        path: "a.o".to_owned(),
        digest: Some(Digest::of(b"object").into()),
        contents: b"object".to_vec(),
        ..proto::OutputFile::default()
    };
    assert!(client(&server).update_action_result(&action, succeed(vec![file])).await.unwrap());
    assert!(server.action_result(&action).unwrap().output_files[0].contents.is_empty());
    // A result with nothing in it would be an empty message, which some servers refuse.
    assert!(client(&server).update_action_result(&action, succeed(Vec::new())).await.unwrap());
}

#[tokio::test]
async fn a_server_that_forbids_updates_is_no_error() {
    let action = Digest::of(b"action");
    for (announced, calls) in [(false, 0), (true, 1)] {
        let server = FakeReapi::new().forbid_updates(!announced).start();
        let client = client(&server);
        for _ in 0..3 {
            assert!(!client.update_action_result(&action, succeed(Vec::new())).await.unwrap());
        }
        let expected = if announced { 0 } else { 1 };
        let _ = calls;
        assert_eq!(server.calls(Rpc::UpdateActionResult), expected);
    }
}

// Execution.

/// A server whose actions copy `src/a.c` to their first output.
fn copying_server() -> FakeReapi {
    FakeReapi::new()
        .execute(|_, command, inputs| {
            let source = inputs.file("src/a.c").unwrap();
            let mut result = succeed(vec![inputs.output_file(&command.output_paths[0], &source, false)]);
            result.stderr_digest = Some(inputs.store(b"a warning").into());
            result
        })
        .start()
}

/// The blobs of an action with one source, the action's first.
fn action_blobs(source: &str) -> Vec<Blob> {
    let message = |bytes: Vec<u8>| Blob::of_bytes(bytes);
    let source = Blob::of_bytes(source.to_owned());
    let file = proto::FileNode {
        name: "a.c".to_owned(),
        digest: Some(source.digest.into()),
        ..proto::FileNode::default()
    };
    let src = message(proto::Directory { files: vec![file], ..proto::Directory::default() }.encode_to_vec());
    let node = proto::DirectoryNode { name: "src".to_owned(), digest: Some(src.digest.into()) };
    let directory = proto::Directory { directories: vec![node], ..proto::Directory::default() };
    let root = message(directory.encode_to_vec());
    let command = message(
        proto::Command {
            arguments: vec!["/bin/cp".to_owned()],
            output_paths: vec!["a.o".to_owned()],
            ..proto::Command::default()
        }
        .encode_to_vec(),
    );
    let action = message(
        proto::Action {
            command_digest: Some(command.digest.into()),
            input_root_digest: Some(root.digest.into()),
            ..proto::Action::default()
        }
        .encode_to_vec(),
    );
    vec![action, command, root, src, source]
}

async fn run(client: &Client, blobs: &[Blob]) -> Result<Outcome, Error> {
    client.upload(blobs.to_vec()).await?;
    client.execute(&blobs[0].digest, &ExecuteOptions::default()).await
}

#[tokio::test]
async fn an_action_runs_and_its_outputs_come_back() {
    let server = copying_server();
    let client = client(&server);
    assert!(client.capabilities().await.unwrap().execution);
    let blobs = action_blobs("int main;");
    let outcome = run(&client, &blobs).await.unwrap();
    assert!(!outcome.cached);
    let output = Digest::try_from(outcome.result.output_files[0].digest.as_ref().unwrap()).unwrap();
    assert_eq!(client.download(&output).await.unwrap(), "int main;");

    let again = client.execute(&blobs[0].digest, &ExecuteOptions::default()).await.unwrap();
    assert!(again.cached);
    let options = ExecuteOptions {
        skip_cache_lookup: true,
        inline_output_files: vec!["a.o".to_owned()],
        ..ExecuteOptions::default()
    };
    let forced = client.execute(&blobs[0].digest, &options).await.unwrap();
    assert!(!forced.cached);
    assert_eq!(forced.result.output_files[0].contents, b"int main;");
    assert_eq!(server.executed().len(), 2);
}

#[tokio::test]
async fn missing_inputs_are_named_and_sent_without_asking() {
    let server = copying_server();
    let client = client(&server);
    let blobs = action_blobs("int main;");
    let source = blobs[4].digest;
    // The server claims to have what it lacks, now and later.
    server.claim_present(source);
    let error = run(&client, &blobs).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.missing_digests(), [source]);
    assert!(!error.may_lack_inputs());
    assert_eq!(server.calls(Rpc::Execute), 1, "not tried again unchanged");

    run(&client, &blobs).await.unwrap();
    assert_eq!(server.times_stored(&source), 1);
    // Now it is known to be there.
    assert_eq!(client.upload(blobs).await.unwrap().sent_blobs, 0);
}

#[tokio::test]
async fn missing_inputs_may_come_as_the_status_of_the_call() {
    let server = copying_server();
    let blobs = action_blobs("int main;");
    let mut details = ErrorDetails::new();
    details.add_precondition_failure_violation("MISSING", format!("blobs/{}", blobs[4].digest), "");
    let status = Status::with_error_details(Code::FailedPrecondition, "missing", details);
    server.fail_next_with(Rpc::Execute, 1, status.clone());
    assert_eq!(run(&client(&server), &blobs).await.unwrap_err().missing_digests(), [blobs[4].digest]);
    server.end_next_execution_with(status);
    assert_eq!(run(&client(&server), &blobs).await.unwrap_err().missing_digests(), [blobs[4].digest]);
}

#[tokio::test]
async fn a_broken_stream_is_followed_with_wait_execution() {
    let server = copying_server();
    server.break_execute_streams(1);
    server.break_wait_streams(1);
    run(&client(&server), &action_blobs("int main;")).await.unwrap();
    assert_eq!((server.calls(Rpc::Execute), server.calls(Rpc::WaitExecution)), (1, 2));
    assert_eq!(server.executed().len(), 1);
}

#[tokio::test]
async fn a_forgotten_operation_is_executed_again_within_bounds() {
    let server = copying_server();
    server.forget_operations();
    server.break_execute_streams(1);
    let client = client(&server);
    run(&client, &action_blobs("int main;")).await.unwrap();
    assert_eq!((server.calls(Rpc::Execute), server.calls(Rpc::WaitExecution)), (2, 1));

    server.break_execute_streams(usize::MAX);
    let error = run(&client, &action_blobs("int other;")).await.unwrap_err();
    assert!(matches!(error.code(), Code::Unavailable | Code::Aborted), "{error}");
    assert!(server.calls(Rpc::Execute) <= 5);
}

#[tokio::test]
async fn a_call_that_failed_before_it_began_is_made_again() {
    let server = copying_server();
    server.fail_next(Rpc::Execute, 2, Code::Unavailable);
    run(&client(&server), &action_blobs("int main;")).await.unwrap();
    assert_eq!((server.calls(Rpc::Execute), server.calls(Rpc::WaitExecution)), (3, 0));
}

#[tokio::test]
async fn the_status_of_the_response_is_the_verdict() {
    let server = copying_server();
    let client = client(&server);
    let blobs = action_blobs("int main;");
    // (status, cause, may lack inputs, Execute calls)
    for (code, cause, may_lack, calls) in [
        (Code::DeadlineExceeded, Cause::ActionTimeout, false, 1),
        (Code::Internal, Cause::Status, true, 1),
        (Code::FailedPrecondition, Cause::Status, true, 1),
        (Code::InvalidArgument, Cause::Status, false, 1),
        (Code::Cancelled, Cause::Status, false, 1),
        (Code::PermissionDenied, Cause::Status, false, 1),
    ] {
        let before = server.calls(Rpc::Execute);
        server.end_next_execution_with(Status::new(code, "because"));
        let error = run(&client, &blobs).await.unwrap_err();
        assert_eq!((error.code(), error.cause(), error.may_lack_inputs()), (code, &cause, may_lack));
        assert!(error.to_string().ends_with("because"), "{error}");
        assert_eq!(server.calls(Rpc::Execute) - before, calls, "{code:?}");
    }
    // What may pass is tried again, as a new execution.
    for code in [Code::Unavailable, Code::Aborted, Code::ResourceExhausted] {
        let before = server.calls(Rpc::Execute);
        server.end_next_execution_with(Status::new(code, "because"));
        run(&client, &blobs).await.unwrap();
        assert_eq!(server.calls(Rpc::Execute) - before, 2, "{code:?}");
    }
}

#[tokio::test]
async fn executions_have_no_deadline() {
    let server = FakeReapi::new()
        .execute(|_, _, _| {
            std::thread::sleep(Duration::from_millis(800));
            succeed(Vec::new())
        })
        .start();
    let client = client_with_timeout(&server, Duration::from_millis(250));
    run(&client, &action_blobs("int main;")).await.unwrap();
    assert_eq!(server.calls(Rpc::Execute), 1);
}

#[tokio::test]
async fn an_action_that_no_worker_takes_is_given_up_when_the_caller_says_so() {
    let server = copying_server();
    server.keep_in_queue();
    let client = client(&server);
    let blobs = action_blobs("int main;");
    client.upload(blobs.clone()).await.unwrap();
    let options =
        ExecuteOptions { queue_timeout: Some(Duration::from_millis(200)), ..ExecuteOptions::default() };
    let error = client.execute(&blobs[0].digest, &options).await.unwrap_err();
    assert_eq!(error.cause(), &Cause::QueueTimeout);
}

#[tokio::test]
async fn many_executions_do_not_starve_the_rest() {
    let server = copying_server();
    server.keep_in_queue();
    let client = client_with_timeout(&server, Duration::from_secs(5));
    let action = action_blobs("int main;")[0].digest;
    let waiting: Vec<_> = (0..300)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.execute(&action, &ExecuteOptions::default()).await })
        })
        .collect();
    while server.calls(Rpc::Execute) < 100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.upload(blobs(3, 100)).await.unwrap();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Polls all at once and returns what they come to, in order.
async fn futures_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).map(Some).collect();
    let mut results: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, result) in waiting.iter_mut().zip(&mut results) {
            if let Some(pending) = future
                && let std::task::Poll::Ready(value) = pending.as_mut().poll(context)
            {
                *result = Some(value);
                *future = None;
            }
        }
        match waiting.iter().all(Option::is_none) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    results.into_iter().flatten().collect()
}

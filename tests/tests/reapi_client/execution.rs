//! Executions, through every way in which they break.
//! Knows nothing of compilers.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::time::Duration;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farccd::digest::Digest;
use farccd::digest::DigestFunction;
use farccd::reapi::Blob;
use farccd::reapi::Cause;
use farccd::reapi::Client;
use farccd::reapi::Content;
use farccd::reapi::Error;
use farccd::reapi::ExecuteOptions;
use farccd::reapi::Outcome;
use farccd::reapi::proto;
use prost::Message as _;
use tonic::Code;
use tonic::Status;
use tonic_types::ErrorDetails;
use tonic_types::StatusExt as _;

use crate::blobs;
use crate::client;
use crate::client_with_timeout;
use crate::futures_all;

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
pub(crate) fn action_blobs(source: &str) -> Vec<Blob> {
    action_blobs_by(DigestFunction::Sha256, source)
}

fn action_blobs_by(function: DigestFunction, source: &str) -> Vec<Blob> {
    let message =
        |bytes: Vec<u8>| Blob { digest: function.digest(&bytes), content: Content::Bytes(bytes.into()) };
    let source = message(source.as_bytes().to_vec());
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

/// The fake server refuses a request that names no function, or a resource whose name lacks it.
#[tokio::test]
async fn every_digest_function_serves_a_whole_execution() {
    use proto::digest_function::Value;
    for (announced, function) in [
        (Value::Blake3, DigestFunction::Blake3),
        (Value::Sha1, DigestFunction::Sha1),
        (Value::Sha256, DigestFunction::Sha256),
    ] {
        let server = FakeReapi::new()
            .digest_functions(&[announced])
            .execute(|_, command, inputs| {
                let source = inputs.file("src/a.c").unwrap();
                succeed(vec![inputs.output_file(&command.output_paths[0], &source, false)])
            })
            .start();
        let client = client(&server);
        assert_eq!(client.capabilities().await.unwrap().digest_function, function);
        // Too large for a batch: by stream, there and back.
        let source = "int a;\n".repeat(1 << 20);
        let blobs = action_blobs_by(function, &source);
        let outcome = run(&client, &blobs).await.unwrap();
        let output = function.read(outcome.result.output_files[0].digest.as_ref().unwrap()).unwrap();
        assert_eq!(output, function.digest(source.as_bytes()));
        assert_eq!(client.download(&output).await.unwrap(), source.as_bytes());
        assert_eq!(
            client.download(&blobs[0].digest).await.unwrap().len() as u64,
            blobs[0].digest.size_bytes()
        );
        // What the server lost is named in its digests, and sent again.
        server.lose_blob(&blobs[2].digest);
        let options = ExecuteOptions { skip_cache_lookup: true, ..ExecuteOptions::default() };
        let lost = client.execute(&blobs[0].digest, &options).await.unwrap_err();
        assert_eq!(lost.missing_digests(), [blobs[2].digest]);
        assert_eq!(client.upload(blobs.clone()).await.unwrap().sent_blobs, 1);
        assert!(client.execute(&blobs[0].digest, &options).await.is_ok());
        assert!(client.action_result(&blobs[0].digest, &[]).await.unwrap().is_some());
    }
}

/// Its streams stay open for as long as an execution lasts, and the server allows a hundred on one connection.
#[tokio::test]
async fn hundreds_of_executions_are_in_flight_at_once() {
    const COUNT: usize = 450;
    let server = Arc::new((Mutex::new(0), Condvar::new()));
    let all = Arc::clone(&server);
    let fake = FakeReapi::new()
        .execute(move |_, _, inputs| {
            // Ends only when all have come.
            let (count, changed) = &*all;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            let limit = Duration::from_secs(60);
            let (count, _) = changed.wait_timeout_while(count, limit, |count| *count < COUNT).unwrap();
            assert!(*count >= COUNT, "only {count} came");
            succeed(vec![inputs.output_file("a.o", b"", false)])
        })
        .start();
    let client = client(&fake);
    let actions: Vec<_> = (0..COUNT).map(|number| action_blobs(&format!("int a{number};"))).collect();
    client.upload(actions.concat()).await.unwrap();
    let options = ExecuteOptions::default();
    let executions = actions.iter().map(|blobs| client.execute(&blobs[0].digest, &options));
    for outcome in futures_all(executions).await {
        outcome.unwrap();
    }
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
async fn thousands_of_missing_inputs_may_come_as_the_status_of_the_call() {
    let server = copying_server();
    let blobs = action_blobs("int main;");
    let missing: Vec<Digest> = (0..2000_u32).map(|number| Digest::of(&number.to_le_bytes())).collect();
    let mut details = ErrorDetails::new();
    for digest in &missing {
        details.add_precondition_failure_violation("MISSING", format!("blobs/{digest}"), "");
    }
    let status = Status::with_error_details(Code::FailedPrecondition, "missing", details);
    server.fail_next_with(Rpc::Execute, 1, status);
    assert_eq!(run(&client(&server), &blobs).await.unwrap_err().missing_digests(), missing);
    assert_eq!(server.calls(Rpc::Execute), 1);
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
    // Two of the first action; then once, twice for nothing, and three times by the tries.
    assert!(server.calls(Rpc::Execute) <= 8, "{}", server.calls(Rpc::Execute));
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
        (Code::NotFound, Cause::Status, true, 1),
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
    server.end_next_operation_with_error(Status::new(Code::InvalidArgument, "because"));
    assert_eq!(run(&client, &blobs).await.unwrap_err().code(), Code::InvalidArgument);
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

#[tokio::test]
async fn a_server_that_dies_silently_is_noticed() {
    // At any time: before it has confirmed the action, and while the action runs.
    for (rpc, stuck) in [(Rpc::Execute, false), (Rpc::GetCapabilities, true)] {
        let server = copying_server();
        let client = client_with_timeout(&server, Duration::from_millis(300));
        let blobs = action_blobs("int main;");
        client.upload(blobs.clone()).await.unwrap();
        if stuck {
            server.keep_in_queue();
        }
        for silent in [rpc, Rpc::GetCapabilities] {
            server.delay(silent, Duration::from_secs(3600));
        }
        let options = ExecuteOptions::default();
        let execution = client.execute(&blobs[0].digest, &options);
        let error = tokio::time::timeout(Duration::from_secs(10), execution).await.unwrap().unwrap_err();
        assert_eq!((error.code(), error.cause()), (Code::DeadlineExceeded, &Cause::Status));
        assert_eq!(server.calls(Rpc::Execute), 1, "it is not asked again");
    }
}

#[tokio::test]
async fn a_server_that_is_slow_to_confirm_an_action_is_waited_for() {
    let server = copying_server();
    server.delay(Rpc::Execute, Duration::from_secs(1));
    let client = client_with_timeout(&server, Duration::from_millis(200));
    run(&client, &action_blobs("int main;")).await.unwrap();
    let options =
        ExecuteOptions { queue_timeout: Some(Duration::from_millis(300)), ..ExecuteOptions::default() };
    let error = client.execute(&action_blobs("int main;")[0].digest, &options).await.unwrap_err();
    assert_eq!(error.cause(), &Cause::QueueTimeout);
}

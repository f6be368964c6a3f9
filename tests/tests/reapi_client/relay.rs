//! A cluster behind sockets: who has one needs no credentials, and can do nothing but call its services.
//! Knows nothing of twins.

use std::path::Path;
use std::time::Duration;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farccd::digest::Digest;
use farccd::reapi::Client;
use farccd::reapi::CredentialSource;
use farccd::reapi::Endpoint;
use farccd::reapi::ExecuteOptions;
use farccd::reapi::Headers;
use farccd::reapi::Relays;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::codegen::http::Request;

use crate::blobs;
use crate::endpoint;
use crate::execution::action_blobs;
use crate::futures_all;

/// A client in `directory`, where somebody answers for the cluster of `endpoint`.
fn behind(endpoint: &Endpoint, directory: &Path, may_update: bool) -> (Client, JoinSet<()>) {
    let relays = Relays::new(endpoint, may_update).unwrap();
    let serving = relays.listen(directory).unwrap();
    let addresses = relays.seen_in(directory);
    let client = Client::new(Endpoint {
        address: String::new(),
        engine_address: addresses.engine,
        cas_address: addresses.cas,
        action_cache_address: addresses.action_cache,
        headers: Headers::default(),
        credentials: CredentialSource::None,
        ..endpoint.clone()
    });
    (client.unwrap(), serving)
}

fn with_key(server: &FakeReapi) -> Endpoint {
    Endpoint { headers: Headers(vec![("x-api-key".to_owned(), "hush".to_owned())]), ..endpoint(server) }
}

#[tokio::test]
async fn all_that_a_client_does_it_does_there() {
    let server = FakeReapi::new()
        .require_header("x-api-key", "hush")
        .execute(|_, command, inputs| {
            let source = inputs.file("src/a.c").unwrap();
            succeed(vec![inputs.output_file(&command.output_paths[0], &source, false)])
        })
        .start();
    // The address of a socket holds less than the path of a file.
    let root = tempfile::tempdir().unwrap();
    let long = root.path().join("d".repeat(120));
    std::fs::create_dir(&long).unwrap();
    std::os::unix::fs::symlink(&long, root.path().join("short")).unwrap();
    drop(Relays::new(&with_key(&server), true).unwrap().listen(&long).unwrap());
    let (client, serving) = behind(&with_key(&server), &root.path().join("short"), true);
    let large = blobs(3, 5 << 20);
    client.upload(large.clone()).await.unwrap();
    assert_eq!(client.download(&large[1].digest).await.unwrap().len(), 5 << 20);
    for result in futures_all((10..200).map(|number| client.upload(blobs(number, 30)))).await {
        result.unwrap();
    }
    let action = action_blobs("int a;");
    let digest = action[0].digest;
    client.upload(action).await.unwrap();
    let outcome = client.execute(&digest, &ExecuteOptions::default()).await.unwrap();
    assert_eq!(outcome.result.output_files.len(), 1);
    assert!(client.update_action_result(&Digest::of(b"other"), succeed(Vec::new())).await.unwrap());
    // What calls are for is told there as well.
    let told = server.request_metadata(Rpc::Execute);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].action_id, digest.hex());
    drop(serving);
    assert!(client.capabilities().await.is_err() || client.upload(blobs(900, 10)).await.is_err());
}

#[tokio::test]
async fn only_what_belongs_to_a_cluster_is_passed_on() {
    let server = FakeReapi::new().require_header("x-api-key", "hush").start();
    let root = tempfile::tempdir().unwrap();
    let (client, _serving) = behind(&with_key(&server), root.path(), false);
    client.upload(blobs(1, 10)).await.unwrap();
    let before = server.all_calls();
    assert!(!client.update_action_result(&Digest::of(b"a"), succeed(Vec::new())).await.unwrap());
    let channel = tonic::transport::Endpoint::from_shared(format!("unix:{}/0", root.path().display()));
    let mut channel = channel.unwrap().connect().await.unwrap();
    let cache = "/build.bazel.remote.execution.v2.ActionCache";
    let tricks =
        ["/./", "//", "/../ActionCache/", "%2f"].map(|trick| format!("{cache}{trick}UpdateActionResult"));
    let tricks = tricks.iter().map(String::as_str);
    let query = format!("{cache}/GetActionResult?x");
    for path in
        ["/grpc.health.v1.Health/Check", "/build.bazel.remote.asset.v1.Fetch/FetchBlob", "/", "/x", &query]
            .into_iter()
            .chain(tricks)
    {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let refused = channel.call(Request::post(path).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(refused.headers()["grpc-status"], (Code::Unimplemented as i32).to_string(), "{path}");
    }
    assert_eq!(server.all_calls(), before);
    // Who calls is not for the caller to say.
    let server = FakeReapi::new().require_header("x-api-key", "hush").start();
    let (mut keyless, _serving) = behind(&endpoint(&server), &root.path().join("keyless"), true);
    assert_eq!(keyless.upload(blobs(1, 10)).await.unwrap_err().code(), Code::Unauthenticated);
    let headers = with_key(&server).headers;
    let cas_address = format!("unix:{}/keyless/0", root.path().display());
    keyless = Client::new(Endpoint { headers, cas_address, ..endpoint(&server) }).unwrap();
    assert_eq!(keyless.upload(blobs(1, 10)).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn tokens_are_renewed_and_calls_given_up_there_too() {
    let root = tempfile::tempdir().unwrap();
    let token = root.path().join("token");
    std::fs::write(&token, "old").unwrap();
    let server = FakeReapi::new()
        .require_header("authorization", "Bearer new")
        .action_time(Duration::from_secs(600))
        .start();
    let credentials = CredentialSource::TokenFile(token.clone());
    let (client, _serving) =
        behind(&Endpoint { credentials, ..endpoint(&server) }, &root.path().join("sockets"), true);
    let refused = client.capabilities().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    std::fs::write(&token, "new").unwrap();
    client.upload(blobs(1, 10)).await.unwrap();
    std::fs::remove_file(&token).unwrap();

    // What a helper says is for the log.
    let helper = root.path().join("helper");
    std::fs::write(&helper, "#!/bin/sh\necho refresh_token=hush >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let credentials = CredentialSource::Helper { program: helper, environment: Vec::new() };
    let (helped, _helping) =
        behind(&Endpoint { credentials, ..endpoint(&server) }, &root.path().join("helped"), true);
    let refused = helped.capabilities().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(!refused.to_string().contains("hush") && !refused.to_string().contains("helper"), "{refused}");

    // An execution that nobody waits for any more is left there, too.
    let action = action_blobs("int a;");
    let digest = action[0].digest;
    client.upload(action).await.unwrap();
    let options = ExecuteOptions::default();
    let waiting = tokio::time::timeout(Duration::from_millis(300), client.execute(&digest, &options));
    assert!(waiting.await.is_err());
    for _ in 0..500 {
        if server.left_streams() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.left_streams(), 1);
}

#[tokio::test]
async fn that_nobody_is_there_is_learnt_as_fast_as_without() {
    let root = tempfile::tempdir().unwrap();
    let server = FakeReapi::new().start();
    let (client, _serving) = behind(&Endpoint { retries: 20, ..endpoint(&server) }, root.path(), true);
    client.upload(blobs(1, 10)).await.unwrap();
    let (address, port) = (server.address(), server.port());
    drop(server);
    let error = client.upload(blobs(2, 10)).await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains(&address), "{error}");
    // And that somebody is there again.
    let server = FakeReapi::new().port(port).start();
    client.upload(blobs(3, 10)).await.unwrap();
    assert_eq!(server.calls(Rpc::BatchUpdateBlobs), 1);
}

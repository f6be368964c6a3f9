//! Connections, capabilities and headers.
//! Knows nothing of what is called over them.

use std::time::Duration;
use std::time::Instant;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farcc_tests::fake_reapi::succeed;
use farccd::digest::Digest;
use farccd::reapi::Blob;
use farccd::reapi::Client;
use farccd::reapi::Endpoint;
use farccd::reapi::ExecuteOptions;
use farccd::reapi::proto;
use prost::Message as _;
use tonic::Code;

use crate::blobs;
use crate::client;
use crate::endpoint;
use crate::futures_all;

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
async fn every_service_may_have_an_address_of_its_own() {
    let storage = FakeReapi::new().max_batch_bytes(65_536).start();
    let cache = FakeReapi::new().forbid_updates(false).start();
    let engine =
        FakeReapi::new().execute(|_, _, _| proto::ActionResult::default()).versions((2, 0), (2, 0)).start();
    let client = Client::new(Endpoint {
        address: engine.address(),
        cas_address: storage.address(),
        action_cache_address: cache.address(),
        ..Endpoint::default()
    });
    let client = client.unwrap();
    let known = client.capabilities().await.unwrap();
    assert!(known.execution && !known.uses_output_paths() && !known.action_cache_updates);
    assert_eq!(known.max_batch_bytes, 65_536);
    client.upload(blobs(2, 10)).await.unwrap();
    assert_eq!(storage.blob_digests().len(), 2);
    let action = Digest::of(b"action");
    assert_eq!(client.action_result(&action, &[]).await.unwrap(), None);
    assert_eq!((cache.calls(Rpc::GetActionResult), cache.calls(Rpc::FindMissingBlobs)), (1, 0));
    assert!(client.execute(&action, &ExecuteOptions::default()).await.is_err());
    assert_eq!((engine.calls(Rpc::Execute), engine.calls(Rpc::FindMissingBlobs)), (1, 0));
    for server in [&storage, &cache, &engine] {
        assert_eq!(server.calls(Rpc::GetCapabilities), 1);
    }

    let only_cache = Client::new(Endpoint { cas_address: storage.address(), ..Endpoint::default() }).unwrap();
    assert!(!only_cache.capabilities().await.unwrap().execution);
    let refused = only_cache.execute(&action, &ExecuteOptions::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[tokio::test]
async fn unusable_servers_are_refused_with_the_reason() {
    let others = [proto::digest_function::Value::Md5, proto::digest_function::Value::Sha384];
    for (server, reason) in [
        (FakeReapi::new().digest_functions(&others).start(), "takes MD5, SHA384"),
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
    let client = Client::new(Endpoint { address: address.clone(), ..Endpoint::default() }).unwrap();
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
        timeout: Duration::from_millis(300),
        ..Endpoint::default()
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
    // Without retries: a connection that ended while it was idle is no failed try.
    let client = Client::new(Endpoint { retries: 0, ..endpoint(&server) }).unwrap();
    client.upload(blobs(1, 10)).await.unwrap();
    assert_used_after_a_restart(&client, server).await;
}

/// The server goes, and another one comes to its port.
async fn assert_used_after_a_restart(client: &Client, server: FakeReapi) {
    let port = server.port();
    drop(server);
    let server = FakeReapi::new().port(port).start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.upload(blobs(2, 20)).await.unwrap();
    assert_eq!(server.blob_digests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_that_ended_are_no_failed_tries() {
    let server = FakeReapi::new().action_time(Duration::from_secs(60)).execute(|_, _, _| succeed(Vec::new()));
    let server = server.trust_inputs().start();
    let client = Client::new(Endpoint { retries: 0, ..endpoint(&server) }).unwrap();
    let (action, command) = (proto::Action::default(), proto::Command::default());
    let [action, command] = [action.encode_to_vec(), command.encode_to_vec()].map(Blob::of_bytes);
    client.upload(vec![action.clone(), command]).await.unwrap();
    let executions: Vec<_> = (0..300)
        .map(|_| {
            let (client, digest) = (client.clone(), action.digest);
            tokio::spawn(async move { client.execute(&digest, &ExecuteOptions::default()).await })
        })
        .collect();
    while server.calls(Rpc::Execute) < 300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    executions.iter().for_each(tokio::task::JoinHandle::abort);
    assert_used_after_a_restart(&client, server).await;
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_unreachable() {
    let client = Client::new(Endpoint {
        address: "unix:/nonexistent/socket".to_owned(),
        timeout: Duration::from_secs(1),
        retries: 0,
        ..Endpoint::default()
    })
    .unwrap();
    let error = client.capabilities().await.unwrap_err();
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("unix:/nonexistent/socket"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_spoken_to() {
    let server = FakeReapi::new().start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let port = server.port();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    let address = format!("unix:{}", path.display());
    let client = Client::new(Endpoint { address, ..endpoint(&server) }).unwrap();
    client.upload(blobs(2, 10)).await.unwrap();
    assert_eq!(server.blob_digests().len(), 2);
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

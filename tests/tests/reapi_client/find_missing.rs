//! Questions of presence: remembered, joined, put together.
//! Knows nothing of what becomes of missing blobs.

use std::time::Duration;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farccd::digest::Digest;
use tonic::Code;

use crate::client;
use crate::futures_all;

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

//! Downloads: every byte verified, all that is lost named.
//! Knows nothing of actions.

use std::collections::HashSet;

use bytes::Bytes;
use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farccd::digest::Digest;
use farccd::reapi::Cause;
use tonic::Code;

use crate::client;

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
        assert_eq!(
            client.download_to(&digest, &mut sink).await.unwrap_err().cause(),
            &Cause::Corrupt(digest)
        );
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

//! Uploads: what is sent, how, how often, and what never is.
//! Knows nothing of actions.

use std::time::Duration;

use farcc_tests::fake_reapi::FakeReapi;
use farcc_tests::fake_reapi::Rpc;
use farccd::digest::Digest;
use farccd::reapi::Blob;
use farccd::reapi::Cause;
use tonic::Code;

use crate::blob;
use crate::blobs;
use crate::client;
use crate::digests;
use crate::futures_all;

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
async fn little_is_sent_without_a_question() {
    let server = FakeReapi::new().start();
    let client = client(&server);
    let blobs = [blob(1, 100), blob(2, 200), blob(3, 300)];
    let asked = || (server.calls(Rpc::FindMissingBlobs), server.calls(Rpc::BatchUpdateBlobs));
    let stats = client.upload_unasked(blobs[..2].to_vec(), 300).await.unwrap();
    assert_eq!((stats.sent_blobs, stats.sent_bytes), (2, 300));
    assert_eq!(asked(), (0, 1));
    // What is known to be there does not count, and is not sent again.
    client.upload_unasked(blobs.to_vec(), 300).await.unwrap();
    assert_eq!(asked(), (0, 2));
    client.upload_unasked(blobs.to_vec(), 300).await.unwrap();
    assert_eq!(asked(), (0, 2));
    client.upload_unasked(vec![blob(4, 301)], 300).await.unwrap();
    assert_eq!(asked(), (1, 3));
    for sent in blobs.iter().chain([&blob(4, 301)]) {
        assert!(server.blob(&sent.digest).is_some());
    }
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
            let blob = Blob::of_file(Digest::of(&scanned), path.as_path());
            let error = client.upload(vec![blob.clone()]).await.unwrap_err();
            assert_eq!(error.input_changed(), Some(path.as_path()), "{error}");
            assert_eq!(error.cause(), &Cause::InputChanged(path.clone()));
        }
        std::fs::remove_file(&path).unwrap();
        let error =
            client.upload(vec![Blob::of_file(Digest::of(&scanned), path.as_path())]).await.unwrap_err();
        assert_eq!(error.input_changed(), Some(path.as_path()), "{error}");
    }
    assert_eq!(server.blob_digests(), []);
    assert_eq!(server.calls(Rpc::BatchUpdateBlobs), 0, "small ones are hashed before anything is sent");
}

#[tokio::test]
async fn another_callers_unchanged_copy_is_uploaded_instead() {
    let server = FakeReapi::new().start();
    server.delay(Rpc::Write, Duration::from_millis(400));
    let client = client(&server);
    let directory = tempfile::tempdir().unwrap();
    let content = vec![b'x'; 5_000_000];
    let (changed, same) = (directory.path().join("changed"), directory.path().join("same"));
    std::fs::write(&changed, vec![b'y'; 5_000_000]).unwrap();
    std::fs::write(&same, &content).unwrap();
    let digest = Digest::of(&content);
    let late = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.upload(vec![Blob::of_file(digest, same.as_path())]).await
    };
    let (first, second) = tokio::join!(client.upload(vec![Blob::of_file(digest, changed.as_path())]), late);
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

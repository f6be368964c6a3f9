//! Digests other than SHA-256: fields, resource names, whole executions, and no mix-up between functions.

use super::cache::pieces;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn executions_in_every_function() {
    let server = Server::start(2).await;
    for (index, function) in DigestFunction::ALL.into_iter().enumerate() {
        let case = Case { function, ..compile() };
        let mut stream = {
            server.upload_as(function, &case.blobs()).await;
            server.execution().execute(case.request()).await.unwrap().into_inner()
        };
        let first = stream.message().await.unwrap().unwrap();
        let metadata =
            reapi::ExecuteOperationMetadata::decode(first.metadata.as_ref().unwrap().value.as_slice());
        assert_eq!(metadata.unwrap().digest_function, function.number());
        let result = finish(stream).await.unwrap().result.unwrap();
        assert_eq!(result.exit_code, 0);
        let output = result.output_files[0].digest.as_ref().unwrap();
        let object = function.read(output).unwrap();
        let name = format!("blobs/{}{object}", function.path_segment());
        let bytes = server.read(&name).await.unwrap();
        assert!(bytes.starts_with(b"\x7fELF") && object.is_of(&bytes));
        assert!(function.read(result.stderr_digest.as_ref().unwrap()).is_ok());
        server.expect_count("executions", index as u64 + 1).await;
        assert!(server.execute(&case).await.unwrap().cached_result);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_of_outputs_are_of_the_actions_function() {
    let server = Server::start(1).await;
    for function in DigestFunction::ALL {
        let mut case = Case::shell("mkdir -p d/e && echo x >d/e/f").outputs(&["d"]);
        case.function = function;
        let result = server.result(&case).await;
        let tree = function.read(result.output_directories[0].tree_digest.as_ref().unwrap()).unwrap();
        let bytes = server.read(&format!("blobs/{}{tree}", function.path_segment())).await.unwrap();
        let tree = reapi::Tree::decode(bytes.as_slice()).unwrap();
        let below = tree.root.unwrap().directories[0].digest.clone().unwrap();
        assert_eq!(function.read(&below).unwrap(), function.digest(&tree.children[0].encode_to_vec()));
        // It is whole in the cache, too.
        assert!(server.execute(&case).await.unwrap().cached_result);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_with_its_function() {
    let server = Server::start(1).await;
    for (function, prefix) in
        [(DigestFunction::Sha256, ""), (DigestFunction::Blake3, "blake3/"), (DigestFunction::Sha1, "")]
    {
        let case = Case { function, ..Case::shell("true").file("in", "the input") };
        let missing = function.digest(b"the input");
        let blobs: Vec<Vec<u8>> = case.blobs().into_iter().filter(|blob| !missing.is_of(blob)).collect();
        server.upload_as(function, &blobs).await;
        let stream = server.execution().execute(case.request()).await.unwrap().into_inner();
        let status = finish(stream).await.unwrap().status.unwrap();
        assert_eq!(status.code, i32::from(Code::FailedPrecondition));
        let failure = PreconditionFailure::decode(status.details[0].value.as_slice()).unwrap();
        assert_eq!(failure.violations[0].subject, format!("blobs/{prefix}{missing}"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_do_not_mix() {
    let server = Server::start(1).await;
    let blob = b"some blob".to_vec();
    server.upload_as(DigestFunction::Blake3, std::slice::from_ref(&blob)).await;
    let ask = |digest: Digest, digest_function: i32| {
        let mut client = server.storage();
        async move {
            let request = reapi::FindMissingBlobsRequest {
                blob_digests: vec![message(&digest)],
                digest_function,
                ..Default::default()
            };
            client.find_missing_blobs(request).await.unwrap().into_inner().missing_blob_digests.len()
        }
    };
    let [sha256, blake3, sha1] = DigestFunction::ALL.map(|function| function.digest(&blob));
    let numbers = DigestFunction::ALL.map(DigestFunction::number);
    assert_eq!(ask(blake3, numbers[1]).await, 0);
    // The same hash is none of SHA-256, said or not; and the blob is not there under its other digests.
    assert_eq!(ask(blake3, numbers[0]).await, 1);
    assert_eq!(ask(blake3, 0).await, 1);
    assert_eq!(ask(sha256, 0).await, 1);
    assert_eq!(ask(sha1, 0).await, 1);
    // Left unsaid, the length tells SHA-1 from SHA-256.
    let name = format!("uploads/1/blobs/{sha1}");
    server.bytes().write(tokio_stream::iter(pieces(&name, &blob, 4))).await.unwrap();
    assert_eq!(ask(sha1, 0).await, 0);
    assert_eq!(ask(sha1, numbers[2]).await, 0);
    assert_eq!(server.read(&format!("blobs/{sha1}")).await.unwrap(), blob);
    assert_eq!(server.read(&format!("blobs/blake3/{blake3}")).await.unwrap(), blob);
    assert_eq!(server.read(&format!("blobs/{blake3}")).await.unwrap_err().code(), Code::NotFound);
    let name = format!("uploads/1/compressed-blobs/zstd/blake3/{}", DigestFunction::Blake3.digest(b"zstd"));
    let stream = zstd::bulk::compress(b"zstd", 1).unwrap();
    server.bytes().write(tokio_stream::iter(pieces(&name, &stream, 4))).await.unwrap();
    let name = format!("uploads/1/blobs/{}", DigestFunction::Blake3.digest(b"said to be SHA-256"));
    let stream = tokio_stream::iter(pieces(&name, b"said to be SHA-256", 4));
    assert_eq!(server.bytes().write(stream).await.unwrap_err().code(), Code::InvalidArgument);

    // Hashes of the wrong length are refused where the function is said.
    let request = reapi::FindMissingBlobsRequest {
        blob_digests: vec![message(&sha1)],
        digest_function: numbers[1],
        ..Default::default()
    };
    let error = server.storage().find_missing_blobs(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    // Results are kept apart as well.
    let result = |digest: &Digest, digest_function| reapi::GetActionResultRequest {
        action_digest: Some(message(digest)),
        digest_function,
        ..Default::default()
    };
    let update = reapi::UpdateActionResultRequest {
        action_digest: Some(message(&blake3)),
        action_result: Some(ActionResult { exit_code: 3, ..Default::default() }),
        digest_function: numbers[1],
        ..Default::default()
    };
    server.action_cache().update_action_result(update).await.unwrap();
    let got = server.action_cache().get_action_result(result(&blake3, numbers[1])).await.unwrap();
    assert_eq!(got.into_inner().exit_code, 3);
    let error = server.action_cache().get_action_result(result(&blake3, 0)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    server.stop().await;
}

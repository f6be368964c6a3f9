//! What the server says of itself, its blobs and its cached results.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn capabilities() {
    let server = Server::start(1).await;
    let request = reapi::GetCapabilitiesRequest { instance_name: "any/thing".to_owned() };
    let mut client = CapabilitiesClient::new(server.channel.clone());
    let capabilities = client.get_capabilities(request).await.unwrap().into_inner();
    let functions = DigestFunction::ALL.map(DigestFunction::number);
    let cache = capabilities.cache_capabilities.unwrap();
    assert_eq!(cache.digest_functions, functions);
    let zstd = i32::from(reapi::compressor::Value::Zstd);
    assert_eq!(cache.supported_compressors, [zstd]);
    assert_eq!(cache.supported_batch_update_compressors, [zstd]);
    assert!(cache.action_cache_update_capabilities.unwrap().update_enabled);
    assert!((3 << 20..4 << 20).contains(&cache.max_batch_total_size_bytes));
    let execution = capabilities.execution_capabilities.unwrap();
    assert!(execution.exec_enabled && execution.digest_function == DigestFunction::Sha256.number());
    assert_eq!(execution.digest_functions, functions);
    assert_eq!(capabilities.low_api_version.unwrap().major, 2);
    assert_eq!(capabilities.high_api_version.unwrap().minor, 12);

    let digest_function = i32::from(reapi::digest_function::Value::Sha512);
    let request = reapi::FindMissingBlobsRequest { digest_function, ..Default::default() };
    let error = server.storage().find_missing_blobs(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("SHA512"), "{error}");

    // A blob that the whole store could not hold is refused before it is sent.
    let limit = cache.max_cas_blob_size_bytes;
    assert_eq!(limit, 20 << 30);
    let name = format!("uploads/1/blobs/{}/{}", Digest::of(b"").hex(), limit + 1);
    let stream = tokio_stream::iter(pieces(&name, b"the beginning", 100));
    let error = server.bytes().write(stream).await.unwrap_err();
    assert!(error.code() == Code::InvalidArgument && error.message().contains("larger than"), "{error}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches() {
    let server = Server::start(1).await;
    let (there, absent) = (Digest::of(b"there"), Digest::of(b"absent"));
    server.upload(&[b"there".to_vec()]).await;
    assert_eq!(server.find_missing(&[there, absent, Digest::empty()]).await, 1);
    let request = reapi::BatchUpdateBlobsRequest {
        requests: vec![reapi::batch_update_blobs_request::Request {
            digest: Some(message(&absent)),
            data: b"other bytes".to_vec(),
            compressor: 0,
        }],
        ..Default::default()
    };
    let response = server.storage().batch_update_blobs(request).await.unwrap().into_inner();
    assert_eq!(response.responses[0].status.as_ref().unwrap().code, i32::from(Code::InvalidArgument));
    let request = reapi::BatchReadBlobsRequest {
        digests: [there, absent].map(|d| message(&d)).into(),
        ..Default::default()
    };
    let response = server.storage().batch_read_blobs(request).await.unwrap().into_inner();
    assert_eq!(response.responses[0].data, b"there");
    assert_eq!(response.responses[1].status.as_ref().unwrap().code, i32::from(Code::NotFound));
    // A batch of exactly the limit goes through; a larger one is refused in words.
    let limit = (4 << 20) - (128 << 10);
    server.upload(&[vec![1; limit]]).await;
    let full = reapi::BatchReadBlobsRequest {
        digests: vec![message(&Digest::of(&vec![1; limit]))],
        ..Default::default()
    };
    let response = server.storage().batch_read_blobs(full.clone()).await.unwrap().into_inner();
    assert_eq!(response.responses[0].data.len(), limit);
    let mut more = full;
    more.digests.push(message(&there));
    assert_eq!(server.storage().batch_read_blobs(more).await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

pub(super) fn pieces(name: &str, bytes: &[u8], size: usize) -> Vec<bytestream::WriteRequest> {
    let mut offset = 0;
    let mut requests: Vec<bytestream::WriteRequest> = bytes
        .chunks(size)
        .map(|piece| {
            let request = bytestream::WriteRequest {
                resource_name: if offset == 0 { name.to_owned() } else { String::new() },
                write_offset: offset,
                data: piece.to_vec(),
                finish_write: false,
            };
            offset += i64::try_from(piece.len()).unwrap();
            request
        })
        .collect();
    if let Some(last) = requests.last_mut() {
        last.finish_write = true;
    }
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn large_blobs_in_pieces() {
    let server = Server::start(1).await;
    let blob: Vec<u8> = (0..5_000_000u32).map(|index| index.to_le_bytes()[index as usize % 3]).collect();
    let digest = Digest::of(&blob);
    let name = format!("some/instance/uploads/0123/blobs/{digest}/metadata");
    let query = bytestream::QueryWriteStatusRequest { resource_name: name.clone() };
    let status = server.bytes().query_write_status(query.clone()).await.unwrap().into_inner();
    assert!(!status.complete);
    let size = i64::try_from(blob.len()).unwrap();

    let stream = tokio_stream::iter(pieces(&name, &blob, 100_000));
    let response = server.bytes().write(stream).await.unwrap().into_inner();
    assert_eq!(response.committed_size, size);
    assert_eq!(server.download(&message(&digest)).await, blob);
    let status = server.bytes().query_write_status(query).await.unwrap().into_inner();
    assert!(status.complete && status.committed_size == size);
    // What is there needs no bytes.
    let first = pieces(&name, &blob, 10).into_iter().take(1).map(|mut request| {
        request.finish_write = false;
        request
    });
    let first: Vec<bytestream::WriteRequest> = first.collect();
    let response = server.bytes().write(tokio_stream::iter(first)).await.unwrap().into_inner();
    assert_eq!(response.committed_size, size);

    for (offset, limit) in [(0, 10), (4_999_990, 0), (1_000_000, 700_000), (size, 0), (4_999_990, 100)] {
        let request = bytestream::ReadRequest {
            resource_name: format!("blobs/{digest}"),
            read_offset: offset,
            read_limit: limit,
        };
        let mut stream = server.bytes().read(request).await.unwrap().into_inner();
        let mut got = Vec::new();
        while let Some(piece) = stream.message().await.unwrap() {
            got.extend(piece.data);
        }
        let start = usize::try_from(offset).unwrap();
        let end =
            if limit == 0 { blob.len() } else { blob.len().min(start + usize::try_from(limit).unwrap()) };
        assert!(got == blob[start..end], "{offset} {limit}");
    }
    for (name, offset, code) in [
        (format!("blobs/{digest}"), size + 1, Code::OutOfRange),
        (format!("blobs/{digest}"), -1, Code::OutOfRange),
        (format!("blobs/{}", Digest::of(b"absent")), 0, Code::NotFound),
        (format!("blobs/{digest}/x"), 0, Code::InvalidArgument),
        (format!("uploads/1/blobs/{digest}"), 0, Code::InvalidArgument),
    ] {
        let request =
            bytestream::ReadRequest { resource_name: name.clone(), read_offset: offset, read_limit: 0 };
        assert_eq!(server.bytes().read(request).await.unwrap_err().code(), code, "{name} {offset}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_uploads_are_refused_and_leave_nothing() {
    let server = Server::start(1).await;
    let blob = vec![5; 1000];
    let digest = Digest::of(&blob);
    let name = format!("uploads/0123/blobs/{digest}");
    let good = pieces(&name, &blob, 300);
    let edited = |edit: fn(&mut Vec<bytestream::WriteRequest>)| {
        let mut requests = good.clone();
        edit(&mut requests);
        requests
    };
    for requests in [
        Vec::new(),
        edited(|requests| requests[1].data[0] = 6),
        edited(|requests| requests[1].write_offset = 299),
        edited(|requests| requests[0].write_offset = -1),
        edited(|requests| requests[2].resource_name = "uploads/other".to_owned()),
        edited(|requests| requests[3].data.push(1)),
        edited(|requests| requests[3].finish_write = false),
        edited(|requests| requests[1].finish_write = true),
        edited(|requests| requests[0].resource_name = "nonsense".to_owned()),
    ] {
        let error = server.bytes().write(tokio_stream::iter(requests)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    assert_eq!(server.find_missing(&[digest]).await, 1);
    let temporary = server.directory.path().join("store/tmp");
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0);
    server.bytes().write(tokio_stream::iter(good)).await.unwrap();
    assert_eq!(server.find_missing(&[digest]).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_action_cache_keeps_only_what_can_be_fetched() {
    let server = Server::start(1).await;
    server.upload(&[b"object".to_vec(), b"printed".to_vec()]).await;
    let action = Digest::of(b"some action");
    let result = ActionResult {
        output_files: vec![reapi::OutputFile {
            path: "a.o".to_owned(),
            digest: Some(message(&Digest::of(b"object"))),
            ..Default::default()
        }],
        stdout_digest: Some(message(&Digest::of(b"printed"))),
        ..Default::default()
    };
    let get = |instance: &str| reapi::GetActionResultRequest {
        instance_name: instance.to_owned(),
        action_digest: Some(message(&action)),
        inline_stdout: true,
        inline_output_files: vec!["a.o".to_owned()],
        ..Default::default()
    };
    let update = |instance: &str, result: &ActionResult| reapi::UpdateActionResultRequest {
        instance_name: instance.to_owned(),
        action_digest: Some(message(&action)),
        action_result: Some(result.clone()),
        ..Default::default()
    };
    let mut cache = server.action_cache();
    assert_eq!(cache.get_action_result(get("")).await.unwrap_err().code(), Code::NotFound);
    cache.update_action_result(update("", &result)).await.unwrap();
    let got = cache.get_action_result(get("")).await.unwrap().into_inner();
    assert_eq!(got.stdout_raw, b"printed");
    assert_eq!(got.output_files[0].contents, b"object");
    assert_eq!(cache.get_action_result(get("other")).await.unwrap_err().code(), Code::NotFound);
    cache.update_action_result(update("other", &ActionResult::default())).await.unwrap();
    cache.get_action_result(get("other")).await.unwrap();

    // A result whose blobs are gone is none.
    let hex = Digest::of(b"object").hex();
    let path: PathBuf = server.directory.path().join("store/cas").join(&hex[..2]).join(&hex);
    std::fs::remove_file(path).unwrap();
    assert_eq!(cache.get_action_result(get("")).await.unwrap_err().code(), Code::NotFound);
    let error = cache.update_action_result(update("", &result)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    let violations = error.get_details_precondition_failure().unwrap().violations;
    assert_eq!(violations[0].subject, format!("blobs/{}", Digest::of(b"object")));
    let mut invalid = result.clone();
    invalid.output_files[0].digest = None;
    let error = cache.update_action_result(update("", &invalid)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    // A tree's files count too.
    let tree = reapi::Tree {
        root: Some(Directory {
            files: vec![FileNode {
                name: "f".to_owned(),
                digest: Some(message(&Digest::of(b"in the tree"))),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    server.upload(&[tree.encode_to_vec()]).await;
    let with_tree = ActionResult {
        output_directories: vec![reapi::OutputDirectory {
            path: "d".to_owned(),
            tree_digest: Some(message(&Digest::of(&tree.encode_to_vec()))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let error = cache.update_action_result(update("", &with_tree)).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    server.upload(&[b"in the tree".to_vec()]).await;
    cache.update_action_result(update("", &with_tree)).await.unwrap();
    cache.get_action_result(get("")).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_come_in_pages() {
    let server = Server::start(1).await;
    let case = Case::shell("true").file("a/b/f", "1").file("a/c/f", "2").file("d/f", "1").file("e/f", "1");
    server.upload(&case.blobs()).await;
    let mut blobs = Vec::new();
    let root = case.tree.build(DigestFunction::Sha256, &mut blobs);
    let request =
        reapi::GetTreeRequest { root_digest: Some(message(&root)), page_size: 2, ..Default::default() };
    let mut stream = server.storage().get_tree(request.clone()).await.unwrap().into_inner();
    let mut pages = Vec::new();
    while let Some(page) = stream.message().await.unwrap() {
        pages.push(page);
    }
    // Root, a, a/b (the same as d and e), a/c.
    let sizes: Vec<usize> = pages.iter().map(|page| page.directories.len()).collect();
    assert_eq!(sizes, [2, 2]);
    assert_eq!(Digest::of(&pages[0].directories[0].encode_to_vec()), root);
    assert_eq!(pages[1].next_page_token, "");
    let rest = reapi::GetTreeRequest { page_token: pages[0].next_page_token.clone(), ..request.clone() };
    let mut stream = server.storage().get_tree(rest).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap(), pages[1]);
    let absent = reapi::GetTreeRequest { root_digest: Some(message(&Digest::of(b"absent"))), ..request };
    assert_eq!(server.storage().get_tree(absent).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

//! `--s3`: blobs and results in a bucket of a real S3 server, which is killed, restarted and filled with garbage.

use farcc_tests::full_tier;
use farcc_tests::s3_server::S3Server;
use farcc_tests::skipped;
use farccd::serve::S3Options;

use super::cache::pieces;
use super::*;

/// More than one part.
const LARGE_BYTES: usize = 40 << 20;

/// An S3 server that sees nothing of where the servers keep their disks; `None` where there is none.
fn s3(hidden: &Path) -> Option<S3Server> {
    if !full_tier() {
        skipped("S3", "a server for it is built in the full tier (FARCC_TESTS=full)");
        return None;
    }
    // What it waits for, it waits for without this test's runtime.
    std::thread::scope(|scope| scope.spawn(|| S3Server::start(hidden)).join().unwrap())
}

fn options(s3: &S3Server) -> S3Options {
    S3Options {
        url: format!("s3://{}/team/a", S3Server::BUCKET),
        endpoint: Some(s3.endpoint()),
        region: None,
        environment: s3.environment(),
    }
}

async fn server(s3: &S3Server) -> Server {
    Server::start_with(2, |serve| serve.s3 = Some(options(s3))).await
}

fn object(s3: &S3Server, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    s3.object(&format!("team/a/cas/{}/{}/{hex}", digest.function().name(), &hex[..2]))
}

fn large() -> Vec<u8> {
    (0..u32::MAX)
        .take(LARGE_BYTES / 4)
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

async fn write(server: &Server, blob: &[u8]) -> Result<i64, Status> {
    let name = format!("uploads/1/blobs/{}", Digest::of(blob));
    let stream = tokio_stream::iter(pieces(&name, blob, 1 << 20));
    server.bytes().write(stream).await.map(|response| response.into_inner().committed_size)
}

async fn read(server: &Server, digest: &Digest) -> Result<Vec<u8>, Status> {
    server.read(&format!("blobs/{}{digest}", digest.function().path_segment())).await
}

fn assert_unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.get_details_retry_info().is_some(), "no advice when to come back: {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_stores_another_has() {
    let hidden = tempfile::tempdir().unwrap();
    let Some(s3) = s3(hidden.path()) else { return };
    let one = server(&s3).await;
    let (small, large) = (b"small".to_vec(), large());
    one.upload(std::slice::from_ref(&small)).await;
    one.upload_as(DigestFunction::Blake3, std::slice::from_ref(&small)).await;
    assert_eq!(write(&one, &large).await.unwrap(), i64::try_from(large.len()).unwrap());
    let digests = [Digest::of(&small), Digest::of(&large), DigestFunction::Blake3.digest(&small)];
    for digest in &digests {
        assert_eq!(object(&s3, digest).metadata().unwrap().len(), digest.size_bytes());
    }
    let case = compile();
    let result = one.result(&case).await;
    assert_eq!(result.exit_code, 0);
    one.stop().await;

    // Another disk, and nothing on it.
    let two = server(&s3).await;
    let absent = Digest::of(b"absent");
    assert_eq!(two.find_missing(&[digests[0], digests[1], absent, Digest::empty()]).await, 1);
    two.expect_count("bucket_questions", 3).await;
    // What is there is not asked for again; what was not there is.
    assert_eq!(two.find_missing(&[digests[0], digests[1], absent]).await, 1);
    two.expect_count("bucket_questions", 4).await;
    assert_eq!(two.find_missing(&[digests[0], digests[1]]).await, 0);
    two.expect_count("bucket_questions", 4).await;
    for (digest, blob) in digests.iter().zip([&small, &large, &small]) {
        assert!(read(&two, digest).await.unwrap() == *blob, "{digest}");
    }
    // From the disk now.
    let reads = 3;
    two.expect_count("bucket_reads", reads).await;
    assert!(read(&two, &digests[1]).await.unwrap() == large);
    two.expect_count("bucket_reads", reads).await;

    // The result is a hit, and its object can be had; inputs come from the bucket, too.
    let stream = two.execution().execute(case.request()).await.unwrap().into_inner();
    let response = finish(stream).await.unwrap();
    assert!(response.cached_result);
    assert_eq!(response.result.unwrap().output_files, result.output_files);
    let mut forced = case.clone();
    forced.skip_cache_lookup = true;
    let three = server(&s3).await;
    let stream = three.execution().execute(forced.request()).await.unwrap().into_inner();
    let response = finish(stream).await.unwrap();
    assert_eq!(response.status.unwrap().code, 0);
    assert!(!response.cached_result);
    assert_eq!(response.result.unwrap().output_files, result.output_files);
    assert!(three.download(result.output_files[0].digest.as_ref().unwrap()).await.starts_with(b"\x7fELF"));
    two.stop().await;
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_the_bucket_is_not_given_out() {
    let hidden = tempfile::tempdir().unwrap();
    let Some(s3) = s3(hidden.path()) else { return };
    let one = server(&s3).await;
    let blobs = [b"to be damaged".to_vec(), b"to be cut".to_vec(), b"to be emptied".to_vec(), large()];
    for blob in &blobs {
        write(&one, blob).await.unwrap();
    }
    let case = compile();
    one.result(&case).await;
    one.stop().await;

    let digests: Vec<Digest> = blobs.iter().map(|blob| Digest::of(blob)).collect();
    std::fs::write(object(&s3, &digests[0]), b"TO BE DAMAGED").unwrap();
    std::fs::write(object(&s3, &digests[1]), b"to be").unwrap();
    std::fs::write(object(&s3, &digests[2]), b"").unwrap();
    let mut damaged = blobs[3].clone();
    damaged[LARGE_BYTES - 1] ^= 1;
    std::fs::write(object(&s3, &digests[3]), damaged).unwrap();
    let results = s3.object("team/a/ac/sha256");
    let mut damaged_results = 0;
    for shard in std::fs::read_dir(results).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            std::fs::write(file.unwrap().path(), b"garbage").unwrap();
            damaged_results += 1;
        }
    }
    assert_eq!(damaged_results, 1);

    let two = server(&s3).await;
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert_eq!(read(&two, digest).await.unwrap_err().code(), Code::NotFound, "{digest}");
        // It is known to be gone, can be sent again, and is whole then.
        assert_eq!(two.find_missing(&[*digest]).await, 1, "{digest}");
        write(&two, blob).await.unwrap();
        assert!(std::fs::read(object(&s3, digest)).unwrap() == *blob, "{digest}");
        assert_eq!(two.find_missing(&[*digest]).await, 0, "{digest}");
    }
    let get =
        reapi::GetActionResultRequest { action_digest: Some(message(&case.digest())), ..Default::default() };
    let error = two.action_cache().get_action_result(get).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(two.result(&case).await.exit_code, 0);
    let three = server(&s3).await;
    assert!(three.execute(&case).await.unwrap().cached_result);
    two.stop().await;
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_is_away_nothing_hangs_and_nothing_is_lost() {
    let hidden = tempfile::tempdir().unwrap();
    let Some(mut s3) = s3(hidden.path()) else { return };
    let one = server(&s3).await;
    let (before, during) = (b"before".to_vec(), b"during".to_vec());
    one.upload(std::slice::from_ref(&before)).await;
    let (known, pending) = (compile(), Case::shell("echo made >out; echo said").outputs(&["out"]));
    one.result(&known).await;
    one.upload(&pending.blobs()).await;
    s3.kill();

    let began = Instant::now();
    assert_unavailable(&write(&one, &during).await.unwrap_err());
    let ask = reapi::FindMissingBlobsRequest {
        blob_digests: vec![message(&Digest::of(b"never seen"))],
        ..Default::default()
    };
    assert_unavailable(&one.storage().find_missing_blobs(ask).await.unwrap_err());
    assert_unavailable(&read(&one, &Digest::of(b"never seen")).await.unwrap_err());
    // In a batch the failure is the blob's.
    let request = reapi::BatchUpdateBlobsRequest {
        requests: vec![reapi::batch_update_blobs_request::Request {
            digest: Some(message(&Digest::of(b"in a batch"))),
            data: b"in a batch".to_vec(),
            compressor: 0,
        }],
        ..Default::default()
    };
    let response = one.storage().batch_update_blobs(request).await.unwrap().into_inner();
    assert_eq!(response.responses[0].status.as_ref().unwrap().code, i32::from(Code::Unavailable));
    // What the disk has, it gives; what was seen in the bucket is believed to be there.
    assert_eq!(read(&one, &Digest::of(&before)).await.unwrap(), before);
    assert_eq!(one.find_missing(&[Digest::of(&before)]).await, 0);
    let stream = one.execution().execute(known.request()).await.unwrap().into_inner();
    assert!(finish(stream).await.unwrap().cached_result);
    // An action that can run does, and is owed to the bucket: the client is to come back, not to have it run twice.
    let stream = one.execution().execute(pending.request()).await.unwrap().into_inner();
    let response = finish(stream).await.unwrap();
    assert_eq!(response.status.as_ref().unwrap().code, i32::from(Code::Unavailable), "{response:?}");
    assert!(!response.status.unwrap().details.is_empty());
    one.expect_count("executions", 2).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());

    s3.restart();
    let stream = one.execution().execute(pending.request()).await.unwrap().into_inner();
    let response = finish(stream).await.unwrap();
    assert_eq!(response.status.unwrap().code, 0);
    one.expect_count("executions", 2).await;
    // What the disk has of uploads that failed is put into the bucket when it is asked for; the rest is sent again.
    assert_eq!(one.find_missing(&[Digest::of(b"in a batch")]).await, 0);
    assert_eq!(one.find_missing(&[Digest::of(&during)]).await, 1);
    write(&one, &during).await.unwrap();
    one.stop().await;

    let two = server(&s3).await;
    for blob in [&before[..], b"during", b"in a batch"] {
        assert_eq!(read(&two, &Digest::of(blob)).await.unwrap(), blob);
    }
    let stream = two.execution().execute(pending.request()).await.unwrap().into_inner();
    let response = finish(stream).await.unwrap();
    assert!(response.cached_result);
    let output = two.download(response.result.unwrap().output_files[0].digest.as_ref().unwrap()).await;
    assert_eq!(output, b"made\n");
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_uploads() {
    let hidden = tempfile::tempdir().unwrap();
    let Some(mut s3) = s3(hidden.path()) else { return };
    let one = std::sync::Arc::new(server(&s3).await);
    let blobs: Vec<Vec<u8>> = (0..6u8)
        .map(|number| large().into_iter().map(|byte| byte.wrapping_add(number)).collect::<Vec<u8>>())
        .collect();
    let mut writes = tokio::task::JoinSet::new();
    for blob in blobs.clone() {
        let one = std::sync::Arc::clone(&one);
        writes.spawn(async move { (Digest::of(&blob), write(&one, &blob).await) });
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    s3.kill();
    let outcomes = writes.join_all().await;
    s3.restart();
    for (digest, outcome) in outcomes {
        match outcome {
            // What was promised is there, to the last byte.
            Ok(_) => assert!(digest.is_of(&std::fs::read(object(&s3, &digest)).unwrap()), "{digest}"),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
    for blob in &blobs {
        write(&one, blob).await.unwrap();
        assert!(std::fs::read(object(&s3, &Digest::of(blob))).unwrap() == *blob);
    }
    std::sync::Arc::into_inner(one).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_never_answers_is_given_up() {
    if !full_tier() {
        skipped("an S3 server that hangs", "it takes half a minute (FARCC_TESTS=full)");
        return;
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // Connections are taken up and left alone.
    let hanging = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            open.push(listener.accept().await.unwrap());
        }
    });
    let variables = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    let s3 = S3Options {
        url: "s3://farcc".to_owned(),
        endpoint: Some(endpoint),
        region: None,
        environment: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    };
    // It may come up later than the server.
    let server = Server::start_with(1, |options| options.s3 = Some(s3)).await;
    let began = Instant::now();
    assert_unavailable(&write(&server, b"blob").await.unwrap_err());
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    hanging.abort();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_at_the_start() {
    let hidden = tempfile::tempdir().unwrap();
    let Some(s3) = s3(hidden.path()) else { return };
    let refused = async |edit: fn(&mut S3Options)| {
        let directory = tempfile::tempdir().unwrap();
        let mut serve = ServeOptions::new(directory.path().to_owned(), 1);
        let mut s3 = options(&s3);
        edit(&mut s3);
        serve.s3 = Some(s3);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("{:#}", serve::run(listener, serve, std::future::pending()).await.unwrap_err())
    };
    let error = refused(|s3| s3.environment[1].1 = "wrong".to_owned()).await;
    assert!(error.contains("the credentials"), "{error}");
    // A bucket that is not there is not among them: s3s-fs makes one of what it is asked to write to.
    let error = refused(|s3| s3.url = "farcc".to_owned()).await;
    assert!(error.contains("s3://BUCKET"), "{error}");
    let error = refused(|s3| s3.endpoint = Some("http://192.0.2.1:9000".to_owned())).await;
    assert!(error.contains("clear text"), "{error}");
}

//! zstd on the wire: streams, batches, and what is not what it claims to be.

use super::cache::pieces;
use super::*;

const ZSTD: i32 = reapi::compressor::Value::Zstd as i32;

fn sample() -> Vec<u8> {
    (0..3_000_000u32).map(|index| (index / 11 % 253).to_le_bytes()[0]).collect()
}

/// A frame for each of several parts, as clients make them that compress piece by piece.
fn frames(blob: &[u8], part_bytes: usize) -> Vec<u8> {
    blob.chunks(part_bytes).flat_map(|part| zstd::bulk::compress(part, 3).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams() {
    let server = Server::start(1).await;
    let blob = sample();
    let digest = Digest::of(&blob);
    let name = format!("i/uploads/0123/compressed-blobs/zstd/{digest}");
    let stream = frames(&blob, 700_000);
    assert!(stream.len() < blob.len() / 10);
    let response = server.bytes().write(tokio_stream::iter(pieces(&name, &stream, 1000))).await.unwrap();
    // What clients compare with what they sent.
    assert_eq!(response.into_inner().committed_size, i64::try_from(stream.len()).unwrap());
    let query = bytestream::QueryWriteStatusRequest { resource_name: name.clone() };
    assert!(server.bytes().query_write_status(query).await.unwrap().into_inner().complete);
    // REAPI: -1 where the blob is there already.
    let again = server.bytes().write(tokio_stream::iter(pieces(&name, &stream, 1000))).await.unwrap();
    assert_eq!(again.into_inner().committed_size, -1);

    assert!(server.download(&message(&digest)).await == blob);
    let compressed = server.read(&format!("i/compressed-blobs/zstd/{digest}")).await.unwrap();
    assert!(compressed.len() < blob.len() / 10);
    assert!(zstd::stream::decode_all(&compressed[..]).unwrap() == blob);
    // The offset is one of the blob itself.
    for offset in [1, 2_999_999, 3_000_000] {
        let request = bytestream::ReadRequest {
            resource_name: format!("compressed-blobs/zstd/{digest}"),
            read_offset: offset,
            read_limit: 0,
        };
        let mut stream = server.bytes().read(request.clone()).await.unwrap().into_inner();
        let mut compressed = Vec::new();
        while let Some(piece) = stream.message().await.unwrap() {
            compressed.extend(piece.data);
        }
        let start = usize::try_from(offset).unwrap();
        assert!(zstd::stream::decode_all(&compressed[..]).unwrap() == blob[start..], "{offset}");
        let limited = bytestream::ReadRequest { read_limit: 10, ..request };
        assert_eq!(server.bytes().read(limited).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let absent = format!("compressed-blobs/zstd/{}", Digest::of(b"absent"));
    assert_eq!(server.read(&absent).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_streams_are_refused_and_leave_nothing() {
    let server = Server::start(1).await;
    let blob = sample();
    let digest = Digest::of(&blob);
    let name = format!("uploads/0123/compressed-blobs/zstd/{digest}");
    let good = frames(&blob, 1_000_000);
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 3).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for stream in [
        b"garbage".to_vec(),
        blob.clone(),
        good[..good.len() - 1].to_vec(),
        [good.clone(), b"behind".to_vec()].concat(),
        flipped,
        frames(&blob[1..], 1_000_000),
        frames(&[&blob[..], b"more"].concat(), 1_000_000),
        bomb,
    ] {
        let error = server.bytes().write(tokio_stream::iter(pieces(&name, &stream, 5000))).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    let mut shifted = pieces(&name, &good, 1000);
    // Offsets behind the first count compressed bytes.
    shifted[1].write_offset += 1;
    let error = server.bytes().write(tokio_stream::iter(shifted)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert_eq!(server.find_missing(&[digest]).await, 1);
    let temporary = server.directory.path().join("store/tmp");
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches() {
    let server = Server::start(1).await;
    let (large, tiny) = (vec![7; 1_000_000], b"tiny".to_vec());
    let bomb = vec![0; 1 << 20];
    let put = |digest: &Digest, data: Vec<u8>, compressor| reapi::batch_update_blobs_request::Request {
        digest: Some(message(digest)),
        data,
        compressor,
    };
    let compressed = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let request = reapi::BatchUpdateBlobsRequest {
        requests: vec![
            put(&Digest::of(&large), compressed(&large), ZSTD),
            put(&Digest::of(&tiny), tiny.clone(), 0),
            put(&Digest::of(b"not zstd"), b"not zstd".to_vec(), ZSTD),
            // One byte more than is announced.
            put(&Digest::of(&bomb[1..]), compressed(&bomb), ZSTD),
            put(&Digest::of(b"deflate"), b"deflate".to_vec(), reapi::compressor::Value::Deflate.into()),
        ],
        ..Default::default()
    };
    let response = server.storage().batch_update_blobs(request).await.unwrap().into_inner();
    let codes: Vec<i32> = response.responses.iter().map(|one| one.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, 0, 3, 3, 3]);

    // A batch that would grow without bounds is none.
    let huge = Digest::from_hex(&Digest::of(b"").hex(), 1 << 40).unwrap();
    let request = reapi::BatchUpdateBlobsRequest {
        requests: vec![put(&huge, compressed(&bomb), ZSTD)],
        ..Default::default()
    };
    let error = server.storage().batch_update_blobs(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let read = |acceptable_compressors: Vec<i32>| reapi::BatchReadBlobsRequest {
        digests: [&large, &tiny].map(|bytes| message(&Digest::of(bytes))).into(),
        acceptable_compressors,
        ..Default::default()
    };
    let plain = server.storage().batch_read_blobs(read(Vec::new())).await.unwrap().into_inner();
    assert!(plain.responses.iter().all(|one| one.compressor == 0));
    assert!(plain.responses[0].data == large && plain.responses[1].data == tiny);
    let response = server.storage().batch_read_blobs(read(vec![0, ZSTD])).await.unwrap().into_inner();
    assert_eq!(response.responses[0].compressor, ZSTD);
    assert!(zstd::bulk::decompress(&response.responses[0].data, large.len()).unwrap() == large);
    // What would only grow comes as it is.
    assert!(response.responses[1].compressor == 0 && response.responses[1].data == tiny);
    server.stop().await;
}

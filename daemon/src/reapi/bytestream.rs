//! Blobs too big for a batch: `google.bytestream.ByteStream`, one blob per stream.
//! Knows nothing of batches, nor of which blobs are wanted.

use std::io;
use std::sync::Mutex;

use bazel_remote_apis::google::bytestream::ReadRequest;
use bazel_remote_apis::google::bytestream::ReadResponse;
use bazel_remote_apis::google::bytestream::WriteRequest;
use bazel_remote_apis::google::bytestream::WriteResponse;
use bazel_remote_apis::google::bytestream::byte_stream_client::ByteStreamClient;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use uuid::Uuid;

use crate::compression::Compressor;
use crate::compression::Decompressor;
use crate::digest::Digest;
use crate::digest::Hasher;
use crate::reapi::Client;
use crate::reapi::MAX_RECEIVED_MESSAGE;
use crate::reapi::call::Attribution;
use crate::reapi::credentials::Wire;
use crate::reapi::error::Cause;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::retry::Tries;
use crate::reapi::upload::Blob;

/// Bytes in one `WriteRequest`: far below every server's message limit, and large against its overhead.
const CHUNK: usize = 256 << 10;
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 2;
/// A download that broke after this many bytes made progress: its tries count anew.
const PROGRESS: u64 = 4 << 20;

impl Client {
    /// Sends one blob by one stream. `Ok` also when the server ends the stream early: then it has the blob.
    pub(super) async fn write_stream(&self, blob: &Blob) -> Result<(), Error> {
        let calls = &self.shared.cas;
        let packs = self.capabilities().await?.zstd_streams;
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let doing = format!("upload blob {}", blob.digest);
        // A live connection is made first, because the stream of requests can be sent only once. Restarting at
        // byte 0 with a new name is right everywhere; not every server tells how far it came (bb-storage).
        let receiver = Mutex::new(Some(receiver));
        let resource_name = write_name(&self.shared.endpoint.resource_prefix(), &blob.digest, packs);
        let write = |wire: Wire| {
            let requests = lock(&receiver).take();
            let (attribution, resource_name) = (self.attribution.clone(), resource_name.clone());
            async move { write(wire, &attribution, &resource_name, requests).await }
        };
        let mut call = Box::pin(calls.over_connection(&doing, &write));
        let produced = tokio::select! {
            answer = &mut call => return self.written(blob, packs, &answer?.0),
            produced = self.produce(blob, packs, resource_name.clone(), &sender) => produced,
        };
        if let Err(Stopped::Because(error)) = produced {
            // Before the sender goes: the server is to see a stream broken off, not one that ended.
            drop(call);
            return Err(error);
        }
        drop(sender);
        let answered = tokio::time::timeout(calls.timeout, call).await;
        let (answer, _) = answered.map_err(|_| self.stalled(&doing))??;
        self.written(blob, packs, &answer)
    }

    /// Judges the server's answer.
    fn written(&self, blob: &Blob, packed: bool, answer: &WriteResponse) -> Result<(), Error> {
        // Of a packed stream servers tell -1, its own size, or the blob's: REAPI's header comment of
        // `ContentAddressableStorage` leaves it open what a packed upload that was there already is to say. -1 is
        // harmless elsewhere.
        let complete =
            i64::try_from(blob.digest.size_bytes()).is_ok_and(|size| answer.committed_size == size);
        if packed || complete || answer.committed_size == -1 {
            return Ok(());
        }
        let doing = self.shared.cas.doing(&format!("upload blob {}", blob.digest));
        let message = format!("{doing}: the server kept {} bytes", answer.committed_size);
        Err(Error::status(Code::Aborted, message))
    }

    /// Feeds the stream. The last chunk is held back until the digest of all is known to be right, so that
    /// wrong bytes are never committed.
    async fn produce(
        &self,
        blob: &Blob,
        packs: bool,
        resource_name: String,
        sender: &mpsc::Sender<WriteRequest>,
    ) -> Result<(), Stopped> {
        let mut reader = blob.open().await?;
        let mut hasher = Hasher::of(blob.digest.function());
        let broken = |error: io::Error| blob.mismatch(&format!("compress it: {error}"));
        let mut compressor = if packs { Some(Compressor::new().map_err(broken)?) } else { None };
        let mut resource_name = Some(resource_name);
        let (mut read_bytes, mut offset) = (0, 0);
        let mut held = read_chunk(blob, &mut reader).await?;
        loop {
            hasher.update(&held);
            let next = read_chunk(blob, &mut reader).await?;
            let last = next.is_empty();
            read_bytes += held.len() as u64;
            if read_bytes > blob.digest.size_bytes() || last && hasher.clone().finish() != blob.digest {
                return Err(Stopped::Because(blob.mismatch("its bytes are no longer those of its digest")));
            }
            let data = match compressor.as_mut() {
                None => held,
                Some(compressor) => compressor.compress(&held).map_err(broken)?,
            };
            let data = match compressor.take_if(|_| last) {
                None => data,
                Some(compressor) => [data, compressor.finish().map_err(broken)?].concat(),
            };
            held = next;
            // A compressor may keep what it got for later.
            if data.is_empty() && !last {
                continue;
            }
            let length = data.len() as u64;
            let request = WriteRequest {
                resource_name: resource_name.take().unwrap_or_default(),
                write_offset: i64::try_from(offset).unwrap_or(i64::MAX),
                finish_write: last,
                data,
            };
            match tokio::time::timeout(self.shared.cas.timeout, sender.send(request)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Stopped::ByServer),
                Err(_) => {
                    return Err(Stopped::Because(self.stalled(&format!("upload blob {}", blob.digest))));
                }
            }
            if last {
                return Ok(());
            }
            offset += length;
        }
    }

    /// Streams a blob into `sink` and verifies it. What was written must be thrown away on an error. A broken
    /// stream is taken up where it broke.
    ///
    /// # Errors
    /// `NotFound` with the digest as [missing](Error::missing_digests), [`Cause::Corrupt`] when other bytes
    /// came, [`Cause::LocalIo`] when `sink` failed, else as the call fails.
    pub async fn download_to<Sink>(&self, digest: &Digest, sink: &mut Sink) -> Result<(), Error>
    where
        Sink: AsyncWrite + Send + Unpin,
    {
        let mut hasher = Hasher::of(digest.function());
        let mut received = 0;
        let mut tries = Tries::new(self.shared.cas.retries);
        while received < digest.size_bytes() {
            let before = received;
            let Err(error) = self.read_stream(digest, &mut received, &mut hasher, sink).await else {
                continue;
            };
            if received - before >= PROGRESS {
                tries.reset();
            }
            let Some(pause) = tries.pause_after(&error) else {
                return Err(self.not_downloaded(digest, error));
            };
            tracing::debug!(%error, ?pause, "taking up a download again");
            tokio::time::sleep(pause).await;
        }
        if received != digest.size_bytes() || hasher.finish() != *digest {
            return Err(self.corrupt(digest));
        }
        sink.flush().await.map_err(|error| sink_failed(digest, &error))
    }

    /// Receives what the server sends from offset `received` on.
    async fn read_stream<Sink>(
        &self,
        digest: &Digest,
        received: &mut u64,
        hasher: &mut Hasher,
        sink: &mut Sink,
    ) -> Result<(), Error>
    where
        Sink: AsyncWrite + Send + Unpin,
    {
        let calls = &self.shared.cas;
        let doing = format!("download blob {digest}");
        let packed = self.capabilities().await?.zstd_streams;
        let broken = |_| self.corrupt(digest);
        let mut decompressor = match packed {
            true => Some(Decompressor::new(digest.size_bytes().saturating_sub(*received)).map_err(broken)?),
            false => None,
        };
        let request = ReadRequest {
            resource_name: read_name(&self.shared.endpoint.resource_prefix(), digest, packed),
            read_offset: i64::try_from(*received).unwrap_or(i64::MAX),
            read_limit: 0,
        };
        let read = |wire: Wire| {
            let request = self.attribution.request_about(&request.resource_name, request.clone());
            let mut client = ByteStreamClient::new(wire).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
            async move { client.read(request).await }
        };
        let begun = tokio::time::timeout(calls.timeout, calls.over_connection(&doing, &read)).await;
        let (mut stream, _lease): (Streaming<ReadResponse>, _) =
            begun.map_err(|_| self.stalled(&doing))??;
        while *received < digest.size_bytes() {
            let next = tokio::time::timeout(calls.timeout, next_bytes(&mut stream)).await;
            let bytes = next.map_err(|_| self.stalled(&doing))?;
            let Some(bytes) = bytes.map_err(|status| calls.failed(&doing, &status))? else {
                let message = format!("{}: the stream ended at byte {received}", calls.doing(&doing));
                return Err(Error::status(Code::Aborted, message));
            };
            let bytes = match &mut decompressor {
                Some(decompressor) => {
                    let mut unpacked = Vec::new();
                    decompressor.write(&bytes, &mut unpacked).map_err(broken)?;
                    unpacked
                }
                None => bytes,
            };
            *received += bytes.len() as u64;
            if *received > digest.size_bytes() {
                return Err(self.corrupt(digest));
            }
            hasher.update(&bytes);
            sink.write_all(&bytes).await.map_err(|error| sink_failed(digest, &error))?;
        }
        Ok(())
    }

    fn stalled(&self, doing: &str) -> Error {
        let calls = &self.shared.cas;
        let message = format!("{}: no progress within {:?}", calls.doing(doing), calls.timeout);
        Error::status(Code::DeadlineExceeded, message)
    }

    /// The error for bytes that are not those of `digest`.
    pub(super) fn corrupt(&self, digest: &Digest) -> Error {
        let doing = self.shared.cas.doing(&format!("download blob {digest}"));
        Error::new(Code::DataLoss, Cause::Corrupt(*digest), format!("{doing}: other bytes came"))
    }

    /// Names the digest in a NOT_FOUND, and stops believing that it is there.
    pub(super) fn not_downloaded(&self, digest: &Digest, error: Error) -> Error {
        if error.code() != Code::NotFound {
            return error;
        }
        self.shared.presence.forget([digest]);
        Error::new(Code::NotFound, Cause::Missing(vec![*digest]), error.to_string())
    }
}

/// Why no more chunks are produced.
enum Stopped {
    /// The server takes no more; its answer says why.
    ByServer,
    /// The blob cannot be sent.
    Because(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        Stopped::Because(error)
    }
}

async fn write(
    wire: Wire,
    attribution: &Attribution,
    resource_name: &str,
    requests: Option<mpsc::Receiver<WriteRequest>>,
) -> Result<Response<WriteResponse>, Status> {
    let Some(requests) = requests else {
        return Err(Status::unavailable("the connection was lost before the first chunk"));
    };
    let requests = attribution.request_about(resource_name, ReceiverStream::new(requests));
    ByteStreamClient::new(wire).write(requests).await
}

async fn read_chunk(blob: &Blob, reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
    let mut chunk = Vec::new();
    let read = reader.take(CHUNK as u64).read_to_end(&mut chunk).await;
    read.map_err(|error| blob.mismatch(&error.to_string()))?;
    Ok(chunk)
}

/// The next bytes, or `None` at the end. A message without bytes is no progress.
async fn next_bytes(stream: &mut Streaming<ReadResponse>) -> Result<Option<Vec<u8>>, Status> {
    while let Some(response) = stream.message().await? {
        if !response.data.is_empty() {
            return Ok(Some(response.data));
        }
    }
    Ok(None)
}

fn sink_failed(digest: &Digest, error: &std::io::Error) -> Error {
    Error::new(Code::Internal, Cause::LocalIo, format!("write downloaded blob {digest}: {error}"))
}

/// REAPI, header comment of `ContentAddressableStorage`.
fn write_name(prefix: &str, digest: &Digest, packed: bool) -> String {
    format!("{prefix}uploads/{}/{}", Uuid::new_v4(), read_name("", digest, packed))
}

fn read_name(prefix: &str, digest: &Digest, packed: bool) -> String {
    let kind = if packed { "compressed-blobs/zstd" } else { "blobs" };
    format!("{prefix}{kind}/{}{digest}", digest.function().path_segment())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestFunction;

    #[test]
    fn resource_names() {
        let digest = Digest::of(b"abc");
        let hash = digest.hex();
        assert_eq!(read_name("", &digest, false), format!("blobs/{hash}/3"));
        assert_eq!(read_name("a/b/", &digest, false), format!("a/b/blobs/{hash}/3"));
        let blake3 = DigestFunction::Blake3.digest(b"abc");
        assert_eq!(read_name("", &blake3, false), format!("blobs/blake3/{}/3", blake3.hex()));
        let packed = format!("i/compressed-blobs/zstd/blake3/{}/3", blake3.hex());
        assert_eq!(read_name("i/", &blake3, true), packed);
        let sha1 = DigestFunction::Sha1.digest(b"abc");
        assert_eq!(read_name("", &sha1, false), format!("blobs/{}/3", sha1.hex()));
        let name = write_name("main/", &digest, false);
        let uuid =
            name.strip_prefix("main/uploads/").unwrap().strip_suffix(&format!("/blobs/{hash}/3")).unwrap();
        assert_eq!(Uuid::parse_str(uuid).unwrap().get_version_num(), 4);
    }
}

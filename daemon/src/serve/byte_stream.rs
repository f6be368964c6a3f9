//! `ByteStream`: blobs of any size, in pieces.
//! Knows nothing of batches. An upload that breaks off starts again from nothing.

use std::io;
use std::io::Read;
use std::io::Write;
use std::pin::Pin;

use bazel_remote_apis::google::bytestream::QueryWriteStatusRequest;
use bazel_remote_apis::google::bytestream::QueryWriteStatusResponse;
use bazel_remote_apis::google::bytestream::ReadRequest;
use bazel_remote_apis::google::bytestream::ReadResponse;
use bazel_remote_apis::google::bytestream::WriteRequest;
use bazel_remote_apis::google::bytestream::WriteResponse;
use bazel_remote_apis::google::bytestream::byte_stream_server::ByteStream;
use futures::Stream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

use super::Served;
use super::messages::blocking;
use super::messages::size_message;
use super::messages::store_status;
use super::resource_name;
use super::resource_name::ResourceName;
use crate::digest::Digest;
use crate::store::BlobReader;
use crate::store::BlobWriter;

/// Large enough that a message costs little, small enough for every client's limit.
const PIECE_BYTES: usize = 256 * 1024;

#[tonic::async_trait]
impl ByteStream for Served {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let ResourceName::Read(digest) = parse(&request.resource_name)? else {
            return Err(Status::invalid_argument("an upload cannot be read"));
        };
        let Ok(offset) = u64::try_from(request.read_offset) else {
            return Err(Status::out_of_range("the read offset is negative"));
        };
        let Ok(limit) = u64::try_from(request.read_limit) else {
            return Err(Status::invalid_argument("the read limit is negative"));
        };
        if offset > digest.size_bytes() {
            return Err(Status::out_of_range(format!(
                "the read offset {offset} is behind the end of {digest}"
            )));
        }
        let reader = blocking(self, move |served| {
            let reader = served.store.open_blob(&digest, offset).map_err(store_status)?;
            reader.ok_or_else(|| Status::not_found(format!("blob {digest}")))
        })
        .await?;
        self.counters.add(|counters| &counters.blobs_read, 1);
        // Limit 0 means none (google.bytestream.ReadRequest).
        let wanted = if limit == 0 { reader.remaining_bytes() } else { limit.min(reader.remaining_bytes()) };
        let served = self.clone();
        // Each piece is read when the last one was taken: a client that stalls holds no thread.
        let stream = futures::stream::unfold(Some((reader, wanted)), move |state| {
            let served = served.clone();
            async move {
                let (reader, wanted) = state.filter(|(_, wanted)| *wanted > 0)?;
                match blocking(&served, move |_| read_piece(reader, wanted)).await {
                    Ok((piece, state)) => Some((Ok(ReadResponse { data: piece }), Some(state))),
                    Err(status) => Some((Err(status), None)),
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let mut messages = request.into_inner();
        let Some(mut message) = messages.message().await? else {
            return Err(Status::invalid_argument("the upload has no message"));
        };
        let name = message.resource_name.clone();
        let ResourceName::Write(digest) = parse(&name)? else {
            return Err(Status::invalid_argument(format!("{name:?} is no name for an upload")));
        };
        let committed_size = size_message(digest.size_bytes());
        if blocking(self, move |served| Ok(served.store.contains(&digest))).await? {
            // REAPI: an upload of what is there ends at once, with the full size.
            return Ok(Response::new(WriteResponse { committed_size }));
        }
        let mut writer = blocking(self, |served| served.store.writer().map_err(store_status)).await?;
        loop {
            if !message.resource_name.is_empty() && message.resource_name != name {
                return Err(Status::invalid_argument("the resource name changes within the upload"));
            }
            if u64::try_from(message.write_offset).ok() != Some(writer.size_bytes()) {
                let problem =
                    format!("the write offset is {}, not {}", message.write_offset, writer.size_bytes());
                return Err(Status::invalid_argument(problem));
            }
            if writer.size_bytes() + message.data.len() as u64 > digest.size_bytes() {
                return Err(Status::invalid_argument(format!("the upload is longer than {digest}")));
            }
            let is_last = message.finish_write;
            writer = blocking(self, move |_| write_piece(writer, &message.data)).await?;
            if is_last {
                break;
            }
            message = match messages.message().await? {
                Some(message) => message,
                None => return Err(Status::invalid_argument("the upload ends without finish_write")),
            };
        }
        blocking(self, move |_| commit(writer, &digest)).await?;
        self.counters.add(|counters| &counters.blobs_uploaded, 1);
        self.counters.add(|counters| &counters.bytes_uploaded, digest.size_bytes());
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let ResourceName::Write(digest) = parse(&request.into_inner().resource_name)? else {
            return Err(Status::invalid_argument("the name is no name for an upload"));
        };
        let complete = blocking(self, move |served| Ok(served.store.contains(&digest))).await?;
        let committed_size = if complete { size_message(digest.size_bytes()) } else { 0 };
        Ok(Response::new(QueryWriteStatusResponse { committed_size, complete }))
    }
}

fn parse(name: &str) -> Result<ResourceName, Status> {
    resource_name::parse(name).map_err(Status::invalid_argument)
}

/// The next piece, and what is left to do.
fn read_piece(mut reader: BlobReader, wanted: u64) -> Result<(Vec<u8>, (BlobReader, u64)), Status> {
    let size = usize::try_from(wanted).unwrap_or(usize::MAX).min(PIECE_BYTES);
    let mut piece = vec![0; size];
    reader.read_exact(&mut piece).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Status::data_loss(error.to_string()),
        _ => Status::internal(format!("read a blob: {error}")),
    })?;
    Ok((piece, (reader, wanted - size as u64)))
}

fn write_piece(mut writer: BlobWriter, piece: &[u8]) -> Result<BlobWriter, Status> {
    match writer.write_all(piece) {
        Ok(()) => Ok(writer),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            Err(Status::resource_exhausted(format!("store an upload: {error}")))
        }
        Err(error) => Err(Status::internal(format!("store an upload: {error}"))),
    }
}

fn commit(writer: BlobWriter, digest: &Digest) -> Result<(), Status> {
    writer.commit(digest).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Status::invalid_argument(error.source.to_string()),
        _ => store_status(error),
    })
}

//! `ByteStream`: blobs of any size, in pieces.
//! Knows nothing of batches. An upload that breaks off starts again from nothing.

use std::io;
use std::io::Read;
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
use super::resource_name::BlobName;
use super::resource_name::Encoding;
use super::resource_name::read_name;
use super::resource_name::write_name;
use super::upload::Upload;
use crate::compression::compressing;

/// Large enough that a message costs little, small enough for every client's limit.
const PIECE_BYTES: usize = 256 * 1024;

#[tonic::async_trait]
impl ByteStream for Served {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let BlobName { digest, encoding } =
            read_name(&request.resource_name).map_err(Status::invalid_argument)?;
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
        if encoding == Encoding::Zstd && limit > 0 {
            return Err(Status::invalid_argument("a compressed blob is read without a limit"));
        }
        let reader = self.cas.open(&digest, offset).await?;
        let reader = reader.ok_or_else(|| Status::not_found(format!("blob {digest}")))?;
        self.counters.add(|counters| &counters.blobs_read, 1);
        let reader: Box<dyn Read + Send> = match encoding {
            // Limit 0 means none (google.bytestream.ReadRequest).
            Encoding::Identity => Box::new(reader.take(if limit == 0 { u64::MAX } else { limit })),
            Encoding::Zstd => {
                compressing(reader).map_err(|error| Status::internal(format!("compress a blob: {error}")))?
            }
        };
        // Each piece is read when the last one was taken: a client that stalls holds no thread.
        let stream = futures::stream::unfold(Some(reader), |reader| async move {
            let reader = reader?;
            match blocking(move || read_piece(reader)).await {
                Ok((piece, _)) if piece.is_empty() => None,
                Ok((piece, rest)) => Some((Ok(ReadResponse { data: piece }), rest)),
                Err(status) => Some((Err(status), None)),
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
        let blob = write_name(&name).map_err(Status::invalid_argument)?;
        let digest = blob.digest;
        self.check_size(&digest)?;
        if self.cas.keep(&digest).await? {
            // REAPI, `ContentAddressableStorage`: an upload of what is there ends at once.
            let committed_size = match blob.encoding {
                Encoding::Identity => size_message(digest.size_bytes()),
                Encoding::Zstd => -1,
            };
            return Ok(Response::new(WriteResponse { committed_size }));
        }
        let disk = self.cas.disk().clone();
        let mut upload = blocking(move || Upload::new(&disk, &blob)).await?;
        loop {
            if !message.resource_name.is_empty() && message.resource_name != name {
                return Err(Status::invalid_argument("the resource name changes within the upload"));
            }
            if u64::try_from(message.write_offset).ok() != Some(upload.received_bytes()) {
                let (found, expected) = (message.write_offset, upload.received_bytes());
                return Err(Status::invalid_argument(format!("the write offset is {found}, not {expected}")));
            }
            let is_last = message.finish_write;
            upload = blocking(move || upload.write(&message.data).map(|()| upload)).await?;
            if is_last {
                break;
            }
            message = match messages.message().await? {
                Some(message) => message,
                None => return Err(Status::invalid_argument("the upload ends without finish_write")),
            };
        }
        let received_bytes = blocking(move || upload.commit()).await?;
        if !self.cas.keep_new(&digest).await? {
            return Err(Status::internal(format!("blob {digest} was stored and is gone")));
        }
        self.counters.add(|counters| &counters.blobs_uploaded, 1);
        self.counters.add(|counters| &counters.bytes_uploaded, digest.size_bytes());
        Ok(Response::new(WriteResponse { committed_size: size_message(received_bytes) }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let name = request.into_inner().resource_name;
        let digest = write_name(&name).map_err(Status::invalid_argument)?.digest;
        let complete = self.cas.keep(&digest).await?;
        let committed_size = if complete { size_message(digest.size_bytes()) } else { 0 };
        Ok(Response::new(QueryWriteStatusResponse { committed_size, complete }))
    }
}

/// The next piece, empty at the end, and the reader if there may be more.
fn read_piece<R: Read>(reader: R) -> Result<(Vec<u8>, Option<R>), Status> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut limited = reader.take(PIECE_BYTES as u64);
    limited.read_to_end(&mut piece).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Status::data_loss(error.to_string()),
        _ => Status::internal(format!("read a blob: {error}")),
    })?;
    let is_full = piece.len() == PIECE_BYTES;
    Ok((piece, is_full.then(|| limited.into_inner())))
}

//! zstd, as blobs have it on the wire.
//! Knows nothing of calls; trusts nothing that it decompresses.

use std::io;
use std::io::Read;
use std::io::Write;

use zstd::stream::raw::Decoder;
use zstd::stream::raw::Operation;
use zstd::stream::write::Encoder;

/// Fast: links to clusters are faster than any of zstd's better levels, and processors have actions and compiles to run.
const LEVEL: i32 = 1;

/// Blobs smaller than this do not become smaller (Bazel's `--experimental_remote_cache_compression_threshold`).
const THRESHOLD_BYTES: usize = 100;

/// Frames and blocks around nothing: what a blob may take compressed besides twice its size.
const OVERHEAD_BYTES: u64 = 1 << 20;

/// Decompresses a stream of frames that comes in pieces (RFC 8878, section 3: frames are independent and follow each
/// other), into no more than it was told to expect. Its memory is that of one window, of which only as much is ever
/// touched as was decompressed.
pub struct Decompressor {
    decoder: Decoder<'static>,
    buffer: Vec<u8>,
    left_bytes: u64,
    left_input_bytes: u64,
    is_between_frames: bool,
}

impl Decompressor {
    /// For a stream that makes `size_bytes`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(size_bytes: u64) -> io::Result<Decompressor> {
        Ok(Decompressor {
            decoder: Decoder::new()?,
            buffer: vec![0; 128 * 1024],
            left_bytes: size_bytes,
            left_input_bytes: size_bytes.saturating_mul(2).saturating_add(OVERHEAD_BYTES),
            is_between_frames: true,
        })
    }

    /// Decompresses the next piece of the stream into `to`.
    ///
    /// # Errors
    /// `InvalidData` when it is no zstd, or becomes larger than it should; else what `to` fails with.
    pub fn write(&mut self, mut input: &[u8], to: &mut impl Write) -> io::Result<()> {
        // Skippable frames make nothing, for as long as anybody sends them.
        self.left_input_bytes = self
            .left_input_bytes
            .checked_sub(input.len() as u64)
            .ok_or_else(|| invalid("the compressed stream goes on far behind what the blob can take"))?;
        if input.is_empty() {
            // Asked several times with nothing, the decoder takes it for a caller that hangs.
            return Ok(());
        }
        loop {
            let status = self
                .decoder
                .run_on_buffers(input, &mut self.buffer)
                .map_err(|error| invalid(&format!("decompress zstd: {error}")))?;
            input = &input[status.bytes_read..];
            self.left_bytes = self
                .left_bytes
                .checked_sub(status.bytes_written as u64)
                .ok_or_else(|| invalid("the decompressed bytes are more than the digest says"))?;
            to.write_all(&self.buffer[..status.bytes_written])?;
            if status.bytes_read > 0 || status.bytes_written > 0 {
                self.is_between_frames = status.remaining == 0;
            }
            // A full buffer may hide more that is ready.
            if input.is_empty() && status.bytes_written < self.buffer.len() {
                return Ok(());
            }
            if status.bytes_read == 0 && status.bytes_written == 0 {
                return Err(invalid("decompress zstd: the decoder does not go on"));
            }
        }
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// `InvalidData` in the middle of a frame.
    pub fn finish(&self) -> io::Result<()> {
        if self.is_between_frames { Ok(()) } else { Err(invalid("the compressed stream breaks off")) }
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// All of `bytes`, decompressed into exactly `size_bytes`.
///
/// # Errors
/// As [`Decompressor`].
pub fn decompress(bytes: &[u8], size_bytes: u64) -> io::Result<Vec<u8>> {
    let mut decompressor = Decompressor::new(size_bytes)?;
    let mut decompressed = Vec::new();
    decompressor.write(bytes, &mut decompressed)?;
    decompressor.finish()?;
    Ok(decompressed)
}

/// `bytes` as one frame; `None` when that would be no smaller.
pub fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() < THRESHOLD_BYTES {
        return None;
    }
    zstd::bulk::compress(bytes, LEVEL).ok().filter(|compressed| compressed.len() < bytes.len())
}

/// What `reader` yields, as one frame.
///
/// # Errors
/// When there is no memory for it.
pub fn compressing(reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(zstd::stream::read::Encoder::new(reader, LEVEL)?))
}

/// Compresses a stream that comes in pieces, as one frame.
pub struct Compressor(Encoder<'static, Vec<u8>>);

impl Compressor {
    /// For a stream of any length.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> io::Result<Compressor> {
        Ok(Compressor(Encoder::new(Vec::new(), LEVEL)?))
    }

    /// What is to be sent after the next piece; there may be nothing yet.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn compress(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        self.0.write_all(piece)?;
        Ok(std::mem::take(self.0.get_mut()))
    }

    /// The last bytes; there always are some.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn sample() -> Vec<u8> {
        (0..400_000u32).map(|index| (index / 7 % 251) as u8).collect()
    }

    #[test]
    fn frames_follow_each_other_in_pieces_of_any_size() {
        let sample = sample();
        let (first, second) = sample.split_at(150_000);
        let mut stream = compress(first).unwrap();
        // RFC 8878, 3.1.2: a skippable frame of three bytes.
        stream.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        stream.extend(compress(second).unwrap());
        stream.extend(zstd::bulk::compress(b"", 1).unwrap());
        for size in [1, 7, 1000, stream.len()] {
            let mut decompressor = Decompressor::new(sample.len() as u64).unwrap();
            let mut decompressed = Vec::new();
            for piece in stream.chunks(size) {
                decompressor.write(piece, &mut decompressed).unwrap();
            }
            decompressor.finish().unwrap();
            assert!(decompressed == sample, "{size}");
        }
        let mut read = Vec::new();
        compressing(io::Cursor::new(sample.clone())).unwrap().read_to_end(&mut read).unwrap();
        assert!(decompress(&read, sample.len() as u64).unwrap() == sample);
        assert_eq!(decompress(b"", 0).unwrap(), b"");
    }

    #[test]
    fn a_stream_that_is_compressed_in_pieces_is_whole() {
        let sample = sample();
        let mut compressor = Compressor::new().unwrap();
        let mut sent = Vec::new();
        for piece in sample.chunks(1000) {
            sent.extend(compressor.compress(piece).unwrap());
        }
        let last = compressor.finish().unwrap();
        assert!(!last.is_empty());
        sent.extend(last);
        assert!(sent.len() < sample.len() / 10);
        assert!(decompress(&sent, sample.len() as u64).unwrap() == sample);
    }

    #[test]
    fn what_would_not_become_smaller_is_left() {
        assert_eq!(compress(b"short"), None);
        let random = (0..50_u64).flat_map(|number| Digest::of(&number.to_le_bytes()).hash().to_vec());
        assert_eq!(compress(&random.collect::<Vec<u8>>()), None);
    }

    #[test]
    fn bombs_and_garbage_are_invalid() {
        let sample = sample();
        let stream = compress(&sample).unwrap();
        let bomb = compress(&vec![0; 64 << 20]).unwrap();
        let mut endless = Vec::new();
        while endless.len() < 3 << 20 {
            endless.extend([0x50, 0x2a, 0x4d, 0x18, 0, 0, 1, 0]);
            endless.resize(endless.len() + (1 << 16), 0);
        }
        for (bytes, size) in [
            (&b"garbage that is no zstd"[..], 100),
            (&stream, sample.len() as u64 - 1),
            (&stream[..stream.len() - 1], sample.len() as u64),
            (&bomb, 1 << 20),
            (&endless, 10),
            (&[&stream[..], b"behind"].concat(), sample.len() as u64),
        ] {
            let error = decompress(bytes, size).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}

//! Content of files in parts, as it travels (`farcc.twin.v1`, `Piece`).
//! Knows nothing of who wants it.

use std::io;
use std::io::Read;
use std::io::Write;

use farcc_proto::twin;

use crate::compression::compress;
use crate::compression::decompress;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::mirror::decode_digest;
use crate::mirror::encode_digest;
use crate::store::BlobWriter;
use crate::store::Store;
use crate::store::StoreError;

/// The largest part, in bytes, before it is compressed.
const LARGEST: usize = 1 << 20;

/// The parts of one content, in order.
pub struct Pieces<R> {
    digest: Digest,
    from: R,
    offset: u64,
    is_over: bool,
}

impl<R: Read> Pieces<R> {
    /// Those of the content with this digest, which `from` gives from its beginning on.
    pub fn new(digest: Digest, from: R) -> Pieces<R> {
        Pieces { digest, from, offset: 0, is_over: false }
    }

    fn next_piece(&mut self) -> io::Result<twin::Piece> {
        let left = self.digest.size_bytes() - self.offset;
        let mut part = vec![0; LARGEST.min(usize::try_from(left).unwrap_or(LARGEST))];
        self.from.read_exact(&mut part)?;
        let offset_bytes = self.offset;
        self.offset += part.len() as u64;
        self.is_over = self.offset == self.digest.size_bytes();
        let size_bytes = u32::try_from(part.len()).unwrap_or(u32::MAX);
        let (data, compression) = match compress(&part) {
            Some(packed) => (packed, twin::Compression::Zstd),
            None => (part, twin::Compression::None),
        };
        Ok(twin::Piece {
            digest: Some(encode_digest(&self.digest)),
            offset_bytes,
            data,
            compression: compression.into(),
            size_bytes,
        })
    }
}

impl<R: Read> Iterator for Pieces<R> {
    type Item = io::Result<twin::Piece>;

    /// An error ends the parts: the file has less in it than it had.
    fn next(&mut self) -> Option<io::Result<twin::Piece>> {
        if self.is_over {
            return None;
        }
        let piece = self.next_piece();
        self.is_over |= piece.is_err();
        Some(piece)
    }
}

/// Why what came is not kept.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// The sender is mistaken, or hostile; what about it.
    #[error("take in a content: {0}")]
    Invalid(&'static str),
    /// The bytes are not those of the digest.
    #[error("take in {0}: other bytes came")]
    Corrupt(Digest),
    /// It cannot be written here.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be written here.
    #[error("write {0}: {1}")]
    Write(Digest, io::Error),
}

/// Takes parts in, and puts what is whole into a store.
pub struct Receiver {
    function: DigestFunction,
    store: Store,
    under_way: Option<(Digest, BlobWriter)>,
}

impl Receiver {
    /// For contents whose digests are of that function.
    pub fn new(store: &Store, function: DigestFunction) -> Receiver {
        Receiver { function, store: store.with_function(function), under_way: None }
    }

    /// Takes one part in. With the last one the content is in the store, and its digest is returned.
    ///
    /// # Errors
    /// [`PieceError`]: nothing is kept of this content.
    pub fn take(&mut self, piece: &twin::Piece) -> Result<Option<Digest>, PieceError> {
        let invalid = PieceError::Invalid;
        let digest = piece.digest.as_ref().and_then(|digest| decode_digest(self.function, digest));
        let digest = digest.ok_or(invalid("its digest is damaged"))?;
        let (known, mut writer) = match self.under_way.take() {
            None if piece.offset_bytes == 0 => (digest, self.store.writer()?),
            None => return Err(invalid("its beginning is missing")),
            Some(under_way) => under_way,
        };
        if known != digest || writer.size_bytes() != piece.offset_bytes {
            return Err(invalid("its parts are out of order"));
        }
        let size = piece.size_bytes as usize;
        if size > LARGEST || (size == 0 && !digest.is_empty()) {
            return Err(invalid("a part has a size that none may have"));
        }
        let is_packed = piece.compression() == twin::Compression::Zstd;
        let unpacked = match is_packed {
            true => decompress(&piece.data, size as u64).map_err(|_| PieceError::Corrupt(digest))?,
            false => Vec::new(),
        };
        let part = if is_packed { &unpacked } else { &piece.data };
        if part.len() != size || writer.size_bytes() + part.len() as u64 > digest.size_bytes() {
            return Err(invalid("a part is longer than it says"));
        }
        writer.write_all(part).map_err(|error| PieceError::Write(digest, error))?;
        if writer.size_bytes() < digest.size_bytes() {
            self.under_way = Some((digest, writer));
            return Ok(None);
        }
        writer.commit(&digest)?;
        Ok(Some(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), 1 << 30).unwrap();
        (directory, store)
    }

    fn pieces(bytes: &[u8]) -> Vec<twin::Piece> {
        Pieces::new(Digest::of(bytes), bytes).map(Result::unwrap).collect()
    }

    #[test]
    fn what_was_taken_apart_is_whole_again() {
        let (_directory, store) = store();
        let mut receiver = Receiver::new(&store, DigestFunction::Sha256);
        let long: Vec<u8> =
            (0..(5 << 19)).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let exact = vec![7; LARGEST];
        for (bytes, count) in [(&b""[..], 1), (b"a", 1), (&exact, 1), (&long, 3)] {
            let pieces = pieces(bytes);
            assert_eq!(pieces.len(), count);
            let taken: Vec<_> = pieces.iter().map(|piece| receiver.take(piece).unwrap()).collect();
            assert_eq!(taken.last().unwrap(), &Some(Digest::of(bytes)));
            assert!(taken[..count - 1].iter().all(Option::is_none));
            assert_eq!(store.read(&Digest::of(bytes)).unwrap().unwrap(), bytes);
        }
    }

    #[test]
    fn a_file_that_became_shorter_ends_in_an_error() {
        let mut pieces = Pieces::new(Digest::of(b"abc"), &b"ab"[..]);
        assert!(pieces.next().unwrap().is_err() && pieces.next().is_none());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (_directory, store) = store();
        let two = pieces(&vec![1; LARGEST + 1]);
        let refused = |damage: &dyn Fn(&mut Vec<twin::Piece>)| {
            let mut pieces = two.clone();
            damage(&mut pieces);
            let mut receiver = Receiver::new(&store, DigestFunction::Sha256);
            pieces
                .iter()
                .map(|piece| receiver.take(piece))
                .find_map(Result::err)
                .map(|error| error.to_string())
        };
        assert_eq!(refused(&|_| ()), None);
        type Damage<'a> = &'a dyn Fn(&mut Vec<twin::Piece>);
        let damages: [(Damage<'_>, &str); 8] = [
            (&|pieces| pieces[0].digest = None, "its digest is damaged"),
            (&|pieces| drop(pieces.remove(0)), "its beginning is missing"),
            (&|pieces| pieces[1] = pieces[0].clone(), "its parts are out of order"),
            (
                &|pieces| pieces[1].digest = Some(encode_digest(&Digest::of(b"x"))),
                "its parts are out of order",
            ),
            (&|pieces| pieces[0].size_bytes += 1, "a part has a size that none may have"),
            (&|pieces| pieces[1].size_bytes = 0, "a part has a size that none may have"),
            (&|pieces| pieces[1].data.push(0), "a part is longer than it says"),
            (&|pieces| pieces[0].data.truncate(9), "other bytes came"),
        ];
        for (damage, expected) in damages {
            let message = refused(damage).unwrap();
            assert!(message.contains(expected), "{message}");
        }
        let forged = refused(&|pieces| pieces[1].data = vec![2]).unwrap();
        assert!(forged.contains("the bytes have digest"), "{forged}");
    }
}

//! The identity of a blob: the hash of its bytes, and their number.
//! Knows neither where a blob is kept nor what it means.

use std::fmt;
use std::io;
use std::io::Read;
use std::str::FromStr;

use sha1::Sha1;
use sha2::Digest as _;
use sha2::Sha256;

/// How much of a file is read at a time, in bytes. On the stack: a heap would clear that much memory for each small file.
pub const BUFFER_BYTES: usize = 32 * 1024;

/// How digests are computed. Everything on this machine is kept under SHA-256; clusters may want another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestFunction {
    /// SHA-256, which every server is expected to have.
    #[default]
    Sha256,
    /// BLAKE3 with 256 bits.
    Blake3,
    /// SHA-1, for clusters that are older than their users would like.
    Sha1,
}

impl DigestFunction {
    /// All of them.
    pub const ALL: [DigestFunction; 3] =
        [DigestFunction::Sha256, DigestFunction::Blake3, DigestFunction::Sha1];

    /// Its name in lower case, as in configuration files and resource names.
    pub fn name(self) -> &'static str {
        match self {
            DigestFunction::Sha256 => "sha256",
            DigestFunction::Blake3 => "blake3",
            DigestFunction::Sha1 => "sha1",
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hash = [0; 32];
        match self {
            DigestFunction::Sha256 => hash = Sha256::digest(bytes).into(),
            DigestFunction::Blake3 => hash = blake3::hash(bytes).into(),
            DigestFunction::Sha1 => hash[..20].copy_from_slice(&Sha1::digest(bytes)),
        }
        Digest { hash, size_bytes: bytes.len() as u64, function: self }
    }

    /// A digest from its two fields; `hash` is lower-case hexadecimal.
    ///
    /// # Errors
    /// When `hash` has another length than this function's hashes, or is not lower-case hexadecimal.
    pub fn parse(self, hash: &str, size_bytes: u64) -> Result<Digest, InvalidDigest> {
        let invalid = |problem| InvalidDigest { text: hash.to_owned(), problem };
        let hex = hash.as_bytes();
        let length = self.hash_bytes();
        if hex.len() != 2 * length {
            return Err(invalid(match self {
                DigestFunction::Sha1 => "the hash is not 40 characters long",
                DigestFunction::Sha256 | DigestFunction::Blake3 => "the hash is not 64 characters long",
            }));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(invalid("the hash is not lower-case hexadecimal"));
            };
            *byte = high << 4 | low;
        }
        Ok(Digest { hash: bytes, size_bytes, function: self })
    }

    /// The length of its hashes in bytes.
    fn hash_bytes(self) -> usize {
        match self {
            DigestFunction::Sha256 | DigestFunction::Blake3 => 32,
            DigestFunction::Sha1 => 20,
        }
    }
}

/// A REAPI digest: hash and size in bytes. The size is part of the identity (REAPI, message `Digest`), and so is the
/// function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    /// Shorter hashes are filled up with zeros.
    hash: [u8; 32],
    size_bytes: u64,
    function: DigestFunction,
}

/// Why a text or a message is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse digest {text:?}: {problem}")]
pub struct InvalidDigest {
    /// The text that was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        DigestFunction::Sha256.digest(bytes)
    }

    /// The SHA-256 digest of the zero-length blob, which every CAS holds (REAPI, `ContentAddressableStorage`).
    pub fn empty() -> Digest {
        Digest::of(b"")
    }

    /// The SHA-256 digest of all that `reader` still yields.
    ///
    /// # Errors
    /// Whatever the reader fails with.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<Digest> {
        let mut hasher = Hasher::new();
        hasher.read(reader)?;
        Ok(hasher.finish())
    }

    /// A SHA-256 digest from its two fields; `hash` is lower-case hexadecimal.
    ///
    /// # Errors
    /// When `hash` is not 64 lower-case hexadecimal digits.
    pub fn from_hex(hash: &str, size_bytes: u64) -> Result<Digest, InvalidDigest> {
        DigestFunction::Sha256.parse(hash, size_bytes)
    }

    /// Whether it is the digest of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.size_bytes == bytes.len() as u64 && self.function.digest(bytes) == *self
    }

    /// A digest of this function from the bytes of its hash; None: they are too few or too many.
    pub fn from_hash(function: DigestFunction, hash: &[u8], size_bytes: u64) -> Option<Digest> {
        let mut whole = [0; 32];
        if hash.len() != function.hash_bytes() {
            return None;
        }
        whole[..hash.len()].copy_from_slice(hash);
        Some(Digest { hash: whole, size_bytes, function })
    }

    /// The hash in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.hash() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// The bytes of the hash: 20 of SHA-1, else 32.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.function.hash_bytes()]
    }

    /// The size of the blob in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How it was computed.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// Whether it is that of the zero-length blob.
    pub fn is_empty(&self) -> bool {
        self.size_bytes == 0
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// `hash/size`, as in REAPI resource names.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.hex(), self.size_bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads what `Display` writes of a SHA-256 digest: `hash/size`.
impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Digest, InvalidDigest> {
        let invalid = |problem| InvalidDigest { text: text.to_owned(), problem };
        let (hash, size) = text.split_once('/').ok_or_else(|| invalid("it has no `/`"))?;
        let size_bytes = size.parse().map_err(|_| invalid("the size is not a number"))?;
        Digest::from_hex(hash, size_bytes)
    }
}

/// Computes a digest from pieces.
#[derive(Clone, Default)]
pub struct Hasher {
    state: State,
    size_bytes: u64,
}

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    // Ten times as large as the others.
    Blake3(Box<blake3::Hasher>),
    Sha1(Sha1),
}

impl Default for State {
    fn default() -> State {
        State::Sha256(Sha256::new())
    }
}

impl Hasher {
    /// A SHA-256 hasher that has seen nothing.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// A hasher for `function` that has seen nothing.
    pub fn of(function: DigestFunction) -> Hasher {
        let state = match function {
            DigestFunction::Sha256 => State::default(),
            DigestFunction::Blake3 => State::Blake3(Box::default()),
            DigestFunction::Sha1 => State::Sha1(Sha1::new()),
        };
        Hasher { state, size_bytes: 0 }
    }

    /// Appends `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Sha1(hasher) => hasher.update(bytes),
        }
        self.size_bytes += bytes.len() as u64;
    }

    /// Appends all that `reader` still yields.
    ///
    /// # Errors
    /// Whatever the reader fails with.
    pub fn read(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends a length-prefixed field, so that two different lists of fields never hash alike.
    pub fn field(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// The digest of everything so far.
    pub fn finish(self) -> Digest {
        let mut hash = [0; 32];
        let function = match self.state {
            State::Sha256(hasher) => {
                hash = hasher.finalize().into();
                DigestFunction::Sha256
            }
            State::Blake3(hasher) => {
                hash = hasher.finalize().into();
                DigestFunction::Blake3
            }
            State::Sha1(hasher) => {
                hash[..20].copy_from_slice(&hasher.finalize());
                DigestFunction::Sha1
            }
        };
        Digest { hash, size_bytes: self.size_bytes, function }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_known_vector() {
        let abc = Digest::of(b"abc");
        assert_eq!(abc.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/3");
        assert_eq!(abc.to_string().parse(), Ok(abc));
        assert_eq!(Digest::of_reader(&mut &b"abc"[..]).ok(), Some(abc));
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in ["", "abc/3", "zz/1", &format!("{}/x", "a".repeat(64)), &format!("{}/1", "A".repeat(64))]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn fields_do_not_run_together() {
        let hash = |fields: &[&str]| {
            let mut hasher = Hasher::new();
            fields.iter().for_each(|field| hasher.field(field.as_bytes()));
            hasher.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }

    #[test]
    fn every_function_hashes_in_one_piece_and_in_many() {
        // FIPS 180-4 and the BLAKE3 reference.
        for (function, abc) in [
            (DigestFunction::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/3"),
            (DigestFunction::Blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85/3"),
            (DigestFunction::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d/3"),
        ] {
            let digest = function.digest(b"abc");
            assert_eq!(digest.to_string(), abc);
            assert_eq!(digest.function(), function);
            let mut hasher = Hasher::of(function);
            b"abc".chunks(2).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), digest);
            assert_eq!(function.parse(&digest.hex(), 3), Ok(digest));
            assert!(digest.is_of(b"abc") && !digest.is_of(b"abd"));
        }
        assert_ne!(DigestFunction::Blake3.parse(&Digest::of(b"a").hex(), 1), Ok(Digest::of(b"a")));
        assert!(DigestFunction::Sha1.parse(&Digest::of(b"a").hex(), 1).is_err());
    }
}

//! The identity of a blob: the SHA-256 of its bytes, and their number.
//! Knows neither where a blob is kept nor what it means.

use std::fmt;
use std::io;
use std::io::Read;
use std::str::FromStr;

use sha2::Digest as _;
use sha2::Sha256;

/// A REAPI digest: SHA-256 hash and size in bytes. The size is part of the identity
/// (REAPI, message `Digest`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    hash: [u8; 32],
    size_bytes: u64,
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
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest { hash: Sha256::digest(bytes).into(), size_bytes: bytes.len() as u64 }
    }

    /// The digest of the zero-length blob, which every CAS holds (REAPI, `ContentAddressableStorage`).
    pub fn empty() -> Digest {
        Digest::of(b"")
    }

    /// The digest of all that `reader` still yields.
    ///
    /// # Errors
    /// Whatever the reader fails with.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<Digest> {
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A digest from its two fields; `hash` is lower-case hexadecimal.
    ///
    /// # Errors
    /// When `hash` is not 64 lower-case hexadecimal digits.
    pub fn from_hex(hash: &str, size_bytes: u64) -> Result<Digest, InvalidDigest> {
        let invalid = |problem| InvalidDigest { text: hash.to_owned(), problem };
        let hex = hash.as_bytes();
        if hex.len() != 64 {
            return Err(invalid("the hash is not 64 characters long"));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(invalid("the hash is not lower-case hexadecimal"));
            };
            *byte = high << 4 | low;
        }
        Ok(Digest { hash: bytes, size_bytes })
    }

    /// The hash in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.hash {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// The 32 bytes of the hash.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The size of the blob in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
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

/// Reads what `Display` writes: `hash/size`.
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
    sha256: Sha256,
    size_bytes: u64,
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Appends `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    /// Appends a length-prefixed field, so that two different lists of fields never hash alike.
    pub fn field(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// The digest of everything so far.
    pub fn finish(self) -> Digest {
        Digest { hash: self.sha256.finalize().into(), size_bytes: self.size_bytes }
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
}

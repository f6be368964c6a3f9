//! Digests as protobuf messages, to and fro.
//! Knows nothing of the messages that contain them.

use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::digest::InvalidDigest;
use crate::reapi::proto;

impl From<&Digest> for proto::Digest {
    fn from(digest: &Digest) -> proto::Digest {
        // No file reaches 2^63 bytes.
        let size_bytes = i64::try_from(digest.size_bytes()).unwrap_or(i64::MAX);
        proto::Digest { hash: digest.hex(), size_bytes }
    }
}

impl From<Digest> for proto::Digest {
    fn from(digest: Digest) -> proto::Digest {
        proto::Digest::from(&digest)
    }
}

/// Reads a SHA-256 digest, which all are that stay on this machine.
impl TryFrom<&proto::Digest> for Digest {
    type Error = InvalidDigest;

    fn try_from(message: &proto::Digest) -> Result<Digest, InvalidDigest> {
        DigestFunction::Sha256.read(message)
    }
}

impl DigestFunction {
    /// The digest in a message, which does not say how it was computed.
    ///
    /// # Errors
    /// When the size is negative, or the hash none of this function.
    pub fn read(self, message: &proto::Digest) -> Result<Digest, InvalidDigest> {
        let size_bytes = u64::try_from(message.size_bytes)
            .map_err(|_| InvalidDigest { text: message.hash.clone(), problem: "the size is negative" })?;
        self.parse(&message.hash, size_bytes)
    }

    /// The digest in an optional field, if it is there and valid.
    pub(super) fn read_field(self, field: Option<&proto::Digest>) -> Option<Digest> {
        field.and_then(|message| self.read(message).ok())
    }

    /// Its number in requests, where it is always set (REAPI, `digest_function` of each request).
    pub fn number(self) -> i32 {
        use proto::digest_function::Value;
        i32::from(match self {
            DigestFunction::Sha256 => Value::Sha256,
            DigestFunction::Blake3 => Value::Blake3,
            DigestFunction::Sha1 => Value::Sha1,
        })
    }

    /// The function of a number in a message; none for those that are not spoken here.
    pub fn from_number(number: i32) -> Option<DigestFunction> {
        DigestFunction::ALL.into_iter().find(|function| function.number() == number)
    }

    /// What stands before the hash in resource names and in the subjects of violations: `blake3/`, and nothing for the
    /// functions that are told apart by the length of their hashes (REAPI, header comment of
    /// `ContentAddressableStorage`).
    pub fn path_segment(self) -> &'static str {
        match self {
            DigestFunction::Sha256 | DigestFunction::Sha1 => "",
            DigestFunction::Blake3 => "blake3/",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let digest = Digest::of(b"abc");
        assert_eq!(Digest::try_from(&proto::Digest::from(&digest)), Ok(digest));
    }

    #[test]
    fn invalid_messages_are_refused() {
        let valid = proto::Digest::from(Digest::of(b"abc"));
        for message in [
            proto::Digest { size_bytes: -1, ..valid.clone() },
            proto::Digest { hash: valid.hash.to_uppercase(), ..valid.clone() },
            proto::Digest::default(),
        ] {
            assert!(Digest::try_from(&message).is_err(), "{message:?}");
        }
    }
}

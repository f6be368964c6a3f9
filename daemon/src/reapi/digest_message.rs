//! Digests as protobuf messages, to and fro.
//! Knows nothing of the messages that contain them.

use crate::digest::Digest;
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

impl TryFrom<&proto::Digest> for Digest {
    type Error = InvalidDigest;

    fn try_from(message: &proto::Digest) -> Result<Digest, InvalidDigest> {
        let size_bytes = u64::try_from(message.size_bytes)
            .map_err(|_| InvalidDigest { text: message.hash.clone(), problem: "the size is negative" })?;
        Digest::from_hex(&message.hash, size_bytes)
    }
}

/// The digest in an optional field, if it is there and valid.
pub(super) fn digest_field(field: Option<&proto::Digest>) -> Option<Digest> {
    field.and_then(|message| Digest::try_from(message).ok())
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

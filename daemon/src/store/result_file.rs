//! The form of an action result in a file or another store: a mark, the SHA-256 of the message, the message.
//! Knows nothing of where it lies.

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use prost::Message;

use crate::digest::Digest;

/// Names the format; another format gets another mark, and then old entries are misses.
const MARK: &[u8; 8] = b"farccar1";

/// No action result is longer; a longer file was not written by a store.
pub const MAX_SIZE_BYTES: u64 = 64 << 20;

/// The form of `result`.
pub fn encode(result: &ActionResult) -> Vec<u8> {
    let message = result.encode_to_vec();
    let mut bytes = MARK.to_vec();
    bytes.extend_from_slice(Digest::of(&message).hash());
    bytes.extend_from_slice(&message);
    bytes
}

/// The result in a file's bytes, if they are exactly what [`encode`] made.
pub fn decode(bytes: &[u8]) -> Option<ActionResult> {
    let rest = bytes.strip_prefix(MARK)?;
    let (hash, message) = rest.split_at_checked(32)?;
    (Digest::of(message).hash() == hash).then(|| ActionResult::decode(message).ok())?
}

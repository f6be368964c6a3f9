//! What was written lately in a workspace, as it was told: whoever writes it may have gone on by the time that the twin asks for it.
//! Knows nothing of batches.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::io::Read as _;
use std::sync::Arc;

use crate::digest::Digest;
use crate::mirror::KnownFile;

/// Larger files are not kept: what is written all the time, such as the logs of build tools, is small.
pub(super) const LARGEST_BYTES: u64 = 256 << 10;

/// All together.
const MOST_BYTES: usize = 16 << 20;

/// Contents, the oldest first.
#[derive(Default)]
pub(super) struct Recent {
    contents: HashMap<Digest, Arc<[u8]>>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Recent {
    /// Keeps the content of a file, if that is still what it was told to be.
    pub(super) fn keep(&mut self, digest: Digest, file: &KnownFile) {
        if self.contents.contains_key(&digest) || digest.size_bytes() > LARGEST_BYTES {
            return;
        }
        let mut bytes = Vec::new();
        let read = file.open().and_then(|file| file.take(LARGEST_BYTES + 1).read_to_end(&mut bytes));
        if read.is_err() || Digest::of(&bytes) != digest {
            return;
        }
        self.bytes += bytes.len();
        self.contents.insert(digest, bytes.into());
        self.order.push_back(digest);
        while self.bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { return };
            self.bytes -= self.contents.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }

    /// What is kept of this digest.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.contents.get(digest).cloned()
    }
}

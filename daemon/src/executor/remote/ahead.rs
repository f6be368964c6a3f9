//! Inputs on their way to a cluster before it is known whether they are needed.
//! Knows nothing of actions.

use tokio::task::JoinHandle;

use crate::digest::Digest;
use crate::reapi::Blob;
use crate::reapi::Client;
use crate::reapi::Error;
use crate::reapi::UploadStats;

/// Blobs of so many bytes in all are sent without asking whether they are there: the messages of a new action and the source
/// that was changed, seldom more.
const UNASKED_BYTES: u64 = 64 * 1024;

/// An upload under way; dropping it breaks it off.
pub struct Ahead {
    action: Digest,
    upload: JoinHandle<Result<UploadStats, Error>>,
}

impl Ahead {
    /// Begins to send the `blobs` that `action` needs.
    pub(super) fn start(client: Client, action: Digest, blobs: Vec<Blob>) -> Ahead {
        let upload = async move { client.upload_unasked(blobs, UNASKED_BYTES).await };
        Ahead { action, upload: tokio::spawn(upload) }
    }

    /// Whether it is all that `action` needs.
    pub(super) fn is_for(&self, action: &Digest) -> bool {
        self.action == *action
    }

    /// Waits for the end of it. None: it failed, and who needs the blobs sends them again, and is told why.
    pub(super) async fn landed(mut self) -> Option<UploadStats> {
        (&mut self.upload).await.ok().and_then(Result::ok)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.upload.abort();
    }
}

//! Inputs on their way to a cluster before it is known whether they are needed.
//! Knows nothing of actions.

use tokio::task::JoinHandle;

use crate::digest::Digest;
use crate::reapi::Blob;
use crate::reapi::Client;
use crate::reapi::Error;
use crate::reapi::UploadStats;

/// An upload under way; dropping it breaks it off.
pub struct Ahead {
    action: Digest,
    upload: JoinHandle<Result<UploadStats, Error>>,
}

impl Ahead {
    /// Begins to send the `blobs` that `action` needs.
    pub(super) fn start(client: Client, action: Digest, blobs: Vec<Blob>) -> Ahead {
        Ahead { action, upload: tokio::spawn(async move { client.upload(blobs).await }) }
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

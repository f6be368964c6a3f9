//! Inputs on their way to a cluster before it is known whether they are needed.
//! Knows nothing of actions.

use tokio::task::JoinHandle;

use crate::reapi::Blob;
use crate::reapi::Client;
use crate::reapi::Error;
use crate::reapi::UploadStats;

/// An upload under way; dropping it breaks it off.
pub struct Ahead(JoinHandle<Result<UploadStats, Error>>);

impl Ahead {
    /// Begins to send `blobs`.
    pub(super) fn start(client: Client, blobs: Vec<Blob>) -> Ahead {
        Ahead(tokio::spawn(async move { client.upload(blobs).await }))
    }

    /// Waits for the end of it. Nothing was sent where it failed: who needs the blobs sends them again, and is told why.
    pub(super) async fn landed(mut self) -> UploadStats {
        (&mut self.0).await.ok().and_then(Result::ok).unwrap_or_default()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

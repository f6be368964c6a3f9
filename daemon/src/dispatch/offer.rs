//! What was made here, for everybody: offers the results of local runs to the cluster.
//! Nobody waits for it but a daemon that drains.

use crate::digest::Digest;
use crate::dispatch::Dispatcher;
use crate::dispatch::Kept;
use crate::stats::Offer;

impl Dispatcher {
    /// Offers a result that was made here to the cluster, which may not execute, or could not; and counts what becomes of
    /// the offer.
    pub async fn offer(&self, kept: Kept) {
        let Ok(Some(cluster)) = self.cluster(&kept.config) else { return };
        if !kept.config.exec.upload_local_results {
            return;
        }
        let files = kept.result.output_files.iter().map(|file| file.digest.as_ref());
        let messages = [kept.result.stdout_digest.as_ref(), kept.result.stderr_digest.as_ref()];
        let outputs = files.chain(messages).filter_map(|digest| {
            let digest = Digest::try_from(digest?).ok()?;
            Some((digest, kept.store.blob_path(&digest)))
        });
        let outputs: Vec<_> = outputs.collect();
        let mut result = kept.result;
        let rooted = self.workers.offered(&kept.action, &kept.config).await;
        let Some(rooted) = rooted.filter(|rooted| rooted.result_there(&mut result)) else { return };
        match cluster.executor.offer(&rooted.action, result, &outputs).await {
            Ok(offered) => {
                tracing::debug!("offered {}: {}", kept.action.digest, offered.is_taken);
                let offer = if offered.is_taken { Offer::Taken } else { Offer::Refused };
                self.stats.offered(offer, offered.sent_bytes);
            }
            Err(error) => {
                tracing::info!("failed to offer a result to the cluster: {error}");
                self.stats.offered(Offer::Failed, 0);
            }
        }
    }
}

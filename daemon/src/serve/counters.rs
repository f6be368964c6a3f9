//! What a server has done, for people and tests.
//! Knows nothing of what the counts are of.

use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;

/// How often `status.json` is written at most. The last state is always written.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);

/// The counters of a server since its start. `status.json` has them under the fields' names, and `address`
/// (`ip:port`) and `pid` besides.
#[derive(Debug)]
pub struct Counters {
    address: SocketAddr,
    changed: Notify,
    /// Commands that ran in the sandbox, to their end or into a limit.
    pub executions: AtomicU64,
    /// Executions that ended without a result: invalid, missing inputs, timed out, cancelled.
    pub failures: AtomicU64,
    /// Calls of `Execute` that were answered from the action cache.
    pub cached: AtomicU64,
    /// Calls of `Execute` that joined an execution in flight.
    pub merged: AtomicU64,
    /// Calls of `GetActionResult` that found one.
    pub action_cache_hits: AtomicU64,
    /// Calls of `GetActionResult` that found none, or one whose blobs are gone.
    pub action_cache_misses: AtomicU64,
    /// Results that clients stored.
    pub action_cache_updates: AtomicU64,
    /// Blobs that clients uploaded.
    pub blobs_uploaded: AtomicU64,
    /// Bytes that clients uploaded.
    pub bytes_uploaded: AtomicU64,
    /// Blobs that clients read.
    pub blobs_read: AtomicU64,
    /// Requests to the bucket that ask whether a blob is there.
    pub bucket_questions: AtomicU64,
    /// Blobs and results that were asked of the bucket.
    pub bucket_reads: AtomicU64,
    /// Blobs and results that were put into the bucket.
    pub bucket_writes: AtomicU64,
}

impl Counters {
    pub(super) fn new(address: SocketAddr) -> Counters {
        Counters {
            address,
            changed: Notify::new(),
            executions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            merged: AtomicU64::new(0),
            action_cache_hits: AtomicU64::new(0),
            action_cache_misses: AtomicU64::new(0),
            action_cache_updates: AtomicU64::new(0),
            blobs_uploaded: AtomicU64::new(0),
            bytes_uploaded: AtomicU64::new(0),
            blobs_read: AtomicU64::new(0),
            bucket_questions: AtomicU64::new(0),
            bucket_reads: AtomicU64::new(0),
            bucket_writes: AtomicU64::new(0),
        }
    }

    /// Adds to one of the counters.
    pub(super) fn add(&self, counter: impl FnOnce(&Counters) -> &AtomicU64, count: u64) {
        counter(self).fetch_add(count, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn to_json(&self) -> serde_json::Value {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "address": self.address.to_string(),
            "pid": std::process::id(),
            "executions": count(&self.executions),
            "failures": count(&self.failures),
            "cached": count(&self.cached),
            "merged": count(&self.merged),
            "action_cache_hits": count(&self.action_cache_hits),
            "action_cache_misses": count(&self.action_cache_misses),
            "action_cache_updates": count(&self.action_cache_updates),
            "blobs_uploaded": count(&self.blobs_uploaded),
            "bytes_uploaded": count(&self.bytes_uploaded),
            "blobs_read": count(&self.blobs_read),
            "bucket_questions": count(&self.bucket_questions),
            "bucket_reads": count(&self.bucket_reads),
            "bucket_writes": count(&self.bucket_writes),
        })
    }

    /// Replaces `status.json` as a whole, so that no reader sees half of it.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
        writeln!(temporary, "{}", self.to_json())?;
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Writes `status.json` after each change, for ever.
    pub(super) async fn keep_written(self: Arc<Self>, path: PathBuf) {
        loop {
            self.changed.notified().await;
            let (counters, path) = (Arc::clone(&self), path.clone());
            let written = tokio::task::spawn_blocking(move || counters.write(&path)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!("failed to write status.json: {error}");
            }
            tokio::time::sleep(WRITE_INTERVAL).await;
        }
    }
}

//! How much is on the way to a cluster and back at a time, over all commands.
//! Knows nothing of what it is.

use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;

/// What all transfers together may hold in memory, in KiB. Far away, many small ones have to be under way at once, each of
/// which takes a round trip; of large ones, a few fill the line.
const ROOM_KIB: u32 = 64 << 10;

/// What each takes up at least, in KiB: so that there are never more of them than a server may be asked for.
const LEAST_KIB: u32 = 32;

/// The room for transfers.
pub(super) struct Transfers(Semaphore);

impl Default for Transfers {
    fn default() -> Transfers {
        Transfers(Semaphore::new(ROOM_KIB as usize))
    }
}

impl Transfers {
    /// Waits until there is room for one of `bytes`, for as long as the answer is kept. One that is larger than all of the
    /// room goes alone.
    pub(super) async fn admit(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(ROOM_KIB).clamp(LEAST_KIB, ROOM_KIB);
        // It is never closed.
        self.0.acquire_many(kib).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    // Outside of tokio, which lets no task go on for ever.
    #[test]
    fn many_small_ones_or_a_few_large_ones() {
        let transfers = Transfers::default();
        let mut small = Vec::new();
        while let Some(Some(permit)) = transfers.admit(100).now_or_never() {
            small.push(permit);
        }
        assert_eq!(small.len(), (ROOM_KIB / LEAST_KIB) as usize);
        drop(small);
        let batches: Vec<_> =
            std::iter::from_fn(|| transfers.admit(4 << 20).now_or_never().flatten()).collect();
        assert_eq!(batches.len(), 16);
        drop(batches);
        let huge = transfers.admit(u64::MAX).now_or_never().flatten();
        assert!(huge.is_some() && transfers.admit(0).now_or_never().is_none());
    }
}

//! Work that several callers want at the same time, done once.
//! Knows nothing of what the work is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::future::Shared;
use tokio::sync::watch;
use tonic::Code;

use crate::digest::Digest;
use crate::reapi::error::Error;
use crate::reapi::lock;

/// One piece of work that has a result for everybody. It runs in a task of its own, so that it does not die
/// with the caller that happened to be first.
pub(super) struct SingleFlight<T: Clone> {
    current: Mutex<Option<Joined<T>>>,
}

/// What every caller waits for.
type Joined<T> = Shared<BoxFuture<'static, Result<T, Error>>>;

impl<T: Clone> Default for SingleFlight<T> {
    fn default() -> SingleFlight<T> {
        SingleFlight { current: Mutex::new(None) }
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// The result of the work under way, or of `work` if there is none. What ended before this call counts as
    /// over: `work` looks for itself whether there is still anything to do.
    pub(super) async fn run(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let flight = {
            let mut current = lock(&self.current);
            match &*current {
                Some(flight) => flight.clone(),
                None => {
                    let landed = Landed(Arc::clone(self));
                    let task = tokio::spawn(async move {
                        let _landed = landed;
                        work.await
                    });
                    let flight = task.map(|joined| joined.unwrap_or_else(|_| Err(broken_off()))).boxed();
                    current.insert(flight.shared()).clone()
                }
            }
        };
        flight.await
    }
}

/// Ends the flight when the work is done, has panicked or was dropped.
struct Landed<T: Clone>(Arc<SingleFlight<T>>);

impl<T: Clone> Drop for Landed<T> {
    fn drop(&mut self) {
        *lock(&self.0.current) = None;
    }
}

/// What a caller sees when shared work ended without a result.
pub(super) fn broken_off() -> Error {
    Error::status(Code::Internal, "finish work shared with another command: it was broken off".to_owned())
}

type Landing = watch::Receiver<Option<Result<(), Error>>>;

/// The uploads in flight, at most one per digest.
#[derive(Default)]
pub(super) struct Flights {
    flying: Arc<Mutex<HashMap<Digest, Landing>>>,
}

/// A caller's part in the upload of a digest.
pub(super) enum Seat {
    /// Nobody uploads it: the caller must.
    Leader(Flight),
    /// Somebody does.
    Follower(Follower),
}

impl Flights {
    /// Takes a seat in the upload of `digest`.
    pub(super) fn board(&self, digest: Digest) -> Seat {
        let mut flying = lock(&self.flying);
        if let Some(landing) = flying.get(&digest) {
            return Seat::Follower(Follower(landing.clone()));
        }
        let (sender, landing) = watch::channel(None);
        flying.insert(digest, landing);
        Seat::Leader(Flight { digest, sender, flying: Arc::clone(&self.flying) })
    }
}

/// The leader's duty; dropping it without [`land`](Flight::land) tells the followers to upload for themselves.
pub(super) struct Flight {
    digest: Digest,
    sender: watch::Sender<Option<Result<(), Error>>>,
    flying: Arc<Mutex<HashMap<Digest, Landing>>>,
}

impl Flight {
    /// Tells the followers how it went.
    pub(super) fn land(self, result: Result<(), Error>) {
        self.sender.send_replace(Some(result));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        lock(&self.flying).remove(&self.digest);
    }
}

/// Waits for somebody else's upload.
pub(super) struct Follower(Landing);

impl Follower {
    /// How it went; `None` when the leader gave up for a reason of its own.
    pub(super) async fn outcome(mut self) -> Option<Result<(), Error>> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|result| result.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_survives_its_first_caller_and_is_done_once() {
        let single = Arc::new(SingleFlight::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let work = |runs: &Arc<AtomicUsize>| {
            let runs = Arc::clone(runs);
            async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(runs.fetch_add(1, Ordering::SeqCst))
            }
        };
        let first = single.run(work(&runs));
        assert!(tokio::time::timeout(Duration::from_millis(5), first).await.is_err());
        assert_eq!(single.run(work(&runs)).await, Ok(0));
        // What is over is not joined.
        assert_eq!(single.run(work(&runs)).await, Ok(1));
    }

    #[tokio::test]
    async fn a_panic_reaches_callers_as_an_error_and_ends_the_flight() {
        let single = Arc::new(SingleFlight::<()>::default());
        let error = single.run(async { panic!("deliberate") }).await.unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert_eq!(single.run(async { Ok(()) }).await, Ok(()));
    }

    #[tokio::test]
    async fn followers_of_a_dropped_leader_are_told() {
        let flights = Flights::default();
        let digest = Digest::of(b"a");
        let Seat::Leader(flight) = flights.board(digest) else { panic!("nobody else is there") };
        let Seat::Follower(follower) = flights.board(digest) else { panic!("there is a leader") };
        drop(flight);
        assert_eq!(follower.outcome().await, None);
        let Seat::Leader(flight) = flights.board(digest) else { panic!("the leader is gone") };
        let Seat::Follower(follower) = flights.board(digest) else { panic!("there is a leader") };
        flight.land(Ok(()));
        assert_eq!(follower.outcome().await, Some(Ok(())));
    }
}

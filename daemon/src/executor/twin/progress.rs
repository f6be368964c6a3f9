//! How far the two sides of a session have come with each other, and what can be concluded when nothing goes on.
//! Knows nothing of messages.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Batches: which were told, and which the twin has put into place.
pub(super) struct Batches(watch::Sender<Told>);

#[derive(Clone, Copy)]
struct Told {
    told: u64,
    applied: u64,
    /// When something was last heard, or said that the twin had asked for.
    since: Instant,
}

impl Batches {
    /// None was told yet.
    pub(super) fn new() -> Batches {
        Batches(watch::Sender::new(Told { told: 0, applied: 0, since: Instant::now() }))
    }

    /// Something goes on.
    pub(super) fn stirred(&self) {
        self.0.send_modify(|batches| batches.since = Instant::now());
    }

    /// The batch with this number is being told.
    pub(super) fn told(&self, sequence: u64) {
        self.0.send_modify(|batches| (batches.told, batches.since) = (sequence, Instant::now()));
    }

    /// The twin says that the batch with this number is in place; `false`: it was not told of it.
    pub(super) fn applied(&self, sequence: u64) -> bool {
        let mut is_known = false;
        self.0.send_modify(|batches| {
            is_known = sequence <= batches.told;
            batches.applied = batches.applied.max(sequence);
            batches.since = Instant::now();
        });
        is_known
    }

    /// Whether one is in place.
    pub(super) fn has_applied(&self) -> bool {
        self.0.borrow().applied > 0
    }

    /// Ready when the twin should have done something for that long, and has not.
    pub(super) async fn stalled(&self, patience: Duration) {
        let mut batches = self.0.subscribe();
        loop {
            let Told { told, applied, since } = *batches.borrow_and_update();
            // There is a sender as long as there is `self`.
            let changed = batches.changed();
            if applied >= told {
                let _ = changed.await;
            } else if tokio::time::timeout_at(since + patience, changed).await.is_err() {
                return;
            }
        }
    }
}

/// Commands' changes, which are put into place in the order of the twin's commits.
pub(super) struct Commits(watch::Sender<Order>);

#[derive(Default)]
struct Order {
    /// How many are in place here.
    in_place: u64,
    /// Those that have come and are not in place yet.
    come: BTreeSet<u64>,
    /// Commands of which it is not known yet whether they have changed anything.
    open: usize,
}

/// A command of which it is not known yet whether it has changed anything.
pub(super) struct Open<'a>(&'a Commits);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|order| order.open -= 1);
    }
}

/// The twin numbers commits as none would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("commit {0} does not come after those before it")]
pub(super) struct OutOfOrder(u64);

impl Commits {
    /// There are none yet.
    pub(super) fn new() -> Commits {
        Commits(watch::Sender::default())
    }

    /// A command is about to be started.
    pub(super) fn open(&self) -> Open<'_> {
        self.0.send_modify(|order| order.open += 1);
        Open(self)
    }

    /// The changes of a command have come, as this commit.
    ///
    /// # Errors
    /// [`OutOfOrder`]: others have that number, or none has it.
    pub(super) fn come(&self, command: Open<'_>, commit: u64) -> Result<(), OutOfOrder> {
        let mut is_new = false;
        self.0.send_modify(|order| is_new = commit > order.in_place && order.come.insert(commit));
        // Only now, so that nobody takes it for one that never comes.
        drop(command);
        if is_new { Ok(()) } else { Err(OutOfOrder(commit)) }
    }

    /// Ready when all changes before those of this commit, which have come, are in place here.
    ///
    /// # Errors
    /// [`OutOfOrder`]: no command is left that could have been the one before.
    pub(super) async fn is_next(&self, commit: u64) -> Result<(), OutOfOrder> {
        let mut order = self.0.subscribe();
        let is_decided = |order: &Order| {
            order.in_place + 1 == commit || order.open == 0 && !order.come.contains(&(order.in_place + 1))
        };
        // There is a sender as long as there is `self`.
        let in_place = order.wait_for(is_decided).await.map(|order| order.in_place).unwrap_or_default();
        if in_place + 1 == commit { Ok(()) } else { Err(OutOfOrder(commit)) }
    }

    /// The changes of this commit, the next one, are in place here.
    pub(super) fn in_place(&self, commit: u64) {
        self.0.send_modify(|order| {
            order.come.remove(&commit);
            order.in_place = commit;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// How long it takes until nothing is expected any more.
    async fn stalls(batches: &Batches) -> Option<Duration> {
        let started = Instant::now();
        let stalled = tokio::time::timeout(10 * PATIENCE, batches.stalled(PATIENCE)).await;
        stalled.is_ok().then(|| started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_twin_stalls_that_has_something_to_do_and_does_nothing() {
        let batches = Batches::new();
        assert_eq!(stalls(&batches).await, None);
        batches.told(1);
        let stirring = async {
            tokio::time::sleep(PATIENCE / 2).await;
            batches.stirred();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            stalled = stalls(&batches) => assert_eq!(stalled.unwrap().as_secs(), PATIENCE.as_secs() * 3 / 2),
            () = stirring => {}
        }
        assert!(batches.applied(1));
        assert_eq!(stalls(&batches).await, None);
        assert!(!batches.applied(2), "nobody has told of it");
    }

    #[tokio::test]
    async fn changes_wait_for_those_before_them_as_long_as_these_can_come() {
        let commits = Commits::new();
        let [first, second, silent] = [commits.open(), commits.open(), commits.open()];
        commits.come(second, 2).unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(10), commits.is_next(2)).await;
        assert!(waits.is_err());
        commits.come(first, 1).unwrap();
        commits.is_next(1).await.unwrap();
        let follow = async {
            tokio::task::yield_now().await;
            commits.in_place(1);
        };
        let (next, ()) = tokio::join!(commits.is_next(2), follow);
        next.unwrap();
        commits.in_place(2);
        // The third never comes: whoever could have been it has changed nothing.
        let fourth = commits.open();
        commits.come(fourth, 4).unwrap();
        let end = async {
            tokio::task::yield_now().await;
            drop(silent);
        };
        let (next, ()) = tokio::join!(commits.is_next(4), end);
        assert_eq!(next, Err(OutOfOrder(4)));
    }

    #[tokio::test]
    async fn a_number_is_given_once() {
        let commits = Commits::new();
        assert_eq!(commits.come(commits.open(), 0), Err(OutOfOrder(0)));
        commits.come(commits.open(), 1).unwrap();
        assert_eq!(commits.come(commits.open(), 1), Err(OutOfOrder(1)));
        commits.in_place(1);
        assert_eq!(commits.come(commits.open(), 1), Err(OutOfOrder(1)));
        commits.come(commits.open(), 3).unwrap();
        assert_eq!(commits.is_next(3).await, Err(OutOfOrder(3)));
    }
}

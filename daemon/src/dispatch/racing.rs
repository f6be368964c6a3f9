//! The launcher's side of a command while the daemon is at it. A race: a command runs here and on the cluster at the same time,
//! whoever is first has made the result, and what the other would have written is not there before it has ended. A stream: it
//! runs on the twin, and the launcher shows it as if it ran here.
//! Runs nothing, and knows nothing of sockets: orders go to whoever talks to the launcher, and reports come back.

use std::ffi::OsString;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::dispatch::LocalRun;
use crate::executor::twin::Window;
use crate::reason::Reason;

/// Orders that wait for the launcher.
const ORDERS_AHEAD: usize = 16;

/// What the launcher is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// Run this beside the cluster, if a slot is free at once. Answered by one [`Report`].
    Race(Vec<OsString>),
    /// End it. The report that follows may still be that of a run which had ended.
    Stop,
    /// The command runs on the twin from now on. Answered by [`Report::Input`] and [`Report::Signal`].
    Stream {
        /// Whether what comes on standard input is wanted.
        has_input: bool,
        /// Whether the launcher may run it if the daemon is lost.
        may_run_again: bool,
    },
    /// It has written this to descriptor 1 or 2.
    Output(u8, Bytes),
    /// It has taken so many bytes of its input.
    Taken(u64),
}

/// What becomes of the local run.
#[derive(Debug)]
pub enum Report {
    /// It ended by itself.
    Ended(LocalRun),
    /// Nothing of it runs: it was ended, or there was no slot for it.
    Stopped,
    /// More on standard input of a command on the twin; whether it is the last.
    Input(Vec<u8>, bool),
    /// A signal for a command on the twin.
    Signal(u8),
    /// The terminal of a command on the twin has another size now.
    Resized(Window),
}

/// The local side of one command, as whoever decides about it sees it.
pub struct Lane {
    /// Bounded: what a command writes waits for whoever reads it.
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) reports: mpsc::UnboundedReceiver<Report>,
}

/// The same as whoever talks to the launcher sees it.
pub struct Track {
    /// To be passed on.
    pub orders: mpsc::Receiver<Order>,
    /// For what the launcher says to them.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Who made the result of a command that ran in two places.
pub(super) enum Winner<T> {
    /// The cluster; nothing of the command runs here.
    Remote(T),
    /// This machine, and the reason why that counts.
    Local(LocalRun, Reason),
}

/// Both ends of a launcher's local side.
pub fn lane() -> (Lane, Track) {
    let (give, orders) = mpsc::channel(ORDERS_AHEAD);
    let (reports, take) = mpsc::unbounded_channel();
    (Lane { orders: give, reports: take }, Track { orders, reports })
}

impl Lane {
    /// Has the launcher run `argv` while `remote` goes on, and waits for the first of both. A remote run that fails leaves
    /// the race to the local one, however long that takes. When the local run is first, `remote` is dropped where it is.
    ///
    /// # Errors
    /// That of `remote`, if nothing runs here.
    pub(super) async fn race<T>(
        &mut self,
        argv: Vec<OsString>,
        remote: impl Future<Output = Result<T, Reason>>,
    ) -> Result<Winner<T>, Reason> {
        // Where nobody listens, nobody reports either.
        let mut runs_here = self.orders.send(Order::Race(argv)).await.is_ok();
        let mut remote = std::pin::pin!(remote);
        let made = loop {
            tokio::select! {
                report = self.reports.recv(), if runs_here => match report {
                    Some(Report::Ended(run)) => return Ok(Winner::Local(run, Reason::Raced)),
                    Some(Report::Stopped) | None => runs_here = false,
                    // They are for commands on the twin.
                    Some(Report::Input(..) | Report::Signal(_) | Report::Resized(_)) => {}
                },
                made = &mut remote => break made,
            }
        };
        if runs_here {
            if made.is_ok() {
                // If it cannot be told, no report comes.
                let _ = self.orders.send(Order::Stop).await;
            }
            if let Some(Report::Ended(run)) = self.reports.recv().await {
                return Ok(Winner::Local(run, made.err().unwrap_or(Reason::Raced)));
            }
        }
        made.map(Winner::Remote)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::future::ready;

    use super::*;

    fn ended(success: bool) -> Report {
        let (stdout, stderr) = (Vec::new(), Vec::new());
        Report::Ended(LocalRun { success, stdout, stderr, captured: true, took: None })
    }

    fn told(winner: Result<Winner<&str>, Reason>) -> String {
        match winner {
            Ok(Winner::Remote(made)) => format!("remote {made}"),
            Ok(Winner::Local(run, reason)) => format!("local {} {reason}", run.success),
            Err(reason) => format!("nobody {reason}"),
        }
    }

    /// The end of a race in which the launcher answers each order as `answer` says.
    async fn check(
        remote: impl Future<Output = Result<&'static str, Reason>>,
        answer: impl Fn(&Order) -> Option<Report>,
        expected: &str,
    ) {
        let (mut lane, Track { mut orders, reports }) = lane();
        let launcher = async {
            while let Some(order) = orders.recv().await {
                if let Some(report) = answer(&order) {
                    reports.send(report).unwrap();
                }
            }
            pending::<()>().await;
        };
        let winner = tokio::select! {
            winner = lane.race(vec!["cc".into()], remote) => winner,
            () = launcher => unreachable!(),
        };
        assert_eq!(told(winner), expected);
    }

    async fn late<T>(value: T) -> T {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        value
    }

    fn to_race(order: &Order, report: Report) -> Option<Report> {
        matches!(order, Order::Race(_)).then_some(report)
    }

    fn to_stop(order: &Order, report: Report) -> Option<Report> {
        matches!(order, Order::Stop).then_some(report)
    }

    #[tokio::test]
    async fn the_first_one_wins() {
        check(pending(), |order| to_race(order, ended(true)), "local true raced").await;
        check(pending(), |order| to_race(order, ended(false)), "local false raced").await;
        check(ready(Ok("a.o")), |order| to_stop(order, Report::Stopped), "remote a.o").await;
        check(late(Ok("a.o")), |order| to_stop(order, Report::Stopped), "remote a.o").await;
    }

    #[tokio::test]
    async fn who_had_ended_before_the_stop_has_won() {
        check(ready(Ok("a.o")), |order| to_stop(order, ended(true)), "local true raced").await;
    }

    #[tokio::test]
    async fn without_a_slot_there_is_no_race() {
        let no_slot = |order: &Order| {
            assert_ne!(order, &Order::Stop, "nothing runs");
            Some(Report::Stopped)
        };
        check(late(Ok("a.o")), no_slot, "remote a.o").await;
        check(late(Err(Reason::CacheOnly)), no_slot, "nobody cache_only").await;
    }

    #[tokio::test]
    async fn a_cluster_that_fails_leaves_it_to_the_local_run() {
        let (mut lane, Track { mut orders, reports }) = lane();
        let race = lane.race::<&str>(Vec::new(), ready(Err(Reason::RemoteFailed(1))));
        let launcher = async {
            assert!(matches!(orders.recv().await, Some(Order::Race(_))));
            let next = tokio::time::timeout(std::time::Duration::from_millis(50), orders.recv());
            assert!(next.await.is_err(), "it is not to be stopped");
            reports.send(ended(true)).unwrap();
        };
        let (winner, ()) = tokio::join!(race, launcher);
        assert_eq!(told(winner), "local true remote_failed: exit status 1");
    }

    #[tokio::test]
    async fn a_launcher_that_nobody_talks_to_has_no_say() {
        let (mut lane, track) = lane();
        drop(track);
        assert_eq!(told(lane.race(Vec::new(), ready(Ok("a.o"))).await), "remote a.o");
    }
}

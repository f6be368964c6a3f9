//! The daemon's socket: takes launchers' connections and answers them, until it is told to stop.
//! Decides nothing about commands.

mod connection;
mod desk;
mod stream;

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use rustix::process::Uid;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::dispatch::Dispatcher;
use crate::dispatch::Kept;
use crate::dispatch::Memory;
use crate::stats::Stats;
use crate::stats::Summary;

use desk::Desk;

/// How often the counts are saved and idleness is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often the stores are looked at for what is over their limit.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

/// How often the rest of what lies on disk is looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// How long a daemon that makes room for one of another version waits for results on their way to the cluster.
const OFFER_PATIENCE: Duration = Duration::from_secs(60);

/// How long those who wait for the end of a drain may take to hear of it.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(5);

/// A daemon that had nothing to do for so long is in the middle of no build: commands of a build come closer together, but
/// for a long link, after which a daemon of another version is as good.
pub const BETWEEN_BUILDS: Duration = Duration::from_secs(5);

/// What all connections share.
pub struct Server {
    /// Who decides about commands.
    pub dispatcher: Dispatcher,
    /// What is counted.
    pub stats: Arc<Stats>,
    /// Where the counts are kept.
    pub stats_file: PathBuf,
    /// The daemon stops when there was no command for so long.
    pub idle_timeout: Duration,
    /// Address of the status page with its token; empty if there is none.
    pub status_page: String,
    /// Whose daemon it is.
    own_user: Uid,
    lifecycle: Lifecycle,
}

/// Whether the daemon still takes commands, and for whom it waits.
struct Lifecycle {
    started: Instant,
    last_used: Mutex<Instant>,
    stage: watch::Sender<Stage>,
    /// Each has a command, or may have.
    connections: TaskTracker,
    /// Results on their way to the cluster, for which no launcher waits.
    offers: TaskTracker,
    /// Those who are to hear of the end before it comes.
    farewells: TaskTracker,
}

/// How far the daemon's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// New commands are refused, those under way end, and their results go to the cluster.
    Draining,
    /// No more is waited for.
    Drained,
    Stopping,
}

/// What `farccd status` shows of a running daemon.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct DaemonStatus {
    /// Process id.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Connections open now: commands under way, and the one that asks.
    pub connections: usize,
    /// Whether it takes no new commands.
    pub draining: bool,
    /// Address of the status page with its token, empty if there is none.
    pub status_page: String,
    /// What it remembers of sources; nothing is known of it from an earlier version.
    #[serde(default)]
    pub memory: Memory,
}

/// What a daemon says at its end.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct Farewell {
    /// What it saw since it started.
    pub summary: Summary,
    /// For how long it ran.
    pub uptime_seconds: u64,
    /// Results that are still on their way to the cluster, and are given up.
    pub unsent: usize,
}

impl Server {
    /// A server that has not begun to listen.
    pub fn new(
        dispatcher: Dispatcher,
        stats: Arc<Stats>,
        stats_file: PathBuf,
        idle_timeout: Duration,
        status_page: String,
    ) -> Server {
        let lifecycle = Lifecycle {
            started: Instant::now(),
            last_used: Mutex::new(Instant::now()),
            stage: watch::Sender::new(Stage::Serving),
            connections: TaskTracker::new(),
            offers: TaskTracker::new(),
            farewells: TaskTracker::new(),
        };
        let own_user = rustix::process::getuid();
        Server { dispatcher, stats, stats_file, idle_timeout, status_page, own_user, lifecycle }
    }

    /// Serves until `shutdown` ends, a launcher asks to stop, or nobody comes for the idle time. Commands that
    /// are under way are waited for only when draining; the launchers of all others run them themselves.
    ///
    /// # Errors
    /// When connections cannot be accepted at all.
    pub async fn run(
        self: &Arc<Self>,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        tokio::pin!(shutdown);
        let (failed, mut failure) = mpsc::channel(1);
        let desk = Desk::open(self, listener, failed).context("accept connections")?;
        let mut stage = self.lifecycle.stage.subscribe();
        let mut tick = tokio::time::interval(TICK);
        let mut trim = tokio::time::interval(TRIM_INTERVAL);
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut saving: Option<JoinHandle<()>> = None;
        // Whoever comes while the last commands end is refused, and runs the command itself.
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = stage.changed() => {
                    if *stage.borrow() == Stage::Stopping {
                        break;
                    }
                }
                _ = tick.tick() => {
                    desk.hearten();
                    // One at a time, so that older counts never come on top of newer ones.
                    if saving.as_ref().is_none_or(JoinHandle::is_finished) {
                        let server = Arc::clone(self);
                        saving = Some(tokio::task::spawn_blocking(move || server.save()));
                    }
                    if self.is_idle() {
                        tracing::info!("nobody came for {:?}: stopping", self.idle_timeout);
                        break;
                    }
                }
                _ = trim.tick() => {
                    let server = Arc::clone(self);
                    tokio::task::spawn_blocking(move || server.dispatcher.trim_stores());
                }
                _ = sweep.tick() => {
                    let server = Arc::clone(self);
                    tokio::task::spawn_blocking(move || server.dispatcher.sweep());
                }
                Some(error) = failure.recv() => return Err(error).context("accept connections"),
            }
        }
        desk.close();
        desk.empty().await;
        if let Some(saving) = saving {
            // A panic in there has been logged, and the counts are saved once more below.
            let _ = saving.await;
        }
        self.save();
        Ok(())
    }

    /// Lets the cluster have a result, while its launcher goes on.
    fn offer(self: &Arc<Self>, kept: Kept) {
        let server = Arc::clone(self);
        self.lifecycle.offers.spawn(async move { server.dispatcher.offer(kept).await });
    }

    /// Takes no new commands; stops when those under way have ended, and when their results are with the cluster or
    /// `patience` is over. Whoever asks first says how long that is.
    pub fn drain(self: &Arc<Self>, patience: Duration) {
        let is_first = self.lifecycle.stage.send_if_modified(|stage| {
            let is_first = *stage == Stage::Serving;
            *stage = (*stage).max(Stage::Draining);
            is_first
        });
        if !is_first {
            return;
        }
        self.lifecycle.connections.close();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let Lifecycle { connections, offers, farewells, stage, .. } = &server.lifecycle;
            connections.wait().await;
            offers.close();
            if tokio::time::timeout(patience, offers.wait()).await.is_err() {
                tracing::warn!("gave up {} results on their way to the cluster", offers.len());
            }
            stage.send_modify(|stage| *stage = (*stage).max(Stage::Drained));
            farewells.close();
            // Who does not listen is not waited for.
            let _ = tokio::time::timeout(FAREWELL_PATIENCE, farewells.wait()).await;
            server.stop();
        });
    }

    /// Stops at once.
    pub fn stop(&self) {
        self.lifecycle.stage.send_replace(Stage::Stopping);
    }

    fn is_draining(&self) -> bool {
        *self.lifecycle.stage.borrow() >= Stage::Draining
    }

    fn used(&self) {
        *self.lifecycle.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A launcher of another version has come. Where no command has been under way for [`BETWEEN_BUILDS`], the daemon makes
    /// room for one of that version, which the next launcher starts.
    fn met_another_version(self: &Arc<Self>) {
        let last_used = *self.lifecycle.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        // The launcher's own connection is one.
        if self.lifecycle.connections.len() <= 1 && last_used.elapsed() >= BETWEEN_BUILDS {
            tracing::info!("a launcher of another version came: stopping");
            self.drain(OFFER_PATIENCE);
        }
    }

    fn is_idle(&self) -> bool {
        let last_used = *self.lifecycle.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        let Lifecycle { connections, offers, .. } = &self.lifecycle;
        connections.is_empty() && offers.is_empty() && last_used.elapsed() >= self.idle_timeout
    }

    fn save(&self) {
        if let Err(error) = self.stats.save(&self.stats_file) {
            tracing::warn!("failed to write {}: {error}", self.stats_file.display());
        }
    }

    /// What the daemon would say if it ended now.
    fn farewell(&self) -> Farewell {
        Farewell {
            summary: self.stats.session(),
            uptime_seconds: self.lifecycle.started.elapsed().as_secs(),
            unsent: self.lifecycle.offers.len(),
        }
    }

    /// What is known of the daemon now.
    pub fn status(&self) -> DaemonStatus {
        DaemonStatus {
            pid: std::process::id(),
            version: farcc::wire::VERSION.to_owned(),
            uptime_seconds: self.lifecycle.started.elapsed().as_secs(),
            connections: self.lifecycle.connections.len(),
            draining: self.is_draining(),
            status_page: self.status_page.clone(),
            memory: self.dispatcher.memory(),
        }
    }
}

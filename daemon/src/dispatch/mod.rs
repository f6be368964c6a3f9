//! The way of a command through the daemon, from the launcher's request to the verdict.
//! Knows nothing of sockets and frames.

mod attempt;
mod builds;
mod claims;
mod compiling;
mod configured;
mod inputs;
mod inspection;
mod leaving;
mod linking;
mod local;
mod looked_for;
mod offer;
mod policy;
mod preparation;
mod presence;
mod racing;
mod remote;
mod repeats;
mod sharing;
mod step;
mod trail;
mod twins;
mod understood;
mod verification;
mod workers;

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Semaphore;

use crate::compiler::Archivers;
use crate::compiler::Invocation;
use crate::compiler::Linkers;
use crate::compiler::Task;
use crate::compiler::Toolchains;
use crate::compiler::resolve;
use crate::config::Config;
use crate::config::Configurations;
use crate::config::Remote;
use crate::executor::twin::TwinEnd;
use crate::files::Files;
use crate::history::History;
use crate::linker;
use crate::preprocessor::DiskSources;
use crate::preprocessor::Memo;
use crate::reason::Reason;
use crate::stats::Outcome;
use crate::stats::Stats;
use crate::store::Store;

use claims::Claims;
use configured::Cluster;
use policy::route;
use repeats::Repeats;
use sharing::Sharing;
use trail::Entry;
use twins::Twins;
use understood::Job;
use workers::Workers;

pub use builds::BuildOrder;
pub use inputs::Scanned;
pub use inspection::Memory;
pub use local::Kept;
pub use local::LocalRun;
pub use local::Pending;
pub use presence::Presence;
pub use racing::Lane;
pub use racing::Order;
pub use racing::Report;
pub use racing::Track;
pub use racing::lane;
pub use trail::PATHS;
pub use trail::Trail;
pub use workers::Comparison;

/// What the launcher is to do.
pub enum Verdict {
    /// Nothing more: the outputs are in place.
    Completed {
        /// Exit status of the command.
        exit_code: u8,
        /// What it printed on standard output.
        stdout: Vec<u8>,
        /// What it printed on standard error.
        stderr: Vec<u8>,
    },
    /// Become the command.
    PassThrough {
        /// Why.
        reason: Reason,
        /// Whether it is a leaf that takes one of this machine's slots. Nested builds never do: they would
        /// wait for their own children.
        slot: bool,
    },
    /// Run the command as a child and report, so that its result can be kept.
    RunAndStore(Box<Pending>),
    /// Nothing more but to end so: the command ran on the twin, and what it has changed is in place.
    RanOnTwin(TwinEnd),
    /// Nothing more: it has run the command in a race and reported, and its result is to be kept.
    RanHere(Box<Pending>, LocalRun),
}

/// Whoever asked for a command.
pub struct Launcher {
    /// Whether it waits.
    pub presence: Presence,
    /// Where it runs the command while the cluster does, or shows what the twin does.
    pub lane: Lane,
    /// Whether something may come on its standard input.
    pub has_input: bool,
}

/// What all commands share.
pub struct Dispatcher {
    configurations: Arc<Configurations>,
    files: Arc<Files>,
    scans: Arc<Memo>,
    toolchains: Toolchains,
    linkers: Linkers,
    archivers: Archivers,
    link_sources: Arc<linker::Sources>,
    stores: DashMap<(PathBuf, u64), Arc<Store>>,
    clusters: DashMap<(Remote, usize), Arc<Cluster>>,
    /// Who may link heavily on this machine, by how many may at a time.
    heavy: DashMap<usize, Arc<Semaphore>>,
    claims: Arc<Claims>,
    sharing: Arc<Sharing>,
    repeats: Arc<Repeats>,
    workers: Workers,
    stats: Arc<Stats>,
    history: History,
    twins: Twins,
    directories: Directories,
    /// Commands take their turns at what keeps the processors busy: of hundreds that come at once, the first are on their
    /// way to the cluster while the others wait. Without turns all would advance step by step together, and the cluster would
    /// have nothing to do until the last one was ready.
    preparing: Semaphore,
}

/// What a command's own files say about it.
struct Read {
    config: Result<Arc<Config>, Reason>,
    /// The command that is executed in the end: another than the one that was typed where that names a wrapper script.
    executed: Arc<Invocation>,
    task: Task,
}

/// How long a command waits for its turn. Some are held for long: by a compiler that does not answer, by a file on a dead
/// network file system.
const TURN_PATIENCE: Duration = Duration::from_secs(2);

/// How many commands are prepared at a time: more than there are processors, since some wait for a disk.
fn turns() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (2 * processors).max(16)
}

/// Where the daemon keeps things, all absolute, and what it was started with.
#[derive(Debug, Clone)]
pub struct Directories {
    /// The store, unless `[cache] dir` says otherwise.
    pub store: PathBuf,
    /// Probed toolchains, histories, counts.
    pub state: PathBuf,
    /// The daemon's own environment, for credential helpers.
    pub environment: Vec<(OsString, OsString)>,
    /// The configuration file, unless the command's environment names one.
    pub config_file: PathBuf,
    /// Whether every command has the configuration of the daemon's own environment.
    pub has_own_config: bool,
}

impl Directories {
    /// Where the records for `farccd explain` are.
    pub fn history(&self) -> PathBuf {
        self.state.join("history")
    }

    /// Where copies of commands go whose results differ.
    pub(super) fn verify(&self) -> PathBuf {
        self.state.join("verify")
    }

    /// Where depfiles go that no user asked for.
    pub(super) fn audit(&self) -> PathBuf {
        self.state.join("audit")
    }
}

/// What the records for `farccd explain` may take: some ten thousand objects.
const MAX_HISTORY_BYTES: u64 = 256 << 20;

impl Dispatcher {
    /// A dispatcher with nothing in memory.
    pub fn new(directories: Directories, stats: Arc<Stats>) -> Dispatcher {
        let files = Arc::new(Files::default());
        let sources = DiskSources::new(Arc::clone(&files));
        Dispatcher::over(directories, stats, files, sources)
    }

    /// A dispatcher with nothing in memory, which looks at each source file once: for a process that scans many units as
    /// they are at one moment, and ends.
    pub fn of_one_moment(directories: Directories, stats: Arc<Stats>) -> Dispatcher {
        let files = Arc::new(Files::default());
        let sources = DiskSources::of_one_moment(Arc::clone(&files));
        Dispatcher::over(directories, stats, files, sources)
    }

    fn over(
        directories: Directories,
        stats: Arc<Stats>,
        files: Arc<Files>,
        sources: DiskSources,
    ) -> Dispatcher {
        Dispatcher {
            configurations: Arc::default(),
            scans: Arc::new(Memo::new(sources)),
            toolchains: Toolchains::new(Arc::clone(&files), directories.state.join("toolchains")),
            linkers: Linkers::new(Arc::clone(&files), directories.state.join("linkers")),
            archivers: Archivers::new(Arc::clone(&files), directories.state.join("archivers")),
            link_sources: Arc::new(linker::Sources::new(Arc::clone(&files))),
            files,
            stores: DashMap::new(),
            clusters: DashMap::new(),
            heavy: DashMap::new(),
            claims: Arc::default(),
            sharing: Arc::default(),
            repeats: Arc::default(),
            workers: Workers::new(directories.state.join("workers")),
            stats,
            history: History::new(directories.history()),
            twins: Twins::new(directories.state.join("twin-client"), directories.environment.clone()),
            directories,
            preparing: Semaphore::new(turns()),
        }
    }

    /// Decides one command:
    ///
    /// 1. read its configuration; a `[[route]]` may send it away
    /// 2. parse the command line and classify it; what is neither compile nor link nor archive goes to the twin, if there is one
    /// 3. probe the toolchain
    /// 4. find the inputs
    /// 5. build the Action
    /// 6. a hit in the store on this machine
    /// 7. a hit in the cluster's action cache
    /// 8. upload what is missing, execute on the cluster, audit the depfile, install the outputs; with strategy `racing` the
    ///    launcher runs the command meanwhile, and whoever is first counts
    /// 9. else the launcher runs it, and [`finish`](Self::finish) stores the result
    ///
    /// Outputs are put into place only while the `launcher` waits.
    pub async fn handle(&self, invocation: Arc<Invocation>, mut launcher: Launcher) -> Verdict {
        let mut trail = Trail::new(Arc::clone(&invocation));
        let verdict = match self.decide(&invocation, &mut launcher, &mut trail).await {
            // It is counted when the launcher has reported, and its result was looked at.
            Ok(verdict @ (Verdict::RunAndStore(_) | Verdict::RanHere(..))) => return verdict,
            Ok(verdict) => verdict,
            Err((reason, slot)) => {
                trail.ended(Outcome::PassedThrough, Some(reason.clone()));
                Verdict::PassThrough { reason, slot }
            }
        };
        self.record(trail);
        verdict
    }

    async fn decide(
        &self,
        invocation: &Arc<Invocation>,
        launcher: &mut Launcher,
        trail: &mut Trail,
    ) -> Result<Verdict, (Reason, bool)> {
        let Read { config, executed, task } =
            self.read(invocation).await.map_err(|reason| (reason, false))?;
        trail.classified(task.kind(&executed));
        let leaf = !matches!(task, Task::Other);
        match &task {
            Task::Compile(compile) => trail.compile(compile),
            Task::Link(link) => trail.understood([&link.output], &link.arguments),
            Task::Archive(archive) => trail.understood([&archive.output], &archive.arguments),
            Task::Local(_) => trail.not_understood(),
            Task::Other => {}
        }
        if let Task::Archive(archive) = &task {
            archive.check_is_new(&invocation.cwd).map_err(|reason| (reason, leaf))?;
        }
        let config = config.map_err(|reason| (reason, leaf))?;
        if let Some(route) = route(&config, invocation) {
            return Err((route, leaf));
        }
        if let Some(roots) = self.way_to_twin(&config, &task, invocation).map_err(|reason| (reason, leaf))? {
            let on_twin = Box::pin(self.on_twin(&config, &roots, invocation, launcher, trail));
            return on_twin.await.map_err(|reason| (reason, leaf));
        }
        let turn = match task {
            Task::Other | Task::Local(_) => None,
            // Whoever waits long waits for others' disks or compilers, and needs no turn.
            _ => tokio::time::timeout(TURN_PATIENCE, self.preparing.acquire()).await.ok(),
        };
        let done = async {
            let step = self.step(task, &executed).await?;
            let job = Job { config: &config, step: &step, executed: &executed, invocation };
            self.take(job, launcher, trail, turn).await
        };
        done.await.map_err(|reason| (reason, leaf))
    }

    /// Stores the result of a local run, if it can be trusted, and counts it. Returns what may be
    /// [offered](Self::offer) to the cluster when the launcher has been answered.
    pub async fn finish(&self, mut pending: Pending, run: LocalRun, presence: Presence) -> Option<Kept> {
        pending.reported();
        let (trail, kept) = if !run.success && pending.expects_success() {
            (pending.fails_here().await, None)
        } else if run.success && run.captured {
            // Everything is looked at again, as if the command came in only now: what is found now and was not
            // then, or the other way round, the compiler may have seen in either state.
            match self.action(&pending.invocation).await {
                Ok(again) => pending.keep(run, again, presence, &self.sharing).await,
                Err(reason) => (pending.not_kept(Some(reason)), None),
            }
        } else {
            (pending.not_kept(None), None)
        };
        self.record(trail);
        kept
    }

    /// Counts a command that was not even looked at.
    pub fn refused(&self, invocation: Arc<Invocation>, reason: Reason) {
        let mut trail = Trail::new(invocation);
        trail.ended(Outcome::PassedThrough, Some(reason));
        self.record(trail);
    }

    /// Counts a local run of which the launcher never reported the end: it was killed.
    pub fn abandon(&self, mut pending: Pending) {
        pending.reported();
        self.record(pending.not_kept(Some(Reason::Abandoned)));
    }

    /// Reads the files that a command names for itself: its configuration, wrapper scripts and response files.
    async fn read(&self, invocation: &Arc<Invocation>) -> Result<Read, Reason> {
        let (invocation, default_file) = (Arc::clone(invocation), self.directories.config_file.clone());
        let configurations = Arc::clone(&self.configurations);
        let own = self.directories.has_own_config.then(|| self.directories.environment.clone());
        in_background(move || {
            let env = own.as_ref().unwrap_or(&invocation.env);
            let config = configurations.load(env, &invocation.cwd, &default_file);
            let config = config.map_err(|error| Reason::Configuration(error.to_string()));
            let (executed, task) = resolve(&invocation);
            Read { config, executed, task }
        })
        .await
    }

    fn record(&self, trail: Trail) {
        self.stats.record(&trail.record());
        // A lost record makes `explain` say less, and nothing else.
        let tell = |outputs: &[PathBuf], recorded: io::Result<()>| {
            if let Err(error) = recorded {
                tracing::debug!("failed to record the history of {outputs:?}: {error}");
            }
        };
        match trail.into_history() {
            None => {}
            Some(Entry::Again { outputs, command, run }) => {
                tell(&outputs, self.history.again(&outputs, command, run));
            }
            // Nobody waits for it.
            Some(Entry::Made { outputs, made }) => {
                let history = self.history.clone();
                tokio::task::spawn_blocking(move || tell(&outputs, history.add(&outputs, made)));
            }
        }
    }

    /// Removes what is over the limit of the history, and what killed daemons left.
    pub fn sweep(&self) {
        if let Err(error) = self.history.trim(MAX_HISTORY_BYTES) {
            tracing::warn!("failed to trim the history: {error}");
        }
        attempt::remove_old_depfiles(&self.directories.audit());
    }

    /// Lets every open store remove what is over its limit.
    pub fn trim_stores(&self) {
        let stores: Vec<_> = self.stores.iter().map(|entry| Arc::clone(entry.value())).collect();
        for store in stores.iter().filter(|store| store.wants_trim()) {
            match store.trim() {
                Ok(trimmed) => tracing::info!(?trimmed, "trimmed the store"),
                Err(error) => tracing::warn!("failed to {error}"),
            }
        }
    }
}

thread_local! {
    static SERVES_OTHERS: Cell<bool> = const { Cell::new(true) };
}

/// Says that the calling thread serves nothing but what it waits for, so that work that blocks may as well be done
/// on it: handing it over would take longer than much of it takes.
pub fn dedicate_thread() {
    SERVES_OTHERS.set(false);
}

/// Runs work that blocks (files, hashing) off the threads that serve connections.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Reason> {
    if !SERVES_OTHERS.get() {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        return done.map_err(|_| Reason::Internal("work panicked".to_owned()));
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Reason::Internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// One whose daemon has all that it keeps in `directory`, without a configuration.
    pub(super) fn dispatcher_in(directory: &Path) -> Dispatcher {
        let directories = Directories {
            store: directory.join("store"),
            state: directory.join("state"),
            config_file: directory.join("farcc.toml"),
            environment: Vec::new(),
            has_own_config: false,
        };
        Dispatcher::new(directories, Arc::new(Stats::load(&directory.join("stats"))))
    }

    #[tokio::test]
    async fn a_panic_in_the_background_is_one_commands_reason() {
        let ended: Result<(), Reason> = in_background(|| panic!("a defect")).await;
        assert!(matches!(ended, Err(Reason::Internal(_))), "{ended:?}");
    }
}

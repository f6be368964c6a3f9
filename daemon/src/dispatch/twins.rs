//! Commands that run on the twin: which do, and what becomes of them.
//! Knows nothing of connections, nor of what a command means.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::mpsc;

use crate::compiler::Invocation;
use crate::compiler::Task;
use crate::config::Config;
use crate::config::Destination;
use crate::config::Twin;
use crate::config::WhenLost;
use crate::dispatch::Dispatcher;
use crate::dispatch::Lane;
use crate::dispatch::Launcher;
use crate::dispatch::Order;
use crate::dispatch::Report;
use crate::dispatch::Trail;
use crate::dispatch::Verdict;
use crate::dispatch::in_background;
use crate::dispatch::leaving::may_leave;
use crate::dispatch::policy::matching_route;
use crate::dispatch::sharing::relocation;
use crate::executor::twin::Event;
use crate::executor::twin::TwinCommand;
use crate::executor::twin::TwinError;
use crate::executor::twin::TwinExecutor;
use crate::executor::twin::TwinRun;
use crate::executor::twin::Word;
use crate::paths;
use crate::process::env_value;
use crate::reason::Reason;
use crate::stats::Bytes;
use crate::stats::Outcome;

/// Events and words on their way.
const AHEAD: usize = 16;

/// Variables that are about this machine's session or terminal, or about farcc itself here: they mean nothing there.
const OF_THIS_MACHINE: &[&str] = &[
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "FARCC_ACTIVE",
    "GPG_AGENT_INFO",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "TMPDIR",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// The twins of all configurations.
pub(super) struct Twins {
    /// Has what tells this user's workspaces from those of others.
    owner_file: PathBuf,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    executors: DashMap<Twin, Arc<TwinExecutor>>,
}

impl Twins {
    pub(super) fn new(
        owner_file: PathBuf,
        environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    ) -> Twins {
        Twins { owner_file, environment, executors: DashMap::new() }
    }

    /// That of a configuration.
    fn executor(&self, twin: &Twin) -> Result<Arc<TwinExecutor>, Reason> {
        if let Some(known) = self.executors.get(twin) {
            return Ok(Arc::clone(&known));
        }
        let owner = self.owner().map_err(|error| {
            Reason::TwinUnavailable(format!("use {}: {error}", self.owner_file.display()))
        })?;
        let executor = TwinExecutor::new(twin, &self.environment, owner);
        let executor = executor.map_err(|error| Reason::TwinUnavailable(error.to_string()))?;
        Ok(Arc::clone(&self.executors.entry(twin.clone()).or_insert(Arc::new(executor))))
    }

    /// Made once, so that the twin knows the workspaces again.
    fn owner(&self) -> io::Result<Vec<u8>> {
        match std::fs::read(&self.owner_file) {
            Ok(owner) if !owner.is_empty() => return Ok(owner),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let owner = uuid::Uuid::new_v4().to_string().into_bytes();
        let directory = self.owner_file.parent().ok_or(io::ErrorKind::NotFound)?;
        std::fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        io::Write::write_all(&mut file, &owner)?;
        match file.persist_noclobber(&self.owner_file) {
            Ok(_) => Ok(owner),
            // Another daemon was first.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::read(&self.owner_file)
            }
            Err(error) => Err(error.error),
        }
    }
}

impl Dispatcher {
    /// The directories of the workspace of a command that goes to the twin; None: it goes the way of all others.
    ///
    /// # Errors
    /// Why it stays here although it is none of those that the cluster takes.
    pub(super) fn way_to_twin(
        &self,
        config: &Config,
        task: &Task,
        invocation: &Arc<Invocation>,
    ) -> Result<Option<Vec<PathBuf>>, Reason> {
        if !config.twin.is_configured() {
            return Ok(None);
        }
        let is_sent = matching_route(config, invocation).is_some_and(|route| route.to == Destination::Twin);
        if !is_sent && !matches!(task, Task::Other) {
            return Ok(None);
        }
        let relocation = relocation(&config.workspace, &invocation.cwd).map_err(Reason::OutsideWorkspace)?;
        let roots: Vec<_> = relocation.roots().iter().map(|root| root.here.clone()).collect();
        may_leave(config, invocation, &roots)?;
        Ok(Some(roots))
    }

    /// Runs a command on the twin.
    ///
    /// # Errors
    /// Why it is to be run here.
    pub(super) async fn on_twin(
        &self,
        config: &Config,
        roots: &[PathBuf],
        invocation: &Arc<Invocation>,
        launcher: &mut Launcher,
        trail: &mut Trail,
    ) -> Result<Verdict, Reason> {
        let may_run_again = config.twin.when_lost == WhenLost::Local;
        let command = command(config, invocation, launcher.has_input);
        let executor = self.checked_executor(config, invocation).await?;
        let running = self.run_there(&executor, config, roots, command, launcher, trail, may_run_again);
        let (ran, relayed) = running.await?;
        match ran {
            Ok(TwinRun { ended, .. }) => {
                trail.ended(Outcome::Twin, None);
                Ok(Verdict::RanOnTwin(ended))
            }
            Err(error) => after(&error, &relayed, may_run_again, trail),
        }
    }

    /// Runs it to its end, while the launcher shows what it says.
    ///
    /// # Errors
    /// Why it was not even tried.
    pub(super) async fn run_there(
        &self,
        executor: &Arc<TwinExecutor>,
        config: &Config,
        roots: &[PathBuf],
        command: TwinCommand,
        launcher: &mut Launcher,
        trail: &mut Trail,
        may_run_again: bool,
    ) -> Result<(Result<TwinRun, TwinError>, Relayed), Reason> {
        let store = self.store(config).await?;
        let (events, happened) = mpsc::channel(AHEAD);
        let (words, told) = mpsc::channel(AHEAD);
        let (own, roots) = (Arc::clone(executor), roots.to_vec());
        // Its own task: when the launcher has gone, the twin is told, and asked whether it has understood.
        let running = tokio::spawn(async move { own.run(&roots, &command, &store, events, told).await });
        let relayed = relay(&mut launcher.lane, happened, words, launcher.has_input, may_run_again).await;
        // They went for whoever needed them first.
        trail.bytes += Bytes { uploaded: executor.take_sent_bytes(), ..Bytes::default() };
        let ran = running.await.map_err(|error| Reason::Internal(error.to_string()))?;
        if let Ok(TwinRun { bytes, .. }) = &ran {
            trail.bytes += *bytes;
        }
        Ok((ran, relayed))
    }
}

impl Dispatcher {
    /// The twin, if it has the program that the command starts: that of the image must be the same there. One of the workspace is,
    /// by the mirror.
    ///
    /// # Errors
    /// Why it cannot run there.
    pub(super) async fn checked_executor(
        &self,
        config: &Config,
        invocation: &Arc<Invocation>,
    ) -> Result<Arc<TwinExecutor>, Reason> {
        let executor = self.twins.executor(&config.twin)?;
        let (files, own) = (Arc::clone(&self.files), Arc::clone(invocation));
        let version = in_background(move || {
            let path = own.executable().filter(|path| paths::is_system(path))?;
            let version = files.version(&path).ok()?;
            Some((path, version.digest))
        });
        let Some((path, digest)) = version.await? else { return Ok(executor) };
        let checked = executor.check_program(&path, &digest).await.map_err(|error| match error {
            TwinError::OtherProgram(what) => Reason::TwinDiffers(what),
            error => Reason::TwinUnavailable(error.to_string()),
        });
        checked.map(|()| executor)
    }
}

/// A command as it runs there.
pub(super) fn command(config: &Config, invocation: &Invocation, has_input: bool) -> TwinCommand {
    TwinCommand {
        arguments: invocation.argv.clone(),
        environment: environment(invocation),
        cwd: invocation.cwd.clone(),
        umask: invocation.umask,
        has_input,
        wants_network: config.twin.network,
        terminal: None,
        build: None,
    }
}

/// What the launcher has seen of a command on the twin.
pub(super) struct Relayed {
    /// It has begun.
    has_begun: bool,
    /// Something was read from its standard input.
    has_fed: bool,
}

/// Passes on what happens to the launcher, and what it says to the twin, until nothing happens any more.
async fn relay(
    lane: &mut Lane,
    mut happened: mpsc::Receiver<Event>,
    words: mpsc::Sender<Word>,
    has_input: bool,
    may_run_again: bool,
) -> Relayed {
    let mut relayed = Relayed { has_begun: false, has_fed: false };
    loop {
        tokio::select! {
            event = happened.recv() => {
                let order = match event {
                    None => return relayed,
                    Some(Event::Started) => {
                        relayed.has_begun = true;
                        Order::Stream { has_input, may_run_again }
                    }
                    Some(Event::Output(descriptor, bytes)) => Order::Output(descriptor, bytes),
                    Some(Event::Taken(bytes)) => Order::Taken(bytes),
                };
                // A launcher that has gone takes this task with it.
                let _ = lane.orders.send(order).await;
            }
            Some(report) = lane.reports.recv() => {
                let word = match report {
                    Report::Input(bytes, is_last) => {
                        relayed.has_fed |= !bytes.is_empty();
                        Word::Input(bytes, is_last)
                    }
                    Report::Signal(signal) => Word::Signal(signal),
                    Report::Resized(window) => Word::Resized(window),
                    Report::Ended(_) | Report::Stopped => continue,
                };
                // A command that has ended takes nothing.
                let _ = words.send(word).await;
            }
        }
    }
}

/// What becomes of a command whose result is not in place.
fn after(
    error: &TwinError,
    relayed: &Relayed,
    may_run_again: bool,
    trail: &mut Trail,
) -> Result<Verdict, Reason> {
    let message = format!("farcc: {error}\n").into_bytes();
    let reason = match error {
        TwinError::Unavailable(_) | TwinError::NoProgram(_) if !relayed.has_begun => {
            return Err(Reason::TwinUnavailable(error.to_string()));
        }
        TwinError::Conflict(_) => Reason::TwinConflict(error.to_string()),
        TwinError::Lost(_) | TwinError::NotForHere(_) if may_run_again && !relayed.has_fed => {
            return Err(Reason::TwinLost(error.to_string()));
        }
        _ => Reason::TwinLost(error.to_string()),
    };
    trail.ended(Outcome::Twin, Some(reason));
    Ok(Verdict::Completed { exit_code: 1, stdout: Vec::new(), stderr: message })
}

/// The variables that the command sees there.
fn environment(invocation: &Invocation) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let is_kept = |name: &std::ffi::OsStr| {
        let is_own = OF_THIS_MACHINE.iter().any(|other| name == *other);
        let names_directory =
            name == "TMPDIR" && env_value(&invocation.env, "TMPDIR").is_some_and(|at| at == "/tmp");
        !is_own || names_directory
    };
    let plain = |name: &std::ffi::OsStr| !name.as_bytes().is_empty();
    invocation.env.iter().filter(|(name, _)| plain(name) && is_kept(name)).cloned().collect()
}

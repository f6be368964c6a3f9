//! One command on the twin, from its first message to the last.
//! Knows nothing of how messages travel.
//!
//! 1. wait until the batch of changes that it is to see is in place
//! 2. mount overlays over the mirror, and start it in a cell over these
//! 3. pass on what it says, what it is told, and signals, until its main process has ended; or end it, at a limit, or because
//!    nobody wants it any more
//! 4. when the last of its processes has ended, look at what it has changed
//! 5. send the contents that the client cannot have
//! 6. put the changes into the mirror, and tell of them

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farcc_proto::twin;
use farcc_proto::twin::ended::Status as EndedStatus;
use farcc_proto::twin::output::Stream;
use farcc_proto::twin::run_request::Request;
use farcc_proto::twin::run_response::Response;
use futures::StreamExt as _;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Code;
use tonic::Status;

use crate::contents::Pieces;
use crate::mirror;
use crate::mirror::Patterns;
use crate::twin::BuildOptions;
use crate::twin::Cells;
use crate::twin::Committed;
use crate::twin::Left;
use crate::twin::MirrorError;
use crate::twin::Plan;
use crate::twin::Report;
use crate::twin::View;
use crate::twin::Workspace;
use crate::twin::build::BuildDaemon;
use crate::twin::build::BuildError;
use crate::twin::build::Launchers;
use crate::twin::standard::Standard;
use crate::twin::workspace::BUILDS;
use crate::twin::workspace::GROUP;
use crate::twin::workspace::PASSWD;
use crate::twin::workspace::STORE;

/// More patterns of files that come back are refused.
const MOST_PATTERNS: usize = 1000;

/// How often it is looked at how much a command has written.
const LOOK: Duration = Duration::from_secs(2);

/// What bounds a command besides its processes' number and memory, and what a build has.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How long it may take.
    pub time: Duration,
    /// What it may write in the workspace, in bytes.
    pub disk_bytes: u64,
    /// Whether it may open connections if it wants to.
    pub allows_network: bool,
    /// For the farccd of a build.
    pub build: BuildOptions,
}

/// Where messages to the client go. Nobody may be there any more.
type Out = mpsc::Sender<Result<twin::RunResponse, Status>>;

/// Messages from the client.
pub(super) type Requests =
    std::pin::Pin<Box<dyn futures::Stream<Item = Result<twin::RunRequest, Status>> + Send>>;

/// Why a command's changes are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Dropped {
    /// Nobody is left who could be told.
    Gone,
    /// By the client, or a limit: in words, and the signal by which it was ended.
    Because(String, u32),
}

/// How a command's processes have come to their end.
enum End {
    Ended(EndedStatus),
    Dropped(Dropped),
}

/// Runs a command and tells of it. What cannot be told any more is dropped.
///
/// # Errors
/// The status that ends the call.
pub(super) async fn run(
    workspace: Arc<Workspace>,
    cells: &Cells,
    bounds: &Bounds,
    start: twin::Start,
    requests: Requests,
    out: &Out,
) -> Result<(), Status> {
    let cwd = Path::new(OsStr::from_bytes(&start.working_directory));
    let is_plain = cwd.components().all(|part| part != Component::ParentDir);
    let is_inside = is_plain && workspace.card.roots.iter().any(|root| cwd.starts_with(root));
    if start.arguments.is_empty() || !is_inside {
        return Err(Status::invalid_argument("a command has words, and works in its workspace"));
    }
    let _entered = workspace.enter(start.arguments.clone());
    if !workspace.has_applied(start.after_sequence).await {
        return Err(Status::failed_precondition("the session is over"));
    }
    let fetch = start.build.as_ref().map(patterns).transpose()?;
    let view = workspace.mirror.begin(fetch).await.map_err(|error| unavailable(&error))?;
    let scene = Scene { workspace: &workspace, cells, bounds, out };
    match scene.play(&view, start, requests).await {
        Ok((End::Ended(status), stats)) => finish(&workspace, view, status, stats, out).await,
        Ok((End::Dropped(dropped), _)) => {
            workspace.mirror.abandon(view).await;
            let Dropped::Because(dropped, signal) = dropped else { return Ok(()) };
            let status = Some(EndedStatus::Signal(signal));
            let _ =
                say(out, Response::Ended(twin::Ended { status, dropped, ..twin::Ended::default() })).await;
            Ok(())
        }
        Err(status) => {
            workspace.mirror.abandon(view).await;
            Err(status)
        }
    }
}

/// What the client of a build wants to have.
fn patterns(build: &twin::Build) -> Result<Patterns, Status> {
    if build.fetch.len() > MOST_PATTERNS {
        return Err(Status::invalid_argument("there are more patterns than anybody writes"));
    }
    Patterns::new(build.fetch.iter().map(Vec::as_slice)).map_err(Status::invalid_argument)
}

/// What there is around a command.
struct Scene<'a> {
    workspace: &'a Workspace,
    cells: &'a Cells,
    bounds: &'a Bounds,
    out: &'a Out,
}

impl Scene<'_> {
    /// Runs the command, and the daemon that it has beside it if it is a build, until none of their processes is left. Returns what
    /// that daemon has counted, too.
    async fn play(
        &self,
        view: &View,
        mut start: twin::Start,
        requests: Requests,
    ) -> Result<(End, Vec<u8>), Status> {
        let Scene { workspace, cells, bounds, .. } = *self;
        let roots =
            view.mounts.iter().map(PathBuf::as_path).zip(workspace.card.roots.iter().map(PathBuf::as_path));
        let accounts = [PASSWD, GROUP].map(|name| workspace.directory.join(name));
        let home = home(&start, &workspace.card.roots);
        let mut plan = Plan {
            roots: roots.collect(),
            accounts: [&accounts[0], &accounts[1]],
            user: workspace.card.user,
            group: workspace.card.group,
            has_network: bounds.allows_network && start.wants_network,
            home: home.as_deref(),
            binds: Vec::new(),
        };
        let Some(build) = start.build.take() else {
            return Ok((self.follow(&plan, view, &start, requests).await?, Vec::new()));
        };
        let directory = workspace.directory.join(BUILDS).join(view.number.to_string());
        let failed = |error: &BuildError| match error {
            BuildError::Refused(_) => Status::failed_precondition(error.to_string()),
            BuildError::NotStarted(_) => Status::unavailable(error.to_string()),
        };
        let launchers = Launchers::new(cells, &start, &build, &workspace.card.roots, &directory);
        let launchers = launchers.map_err(|error| failed(&error))?;
        let store = workspace.directory.join(STORE);
        let daemon = BuildDaemon::start(cells, &bounds.build, &plan, directory.clone(), store);
        let daemon = daemon.await.map_err(|error| failed(&error))?;
        plan.binds = launchers.binds;
        start.environment = launchers.environment;
        let followed = self.follow(&plan, view, &start, requests).await;
        let stats = if followed.is_ok() { daemon.stats().await } else { Vec::new() };
        let ended = daemon.end().await;
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
        ended.map_err(|error| Status::aborted(format!("end the build's farccd: {error}")))?;
        Ok((followed?, stats))
    }

    /// Runs the command until none of its processes is left.
    async fn follow(
        &self,
        plan: &Plan<'_>,
        view: &View,
        start: &twin::Start,
        mut requests: Requests,
    ) -> Result<End, Status> {
        let Scene { workspace, cells, bounds, out } = *self;
        let (mut standard, theirs) = Standard::new(start).map_err(|error| unavailable(&error))?;
        let mut cell = cells.start(plan, start, theirs).await.map_err(|error| unavailable(&error))?;
        // What it says comes after the word that it has begun.
        let mut has_begun = false;
        let (mut is_heard, mut was_signaled) = (true, false);
        let deadline = Instant::now() + bounds.time;
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = loop {
            let Standard { input, outputs: [stdout, stderr], terminal, .. } = &mut standard;
            tokio::select! {
                report = cell.report() => match report {
                    Some(Report::Started) => {
                        has_begun = true;
                        let _ = say(out, Response::Started(twin::Started {})).await;
                    }
                    Some(Report::Exited(status)) => break Ok(End::Ended(EndedStatus::ExitCode(status.into()))),
                    // What a build has done until it was interrupted counts.
                    Some(Report::Signaled(signal)) if !was_signaled || view.is_of_build() => {
                        break Ok(End::Ended(EndedStatus::Signal(signal.into())));
                    }
                    Some(Report::Signaled(signal)) => {
                        let why = format!("it was ended by signal {signal} from the client");
                        break Ok(End::Dropped(Dropped::Because(why, signal.into())));
                    }
                    Some(Report::TooManyProcesses) => break dropped("it had more processes than the twin allows".to_owned()),
                    Some(Report::TooMuchMemory) => break dropped("it took more memory than the twin allows".to_owned()),
                    Some(Report::Failed(error)) => break Err(not_started(start, error)),
                    None => break Err(Status::unavailable("start the command: its cell ended")),
                },
                said = stdout.read(), if has_begun && stdout.is_open() => {
                    if !pass_on(out, Stream::Stdout, said).await {
                        stdout.close();
                    }
                }
                said = stderr.read(), if has_begun && stderr.is_open() => {
                    if !pass_on(out, Stream::Stderr, said).await {
                        stderr.close();
                    }
                }
                said = terminal.read(), if has_begun && terminal.is_open() => {
                    if !pass_on(out, Stream::Terminal, said).await {
                        terminal.close();
                    }
                }
                taken = input.feed(), if input.is_waiting() => {
                    if taken > 0 {
                        let _ = say(out, Response::TakenBytes(input.taken_bytes())).await;
                    }
                }
                request = requests.next(), if is_heard => match request.map(|request| request.map(|request| request.request)) {
                    Some(Ok(Some(Request::Input(more)))) => {
                        if !input.add(more) {
                            break Err(Status::invalid_argument("there is more input than the command was to get"));
                        }
                    }
                    Some(Ok(Some(Request::Signal(signal)))) => {
                        was_signaled = true;
                        cell.signal(u8::try_from(signal).unwrap_or(0));
                    }
                    Some(Ok(Some(Request::Window(size)))) => standard.resize(size),
                    Some(Ok(Some(Request::Cancel(_)))) => break dropped("it was cancelled".to_owned()),
                    Some(Ok(Some(Request::Start(_)))) => break Err(Status::invalid_argument("one call is one command")),
                    Some(Ok(None)) => {}
                    // Nothing more is said to the command.
                    None => is_heard = false,
                    Some(Err(_)) => break Ok(End::Dropped(Dropped::Gone)),
                },
                () = out.closed() => break Ok(End::Dropped(Dropped::Gone)),
                () = workspace.over.cancelled() => break Err(Status::failed_precondition("the session is over")),
                () = tokio::time::sleep_until(deadline) => {
                    break dropped(format!("it took longer than {:?}, which is all that the twin allows", bounds.time));
                }
                _ = look.tick() => {
                    let (mut mounts, limit) = (view.written_in(), bounds.disk_bytes);
                    mounts.extend(plan.binds.iter().filter(|bind| bind.is_writable).map(|bind| bind.from.clone()));
                    let written = tokio::task::spawn_blocking(move || mounts.iter().map(|at| size_bytes(at)).sum::<u64>());
                    if written.await.is_ok_and(|written| written > limit) {
                        break dropped(format!("it wrote more than {limit} bytes, which is all that the twin allows"));
                    }
                }
            }
        };
        // What it has left running is ended now; then the pipes are, too.
        let complaints =
            cell.end().await.map_err(|error| Status::aborted(format!("end the command: {error}")))?;
        if let Ok(End::Ended(_)) = &end {
            if let Some(read) = standard.input.read_bytes() {
                let _ = say(out, Response::TakenBytes(read)).await;
            }
            let Standard { outputs: [stdout, stderr], terminal, .. } = &mut standard;
            for (stream, outlet) in
                [(Stream::Stdout, stdout), (Stream::Stderr, stderr), (Stream::Terminal, terminal)]
            {
                while outlet.is_open() {
                    if !pass_on(out, stream, outlet.read().await).await {
                        break;
                    }
                }
            }
        }
        match (end, complaints) {
            (Err(status), Some(complaints)) if status.code() == Code::Unavailable => {
                Err(Status::unavailable(format!("{}: {complaints}", status.message())))
            }
            (end, _) => end,
        }
    }
}

fn dropped(why: String) -> Result<End, Status> {
    Ok(End::Dropped(Dropped::Because(why, Signal::KILL.as_raw().unsigned_abs())))
}

/// A directory of its own for a command that has a home which is not in the workspace.
fn home(start: &twin::Start, roots: &[PathBuf]) -> Option<PathBuf> {
    let home = start.environment.iter().rev().find_map(|entry| entry.strip_prefix(b"HOME="))?;
    let home = Path::new(OsStr::from_bytes(home));
    let is_plain = home.is_absolute()
        && home.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
    let is_taken = home == Path::new("/")
        || crate::paths::is_above_system(home)
        || home.starts_with("/proc")
        || home.starts_with("/dev")
        || home.starts_with("/etc")
        || home.starts_with("/tmp");
    let is_inside = roots.iter().any(|root| home.starts_with(root));
    (is_plain && !is_taken && !is_inside).then(|| home.to_owned())
}

/// Passes on what was read, if that is something; `false`: there is no more, or nobody to whom it could go.
async fn pass_on(out: &Out, stream: Stream, said: &[u8]) -> bool {
    if said.is_empty() {
        return false;
    }
    let output = twin::Output { stream: stream.into(), data: said.to_vec() };
    say(out, Response::Output(output)).await.is_ok()
}

/// What a command's files take on the disk, in bytes.
fn size_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut size = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        // What has gone meanwhile takes nothing.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            size += metadata.blocks() * 512;
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    size
}

/// Looks at what the command has changed, and sees to it that mirror and client have it.
async fn finish(
    workspace: &Workspace,
    view: View,
    status: EndedStatus,
    stats: Vec<u8>,
    out: &Out,
) -> Result<(), Status> {
    let left = workspace.mirror.end(view).await.map_err(|error| unavailable(&error))?;
    let (left, fresh) = workspace.mirror.fresh(left).await.map_err(|error| unavailable(&error))?;
    let left = send_contents(workspace, left, fresh, out).await?;
    let committed = match workspace.mirror.commit(left).await {
        Ok(committed) => committed,
        Err(error) => {
            // Nobody knows what is in the mirror.
            workspace.over.cancel();
            return Err(match &error {
                MirrorError::Install(error) if error.is_full() => {
                    Status::resource_exhausted(error.to_string())
                }
                error => Status::failed_precondition(format!("the session is over: {error}")),
            });
        }
    };
    let Committed { changes, kept: (kept_files, kept_bytes), number, conflicts, outward, unsent } = committed;
    let path = |(root, path): (u32, mirror::TreePath)| twin::Path { root, path: path.as_bytes().to_vec() };
    let mut changes = mirror::encode(&changes).into_iter();
    let mut ended = twin::Ended {
        status: Some(status),
        conflicts: conflicts.into_iter().map(path).collect(),
        unsent: unsent.into_iter().map(path).collect(),
        outward: outward.into_iter().map(path).collect(),
        commit: number,
        stats,
        kept_files,
        kept_bytes,
        ..twin::Ended::default()
    };
    loop {
        ended.changes = changes.by_ref().take(mirror::MOST_CHANGES).collect();
        ended.continues = changes.len() > 0;
        let is_last = !ended.continues;
        if say(out, Response::Ended(ended)).await.is_err() || is_last {
            return Ok(());
        }
        ended = twin::Ended::default();
    }
}

/// Sends the contents that are in no file that the client knows.
async fn send_contents(
    workspace: &Workspace,
    left: Left,
    fresh: Vec<mirror::RootedChange>,
    out: &Out,
) -> Result<Left, Status> {
    if fresh.is_empty() {
        return Ok(left);
    }
    let out = out.clone();
    let sending = tokio::task::spawn_blocking(move || {
        let mut sent_bytes = 0;
        for rooted in fresh {
            let Some(mirror::Node::File { digest, .. }) = rooted.change.now else { continue };
            let file = left.open(rooted.root, &rooted.change.path)?;
            for piece in Pieces::new(digest, file) {
                let piece = piece?;
                sent_bytes += piece.data.len() as u64;
                let response = twin::RunResponse { response: Some(Response::Piece(piece)) };
                // Nobody may be there any more; then the changes are committed all the same, and the session is over.
                if out.blocking_send(Ok(response)).is_err() {
                    return Ok((left, sent_bytes));
                }
            }
        }
        Ok::<_, io::Error>((left, sent_bytes))
    });
    let sent = sending.await.map_err(|error| Status::internal(error.to_string()))?;
    let (left, sent_bytes) = sent.map_err(|error| unavailable(&error))?;
    workspace.counts.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
    Ok(left)
}

async fn say(out: &Out, response: Response) -> Result<(), mpsc::error::SendError<()>> {
    let response = twin::RunResponse { response: Some(response) };
    out.send(Ok(response)).await.map_err(|_| mpsc::error::SendError(()))
}

fn unavailable(error: &dyn std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// Nothing has been done yet.
fn not_started(start: &twin::Start, error: i32) -> Status {
    let name = start.arguments.first().map(|name| String::from_utf8_lossy(name)).unwrap_or_default();
    let error = io::Error::from_raw_os_error(error);
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        _ => Code::Unavailable,
    };
    Status::new(code, format!("start {name}: {error}"))
}

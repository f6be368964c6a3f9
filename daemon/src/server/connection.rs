//! One launcher's connection: frames in, the verdict out, and the report of a local run.
//! Knows nothing of how a command is decided.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use farcc::wire;
use farcc::wire::BuildRequest;
use farcc::wire::DoneReport;
use farcc::wire::Ended;
use farcc::wire::Frame;
use farcc::wire::HEADER_BYTES;
use farcc::wire::HEARTBEAT;
use farcc::wire::Header;
use farcc::wire::Reply;
use farcc::wire::Request;
use farcc::wire::RunRequest;
use farcc::wire::VERSION;
use farcc::wire::WireError;
use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::compiler::Invocation;
use crate::dispatch::BuildOrder;
use crate::dispatch::Kept;
use crate::dispatch::Launcher;
use crate::dispatch::LocalRun;
use crate::dispatch::Order;
use crate::dispatch::Pending;
use crate::dispatch::Report;
use crate::dispatch::Track;
use crate::dispatch::Verdict;
use crate::dispatch::lane;
use crate::executor::twin::Build;
use crate::executor::twin::Terminal;
use crate::executor::twin::TwinEnd;
use crate::executor::twin::Window;
use crate::reason::Reason;
use crate::server::OFFER_PATIENCE;
use crate::server::Server;
use crate::server::Stage;
use crate::server::stream::Stream;
use crate::server::stream::whole_frame;

/// How long a connection may take to say what it wants, and to take an answer. A launcher that was stopped for
/// longer runs its command itself when it goes on.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection. It is served without another thread as long as nothing has to be waited for.
struct Connection {
    server: Arc<Server>,
    stream: Arc<Stream>,
    /// What has come and was not taken yet.
    received: Vec<u8>,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    server: Arc<Server>,
    stream: Arc<Stream>,
    token: TaskTrackerToken,
) -> anyhow::Result<()> {
    Connection { server, stream, received: Vec::new() }.serve(token).await
}

enum Incoming {
    Request(Request),
    /// A launcher of another version.
    OtherProtocol(WireError),
    End,
}

impl Connection {
    async fn serve(mut self, token: TaskTrackerToken) -> anyhow::Result<()> {
        let incoming = tokio::time::timeout(PATIENCE, self.read_request()).await;
        match incoming.context("read a frame: nothing came")?? {
            Incoming::Request(Request::Run(run) | Request::Build(BuildRequest { run, .. }))
                if run.version != VERSION =>
            {
                let message =
                    format!("{}: the launcher is {}, the daemon {VERSION}", Reason::VersionSkew, run.version);
                self.server.dispatcher.refused(Arc::new(invocation(run)), Reason::VersionSkew);
                self.server.met_another_version();
                self.send(&Reply::Refused { message }).await
            }
            Incoming::Request(Request::Run(run)) => {
                self.server.used();
                let ended = self.run_command(run, None).await;
                self.server.used();
                ended
            }
            Incoming::Request(Request::Build(build)) => {
                self.server.used();
                let order = order(&build);
                let ended = self.run_command(build.run, Some(order)).await;
                self.server.used();
                ended
            }
            Incoming::Request(Request::Control { words }) => {
                let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
                match *words {
                    ["stop"] => {
                        let told = self.send(&Reply::Text(to_json(&self.server.farewell()))).await;
                        self.server.stop();
                        told
                    }
                    ["stop", "drain", ref seconds @ ..] => {
                        let seconds = seconds.first().and_then(|seconds| seconds.parse().ok());
                        self.drain(seconds.map_or(OFFER_PATIENCE, Duration::from_secs), token).await
                    }
                    _ => self.send(&Reply::Text(self.server.control(&words))).await,
                }
            }
            Incoming::Request(
                Request::Done(_)
                | Request::Stopped
                | Request::Input { .. }
                | Request::Signal(_)
                | Request::Resized(_)
                | Request::Cancel,
            )
            | Incoming::End => Ok(()),
            Incoming::OtherProtocol(error) => {
                let message = format!("{}: {error}", Reason::VersionSkew);
                self.server.met_another_version();
                self.send(&Reply::Refused { message }).await
            }
        }
    }

    /// Drains the server and tells who asked for it what it has seen, when that is over.
    async fn drain(&self, patience: Duration, token: TaskTrackerToken) -> anyhow::Result<()> {
        let server = &self.server;
        let _farewell = server.lifecycle.farewells.token();
        // This connection is no command to wait for.
        drop(token);
        server.drain(patience);
        let mut stage = server.lifecycle.stage.subscribe();
        let drained = async {
            // The stage lives as long as the server.
            let _ = stage.wait_for(|stage| *stage >= Stage::Drained).await;
        };
        tokio::pin!(drained);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                () = &mut drained => break,
                _ = heartbeat.tick() => self.send(&Reply::Working).await?,
            }
        }
        self.send(&Reply::Text(to_json(&server.farewell()))).await
    }

    async fn run_command(&mut self, run: RunRequest, build: Option<BuildOrder>) -> anyhow::Result<()> {
        let has_input = run.stdin_is_fed;
        let invocation = Arc::new(invocation(run));
        let server = Arc::clone(&self.server);
        if server.is_draining() {
            server.dispatcher.refused(invocation, Reason::Draining);
            return self.send(&Reply::Refused { message: Reason::Draining.to_string() }).await;
        }
        // Only Cancel comes before an answer.
        if !self.received.is_empty() {
            return Ok(());
        }
        let (lane, track) = lane();
        let launcher = Launcher { presence: self.stream.presence(), lane, has_input };
        let (deciding, decided) = (Arc::clone(&server), Arc::clone(&invocation));
        let deciding = async move {
            match build {
                None => deciding.dispatcher.handle(decided, launcher).await,
                Some(order) => Box::pin(deciding.dispatcher.build(decided, order, launcher)).await,
            }
        };
        let deciding = Box::pin(AssertUnwindSafe(deciding).catch_unwind());
        let Some(verdict) = self.decide(deciding, track).await? else { return Ok(()) };
        let verdict = verdict.unwrap_or_else(|panic| {
            let reason = Reason::Internal(panic);
            server.dispatcher.refused(invocation, reason.clone());
            Verdict::PassThrough { reason, slot: false }
        });
        match verdict {
            Verdict::Completed { exit_code, stdout, stderr } => {
                self.send(&Reply::Completed { exit_code, stdout, stderr }).await
            }
            Verdict::PassThrough { reason, slot } => {
                self.send(&Reply::PassThrough { reason: reason.to_string(), slot }).await
            }
            Verdict::RanOnTwin(end) => {
                let ended = match end {
                    TwinEnd::Exited(status) => Ended::Exited(status),
                    TwinEnd::Signaled(signal) => Ended::Signaled(signal),
                };
                self.send(&Reply::Ended(ended)).await
            }
            Verdict::RunAndStore(pending) => Box::pin(self.hand_over(*pending)).await,
            Verdict::RanHere(pending, run) => Box::pin(self.keep(*pending, run)).await,
        }
    }

    /// Goes with `deciding` as far as that needs nobody, and then lets it go on as a task of its own. A panic is this
    /// command's alone. None: the launcher has gone, and it is cancelled.
    async fn decide<T: Send + 'static>(
        &mut self,
        mut deciding: Pin<Box<impl Future<Output = std::thread::Result<T>> + Send + 'static>>,
        mut track: Track,
    ) -> anyhow::Result<Option<Result<T, String>>> {
        match once(deciding.as_mut()).await {
            Poll::Ready(decided) => {
                while let Ok(order) = track.orders.try_recv() {
                    self.pass_on(order).await?;
                }
                Ok(Some(decided.map_err(|_| PANICKED.to_owned())))
            }
            Poll::Pending => {
                let decided = Box::pin(self.while_present(tokio::spawn(deciding), &mut track)).await?;
                let panicked = |ended: std::thread::Result<T>| ended.map_err(|_| PANICKED.to_owned());
                Ok(decided.map(|ended| ended.and_then(panicked)))
            }
        }
    }

    /// Lets the launcher run the command, and stores what comes of it.
    async fn hand_over(&mut self, pending: Pending) -> anyhow::Result<()> {
        let reply = Reply::RunAndStore { argv: pending.argv.clone(), reason: pending.reason.to_string() };
        // It takes as long as the command does.
        let answered = self.send(&reply).await;
        let report = match answered {
            Ok(()) => self.read_request().await,
            Err(error) => Err(error),
        };
        let Ok(Incoming::Request(Request::Done(report))) = report else {
            self.server.dispatcher.abandon(pending);
            return report.map(drop);
        };
        self.keep(pending, local_run(report)).await
    }

    /// Stores what the launcher's run has made, and lets the launcher go on.
    async fn keep(&self, pending: Pending, run: LocalRun) -> anyhow::Result<()> {
        let (storing, presence) = (Arc::clone(&self.server), self.stream.presence());
        let task = tokio::spawn(async move { storing.dispatcher.finish(pending, run, presence).await });
        let kept = self.while_storing(task).await;
        let done = Reply::Completed { exit_code: 0, stdout: Vec::new(), stderr: Vec::new() };
        let sent = self.send(&done).await;
        if let Some(kept) = kept {
            self.server.offer(kept);
        }
        sent
    }

    /// Waits for `task`, telling the launcher every [`HEARTBEAT`] that the daemon lives. A launcher that has gone is
    /// no hindrance: the command is counted all the same.
    async fn while_storing(&self, task: JoinHandle<Option<Kept>>) -> Option<Kept> {
        let mut task = AbortOnDrop(task);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.tick().await;
        loop {
            tokio::select! {
                ended = &mut task.0 => return ended.unwrap_or_else(|error| {
                    tracing::error!("failed to store a result: {error}");
                    None
                }),
                _ = heartbeat.tick() => drop(self.send(&Reply::Working).await),
            }
        }
    }

    /// Waits for `task` while the launcher is there, telling it every [`HEARTBEAT`] that the daemon lives, and carries orders
    /// and reports of a race. None: the launcher has gone, and the task is cancelled.
    async fn while_present<T: Send + 'static>(
        &mut self,
        task: JoinHandle<T>,
        track: &mut Track,
    ) -> anyhow::Result<Option<Result<T, String>>> {
        let mut task = AbortOnDrop(task);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.tick().await;
        let (mut races, mut streams, mut ran) = (false, false, false);
        let stream = Arc::clone(&self.stream);
        loop {
            tokio::select! {
                ended = &mut task.0 => {
                    // What it has said last comes before the verdict.
                    while let Ok(order) = track.orders.try_recv() {
                        self.pass_on(order).await?;
                    }
                    return Ok(Some(ended.map_err(|error| error.to_string())));
                }
                // A launcher that has run the command may be gone: it is counted all the same, and the task ends at once.
                _ = heartbeat.tick(), if !ran => {
                    let sent = self.send(&Reply::Working).await;
                    // Its last words may still be there to be read, and then comes the end.
                    if !races && !streams {
                        sent?;
                    }
                }
                Some(order) = track.orders.recv() => {
                    races |= matches!(order, Order::Race(_));
                    streams |= matches!(order, Order::Stream { .. });
                    self.pass_on(order).await?;
                }
                read = stream.receive(&mut self.received), if !ran => {
                    match read {
                        Ok(read) if read > 0 && (races || streams) => {}
                        // But for the report of a race and words for the twin, only Cancel may come now; a closed socket says the same.
                        _ => return Ok(None),
                    }
                    while let Some(length) = whole_frame(&self.received) {
                        let report = match Frame::decode(&self.received[..length]) {
                            Ok(Frame::Request(Request::Done(report))) if races => Report::Ended(local_run(report)),
                            Ok(Frame::Request(Request::Stopped)) if races => Report::Stopped,
                            Ok(Frame::Request(Request::Input { bytes, is_last })) if streams => Report::Input(bytes, is_last),
                            Ok(Frame::Request(Request::Signal(signal))) if streams => Report::Signal(signal),
                            Ok(Frame::Request(Request::Resized(size))) if streams => Report::Resized(window_of(size)),
                            _ => return Ok(None),
                        };
                        self.received.drain(..length);
                        if matches!(report, Report::Ended(_) | Report::Stopped) {
                            (races, ran) = (false, matches!(report, Report::Ended(_)));
                        }
                        // A task that does not take it has just ended.
                        let _ = track.reports.send(report);
                    }
                }
            }
        }
    }

    async fn pass_on(&self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::Race(argv) => self.send(&Reply::Race { argv }).await,
            Order::Stop => {
                // A launcher that has gone runs nothing any more.
                let _ = self.send(&Reply::Stop).await;
                Ok(())
            }
            Order::Stream { has_input, may_run_again } => {
                self.send(&Reply::Stream { has_input, may_run_again }).await
            }
            // Whoever reads what a command writes may take his time, as he could if the command ran here.
            Order::Output(descriptor, bytes) => {
                self.stream.send(&Reply::Output { descriptor, bytes: bytes.into() }).await
            }
            Order::Taken(bytes) => self.send(&Reply::Taken(bytes)).await,
        }
    }

    async fn read_request(&mut self) -> anyhow::Result<Incoming> {
        let length = loop {
            if let Some(length) = whole_frame(&self.received) {
                break length;
            }
            match self.stream.receive(&mut self.received).await.context("read a frame")? {
                0 if self.received.is_empty() => return Ok(Incoming::End),
                0 => bail!("read a frame: it ends early"),
                _ => {}
            }
        };
        let (header, payload) =
            self.received[..length].split_first_chunk::<HEADER_BYTES>().context("read a frame")?;
        let header = Header::decode(*header).context("read a frame")?;
        let request = Request::decode(header.kind, payload);
        self.received.drain(..length);
        match request {
            Ok(request) => Ok(Incoming::Request(request)),
            Err(error @ WireError::OtherProtocol(_)) => Ok(Incoming::OtherProtocol(error)),
            Err(error) => Err(error).context("read a frame"),
        }
    }

    async fn send(&self, reply: &Reply) -> anyhow::Result<()> {
        let sent = tokio::time::timeout(PATIENCE, self.stream.send(reply)).await;
        sent.context("answer the launcher: it takes nothing")?
    }
}

/// What the log has more of.
const PANICKED: &str = "the daemon panicked over it";

/// What the future comes to if it is polled once.
async fn once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

fn order(request: &BuildRequest) -> BuildOrder {
    let BuildRequest { run, fetch, launchers, modules, window, is_quiet } = request;
    let descriptors = [run.stdin_is_terminal, run.stdout_is_terminal, run.stderr_is_terminal];
    BuildOrder {
        build: Build { fetch: fetch.clone(), launchers: launchers.clone(), modules: modules.clone() },
        terminal: window.map(|size| Terminal { window: window_of(size), descriptors }),
        is_quiet: *is_quiet,
    }
}

fn window_of(wire::Window { rows, columns }: wire::Window) -> Window {
    Window { rows, columns }
}

fn invocation(run: RunRequest) -> Invocation {
    Invocation {
        argv: run.argv,
        cwd: run.cwd,
        env: run.env,
        umask: run.umask,
        stdout_is_terminal: run.stdout_is_terminal,
        stderr_is_terminal: run.stderr_is_terminal,
    }
}

fn local_run(report: DoneReport) -> LocalRun {
    LocalRun {
        success: report.ended == Ended::Exited(0),
        stdout: report.stdout,
        stderr: report.stderr,
        captured: report.captured,
        took: Some(Duration::from_micros(report.micros)).filter(|took| !took.is_zero()),
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Server {
    /// Answers a word to the daemon itself: JSON, or a line of text.
    fn control(&self, words: &[&str]) -> Vec<u8> {
        match *words {
            ["status"] => to_json(&self.status()),
            ["stats"] => to_json(&self.stats.summary()),
            ["stats", "reset"] => {
                let before = self.stats.summary();
                self.stats.reset();
                to_json(&before)
            }
            _ => format!("unknown request: {}", words.join(" ")).into_bytes(),
        }
    }
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| format!("encode the answer: {error}").into_bytes())
}

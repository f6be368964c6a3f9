//! One launcher's connection: frames in, the verdict out, and the report of a local run.
//! Knows nothing of how a command is decided.

use std::os::fd::AsFd;
use std::sync::Arc;
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
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;
use tokio::task::JoinHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::compiler::Invocation;
use crate::dispatch::BuildOrder;
use crate::dispatch::Kept;
use crate::dispatch::Launcher;
use crate::dispatch::LocalRun;
use crate::dispatch::Order;
use crate::dispatch::Pending;
use crate::dispatch::Presence;
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

/// How long a connection may take to say what it wants, and to take an answer. A launcher that was stopped for
/// longer runs its command itself when it goes on.
const PATIENCE: Duration = Duration::from_secs(60);

const READ_BYTES: usize = 64 * 1024;

/// Serves one connection to its end.
pub(super) async fn serve(
    server: &Arc<Server>,
    stream: UnixStream,
    token: TaskTrackerToken,
) -> anyhow::Result<()> {
    let presence = presence(&stream)?;
    let (mut reader, mut writer) = stream.into_split();
    let incoming = tokio::time::timeout(PATIENCE, read_request(&mut reader)).await;
    match incoming.context("read a frame: nothing came")?? {
        Incoming::Request(Request::Run(run) | Request::Build(BuildRequest { run, .. }))
            if run.version != VERSION =>
        {
            let message =
                format!("{}: the launcher is {}, the daemon {VERSION}", Reason::VersionSkew, run.version);
            server.dispatcher.refused(Arc::new(invocation(run)), Reason::VersionSkew);
            server.met_another_version();
            send(&mut writer, &Reply::Refused { message }).await
        }
        Incoming::Request(Request::Run(run)) => {
            server.used();
            let ended = run_command(server, run, None, presence, &mut reader, &mut writer).await;
            server.used();
            ended
        }
        Incoming::Request(Request::Build(build)) => {
            server.used();
            let order = order(&build);
            let ended = run_command(server, build.run, Some(order), presence, &mut reader, &mut writer).await;
            server.used();
            ended
        }
        Incoming::Request(Request::Control { words }) => {
            let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
            match *words {
                ["stop"] => {
                    let told = send(&mut writer, &Reply::Text(to_json(&server.farewell()))).await;
                    server.stop();
                    told
                }
                ["stop", "drain", ref seconds @ ..] => {
                    let seconds = seconds.first().and_then(|seconds| seconds.parse().ok());
                    drain(server, seconds.map_or(OFFER_PATIENCE, Duration::from_secs), token, &mut writer)
                        .await
                }
                _ => send(&mut writer, &Reply::Text(server.control(&words))).await,
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
            server.met_another_version();
            send(&mut writer, &Reply::Refused { message }).await
        }
    }
}

/// Asks the socket itself, so that a thread which was blocked for long knows even before this task does.
fn presence(stream: &UnixStream) -> anyhow::Result<Presence> {
    // While this copy is open, the launcher sees no end of file: it never goes on beside an install.
    let socket = stream.as_fd().try_clone_to_owned().context("copy the connection's descriptor")?;
    Ok(Presence::new(move || {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // A byte can only be of Cancel: the report of a race has been read before anything is installed.
        matches!(rustix::net::recv(&socket, &mut [0; 1], flags), Err(Errno::AGAIN | Errno::INTR))
    }))
}

/// Drains the server and tells who asked for it what it has seen, when that is over.
async fn drain(
    server: &Arc<Server>,
    patience: Duration,
    token: TaskTrackerToken,
    writer: &mut OwnedWriteHalf,
) -> anyhow::Result<()> {
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
            _ = heartbeat.tick() => send(writer, &Reply::Working).await?,
        }
    }
    send(writer, &Reply::Text(to_json(&server.farewell()))).await
}

enum Incoming {
    Request(Request),
    /// A launcher of another version.
    OtherProtocol(WireError),
    End,
}

async fn run_command(
    server: &Arc<Server>,
    run: RunRequest,
    build: Option<BuildOrder>,
    presence: Presence,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> anyhow::Result<()> {
    let has_input = run.stdin_is_fed;
    let invocation = Arc::new(invocation(run));
    if server.is_draining() {
        server.dispatcher.refused(invocation, Reason::Draining);
        return send(writer, &Reply::Refused { message: Reason::Draining.to_string() }).await;
    }
    let (lane, mut track) = lane();
    let launcher = Launcher { presence: presence.clone(), lane, has_input };
    let (deciding, decided) = (Arc::clone(server), Arc::clone(&invocation));
    // Its own task, so that a panic is this command's alone.
    let task = tokio::spawn(async move {
        match build {
            None => deciding.dispatcher.handle(decided, launcher).await,
            Some(order) => deciding.dispatcher.build(decided, order, launcher).await,
        }
    });
    let Some(verdict) = while_present(task, &mut track, reader, writer).await? else { return Ok(()) };
    let verdict = verdict.unwrap_or_else(|panic| {
        let reason = Reason::Internal(panic);
        server.dispatcher.refused(invocation, reason.clone());
        Verdict::PassThrough { reason, slot: false }
    });
    match verdict {
        Verdict::Completed { exit_code, stdout, stderr } => {
            send(writer, &Reply::Completed { exit_code, stdout, stderr }).await
        }
        Verdict::PassThrough { reason, slot } => {
            send(writer, &Reply::PassThrough { reason: reason.to_string(), slot }).await
        }
        Verdict::RanOnTwin(end) => {
            let ended = match end {
                TwinEnd::Exited(status) => Ended::Exited(status),
                TwinEnd::Signaled(signal) => Ended::Signaled(signal),
            };
            send(writer, &Reply::Ended(ended)).await
        }
        Verdict::RunAndStore(pending) => hand_over(server, *pending, presence, reader, writer).await,
        Verdict::RanHere(pending, run) => keep(server, *pending, run, presence, writer).await,
    }
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

/// Lets the launcher run the command, and stores what comes of it.
async fn hand_over(
    server: &Arc<Server>,
    pending: Pending,
    presence: Presence,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> anyhow::Result<()> {
    let reply = Reply::RunAndStore { argv: pending.argv.clone(), reason: pending.reason.to_string() };
    // It takes as long as the command does.
    let answered = send(writer, &reply).await;
    let report = match answered {
        Ok(()) => read_request(reader).await,
        Err(error) => Err(error),
    };
    let Ok(Incoming::Request(Request::Done(report))) = report else {
        server.dispatcher.abandon(pending);
        return report.map(drop);
    };
    keep(server, pending, local_run(report), presence, writer).await
}

/// Stores what the launcher's run has made, and lets the launcher go on.
async fn keep(
    server: &Arc<Server>,
    pending: Pending,
    run: LocalRun,
    presence: Presence,
    writer: &mut OwnedWriteHalf,
) -> anyhow::Result<()> {
    let storing = Arc::clone(server);
    let task = tokio::spawn(async move { storing.dispatcher.finish(pending, run, presence).await });
    let kept = while_storing(task, writer).await;
    let sent = send(writer, &Reply::Completed { exit_code: 0, stdout: Vec::new(), stderr: Vec::new() }).await;
    if let Some(kept) = kept {
        server.offer(kept);
    }
    sent
}

/// Waits for `task`, telling the launcher every [`HEARTBEAT`] that the daemon lives. A launcher that has gone is
/// no hindrance: the command is counted all the same.
async fn while_storing(task: JoinHandle<Option<Kept>>, writer: &mut OwnedWriteHalf) -> Option<Kept> {
    let mut task = AbortOnDrop(task);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.tick().await;
    loop {
        tokio::select! {
            ended = &mut task.0 => return ended.unwrap_or_else(|error| {
                tracing::error!("failed to store a result: {error}");
                None
            }),
            _ = heartbeat.tick() => drop(send(writer, &Reply::Working).await),
        }
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

/// Waits for `task` while the launcher is there, telling it every [`HEARTBEAT`] that the daemon lives, and carries orders
/// and reports of a race. None: the launcher has gone, and the task is cancelled.
async fn while_present<T: Send + 'static>(
    task: JoinHandle<T>,
    track: &mut Track,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
) -> anyhow::Result<Option<Result<T, String>>> {
    let mut task = AbortOnDrop(task);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.tick().await;
    let (mut races, mut streams, mut ran) = (false, false, false);
    let mut received = Vec::new();
    loop {
        tokio::select! {
            ended = &mut task.0 => {
                // What it has said last comes before the verdict.
                while let Ok(order) = track.orders.try_recv() {
                    pass_on(order, writer).await?;
                }
                return Ok(Some(ended.map_err(|error| error.to_string())));
            }
            // A launcher that has run the command may be gone: it is counted all the same, and the task ends at once.
            _ = heartbeat.tick(), if !ran => {
                let sent = send(writer, &Reply::Working).await;
                // Its last words may still be there to be read, and then comes the end.
                if !races && !streams {
                    sent?;
                }
            }
            Some(order) = track.orders.recv() => {
                races |= matches!(order, Order::Race(_));
                streams |= matches!(order, Order::Stream { .. });
                pass_on(order, writer).await?;
            }
            _ = reader.readable(), if !ran => {
                received.reserve(READ_BYTES);
                match reader.try_read_buf(&mut received) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Ok(read) if read > 0 && (races || streams) => {}
                    // But for the report of a race and words for the twin, only Cancel may come now; a closed socket says the same.
                    _ => return Ok(None),
                }
                while let Some(length) = whole_frame(&received) {
                    let report = match Frame::decode(&received[..length]) {
                        Ok(Frame::Request(Request::Done(report))) if races => Report::Ended(local_run(report)),
                        Ok(Frame::Request(Request::Stopped)) if races => Report::Stopped,
                        Ok(Frame::Request(Request::Input { bytes, is_last })) if streams => Report::Input(bytes, is_last),
                        Ok(Frame::Request(Request::Signal(signal))) if streams => Report::Signal(signal),
                        Ok(Frame::Request(Request::Resized(size))) if streams => Report::Resized(window_of(size)),
                        _ => return Ok(None),
                    };
                    received.drain(..length);
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

async fn pass_on(order: Order, writer: &mut OwnedWriteHalf) -> anyhow::Result<()> {
    match order {
        Order::Race(argv) => send(writer, &Reply::Race { argv }).await,
        Order::Stop => {
            // A launcher that has gone runs nothing any more.
            let _ = send(writer, &Reply::Stop).await;
            Ok(())
        }
        Order::Stream { has_input, may_run_again } => {
            send(writer, &Reply::Stream { has_input, may_run_again }).await
        }
        Order::Output(descriptor, bytes) => {
            send_patiently(writer, &Reply::Output { descriptor, bytes: bytes.into() }).await
        }
        Order::Taken(bytes) => send(writer, &Reply::Taken(bytes)).await,
    }
}

/// The length of the frame with which the bytes begin, if all of it is there, or if it cannot be one.
fn whole_frame(received: &[u8]) -> Option<usize> {
    let header = Header::decode(*received.first_chunk()?);
    let length = header.map_or(received.len(), |header| HEADER_BYTES + header.payload_bytes);
    (length <= received.len()).then_some(length)
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Most requests are no longer.
const USUAL_BYTES: usize = 16 << 10;

async fn read_request(reader: &mut OwnedReadHalf) -> anyhow::Result<Incoming> {
    let mut header = [0; HEADER_BYTES];
    match reader.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Incoming::End),
        Err(error) => return Err(error).context("read a frame"),
    }
    let header = Header::decode(header).context("read a frame")?;
    let expected = header.payload_bytes;
    // Beyond what most requests are, it grows with what really comes, not with what the header promises.
    let mut payload = Vec::with_capacity(expected.min(USUAL_BYTES));
    reader.take(expected as u64).read_to_end(&mut payload).await.context("read a frame")?;
    if payload.len() != expected {
        bail!("read a frame: it ends early");
    }
    match Request::decode(header.kind, &payload) {
        Ok(request) => Ok(Incoming::Request(request)),
        Err(error @ WireError::OtherProtocol(_)) => Ok(Incoming::OtherProtocol(error)),
        Err(error) => Err(error).context("read a frame"),
    }
}

async fn send(writer: &mut OwnedWriteHalf, reply: &Reply) -> anyhow::Result<()> {
    let frame = reply.encode().context("encode a reply")?;
    let written = tokio::time::timeout(PATIENCE, writer.write_all(&frame)).await;
    written.context("answer the launcher: it takes nothing")?.context("answer the launcher")
}

/// The same for what a command writes: whoever reads it may take his time, as he could if the command ran here.
async fn send_patiently(writer: &mut OwnedWriteHalf, reply: &Reply) -> anyhow::Result<()> {
    let frame = reply.encode().context("encode a reply")?;
    writer.write_all(&frame).await.context("answer the launcher")
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

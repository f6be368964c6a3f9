//! Starts bubblewrap around a command, follows it, and sees to it that nothing of it is left.
//! Knows nothing of inputs and outputs.

use std::ffi::OsString;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::PipeReader;
use std::io::PipeWriter;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::sync::PoisonError;
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::process::Pid;
use rustix::process::PidfdFlags;
use rustix::process::Signal;
use tonic::Code;

use super::Failure;
use super::Sandbox;
use super::mounts::Mounts;
use super::request::Request;
use crate::digest::Digest;
use crate::process::Program;
use crate::store::Store;

/// Written to the stop pipe when nobody waits for the action any more.
pub(super) const CANCELLED: u8 = b'c';
/// Written to the stop pipe when the command prints more than is kept.
const FLOODED: u8 = b'f';

/// More than any build step prints to a purpose, and little enough to keep.
const MAX_PRINTED_BYTES: u64 = 64 << 20;

/// How long the kernel may take to end a killed PID namespace (a process may hang in a disk's answer).
const NAMESPACE_END: Duration = Duration::from_secs(30);

/// Hands bubblewrap its status pipe: a child inherits nothing but the three standard descriptors, so it comes as
/// the first, is moved to 3, and the command gets `/dev/null` in its place. No core file is ever wanted.
const MOVE_STATUS_PIPE: &str = r#"ulimit -c 0; exec 3>&0 </dev/null; exec "$@""#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Exited,
    TimedOut,
    Cancelled,
    Flooded,
}

impl Ending {
    /// The result if the command came to its own end.
    pub(super) fn check(self, request: &Request, result: ActionResult) -> Result<ActionResult, Failure> {
        let (code, message) = match self {
            Ending::Exited => return Ok(result),
            Ending::TimedOut => {
                (Code::DeadlineExceeded, format!("the command ran longer than {:?}", request.timeout))
            }
            Ending::Cancelled => (Code::Cancelled, "nobody waited for the command any more".to_owned()),
            Ending::Flooded => {
                (Code::ResourceExhausted, format!("the command printed more than {MAX_PRINTED_BYTES} bytes"))
            }
        };
        Err(Failure { result: Some(Box::new(result)), ..Failure::new(code, message) })
    }
}

pub(super) struct Run {
    pub(super) ending: Ending,
    /// 128 + n after signal n.
    pub(super) exit_code: i32,
    pub(super) stdout: Digest,
    pub(super) stderr: Digest,
}

/// Runs the request's command in `root` under `mounts`. A byte in `stop` ends it early; `flooded` is the pipe's
/// other end. On return no process of it is left.
pub(super) fn run(
    sandbox: &Sandbox,
    request: &Request,
    root: &Path,
    mounts: &Mounts,
    stop: &OwnedFd,
    flooded: &PipeWriter,
) -> Result<Run, Failure> {
    let pipe = || io::pipe().map_err(|error| Failure::io("make a pipe", &error));
    let (status_reader, status_writer) = pipe()?;
    let (stdout_reader, stdout_writer) = pipe()?;
    let (stderr_reader, stderr_writer) = pipe()?;
    let program = Program {
        path: Path::new("/bin/sh"),
        args: arguments(sandbox, request, root, mounts),
        env: Vec::new(),
        cwd: Path::new("/"),
    };
    let mut command = program.command().into_std();
    command.stdin(status_writer).stdout(stdout_writer).stderr(stderr_writer).process_group(0);
    let spawned = {
        // See `Sandbox::starting`. The lock guards nothing that a panic could leave half-done.
        let _starting = sandbox.starting.write().unwrap_or_else(PoisonError::into_inner);
        command.spawn()
    };
    // Its copies of the pipes' writing ends would keep the readers waiting.
    drop(command);
    let child = spawned.map_err(|error| Failure::io("start bubblewrap", &error))?;
    let mut child = KillOnDrop(child);
    let deadline = Instant::now() + request.timeout;
    let store = &sandbox.store().with_function(request.function);
    std::thread::scope(|scope| {
        let stdout = scope.spawn(move || keep_printed(store, stdout_reader, flooded));
        let stderr = scope.spawn(move || keep_printed(store, stderr_reader, flooded));
        let status = scope.spawn(move || read_status(status_reader));
        let ending = wait(&child.0, stop, deadline);
        if !matches!(ending, Ok(Ending::Exited)) {
            kill(&child.0);
        }
        let waited = child.0.wait();
        let status = join(status)?;
        if let Some(namespace) = &status.namespace {
            end_namespace(namespace)?;
        }
        let stdout = join(stdout)??;
        let stderr = join(stderr)??;
        waited.map_err(|error| Failure::io("wait for bubblewrap", &error))?;
        let ending = ending?;
        let exit_code = match (ending, status.exit_code) {
            (Ending::Exited, Some(code)) => code,
            (Ending::Exited, None) => return Err(setup_failed(store, &stderr)),
            (Ending::TimedOut | Ending::Cancelled | Ending::Flooded, _) => 128 + Signal::KILL.as_raw(),
        };
        Ok(Run { ending, exit_code, stdout, stderr })
    })
}

fn arguments(sandbox: &Sandbox, request: &Request, root: &Path, mounts: &Mounts) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["-c", MOVE_STATUS_PIPE, "sh"].map(OsString::from).into();
    arguments.push(sandbox.bubblewrap().into());
    arguments.extend(
        ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "farcc"]
            .map(OsString::from),
    );
    arguments.extend(["--json-status-fd", "3", "--bind"].map(OsString::from));
    arguments.extend([root.into(), "/".into()]);
    arguments.extend(mounts.arguments.iter().cloned());
    arguments.push("--chdir".into());
    arguments.push(Path::new("/").join(&request.working_directory).into());
    // Bubblewrap adds PWD to every environment; `env` takes it away, and looks the program up in the
    // command's own PATH (REAPI, `Command.arguments`).
    arguments.extend(["--", "/usr/bin/env", "-i", "--"].map(OsString::from));
    arguments.extend(request.environment.iter().map(OsString::from));
    arguments.extend(request.arguments.iter().map(OsString::from));
    arguments
}

/// What bubblewrap itself failed with.
fn setup_failed(store: &Store, stderr: &Digest) -> Failure {
    let printed = store.read(stderr).ok().flatten().unwrap_or_default();
    let printed = String::from_utf8_lossy(&printed[..printed.len().min(1000)]).trim().to_owned();
    Failure::new(Code::Internal, format!("set up the sandbox: {printed}"))
}

/// Waits for the child's end, the deadline, or a byte in the stop pipe.
fn wait(child: &Child, stop: &OwnedFd, deadline: Instant) -> Result<Ending, Failure> {
    let failed = |error: rustix::io::Errno| Failure::io("wait for bubblewrap", &error.into());
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(failed)?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Ending::TimedOut);
        }
        let mut waiting = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match rustix::event::poll(&mut waiting, Some(&timespec(left))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
        if waiting[0].revents().contains(PollFlags::IN) {
            return Ok(Ending::Exited);
        }
        if waiting[1].revents().contains(PollFlags::IN) {
            let mut byte = [0];
            rustix::io::read(stop, &mut byte).map_err(failed)?;
            return Ok(if byte[0] == FLOODED { Ending::Flooded } else { Ending::Cancelled });
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Kills bubblewrap and, by `--die-with-parent`, what it started. Its group too: a namespace's first process that
/// was killed for before it asked to die with its parent would wait for the parent for ever.
fn kill(child: &Child) {
    // The child was not waited for yet, so that its id can be nobody else's. It may have ended by itself.
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // After a wait this only says so again.
        if matches!(self.0.try_wait(), Ok(None)) {
            kill(&self.0);
            let _ = self.0.wait();
        }
    }
}

#[derive(Default)]
struct Status {
    /// The first process of the command's PID namespace; it ends as the last.
    namespace: Option<OwnedFd>,
    /// `None` when the command was never started.
    exit_code: Option<i32>,
}

/// Reads what bubblewrap says (`--json-status-fd`): the namespace's first process before the command starts, and
/// the exit code at the end.
fn read_status(pipe: PipeReader) -> Status {
    let mut status = Status::default();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        let number = |name: &str| message[name].as_i64().and_then(|number| i32::try_from(number).ok());
        if let Some(pid) = number("child-pid").and_then(Pid::from_raw) {
            // It may have ended already.
            status.namespace = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        }
        status.exit_code = number("exit-code").or(status.exit_code);
    }
    status
}

/// Kills the namespace's first process, which kills all others, and waits for the end of them all.
fn end_namespace(namespace: &OwnedFd) -> Result<(), Failure> {
    // It may have ended by itself.
    let _ = rustix::process::pidfd_send_signal(namespace, Signal::KILL);
    let deadline = Instant::now() + NAMESPACE_END;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut waiting = [PollFd::new(namespace, PollFlags::IN)];
        match rustix::event::poll(&mut waiting, Some(&timespec(left))) {
            Ok(0) => {
                let problem = format!("the command's processes did not end in {NAMESPACE_END:?}");
                return Err(Failure::new(Code::Internal, problem));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::io("wait for the command's processes", &error.into())),
        }
    }
}

/// Puts what comes out of `pipe` into the store. Behind the limit it is read on and dropped, so that the command
/// does not block before it is stopped.
fn keep_printed(store: &Store, mut pipe: PipeReader, mut flooded: &PipeWriter) -> Result<Digest, Failure> {
    let mut blob = store.writer()?;
    let mut buffer = vec![0; 64 * 1024];
    let mut problem = None;
    loop {
        let read = match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::io("read what the command prints", &error)),
        };
        if problem.is_some() {
            continue;
        }
        if blob.size_bytes() + read as u64 > MAX_PRINTED_BYTES {
            // The result says so: what is kept is the beginning.
            let _ = flooded.write_all(&[FLOODED]);
            continue;
        }
        problem = blob.write_all(&buffer[..read]).err();
    }
    match problem {
        Some(error) => Err(Failure::io("keep what the command prints", &error)),
        None => Ok(blob.finish()?),
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T, Failure> {
    thread.join().map_err(|_| Failure::new(Code::Internal, "a thread of the action panicked".to_owned()))
}

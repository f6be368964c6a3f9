//! Runs one REAPI action in bubblewrap: its inputs, this machine's toolchain, and nothing else.
//! Knows nothing of the protocol around it: no queue of clients, no cache, no operations.
//!
//! # What an action sees
//! The staged input root is `/`. This machine's system directories ([`SYSTEM_ENTRIES`]) are bound over it
//! read-only; where the input root brings an entry of the same name, the input root's stands, and directories of
//! both are merged. `/tmp` is a directory of the input root like any other, made if absent: client workspaces
//! often lie below it. There is no network, no environment but the command's, and nothing of the action's
//! survives it but its declared outputs.
//!
//! # How it ends
//! The command is in a PID namespace of its own, whose end takes every descendant with it; the scratch directory
//! is read and removed only after that end was seen.

mod collect;
mod failure;
mod mounts;
mod request;
mod scratch;
mod stage;
mod supervise;

use std::io;
use std::io::PipeWriter;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::RwLock;
use std::time::Duration;
use std::time::SystemTime;

use bazel_remote_apis::build::bazel::remote::execution::v2::Action;
use bazel_remote_apis::build::bazel::remote::execution::v2::ActionResult;
use bazel_remote_apis::build::bazel::remote::execution::v2::Command;
use bazel_remote_apis::build::bazel::remote::execution::v2::Digest as DigestMessage;
use bazel_remote_apis::build::bazel::remote::execution::v2::ExecutedActionMetadata;
use bazel_remote_apis::google::protobuf::Timestamp;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::store::Store;

pub use self::failure::Failure;
pub use self::mounts::SYSTEM_ENTRIES;

use self::request::Request;
use self::scratch::Scratch;
use self::supervise::Ending;

/// How a sandbox works.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Directory for the trees of running actions; best on the store's file system.
    pub scratch: PathBuf,
    /// How many actions run at the same time, at least 1.
    pub jobs: usize,
    /// The time limit of an action that sets none.
    pub default_timeout: Duration,
    /// The longest time limit that an action may set.
    pub max_timeout: Duration,
}

/// Runs actions, several at a time.
pub struct Sandbox {
    store: Store,
    options: SandboxOptions,
    bubblewrap: PathBuf,
    permits: Arc<Semaphore>,
    /// Held for writing while a child is being started, for reading while an executable input is being written:
    /// a child that inherits the writing descriptor for a moment would make the input's execution fail (ETXTBSY).
    starting: RwLock<()>,
}

/// Where bubblewrap is looked for: the daemon has no `PATH` of its own.
const BUBBLEWRAP_PLACES: &[&str] = &["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];

impl Sandbox {
    /// A sandbox on `store`, tried out with one empty action.
    ///
    /// # Errors
    /// When bubblewrap is missing or may not do its work here, or the scratch directory cannot be used.
    pub async fn new(store: Store, options: SandboxOptions) -> anyhow::Result<Arc<Sandbox>> {
        let bubblewrap = BUBBLEWRAP_PLACES.iter().map(PathBuf::from).find(|path| path.exists());
        let Some(bubblewrap) = bubblewrap else {
            anyhow::bail!("find bwrap: install the package bubblewrap");
        };
        let permits = Arc::new(Semaphore::new(options.jobs.max(1)));
        let sandbox = Sandbox { store, options, bubblewrap, permits, starting: RwLock::new(()) };
        let sandbox = Arc::new(sandbox);
        scratch::remove_abandoned(&sandbox.options.scratch, sandbox.options.max_timeout);
        sandbox.try_out().await?;
        Ok(sandbox)
    }

    async fn try_out(self: &Arc<Self>) -> anyhow::Result<()> {
        let root = self.store.put(b"")?;
        let action = Action { input_root_digest: Some(to_message(&root)), ..Action::default() };
        let command = Command { arguments: vec!["/bin/true".to_owned()], ..Command::default() };
        match self.run(root.function(), &action, &command, || {}).await {
            Ok(result) if result.exit_code == 0 => Ok(()),
            Ok(result) => anyhow::bail!("run /bin/true in bubblewrap: it exited with {}", result.exit_code),
            Err(failure) => {
                anyhow::bail!(
                    "run /bin/true in bubblewrap (are user namespaces allowed?): {}",
                    failure.message
                )
            }
        }
    }

    /// Runs an action whose digests, and so its outputs', are those of `function`. `executing` is called when its
    /// turn has come. The result has every declared output that was made; its blobs are in the store. Dropping the
    /// future kills the action.
    ///
    /// # Errors
    /// When the action is invalid, lacks inputs, exceeds its limits, or the sandbox itself fails; a command that
    /// fails is a result, not an error.
    pub async fn run(
        self: &Arc<Self>,
        function: DigestFunction,
        action: &Action,
        command: &Command,
        executing: impl FnOnce(),
    ) -> Result<ActionResult, Failure> {
        let request = Request::new(function, action, command, &self.options)?;
        let queued = SystemTime::now();
        // The semaphore lives as long as the sandbox and is never closed.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(Failure::new(Code::Unavailable, "the server is stopping".to_owned()));
        };
        executing();
        let (stop_reader, stop_writer) = io::pipe().map_err(|error| Failure::io("make a pipe", &error))?;
        let flooded = stop_writer.try_clone().map_err(|error| Failure::io("copy a pipe", &error))?;
        let mut stop = StopOnDrop(Some(stop_writer));
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sandbox = Arc::clone(self);
        // A thread of its own, not one of a pool: bubblewrap dies with the *thread* that started it
        // (PR_SET_PDEATHSIG), and a pool's threads end when they are idle.
        let thread = std::thread::Builder::new().name("action".to_owned()).spawn(move || {
            let outcome = sandbox.run_blocking(&request, &stop_reader.into(), &flooded, queued);
            // Only now: an action that was given up still takes its place until its last process has ended.
            drop(permit);
            // Nobody waits any more if the future was dropped.
            let _ = sender.send(outcome);
        });
        thread.map_err(|error| Failure::io("start a thread", &error))?;
        let outcome = receiver.await;
        stop.disarm();
        outcome
            .unwrap_or_else(|_| Err(Failure::new(Code::Internal, "the action's thread panicked".to_owned())))
    }

    /// 1. stage the input root; 2. add what must be there besides; 3. plan the mounts; 4. run; 5. collect.
    fn run_blocking(
        &self,
        request: &Request,
        stop: &OwnedFd,
        flooded: &PipeWriter,
        queued: SystemTime,
    ) -> Result<ActionResult, Failure> {
        let started = SystemTime::now();
        let scratch = Scratch::new(&self.options.scratch)?;
        let root = scratch.root();
        stage::input_root(self, &request.input_root, root)?;
        stage::complete(request, root)?;
        let mounts = mounts::plan(root)?;
        let staged = SystemTime::now();
        let run = supervise::run(self, request, root, &mounts, stop, flooded)?;
        let executed = SystemTime::now();
        let mut result = ActionResult {
            exit_code: run.exit_code,
            stdout_digest: Some(to_message(&run.stdout)),
            stderr_digest: Some(to_message(&run.stderr)),
            ..ActionResult::default()
        };
        if run.ending == Ending::Exited {
            collect::outputs(
                &self.store.with_function(request.function),
                request,
                root,
                &mounts.points,
                &mut result,
            )?;
        }
        let now = SystemTime::now();
        result.execution_metadata = Some(ExecutedActionMetadata {
            worker: WORKER.to_owned(),
            queued_timestamp: Some(timestamp(queued)),
            worker_start_timestamp: Some(timestamp(started)),
            input_fetch_start_timestamp: Some(timestamp(started)),
            input_fetch_completed_timestamp: Some(timestamp(staged)),
            execution_start_timestamp: Some(timestamp(staged)),
            execution_completed_timestamp: Some(timestamp(executed)),
            output_upload_start_timestamp: Some(timestamp(executed)),
            output_upload_completed_timestamp: Some(timestamp(now)),
            worker_completed_timestamp: Some(timestamp(now)),
            ..ExecutedActionMetadata::default()
        });
        run.ending.check(request, result)
    }

    /// Ready when no action runs any more.
    pub async fn idle(&self) {
        let all = u32::try_from(self.options.jobs.max(1)).unwrap_or(u32::MAX);
        // The semaphore is never closed; the permits go back at once.
        let _ = self.permits.acquire_many(all).await;
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn bubblewrap(&self) -> &Path {
        &self.bubblewrap
    }
}

/// The worker's name in results: a non-empty message is what some servers insist on.
const WORKER: &str = "farccd";

/// Tells an action's thread to stop when the one who waits for it is gone.
struct StopOnDrop(Option<PipeWriter>);

impl StopOnDrop {
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.take() {
            // A thread that has ended needs no telling.
            let _ = pipe.write_all(&[supervise::CANCELLED]);
        }
    }
}

fn to_message(digest: &Digest) -> DigestMessage {
    DigestMessage::from(digest)
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
    }
}

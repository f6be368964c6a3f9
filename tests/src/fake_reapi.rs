//! An in-process server for Bazel's Remote Execution API over real gRPC, with faults to inject and counters.
//! Knows nothing of the client under test, nor of compilers: what an action does is a closure of the test.
//!
//! It is strict where servers in the field are: blobs must have their digest, Directories must be canonical,
//! and an execution whose inputs are not all there fails with FAILED_PRECONDITION and MISSING violations.
//!
//! ```no_run
//! use farcc_tests::fake_reapi::FakeReapi;
//! use farcc_tests::fake_reapi::Rpc;
//! use farcc_tests::fake_reapi::succeed;
//!
//! let server = FakeReapi::new()
//!     .execute(|_action, command, inputs| {
//!         let source = inputs.file("src/a.c").expect("the source is an input");
//!         let object = inputs.output_file(&command.output_paths[0], &source, false);
//!         succeed(vec![object])
//!     })
//!     .start();
//! server.fail_next(Rpc::Execute, 2, tonic::Code::Unavailable);
//! // … let a client talk to `server.address()` …
//! assert_eq!(server.calls(Rpc::Execute), 3);
//! ```
//!
//! The server runs on threads of its own, so tests may be sync or async; it is gone, connections included, when
//! the [`FakeReapi`] is dropped.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;
use bytes::Bytes;
use farccd::digest::Digest;
use farccd::digest::DigestFunction;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::Status;

mod cache_services;
mod execution_service;
mod input_tree;

pub use crate::fake_reapi::input_tree::InputTree;

/// The calls that are counted and can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum Rpc {
    GetCapabilities,
    FindMissingBlobs,
    BatchUpdateBlobs,
    BatchReadBlobs,
    Write,
    Read,
    GetActionResult,
    UpdateActionResult,
    Execute,
    WaitExecution,
}

/// What an action does, given its Action, Command and inputs.
type Execute = dyn Fn(&proto::Action, &proto::Command, &InputTree) -> proto::ActionResult + Send + Sync;

/// How a server is to be, before it runs. Everything has a default: execution off, no batch limit set.
pub struct Options {
    execute: Option<Box<Execute>>,
    max_batch_bytes: u64,
    max_blob_bytes: u64,
    updates_announced: bool,
    updates_permitted: bool,
    digest_functions: Vec<proto::digest_function::Value>,
    versions: ((i32, i32), (i32, i32)),
    port: u16,
    required_header: Option<(String, String)>,
    action_time: Duration,
    trusts_inputs: bool,
}

impl Options {
    /// Lets each action take this long, during which it uses nothing.
    #[must_use]
    pub fn action_time(mut self, time: Duration) -> Options {
        self.action_time = time;
        self
    }

    /// Believes that all inputs of an action are there: its closure sees an empty tree. For measurements, in which the
    /// server is to use as little as it can.
    #[must_use]
    pub fn trust_inputs(mut self) -> Options {
        self.trusts_inputs = true;
        self
    }

    /// Answers UNAUTHENTICATED to every call without this header.
    #[must_use]
    pub fn require_header(mut self, name: &str, value: &str) -> Options {
        self.required_header = Some((name.to_owned(), value.to_owned()));
        self
    }

    /// Executes actions with `execute`.
    #[must_use]
    pub fn execute(
        mut self,
        execute: impl Fn(&proto::Action, &proto::Command, &InputTree) -> proto::ActionResult
        + Send
        + Sync
        + 'static,
    ) -> Options {
        self.execute = Some(Box::new(execute));
        self
    }

    /// Announces this batch limit in bytes, and refuses larger messages with RESOURCE_EXHAUSTED.
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: u64) -> Options {
        self.max_batch_bytes = bytes;
        self
    }

    /// Announces this limit for a single blob.
    #[must_use]
    pub fn max_blob_bytes(mut self, bytes: u64) -> Options {
        self.max_blob_bytes = bytes;
        self
    }

    /// Refuses to store action results with PERMISSION_DENIED; `announced` is what the capabilities say.
    #[must_use]
    pub fn forbid_updates(mut self, announced: bool) -> Options {
        self.updates_announced = announced;
        self.updates_permitted = false;
        self
    }

    /// Announces these digest functions instead of SHA-256.
    #[must_use]
    pub fn digest_functions(mut self, functions: &[proto::digest_function::Value]) -> Options {
        self.digest_functions = functions.to_vec();
        self
    }

    /// Announces versions from `low` to `high`, each major and minor.
    #[must_use]
    pub fn versions(mut self, low: (i32, i32), high: (i32, i32)) -> Options {
        self.versions = (low, high);
        self
    }

    /// Listens on this port, that of a server that is gone. Default: any free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Options {
        self.port = port;
        self
    }

    /// Starts the server; it accepts connections when this returns.
    pub fn start(self) -> FakeReapi {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime for the fake server");
        let listener = bind(self.port);
        listener.set_nonblocking(true).expect("a listener for tokio");
        let address = listener.local_addr().expect("the address of a listener");
        let shared = Arc::new(Shared { options: self, state: Mutex::default() });
        runtime.spawn(cache_services::serve(listener, Arc::clone(&shared)));
        FakeReapi { shared, address, runtime: Some(runtime) }
    }
}

/// A running server.
pub struct FakeReapi {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

struct Shared {
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    results: HashMap<Digest, proto::ActionResult>,
    operations: HashMap<String, execution_service::Running>,
    executed: Vec<Digest>,
    calls: BTreeMap<Rpc, usize>,
    asked: Vec<Digest>,
    stored: HashMap<Digest, usize>,
    largest_batch: u64,
    left_streams: usize,
    metadata: Vec<(Rpc, proto::RequestMetadata)>,
    faults: Faults,
}

/// What is to go wrong.
#[derive(Default)]
struct Faults {
    failing_calls: HashMap<Rpc, Vec<Status>>,
    failing_blobs: HashMap<Digest, Vec<Code>>,
    left_out: HashSet<Digest>,
    delays: HashMap<Rpc, Duration>,
    silent_from: Option<(Rpc, Vec<Rpc>)>,
    claimed: HashSet<Digest>,
    corrupt: HashSet<Digest>,
    broken_reads: HashMap<Digest, Vec<usize>>,
    broken_streams: usize,
    broken_waits: usize,
    forgotten_operations: bool,
    verdicts: Vec<Status>,
    operation_error: Option<Status>,
    early_writes: bool,
    stuck_in_queue: bool,
}

impl FakeReapi {
    /// The options for a server. Begin here.
    #[allow(clippy::new_ret_no_self, reason = "reads as `FakeReapi::new().….start()`")]
    pub fn new() -> Options {
        Options {
            execute: None,
            max_batch_bytes: 0,
            max_blob_bytes: 0,
            updates_announced: true,
            updates_permitted: true,
            digest_functions: vec![proto::digest_function::Value::Sha256],
            versions: ((2, 0), (2, 12)),
            port: 0,
            required_header: None,
            action_time: Duration::ZERO,
            trusts_inputs: false,
        }
    }

    /// `grpc://127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("grpc://{}", self.address)
    }

    /// `127.0.0.1:port`, as [`configure_remote`](crate::space::TestSpace::configure_remote) takes it.
    pub fn host_and_port(&self) -> String {
        self.address.to_string()
    }

    /// The port, for a successor on the same one.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    // What it has and what it saw.

    /// How often `rpc` was called, failed calls included.
    pub fn calls(&self, rpc: Rpc) -> usize {
        self.state(|state| state.calls.get(&rpc).copied().unwrap_or_default())
    }

    /// All calls with their counts; two of these show what happened in between.
    pub fn all_calls(&self) -> BTreeMap<Rpc, usize> {
        self.state(|state| state.calls.clone())
    }

    /// Every digest that a FindMissingBlobs asked for, in order, with repetitions.
    pub fn asked(&self) -> Vec<Digest> {
        self.state(|state| state.asked.clone())
    }

    /// How often the whole blob arrived, by batch or stream.
    pub fn times_stored(&self, digest: &Digest) -> usize {
        self.state(|state| state.stored.get(digest).copied().unwrap_or_default())
    }

    /// The largest BatchUpdateBlobs request and BatchReadBlobs response so far, as encoded, in bytes.
    pub fn largest_batch(&self) -> u64 {
        self.state(|state| state.largest_batch)
    }

    /// The request metadata that came with the calls of `rpc`.
    pub fn request_metadata(&self, rpc: Rpc) -> Vec<proto::RequestMetadata> {
        self.state(|state| {
            let of_rpc = state.metadata.iter().filter(|(of, _)| *of == rpc);
            of_rpc.map(|(_, metadata)| metadata.clone()).collect()
        })
    }

    /// The actions that were run, cache hits excluded.
    pub fn executed(&self) -> Vec<Digest> {
        self.state(|state| state.executed.clone())
    }

    /// How many streams of executions their clients left before the end.
    pub fn left_streams(&self) -> usize {
        self.state(|state| state.left_streams)
    }

    /// A blob that it holds.
    pub fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.state(|state| state.blobs.get(digest).cloned())
    }

    /// Every blob that it holds.
    pub fn blob_digests(&self) -> Vec<Digest> {
        self.state(|state| state.blobs.keys().copied().collect())
    }

    /// Puts a blob into it.
    pub fn insert_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = self.shared.function().digest(&bytes);
        self.state(|state| state.blobs.insert(digest, bytes));
        digest
    }

    /// The cached result of an action.
    pub fn action_result(&self, action: &Digest) -> Option<proto::ActionResult> {
        self.state(|state| state.results.get(action).cloned())
    }

    /// Puts a result into the action cache.
    pub fn insert_action_result(&self, action: Digest, result: proto::ActionResult) {
        self.state(|state| state.results.insert(action, result));
    }

    // Faults.

    /// Makes the next `count` calls of `rpc` fail with `code`.
    pub fn fail_next(&self, rpc: Rpc, count: usize, code: Code) {
        self.fail_next_with(rpc, count, Status::new(code, "injected"));
    }

    /// Makes the next `count` calls of `rpc` fail with `status`, details included.
    pub fn fail_next_with(&self, rpc: Rpc, count: usize, status: Status) {
        self.state(|state| {
            let failing = state.faults.failing_calls.entry(rpc).or_default();
            failing.extend(std::iter::repeat_n(status, count));
        });
    }

    /// Makes the next `count` batches that contain `digest` fail for it alone, with `code`.
    pub fn fail_blob_next(&self, digest: Digest, count: usize, code: Code) {
        self.state(|state| {
            let failing = state.faults.failing_blobs.entry(digest).or_default();
            failing.extend(std::iter::repeat_n(code, count));
        });
    }

    /// Leaves `digest` out of every batch answer.
    pub fn leave_out(&self, digest: Digest) {
        self.state(|state| state.faults.left_out.insert(digest));
    }

    /// Waits this long before each answer to `rpc`.
    pub fn delay(&self, rpc: Rpc, delay: Duration) {
        self.state(|state| state.faults.delays.insert(rpc, delay));
    }

    /// Never answers `rpc`, nor, from the first such call on, any of `silent`.
    pub fn silence_from(&self, rpc: Rpc, silent: &[Rpc]) {
        self.state(|state| state.faults.silent_from = Some((rpc, silent.to_vec())));
    }

    /// Says of `digest` that it is there, whether or not it is.
    pub fn claim_present(&self, digest: Digest) {
        self.state(|state| state.faults.claimed.insert(digest));
    }

    /// Returns other bytes of the same length for `digest`.
    pub fn corrupt(&self, digest: Digest) {
        self.state(|state| state.faults.corrupt.insert(digest));
    }

    /// Loses a blob, for example one that a cached result refers to.
    pub fn lose_blob(&self, digest: &Digest) {
        self.state(|state| state.blobs.remove(digest));
    }

    /// Breaks the next stream that reads `digest` after so many bytes, with UNAVAILABLE.
    pub fn break_read_after(&self, digest: Digest, bytes: usize) {
        self.state(|state| state.faults.broken_reads.entry(digest).or_default().push(bytes));
    }

    /// Breaks the next `count` Execute streams after their first message; the actions run on.
    pub fn break_execute_streams(&self, count: usize) {
        self.state(|state| state.faults.broken_streams = count);
    }

    /// Breaks the next `count` WaitExecution streams after their first message.
    pub fn break_wait_streams(&self, count: usize) {
        self.state(|state| state.faults.broken_waits = count);
    }

    /// Answers NOT_FOUND to every WaitExecution.
    pub fn forget_operations(&self) {
        self.state(|state| state.faults.forgotten_operations = true);
    }

    /// Ends the next execution with this as the status of its ExecuteResponse, without running it. Several are
    /// used up in the order of the calls.
    pub fn end_next_execution_with(&self, status: Status) {
        self.state(|state| state.faults.verdicts.push(status));
    }

    /// Ends the next operation with this as its `error`, a field that servers must not use and some do.
    pub fn end_next_operation_with_error(&self, status: Status) {
        self.state(|state| state.faults.operation_error = Some(status));
    }

    /// Answers every Write with OK after its first chunk, as if somebody else had uploaded the blob, and keeps
    /// nothing.
    pub fn answer_writes_early(&self) {
        self.state(|state| state.faults.early_writes = true);
    }

    /// Leaves every execution in the queue for ever.
    pub fn keep_in_queue(&self) {
        self.state(|state| state.faults.stuck_in_queue = true);
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        self.shared.state(look)
    }
}

impl Drop for FakeReapi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Elsewhere, because a runtime must not wait within another one; and to its end, so that the port is
            // free and every connection closed when this returns.
            let shutdown = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(2)));
            let _ = shutdown.join();
        }
    }
}

impl Shared {
    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no test panics while it looks at the fake server"))
    }

    /// Counts a call, waits as long as it was told to, and fails if it was told to.
    async fn begin<T>(&self, rpc: Rpc, request: &tonic::Request<T>) -> Result<(), Status> {
        if let Some((name, value)) = &self.options.required_header
            && request.metadata().get(name).is_none_or(|sent| sent != value.as_str())
        {
            self.state(|state| *state.calls.entry(rpc).or_default() += 1);
            return Err(Status::unauthenticated(format!("no {name} that is known here")));
        }
        let metadata = request_metadata(request.metadata());
        let (failure, delay, is_silent) = self.state(|state| {
            *state.calls.entry(rpc).or_default() += 1;
            let silent = state.faults.silent_from.as_ref();
            let is_silent = silent.is_some_and(|(from, silent)| {
                *from == rpc || (silent.contains(&rpc) && state.calls.contains_key(from))
            });
            state.metadata.extend(metadata.map(|metadata| (rpc, metadata)));
            let failing = state.faults.failing_calls.get_mut(&rpc).filter(|failing| !failing.is_empty());
            let delay = state.faults.delays.get(&rpc).copied();
            (failing.map(|failing| failing.remove(0)), delay, is_silent)
        });
        if is_silent {
            std::future::pending::<()>().await;
        }
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Its digest function: the first that it announces.
    fn function(&self) -> DigestFunction {
        let announced = self.options.digest_functions.first().copied().unwrap_or_default();
        DigestFunction::from_number(announced.into()).unwrap_or_default()
    }

    /// A digest as a message holds it.
    #[allow(clippy::result_large_err, reason = "a Status is what every service answers with")]
    fn digest_of(&self, field: Option<&proto::Digest>) -> Result<Digest, Status> {
        let message = field.ok_or_else(|| Status::invalid_argument("there is no digest"))?;
        self.function().read(message).map_err(|invalid| Status::invalid_argument(invalid.to_string()))
    }

    /// Refuses a request that does not say which function its digests are of.
    #[allow(clippy::result_large_err, reason = "a Status is what every service answers with")]
    fn check_function(&self, number: i32) -> Result<(), Status> {
        match DigestFunction::from_number(number) == Some(self.function()) {
            true => Ok(()),
            false => Err(Status::invalid_argument(format!("digest function {number}"))),
        }
    }

    /// Holds a blob, if its bytes have that digest.
    fn store(&self, digest: &Digest, bytes: Bytes) -> Result<(), Status> {
        if !digest.is_of(&bytes) {
            return Err(Status::invalid_argument(format!("the bytes are not those of {digest}")));
        }
        self.state(|state| {
            *state.stored.entry(*digest).or_default() += 1;
            state.blobs.insert(*digest, bytes);
        });
        Ok(())
    }

    /// The bytes that are sent for `digest`.
    fn load(&self, digest: &Digest) -> Result<Bytes, Status> {
        self.state(|state| {
            let bytes = state.blobs.get(digest).cloned();
            let bytes = bytes.ok_or_else(|| Status::not_found(format!("no blob {digest}")))?;
            Ok(match state.faults.corrupt.contains(digest) {
                true => bytes.iter().map(|byte| byte ^ 1).collect(),
                false => bytes,
            })
        })
    }
}

/// Binds a port of loopback. One that was just given up may be taken for a moment by an outgoing connection of
/// any process.
#[allow(clippy::panic, reason = "a test server that cannot start fails its test")]
fn bind(port: u16) -> TcpListener {
    for _ in 0..100 {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("bind the fake server to port {port}: {error}"),
        }
    }
    panic!("port {port} stays in use")
}

/// An action result for exit code 0 with these outputs.
pub fn succeed(output_files: Vec<proto::OutputFile>) -> proto::ActionResult {
    proto::ActionResult { output_files, ..proto::ActionResult::default() }
}

fn request_metadata(metadata: &tonic::metadata::MetadataMap) -> Option<proto::RequestMetadata> {
    use prost::Message as _;
    let value = metadata.get_bin("build.bazel.remote.execution.v2.requestmetadata-bin")?;
    proto::RequestMetadata::decode(value.to_bytes().ok()?).ok()
}

//! An in-process twin over real gRPC that keeps no mirror and runs nothing: it says what the test tells it to.
//! Knows nothing of the client under test, nor of what may be said.
//!
//! It runs on threads of its own, and is gone, connections included, when the [`FakeTwin`] is dropped.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use farcc_proto::twin;
use farcc_proto::twin::run_response::Response as Run;
use farcc_proto::twin::sync_request::Request as SyncRequest;
use farcc_proto::twin::sync_response::Response as Sync;
use farcc_proto::twin::twin_server::Twin;
use farcc_proto::twin::twin_server::TwinServer;
use farccd::digest::Digest;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::transport::server::TcpIncoming;

/// What is said in one call, one message after the other; it may be without end.
pub type Said<T> = Box<dyn Iterator<Item = Say<T>> + Send>;

/// One thing that is said, or not.
pub enum Say<T> {
    /// This message.
    Message(T),
    /// Nothing any more, while the call stays open.
    Silence,
    /// The call ends with this status.
    End(Status),
}

/// What a message of a session is answered with.
type Answer = dyn Fn(&SyncRequest) -> Vec<Sync> + Send + std::marker::Sync;

/// How a twin is to be, before it runs.
pub struct Options {
    sync: Arc<Answer>,
    run: Arc<dyn Fn() -> Said<Run> + Send + std::marker::Sync>,
    read: Arc<dyn Fn() -> Said<twin::Piece> + Send + std::marker::Sync>,
}

impl Options {
    /// Answers each message of a session with these. Default: [`like_a_twin`].
    #[must_use]
    pub fn sync(
        mut self,
        answers: impl Fn(&SyncRequest) -> Vec<Sync> + Send + std::marker::Sync + 'static,
    ) -> Options {
        self.sync = Arc::new(answers);
        self
    }

    /// Says this of each command. Default: it begins, and ends well.
    #[must_use]
    pub fn run(mut self, said: impl Fn() -> Said<Run> + Send + std::marker::Sync + 'static) -> Options {
        self.run = Arc::new(said);
        self
    }

    /// Gives this when contents are asked for. Default: nothing.
    #[must_use]
    pub fn read(
        mut self,
        said: impl Fn() -> Said<twin::Piece> + Send + std::marker::Sync + 'static,
    ) -> Options {
        self.read = Arc::new(said);
        self
    }

    /// Starts the twin; it accepts connections when this returns.
    ///
    /// # Panics
    /// When there are no threads or no port for it.
    pub fn start(self) -> FakeTwin {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::default());
        let service = TwinServer::new(Service { options: Arc::new(self), heard: Arc::clone(&heard) });
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        FakeTwin { address, heard, runtime: Some(runtime) }
    }
}

/// A running twin.
pub struct FakeTwin {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    runtime: Option<Runtime>,
}

/// What a client has said.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// All changes of all batches.
    pub changes: Vec<twin::Change>,
    /// Of the contents that it has sent, the parts, unpacked.
    pub contents: Vec<(twin::Digest, Vec<u8>)>,
    /// How many sessions it has opened.
    pub sessions: usize,
    /// How many commands it has started.
    pub commands: usize,
}

impl FakeTwin {
    /// The options for a twin. Begin here.
    #[allow(clippy::new_ret_no_self, reason = "reads as `FakeTwin::new().….start()`")]
    pub fn new() -> Options {
        Options {
            sync: Arc::new(like_a_twin),
            run: Arc::new(|| said([started(), ended(Vec::new(), 0)])),
            read: Arc::new(|| Box::new(std::iter::empty())),
        }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What was said until now.
    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeTwin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a twin answers that has everything.
pub fn like_a_twin(request: &SyncRequest) -> Vec<Sync> {
    match request {
        SyncRequest::Open(_) => vec![Sync::Opened(twin::Opened { files: 0 })],
        SyncRequest::Batch(twin::Batch { sequence, continues: false, .. }) => {
            vec![Sync::Applied(twin::Applied { sequence: *sequence })]
        }
        SyncRequest::Batch(_) | SyncRequest::Piece(_) | SyncRequest::PlacedCommit(_) => Vec::new(),
    }
}

/// These messages, and the call is over.
pub fn said<T: Send + 'static>(messages: impl IntoIterator<Item = T, IntoIter: Send + 'static>) -> Said<T> {
    Box::new(messages.into_iter().map(Say::Message))
}

/// A command has begun.
pub fn started() -> Run {
    Run::Started(twin::Started {})
}

/// It has ended well, and changed this.
pub fn ended(changes: Vec<twin::Change>, commit: u64) -> Run {
    let status = Some(twin::ended::Status::ExitCode(0));
    Run::Ended(twin::Ended { status, changes, commit, ..twin::Ended::default() })
}

/// The content, in one part that is not packed.
pub fn piece(content: &[u8]) -> twin::Piece {
    twin::Piece {
        digest: Some(digest(content)),
        data: content.to_vec(),
        size_bytes: u32::try_from(content.len()).unwrap_or(u32::MAX),
        ..twin::Piece::default()
    }
}

/// Its digest.
pub fn digest(content: &[u8]) -> twin::Digest {
    let digest = Digest::of(content);
    twin::Digest { hash: digest.hash().to_vec(), size_bytes: digest.size_bytes() }
}

/// Something that has become of a path in the first root.
pub fn change(path: &[u8], now: Option<twin::change::Now>, rank: u32) -> twin::Change {
    twin::Change { root: 0, path: path.to_vec(), now, rank }
}

/// A file with this content.
pub fn file(content: &[u8]) -> Option<twin::change::Now> {
    Some(twin::change::Now::File(twin::File { digest: Some(digest(content)), mode: 0o644 }))
}

/// A symlink.
pub fn link(target: &[u8]) -> Option<twin::change::Now> {
    Some(twin::change::Now::Link(twin::Link { target: target.to_vec() }))
}

/// A directory.
pub fn directory() -> Option<twin::change::Now> {
    Some(twin::change::Now::Directory(twin::Directory { mode: 0o755 }))
}

struct Service {
    options: Arc<Options>,
    heard: Arc<Mutex<Heard>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Says it until nobody listens.
fn say<T: Send + 'static, M: Send + 'static>(said: Said<M>, wrap: fn(M) -> T) -> Answers<T> {
    let (out, answers) = mpsc::channel(4);
    std::thread::spawn(move || {
        for say in said {
            let message = match say {
                Say::Message(message) => Ok(wrap(message)),
                Say::End(status) => Err(status),
                Say::Silence => {
                    while !out.is_closed() {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    return;
                }
            };
            if out.blocking_send(message).is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(answers))
}

#[tonic::async_trait]
impl Twin for Service {
    /// Has all programs, just as the client has them.
    async fn describe(
        &self,
        request: Request<twin::DescribeRequest>,
    ) -> Result<Response<twin::DescribeResponse>, Status> {
        let program = |path: Vec<u8>| {
            let at: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&path);
            let content = std::fs::read(Path::new(at)).ok()?;
            Some(twin::Program { sha256: Digest::of(&content).hash().to_vec(), path })
        };
        let programs = request.into_inner().programs.into_iter().filter_map(program).collect();
        let digest_functions = vec![twin::DigestFunction::Sha256.into()];
        Ok(Response::new(twin::DescribeResponse { digest_functions, programs, ..Default::default() }))
    }

    type SyncStream = Answers<twin::SyncResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<twin::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut requests = request.into_inner();
        let (out, answers) = mpsc::channel(4);
        let (options, heard) = (Arc::clone(&self.options), Arc::clone(&self.heard));
        tokio::spawn(async move {
            while let Ok(Some(twin::SyncRequest { request })) = requests.message().await {
                let Some(request) = request else { continue };
                note(&mut heard.lock().unwrap_or_else(PoisonError::into_inner), &request);
                for answer in (options.sync)(&request) {
                    let answer = twin::SyncResponse { response: Some(answer) };
                    if out.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    type RunStream = Answers<twin::RunResponse>;

    async fn run(
        &self,
        request: Request<Streaming<twin::RunRequest>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).commands += 1;
        // What the client says later is taken, and heeded by nobody.
        let mut requests = request.into_inner();
        tokio::spawn(async move { while let Some(Ok(_)) = requests.next().await {} });
        Ok(Response::new(say((self.options.run)(), |response| twin::RunResponse {
            response: Some(response),
        })))
    }

    type ReadStream = Answers<twin::Piece>;

    async fn read(&self, _: Request<twin::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Ok(Response::new(say((self.options.read)(), |piece| piece)))
    }

    async fn status(
        &self,
        _: Request<twin::StatusRequest>,
    ) -> Result<Response<twin::StatusResponse>, Status> {
        Ok(Response::new(twin::StatusResponse::default()))
    }
}

fn note(heard: &mut Heard, request: &SyncRequest) {
    match request {
        SyncRequest::Open(_) => heard.sessions += 1,
        SyncRequest::Batch(batch) => heard.changes.extend(batch.changes.iter().cloned()),
        SyncRequest::Piece(piece) => {
            let data = match piece.compression() {
                twin::Compression::Zstd => zstd::decode_all(&*piece.data).unwrap_or_default(),
                twin::Compression::None => piece.data.clone(),
            };
            heard.contents.push((piece.digest.clone().unwrap_or_default(), data));
        }
        SyncRequest::PlacedCommit(_) => {}
    }
}

//! The twin as a gRPC service (`farcc.twin.v1`): messages in, messages out.
//! Knows nothing of what is done to a mirror, nor of processes.

use std::collections::HashSet;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Component;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farcc_proto::twin;
use farcc_proto::twin::sync_request::Request as SyncMessage;
use farcc_proto::twin::sync_response::Response as SyncAnswer;
use farcc_proto::twin::twin_server::Twin;
use futures::Stream;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

use crate::contents::PieceError;
use crate::contents::Pieces;
use crate::contents::Receiver;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::mirror;
use crate::mirror::RootedChange;
use crate::paths;
use crate::twin::Card;
use crate::twin::MirrorError;
use crate::twin::Served;
use crate::twin::Workspace;
use crate::twin::run::run;

/// Messages on their way to a client.
const MESSAGES_AHEAD: usize = 16;

/// More changes in one batch are refused: no workspace has so many files.
const MOST_CHANGES: usize = 4 << 20;

/// Batches that wait for the content of one before them.
const MOST_WAITING: usize = 64;

/// Of what is asked for at once, so many at most.
const MOST_READ: usize = 1000;

/// How often a client that waits hears that something goes on: sooner than the shortest time that anybody waits.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Digests in one message.
const DIGESTS_IN_ONE: usize = 10_000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Twin for Served {
    async fn describe(
        &self,
        request: Request<twin::DescribeRequest>,
    ) -> Result<Response<twin::DescribeResponse>, Status> {
        let programs = programs(request.into_inner().programs).await;
        let cluster = self.cluster.as_ref();
        Ok(Response::new(twin::DescribeResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            digest_functions: vec![twin::DigestFunction::Sha256.into()],
            programs,
            cas_address: cluster.map(|cluster| cluster.address().to_owned()).unwrap_or_default(),
            cas_instance_name: cluster.map(|cluster| cluster.instance_name().to_owned()).unwrap_or_default(),
            allows_network: self.options.bounds.allows_network,
        }))
    }

    type SyncStream = Answers<twin::SyncResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<twin::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let client = client(&request);
        let (out, answers) = mpsc::channel(MESSAGES_AHEAD);
        let (served, requests) = (self.clone(), request.into_inner());
        self.tasks.spawn(async move {
            let mut session = Session { served, requests, out, waiting: VecDeque::new() };
            if let Err(status) = session.serve(client).await {
                tracing::info!("a session ended: {}", status.message());
                // Nobody may be there any more.
                let _ = session.out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    type RunStream = Answers<twin::RunResponse>;

    async fn run(
        &self,
        request: Request<Streaming<twin::RunRequest>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let client = client(&request);
        let (out, answers) = mpsc::channel(MESSAGES_AHEAD);
        let (served, mut requests) = (self.clone(), request.into_inner());
        self.tasks.spawn(async move {
            let done = async {
                let first = requests.message().await?.and_then(|message| message.request);
                let Some(twin::run_request::Request::Start(start)) = first else {
                    return Err(Status::invalid_argument("a call of Run begins with Start"));
                };
                let workspace = served.session(&client, &start.session)?;
                let tasks = workspace.tasks.clone();
                let _turn = served.turn(&workspace).await?;
                let running =
                    run(workspace, &served.cells, &served.options.bounds, start, requests.boxed(), &out);
                tasks.track_future(running).await
            };
            if let Err(status) = done.await {
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    type ReadStream = Answers<twin::Piece>;

    async fn read(&self, request: Request<twin::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let client = client(&request);
        let twin::ReadRequest { session, digests } = request.into_inner();
        let workspace = self.session(&client, &session)?;
        let digests = digests.iter().map(|digest| mirror::decode_digest(workspace.function, digest));
        let digests: Option<Vec<_>> = digests.take(MOST_READ + 1).collect();
        let digests = digests.filter(|digests| digests.len() <= MOST_READ);
        let digests =
            digests.ok_or_else(|| Status::invalid_argument("a digest is damaged, or there are too many"))?;
        let found = workspace.mirror.open_all(digests).await.map_err(|error| over(&error))?;
        let (out, answers) = mpsc::channel(MESSAGES_AHEAD);
        tokio::task::spawn_blocking(move || {
            for (digest, file) in found {
                for piece in Pieces::new(digest, file) {
                    let Ok(piece) = piece else { return };
                    workspace.counts.sent_bytes.fetch_add(piece.data.len() as u64, Ordering::Relaxed);
                    if out.blocking_send(Ok(piece)).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers).boxed()))
    }

    async fn status(
        &self,
        request: Request<twin::StatusRequest>,
    ) -> Result<Response<twin::StatusResponse>, Status> {
        Ok(Response::new(self.status_for(&client(&request)).await))
    }
}

/// What a client's certificate is known by; empty where clients have none.
fn client<T>(request: &Request<T>) -> String {
    let certificates = request.peer_certs();
    let own = certificates.as_ref().and_then(|certificates| certificates.first());
    own.map(|certificate| Digest::of(certificate).hex()).unwrap_or_default()
}

/// A session cannot go on, or is over.
fn over(error: &MirrorError) -> Status {
    match error {
        MirrorError::Install(error) if error.is_full() => Status::resource_exhausted(error.to_string()),
        error => Status::failed_precondition(format!("the session is over: {error}")),
    }
}

/// One call of Sync.
struct Session {
    served: Served,
    requests: Streaming<twin::SyncRequest>,
    out: mpsc::Sender<Result<twin::SyncResponse, Status>>,
    /// What came while content was waited for.
    waiting: VecDeque<twin::Batch>,
}

/// Changes that are put into place together.
struct Batch {
    sequence: u64,
    is_whole: bool,
    changes: Vec<RootedChange>,
}

impl Session {
    async fn serve(&mut self, client: String) -> Result<(), Status> {
        let first = self.requests.message().await?.and_then(|message| message.request);
        let Some(SyncMessage::Open(open)) = first else {
            return Err(Status::invalid_argument("a call of Sync begins with Open"));
        };
        let (card, function) = card(client, &open)?;
        let session = <[u8; 16]>::try_from(&*open.session);
        let session = session.map_err(|_| Status::invalid_argument("a session has 16 bytes"))?;
        let served = self.served.clone();
        let workspace = self.busy(served.open(card, function, session, &open.instance)).await?;
        let out = self.out.clone();
        let done = tokio::select! {
            done = self.follow(&workspace) => done,
            () = workspace.over.cancelled() => Err(Status::failed_precondition("the session is over")),
            // The client is gone.
            () = out.closed() => Ok(()),
        };
        self.served.close(&session, workspace).await;
        done
    }

    async fn follow(&mut self, workspace: &Workspace) -> Result<(), Status> {
        let (files, _) = workspace.mirror.size().await.map_err(|error| over(&error))?;
        self.say(SyncAnswer::Opened(twin::Opened { files })).await?;
        let mut receiver = Receiver::new(&self.served.store, workspace.function);
        let mut sequence = 0;
        while let Some(batch) = self.next_batch(workspace, &mut receiver).await? {
            let is_first = sequence == 0;
            if batch.sequence != sequence + 1 || is_first && !batch.is_whole {
                return Err(Status::invalid_argument(format!("batch {} is out of order", batch.sequence)));
            }
            sequence = batch.sequence;
            self.bring(workspace, &mut receiver, &batch.changes).await?;
            let Batch { is_whole, changes, .. } = batch;
            let store = self.served.store.clone();
            let applied = self.busy(workspace.apply(sequence, changes, is_whole, &store)).await;
            applied.map_err(|error| over(&error))?;
            self.say(SyncAnswer::Applied(twin::Applied { sequence })).await?;
        }
        Ok(())
    }

    /// The next batch, as a whole; None: there is none any more.
    async fn next_batch(
        &mut self,
        workspace: &Workspace,
        receiver: &mut Receiver,
    ) -> Result<Option<Batch>, Status> {
        let mut batch: Option<Batch> = None;
        loop {
            let part = match self.waiting.pop_front() {
                Some(part) => part,
                None => match self.next_message().await? {
                    Some(SyncMessage::Batch(part)) => part,
                    Some(SyncMessage::Piece(piece)) => {
                        self.take(workspace, receiver, piece).await?;
                        continue;
                    }
                    Some(SyncMessage::PlacedCommit(commit)) => {
                        workspace.mirror.placed(commit).await.map_err(|error| over(&error))?;
                        continue;
                    }
                    Some(SyncMessage::Open(_)) => {
                        return Err(Status::invalid_argument("the session is open already"));
                    }
                    None => return Ok(None),
                },
            };
            let (sequence, is_whole) = (part.sequence, part.is_whole);
            let batch = batch.get_or_insert(Batch { sequence, is_whole, changes: Vec::new() });
            if (batch.sequence, batch.is_whole) != (sequence, is_whole) {
                return Err(Status::invalid_argument("a batch ends early"));
            }
            let roots = u32::try_from(workspace.card.roots.len()).unwrap_or(u32::MAX);
            for change in &part.changes {
                let change = mirror::decode(workspace.function, roots, change);
                batch.changes.push(change.map_err(|error| Status::invalid_argument(error.to_string()))?);
            }
            if batch.changes.len() > MOST_CHANGES {
                return Err(Status::resource_exhausted("there are more changes than the twin takes at once"));
            }
            if !part.continues {
                let changes = std::mem::take(&mut batch.changes);
                return Ok(Some(Batch { sequence, is_whole, changes }));
            }
        }
    }

    async fn next_message(&mut self) -> Result<Option<SyncMessage>, Status> {
        // A message of a kind that is not known is passed over.
        loop {
            match self.requests.message().await? {
                None => return Ok(None),
                Some(twin::SyncRequest { request: Some(request) }) => return Ok(Some(request)),
                Some(_) => {}
            }
        }
    }

    /// Sees to it that the content of all files is here.
    async fn bring(
        &mut self,
        workspace: &Workspace,
        receiver: &mut Receiver,
        changes: &[RootedChange],
    ) -> Result<(), Status> {
        let wanted: HashSet<Digest> = changes.iter().filter_map(|rooted| rooted.change.content()).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let (store, cluster) = (self.served.store.clone(), self.served.cluster.clone());
        // Before it is known what is there: what is, is not to go any more.
        if store.wants_trim() {
            let store = store.clone();
            let trimmed = self.busy(tokio::task::spawn_blocking(move || store.trim())).await;
            if let Ok(Err(error)) = trimmed {
                tracing::warn!("failed to trim the store: {error}");
            }
        }
        let missing = self.busy(workspace.missing(wanted, &store, cluster.as_ref())).await;
        let mut missing = missing.map_err(|error| over(&error))?;
        let asked: Vec<_> = missing.iter().map(mirror::encode_digest).collect();
        for digests in asked.chunks(DIGESTS_IN_ONE) {
            self.say(SyncAnswer::Missing(twin::Missing { digests: digests.to_vec() })).await?;
        }
        while !missing.is_empty() {
            match self.next_message().await? {
                Some(SyncMessage::Piece(piece)) => {
                    if let Some(digest) = self.take(workspace, receiver, piece).await? {
                        missing.remove(&digest);
                    }
                }
                Some(SyncMessage::PlacedCommit(commit)) => {
                    workspace.mirror.placed(commit).await.map_err(|error| over(&error))?;
                }
                Some(SyncMessage::Batch(batch)) if self.waiting.len() < MOST_WAITING => {
                    self.waiting.push_back(batch);
                }
                Some(SyncMessage::Batch(_)) => {
                    return Err(Status::resource_exhausted("more batches wait than the twin takes"));
                }
                Some(SyncMessage::Open(_)) => {
                    return Err(Status::invalid_argument("the session is open already"));
                }
                None => return Err(Status::aborted("the content of a batch did not come")),
            }
        }
        Ok(())
    }

    async fn take(
        &self,
        workspace: &Workspace,
        receiver: &mut Receiver,
        piece: twin::Piece,
    ) -> Result<Option<Digest>, Status> {
        workspace.counts.received_bytes.fetch_add(piece.data.len() as u64, Ordering::Relaxed);
        // A megabyte at most: written sooner than another thread could take it over.
        receiver.take(&piece).map_err(|error| match &error {
            PieceError::Invalid(_) | PieceError::Corrupt(_) => Status::invalid_argument(error.to_string()),
            PieceError::Store(_) | PieceError::Write(..) => Status::resource_exhausted(error.to_string()),
        })
    }

    /// Lets the client know meanwhile that something goes on, by asking it for nothing.
    async fn busy<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut interval = tokio::time::interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // Whoever has gone is noticed elsewhere: the work is not left half-done for that.
                _ = interval.tick() => drop(self.say(SyncAnswer::Missing(twin::Missing::default())).await),
            }
        }
    }

    async fn say(&self, answer: SyncAnswer) -> Result<(), Status> {
        let answer = twin::SyncResponse { response: Some(answer) };
        self.out.send(Ok(answer)).await.map_err(|_| Status::new(Code::Cancelled, "the client is gone"))
    }
}

fn card(client: String, open: &twin::Open) -> Result<(Card, DigestFunction), Status> {
    let roots = open.roots.iter().map(|root| PathBuf::from(OsStr::from_bytes(root))).collect();
    let card = Card { client, name: open.workspace.clone(), roots, user: open.user, group: open.group };
    card.check().map_err(|error| Status::invalid_argument(error.to_string()))?;
    match open.digest_function() {
        twin::DigestFunction::Sha256 => Ok((card, DigestFunction::Sha256)),
        other => Err(Status::invalid_argument(format!("digests of function {other:?} are not understood"))),
    }
}

/// Those of the programs that are in this machine's image, for clients that compare them with their own.
async fn programs(paths: Vec<Vec<u8>>) -> Vec<twin::Program> {
    let find = move || {
        let programs = paths.into_iter().take(MOST_READ).filter_map(|path| {
            let file = PathBuf::from(OsStr::from_bytes(&path));
            // Nothing else can be run, nor is anybody's business.
            if !paths::is_system(&file) || file.components().any(|part| part == Component::ParentDir) {
                return None;
            }
            let digest = Digest::of_reader(&mut std::fs::File::open(file).ok()?).ok()?;
            Some(twin::Program { path, sha256: digest.hash().to_vec() })
        });
        programs.collect()
    };
    tokio::task::spawn_blocking(find).await.unwrap_or_default()
}

//! One call of Sync: keeps the twin's mirror like the workspace, for as long as the call lasts.
//! Knows nothing of commands.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farcc_proto::twin;
use farcc_proto::twin::sync_request::Request;
use farcc_proto::twin::sync_response::Response;
use farcc_proto::twin::twin_client::TwinClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::Status;
use tonic::Streaming;

use crate::contents::Pieces;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::executor::twin::TwinError;
use crate::executor::twin::progress::Batches;
use crate::executor::twin::progress::Commits;
use crate::executor::twin::trees::Seen;
use crate::executor::twin::trees::Trees;
use crate::mirror;
use crate::mirror::KnownFile;
use crate::owner::Owner;
use crate::reapi::Wire;
use crate::reapi::words;

/// Messages on their way to the twin.
const MESSAGES_AHEAD: usize = 16;

/// How much sooner a command may hear that its session is over than whoever keeps it, at most.
const MOMENT: Duration = Duration::from_secs(1);

/// Larger than any message of a twin that heeds the bounds.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A session that is open, until one of the two ends it.
pub(super) struct Session {
    /// Says to the twin which it is.
    pub(super) id: [u8; 16],
    /// For further calls over the same connection.
    pub(super) client: TwinClient<Wire>,
    /// Ready when it is over, or to be: nobody knows any more what the mirror is like.
    pub(super) over: CancellationToken,
    /// Why, if it was not to be.
    why: Arc<OnceLock<String>>,
    /// How long the twin may be silent where it should not be.
    pub(super) patience: Duration,
    /// In which order commands' changes are put into place here.
    pub(super) commits: Commits,
    batches: Arc<Batches>,
    out: mpsc::Sender<twin::SyncRequest>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// Whose workspace it is.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// Which of this client's.
    pub(super) workspace: Vec<u8>,
    /// Its directories.
    pub(super) roots: Vec<PathBuf>,
    /// Which process this is.
    pub(super) instance: [u8; 16],
    /// Content that went to the twin, as it travelled, in bytes.
    pub(super) sent_bytes: Arc<AtomicU64>,
}

impl Session {
    /// Opens one over a connection. The trees are to be told as a whole.
    ///
    /// # Errors
    /// The status that the twin answers with.
    pub(super) async fn open(
        wire: Wire,
        name: &Name,
        trees: Arc<Owner<Trees>>,
        patience: Duration,
    ) -> Result<Session, Status> {
        let mut client = TwinClient::new(wire)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let id = *uuid::Uuid::new_v4().as_bytes();
        let (out, requests) = mpsc::channel(MESSAGES_AHEAD);
        let open = twin::Open {
            workspace: name.workspace.clone(),
            roots: name.roots.iter().map(|root| root.as_os_str().as_bytes().to_vec()).collect(),
            session: id.to_vec(),
            digest_function: twin::DigestFunction::Sha256.into(),
            user: rustix::process::getuid().as_raw(),
            group: rustix::process::getgid().as_raw(),
            instance: name.instance.to_vec(),
        };
        let request = twin::SyncRequest { request: Some(Request::Open(open)) };
        // There is room for one.
        let _ = out.send(request).await;
        let silent = |_| Status::deadline_exceeded(format!("no answer within {patience:?}"));
        let called = tokio::time::timeout(patience, client.sync(ReceiverStream::new(requests))).await;
        let mut answers = called.map_err(silent)??.into_inner();
        loop {
            let answer = tokio::time::timeout(patience, answers.message()).await.map_err(silent)??;
            match answer.and_then(|answer| answer.response) {
                Some(Response::Opened(_)) => break,
                // It is at work on its mirror.
                Some(Response::Missing(missing)) if missing.digests.is_empty() => {}
                _ => return Err(Status::new(Code::Internal, "the twin does not answer as a twin does")),
            }
        }
        let (over, why, batches) = (CancellationToken::new(), Arc::default(), Arc::new(Batches::new()));
        let session = Session {
            id,
            client,
            over: over.clone(),
            why: Arc::clone(&why),
            patience,
            commits: Commits::new(),
            batches: Arc::clone(&batches),
            out: out.clone(),
        };
        let follower =
            Follower { trees, out, sent_bytes: name.sent_bytes.clone(), batches: Arc::clone(&batches) };
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = follower.follow(answers) => {
                    ended.err().unwrap_or_else(|| "the twin ended the session".to_owned())
                }
                () = batches.stalled(patience) => format!("no answer within {patience:?}"),
                () = over.cancelled() => return,
            };
            tracing::info!("a session with the twin ended: {ended}");
            // Nobody else says why.
            let _ = why.set(ended);
            over.cancel();
        });
        Ok(session)
    }

    /// Why it is over.
    pub(super) fn why_over(&self) -> &str {
        self.why.get().map_or("the session ended", String::as_str)
    }

    /// Why the twin did not even put the first batch into place; None: it did, or it was not the twin who ended it.
    pub(super) fn why_in_vain(&self) -> Option<&str> {
        self.why.get().map(String::as_str).filter(|_| !self.batches.has_applied())
    }

    /// Why it is over, once that is known: the twin tells commands sooner that it is.
    pub(super) async fn why_soon_over(&self) -> Option<&str> {
        let over = tokio::time::timeout(MOMENT, self.over.cancelled()).await;
        over.ok().and_then(|()| self.why.get()).map(String::as_str)
    }

    /// Tells the twin that what commands have changed up to this commit is in place here.
    pub(super) async fn placed(&self, commit: u64) {
        let request = twin::SyncRequest { request: Some(Request::PlacedCommit(commit)) };
        tokio::select! {
            // A session that is over has lost what was kept for it.
            _ = self.out.send(request) => {}
            () = self.over.cancelled() => {}
        }
    }

    /// Tells the twin what was seen.
    ///
    /// # Errors
    /// [`TwinError::Unavailable`] if the session is over.
    pub(super) async fn tell(&self, seen: &Seen) -> Result<(), TwinError> {
        self.batches.told(seen.sequence);
        let changes = mirror::encode(&seen.changes);
        let (sequence, is_whole) = (seen.sequence, seen.is_whole);
        let mut parts = changes.chunks(mirror::MOST_CHANGES).peekable();
        loop {
            let changes = parts.next().unwrap_or_default().to_vec();
            let continues = parts.peek().is_some();
            let batch = twin::Batch { sequence, is_whole, changes, continues };
            let request = twin::SyncRequest { request: Some(Request::Batch(batch)) };
            tokio::select! {
                sent = self.out.send(request) => {
                    sent.map_err(|_| TwinError::Unavailable("the connection ended".to_owned()))?;
                    self.batches.stirred();
                }
                () = self.over.cancelled() => return Err(TwinError::Unavailable(self.why_over().to_owned())),
            }
            if !continues {
                return Ok(());
            }
        }
    }
}

/// Answers the twin's questions.
struct Follower {
    trees: Arc<Owner<Trees>>,
    out: mpsc::Sender<twin::SyncRequest>,
    sent_bytes: Arc<AtomicU64>,
    batches: Arc<Batches>,
}

impl Follower {
    /// Until there are no more; why there are none.
    async fn follow(&self, mut answers: Streaming<twin::SyncResponse>) -> Result<(), String> {
        while let Some(answer) = answers.message().await.map_err(|status| words(&status))? {
            self.batches.stirred();
            match answer.response {
                Some(Response::Missing(missing)) => {
                    let digests = missing.digests.iter();
                    let digests: Option<Vec<_>> =
                        digests.map(|digest| mirror::decode_digest(DigestFunction::Sha256, digest)).collect();
                    self.send(digests.ok_or("a digest is damaged")?).await?;
                }
                Some(Response::Applied(applied)) if !self.batches.applied(applied.sequence) => {
                    return Err(format!(
                        "it has put batch {} into place, and there is none",
                        applied.sequence
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Sends the contents of files. One that is another by now, and larger than what is kept for that, ends the session: the next one
    /// tells what it is then.
    async fn send(&self, digests: Vec<Digest>) -> Result<(), String> {
        let wanted = digests.clone();
        let found = self.trees.with(move |trees| (trees.find(&wanted), trees.recent(&wanted))).await;
        let (found, recent) = found.map_err(|error| error.to_string())?;
        let (out, sent_bytes) = (self.out.clone(), Arc::clone(&self.sent_bytes));
        let batches = Arc::clone(&self.batches);
        let sent = move |bytes: usize| {
            sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            batches.stirred();
        };
        let sent = tokio::task::spawn_blocking(move || send_all(&digests, &found, &recent, &out, sent)).await;
        sent.map_err(|error| error.to_string())?
    }
}

fn send_all(
    digests: &[Digest],
    found: &HashMap<Digest, KnownFile>,
    recent: &HashMap<Digest, Arc<[u8]>>,
    out: &mpsc::Sender<twin::SyncRequest>,
    sent: impl Fn(usize),
) -> Result<(), String> {
    for digest in digests {
        let known = found.get(digest);
        let failed = |error: std::io::Error| {
            let path = known.map(|known| known.path().display().to_string()).unwrap_or_default();
            format!("read {path}: {error}")
        };
        let content: Box<dyn Read + '_> = match (known.map(KnownFile::open), recent.get(digest)) {
            (Some(Ok(file)), _) => Box::new(file),
            (_, Some(bytes)) => Box::new(&**bytes),
            (Some(Err(error)), None) => return Err(failed(error)),
            (None, None) => return Err("it asks for what is not in the workspace".to_owned()),
        };
        for piece in Pieces::new(*digest, content) {
            let piece = piece.map_err(failed)?;
            let size = piece.data.len();
            let request = twin::SyncRequest { request: Some(Request::Piece(piece)) };
            out.blocking_send(request).map_err(|_| "the twin is gone")?;
            sent(size);
        }
    }
    Ok(())
}

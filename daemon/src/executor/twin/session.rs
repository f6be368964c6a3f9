//! One call of Sync: keeps the twin's mirror like the workspace, for as long as the call lasts.
//! Knows nothing of commands.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farcc_proto::twin;
use farcc_proto::twin::sync_request::Request;
use farcc_proto::twin::sync_response::Response;
use farcc_proto::twin::twin_client::TwinClient;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::Status;
use tonic::Streaming;

use crate::contents::Pieces;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::executor::twin::TwinError;
use crate::executor::twin::trees::Seen;
use crate::executor::twin::trees::Trees;
use crate::mirror;
use crate::mirror::KnownFile;
use crate::owner::Owner;
use crate::reapi::Wire;

/// Messages on their way to the twin.
const MESSAGES_AHEAD: usize = 16;

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
    /// How many commands' changes are in place here.
    commits: watch::Sender<u64>,
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
        let begin = async {
            let request = twin::SyncRequest { request: Some(Request::Open(open)) };
            // There is room for one.
            let _ = out.send(request).await;
            let mut answers = client.sync(ReceiverStream::new(requests)).await?.into_inner();
            match answers.message().await?.and_then(|answer| answer.response) {
                Some(Response::Opened(_)) => Ok(answers),
                _ => Err(Status::new(Code::Internal, "the twin does not answer as a twin does")),
            }
        };
        let begun = tokio::time::timeout(patience, begin).await;
        let silent = |_| Status::deadline_exceeded(format!("no answer within {patience:?}"));
        let answers = begun.map_err(silent)??;
        let over = CancellationToken::new();
        let follower = Follower { trees, out: out.clone(), sent_bytes: name.sent_bytes.clone() };
        let token = over.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = follower.follow(answers) => {
                    let why = ended.err().unwrap_or_else(|| "the twin wants it so".to_owned());
                    tracing::info!("a session with the twin ended: {why}");
                }
                () = token.cancelled() => {}
            }
            token.cancel();
        });
        Ok(Session { id, client, over, commits: watch::Sender::new(0), out })
    }

    /// Ready when all changes before the commit with this number are in place here; `false`: they will never be.
    pub(super) async fn has_reached(&self, commit: u64) -> bool {
        let mut commits = self.commits.subscribe();
        tokio::select! {
            reached = commits.wait_for(|commits| commits + 1 >= commit) => reached.is_ok(),
            () = self.over.cancelled() => false,
        }
    }

    /// The changes of the commit with this number are in place here.
    pub(super) fn reached(&self, commit: u64) {
        self.commits.send_replace(commit);
    }

    /// Tells the twin what was seen.
    ///
    /// # Errors
    /// [`TwinError::Lost`] if the session is over.
    pub(super) async fn tell(&self, seen: &Seen) -> Result<(), TwinError> {
        let changes = mirror::encode(&seen.changes);
        let (sequence, is_whole) = (seen.sequence, seen.sequence == 1);
        let mut parts = changes.chunks(mirror::MOST_CHANGES).peekable();
        loop {
            let changes = parts.next().unwrap_or_default().to_vec();
            let continues = parts.peek().is_some();
            let batch = twin::Batch { sequence, is_whole, changes, continues };
            let request = twin::SyncRequest { request: Some(Request::Batch(batch)) };
            tokio::select! {
                sent = self.out.send(request) => {
                    sent.map_err(|_| TwinError::Lost("the connection ended".to_owned()))?;
                }
                () = self.over.cancelled() => return Err(TwinError::Lost("the session ended".to_owned())),
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
}

impl Follower {
    /// Until there are no more; why there are none.
    async fn follow(&self, mut answers: Streaming<twin::SyncResponse>) -> Result<(), String> {
        while let Some(answer) = answers.message().await.map_err(|status| status.message().to_owned())? {
            if let Some(Response::Missing(missing)) = answer.response {
                let digests = missing.digests.iter();
                let digests: Option<Vec<_>> =
                    digests.map(|digest| mirror::decode_digest(DigestFunction::Sha256, digest)).collect();
                self.send(digests.ok_or("a digest is damaged")?).await?;
            }
        }
        Ok(())
    }

    /// Sends the contents of files. One that is another by now ends the session: the next one tells what it is then.
    async fn send(&self, digests: Vec<Digest>) -> Result<(), String> {
        let wanted = digests.clone();
        let found =
            self.trees.with(move |trees| trees.find(&wanted)).await.map_err(|error| error.to_string())?;
        let (out, sent_bytes) = (self.out.clone(), Arc::clone(&self.sent_bytes));
        let sent = tokio::task::spawn_blocking(move || send_all(&digests, &found, &out, &sent_bytes)).await;
        sent.map_err(|error| error.to_string())?
    }
}

fn send_all(
    digests: &[Digest],
    found: &HashMap<Digest, KnownFile>,
    out: &mpsc::Sender<twin::SyncRequest>,
    sent_bytes: &AtomicU64,
) -> Result<(), String> {
    for digest in digests {
        let known = found.get(digest).ok_or("it asks for what is not in the workspace")?;
        let failed = |error: std::io::Error| format!("read {}: {error}", known.path().display());
        let file = known.open().map_err(failed)?;
        for piece in Pieces::new(*digest, file) {
            let piece = piece.map_err(failed)?;
            sent_bytes.fetch_add(piece.data.len() as u64, Ordering::Relaxed);
            let request = twin::SyncRequest { request: Some(Request::Piece(piece)) };
            out.blocking_send(request).map_err(|_| "the twin is gone")?;
        }
    }
    Ok(())
}

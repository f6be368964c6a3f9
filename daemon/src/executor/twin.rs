//! Runs commands on a twin (`farcc.twin.v1`): keeps its mirrors of workspaces up to date, and puts into place here what commands
//! have changed there.
//! Knows nothing of compilers, nor of which command belongs there.

mod progress;
mod recent;
mod run;
mod session;
mod trees;
mod workspace;

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use farcc_proto::twin as messages;
use farcc_proto::twin::twin_client::TwinClient;
use tokio::sync::OnceCell;
use tokio::sync::mpsc;

use crate::config;
use crate::digest::Digest;
use crate::executor::remote::Environment;
use crate::executor::remote::access;
use crate::reapi::Endpoint;
use crate::reapi::Error;
use crate::reapi::Way;
use crate::reapi::words;
use crate::store::Store;

use run::Run;
use session::MAX_MESSAGE_BYTES;
use session::Name;
use workspace::Workspace;

pub use run::Build;
pub use run::Event;
pub use run::Kept;
pub use run::Terminal;
pub use run::TwinCommand;
pub use run::TwinEnd;
pub use run::TwinRun;
pub use run::Window;
pub use run::Word;

/// How long the twin is believed what it has said of a program.
const BELIEVED: Duration = Duration::from_secs(60);

/// One twin.
pub struct TwinExecutor {
    way: Arc<Way>,
    patience: Duration,
    /// What is to be looked at when the connection breaks before anything is answered: the twin then does not say why.
    suspicion: &'static str,
    /// Tells the workspaces of this daemon's user and state from those of others.
    owner: Vec<u8>,
    /// Which process this is.
    instance: [u8; 16],
    /// Content that went to it, as it travelled, in bytes.
    sent_bytes: Arc<AtomicU64>,
    /// What the twin has said of programs, by path: their digest, None if there is none, and when it said so.
    programs: dashmap::DashMap<PathBuf, (Instant, Option<Vec<u8>>)>,
    /// By directories.
    workspaces: dashmap::DashMap<Vec<PathBuf>, Arc<OnceCell<Arc<Workspace>>>>,
}

/// Why a command's result is not in place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TwinError {
    /// The command was not started: the twin cannot be reached, or does not take it; why.
    #[error("{0}")]
    Unavailable(String),
    /// It was not started: the twin has no such program; what it says.
    #[error("{0}")]
    NoProgram(String),
    /// It was not started: the twin's program is not this machine's; in what.
    #[error("{0}")]
    OtherProgram(String),
    /// It was started, and then the twin was lost; why. The workspace is as it was.
    #[error("the twin was lost while the command ran there: {0}. Nothing was changed here")]
    Lost(String),
    /// It was ended before its time; by what. The workspace is as it was.
    #[error("the command was ended on the twin: {0}. Nothing was changed here")]
    Dropped(String),
    /// Somebody else has changed these files while it ran. The workspace is as it was.
    #[error(
        "{} was changed by somebody else while the command changed it on the twin: nothing of the command was put into place. \
         Run it again", one_of(.0)
    )]
    Conflict(Vec<PathBuf>),
    /// It has ended, and made there symlinks that lead out of the workspace; which. The workspace is as it was.
    #[error("the command has made a symlink on the twin that leads out of the workspace: {}. Nothing was changed here", one_of(.0))]
    NotForHere(Vec<PathBuf>),
    /// It has ended, but not all that it has changed is in place; why.
    #[error("put into place what the command has changed on the twin: {0}")]
    NotInPlace(String),
}

impl TwinError {
    /// Whether the mirror is as it would be if the command had never been.
    fn leaves_mirror_known(&self) -> bool {
        matches!(self, TwinError::NoProgram(_) | TwinError::Dropped(_) | TwinError::NotForHere(_))
    }
}

fn one_of(paths: &[PathBuf]) -> String {
    match paths {
        [] => "a file".to_owned(),
        [path] => path.display().to_string(),
        [path, others @ ..] => format!("{} (and {} more)", path.display(), others.len()),
    }
}

impl TwinExecutor {
    /// An executor for `twin`; nothing is sent yet. A credential helper gets `environment`. `owner` is this user's and
    /// installation's, and stays the same.
    ///
    /// # Errors
    /// When the address cannot be used as it is written.
    pub fn new(
        twin: &config::Twin,
        environment: &Environment,
        owner: Vec<u8>,
    ) -> Result<TwinExecutor, Error> {
        let way = Way::new(&endpoint(twin, environment))?;
        Ok(TwinExecutor {
            way: Arc::new(way),
            patience: twin.timeout,
            suspicion: suspicion(twin),
            owner,
            instance: *uuid::Uuid::new_v4().as_bytes(),
            sent_bytes: Arc::default(),
            programs: dashmap::DashMap::new(),
            workspaces: dashmap::DashMap::new(),
        })
    }

    /// Runs a command in the workspace that has these directories (absolute, physical), and puts what it has changed into place.
    /// What happens meanwhile comes by `events`; if these are not wanted any more, the command is cancelled.
    ///
    /// # Errors
    /// [`TwinError`].
    pub async fn run(
        &self,
        roots: &[PathBuf],
        command: &TwinCommand,
        store: &Arc<Store>,
        events: mpsc::Sender<Event>,
        words: mpsc::Receiver<Word>,
    ) -> Result<TwinRun, TwinError> {
        let cell = Arc::clone(&self.workspaces.entry(roots.to_vec()).or_default());
        let opened =
            cell.get_or_try_init(|| Workspace::new(Arc::clone(&self.way), self.name(roots), self.patience));
        let workspace = opened.await.map_err(|error| TwinError::Unavailable(error.to_string()))?;
        Run { workspace, store, events, words }.run(command).await
    }

    fn name(&self, roots: &[PathBuf]) -> Name {
        let mut hasher = crate::digest::Hasher::new();
        hasher.field(&self.owner);
        for root in roots {
            hasher.field(root.as_os_str().as_encoded_bytes());
        }
        let digest: Digest = hasher.finish();
        Name {
            workspace: digest.hash().to_vec(),
            roots: roots.to_vec(),
            instance: self.instance,
            sent_bytes: Arc::clone(&self.sent_bytes),
        }
    }

    /// Content that went to the twin since the last question, as it travelled, in bytes.
    pub fn take_sent_bytes(&self) -> u64 {
        self.sent_bytes.swap(0, Ordering::Relaxed)
    }

    /// Whether the twin has the same program: the file at this path in the image, with this digest.
    ///
    /// # Errors
    /// [`TwinError::OtherProgram`], or [`TwinError::Unavailable`].
    pub async fn check_program(&self, path: &Path, digest: &Digest) -> Result<(), TwinError> {
        let known =
            self.programs.get(path).filter(|known| known.0.elapsed() < BELIEVED).map(|known| known.1.clone());
        let there = match known {
            Some(there) => there,
            None => {
                let described = self.describe(vec![path.as_os_str().as_bytes().to_vec()]).await?;
                let there = described.programs.into_iter().next().map(|program| program.sha256);
                self.programs.insert(path.to_owned(), (Instant::now(), there.clone()));
                there
            }
        };
        match there {
            Some(there) if there == digest.hash() => Ok(()),
            Some(_) => Err(TwinError::OtherProgram(format!("{} is another one there", path.display()))),
            None => Err(TwinError::OtherProgram(format!("there is no {} there", path.display()))),
        }
    }

    /// What the twin is, and which of `programs` it has.
    ///
    /// # Errors
    /// [`TwinError::Unavailable`].
    pub async fn describe(&self, programs: Vec<Vec<u8>>) -> Result<messages::DescribeResponse, TwinError> {
        let mut client = self.client().await?;
        let asked = client.describe(messages::DescribeRequest { programs });
        self.answered(asked).await
    }

    /// What the twin is doing for this user.
    ///
    /// # Errors
    /// [`TwinError::Unavailable`].
    pub async fn status(&self) -> Result<messages::StatusResponse, TwinError> {
        let mut client = self.client().await?;
        let asked = client.status(messages::StatusRequest {});
        self.answered(asked).await
    }

    async fn client(&self) -> Result<TwinClient<crate::reapi::Wire>, TwinError> {
        let wire = self.way.connect().await.map_err(|error| TwinError::Unavailable(error.to_string()))?;
        Ok(TwinClient::new(wire).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn answered<T>(
        &self,
        asked: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, TwinError> {
        match tokio::time::timeout(self.patience, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if std::error::Error::source(&status).is_some() => {
                Err(TwinError::Unavailable(format!("{} ({})", words(&status), self.suspicion)))
            }
            Ok(Err(status)) => Err(TwinError::Unavailable(words(&status))),
            Err(_) => Err(TwinError::Unavailable(format!("no answer within {:?}", self.patience))),
        }
    }
}

fn suspicion(twin: &config::Twin) -> &'static str {
    match (twin.address.starts_with("grpcs://"), &twin.tls.client_cert) {
        (false, _) => "does it want TLS, grpcs://?",
        (true, None) => "does it want a certificate of the client's, [twin] tls.client_cert?",
        (true, Some(_)) => "does it trust the certificate of [twin] tls.client_cert?",
    }
}

fn endpoint(twin: &config::Twin, environment: &Environment) -> Endpoint {
    let (headers, credentials, tls) = access(twin.access(), environment);
    Endpoint {
        address: twin.address.clone(),
        engine_address: String::new(),
        cas_address: String::new(),
        action_cache_address: String::new(),
        instance_name: String::new(),
        timeout: twin.timeout,
        retries: 0,
        digest_function: None,
        compression: false,
        tls,
        headers,
        credentials,
    }
}

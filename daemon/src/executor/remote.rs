//! Runs actions on one cluster: looks them up in its action cache, sends what is missing, executes, and fetches
//! what came out into the store on this machine.
//! Knows nothing of compilers, nor of what happens when the cluster cannot.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use tonic::Code;

use crate::action::Action;
use crate::config::Remote;
use crate::digest::Digest;
use crate::reapi::Blob;
use crate::reapi::Cause;
use crate::reapi::Client;
use crate::reapi::Endpoint;
use crate::reapi::Error;
use crate::reapi::ExecuteOptions;
use crate::stats::Bytes;
use crate::store::Store;
use crate::store::StoreError;

/// How often an action is executed again after inputs that the cluster lost were sent again.
const MAX_REPAIRS: usize = 3;

/// How long an action may be queued before this machine does it: servers may queue one for ever for which no
/// worker is registered.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(300);

/// For how long a cluster that could not be reached is left alone: the first time and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the small questions that come first for every command may take, unless `[remote] timeout` is
/// shorter: a cluster that is slower is not worth waiting for.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// One cluster.
pub struct RemoteExecutor {
    client: Client,
    question_timeout: Duration,
    health: Mutex<Health>,
}

/// Whether the cluster is worth asking: a dead one costs one time-out, not one for each command.
#[derive(Default)]
struct Health {
    /// Set while the cluster is left alone.
    retry_at: Option<Instant>,
    pause: Duration,
    /// One command is asking whether the cluster is back; all others go on without it.
    probing: bool,
}

/// The right to ask the cluster. Given back, also by a command that is cancelled.
struct Admission<'a> {
    health: &'a Mutex<Health>,
    is_probe: bool,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            lock(self.health).probing = false;
        }
    }
}

fn lock(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A result whose blobs are in the store on this machine.
#[derive(Debug)]
pub struct Fetched {
    /// The result; its messages are inline.
    pub result: re::ActionResult,
    /// Bytes moved for it.
    pub bytes: Bytes,
}

/// Why the cluster gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It cannot be reached, or was not a moment ago.
    #[error("{0}")]
    Unavailable(String),
    /// It answered, but did not run the action.
    #[error("{0}")]
    Refused(String),
    /// A file that was to be sent changed since it was scanned.
    #[error("upload {}: it changed", .0.display())]
    InputChanged(PathBuf),
    /// What it returned cannot be kept on this machine.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// An output's blob is gone from the cluster.
    #[error("fetch the outputs: {0}")]
    Gone(String),
}

impl RemoteExecutor {
    /// An executor for `remote`; nothing is sent yet.
    ///
    /// # Errors
    /// When the address cannot be used as it is written.
    pub fn new(remote: &Remote) -> Result<RemoteExecutor, Error> {
        let client = Client::new(Endpoint {
            address: remote.address.clone(),
            instance_name: remote.instance_name.clone(),
            timeout: remote.timeout,
            retries: remote.retries,
        })?;
        let question_timeout = QUESTION_TIMEOUT.min(remote.timeout);
        Ok(RemoteExecutor { client, question_timeout, health: Mutex::default() })
    }

    /// The result of `action` in the cluster's action cache.
    ///
    /// # Errors
    /// [`RemoteError`]. A result whose blobs are gone is no error: none.
    pub async fn cached(&self, action: &Action, store: &Arc<Store>) -> Result<Option<Fetched>, RemoteError> {
        let _admission = self.admit()?;
        let wanted = wanted_inline(action);
        let Some(result) = self.question(self.client.action_result(&action.digest, &wanted)).await? else {
            return Ok(None);
        };
        // Some servers cache failures (buildbox-casd does by default).
        if result.exit_code != 0 {
            return Ok(None);
        }
        match self.fetch(result, store).await {
            Ok(fetched) => Ok(Some(fetched)),
            Err(RemoteError::Gone(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends what is missing and executes `action`. Its exit status is the caller's to judge; the outputs of a
    /// failed one are not fetched. The action cache was asked before, so it is asked again only by the server.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn execute(
        &self,
        action: &Action,
        store: &Arc<Store>,
        accept_cached: bool,
    ) -> Result<Fetched, RemoteError> {
        let _admission = self.admit()?;
        let client = self.client.for_action(&action.digest, "Compile", &target(action));
        let mut options = ExecuteOptions {
            skip_cache_lookup: !accept_cached,
            inline_output_files: wanted_inline(action),
            queue_timeout: Some(QUEUE_TIMEOUT),
        };
        let mut uploaded = 0;
        for repair in 0..=MAX_REPAIRS {
            uploaded += self.noted(client.upload(blobs(action)).await)?.sent_bytes;
            let outcome = match client.execute(&action.digest, &options).await {
                Ok(outcome) => outcome,
                Err(error) if repair < MAX_REPAIRS && !error.missing_digests().is_empty() => {
                    tracing::info!("the cluster lost inputs, sending them again: {error}");
                    continue;
                }
                Err(error) if repair == 0 && error.may_lack_inputs() => {
                    let digests: Vec<_> = blobs(action).iter().map(|blob| blob.digest).collect();
                    client.forget(&digests);
                    continue;
                }
                Err(error) => return Err(self.note(&error)),
            };
            if outcome.result.exit_code != 0 {
                let mut result = outcome.result;
                let downloaded = self.fetch_messages(&mut result).await?;
                return Ok(Fetched { result, bytes: Bytes { uploaded, downloaded, stored: 0 } });
            }
            match self.fetch(outcome.result, store).await {
                Ok(mut fetched) => {
                    fetched.bytes.uploaded = uploaded;
                    return Ok(fetched);
                }
                // The server answered from its cache, and the blobs behind it are gone.
                Err(RemoteError::Gone(_)) if repair < MAX_REPAIRS => options.skip_cache_lookup = true,
                Err(error) => return Err(error),
            }
        }
        Err(RemoteError::Refused("execute: the cluster keeps losing inputs or outputs".to_owned()))
    }

    /// Offers the result of a local run to the cluster's action cache; false when it does not take it.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn offer(
        &self,
        action: &Action,
        result: &re::ActionResult,
        outputs: Vec<Blob>,
    ) -> Result<bool, RemoteError> {
        let _admission = self.admit()?;
        let capabilities = self.noted(self.client.capabilities().await)?;
        if !capabilities.action_cache_updates {
            return Ok(false);
        }
        let mut blobs = outputs;
        blobs.push(Blob { digest: action.digest, content: content(&action.action) });
        blobs.push(Blob { digest: action.command_digest, content: content(&action.command) });
        self.noted(self.client.upload(blobs).await)?;
        self.noted(self.client.update_action_result(&action.digest, result.clone()).await)
    }

    /// Whether the cluster executes, or only caches.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn executes(&self) -> Result<bool, RemoteError> {
        let _admission = self.admit()?;
        Ok(self.question(self.client.capabilities()).await?.execution)
    }

    /// Brings every output of `result` into the store, and its messages inline.
    async fn fetch(&self, mut result: re::ActionResult, store: &Arc<Store>) -> Result<Fetched, RemoteError> {
        let mut downloaded = self.fetch_messages(&mut result).await?;
        let mut wanted = Vec::new();
        for file in &mut result.output_files {
            let digest = parse(file.digest.as_ref())?;
            let contents = std::mem::take(&mut file.contents);
            if contents.len() as u64 == digest.size_bytes() {
                downloaded += digest.size_bytes();
                put(store, digest, contents.into()).await?;
            } else {
                wanted.push(digest);
            }
        }
        let mut missing = Vec::new();
        for digest in wanted {
            let (store, present) = (Arc::clone(store), digest);
            if !blocking(move || store.contains(&present)).await? {
                missing.push(digest);
            }
        }
        for (digest, bytes) in self.noted(self.client.download_many(&missing).await)? {
            downloaded += digest.size_bytes();
            put(store, digest, bytes).await?;
        }
        let bytes = Bytes { uploaded: 0, downloaded, stored: downloaded };
        Ok(Fetched { result, bytes })
    }

    /// Standard output and error, inline. Returns the bytes that had to be fetched.
    async fn fetch_messages(&self, result: &mut re::ActionResult) -> Result<u64, RemoteError> {
        let mut downloaded = 0;
        for (raw, digest) in [
            (&mut result.stdout_raw, result.stdout_digest.take()),
            (&mut result.stderr_raw, result.stderr_digest.take()),
        ] {
            if raw.is_empty() && digest.is_some() {
                let digest = parse(digest.as_ref())?;
                *raw = self.noted(self.client.download(&digest).await)?.to_vec();
                downloaded += digest.size_bytes();
            }
        }
        Ok(downloaded)
    }

    /// Whether the cluster is to be asked now.
    fn admit(&self) -> Result<Admission<'_>, RemoteError> {
        let mut health = lock(&self.health);
        let is_probe = match health.retry_at {
            None => false,
            Some(retry_at) if retry_at <= Instant::now() && !health.probing => {
                health.probing = true;
                true
            }
            Some(_) => {
                let address = self.client.address();
                return Err(RemoteError::Unavailable(format!("{address} could not be reached a moment ago")));
            }
        };
        Ok(Admission { health: &self.health, is_probe })
    }

    /// Asks something that is answered at once by a cluster that is well.
    async fn question<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, RemoteError> {
        match tokio::time::timeout(self.question_timeout, asked).await {
            Ok(answer) => self.noted(answer),
            Err(_) => {
                self.leave_alone();
                let (address, limit) = (self.client.address(), self.question_timeout);
                Err(RemoteError::Unavailable(format!("{address} gave no answer in {limit:?}")))
            }
        }
    }

    fn leave_alone(&self) {
        let mut health = lock(&self.health);
        // Many commands may fail together: that is one failure.
        if health.retry_at.is_none_or(|retry_at| retry_at <= Instant::now()) {
            health.pause = (health.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            health.retry_at = Some(Instant::now() + health.pause);
        }
    }

    fn noted<T>(&self, answer: Result<T, Error>) -> Result<T, RemoteError> {
        match answer {
            Ok(answer) => {
                let mut health = lock(&self.health);
                (health.retry_at, health.pause) = (None, Duration::ZERO);
                Ok(answer)
            }
            Err(error) => Err(self.note(&error)),
        }
    }

    fn note(&self, error: &Error) -> RemoteError {
        if let Cause::InputChanged(path) = error.cause() {
            return RemoteError::InputChanged(path.clone());
        }
        if error.code() == Code::NotFound && !error.missing_digests().is_empty() {
            return RemoteError::Gone(error.to_string());
        }
        // An action that ran into its own limit says nothing about the cluster.
        let silent = error.code() == Code::DeadlineExceeded && *error.cause() == Cause::Status;
        if silent || error.is_unreachable() || matches!(error.code(), Code::Unavailable | Code::Unauthenticated) {
            self.leave_alone();
            return RemoteError::Unavailable(error.to_string());
        }
        RemoteError::Refused(error.to_string())
    }
}

/// Everything that the cluster needs to have before it can execute `action`.
fn blobs(action: &Action) -> Vec<Blob> {
    let mut blobs = vec![
        Blob { digest: action.digest, content: content(&action.action) },
        Blob { digest: action.command_digest, content: content(&action.command) },
    ];
    let root = &action.input_root;
    blobs.extend(
        root.directories.iter().map(|(digest, bytes)| Blob { digest: *digest, content: content(bytes) }),
    );
    blobs.extend(root.files.iter().map(|(digest, path)| Blob::of_file(*digest, path)));
    blobs
}

fn content(bytes: &[u8]) -> crate::reapi::Content {
    crate::reapi::Content::Bytes(bytes.to_vec().into())
}

fn wanted_inline(action: &Action) -> Vec<String> {
    action.outputs.iter().map(|output| output.remote.clone()).collect()
}

/// What the action makes, for the cluster's logs.
fn target(action: &Action) -> String {
    action.outputs.first().map(|output| output.remote.clone()).unwrap_or_default()
}

fn parse(digest: Option<&re::Digest>) -> Result<Digest, RemoteError> {
    let digest =
        digest.ok_or_else(|| RemoteError::Refused("read the result: a file has no digest".to_owned()))?;
    Digest::try_from(digest).map_err(|error| RemoteError::Refused(format!("read the result: {error}")))
}

async fn put(store: &Arc<Store>, expected: Digest, bytes: bytes::Bytes) -> Result<(), RemoteError> {
    let store = Arc::clone(store);
    let stored = blocking(move || store.put(&bytes)).await??;
    if stored != expected {
        return Err(RemoteError::Refused(format!("fetch {expected}: the cluster sent other bytes")));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RemoteError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RemoteError::Refused(error.to_string()))
}

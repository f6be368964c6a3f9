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
use crate::reapi::ServerCapabilities;
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
    outage: Option<Outage>,
}

/// The cluster could not be reached.
struct Outage {
    retry_at: Instant,
    pause: Duration,
    /// One command is finding out whether it can be reached again.
    probing: bool,
}

impl Health {
    /// Whether one more command may ask the cluster at `now`; else for how long none may. When a pause is over one
    /// command goes ahead, and the others only when it has been answered. Should it never tell, another one goes.
    fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(outage) = &mut self.outage else { return Ok(()) };
        if outage.retry_at > now {
            return Err(outage.retry_at - now);
        }
        outage.probing = true;
        outage.retry_at = now + outage.pause;
        Ok(())
    }

    /// A call failed at `now`. Those that were under way when the outage began do not make it longer.
    fn failed(&mut self, now: Instant) {
        let pause = match &self.outage {
            None => FIRST_PAUSE,
            Some(outage) if outage.probing => (outage.pause * 2).min(LONGEST_PAUSE),
            Some(_) => return,
        };
        self.outage = Some(Outage { retry_at: now + pause, pause, probing: false });
    }

    fn answered(&mut self) {
        self.outage = None;
    }
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
        let wanted = wanted_inline(action);
        let cached = self.in_time(self.client.action_result(&action.digest, &wanted)).await?;
        let Some(result) = self.noted(cached)? else { return Ok(None) };
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
        let client = self.client.for_action(&action.digest, "Compile", &target(action));
        let mut options = ExecuteOptions {
            skip_cache_lookup: !accept_cached,
            inline_output_files: wanted_inline(action),
            queue_timeout: Some(QUEUE_TIMEOUT),
        };
        let mut uploaded = 0;
        for repair in 0..=MAX_REPAIRS {
            uploaded += self.while_alive(client.upload(blobs(action))).await?.sent_bytes;
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
        self.check_health()?;
        let capabilities = self.capabilities().await?;
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
        Ok(self.capabilities().await?.execution)
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
        for (digest, bytes) in self.while_alive(self.client.download_many(&missing)).await? {
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
                *raw = self.while_alive(self.client.download(&digest)).await?.to_vec();
                downloaded += digest.size_bytes();
            }
        }
        Ok(downloaded)
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the cluster is worth asking now.
    ///
    /// # Errors
    /// [`RemoteError::Unavailable`].
    pub fn check_health(&self) -> Result<(), RemoteError> {
        self.health().admit(Instant::now()).map_err(|wait| {
            RemoteError::Unavailable(format!(
                "{} could not be reached a moment ago; it is asked again in {wait:.0?}",
                self.client.address(),
            ))
        })
    }

    fn noted<T>(&self, answer: Result<T, Error>) -> Result<T, RemoteError> {
        match answer {
            Ok(answer) => {
                self.health().answered();
                Ok(answer)
            }
            Err(error) => Err(self.note(&error)),
        }
    }

    /// The answer to something that may take its time, unless the cluster dies meanwhile.
    async fn while_alive<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, RemoteError> {
        self.noted(self.client.while_alive(asked).await.and_then(|answer| answer))
    }

    /// What the cluster said of itself, perhaps long ago: no sign that it can be reached now.
    async fn capabilities(&self) -> Result<ServerCapabilities, RemoteError> {
        self.in_time(self.client.capabilities()).await?.map_err(|error| self.note(&error))
    }

    /// The answer to something that a cluster which is well knows at once.
    async fn in_time<T>(&self, asked: impl Future<Output = T>) -> Result<T, RemoteError> {
        let limit = self.question_timeout;
        tokio::time::timeout(limit, asked).await.map_err(|_| {
            self.health().failed(Instant::now());
            RemoteError::Unavailable(format!("{} gave no answer in {limit:?}", self.client.address()))
        })
    }

    fn note(&self, error: &Error) -> RemoteError {
        if let Cause::InputChanged(path) = error.cause() {
            return RemoteError::InputChanged(path.clone());
        }
        if error.code() == Code::NotFound && !error.missing_digests().is_empty() {
            return RemoteError::Gone(error.to_string());
        }
        // A call without an answer has used its whole time; the time of an action is another matter.
        let is_silent = error.code() == Code::DeadlineExceeded && *error.cause() == Cause::Status;
        let is_away = matches!(error.code(), Code::Unavailable | Code::Unauthenticated);
        if error.is_unreachable() || is_silent || is_away {
            self.health().failed(Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_pause_one_command_finds_out() {
        let mut health = Health::default();
        let mut now = Instant::now();
        assert!(health.admit(now).is_ok() && health.admit(now).is_ok());
        // All that were under way fail together: that is one outage.
        for _ in 0..400 {
            health.failed(now);
        }
        assert_eq!(health.admit(now), Err(FIRST_PAUSE));
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let pause = Duration::from_secs(pause);
            assert_eq!(health.admit(now), Err(pause));
            now += pause;
            assert_eq!(health.admit(now), Ok(()));
            assert!(health.admit(now).is_err(), "one at a time");
            health.failed(now);
        }
        now += LONGEST_PAUSE;
        assert_eq!(health.admit(now), Ok(()));
        // The one that went ahead was cancelled.
        now += LONGEST_PAUSE;
        assert_eq!(health.admit(now), Ok(()));
        health.answered();
        assert!(health.admit(now).is_ok() && health.admit(now).is_ok());
    }
}

//! Runs actions on one cluster: looks them up in its action cache, sends what is missing, executes, and fetches
//! what came out into the store on this machine.
//! Knows nothing of compilers, nor of what happens when the cluster cannot.

mod ahead;
mod health;
mod known_digests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use prost::DecodeError;
use prost::Message;
use tonic::Code;

use crate::action::Action;
use crate::action::RemoteAction;
use crate::config;
use crate::config::Access;
use crate::config::Compression;
use crate::config::DigestChoice;
use crate::config::Remote;
use crate::digest::Digest;
use crate::digest::DigestFunction;
use crate::reapi::Blob;
use crate::reapi::Cause;
use crate::reapi::Client;
use crate::reapi::CredentialSource;
use crate::reapi::Endpoint;
use crate::reapi::Error;
use crate::reapi::ExecuteOptions;
use crate::reapi::Headers;
use crate::reapi::RelayedAddresses;
use crate::reapi::Relays;
use crate::reapi::ServerCapabilities;
use crate::reapi::Tls;
use crate::stats::Bytes;
use crate::store::Store;
use crate::store::StoreError;

use ahead::Ahead;
use health::Health;
use known_digests::KnownDigests;

/// How often an action is executed again after inputs that the cluster lost were sent again.
const MAX_REPAIRS: usize = 3;

/// How long an action may be queued before this machine does it: servers may queue one for ever for which no
/// worker is registered.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the small questions that come first for every command may take, unless `[remote] timeout` is
/// shorter: a cluster that is slower is not worth waiting for.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// One cluster.
pub struct RemoteExecutor {
    client: Client,
    question_timeout: Duration,
    health: Mutex<Health>,
    digests: Arc<KnownDigests>,
    /// Whether the last result that was looked for was not there.
    has_missed: AtomicBool,
}

/// A result whose blobs are in the store on this machine.
#[derive(Debug)]
pub struct Fetched {
    /// The result; its messages are inline.
    pub result: re::ActionResult,
    /// Bytes moved for it.
    pub bytes: Bytes,
}

/// What became of a result that was offered.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Whether the cluster's action cache has it now.
    pub is_taken: bool,
    /// Bytes sent for it.
    pub sent_bytes: u64,
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
    /// An executor for `remote`; nothing is sent yet. A credential helper gets `environment`.
    ///
    /// # Errors
    /// When the address cannot be used as it is written.
    pub fn new(remote: &Remote, environment: &Environment) -> Result<RemoteExecutor, Error> {
        let client = client(remote, environment)?;
        let question_timeout = QUESTION_TIMEOUT.min(remote.timeout);
        Ok(RemoteExecutor {
            client,
            question_timeout,
            health: Mutex::default(),
            digests: Arc::default(),
            has_missed: AtomicBool::default(),
        })
    }

    /// `action` as this cluster gets it.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn remote_action(&self, action: &Arc<Action>) -> Result<RemoteAction, RemoteError> {
        let function = self.capabilities().await?.digest_function;
        let (action, digests) = (Arc::clone(action), Arc::clone(&self.digests));
        let translate = move || {
            RemoteAction::new(&action, function, |digest, path| digests.of_file(digest, path, function))
        };
        // In the digests of this machine there is nothing to read.
        if function == DigestFunction::default() { translate() } else { blocking(translate).await? }
    }

    /// Sends what `action` needs while its result is looked for, if that will not be there, going by the last one: a miss
    /// takes two round trips less.
    pub fn send_ahead(&self, action: &RemoteAction) -> Option<Ahead> {
        let is_likely = self.has_missed.load(Ordering::Relaxed);
        is_likely.then(|| Ahead::start(self.client.clone(), action.digest, blobs(action)))
    }

    /// The result of `action` in the cluster's action cache.
    ///
    /// # Errors
    /// [`RemoteError`]. A result whose blobs are gone is no error: none.
    pub async fn cached(
        &self,
        action: &RemoteAction,
        store: &Arc<Store>,
    ) -> Result<Option<Fetched>, RemoteError> {
        let cached = self.in_time(self.client.action_result(&action.digest, &action.outputs)).await?;
        let cached = self.noted(cached)?;
        self.has_missed.store(cached.is_none(), Ordering::Relaxed);
        let Some(result) = cached else { return Ok(None) };
        // Some servers cache failures (buildbox-casd does by default).
        if result.exit_code != 0 {
            return Ok(None);
        }
        match self.fetch(action, result, store).await {
            Ok(fetched) => Ok(Some(fetched)),
            Err(RemoteError::Gone(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends what is missing, besides what was sent `ahead`, and executes `action`, which servers show as `mnemonic`. Its exit status is the caller's to
    /// judge; the outputs of a failed one are not fetched. The action cache was asked before, so it is asked again only by
    /// the server.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn execute(
        &self,
        action: &RemoteAction,
        mnemonic: &str,
        store: &Arc<Store>,
        accept_cached: bool,
        ahead: Option<Ahead>,
    ) -> Result<Fetched, RemoteError> {
        let target = action.outputs.first().map_or("", String::as_str);
        let client = self.client.for_action(&action.digest, mnemonic, target);
        let mut options = ExecuteOptions {
            skip_cache_lookup: !accept_cached,
            inline_output_files: action.outputs.clone(),
            queue_timeout: Some(QUEUE_TIMEOUT),
        };
        let (mut uploaded, mut is_there) = (0, false);
        if let Some(ahead) = ahead {
            let is_all = ahead.is_for(&action.digest);
            let landed = self.while_alive(async { Ok(ahead.landed().await) }).await?;
            (uploaded, is_there) = landed.map_or((0, false), |sent| (sent.sent_bytes, is_all));
        }
        let mut looked_at_all = false;
        for repair in 0..=MAX_REPAIRS {
            if !std::mem::take(&mut is_there) {
                uploaded += self.while_alive(client.upload(blobs(action))).await?.sent_bytes;
            }
            let outcome = match client.execute(&action.digest, &options).await {
                Ok(outcome) => outcome,
                Err(error) if repair < MAX_REPAIRS && !error.missing_digests().is_empty() => {
                    tracing::info!("the cluster lost inputs, sending them again: {error}");
                    continue;
                }
                Err(error) if !looked_at_all && error.may_lack_inputs() => {
                    looked_at_all = true;
                    let digests: Vec<_> = blobs(action).iter().map(|blob| blob.digest).collect();
                    client.forget(&digests);
                    continue;
                }
                Err(error) => return Err(with_platform(self.note(&error), &error, action)),
            };
            if outcome.result.exit_code != 0 {
                // Some servers cache failures: a poisoned one would be the last word otherwise.
                if outcome.cached && !options.skip_cache_lookup && repair < MAX_REPAIRS {
                    options.skip_cache_lookup = true;
                    continue;
                }
                let mut result = outcome.result;
                let downloaded = self.fetch_messages(action, &mut result).await?;
                return Ok(Fetched { result, bytes: Bytes { uploaded, downloaded, stored: 0 } });
            }
            match self.fetch(action, outcome.result, store).await {
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

    /// Offers the result of a local run to the cluster's action cache, which may not take it.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn offer(
        &self,
        action: &Arc<Action>,
        mut result: re::ActionResult,
        outputs: &[(Digest, PathBuf)],
    ) -> Result<Offered, RemoteError> {
        self.check_health()?;
        let capabilities = self.capabilities().await?;
        if !capabilities.action_cache_updates {
            return Ok(Offered { is_taken: false, sent_bytes: 0 });
        }
        let action = self.remote_action(action).await?;
        let mut blobs = action_blobs(&action);
        for (digest, path) in outputs {
            let (digests, here, file) = (Arc::clone(&self.digests), *digest, path.clone());
            let function = action.digest.function();
            let there = blocking(move || digests.of_file(&here, &file, function)).await??;
            for field in digest_fields(&mut result) {
                if field.as_ref().is_some_and(|field| field.hash == digest.hex()) {
                    *field = Some(there.into());
                }
            }
            blobs.push(Blob::of_file(there, path.as_path()));
        }
        let sent_bytes = self.noted(self.client.upload(blobs).await)?.sent_bytes;
        let is_taken = self.noted(self.client.update_action_result(&action.digest, result).await)?;
        Ok(Offered { is_taken, sent_bytes })
    }

    /// Whether the cluster executes what it is sent, or only caches.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub async fn executes(&self) -> Result<bool, RemoteError> {
        Ok(self.capabilities().await?.executes())
    }

    /// Brings every output of `result` into the store, and its messages inline.
    async fn fetch(
        &self,
        action: &RemoteAction,
        mut result: re::ActionResult,
        store: &Arc<Store>,
    ) -> Result<Fetched, RemoteError> {
        let mut downloaded = self.fetch_messages(action, &mut result).await?;
        let function = action.digest.function();
        let (mut inline, mut wanted, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for file in &mut result.output_files {
            let digest = parse(function, file.digest.as_ref())?;
            made.push(digest);
            let contents = std::mem::take(&mut file.contents);
            if contents.len() as u64 == digest.size_bytes() {
                downloaded += digest.size_bytes();
                inline.push((digest, contents.into()));
            } else {
                wanted.push(digest);
            }
        }
        let missing = self.put(store, inline, wanted).await?;
        if !missing.is_empty() {
            let fetched = self.while_alive(self.client.download_many(&missing)).await?;
            downloaded += fetched.keys().map(Digest::size_bytes).sum::<u64>();
            self.put(store, fetched.into_iter().collect(), Vec::new()).await?;
        }
        for file in &mut result.output_files {
            let digest = parse(function, file.digest.as_ref())?;
            let here = self.digests.here(&digest);
            let here =
                here.ok_or_else(|| RemoteError::Refused(format!("fetch {digest}: it did not come")))?;
            file.digest = Some(here.into());
        }
        // What reads them next need not be sent, nor asked for.
        self.client.has_made(made);
        let bytes = Bytes { uploaded: 0, downloaded, stored: downloaded };
        Ok(Fetched { result, bytes })
    }

    /// Standard output and error, inline. Returns the bytes that had to be fetched.
    async fn fetch_messages(
        &self,
        action: &RemoteAction,
        result: &mut re::ActionResult,
    ) -> Result<u64, RemoteError> {
        let mut downloaded = 0;
        for (raw, digest) in [
            (&mut result.stdout_raw, result.stdout_digest.take()),
            (&mut result.stderr_raw, result.stderr_digest.take()),
        ] {
            if raw.is_empty() && digest.is_some() {
                let digest = parse(action.digest.function(), digest.as_ref())?;
                *raw = self.while_alive(self.client.download(&digest)).await?.to_vec();
                downloaded += digest.size_bytes();
            }
        }
        Ok(downloaded)
    }

    /// Keeps what the cluster sent. Returns those of `wanted` that are not in the store.
    async fn put(
        &self,
        store: &Arc<Store>,
        sent: Vec<(Digest, bytes::Bytes)>,
        mut wanted: Vec<Digest>,
    ) -> Result<Vec<Digest>, RemoteError> {
        let (store, digests) = (Arc::clone(store), Arc::clone(&self.digests));
        let stored = blocking(move || {
            for (expected, bytes) in sent {
                if !expected.is_of(&bytes) {
                    let why = format!("fetch {expected}: the cluster sent other bytes");
                    return Err(RemoteError::Refused(why));
                }
                digests.learn(store.put(&bytes)?, expected);
            }
            wanted.retain(|digest| !digests.here(digest).is_some_and(|here| store.contains(&here)));
            Ok(wanted)
        });
        stored.await?
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

/// Names the properties that were asked for, where the cluster's answer may be about them: that no worker has them.
fn with_platform(noted: RemoteError, error: &Error, action: &RemoteAction) -> RemoteError {
    let is_about_them =
        error.code() == Code::FailedPrecondition || matches!(error.cause(), Cause::QueueTimeout);
    match noted {
        RemoteError::Refused(message) if is_about_them => {
            let command = re::Command::decode(action.command.as_slice()).unwrap_or_default();
            #[expect(
                deprecated,
                reason = "the same stand in the Action, which may be in another digest function"
            )]
            let properties = command.platform.unwrap_or_default().properties;
            let named: Vec<_> = properties.iter().map(property).collect();
            let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
            RemoteError::Refused(format!("{message}; properties asked for: {named}"))
        }
        noted => noted,
    }
}

/// A property as a user may see it; the value of one that is named like a secret is not shown.
fn property(property: &re::platform::Property) -> String {
    let name = property.name.to_ascii_lowercase();
    let is_secret =
        ["password", "secret", "token", "credential", "api-key"].iter().any(|it| name.contains(it));
    let value = if is_secret { "…" } else { &property.value };
    format!("{} = {value:?}", property.name)
}

/// Everything that the cluster needs to have before it can execute `action`.
fn blobs(action: &RemoteAction) -> Vec<Blob> {
    let mut blobs = action_blobs(action);
    blobs.extend(
        action.directories.iter().map(|(digest, bytes)| Blob { digest: *digest, content: content(bytes) }),
    );
    blobs.extend(action.files.iter().map(|(digest, path)| Blob::of_file(*digest, Arc::clone(path))));
    blobs
}

/// The messages that say what `action` is.
fn action_blobs(action: &RemoteAction) -> Vec<Blob> {
    vec![
        Blob { digest: action.digest, content: content(&action.action) },
        Blob { digest: action.command_digest, content: content(&action.command) },
    ]
}

/// The fields of a result that name blobs.
fn digest_fields(result: &mut re::ActionResult) -> impl Iterator<Item = &mut Option<re::Digest>> {
    let messages = [&mut result.stdout_digest, &mut result.stderr_digest];
    result.output_files.iter_mut().map(|file| &mut file.digest).chain(messages)
}

fn content(bytes: &[u8]) -> crate::reapi::Content {
    crate::reapi::Content::Bytes(bytes.to_vec().into())
}

/// Variables and their values.
pub type Environment = [(OsString, OsString)];

/// A client for the cluster of a configuration; nothing is sent yet. A credential helper gets `environment`.
///
/// # Errors
/// When an address or a header cannot be used as it is written.
pub fn client(remote: &Remote, environment: &Environment) -> Result<Client, Error> {
    Client::new(endpoint(remote, environment))
}

/// The cluster of `remote` for those who are not to know how it is reached. Only where they `may_update` do they put results into its
/// action cache.
///
/// # Errors
/// When it cannot be used as it is written.
pub fn relays(remote: &Remote, environment: &Environment, may_update: bool) -> Result<Relays, Error> {
    Relays::new(&endpoint(remote, environment), may_update)
}

/// `remote` for those who have the cluster's services at these addresses: how it is reached otherwise, and who reaches it, is left out.
pub fn relayed(remote: &Remote, addresses: RelayedAddresses) -> Remote {
    Remote {
        engine_address: addresses.engine,
        cas_address: addresses.cas,
        action_cache_address: addresses.action_cache,
        instance_name: remote.instance_name.clone(),
        digest_function: remote.digest_function,
        compression: remote.compression,
        retries: remote.retries,
        timeout: remote.timeout,
        ..Remote::default()
    }
}

fn endpoint(remote: &Remote, environment: &Environment) -> Endpoint {
    let Remote { address, engine_address, cas_address, action_cache_address, .. } = remote.clone();
    let (headers, credentials, tls) = access(remote.access(), environment);
    Endpoint {
        address,
        engine_address,
        cas_address,
        action_cache_address,
        instance_name: remote.instance_name.clone(),
        timeout: remote.timeout,
        retries: remote.retries,
        digest_function: chosen(remote.digest_function),
        compression: remote.compression == Compression::Auto,
        tls,
        headers,
        credentials,
    }
}

/// What an [`Endpoint`] is told of who calls. A credential helper gets `environment`.
pub(super) fn access(access: Access<'_>, environment: &Environment) -> (Headers, CredentialSource, Tls) {
    let headers = access.headers.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
    let credentials = match (access.credential_helper, access.token_file) {
        (Some(helper), _) => {
            CredentialSource::Helper { program: helper.to_owned(), environment: environment.to_vec() }
        }
        (None, Some(file)) => CredentialSource::TokenFile(file.to_owned()),
        (None, None) => CredentialSource::None,
    };
    let config::Tls { ca_certs, client_cert, client_key } = access.tls.clone();
    (Headers(headers.collect()), credentials, Tls { ca_certs, client_cert, client_key })
}

/// The function that a user chose; none: the cluster is to say.
fn chosen(choice: DigestChoice) -> Option<DigestFunction> {
    match choice {
        DigestChoice::Auto => None,
        DigestChoice::Sha256 => Some(DigestFunction::Sha256),
        DigestChoice::Blake3 => Some(DigestFunction::Blake3),
        DigestChoice::Sha1 => Some(DigestFunction::Sha1),
    }
}

fn parse(function: DigestFunction, digest: Option<&re::Digest>) -> Result<Digest, RemoteError> {
    let digest =
        digest.ok_or_else(|| RemoteError::Refused("read the result: a file has no digest".to_owned()))?;
    function.read(digest).map_err(|error| RemoteError::Refused(format!("read the result: {error}")))
}

impl From<DecodeError> for RemoteError {
    fn from(error: DecodeError) -> RemoteError {
        RemoteError::Refused(format!("translate the action: {error}"))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RemoteError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RemoteError::Refused(error.to_string()))
}

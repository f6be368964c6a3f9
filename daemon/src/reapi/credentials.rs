//! The headers that say who calls: fixed ones, a bearer token from a file, or what a credential helper answers.
//! Knows nothing of the calls.
//!
//! The helper's protocol is Bazel's: `helper get` reads `{"uri": "https://host"}` and answers with
//! `{"headers": {"Authorization": ["Bearer …"]}, "expires": "2030-01-01T00:00:00Z"}`, where `expires` may be missing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use prost_types::Timestamp;
use serde::Deserialize;
use tonic::Code;
use tonic::Request;
use tonic::Status;
use tonic::metadata::Ascii;
use tonic::metadata::MetadataKey;
use tonic::metadata::MetadataMap;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::process::Program;
use crate::reapi::dial::authority;
use crate::reapi::endpoint::Address;
use crate::reapi::endpoint::CredentialSource;
use crate::reapi::endpoint::Endpoint;
use crate::reapi::endpoint::Target;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::single_flight::SingleFlight;

/// How long a helper may take (Bazel's `--credential_helper_timeout`).
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long its answer is believed that names no end (Bazel's `--credential_helper_cache_duration`).
const HELPER_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// How long before its end an answer is replaced.
const EARLY: Duration = Duration::from_secs(10);
/// For how long a token is believed that was read from a file.
const FILE_LIFETIME: Duration = Duration::from_secs(60);
/// An answer of a helper at most, in bytes.
const MOST_ANSWER: usize = 1 << 20;

/// What calls go through: a channel that adds headers.
pub type Wire = InterceptedService<Channel, AddHeaders>;

/// Adds headers to every call.
#[derive(Clone)]
pub struct AddHeaders(Arc<MetadataMap>);

impl Interceptor for AddHeaders {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for entry in self.0.iter() {
            if let tonic::metadata::KeyAndValueRef::Ascii(name, value) = entry {
                request.metadata_mut().append(name, value.clone());
            }
        }
        Ok(request)
    }
}

/// The headers for one address.
pub(super) struct Credentials {
    fixed: MetadataMap,
    source: CredentialSource,
    /// What a helper is told.
    uri: String,
    current: Mutex<Option<Current>>,
    asking: Arc<SingleFlight<Arc<MetadataMap>>>,
}

#[derive(Clone)]
struct Current {
    headers: Arc<MetadataMap>,
    until: Instant,
}

/// What a helper answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
    expires: Option<String>,
}

impl Credentials {
    /// The headers of `endpoint` for calls to `address`, which is one of its own.
    ///
    /// # Errors
    /// `InvalidArgument` for a header that cannot be sent.
    pub(super) fn new(endpoint: &Endpoint, address: &Address) -> Result<Arc<Credentials>, Error> {
        let mut fixed = MetadataMap::new();
        for (name, value) in &endpoint.headers.0 {
            let refused =
                |why| Error::status(Code::InvalidArgument, format!("use the header {name:?}: {why}"));
            add(&mut fixed, name, value).map_err(refused)?;
        }
        let uri = match address.target()? {
            Target::Tcp { host, port: 443, .. } => {
                let with_port = authority(&host, 443);
                format!("https://{}", with_port.trim_end_matches(":443"))
            }
            Target::Tcp { host, port, .. } => format!("https://{}", authority(&host, port)),
            Target::Unix(_) => "https://localhost".to_owned(),
        };
        Ok(Arc::new(Credentials {
            fixed,
            source: endpoint.credentials.clone(),
            uri,
            current: Mutex::new(None),
            asking: Arc::default(),
        }))
    }

    /// `channel`, with the headers of this moment.
    ///
    /// # Errors
    /// `Unauthenticated` when there are none to be had; the message says from where.
    pub(super) async fn wire(self: &Arc<Self>, channel: Channel) -> Result<Wire, Error> {
        Ok(with_headers(channel, self.headers().await?))
    }

    /// The server did not know who called: what is known is asked for anew, if it can be. False if it cannot.
    pub(super) fn refused(&self) -> bool {
        match self.source {
            CredentialSource::None => false,
            CredentialSource::TokenFile(_) | CredentialSource::Helper { .. } => {
                lock(&self.current).take().is_some()
            }
        }
    }

    /// Whether there are other headers than these, which the server has refused. What is known is asked for anew, if these are it.
    pub(super) async fn are_others(self: &Arc<Self>, refused: &Arc<MetadataMap>) -> bool {
        {
            let mut current = lock(&self.current);
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(&current.headers, refused)) {
                *current = None;
            }
        }
        let others = self.headers().await;
        others.is_ok_and(|others| {
            others.as_ref().clone().into_headers() != refused.as_ref().clone().into_headers()
        })
    }

    /// The headers of this moment.
    ///
    /// # Errors
    /// `Unauthenticated` when there are none to be had; the message says from where.
    pub(super) async fn headers(self: &Arc<Self>) -> Result<Arc<MetadataMap>, Error> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let credentials = Arc::clone(self);
        self.asking.run(async move { credentials.renew().await }).await
    }

    fn current(&self) -> Option<Arc<MetadataMap>> {
        let current = lock(&self.current);
        current.as_ref().filter(|current| current.until > Instant::now()).map(|it| Arc::clone(&it.headers))
    }

    async fn renew(&self) -> Result<Arc<MetadataMap>, Error> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let mut headers = self.fixed.clone();
        let lifetime = match &self.source {
            CredentialSource::None => Duration::MAX,
            CredentialSource::TokenFile(path) => {
                let unusable =
                    |why: &str| unauthenticated(format!("read the token in {}: {why}", path.display()));
                let token = tokio::fs::read_to_string(path).await;
                let token = token.map_err(|error| unusable(&error.to_string()))?;
                let bearer = format!("Bearer {}", token.trim());
                headers.remove("authorization");
                add(&mut headers, "authorization", &bearer).map_err(unusable)?;
                FILE_LIFETIME
            }
            CredentialSource::Helper { program, environment } => {
                self.ask(program, environment, &mut headers).await?
            }
        };
        let headers = Arc::new(headers);
        let now = Instant::now();
        // A time without end is an age here.
        let until = now.checked_add(lifetime).unwrap_or(now + Duration::from_secs(u64::from(u32::MAX)));
        *lock(&self.current) = Some(Current { headers: Arc::clone(&headers), until });
        Ok(headers)
    }

    /// Adds what the helper answers, and says for how long that is good.
    async fn ask(
        &self,
        program: &Path,
        environment: &[(OsString, OsString)],
        headers: &mut MetadataMap,
    ) -> Result<Duration, Error> {
        let failed = |why: &dyn std::fmt::Display| {
            unauthenticated(format!("ask the credential helper {}: {why}", program.display()))
        };
        let question = serde_json::json!({ "uri": self.uri }).to_string();
        let env = environment.to_vec();
        let helper = Program { path: program, args: vec!["get".into()], env, cwd: Path::new("/") };
        let output =
            helper.answer(question.as_bytes(), HELPER_TIMEOUT).await.map_err(|error| failed(&error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().filter(|c| !c.is_control()).take(500).collect();
            return Err(failed(&format!("{}: {said}", output.status)));
        }
        if output.stdout.len() > MOST_ANSWER {
            return Err(failed(&"its answer is too long"));
        }
        // What it printed may hold secrets: no part of it is shown.
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|error| {
            failed(&format!("its answer is no JSON of the protocol (line {})", error.line()))
        })?;
        for (name, values) in &answer.headers {
            headers.remove(name.to_ascii_lowercase());
            for value in values {
                add(headers, name, value).map_err(|why| failed(&format!("header {name:?}: {why}")))?;
            }
        }
        let Some(expires) = answer.expires else { return Ok(HELPER_LIFETIME) };
        let expires: Timestamp =
            expires.parse().map_err(|_| failed(&format!("{expires:?} is no time as of RFC 3339")))?;
        let expires = SystemTime::try_from(expires).map_err(|error| failed(&error))?;
        let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
        Ok(left.saturating_sub(EARLY))
    }
}

/// `channel`, with these headers.
pub(super) fn with_headers(channel: Channel, headers: Arc<MetadataMap>) -> Wire {
    InterceptedService::new(channel, AddHeaders(headers))
}

/// Adds a header, or says why it cannot be sent.
fn add(headers: &mut MetadataMap, name: &str, value: &str) -> Result<(), &'static str> {
    let name = name.to_ascii_lowercase();
    if name.ends_with("-bin") {
        return Err("binary headers cannot be set");
    }
    let name = MetadataKey::<Ascii>::from_bytes(name.as_bytes()).map_err(|_| "no header has such a name")?;
    let mut value = MetadataValue::<Ascii>::try_from(value).map_err(|_| "its value cannot be sent")?;
    value.set_sensitive(true);
    headers.append(name, value);
    Ok(())
}

fn unauthenticated(message: String) -> Error {
    Error::status(Code::Unauthenticated, message)
}

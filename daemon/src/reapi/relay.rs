//! A cluster behind Unix sockets, for those who may use it and are not to learn how: each socket stands for one of its addresses,
//! and calls of REAPI's services are passed on from there as they are, with the headers that say who calls.
//! Knows nothing of what is called, but for the one call that changes what others are told.
//!
//! Whoever can open a socket can do what the credentials allow, by these services. He sees no secret, and reaches nothing else.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::header::HeaderMap;
use hyper::header::HeaderName;
use hyper::header::TE;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::ConnectError;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

use crate::reapi::connection::Connections;
use crate::reapi::connection::Lease;
use crate::reapi::connection::has_source;
use crate::reapi::credentials::Credentials;
use crate::reapi::credentials::with_headers;
use crate::reapi::dial::CONNECTION_WINDOW;
use crate::reapi::dial::STREAM_WINDOW;
use crate::reapi::endpoint::Address;
use crate::reapi::endpoint::Endpoint;
use crate::reapi::error::Error;

/// What may be called, and nothing that a server could take for something else.
const CALLS: &[&str] = &[
    "/build.bazel.remote.execution.v2.ActionCache/GetActionResult",
    UPDATE,
    "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    "/build.bazel.remote.execution.v2.ContentAddressableStorage/GetTree",
    "/build.bazel.remote.execution.v2.Execution/Execute",
    "/build.bazel.remote.execution.v2.Execution/WaitExecution",
    "/google.bytestream.ByteStream/QueryWriteStatus",
    "/google.bytestream.ByteStream/Read",
    "/google.bytestream.ByteStream/Write",
];

/// The call that changes what others are told.
const UPDATE: &str = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";

/// How the headers begin that are passed on beside those that every call has. What says who calls is not among them.
const PASSED_HEADERS: &[&str] = &["grpc-", "build.bazel.remote.execution.v2."];

/// Calls at a time on one connection, which is ours and needs no bound but this.
const MOST_CALLS: u32 = 10_000;

/// After the system refused a connection, it is left alone for so long.
const PAUSE: Duration = Duration::from_millis(100);

/// The addresses of one cluster, each behind a socket of its own.
#[derive(Clone)]
pub struct Relays {
    relays: Vec<Relay>,
    /// Which of them each service has; the execution service may be nowhere.
    engine: Option<usize>,
    cas: usize,
    action_cache: usize,
}

/// Where services are, as `unix:/path`; all are empty where there is no cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayedAddresses {
    /// Of the execution service; empty if there is none.
    pub engine: String,
    /// Of the content-addressable storage.
    pub cas: String,
    /// Of the action cache.
    pub action_cache: String,
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.relays.iter().map(|relay| &relay.address.text)).finish()
    }
}

#[derive(Clone)]
struct Relay {
    address: Address,
    connections: Arc<Connections>,
    credentials: Arc<Credentials>,
    may_update: bool,
}

impl Relays {
    /// The cluster of `endpoint`; nothing is sent yet. Only where they `may_update` do callers put results into the action cache.
    ///
    /// # Errors
    /// `InvalidArgument` when the endpoint cannot be used as it is written.
    pub fn new(endpoint: &Endpoint, may_update: bool) -> Result<Relays, Error> {
        endpoint.check()?;
        let mut relays: Vec<Relay> = Vec::new();
        let mut number = |address: Address| -> Result<usize, Error> {
            if let Some(known) = relays.iter().position(|relay| relay.address == address) {
                return Ok(known);
            }
            let connections = Connections::new(&address, endpoint.timeout)?;
            let credentials = Credentials::new(endpoint, &address)?;
            relays.push(Relay { address, connections, credentials, may_update });
            Ok(relays.len() - 1)
        };
        let cas = number(endpoint.cas())?;
        let action_cache = number(endpoint.action_cache())?;
        let engine = endpoint.engine().map(number).transpose()?;
        Ok(Relays { relays, engine, cas, action_cache })
    }

    /// The services, for whoever has the sockets in `directory`.
    pub fn seen_in(&self, directory: &Path) -> RelayedAddresses {
        let seen = |number| format!("unix:{}", socket(directory, number).display());
        RelayedAddresses {
            engine: self.engine.map(seen).unwrap_or_default(),
            cas: seen(self.cas),
            action_cache: seen(self.action_cache),
        }
    }

    /// Makes the sockets in `directory`, for this user alone, and answers there until the result is dropped.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn listen(&self, directory: &Path) -> io::Result<JoinSet<()>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut serving = JoinSet::new();
        for (number, relay) in self.relays.iter().enumerate() {
            let listener = farcc::places::listen(&socket(directory, number))?;
            listener.set_nonblocking(true)?;
            serving.spawn(relay.clone().serve(UnixListener::from_std(listener)?));
        }
        Ok(serving)
    }
}

fn socket(directory: &Path, number: usize) -> PathBuf {
    directory.join(number.to_string())
}

impl Relay {
    async fn serve(self, listener: UnixListener) {
        // Dropped, and so ended, with this.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("accept a connection to the cluster: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let relay = self.clone();
            connections.spawn(async move {
                let service = service_fn(|request| {
                    let relay = relay.clone();
                    async move {
                        let answer = relay.pass_on(request).await;
                        Ok::<_, Infallible>(answer.unwrap_or_else(|status| status.into_http()))
                    }
                });
                let mut http = http2::Builder::new(TokioExecutor::new());
                http.initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .max_concurrent_streams(MOST_CALLS);
                if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!("a connection to the cluster ended: {error}");
                }
            });
        }
    }

    /// Makes the call there, and answers as it is answered.
    async fn pass_on(&self, request: Request<Incoming>) -> Result<Response<Body>, Status> {
        let path = request.uri().path();
        let is_plain = request.method() == Method::POST && request.uri().query().is_none();
        if !is_plain || !CALLS.contains(&path) {
            return Err(Status::unimplemented("no call to a cluster"));
        }
        if path == UPDATE && !self.may_update {
            return Err(Status::permission_denied("[exec] upload_local_results is false on the twin"));
        }
        let (mut parts, body) = request.into_parts();
        parts.headers = passed(&parts.headers);
        let request = Request::from_parts(parts, Body::new(body));
        let lease = self.connections.lease().await.map_err(|error| {
            tracing::warn!("{error}");
            error.to_status()
        })?;
        let headers = self.credentials.headers().await.map_err(|error| {
            // What a helper says may hold secrets.
            tracing::warn!("the credentials for {}: {error}", self.address.text);
            Status::unauthenticated("the twin has no credentials for the cluster: its log says why")
        })?;
        let mut wire = with_headers(lease.channel.clone(), Arc::clone(&headers));
        let answer = match poll_fn(|cx| wire.poll_ready(cx)).await {
            Ok(()) => wire.call(request).await,
            Err(error) => Err(error),
        };
        match answer.map(|response| response.map(Body::new)) {
            Ok(response) => {
                // A token that has run out before its time: the caller, who still has what he wants to send, is to come again.
                let is_refused = is_refused(&response);
                if is_refused && self.credentials.are_others(&headers).await {
                    return Err(Status::unavailable(format!(
                        "{} wants newer credentials",
                        self.address.text
                    )));
                }
                Ok(response.map(|body| held(body, lease)))
            }
            Err(error) => {
                if has_source::<ConnectError>(&error) {
                    self.connections.lost(lease.number);
                }
                Err(Status::from_error(Box::new(error)))
            }
        }
    }
}

/// Whether the server did not know who called.
fn is_refused(response: &Response<Body>) -> bool {
    let status = Status::from_header_map(response.headers());
    status.is_some_and(|status| status.code() == Code::Unauthenticated)
}

/// What of a call's headers is passed on.
fn passed(headers: &HeaderMap) -> HeaderMap {
    let is_passed = |name: &HeaderName| {
        [&CONTENT_TYPE, &TE].contains(&name)
            || PASSED_HEADERS.iter().any(|start| name.as_str().starts_with(start))
    };
    headers
        .iter()
        .filter(|(name, _)| is_passed(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// `body`, which keeps its place on the connection until it has ended.
fn held(body: Body, lease: Lease) -> Body {
    Body::new(body.map_frame(move |frame| {
        let _ = &lease;
        frame
    }))
}

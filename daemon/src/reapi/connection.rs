//! One HTTP/2 connection to an endpoint: dialled at the first use, dialled anew after it broke, by one caller
//! for all who wait.
//! Knows nothing of the services that are called over it.
//!
//! Why tonic does not reconnect by itself. Its lazy channel gives a failed connection attempt to one waiting
//! request and dials again for the next, so a hundred commands would wait a hundred connect timeouts in a row.
//! Here a channel lives as long as its one connection; when that is gone, every request on it fails at once
//! and asks for a new channel, and one dial answers all of them.

use std::error::Error as StdError;
use std::future::Ready;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::ConnectError;
use tonic::Status;
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::transport::Uri;

use crate::reapi::endpoint::Endpoint;
use crate::reapi::endpoint::Target;
use crate::reapi::error::Cause;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::single_flight::SingleFlight;

/// How long a dial may take, unless the endpoint's timeout is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the peer of an unanswered call is asked whether it is still there. Never when idle: grpc-go ends
/// connections that ping too often (grpc-go #5161).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Flow-control windows in bytes: HTTP/2's 64 KiB would bound a transfer to 64 KiB per round trip.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A connection that is made when it is needed.
pub(super) struct Connection {
    target: Target,
    address: String,
    connect_timeout: Duration,
    state: Mutex<State>,
    dialling: Arc<SingleFlight<Live>>,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Counts connections, so that a late report about an old one does not end its successor.
    made: u64,
}

/// A connection that was made and not yet found broken.
#[derive(Clone)]
pub(super) struct Live {
    /// What calls go through.
    pub(super) channel: Channel,
    /// The number of this connection, from 1.
    pub(super) number: u64,
}

impl Connection {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Arc<Connection>, Error> {
        Ok(Arc::new(Connection {
            target: endpoint.target()?,
            address: endpoint.address.clone(),
            connect_timeout: CONNECT_TIMEOUT.min(endpoint.timeout),
            state: Mutex::default(),
            dialling: Arc::default(),
        }))
    }

    /// The live connection, or a new one.
    pub(super) async fn live(self: &Arc<Self>) -> Result<Live, Error> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let connection = Arc::clone(self);
        self.dialling.run(async move { connection.dial().await }).await
    }

    /// The live connection, if there is one.
    pub(super) fn current(&self) -> Option<Live> {
        lock(&self.state).live.clone()
    }

    /// Reports that connection `number` is gone.
    pub(super) fn lost(&self, number: u64) {
        let mut state = lock(&self.state);
        if state.live.as_ref().is_some_and(|live| live.number == number) {
            state.live = None;
        }
    }

    async fn dial(&self) -> Result<Live, Error> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let channel = match tokio::time::timeout(self.connect_timeout, self.open()).await {
            Ok(opened) => opened.map_err(|error| self.unreachable(&innermost(&*error)))?,
            Err(_) => {
                return Err(self.unreachable(&format!("no answer within {:?}", self.connect_timeout)));
            }
        };
        let mut state = lock(&self.state);
        state.made += 1;
        let live = Live { channel, number: state.made };
        state.live = Some(live.clone());
        Ok(live)
    }

    async fn open(&self) -> Result<Channel, Box<dyn StdError + Send + Sync>> {
        match &self.target {
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                let authority = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                over(stream, format!("http://{authority}:{port}")).await
            }
            Target::Unix(path) => over(UnixStream::connect(path).await?, "http://localhost".to_owned()).await,
        }
    }

    fn unreachable(&self, why: &str) -> Error {
        let message = format!("connect to {}: {why}", self.address);
        Error::new(Code::Unavailable, Cause::Unreachable, message)
    }
}

/// Whether `status` says that the request was not sent, because its connection is gone.
pub(super) fn is_connection_lost(status: &Status) -> bool {
    has_source::<ConnectError>(status)
}

/// Whether the error or one of its sources is an `E`.
pub(super) fn has_source<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// What the operating system said, without the layers around it.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A channel over one stream that is connected already.
async fn over<IO>(stream: IO, uri: String) -> Result<Channel, Box<dyn StdError + Send + Sync>>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let endpoint = tonic::transport::Endpoint::from_shared(uri)?
        .user_agent(concat!("farcc/", env!("CARGO_PKG_VERSION")))?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(endpoint.connect_with_connector(OneStream(Some(stream))).await?)
}

/// A connector that yields its stream once and fails from then on.
struct OneStream<IO>(Option<IO>);

impl<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static> Service<Uri> for OneStream<IO> {
    type Response = TokioIo<IO>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<IO>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::Error::other("the connection is gone")))
    }
}

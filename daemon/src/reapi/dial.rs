//! Opens one connection to an address: TCP with or without TLS, or a Unix socket.
//! Knows nothing of when one is needed.

use std::error::Error as StdError;
use std::future::Ready;
use std::future::ready;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::UnixStream;
use tonic::Code;
use tonic::codegen::Service;
use tonic::transport::Certificate;
use tonic::transport::Channel;
use tonic::transport::ClientTlsConfig;
use tonic::transport::Identity;
use tonic::transport::Uri;

use crate::reapi::connection::unreachable;
use crate::reapi::endpoint::Address;
use crate::reapi::endpoint::Target;
use crate::reapi::endpoint::Tls;
use crate::reapi::error::Error;
use crate::reapi::error::innermost;

/// How long a dial may take, unless the endpoint's timeout is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the peer of an unanswered call is asked whether it is still there. Never when idle: grpc-go ends
/// connections that ping too often (grpc-go #5161).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Headers of an answer in bytes, trailers included: a status that lists missing inputs has its details there.
const MOST_HEADER_BYTES: u32 = 4 << 20;
/// Flow-control windows in bytes: HTTP/2's 64 KiB would bound a transfer to 64 KiB per round trip.
pub(super) const STREAM_WINDOW: u32 = 2 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;

/// Knows the way to one address.
pub(super) struct Dialler {
    target: Target,
    address: String,
    tls: Tls,
}

type Cause = Box<dyn StdError + Send + Sync>;

impl Dialler {
    pub(super) fn new(address: &Address) -> Result<Dialler, Error> {
        Ok(Dialler { target: address.target()?, address: address.text.clone(), tls: address.tls.clone() })
    }

    /// How long a dial may take.
    pub(super) fn patience(&self) -> Duration {
        CONNECT_TIMEOUT
    }

    /// A channel over a connection of its own.
    ///
    /// # Errors
    /// Unreachable, with what the system or TLS said; `InvalidArgument` when a certificate or key cannot be used.
    pub(super) async fn dial(&self) -> Result<Channel, Error> {
        let failed = |error: Cause| self.unreachable(&innermost(&*error));
        match &self.target {
            Target::Tcp { host, port, tls } => {
                let tls = if *tls { Some(self.tls_config(host).await?) } else { None };
                self.over_tcp(host, *port, tls).await.map_err(failed)
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| failed(error.into()))?;
                over(stream, "http://localhost".to_owned(), None).await.map_err(failed)
            }
        }
    }

    async fn over_tcp(&self, host: &str, port: u16, tls: Option<ClientTlsConfig>) -> Result<Channel, Cause> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        over(stream, format!("{scheme}://{}", authority(host, port)), tls).await
    }

    /// Read for each connection, so that renewed certificates are used from then on.
    async fn tls_config(&self, host: &str) -> Result<ClientTlsConfig, Error> {
        let (tls, host) = (self.tls.clone(), host.to_owned());
        let read = tokio::task::spawn_blocking(move || tls_config(&tls, &host)).await;
        read.map_err(|error| Error::status(Code::Internal, format!("read certificates: {error}")))?
    }

    /// The error when no connection can be made.
    pub(super) fn unreachable(&self, why: &str) -> Error {
        unreachable(&self.address, why)
    }
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn tls_config(tls: &Tls, host: &str) -> Result<ClientTlsConfig, Error> {
    let mut config = ClientTlsConfig::new().domain_name(host);
    config = match &tls.ca_certs {
        Some(path) => config.ca_certificate(Certificate::from_pem(read_pem(path, "CERTIFICATE")?)),
        None => config.with_native_roots(),
    };
    if let Some(certificate) = &tls.client_cert {
        // One file may hold both (Buck2's `tls_client_cert`).
        let key = tls.client_key.as_ref().unwrap_or(certificate);
        config = config.identity(Identity::from_pem(
            read_pem(certificate, "CERTIFICATE")?,
            read_pem(key, "PRIVATE KEY")?,
        ));
    }
    Ok(config)
}

/// The file's bytes, if they hold what is wanted: what the TLS library says of an empty file is no help.
fn read_pem(path: &PathBuf, wanted: &str) -> Result<Vec<u8>, Error> {
    let invalid = |why: &dyn std::fmt::Display| {
        Error::status(Code::InvalidArgument, format!("use {} for TLS: {why}", Path::display(path)))
    };
    let pem = std::fs::read(path).map_err(|error| invalid(&error))?;
    match String::from_utf8_lossy(&pem).contains(&format!("{wanted}-----")) {
        true => Ok(pem),
        false => Err(invalid(&format!("it holds no {wanted} in PEM format"))),
    }
}

/// A channel over one stream that is connected already.
async fn over<IO>(stream: IO, uri: String, tls: Option<ClientTlsConfig>) -> Result<Channel, Cause>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut endpoint = tonic::transport::Endpoint::from_shared(uri)?
        .user_agent(concat!("farcc/", env!("CARGO_PKG_VERSION")))?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(false)
        .http2_max_header_list_size(MOST_HEADER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls)?;
    }
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

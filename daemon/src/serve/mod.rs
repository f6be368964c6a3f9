//! A small REAPI server: content-addressable storage, action cache and sandboxed execution over one store, which may be
//! the front of a bucket.
//! Knows nothing of compilers, nor of other servers: what it does not hold, it does not have.
//!
//! Every instance name is accepted; action results are kept apart by it, blobs are not. Digests are SHA-256, BLAKE3 or
//! SHA-1, as each call says; all digests of an action are of one function.
//! `status.json` in its directory shows its counters, see [`Counters`].

mod action_cache;
mod bucket;
mod byte_stream;
mod capabilities;
mod cas;
mod counters;
mod execution;
mod messages;
mod operations;
mod resource_name;
mod results;
mod s3;
mod storage;
mod upload;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bazel_remote_apis::build::bazel::remote::execution::v2::action_cache_server::ActionCacheServer;
use bazel_remote_apis::build::bazel::remote::execution::v2::capabilities_server::CapabilitiesServer;
use bazel_remote_apis::build::bazel::remote::execution::v2::content_addressable_storage_server::ContentAddressableStorageServer;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_server::ExecutionServer;
use bazel_remote_apis::google::bytestream::byte_stream_server::ByteStreamServer;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::access::AccessOptions;
use crate::digest::Digest;
use crate::executor::sandbox::Sandbox;
use crate::executor::sandbox::SandboxOptions;
use crate::store::Store;

pub use self::counters::Counters;
pub use self::s3::S3Options;

use self::bucket::Bucket;
use self::cas::Cas;
use self::operations::Operations;

/// How a server works. The address is the listener's.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Holds the store (`store/`), running actions (`scratch/`) and `status.json`.
    pub directory: PathBuf,
    /// How many actions run at the same time.
    pub jobs: usize,
    /// What the store is kept below, in bytes.
    pub max_size_bytes: u64,
    /// The time limit of an action that sets none.
    pub default_timeout: Duration,
    /// The longest time limit that an action may set; a longer one is refused.
    pub max_timeout: Duration,
    /// Who may call.
    pub access: AccessOptions,
    /// The bucket in which blobs and results are kept, with the store on disk in front of it.
    pub s3: Option<S3Options>,
}

impl ServeOptions {
    /// The usual limits: 10 minutes, at most an hour, and 20 GiB. Whoever reaches the listener may call.
    pub fn new(directory: PathBuf, jobs: usize) -> ServeOptions {
        ServeOptions {
            directory,
            jobs,
            max_size_bytes: 20 << 30,
            default_timeout: Duration::from_secs(10 * 60),
            max_timeout: Duration::from_secs(60 * 60),
            access: AccessOptions::default(),
            s3: None,
        }
    }
}

/// What all services share. Cheap to clone.
#[derive(Clone)]
struct Served {
    cas: Cas,
    /// A larger blob is refused.
    max_blob_bytes: u64,
    sandbox: Arc<Sandbox>,
    operations: Arc<Operations>,
    counters: Arc<Counters>,
}

/// How often the store's size is looked at.
const TRIM_INTERVAL: Duration = Duration::from_secs(30);

/// How long open calls may take to end after the shutdown began: an execution's stream has no end of its own.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// After so long a silence a client is asked whether it is still there, and given up after gRPC's usual 20 seconds.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// However small the store is to be, it takes blobs of this size.
const MIN_BLOB_BYTES: u64 = 256 << 20;

/// Larger than any message of a client that heeds the limit on batches.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Serves on `listener` until `shutdown` is ready.
///
/// # Errors
/// When others could call who must not ([`AccessOptions::check`]), a file of [`AccessOptions`] or the directory cannot be
/// used, bubblewrap is missing or may not work, or the listener fails.
pub async fn run(
    listener: TcpListener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("look at the listener's address")?;
    options.access.check(address)?;
    let access = options.access.load()?;
    let store =
        Store::open(&options.directory.join("store"), options.max_size_bytes)?.with_namespace("serve");
    let sandbox_options = SandboxOptions {
        scratch: options.directory.join("scratch"),
        jobs: options.jobs,
        default_timeout: options.default_timeout,
        max_timeout: options.max_timeout,
    };
    let sandbox = Sandbox::new(store.clone(), sandbox_options).await?;
    let counters = Arc::new(Counters::new(address));
    let mut bucket = None;
    if let Some(s3) = &options.s3 {
        let (objects, prefix) = s3.connect().await?;
        bucket = Some(Bucket::new(objects, prefix, Arc::clone(&counters)));
    }
    let status_file = options.directory.join("status.json");
    counters.write(&status_file).context("write status.json")?;
    let operations = Arc::new(Operations::default());
    let served = Served {
        cas: Cas::new(store.clone(), bucket),
        // What the store could not keep, it need not take.
        max_blob_bytes: options.max_size_bytes.max(MIN_BLOB_BYTES),
        sandbox,
        operations,
        counters: Arc::clone(&counters),
    };

    // Both end with this function.
    let mut background = tokio::task::JoinSet::new();
    background.spawn(Arc::clone(&counters).keep_written(status_file.clone()));
    background.spawn(keep_trimmed(store));

    tracing::info!("serving REAPI on {address}, {} actions at a time", options.jobs);
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let stopping = async move {
        // An error means that the sender is gone, which is a shutdown as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let mut server = Server::builder();
    if let Some(tls) = &access.tls {
        server = server.tls_config(tls.clone()).context("set TLS up")?;
    }
    let server = server
        .layer(InterceptorLayer::new(access.gate()))
        // A client whose machine is gone would otherwise be waited for, and its executions run on.
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        // One client's connection carries all its executions, each a stream that stays open.
        .max_concurrent_streams(10_000)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .add_service(CapabilitiesServer::new(served.clone()))
        .add_service(
            ContentAddressableStorageServer::new(served.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(ByteStreamServer::new(served.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(ActionCacheServer::new(served.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(ExecutionServer::new(served.clone()))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stopping);
    tokio::select! {
        ended = server => ended.context("serve REAPI")?,
        () = async {
            shutdown.await;
            stop.send_replace(true);
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        } => {}
    }
    served.operations.cancel_all();
    // Killed actions still have their scratch directories to remove; one that does not end is left to the next
    // start.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, served.sandbox.idle()).await;
    counters.write(&status_file).context("write status.json")
}

impl Served {
    /// Refuses blobs that are larger than the capabilities say (REAPI, `max_cas_blob_size_bytes`).
    fn check_size(&self, digest: &Digest) -> Result<(), Status> {
        if digest.size_bytes() > self.max_blob_bytes {
            let limit = self.max_blob_bytes;
            return Err(Status::invalid_argument(format!("blob {digest} is larger than {limit} bytes")));
        }
        Ok(())
    }
}

async fn keep_trimmed(store: Store) {
    let mut interval = tokio::time::interval(TRIM_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if !store.wants_trim() {
            continue;
        }
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.trim()).await {
            Ok(Ok(trimmed)) if trimmed.entries > 0 => {
                tracing::info!("trimmed {} entries, {} bytes", trimmed.entries, trimmed.size_bytes);
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!("failed to trim the store: {error}"),
        }
    }
}

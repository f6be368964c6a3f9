//! The twin: the machine on which the commands of a build run that are neither compiles nor links. It keeps mirrors of clients'
//! workspaces, runs commands in them, and tells what each of these, and nobody else, has changed (`farcc.twin.v1`).
//! Knows nothing of compilers, nor of who routes which command here.
//!
//! # How changes are told apart
//! A command sees the mirror through an overlay file system of its own (the kernel's overlayfs): what its processes
//! write, delete and rename, by whatever call, lies in the overlay's upper directory, and nothing else does. So no event can be
//! missed or charged to a neighbour, files half-written by others are never seen, and to drop the changes of an aborted command
//! is to remove a directory, even after a crash. When the last of its processes has ended, what it has made is renamed into the
//! mirror. Overlays are mounted over the live mirror; those that are still mounted then are told to forget the names that they
//! have cached.
//!
//! # What is lost when
//! A session is one call of Sync. Whatever goes wrong with it, its end is the answer: commands are ended, what they have changed
//! is dropped, and the next session begins with the client's whole tree, of which only what the mirror has not travels. So
//! nothing has to be written down to survive a crash but the mirror itself.
//!
//! The modules stand in reading order.

mod overlay;
mod upper;

mod commit;
mod contents;
mod held;
mod touched;
mod whole;

mod mirror;

mod cell;
mod etc;
pub mod init;

mod cluster;
mod described;
mod standard;

mod build;
mod run;
mod service;
mod workspace;

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use farcc_proto::twin as messages;
use farcc_proto::twin::twin_server::TwinServer;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::access::AccessOptions;
use crate::digest::DigestFunction;
use crate::store::Store;

pub use build::BuildOptions;
pub use build::CLUSTER;
pub use cell::Bind;
pub use cell::Cell;
pub use cell::Cells;
pub use cell::INIT;
pub use cell::Plan;
pub use cluster::Cluster;
pub use commit::Commit;
pub use commit::Ground;
pub use contents::FromCommand;
pub use held::Held;
pub use init::Report;
pub use init::Usage;
pub use mirror::Committed;
pub use mirror::Left;
pub use mirror::Mirror;
pub use mirror::MirrorError;
pub use mirror::View;
pub use overlay::Overlay;
pub use overlay::Upper;
pub use run::Bounds;
pub use touched::By;
pub use touched::Generation;
pub use touched::Touch;
pub use touched::Touched;
pub use upper::UpperEntry;
pub use upper::UpperNode;
pub use workspace::Card;
pub use workspace::Workspace;

use workspace::mirrors;

/// How a twin works. The address is the listener's.
#[derive(Debug, Clone)]
pub struct TwinOptions {
    /// Holds the store (`store/`) and the mirrors (`workspaces/`); on no overlay file system, and best on one with reflinks.
    pub directory: PathBuf,
    /// How many commands run at the same time.
    pub jobs: usize,
    /// What store and mirrors that nobody uses are kept below, in bytes, together.
    pub max_size_bytes: u64,
    /// How long a mirror is kept that nobody uses.
    pub max_idle: Duration,
    /// How much a command's processes may use.
    pub usage: Usage,
    /// What `/tmp` of a command may hold, in bytes.
    pub temporary_bytes: u64,
    /// What bounds a command besides.
    pub bounds: Bounds,
    /// Directories of this machine that commands see besides the image, read-only.
    pub shown: Vec<PathBuf>,
    /// Who may call.
    pub access: AccessOptions,
}

/// What all calls share. Cheap to clone.
#[derive(Clone)]
struct Served {
    options: Arc<TwinOptions>,
    store: Store,
    cluster: Option<Cluster>,
    cells: Arc<Cells>,
    turns: Arc<Semaphore>,
    sessions: Arc<Mutex<Sessions>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// What is open.
#[derive(Default)]
struct Sessions {
    /// By session.
    open: HashMap<[u8; 16], Arc<Workspace>>,
    /// The names of directories that are in use, by whoever opens or removes them, too, and the processes that use them.
    taken: HashMap<String, Vec<u8>>,
}

impl Sessions {
    /// Whether a directory was free, which now is taken by that process.
    fn take(&mut self, name: &str, instance: &[u8]) -> bool {
        let is_free = !self.taken.contains_key(name);
        if is_free {
            self.taken.insert(name.to_owned(), instance.to_vec());
        }
        is_free
    }
}

/// After so long a silence a client is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long calls may take to end after the shutdown began.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How long is waited for somebody who is about to be done.
const MOMENT: Duration = Duration::from_millis(10);

/// How often mirrors are looked for that nobody uses any more.
const EVICTION_INTERVAL: Duration = Duration::from_secs(60);

/// Larger than any message of a client that heeds the bounds.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Serves on `listener` until `shutdown` is ready. `ready` is called when a client can come.
///
/// # Errors
/// When others could call who must not ([`AccessOptions::check`]), a file of [`AccessOptions`] or the directory cannot be
/// used, this process may not mount overlays, bubblewrap is missing or may not work, or the listener fails.
pub async fn serve(
    listener: TcpListener,
    options: TwinOptions,
    cluster: Option<Cluster>,
    ready: impl FnOnce() -> anyhow::Result<()>,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let address = listener.local_addr().context("look at the listener's address")?;
    options.access.check(address)?;
    let access = options.access.load()?;
    let workspaces = options.directory.join("workspaces");
    fs::create_dir_all(&workspaces).with_context(|| format!("make {}", workspaces.display()))?;
    let store =
        Store::open(&options.directory.join("store"), options.max_size_bytes / 2)?.with_namespace("twin");
    let cells =
        Cells::new(options.usage, options.temporary_bytes, &options.shown, options.directory.join("etc"))?;
    let served = Served {
        turns: Arc::new(Semaphore::new(options.jobs.max(1))),
        options: Arc::new(options),
        store,
        cluster,
        cells: Arc::new(cells),
        sessions: Arc::default(),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
    };
    served.try_out().await?;
    let build = &served.options.bounds.build;
    let relaying = build.cluster.as_ref().map(|cluster| cluster.listen(&build.sockets)).transpose();
    // Until this returns.
    let _relaying = relaying.with_context(|| format!("make sockets in {}", build.sockets.display()))?;
    ready()?;
    let mut background = tokio::task::JoinSet::new();
    background.spawn(served.clone().keep_evicted());
    tracing::info!("a twin on {address}, {} commands at a time", served.options.jobs);
    let mut server = Server::builder();
    if let Some(tls) = &access.tls {
        server = server.tls_config(tls.clone()).context("set TLS up")?;
    }
    let service = TwinServer::new(served.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let stopping = served.stopping.clone();
    let server = server
        .layer(InterceptorLayer::new(access.gate()))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(10_000)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            stopping.cancelled().await;
        });
    let stop = async {
        shutdown.await;
        served.stopping.cancel();
        served.close_all().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        ended = server => ended.context("serve the twin")?,
        () = stop => {}
    }
    Ok(())
}

/// Gives this process, which has one thread, mounts of its own; a user namespace, too, where it is not root.
///
/// # Errors
/// When the system refuses.
pub fn may_mount() -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNS;
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if !user.is_root() {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: only the sharing of descriptors between threads could break what other code relies on.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    if !user.is_root() {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))?;
    }
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

impl Served {
    /// Runs one command in an empty workspace, so that what is lacking shows before a client comes.
    async fn try_out(&self) -> anyhow::Result<()> {
        let card = Card {
            client: String::new(),
            name: b"try".to_vec(),
            roots: vec![PathBuf::from("/try")],
            user: 1000,
            group: 1000,
        };
        let directory = self.options.directory.join("workspaces").join("try");
        let workspace = Workspace::open(card, directory.clone(), DigestFunction::Sha256).await?;
        workspace.apply(1, Vec::new(), true, &self.store).await?;
        let workspace = Arc::new(workspace);
        let start = messages::Start {
            after_sequence: 1,
            arguments: vec![b"/bin/sh".to_vec(), b"-c".to_vec(), b"echo made > made".to_vec()],
            working_directory: b"/try".to_vec(),
            ..messages::Start::default()
        };
        let (out, mut answers) = tokio::sync::mpsc::channel(16);
        let requests = Box::pin(futures::stream::empty());
        run::run(Arc::clone(&workspace), &self.cells, &self.options.bounds, start, requests, &out)
            .await
            .map_err(|status| anyhow::anyhow!("run a command for a try: {}", status.message()))?;
        drop(out);
        let mut said = String::new();
        while let Some(answer) = answers.recv().await {
            match answer.ok().and_then(|answer| answer.response) {
                Some(messages::run_response::Response::Ended(ended)) => {
                    use messages::ended::Status::ExitCode;
                    let made = ended.changes.iter().any(|change| change.path == b"made");
                    anyhow::ensure!(
                        ended.status == Some(ExitCode(0)) && made,
                        "run a command for a try: {said}"
                    );
                    workspace.close().await;
                    drop(workspace);
                    // The next start makes it empty, if this does not.
                    let _ = fs::remove_dir_all(directory);
                    return Ok(());
                }
                Some(messages::run_response::Response::Output(output)) => {
                    said.push_str(&String::from_utf8_lossy(&output.data));
                }
                _ => {}
            }
        }
        anyhow::bail!("run a command for a try: it did not end")
    }

    /// The workspace of an open session of that client's.
    fn session(&self, client: &str, session: &[u8]) -> Result<Arc<Workspace>, Status> {
        let sessions = self.sessions();
        let workspace = <[u8; 16]>::try_from(session).ok().and_then(|session| sessions.open.get(&session));
        let own = workspace.filter(|workspace| workspace.card.client == client);
        own.cloned().ok_or_else(|| Status::failed_precondition("there is no such session"))
    }

    /// A command's turn.
    async fn turn(&self, workspace: &Workspace) -> Result<OwnedSemaphorePermit, Status> {
        tokio::select! {
            turn = Arc::clone(&self.turns).acquire_owned() => {
                turn.map_err(|_| Status::unavailable("the twin is stopping"))
            }
            () = workspace.over.cancelled() => Err(Status::failed_precondition("the session is over")),
        }
    }

    /// Opens a workspace for a session of that process. A former session of its is ended.
    async fn open(
        &self,
        card: Card,
        function: DigestFunction,
        session: [u8; 16],
        instance: &[u8],
    ) -> Result<Arc<Workspace>, Status> {
        let name = card.directory_name();
        loop {
            let former = {
                let mut sessions = self.sessions();
                if self.stopping.is_cancelled() {
                    return Err(Status::unavailable("the twin is stopping"));
                }
                if sessions.open.contains_key(&session) {
                    return Err(Status::invalid_argument("this session is open already"));
                }
                if sessions.take(&name, instance) {
                    break;
                }
                let is_its_own = !instance.is_empty() && sessions.taken[&name] == instance;
                if !is_its_own {
                    return Err(Status::already_exists("another process has this workspace open"));
                }
                let open = sessions.open.values();
                open.into_iter().find(|workspace| workspace.card.directory_name() == name).cloned()
            };
            match former {
                Some(former) => former.close().await,
                // It is just being opened, or closed.
                None => tokio::time::sleep(MOMENT).await,
            }
            tokio::task::yield_now().await;
        }
        let directory = self.options.directory.join("workspaces").join(&name);
        match Workspace::open(card, directory, function).await {
            Ok(workspace) => {
                let workspace = Arc::new(workspace);
                self.sessions().open.insert(session, Arc::clone(&workspace));
                Ok(workspace)
            }
            Err(error) => {
                self.sessions().taken.remove(&name);
                Err(Status::unavailable(error.to_string()))
            }
        }
    }

    /// Ends a session: when nothing of it runs any more, the workspace can be opened again.
    async fn close(&self, session: &[u8; 16], workspace: Arc<Workspace>) {
        workspace.close().await;
        let name = workspace.card.directory_name();
        drop(workspace);
        let mut sessions = self.sessions();
        sessions.open.remove(session);
        sessions.taken.remove(&name);
    }

    async fn close_all(&self) {
        let open: Vec<_> = self.sessions().open.values().cloned().collect();
        for workspace in open {
            workspace.close().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// What a client may know of its workspaces.
    async fn status_for(&self, client: &str) -> messages::StatusResponse {
        let open: Vec<_> = self.sessions().open.values().cloned().collect();
        let mut workspaces = Vec::new();
        for workspace in open.iter().filter(|workspace| workspace.card.client == client) {
            workspaces.push(described::open(workspace).await);
        }
        let taken = self.sessions().taken.clone();
        let directory = self.options.directory.join("workspaces");
        let idle = tokio::task::spawn_blocking(move || mirrors(&directory)).await.unwrap_or_default();
        let idle = idle.iter().filter(|idle| idle.card.client == client && !taken.contains_key(&idle.name));
        workspaces.extend(idle.map(described::idle));
        messages::StatusResponse { workspaces }
    }

    /// Removes what nobody has used for long, or, beginning with the oldest, what is too much.
    async fn keep_evicted(self) {
        let mut interval = tokio::time::interval(EVICTION_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let served = self.clone();
            // A panic there is seen in the log; the next round tries again.
            let _ = tokio::task::spawn_blocking(move || served.evict()).await;
        }
    }

    fn evict(&self) {
        if self.store.wants_trim()
            && let Err(error) = self.store.trim()
        {
            tracing::warn!("failed to trim the store: {error}");
        }
        let mut idle = mirrors(&self.options.directory.join("workspaces"));
        idle.sort_by_key(|idle| idle.since);
        let mut size_bytes: u64 = idle.iter().map(|idle| idle.size_bytes).sum();
        for idle in idle {
            let is_old = idle.since.elapsed().unwrap_or_default() > self.options.max_idle;
            if !is_old && size_bytes <= self.options.max_size_bytes / 2 {
                continue;
            }
            // Nobody opens it meanwhile.
            if !self.sessions().take(&idle.name, b"") {
                continue;
            }
            tracing::info!("removing the mirror of {}", idle.card.roots[0].display());
            match fs::remove_dir_all(&idle.directory) {
                Ok(()) => size_bytes = size_bytes.saturating_sub(idle.size_bytes),
                Err(error) => tracing::warn!("remove {}: {error}", idle.directory.display()),
            }
            self.sessions().taken.remove(&idle.name);
        }
    }

    /// What is in this mutex is valid after every statement.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

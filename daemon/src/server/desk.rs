//! The first moments of each connection, on threads that may block. A command that is a hit needs no more than these: it is
//! read, decided and answered by the thread that has accepted it, and nothing is handed from thread to thread, which would
//! take longer than much of the work. Whatever has to wait goes on among the tasks of the runtime.
//! Knows nothing of what is said over a connection.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use farcc::wire::HEARTBEAT;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::net::SocketFlags;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::dispatch::dedicate_thread;
use crate::server::Server;
use crate::server::connection;
use crate::server::stream::Stream;

/// How many threads there may be: as many commands may be stuck on a dead network file system before nobody is left to accept
/// the next one.
const MOST_THREADS: usize = 256;

/// How many of them stay when there is nothing to do.
const MOST_IDLE: usize = 16;

/// How long a thread waits for the first words of a launcher, which has them ready when it connects. Who takes longer is
/// listened to by the runtime.
const FIRST_WORDS: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How long a daemon that ends waits for those whom threads are occupied with. Who is stuck on a dead network file system is
/// for longer.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long nothing is accepted when there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// The threads that accept connections.
pub(super) struct Desk {
    server: Arc<Server>,
    listener: UnixListener,
    runtime: Handle,
    threads: AtomicUsize,
    idle: AtomicUsize,
    is_closed: AtomicBool,
    /// Whom a thread is occupied with, and when he was last told that the daemon lives.
    attended: Mutex<HashMap<u64, (Instant, Arc<Stream>)>>,
    failed: mpsc::Sender<io::Error>,
}

impl Desk {
    /// Begins to accept connections. `failed` learns why nothing can be accepted any more.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn open(
        server: &Arc<Server>,
        listener: UnixListener,
        failed: mpsc::Sender<io::Error>,
    ) -> io::Result<Arc<Desk>> {
        listener.set_nonblocking(false)?;
        let desk = Arc::new(Desk {
            server: Arc::clone(server),
            listener,
            runtime: Handle::current(),
            threads: AtomicUsize::new(0),
            idle: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
            attended: Mutex::default(),
            failed,
        });
        desk.add_thread()?;
        Ok(desk)
    }

    /// Accepts nothing more. Those who have connected and were not accepted find the connection closed, and start another
    /// daemon or run their commands themselves.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        // Wakes those who wait in `accept`. It cannot fail on a socket that listens.
        let _ = self.listener.set_nonblocking(true);
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        while self.accept().is_ok() {}
    }

    /// Waits a moment for those whom threads are occupied with: an output would be left half made beside its place.
    pub(super) async fn empty(&self) {
        let deadline = Instant::now() + LAST_WORDS;
        while !self.attended().is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What is in this mutex is valid after every statement.
    fn attended(&self) -> MutexGuard<'_, HashMap<u64, (Instant, Arc<Stream>)>> {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody whose command has occupied a thread for long that the daemon lives.
    pub(super) fn hearten(&self) {
        let mut attended = self.attended();
        for (last, stream) in attended.values_mut().filter(|(last, _)| last.elapsed() >= HEARTBEAT) {
            stream.hearten();
            *last = Instant::now();
        }
    }

    fn add_thread(self: &Arc<Self>) -> io::Result<()> {
        self.threads.fetch_add(1, Ordering::SeqCst);
        let desk = Arc::clone(self);
        let started = std::thread::Builder::new().name("desk".to_owned()).spawn(move || desk.serve());
        if started.is_err() {
            self.threads.fetch_sub(1, Ordering::SeqCst);
        }
        started.map(drop)
    }

    /// One thread: there is always another one that waits, unless there are too many.
    fn serve(self: Arc<Self>) {
        dedicate_thread();
        let _entered = self.runtime.enter();
        let mut number = 0;
        loop {
            self.idle.fetch_add(1, Ordering::SeqCst);
            let accepted = self.accept();
            let idle = self.idle.fetch_sub(1, Ordering::SeqCst) - 1;
            if self.is_closed.load(Ordering::SeqCst) {
                break;
            }
            match accepted {
                Ok(socket) => {
                    number += 1;
                    let is_last = idle == 0;
                    let has_help = !is_last
                        || self.threads.load(Ordering::SeqCst) < MOST_THREADS && self.add_thread().is_ok();
                    // The last one must not be stuck with somebody: nobody could even tell the daemon to stop.
                    self.attend(socket, has_help);
                }
                Err(error) if is_passing(error) => {
                    tracing::warn!("failed to accept a connection: {error}");
                    std::thread::sleep(PAUSE);
                }
                Err(error) => {
                    // The first one tells for all.
                    let _ = self.failed.try_send(error.into());
                    break;
                }
            }
            if self.idle.load(Ordering::SeqCst) >= MOST_IDLE {
                break;
            }
        }
        tracing::trace!("a thread has attended to {number} connections");
        self.threads.fetch_sub(1, Ordering::SeqCst);
    }

    fn accept(&self) -> Result<OwnedFd, Errno> {
        rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    /// Goes with a connection as far as that is possible without waiting for anybody; not at all if `may_be_stuck` is not so.
    fn attend(&self, socket: OwnedFd, may_be_stuck: bool) {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        // The socket's directory is ours alone; this holds even if it were not.
        let peer = farcc::process::peer(socket.as_fd());
        if !peer.is_ok_and(|(_, user)| user == self.server.own_user.as_raw()) {
            tracing::warn!("refused a connection of another user");
            return;
        }
        let token = self.server.lifecycle.connections.token();
        let stream = Arc::new(Stream::new(socket));
        let mut serving = Box::pin(connection::serve(Arc::clone(&self.server), Arc::clone(&stream), token));
        if !may_be_stuck {
            self.runtime.spawn(async move { tell_end(serving.await) });
            return;
        }
        await_words(&stream);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.attended().insert(number, (Instant::now(), stream));
        // Whatever it waits for is told whom to wake when it is polled again, by the runtime.
        let mut context = Context::from_waker(Waker::noop());
        let first = std::panic::catch_unwind(AssertUnwindSafe(|| serving.as_mut().poll(&mut context)));
        self.attended().remove(&number);
        match first {
            Ok(Poll::Ready(ended)) => tell_end(ended),
            Ok(Poll::Pending) => drop(self.runtime.spawn(async move { tell_end(serving.await) })),
            // The panic itself has been logged.
            Err(_) => tracing::error!("a connection was given up"),
        }
    }
}

fn tell_end(ended: anyhow::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error:#}");
    }
}

fn await_words(stream: &Stream) {
    let mut first = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)];
    // Whatever comes of it, reading shows.
    let _ = rustix::event::poll(&mut first, Some(&FIRST_WORDS));
}

/// Errors of `accept` that say nothing about the listener (accept(2)).
fn is_passing(error: Errno) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::CONNABORTED, Errno::INTR];
    passing.contains(&error)
}

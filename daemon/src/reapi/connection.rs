//! The HTTP/2 connections to one address: dialled when they are needed, more of them as load grows, dialled anew
//! after they broke, by one caller for all who wait.
//! Knows nothing of the services that are called over them.
//!
//! Why tonic does not reconnect by itself. Its lazy channel gives a failed connection attempt to one waiting
//! request and dials again for the next, so a hundred commands would wait a hundred connect timeouts in a row.
//! Here a channel lives as long as its one connection; when that is gone, every request on it fails at once
//! and asks for a new channel, and one dial answers all of them.
//!
//! Why more than one. Servers and proxies bound the streams of a connection, often at 100; an execution holds a stream
//! for as long as it lasts, and what is over the bound waits unseen inside the HTTP/2 library.

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Notify;
use tonic::Code;
use tonic::ConnectError;
use tonic::Status;
use tonic::transport::Channel;

use crate::reapi::dial::Dialler;
use crate::reapi::endpoint::Address;
use crate::reapi::error::Cause;
use crate::reapi::error::Error;
use crate::reapi::lock;
use crate::reapi::single_flight::SingleFlight;

/// Calls in flight on one connection before another one is opened.
const COMFORTABLE: usize = 50;
/// Calls in flight on one connection at most, while there may be more connections.
const CROWDED: usize = 100;
/// Connections to one address at most (as Bazel's `--remote_max_connections`).
const MOST_CONNECTIONS: usize = 100;
/// For how long no further connection is tried after one could not be opened beside those that are.
const GROWTH_PAUSE: Duration = Duration::from_secs(10);

/// Connections that are made when they are needed.
pub(super) struct Connections {
    dialler: Dialler,
    connect_timeout: Duration,
    state: Mutex<State>,
    dialling: Arc<SingleFlight<()>>,
    /// Something about the connections has changed: one more, one less, a call that ended.
    changed: Notify,
}

#[derive(Default)]
struct State {
    live: Vec<Live>,
    /// Counts connections, so that a late report about an old one does not end its successor.
    made: u64,
    /// The number of the connection with which the present time without interruption began.
    era: u64,
    /// Connections being opened beside those that are.
    growing: usize,
    /// Callers that wait for room.
    waiting: usize,
    no_growth_until: Option<Instant>,
}

/// A connection that was made and not yet found broken.
struct Live {
    channel: Channel,
    number: u64,
    in_flight: Arc<AtomicUsize>,
}

/// The use of a connection by one call, until it is dropped.
pub(super) struct Lease {
    connections: Arc<Connections>,
    in_flight: Arc<AtomicUsize>,
    /// What the call goes through.
    pub(super) channel: Channel,
    /// The number of the connection, from 1.
    pub(super) number: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.connections.changed.notify_one();
    }
}

impl Connections {
    /// No connection yet. `timeout` is that of one call.
    pub(super) fn new(address: &Address, timeout: Duration) -> Result<Arc<Connections>, Error> {
        let dialler = Dialler::new(address)?;
        let connect_timeout = dialler.patience().min(timeout);
        Ok(Arc::new(Connections {
            dialler,
            connect_timeout,
            state: Mutex::default(),
            dialling: Arc::default(),
            changed: Notify::new(),
        }))
    }

    /// A place on a live connection, or on a new one.
    ///
    /// # Errors
    /// [`Cause::Unreachable`] when there is no connection and none can be made.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, Error> {
        loop {
            match self.place() {
                Place::Found(lease) => return Ok(lease),
                Place::NoConnection => {
                    let connections = Arc::clone(self);
                    self.dialling.run(async move { connections.dial_first().await }).await?;
                }
                Place::Full => self.wait_for_room().await,
            }
        }
    }

    /// The number of the connection with which the present time without interruption began; 0 when there is none. What a
    /// server said of itself is believed for that long.
    pub(super) fn era(&self) -> u64 {
        let state = lock(&self.state);
        if state.live.is_empty() { 0 } else { state.era }
    }

    /// The number of the connection that was made last.
    pub(super) fn made(&self) -> u64 {
        lock(&self.state).made
    }

    /// Reports that connection `number` is gone.
    pub(super) fn lost(&self, number: u64) {
        lock(&self.state).live.retain(|live| live.number != number);
        self.changed.notify_waiters();
    }

    /// Waits until a connection is opened, a call ends, or growing has failed.
    async fn wait_for_room(self: &Arc<Self>) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        // From here on nothing is missed.
        changed.as_mut().enable();
        lock(&self.state).waiting += 1;
        let waiting = Waiting(self);
        if !self.place_is_likely() {
            changed.await;
        }
        drop(waiting);
    }

    fn place_is_likely(&self) -> bool {
        let state = lock(&self.state);
        state.live.is_empty() || state.least_loaded().is_some_and(|live| live.load() < CROWDED)
    }

    fn place(self: &Arc<Self>) -> Place {
        let mut state = lock(&self.state);
        let Some(least) = state.least_loaded() else { return Place::NoConnection };
        let load = least.load();
        let may_grow = state.live.len() + state.growing < MOST_CONNECTIONS
            && state.no_growth_until.is_none_or(|until| until <= Instant::now());
        let room = (state.live.len() + state.growing) * COMFORTABLE;
        let wanted = state.live.iter().map(Live::load).sum::<usize>() + state.waiting + 1;
        if may_grow && wanted > room {
            state.growing += 1;
            let connections = Arc::clone(self);
            tokio::spawn(async move { connections.grow().await });
        }
        if load >= CROWDED && (may_grow || state.growing > 0) {
            return Place::Full;
        }
        let Some(least) = state.least_loaded() else { return Place::NoConnection };
        least.in_flight.fetch_add(1, Ordering::Relaxed);
        Place::Found(Lease {
            connections: Arc::clone(self),
            in_flight: Arc::clone(&least.in_flight),
            channel: least.channel.clone(),
            number: least.number,
        })
    }

    /// Opens the first connection, unless somebody just has.
    async fn dial_first(&self) -> Result<(), Error> {
        if !lock(&self.state).live.is_empty() {
            return Ok(());
        }
        let channel = self.dial().await?;
        lock(&self.state).add(channel);
        Ok(())
    }

    /// Opens one more.
    async fn grow(&self) {
        let dialled = self.dial().await;
        let mut state = lock(&self.state);
        state.growing -= 1;
        match dialled {
            Ok(channel) => state.add(channel),
            Err(error) => {
                tracing::debug!("no further connection: {error}");
                state.no_growth_until = Some(Instant::now() + GROWTH_PAUSE);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    async fn dial(&self) -> Result<Channel, Error> {
        match tokio::time::timeout(self.connect_timeout, self.dialler.dial()).await {
            Ok(opened) => opened,
            Err(_) => Err(self.dialler.unreachable(&format!("no answer within {:?}", self.connect_timeout))),
        }
    }
}

/// What there is for one more call.
enum Place {
    Found(Lease),
    NoConnection,
    /// All connections are crowded, and more are on their way.
    Full,
}

/// A caller that waits for room, until it is dropped.
struct Waiting<'a>(&'a Connections);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).waiting -= 1;
    }
}

impl State {
    fn least_loaded(&self) -> Option<&Live> {
        self.live.iter().min_by_key(|live| live.load())
    }

    fn add(&mut self, channel: Channel) {
        self.made += 1;
        if self.live.is_empty() {
            self.era = self.made;
        }
        self.live.push(Live { channel, number: self.made, in_flight: Arc::default() });
    }
}

impl Live {
    fn load(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// The error when no connection to `address` can be made.
pub(super) fn unreachable(address: &str, why: &str) -> Error {
    Error::new(Code::Unavailable, Cause::Unreachable, format!("connect to {address}: {why}"))
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

//! Client for Bazel's Remote Execution API v2 (REAPI): capabilities, content-addressable storage (CAS), action
//! cache, execution, at one address or at several.
//! Knows nothing of compilers, of what the blobs mean, or of when remote work is wanted.
//!
//! Code map, in reading order: [`Endpoint`] is what a user configures; `connection` keeps the connections to an
//! address, once for all callers, that `dial` opens; `credentials` adds the headers that say who calls; `call` sends
//! one RPC with its deadline, headers and retries (`retry`); `capabilities` learns what
//! the server can do. On these stand the services: `find_missing` (coalesced questions, answers remembered in
//! `presence`), `upload` (one flight per digest, `single_flight`) and `download` over batches or `bytestream`,
//! `action_cache`, `execution` with `liveness`. Beside them, `way` and `relay` lend connections and credentials to
//! others: to a service that is none of REAPI's, and to callers who are not to have the credentials.
//!
//! Invariants. Everything downloaded is verified against its digest. No blob is committed under a digest that
//! its bytes do not have. Work that several callers share runs in its own task or is taken over, so one
//! cancelled caller never fails another. Every loop that retries is bounded, and decisions match on codes.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

use uuid::Uuid;

use crate::digest::Digest;

mod action_cache;
mod bytestream;
mod call;
mod capabilities;
mod connection;
mod credentials;
mod dial;
mod digest_message;
mod download;
mod endpoint;
mod error;
mod execution;
mod find_missing;
mod liveness;
pub mod presence;
mod relay;
mod retry;
mod single_flight;
mod transfers;
mod upload;
mod way;

pub use bazel_remote_apis::build::bazel::remote::execution::v2 as proto;

pub use crate::reapi::capabilities::ApiVersion;
pub use crate::reapi::capabilities::ServerCapabilities;
pub use crate::reapi::credentials::AddHeaders;
pub use crate::reapi::credentials::Wire;
pub use crate::reapi::endpoint::CredentialSource;
pub use crate::reapi::endpoint::Endpoint;
pub use crate::reapi::endpoint::Headers;
pub use crate::reapi::endpoint::Tls;
pub use crate::reapi::error::Cause;
pub use crate::reapi::error::Error;
pub use crate::reapi::error::printable;
pub use crate::reapi::error::words;
pub use crate::reapi::execution::ExecuteOptions;
pub use crate::reapi::execution::Outcome;
pub use crate::reapi::relay::RelayedAddresses;
pub use crate::reapi::relay::Relays;
pub use crate::reapi::upload::Blob;
pub use crate::reapi::upload::Content;
pub use crate::reapi::upload::UploadStats;
pub use crate::reapi::way::Way;

use crate::reapi::call::Attribution;
use crate::reapi::call::Calls;
use crate::reapi::endpoint::Address;
use crate::reapi::find_missing::Questions;
use crate::reapi::presence::Presence;
use crate::reapi::single_flight::Flights;
use crate::reapi::single_flight::SingleFlight;
use crate::reapi::transfers::Transfers;

/// The largest message that is accepted from a server, in bytes. Batches stay under 4 MiB, but an action result
/// with inlined outputs has no limit of its own. (Bazel's Go SDK takes 100 MiB.)
const MAX_RECEIVED_MESSAGE: usize = 64 << 20;

/// A client for one cluster. Cheap to clone; clones share connections, presence memory and transfers. It
/// connects at the first call, so it must be used within a tokio runtime.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    attribution: Attribution,
}

/// What all clones have in common.
struct Shared {
    endpoint: Endpoint,
    cas: Arc<Calls>,
    action_cache: Arc<Calls>,
    /// None where nothing is executed.
    engine: Option<Arc<Calls>>,
    /// What the servers can do, with the eras of the connections over which they said so.
    capabilities: Mutex<Option<(Vec<u64>, ServerCapabilities)>>,
    learning: Arc<SingleFlight<ServerCapabilities>>,
    presence: Presence,
    questions: Questions,
    uploads: Flights,
    transfers: Transfers,
    /// The era of the connections over which the server refused to store an action result; 0: none did.
    updates_refused: AtomicU64,
}

impl Client {
    /// A client for `endpoint`; nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidArgument` or `Unimplemented` when the endpoint cannot be used as it is written.
    pub fn new(endpoint: Endpoint) -> Result<Client, Error> {
        endpoint.check()?;
        let cas_address = endpoint.cas();
        let cas = Calls::new(&endpoint, &cas_address)?;
        let at = |address: Address, others: &[(&Address, &Arc<Calls>)]| {
            let known = others.iter().find(|(other, _)| **other == address);
            known.map_or_else(|| Calls::new(&endpoint, &address), |(_, calls)| Ok(Arc::clone(calls)))
        };
        let cache_address = endpoint.action_cache();
        let action_cache = at(cache_address.clone(), &[(&cas_address, &cas)])?;
        let others = [(&cas_address, &cas), (&cache_address, &action_cache)];
        let engine = endpoint.engine().map(|address| at(address, &others)).transpose()?;
        let shared = Shared {
            endpoint,
            cas,
            action_cache,
            engine,
            capabilities: Mutex::new(None),
            learning: Arc::default(),
            presence: Presence::default(),
            questions: Questions::default(),
            uploads: Flights::default(),
            transfers: Transfers::default(),
            updates_refused: AtomicU64::new(0),
        };
        Ok(Client {
            shared: Arc::new(shared),
            attribution: Attribution::of_tool(&Uuid::new_v4().to_string()),
        })
    }

    /// The same client, whose calls name `action` in their request metadata, so that the server's logs and
    /// scheduler can attribute uploads and downloads to it. `mnemonic` is the kind of action, `target` what it
    /// makes; both may be empty.
    #[must_use]
    pub fn for_action(&self, action: &Digest, mnemonic: &str, target: &str) -> Client {
        let attribution = self.attribution.with_action(action, mnemonic, target);
        Client { shared: Arc::clone(&self.shared), attribution }
    }

    /// The address that executes, or else the one that stores, as it was configured.
    pub fn address(&self) -> &str {
        self.shared.engine.as_ref().unwrap_or(&self.shared.cas).address()
    }
}

/// Locks a mutex whose content is valid after every statement, so that a panic elsewhere does not spread.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The executions in flight and those that ended lately, by name and by action.
//! Knows nothing of how an action is executed.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use bazel_remote_apis::build::bazel::remote::execution::v2::ExecuteResponse;
use bazel_remote_apis::build::bazel::remote::execution::v2::execution_stage;
use tokio::sync::watch;

use crate::digest::Digest;

/// How far an execution is.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) stage: execution_stage::Value,
    /// Set when it is over.
    pub(super) response: Option<Arc<ExecuteResponse>>,
}

/// One execution. Those who wait for it hold receivers of its state.
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) action: Digest,
    state: watch::Sender<State>,
    /// Under which others may join it.
    key: Option<Key>,
    /// Set when the server stops.
    cancelled: watch::Sender<bool>,
}

/// Executions that may be merged: same result for everyone who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Action and instance, see `action_key`.
    pub(super) action: Digest,
    /// One that looks into the cache is no answer to one that must not.
    pub(super) skip_cache_lookup: bool,
}

/// How long an execution goes on when nobody waits for it: a client that lost its connection comes back.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);

/// How long the result of an ended execution can be asked for by name.
const KEPT_FOR: Duration = Duration::from_secs(5 * 60);

/// At most so many ended executions are kept.
const MAX_KEPT: usize = 10_000;

#[derive(Default)]
pub(super) struct Operations {
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    in_flight: HashMap<Key, Arc<Operation>>,
    by_name: HashMap<String, Arc<Operation>>,
    ended: VecDeque<(Instant, String)>,
}

/// An operation and a receiver of its state, subscribed before anyone could give the operation up.
pub(super) struct Watched {
    pub(super) operation: Arc<Operation>,
    pub(super) states: watch::Receiver<State>,
    /// Whether it is new: the caller has to execute it.
    pub(super) is_new: bool,
}

impl Operations {
    /// The execution in flight for `key`, or a new one; always a new one without a key.
    pub(super) fn join_or_start(&self, key: Option<Key>, action: Digest) -> Watched {
        let mut registry = self.lock();
        registry.forget_old();
        if let Some(operation) = key.as_ref().and_then(|key| registry.in_flight.get(key)) {
            return watch_operation(operation, false);
        }
        let state = State { stage: execution_stage::Value::CacheCheck, response: None };
        let operation = Arc::new(Operation {
            name: format!("operations/{}", uuid::Uuid::new_v4()),
            action,
            state: watch::Sender::new(state),
            key: key.clone(),
            cancelled: watch::Sender::new(false),
        });
        registry.by_name.insert(operation.name.clone(), Arc::clone(&operation));
        if let Some(key) = key {
            registry.in_flight.insert(key, Arc::clone(&operation));
        }
        watch_operation(&operation, true)
    }

    /// The execution called `name`, in flight or ended lately.
    pub(super) fn by_name(&self, name: &str) -> Option<Watched> {
        let registry = self.lock();
        registry.by_name.get(name).map(|operation| watch_operation(operation, false))
    }

    /// Ends an operation: everyone who waits gets `response`, and nobody joins it any more.
    pub(super) fn end(&self, operation: &Arc<Operation>, response: ExecuteResponse) {
        let mut registry = self.lock();
        registry.leave_flight(operation);
        registry.ended.push_back((Instant::now(), operation.name.clone()));
        let stage = execution_stage::Value::Completed;
        operation.state.send_replace(State { stage, response: Some(Arc::new(response)) });
    }

    /// Ready when nobody has waited for the operation for a while, or the server stops; nobody joins it from
    /// then on.
    pub(super) async fn given_up(&self, operation: &Arc<Operation>) {
        let mut cancelled = operation.cancelled.subscribe();
        let abandoned = async {
            loop {
                operation.state.closed().await;
                tokio::time::sleep(ABANDONED_AFTER).await;
                let mut registry = self.lock();
                if operation.state.receiver_count() == 0 {
                    registry.leave_flight(operation);
                    return;
                }
            }
        };
        tokio::select! {
            () = abandoned => {}
            _ = cancelled.wait_for(|cancelled| *cancelled) => {}
        }
    }

    /// Ends all executions, as the server stops.
    pub(super) fn cancel_all(&self) {
        for operation in self.lock().by_name.values() {
            operation.cancelled.send_replace(true);
        }
    }

    /// The lock is held for moments only, and nothing under it can be left half-done by a panic.
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operation {
    /// Tells those who wait how far it is.
    pub(super) fn enter(&self, stage: execution_stage::Value) {
        self.state.send_replace(State { stage, response: None });
    }
}

impl Registry {
    fn leave_flight(&mut self, operation: &Arc<Operation>) {
        if let Some(key) = &operation.key
            && self.in_flight.get(key).is_some_and(|other| Arc::ptr_eq(other, operation))
        {
            self.in_flight.remove(key);
        }
    }

    fn forget_old(&mut self) {
        while let Some((ended, name)) = self.ended.front()
            && (ended.elapsed() > KEPT_FOR || self.ended.len() > MAX_KEPT)
        {
            self.by_name.remove(name);
            self.ended.pop_front();
        }
    }
}

fn watch_operation(operation: &Arc<Operation>, is_new: bool) -> Watched {
    let mut states = operation.state.subscribe();
    // Whoever joins is told the present state first.
    states.mark_changed();
    Watched { operation: Arc::clone(operation), states, is_new }
}

//! What commands' configurations name, opened once for all that name the same: stores, clusters, shares of this machine's
//! memory.
//! Knows nothing of what is done with them.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::action::Action;
use crate::config::Config;
use crate::config::Strategy;
use crate::dispatch::Dispatcher;
use crate::dispatch::in_background;
use crate::dispatch::policy::is_heavy;
use crate::dispatch::step::Step;
use crate::executor::remote::RemoteExecutor;
use crate::reason::Reason;
use crate::store::Store;

/// One cluster, and how many commands it may have at a time.
pub(super) struct Cluster {
    pub(super) executor: RemoteExecutor,
    pub(super) jobs: Semaphore,
}

/// More stores and clusters than anybody configures: beyond, those in memory are forgotten and opened again.
const MOST_CONFIGURED: usize = 64;

impl Dispatcher {
    /// The store of a command.
    pub(super) async fn store(&self, config: &Config) -> Result<Arc<Store>, Reason> {
        let directory = config.cache.dir.clone().unwrap_or_else(|| self.directories.store.clone());
        let max_size_bytes = config.cache.max_size.as_u64();
        let key = (directory.clone(), max_size_bytes);
        if let Some(store) = self.stores.get(&key) {
            return Ok(Arc::clone(&store));
        }
        let store = in_background(move || Store::open(&directory, max_size_bytes)).await?;
        let store = store.map_err(|error| Reason::Store(error.to_string()))?;
        if self.stores.len() >= MOST_CONFIGURED {
            self.stores.clear();
        }
        Ok(Arc::clone(self.stores.entry(key).or_insert_with(|| Arc::new(store)).value()))
    }

    /// The cluster of a command; none if its configuration names none or wants local runs.
    pub(super) fn cluster(&self, config: &Config) -> Result<Option<Arc<Cluster>>, Reason> {
        if !config.remote.is_configured() || config.exec.strategy == Strategy::Local {
            return Ok(None);
        }
        let jobs = config.exec.jobs.clamp(1, Semaphore::MAX_PERMITS);
        let key = (config.remote.clone(), jobs);
        if let Some(cluster) = self.clusters.get(&key) {
            return Ok(Some(Arc::clone(&cluster)));
        }
        let executor = RemoteExecutor::new(&config.remote, &self.directories.environment)
            .map_err(|error| Reason::Configuration(error.to_string()))?;
        let cluster = Cluster { executor, jobs: Semaphore::new(jobs) };
        if self.clusters.len() >= MOST_CONFIGURED {
            self.clusters.clear();
        }
        Ok(Some(Arc::clone(self.clusters.entry(key).or_insert_with(|| Arc::new(cluster)).value())))
    }

    /// Waits until a link that takes much of this machine's memory may run on it.
    pub(super) async fn heavy(
        &self,
        config: &Config,
        step: &Step,
        action: &Action,
    ) -> Option<OwnedSemaphorePermit> {
        if !is_heavy(config, step, action) {
            return None;
        }
        let jobs = config.link.heavy_jobs.clamp(1, Semaphore::MAX_PERMITS);
        let links =
            Arc::clone(self.heavy.entry(jobs).or_insert_with(|| Arc::new(Semaphore::new(jobs))).value());
        // It is never closed.
        links.acquire_owned().await.ok()
    }
}

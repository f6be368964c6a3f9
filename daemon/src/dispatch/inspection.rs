//! What can be asked about a command without having it run.
//! Knows nothing of how the answers are shown.

use std::sync::Arc;

use crate::action::Action;
use crate::compiler::Invocation;
use crate::compiler::Tools;
use crate::compiler::resolve;
use crate::dispatch::Comparison;
use crate::dispatch::Dispatcher;
use crate::dispatch::Read;
use crate::dispatch::Scanned;
use crate::dispatch::in_background;
use crate::reason::Reason;

/// What the dispatcher remembers of sources, for reports.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub struct Memory {
    /// Units whose scans are remembered.
    pub units: usize,
    /// About what the scans take, in bytes.
    pub scan_bytes: usize,
    /// Versions of source files that are kept stripped.
    pub stripped_files: usize,
    /// About what these, the names in them and those in directories take, in bytes.
    pub source_bytes: usize,
}

impl Dispatcher {
    /// The Action that would be sent for a compile, without running anything but probes.
    ///
    /// # Errors
    /// The reason why the command would run locally.
    pub async fn action(&self, invocation: &Arc<Invocation>) -> Result<Arc<Action>, Reason> {
        let Read { config, executed, task } = self.read(invocation).await?;
        let config = config?;
        let step = self.step(task, &executed).await?;
        let read = self.inputs(&step, &executed).await?;
        Ok(self.prepare(&config, &step, &executed, read).await?.action)
    }

    /// What the compiler of a command says that it is: its version and target.
    ///
    /// # Errors
    /// The reason why its commands would run locally.
    pub async fn toolchain(&self, invocation: &Arc<Invocation>) -> Result<String, Reason> {
        let Read { executed, task, .. } = self.read(invocation).await?;
        let step = self.step(task, &executed).await?;
        let Tools { version, target, .. } = &**step.tools();
        Ok(format!("{version} for {target}"))
    }

    /// How the compiler of a command, and the headers on its own search path, differ on the workers of the command's
    /// cluster. None: it has no cluster.
    ///
    /// # Errors
    /// The reason why its commands would run locally.
    pub async fn comparison(&self, invocation: &Arc<Invocation>) -> Result<Option<Comparison>, Reason> {
        let Read { config, executed, task } = self.read(invocation).await?;
        let config = config?;
        let step = self.step(task, &executed).await?;
        let Some(cluster) = self.cluster(&config)? else { return Ok(None) };
        let store = self.store(&config).await?;
        self.workers.compare(step.tools(), &config, &cluster.executor, &store).await.map(Some)
    }

    /// The inputs of a compile as the scanner finds them.
    ///
    /// # Errors
    /// The reason why the command would run locally.
    pub async fn scan(&self, invocation: &Arc<Invocation>) -> Result<Scanned, Reason> {
        let asked = Arc::clone(invocation);
        let (executed, task) = in_background(move || resolve(&asked)).await?;
        let step = self.step(task, &executed).await?;
        self.inputs(&step, &executed).await
    }

    /// What is remembered of sources at this moment.
    pub fn memory(&self) -> Memory {
        Memory {
            units: self.scans.units(),
            scan_bytes: self.scans.size_bytes(),
            stripped_files: self.scans.sources().stripped_files(),
            source_bytes: self.scans.sources().size_bytes(),
        }
    }
}

//! One compile on the cluster: a hit in its action cache, or an execution.
//! Knows nothing of gRPC; what the cluster cannot do comes back as a reason.

use std::path::Path;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use tokio::sync::Semaphore;

use crate::action::Action;
use crate::action::InstallError;
use crate::action::Output;
use crate::action::RelativeCommand;
use crate::action::Rooted;
use crate::action::execution_time;
use crate::action::find;
use crate::action::install;
use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::compiler::Toolchain;
use crate::config::Config;
use crate::config::Root;
use crate::config::Strategy;
use crate::digest::Digest;
use crate::dispatch::Presence;
use crate::dispatch::Trail;
use crate::dispatch::Verdict;
use crate::dispatch::in_background;
use crate::dispatch::local::audit_appended;
use crate::dispatch::local::audit_depfile;
use crate::dispatch::local::check_outputs;
use crate::dispatch::workers::Subject;
use crate::dispatch::workers::Workers;
use crate::executor::remote::Fetched;
use crate::executor::remote::RemoteError;
use crate::executor::remote::RemoteExecutor;
use crate::reason::Reason;
use crate::stats::Outcome;
use crate::store::Store;
use crate::worker;

/// What a remote run needs.
pub(super) struct Run<'a> {
    /// The cluster.
    pub executor: &'a RemoteExecutor,
    /// Where results are kept on this machine.
    pub store: &'a Arc<Store>,
    /// The command's configuration.
    pub config: &'a Config,
    /// The command.
    pub invocation: &'a Invocation,
    /// Whether its launcher waits.
    pub presence: &'a Presence,
    /// What is remembered of it.
    pub trail: &'a mut Trail,
    /// What the cluster's workers can do and have.
    pub workers: &'a Workers,
    /// What the command's compiler is.
    pub toolchain: &'a Arc<Toolchain>,
    /// The command by relative paths, or why there is none.
    pub relative: &'a Result<RelativeCommand, String>,
}

impl Run<'_> {
    /// Takes the result from the cluster, or has it made there, and installs the outputs; with one of the permits
    /// of `jobs`.
    ///
    /// # Errors
    /// The reason why there is no result that can be trusted.
    pub(super) async fn run(self, action: &Arc<Action>, jobs: &Semaphore) -> Result<Verdict, Reason> {
        let _permit = jobs.acquire().await.map_err(|error| Reason::Internal(error.to_string()))?;
        self.executor.check_health()?;
        let Run { executor, config, workers, toolchain, relative, store, .. } = self;
        let subject = Subject { action, toolchain, relative, config, executor, store };
        let mut rooted = workers.rooted(&subject).await?;
        let mut sent = executor.remote_action(&rooted.action).await?;
        let accept_cached = config.exec.accept_cached;
        let ahead = if self.executes().await? { executor.send_ahead(&sent) } else { None };
        if accept_cached && let Some(fetched) = executor.cached(&sent, self.store).await? {
            // A hit was audited by whoever made it, and is audited again: its depfile costs nothing.
            return self.keep(action, rooted, fetched, Outcome::HitRemote).await;
        }
        if !self.executes().await? {
            return Err(Reason::CacheOnly);
        }
        if let Some(other) = workers.agreed(&subject).await? {
            rooted = other;
            sent = executor.remote_action(&rooted.action).await?;
        }
        let mut fetched = executor.execute(&sent, self.store, accept_cached, ahead).await?;
        if rooted.root == Root::Wrapper
            && let Some(why) = worker::failure(fetched.result.exit_code, &fetched.result.stderr_raw)
        {
            self.trail.bytes += fetched.bytes;
            workers.refuted(action, config).await;
            return Err(Reason::RemoteError(format!("root wrapper cannot work there: it failed to {why}")));
        }
        match fetched.result.exit_code {
            0 => self.keep(action, rooted, fetched, Outcome::ExecutedRemote).await,
            exit_code if self.config.exec.strategy == Strategy::Remote => {
                self.trail.bytes += fetched.bytes;
                self.trail.ended(Outcome::ExecutedRemote, Some(Reason::RemoteFailed(exit_code)));
                let exit_code = u8::try_from(exit_code).unwrap_or(1);
                rooted.result_here(self.store, &mut fetched.result)?;
                let stdout = action.messages_here(fetched.result.stdout_raw);
                let stderr = action.messages_here(fetched.result.stderr_raw);
                Ok(Verdict::Completed { exit_code, stdout, stderr })
            }
            exit_code => {
                self.trail.bytes += fetched.bytes;
                Err(Reason::RemoteFailed(exit_code))
            }
        }
    }

    /// Whether a miss may be executed on the cluster.
    async fn executes(&self) -> Result<bool, Reason> {
        Ok(self.config.exec.strategy != Strategy::CacheOnly && self.executor.executes().await?)
    }

    /// Audits the result, keeps it and installs the outputs.
    async fn keep(
        self,
        action: &Arc<Action>,
        rooted: Rooted,
        mut fetched: Fetched,
        outcome: Outcome,
    ) -> Result<Verdict, Reason> {
        self.trail.bytes += fetched.bytes;
        let execution = execution_time(&fetched.result);
        let (store, action, umask) = (Arc::clone(self.store), Arc::clone(action), self.invocation.umask);
        let (cwd, presence) = (self.invocation.cwd.clone(), self.presence.clone());
        let kept = in_background(move || {
            rooted.result_here(&store, &mut fetched.result)?;
            keep(&store, &action, &fetched.result, &cwd, umask, &|| presence.is_there())
        });
        let kept = kept.await?;
        let verdict = kept?;
        self.trail.ended(outcome, None);
        self.trail.spared(execution.filter(|_| outcome == Outcome::HitRemote));
        Ok(verdict)
    }
}

fn keep(
    store: &Store,
    action: &Action,
    result: &re::ActionResult,
    cwd: &Path,
    umask: u32,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Verdict, Reason> {
    let failed = |error: &dyn std::fmt::Display| Reason::Store(error.to_string());
    let is_depfile = |output: &&Output| {
        matches!(output.kind, OutputKind::Depfile | OutputKind::AuditDepfile | OutputKind::AppendedRules)
    };
    for output in action.outputs.iter().filter(is_depfile) {
        let digest = find(result, output).and_then(|file| file.digest.as_ref());
        let digest = digest.and_then(|digest| Digest::try_from(digest).ok());
        let digest = digest.ok_or_else(|| Reason::RemoteError("the result has no depfile".to_owned()))?;
        let depfile = store.read(&digest).map_err(|error| failed(&error))?;
        let mut depfile = depfile.ok_or_else(|| failed(&"the depfile is gone from the store"))?;
        if let Some(checkout) = &action.checkout {
            depfile = checkout.depfile_here(&depfile);
        }
        match output.kind {
            OutputKind::AppendedRules => audit_appended(&depfile, cwd, &action.inputs)?,
            _ => audit_depfile(&depfile, cwd, &action.inputs)?,
        }
    }
    check_outputs(action, store, result)?;
    install(store, action, result, umask, is_wanted).map_err(|error| match error {
        InstallError::NotMade(_) => Reason::RemoteError(error.to_string()),
        InstallError::Unwanted => Reason::Abandoned,
        InstallError::Gone(_) | InstallError::Store(_) => failed(&error),
    })?;
    let stdout = action.messages_here(result.stdout_raw.clone());
    let stderr = action.messages_here(result.stderr_raw.clone());
    // The outputs are in place: a store that cannot keep the result is no reason to make them again.
    if let Err(error) = store.put_action_result(&action.key, result) {
        tracing::warn!("failed to {error}");
    }
    Ok(Verdict::Completed { exit_code: 0, stdout, stderr })
}

/// What a user who asked for strategy `remote` is told when the cluster fails.
pub(super) fn failed_remotely(reason: &Reason) -> Verdict {
    let stderr = format!(
        "farcc: failed to run the command remotely: {reason}\n\
         farcc: [exec] strategy = \"remote\" forbids to run it here; \"remote_local_fallback\" would\n"
    );
    Verdict::Completed { exit_code: 1, stdout: Vec::new(), stderr: stderr.into_bytes() }
}

impl From<RemoteError> for Reason {
    fn from(error: RemoteError) -> Reason {
        match error {
            RemoteError::Unavailable(message) => Reason::RemoteUnavailable(message),
            RemoteError::Refused(message) => Reason::RemoteError(message),
            RemoteError::Gone(_) => Reason::RemoteError(error.to_string()),
            RemoteError::InputChanged(path) => Reason::InputChanged(path.display().to_string()),
            RemoteError::Store(error) => Reason::Store(error.to_string()),
        }
    }
}

//! One command on the cluster: a hit in its action cache, or an execution, which may race with a local run.
//! Knows nothing of gRPC; what the cluster cannot do comes back as a reason.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bazel_remote_apis::build::bazel::remote::execution::v2 as re;
use tokio::sync::Semaphore;

use crate::action::Action;
use crate::action::Execution;
use crate::action::InstallError;
use crate::action::Output;
use crate::action::RelativeCommand;
use crate::action::Rooted;
use crate::action::find;
use crate::action::install;
use crate::compiler::Invocation;
use crate::compiler::OutputKind;
use crate::config::Config;
use crate::config::Root;
use crate::config::Strategy;
use crate::digest::Digest;
use crate::dispatch::Lane;
use crate::dispatch::LocalRun;
use crate::dispatch::Presence;
use crate::dispatch::Trail;
use crate::dispatch::Verdict;
use crate::dispatch::attempt::Attempt;
use crate::dispatch::attempt::LocalCommand;
use crate::dispatch::attempt::may_be_ended;
use crate::dispatch::in_background;
use crate::dispatch::local::audit_appended;
use crate::dispatch::local::audit_depfile;
use crate::dispatch::local::check_outputs;
use crate::dispatch::racing::Winner;
use crate::dispatch::step::Step;
use crate::dispatch::workers::Subject;
use crate::dispatch::workers::Workers;
use crate::executor::remote::Fetched;
use crate::executor::remote::RemoteError;
use crate::executor::remote::RemoteExecutor;
use crate::files::Files;
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
    /// The command, and the programs that it runs.
    pub step: &'a Step,
    /// What is known of the files of this machine.
    pub files: &'a Arc<Files>,
    /// The command by relative paths, or why there is none.
    pub relative: &'a Result<RelativeCommand, String>,
    /// What may begin here once it is known that the cluster has no result.
    pub rival: Option<Rival<'a>>,
}

/// A local run of the same command, for a launcher with a free slot.
pub(super) struct Rival<'a> {
    /// Where it runs.
    pub lane: &'a mut Lane,
    /// What is run.
    pub command: LocalCommand<'a>,
    /// Where depfiles go that no user asked for.
    pub audit_directory: PathBuf,
}

/// Where the command ran in the end.
pub(super) enum Answer {
    /// On the cluster, now or earlier.
    There(Verdict),
    /// Here, in a race.
    Here {
        /// How it began.
        attempt: Attempt,
        /// How it ended.
        run: LocalRun,
        /// Why it counts.
        reason: Reason,
    },
}

/// What the cluster made.
enum Made {
    /// A result that can be trusted, whose blobs are in the store.
    Result { result: Box<re::ActionResult>, execution: Option<Execution> },
    /// What a failed command said.
    Failure(Verdict),
}

impl Run<'_> {
    /// Takes the result from the cluster, or has it made there, and installs the outputs; with one of the permits
    /// of `jobs`. What is not there races with its `rival`, if it has one.
    ///
    /// # Errors
    /// The reason why there is no result that can be trusted.
    pub(super) async fn run(mut self, action: &Arc<Action>, jobs: &Semaphore) -> Result<Answer, Reason> {
        let permit = jobs.acquire().await.map_err(|error| Reason::Internal(error.to_string()))?;
        self.executor.check_health()?;
        let Run { executor, config, workers, step, relative, store, .. } = self;
        let tools = step.tools();
        let subject = Subject { action, tools, relative, config, executor, store };
        let mut rooted = workers.rooted(&subject).await?;
        let mut sent = executor.remote_action(&rooted.action).await?;
        let accept_cached = config.exec.accept_cached;
        let ahead = if self.executes().await? { executor.send_ahead(&sent) } else { None };
        if accept_cached && let Some(fetched) = executor.cached(&sent, self.store).await? {
            // A hit was audited by whoever made it, and is audited again: its depfile costs nothing.
            let made = self.check(action, rooted, fetched).await?;
            return self.install(action, made, Outcome::HitRemote).await;
        }
        if !self.executes().await? {
            return Err(Reason::CacheOnly);
        }
        if let Some(other) = workers.agreed(&subject).await? {
            rooted = other;
            sent = executor.remote_action(&rooted.action).await?;
        }
        let rival = self.rival.take().filter(|_| may_be_ended(action, self.invocation.umask));
        let execution = async {
            let executed = executor.execute(&sent, step.mnemonic(), store, accept_cached, ahead).await;
            // A local run may go on for long, and needs none.
            drop(permit);
            self.check(action, rooted, executed?).await
        };
        let made = match rival {
            None => execution.await?,
            Some(Rival { lane, command, audit_directory }) => {
                let attempt = command.attempt(action, &audit_directory);
                match lane.race(attempt.argv.clone(), execution).await? {
                    Winner::Local(run, reason) => return Ok(Answer::Here { attempt, run, reason }),
                    Winner::Remote(made) => {
                        if let Made::Result { result, .. } = &made
                            && self.presence.is_there()
                        {
                            attempt.remove_leftovers(action, result);
                        }
                        made
                    }
                }
            }
        };
        self.install(action, made, Outcome::ExecutedRemote).await
    }

    /// Whether a miss may be executed on the cluster.
    async fn executes(&self) -> Result<bool, Reason> {
        Ok(self.config.exec.strategy != Strategy::CacheOnly && self.executor.executes().await?)
    }

    /// Audits what the cluster has made, or says why it has not. Nothing of it is in its place yet.
    async fn check(
        &mut self,
        action: &Arc<Action>,
        rooted: Rooted,
        mut fetched: Fetched,
    ) -> Result<Made, Reason> {
        self.trail.bytes += fetched.bytes;
        let exit_code = fetched.result.exit_code;
        if rooted.root == Root::Wrapper
            && let Some(why) = worker::failure(exit_code, &fetched.result.stderr_raw)
        {
            self.workers.refuted(action, self.config).await;
            return Err(Reason::RemoteError(format!("root wrapper cannot work there: it failed to {why}")));
        }
        if exit_code != 0 {
            if self.config.exec.strategy != Strategy::Remote {
                return Err(Reason::RemoteFailed(exit_code));
            }
            rooted.result_here(self.store, &mut fetched.result)?;
            let stdout = action.sought.messages_here(fetched.result.stdout_raw);
            let stderr = action.sought.messages_here(fetched.result.stderr_raw);
            self.trail.ended(Outcome::ExecutedRemote, Some(Reason::RemoteFailed(exit_code)));
            let exit_code = u8::try_from(exit_code).unwrap_or(1);
            return Ok(Made::Failure(Verdict::Completed { exit_code, stdout, stderr }));
        }
        let (store, action) = (Arc::clone(self.store), Arc::clone(action));
        let (cwd, execution) = (self.invocation.cwd.clone(), Execution::of(&fetched.result));
        let checked = in_background(move || {
            rooted.result_here(&store, &mut fetched.result)?;
            check(&store, &action, &fetched.result, &cwd)?;
            Ok::<_, Reason>(Box::new(fetched.result))
        });
        let result = checked.await??;
        Ok(Made::Result { result, execution })
    }

    /// Installs the outputs of what was checked, and keeps the result.
    async fn install(self, action: &Arc<Action>, made: Made, outcome: Outcome) -> Result<Answer, Reason> {
        let (result, execution) = match made {
            Made::Result { result, execution } => (result, execution),
            Made::Failure(verdict) => return Ok(Answer::There(verdict)),
        };
        let (store, action, umask) = (Arc::clone(self.store), Arc::clone(action), self.invocation.umask);
        let (presence, files) = (self.presence.clone(), Arc::clone(self.files));
        let installed =
            in_background(move || keep(&store, &action, &result, umask, &|| presence.is_there(), &files));
        let verdict = installed.await??;
        self.trail.ended(outcome, None);
        self.trail.spared(execution.filter(|_| outcome == Outcome::HitRemote));
        Ok(Answer::There(verdict))
    }
}

/// Audits a result whose blobs are in the store.
fn check(store: &Store, action: &Action, result: &re::ActionResult, cwd: &Path) -> Result<(), Reason> {
    let failed = |error: &dyn std::fmt::Display| Reason::Store(error.to_string());
    let is_depfile = |output: &&Output| {
        matches!(output.kind, OutputKind::Depfile | OutputKind::AuditDepfile | OutputKind::AppendedRules)
    };
    for output in action.sought.outputs.iter().filter(is_depfile) {
        let digest = find(result, output).and_then(|file| file.digest.as_ref());
        let digest = digest.and_then(|digest| Digest::try_from(digest).ok());
        let digest = digest.ok_or_else(|| Reason::RemoteError("the result has no depfile".to_owned()))?;
        let depfile = store.read(&digest).map_err(|error| failed(&error))?;
        let mut depfile = depfile.ok_or_else(|| failed(&"the depfile is gone from the store"))?;
        if let Some(checkout) = &action.sought.checkout {
            depfile = checkout.depfile_here(&depfile);
        }
        match output.kind {
            OutputKind::AppendedRules => audit_appended(&depfile, cwd, &action.inputs)?,
            _ => audit_depfile(&depfile, cwd, &action.inputs)?,
        }
    }
    let is_missing = |output: &&Output| !output.is_optional && find(result, output).is_none();
    if let Some(output) = action.sought.outputs.iter().find(is_missing) {
        return Err(Reason::RemoteError(InstallError::NotMade(output.path.clone()).to_string()));
    }
    check_outputs(action, store, result)
}

/// Puts the outputs of a checked result into place, and the result into the store.
fn keep(
    store: &Store,
    action: &Action,
    result: &re::ActionResult,
    umask: u32,
    is_wanted: &dyn Fn() -> bool,
    files: &Files,
) -> Result<Verdict, Reason> {
    install(store, &action.sought, result, umask, is_wanted, files).map_err(|error| match error {
        InstallError::NotMade(_) => Reason::RemoteError(error.to_string()),
        InstallError::Unwanted => Reason::Abandoned,
        InstallError::Gone(_) | InstallError::Store(_) => Reason::Store(error.to_string()),
    })?;
    let stdout = action.sought.messages_here(result.stdout_raw.clone());
    let stderr = action.sought.messages_here(result.stderr_raw.clone());
    // The outputs are in place: a store that cannot keep the result is no reason to make them again.
    if let Err(error) = store.put_action_result(&action.sought.key, result) {
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
